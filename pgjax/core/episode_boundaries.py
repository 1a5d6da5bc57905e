"""Where the episodes in a batch's rows begin and end, and the value of what follows them there.

A row is one whole episode, or a window of several, one after another. An episode in a window is cut
after each step that terminated or truncated, and at the row's last step. All credit assignment uses
this module, so that no return leaks from one episode into the one before it, and no terminal state
is bootstrapped.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from pgjax.core.recurrence import accumulation_dtype
from pgjax.core.validation import check_scalars
from pgjax.types import Number, Trajectory


def holds_windows(batch: Trajectory) -> bool:
    """Whether rows may hold several episodes: whether `next_value` or `time` is given.

    With `time` alone, windows are cut where they should be and bootstrapped nowhere.
    """
    return batch.next_value is not None or batch.time is not None


def continues(batch: Trajectory) -> Bool[Array, "N T"]:
    """[N, T] whether the next step is a live one of the same episode."""
    going = batch.mask & jnp.pad(batch.mask[:, 1:], ((0, 0), (0, 1)))
    return going & ~(batch.terminated | batch.truncated) if holds_windows(batch) else going


def is_first_step(batch: Trajectory) -> Bool[Array, "N T"]:
    """[N, T] whether an episode starts here: at a row's first step, and after each cut.

    Also true after a row's last live step.
    """
    return jnp.pad(~continues(batch)[:, :-1], ((0, 0), (1, 0)), constant_values=True)


def continued(batch: Trajectory, rate: Number) -> Number | Float[Array, "N T"]:
    """A rate, γ or λ, times the continuation.

    Where a row is one episode the rate alone will do, and is faster: only zeros follow its end.

    Args:
        batch: [N, T].
        rate: in [0, 1].

    Returns:
        The rate as it came for whole episodes, [N, T] in float32 or wider for windows.
    """
    if not holds_windows(batch):
        return rate
    dtype = accumulation_dtype(batch.reward)
    return jnp.asarray(rate, dtype) * continues(batch).astype(dtype)


def age(batch: Trajectory) -> Int[Array, "N T"] | Int[Array, "1 T"]:
    """The time t of every step, counted from the start of its episode.

    `time` if the batch has it. Otherwise each row is taken to begin with an episode's first step,
    and every cut with another one.

    Returns:
        [N, T] for windows, [1, T] for whole episodes.
    """
    if batch.time is not None:
        return batch.time
    step = jnp.arange(batch.reward.shape[1], dtype=jnp.int32)[None]
    if not holds_windows(batch):
        return step
    first = jnp.maximum.accumulate(jnp.where(is_first_step(batch), step, 0), axis=1)
    return step - first


def discounted_by_age(
    batch: Trajectory, discount: Number, weight: Float[Array, "N T"]
) -> Float[Array, "N T"]:
    """γ^t w_it, t being the age of the step's episode.

    Args:
        batch: [N, T].
        discount: γ in [0, 1].
        weight: [N, T] w, such as an advantage.

    Returns:
        [N, T].

    Raises:
        ValueError: if `discount` is not a single number.
    """
    check_scalars(discount=discount)
    return jnp.asarray(discount, weight.dtype) ** age(batch).astype(weight.dtype) * weight


def bootstrap_values(batch: Trajectory) -> Float[Array, "N T"] | None:
    """V of what follows an episode where it is cut without having terminated; zero elsewhere.

    Returns:
        [N, T]; None if the batch carries no such values, and so bootstraps nothing.

    Raises:
        ValueError: a `final_value` beside `time`, and no `next_value`: it says nothing of the cuts
            within a row.
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
    """V(s_t), the batch's own `value`, zero after the end.

    Returns:
        [N, T].

    Raises:
        ValueError: the batch carries none.
    """
    if batch.value is None:
        raise ValueError(
            "batch.value is None, and weights that ask a critic need it: "
            "batch.replace(value=critic(batch.observation))"
        )
    return jnp.where(batch.mask, batch.value, 0)


def following_values(batch: Trajectory) -> Float[Array, "N T"]:
    """V(s_{t+1}) of every step, in its own episode: zero where it terminated, and after its end.

    `next_value` of a window. In a whole episode the next step's `value`, and at the last step
    `final_value`; none given, the time limit belongs to the task, and nothing follows.

    Returns:
        [N, T].

    Raises:
        ValueError: the batch carries no values.
    """
    if batch.next_value is not None:
        return jnp.where(batch.mask & ~batch.terminated, batch.next_value, 0)
    if holds_windows(batch):
        raise ValueError(f"batch.next_value is None, and windows need it: {_FIX}")
    value = values(batch)
    later = jnp.pad(value[:, 1:], ((0, 0), (0, 1)))
    inside, last = jnp.where(continues(batch), later, 0), bootstrap_values(batch)
    return inside if last is None else inside + last.astype(inside.dtype)


def _is_cut(batch: Trajectory) -> Array:
    """Whether the episode was left here, under way."""
    return batch.mask & ~continues(batch) & ~batch.terminated


_FIX = "windows.with_values(window, critic) gives it"
