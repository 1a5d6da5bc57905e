"""Terms: how the log-probability enters, as functions of one trajectory.

(log_prob[T], behaviour_log_prob[T], weight[T]) -> [T]. The gradient of their sum is the estimate,
so a term is chosen for its gradient; its value is a surrogate and means nothing by itself.

In what follows ρ_t = π(a_t|s_t)/μ(a_t|s_t) is the ratio of one step, μ the policy that acted, and
w_t the weight. Every clip is a choice of the steps that still count: where it holds the ratio at a
bound, the step's gradient is zero, and elsewhere it is ρ_t w_t ∇log π(a_t|s_t).
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pgjax.core.validation import check_at_least, check_unit_interval

Number = float | Float[Array, ""]
Term: TypeAlias = Callable[[Array, Array, Array], Array]


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
    """Importance ratio ρ_t w_t = π(a_t|s_t)/μ(a_t|s_t) w_t, with the ratio of this step alone.

    A ratio too large for its dtype is held, and its gradient with it (`likelihood_ratio`), so that
    an overflow gives a large gradient and never a NaN.

    Bias: equal to `score` on-policy (π = μ). Off-policy it is biased: states and later rewards
    still come from μ.

    References:
        Schulman et al., Trust Region Policy Optimization (2015), eq. 40 (the surrogate);
        Degris, White & Sutton, Off-Policy Actor-Critic (2012), eq. 5.
    """
    return likelihood_ratio(log_prob, behaviour_log_prob) * weight


def likelihood_ratio(
    log_prob: Float[Array, "*batch T"], other_log_prob: Float[Array, "*batch T"]
) -> Float[Array, "*batch T"]:
    """exp(log_prob − other_log_prob), held where its square would overflow: e^44 in float32.

    There the value stands still but the slope goes on as if it did not: a step so far out still
    says in which direction it lies. (Clamping the difference alone would say nothing.)

    Args:
        log_prob: [..., T] of the numerator.
        other_log_prob: [..., T] of the denominator.

    Returns:
        [..., T], finite whatever the two, short of NaN.

    Bias: none below the bound; above it the ratio is too small.
    """
    lowest = float(jnp.finfo(other_log_prob.dtype).min)  # in place of −∞, which no slope survives
    difference = log_prob - jnp.maximum(other_log_prob, lowest)
    largest = float(np.log(float(jnp.finfo(difference.dtype).max))) / 2
    held = largest + (difference - jax.lax.stop_gradient(difference))
    return jnp.exp(jnp.where(difference > largest, held, difference))


def ppo_clip(epsilon: Number) -> Term:
    """PPO's clipped ratio, min(ρ_t w_t, clip(ρ_t, 1−ε, 1+ε) w_t).

    Gradient: ρ_t w_t ∇log π where w_t > 0 and ρ_t ≤ 1+ε, or w_t < 0 and ρ_t ≥ 1−ε; zero elsewhere.
    So a step stops counting once the ratio has moved far enough in the direction that its weight
    asks for, and counts however far it has moved in the other.

    Args:
        epsilon: ε in [0, 1], how far the ratio may move from 1; Schulman et al. use 0.2.

    Returns:
        A term.

    Raises:
        ValueError: ε outside [0, 1] or NaN.

    Bias: equal to `score` on-policy (π = μ). Off-policy biased, as `importance_ratio` is, and by
    the clipped steps besides.

    References:
        Schulman et al., Proximal Policy Optimization Algorithms (2017), eq. 7.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob, behaviour = jnp.log(jnp.array([0.9, 0.9])), jnp.log(jnp.array([0.5, 0.5]))
        >>> weight = jnp.array([1.0, -1.0])  # both ratios are 1.8
        >>> term = ppo_clip(0.2)
        >>> jax.grad(lambda l: term(l, behaviour, weight).sum())(log_prob).round(2)
        Array([ 0. , -1.8], dtype=float32)
    """
    check_unit_interval("epsilon", epsilon)
    return asymmetric_clip(epsilon, epsilon)


def asymmetric_clip(clip_low: Number, clip_high: Number) -> Term:
    """The clipped ratio with two widths, min(ρ_t w_t, clip(ρ_t, 1−low, 1+high) w_t): clip-higher.

    Gradient: ρ_t w_t ∇log π where w_t > 0 and ρ_t ≤ 1+high, or w_t < 0 and ρ_t ≥ 1−low; zero
    elsewhere. A wider upper bound lets improbable actions grow faster.

    Args:
        clip_low: in [0, 1], how far below 1 the ratio may move; DAPO uses 0.2. At 1 it is free.
        clip_high: ≥ 0, how far above 1; DAPO uses 0.28. `math.inf` leaves it free.

    Returns:
        A term.

    Raises:
        ValueError: a width that is negative or NaN, a lower one above 1.

    Bias: as for `ppo_clip`.

    References:
        Yu et al., DAPO: An Open-Source LLM Reinforcement Learning System at Scale (2025), their
        clip-higher, here per step and with no mean over tokens.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob, behaviour = jnp.log(jnp.array([0.625])), jnp.log(jnp.array([0.5]))
        >>> for term in (ppo_clip(0.2), asymmetric_clip(0.2, 0.28)):
        ...     gradient = jax.grad(lambda l: term(l, behaviour, jnp.ones(1)).sum())(log_prob)
        ...     print(gradient)
        [0.]
        [1.25]
    """
    check_unit_interval("clip_low", clip_low)
    check_at_least("clip_high", clip_high, 0.0, "it is a width, 0.28 say, not the bound itself")

    def term(log_prob: Array, behaviour_log_prob: Array, weight: Array) -> Array:
        ratio = likelihood_ratio(log_prob, behaviour_log_prob)
        return _held(ratio, weight, 1 - clip_low, 1 + clip_high) * weight

    return term


def dual_clip(epsilon: Number, ceiling: Number) -> Term:
    """PPO's clip with a ceiling for bad actions, max(min(ρ w, clip(ρ, 1−ε, 1+ε) w), c w) if w < 0.

    Gradient: as `ppo_clip`, but zero too where w_t < 0 and ρ_t > c. There `ppo_clip` is unbounded:
    an action that the acting policy hardly ever chose, and that went badly, would rule the step.

    Args:
        epsilon: ε in [0, 1].
        ceiling: c ≥ 1 + ε; Ye et al. use 3.

    Returns:
        A term.

    Raises:
        ValueError: ε outside [0, 1], a ceiling below 1 + ε.

    Bias: as for `ppo_clip`; for smaller variance, more of it.

    References:
        Ye et al., Mastering Complex Control in MOBA Games with Deep Reinforcement Learning (2020),
        their dual-clip PPO.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob, behaviour = jnp.log(jnp.array([0.9])), jnp.log(jnp.array([0.1]))
        >>> term = dual_clip(0.2, 3.0)  # the ratio is 9
        >>> jax.grad(lambda l: term(l, behaviour, -jnp.ones(1)).sum())(log_prob)
        Array([0.], dtype=float32)
    """
    check_unit_interval("epsilon", epsilon)
    check_at_least("ceiling", ceiling, 1 + epsilon, "it bounds the ratio itself, and 3 is usual")

    def term(log_prob: Array, behaviour_log_prob: Array, weight: Array) -> Array:
        ratio = likelihood_ratio(log_prob, behaviour_log_prob)
        clipped = _held(ratio, weight, 1 - epsilon, 1 + epsilon)
        # A negated weight swaps the sides, so that the ceiling holds where w < 0.
        return _held(clipped, -weight, 0.0, ceiling) * weight

    return term


def truncated_ratio(ceiling: Number) -> Term:
    """A ratio held at a ceiling that never silences a step, sg(min(ρ_t, c)) w_t log π(a_t|s_t).

    Gradient: min(ρ_t, c) w_t ∇log π, where `ppo_clip` would have zero.

    Args:
        ceiling: c ≥ 0.

    Returns:
        A term.

    Raises:
        ValueError: a negative ceiling.

    Bias: equal to `score` on-policy if c ≥ 1. Off-policy biased, as `importance_ratio` is, and by
    what is cut off.

    References:
        MiniMax, MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention (2025),
        their CISPO, whose c is 1 + ε_high, here per step and with no division by lengths;
        Ionides, Truncated Importance Sampling (2008).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob, behaviour = jnp.log(jnp.array([0.9])), jnp.log(jnp.array([0.1]))
        >>> jax.grad(lambda l: truncated_ratio(2.0)(l, behaviour, jnp.ones(1)).sum())(log_prob)
        Array([2.], dtype=float32)
    """
    check_at_least("ceiling", ceiling, 0.0, "it bounds the ratio itself")

    def term(log_prob: Array, behaviour_log_prob: Array, weight: Array) -> Array:
        ratio = likelihood_ratio(log_prob, behaviour_log_prob)
        held = jnp.minimum(ratio, jnp.asarray(ceiling, ratio.dtype))
        return jax.lax.stop_gradient(held) * weight * log_prob

    return term


def _held(ratio: Array, weight: Array, lowest: Number, highest: Number) -> Array:
    """The ratio, held where the weight has already had its way: above for w > 0, below for w < 0.

    `where` and not `minimum`, whose gradient at a tie is half of each side's.
    """
    lowest, highest = (jnp.asarray(bound, ratio.dtype) for bound in (lowest, highest))
    upper = jnp.where(ratio > highest, highest, ratio)
    lower = jnp.where(ratio < lowest, lowest, ratio)
    return jnp.where(weight > 0, upper, jnp.where(weight < 0, lower, ratio))
