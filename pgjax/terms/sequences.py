"""Terms for sequences of tokens: ratios of whole sequences, soft clips and masks.

A trajectory is then one answer of a language model, and a step one token. The log-ratio of a token
is Δ_t = log π(a_t|s_t) − log μ(a_t|s_t), and L is the number of tokens where the mask is true. A
sequence has the ratio exp(Σ_t Δ_t), and the geometric mean of its tokens' ratios is exp(Σ_t Δ_t/L).

Papers write a loss for one sequence with one weight A. Here each token has a weight w_t, which is A
times the factor of the aggregation (`pgjax.tokens`), and the terms of the tokens are summed. With
w_t = A/L a term of the whole sequence counts once, and with w_t = A it counts L times.

Where the two policies agree, every term here has the gradient of `score`, w_t ∇log π, unless its
docstring says otherwise. In the formulas sg stops the gradient.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from pgjax.core.validation import (
    check_above_zero,
    check_at_least,
    check_same_shape,
    check_scalars,
    check_unit_interval,
)
from pgjax.records import configured
from pgjax.terms.clips import clip_by_sign
from pgjax.terms.ratios import likelihood_ratio
from pgjax.terms.score_function import weighted
from pgjax.types import Number, Term, describe


def sequence_ratio(
    log_prob: Float[Array, "T"],
    behaviour_log_prob: Float[Array, "T"],
    weight: Float[Array, "T"],
    mask: Bool[Array, "T"] | None = None,
) -> Float[Array, "T"]:
    """The sequence's ratio times the score, sg(exp Σ_k Δ_k) w_t log π(a_t|s_t).

    With w_t = A its sum has the gradient of exp(Σ_k Δ_k) A, the importance-weighted outcome.

    Bias: none for ∇J, on-policy or off-policy, if every token has the weight w_t = A of the whole
        sequence, an outcome less a baseline. The variance grows with the sequence's length.

    References:
        Pang & Jin, On the Theory and Practice of GRPO: A Trajectory-Corrected Approach with Fast
        Convergence (2025), their trajectory-level ratio.
    """
    log_prob, behaviour_log_prob, weight = check_same_shape(
        log_prob=log_prob, behaviour_log_prob=behaviour_log_prob, weight=weight
    )
    ratio = _ratio_of_sum(log_prob, behaviour_log_prob, mask)
    return weighted(jax.lax.stop_gradient(ratio) * weight, log_prob)


def prefix_ratio(
    log_prob: Float[Array, "T"],
    behaviour_log_prob: Float[Array, "T"],
    weight: Float[Array, "T"],
    mask: Bool[Array, "T"] | None = None,
) -> Float[Array, "T"]:
    """The ratio up to this token times the score, sg(exp Σ_{k≤t} Δ_k) w_t log π(a_t|s_t).

    Bias: none for ∇J if w_t is γ^t times an advantage under π itself. With an outcome as the
        weight it is biased off-policy: what follows the token was drawn from the other policy.
    """
    log_prob, behaviour_log_prob, weight = check_same_shape(
        log_prob=log_prob, behaviour_log_prob=behaviour_log_prob, weight=weight
    )
    difference = _log_ratios(log_prob, behaviour_log_prob, mask)
    ratio = likelihood_ratio(jnp.cumsum(difference), jnp.zeros_like(difference))
    return weighted(jax.lax.stop_gradient(ratio) * weight, log_prob)


def sequence_clip(clip_low: Number, clip_high: Number) -> Term:
    """GSPO: the geometric mean s of the sequence's ratios, clipped, min(s w_t, clip(s) w_t).

    Gradient: s w_t (1/L) Σ_k ∇log π(a_k|s_k), and zero where w_t > 0 and s > 1 + high, or w_t < 0
    and s < 1 − low.

    Args:
        clip_low: in [0, 1], how far below 1 s may move; 3e-4 in the paper. 1 sets no bound.
        clip_high: ≥ 0, how far above 1; 4e-4 in the paper. `math.inf` sets no bound.

    Raises:
        ValueError: if `clip_low` is outside [0, 1], or if `clip_high` is negative.

    Bias: on-policy it is `score` with the mean weight of the sequence. Off-policy biased: s is not
        the sequence's ratio but its L-th root.

    References:
        Zheng et al., Group Sequence Policy Optimization (2025), eq. 5 and 7.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob, old = jnp.log(jnp.array([0.8, 0.2])), jnp.log(jnp.array([0.4, 0.4]))
        >>> term = sequence_clip(0.2, 0.2)  # the ratios are 2 and 1/2, and s = 1
        >>> jax.grad(lambda l: term(l, old, jnp.array([0.5, 0.5])).sum())(log_prob).round(2)
        Array([0.5, 0.5], dtype=float32)
    """
    return configured(_sequence_clip, **_widths(clip_low, clip_high))


def _sequence_clip(
    log_prob: Array,
    behaviour: Array,
    weight: Array,
    mask: Array | None = None,
    *,
    clip_low: Number,
    clip_high: Number,
) -> Array:
    check_scalars(clip_low=clip_low, clip_high=clip_high)
    ratio = jnp.broadcast_to(_ratio_of_mean(log_prob, behaviour, mask), weight.shape)
    return clip_by_sign(ratio, weight, 1 - clip_low, 1 + clip_high) * weight


def sequence_clip_by_token(clip_low: Number, clip_high: Number) -> Term:
    """GSPO-token: each token's own gradient times the sequence's s, sg(s) w_t exp(l − sg(l)).

    Here l is log π(a_t|s_t), and s is the geometric mean as in `sequence_clip`. Gradient:
    s w_t ∇log π(a_t|s_t), and zero where that of `sequence_clip` is. If all tokens of a sequence
    have one weight, the sum over the tokens has the gradient of `sequence_clip`.

    Args:
        clip_low: in [0, 1], as for `sequence_clip`.
        clip_high: ≥ 0, as for `sequence_clip`.

    Raises:
        ValueError: if `clip_low` is outside [0, 1], or if `clip_high` is negative.

    Bias: as for `sequence_clip`; on-policy it is `score` for any weights.

    References:
        Zheng et al., Group Sequence Policy Optimization (2025), eq. 14.
    """
    return configured(_sequence_clip_by_token, **_widths(clip_low, clip_high))


def _sequence_clip_by_token(
    log_prob: Array,
    behaviour: Array,
    weight: Array,
    mask: Array | None = None,
    *,
    clip_low: Number,
    clip_high: Number,
) -> Array:
    check_scalars(clip_low=clip_low, clip_high=clip_high)
    held = jax.lax.stop_gradient(_ratio_of_mean(log_prob, behaviour, mask))
    ratio = held * jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))
    return clip_by_sign(ratio, weight, 1 - clip_low, 1 + clip_high) * weight


def geometric_clip(width: Number) -> Term:
    """GMPO: the geometric mean of the tokens' ratios, each clipped first, exp(Σ_t clip(Δ_t) / L).

    A token's log-ratio is held at `width` if it is above and its weight is positive. It is held at
    −`width` if it is below and its weight is negative. Gradient: the term times
    (1/L) Σ_k ∇log π(a_k|s_k), over the tokens k that are not held.

    Args:
        width: ≥ 0, a bound on the log-ratio, in nats; 0.4 in the paper. `math.inf` sets no bound.

    Raises:
        ValueError: if `width` is negative.

    Bias: as for `sequence_clip`, and because tokens are held.

    References:
        Zhao et al., Geometric-Mean Policy Optimization (2025), eq. 4.
    """
    return configured(
        _geometric_clip,
        width=check_at_least("width", width, 0.0, "it bounds the size of a log-ratio"),
    )


def _geometric_clip(
    log_prob: Array, behaviour: Array, weight: Array, mask: Array | None = None, *, width: Number
) -> Array:
    check_scalars(width=width)
    difference = _log_ratios(log_prob, behaviour, mask)
    difference = clip_by_sign(difference, weight, -jnp.asarray(width), width)
    mean = jnp.sum(difference) / _length(difference, mask)
    return likelihood_ratio(mean, jnp.zeros_like(mean)) * weight


def sigmoid_gate(positive: Number, negative: Number) -> Term:
    """SAPO: a soft clip, (4/τ) σ(τ (ρ_t − 1)) w_t, with τ by the sign of the weight.

    Gradient: 4 σ(x)(1 − σ(x)) ρ_t w_t ∇log π with x = τ (ρ_t − 1). It fades where ρ_t moves away
    from 1.

    Args:
        positive: τ > 0 where the weight is not negative; 1.0 in the paper.
        negative: τ > 0 where it is negative; 1.05 in the paper.

    Raises:
        ValueError: if either is not above zero.

    Bias: equal to `score` on-policy. Off-policy biased, as `importance_ratio` is, and because
        gradients fade.

    References:
        Gao et al., Soft Adaptive Policy Optimization (2025), eq. 5 to 7.
    """
    fix = "it is a steepness, and 1 is usual"
    return configured(
        _sigmoid_gate,
        positive=check_above_zero("positive", positive, fix),
        negative=check_above_zero("negative", negative, fix),
    )


def _sigmoid_gate(
    log_prob: Array,
    behaviour: Array,
    weight: Array,
    mask: Array | None = None,
    *,
    positive: Number,
    negative: Number,
) -> Array:
    check_scalars(positive=positive, negative=negative)
    ratio = likelihood_ratio(log_prob, behaviour)
    steepness = jnp.where(
        weight < 0, jnp.asarray(negative, ratio.dtype), jnp.asarray(positive, ratio.dtype)
    )
    return 4 / steepness * jax.nn.sigmoid(steepness * (ratio - 1)) * weight


def gamma_gate(
    positive: tuple[Number, Number] = (2.0, 3.0), negative: tuple[Number, Number] = (3.0, 2.0)
) -> Term:
    """VESPO: the score with a smooth weight of the sequence, sg(e^λ s^k e^{−λ s}) w_t log π.

    s = exp(Σ_t Δ_t) is the sequence's ratio, held in [1e-8, e^20]. The weight is 1 at s = 1.

    Args:
        positive: (k, λ), each ≥ 0, where the weight is not negative.
        negative: (k, λ), each ≥ 0, where it is negative.

    Raises:
        TypeError: if either is not a pair.
        ValueError: if a number is negative.

    Bias: equal to `score` on-policy. Off-policy biased: the weight is not the sequence's ratio.

    References:
        Shen et al., VESPO: Variational Sequence-Level Soft Policy Optimization (2026); defaults
        (2, 3) and (3, 2) and bounds as in TRL.
    """
    for name, pair in (("positive", positive), ("negative", negative)):
        if not _is_pair(pair):
            raise TypeError(f"{name} must be a pair (k, λ) of numbers, got {describe(pair)}")
    fix = "it shapes how fast the weight fades"
    settings = {
        f"{name}_{part}": check_at_least(f"{name}[{i}]", pair[i], 0.0, fix)
        for name, pair in (("positive", positive), ("negative", negative))
        for i, part in enumerate(("power", "rate"))
    }
    return configured(_gamma_gate, **settings)


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def _gamma_gate(
    log_prob: Array,
    behaviour: Array,
    weight: Array,
    mask: Array | None = None,
    *,
    positive_power: Number,
    positive_rate: Number,
    negative_power: Number,
    negative_rate: Number,
) -> Array:
    check_scalars(positive_power=positive_power, positive_rate=positive_rate)
    check_scalars(negative_power=negative_power, negative_rate=negative_rate)
    total = jax.lax.stop_gradient(jnp.sum(_log_ratios(log_prob, behaviour, mask)))
    total = jnp.clip(total, jnp.log(jnp.asarray(1e-8, total.dtype)), 20.0)
    power, rate = (
        jnp.where(weight < 0, jnp.asarray(low, total.dtype), jnp.asarray(high, total.dtype))
        for low, high in ((negative_power, positive_power), (negative_rate, positive_rate))
    )
    gate = jnp.exp(rate + power * total - rate * jnp.exp(total))
    return weighted(gate * weight, log_prob)


def _widths(clip_low: Number, clip_high: Number) -> dict[str, Number]:
    fix = "it is a width, such as 0.28, and not the bound itself"
    return {
        "clip_low": check_unit_interval("clip_low", clip_low),
        "clip_high": check_at_least("clip_high", clip_high, 0.0, fix),
    }


def _log_ratios(log_prob: Array, behaviour: Array, mask: Array | None) -> Array:
    lowest = float(jnp.finfo(behaviour.dtype).min)  # in place of −∞
    difference = log_prob - jnp.maximum(behaviour, lowest)
    return difference if mask is None else jnp.where(mask, difference, 0)


def _length(difference: Array, mask: Array | None) -> Array | int:
    """The number of tokens, at least one."""
    if mask is None:
        return max(difference.shape[0], 1)
    return jnp.maximum(jnp.sum(mask, dtype=difference.dtype), 1)


def _ratio_of_sum(log_prob: Array, behaviour: Array, mask: Array | None) -> Array:
    total = jnp.sum(_log_ratios(log_prob, behaviour, mask))
    return likelihood_ratio(total, jnp.zeros_like(total))


def _ratio_of_mean(log_prob: Array, behaviour: Array, mask: Array | None) -> Array:
    difference = _log_ratios(log_prob, behaviour, mask)
    mean = jnp.sum(difference) / _length(difference, mask)
    return likelihood_ratio(mean, jnp.zeros_like(mean))
