"""Gaussian policies: real vectors whose coordinates are independent given the observation."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from pgjax.core.recurrence import accumulation_dtype
from pgjax.core.validation import check_values
from pgjax.policies.distribution import Distribution, Output, distribution_policy
from pgjax.types import Observation, Params, Policy, check_function


def gaussian_policy(
    init: Callable[[Key[Array, ""], Observation], Params],
    mean_and_log_std: Callable[[Params, Observation], tuple[Array, Array]],
) -> Policy:
    """A diagonal Gaussian policy over real vectors, from a function that returns μ and log σ.

    log π(a|s) = −Σ_d ((a_d − μ_d)² / (2σ_d²) + log σ_d + ½ log 2π).

    `sample` is reparameterised, a = μ + σ z with z standard normal: it can be differentiated.

    Args:
        init: (key, observation) -> params.
        mean_and_log_std: (params, observation) -> (μ, log σ), each [D]. Log σ is not clipped.

    Returns:
        A Policy over actions [D], float32 or wider. log π is a density, and may be positive. It is
        NaN under jit, and an error under `pgjax.checked`, if σ overflows or is zero.

    Raises:
        ValueError: by its functions, if σ is known to be zero, infinite or NaN.
        TypeError: by its functions, if an action is an integer (as of a discrete environment), or
            the observation is masked.

    Bias: none, if σ is much larger than the spacing of floating-point numbers around μ, which is
        1.2e-7 |μ| in float32. An action is rounded to that spacing. At μ = 1, σ = 1e-8 there are
        two actions, and E[∂ log π/∂ log σ] is −0.97 where it should be 0. At μ = 0.5, σ = 2e-9
        every action is μ. For σ ≥ 1e-6 |μ| no such effect was seen. Bound log σ in the network, or
        use x64.

    References:
        Williams (1992), section 6.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> policy = gaussian_policy(lambda key, x: jnp.zeros(2), lambda w, x: (w, jnp.zeros(2)))
        >>> round(float(policy.log_prob(jnp.zeros(2), None, jnp.zeros(2))), 6)
        -1.837877
    """
    signature = "(params, observation) -> (mean, log_std)"
    check_function("mean_and_log_std", mean_and_log_std, signature)
    return distribution_policy(init, mean_and_log_std, GAUSSIAN)


def standard_log_density(mean: Array, log_std: Array, action: Array) -> Float[Array, ""]:
    """Log-density of a diagonal Gaussian, Σ_d log N(a_d; μ_d, σ_d²)."""
    standard = (action - mean) * jnp.exp(-log_std)
    each = -standard * standard / 2 - log_std - math.log(2 * math.pi) / 2
    return jnp.sum(each)


def gaussian_entropy(log_std: Array) -> Float[Array, ""]:
    """Entropy of a diagonal Gaussian in nats, Σ_d (log σ_d + ½ log 2πe)."""
    return jnp.sum(log_std + math.log(2 * math.pi * math.e) / 2)


def mean_and_log_std(output: Output) -> tuple[Float[Array, "D"], Float[Array, "D"]]:
    """A network's output, checked, as float32 or wider: bfloat16 is too coarse for actions."""
    if not isinstance(output, tuple | list) or len(output) != 2:
        raise TypeError(
            "a Gaussian policy's network must return a pair (mean, log_std), "
            f"got {type(output).__name__}; GaussianMLP returns one"
        )
    mean, log_std = map(jnp.asarray, output)
    if mean.ndim != 1:
        raise ValueError(
            f"a Gaussian policy's mean must have shape [D] for one observation, got {mean.shape}"
        )
    if log_std.shape != mean.shape:
        raise ValueError(
            f"log_std must have the shape of the mean, [D] = {mean.shape}, got {log_std.shape}; "
            "for one σ in all coordinates use jnp.broadcast_to(log_std, mean.shape)"
        )
    dtype = jnp.promote_types(accumulation_dtype(mean), accumulation_dtype(log_std))
    mean, log_std = mean.astype(dtype), log_std.astype(dtype)
    std = jnp.exp(log_std)
    proper = (std > 0) & (std < jnp.inf)
    check_values(
        "a Gaussian policy's σ must be positive and finite, got σ = {std}; bound log_std in the "
        "network",
        lambda proper, std: (proper.all(), {"std": std}),
        proper,
        std,
    )
    return mean, jnp.where(proper, log_std, jnp.nan)


def check_vector(action: Any, mean: Array) -> Float[Array, "D"]:
    """An action as a real vector like the mean, in the wider of the two precisions."""
    action = jnp.asarray(action)
    if action.shape != mean.shape:
        raise ValueError(
            f"an action of this policy must have shape [D] = {mean.shape}, got {action.shape}; "
            "a discrete action needs a softmax policy"
        )
    if not jnp.issubdtype(action.dtype, jnp.floating):
        raise TypeError(
            f"an action of this policy must be floating, got {action.dtype}; "
            "a discrete action needs a softmax policy"
        )
    return action.astype(jnp.promote_types(action.dtype, mean.dtype))


def no_mask(output: Output, action_mask: Array) -> Output:
    """Raise a TypeError: real vectors cannot be masked."""
    raise TypeError(
        "a Gaussian policy takes no action mask; give it the observation alone, or mask the "
        "discrete factor of a factored policy"
    )


def reparameterised(mean: Array, log_std: Array, key: Key[Array, ""]) -> Float[Array, "D"]:
    """A Gaussian draw [D], μ + σ z, differentiable in μ and log σ."""
    return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)


def _sample(output: Output, key: Key[Array, ""]) -> tuple[Array, Array]:
    mean, log_std = mean_and_log_std(output)
    action = reparameterised(mean, log_std, key)
    # The log-probability is that of the rounded action: scoring it anew gives the same number.
    return action, standard_log_density(mean, log_std, action)


def _log_prob(output: Output, action: Any) -> Array:
    mean, log_std = mean_and_log_std(output)
    action = check_vector(action, mean)
    return standard_log_density(mean.astype(action.dtype), log_std.astype(action.dtype), action)


def _entropy(output: Output) -> Array:
    return gaussian_entropy(mean_and_log_std(output)[1])


GAUSSIAN = Distribution(_sample, _log_prob, _entropy, no_mask)
"""Diagonal Gaussians; a network's output is (μ, log σ), each [D]."""
