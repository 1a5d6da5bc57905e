"""Rollouts: gymnax environments and tabular MDPs into batches of whole episodes.

The only importer of gymnax beside the bridge. Steps go through `reset_env`, `step_env` and
`is_truncated`: there is no auto-reset, a finished environment stands still, and the observation
after the last step is kept.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Key, UInt32

from pgjax.deferral import plotting_deferred
from pgjax.devices import over_devices, varying
from pgjax.hoisting import hoist
from pgjax.tabular import TabularMDP, to_jax
from pgjax.types import Params, Policy, Trajectory
from pgjax.validation import check_key, check_positive

with plotting_deferred():
    from gymnax.environments import environment as gymnax_environment
    from gymnax.environments import spaces

Environment: TypeAlias = gymnax_environment.Environment
Carry: TypeAlias = tuple[Any, Any, Array]
"""What goes from step to step: the observation, the environment's state, and whether it lives."""


def rollout(
    policy: Policy,
    params: Params,
    environment: Environment | TabularMDP,
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
    object and pair of sizes.

    Args:
        policy: acts, and records log π of its actions.
        params: of the policy.
        environment: a gymnax environment, or a TabularMDP.
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
        TypeError: an environment that is neither, a key that is none.
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
    environment, environment_params = resolve(environment, environment_params, num_steps)
    sizes = num_trajectories, num_steps
    return _rollout(policy, environment, *sizes, mesh, params, environment_params, check_key(key))


def resolve(
    environment: Environment | TabularMDP, environment_params: Any, num_steps: int
) -> tuple[Environment, Any]:
    """A gymnax environment and its parameters, whatever kind of environment was given."""
    if isinstance(environment, TabularMDP):
        return TABULAR, to_jax(TabularParams(max_steps_in_episode=num_steps, mdp=environment))
    if not isinstance(environment, gymnax_environment.Environment):
        raise TypeError(
            "environment must be a gymnax Environment or a TabularMDP, got "
            f"{type(environment).__name__}; gymnax.make(name) returns (environment, params)"
        )
    if environment_params is None:
        environment_params = environment.default_params
    return environment, environment_params


@struct.dataclass(kw_only=True)
class TabularParams(gymnax_environment.EnvParams):
    """The parameters of a TabularEnvironment: a time limit, and the MDP itself."""

    mdp: TabularMDP


@struct.dataclass
class TabularState(gymnax_environment.EnvState):
    """The state of a TabularEnvironment: the time, and the index of the MDP's state."""

    index: Array


class TabularEnvironment(gymnax_environment.Environment[TabularState, TabularParams]):
    """A TabularMDP as a gymnax environment; the MDP travels in its parameters.

    Example:
        >>> import jax, pgjax
        >>> params = TabularParams(max_steps_in_episode=10, mdp=pgjax.tabular.random_mdp())
        >>> observation, state = TABULAR.reset(jax.random.key(0), params)
        >>> observation.shape
        (4,)
    """

    @property
    def default_params(self) -> TabularParams:
        """There is no default MDP."""
        raise ValueError("a TabularEnvironment needs TabularParams(max_steps_in_episode, mdp)")

    def reset_env(self, key: Array, params: TabularParams) -> tuple[Array, TabularState]:
        """A first state from the initial distribution."""
        index = jax.random.categorical(key, _log(params.mdp.initial))
        state = TabularState(time=0, index=index.astype(jnp.int32))
        return self._observation(state, params), state

    def step_env(
        self, key: Array, state: TabularState, action: Any, params: TabularParams
    ) -> tuple[Array, TabularState, Array, Array, dict]:
        """A successor from the transition tensor, and the reward of that very transition."""
        now, mdp = state.index, params.mdp
        row = jnp.asarray(mdp.transition)[now, action]
        following = jax.random.categorical(key, _log(row)).astype(jnp.int32)
        reward = jnp.asarray(mdp.reward)[now, action, following]
        state = TabularState(time=state.time + 1, index=following)
        terminated = jnp.asarray(mdp.terminal)[following]
        return self._observation(state, params), state, reward, terminated, {}

    def is_terminated(self, state: TabularState, params: TabularParams) -> Array:
        """Whether the state is terminal."""
        return jnp.asarray(params.mdp.terminal)[state.index]

    def get_obs(self, state: TabularState, params: Any = None, key: Any = None) -> Array:
        """The state's row of `mdp.observation`."""
        return self._observation(state, params)

    def action_space(self, params: TabularParams) -> spaces.Discrete:
        """0..A−1."""
        return spaces.Discrete(params.mdp.num_actions)

    def observation_space(self, params: TabularParams) -> spaces.Box:
        """Whatever the MDP's observations span."""
        table = np.asarray(params.mdp.observation)
        return spaces.Box(table.min(), table.max(), table.shape[1:], table.dtype)

    def _observation(self, state: TabularState, params: TabularParams) -> Array:
        return jnp.asarray(params.mdp.observation)[state.index]


TABULAR = TabularEnvironment()
"""The one instance that serves every MDP: another MDP of the same shape does not recompile."""


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _rollout(
    policy: Policy,
    environment: Environment,
    num_trajectories: int,
    num_steps: int,
    mesh: Mesh | None,
    params: Params,
    environment_params: Any,
    key: Array,
) -> Trajectory:
    def run(whole: tuple[Params, Any], keys: Array) -> Trajectory:
        return episodes(policy, environment, num_steps, whole, keys)

    keys = episode_keys(key, num_trajectories)
    return over_devices(run, mesh, (params, environment_params), keys)


def episode_keys(key: Key[Array, ""], num_trajectories: int) -> Key[Array, "N 3"]:
    """For each trajectory a key of its start, of its actions and of its environment's steps."""
    return jax.random.split(key, (num_trajectories, 3))


def episodes(
    policy: Policy,
    environment: Environment,
    num_steps: int,
    whole: tuple[Params, Any],
    keys: Key[Array, "N 3"],
) -> Trajectory:
    """One episode for each row of keys; trajectory i depends on row i alone.

    All N advance together, time outermost, a chunk of steps at a time: what a chunk draws at random
    is drawn before it, and when every episode has ended there is no further chunk.

    Args:
        policy: acts.
        environment: of gymnax.
        num_steps: T.
        whole: parameters of the policy and of the environment.
        keys: [N, 3] from `episode_keys`.

    Returns:
        A batch [N, T].
    """
    params, environment_params = jax.lax.stop_gradient(whole)
    reset, step = _functions(policy, environment, num_steps, params, environment_params)
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

    (final_observation, _, _), record = _until_all_ended(chunk, start, num_steps)
    return Trajectory(**record, final_observation=final_observation)


def _functions(
    policy: Policy,
    environment: Environment,
    num_steps: int,
    params: Params,
    environment_params: Any,
) -> tuple[Callable, Callable]:
    """How one episode starts, key -> carry, and goes on, (keys, (time, carry)) -> carry, record."""
    action_dtype = environment.action_space(environment_params).dtype

    def advance(keys: tuple[Array, Array], observation: Any, state: Any) -> tuple[Any, Any, dict]:
        action_key, step_key = keys
        action, log_prob = policy.sample(params, action_key, observation)
        action = action.astype(action_dtype)
        following, state, reward, terminated, _ = environment.step_env(
            step_key, state, action, environment_params
        )
        record = {
            "observation": observation,
            "action": action,
            "reward": _floating(reward),
            "log_prob": log_prob,
            "terminated": jnp.asarray(terminated, bool),
            "truncated": jnp.asarray(environment.is_truncated(state, environment_params), bool),
        }
        return following, state, record

    def reset(key: Array) -> Carry:
        start = environment.reset_env(key, environment_params)
        return (*_stable(partial(advance, (key, key)), start), jnp.bool_(True))

    def step(keys: tuple[Array, Array], timed: tuple[Array, Carry]) -> tuple[Carry, dict]:
        time, (observation, state, alive) = timed
        following, next_state, record = advance(keys, observation, state)
        record["reward"] = jnp.where(alive, record["reward"], 0)
        record["log_prob"] = jnp.where(alive, record["log_prob"], 0)
        record["terminated"] &= alive
        record["truncated"] = (record["truncated"] | (time == num_steps - 1)) & alive
        new = jax.tree.map(_like, (following, next_state), (observation, state))
        observation, state = jax.tree.map(
            partial(jnp.where, alive), new, (observation, state)
        )  # a finished environment stands still, so its state can neither drift nor overflow
        ended = record["terminated"] | record["truncated"]
        return (observation, state, alive & ~ended), record | {"mask": alive}

    return reset, step


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
        index, (_, _, alive), _ = loop
        return (index < num_chunks) & jnp.any(alive)

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


def _stable(advance: Any, start: tuple[Any, Any]) -> tuple[Any, Any]:
    """The reset's observation and state in the dtypes that a step returns, as scan demands.

    Many environments drift: an integer that becomes a float, a weak type that becomes a strong one.
    The wider of the two types holds both without loss.
    """
    stepped = jax.eval_shape(advance, *start)[:2]
    return jax.tree.map(
        lambda x, y: jnp.asarray(x).astype(jnp.promote_types(jnp.result_type(x), y.dtype)),
        start,
        stepped,
    )


def _like(x: Any, like: Array) -> Array:
    return jnp.asarray(x).astype(like.dtype)


def _floating(reward: Any) -> Array:
    """Integer rewards as float32, so that a discount does not round to zero."""
    reward = jnp.asarray(reward)
    is_floating = jnp.issubdtype(reward.dtype, jnp.floating)
    return reward if is_floating else reward.astype(jnp.float32)


def _log(probability: Array) -> Array:
    return jnp.log(jnp.asarray(probability))
