"""Laws of estimators over tokens on any batch, their settings, and what they refuse."""

from dataclasses import replace
from itertools import combinations
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import terms, tokens, weights
from pgjax.estimators import gradient
from pgjax.proof.language_models import three_tokens
from pgjax.tokens import advantages, corrections
from pgjax.tokens.batch import as_trajectories
from pgjax.types import Estimator

pytestmark = pytest.mark.usefixtures("strict_numerics")


def silent(batch: Any, log_prob: Any) -> Any:
    """No credit at all: what is left is the penalty."""
    return jnp.zeros_like(log_prob)


def summed(advantage: Any, term: Any = terms.score, **options: Any) -> Estimator:
    return tokens.estimator(advantage, tokens.sequence_sum, term, **options)


@jax.jit
def credits(estimators: list[Estimator], batch: Any) -> Any:
    rows = as_trajectories(batch)
    return [each.weights(rows, rows.log_prob)[..., 0] for each in estimators]


def advantage(weigh: list[Any], rewards: Any, groups: Any) -> list[np.ndarray]:
    """[N] of answers of one token, for each of the weights."""
    rewards = np.asarray(rewards, float)
    shape = (len(rewards), 1)
    fields: Any = np.full(shape, -1.0), np.ones(shape, bool), rewards, np.asarray(groups)
    estimators = [Estimator(each, terms.score) for each in weigh]
    return jax.device_get(credits(estimators, tokens.Batch(*fields)))


FIVE = np.array([0.3, 0.9, 0.1, 0.3, 0.5])
BEST = {
    **{("share", k): advantages.best_of(k) for k in (1, 2, 3, 4, 5)},
    **{("loo", k): advantages.best_of_leave_one_out(k) for k in (2, 3, 4)},
    **{("gain", k): advantages.gain_in_best(k) for k in (2, 3, 4)},
}


@pytest.fixture(scope="module")
def of_five(strict_numerics: None) -> dict[Any, np.ndarray]:
    """The credit of five answers, for each way of sharing the best of k."""
    return dict(zip(BEST, advantage([*BEST.values()], FIVE, [0] * 5), strict=True))


def test_answers_right_and_wrong_have_their_known_advantages() -> None:
    """Three of eight, and in a group of their own two of four, which are shares in the best."""
    rewards, groups = [1.0] * 3 + [0.0] * 5 + [1.0, 1.0, 0.0, 0.0], [0] * 8 + [1] * 4
    weigh = [advantages.leave_one_out, advantages.standardized(0.0), advantages.less_group_mean]
    weigh += [advantages.standardized(0.0, degrees=0), advantages.best_of_less_mean(2)]
    *found, centred = advantage(weigh, rewards, groups)
    known = (0.7143, -0.4286), (1.2076, -0.7246), (0.625, -0.375), (1.2910, -0.7746)
    for credit, (right, wrong) in zip(found, known, strict=True):
        np.testing.assert_allclose(credit[:8], [right] * 3 + [wrong] * 5, rtol=0, atol=6e-5)
    np.testing.assert_allclose(centred[8:] / 4, [1 / 12] * 2 + [-1 / 12] * 2)


def test_shares_in_the_best_are_sums_over_all_sets(of_five: Any) -> None:
    for k in (1, 2, 3, 5):
        sets = [*combinations(range(5), k)]
        expected = [5 / len(sets) * sum(FIVE[[*s]].max() for s in sets if i in s) for i in range(5)]
        np.testing.assert_allclose(of_five["share", k], expected, rtol=0, atol=1e-12)


def test_baselines_of_the_best_are_sums_over_sets_of_the_others(of_five: Any) -> None:
    def best(k: int, of: list[int]) -> float:
        return float(np.mean([FIVE[[*s]].max() for s in combinations(of, k)]))

    for k in (2, 3, 4):
        share, loo, gain = (of_five[name, k] for name in ("share", "loo", "gain"))
        others = [[j for j in range(5) if j != i] for i in range(5)]
        of_k, of_fewer = ([best(size, each) for each in others] for size in (k, k - 1))
        np.testing.assert_allclose(share - loo, 5 * k / 4 * np.array(of_k), atol=1e-12)
        np.testing.assert_allclose(share - gain, k * np.array(of_fewer), atol=1e-12)


def test_groups_do_not_mix_and_may_lie_in_any_order() -> None:
    """Two groups of three, with one of two between them, against each of the two alone."""
    rewards = np.array([1.0, 5.0, 0.0, 0.25, 7.0, 2.0, 0.5, 0.75])
    groups = np.array([9, -4, 9, 6, -4, -4, 9, 6])
    weigh = [
        *(advantages.leave_one_out, advantages.standardized(degrees=0)),
        *(advantages.less_mean_by_length, advantages.relative_to_mean, advantages.best_of(2)),
        advantages.gain_in_best(2),
    ]
    whole = advantage(weigh, rewards, groups)
    for name in (9, -4):
        own = groups == name
        alone = advantage(weigh, rewards[own], np.zeros(3, int))
        for each, part in zip(whole, alone, strict=True):
            np.testing.assert_allclose(each[own], part, rtol=0, atol=1e-12)


# Laws on any batch: eight answers of at most five tokens, holes and garbage where none is live.

N, T = 8, 5
NAMED = {
    "reinforce": tokens.reinforce(),
    "rloo": tokens.rloo(),
    "remax": tokens.remax(),
    "opo": tokens.opo(),
    "ppo": tokens.ppo(),
    "grpo": tokens.grpo(kl=tokens.kl_in_loss(0.1)),
    "dr_grpo": tokens.dr_grpo(aggregation=tokens.constant_length(8)),
    "dapo": tokens.dapo(),
    "lite_ppo": tokens.lite_ppo(),
    "reinforce_plus_plus": tokens.reinforce_plus_plus(kl=tokens.kl_in_reward(0.1)),
    "reinforce_plus_plus_baseline": tokens.reinforce_plus_plus_baseline(
        kl=tokens.kl_in_loss(0.1, "k2")
    ),
    "gspo": tokens.gspo(),
    "gspo_token": tokens.gspo_token(clip_low=0.2, clip_high=0.2),
    "cispo": tokens.cispo(correction=corrections.token_truncation(2.0)),
    "gmpo": tokens.gmpo(),
    "sapo": tokens.sapo(correction=corrections.sequence_mask(0.0, 3.0)),
    "luspo": tokens.luspo(clip_low=0.3, clip_high=0.3),
    "vespo": tokens.vespo(correction=corrections.geometric_mask(0.5, 2.0)),
    "dppo": tokens.dppo(0.1, 0.1, correction=corrections.token_mask(0.5, 5.0)),
    "dppo_kl": tokens.dppo_kl(0.02, 0.02, entropy=tokens.sampled_entropy_in_loss(0.1)),
    "pkpo": tokens.pkpo(2),
    "loo": tokens.pkpo(2, baseline="loo", entropy=tokens.entropy_in_reward(0.1)),
    "maxrl": tokens.maxrl(correction=corrections.sequence_truncation(2.0)),
    "gpg": tokens.gpg(aggregation=tokens.prompt_mean),
    "prefix": summed(silent, terms.prefix_ratio, kl=tokens.kl_in_loss_by_prefix_ratio(0.1)),
    "own": summed(silent, kl=tokens.kl_in_own_reward(0.1)),
    "token ratio": summed(silent, kl=tokens.kl_in_loss_by_token_ratio(0.1)),
}


def sampled(garbage: float = np.nan) -> tuple[Any, tokens.Batch]:
    """(log_prob, batch): groups of four and three, a row that only pads, and holes."""
    random = np.random.default_rng(1)
    old, now, reference, sampler = -np.exp(random.normal(size=(4, N, T)))
    mask = np.arange(T) < random.integers(2, T + 1, N)[:, None]
    mask[1, 0] = mask[4, 2] = False
    mask[7] = False
    now = old + 0.4 * (now - old)
    sampler = old + 0.1 * (sampler - old)
    live = [np.where(mask, x, garbage) for x in (old, now, reference, sampler)]
    value = np.where(mask, random.normal(size=(N, T)), garbage)
    reward, group = random.uniform(size=N), np.array([3, 8, 3, 8, 3, 8, 3, 8])
    reward[7] = garbage
    fields: dict[str, Any] = {"log_prob": live[0], "mask": mask, "reward": reward, "group": group}
    fields |= {"reference_log_prob": live[2], "sampler_log_prob": live[3], "value": value}
    return live[1], tokens.Batch(**fields)


@jax.jit
def slopes(estimators: Any, log_prob: Any, batch: Any) -> Any:
    """The gradient of each estimator's surrogate by the log-probabilities."""
    return {
        name: jax.grad(lambda x, each=each: tokens.surrogate(each, x, batch))(log_prob)
        for name, each in estimators.items()
    }


@pytest.fixture(scope="module")
def expected(strict_numerics: None) -> Any:
    return jax.device_get(slopes(NAMED, *sampled()))


def test_every_named_estimator_is_tried() -> None:
    named = {n for n in dir(tokens) if not n.startswith("_") and callable(getattr(tokens, n))}
    made = {n for n in named if getattr(tokens, n).__module__.startswith("pgjax.tokens.estimators")}
    assert made <= set(NAMED)
    assert "grpo" in made


def test_garbage_where_no_token_is_live_is_harmless(expected: Any) -> None:
    dead = ~np.asarray(sampled()[1].mask)
    noisy = slopes(NAMED, *sampled(garbage=-3.25))
    for name, found in expected.items():
        assert np.all(np.isfinite(found)), name
        assert np.any(found != 0), name
        assert np.all(found[dead] == 0), name
        np.testing.assert_array_equal(noisy[name], found, err_msg=name)


# One of each part that reads other rows of the batch, and of each that is added to a term. The
# terms themselves know one row only.
COUPLED = (
    *("rloo", "opo", "grpo", "lite_ppo", "reinforce_plus_plus", "dppo_kl"),
    *("pkpo", "loo", "maxrl", "gpg", "dr_grpo"),
)


@jax.jit
def halves(estimators: Any, log_prob: Any, batch: Any) -> Any:
    """The weights of the whole batch, and the gradients of two micro-batches that share them."""
    found = {}
    for name, each in estimators.items():
        shared = tokens.shared_weights(each, batch, log_prob)

        def of_half(log_prob: Any, batch: Any, shared: Any, each: Estimator = each) -> Any:
            return jax.grad(lambda x: tokens.surrogate(each, x, batch, weights=shared))(log_prob)

        cut = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), (log_prob, batch, shared))
        found[name] = shared, jax.vmap(of_half)(*cut).reshape(N, T)
    return found


@pytest.fixture(scope="module")
def shared(strict_numerics: None) -> Any:
    several = (*COUPLED, "prefix", "own", "token ratio")
    return jax.device_get(halves({name: NAMED[name] for name in several}, *sampled()))


def test_micro_batches_with_shared_weights_add_up(shared: Any, expected: Any) -> None:
    for name, (_, found) in shared.items():
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=1e-12, err_msg=name)


def test_micro_batches_with_weights_of_their_own_do_not_add_up(expected: Any) -> None:
    """To each of the two the rows of the other are padding."""
    log_prob, batch = sampled()
    first = (np.arange(N) < N // 2)[:, None]
    alone = [
        jax.device_get(slopes(NAMED, log_prob, replace(batch, mask=np.asarray(batch.mask) & half)))
        for half in (first, ~first)
    ]
    for name in COUPLED:
        assert np.abs((alone[0][name] + alone[1][name]) / 2 - expected[name]).max() > 1e-3, name


def test_devices_share_the_weights_of_the_whole_batch(shared: Any) -> None:
    names = ("grpo", "gpg", "reinforce_plus_plus", "lite_ppo", "pkpo")
    split = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), sampled())

    def on_device(log_prob: Any, batch: Any) -> Any:
        return [tokens.shared_weights(NAMED[n], batch, log_prob, axis_name="data") for n in names]

    found = jax.device_get(jax.jit(jax.vmap(on_device, axis_name="data"))(*split))
    for name, each in zip(names, found, strict=True):
        whole = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), shared[name][0])
        for x, y in zip(jax.tree.leaves(each), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-12, err_msg=name)


def packed(x: Any) -> np.ndarray:
    """The live tokens of each row first."""
    order = np.argsort(~np.asarray(sampled()[1].mask), axis=1, kind="stable")
    return np.take_along_axis(np.asarray(x), order, 1)


def without_holes() -> tuple[Any, tokens.Batch]:
    log_prob, batch = sampled()
    fields = {n: x for n, x in vars(batch).items() if x is not None and np.shape(x) == (N, T)}
    return packed(log_prob), replace(batch, **{n: packed(x) for n, x in fields.items()})


def test_holes_count_nowhere(expected: Any) -> None:
    for name, found in slopes(NAMED, *without_holes()).items():
        np.testing.assert_allclose(found, packed(expected[name]), rtol=0, atol=1e-12, err_msg=name)


def test_rows_of_padding_count_nowhere(expected: Any) -> None:
    several = {name: NAMED[name] for name in COUPLED}
    rows = jax.tree.map(lambda x: x[:7], sampled())
    for name, found in slopes(several, *rows).items():
        np.testing.assert_allclose(found, expected[name][:7], rtol=0, atol=1e-12, err_msg=name)


def test_entropies_are_cut_with_the_micro_batches_and_asked_for_by_name() -> None:
    log_prob, batch = sampled()
    each = tokens.rloo(entropy=tokens.entropy_in_loss(0.3))
    mask = np.asarray(batch.mask)
    entropy: Any = np.where(mask, np.arange(1.0, T + 1), np.nan)

    @jax.jit
    def run(*rows: Any) -> Any:
        def slope(log_prob: Any, batch: Any, entropy: Any, shared: Any = None) -> Any:
            return jax.grad(
                lambda h: tokens.surrogate(each, log_prob, batch, entropy=h, weights=shared)
            )(entropy)

        shared = tokens.shared_weights(each, rows[1])
        cut = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), (*rows, shared))
        return slope(*rows), jax.vmap(slope)(*cut)

    whole, parts = run(log_prob, batch, entropy)
    np.testing.assert_allclose(np.reshape(parts, (N, T)), whole, rtol=0, atol=1e-14)
    np.testing.assert_allclose(whole, np.where(mask, 0.3 / 7, 0))
    for estimator, given in ((each, None), (tokens.rloo(), entropy)):
        with pytest.raises(ValueError, match="entropy must"):
            jax.eval_shape(
                lambda x, e=estimator, h=given: tokens.surrogate(e, x, batch, entropy=h), log_prob
            )
    problem = three_tokens().problem
    answers, _ = pgjax.enumeration.trajectories(problem)
    answers = replace(answers, group=np.zeros(len(answers.mask), int))
    with pytest.raises(ValueError, match="entropy must be given"):
        gradient(each, problem.policy, problem.params, answers)
    assert jax.jit(tokens.metrics)(each, log_prob, batch)["clipped"] == 0


SCALED = {
    **{f"++ {d}": tokens.reinforce_plus_plus(epsilon=0.0, degrees=d) for d in (0, 1)},
    **{f"lite {d}": tokens.lite_ppo(epsilon=0.0, degrees=d) for d in (0, 1)},
    **{
        f"bonus {c}": tokens.reinforce_plus_plus(entropy=tokens.entropy_in_reward(c), epsilon=0.0)
        for c in (1.0, 2.0)
    },
}


def test_a_bonus_in_the_reward_is_whitened_with_the_rest() -> None:
    """REINFORCE++ charges before it whitens, so that a bonus twice as large is no new direction."""
    log_prob, batch = sampled()
    found = slopes(SCALED, log_prob, replace(batch, reward=np.zeros(N)))
    one, two = (np.asarray(found[f"bonus {c}"]) for c in (1.0, 2.0))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-12)
    assert np.abs(one).max() > 0.01


def test_bessel_s_correction_is_a_factor_of_the_deviation() -> None:
    log_prob, batch = sampled()
    tokens_live, answers = int(np.sum(batch.mask)), N - 1
    found = jax.device_get(slopes(SCALED, log_prob, batch))
    for name, number in (("++", tokens_live), ("lite", answers)):
        ratio = np.sqrt((number - 1) / number)
        one, other = found[f"{name} 1"], found[f"{name} 0"]
        np.testing.assert_allclose(one, ratio * other, rtol=0, atol=1e-12)


def test_where_the_policies_agree_every_term_is_the_score() -> None:
    batch = sampled()[1]
    batch = replace(batch, sampler_log_prob=batch.log_prob)
    mask = np.asarray(batch.mask)
    credit = np.where(mask, np.random.default_rng(3).normal(size=(N, T)), 0)
    of_answer = np.where(mask, credit[:, :1] + 1e-3, 0)
    by_answer = (terms.sequence_clip(0.2, 0.2), terms.geometric_clip(0.4))
    by_token = (
        *(terms.sequence_ratio, terms.prefix_ratio, terms.sequence_clip_by_token(0.2, 0.2)),
        *(terms.sigmoid_gate(1.0, 1.05), terms.gamma_gate(), terms.divergence_mask(0.1, 0.1)),
        terms.kl_mask(0.1, 0.1),
    )
    weight = dict.fromkeys(by_answer, of_answer) | dict.fromkeys(by_token, credit)
    made = {str(t): Estimator(lambda *_, w=w: jnp.asarray(w), t) for t, w in weight.items()}
    found = slopes(made, batch.log_prob, batch)
    for name, w in zip(made, weight.values(), strict=True):
        np.testing.assert_allclose(found[name], w / N, rtol=0, atol=1e-12, err_msg=name)


def test_half_precision_is_accumulated_in_single() -> None:
    wide = jax.tree.map(np.asarray, sampled(garbage=0.0))
    narrow = {"float64": jnp.bfloat16, "int64": np.int32, "bool": bool}
    with jax.enable_x64(False):
        log_prob, batch = jax.tree.map(lambda x: x.astype(narrow[x.dtype.name]), wide)
        value = jax.eval_shape(lambda *x: tokens.surrogate(NAMED["rloo"], *x), log_prob, batch)
    assert value.dtype == jnp.float32


def test_ratios_that_would_overflow_stay_finite() -> None:
    _, batch = sampled()
    mask = np.asarray(batch.mask)
    far = replace(batch, log_prob=np.where(mask, -900.0, np.nan))
    near = np.where(mask, -1e-3, np.nan)
    for name, slope in slopes(NAMED, near, far).items():
        assert np.all(np.isfinite(slope)), name


def test_named_estimators_have_their_published_settings() -> None:
    """Defaults, spelt out: advantage, average and term."""
    A, grpo = advantages, advantages.standardized(1e-4, degrees=1)
    clip, narrow = terms.asymmetric_clip(0.2, 0.2), (3e-4, 4e-4)
    means, sums, by_token = tokens.sequence_mean, tokens.sequence_sum, tokens.token_mean
    gae, to_go = A.generalized_advantage(0.95, discount=1.0), A.reward_to_go(1.0)
    published = {
        "reinforce": (A.outcome, sums, terms.score),
        "rloo": (A.leave_one_out, sums, terms.score),
        "remax": (A.less_value, sums, terms.score),
        "opo": (A.less_mean_by_length, sums, terms.score),
        "maxrl": (A.relative_to_mean, sums, terms.score),
        "gpg": (A.of_informative_groups, by_token, terms.score),
        "ppo": (gae, by_token, clip),
        "grpo": (grpo, means, clip),
        "dr_grpo": (A.less_group_mean, sums, clip),
        "dapo": (grpo, by_token, terms.asymmetric_clip(0.2, 0.28)),
        "lite_ppo": (A.scaled_by_batch(1e-4, degrees=1), by_token, clip),
        "reinforce_plus_plus": (weights.whitened(to_go, epsilon=1e-8, degrees=0), by_token, clip),
        "reinforce_plus_plus_baseline": (
            weights.whitened(A.less_group_mean, epsilon=1e-8, degrees=0),
            *(by_token, clip),
        ),
        "gspo": (grpo, means, terms.sequence_clip(*narrow)),
        "gspo_token": (grpo, means, terms.sequence_clip_by_token(*narrow)),
        "luspo": (grpo, sums, terms.sequence_clip(*narrow)),
        "gmpo": (grpo, means, terms.geometric_clip(0.4)),
        "sapo": (grpo, means, terms.sigmoid_gate(1.0, 1.05)),
        "vespo": (grpo, by_token, terms.gamma_gate((2.0, 3.0), (3.0, 2.0))),
        "cispo": (grpo, by_token, terms.truncated_ratio(5.0, floor=0.0)),
    }
    for name, parts in published.items():
        assert getattr(tokens, name)() == tokens.estimator(*parts), name
    of_two = {"loo-1": A.gain_in_best, "loo": A.best_of_leave_one_out, "none": A.best_of}
    for name, make in of_two.items():
        expected = tokens.estimator(make(2), sums, terms.score)
        assert tokens.pkpo(2, baseline=name) == expected
    for made, term in ((tokens.dppo, terms.divergence_mask), (tokens.dppo_kl, terms.kl_mask)):
        expected = tokens.estimator(A.less_group_mean, by_token, term(0.1, 0.2, ceiling=20.0))
        assert made(0.1, 0.2) == expected
    expected = tokens.estimator(grpo, means, terms.asymmetric_clip(0.3, 0.4))
    assert tokens.grpo(clip_low=0.3, clip_high=0.4) == expected
    assert len(published) + 3 == len([n for n in NAMED if hasattr(tokens, n)])


def test_corrections_are_ratios_of_old_to_sampler() -> None:
    _, batch = sampled()
    mask = np.asarray(batch.mask)
    sampler = np.asarray(batch.sampler_log_prob)
    difference = np.where(mask, np.asarray(batch.log_prob) - sampler, 0)
    ratio, total = np.exp(difference), np.exp(difference.sum(1, keepdims=True))
    mean = np.exp(difference.sum(1, keepdims=True) / np.maximum(mask.sum(1, keepdims=True), 1))
    low, high = 0.8, 1.2
    expected = {
        "token_truncation": np.minimum(ratio, high),
        "sequence_truncation": np.minimum(total, high),
        "token_mask": np.where((ratio >= low) & (ratio <= high), ratio, 0),
        "sequence_mask": np.where((total >= low) & (total <= high), total, 0),
        "geometric_mask": np.where((mean >= low) & (mean <= high), ratio, 0),
    }
    bounds = {name: (high,) if "truncation" in name else (low, high) for name in expected}
    made = {name: getattr(corrections, name)(*each) for name, each in bounds.items()}

    @jax.jit
    def correct(batch: Any) -> Any:
        rows = as_trajectories(batch)
        return {name: each(rows, rows.log_prob) for name, each in made.items()}

    for name, found in correct(batch).items():
        values = expected[name]
        np.testing.assert_allclose(
            np.where(mask, found, 0), np.where(mask, values, 0), rtol=1e-12, err_msg=name
        )
        assert len(np.unique(np.where(mask, values, 0))) > 2, name


def test_averages_are_those_of_their_names() -> None:
    _, batch = sampled()
    mask, group = np.asarray(batch.mask), np.asarray(batch.group)
    x = np.random.default_rng(5).normal(size=mask.shape)
    total, length = np.where(mask, x, 0).sum(1), mask.sum(1)
    live, names = length > 0, np.unique(group[length > 0])
    prompts = [total[live & (group == g)].sum() / length[group == g].sum() for g in names]
    expected = {
        tokens.sequence_sum: total.sum() / live.sum(),
        tokens.sequence_mean: (total[live] / length[live]).mean(),
        tokens.token_mean: total.sum() / length.sum(),
        tokens.prompt_mean: np.mean(prompts),
        tokens.constant_length(9.0): total.sum() / 9 / live.sum(),
    }
    averaged = jax.jit(lambda x, batch: [tokens.aggregate(x, batch, how) for how in expected])
    found = averaged(np.where(mask, x, np.nan), batch)
    for number, (average, value) in zip(found, expected.items(), strict=True):
        assert number == pytest.approx(value, rel=1e-12), average


def test_the_mean_by_length_weighs_short_answers_rightly() -> None:
    mask = np.zeros((2, 8), bool)
    mask[:, 0] = mask[1, 1] = True
    batch = small(log_prob=np.full((2, 8), -1.0), mask=mask, reward=np.array([3.0, 0.0]))
    (credit,) = credits([summed(advantages.less_mean_by_length)], batch)
    np.testing.assert_allclose(credit, [2.0, -1.0])


def test_the_smallest_group_counts() -> None:
    uneven = jax.tree.map(lambda x: np.concatenate([x, x[:1]]), small(group=np.array([0, 1])))
    with pytest.raises(ValueError, match="got 1 of group 1"):
        tokens.surrogate(tokens.rloo(), uneven.log_prob, uneven)
    tokens.shared_weights(tokens.reinforce(), uneven)


def test_metrics_describe_the_batch() -> None:
    log_prob, batch = sampled()
    compiled = jax.jit(tokens.metrics)

    def metrics(*given: Any, **fields: Any) -> Any:
        return jax.device_get(compiled(*given, **fields))

    estimator, entropy = tokens.dr_grpo(clip_low=0.01, clip_high=0.01), -np.asarray(log_prob)
    found = metrics(estimator, log_prob, batch, entropy=entropy)
    mask = np.asarray(batch.mask)
    difference = np.where(mask, np.asarray(log_prob) - np.asarray(batch.log_prob), 0)
    ratio = np.exp(difference[mask])
    assert found["ratio_max"] == pytest.approx(ratio.max())
    assert found["kl_old"] == pytest.approx(np.mean(ratio - 1 - np.log(ratio)))
    of_answer = np.exp(difference[:7].sum(1))
    size = of_answer.sum() ** 2 / (7 * (of_answer**2).sum())
    assert found["effective_sample_size"] == pytest.approx(size)
    assert 0.2 < found["clipped"] < 0.8
    assert metrics(tokens.reinforce(), log_prob, batch)["clipped"] == 0
    agreed = np.where(np.asarray(batch.group) == 3, 1.0, np.asarray(batch.reward))
    agree = metrics(estimator, log_prob, replace(batch, reward=agreed), entropy=entropy)
    assert agree["silent_answers"] == pytest.approx(4 / 7)
    assert found["entropy"] == pytest.approx(-np.mean(np.asarray(log_prob)[mask]))


def minus_one() -> Any:
    return np.full((2, 3), -1.0)


def small(**fields: Any) -> tokens.Batch:
    given = {
        "log_prob": np.full((2, 3), -1.0),
        "mask": np.ones((2, 3), bool),
        "reward": np.arange(2.0),
        "group": np.zeros(2, int),
    }
    return tokens.Batch(**(given | fields))


@pytest.mark.parametrize(
    ("estimator", "fields", "error", "words"),
    [
        (tokens.rloo(), {"group": np.arange(2)}, ValueError, "batch.group must have at least 2"),
        (tokens.grpo(), {"group": None}, ValueError, "batch.group must say which answers"),
        (tokens.pkpo(3), {}, ValueError, "batch.group must have at least 3 answers"),
        (tokens.pkpo(2, baseline="loo"), {}, ValueError, "must have at least 3 answers"),
        (
            tokens.rloo(),
            {"mask": np.zeros((2, 3), bool)},
            ValueError,
            "true for some tokens, got none",
        ),
        (tokens.rloo(), {"mask": np.ones((2, 3))}, TypeError, "batch.mask must be boolean"),
        (tokens.rloo(), {"mask": np.ones(3, bool)}, ValueError, r"batch.mask must have shape \[N"),
        (tokens.rloo(), {"reward": np.ones(3)}, ValueError, "batch.reward must have shape"),
        (tokens.rloo(), {"log_prob": np.ones((2, 3))}, ValueError, "batch.log_prob must be at"),
        (tokens.rloo(), {"log_prob": np.full((2, 3), np.nan)}, ValueError, "at most 0, got nan"),
        (tokens.rloo(), {"group": np.zeros(2)}, TypeError, "batch.group must be integers"),
        (tokens.remax(), {}, ValueError, "batch.value must hold"),
        (tokens.grpo(kl=tokens.kl_in_loss(0.1)), {}, ValueError, "batch.reference_log_prob must"),
        (
            tokens.rloo(correction=corrections.token_mask(0.5, 5.0)),
            {},
            ValueError,
            "batch.sampler_log_prob must hold",
        ),
        (cast(Any, tokens.rloo), {}, TypeError, "estimator must be a pgjax.Estimator"),
    ],
)
def test_bad_batches_are_refused_by_name(estimator, fields, error, words) -> None:
    good: Any = np.full((2, 3), -1.0)
    with pytest.raises(error, match=words):
        tokens.surrogate(estimator, good, small(**fields))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: tokens.grpo(kl=cast(Any, 0.04)),
            TypeError,
            "kl must be a penalty of pgjax.tokens",
        ),
        (lambda: tokens.grpo(degrees=2), ValueError, "degrees must be 0 or 1"),
        (lambda: tokens.grpo(clip_low=1.2), ValueError, r"clip_low must lie in \[0, 1\]"),
        (lambda: tokens.cispo(ceiling=0.1, floor=0.5), ValueError, "ceiling must be at least 0.5"),
        (lambda: tokens.kl_in_loss(-1.0), ValueError, "coefficient must be at least 0"),
        (lambda: tokens.kl_in_loss(1.0, "k4"), ValueError, "estimate must be one of k1, k2, k3"),
        (lambda: tokens.pkpo(0), ValueError, "k must be at least 1"),
        (lambda: tokens.pkpo(1), ValueError, "k must be at least 2, got 1"),
        (lambda: tokens.pkpo(2, baseline="mean"), ValueError, "baseline must be one of loo-1"),
        (lambda: tokens.cispo(clip_high=-0.1), ValueError, "clip_high must be at least 0"),
        (lambda: tokens.grpo(ceiling=1.1), ValueError, "ceiling must be at least 1.2"),
        (lambda: tokens.rloo(entropy=cast(Any, 0.01)), TypeError, "entropy must be a bonus"),
        (lambda: tokens.constant_length(0), ValueError, "length must be positive"),
        (
            lambda: tokens.estimator(cast(Any, 1.0), tokens.token_mean, terms.score),
            TypeError,
            "advantage",
        ),
        (
            lambda: tokens.estimator(advantages.outcome, cast(Any, "token-mean"), terms.score),
            TypeError,
            "aggregation must be a function",
        ),
        (
            lambda: tokens.surrogate(tokens.rloo(), cast(Any, np.zeros((2, 4))), small()),
            ValueError,
            "log_prob must have shape",
        ),
        (
            lambda: tokens.surrogate(tokens.rloo(), cast(Any, np.full((2, 3), 0.5)), small()),
            ValueError,
            "it is log p of the token",
        ),
        (
            lambda: tokens.surrogate(
                tokens.rloo(), minus_one(), small(), weights=cast(Any, np.ones((2, 3)))
            ),
            TypeError,
            "weights must be SharedWeights",
        ),
        (
            lambda: tokens.surrogate(tokens.rloo(), minus_one(), cast(Any, {"mask": 1})),
            TypeError,
            "batch must be a pgjax.tokens.Batch",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(call, error, words) -> None:
    with pytest.raises(error, match=words):
        call()


def test_log_probabilities_above_zero_are_refused_but_for_what_rounding_leaves() -> None:
    """At once where they are known; under `checked`, with their place, where they are traced."""
    highest = np.float32(256 * np.finfo(np.float32).eps)
    accepted = np.full((2, 3), highest, np.float32)
    refused = np.nextafter(accepted, np.float32(1))
    below = np.full((2, 3), -1.0, np.float32)
    batch = small(log_prob=below, reward=np.arange(2, dtype=np.float32))
    checked = pgjax.checked(lambda x, batch: tokens.surrogate(tokens.reinforce(), x, batch))

    def known(x: Any, batch: Any) -> Any:
        return tokens.shared_weights(tokens.reinforce(), batch, x)

    for run in (known, checked):
        run(accepted, batch)
        with pytest.raises(ValueError, match="it is log p of the token"):
            run(refused, batch)
    with pytest.raises(ValueError, match=r"must be at most 0, got 0\.5 at row 0, token 0"):
        checked(np.full((2, 3), 0.5, np.float32), batch)


def test_a_group_of_one_that_is_not_known_beforehand_gets_no_weight() -> None:
    log_prob, batch = sampled()
    found = slopes(NAMED, log_prob, replace(batch, group=np.arange(N)))
    for name in ("rloo", "dapo", "opo", "maxrl"):
        np.testing.assert_array_equal(found[name], 0, err_msg=name)
