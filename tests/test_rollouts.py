"""Rollouts: held to a loop in plain Python, to exact probabilities, and to every environment.

gymnax runs under neither strict promotion nor, everywhere, x64: these tests use JAX's defaults.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import chex
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from gymnax.environments import spaces

import pgjax
from pgjax import Policy, Problem, Trajectory, enumeration, tabular
from pgjax.environments import from_gymnax
from tests.shared import rows

pytestmark = pytest.mark.usefixtures("checked_annotations")

CONTINUOUS = {"Pendulum-v1", "MountainCarContinuous-v0", "PointRobot-misc", "Reacher-misc",
              "Swimmer-misc"}  # fmt: skip
DOWNLOADING = {"MNISTBandit-bsuite"}
# Four games of MinAtar make longer programs than all other environments together.
LONG = {"Asterix-MinAtar", "Freeway-MinAtar", "Seaquest-MinAtar", "SpaceInvaders-MinAtar"}
DISCRETE = [
    pytest.param(name, marks=[pytest.mark.adapters] if name in LONG else [])
    for name in sorted(set(gymnax.registered_envs) - CONTINUOUS - DOWNLOADING)
]
N, T = 4, 60


@cache
def fixed_policy(num_actions: int) -> Policy:
    """The same distribution whatever is seen; its logits are the parameters."""
    return pgjax.softmax_policy(lambda key, s: jnp.zeros(num_actions), lambda params, s: params)


@cache
def environment(name: str) -> tuple[Any, Any, int]:
    made, params = gymnax.make(name)
    space = made.action_space(params)
    assert isinstance(space, spaces.Discrete)
    return made, params, int(space.n)


def rolled(name: str, logits: Any, key: Any, *, num_steps: int = T, **fields: Any) -> Any:
    """A batch of NumPy arrays, from an environment with some of its parameters replaced."""
    made, params, A = environment(name)
    batch = pgjax.rollout(
        fixed_policy(A), np.asarray(logits, np.float32),
        from_gymnax.adapt(made, params.replace(**fields)), key,
        num_trajectories=N, num_steps=num_steps,
    )  # fmt: skip
    return jax.tree.map(np.asarray, batch)


@cache
def sampled(name: str) -> Any:
    return rolled(name, np.zeros(environment(name)[2]), jax.random.key(3))


@pytest.mark.parametrize("name", DISCRETE)
def test_every_discrete_environment_rolls_out_into_whole_episodes(name: str) -> None:
    batch = sampled(name)
    mask = np.asarray(batch.mask)
    assert batch.reward.shape == batch.log_prob.shape == batch.action.shape == (N, T)
    assert jnp.issubdtype(batch.reward.dtype, jnp.floating)
    assert np.all(np.isfinite(batch.reward))
    assert np.all(mask[:, 0])
    assert np.all(mask[:, 1:] <= mask[:, :-1]), "the mask is a prefix"
    last = mask & ~np.pad(mask[:, 1:], ((0, 0), (0, 1)))
    ended = np.asarray(batch.terminated | batch.truncated)
    np.testing.assert_array_equal(ended, last)  # one end a row, at its last live step
    dead = ~mask
    np.testing.assert_array_equal(np.asarray(batch.reward)[dead], 0)
    np.testing.assert_array_equal(np.asarray(batch.log_prob)[dead], 0)
    A = environment(name)[2]
    np.testing.assert_allclose(np.asarray(batch.log_prob)[mask], -np.log(A), rtol=1e-6)
    actions = np.asarray(batch.action)[mask]
    assert actions.min() >= 0
    assert actions.max() < A
    running = mask[:, -1] & ~np.asarray(batch.terminated)[:, -1]
    np.testing.assert_array_equal(np.asarray(batch.truncated)[running, -1], True)
    # The state is frozen after the end: what is seen there is what followed the last step.
    row, _ = np.nonzero(dead)
    for seen, final in zip(
        jax.tree.leaves(batch.observation), jax.tree.leaves(batch.final_observation), strict=True
    ):
        assert seen.dtype == final.dtype
        np.testing.assert_array_equal(seen[dead], final[row])


def test_integer_rewards_arrive_as_floats_of_the_same_value() -> None:
    for name in ("UmbrellaChain-bsuite", "BernoulliBandit-misc"):
        reward = np.asarray(sampled(name).reward)
        assert reward.dtype == np.float32
        np.testing.assert_array_equal(reward, np.round(reward))
        assert np.any(reward != 0)


@cache
def start_and_step(name: str) -> tuple[Any, Any]:
    """Of one episode, with the keys that `rollout` documents by its structure."""
    made, environment_params, A = environment(name)

    @jax.jit
    def advance(params: Any, keys: Any, time: Any, observation: Any, state: Any) -> Any:
        action_key, environment_key = (jax.random.fold_in(key, time) for key in keys)
        action, _ = fixed_policy(A).sample(params, action_key, observation)
        observation, state, reward, terminated, _ = made.step_env(
            environment_key, state, action, environment_params
        )
        truncated = made.is_truncated(state, environment_params)
        return observation, state, action, reward, terminated, terminated | truncated

    return jax.jit(made.reset_env), advance


def plain_episode(name: str, key: Any, params: Any) -> dict[str, list]:
    """One episode, in a loop in plain Python."""
    reset, advance = start_and_step(name)
    observation, state = jax.device_get(reset(key[0], environment(name)[1]))
    record: dict[str, list] = {"observation": [observation], "action": [], "reward": [], "end": []}
    for time in range(T):
        observation, state, action, reward, terminated, ended = jax.device_get(
            advance(params, key[1:], time, observation, state)
        )
        for values, value in zip(
            record.values(), (observation, action, reward, terminated), strict=True
        ):
            values.append(value)
        if ended:
            break
    return record


@pytest.mark.parametrize("name", ["CartPole-v1", "Catch-bsuite"])
def test_a_rollout_equals_a_plain_loop_and_keeps_the_observation_after_the_last_step(
    name: str,
) -> None:
    params = np.linspace(0.5, -0.5, environment(name)[2], dtype=np.float32)
    key = jax.random.key(11)
    batch = rolled(name, params, key)
    for i, episode_key in enumerate(jax.random.split(key, (N, 3))[:2]):
        expected = plain_episode(name, episode_key, params)
        length = len(expected["reward"])
        assert np.sum(batch.mask[i]) == length < T
        np.testing.assert_array_equal(batch.action[i, :length], expected["action"])
        np.testing.assert_array_equal(batch.terminated[i, :length], expected["end"])
        np.testing.assert_allclose(batch.reward[i, :length], expected["reward"], rtol=1e-6)
        seen = np.stack(expected["observation"])
        # Compiled as one program, or step by step: float32 rounding along sixty steps.
        np.testing.assert_allclose(batch.observation[i, :length], seen[:-1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(batch.final_observation[i], seen[-1], rtol=1e-4, atol=1e-5)


def test_a_rollout_of_several_chunks_is_one_that_goes_on() -> None:
    """130 steps are three chunks of 50; the first 60 are those of a rollout in one chunk."""
    short, long = (
        rolled("MountainCar-v0", np.zeros(3), jax.random.key(4), num_steps=steps)
        for steps in (T, 130)
    )
    assert long.reward.shape == (N, 130)
    assert np.all(long.mask)  # the task's own limit comes later
    np.testing.assert_array_equal(long.action[:, :60], short.action)
    np.testing.assert_allclose(long.observation[:, :60], short.observation, rtol=0, atol=1e-5)
    np.testing.assert_allclose(short.final_observation, long.observation[:, 60], rtol=0, atol=1e-5)
    assert len(np.unique(long.observation[0, :, 0])) > 120  # it moves at every step
    np.testing.assert_array_equal(np.argwhere(long.truncated), [[i, 129] for i in range(N)])
    # MountainCar: the position after a step is the one before it and the velocity after it.
    position, velocity = np.moveaxis(np.asarray(long.observation), -1, 0)
    np.testing.assert_allclose(position[:, 1:], position[:, :-1] + velocity[:, 1:], atol=1e-6)


def test_cartpole_ends_outside_its_bounds_and_not_at_a_reset_observation() -> None:
    params = environment("CartPole-v1")[1]
    batch = rolled("CartPole-v1", [3, -3], jax.random.key(11))
    assert np.all(np.any(batch.terminated, axis=1))
    fallen = np.abs(batch.final_observation[:, 2]) > params.theta_threshold_radians
    gone = np.abs(batch.final_observation[:, 0]) > params.x_threshold
    assert np.all(fallen | gone)  # a reset observation lies within 0.05 of zero


def test_both_flags_of_deep_sea_are_kept_and_it_counts_as_ended() -> None:
    batch = sampled("DeepSea-bsuite")
    np.testing.assert_array_equal(batch.terminated, batch.truncated)
    assert np.all(np.any(batch.terminated, axis=1))
    completed = replace(batch, final_value=np.full(N, 1e6, np.float32))
    returns = jax.jit(lambda batch: pgjax.weights.returns_to_go(batch, 1.0))
    np.testing.assert_array_equal(returns(completed), returns(batch))


def test_a_time_limit_of_the_task_truncates_and_a_shorter_one_does_so_earlier() -> None:
    batch = rolled("MountainCar-v0", np.zeros(3), jax.random.key(0), max_steps_in_episode=5)
    np.testing.assert_array_equal(np.sum(batch.mask, axis=1), 5)
    np.testing.assert_array_equal(batch.truncated[:, 4], True)
    assert not np.any(batch.terminated)


# A tabular MDP, where every trajectory's probability is known.

MDP = tabular.random_mdp()
POLICY = pgjax.tabular_softmax(4, 2)
COUNT, HORIZON = 2**15, 3
ALPHA = 1e-6


@pytest.fixture(scope="module")
def many(table: np.ndarray) -> Trajectory:
    return pgjax.rollout(
        POLICY, table, MDP, jax.random.key(5), num_trajectories=COUNT, num_steps=HORIZON,
    )  # fmt: skip


def labels(batch: Trajectory) -> list[tuple]:
    """Each trajectory as the states and actions of its steps, and the last state."""
    mask = np.asarray(batch.mask)
    states = np.argmax(np.asarray(batch.observation), axis=-1)
    finals = np.argmax(np.asarray(batch.final_observation), axis=-1)
    actions = np.asarray(batch.action)
    return [
        (*zip(states[i][mask[i]], actions[i][mask[i]], strict=True), finals[i])
        for i in range(len(mask))
    ]


def p_value(batch: Trajectory, table: np.ndarray) -> float:
    """Chi-square of the sampled trajectories against their probabilities under `table`."""
    every, probability = enumeration.trajectories(Problem(MDP, POLICY, table, HORIZON))
    index = {label: i for i, label in enumerate(labels(every))}
    assert len(index) == len(probability)
    seen = np.bincount([index[label] for label in labels(batch)], minlength=len(probability))
    expected = probability * len(batch.reward)
    rare = expected < 5  # merged into one cell, where the approximation would not hold
    if np.any(rare):
        seen = np.append(seen[~rare], seen[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    return float(scipy.stats.chisquare(seen, expected).pvalue)


def test_trajectories_come_with_their_exact_probabilities(
    many: Trajectory, table: np.ndarray
) -> None:
    # α = 1e-6: a right sampler fails with one seed in a million.
    assert p_value(many, table) > ALPHA


def test_the_same_chi_square_rejects_a_slightly_wrong_policy(
    many: Trajectory, table: np.ndarray
) -> None:
    # Power: from the noncentral chi-square with Σ N (p − q)² / q, above 999 in a thousand.
    wrong = table.copy()
    wrong[2, 0] += 0.3
    _, p = enumeration.trajectories(Problem(MDP, POLICY, table, HORIZON))
    _, q = enumeration.trajectories(Problem(MDP, POLICY, wrong, HORIZON))
    noncentrality = COUNT * np.sum((p - q) ** 2 / q)
    critical = scipy.stats.chi2.isf(ALPHA, len(p) - 1)
    assert scipy.stats.ncx2.sf(critical, len(p) - 1, noncentrality) > 1 - 1e-3
    assert p_value(many, wrong) < ALPHA


def test_a_tabular_rollout_records_what_enumeration_lists(
    many: Trajectory, table: np.ndarray
) -> None:
    every, _ = enumeration.trajectories(Problem(MDP, POLICY, table, HORIZON))
    index = {label: i for i, label in enumerate(labels(every))}
    listed = np.array([index[label] for label in labels(many)])
    for name in ("reward", "log_prob", "mask", "terminated", "truncated"):
        one, other = np.asarray(getattr(many, name)), np.asarray(getattr(every, name))[listed]
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_sampled_gradient_agrees_with_the_exact_one(many: Trajectory, table: np.ndarray) -> None:
    # The mean of 2^15 gradients, in standard errors from the exact covariance. α = 1e-6 over eight
    # coordinates by Bonferroni: 5.4. Power: the mismatched gradient lies beyond 10 of them.
    estimator = pgjax.reward_to_go(MDP.discount)
    moments = enumeration.moments(estimator, Problem(MDP, POLICY, table, HORIZON))
    found = np.ravel(pgjax.gradient(estimator, POLICY, jnp.asarray(table, jnp.float32), many))
    error = np.sqrt(np.diag(moments.covariance) / COUNT)
    bound = scipy.stats.norm.isf(ALPHA / 16) * error + 1e-5
    assert np.all(np.abs(found - moments.mean) < bound)
    other = pgjax.exact.mismatched_gradient(Problem(MDP, POLICY, table, HORIZON)).ravel()
    assert np.any(np.abs(other - moments.mean) > 10 * error + 1e-5)


# The sizes of the batch above: one program for all.
SIZES: dict[str, Any] = {"num_trajectories": COUNT, "num_steps": HORIZON}


def test_a_raw_key_is_the_wrapped_one() -> None:
    raw = jax.random.PRNGKey(9)
    one = pgjax.rollout(POLICY, np.zeros((4, 2)), MDP, raw, **SIZES)
    other = pgjax.rollout(POLICY, np.zeros((4, 2)), MDP, jax.random.wrap_key_data(raw), **SIZES)
    chex.assert_trees_all_equal(one, other)


def test_trajectories_of_a_batch_differ_and_the_same_key_repeats_them() -> None:
    one, again, other = (
        pgjax.rollout(POLICY, np.zeros((4, 2)), MDP, jax.random.key(seed), **SIZES)
        for seed in (9, 9, 10)
    )
    chex.assert_trees_all_equal(one, again)
    assert np.any(np.asarray(one.reward) != np.asarray(other.reward))
    # 64 draws from some hundred trajectories, none above a tenth: a key shared by all would
    # make them equal.
    assert len(set(labels(rows(one, slice(64))))) > 16


def test_a_second_rollout_of_another_mdp_of_the_same_shape_does_not_recompile() -> None:
    traced = []

    def logits(params: Any, observation: Any) -> Any:
        traced.append(observation)
        return observation @ params

    policy = pgjax.softmax_policy(lambda key, s: jnp.zeros((4, 2)), logits)
    settings: dict[str, Any] = {"num_trajectories": 4, "num_steps": 3}
    pgjax.rollout(policy, jnp.zeros((4, 2)), MDP, jax.random.key(0), **settings)
    before = len(traced)
    assert before > 0
    other = tabular.random_mdp(seed=1, discount=0.3)
    pgjax.rollout(policy, jnp.ones((4, 2)), other, jax.random.key(1), **settings)
    assert len(traced) == before


def test_nothing_in_a_rollout_has_a_gradient() -> None:
    @jax.jit
    @jax.grad
    def slope(params: Any) -> Any:
        batch = pgjax.rollout(
            POLICY, params, MDP, jax.random.key(0), num_trajectories=4, num_steps=3
        )
        return jnp.sum(batch.reward) + jnp.sum(batch.log_prob)

    np.testing.assert_array_equal(slope(jnp.zeros((4, 2))), np.zeros((4, 2)))
