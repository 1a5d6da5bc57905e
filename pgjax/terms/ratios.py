"""Ratios of probabilities as terms, held at a bound so that none overflows."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from pgjax.core.validation import as_array, check_same_shape


def importance_ratio(
    log_prob: Float[Array, "T"],
    behaviour_log_prob: Float[Array, "T"],
    weight: Float[Array, "T"],
    mask: Bool[Array, "T"] | None = None,
) -> Float[Array, "T"]:
    """Importance ratio ρ_t w_t = π(a_t|s_t)/μ(a_t|s_t) w_t, with the ratio of this step alone.

    A ratio too large for its dtype is held at a bound, and so is its gradient (`likelihood_ratio`).
    An overflow then gives a large gradient and never a NaN.

    Bias: equal to `score` on-policy (π = μ). Off-policy it is biased: states and later rewards
    still come from μ.

    References:
        Schulman et al., Trust Region Policy Optimization (2015), eq. 40 (the surrogate);
        Degris, White & Sutton, Off-Policy Actor-Critic (2012), eq. 5.

    Example:
        >>> import jax.numpy as jnp
        >>> log_prob, behaviour = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25]))
        >>> importance_ratio(log_prob, behaviour, jnp.array([3.0]))
        Array([6.], dtype=float32)
    """
    log_prob, behaviour_log_prob, weight = check_same_shape(
        log_prob=log_prob, behaviour_log_prob=behaviour_log_prob, weight=weight
    )
    return likelihood_ratio(log_prob, behaviour_log_prob) * weight


def likelihood_ratio(
    log_prob: Float[Array, "..."], other_log_prob: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Ratio exp(log_prob − other_log_prob), held where its square would overflow: e^44 in float32.

    Above that bound the value is constant, and the slope is that at the bound. So the gradient
    keeps its direction. (Clamping the difference alone would make the gradient zero.) The result is
    finite unless one of the two is NaN, or `log_prob` is +∞.

    Args:
        log_prob: [...] the logarithm of the numerator.
        other_log_prob: [...] the logarithm of the denominator.

    Raises:
        ValueError: if their shapes differ.

    Bias: none below the bound; above it the ratio is too small.
    """
    log_prob = as_array("log_prob", log_prob)
    other_log_prob = as_array("other_log_prob", other_log_prob)
    if log_prob.shape != other_log_prob.shape:
        raise ValueError(
            f"other_log_prob must have the shape of log_prob, {log_prob.shape}, "
            f"got {other_log_prob.shape}"
        )
    lowest = float(jnp.finfo(other_log_prob.dtype).min)  # in place of −∞, whose slope would be NaN
    difference = log_prob - jnp.maximum(other_log_prob, lowest)
    largest = largest_log_ratio(difference.dtype)
    held = largest + (difference - jax.lax.stop_gradient(difference))
    return jnp.exp(jnp.where(difference > largest, held, difference))


def largest_log_ratio(dtype: jnp.dtype) -> float:
    """The logarithm at which ratios are held, log(max)/2: 44 in float32, 354 in float64.

    The square of a held ratio is then finite.

    Bias: does not apply.
    """
    return float(np.log(float(jnp.finfo(dtype).max))) / 2
