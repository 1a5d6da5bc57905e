"""A constant baseline: the same number on every step."""

import jax.numpy as jnp
from jax import Array

from pgjax.core.validation import check_finite, check_scalars
from pgjax.records import configured
from pgjax.types import Baseline, Number, Trajectory


def constant(baseline: Number) -> Baseline:
    """The same number b on every step.

    Args:
        baseline: b, in units of return.

    Raises:
        TypeError: if `baseline` is not a number.
        ValueError: if `baseline` is not finite.

    Bias: none, if b was not computed from the batch. It can raise the variance or lower it.

    References:
        Williams, Simple Statistical Gradient-Following Algorithms (1992), section 4.

    Example:
        >>> import pgjax
        >>> estimator = pgjax.reward_to_go(0.99, baseline=pgjax.baselines.constant(0.5))
    """
    return configured(_constant, baseline=check_finite("baseline", baseline))


def _constant(batch: Trajectory, target: Array, *, baseline: Number) -> Array:
    check_scalars(baseline=baseline)
    return jnp.broadcast_to(jnp.asarray(baseline, target.dtype), target.shape)
