"""Every estimator, held to its exact expectation; one table of estimators drives every law.

Expectations are sums over all trajectories of a small MDP (`pgjax.enumeration`), compared with
dynamic programming (`pgjax.exact`), which knows no estimator. The MDP has what makes known mistakes
show: γ < 1, episodes of different lengths, random transitions, a reward on the last step, an
asymmetric start, and a policy that is uniform nowhere.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import (
    Estimator,
    Problem,
    Trajectory,
    baselines,
    enumeration,
    estimators,
    exact,
    groups,
    tabular,
    terms,
    weights,
)
from pgjax.core.scores import weighted_score, weighted_score_per_trajectory
from pgjax.terms import divergences, sequences
from tests import shared

pytestmark = pytest.mark.usefixtures("strict")

MDP = tabular.random_mdp()
POLICY = pgjax.tabular_softmax(4, 2)
GAMMA = MDP.discount
HORIZON = 3
CRITIC = np.array([0.7, -1.3, 0.4, 2.0])  # a value of each state, and a wrong one
PER_TIME = np.array([0.4, -0.7, 1.1, 0.2, -0.3])
TOLERANCE = 1e-10


def critic(observation: Any) -> Any:
    return observation @ jnp.asarray(CRITIC, observation.dtype)


def wrong_value(batch: Trajectory) -> Any:
    return jax.vmap(jax.vmap(critic))(batch.observation)


def right_values() -> np.ndarray:
    """[H, S] V_t(s) of the policy of `table`, exactly."""
    odds = np.exp([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]])
    value = [np.zeros(len(odds))]
    for _ in range(HORIZON):
        following = MDP.reward + GAMMA * np.where(MDP.terminal, 0, value[0])
        of_actions = np.sum(MDP.transition * following, -1)
        value.insert(0, np.sum(odds * of_actions, 1) / np.sum(odds, 1))
    return np.stack(value[:HORIZON])


def right_value(batch: Trajectory) -> Any:
    """V_t(s_t), and zero at times that the expectations do not reach."""
    table = np.pad(right_values(), ((0, 2), (0, 0)))[: batch.reward.shape[1]]
    return jnp.sum(batch.observation * jnp.asarray(table, batch.observation.dtype)[None], -1)


def with_value(value: Callable[[Trajectory], Any], estimator: Estimator) -> Estimator:
    """A critic's opinion is written into the batch beforehand."""

    def weigh(batch: Trajectory, log_prob: Any) -> Any:
        return estimator.weights(replace(batch, value=value(batch)), log_prob)

    return replace(estimator, weights=weigh)


# The exact expectation, flat, of the true gradient and the mismatched one.
Expectation = Callable[[np.ndarray, np.ndarray], np.ndarray]


def unbiased(gradient: np.ndarray, mismatched: np.ndarray) -> np.ndarray:
    return gradient


def mismatch(gradient: np.ndarray, mismatched: np.ndarray) -> np.ndarray:
    return mismatched


def shrunk(gradient: np.ndarray, mismatched: np.ndarray) -> np.ndarray:
    return gradient / 2


class Row(NamedTuple):
    """An estimator: how to make it for T steps, the K it needs, what it is on average."""

    make: Callable[[int], Estimator]
    covers: str  # public names, beside that of the estimator, whose row this is
    batch_size: int = 1
    expectation: Expectation | None = unbiased  # None: biased, by what the certificate shows


def score(weigh: weights.Weights) -> Estimator:
    return Estimator(weigh, terms.score)


CLIPS = (terms.ppo_clip(0.2), terms.asymmetric_clip(0.1, 0.3), terms.dual_clip(0.2, 3.0))


def mean_of_clips(log_prob: Any, behaviour_log_prob: Any, weight: Any, mask: Any) -> Any:
    """On-policy each has the score's gradient, and so has their mean."""
    return sum(clip(log_prob, behaviour_log_prob, weight, mask) for clip in CLIPS) / len(CLIPS)


PAIRS = groups.consecutive(2)

ROWS: dict[str, Row] = {
    "reinforce": Row(lambda T: pgjax.reinforce(GAMMA), "reinforce total_return score"),
    "reward_to_go": Row(lambda T: pgjax.reward_to_go(GAMMA), "reward_to_go score"),
    "constant": Row(
        lambda T: pgjax.reward_to_go(GAMMA, baseline=baselines.constant(1.7)), "constant"
    ),
    "constant_total": Row(
        lambda T: pgjax.reinforce(GAMMA, baseline=baselines.constant(1.7)), "constant"
    ),
    "per_time_step": Row(
        lambda T: pgjax.reward_to_go(
            GAMMA, baseline=baselines.per_time_step(jnp.asarray(PER_TIME[:T]))
        ),
        "per_time_step",
    ),
    "state_value": Row(
        lambda T: pgjax.reward_to_go(GAMMA, baseline=baselines.state_value(critic)), "state_value"
    ),
    "state_value_total": Row(
        lambda T: pgjax.reinforce(GAMMA, baseline=baselines.state_value(critic)), "state_value"
    ),
    "recorded_value": Row(
        lambda T: with_value(
            wrong_value, pgjax.reward_to_go(GAMMA, baseline=baselines.recorded_value)
        ),
        "recorded_value",
    ),
    "rloo": Row(lambda T: pgjax.rloo(GAMMA), "rloo leave_one_out", 2),
    "leave_one_out": Row(
        lambda T: pgjax.reward_to_go(GAMMA, baseline=baselines.leave_one_out), "leave_one_out", 2
    ),
    "importance_ratio": Row(
        lambda T: Estimator(
            weights.reward_to_go(GAMMA, baseline=baselines.state_value(critic)),
            terms.importance_ratio,
        ),
        "importance_ratio",
    ),
    "clips": Row(
        lambda T: Estimator(weights.reward_to_go(GAMMA), mean_of_clips),
        "ppo_clip asymmetric_clip dual_clip likelihood_ratio",
    ),
    "truncated_ratio": Row(
        lambda T: Estimator(weights.reward_to_go(GAMMA), terms.truncated_ratio(2.0)),
        "truncated_ratio",
    ),
    # Own sample included: the mean over N shrinks the gradient by (N − 1)/N, here 1/2.
    "batch_mean": Row(
        lambda T: pgjax.reward_to_go(GAMMA, baseline=baselines.batch_mean),
        "batch_mean",
        2,
        shrunk,
    ),
    "batch_mean_total": Row(
        lambda T: pgjax.reinforce(GAMMA, baseline=baselines.batch_mean),
        "batch_mean",
        2,
        shrunk,
    ),
    "mismatched": Row(
        lambda T: pgjax.mismatched_reward_to_go(GAMMA),
        "mismatched_reward_to_go",
        1,
        mismatch,
    ),
    "mismatched_leave_one_out": Row(
        lambda T: pgjax.mismatched_reward_to_go(GAMMA, baseline=baselines.leave_one_out),
        "mismatched_reward_to_go",
        2,
        mismatch,
    ),
    "mismatched_batch_mean": Row(
        lambda T: pgjax.mismatched_reward_to_go(GAMMA, baseline=baselines.batch_mean),
        "mismatched_reward_to_go batch_mean",
        2,
        lambda gradient, mismatched: mismatched / 2,
    ),
    # A wrong critic is harmless where it is only subtracted, a right one everywhere.
    "generalized_advantage": Row(
        lambda T: with_value(right_value, estimators.actor_critic(GAMMA, 0.9)),
        "actor_critic generalized_advantage",
    ),
    "mismatched_generalized_advantage": Row(
        lambda T: with_value(wrong_value, estimators.mismatched_actor_critic(GAMMA, 1.0)),
        "mismatched_actor_critic mismatched_generalized_advantage",
        1,
        mismatch,
    ),
    "n_step": Row(
        lambda T: with_value(right_value, estimators.n_step_actor_critic(GAMMA, 2)),
        "n_step_actor_critic n_step",
    ),
    "lambda_return": Row(
        lambda T: with_value(right_value, score(weights.lambda_return(GAMMA, 0.5))),
        "lambda_return",
    ),
    "whitened": Row(
        lambda T: score(weights.whitened(weights.centred(weights.reward_to_go(GAMMA)))),
        "centred whitened",
        2,
        None,
    ),
    "group_leave_one_out": Row(
        lambda T: pgjax.rloo(GAMMA, groups=PAIRS), "rloo group_leave_one_out", 2
    ),
    "grpo": Row(
        lambda T: pgjax.grpo(GAMMA, PAIRS), "grpo group_deviation divided_by_length", 2, None
    ),
    "dr_grpo": Row(lambda T: pgjax.dr_grpo(GAMMA, PAIRS), "dr_grpo group_mean", 2, shrunk),
}
each_row = pytest.mark.parametrize("name", ROWS)


# Mistakes that have been made in real code; each must fail the check that the rows pass.
def steps(batch: Trajectory) -> Any:
    return jnp.broadcast_to(jnp.arange(batch.reward.shape[1]), batch.reward.shape).astype(float)


def to_go(batch: Trajectory) -> Any:
    return weights.returns_to_go(batch, GAMMA)


def right(batch: Trajectory) -> Any:
    return GAMMA ** steps(batch) * to_go(batch)


def total(batch: Trajectory) -> Any:
    return jnp.broadcast_to(to_go(batch)[:, :1], batch.reward.shape)


def length(batch: Trajectory) -> Any:
    return jnp.sum(batch.mask, axis=1, keepdims=True).astype(float)


def discounted_past(batch: Trajectory) -> Any:
    backwards = jax.vmap(partial(pgjax.discounted_returns, discount=GAMMA))(batch.reward[:, ::-1])
    return backwards[:, ::-1]


def over_batch(function: Callable, x: Any) -> Any:
    return jnp.broadcast_to(function(x, axis=0, keepdims=True), x.shape)


MISTAKES: dict[str, tuple[int, Callable[[Trajectory], Any]]] = {
    "gamma_to_the_t_missing": (1, to_go),
    "gamma_to_the_2t": (1, lambda b: GAMMA ** steps(b) * right(b)),
    "reward_shifted_by_one": (1, lambda b: right(b) - GAMMA ** steps(b) * b.reward),
    "last_reward_dropped": (
        1,
        lambda b: right(replace(b, reward=jnp.where(b.terminated, 0, b.reward))),
    ),
    "rewards_of_the_past": (1, discounted_past),
    "divided_by_episode_length": (1, lambda b: right(b) / length(b)),
    "mean_over_time": (1, lambda b: right(b) / HORIZON),
    "discount_ignored": (1, lambda b: weights.returns_to_go(b, 1.0)),
    "action_dependent_baseline": (
        1,
        lambda b: right(b) - GAMMA ** steps(b) * b.action.astype(float),
    ),
    "baseline_of_the_next_reward": (1, lambda b: right(b) - b.reward),
    "only_completed_episodes": (
        1,
        lambda b: right(b) * jnp.any(b.terminated, axis=1, keepdims=True).astype(float),
    ),
    "truncated_step_dropped": (1, lambda b: jnp.where(b.truncated, 0, right(b))),
    "own_sample_in_baseline": (2, lambda b: total(b) - over_batch(jnp.mean, total(b))),
    "best_of_batch_as_baseline": (2, lambda b: total(b) - over_batch(jnp.max, total(b))),
    "divided_by_batch_deviation": (
        2,
        lambda b: (
            (total(b) - over_batch(jnp.mean, total(b))) / (over_batch(jnp.std, total(b)) + 1e-3)
        ),
    ),
    "self_normalised_lengths": (2, lambda b: right(b) / over_batch(jnp.mean, length(b) + steps(b))),
}

Estimate = Callable[[Any, Trajectory], Any]


def wrong_policy(change: Callable[[Any], Any]) -> Estimate:
    """Right weights, but the score of another log-probability than that of the acting policy."""
    log_prob = POLICY.log_prob
    policy = replace(POLICY, log_prob=lambda params, s, a: change(log_prob)(params, s, a))
    return partial(pgjax.gradient, pgjax.reward_to_go(GAMMA), policy)


WRONG_SCORES: dict[str, Estimate] = {
    "log_of_probability_plus_epsilon": wrong_policy(
        lambda log_prob: lambda params, s, a: jnp.log(jnp.exp(log_prob(params, s, a)) + 1e-2)
    ),
    "temperature_not_scored": wrong_policy(
        lambda log_prob: lambda params, s, a: log_prob(2.0 * params, s, a)
    ),
    "score_of_the_probability": wrong_policy(
        lambda log_prob: lambda params, s, a: jnp.exp(log_prob(params, s, a))
    ),
}
MISTAKEN = [*MISTAKES, *WRONG_SCORES]


def in_one_pass(many: list[Estimator], params: Any, batch: Trajectory) -> Any:
    """[E, ...] the gradient of each estimator, from one pass over the policy and its scores.

    That this is `pgjax.gradient` is seen where a batch is padded, for each kind of estimator.
    """
    log_prob = pgjax.log_probs(POLICY, params, batch)
    each = jnp.stack([estimators.score_weights(e, batch, log_prob) for e in many])
    return jax.vmap(partial(weighted_score, POLICY, params, batch))(each)


def expectations(
    many: dict[str, Estimator], others: dict[str, Estimate], table: np.ndarray, K: int
) -> dict[str, Any]:
    """Every estimate's exact expectation for batches of K, in one pass over all batches."""

    def all_of_them(params: Any, batch: Trajectory) -> list[Any]:
        found = [estimate(params, batch) for estimate in others.values()]
        return [in_one_pass([*many.values()], params, batch), *found]

    found = enumeration.moments(all_of_them, Problem(MDP, POLICY, table, HORIZON), batch_size=K)
    return dict(zip((*many, *others), found.mean.reshape(-1, table.size), strict=True))


def estimate_of(estimator: Estimator) -> Estimate:
    return partial(pgjax.gradient, estimator, POLICY)


@pytest.fixture(scope="module")
def truth(strict: None, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """∇J and the mismatched gradient, flat."""
    true = exact.gradient(Problem(MDP, POLICY, table, HORIZON))
    mismatched = exact.mismatched_gradient(Problem(MDP, POLICY, table, HORIZON))
    return true.ravel(), mismatched.ravel()


@pytest.fixture(scope="module")
def means(strict: None, table: np.ndarray) -> dict[str, np.ndarray]:
    """Exact expectations of the rows and of the mistakes."""
    found = {}
    for K in (1, 2):
        many = {n: row.make(HORIZON) for n, row in ROWS.items() if row.batch_size == K}
        for name, (size, weigh) in MISTAKES.items():
            if size == K:
                many[f"not {name}"] = score(lambda batch, log_prob, weigh=weigh: weigh(batch))
        others = WRONG_SCORES if K == 1 else {}
        others = {f"not {name}": estimate for name, estimate in others.items()}
        found |= expectations(many, others, table, K)
    return found


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.expectation])
def test_the_expectation_is_the_stated_one(
    name: str, means: dict[str, np.ndarray], truth: tuple[np.ndarray, np.ndarray]
) -> None:
    stated = ROWS[name].expectation
    assert stated is not None
    expected = stated(*truth)
    np.testing.assert_allclose(means[name], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("mistake", MISTAKEN)
def test_the_same_check_rejects_known_mistakes(
    mistake: str, means: dict[str, np.ndarray], truth: tuple[np.ndarray, np.ndarray]
) -> None:
    deviation = np.max(np.abs(means[f"not {mistake}"] - truth[0]))
    # Each is off by at least one part in a hundred of the gradient, 10^8 times the tolerance.
    assert deviation > 1e-2 * np.linalg.norm(truth[0])


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.expectation is not unbiased])
def test_the_biased_rows_are_not_unbiased(
    name: str, means: dict[str, np.ndarray], truth: tuple[np.ndarray, np.ndarray]
) -> None:
    assert np.max(np.abs(means[name] - truth[0])) > 1e-2 * np.linalg.norm(truth[0])


def test_a_batch_mean_with_its_own_sample_shrinks_the_gradient_exactly(table: np.ndarray) -> None:
    """Of three; the table of estimators has it of two."""
    size = 3
    estimator = pgjax.reinforce(GAMMA, baseline=baselines.batch_mean)
    bandit = tabular.two_armed_bandit(GAMMA)
    problem = Problem(bandit, pgjax.tabular_softmax(3, 2), table[:3], horizon=1)
    found = enumeration.moments(estimator, problem, batch_size=size)
    true = exact.gradient(problem)
    expected = true.ravel() * (size - 1) / size
    np.testing.assert_allclose(found.mean, expected, rtol=0, atol=TOLERANCE)


def test_the_importance_ratio_is_biased_off_policy_and_its_weights_do_not_know(
    table: np.ndarray, truth: tuple[np.ndarray, np.ndarray]
) -> None:
    estimator = ROWS["importance_ratio"].make(HORIZON)
    elsewhere = Problem(MDP, POLICY, 2 * table[:, ::-1], HORIZON)
    batch, probability = enumeration.trajectories(elsewhere)
    each = pgjax.per_trajectory_gradients(estimator, POLICY, jnp.asarray(table), batch)
    mean = np.tensordot(probability, np.asarray(each), 1).ravel()
    assert np.max(np.abs(mean - truth[0])) > 1e-2 * np.linalg.norm(truth[0])


def public(module: Any) -> set[str]:
    return {
        name
        for name, item in vars(module).items()
        if inspect.isfunction(item)
        and item.__module__.startswith(module.__name__)
        and not name.startswith("_")
    }


def test_every_public_estimator_weight_term_and_baseline_has_a_row() -> None:
    made = {
        name
        for module in (estimators, weights)
        for name in public(module)
        if inspect.signature(getattr(module, name)).return_annotation
        in (Estimator, weights.Weights)
    }
    assert {"reinforce", "reward_to_go", "rloo", "total_return"} <= made
    named = made | public(baselines) | public(terms)
    named -= public(groups) | {"dice", "loaded_dice"}  # of tests/test_credit.py and test_dice.py
    named -= public(sequences) | public(divergences)  # of tests/test_token_terms.py
    covered = {word for row in ROWS.values() for word in row.covers.split()}
    assert named - covered == set()
    assert covered - named == set()


# From here on, laws that hold on any batch: six episodes of one, two and three steps, with values.


DERIVATIONS = (pgjax.surrogate, pgjax.gradient, pgjax.per_trajectory_gradients)
SURROGATE, GRADIENT, EACH = range(3)
# Each kind of term, and of weights: of a trajectory, a batch, a critic and a group.
APART = ("clips", "leave_one_out", "generalized_advantage", "grpo", "truncated_ratio")


@jax.jit
def derive(params: Any, batch: Trajectory) -> dict[str, Any]:
    """The derivations of every row, compiled together; all but a few share the passes."""
    made = {name: row.make(HORIZON) for name, row in ROWS.items()}
    found = {
        name: [derive(made[name], POLICY, params, batch) for derive in DERIVATIONS]
        for name in APART
    }
    log_prob = pgjax.log_probs(POLICY, params, batch)

    def surrogate(estimator: Estimator) -> tuple[Any, Any]:
        weight = estimators.evaluate_weights(estimator, batch, log_prob)
        terms = partial(estimators.sum_of_terms, estimator, batch, weight=weight)
        return jax.value_and_grad(lambda log_prob: jnp.mean(terms(log_prob)))(log_prob)

    others = [name for name in ROWS if name not in APART]
    value, weight = zip(*(surrogate(made[name]) for name in others), strict=True)
    gradient, each = jax.vmap(partial(passes, params, batch))(jnp.stack(weight))
    return found | dict(zip(others, zip(value, gradient, each, strict=True), strict=True))


def passes(params: Any, batch: Trajectory, weight: Any) -> tuple[Any, Any]:
    """The gradient, and each trajectory's share of it, from score weights."""
    given = POLICY, params, batch
    each = weighted_score_per_trajectory(*given, weight * len(weight))
    return weighted_score(*given, weight), each


def derived(table: np.ndarray, batch: Trajectory) -> dict[str, Any]:
    return jax.device_get(derive(jnp.asarray(table), batch))


@jax.jit
def gradients(params: Any, batch: Trajectory) -> Any:
    """[E, ...] of every row, for any number of steps."""
    return in_one_pass([row.make(batch.reward.shape[1]) for row in ROWS.values()], params, batch)


@pytest.fixture(scope="module")
def episodes(strict: None, table: np.ndarray) -> Trajectory:
    batch, _ = enumeration.trajectories(Problem(MDP, POLICY, table, HORIZON))
    lasts = np.sum(batch.mask, axis=1)
    rows = np.concatenate([np.flatnonzero(lasts == n)[[0, -1]] for n in (1, 2, 3)])
    chosen = shared.rows(batch, rows)
    assert sorted(np.sum(chosen.mask, axis=1)) == [1, 1, 2, 2, 3, 3]
    assert not np.all(np.any(np.asarray(chosen.terminated), axis=1))
    return replace(
        chosen,
        value=jnp.asarray(np.asarray(chosen.observation) @ CRITIC),
        final_value=jnp.asarray(np.arange(1.0, 7.0)),
    )


@pytest.fixture(scope="module")
def results(episodes: Trajectory, table: np.ndarray) -> dict[str, Any]:
    return derived(table, episodes)


@each_row
def test_per_trajectory_gradients_average_to_the_batch_gradient(
    name: str, results: dict[str, Any]
) -> None:
    each = np.asarray(results[name][EACH])
    assert each.shape == (6, 4, 2)
    np.testing.assert_allclose(each.mean(0), results[name][GRADIENT], rtol=0, atol=1e-14)


def test_a_loss_vmapped_over_single_trajectories_would_lose_the_coupling(
    episodes: Trajectory, table: np.ndarray, results: dict[str, Any]
) -> None:
    estimate = estimate_of(ROWS["batch_mean"].make(3))
    single = jax.tree.map(lambda x: np.asarray(x)[:, None], episodes)
    alone = jax.jit(jax.vmap(estimate, (None, 0)))(jnp.asarray(table), single)
    np.testing.assert_array_equal(alone, np.zeros((6, 4, 2)))  # each is its own mean
    assert np.max(np.abs(results["batch_mean"][GRADIENT])) > 1e-2


DIRECTION = np.random.default_rng(5).normal(size=(4, 2))
H = 1e-5  # the central difference is off by H² f''' / 6 + eps f / H, below 1e-8 here
ORDER = np.array([3, 2, 5, 4, 0, 1])  # pairs stay pairs, for those that compare within them


@pytest.fixture(scope="module")
def changed(episodes: Trajectory, table: np.ndarray) -> dict[str, Any]:
    """As `results`, of other parameters, and of the episodes with something changed."""
    reward, mask = (np.array(x) for x in (episodes.reward, episodes.mask))
    reward[0, 0], mask[5] = np.nan, False
    return {
        "ahead": derived(table + H * DIRECTION, episodes),
        "behind": derived(table - H * DIRECTION, episodes),
        "moved": derived(table, shared.rows(episodes, ORDER)),
        "spoiled": derived(table, spoiled(episodes)),
        "spoiled before the end": derived(table, replace(episodes, reward=jnp.asarray(reward))),
        "without the last": derived(table, spoiled(replace(episodes, mask=jnp.asarray(mask)))),
    }


# The truncated ratio is held constant, on purpose: its surrogate's value moves otherwise.
@pytest.mark.parametrize("name", [name for name in ROWS if name != "truncated_ratio"])
def test_the_gradient_is_that_of_the_surrogate_by_finite_differences(
    name: str, results: dict[str, Any], changed: dict[str, Any]
) -> None:
    # No weight in the table depends on the parameters, so this holds for each of them.
    slope = (changed["ahead"][name][SURROGATE] - changed["behind"][name][SURROGATE]) / (2 * H)
    found = np.sum(results[name][GRADIENT] * DIRECTION)
    np.testing.assert_allclose(found, slope, rtol=0, atol=1e-8)


@each_row
def test_permuting_trajectories_permutes_their_gradients_and_keeps_the_mean(
    name: str, results: dict[str, Any], changed: dict[str, Any]
) -> None:
    moved = changed["moved"][name]
    np.testing.assert_allclose(moved[EACH], results[name][EACH][ORDER], rtol=0, atol=1e-13)
    np.testing.assert_allclose(moved[GRADIENT], results[name][GRADIENT], rtol=0, atol=1e-13)
    np.testing.assert_allclose(moved[SURROGATE], results[name][SURROGATE], rtol=0, atol=1e-13)


def spoiled(batch: Trajectory) -> Trajectory:
    """Garbage wherever no episode lasts: NaN, infinity, actions and flags that make no sense."""
    whole = jax.tree.map(np.asarray, batch)
    dead = ~whole.mask
    ended = np.any(whole.terminated, axis=1)
    found = replace(
        whole,
        observation=np.where(dead[..., None], np.nan, whole.observation),
        action=np.where(dead, 10**6, whole.action).astype(whole.action.dtype),
        reward=np.where(dead, np.inf, whole.reward),
        log_prob=np.where(dead, -np.inf, whole.log_prob),
        terminated=whole.terminated ^ dead,
        truncated=whole.truncated ^ dead,
        value=None if whole.value is None else np.where(dead, np.nan, whole.value),
        final_observation=np.full_like(whole.final_observation, np.nan),
        final_value=None
        if whole.final_value is None
        else np.where(ended, np.nan, whole.final_value),
    )
    return jax.device_put(found)


@each_row
def test_garbage_after_the_end_changes_no_bit(
    name: str, results: dict[str, Any], changed: dict[str, Any]
) -> None:
    for one, other in zip(changed["spoiled"][name], results[name], strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_and_terms_are_given_zeros_after_the_end(
    episodes: Trajectory, table: np.ndarray
) -> None:
    """So a user's function may sum over all the steps, as these two do."""
    names = ("reward", "log_prob", "value", "action_value", "next_value", "terminated", "truncated")

    def credit(batch: Trajectory, log_prob: Any) -> Any:
        given = [log_prob, *(getattr(batch, name).astype(float) for name in names)]
        sums = sum((k + 1) * jnp.sum(x, 1, keepdims=True) for k, x in enumerate(given))
        return jnp.broadcast_to(sums, batch.mask.shape)

    def term(log_prob: Any, behaviour: Any, weight: Any, mask: Any) -> Any:
        return jnp.broadcast_to(jnp.sum(weight + 2 * log_prob + 3 * behaviour), mask.shape)

    batch = replace(episodes, action_value=episodes.value, next_value=episodes.value)
    dirty = spoiled(batch)
    dirty = replace(dirty, action_value=dirty.value, next_value=dirty.value)

    @jax.jit
    def run(params: Any, dirty: Trajectory, batch: Trajectory) -> Any:
        found = pgjax.surrogate(Estimator(credit, term), POLICY, params, dirty)
        return found, pgjax.log_probs(POLICY, params, batch)

    found, log_prob = run(jnp.asarray(table), dirty, batch)
    live = np.asarray(batch.mask)
    given = [log_prob, *(getattr(batch, name) for name in names)]
    sums = [np.sum(np.where(live, x, 0), 1) for x in given]
    weight = sum((k + 1) * x for k, x in enumerate(sums))
    length = live.sum(1)
    expected = np.mean(length * (length * weight + 2 * sums[0] + 3 * sums[2]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@each_row
def test_garbage_before_the_end_does_change_the_result(name: str, changed: dict[str, Any]) -> None:
    assert np.any(np.isnan(changed["spoiled before the end"][name][GRADIENT]))


@pytest.fixture(scope="module")
def padded_results(episodes: Trajectory, table: np.ndarray) -> dict[str, Any]:
    """The same episodes in five columns, the last two of them garbage."""

    def wider(x: Any) -> Any:
        return np.pad(np.asarray(x), ((0, 0), (0, 2)) + ((0, 0),) * (x.ndim - 2))

    fields = ("observation", "action", "reward", "log_prob", "terminated", "truncated", "mask",
              "value")  # fmt: skip
    wide = replace(episodes, **{name: wider(getattr(episodes, name)) for name in fields})
    found = gradients(jnp.asarray(table), spoiled(wide))
    return dict(zip(ROWS, np.asarray(found), strict=True))


@each_row
def test_padding_to_more_steps_changes_nothing(
    name: str, results: dict[str, Any], padded_results: dict[str, Any]
) -> None:
    # Another number of columns may sum in another order: a few eps of numbers below ten.
    np.testing.assert_allclose(padded_results[name], results[name][GRADIENT], rtol=0, atol=1e-13)


@each_row
def test_an_empty_row_counts_in_the_mean_and_adds_nothing(
    name: str, changed: dict[str, Any]
) -> None:
    found = changed["without the last"][name]
    np.testing.assert_array_equal(found[EACH][5], np.zeros((4, 2)))
    assert np.all(np.isfinite(found[GRADIENT]))
    np.testing.assert_allclose(found[GRADIENT], found[EACH].mean(0), rtol=0, atol=1e-14)


def test_no_step_at_all_gives_a_zero_gradient(episodes: Trajectory, table: np.ndarray) -> None:
    fields = ("observation", "action", "reward", "log_prob", "terminated", "truncated", "mask",
              "value")  # fmt: skip
    none = {name: np.asarray(getattr(episodes, name))[:, :0] for name in fields}
    batch, params = replace(episodes, **none), jnp.asarray(table)
    np.testing.assert_array_equal(gradients(params, batch), np.zeros((len(ROWS), 4, 2)))
    estimator = ROWS["leave_one_out"].make(0)

    @jax.jit
    def run(params: Any, batch: Trajectory) -> Any:
        return [derive(estimator, POLICY, params, batch) for derive in DERIVATIONS]

    value, gradient, each = run(params, batch)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros((4, 2)))
    np.testing.assert_array_equal(each, np.zeros((6, 4, 2)))


def test_on_policy_the_importance_ratio_has_the_gradient_of_the_score(
    results: dict[str, Any],
) -> None:
    ratio, score = (results[name][GRADIENT] for name in ("importance_ratio", "state_value"))
    np.testing.assert_allclose(ratio, score, rtol=0, atol=1e-14)


def test_the_gradient_has_the_dtype_of_the_parameters(
    episodes: Trajectory, table: np.ndarray, results: dict[str, Any]
) -> None:
    dtype = jnp.float32
    assert all(x.dtype == jnp.float64 for x in jax.tree.leaves(results))

    def cast(x: Any) -> Any:
        return np.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    found = gradients(np.asarray(table, dtype), jax.tree.map(cast, episodes))
    assert found.dtype == dtype  # under strict promotion they could not be stacked otherwise
    for name, gradient in zip(ROWS, np.asarray(found), strict=True):
        # Sums of three terms of size ten in a mean of six: a hundred eps is ample.
        bound = 100 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(
            gradient, results[name][GRADIENT], rtol=bound, atol=bound, err_msg=name
        )


def test_weights_are_constants_even_if_they_depend_on_the_parameters(
    episodes: Trajectory, table: np.ndarray
) -> None:
    depending = score(lambda batch, log_prob: log_prob**2)

    @jax.jit
    def run(params: Any, episodes: Trajectory) -> Any:
        log_prob = pgjax.log_probs(POLICY, jax.lax.stop_gradient(params), episodes)
        constant = score(lambda batch, _: log_prob**2)
        slope = jax.grad(lambda params: pgjax.surrogate(depending, POLICY, params, episodes))
        return slope(params), *(
            derive(estimator, POLICY, params, episodes)
            for derive in (pgjax.gradient, pgjax.per_trajectory_gradients)
            for estimator in (depending, constant)
        )

    slope, one, other, each, other_each = run(jnp.asarray(table), episodes)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(slope, other, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(each, other_each)


def test_log_probs_are_those_of_the_policy_and_zero_after_the_end(
    episodes: Trajectory, table: np.ndarray
) -> None:
    found = np.asarray(pgjax.log_probs(POLICY, jnp.asarray(table), spoiled(episodes)))
    probability = exact.action_probabilities(Problem(MDP, POLICY, table, 1))
    known = jax.device_get(episodes)
    for i, t in np.ndindex(*found.shape):
        state = int(np.argmax(known.observation[i, t]))
        expected = np.log(probability[state, known.action[i, t]]) if known.mask[i, t] else 0
        np.testing.assert_allclose(found[i, t], expected, rtol=0, atol=1e-14)


def test_an_observation_may_be_a_tree(
    episodes: Trajectory, table: np.ndarray, results: dict[str, Any]
) -> None:
    def split(x: Any) -> dict[str, Any]:
        x = np.asarray(x)
        return {"left": jax.device_put(x[..., :2]), "right": jax.device_put(x[..., 2:])}

    policy = pgjax.softmax_policy(
        lambda key, observation: table,
        lambda params, x: jnp.concatenate([x["left"], x["right"]]) @ params,
    )
    batch = replace(
        episodes,
        observation=split(episodes.observation),
        final_observation=split(episodes.final_observation),
    )
    found = pgjax.gradient(pgjax.rloo(GAMMA), policy, jnp.asarray(table), batch)
    np.testing.assert_allclose(found, results["rloo"][GRADIENT], rtol=0, atol=1e-14)


def test_new_data_of_the_same_shape_does_not_recompile(
    episodes: Trajectory, table: np.ndarray
) -> None:
    chex.clear_trace_counter()  # it counts by name

    @jax.jit
    @chex.assert_max_traces(n=1)
    def compiled(params: Any, discount: Any, batch: Trajectory) -> Any:
        return [derive(pgjax.rloo(discount), POLICY, params, batch) for derive in DERIVATIONS]

    more = replace(episodes, reward=jnp.asarray(np.asarray(episodes.reward) + 1.0))
    first = compiled(jnp.asarray(table), jnp.asarray(0.8), episodes)
    second = compiled(jnp.asarray(table + 1.0), jnp.asarray(0.9), more)
    for one, other in zip(first, second, strict=True):
        assert np.any(np.asarray(one) != np.asarray(other))


# Truncation against termination.


CUT = 2
LONGER: tuple[int | None, ...] = (HORIZON, None)


@pytest.fixture(scope="module")
def cut_after_two_steps(strict: None, table: np.ndarray) -> dict[int | None, np.ndarray]:
    """E[reward-to-go of episodes that are cut, with V of the rest of a longer task after them]."""
    value = [exact.state_values(Problem(MDP, POLICY, table, HORIZON - CUT))[0]]
    value += [exact.state_values(Problem(MDP, POLICY, table, None))]
    # Even a terminal state gets a value here: it must not be read.
    known = jnp.asarray(np.where(MDP.terminal, 1e3, np.stack(value)))

    def estimate(params: Any, batch: Trajectory) -> Any:
        def completed(value: Any) -> Any:
            complete = replace(batch, final_value=batch.final_observation @ value)
            return pgjax.gradient(pgjax.reward_to_go(GAMMA), POLICY, params, complete)

        return jax.vmap(completed)(known)

    found = enumeration.moments(estimate, Problem(MDP, POLICY, table, CUT)).mean
    return dict(zip(LONGER, found.reshape(2, -1), strict=True))


@pytest.mark.parametrize("longer", LONGER)
def test_a_right_final_value_completes_the_gradient_of_the_steps_before_the_cut(
    longer: int | None, table: np.ndarray, cut_after_two_steps: dict[int | None, np.ndarray]
) -> None:
    # ∇J of the longer objective splits at the cut: the scores before it, weighed with returns
    # that V completes, and γ^CUT E[∇V(s_CUT)] for the decisions after it, of which the batch has
    # none. The second part is the gradient of an MDP that starts where the episodes were cut.
    found = cut_after_two_steps[longer]
    remaining = None if longer is None else longer - CUT
    probability = exact.action_probabilities(Problem(MDP, POLICY, table, 1))
    step = np.einsum("sa,sat->st", probability, MDP.transition)
    alive = MDP.initial
    for _ in range(CUT):
        alive = np.where(MDP.terminal, 0, alive @ step)
    later = exact.gradient(
        Problem(replace(MDP, initial=alive / alive.sum()), POLICY, table, remaining)
    )
    whole = exact.gradient(Problem(MDP, POLICY, table, longer))
    expected = whole - GAMMA**CUT * alive.sum() * later
    np.testing.assert_allclose(found, expected.ravel(), rtol=0, atol=TOLERANCE)
    # The control: bootstrapping matters, it is not the gradient of the two-step objective.
    short = exact.gradient(Problem(MDP, POLICY, table, CUT))
    assert np.max(np.abs(found - short.ravel())) > 1e-2 * np.linalg.norm(short)


returns_to_go = jax.jit(lambda batch: weights.returns_to_go(batch, GAMMA))


def test_only_what_did_not_terminate_is_bootstrapped() -> None:
    """A row for each pair of flags, and a NaN that must not be read; then without any value."""
    terminated = np.array([[False], [True], [True], [False], [True]])
    truncated = np.array([[True], [False], [True], [False], [False]])
    bootstrapped = [1, 0, 0, 1, 0]  # the third ended; the fourth still runs at the last column
    N = len(terminated)
    fields: dict[str, Any] = {
        "observation": np.broadcast_to(np.eye(4)[0], (N, 1, 4)),
        "action": np.ones((N, 1), int),
        "reward": np.full((N, 1), 2.0),
        "log_prob": np.zeros((N, 1)),
        "terminated": terminated,
        "truncated": truncated,
        "mask": np.ones((N, 1), bool),
        "final_observation": np.broadcast_to(np.eye(4)[0], (N, 4)),
        "final_value": np.array([10.0, 10.0, 10.0, 10.0, np.nan]),
    }
    batch = jax.device_put(Trajectory(**fields))
    expected = 2.0 + GAMMA * 10.0 * np.array(bootstrapped)
    np.testing.assert_allclose(np.ravel(returns_to_go(batch)), expected, rtol=1e-15)
    without = returns_to_go(replace(batch, final_value=None))
    np.testing.assert_allclose(without, np.full((N, 1), 2.0), rtol=1e-15)


def test_the_bootstrap_follows_the_last_step_of_each_episode_not_the_last_column(
    episodes: Trajectory,
) -> None:
    cut = replace(
        episodes,
        terminated=jnp.asarray(np.zeros(episodes.terminated.shape, bool)),
        reward=jnp.asarray(np.zeros(episodes.reward.shape)),
    )
    found = np.asarray(returns_to_go(cut))
    lasts = np.sum(np.asarray(cut.mask), axis=1)
    for i, last in enumerate(lasts):
        expected = [GAMMA ** (last - t) * (i + 1.0) if t < last else 0.0 for t in range(3)]
        np.testing.assert_allclose(found[i], expected, rtol=1e-14)
