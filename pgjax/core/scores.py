"""Log-probabilities and weighted scores of a batch: the only passes over a policy's network.

A score weight c_it is the derivative of the surrogate by log π(a_it|s_it). So the gradient is the
weighted score Σ_it c_it ∇log π(a_it|s_it). Once the score weights are known, independent units of
the batch can be evaluated apart. They are the steps of a policy without memory, or the trajectories
of a recurrent policy. A batch is evaluated in chunks of such units (`pgjax.core.chunks`).

Of a batch [N, T], the observations, actions and mask are read. A recurrent policy also reads where
episodes begin. `chunk_size` is the number of steps that are evaluated at a time; None takes the
fastest measured, 4,096 on a CPU.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from pgjax.core import chunks
from pgjax.core.devices import varying
from pgjax.core.episode_boundaries import is_first_step, replace_dead_steps
from pgjax.core.recurrent_log_probs import Steps, unroll
from pgjax.core.validation import (
    check_batch,
    check_leaves,
    check_policy,
    check_positive,
    is_concrete,
)
from pgjax.types import Params, Policy, RecurrentPolicy, Trajectory

TRAJECTORIES, STEPS = 16, 128
"""Trajectories and steps in a chunk of per-trajectory gradients: 1.6 times as fast as all at once,
with a ninth of the memory."""

Result = TypeVar("Result")

Measure = Callable[..., Array]
"""(params, observation) -> scalar, or (params, memory, observation) -> scalar for a recurrent
policy. It is a constant under differentiation."""


def log_probs(
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
    *,
    chunk_size: int | None = None,
) -> Float[Array, "N T"]:
    """Log-probabilities log π(a_it|s_it) under params, [N, T], zero after each episode's end.

    A network sees one matrix of many steps. A recurrent policy is unrolled along each episode
    instead, from the memory at its start.

    Raises:
        ValueError: if a recurrent policy returns a memory of another structure or shape than it was
            given; outside jit, if the batch has an action that the policy lacks. Under jit such an
            action has log-probability NaN.

    Bias: exact, except for a recurrent policy in a window that begins within an episode. There it
        starts from the initial memory, and the policy that acted may have had another.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> from pgjax import enumeration, suite
        >>> problem = suite.problems()[0]
        >>> batch, _ = enumeration.trajectories(problem)
        >>> log_probs(problem.policy, jnp.zeros((3, 2)), batch)[0]
        Array([-0.6931472], dtype=float32)
    """
    check_policy(policy)
    check_leaves("params", params)
    check_batch(batch)
    if chunk_size is not None:
        check_positive("chunk_size", chunk_size)
    found = _log_probs(policy, params, batch, chunk_size or chunks.rows_per_chunk())
    return explained(found, policy, params, batch)


def explained(
    result: Result, policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory
) -> Result:
    """The result; but if an action of the batch made it NaN, the policy's own error is raised.

    Traced values are not checked. A recurrent policy is asked with its initial memory.

    Args:
        result: of a pass over the policy; a pytree whose leaves are NaN together.

    Raises:
        ValueError, TypeError: of `policy.log_prob`, with the place of the action before it.
    """
    leaves = jax.tree.leaves(result)
    if not leaves or not is_concrete(result, params, batch):
        return result
    smallest = jnp.asarray(min(leaves, key=jnp.size))
    if smallest.is_fully_addressable and np.isnan(np.asarray(smallest)).any():
        _raise_of_policy(policy, params, batch)
    return result


def _raise_of_policy(policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory) -> None:
    """Raise the policy's own error, if it has one, for the first action of log-probability NaN."""
    log_prob = np.asarray(_log_probs(policy, params, batch, chunks.rows_per_chunk()))
    bad = np.argwhere(np.isnan(log_prob) & np.asarray(batch.mask))
    if not len(bad):
        return
    row, step = map(int, bad[0])
    at_fault = jax.tree.map(lambda x: x[row, step], (batch.observation, batch.action))
    memory = (policy.memory(params),) if isinstance(policy, RecurrentPolicy) else ()
    try:
        policy.log_prob(params, *memory, *at_fault)
    except (ValueError, TypeError) as error:
        place = f"batch.action at trajectory {row}, step {step}"
        raise type(error)(f"{place}: {error}") from None


# These passes are compiled functions, so that a program of several estimators traces each once.
@partial(jax.jit, static_argnames="chunk_size")
def _log_probs(
    policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory, chunk_size: int
) -> Float[Array, "N T"]:
    if batch.mask.size == 0:  # a check inside the policy cannot be mapped over no rows
        return jnp.zeros_like(batch.log_prob)
    steps, mask, size = _independent_units(policy, batch, chunk_size)
    evaluate_units = _along_units(policy)

    def evaluate(steps: Steps) -> Array:
        return evaluate_units(params, steps)[0]

    if isinstance(policy, RecurrentPolicy):
        # Whole trajectories are rarely dead, and packing them costs 3% of time and 7% of memory.
        log_prob = chunks.map_rows(evaluate, steps, size)
    else:
        log_prob = chunks.map_live_rows(evaluate, steps, mask, size)
    return jnp.where(batch.mask, log_prob.reshape(batch.mask.shape), 0)


def weighted_score(
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
    score_weight: Float[Array, "N T"],
    *,
    chunk_size: int | None = None,
) -> PyTree[Float[Array, "..."]]:
    """The weighted score Σ_it c_it ∇log π(a_it|s_it), a pytree like params."""
    size = chunk_size or chunks.rows_per_chunk()
    return _weighted_score(policy, params, batch, score_weight, size)


@partial(jax.jit, static_argnames="chunk_size")
def _weighted_score(
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
    score_weight: Float[Array, "N T"],
    chunk_size: int,
) -> PyTree[Float[Array, "..."]]:
    score, _ = weighted_score_and_sum(policy, params, batch, score_weight, chunk_size=chunk_size)
    return score


def weighted_score_and_sum(
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
    score_weight: Float[Array, "N T"],
    measure: Measure | None = None,
    *,
    chunk_size: int | None = None,
) -> tuple[PyTree[Float[Array, "..."]], Float[Array, ""]]:
    """The weighted score, and the sum of a measure over the live steps, in one pass.

    Args:
        score_weight: [N, T] c_it.
        measure: a number for each step, such as the policy's entropy; None is zero.

    Returns:
        A pytree like params, and Σ_it measure(s_it) over the live steps.
    """
    if batch.mask.size == 0:
        return jax.tree.map(jnp.zeros_like, params), jnp.zeros(())
    steps, mask, size = _independent_units(policy, batch, chunk_size)
    evaluate = _along_units(policy)

    def weighted(
        params: Params, rows: tuple[Steps, Array, Array], live: Array
    ) -> tuple[Array, tuple[Array, Array]]:
        steps, weight, mask = rows
        log_prob, measured = evaluate(params, steps, measure)
        counts = mask & live.reshape(live.shape + (1,) * (mask.ndim - 1))
        total = jnp.sum(log_prob * jnp.where(counts, weight, 0))
        is_bad = jnp.any(counts & jnp.isnan(log_prob))
        return total, (is_bad, jnp.sum(jnp.where(counts, measured, 0)))

    rows = steps, score_weight.reshape(mask.shape), mask
    local = varying(params, (params, rows))  # no device waits for another's chunks

    def score(rows: tuple[Steps, Array, Array], live: Array) -> tuple[Params, Array]:
        gradient, (is_bad, measured) = jax.grad(weighted, has_aux=True)(local, rows, live)
        return _nan_where(is_bad, gradient), measured

    live = jnp.any(mask.reshape(len(mask), -1), axis=1)
    total, measured = chunks.sum_live_rows(score, rows, live, size)
    return total, measured


def _nan_where(is_bad: Array, gradient: Params) -> Params:
    """NaN instead of a gradient through a log-probability that is NaN.

    In most policies the log-probability of an action that they lack is a constant NaN. Its
    derivative is zero, and would pass for an estimate.
    """
    return jax.tree.map(lambda g: jnp.where(is_bad, jnp.nan, g), gradient)


def weighted_score_per_trajectory(
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
    score_weight: Float[Array, "N T"],
    *,
    chunk_size: int | None = None,
    chunk_shape: tuple[int, int] = (TRAJECTORIES, STEPS),
) -> PyTree[Float[Array, "N ..."]]:
    """The weighted score Σ_t c_it ∇log π(a_it|s_it) of each trajectory.

    Args:
        score_weight: [N, T] c_it.
        chunk_size: the largest number of steps in a batch that is evaluated all at once.
        chunk_shape: trajectories and steps in a chunk of a larger batch. A recurrent policy's chunk
            holds whole trajectories, with at most `chunk_size` steps in all if it holds several.

    Returns:
        A pytree like params with a leading N.
    """
    size = chunk_size or chunks.rows_per_chunk()
    return _each_weighted_score(policy, params, batch, score_weight, size, chunk_shape)


@partial(jax.jit, static_argnames=("chunk_size", "chunk_shape"))
def _each_weighted_score(
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
    score_weight: Float[Array, "N T"],
    chunk_size: int,
    chunk_shape: tuple[int, int],
) -> PyTree[Float[Array, "N ..."]]:
    N, T = batch.mask.shape
    if N * T == 0:
        return jax.tree.map(lambda x: jnp.zeros((N, *x.shape), x.dtype), params)
    trajectories, steps = min(N, chunk_shape[0]), chunks.even_size(T, chunk_shape[1])
    if isinstance(policy, RecurrentPolicy):
        trajectories, steps = min(trajectories, max(1, chunk_size // T)), T
    elif chunk_size >= N * T:
        trajectories, steps = N, T
    evaluate = _along_row(policy)

    def weighted(params: Params, steps: Steps, weight: Array) -> tuple[Array, Array]:
        log_prob = evaluate(params, steps)[0]
        return jnp.sum(log_prob * weight), jnp.any((weight != 0) & jnp.isnan(log_prob))

    def score_of(params: Params, steps: Steps, weight: Array) -> Params:
        gradient, is_bad = jax.grad(weighted, has_aux=True)(params, steps, weight)
        return _nan_where(is_bad, gradient)

    of_each = jax.vmap(score_of, (None, 0, 0))
    weight = jnp.where(batch.mask, score_weight, 0)
    rows = _steps(policy, batch, is_clean=True), weight, batch.mask
    local = varying(params, (params, rows))  # without it each would be summed over devices

    def score(rows: tuple[Steps, Array, Array]) -> Params:
        """The scores of a few trajectories: sums over chunks of their time."""

        def part(time: Array, live: Array) -> Params:
            steps_now, weight, _ = jax.tree.map(lambda x: x[:, time], rows)
            return of_each(local, steps_now, jnp.where(live[None], weight, 0))

        return chunks.sum_rows(part, jnp.arange(T), jnp.any(rows[2], axis=0), steps)

    return chunks.map_rows(score, rows, trajectories)


def _independent_units(
    policy: Policy | RecurrentPolicy, batch: Trajectory, chunk_size: int | None
) -> tuple[Steps, Array, int]:
    """The steps and the mask of U independent units, and how many units make a chunk.

    Units are the steps, [U, ...], or the rows of a recurrent policy, [U, T, ...].
    """
    chunk_size = chunk_size or chunks.rows_per_chunk()
    N, T = batch.mask.shape
    if isinstance(policy, RecurrentPolicy):
        return _steps(policy, batch, is_clean=True), batch.mask, max(1, chunk_size // T)
    # Chunks hold no dead steps, so that a large batch saves a pass over its observations.
    steps = _steps(policy, batch, is_clean=chunk_size >= N * T)
    steps = jax.tree.map(lambda x: x.reshape(N * T, *x.shape[2:]), steps)
    return steps, batch.mask.reshape(-1), chunk_size


def _steps(policy: Policy | RecurrentPolicy, batch: Trajectory, *, is_clean: bool) -> Steps:
    """The batch's steps, leaves [N, T, ...]; if `is_clean`, without garbage after an episode."""
    seen = batch.observation, batch.action
    observation, action = replace_dead_steps(batch.mask, seen) if is_clean else seen
    is_recurrent = isinstance(policy, RecurrentPolicy)
    return observation, action, is_first_step(batch) if is_recurrent else None


def _along_units(policy: Policy | RecurrentPolicy) -> Callable[..., tuple[Array, Array]]:
    """(params, steps, measure) -> log-probabilities and measures of the units of a chunk."""
    of_row = _along_row(policy)
    if not isinstance(policy, RecurrentPolicy):
        return of_row

    def evaluate(
        params: Params, steps: Steps, measure: Measure | None = None
    ) -> tuple[Array, Array]:
        return jax.vmap(lambda steps: of_row(params, steps, measure))(steps)

    return evaluate


def _along_row(policy: Policy | RecurrentPolicy) -> Callable[..., tuple[Array, Array]]:
    """(params, steps [T], measure) -> log-probabilities and measures [T] of one row."""
    if isinstance(policy, RecurrentPolicy):
        return partial(unroll, policy)

    def evaluate(
        params: Params, steps: Steps, measure: Measure | None = None
    ) -> tuple[Array, Array]:
        observation, action, _ = steps
        log_prob = jax.vmap(policy.log_prob, (None, 0, 0))(params, observation, action)
        if measure is None:
            return log_prob, jnp.zeros_like(log_prob)
        held = jax.lax.stop_gradient(params)
        return log_prob, jax.vmap(measure, (None, 0))(held, observation)

    return evaluate
