"""Rollouts: batches of whole episodes from environments of any kind.

There is no auto-reset: a finished environment is frozen, and the observation after the last step is
kept.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Key

from pgjax.core.devices import check_mesh, over_devices, varying
from pgjax.core.randomness import split_random_draws
from pgjax.core.validation import check_counts, check_key, check_leaves, check_policy
from pgjax.environments.base import Environment, stable
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.rollouts.stepping import (
    Act,
    Episode,
    begin,
    check_number_of_actions,
    chunk_length,
    draws_at,
    freeze,
    policy_act,
    step,
)
from pgjax.types import KeyLike, Params, Policy, RecurrentPolicy, Trajectory


def rollout(
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: AnyEnvironment,
    key: KeyLike,
    *,
    num_trajectories: int,
    num_steps: int,
    mesh: Mesh | None = None,
) -> Trajectory:
    """N independent episodes of at most T steps under a policy, as one batch.

    An episode ends where the environment terminates it or its own time limit truncates it; the
    sampler's last step truncates every episode that still runs. After its end the mask is false,
    the environment is frozen and the reward is zero.

    Actions are handed on as sampled: integers as int32, real vectors in the shape of the
    environment's Box, and not clipped to its bounds. Clipping is left to the environment (brax and
    gymnax's Pendulum clip, others take any number) or to a squashed policy.

    Args:
        policy: the policy that acts. The memory of a RecurrentPolicy is carried along each episode.
            If the environment has an action mask, the policy sees MaskedObservations, and the batch
            holds them.
        params: the policy's parameters.
        environment: an Environment from `pgjax.environments`, a TabularMDP, or a gymnax environment
            with its default parameters (`from_gymnax.adapt` takes others).
        key: from `jax.random.key`, of any implementation, or a raw uint32 key.
        num_trajectories: N.
        num_steps: T.
        mesh: the devices, of one host or of many, over which the trajectories are spread; the same
            key gives the same trajectories on any number of them. None is the default device.

    Returns:
        A batch [N, T] with final observations, without values. Rewards are floating; everything is
        a constant under differentiation.

    Raises:
        TypeError: if `environment` is not an environment, `key` not a JAX key, or the policy's
            actions are not the environment's (such as a Gaussian policy on Discrete actions).
        ValueError: if a size is below one, or N not a multiple of the mesh's devices.

    Bias: exact draws from P(τ), in the precision of the environment. Cutting an episode that the
        task does not cut changes the estimand to the T-step objective, unless it is bootstrapped.

    References:
        gymnax: Lange (2022).

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> mdp = pgjax.tabular.random_mdp()
        >>> policy = pgjax.tabular_softmax(4, 2)
        >>> batch = rollout(
        ...     policy, jnp.zeros((4, 2)), mdp, jax.random.key(0), num_trajectories=3, num_steps=5)
        >>> batch.reward.shape
        (3, 5)
    """
    check_policy(policy)
    check_leaves("params", params)
    check_counts(num_trajectories=num_trajectories, num_steps=num_steps)
    check_mesh(mesh)
    sizes = num_trajectories, num_steps
    return _rollout(policy, params, as_environment(environment), check_key(key), sizes, mesh)


@partial(jax.jit, static_argnames=("sizes", "mesh"))
def _rollout(
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: Environment,
    key: Array,
    sizes: tuple[int, int],
    mesh: Mesh | None,
) -> Trajectory:
    def run(whole: tuple[Params, Environment], keys: Array) -> Trajectory:
        return episodes(policy, sizes[1], whole, keys)

    return over_devices(run, mesh, (params, environment), episode_keys(key, sizes[0]))


def episode_keys(key: Key[Array, ""], num_trajectories: int) -> Key[Array, "N 3"]:
    """The keys of each trajectory's start, of its actions and of its environment's steps."""
    return jax.random.split(key, (num_trajectories, 3))


def episodes(
    policy: Policy | RecurrentPolicy,
    num_steps: int,
    whole: tuple[Params, Environment],
    keys: Key[Array, "N 3"],
) -> Trajectory:
    """A batch [N, T] with one episode for each row of keys; trajectory i depends on row i alone.

    All N advance together, a chunk of steps at a time. The random numbers of a chunk are drawn
    before it. Once every episode has ended, no further chunk is run.

    Args:
        policy: the policy that acts.
        num_steps: T.
        whole: the policy's parameters, and the environment.
        keys: [N, 3] from `episode_keys`.
    """
    params, environment = jax.lax.stop_gradient(whole)
    environment = stable(environment)
    memory, act = policy_act(policy, params)
    start_keys, action_keys, step_keys = keys[:, 0], keys[:, 1], keys[:, 2]
    start = jax.vmap(partial(begin, environment, memory))(start_keys)
    start = varying(start, (params, keys))
    first = jax.tree.map(lambda x: x[0], start)
    check_number_of_actions(policy, params, environment, first.observation)
    one_step = partial(_step, environment, act, num_steps)
    draw, advance = split_random_draws(
        one_step, (action_keys[0], step_keys[0]), (jnp.int32(0), first)
    )

    def chunk(start: Episode, times: Array) -> tuple[Episode, dict]:
        draws = draws_at(draw, (action_keys, step_keys), (times, times))

        def one(now: Episode, x: Any) -> tuple[Episode, dict]:
            time, draws = x
            return jax.vmap(lambda d, c: advance(d, (time, c)))(draws, now)

        return jax.lax.scan(one, start, (times, draws))

    final, record = _until_all_ended(chunk, start, num_steps)
    return Trajectory(**record, final_observation=final.observation)


def _step(
    environment: Environment,
    act: Act,
    num_steps: int,
    keys: tuple[Array, Array],
    timed: tuple[Array, Episode],
) -> tuple[Episode, dict]:
    """One step of one episode, and its record for the batch."""
    time, now = timed
    after, taken = freeze(now, *step(environment, act, keys, now), time == num_steps - 1)
    record = {
        "observation": taken.observation,
        "action": taken.action,
        "reward": taken.reward,
        "log_prob": jnp.where(taken.alive, taken.note, 0),
        "terminated": taken.terminated,
        "truncated": taken.truncated,
        "mask": taken.alive,
    }
    return after, record


def _until_all_ended(
    chunk: Callable[[Episode, Array], tuple[Episode, dict]], start: Episode, num_steps: int
) -> tuple[Episode, dict]:
    """Chunks of steps, recorded as [N, T, ...], until time T or until no episode is alive.

    Each chunk is transposed while it is in cache; all of [T, N] would not fit there.
    """
    # Long enough to be worth its overhead, short enough to stop soon after the last episode; a
    # divisor of T needs no padding.
    length = chunk_length(num_steps, range(32, 65), default=50)
    times = jnp.arange(length, dtype=jnp.int32)
    if length == num_steps:
        final, record = chunk(start, times)
        return final, jax.tree.map(_batch_first, record)
    num_chunks = -(-num_steps // length)
    shapes = jax.eval_shape(chunk, start, times)[1]
    empty = jax.tree.map(
        lambda x: jnp.zeros((x.shape[1], num_chunks * length, *x.shape[2:]), x.dtype), shapes
    )
    empty = varying(empty, start)

    def unfinished(loop: Any) -> Array:
        index, carry, _ = loop
        return (index < num_chunks) & jnp.any(carry.alive)

    def run(loop: Any) -> Any:
        index, carry, record = loop
        carry, new = chunk(carry, index * length + times)
        record = jax.tree.map(
            lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, _batch_first(y), index * length, 1),
            record,
            new,
        )
        return index + 1, carry, record

    _, final, record = jax.lax.while_loop(unfinished, run, (jnp.int32(0), start, empty))
    return final, jax.tree.map(lambda x: x[:, :num_steps], record)


def _batch_first(x: Array) -> Array:
    return jnp.swapaxes(x, 0, 1)
