"""Clipped ratios as terms: PPO's clip, clip-higher, the dual clip, and a truncated ratio.

A clip chooses the steps that still count. Where it holds the ratio ρ_t = π(a_t|s_t)/μ(a_t|s_t) at a
bound, the gradient of the step is zero; elsewhere it is ρ_t w_t ∇log π(a_t|s_t).
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.core.validation import check_at_least, check_scalars, check_unit_interval
from pgjax.records import configured
from pgjax.terms.ratios import likelihood_ratio
from pgjax.terms.score_function import weighted
from pgjax.types import Number, Term


def ppo_clip(epsilon: Number) -> Term:
    """PPO's clipped ratio, min(ρ_t w_t, clip(ρ_t, 1−ε, 1+ε) w_t).

    Gradient: ρ_t w_t ∇log π where w_t > 0 and ρ_t ≤ 1+ε, or w_t < 0 and ρ_t ≥ 1−ε; zero elsewhere.
    A step stops counting if its ratio has moved far enough in the direction of its weight's sign.
    It counts however far the ratio has moved in the other direction.

    Args:
        epsilon: ε in [0, 1], how far the ratio may move from 1; Schulman et al. use 0.2.

    Raises:
        ValueError: if ε is outside [0, 1].

    Bias: equal to `score` on-policy (π = μ). Off-policy biased, as `importance_ratio` is, and also
    because clipped steps are left out.

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
    return configured(_ppo_clip, epsilon=check_unit_interval("epsilon", epsilon))


def _ppo_clip(
    log_prob: Array, behaviour: Array, weight: Array, mask: Array | None = None, *, epsilon: Number
) -> Array:
    check_scalars(epsilon=epsilon)
    ratio = likelihood_ratio(log_prob, behaviour)
    return clip_by_sign(ratio, weight, 1 - epsilon, 1 + epsilon) * weight


def asymmetric_clip(clip_low: Number, clip_high: Number, *, ceiling: Number = math.inf) -> Term:
    """The clipped ratio with two widths, min(ρ_t w_t, clip(ρ_t, 1−low, 1+high) w_t): clip-higher.

    Gradient: ρ_t w_t ∇log π where w_t > 0 and ρ_t ≤ 1+high, or w_t < 0 and ρ_t ≥ 1−low; zero
    elsewhere. A wider upper bound lets improbable actions grow faster.

    Args:
        clip_low: in [0, 1], how far below 1 the ratio may move; DAPO uses 0.2. 1 sets no bound.
        clip_high: ≥ 0, how far above 1 it may move; DAPO uses 0.28. `math.inf` sets no bound.
        ceiling: c ≥ 1 + `clip_high`. Where w_t < 0, a ratio above it has no gradient, as in
            `dual_clip`. `math.inf` sets no bound.

    Raises:
        ValueError: if `clip_low` is outside [0, 1], if `clip_high` is negative, or if `ceiling` is
            below 1 + `clip_high`.

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
    fix = "it is a width, such as 0.28, and not the bound itself"
    clip_low = check_unit_interval("clip_low", clip_low)
    clip_high = check_at_least("clip_high", clip_high, 0.0, fix)
    widths = {"clip_low": clip_low, "clip_high": clip_high}
    if isinstance(ceiling, float) and ceiling == math.inf:
        return configured(_asymmetric_clip, **widths)
    fix = "it bounds the ratio itself, and 3 is usual"
    ceiling = check_at_least("ceiling", ceiling, 1 + clip_high, fix)
    return configured(_asymmetric_dual_clip, **widths, ceiling=ceiling)


def _asymmetric_clip(
    log_prob: Array,
    behaviour: Array,
    weight: Array,
    mask: Array | None = None,
    *,
    clip_low: Number,
    clip_high: Number,
) -> Array:
    check_scalars(clip_low=clip_low, clip_high=clip_high)
    ratio = likelihood_ratio(log_prob, behaviour)
    return clip_by_sign(ratio, weight, 1 - clip_low, 1 + clip_high) * weight


def _asymmetric_dual_clip(
    log_prob: Array,
    behaviour: Array,
    weight: Array,
    mask: Array | None = None,
    *,
    clip_low: Number,
    clip_high: Number,
    ceiling: Number,
) -> Array:
    check_scalars(clip_low=clip_low, clip_high=clip_high, ceiling=ceiling)
    ratio = likelihood_ratio(log_prob, behaviour)
    clipped = clip_by_sign(ratio, weight, 1 - clip_low, 1 + clip_high)
    return clip_by_sign(clipped, -weight, 0.0, ceiling) * weight


def dual_clip(epsilon: Number, ceiling: Number) -> Term:
    """PPO's clip with a ceiling for bad actions, max(min(ρ w, clip(ρ, 1−ε, 1+ε) w), c w) if w < 0.

    Gradient: as for `ppo_clip`, but also zero where w_t < 0 and ρ_t > c. There the gradient of
    `ppo_clip` is unbounded: a bad action that the acting policy rarely chose dominates the update.

    Args:
        epsilon: ε in [0, 1], as for `ppo_clip`.
        ceiling: c ≥ 1 + ε, the largest ratio of a bad action; Ye et al. use 3.

    Raises:
        ValueError: if ε is outside [0, 1], or if `ceiling` is below 1 + ε.

    Bias: larger than that of `ppo_clip`, in exchange for a smaller variance.

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
    epsilon = check_unit_interval("epsilon", epsilon)
    fix = "it bounds the ratio itself, and 3 is usual"
    ceiling = check_at_least("ceiling", ceiling, 1 + epsilon, fix)
    return configured(_dual_clip, epsilon=epsilon, ceiling=ceiling)


def _dual_clip(
    log_prob: Array,
    behaviour: Array,
    weight: Array,
    mask: Array | None = None,
    *,
    epsilon: Number,
    ceiling: Number,
) -> Array:
    check_scalars(epsilon=epsilon, ceiling=ceiling)
    ratio = likelihood_ratio(log_prob, behaviour)
    clipped = clip_by_sign(ratio, weight, 1 - epsilon, 1 + epsilon)
    # A negated weight swaps the sides, so that the ceiling holds where w < 0.
    return clip_by_sign(clipped, -weight, 0.0, ceiling) * weight


def truncated_ratio(ceiling: Number, *, floor: Number = 0.0) -> Term:
    """The score times a ratio held within bounds, sg(clip(ρ_t, floor, c)) w_t log π(a_t|s_t).

    Gradient: clip(ρ_t, floor, c) w_t ∇log π. Beyond a bound it is not zero, unlike `ppo_clip`'s.

    Args:
        ceiling: c ≥ 0, the largest ratio itself. CISPO's is 1 + ε_high; some libraries give the
            name ε_high to c.
        floor: in [0, c], the smallest ratio. 0 sets no bound.

    Raises:
        ValueError: if `floor` is negative, or if `ceiling` is below `floor`.

    Bias: equal to `score` on-policy if floor ≤ 1 ≤ c, and otherwise a multiple of it. Off-policy
        biased, as `importance_ratio` is, and because ratios are held at the bounds.

    References:
        MiniMax, MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention (2025),
        their CISPO, eq. 4 and 5, here per step and with no division by lengths;
        Ionides, Truncated Importance Sampling (2008).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob, behaviour = jnp.log(jnp.array([0.9])), jnp.log(jnp.array([0.1]))
        >>> jax.grad(lambda l: truncated_ratio(2.0)(l, behaviour, jnp.ones(1)).sum())(log_prob)
        Array([2.], dtype=float32)
    """
    fix = "it bounds the ratio itself: 1.28 where a paper writes ε_high = 0.28"
    floor = check_at_least("floor", floor, 0.0, fix)
    return configured(
        _truncated_ratio, ceiling=check_at_least("ceiling", ceiling, floor, fix), floor=floor
    )


def _truncated_ratio(
    log_prob: Array,
    behaviour: Array,
    weight: Array,
    mask: Array | None = None,
    *,
    ceiling: Number,
    floor: Number,
) -> Array:
    check_scalars(ceiling=ceiling, floor=floor)
    ratio = jax.lax.stop_gradient(likelihood_ratio(log_prob, behaviour))
    lowest, highest = (jnp.asarray(bound, ratio.dtype) for bound in (floor, ceiling))
    return weighted(jnp.clip(ratio, lowest, highest) * weight, log_prob)


def clip_by_sign(ratio: Array, weight: Array, lowest: Number, highest: Number) -> Array:
    """The ratio, clipped from above where w > 0, and from below where w < 0.

    Args:
        ratio: a ratio or its logarithm.
        weight: w, of the same shape.
        lowest: the bound where w < 0.
        highest: the bound where w > 0.

    Bias: does not apply.
    """
    # `where` and not `minimum`, whose gradient at a tie is half of each side's.
    lowest, highest = (jnp.asarray(bound, ratio.dtype) for bound in (lowest, highest))
    upper = jnp.where(ratio > highest, highest, ratio)
    lower = jnp.where(ratio < lowest, lowest, ratio)
    return jnp.where(weight > 0, upper, jnp.where(weight < 0, lower, ratio))
