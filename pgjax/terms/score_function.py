"""The score-function term: the log-probability times the weight."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Bool, Float

from pgjax.core.recurrence import scaled
from pgjax.core.validation import check_same_shape


def score(
    log_prob: Float[Array, "T"],
    behaviour_log_prob: Float[Array, "T"],
    weight: Float[Array, "T"],
    mask: Bool[Array, "T"] | None = None,
) -> Float[Array, "T"]:
    """Score-function term, log π(a_t|s_t) w_t, whose gradient is the score times the weight.

    Bias: none on-policy, if the weights have none.

    References:
        Williams (1992), theorem 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob, weight = jnp.log(jnp.array([0.5, 0.25])), jnp.array([2.0, 3.0])
        >>> jax.grad(lambda l: score(l, log_prob, weight).sum())(log_prob)
        Array([2., 3.], dtype=float32)
    """
    log_prob, behaviour_log_prob, weight = check_same_shape(
        log_prob=log_prob, behaviour_log_prob=behaviour_log_prob, weight=weight
    )
    return weighted(weight, log_prob)


@jax.custom_jvp
def weighted(weight: Float[Array, "T"], log_prob: Float[Array, "T"]) -> Float[Array, "T"]:
    """Weighted log-probability w_t log π(a_t|s_t); zero where w_t is zero and log π infinite.

    Its derivative by log π is the weight, which does not depend on log π. So the gradient of a
    surrogate needs no pass over the network for its value.

    Bias: as for `score`, if the weight is a constant.
    """
    return scaled(weight, log_prob)


@partial(weighted.defjvp, symbolic_zeros=True)
def _weighted_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    (weight, log_prob), (of_weight, of_log_prob) = primals, tangents
    change = jnp.zeros_like(log_prob)
    if not isinstance(of_log_prob, SymbolicZero):
        change = change + weight * of_log_prob
    if not isinstance(of_weight, SymbolicZero):
        counts = (weight != 0) | ~jnp.isinf(log_prob)
        change = change + jnp.where(counts, log_prob, 0) * of_weight
    return weighted(weight, log_prob), change
