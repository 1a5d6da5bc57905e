"""Terms that leave out tokens whose probability has moved too far: DPPO.

Let π = π(a_t|s_t) and μ = μ(a_t|s_t). The two-way split "this token or another" has a total
variation |π − μ| and a KL divergence μ log(μ/π) + (1−μ) log((1−μ)/(1−π)). Either takes the place of
PPO's clip of the ratio, which stops rare tokens too early.

The term of a step is sg(min(ρ_t, ceiling)) w_t log π, where sg stops the gradient. It is zero if
the step's probability has moved too far in the direction of its weight's sign.

References:
    Qi et al., Rethinking the Trust Region in LLM Reinforcement Learning (2026).
"""

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.core.validation import check_at_least, check_scalars, check_unit_interval
from pgjax.records import configured
from pgjax.terms.ratios import likelihood_ratio
from pgjax.terms.score_function import weighted
from pgjax.types import Number, Term


def divergence_mask(low: Number, high: Number, *, ceiling: Number = 20.0) -> Term:
    """DPPO: the score with a bounded ratio, for tokens whose probability has not moved too far.

    It is sg(min(ρ_t, ceiling)) w_t log π(a_t|s_t). It is zero where w_t > 0 and π − μ > high, or
    where w_t < 0 and π − μ < −low.

    Args:
        low: in [0, 1], how far a token's probability may fall.
        high: in [0, 1], how far a token's probability may rise.
        ceiling: ≥ 0, the largest ratio.

    Raises:
        ValueError: if a bound is outside its range.

    Bias: equal to `score` on-policy if `ceiling` ≥ 1. Off-policy biased, as `importance_ratio` is,
        and because tokens are left out.

    References:
        Qi et al., Rethinking the Trust Region in LLM Reinforcement Learning (2026), their
        DPPO-Binary-TV.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob, old = jnp.log(jnp.array([0.5, 0.3])), jnp.log(jnp.array([0.25, 0.25]))
        >>> term = divergence_mask(0.2, 0.2)  # the probabilities rose by 0.25 and 0.05
        >>> jax.grad(lambda l: term(l, old, jnp.ones(2)).sum())(log_prob) > 0
        Array([False,  True], dtype=bool)
    """
    return configured(
        _divergence_mask,
        low=check_unit_interval("low", low),
        high=check_unit_interval("high", high),
        ceiling=check_at_least("ceiling", ceiling, 0.0, "it bounds the ratio itself"),
    )


def _divergence_mask(
    log_prob: Array,
    behaviour: Array,
    weight: Array,
    mask: Array | None = None,
    *,
    low: Number,
    high: Number,
    ceiling: Number,
) -> Array:
    check_scalars(low=low, high=high, ceiling=ceiling)
    held = jax.lax.stop_gradient(log_prob)
    ratio = jnp.minimum(likelihood_ratio(held, behaviour), jnp.asarray(ceiling, held.dtype))
    moved = jnp.exp(held) - jnp.exp(behaviour)
    too_far = ((weight > 0) & (moved > high)) | ((weight < 0) & (moved < -jnp.asarray(low)))
    return weighted(jnp.where(too_far, 0, ratio) * weight, log_prob)


def kl_mask(low: Number, high: Number, *, ceiling: Number = 20.0) -> Term:
    """DPPO's KL form: the score with a bounded ratio, for tokens of small KL divergence.

    It is sg(min(ρ_t, ceiling)) w_t log π(a_t|s_t), and zero where the KL divergence of the two-way
    split is above a bound. The bound is `high` where w_t > 0 and π > μ, and `low` where w_t < 0 and
    π < μ. Elsewhere there is none.

    Args:
        low: ≥ 0, the divergence up to which a token's probability may fall, in nats.
        high: ≥ 0, the divergence up to which a token's probability may rise, in nats.
        ceiling: ≥ 0, the largest ratio.

    Raises:
        ValueError: if a bound is outside its range.

    Bias: equal to `score` on-policy if `ceiling` ≥ 1. Off-policy biased, as `importance_ratio` is,
        and because tokens are left out.

    References:
        Qi et al. (2026), their DPPO-Binary-KL.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob, old = jnp.log(jnp.array([0.5, 0.3])), jnp.log(jnp.array([0.25, 0.25]))
        >>> term = kl_mask(0.05, 0.05)  # the divergences are 0.144 and 0.006
        >>> jax.grad(lambda l: term(l, old, jnp.ones(2)).sum())(log_prob) > 0
        Array([False,  True], dtype=bool)
    """
    fix = "it bounds a divergence in nats"
    return configured(
        _kl_mask,
        low=check_at_least("low", low, 0.0, fix),
        high=check_at_least("high", high, 0.0, fix),
        ceiling=check_at_least("ceiling", ceiling, 0.0, "it bounds the ratio itself"),
    )


def _kl_mask(
    log_prob: Array,
    behaviour: Array,
    weight: Array,
    mask: Array | None = None,
    *,
    low: Number,
    high: Number,
    ceiling: Number,
) -> Array:
    check_scalars(low=low, high=high, ceiling=ceiling)
    held = jax.lax.stop_gradient(log_prob)
    ratio = jnp.minimum(likelihood_ratio(held, behaviour), jnp.asarray(ceiling, held.dtype))
    # Below one, so that a certain token has a finite log(1 − p).
    now, old = (
        jnp.minimum(jnp.exp(x), 1 - jnp.finfo(held.dtype).epsneg) for x in (held, behaviour)
    )
    lowest = float(jnp.finfo(held.dtype).min)  # in place of −∞
    of_token = old * (jnp.maximum(behaviour, lowest) - jnp.maximum(held, lowest))
    divergence = of_token + (1 - old) * (jnp.log1p(-old) - jnp.log1p(-now))
    up = (weight > 0) & (held > behaviour) & (divergence > high)
    down = (weight < 0) & (held < behaviour) & (divergence > low)
    return weighted(jnp.where(up | down, 0, ratio) * weight, log_prob)
