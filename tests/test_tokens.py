"""Estimators over tokens: exact numbers on a tiny language model, and laws on any batch."""

from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import enumeration, exact, terms, tokens, weights
from pgjax.estimators import gradient
from pgjax.proof import language_models
from pgjax.proof.language_models import three_tokens
from pgjax.proof.token_moments import group_moments
from pgjax.tokens import advantages, corrections
from pgjax.tokens.batch import as_trajectories
from pgjax.types import Estimator

pytestmark = pytest.mark.usefixtures("strict_numerics")

MODEL = three_tokens()
PROBLEM = MODEL.problem
FREE = float("inf")


def silent(batch: Any, log_prob: Any) -> Any:
    """No credit at all: what is left is the penalty."""
    return jnp.zeros_like(log_prob)


def summed(advantage: Any, term: Any = terms.score, **options: Any) -> Estimator:
    return tokens.estimator(advantage, tokens.sequence_sum, term, **options)


def penalty(kl: Any, term: Any = terms.score) -> Estimator:
    return summed(silent, term, kl=kl)


class Row(NamedTuple):
    """An estimator, and the size of its bias and of the part that no step size undoes."""

    estimator: Estimator
    bias: float
    off: float | None = None


# REINFORCE++ as the reference numbers have it: Bessel's correction, and sums of tokens.
SUMMED = tokens.reinforce_plus_plus(epsilon=1e-4, degrees=1, aggregation=tokens.sequence_sum)
# Relative to ∇J. Computed beforehand in NumPy, from the definitions, without pgjax.
ON_POLICY = {
    2: {
        "RLOO": Row(tokens.rloo(), 0.0, 0.0),
        "Dr. GRPO": Row(tokens.dr_grpo(), 0.5, 0.0),
        "GRPO": Row(tokens.grpo(), 0.5542, 0.1239),
        "DAPO": Row(tokens.dapo(), 0.6153, 0.0387),
        "OPO": Row(tokens.opo(), 0.4726, 0.0638),
        "REINFORCE++": Row(SUMMED, 0.1312, 0.1270),
        "deviation": Row(summed(advantages.standardized()), 0.2930, 0.0),
        "token mean": Row(
            tokens.estimator(advantages.less_value, tokens.token_mean, terms.score), 0.4408, 0.0741
        ),
        "mean of means": Row(
            tokens.estimator(advantages.less_value, tokens.sequence_mean, terms.score),
            *(0.3911, 0.1752),
        ),
    },
    4: {
        "RLOO": Row(tokens.rloo(), 0.0, 0.0),
        "Dr. GRPO": Row(tokens.dr_grpo(), 0.25, 0.0),
        "GRPO": Row(tokens.grpo(), 0.2609, 0.2462),
        "DAPO": Row(tokens.dapo(), 0.2748, 0.0401),
        "OPO": Row(tokens.opo(), 0.2248, 0.0508),
        "REINFORCE++": Row(SUMMED, 0.6209, 0.1197),
        "deviation": Row(summed(advantages.standardized()), 0.4051, 0.0),
        "token mean": Row(
            tokens.estimator(advantages.less_value, tokens.token_mean, terms.score), 0.4803, 0.0320
        ),
        "mean of means": Row(
            tokens.estimator(advantages.less_value, tokens.sequence_mean, terms.score),
            *(0.3911, 0.1752),
        ),
    },
}
OFF_POLICY = {
    "sequence ratio": Row(summed(advantages.less_value, terms.sequence_ratio), 0.0, 0.0),
    "token ratio": Row(summed(advantages.less_value, terms.importance_ratio), 0.0889, 0.0842),
    "no ratio": Row(summed(advantages.less_value), 0.1597, 0.1595),
    "prefix ratio": Row(summed(advantages.less_value, terms.prefix_ratio), 0.0784, 0.0784),
    "GSPO": Row(
        tokens.estimator(
            advantages.less_value, tokens.sequence_mean, terms.sequence_clip(1.0, FREE)
        ),
        *(0.4133, 0.1874),
    ),
    "GSPO by token": Row(
        tokens.estimator(
            advantages.less_value, tokens.sequence_mean, terms.sequence_clip_by_token(1.0, FREE)
        ),
        *(0.4133, 0.1874),
    ),
    "LUSPO": Row(summed(advantages.less_value, terms.sequence_clip(1.0, FREE)), 0.0966, 0.0853),
    "CISPO": Row(summed(advantages.less_value, terms.truncated_ratio(1.2)), 0.0950, 0.0889),
    "CISPO with a floor": Row(
        summed(advantages.less_value, terms.truncated_ratio(1.2, floor=0.8)), 0.0942, 0.0883
    ),
    "PPO clip": Row(summed(advantages.less_value, terms.ppo_clip(0.2)), 0.2411, 0.2354),
    "SAPO": Row(summed(advantages.less_value, terms.sigmoid_gate(1.0, 1.05)), 0.0906, 0.0835),
    "GMPO": Row(
        tokens.estimator(advantages.less_value, tokens.sequence_mean, terms.geometric_clip(0.4)),
        *(0.4136, 0.1879),
    ),
}
# Relative to −∇KL of the whole answer, with β = 1: (on-policy, off-policy).
PENALTIES = {
    "k1 in the loss": (penalty(tokens.kl_in_loss(1.0, "k1")), 1.0, 1.1425),
    "k2 in the loss": (penalty(tokens.kl_in_loss(1.0, "k2")), 0.2705, 0.2325),
    "k3 in the loss": (penalty(tokens.kl_in_loss(1.0)), 0.3300, 0.1873),
    "k3 by token ratio": (penalty(tokens.kl_in_loss_by_token_ratio(1.0)), 0.2705, 0.2645),
    "k3 by prefix ratio": (penalty(tokens.kl_in_loss_by_prefix_ratio(1.0)), 0.0, 0.0),
    "k3 in the reward": (penalty(tokens.kl_in_reward(1.0, "k3")), 0.9355, 0.9547),
    "k1 in the reward": (penalty(tokens.kl_in_reward(1.0)), 0.0, 0.1882),
    "k1 in the reward, sequence ratio": (
        penalty(tokens.kl_in_reward(1.0), terms.sequence_ratio),
        *(0.0, 0.0),
    ),
}


def means(estimators: list[Estimator], group_size: int, acting: str) -> list[np.ndarray]:
    """The exact mean of each estimator, all from one enumeration."""

    def estimate(params: Any, batch: Any) -> Any:
        return [gradient(each, PROBLEM.policy, params, batch) for each in estimators]

    value = float(exact.objective(PROBLEM))
    found = group_moments(estimate, MODEL, group_size=group_size, acting=acting, value=value)
    return np.split(found.mean, len(estimators))


def bias_and_rest(mean: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    size = np.linalg.norm(truth)
    scale = mean @ truth / size**2
    rest = np.linalg.norm(mean - scale * truth)
    return float(np.linalg.norm(mean - truth) / size), float(rest / size)


def assert_rows(rows: dict[str, Row], found: list[np.ndarray], truth: np.ndarray) -> None:
    for (name, row), mean in zip(rows.items(), found, strict=True):
        for expected, number in zip(row[1:], bias_and_rest(mean, truth), strict=True):
            bound = 1e-10 if expected == 0 else 5.1e-5
            assert expected is None or abs(number - expected) <= bound, (name, number, expected)


def gradient_of_objective() -> np.ndarray:
    return exact.gradient(PROBLEM).ravel()


@pytest.mark.parametrize("group_size", [2, 4])
def test_groups_have_the_biases_that_were_computed_without_pgjax(group_size: int) -> None:
    rows = ON_POLICY[group_size]
    found = means([row.estimator for row in rows.values()], group_size, "policy")
    assert_rows(rows, found, gradient_of_objective())


def test_ratios_have_the_biases_that_were_computed_without_pgjax() -> None:
    found = means([row.estimator for row in OFF_POLICY.values()], 1, "old")
    assert_rows(OFF_POLICY, found, gradient_of_objective())
    wrong = OFF_POLICY | {"PPO clip": OFF_POLICY["SAPO"]._replace(bias=0.2411)}
    with pytest.raises(AssertionError):
        assert_rows(
            wrong, means([row.estimator for row in wrong.values()], 1, "old"), truth_of_kl()
        )


def truth_of_kl() -> np.ndarray:
    """−∇KL(π ‖ ref) of the whole answer, from every answer's probability."""
    batch, _ = enumeration.trajectories(PROBLEM)
    reference = pgjax.log_probs(PROBLEM.policy, jnp.asarray(MODEL.reference), batch)

    def divergence(params: Any) -> Any:
        log_prob = jnp.sum(pgjax.log_probs(PROBLEM.policy, params, batch), axis=1)
        return jnp.sum(jnp.exp(log_prob) * (log_prob - jnp.sum(reference, axis=1)))

    return -np.asarray(jax.grad(divergence)(jnp.asarray(PROBLEM.params))).ravel()


@pytest.mark.parametrize(("acting", "place"), [("policy", 0), ("old", 1)])
def test_penalties_have_the_biases_that_were_computed_without_pgjax(
    acting: str, place: int
) -> None:
    rows = {name: Row(each, (on, off)[place]) for name, (each, on, off) in PENALTIES.items()}
    found = means([row.estimator for row in rows.values()], 1, acting)
    assert_rows(rows, found, truth_of_kl())


def bandit(p: float) -> language_models.LanguageModel:
    """One token, which is right with probability p."""
    mdp = language_models.language_mdp([{(0,): 0.0, (1,): 1.0}], length=1, vocabulary=2)
    logits = np.array([[0.0, np.log(p / (1 - p))], [0.0, 0.0]])
    problem = replace(PROBLEM, mdp=mdp, params=logits, horizon=1)
    problem = replace(problem, policy=pgjax.tabular_softmax(2, 2))
    return language_models.LanguageModel(problem, logits, logits)


@pytest.mark.parametrize(
    ("group_size", "p", "factor"),
    [(4, 0.02, 1.492), (4, 0.1, 1.464), (4, 0.5, 1.399), (8, 0.02, 2.406), (8, 0.5, 1.735)],
)
def test_the_deviation_lets_hard_prompts_count_for_more(group_size, p, factor) -> None:
    model = bandit(p)
    mean = group_moments(summed(advantages.standardized()), model, group_size=group_size).mean
    truth = exact.gradient(model.problem).ravel()
    np.testing.assert_allclose(mean, factor * truth, rtol=0, atol=6e-4 * np.abs(truth).max())


@pytest.mark.parametrize("group_size", [4, 8])
def test_maxrl_sums_the_series_of_the_likelihood(group_size: int) -> None:
    p, model = 0.3, bandit(0.3)
    mean = group_moments(tokens.maxrl(), model, group_size=group_size).mean
    series = sum((1 - p) ** (k - 1) for k in range(1, group_size))
    truth = exact.gradient(model.problem).ravel()
    np.testing.assert_allclose(mean, series * truth, rtol=0, atol=1e-12)
    assert series == pytest.approx({4: 2.19, 8: 3.058819}[group_size], abs=1e-6)


def test_pkpo_climbs_the_best_of_two() -> None:
    p, model = 0.3, bandit(0.3)
    every = [tokens.pkpo(2, baseline=each) for each in ("loo-1", "loo", "none")]
    mean, *others = (group_moments(each, model, group_size=4).mean for each in every)
    np.testing.assert_allclose(mean[1], 2 * (1 - p) * p * (1 - p), rtol=0, atol=1e-12)
    np.testing.assert_allclose(others, [mean, mean], rtol=0, atol=1e-12)
    centred = group_moments(summed(advantages.best_of_less_mean(2)), model, group_size=4).mean
    assert abs(centred[1] - mean[1]) > 0.01


@jax.jit
def credits(estimators: list[Estimator], rows: Any) -> Any:
    return [each.weights(rows, rows.log_prob)[:, 0] for each in estimators]


def advantage(weigh: list[Any], rewards: Any, groups: Any = None) -> list[np.ndarray]:
    """[N] of answers of one token, for each of the weights."""
    N = len(rewards)
    batch = tokens.Batch(
        jnp.full((N, 1), -1.0),
        jnp.ones((N, 1), bool),
        jnp.asarray(rewards, float),
        jnp.zeros(N, int) if groups is None else jnp.asarray(groups),
    )
    return credits([Estimator(each, terms.score) for each in weigh], as_trajectories(batch))


def test_eight_answers_with_three_right_have_their_known_advantages() -> None:
    rewards = [1.0] * 3 + [0.0] * 5
    weigh = [advantages.leave_one_out, advantages.standardized(0.0), advantages.less_group_mean]
    weigh += [advantages.standardized(0.0, degrees=0)]
    known = (0.7143, -0.4286), (1.2076, -0.7246), (0.625, -0.375), (1.2910, -0.7746)
    for found, (right, wrong) in zip(advantage(weigh, rewards), known, strict=True):
        np.testing.assert_allclose(found, [right] * 3 + [wrong] * 5, rtol=0, atol=6e-5)


def test_shares_in_the_best_are_sums_over_all_sets() -> None:
    (centred,) = advantage([advantages.best_of_less_mean(2)], [1, 1, 0, 0])
    np.testing.assert_allclose(centred / 4, [1 / 12] * 2 + [-1 / 12] * 2)
    rewards = np.array([0.3, 0.9, 0.1, 0.3, 0.5])
    sizes = (1, 2, 3, 5)
    found = advantage([advantages.best_of(k) for k in sizes], rewards)
    for k, shares in zip(sizes, found, strict=True):
        sets = [*combinations(range(5), k)]
        expected = [
            5 / len(sets) * sum(rewards[[*s]].max() for s in sets if i in s) for i in range(5)
        ]
        np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-12)


def test_baselines_of_the_best_are_sums_over_sets_of_the_others() -> None:
    rewards = np.array([0.3, 0.9, 0.1, 0.3, 0.5])

    def best(k: int, of: list[int]) -> float:
        return float(np.mean([rewards[[*s]].max() for s in combinations(of, k)]))

    for k in (2, 3, 4):
        share, loo, gain = advantage(
            [
                advantages.best_of(k),
                advantages.best_of_leave_one_out(k),
                advantages.gain_in_best(k),
            ],
            rewards,
        )
        others = [[j for j in range(5) if j != i] for i in range(5)]
        of_k, of_fewer = ([best(size, each) for each in others] for size in (k, k - 1))
        np.testing.assert_allclose(share - loo, 5 * k / 4 * np.array(of_k), atol=1e-12)
        np.testing.assert_allclose(share - gain, k * np.array(of_fewer), atol=1e-12)


def test_groups_do_not_mix_and_may_lie_in_any_order() -> None:
    rewards, groups = [1.0, 5.0, 0.0, 7.0, 0.5], [9, -4, 9, -4, 9]
    weigh = [
        *(advantages.leave_one_out, advantages.standardized(degrees=0)),
        *(advantages.less_mean_by_length, advantages.relative_to_mean, advantages.best_of(2)),
        advantages.gain_in_best(2),
    ]
    whole = advantage(weigh, rewards, groups)
    for name in (9, -4):
        own = np.array([i for i in range(5) if groups[i] == name])
        for each, alone in zip(whole, advantage(weigh, np.array(rewards)[own]), strict=True):
            np.testing.assert_allclose(each[own], alone, rtol=0, atol=1e-12)


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
    batch = tokens.Batch(
        *map(jnp.asarray, (live[0], mask, reward, group)),
        reference_log_prob=jnp.asarray(live[2]),
        sampler_log_prob=jnp.asarray(live[3]),
        value=jnp.asarray(value),
    )
    return jnp.asarray(live[1]), batch


@jax.jit
def slopes(estimators: Any, log_prob: Any, batch: Any) -> Any:
    """The gradient of each estimator's surrogate by the log-probabilities."""
    return {
        name: jax.grad(lambda x, each=each: tokens.surrogate(each, x, batch))(log_prob)
        for name, each in estimators.items()
    }


@pytest.fixture(scope="module")
def expected(strict_numerics: None) -> Any:
    return slopes(NAMED, *sampled())


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
        assert np.all(np.asarray(found)[dead] == 0), name
        np.testing.assert_array_equal(noisy[name], found, err_msg=name)


@jax.jit
def halves(estimators: Any, log_prob: Any, batch: Any) -> Any:
    """Gradients of two micro-batches, with the weights of the whole batch."""
    found = {}
    for name, each in estimators.items():
        shared = tokens.shared_weights(each, batch, log_prob)

        def of_half(log_prob: Any, batch: Any, shared: Any, each: Estimator = each) -> Any:
            return jax.grad(lambda x: tokens.surrogate(each, x, batch, weights=shared))(log_prob)

        cut = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), (log_prob, batch, shared))
        found[name] = jax.vmap(of_half)(*cut).reshape(N, T)
    return found


def test_micro_batches_with_shared_weights_add_up(expected: Any) -> None:
    for name, found in halves(NAMED, *sampled()).items():
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=1e-12, err_msg=name)


def test_micro_batches_with_weights_of_their_own_do_not_add_up(expected: Any) -> None:
    coupled = {name: NAMED[name] for name in ("dapo", "reinforce_plus_plus", "rloo")}
    cut = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), sampled())
    alone = jax.jit(jax.vmap(slopes, (None, 0, 0)))(coupled, *cut)
    for name, found in alone.items():
        assert np.abs(found.reshape(N, T) / 2 - expected[name]).max() > 1e-3, name


def test_devices_share_the_weights_of_the_whole_batch(expected: Any) -> None:
    names = ("grpo", "dapo", "reinforce_plus_plus", "gpg", "pkpo")
    split = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), sampled())

    def on_device(log_prob: Any, batch: Any) -> Any:
        def slope(each: Estimator) -> Any:
            shared = tokens.shared_weights(each, batch, log_prob, axis_name="data")
            return jax.grad(lambda x: tokens.surrogate(each, x, batch, weights=shared))(log_prob)

        return {name: slope(NAMED[name]) for name in names}

    found = jax.jit(jax.vmap(on_device, axis_name="data"))(*split)
    for name in names:
        np.testing.assert_allclose(
            found[name].reshape(N, T), expected[name], rtol=0, atol=1e-12, err_msg=name
        )


def test_holes_and_rows_of_padding_count_nowhere(expected: Any) -> None:
    log_prob, batch = sampled()
    order = np.argsort(~np.asarray(batch.mask), axis=1, kind="stable")

    def packed(x: Any) -> Any:
        return np.take_along_axis(np.asarray(x), order, 1)[:7]

    fields = {n: x for n, x in vars(batch).items() if x is not None and np.shape(x) == (N, T)}
    rest = {"reward": batch.reward[:7], "group": jnp.asarray(batch.group)[:7]}
    adjacent = tokens.Batch(**{n: jnp.asarray(packed(x)) for n, x in fields.items()}, **rest)
    for name, found in slopes(NAMED, jnp.asarray(packed(log_prob)), adjacent).items():
        np.testing.assert_allclose(found, packed(expected[name]), rtol=0, atol=1e-12, err_msg=name)


def published(name: str, ratio: np.ndarray, A: float) -> Any:
    """The published losses of one answer of three tokens, as NumPy functions of its ratios."""
    s = np.exp(np.mean(np.log(ratio)))
    whole = np.prod(ratio)
    low, high = 0.8, 1.2
    if name == "sequence_clip":  # GSPO, eq. 5
        return np.minimum(s * A, np.clip(s, low, high) * A)
    if name == "geometric_clip":  # GMPO, eq. 4: tokens are held by the sign of the advantage
        held = np.minimum(ratio, np.exp(0.4)) if A > 0 else np.maximum(ratio, np.exp(-0.4))
        return np.exp(np.mean(np.log(held))) * A
    if name == "sigmoid_gate":  # SAPO, eq. 6
        tau = 1.0 if A > 0 else 1.05
        return np.mean(4 / tau / (1 + np.exp(-tau * (ratio - 1)))) * A
    assert name == "sequence_ratio"
    return whole * A


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("sequence_clip", terms.sequence_clip(0.2, 0.2)),
        ("geometric_clip", terms.geometric_clip(0.4)),
        ("sigmoid_gate", terms.sigmoid_gate(1.0, 1.05)),
        ("sequence_ratio", terms.sequence_ratio),
    ],
)
@pytest.mark.parametrize("A", [2.0, -0.7])
@pytest.mark.parametrize("ratio", [(0.9, 1.1, 1.05), (0.3, 0.5, 0.7), (2.0, 1.9, 0.8)])
def test_terms_have_the_gradients_of_their_published_losses(name, term, A, ratio) -> None:
    per_token = A if name == "sequence_ratio" else A / 3
    old = jnp.log(jnp.array([0.2, 0.3, 0.25]))
    weight, mask = jnp.full(4, per_token), jnp.array([True, True, True, False])
    padded = [jnp.append(x, 0.0) for x in (old + jnp.log(jnp.array(ratio)), old)]
    found = jax.grad(lambda x: jnp.sum(jnp.where(mask, term(x, padded[1], weight, mask), 0)))(
        padded[0]
    )
    step = 1e-6
    for t in range(3):
        up, down = (
            published(name, np.array(ratio) * np.exp(sign * step * (np.arange(3) == t)), A)
            for sign in (1, -1)
        )
        assert found[t] == pytest.approx((up - down) / (2 * step), abs=1e-7)
    assert found[3] == 0


def test_the_smooth_gate_and_the_mask_are_as_published() -> None:
    old, now = jnp.log(jnp.array([0.2, 0.6])), jnp.log(jnp.array([0.3, 0.5]))
    s = 0.3 * 0.5 / (0.2 * 0.6)
    live = jnp.ones(2, bool)
    for A, power, rate in ((1.5, 2.0, 3.0), (-1.5, 3.0, 2.0)):
        slope = jax.grad(lambda x, A=A: jnp.sum(terms.gamma_gate()(x, old, jnp.full(2, A), live)))(
            now
        )
        np.testing.assert_allclose(slope, A * np.exp(rate) * s**power * np.exp(-rate * s))
    mask = terms.divergence_mask(0.05, 0.15)
    up = jax.grad(lambda x: jnp.sum(mask(x, old, jnp.ones(2), live)))(now)
    down = jax.grad(lambda x: jnp.sum(mask(x, old, -jnp.ones(2), live)))(now)
    np.testing.assert_allclose(up, [1.5, 0.5 / 0.6])  # it rose by 0.1, less than 0.15
    np.testing.assert_allclose(down, [-1.5, 0.0])  # it fell by 0.1, more than 0.05


def test_the_mask_by_divergence_is_as_published() -> None:
    old, now = np.array([0.25, 0.25, 0.6, 1.0, 0.5]), np.array([0.5, 0.3, 0.2, 1.0, 1e-9])
    split = old * np.log(old / now)
    inside = old < 1
    split[inside] += (1 - old[inside]) * np.log((1 - old[inside]) / (1 - now[inside]))
    mask = terms.kl_mask(0.3, 0.1, ceiling=1.9)
    for sign, side in ((1.0, (now > old) & (split > 0.1)), (-1.0, (now < old) & (split > 0.3))):
        slope = jax.grad(
            lambda x, w=sign: jnp.sum(mask(x, jnp.log(old), jnp.full(5, w), jnp.ones(5, bool)))
        )(jnp.log(now))
        expected = sign * np.where(side, 0, np.minimum(now / old, 1.9))
        np.testing.assert_allclose(slope, expected, rtol=1e-12)
        assert 0 < side.sum() < 5


def test_a_ceiling_holds_large_ratios_of_bad_tokens_only() -> None:
    ratio = jnp.array([0.5, 1.1, 2.0, 4.0])
    plain, capped = terms.asymmetric_clip(0.2, 0.28), terms.asymmetric_clip(0.2, 0.28, ceiling=3.0)

    def slope(term: Any, weight: float) -> Any:
        return jax.grad(lambda x: jnp.sum(term(x, jnp.zeros(4), jnp.full(4, weight))))(
            jnp.log(ratio)
        )

    np.testing.assert_array_equal(slope(capped, 1.0), slope(plain, 1.0))
    bad = slope(plain, -1.0)
    np.testing.assert_allclose(bad, [0, -1.1, -2, -4])
    np.testing.assert_array_equal(slope(capped, -1.0), bad.at[3].set(0))
    assert tokens.dapo(ceiling=3.0).term == terms.asymmetric_clip(0.2, 0.28, ceiling=3.0)


def entropies(params: Any, batch: Any) -> Any:
    log_prob = jax.nn.log_softmax(batch.observation @ params)
    return -jnp.sum(jnp.exp(log_prob) * log_prob, axis=-1)


def test_an_exact_entropy_has_the_mean_of_the_sampled_one_and_less_variance() -> None:
    """Where the entropies are given, the surrogate differentiates them, and nothing else."""
    exact_one = summed(silent, entropy=tokens.entropy_in_loss(0.5))

    def estimate(params: Any, batch: Any) -> Any:
        def surrogate(params: Any) -> Any:
            x = pgjax.log_probs(PROBLEM.policy, params, batch)
            fields = tokens.Batch(batch.log_prob, batch.mask, batch.reward, batch.group)
            return tokens.surrogate(exact_one, x, fields, entropy=entropies(params, batch))

        return jax.grad(surrogate)(params)

    found = group_moments(estimate, MODEL, group_size=1)
    sampled = summed(silent, entropy=tokens.sampled_entropy_in_loss(0.5))
    of_samples = group_moments(sampled, MODEL, group_size=1)
    np.testing.assert_allclose(found.mean, of_samples.mean, rtol=0, atol=1e-12)
    assert found.total_variance < 0.5 * of_samples.total_variance


def test_entropies_are_cut_with_the_micro_batches_and_asked_for_by_name() -> None:
    log_prob, batch = sampled()
    each = tokens.rloo(entropy=tokens.entropy_in_loss(0.3))
    entropy = jnp.where(batch.mask, jnp.arange(1.0, T + 1), jnp.nan)

    def slope(rows: slice, **options: Any) -> Any:
        cut = jax.tree.map(lambda x: x[rows], (log_prob, batch, entropy))
        return jax.grad(lambda h: tokens.surrogate(each, *cut[:2], entropy=h, **options))(cut[2])

    whole = slope(slice(None))
    shared = tokens.shared_weights(each, batch)
    parts = [
        slope(rows, weights=jax.tree.map(lambda x, r=rows: x[r], shared))
        for rows in (slice(0, 3), slice(3, N))
    ]
    np.testing.assert_allclose(jnp.concatenate(parts), whole, rtol=0, atol=1e-14)
    np.testing.assert_allclose(whole, np.where(batch.mask, 0.3 / 7, 0))
    for estimator, given in ((each, None), (tokens.rloo(), entropy)):
        with pytest.raises(ValueError, match="entropy must"):
            tokens.surrogate(estimator, log_prob, batch, entropy=given)
    with pytest.raises(ValueError, match="entropy must be given"):
        gradient(each, PROBLEM.policy, PROBLEM.params, three_answers())
    assert tokens.metrics(each, log_prob, batch)["clipped"] == 0


def three_answers() -> Any:
    batch, _ = enumeration.trajectories(PROBLEM)
    return replace(batch, group=jnp.zeros(len(batch.mask), int))


def test_a_bonus_in_the_reward_is_whitened_with_the_rest() -> None:
    """REINFORCE++ charges before it whitens, so that a bonus twice as large is no new direction."""
    log_prob, batch = sampled()
    zero = replace(batch, reward=jnp.zeros(N))
    made = {
        str(beta): tokens.reinforce_plus_plus(entropy=tokens.entropy_in_reward(beta), epsilon=0.0)
        for beta in (1.0, 2.0)
    }
    found = slopes(made, log_prob, zero)
    np.testing.assert_allclose(found["1.0"], found["2.0"], rtol=0, atol=1e-12)
    assert np.abs(found["1.0"]).max() > 0.01


def test_bessel_s_correction_is_a_factor_of_the_deviation() -> None:
    log_prob, batch = sampled()
    tokens_live, answers = int(np.sum(batch.mask)), N - 1
    made = {
        **{f"++ {d}": tokens.reinforce_plus_plus(epsilon=0.0, degrees=d) for d in (0, 1)},
        **{f"lite {d}": tokens.lite_ppo(epsilon=0.0, degrees=d) for d in (0, 1)},
    }
    found = slopes(made, log_prob, batch)
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
    for each, weight in ((by_answer, of_answer), (by_token, credit)):
        made = {str(t): Estimator(lambda rows, log_prob, w=weight: jnp.asarray(w), t) for t in each}
        for name, found in slopes(made, batch.log_prob, batch).items():
            np.testing.assert_allclose(found, weight / N, rtol=0, atol=1e-12, err_msg=name)


def test_half_precision_is_accumulated_in_single() -> None:
    wide = jax.tree.map(np.asarray, sampled(garbage=0.0))
    narrow = {"float64": jnp.bfloat16, "int64": np.int32, "bool": bool}
    with jax.enable_x64(False):
        log_prob, batch = jax.tree.map(lambda x: jnp.asarray(x, narrow[x.dtype.name]), wide)
        value = tokens.surrogate(NAMED["rloo"], log_prob, batch)
    assert value.dtype == jnp.float32


def test_ratios_that_would_overflow_stay_finite() -> None:
    _, batch = sampled()
    far = replace(batch, log_prob=jnp.where(batch.mask, -900.0, jnp.nan))
    near = jnp.where(batch.mask, -1e-3, jnp.nan)
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
    rows = as_trajectories(batch)
    for name, values in expected.items():
        bounds = (high,) if "truncation" in name else (low, high)
        found = getattr(corrections, name)(*bounds)(rows, rows.log_prob)
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
    for average, value in expected.items():
        found = tokens.aggregate(jnp.asarray(np.where(mask, x, np.nan)), batch, average)
        assert found == pytest.approx(value, rel=1e-12), average


def test_the_mean_by_length_weighs_short_answers_rightly() -> None:
    mask = jnp.zeros((2, 8), bool).at[:, 0].set(True).at[1, 1].set(True)
    batch = tokens.Batch(-jnp.ones((2, 8)), mask, jnp.array([3.0, 0.0]), jnp.zeros(2, int))
    credit = advantages.less_mean_by_length(as_trajectories(batch), batch.log_prob)
    np.testing.assert_allclose(credit[:, 0], [2.0, -1.0])


def test_the_smallest_group_counts() -> None:
    batch = small(group=jnp.array([0, 1]))
    uneven = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), batch)
    with pytest.raises(ValueError, match="got 1 of group 1"):
        tokens.surrogate(tokens.rloo(), uneven.log_prob, uneven)
    tokens.surrogate(tokens.reinforce(), uneven.log_prob, uneven)


def test_metrics_describe_the_batch() -> None:
    log_prob, batch = sampled()
    estimator = tokens.dr_grpo(clip_low=0.01, clip_high=0.01)
    found = tokens.metrics(estimator, log_prob, batch, entropy=-log_prob)
    mask = np.asarray(batch.mask)
    difference = np.where(mask, np.asarray(log_prob - batch.log_prob), 0)
    ratio = np.exp(difference[mask])
    assert found["ratio_max"] == pytest.approx(ratio.max())
    assert found["kl_old"] == pytest.approx(np.mean(ratio - 1 - np.log(ratio)))
    of_answer = np.exp(difference[:7].sum(1))
    size = of_answer.sum() ** 2 / (7 * (of_answer**2).sum())
    assert found["effective_sample_size"] == pytest.approx(size)
    assert 0.2 < found["clipped"] < 0.8
    assert tokens.metrics(tokens.reinforce(), log_prob, batch)["clipped"] == 0
    agree = replace(batch, reward=jnp.where(batch.group == 3, 1.0, batch.reward))
    assert tokens.metrics(estimator, log_prob, agree)["silent_answers"] == pytest.approx(4 / 7)
    assert found["entropy"] == pytest.approx(-np.mean(np.asarray(log_prob)[mask]))


def small(**fields: Any) -> tokens.Batch:
    given = {
        "log_prob": jnp.full((2, 3), -1.0),
        "mask": jnp.ones((2, 3), bool),
        "reward": jnp.arange(2.0),
        "group": jnp.zeros(2, int),
    }
    return tokens.Batch(**(given | fields))


@pytest.mark.parametrize(
    ("estimator", "fields", "error", "words"),
    [
        (tokens.rloo(), {"group": jnp.arange(2)}, ValueError, "batch.group must have at least 2"),
        (tokens.grpo(), {"group": None}, ValueError, "batch.group must say which answers"),
        (tokens.pkpo(3), {}, ValueError, "batch.group must have at least 3 answers"),
        (tokens.pkpo(2, baseline="loo"), {}, ValueError, "must have at least 3 answers"),
        (
            tokens.rloo(),
            {"mask": jnp.zeros((2, 3), bool)},
            ValueError,
            "true for some tokens, got none",
        ),
        (tokens.rloo(), {"mask": jnp.ones((2, 3))}, TypeError, "batch.mask must be boolean"),
        (tokens.rloo(), {"mask": jnp.ones(3, bool)}, ValueError, r"batch.mask must have shape \[N"),
        (tokens.rloo(), {"reward": jnp.ones(3)}, ValueError, "batch.reward must have shape"),
        (tokens.rloo(), {"log_prob": jnp.ones((2, 3))}, ValueError, "batch.log_prob must be at"),
        (tokens.rloo(), {"log_prob": jnp.full((2, 3), jnp.nan)}, ValueError, "at most 0, got nan"),
        (tokens.rloo(), {"group": jnp.zeros(2)}, TypeError, "batch.group must be integers"),
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
    good = jnp.full((2, 3), -1.0)
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
            lambda: tokens.surrogate(tokens.rloo(), jnp.zeros((2, 4)), small()),
            ValueError,
            "log_prob must have shape",
        ),
        (
            lambda: tokens.surrogate(tokens.rloo(), jnp.full((2, 3), 0.5), small()),
            ValueError,
            "it is log p of the token",
        ),
        (
            lambda: tokens.surrogate(
                tokens.rloo(), -jnp.ones((2, 3)), small(), weights=cast(Any, jnp.ones((2, 3)))
            ),
            TypeError,
            "weights must be SharedWeights",
        ),
        (
            lambda: tokens.surrogate(tokens.rloo(), -jnp.ones((2, 3)), cast(Any, {"mask": 1})),
            TypeError,
            "batch must be a pgjax.tokens.Batch",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(call, error, words) -> None:
    with pytest.raises(error, match=words):
        call()


def test_traced_values_are_checked_on_demand() -> None:
    run = pgjax.checked(lambda x, batch: tokens.surrogate(tokens.rloo(), x, batch))
    run(-jnp.ones((2, 3)), small())
    with pytest.raises(ValueError, match=r"must be at most 0, got 0\.5 at row 0, token 0"):
        run(jnp.full((2, 3), 0.5), small())


def test_what_rounding_leaves_above_zero_is_a_log_probability() -> None:
    highest = 256 * float(jnp.finfo(jnp.float32).eps)
    accepted = jnp.full((2, 3), highest, jnp.float32)
    refused = jnp.nextafter(accepted, jnp.ones_like(accepted))
    batch = small(
        log_prob=jnp.full((2, 3), -1.0, jnp.float32), reward=jnp.arange(2, dtype=jnp.float32)
    )
    for run in (tokens.surrogate, pgjax.checked(tokens.surrogate)):
        run(tokens.rloo(), accepted, batch)
        with pytest.raises(ValueError, match="it is log p of the token"):
            run(tokens.rloo(), refused, batch)


def test_a_group_of_one_that_is_not_known_beforehand_gets_no_weight() -> None:
    batch = small(group=jnp.arange(2))
    for estimator in (tokens.rloo(), tokens.grpo(), tokens.opo(), tokens.maxrl()):
        slope = jax.jit(jax.grad(lambda x, b, e=estimator: tokens.surrogate(e, x, b)))
        np.testing.assert_array_equal(slope(batch.log_prob, batch), 0)
