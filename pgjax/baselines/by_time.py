"""A baseline by time: a number for each time step."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pgjax.core.validation import check_number, check_real
from pgjax.records import configured
from pgjax.types import Baseline, Trajectory


def per_time_step(baseline: Float[Array | np.ndarray, "*several T"]) -> Baseline:
    """A number b_t for each time step, fixed before the batch is drawn.

    Args:
        baseline: [T], in units of return; leading axes are for `jax.vmap` to go over.

    Raises:
        TypeError: if `baseline` does not hold numbers.
        ValueError: if `baseline` is a single number; at use, if it is not [T].

    Bias: none if the numbers were not computed from the batch.

    References:
        Peters & Schaal, Reinforcement Learning of Motor Skills with Policy Gradients (2008),
        section 3.2.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> baseline = pgjax.baselines.per_time_step(jnp.array([1.0, 0.5, 0.25]))
        >>> estimator = pgjax.reward_to_go(0.99, baseline=baseline)
    """
    return configured(_per_time_step, baseline=_check_times(baseline))


def _check_times(baseline: Any) -> Any:
    """`baseline` with at least an axis of time, as `check_number` gives it."""
    if not np.size(check_real("baseline", baseline)):
        return baseline  # of a batch without steps
    baseline = check_number("baseline", baseline)
    if not np.ndim(baseline):
        raise ValueError(
            "baseline must have shape [T], a number for each time step, got a single number; "
            "pgjax.baselines.constant takes a single number"
        )
    return baseline


def _per_time_step(batch: Trajectory, target: Array, *, baseline: Array | np.ndarray) -> Array:
    values = jnp.asarray(baseline, target.dtype)
    if values.shape != target.shape[1:]:
        raise ValueError(
            f"per_time_step baseline must have shape [T] = {target.shape[1:]}, got {values.shape}; "
            "cut or pad it to the batch's T"
        )
    return jnp.broadcast_to(values, target.shape)
