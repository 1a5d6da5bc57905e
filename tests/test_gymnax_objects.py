"""What users make of gymnax: environments without a time limit, wrappers, a step of six values."""

from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment, spaces
from gymnax.wrappers import (
    FlattenObservationWrapper,
    LegacyStepAPIWrapper,
    LogWrapper,
    StickyActionWrapper,
)
from gymnax.wrappers.purerl import GymnaxWrapper

import pgjax
from pgjax.environments import from_gymnax

POLICY, TABLE = pgjax.tabular_softmax(1, 2), np.zeros((1, 2), np.float32)


@struct.dataclass
class Nothing:
    """Parameters without max_steps_in_episode."""


@struct.dataclass
class Count:
    time: Any


class Counter(environment.Environment):
    """Five steps, by a limit of its own; the state is the time, and the reward the action."""

    @property
    def default_params(self) -> Any:
        return Nothing()

    def reset_env(self, key: Any, params: Any) -> tuple[Any, Any]:
        return jnp.ones(1), Count(jnp.int32(0))

    def step_env(self, key: Any, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        state = Count(state.time + 1)
        return jnp.ones(1), state, jnp.float32(action), jnp.bool_(False), {}

    def is_truncated(self, state: Any, params: Any) -> Any:
        return state.time >= 5

    def action_space(self, params: Any) -> Any:
        return spaces.Discrete(2)

    def observation_space(self, params: Any) -> Any:
        return spaces.Box(0, 1, (1,))


class Endless(Counter):
    is_truncated = environment.Environment.is_truncated  # it reads the limit that is not there


class SixValues(Counter):
    def step_env(self, key: Any, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        return (*super().step_env(key, state, action, params), "one more")


def roll(task: Any, num_steps: int = 8) -> pgjax.Trajectory:
    return pgjax.rollout(
        POLICY, TABLE, task, jax.random.key(0), num_trajectories=3, num_steps=num_steps
    )


def test_parameters_without_a_time_limit_leave_it_to_the_environment() -> None:
    batch = roll(Counter())
    assert batch.mask.sum(axis=1).tolist() == [5, 5, 5]
    assert batch.truncated.sum(axis=1).tolist() == [1, 1, 1]
    assert from_gymnax.adapt(Counter()).time_limit is None
    assert roll(Endless()).mask.all()


def test_a_step_of_another_number_of_values_is_told_so() -> None:
    with pytest.raises(TypeError, match=r"SixValues\.step_env must return .* got 6 values"):
        roll(SixValues())


def test_a_wrapper_that_only_logs_changes_nothing() -> None:
    plain, logged = roll(Counter()), roll(LogWrapper(Counter()))
    jax.tree.map(np.testing.assert_array_equal, plain, logged)


def test_a_wrapper_that_flattens_observations_flattens_them() -> None:
    catch = gymnax.make("Catch-bsuite")[0]
    task = from_gymnax.adapt(LogWrapper(FlattenObservationWrapper(catch)))

    @jax.jit
    def both(key: Any) -> tuple[Any, Any, Any]:
        state, step = task.init(key)
        observation, _ = catch.reset_env(key, catch.default_params)
        return step.observation, observation, task.step(key, state, jnp.int32(0))[1].observation

    first, theirs, second = both(jax.random.key(0))
    np.testing.assert_array_equal(first, np.ravel(theirs))
    assert second.shape == (50,)


def test_a_wrapper_that_repeats_actions_does_so_as_in_gymnax() -> None:
    """Catch's steps are deterministic: only the draw of the repetition is random."""
    catch, params = gymnax.make("Catch-bsuite")
    wrapped = StickyActionWrapper(catch, 0.5)
    task = from_gymnax.adapt(wrapped)

    @jax.jit
    def begin(key: Any) -> tuple[Any, Any]:
        return task.init(key)[0], wrapped.reset(key, params)[1]

    @jax.jit
    def go_on(key: Any, state: Any, theirs: Any) -> tuple[Any, ...]:
        """To the other side; what both show, and whether the action was the last one again."""
        action = 2 - theirs.last_action
        state, step = task.step(key, state, action)
        expected, theirs, *_ = wrapped.step(key, theirs, action, params)
        return state, theirs, step.observation, expected, theirs.last_action != action

    state, theirs = begin(jax.random.key(3))
    repeated = []
    for key in jax.random.split(jax.random.key(4), 8):
        state, theirs, observation, expected, again = go_on(key, state, theirs)
        np.testing.assert_array_equal(observation, expected)
        repeated.append(bool(again))
    assert len(set(repeated)) == 2  # both happened, so that leaving it out would be seen


class Unknown(GymnaxWrapper):
    pass


def test_another_wrapper_is_refused_by_its_name() -> None:
    with pytest.raises(
        TypeError, match=r"alone or in LogWrapper.*got a Unknown; give the environment in"
    ):
        roll(Unknown(Counter()))
    with pytest.raises(TypeError, match=r"environment must be .* got a LegacyStepAPIWrapper"):
        roll(LegacyStepAPIWrapper(Counter()))
