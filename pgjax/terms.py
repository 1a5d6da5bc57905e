"""Terms: how the log-probability enters, as functions of one trajectory.

(log_prob[T], behaviour_log_prob[T], weight[T]) -> [T]. The gradient of their sum is the estimate,
so a term is chosen for its gradient; its value is a surrogate and means nothing by itself.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def score(
    log_prob: Float[Array, "T"], behaviour_log_prob: Float[Array, "T"], weight: Float[Array, "T"]
) -> Float[Array, "T"]:
    """Score-function term, log π(a_t|s_t) w_t, whose gradient is the score times the weight.

    Bias: none on-policy, if the weights have none.

    References:
        Williams (1992), theorem 1.
    """
    return log_prob * weight


def importance_ratio(
    log_prob: Float[Array, "T"], behaviour_log_prob: Float[Array, "T"], weight: Float[Array, "T"]
) -> Float[Array, "T"]:
    """Importance ratio π(a_t|s_t)/μ(a_t|s_t) w_t, with the ratio of this step alone.

    Bias: equal to `score` on-policy (π = μ). Off-policy it is biased: states and later rewards
    still come from μ.

    References:
        Schulman et al., Trust Region Policy Optimization (2015), eq. 40 (the surrogate);
        Degris, White & Sutton, Off-Policy Actor-Critic (2012), eq. 5.
    """
    return jnp.exp(log_prob - behaviour_log_prob) * weight
