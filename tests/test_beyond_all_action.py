"""All-action gradients are the theorem's sum, exactly; what a wrong critic costs is exact too."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import beyond, enumeration, exact, tabular
from pgjax.core.float64 import to_jax
from pgjax.exact.problem import Problem
from tests.shared import rows

pytestmark = pytest.mark.usefixtures("strict")

EXACT = 1e-10
LOGITS = np.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]])
MDP, POLICY, H = tabular.random_mdp(), pgjax.tabular_softmax(4, 2), 3
PROBLEM, GAMMA = Problem(MDP, POLICY, LOGITS, H), MDP.discount


@cache
def truth() -> np.ndarray:
    return exact.gradient(PROBLEM)


@cache
def true_values() -> np.ndarray:
    """Q at each time, [H, S, A]."""
    return exact.action_values(PROBLEM)


@cache
def wrong_values() -> np.ndarray:
    return true_values() + np.random.default_rng(7).normal(size=(H, 4, 2))


def of_states(table: np.ndarray, batch: pgjax.Trajectory) -> Any:
    return jnp.einsum("nts,tsa->nta", batch.observation, jnp.asarray(table))


def all_action(table: np.ndarray, params: Any, batch: pgjax.Trajectory) -> Any:
    values = of_states(table, batch)
    return beyond.all_action_gradient(POLICY, params, batch, values, discount=GAMMA)


def corrected(table: np.ndarray, params: Any, batch: pgjax.Trajectory) -> Any:
    values = of_states(table, batch)
    return beyond.corrected_all_action_gradient(POLICY, params, batch, values, discount=GAMMA)


@cache
def enumerated() -> tuple[Any, np.ndarray]:
    """All episodes, and the probability of each."""
    return enumeration.trajectories(PROBLEM)


def all_episodes() -> pgjax.Trajectory:
    return to_jax(enumerated()[0])


def each(function: Any, table: Any) -> Any:
    """[M, P] the estimate from each trajectory."""
    return of_each(function, table, all_episodes())


@partial(jax.jit, static_argnums=0)
def of_each(function: Any, table: Any, batch: pgjax.Trajectory) -> Any:
    def single(row: pgjax.Trajectory) -> Any:
        row = jax.tree.map(lambda x: x[None], row)
        return function(table, jnp.asarray(LOGITS), row).ravel()

    return jax.vmap(single)(batch)


def moments(function: Any, table: np.ndarray) -> pgjax.Moments:
    values = np.asarray(each(function, table))
    _, chance = enumerated()
    mean = chance @ values
    return pgjax.Moments(mean, (values - mean).T @ ((values - mean) * chance[:, None]))


def test_with_the_true_values_the_expectation_is_the_gradient() -> None:
    found = moments(all_action, true_values())
    np.testing.assert_allclose(found.mean, truth().ravel(), rtol=0, atol=EXACT)


def test_with_wrong_values_it_is_off_by_the_theorem_s_sum_of_their_errors() -> None:
    found = moments(all_action, wrong_values())
    visits = exact.visitation(PROBLEM)
    probability = exact.action_probabilities(PROBLEM)
    error = wrong_values() - true_values()
    error = error - np.sum(probability * error, -1, keepdims=True)
    bias = np.einsum("ts,sa,tsa->sa", visits, probability, error)
    assert np.linalg.norm(bias) > 0.05
    np.testing.assert_allclose(found.mean, (truth() + bias).ravel(), rtol=0, atol=EXACT)


def test_corrected_by_returns_it_is_unbiased_whatever_the_values() -> None:
    for table in (true_values(), wrong_values(), 3 * wrong_values()):
        found = moments(corrected, table)
        np.testing.assert_allclose(found.mean, truth().ravel(), rtol=0, atol=EXACT)


def test_the_correction_alone_is_biased_as_an_action_dependent_baseline_is() -> None:
    found = moments(corrected, wrong_values()).mean - moments(all_action, wrong_values()).mean
    assert np.linalg.norm(found - truth().ravel()) > 0.1


def test_summing_over_actions_is_quieter_than_sampling_them() -> None:
    def sampled(table: Any, params: Any, batch: pgjax.Trajectory) -> Any:
        taken = jax.nn.one_hot(batch.action, 2, dtype=jnp.float64)
        credit = jnp.sum(of_states(table, batch) * taken, -1)
        estimator = pgjax.Estimator(
            lambda batch, log_prob: GAMMA ** jnp.arange(H, dtype=credit.dtype)[None] * credit,
            pgjax.terms.score,
        )
        return pgjax.gradient(estimator, POLICY, params, batch)

    expected, taken = moments(all_action, true_values()), moments(sampled, true_values())
    returns = exact.moments(PROBLEM)
    np.testing.assert_allclose(taken.mean, truth().ravel(), rtol=0, atol=EXACT)
    assert expected.total_variance < taken.total_variance / 2
    assert expected.total_variance < returns.total_variance / 2


def test_a_single_decision_has_no_variance_left() -> None:
    bandit, policy = tabular.two_armed_bandit(), pgjax.tabular_softmax(3, 2)
    values = jnp.asarray(exact.action_values(Problem(bandit, policy, np.zeros((3, 2)), 1)))[0, 0]

    def estimate(params: Any, batch: pgjax.Trajectory) -> Any:
        return beyond.all_action_gradient(policy, params, batch, lambda s: values, discount=1.0)

    # Through the enumeration that the certificate is computed with.
    found = enumeration.moments(estimate, Problem(bandit, policy, np.zeros((3, 2)), 1))
    assert found.total_variance < 1e-30
    np.testing.assert_allclose(found.mean[:2], [-0.075, 0.075], rtol=0, atol=EXACT)


def test_a_value_of_the_state_alone_changes_no_estimate() -> None:
    batch = all_episodes()
    shift = np.random.default_rng(8).normal(size=(*batch.mask.shape, 1))
    values = of_states(true_values(), batch)
    estimate = partial(beyond.all_action_gradient, POLICY, LOGITS, batch, discount=GAMMA)
    np.testing.assert_allclose(estimate(values + shift), estimate(values), rtol=0, atol=1e-12)


def test_values_as_a_function_and_as_an_array_are_the_same() -> None:
    batch, table = all_episodes(), jnp.asarray(wrong_values()[0])
    estimate = partial(beyond.all_action_gradient, POLICY, LOGITS, batch, discount=GAMMA)
    np.testing.assert_array_equal(
        estimate(lambda s: s @ table), estimate(jnp.einsum("nts,sa->nta", batch.observation, table))
    )


def test_values_are_constants_under_differentiation() -> None:
    batch = all_episodes()

    def own(params: Any) -> Any:
        return beyond.all_action_gradient(
            POLICY, params, batch, lambda s: s @ params, discount=GAMMA
        )

    fixed = beyond.all_action_gradient(
        POLICY, LOGITS, batch, lambda s: s @ jnp.asarray(LOGITS), discount=GAMMA
    )
    np.testing.assert_allclose(own(jnp.asarray(LOGITS)), fixed, rtol=0, atol=1e-14)


def test_one_trajectory_at_a_time_it_averages_to_the_batch() -> None:
    batch = all_episodes()
    values = of_states(wrong_values(), batch)

    whole = beyond.all_action_gradient(POLICY, LOGITS, batch, values, discount=GAMMA)
    mean = np.mean(each(all_action, wrong_values()), axis=0)
    np.testing.assert_allclose(mean, whole.ravel(), rtol=0, atol=1e-14)


def test_neither_garbage_after_the_end_nor_the_value_of_an_illegal_action_is_read() -> None:
    batch, (episodes, _) = all_episodes(), enumerated()
    dead = ~episodes.mask[..., None]
    spoilt = replace(
        batch,
        observation=jax.device_put(np.where(dead, np.nan, episodes.observation)),
        reward=jax.device_put(np.where(episodes.mask, episodes.reward, np.nan)),
    )
    values = of_states(wrong_values(), batch)
    clean = beyond.corrected_all_action_gradient(POLICY, LOGITS, batch, values, discount=GAMMA)
    found = beyond.corrected_all_action_gradient(
        POLICY, LOGITS, spoilt, jax.device_put(np.where(dead, np.nan, values)), discount=GAMMA
    )
    np.testing.assert_array_equal(found, clean)

    masked = pgjax.softmax_policy(
        lambda key, s: jnp.zeros((4, 2)),
        lambda params, s: jnp.concatenate([s @ params, jnp.array([-jnp.inf])]),
    )
    with_garbage = jax.device_put(np.pad(values, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan))
    with_illegal = beyond.all_action_gradient(masked, LOGITS, batch, with_garbage, discount=GAMMA)
    plain = beyond.all_action_gradient(POLICY, LOGITS, batch, values, discount=GAMMA)
    np.testing.assert_allclose(with_illegal, plain, rtol=0, atol=1e-14)


def test_in_a_window_each_episode_counts_its_own_time() -> None:
    episodes, _ = enumerated()
    batch = rows(episodes, [5, 40])
    values = of_states(wrong_values(), batch)

    def joined(x: Any) -> Any:
        return jax.device_put(np.asarray(x).reshape(1, -1, *x.shape[2:]))

    window = jax.tree.map(joined, replace(batch, final_observation=None))
    time = jax.device_put(np.tile(np.arange(H, dtype=np.int32), 2)[None])
    window = replace(window, time=time, final_observation=rows(episodes, [40]).final_observation)
    one = beyond.all_action_gradient(POLICY, LOGITS, window, joined(values), discount=GAMMA)
    two = beyond.all_action_gradient(POLICY, LOGITS, batch, values, discount=GAMMA)
    np.testing.assert_allclose(one, 2 * two, rtol=0, atol=1e-14)


def test_bad_values_and_discounts_are_named() -> None:
    batch = all_episodes()
    M = batch.mask.shape[0]
    with pytest.raises(ValueError, match=rf"action_values must be \[N, T, A\].*\({M}, 3\)"):
        beyond.all_action_gradient(POLICY, LOGITS, batch, batch.reward, discount=0.9)
    with pytest.raises(ValueError, match="discount must lie in"):
        beyond.all_action_gradient(
            POLICY, LOGITS, batch, of_states(true_values(), batch), discount=1.5
        )


def test_a_policy_over_another_number_of_actions_is_found_out_when_checked() -> None:
    batch = all_episodes()
    wider = pgjax.tabular_softmax(4, 3)

    def estimate(params: Any) -> Any:
        values = of_states(true_values(), batch)
        return beyond.all_action_gradient(wider, params, batch, values, discount=GAMMA)

    with pytest.raises(ValueError, match="over 2 actions sum to 0"):
        pgjax.checked(estimate)(jnp.zeros((4, 3)))
