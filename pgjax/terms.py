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

    A ratio above the square root of the largest number of its dtype (e^44 in float32) is held
    there, and its gradient with it, so that an overflow gives a large gradient and never a NaN.

    Bias: equal to `score` on-policy (π = μ). Off-policy it is biased: states and later rewards
    still come from μ.

    References:
        Schulman et al., Trust Region Policy Optimization (2015), eq. 40 (the surrogate);
        Degris, White & Sutton, Off-Policy Actor-Critic (2012), eq. 5.
    """
    return _ratio(log_prob, behaviour_log_prob) * weight


def ppo_clip(epsilon: float) -> Term:
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
    _check_width("epsilon", epsilon, largest=1.0)
    return asymmetric_clip(epsilon, epsilon)


def asymmetric_clip(clip_low: float, clip_high: float) -> Term:
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
        Yu et al., DAPO: An Open-Source LLM Reinforcement Learning System at Scale (2025), eq. 10.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob, behaviour = jnp.log(jnp.array([0.625])), jnp.log(jnp.array([0.5]))
        >>> for term in (ppo_clip(0.2), asymmetric_clip(0.2, 0.28)):
        ...     gradient = jax.grad(lambda l: term(l, behaviour, jnp.ones(1)).sum())(log_prob)
        ...     print(gradient)
        [0.]
        [1.25]
    """
    _check_width("clip_low", clip_low, largest=1.0)
    _check_width("clip_high", clip_high, largest=np.inf)

    def term(log_prob: Array, behaviour_log_prob: Array, weight: Array) -> Array:
        ratio = _ratio(log_prob, behaviour_log_prob)
        return _held(ratio, weight, lowest=1 - clip_low, highest=1 + clip_high) * weight

    return term


def dual_clip(epsilon: float, ceiling: float) -> Term:
    """PPO's clip with a ceiling for bad actions, max(min(ρ w, clip(ρ, 1−ε, 1+ε) w), c w) if w < 0.

    Gradient: as `ppo_clip`, but zero too where w_t < 0 and ρ_t > c. There `ppo_clip` is unbounded:
    an action that the acting policy hardly ever chose, and that went badly, would rule the step.

    Args:
        epsilon: ε in [0, 1].
        ceiling: c, above 1 + ε; Ye et al. use 3.

    Returns:
        A term.

    Raises:
        ValueError: ε outside [0, 1], a ceiling not above 1 + ε.

    Bias: as for `ppo_clip`; for smaller variance, more of it.

    References:
        Ye et al., Mastering Complex Control in MOBA Games with Deep Reinforcement Learning (2020),
        eq. 5.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob, behaviour = jnp.log(jnp.array([0.9])), jnp.log(jnp.array([0.1]))
        >>> term = dual_clip(0.2, 3.0)  # the ratio is 9
        >>> jax.grad(lambda l: term(l, behaviour, -jnp.ones(1)).sum())(log_prob)
        Array([0.], dtype=float32)
    """
    _check_width("epsilon", epsilon, largest=1.0)
    if not ceiling > 1 + epsilon:
        raise ValueError(
            f"ceiling must be above 1 + epsilon = {1 + epsilon:g}, got {ceiling:g}; "
            "it bounds the ratio itself, and 3 is usual"
        )

    def term(log_prob: Array, behaviour_log_prob: Array, weight: Array) -> Array:
        ratio = _ratio(log_prob, behaviour_log_prob)
        clipped = _held(ratio, weight, lowest=1 - epsilon, highest=1 + epsilon)
        # Negated weights swap the sides: the ceiling holds where a positive weight's bound does.
        return _held(clipped, -weight, lowest=0.0, highest=ceiling) * weight

    return term


def truncated_ratio(ceiling: float) -> Term:
    """A ratio held at a ceiling that never silences a step, sg(min(ρ_t, c)) w_t log π(a_t|s_t).

    Gradient: min(ρ_t, c) w_t ∇log π, where `ppo_clip` would have zero.

    Args:
        ceiling: c > 0.

    Returns:
        A term.

    Raises:
        ValueError: a ceiling that is not positive.

    Bias: equal to `score` on-policy if c ≥ 1. Off-policy biased, as `importance_ratio` is, and by
    what is cut off.

    References:
        MiniMax, MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention (2025),
        eq. 4-5 (CISPO, whose c is 1 + ε_high), here per step and with no division by lengths;
        Ionides, Truncated Importance Sampling (2008).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob, behaviour = jnp.log(jnp.array([0.9])), jnp.log(jnp.array([0.1]))
        >>> jax.grad(lambda l: truncated_ratio(2.0)(l, behaviour, jnp.ones(1)).sum())(log_prob)
        Array([2.], dtype=float32)
    """
    if not ceiling > 0:
        raise ValueError(f"ceiling must be positive, got {ceiling:g}; it bounds the ratio itself")

    def term(log_prob: Array, behaviour_log_prob: Array, weight: Array) -> Array:
        ratio = jnp.minimum(_ratio(log_prob, behaviour_log_prob), ceiling)
        return jax.lax.stop_gradient(ratio) * weight * log_prob

    return term


def _ratio(log_prob: Array, behaviour_log_prob: Array) -> Array:
    """ρ = π/μ, held where its square would overflow.

    There the value stands still but the slope by log π goes on as ρ: a step so far out still says
    in which direction it lies. (Clamping log ρ alone would say nothing.)
    """
    log_ratio = log_prob - behaviour_log_prob
    largest = float(np.log(float(jnp.finfo(log_ratio.dtype).max))) / 2
    held = largest + (log_prob - jax.lax.stop_gradient(log_prob))
    return jnp.exp(jnp.where(log_ratio > largest, held, log_ratio))


def _held(ratio: Array, weight: Array, *, lowest: float, highest: float) -> Array:
    """The ratio, held where the weight has already had its way: above for w > 0, below for w < 0.

    `where` and not `minimum`, whose gradient at a tie is half of each side's.
    """
    upper = jnp.where(ratio > highest, highest, ratio)
    lower = jnp.where(ratio < lowest, lowest, ratio)
    return jnp.where(weight > 0, upper, jnp.where(weight < 0, lower, ratio))


def _check_width(name: str, value: float, *, largest: float) -> None:
    if not 0 <= value <= largest:  # also caught: NaN
        raise ValueError(
            f"{name} must lie in [0, {largest:g}], got {value:g}; "
            "it is how far the ratio may move from 1, 0.2 say, and not the bound itself"
        )
