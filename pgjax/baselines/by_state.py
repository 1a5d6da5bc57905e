"""Baselines by state: a function of the observation, or the values that a critic recorded."""

from collections.abc import Callable

import jax
from jax import Array

from pgjax.core.episode_boundaries import require_field
from pgjax.core.validation import check_target
from pgjax.records import configured
from pgjax.types import Baseline, Trajectory, check_function


def state_value(value: Callable[[Array], Array]) -> Baseline:
    """A fixed function of the observation, b(s_t).

    Args:
        value: (observation) -> scalar, in units of return. For a table over one-hot observations
            it is `lambda observation: observation @ table`. With `jax.tree_util.Partial(jnp.matmul,
            b=table)` instead, the table's numbers are leaves.

    Raises:
        TypeError: if `value` is not a function.

    Bias: none, whatever the function, if it was not fitted to this batch.

    References:
        Sutton et al., Policy Gradient Methods for RL with Function Approximation (2000), section 2.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> table = jnp.array([1.0, 2.0, 0.0])
        >>> value = pgjax.baselines.state_value(lambda observation: observation @ table)
        >>> estimator = pgjax.reward_to_go(0.99, baseline=value)
    """
    signature = "observation -> scalar"
    return configured(_state_value, value=check_function("value", value, signature))


def _state_value(batch: Trajectory, target: Array, *, value: Callable[[Array], Array]) -> Array:
    return jax.vmap(jax.vmap(value))(batch.observation).astype(target.dtype)


def recorded_value(batch: Trajectory, target: Array) -> Array:
    """The batch's `value`, b_it = V(s_it), written there by a critic.

    Raises:
        ValueError: if `batch.value` is None.

    Bias: none if the critic was not fitted to this batch.

    References:
        Sutton & Barto (2018), section 13.4.

    Example:
        >>> import pgjax
        >>> estimator = pgjax.reward_to_go(0.99, baseline=pgjax.baselines.recorded_value)
    """
    target = check_target(batch, target)
    return require_field(batch, "value", "the recorded_value baseline needs").astype(target.dtype)
