"""A batch of trajectories: its layout, and what its flags, times and log-probabilities say."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pgjax.core.validation.numbers import as_array, check_array
from pgjax.core.validation.parts import check_like
from pgjax.core.validation.traced import check_traced, check_values, is_concrete
from pgjax.types import Trajectory, describe

FLAGS = ("terminated", "truncated", "mask")
PER_STEP = ("reward", "log_prob", *FLAGS)
PER_STEP_OPTIONAL = (
    *("value", "action_value", "time", "next_value"),
    *("reference_log_prob", "sampler_log_prob"),
)
PER_ROW_OPTIONAL = "final_value", "group"


def check_batch(batch: Trajectory) -> None:
    """Raise if a batch contradicts the docstring of `Trajectory`.

    Shapes and dtypes are always checked. Mask, flags, times and the sign of log-probabilities are
    checked if they are known, and else under `checked`. Traced rewards and log-probabilities that
    are not finite are found under `checked` alone.
    """
    check_layout(batch)
    _check_contents(batch)
    check_traced_finite("batch.reward", batch.reward, batch.mask)
    check_traced_finite("batch.log_prob", batch.log_prob, batch.mask)


def check_layout(batch: Trajectory, name: str = "batch") -> None:
    """Raise if a field of the batch is not [N, T, ...], or has the wrong dtype."""
    if not isinstance(batch, Trajectory):
        raise TypeError(
            f"{name} must be a pgjax.Trajectory, got {describe(batch)}; pgjax.rollout gives one"
        )
    for field in (*PER_STEP, *PER_STEP_OPTIONAL, *PER_ROW_OPTIONAL):
        _check_field(f"{name}.{field}", getattr(batch, field), optional=field not in PER_STEP)
    shape = batch.reward.shape
    if len(shape) != 2:
        raise ValueError(
            f"{name}.reward must have shape [N, T], got {shape}; "
            "give a single trajectory a leading axis: jax.tree.map(lambda x: x[None], trajectory)"
        )
    if shape[0] == 0:
        raise ValueError(f"{name} must hold at least one trajectory, got N = 0")
    for field in (*PER_STEP, *PER_STEP_OPTIONAL):
        found = getattr(batch, field)
        if found is not None and found.shape != shape:
            raise ValueError(f"{name}.{field} must have shape [N, T] = {shape}, got {found.shape}")
    for field in ("observation", "action"):
        _check_leading(f"{name}.{field}", getattr(batch, field), "[N, T, ...]", shape)
    if batch.final_observation is not None:
        _check_final_observation(f"{name}.final_observation", batch)
    for field in PER_ROW_OPTIONAL:
        found = getattr(batch, field)
        if found is not None and found.shape != shape[:1]:
            raise ValueError(f"{name}.{field} must have shape [N] = {shape[:1]}, got {found.shape}")
    for field in FLAGS:
        if getattr(batch, field).dtype != jnp.bool_:
            raise TypeError(
                f"{name}.{field} must be boolean, got {getattr(batch, field).dtype}; "
                "compare it with zero: x > 0"
            )


def _check_field(name: str, value: Any, *, optional: bool) -> None:
    """Raise if a field is not an array of real numbers."""
    if value is None and optional:
        return
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        raise TypeError(f"{name} must be an array, got {describe(value)}; jnp.asarray makes one")
    as_array(name, value)


def _check_leading(name: str, tree: Any, layout: str, shape: tuple[int, ...]) -> None:
    """Raise if a leaf is not an array, or does not begin with the axes of the batch."""
    leaves = jax.tree.leaves_with_path(tree)
    if not leaves:
        raise TypeError(f"{name} must hold an array, got {describe(tree)}")
    for path, leaf in leaves:
        where = name + jax.tree_util.keystr(path)
        if not hasattr(leaf, "shape"):
            raise TypeError(f"{where} must be an array, got {describe(leaf)}; use jnp.asarray")
        if leaf.shape[: len(shape)] != shape:
            raise ValueError(
                f"{where} must have shape {layout} = {(*shape, ...)}, got {leaf.shape}"
            )


def _check_final_observation(name: str, batch: Trajectory) -> None:
    """Raise if it is not [N, ...], with one observation for each trajectory."""
    N = batch.reward.shape[0]
    _check_leading(name, batch.final_observation, "[N, ...]", (N,))
    last = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((N, *x.shape[2:]), x.dtype), batch.observation
    )
    if jax.tree.structure(last) == jax.tree.structure(batch.final_observation):
        check_like(name, batch.final_observation, ("an observation", last))


IMPROBABLE = 1e-3
"""A log-probability this far above zero is not due to rounding, in any precision."""


def _check_contents(batch: Trajectory) -> None:
    """Raise if known flags, times or log-probabilities contradict each other, or their meaning."""
    if batch.mask.size == 0:
        return
    is_windows = batch.time is not None or batch.next_value is not None
    mask, flags = batch.mask, (batch.mask, batch.terminated, batch.truncated)
    place = "at trajectory {row}, step {step}"
    if not is_windows:
        _check_steps(
            f"batch.mask is true {place}, after a step where it is false; "
            "an episode's steps come first",
            lambda mask: mask[:, 1:] & ~mask[:, :-1],
            mask,
        )
        _check_steps(
            f"batch.mask is true {place}, and the step before terminated or truncated; rows of "
            "several episodes need batch.time or batch.next_value",
            lambda mask, terminated, truncated: mask[:, 1:] & (terminated | truncated)[:, :-1],
            *flags,
        )
    if batch.time is not None:
        count = f"batch.time is {{value}} {place}; it must count the steps of each episode from 0"
        _check_steps(count, lambda time, mask: mask & (time < 0), batch.time, mask, first=0)
        _check_steps(count, _breaks_count, batch.time, *flags)
    if all(jnp.issubdtype(x.dtype, jnp.integer) for x in jax.tree.leaves(batch.action)):
        _check_steps(
            f"batch.log_prob is {{value}} {place}; the logarithm of a discrete action's "
            "probability is at most 0: take jnp.log of probabilities",
            lambda log_prob, mask: mask & (log_prob > IMPROBABLE),
            batch.log_prob,
            mask,
            first=0,
        )


def _check_steps(message: str, find_bad: Callable[..., Any], *values: Any, first: int = 1) -> None:
    """Raise an error that names the first bad step.

    Args:
        message: with {row}, {step} and perhaps {value}, which is the first array's.
        find_bad: from the arrays [N, T] to a boolean array, whose columns are steps from `first`.
        values: the arrays.
        first: the first step that can be bad.
    """

    def finding(*values: Any) -> tuple[Any, dict[str, Any]]:
        bad = find_bad(*values)
        index = bad.ravel().argmax()
        row, step = index // bad.shape[1], index % bad.shape[1] + first
        return ~bad.any(), {"value": values[0][row, step], "row": row, "step": step}

    if values[0].shape[1] > first:
        check_values(message, finding, *values)


def _breaks_count(time: Any, mask: Any, terminated: Any, truncated: Any) -> Any:
    """Whether a live step's time does not follow from the live step before it, from step 1 on."""
    goes_on = ~(terminated | truncated)[:, :-1]
    return mask[:, 1:] & mask[:, :-1] & (time[:, 1:] != (time[:, :-1] + 1) * goes_on)


def check_target(batch: Trajectory, target: Any) -> jax.Array:
    """`target` as an array, if it is [N, T] like the batch, whose layout is checked too."""
    check_layout(batch)
    return check_array("target", target, "[N, T]", batch.reward.shape)


def check_log_prob(batch: Trajectory, log_prob: Any) -> jax.Array:
    """`log_prob` as an array, if it is [N, T] like the batch, whose layout is checked too."""
    check_layout(batch)
    return check_array("log_prob", log_prob, "[N, T]", batch.reward.shape)


def check_traced_finite(name: str, value: jax.Array, mask: jax.Array) -> None:
    """Raise if a traced value is not finite where the mask is true; known values are not read."""
    if value.size == 0 or is_concrete(value, mask):
        return  # reading every reward would make each eager call wait; `checked` does it

    def finding() -> tuple[jax.Array, dict[str, Any]]:
        bad = mask & ~jnp.isfinite(value)
        index = jnp.argmax(jnp.ravel(bad))
        row, step = index // max(value.shape[1], 1), index % max(value.shape[1], 1)
        return ~jnp.any(bad), {"value": jnp.ravel(value)[index], "row": row, "step": step}

    place = "is {value} at trajectory {row}, step {step}"
    check_traced(f"{name} {place}; it must be finite where batch.mask is true", finding)
