"""Baselines, weights and terms, each against its formula written out in loops."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import Problem, Trajectory, baselines, enumeration, tabular, terms, weights

pytestmark = pytest.mark.usefixtures("strict")

MDP = tabular.random_mdp()
GAMMA = 0.8
N, T = 4, 3


@pytest.fixture(scope="module")
def batch(strict: None) -> Trajectory:
    """Four episodes of three, two, one and three steps; the last is cut, the others end."""
    length = np.array([3, 2, 1, 3])
    random = np.random.default_rng(2)
    mask = np.arange(T) < length[:, None]
    last = np.arange(T) == length[:, None] - 1
    ends = np.array([True, True, True, False])[:, None]
    fields: dict[str, Any] = {
        "observation": np.eye(4)[random.integers(4, size=(N, T))],
        "action": random.integers(2, size=(N, T)),
        "reward": np.where(mask, random.normal(size=(N, T)), 0),
        "log_prob": np.where(mask, -random.uniform(size=(N, T)), 0),
        "terminated": last & ends,
        "truncated": last & ~ends,
        "mask": mask,
        "final_observation": np.eye(4)[random.integers(4, size=N)],
    }
    return Trajectory(**jax.device_put(fields))


def returns_to_go(batch: Trajectory) -> np.ndarray:
    reward, mask = np.asarray(batch.reward), np.asarray(batch.mask)
    found = np.zeros((N, T))
    for i, t in np.ndindex(N, T):
        if mask[i, t]:
            found[i, t] = sum(GAMMA ** (k - t) * reward[i, k] for k in range(t, T) if mask[i, k])
    return found


def test_returns_to_go_are_the_discounted_sums_within_each_episode(batch: Trajectory) -> None:
    found = weights.returns_to_go(batch, GAMMA)
    np.testing.assert_allclose(found, returns_to_go(batch), rtol=0, atol=1e-14)


def test_total_return_credits_every_step_with_the_whole_episode(batch: Trajectory) -> None:
    found = weights.total_return(GAMMA)(batch, batch.log_prob)
    expected = np.repeat(returns_to_go(batch)[:, :1], T, axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_reward_to_go_carries_gamma_to_the_t_and_the_mismatched_one_does_not(
    batch: Trajectory,
) -> None:
    expected = returns_to_go(batch)
    mismatched = weights.mismatched_reward_to_go(GAMMA)(batch, batch.log_prob)
    np.testing.assert_allclose(mismatched, expected, rtol=0, atol=1e-14)
    found = weights.reward_to_go(GAMMA)(batch, batch.log_prob)
    np.testing.assert_allclose(found, GAMMA ** np.arange(T) * expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "make", [weights.total_return, weights.reward_to_go, weights.mismatched_reward_to_go]
)
def test_a_baseline_is_subtracted_from_the_target_it_is_given(make: Any, batch: Trajectory) -> None:
    seen = []

    def baseline(batch: Trajectory, target: Any) -> Any:
        seen.append(target)
        return jnp.full_like(target, 0.5)

    plain = make(GAMMA)(batch, batch.log_prob)
    shifted = make(GAMMA, baseline=baseline)(batch, batch.log_prob)
    factor = GAMMA ** np.arange(T) if make is weights.reward_to_go else np.ones(T)
    np.testing.assert_allclose(plain - shifted, np.tile(0.5 * factor, (N, 1)), atol=1e-14)
    total = weights.total_return(GAMMA)(batch, batch.log_prob)
    expected = total if make is weights.total_return else weights.returns_to_go(batch, GAMMA)
    np.testing.assert_array_equal(seen[0], expected)


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_the_extreme_discounts_are_the_first_reward_and_the_plain_sum(
    discount: float, batch: Trajectory
) -> None:
    found = weights.reward_to_go(discount)(batch, batch.log_prob)
    reward = np.asarray(batch.reward)
    plain_sum = reward[:, ::-1].cumsum(1)[:, ::-1]
    expected = {0.0: reward * np.array([1, 0, 0]), 1.0: plain_sum}[discount]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_a_traced_discount_gives_the_weights_of_a_known_one(batch: Trajectory) -> None:
    found = jax.jit(lambda g: weights.reward_to_go(g)(batch, batch.log_prob))(jnp.asarray(GAMMA))
    expected = weights.reward_to_go(GAMMA)(batch, batch.log_prob)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_integer_rewards_are_weighed_in_float32(batch: Trajectory) -> None:
    counts = np.round(10 * np.asarray(batch.reward))
    weigh = jax.jit(weights.reward_to_go(GAMMA))
    found = weigh(replace(batch, reward=counts.astype(np.int32)), batch.log_prob)
    assert found.dtype == jnp.float32
    exact = weigh(replace(batch, reward=counts), batch.log_prob)
    bound = 10 * np.finfo(np.float32).eps * np.max(np.abs(exact))
    np.testing.assert_allclose(found, exact, rtol=0, atol=bound)


def test_constant_and_per_time_step_baselines_are_what_was_given(batch: Trajectory) -> None:
    target = weights.returns_to_go(batch, GAMMA)
    np.testing.assert_array_equal(baselines.constant(1.5)(batch, target), np.full((N, T), 1.5))
    given = jnp.array([1.0, 2.0, 3.0])
    found = baselines.per_time_step(given)(batch, target)
    np.testing.assert_array_equal(found, np.tile(given, (N, 1)))


def test_state_value_reads_the_observation_of_each_step(batch: Trajectory) -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0])
    target = weights.returns_to_go(batch, GAMMA)
    found = baselines.state_value(lambda observation: observation @ values)(batch, target)
    expected = values[np.argmax(np.asarray(batch.observation), axis=-1)]
    np.testing.assert_array_equal(found, expected)


def test_recorded_value_is_the_value_of_the_batch(batch: Trajectory) -> None:
    value = jnp.asarray(np.random.default_rng(3).normal(size=(N, T)))
    target = weights.returns_to_go(batch, GAMMA)
    found = baselines.recorded_value(replace(batch, value=value), target)
    np.testing.assert_array_equal(found, value)


def test_batch_mean_and_leave_one_out_are_means_with_and_without_the_own_row(
    batch: Trajectory,
) -> None:
    target = weights.returns_to_go(batch, GAMMA)
    mean = np.asarray(baselines.batch_mean(batch, target))
    others = np.asarray(baselines.leave_one_out(batch, target))
    target = np.asarray(target)
    for i, t in np.ndindex(N, T):
        np.testing.assert_allclose(mean[i, t], np.mean(target[:, t]), rtol=0, atol=1e-15)
        expected = np.mean(np.delete(target[:, t], i))
        np.testing.assert_allclose(others[i, t], expected, rtol=0, atol=1e-15)


def test_leave_one_out_does_not_see_its_own_trajectory_and_batch_mean_does(
    batch: Trajectory,
) -> None:
    target = weights.returns_to_go(batch, GAMMA)

    def slope(baseline: baselines.Baseline) -> np.ndarray:
        """[N, T, N, T] d b_it / d target_jk."""
        return np.asarray(jax.jit(jax.jacobian(lambda x: baseline(batch, x)))(target))

    own = np.einsum("itit->it", slope(baselines.leave_one_out))
    np.testing.assert_allclose(own, np.zeros((N, T)), atol=1e-16)
    own = np.einsum("itit->it", slope(baselines.batch_mean))
    np.testing.assert_allclose(own, np.full((N, T), 1 / N), rtol=1e-15)


def test_less_its_leave_one_out_baseline_a_return_is_a_scaled_deviation_from_the_mean(
    batch: Trajectory,
) -> None:
    target = weights.returns_to_go(batch, GAMMA)
    without_own = target - baselines.leave_one_out(batch, target)
    with_own = target - baselines.batch_mean(batch, target)
    np.testing.assert_allclose(without_own, with_own * N / (N - 1), rtol=0, atol=1e-14)


def test_a_good_baseline_lowers_the_variance(table: np.ndarray) -> None:
    policy = pgjax.tabular_softmax(4, 2)
    value = pgjax.exact.state_values(Problem(MDP, policy, table, None))
    baseline = baselines.state_value(lambda observation: observation @ jnp.asarray(value))

    estimators = [pgjax.reward_to_go(GAMMA, baseline=b) for b in (baseline, None)]

    def both(params: Any, batch: Trajectory) -> list[Any]:
        return [pgjax.gradient(each, policy, params, batch) for each in estimators]

    found = enumeration.moments(both, Problem(MDP, policy, table, 3))
    with_baseline, without = np.diag(found.covariance).reshape(2, -1).sum(1)
    assert with_baseline < without


@partial(jax.jit, static_argnums=0)
def slope_of(term: Any, log_prob: Any, behaviour: Any, weight: Any) -> Any:
    return jax.grad(lambda x: jnp.sum(term(x, behaviour, weight)))(log_prob)


def test_the_score_term_has_the_weight_as_its_slope() -> None:
    log_prob, behaviour, weight = np.random.default_rng(4).normal(size=(3, T))
    slope = slope_of(terms.score, log_prob, behaviour, weight)
    np.testing.assert_array_equal(slope, weight)


def test_the_importance_ratio_has_the_weighted_ratio_as_its_slope() -> None:
    log_prob, behaviour, weight = np.random.default_rng(4).normal(size=(3, T))
    slope = slope_of(terms.importance_ratio, log_prob, behaviour, weight)
    expected = np.exp(log_prob - behaviour) * weight
    np.testing.assert_allclose(slope, expected, rtol=1e-15)
    on_policy = slope_of(terms.importance_ratio, log_prob, log_prob, weight)
    np.testing.assert_array_equal(on_policy, weight)
