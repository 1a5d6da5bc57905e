"""Log-probabilities of a recurrent policy, unrolled along the episodes of one row.

The memory is recomputed from each episode's first step, so that a gradient goes back through the
whole episode.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, PyTree

from pgjax.core.devices import varying
from pgjax.types import Observation, Params, RecurrentPolicy

Measure = Callable[[Params, Any, Observation], Array]
"""(params, memory, observation) -> scalar, a constant under differentiation."""


Steps: TypeAlias = tuple[Observation, PyTree, Bool[Array, "*batch T"] | None]
"""Observations [T, ...], actions [T, ...] and `is_first` [T] of T steps, or of rows of T steps.

Dead steps repeat the row's first step. `is_first` is true where the memory is the initial one: at
the row's start, after each episode's end within a window, and at dead steps. It is None if the
policy has no memory."""


def unroll(
    policy: RecurrentPolicy, params: Params, steps: Steps, measure: Measure | None = None
) -> tuple[Float[Array, "T"], Float[Array, "T"]]:
    """Log π(a_t|m_t, s_t) along one row, m_t being the memory, and a measure of each step.

    Args:
        steps: of one row, [T].
        measure: a number for each step, such as the policy's entropy; None is zero.

    Returns:
        Log-probabilities [T] and measures [T], arbitrary at dead steps.

    Raises:
        ValueError: if the policy returns a memory of another structure or shape than it was given.

    Bias: exact, if the row begins an episode.
    """
    start = _initial_memory(policy, params, steps)
    measure = measure or _zero

    def step(memory: Any, now: Any) -> tuple[Any, tuple[Array, Array]]:
        observation, action, is_first = now
        memory = jax.tree.map(partial(jnp.where, is_first), start, memory)
        measured = measure(*jax.lax.stop_gradient((params, memory)), observation)
        memory, log_prob = policy.log_prob(params, memory, observation, action)
        return _as(memory, start), (log_prob, measured)

    return jax.lax.scan(step, start, steps)[1]


def unroll_window(
    policy: RecurrentPolicy, params: Params, memory: Any, steps: Steps
) -> tuple[Float[Array, "T"], Float[Array, "T"]]:
    """Log π(a_t|m_t, s_t) and the entropy along one row of a window, from the memory at its start.

    Args:
        memory: before the row's first step, a constant.
        steps: of one row, [T]; `is_first` is true where an episode begins inside the row.

    Returns:
        Log-probabilities [T] and entropies [T]; both may be differentiated.

    Bias: their gradient goes back to the row's first step, and no further.
    """
    start = _initial_memory(policy, params, steps)

    def step(memory: Any, now: Any) -> tuple[Any, tuple[Array, Array]]:
        observation, action, is_first = now
        memory = jax.tree.map(partial(jnp.where, is_first), start, memory)
        entropy = policy.entropy(params, memory, observation)
        memory, log_prob = policy.log_prob(params, memory, observation, action)
        return _as(memory, start), (log_prob, entropy)

    return jax.lax.scan(step, _as(memory, start), steps)[1]


def _as(memory: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), memory, like)


def _initial_memory(policy: RecurrentPolicy, params: Params, steps: Steps) -> Any:
    """The initial memory, in the dtypes that a step returns: a scan's carry must keep them."""
    start = jax.tree.map(jnp.asarray, policy.memory(params))
    observation, action = jax.tree.map(lambda x: x[0], steps[:2])
    after = jax.eval_shape(policy.log_prob, params, start, observation, action)[0]
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (start, after)]
    if jax.tree.structure(start) != jax.tree.structure(after) or shapes[0] != shapes[1]:
        raise ValueError(
            "a recurrent policy must return a memory like the one it was given, of shapes "
            f"{shapes[0]}, got {shapes[1]}; compare policy.memory with policy.log_prob"
        )
    start = jax.tree.map(lambda x, y: x.astype(jnp.promote_types(x.dtype, y.dtype)), start, after)
    return varying(start, (params, steps))


def _zero(params: Params, memory: Any, observation: Observation) -> Array:
    return jnp.zeros(())
