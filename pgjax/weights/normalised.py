"""Normalised weights: less their mean, divided by their deviation, or by the episode's length.

Each takes any weights and returns weights. All of them bias the gradient.
"""

import jax.numpy as jnp
from jax import Array

from pgjax.baselines.groups import deviation
from pgjax.core.validation import check_at_least
from pgjax.records import configured
from pgjax.types import Number, Trajectory, Weights, check_part, describe


def centred(weights: Weights) -> Weights:
    """Weights w_it less their mean over all live steps of the batch.

    Bias: biased: the mean includes the step's own weight, and the number of live steps may depend
    on the actions.

    References:
        It is the first half of `whitened`.

    Example:
        >>> from pgjax import Estimator, terms, weights
        >>> estimator = Estimator(centred(weights.reward_to_go(0.99)), terms.score)
    """
    return configured(_centred, weights=check_part("weights", weights, "weights"))


def _centred(batch: Trajectory, log_prob: Array, *, weights: Weights) -> Array:
    return _subtract_mean(batch, weights(batch, log_prob))[0]


def whitened(weights: Weights, *, epsilon: Number = 1e-8, degrees: int = 0) -> Weights:
    """Weights (w_it − mean) / (std + ε) over all live steps of the batch: advantage normalisation.

    If the deviation is no more than rounding, all weights are zero.

    Args:
        weights: any weights, such as `mismatched_generalized_advantage`.
        epsilon: ε ≥ 0, in the weights' units.
        degrees: 0 or 1. The variance's divisor is the number of live steps, less this; `torch.std`
            takes 1.

    Raises:
        ValueError: if ε is negative, or `degrees` is neither 0 nor 1.

    Bias: biased, in size and direction: mean and deviation include the step's own weight.

    References:
        Andrychowicz et al., What Matters In On-Policy Reinforcement Learning? (2021), appendix
        B.9, here over the whole batch, there over each minibatch; Stable-Baselines3 has `degrees`
        1.

    Example:
        >>> from pgjax import Estimator, terms
        >>> from pgjax.weights import mismatched_generalized_advantage
        >>> advantage = mismatched_generalized_advantage(0.99, 0.95)
        >>> estimator = Estimator(whitened(advantage), terms.ppo_clip(0.2))
    """
    return configured(
        _whitened,
        weights=check_part("weights", weights, "weights"),
        epsilon=check_at_least("epsilon", epsilon, 0.0, "a deviation is not negative"),
        degrees=check_degrees(degrees),
    )


def check_degrees(degrees: object) -> int:
    """Return `degrees`, which the divisor of a variance subtracts, if it is 0 or 1.

    Raises:
        ValueError: if it is anything else.

    Bias: does not apply.
    """
    if not isinstance(degrees, int) or isinstance(degrees, bool) or degrees not in (0, 1):
        raise ValueError(
            f"degrees must be 0 or 1, got {describe(degrees)}; 1 is Bessel's correction"
        )
    return degrees


def _whitened(
    batch: Trajectory, log_prob: Array, *, weights: Weights, epsilon: Number, degrees: int
) -> Array:
    weight = weights(batch, log_prob)
    central, number = _subtract_mean(batch, weight)
    magnitude = jnp.sqrt(jnp.sum(jnp.where(batch.mask, weight, 0) ** 2) / number)
    return central / deviation(jnp.sum(central**2), number - degrees, magnitude, epsilon)


def divided_by_length(weights: Weights) -> Weights:
    """Weights w_it / |τ_i|, divided by the number of live steps in the row: a mean over tokens.

    Bias: biased: each step of a long episode counts less. So long episodes are preferred among bad
    ones.

    References:
        Shao et al., DeepSeekMath (2024), eq. 3, its 1/|o_i|; Liu et al., Understanding
        R1-Zero-Like Training (2025), section 3.1, on the bias.

    Example:
        >>> from pgjax import Estimator, terms, weights
        >>> estimator = Estimator(divided_by_length(weights.total_return(1.0)), terms.score)
    """
    return configured(_divided_by_length, weights=check_part("weights", weights, "weights"))


def _divided_by_length(batch: Trajectory, log_prob: Array, *, weights: Weights) -> Array:
    weight = weights(batch, log_prob)
    length = jnp.sum(batch.mask, axis=1, keepdims=True, dtype=weight.dtype)
    return weight / jnp.maximum(length, 1)


def _subtract_mean(batch: Trajectory, weight: Array) -> tuple[Array, Array]:
    """Deviations from the mean over live steps, zero elsewhere; and the number of live steps."""
    number = jnp.maximum(jnp.sum(batch.mask, dtype=weight.dtype), 1)
    mean = jnp.sum(jnp.where(batch.mask, weight, 0)) / number
    return jnp.where(batch.mask, weight - mean, 0), number
