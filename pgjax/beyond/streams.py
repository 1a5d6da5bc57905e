"""Eligibility traces along fresh episodes, which are not stored."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key, PyTree, UInt32

from pgjax.beyond.traces import credit
from pgjax.core.devices import varying
from pgjax.core.validation import (
    check_counts,
    check_key,
    check_params,
    check_policy_without_memory,
    check_rate,
)
from pgjax.environments.base import Environment, stable
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.rollouts.fold import fold, sampled_action
from pgjax.rollouts.stepping import Taken
from pgjax.types import Observation, Params, Policy


def sampled_trace_gradient(
    policy: Policy,
    params: Params,
    environment: AnyEnvironment,
    key: Key[Array, ""] | UInt32[Array, "2"],
    *,
    num_trajectories: int,
    num_steps: int,
    discount: float | Array,
    decay: float | Array = 1.0,
) -> PyTree[Float[Array, "..."]]:
    """`trace_gradient` along fresh episodes, which are not stored: memory is constant in T.

    Two gradients and an environment's state are held for each trajectory. Compiled once for each
    policy, environment and pair of sizes.

    Args:
        decay: δ in [0, 1], of the trace.

    Bias: as for `trace_gradient`. For the average reward of an environment that never ends take
        γ = 1, δ = β and divide by T.

    References:
        Baxter & Bartlett (2001).

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> sampled_trace_gradient(
        ...     pgjax.tabular_softmax(4, 2), jnp.zeros((4, 2)), pgjax.tabular.random_mdp(),
        ...     jax.random.key(0), num_trajectories=8, num_steps=1000, discount=0.8).shape
        (4, 2)
    """
    check_counts(num_trajectories=num_trajectories, num_steps=num_steps)
    check_policy_without_memory(policy)
    check_rate("discount", discount)
    check_rate("decay", decay)
    check_params(params)
    whole = params, as_environment(environment)
    sizes, rates = (num_trajectories, num_steps), (discount, decay)
    return _from_episodes(policy, whole, check_key(key), rates, sizes)


@partial(jax.jit, static_argnames="sizes")
def _from_episodes(
    policy: Policy,
    whole: tuple[Params, Environment],
    key: Array,
    rates: tuple[Array, Array],
    sizes: tuple[int, int],
) -> Params:
    params, environment = jax.tree.map(jnp.asarray, whole)
    params = varying(params, (whole, key))
    environment = stable(environment)
    sampled_action(policy, params, environment)

    def act(key: Array, observation: Observation) -> tuple[Any, Params]:
        action, _ = policy.sample(params, key, observation)
        return action, jax.grad(policy.log_prob)(params, observation, action)

    def visit(total: Any, time: Array, taken: Taken) -> tuple[Any, None]:
        return credit(total, taken.note, taken.reward, time, taken.alive, *rates), None

    def of_episode(key: Array) -> Params:
        keys = jax.random.split(key, 3)
        zero = jax.tree.map(jnp.zeros_like, params)
        return fold(environment, act, keys, sizes[1], visit, (zero, zero))[0][1]

    each = jax.vmap(of_episode)(jax.random.split(key, sizes[0]))
    return jax.tree.map(partial(jnp.mean, axis=0), each)
