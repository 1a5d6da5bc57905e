"""Aggregation: how the tokens of a batch are averaged, as factors of their weights.

Each function maps a batch to factors f [N, T], so that (1/N) Σ_it f_it x_it over live tokens is the
mean that it is named after. All divide by counts of the whole batch, without rows that have no live
token. Lengths L_i are numbers of live tokens, S is the number of answers and P that of prompts
(`batch.group`).

The policy gradient of an outcome less its baseline is Σ_t ∇log π(a_t|s_t) A: the mean over answers
of the *sum* over tokens. Of the functions here, `sequence_sum` alone is that mean, and
`constant_length` is, up to a constant. The others divide by lengths, which depend on the answers
themselves.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.core.recurrence import accumulation_dtype
from pgjax.core.validation import check_above_zero
from pgjax.records import configured
from pgjax.tokens.groups import groups_of
from pgjax.types import Number, Trajectory, Weights


def sequence_sum(batch: Trajectory) -> Float[Array, "N 1"]:
    """Mean over answers of the sum over tokens, (1/S) Σ_i Σ_t x_it.

    Bias: none.

    References:
        Ahmadian et al., Back to Basics (2024); Liu et al., Understanding R1-Zero-Like Training
        (2025), up to a constant; "seq-mean-token-sum" in verl.
    """
    return _share_of_answers(batch)


def constant_length(length: Number) -> Weights:
    """Mean over answers of the sum over tokens, divided by a constant: (1/S) Σ_i Σ_t x_it / length.

    Args:
        length: > 0, such as the longest answer allowed. It must be a constant: the longest answer
            of this batch would bias the estimate.

    Raises:
        ValueError: if `length` is not above zero.

    Bias: a constant factor only.

    References:
        Liu et al., Understanding R1-Zero-Like Training (2025), their Dr. GRPO code.
    """
    fix = "it may be the longest answer allowed"
    return configured(_constant_length, length=check_above_zero("length", length, fix))


def _constant_length(batch: Trajectory, *, length: Number) -> Array:
    share = _share_of_answers(batch)
    return share / jnp.asarray(length, share.dtype)


def sequence_mean(batch: Trajectory) -> Float[Array, "N 1"]:
    """Mean over answers of the mean over tokens, (1/S) Σ_i (1/L_i) Σ_t x_it: GRPO.

    Bias: biased in direction, whatever the batch's size: a token of a long answer counts less.

    References:
        Shao et al., DeepSeekMath (2024), eq. 3; "seq-mean-token-mean" in verl.
    """
    return _share_of_answers(batch) / jnp.maximum(_lengths(batch), 1)


def token_mean(batch: Trajectory) -> Float[Array, "N 1"]:
    """Mean over all tokens of the batch, Σ_it x_it / Σ_i L_i: DAPO.

    Bias: biased, because the batch's own number of tokens is the divisor. In the limit of large
        batches only a factor is left, one over the mean length.

    References:
        Yu et al., DAPO (2025), eq. 8; "token-mean" in verl.
    """
    total = jnp.sum(_lengths(batch))
    return jnp.full((len(batch.mask), 1), len(batch.mask), total.dtype) / jnp.maximum(total, 1)


def prompt_mean(batch: Trajectory) -> Float[Array, "N 1"]:
    """Mean over prompts of the mean over all tokens of a prompt's answers.

    Raises:
        ValueError: if `batch.group` is None.

    Bias: as `token_mean` within each prompt, and so biased in direction between prompts: those with
        short answers count for more.

    References:
        "prompt_mean" in SkyRL.
    """
    groups, lengths = groups_of(batch), _lengths(batch)
    live = (lengths > 0).astype(lengths.dtype)
    members = jnp.maximum(groups.total(live), 1)
    prompts = jnp.sum(live / members)
    tokens = jnp.maximum(groups.total(lengths), 1)
    return len(batch.mask) / (jnp.maximum(prompts, 1) * tokens)


def _lengths(batch: Trajectory) -> Float[Array, "N 1"]:
    dtype = accumulation_dtype(batch.log_prob)
    return jnp.sum(batch.mask, axis=1, keepdims=True, dtype=dtype)


def _share_of_answers(batch: Trajectory) -> Float[Array, "N 1"]:
    """N/S: the mean over rows times this is the mean over answers."""
    live = jnp.any(batch.mask, axis=1)
    number = jnp.sum(live, dtype=accumulation_dtype(batch.log_prob))
    return jnp.full((len(live), 1), len(live), number.dtype) / jnp.maximum(number, 1)
