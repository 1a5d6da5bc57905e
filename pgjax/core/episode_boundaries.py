"""Episode boundaries inside a batch's rows, and the values that follow an episode there.

A row is one whole episode, or a window of several, one after another. An episode in a window ends
after each step that terminated or truncated, and at the row's last step. All credit assignment
reads the boundaries here: no return leaks from one episode into the one before it, and no terminal
state is bootstrapped.

Batches are [N, T], and so are results unless their docstring says otherwise.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, PyTree

from pgjax.core.recurrence import accumulation_dtype, scaled
from pgjax.core.validation import check_scalars
from pgjax.types import Number, Trajectory


def holds_windows(batch: Trajectory) -> bool:
    """Whether rows may hold several episodes: whether `next_value` or `time` is given.

    With `time` alone, episodes end where a flag is set, and are bootstrapped nowhere.
    """
    return batch.next_value is not None or batch.time is not None


def same_episode_next(batch: Trajectory) -> Bool[Array, "N T"]:
    """Whether the next step is a live one of the same episode."""
    going = batch.mask & jnp.pad(batch.mask[:, 1:], ((0, 0), (0, 1)))
    return going & ~(batch.terminated | batch.truncated) if holds_windows(batch) else going


def is_first_step(batch: Trajectory) -> Bool[Array, "N T"]:
    """Whether a step begins an episode, as far as the row shows; true at dead steps too."""
    inside = same_episode_next(batch)[:, :-1]
    return jnp.pad(~inside, ((0, 0), (1, 0)), constant_values=True)


def rate_within_episode(batch: Trajectory, rate: Number) -> Number | Float[Array, "N T"]:
    """A rate, γ or λ, set to zero where the next step belongs to another episode.

    For windows it is [N, T], in float32 or wider. For whole episodes it is the rate itself, which
    is faster: only zeros follow an episode's end.
    """
    if not holds_windows(batch):
        return rate
    dtype = accumulation_dtype(batch.reward)
    return jnp.asarray(rate, dtype) * same_episode_next(batch).astype(dtype)


def time_in_episode(batch: Trajectory) -> Int[Array, "N T"] | Int[Array, "1 T"]:
    """The time t of every step, counted from the start of its episode; [1, T] for whole episodes.

    This is `time` if the batch has it. Otherwise the row's first step starts an episode, and so
    does each step after an episode's end.
    """
    if batch.time is not None:
        return batch.time
    step = jnp.arange(batch.reward.shape[1], dtype=jnp.int32)[None]
    if not holds_windows(batch):
        return step
    first = jnp.maximum.accumulate(jnp.where(is_first_step(batch), step, 0), axis=1)
    return step - first


def replace_dead_steps(mask: Bool[Array, "N T"], tree: PyTree) -> PyTree:
    """Leaves [N, T, ...] whose dead steps repeat the row's first step.

    A policy is then evaluated at a real step everywhere. So the garbage after an episode's end
    reaches neither the value nor, as NaN · 0, the gradient. A row whose first step is dead gets
    zeros, and true for booleans, because no action mask may be all false.
    """

    def replaced(x: Array) -> Array:
        x = jnp.asarray(x)
        live = mask.reshape(mask.shape + (1,) * (x.ndim - 2))
        zero = jnp.asarray(x.dtype == jnp.bool_, x.dtype)
        return jnp.where(live, x, jnp.where(live[:, :1], x[:, :1], zero))

    return jax.tree.map(replaced, tree)


def discounted_by_time(
    batch: Trajectory, discount: Number, weight: Float[Array, "N T"]
) -> Float[Array, "N T"]:
    """γ^t w_it, where t is the time in the step's episode and w is a weight or an advantage.

    Raises:
        ValueError: if `discount` is not a single number.
    """
    check_scalars(discount=discount)
    return scaled(discount_power(discount, time_in_episode(batch), weight.dtype), weight)


def discount_power(discount: Number, time: Array, dtype: Any) -> Array:
    """γ^t in a floating dtype, whatever the dtype of the times."""
    return jnp.asarray(discount, dtype) ** time.astype(dtype)


def bootstrap_values(batch: Trajectory) -> Float[Array, "N T"] | None:
    """V of the state after each episode that is cut before it terminates, at its last step.

    It is zero at all other steps. It is None if the batch has no such values and so bootstraps
    nothing.

    Raises:
        ValueError: if the batch has `final_value` and `time` but no `next_value`: `final_value`
            does not cover the ends within a row.
    """
    if batch.next_value is not None:
        return jnp.where(_is_cut(batch), batch.next_value, 0)
    if batch.final_value is None:
        return None
    if batch.time is not None:
        raise ValueError(
            "batch.next_value is None, and rows with batch.time, which may hold several episodes, "
            f"need it: {_FIX}"
        )
    return jnp.where(_is_cut(batch), batch.final_value[:, None], 0)


def values(batch: Trajectory) -> Float[Array, "N T"]:
    """V(s_t), the batch's `value`, zero where the mask is false.

    Raises:
        ValueError: if the batch has none.
    """
    return jnp.where(batch.mask, require_field(batch, "value", "weights that use a critic need"), 0)


def require_field(batch: Trajectory, field: str, need: str) -> Float[Array, "N T"]:
    """A field of the batch that a critic fills.

    Args:
        field: its name.
        need: what needs the field, for the error.

    Raises:
        ValueError: if the field is None.
    """
    found = getattr(batch, field)
    if found is None:
        raise ValueError(
            f"batch.{field} is None, and {need} it: "
            f"batch.replace({field}=critic(batch.observation))"
        )
    return found


def following_values(batch: Trajectory) -> Float[Array, "N T"]:
    """V(s_{t+1}) of every step within its episode: zero where it terminated, and after its end.

    For a window this is `next_value`. For a whole episode it is the next step's `value`, and
    `final_value` at the last step. Without a `final_value` the time limit belongs to the task, and
    the value after the last step is zero.

    Raises:
        ValueError: if the batch has no values.
    """
    if batch.next_value is not None:
        return jnp.where(batch.mask & ~batch.terminated, batch.next_value, 0)
    if holds_windows(batch):
        raise ValueError(f"batch.next_value is None, and windows need it: {_FIX}")
    value = values(batch)
    later = jnp.pad(value[:, 1:], ((0, 0), (0, 1)))
    inside, last = jnp.where(same_episode_next(batch), later, 0), bootstrap_values(batch)
    return inside if last is None else inside + last.astype(inside.dtype)


def _is_cut(batch: Trajectory) -> Array:
    """Whether the episode is cut after this step, before it terminated."""
    return batch.mask & ~same_episode_next(batch) & ~batch.terminated


_FIX = "windows.with_values(window, critic) gives it"
