"""Enumeration: every trajectory once, with its probability, and exact moments from them."""

import itertools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import Problem, TabularMDP, Trajectory, enumeration, exact, tabular

pytestmark = pytest.mark.usefixtures("strict")

MDP = tabular.random_mdp()
POLICY = pgjax.tabular_softmax(4, 2)
SAME_LOGITS = pgjax.softmax_policy(lambda key, s: jnp.zeros(2), lambda params, s: params)
HORIZON = 3


@pytest.fixture(scope="module")
def listed(strict: None, table: np.ndarray) -> tuple[Trajectory, np.ndarray]:
    return enumeration.trajectories(Problem(MDP, POLICY, table, HORIZON))


def walk(mdp: TabularMDP, pi: np.ndarray, horizon: int) -> dict[tuple, tuple[float, float]]:
    """{(s0, a0, s1, ...): (probability, return)}, by plain recursion over the tensors."""
    found = {}

    def extend(path: tuple, probability: float, total: float) -> None:
        state, t = path[-1], len(path) // 2
        if mdp.terminal[state] or t == horizon:
            found[path] = (probability, total)
            return
        for action, following in itertools.product(range(mdp.num_actions), range(mdp.num_states)):
            p = pi[state, action] * mdp.transition[state, action, following]
            if p > 0:
                reward = mdp.reward[state, action, following]
                extend(
                    (*path, action, following), probability * p, total + mdp.discount**t * reward
                )

    for state in np.flatnonzero(mdp.initial):
        extend((int(state),), float(mdp.initial[state]), 0.0)
    return found


def paths(batch: Trajectory) -> list[tuple]:
    out = []
    for i, mask in enumerate(batch.mask):
        states = np.argmax(batch.observation[i][mask], axis=-1)
        pairs = zip(states, batch.action[i][mask], strict=True)
        last = np.argmax(batch.final_observation[i])
        out.append((*(int(x) for pair in pairs for x in pair), int(last)))
    return out


def test_every_trajectory_is_listed_once_with_its_probability_and_rewards(
    listed: tuple[Trajectory, np.ndarray], table: np.ndarray
) -> None:
    batch, probability = listed
    expected = walk(MDP, exact.action_probabilities(Problem(MDP, POLICY, table, 1)), HORIZON)
    found = paths(batch)
    assert len(found) == len(set(found)) == len(expected)
    assert set(found) == set(expected)
    total = batch.reward @ MDP.discount ** np.arange(HORIZON)
    for path, p, R in zip(found, probability, total, strict=True):
        np.testing.assert_allclose([p, R], expected[path], rtol=1e-13, atol=1e-15)
    assert len(found) == enumeration.count(Problem(MDP, POLICY, table, HORIZON))


@pytest.mark.parametrize("name", ["random", "chain", "corridor", "bandit"])
@pytest.mark.parametrize("horizon", [1, 4])
def test_probabilities_sum_to_one_and_the_mean_return_is_the_objective(
    name: str, horizon: int
) -> None:
    mdp = tabular.NAMED[name].make()
    params = np.array([0.3, -0.2])
    batch, probability = enumeration.trajectories(Problem(mdp, SAME_LOGITS, params, horizon))
    np.testing.assert_allclose(probability.sum(), 1, rtol=0, atol=1e-13)
    total = batch.reward @ mdp.discount ** np.arange(horizon)
    J = exact.objective(Problem(mdp, SAME_LOGITS, params, horizon))
    np.testing.assert_allclose(probability @ total, J, rtol=0, atol=1e-12)


def test_each_record_is_a_whole_episode(
    listed: tuple[Trajectory, np.ndarray], table: np.ndarray
) -> None:
    batch, _ = listed
    mask = batch.mask
    assert np.all(mask[:, 0])
    assert np.all(mask[:, 1:] <= mask[:, :-1])
    last = mask & ~np.pad(mask[:, 1:], ((0, 0), (0, 1)))
    np.testing.assert_array_equal(batch.terminated | batch.truncated, last)
    np.testing.assert_array_equal(np.any(batch.truncated, axis=1), mask[:, -1])
    ends = MDP.terminal[np.argmax(batch.final_observation, axis=-1)]
    np.testing.assert_array_equal(np.any(batch.terminated, axis=1), ends)
    assert np.any(batch.terminated & batch.truncated)  # both flags can be up at once
    found = pgjax.log_probs(POLICY, jnp.asarray(table), jax.device_put(batch))
    np.testing.assert_allclose(batch.log_prob, found, rtol=0, atol=1e-14)
    assert batch.reward.dtype == np.float64


def test_moments_of_one_trajectory_are_the_weighted_sums(
    listed: tuple[Trajectory, np.ndarray], table: np.ndarray
) -> None:
    batch, probability = listed
    estimator = pgjax.reward_to_go(MDP.discount)
    each = pgjax.per_trajectory_gradients(
        estimator, POLICY, jnp.asarray(table), jax.device_put(batch)
    )
    rows = np.reshape(np.asarray(each), (len(probability), -1))
    mean = probability @ rows
    covariance = (rows - mean).T @ (probability[:, None] * (rows - mean))
    found = enumeration.moments(estimator, Problem(MDP, POLICY, table, HORIZON))
    np.testing.assert_allclose(found.mean, mean, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.covariance, covariance, rtol=0, atol=1e-12)


def test_an_independent_batch_divides_the_covariance_and_keeps_the_mean(
    table: np.ndarray,
) -> None:
    estimator = pgjax.reward_to_go(MDP.discount)
    one = enumeration.moments(estimator, Problem(MDP, POLICY, table, 2))
    two = enumeration.moments(estimator, Problem(MDP, POLICY, table, 2), batch_size=2)
    np.testing.assert_allclose(two.mean, one.mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(two.covariance, one.covariance / 2, rtol=0, atol=1e-12)


def test_multisets_weigh_like_the_tuples_they_stand_for(table: np.ndarray) -> None:
    mdp, policy = tabular.two_armed_bandit(), pgjax.tabular_softmax(3, 2)
    batch, probability = enumeration.trajectories(Problem(mdp, policy, table[:3], 1))
    reward = batch.reward[:, 0]

    def best(params: Any, batch: Trajectory) -> Any:
        return jnp.max(batch.reward)

    for K in (2, 3, 4):
        tuples = list(itertools.product(range(len(probability)), repeat=K))
        weight = np.array([np.prod(probability[list(t)]) for t in tuples])
        value = np.array([np.max(reward[list(t)]) for t in tuples])
        found = enumeration.moments(best, Problem(mdp, policy, table[:3], 1), batch_size=K)
        mean = weight @ value
        np.testing.assert_allclose(found.mean, [mean], rtol=1e-13)
        np.testing.assert_allclose(found.covariance, [[weight @ value**2 - mean**2]], rtol=1e-11)


def test_an_estimate_that_depends_on_the_order_is_summed_over_tuples(table: np.ndarray) -> None:
    mdp, policy = tabular.two_armed_bandit(), pgjax.tabular_softmax(3, 2)
    problem = Problem(mdp, policy, table[:3], horizon=1)

    def first_times_its_place(params: Any, batch: Trajectory) -> Any:
        return batch.reward[0, 0] - 2.0 * batch.reward[1, 0] * batch.reward[0, 0]

    p = float(exact.objective(problem))  # of a reward of one
    found = enumeration.moments(first_times_its_place, problem, batch_size=2)
    np.testing.assert_allclose(found.mean, [p - 2 * p**2], rtol=1e-13)


def test_one_shuffle_that_changes_the_estimate_is_enough() -> None:
    """Of three that are tried."""
    for changed in range(3):
        answers = [np.zeros((2, 1))] * 4
        answers[1 + changed] = np.ones((2, 1))
        queue = iter(answers)
        assert enumeration._depends_on_order(lambda members, queue=queue: next(queue), 5, (2, 2))
    assert not enumeration._depends_on_order(lambda members: np.zeros((2, 1)), 5, (2, 2))


def test_the_limit_is_the_largest_number_that_is_accepted(table: np.ndarray) -> None:
    problem = Problem(MDP, POLICY, table, 1)
    M, estimator = enumeration.count(problem), pgjax.reward_to_go(0.9)
    multisets = M * (M + 1) // 2
    enumeration.trajectories(problem, limit=M)
    enumeration.moments(estimator, problem, batch_size=2, limit=multisets)
    assert not enumeration.examine(estimator, problem, batch_size=2, limit=M**2 - 1).over_tuples
    assert enumeration.examine(estimator, problem, batch_size=2, limit=M**2).over_tuples
    with pytest.raises(ValueError, match=f"gives {M} trajectories, more than the limit of {M - 1}"):
        enumeration.trajectories(problem, limit=M - 1)
    with pytest.raises(ValueError, match=f"gives {multisets} multisets, more than the limit"):
        enumeration.moments(estimator, problem, batch_size=2, limit=multisets - 1)


def test_users_code_may_return_any_tree(table: np.ndarray) -> None:
    def statistics(params: Any, batch: Trajectory) -> Any:
        reward = jnp.where(batch.mask, batch.reward, 0)
        return {"length": jnp.sum(batch.mask), "reward": jnp.sum(reward, axis=0)}

    with jax.numpy_dtype_promotion("standard"):  # flattening mixes integers and floats
        found = enumeration.moments(statistics, Problem(MDP, POLICY, table, HORIZON))
    visits = exact.visitation(Problem(replace(MDP, discount=1.0), POLICY, table, HORIZON))
    np.testing.assert_allclose(found.mean[0], visits.sum(), rtol=1e-12)
    J = exact.objective(Problem(replace(MDP, discount=1.0), POLICY, table, HORIZON))
    np.testing.assert_allclose(found.mean[1:].sum(), J, rtol=1e-12)


def test_an_estimate_that_is_nan_on_a_possible_trajectory_is_refused(table: np.ndarray) -> None:
    def broken(params: Any, batch: Trajectory) -> Any:
        return jnp.log(batch.reward[0, :1] - 1e9)

    with pytest.raises(ValueError, match="finite on every trajectory of positive probability"):
        enumeration.moments(broken, Problem(MDP, POLICY, table, 1))


def test_an_action_without_probability_leads_nowhere() -> None:
    params = np.array([0.0, -np.inf])
    batch, probability = enumeration.trajectories(Problem(MDP, SAME_LOGITS, params, 2))
    assert not np.any(batch.action)
    np.testing.assert_allclose(probability.sum(), 1, rtol=0, atol=1e-14)


def test_moments_are_the_same_under_float32_settings(table: np.ndarray) -> None:
    estimator = pgjax.reward_to_go(MDP.discount)
    wide = enumeration.moments(estimator, Problem(MDP, POLICY, table, 2))
    with jax.enable_x64(False):
        found = enumeration.moments(estimator, Problem(MDP, POLICY, table, 2))
    assert found.mean.dtype == np.float64
    np.testing.assert_array_equal(found.mean, wide.mean)


def test_few_batches_are_not_evaluated_as_if_they_were_many(monkeypatch):
    sizes, spoiled = [], enumeration._spoiled

    def counted(tables, states, *others):
        sizes.append(len(states))
        return spoiled(tables, states, *others)

    monkeypatch.setattr(enumeration, "_spoiled", counted)
    problem = pgjax.suite.problems()[0]
    trajectories = enumeration.count(problem)
    enumeration.examine(pgjax.reward_to_go(1.0), problem, batch_size=2)
    assert set(sizes) == {trajectories**2}
    assert len(sizes) == 5  # once for the sums, four times for what the estimate reads
