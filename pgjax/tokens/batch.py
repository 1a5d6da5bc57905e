"""Batch: the arrays from which a policy gradient over tokens is computed, and their checks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Bool, Float, Int, Num

from pgjax.core.float64 import to_jax
from pgjax.core.recurrence import accumulation_dtype
from pgjax.core.validation import check_real, check_traced, is_concrete
from pgjax.types import Trajectory


@struct.dataclass
class Batch:
    """N answers of at most T tokens, as arrays; a pytree with a leading N, but for `None`.

    A token is live where `mask` is true: the policy chose it. Prompts, padding, and what tools or
    environments wrote are not live, also in the middle of an answer. Where a token is not live,
    every field may hold anything, NaN included. A row without live tokens pads the batch, and
    counts nowhere.

    Attributes:
        log_prob: [N, T] log-probabilities in nats under the policy that is held fixed in the ratio:
            the "old" policy, at the start of the update.
        mask: [N, T] boolean, true where the token is live.
        reward: [N] of each answer, or [N, T] after each token; read at live tokens only.
        group: [N] optional, the same integer for all answers to one prompt, in any order.
        reference_log_prob: [N, T] optional, under the reference policy of a KL penalty.
        sampler_log_prob: [N, T] optional, as reported by the program that drew the tokens, if its
            probabilities differ from those of `log_prob`.
        value: [N, T] or [N], optional: a critic's V before each token; or one number for an answer,
            such as the reward of the greedy answer to its prompt.
    """

    log_prob: Float[Array, "N T"]
    mask: Bool[Array, "N T"]
    reward: Num[Array, "N"] | Num[Array, "N T"]
    group: Int[Array, "N"] | None = None
    reference_log_prob: Float[Array, "N T"] | None = None
    sampler_log_prob: Float[Array, "N T"] | None = None
    value: Float[Array, "N T"] | Float[Array, "N"] | None = None


def as_trajectories(batch: Batch) -> Trajectory:
    """The same as a Trajectory [N, T], for any weights; its observations and actions are empty.

    A reward [N] stands at the last live token, and a value [N] at every token.

    Raises:
        TypeError, ValueError: see `check_batch`.

    Bias: none.
    """
    check_batch(batch)
    return _as_trajectories(to_jax(batch))


@jax.jit  # traced once for all the estimators of a program, and one program outside jit
def _as_trajectories(batch: Batch) -> Trajectory:
    mask = batch.mask
    N, T = mask.shape
    reward = batch.reward
    dtype = accumulation_dtype(reward)
    is_last = mask & (jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1] == 1)
    reward = jnp.where(is_last if reward.ndim == 1 else mask, _by_token(reward, (N, T)), 0)
    value = batch.value
    return Trajectory(
        observation=jnp.zeros((N, T, 0), dtype),
        action=jnp.zeros((N, T), jnp.int32),
        reward=reward.astype(dtype),
        log_prob=batch.log_prob,
        terminated=is_last,
        truncated=jnp.zeros((N, T), bool),
        mask=mask,
        final_observation=jnp.zeros((N, 0), dtype),
        value=None if value is None else _by_token(value, (N, T)),
        group=batch.group,
        reference_log_prob=batch.reference_log_prob,
        sampler_log_prob=batch.sampler_log_prob,
    )


def check_batch(batch: Any) -> None:
    """Raise if a field contradicts the docstring of `Batch`.

    Known values are checked at once, traced values under `pgjax.checked`.

    Raises:
        TypeError: if it is not a Batch, or a field has another dtype.
        ValueError: if a field has another shape, no token is live, or a log-probability of a live
            token is above zero or NaN.
    """
    if not isinstance(batch, Batch):
        raise TypeError(
            f"batch must be a pgjax.tokens.Batch, got {type(batch).__name__}; "
            "tokens.Batch(log_prob, mask, reward) makes one of arrays"
        )
    shape = np.shape(batch.mask)
    if len(shape) != 2:
        raise ValueError(
            f"batch.mask must have shape [N, T], got {shape}; stack the answers as rows"
        )
    if jnp.result_type(batch.mask) != jnp.bool_:
        raise TypeError(f"batch.mask must be boolean, got {batch.mask.dtype}; write mask > 0")
    one, each = shape[:1], (shape,)
    allowed = {"log_prob": each, "reward": (one, shape), "group": (one,), "value": (one, shape)}
    allowed |= {"reference_log_prob": each, "sampler_log_prob": each}
    for name, shapes in allowed.items():
        value = getattr(batch, name)
        if value is None and name in ("log_prob", "reward"):
            raise TypeError(f"batch.{name} must be an array, got None")
        if value is not None:
            check_real(f"batch.{name}", value)
        if value is not None and np.shape(value) not in shapes:
            needed = " or ".join(f"{'[N, T]' if s == shape else '[N]'} = {s}" for s in shapes)
            raise ValueError(f"batch.{name} must have shape {needed}, got {np.shape(value)}")
    if batch.group is not None and not jnp.issubdtype(jnp.result_type(batch.group), jnp.integer):
        got = jnp.result_type(batch.group)
        raise TypeError(f"batch.group must be integers, got {got}; cast it: group.astype(int)")
    for name in ("log_prob", "reference_log_prob", "sampler_log_prob"):
        if getattr(batch, name) is not None:
            check_log_prob(f"batch.{name}", getattr(batch, name), batch.mask)
    if is_concrete(batch.mask) and not np.any(np.asarray(batch.mask)):
        rows = f"{shape[0]} rows of {shape[1]} tokens"
        raise ValueError(f"batch.mask must be true for some tokens, got none in {rows}")


def check_log_prob(name: str, value: Any, mask: Any) -> None:
    """Raise if it is not floating [N, T], or above zero or NaN at a live token."""
    check_real(name, value)
    shape, dtype = np.shape(mask), jnp.result_type(value)
    if np.shape(value) != shape:
        raise ValueError(f"{name} must have shape [N, T] = {shape}, got {np.shape(value)}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be floating, got {dtype}; it holds log-probabilities")
    highest = min(256 * float(jnp.finfo(dtype).eps), 0.1)  # rounding
    fix = "; it is log p of the token, not −log p, and not p"
    if is_concrete(value, mask):
        bad = np.asarray(mask) & ~(np.asarray(value, np.float64) <= highest)
        if np.any(bad):
            row, token = np.argwhere(bad)[0]
            found = np.asarray(value, np.float64)[row, token]
            raise ValueError(
                f"{name} must be at most 0, got {found:g} at row {row}, token {token}{fix}"
            )
        return

    def finding() -> tuple[Array, dict[str, Any]]:
        bad = jnp.ravel(mask & ~(value <= highest))
        index = jnp.argmax(bad)
        place = {"row": index // shape[1], "token": index % shape[1]}
        return ~jnp.any(bad), {"value": jnp.ravel(value)[index], **place}

    message = name + " must be at most 0, got {value} at row {row}, token {token}" + fix
    check_traced(message, finding)


def _by_token(x: Array, shape: tuple[int, int]) -> Array:
    """[N] or [N, T] -> [N, T]."""
    return jnp.broadcast_to(x[:, None] if x.ndim == 1 else x, shape)
