"""The effective sample size of importance weights."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.core.validation import as_array
from pgjax.diagnostics.geometry import divide_if_positive


def effective_sample_size(log_weight: Float[Array, "N *rest"]) -> Float[Array, "*rest"]:
    """Effective sample size (Σ_i w_i)² / Σ_i w_i² of N importance weights, from 1 to N.

    That many equal weights would give a weighted mean the same variance, if the weights are
    independent of the numbers that are averaged.

    Args:
        log_weight: [N, ...], log of the weights along the first axis; −inf for a weight of zero.
            For a per-decision estimate, give the cumulative sum of log π − log μ over time, [N, T].

    Returns:
        [...], one number for each step of a per-decision estimate; NaN where every weight is zero.
        Weights are computed relative to the largest one, so that none overflows.

    Raises:
        ValueError: if N is zero.

    Bias: too large if rare large weights were not drawn. So a high value proves nothing.

    References:
        Kish, Survey Sampling (1965), section 8.2; Kong, A Note on Importance Sampling Using
        Standardized Weights (1992).

    Example:
        >>> import jax.numpy as jnp
        >>> f"{effective_sample_size(jnp.log(jnp.array([1.0, 1.0, 2.0]))):.3f}"
        '2.667'
    """
    log_weight = as_array("log_weight", log_weight)
    if log_weight.ndim == 0 or log_weight.shape[0] == 0:
        raise ValueError(f"log_weight must have shape [N, ...], N >= 1, got {log_weight.shape}")
    peak = jax.lax.stop_gradient(jnp.max(log_weight, axis=0, keepdims=True))
    relative = jnp.exp(log_weight - jnp.where(peak == -jnp.inf, 0, peak))
    total, squares = jnp.sum(relative, axis=0), jnp.sum(relative**2, axis=0)
    return divide_if_positive(total**2, squares, otherwise=jnp.nan)
