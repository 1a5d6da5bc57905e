"""Rollouts: gymnax environments and tabular MDPs into batches of whole episodes.

The only importer of gymnax beside the bridge. Steps go through `reset_env`, `step_env` and
`is_truncated`: there is no auto-reset, a finished environment stands still, and the observation
after the last step is kept.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment as gymnax_environment
from gymnax.environments import spaces
from jax import Array
from jaxtyping import Key, UInt32

from pgjax.tabular import TabularMDP, to_jax
from pgjax.types import Params, Policy, Trajectory
from pgjax.validation import check_key, check_positive


def rollout(
    policy: Policy,
    params: Params,
    environment: gymnax_environment.Environment | TabularMDP,
    key: Key[Array, ""] | UInt32[Array, "2"],
    *,
    num_trajectories: int,
    num_steps: int,
    environment_params: Any = None,
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

    Returns:
        A batch [N, T] with final observations, without values. Rewards are floating; everything is
        a constant under differentiation.

    Raises:
        TypeError: an environment that is neither, a key that is none.
        ValueError: sizes below one.

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
    if isinstance(environment, TabularMDP):
        environment_params = TabularParams(max_steps_in_episode=num_steps, mdp=environment)
        environment_params = to_jax(environment_params)
        environment = TABULAR
    elif not isinstance(environment, gymnax_environment.Environment):
        raise TypeError(
            "environment must be a gymnax Environment or a TabularMDP, got "
            f"{type(environment).__name__}; gymnax.make(name) returns (environment, params)"
        )
    elif environment_params is None:
        environment_params = environment.default_params
    return _rollout(
        policy, environment, num_trajectories, num_steps, params, environment_params, check_key(key)
    )


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


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _rollout(
    policy: Policy,
    environment: gymnax_environment.Environment,
    num_trajectories: int,
    num_steps: int,
    params: Params,
    environment_params: Any,
    key: Array,
) -> Trajectory:
    params = jax.lax.stop_gradient(params)
    keys = jax.random.split(key, num_trajectories)
    episode = partial(_episode, policy, params, environment, environment_params, num_steps)
    return jax.vmap(episode)(keys)


def _episode(
    policy: Policy,
    params: Params,
    environment: gymnax_environment.Environment,
    environment_params: Any,
    num_steps: int,
    key: Array,
) -> Trajectory:
    reset_key, steps_key = jax.random.split(key)
    action_dtype = environment.action_space(environment_params).dtype

    def advance(key: Array, observation: Any, state: Any) -> tuple[Any, Any, dict]:
        action_key, environment_key = jax.random.split(key)
        action, log_prob = policy.sample(params, action_key, observation)
        action = action.astype(action_dtype)
        following, state, reward, terminated, _ = environment.step_env(
            environment_key, state, action, environment_params
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

    def step(carry: Any, x: Any) -> Any:
        key, is_last = x
        observation, state, alive = carry
        following, next_state, record = advance(key, observation, state)
        record["reward"] = jnp.where(alive, record["reward"], 0)
        record["log_prob"] = jnp.where(alive, record["log_prob"], 0)
        record["terminated"] &= alive
        record["truncated"] = (record["truncated"] | is_last) & alive
        new = jax.tree.map(_like, (following, next_state), (observation, state))
        observation, state = jax.tree.map(
            partial(jnp.where, alive), new, (observation, state)
        )  # a finished environment stands still, so its state can neither drift nor overflow
        ended = record["terminated"] | record["truncated"]
        return (observation, state, alive & ~ended), record | {"mask": alive}

    start = _stable(advance, reset_key, environment.reset_env(reset_key, environment_params))
    inputs = jax.random.split(steps_key, num_steps), jnp.arange(num_steps) == num_steps - 1
    (final_observation, _, _), record = jax.lax.scan(step, (*start, jnp.bool_(True)), inputs)
    return Trajectory(**record, final_observation=final_observation)


def _stable(advance: Any, key: Array, start: tuple[Any, Any]) -> tuple[Any, Any]:
    """The reset's observation and state in the dtypes that a step returns, as scan demands.

    Many environments drift: an integer that becomes a float, a weak type that becomes a strong one.
    The wider of the two types holds both without loss.
    """
    stepped = jax.eval_shape(advance, key, *start)[:2]
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
