"""Rewards and outcomes of answers, as arrays that weights are made of."""

import jax.numpy as jnp
from jax import Array

from pgjax.core.recurrence import accumulation_dtype
from pgjax.types import Trajectory


def rewards_of(batch: Trajectory) -> Array:
    """The rewards [N, T] in the accumulation dtype, zero where no token is live.

    Bias: none.
    """
    return jnp.where(batch.mask, batch.reward, 0).astype(accumulation_dtype(batch.reward))


def outcomes_of(batch: Trajectory) -> Array:
    """The outcome of each answer [N, 1], the sum of its rewards.

    Bias: none.
    """
    return jnp.sum(rewards_of(batch), axis=1, keepdims=True)


def to_tokens(batch: Trajectory, credit: Array) -> Array:
    """[N, 1] -> [N, T], the same number for all tokens of an answer.

    Bias: none.
    """
    return jnp.broadcast_to(credit, batch.mask.shape)
