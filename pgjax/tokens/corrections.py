"""Corrections for a sampler that differs slightly from the policy: factors of the advantages.

The program that draws the tokens (another engine, another precision, top-p or top-k sampling)
reports `batch.sampler_log_prob`, and `batch.log_prob` is what the trainer computes for the same
parameters. Their ratio is r_t = exp(log_prob_t − sampler_log_prob_t), and that of an answer is
Π_t r_t over its live tokens. Every factor is a constant under differentiation; ratios are limited
before they overflow (`terms.likelihood_ratio`). A ValueError is raised at use if
`batch.sampler_log_prob` is None.

References:
    Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy RL Training (2025), for
    truncation; Ionides, Truncated Importance Sampling (2008).
"""

import jax.numpy as jnp
from jax import Array

from pgjax.core.validation import check_at_least, check_scalars
from pgjax.records import configured
from pgjax.terms.ratios import likelihood_ratio
from pgjax.types import Number, Trajectory, Weights

_FIX = "it bounds the ratio itself"


def token_truncation(ceiling: Number) -> Weights:
    """min(r_t, ceiling), token by token; 2 is usual.

    Args:
        ceiling: ≥ 0.

    Raises:
        ValueError: if `ceiling` is negative.

    Bias: biased: a token's ratio does not correct for those before it, nor for what is cut off.
    """
    return configured(_truncated, ceiling=_bound("ceiling", ceiling), ratio=_of_tokens)


def sequence_truncation(ceiling: Number) -> Weights:
    """min(Π_t r_t, ceiling) for every token of an answer.

    Args:
        ceiling: ≥ 0.

    Raises:
        ValueError: if `ceiling` is negative.

    Bias: none where nothing is cut off and the sampler can draw whatever the policy can.
    """
    return configured(_truncated, ceiling=_bound("ceiling", ceiling), ratio=_of_sequences)


def token_mask(low: Number, high: Number) -> Weights:
    """r_t where low ≤ r_t ≤ high, and zero outside; 0.5 and 5 in IcePop.

    Args:
        low: ≥ 0.
        high: ≥ `low`.

    Raises:
        ValueError: if `low` is negative, or `high` below it.

    Bias: as `token_truncation`, and more: tokens outside do not count at all.
    """
    return configured(_masked, **_bounds(low, high), ratio=_of_tokens, tested=_of_tokens)


def sequence_mask(low: Number, high: Number) -> Weights:
    """Π_t r_t where it lies in [low, high], and zero outside; 0 and 3 in TRL.

    Args:
        low: ≥ 0.
        high: ≥ `low`.

    Raises:
        ValueError: if `low` is negative, or `high` below it.

    Bias: biased, because answers outside do not count.
    """
    return configured(_masked, **_bounds(low, high), ratio=_of_sequences, tested=_of_sequences)


def geometric_mask(low: Number, high: Number) -> Weights:
    """r_t where the geometric mean of the answer's ratios lies in [low, high], and zero outside.

    Args:
        low: ≥ 0; 0.999 in NeMo-RL.
        high: ≥ `low`; 1.002 there.

    Raises:
        ValueError: if `low` is negative, or `high` below it.

    Bias: as `token_truncation`, and because answers outside do not count.
    """
    return configured(_masked, **_bounds(low, high), ratio=_of_tokens, tested=_of_means)


def _truncated(batch: Trajectory, log_prob: Array, *, ceiling: Number, ratio: Weights) -> Array:
    check_scalars(ceiling=ceiling)
    found = ratio(batch, log_prob)
    return jnp.minimum(found, jnp.asarray(ceiling, found.dtype))


def _masked(
    batch: Trajectory,
    log_prob: Array,
    *,
    low: Number,
    high: Number,
    ratio: Weights,
    tested: Weights,
) -> Array:
    check_scalars(low=low, high=high)
    found, test = ratio(batch, log_prob), tested(batch, log_prob)
    inside = (test >= jnp.asarray(low, test.dtype)) & (test <= jnp.asarray(high, test.dtype))
    return jnp.where(inside, found, 0)


def _of_tokens(batch: Trajectory, log_prob: Array) -> Array:
    difference = _differences(batch)
    return likelihood_ratio(difference, jnp.zeros_like(difference))


def _of_sequences(batch: Trajectory, log_prob: Array) -> Array:
    total = jnp.sum(_differences(batch), axis=1, keepdims=True)
    ratio = likelihood_ratio(total, jnp.zeros_like(total))
    return jnp.broadcast_to(ratio, batch.mask.shape)


def _of_means(batch: Trajectory, log_prob: Array) -> Array:
    difference = _differences(batch)
    length = jnp.sum(batch.mask, axis=1, keepdims=True, dtype=difference.dtype)
    mean = jnp.sum(difference, axis=1, keepdims=True) / jnp.maximum(length, 1)
    ratio = likelihood_ratio(mean, jnp.zeros_like(mean))
    return jnp.broadcast_to(ratio, batch.mask.shape)


def _differences(batch: Trajectory) -> Array:
    if batch.sampler_log_prob is None:
        raise ValueError(
            "batch.sampler_log_prob must hold the sampler's log-probabilities, got None; the "
            "estimator's correction reads them: tokens.Batch(..., sampler_log_prob=...)"
        )
    return jnp.where(batch.mask, batch.log_prob - batch.sampler_log_prob, 0)


def _bound(name: str, value: Number) -> Number:
    return check_at_least(name, value, 0.0, _FIX)


def _bounds(low: Number, high: Number) -> dict[str, Number]:
    low = _bound("low", low)
    return {"low": low, "high": check_at_least("high", high, low, _FIX)}
