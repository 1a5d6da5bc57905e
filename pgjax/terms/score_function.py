"""The score-function term: the log-probability times the weight."""

from jax import Array
from jaxtyping import Bool, Float

from pgjax.core.recurrence import scaled


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
    """
    return scaled(weight, log_prob)
