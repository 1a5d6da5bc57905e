"""Rollouts: environments of any kind into batches of whole episodes.

Everything goes through the surface of `pgjax.environments`: there is no auto-reset, a finished
environment stands still, and the observation after the last step is kept.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Key, UInt32

from pgjax.core.compilation import compiled
from pgjax.core.devices import over_devices, varying
from pgjax.core.randomness import hoist
from pgjax.core.validation import check_key, check_positive
from pgjax.environments.actions import as_taken, check_actions
from pgjax.environments.base import Environment, seen
from pgjax.environments.sources import AnyEnvironment, Source, resolve
from pgjax.types import Observation, Params, Policy, RecurrentPolicy, Trajectory


class Carry(NamedTuple):
    """What goes from step to step of an episode.

    Attributes:
        observation: what the policy sees next.
        state: of the environment.
        memory: of a policy that has one.
        alive: whether the episode goes on.
    """

    observation: Observation
    state: Any
    memory: Any
    alive: Array


def rollout(
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: AnyEnvironment,
    key: Key[Array, ""] | UInt32[Array, "2"],
    *,
    num_trajectories: int,
    num_steps: int,
    environment_params: Any = None,
    mesh: Mesh | None = None,
) -> Trajectory:
    """N independent episodes of at most T steps under a policy, as one batch.

    An episode ends where the environment terminates it or its own time limit truncates it; the
    sampler's last step truncates whatever still runs. After its end the mask is false, the
    environment stands still and the reward is zero. Compiled once for each policy, environment
    object and pair of sizes; a gymnax environment's parameters and an MDP's arrays may change.

    Actions are handed on as they were sampled: integers as int32, real vectors in the shape of the
    environment's Box, and not clipped to its bounds, which is for the environment to do (brax and
    gymnax's Pendulum do, others take any number) or for a squashed policy.

    Args:
        policy: acts, and records log π of its actions. The memory of a RecurrentPolicy is carried
            along each episode. Where the environment has an action mask, the policy sees a
            MaskedObservation, and so does the batch.
        params: of the policy.
        environment: an Environment from `pgjax.environments`, a gymnax environment, or a
            TabularMDP.
        key: from `jax.random.key`; a raw uint32 key is wrapped.
        num_trajectories: N.
        num_steps: T.
        environment_params: of the gymnax environment; its default ones if None.
        mesh: spreads the trajectories over its devices, of one host or of many; the same key gives
            the same trajectories on any number of them. None runs on the default device.

    Returns:
        A batch [N, T] with final observations, without values. Rewards are floating; everything is
        a constant under differentiation.

    Raises:
        TypeError: an environment that is none, a key that is none, a policy whose actions are not
            the environment's: a Gaussian one on Discrete actions, say.
        ValueError: sizes below one, N not a multiple of the mesh's devices.

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
    check_positive("num_trajectories", num_trajectories)
    check_positive("num_steps", num_steps)
    source, environment_params = resolve(environment, environment_params)
    sizes = num_trajectories, num_steps
    return _rollout(policy, source, *sizes, mesh, params, environment_params, check_key(key))


@compiled(5)
def _rollout(
    policy: Policy | RecurrentPolicy,
    source: Source,
    num_trajectories: int,
    num_steps: int,
    mesh: Mesh | None,
    params: Params,
    environment_params: Any,
    key: Array,
) -> Trajectory:
    def run(whole: tuple[Params, Any], keys: Array) -> Trajectory:
        return episodes(policy, source, num_steps, whole, keys)

    keys = episode_keys(key, num_trajectories)
    return over_devices(run, mesh, (params, environment_params), keys)


def episode_keys(key: Key[Array, ""], num_trajectories: int) -> Key[Array, "N 3"]:
    """For each trajectory a key of its start, of its actions and of its environment's steps."""
    return jax.random.split(key, (num_trajectories, 3))


def episodes(
    policy: Policy | RecurrentPolicy,
    source: Source,
    num_steps: int,
    whole: tuple[Params, Any],
    keys: Key[Array, "N 3"],
) -> Trajectory:
    """One episode for each row of keys; trajectory i depends on row i alone.

    All N advance together, time outermost, a chunk of steps at a time: what a chunk draws at random
    is drawn before it, and when every episode has ended there is no further chunk.

    Args:
        policy: acts.
        source: from `resolve`.
        num_steps: T.
        whole: parameters of the policy and of the environment.
        keys: [N, 3] from `episode_keys`.

    Returns:
        A batch [N, T].
    """
    params, environment_params = jax.lax.stop_gradient(whole)
    environment = source.bind(source.what, environment_params)
    reset, step = _functions(policy, environment, num_steps, params)
    start_keys, action_keys, step_keys = keys[:, 0], keys[:, 1], keys[:, 2]
    start = varying(jax.vmap(reset)(start_keys), (params, keys))
    first = jax.tree.map(lambda x: x[0], start)
    draw, advance = hoist(step, (action_keys[0], step_keys[0]), (jnp.int32(0), first))

    def draw_at(time: Array) -> list[Array]:
        at = jax.vmap(partial(jax.random.fold_in, data=time))
        return jax.vmap(draw)((at(action_keys), at(step_keys)))

    def chunk(start: Carry, times: Array) -> tuple[Carry, dict]:
        def one(carry: Carry, x: Any) -> tuple[Carry, dict]:
            time, draws = x
            return jax.vmap(lambda d, c: advance(d, (time, c)))(draws, carry)

        return jax.lax.scan(one, start, (times, jax.vmap(draw_at)(times)))

    final, record = _until_all_ended(chunk, start, num_steps)
    return Trajectory(**record, final_observation=final.observation)


def _functions(
    policy: Policy | RecurrentPolicy, environment: Environment, num_steps: int, params: Params
) -> tuple[Callable, Callable]:
    """How one episode starts, key -> carry, and goes on, (keys, (time, carry)) -> carry, record."""
    memory, act = _with_memory(policy, params)

    def reset(key: Array) -> Carry:
        state, first = environment.init(key)
        carry = Carry(seen(first), state, memory, jnp.bool_(True))
        action = jax.eval_shape(act, memory, key, carry.observation)[1]
        check_actions(environment, action)
        return carry

    def step(keys: tuple[Array, Array], timed: tuple[Array, Carry]) -> tuple[Carry, dict]:
        action_key, step_key = keys
        time, now = timed
        memory, action, log_prob = act(now.memory, action_key, now.observation)
        action, handed = as_taken(environment.action_space, action)
        state, shown = environment.step(step_key, now.state, handed)
        terminated = shown.terminated & now.alive
        truncated = (shown.truncated | (time == num_steps - 1)) & now.alive
        following = Carry(seen(shown), state, memory, now.alive & ~(terminated | truncated))
        # A finished environment stands still, so its state can neither drift nor overflow.
        following = jax.tree.map(partial(jnp.where, now.alive), following, now)
        record = {
            "observation": now.observation,
            "action": action,
            "reward": jnp.where(now.alive, shown.reward, 0),
            "log_prob": jnp.where(now.alive, log_prob, 0),
            "terminated": terminated,
            "truncated": truncated,
            "mask": now.alive,
        }
        return following, record

    return reset, step


def _with_memory(policy: Policy | RecurrentPolicy, params: Params) -> tuple[Any, Callable]:
    """A memory at an episode's start, and (memory, key, observation) -> memory, action, log π."""
    if isinstance(policy, RecurrentPolicy):
        return (
            jax.tree.map(jnp.asarray, policy.memory(params)),
            lambda memory, key, observation: policy.sample(params, key, memory, observation),
        )
    return (), lambda _, key, observation: ((), *policy.sample(params, key, observation))


def _until_all_ended(
    chunk: Callable[[Carry, Array], tuple[Carry, dict]], start: Carry, num_steps: int
) -> tuple[Carry, dict]:
    """Chunks of steps, recorded as [N, T, ...], until the time is up or no episode is left.

    Each chunk is transposed while it is in cache, where all of [T, N] would not be.
    """
    length = _chunk_length(num_steps)
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


def _chunk_length(num_steps: int) -> int:
    """Long enough to be worth its overhead, short enough to stop soon after the last episode.

    A divisor of the number of steps needs no padding.
    """
    if num_steps <= 64:
        return num_steps
    return max((k for k in range(32, 65) if num_steps % k == 0), default=50)


def _batch_first(x: Array) -> Array:
    return jnp.swapaxes(x, 0, 1)
