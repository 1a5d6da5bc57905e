"""Windows: a fixed number of steps from endless streams of episodes, each restarted after its end.

A rollout returns whole episodes, and waits for the longest. A stream is cut where the sampler
stops, and the next window continues there. Several episodes can stand in one row; `time` is the age
of each step's episode. The observation after a step is always that of the step's own episode, so
that a critic is never evaluated at the start of another one.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from pgjax.core.episode_boundaries import time_in_episode
from pgjax.core.randomness import split_random_draws
from pgjax.core.validation import (
    check_key,
    check_kind,
    check_leaves,
    check_policy,
    check_positive,
)
from pgjax.environments.base import Environment, stable
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.rollouts.stepping import (
    Act,
    Episode,
    begin,
    check_number_of_actions,
    chunk_length,
    draws_at,
    policy_act,
    select,
    step,
)
from pgjax.types import (
    KeyLike,
    Observation,
    Params,
    Policy,
    RecurrentPolicy,
    Trajectory,
    check_function,
    describe,
)


class Running(NamedTuple):
    """The episode in progress of one row; a batch has a leading N.

    Attributes:
        state: the environment's state.
        observation: [...] the observation that the policy sees next.
        time: the number of steps of the episode so far.
        total: its undiscounted reward so far.
        memory: the policy's memory before that observation; () if it has none.
    """

    state: Any
    observation: Observation
    time: Int[Array, "*batch"]
    total: Float[Array, "*batch"]
    memory: Any = ()


class Stream(NamedTuple):
    """N endless sequences of episodes at their current step, as a pytree that may be saved.

    Attributes:
        running: [N] the episodes in progress.
        clock: the number of steps that each row has taken; with the keys it decides all draws.
        keys: [N, 3] the keys of each row's starts, actions and environment's steps.
    """

    running: Running
    clock: Int[Array, ""]
    keys: Key[Array, "N 3"]


class Window(NamedTuple):
    """T steps of each of N streams, without a critic's values.

    Attributes:
        batch: [N, T], without values; no step is masked. `truncated` is true where the task's own
            limit cut the episode, and at the window's last step.
        next_observation: [N, T, ...] the observation after each step, in the step's own episode:
            never a reset observation.
        ended: [N, T] true at the last step of an episode. The window's own cut does not end one.
        total: [N, T] the undiscounted reward of the step's episode, up to this step and with it.
        memory: [N, ...] the policy's memory before each row's first step; () if it has none.
    """

    batch: Trajectory
    next_observation: Observation
    ended: Bool[Array, "N T"]
    total: Float[Array, "N T"]
    memory: Any = ()


class Finished(NamedTuple):
    """Statistics of the episodes that ended in a window.

    Attributes:
        number: the number of episodes.
        mean_return: their mean undiscounted return; NaN if there is none.
        standard_error: the standard error of that mean; NaN for fewer than two episodes.
        mean_length: the mean number of their steps; NaN if there is none.
    """

    number: Int[Array, ""]
    mean_return: Float[Array, ""]
    standard_error: Float[Array, ""]
    mean_length: Float[Array, ""]


def start(
    environment: AnyEnvironment, key: KeyLike, num_environments: int, memory: Any = ()
) -> Stream:
    """N streams at the start of their first episodes.

    Args:
        environment: as for `pgjax.rollout`.
        key: from `jax.random.key`; it decides every later draw of the streams.
        num_environments: N.
        memory: `policy.memory(params)` of a RecurrentPolicy; () without a memory.

    Returns:
        The Stream that `window` advances.

    Example:
        >>> import jax, pgjax
        >>> stream = start(pgjax.environments.make("CartPole-v1"), jax.random.key(0), 3)
        >>> stream.running.observation.shape, int(stream.clock)
        ((3, 4), 0)
    """
    N = check_positive("num_environments", num_environments)
    check_leaves("memory", memory)
    return _start(as_environment(environment), check_key(key), memory, N)


def window(
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: AnyEnvironment,
    stream: Stream,
    *,
    num_steps: int,
) -> tuple[Stream, Window]:
    """The next T steps of every stream under a policy.

    An episode ends where the environment terminates it or its time limit truncates it; the next
    step is the first of a new one. Two windows, one after the other, hold the same steps as one
    window of both lengths; only the flag of the cut between them differs.

    Args:
        policy: the policy that acts. A RecurrentPolicy's memory is carried from window to window,
            and starts anew at each new episode. Give its initial memory to `start`.
        params: the policy's parameters.
        environment: the one that the stream was started with.
        stream: from `start`, or from the last window.
        num_steps: T.

    Returns:
        The stream T steps later, and the window.

    Raises:
        TypeError: if `policy` is not a policy.
        ValueError: if the stream's memory is not like the policy's.

    Bias: exact draws from the chain of episodes and starts. In the long run windows hold each step
        of an episode equally often. But the episodes that *end* in a window are mostly short ones:
        their mean return is not an unbiased estimate of J.

    References:
        Pardo et al., Time Limits in Reinforcement Learning (2018), for the two kinds of cut.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> from pgjax.environments import from_tabular
        >>> walk = from_tabular.adapt(pgjax.tabular.random_mdp())
        >>> policy, params = pgjax.tabular_softmax(4, 2), jnp.zeros((4, 2))
        >>> stream = start(walk, jax.random.key(0), num_environments=4)
        >>> stream, here = window(policy, params, walk, stream, num_steps=10)
        >>> here.batch.reward.shape, here.batch.mask.all().item()
        ((4, 10), True)
    """
    check_policy(policy)
    check_leaves("params", params)
    check_kind("stream", stream, Stream, "windows.start gives one")
    _check_memory(policy, params, stream)
    check_positive("num_steps", num_steps)
    return _window(policy, params, as_environment(environment), stream, num_steps)


def with_values(window: Window, value: Callable[[Observation], Array]) -> Trajectory:
    """A window's batch with a critic's values before and after each step.

    Args:
        window: from `window`.
        value: one observation -> V(s), a scalar in units of return. Bind its parameters first.

    Returns:
        The batch with `value` [N, T] and `next_value` [N, T], constants under differentiation.
        Within an episode `next_value` is the value of the next step. Where a limit or the window
        cut the episode, it is the value of the observation after the step. Where the episode
        terminated, it is zero.

    Raises:
        TypeError: if `window` is not a Window, or `value` is not a function.

    Bias: the critic's error, wherever an estimator bootstraps from these values.

    References:
        Schulman et al., High-Dimensional Continuous Control (2016), for advantages from such
        values.
    """
    check_kind("window", window, Window, "windows.window gives one")
    check_function("value", value, "observation -> scalar")
    batch = window.batch
    of_steps = jax.vmap(jax.vmap(value))
    values = of_steps(batch.observation)

    def of_all() -> Array:
        return of_steps(window.next_observation)

    def of_the_last() -> Array:
        return jnp.concatenate(
            [values[:, 1:], jax.vmap(value)(batch.final_observation)[:, None]], 1
        )

    # Within an episode the observation after a step is that of the next step: its value is known.
    cut_inside = jnp.any((batch.truncated & ~batch.terminated)[:, :-1])
    next_value = jax.lax.cond(cut_inside, of_all, of_the_last)
    next_value = jnp.where(batch.terminated, 0, next_value)
    values, next_value = jax.lax.stop_gradient((values, next_value))
    return replace(batch, value=values, next_value=next_value)


def finished(window: Window) -> Finished:
    """Number, mean return and mean length of the episodes that ended in a window.

    An episode that began in an earlier window counts in full.

    Bias: long episodes are under-represented, because fewer of them end.
    """
    check_kind("window", window, Window, "windows.window gives one")
    ended, total, time = window.ended, window.total, time_in_episode(window.batch)
    number = jnp.sum(ended)
    some = jnp.maximum(number, 1).astype(total.dtype)
    mean = jnp.sum(jnp.where(ended, total, 0)) / some
    squares = jnp.sum(jnp.where(ended, (total - mean) ** 2, 0))
    length = jnp.sum(jnp.where(ended, time + 1, 0)).astype(total.dtype) / some
    return Finished(
        number,
        jnp.where(number > 0, mean, jnp.nan),
        jnp.where(number > 1, jnp.sqrt(squares / jnp.maximum(some - 1, 1) / some), jnp.nan),
        jnp.where(number > 0, length, jnp.nan),
    )


def _check_memory(policy: Policy | RecurrentPolicy, params: Params, stream: Stream) -> None:
    needed = policy.memory(params) if isinstance(policy, RecurrentPolicy) else ()
    rows = jax.tree.map(jnp.shape, stream.running.memory)
    if rows != jax.tree.map(lambda x: (len(stream.keys), *jnp.shape(x)), needed):
        raise ValueError(
            f"stream must carry a memory of rows like {describe(needed)}, got shapes {rows}; start "
            "it with windows.start(environment, key, N, policy.memory(params))"
        )


@partial(jax.jit, static_argnames="num_environments")
def _start(environment: Environment, key: Array, memory: Any, num_environments: int) -> Stream:
    keys = jax.random.split(key, (num_environments, 3))
    first = jax.vmap(partial(jax.random.fold_in, data=0))(keys[:, 0])
    running = jax.vmap(partial(_begin, stable(environment), memory))(first)
    return Stream(running, jnp.int32(0), keys)


@partial(jax.jit, static_argnames="num_steps")
def _window(
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: Environment,
    stream: Stream,
    num_steps: int,
) -> tuple[Stream, Window]:
    params = jax.lax.stop_gradient(params)
    environment = stable(environment)
    memory, act = policy_act(policy, params)
    first_keys, first = jax.tree.map(lambda x: x[0], (tuple(stream.keys.T), stream.running))
    check_number_of_actions(policy, params, environment, first.observation)
    draw, advance = split_random_draws(partial(_step, environment, act, memory), first_keys, first)
    keys = tuple(stream.keys.T)

    def all_rows(running: Running, draws: list[Array]) -> tuple[Running, dict[str, Any]]:
        return jax.vmap(advance)(draws, running)

    # The random numbers of the steps and of new starts depend on keys alone. They are drawn for a
    # chunk of steps at once; inside the loop they would be drawn a few at a time.
    def chunk(running: Running, times: Array) -> tuple[Running, dict[str, Any]]:
        # The start at time 0 has been used: the one after step t is that of time t + 1.
        return jax.lax.scan(all_rows, running, draws_at(draw, keys, (times + 1, times, times)))

    times = stream.clock + jnp.arange(num_steps, dtype=jnp.int32)
    # A usual window is one chunk; of a longer one few steps are drawn at a time.
    times = times.reshape(-1, chunk_length(num_steps, range(16, 257)))
    running, record = jax.lax.scan(chunk, stream.running, times)
    record = jax.tree.map(lambda x: x.reshape(num_steps, *x.shape[2:]), record)
    record = jax.lax.stop_gradient(jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), record))
    running = jax.lax.stop_gradient(running)
    window = _assemble(record)._replace(memory=stream.running.memory)
    return Stream(running, stream.clock + num_steps, stream.keys), window


def _assemble(record: dict[str, Any]) -> Window:
    terminated, truncated = record["terminated"], record["truncated"]
    following = record["next_observation"]
    batch = Trajectory(
        observation=record["observation"],
        action=record["action"],
        reward=record["reward"],
        log_prob=record["log_prob"],
        terminated=terminated,
        truncated=truncated.at[:, -1].set(True),
        mask=jnp.ones(terminated.shape, bool),
        final_observation=jax.tree.map(lambda x: x[:, -1], following),
        time=record["time"],
    )
    return Window(batch, following, terminated | truncated, record["total"])


def _step(
    environment: Environment,
    act: Act,
    initial: Any,
    keys: tuple[Array, Array, Array],
    running: Running,
) -> tuple[Running, dict[str, Any]]:
    """One step of one row, followed by a new start if the episode ended."""
    start_key, action_key, step_key = keys
    now = Episode(running.observation, running.state, running.memory, jnp.bool_(True))
    after, taken = step(environment, act, (action_key, step_key), now)
    total = running.total + jnp.asarray(taken.reward, running.total.dtype)
    record = {
        "observation": taken.observation,
        "action": taken.action,
        "reward": taken.reward,
        "log_prob": taken.note,
        "terminated": taken.terminated,
        "truncated": taken.truncated,
        "next_observation": after.observation,
        "time": running.time,
        "total": total,
    }
    memory = jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), after.memory, running.memory)
    following = Running(after.state, after.observation, running.time + 1, total, memory)
    return select(after.alive, following, _begin(environment, initial, start_key)), record


def _begin(environment: Environment, memory: Any, key: Array) -> Running:
    episode = begin(environment, memory, key)
    return Running(episode.state, episode.observation, jnp.int32(0), jnp.zeros(()), memory)
