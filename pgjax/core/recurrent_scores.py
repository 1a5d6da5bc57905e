"""Log-probabilities of a policy with a memory, unrolled along each episode, and their pull-back.

The memory is recomputed from the episode's first step, so the gradient goes back through all of it.
Trajectories are taken in pieces, whole in time: what a piece holds for its derivative is bounded.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, PyTree

from pgjax.core.devices import summed_like, varying
from pgjax.types import Observation, Params, RecurrentPolicy

Measure = Callable[[Params, Any, Observation], Array]
"""(params, memory, observation) -> scalar."""


class Episodes(NamedTuple):
    """What the log-probabilities of N rows are functions of.

    Attributes:
        observation: [N, T, ...] free of garbage: dead steps repeat the row's first.
        action: [N, T, ...] likewise.
        is_first: [N, T] true where the memory is the initial one: at each row's start, after each
            cut of a window, and at dead steps, which then repeat what the first step computed.
        mask: [N, T] true where a step is alive.
    """

    observation: Observation
    action: PyTree
    is_first: Bool[Array, "N T"]
    mask: Bool[Array, "N T"]


def log_probs(
    policy: RecurrentPolicy, params: Params, episodes: Episodes, size: int
) -> Float[Array, "N T"]:
    """Log π(a_it|memory, s_it), along each episode from the memory at its start.

    Args:
        policy: whose log-probabilities.
        params: of the policy.
        episodes: [N, T].
        size: trajectories of a piece.

    Returns:
        [N, T]; at dead steps numbers without meaning.

    Bias: exact.
    """

    def piece(rows: Episodes) -> Array:
        return _unrolled(policy, params, rows, _nothing)[0]

    N = episodes.mask.shape[0]
    if size >= N:
        return piece(episodes)
    which, _ = _pieces(N, size)
    found = jax.lax.map(lambda which: piece(_taken(episodes, which)), which)
    return found.reshape(-1, *found.shape[2:])[:N]


def pull_back_and_sum(
    policy: RecurrentPolicy,
    params: Params,
    episodes: Episodes,
    share: Float[Array, "N T"],
    measure: Measure | None,
    size: int,
) -> tuple[PyTree[Float[Array, "..."]], Float[Array, ""]]:
    """Σ_it c_it ∇log π(a_it|memory, s_it), and the sum of a measure over the live steps.

    Args:
        policy: whose score.
        params: of the policy.
        episodes: [N, T].
        share: [N, T] c_it, zero at dead steps.
        measure: of the policy; None is zero.
        size: trajectories of a piece.

    Returns:
        A pytree like params, and a scalar.

    Bias: exact; the gradient goes back to the start of each episode.
    """

    def weighted(params: Params, rows: Episodes, share: Array) -> tuple[Array, Array]:
        log_prob, measured = _unrolled(policy, params, rows, measure or _nothing)
        return jnp.sum(log_prob * share), jnp.sum(jnp.where(rows.mask, measured, 0))

    gradient = jax.grad(weighted, has_aux=True)
    N = share.shape[0]
    if size >= N:
        return gradient(params, episodes, share)
    local = varying(params, (params, episodes, share))  # no device waits for another's pieces

    def piece(total: Any, piece: tuple[Array, Array]) -> tuple[Any, None]:
        which, is_new = piece
        rows, weight = _taken((episodes, share), which)
        rows = rows._replace(mask=rows.mask & is_new[:, None])
        weight = jnp.where(rows.mask, weight, 0)

        def add(total: Any) -> Any:
            return jax.tree.map(jnp.add, total, gradient(local, rows, weight))

        return jax.lax.cond(jnp.any(rows.mask), add, lambda total: total, total), None

    which, is_new = _pieces(N, size)
    shapes = jax.eval_shape(gradient, local, *_taken((episodes, share), which[0]))
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    start = varying(start, (local, episodes, share))
    (total, measured), _ = jax.lax.scan(piece, start, (which, is_new))
    return summed_like(total, params), measured


def pull_back_each(
    policy: RecurrentPolicy,
    params: Params,
    episodes: Episodes,
    share: Float[Array, "N T"],
    size: int,
) -> PyTree[Float[Array, "N ..."]]:
    """Σ_t c_it ∇log π(a_it|memory, s_it), trajectory by trajectory.

    Args:
        policy: whose score.
        params: of the policy.
        episodes: [N, T].
        share: [N, T] c_it, zero at dead steps.
        size: trajectories of a piece.

    Returns:
        A pytree like params with a leading N.

    Bias: exact; the gradient goes back to the start of each episode.
    """
    local = varying(params, (params, episodes, share))  # or each would be summed over devices

    def weighted(params: Params, row: Episodes, share: Array) -> Array:
        return jnp.sum(_episode(policy, params, row, _nothing)[0] * share)

    each = jax.vmap(jax.grad(weighted), (None, 0, 0))
    N = share.shape[0]
    if size >= N:
        return each(local, episodes, share)
    which, _ = _pieces(N, size)
    found = jax.lax.map(lambda which: each(local, *_taken((episodes, share), which)), which)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:N], found)


def _unrolled(
    policy: RecurrentPolicy, params: Params, episodes: Episodes, measure: Measure
) -> tuple[Array, Array]:
    return jax.vmap(partial(_episode, policy, params, measure=measure))(episodes)


def _episode(
    policy: RecurrentPolicy, params: Params, row: Episodes, measure: Measure
) -> tuple[Float[Array, "T"], Float[Array, "T"]]:
    """Of one row: log-probabilities, and a measure that is constant under differentiation."""
    begin = _beginning(policy, params, row)

    def step(memory: Any, at: Episodes) -> tuple[Any, tuple[Array, Array]]:
        memory = jax.tree.map(partial(jnp.where, at.is_first), begin, memory)
        held = jax.lax.stop_gradient((params, memory))
        measured = measure(*held, at.observation)
        memory, log_prob = policy.log_prob(params, memory, at.observation, at.action)
        memory = jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), memory, begin)
        return memory, (log_prob, measured)

    return jax.lax.scan(step, begin, row)[1]


def _beginning(policy: RecurrentPolicy, params: Params, row: Episodes) -> Any:
    """The initial memory, in the dtypes that a step gives it: a scan's carry may not change."""
    begin = jax.tree.map(jnp.asarray, policy.memory(params))
    observation, action = jax.tree.map(lambda x: x[0], (row.observation, row.action))
    after = jax.eval_shape(policy.log_prob, params, begin, observation, action)[0]
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (begin, after)]
    if jax.tree.structure(begin) != jax.tree.structure(after) or shapes[0] != shapes[1]:
        raise ValueError(
            "a recurrent policy must return a memory like the one it was given, of shapes "
            f"{shapes[0]}, got {shapes[1]}"
        )
    begin = jax.tree.map(lambda x, y: x.astype(jnp.promote_types(x.dtype, y.dtype)), begin, after)
    return varying(begin, (params, row))


def _pieces(N: int, size: int) -> tuple[Array, Array]:
    """Trajectories in pieces, and which of them are new: the last piece repeats one to be whole."""
    index = jnp.arange(-(-N // size) * size).reshape(-1, size)
    return jnp.minimum(index, N - 1), index < N


def _taken(tree: PyTree, which: Array) -> PyTree:
    return jax.tree.map(lambda x: x[which], tree)


def _nothing(params: Params, memory: Any, observation: Observation) -> Array:
    return jnp.zeros(())
