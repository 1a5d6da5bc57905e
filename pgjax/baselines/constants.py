"""A constant baseline: the same number on every step."""

import jax.numpy as jnp
from jax import Array

from pgjax.core.validation import check_finite, check_scalars
from pgjax.records import configured
from pgjax.types import Baseline, Number, Trajectory


def constant(baseline: Number) -> Baseline:
    """The same number b on every step.

    Raises:
        TypeError: if `baseline` is not a number.

    Bias: none. It can raise the variance as well as lower it.

    References:
        Williams, Simple Statistical Gradient-Following Algorithms (1992), section 4.
    """
    return configured(_constant, baseline=check_finite("baseline", baseline))


def _constant(batch: Trajectory, target: Array, *, baseline: Number) -> Array:
    check_scalars(baseline=baseline)
    return jnp.broadcast_to(jnp.asarray(baseline, target.dtype), target.shape)
