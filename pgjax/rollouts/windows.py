"""Windows: fixed numbers of steps out of endless streams of episodes, a new one after each end.

A rollout gives whole episodes, and waits for the longest. A stream is cut wherever the sampler
stops: the next window goes on from there. Several episodes can stand in one row; `time` tells how
old each step's episode is, and what followed a step is kept in its own episode, so that no critic
is ever asked about the start of another one.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key, UInt32

from pgjax.core.compilation import compiled
from pgjax.core.episode_boundaries import age
from pgjax.core.randomness import hoist
from pgjax.core.validation import check_key, check_positive
from pgjax.environments.actions import as_taken, check_actions
from pgjax.environments.base import Environment, seen, stable
from pgjax.types import Observation, Params, Policy, Trajectory


class Running(NamedTuple):
    """An episode under way, of one row; a batch has a leading N.

    Attributes:
        state: of the environment.
        observation: [...] what the policy sees next.
        time: the steps that the episode has lasted.
        total: the undiscounted reward that it has brought.
    """

    state: Any
    observation: Observation
    time: Int[Array, "*batch"]
    total: Float[Array, "*batch"]


class Stream(NamedTuple):
    """N endless sequences of episodes, where they stand; a pytree of arrays, which may be saved.

    Attributes:
        running: [N] the episodes under way.
        clock: the steps that each row has taken; with the keys it decides all that is drawn.
        keys: [N, 3] of each row's starts, actions and environment's steps.
    """

    running: Running
    clock: Int[Array, ""]
    keys: Key[Array, "N 3"]


class Window(NamedTuple):
    """T steps of each of N streams, before any critic has judged them.

    Attributes:
        batch: [N, T], without values; no step is masked. `truncated` is true where the task's own
            limit cut the episode, and at the last step, where the window did.
        next_observation: [N, T, ...] what followed each step in its own episode: never a reset
            observation.
        ended: [N, T] true at the last step of an episode: a cut by the window is none.
        total: [N, T] the undiscounted reward of the step's episode up to this step.
    """

    batch: Trajectory
    next_observation: Observation
    ended: Bool[Array, "N T"]
    total: Float[Array, "N T"]


class Finished(NamedTuple):
    """Statistics of the episodes that ended in a window.

    Attributes:
        number: how many.
        mean_return: their mean undiscounted return; NaN where none ended.
        standard_error: of that mean; NaN where fewer than two ended.
        mean_length: steps an episode; NaN where none ended.
    """

    number: Int[Array, ""]
    mean_return: Float[Array, ""]
    standard_error: Float[Array, ""]
    mean_length: Float[Array, ""]


def start(
    environment: Environment, key: Key[Array, ""] | UInt32[Array, "2"], num_environments: int
) -> Stream:
    """N streams at the start of their first episodes.

    Args:
        environment: from `pgjax.environments`.
        key: from `jax.random.key`; it decides all that the streams will ever draw.
        num_environments: N.

    Returns:
        The Stream that `window` moves on.

    Raises:
        TypeError: an environment that is none, a key that is none.
        ValueError: N below one.

    Example:
        >>> import jax, pgjax
        >>> stream = start(pgjax.environments.make("CartPole-v1"), jax.random.key(0), 3)
        >>> stream.running.observation.shape, int(stream.clock)
        ((3, 4), 0)
    """
    if not isinstance(environment, Environment):
        raise TypeError(
            f"environment must be a pgjax Environment, got {type(environment).__name__}; "
            "pgjax.environments.make(name) gives one"
        )
    N = check_positive("num_environments", num_environments)
    return _start(environment, N, check_key(key))


def window(
    policy: Policy, params: Params, environment: Environment, stream: Stream, *, num_steps: int
) -> tuple[Stream, Window]:
    """The next T steps of every stream under a policy.

    An episode ends where the environment terminates it or its time limit truncates it; the next
    step is the first of a new one. Two windows in a row are the window of both lengths, but for the
    flag at the seam. Compiled once for each policy, environment and T.

    Args:
        policy: acts, and records log π of its actions. It has no memory: a window may begin within
            an episode whose first steps are gone.
        params: of the policy.
        environment: the one that the stream was started with.
        stream: from `start`, or from the last window.
        num_steps: T.

    Returns:
        The stream T steps on, and the window. Everything is a constant under differentiation.

    Raises:
        TypeError: a policy that is none, or whose actions are not the environment's.
        ValueError: T below one.

    Bias: exact draws from the chain of episodes and starts. A window holds each step of an episode
        equally often in the long run, but the episodes that *end* in it are the short ones more
        often than not: their mean return is no unbiased estimate of J.

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
    if not isinstance(policy, Policy):
        raise TypeError(
            f"policy must be a pgjax.Policy, got {type(policy).__name__}; "
            "a policy with a memory needs whole episodes: pgjax.rollout"
        )
    return _window(policy, environment, check_positive("num_steps", num_steps), params, stream)


def with_values(window: Window, value: Callable[[Observation], Array]) -> Trajectory:
    """A critic's opinion of a window, as arrays: `value` V(s_t) and `next_value` V(what followed).

    Args:
        window: from `window`.
        value: one observation -> V(s), a scalar in units of return. Bind its parameters first.

    Returns:
        The batch with `value` and `next_value`, constants under differentiation. Within an episode
        the latter is the value of the next step; where a limit or the window cut it, the critic is
        asked once more; where it terminated, zero.

    Bias: the critic's.

    References:
        Schulman et al., High-Dimensional Continuous Control (2016), for what becomes of them.
    """
    batch = window.batch
    of_steps = jax.vmap(jax.vmap(value))
    values = of_steps(batch.observation)

    def of_all() -> Array:
        return of_steps(window.next_observation)

    def of_the_last() -> Array:
        return jnp.concatenate(
            [values[:, 1:], jax.vmap(value)(batch.final_observation)[:, None]], 1
        )

    # Within an episode, what follows is the next step's observation, whose value is known.
    cut_inside = jnp.any((batch.truncated & ~batch.terminated)[:, :-1])
    next_value = jax.lax.cond(cut_inside, of_all, of_the_last)
    next_value = jnp.where(batch.terminated, 0, next_value)
    values, next_value = jax.lax.stop_gradient((values, next_value))
    return replace(batch, value=values, next_value=next_value)


def finished(window: Window) -> Finished:
    """Number, mean return and mean length of the episodes that ended in a window.

    Args:
        window: from `window`. An episode that began in an earlier one counts in full.

    Returns:
        Finished, of scalars.

    Bias: long episodes are under-represented, because fewer of them end.
    """
    ended, total, time = window.ended, window.total, age(window.batch)
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


@compiled(2)
def _start(environment: Environment, num_environments: int, key: Array) -> Stream:
    keys = jax.random.split(key, (num_environments, 3))
    running = jax.vmap(partial(_fresh, stable(environment)))(_at(keys[:, 0], jnp.int32(0)))
    return Stream(running, jnp.int32(0), keys)


@compiled(3)
def _window(
    policy: Policy, environment: Environment, num_steps: int, params: Params, stream: Stream
) -> tuple[Stream, Window]:
    params = jax.lax.stop_gradient(params)
    step = partial(_step, policy, stable(environment), params)
    example = stream.keys[0, 0], jax.tree.map(lambda x: x[0], stream.running.observation)
    check_actions(environment, jax.eval_shape(partial(policy.sample, params), *example)[0])
    first_keys, first = jax.tree.map(lambda x: x[0], (tuple(stream.keys.T), stream.running))
    draw, advance = hoist(step, first_keys, first)
    keys = stream.keys

    def draw_at(time: Array) -> list[Array]:
        # The start at time 0 has been used: the one after step t is that of time t + 1.
        starts, actions, steps = (
            _at(keys[:, i], time + later) for i, later in enumerate((1, 0, 0))
        )
        return jax.vmap(draw)((starts, actions, steps))

    def all_rows(running: Running, draws: list[Array]) -> tuple[Running, dict[str, Any]]:
        return jax.vmap(advance)(draws, running)

    # What the steps draw, new starts included, depends on keys alone: it is drawn for a chunk of
    # steps at once, where inside the loop it would be a few numbers at a time.
    def chunk(running: Running, times: Array) -> tuple[Running, dict[str, Any]]:
        return jax.lax.scan(all_rows, running, jax.vmap(draw_at)(times))

    times = stream.clock + jnp.arange(num_steps, dtype=jnp.int32)
    times = times.reshape(-1, _chunk_length(num_steps))
    running, record = jax.lax.scan(chunk, stream.running, times)
    record = jax.tree.map(lambda x: x.reshape(num_steps, *x.shape[2:]), record)
    record = jax.lax.stop_gradient(jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), record))
    running = jax.lax.stop_gradient(running)
    return Stream(running, stream.clock + num_steps, keys), _assemble(record)


def _chunk_length(num_steps: int) -> int:
    """All steps of a usual window; of a longer one a divisor, so that few are drawn at once."""
    if num_steps <= 256:
        return num_steps
    return max((k for k in range(16, 257) if num_steps % k == 0), default=num_steps)


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
    policy: Policy,
    environment: Environment,
    params: Params,
    keys: tuple[Array, Array, Array],
    running: Running,
) -> tuple[Running, dict[str, Any]]:
    """One step of one row, and a new start if it was the episode's last."""
    start_key, action_key, step_key = keys
    action, log_prob = policy.sample(params, action_key, running.observation)
    action, handed = as_taken(environment.action_space, action)
    state, step = environment.step(step_key, running.state, handed)
    following, total = seen(step), running.total + jnp.asarray(step.reward, running.total.dtype)
    record = {
        "observation": running.observation,
        "action": action,
        "reward": step.reward,
        "log_prob": log_prob,
        "terminated": step.terminated,
        "truncated": step.truncated,
        "next_observation": following,
        "time": running.time,
        "total": total,
    }
    went_on = Running(state, following, running.time + 1, total)
    began = _fresh(environment, start_key)
    ended = step.terminated | step.truncated
    return jax.tree.map(partial(jnp.where, ended), began, went_on), record


def _fresh(environment: Environment, key: Array) -> Running:
    state, step = environment.init(key)
    return Running(state, seen(step), jnp.int32(0), jnp.zeros(()))


def _at(keys: Array, time: Array) -> Array:
    return jax.vmap(partial(jax.random.fold_in, data=time))(keys)
