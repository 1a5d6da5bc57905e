"""From shares to a gradient: Σ_it c_it ∇log π(a_it|s_it), the only pass over a policy's network.

A share c_it is the derivative of the surrogate by log π(a_it|s_it). Once the shares are known the
rows of a batch have nothing more to do with each other. So they are taken a few thousand at a time,
which fits a cache where the whole batch's activations would not, and only the live ones, so that
padding costs nothing. A small batch is a single piece. Only a policy with a memory needs its
trajectories whole.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, PyTree

from pgjax.core import recurrent_scores
from pgjax.core.devices import summed_like, varying
from pgjax.core.episode_boundaries import is_first_step
from pgjax.types import Observation, Params, Policy, RecurrentPolicy, Trajectory

CPU_ROWS, ACCELERATOR_ROWS = 4096, 2**18
"""Rows of a piece. On a CPU 3,000 to 16,000 are equally fast: fewer keep a core idle in the matrix
products, more leave the cache. On an accelerator a piece must be worth its kernel launches."""

TRAJECTORIES, STEPS = 16, 128
"""Trajectories and steps of a piece of per-trajectory gradients."""


def log_probs(
    policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory
) -> Float[Array, "N T"]:
    """Log-probabilities log π(a_it|s_it) under params, zero after each episode's end.

    Rows are flattened to [N·T] first, so that a network sees one matrix. A recurrent policy is
    unrolled along each episode instead, from the memory at its start.

    Args:
        policy: whose log-probabilities.
        params: of the policy.
        batch: [N, T].

    Returns:
        [N, T].

    Raises:
        ValueError: a recurrent policy that returns another kind of memory than it was given.

    Bias: exact. A window that begins within an episode says nothing of the steps before: there a
        recurrent policy starts from the initial memory, and is another policy than the one that
        acted unless it did so too.
    """
    if batch.mask.size == 0:  # a check inside the policy cannot be mapped over no rows
        return jnp.zeros_like(batch.log_prob)
    if isinstance(policy, RecurrentPolicy):
        log_prob = recurrent_scores.log_probs(policy, params, _episodes(batch), _whole_rows(batch))
        return jnp.where(batch.mask, log_prob, 0)
    if batch.mask.size <= rows_of_a_piece():
        observation, action = alive_or_first(batch.mask, (batch.observation, batch.action))
        log_prob = _row_log_probs(policy, params, *_rows((observation, action)))
        return jnp.where(batch.mask, log_prob.reshape(batch.mask.shape), 0)
    flat = _rows((batch.observation, batch.action))
    shape = jax.eval_shape(partial(_row_log_probs, policy), params, *flat)

    def piece(out: Array, piece: tuple[Array, Array, Array]) -> tuple[Array, None]:
        rows, live, is_needed = piece
        observation, action = jax.tree.map(lambda x: x[rows], flat)

        def evaluate() -> Array:
            return _row_log_probs(policy, params, observation, action)

        def skip() -> Array:
            return varying(jnp.zeros(rows.shape, shape.dtype), out)

        log_prob = jax.lax.cond(is_needed, evaluate, skip)
        return out.at[jnp.where(live, rows, out.size)].set(log_prob, mode="drop"), None

    out = varying(jnp.zeros(shape.shape, shape.dtype), (params, batch))
    return jax.lax.scan(piece, out, _pieces(batch.mask))[0].reshape(batch.mask.shape)


def pull_back(
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
    share: Float[Array, "N T"],
) -> PyTree[Float[Array, "..."]]:
    """Σ_it c_it ∇log π(a_it|s_it).

    Args:
        policy: whose score.
        params: of the policy.
        batch: [N, T]; its observations, actions and mask are read.
        share: [N, T] c_it.

    Returns:
        A pytree like params.
    """
    return pull_back_and_sum(policy, params, batch, share)[0]


def pull_back_and_sum(
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
    share: Float[Array, "N T"],
    measure: Callable[..., Array] | None = None,
) -> tuple[PyTree[Float[Array, "..."]], Float[Array, ""]]:
    """`pull_back`, and with it the sum of a measure of each live observation.

    A measure of the policy, its entropy say, shares the pass over the network.

    Args:
        policy: whose score.
        params: of the policy.
        batch: [N, T]; its observations, actions and mask are read.
        share: [N, T] c_it.
        measure: (params, observation) -> scalar; with a recurrent policy (params, memory,
            observation) -> scalar. None is zero.

    Returns:
        A pytree like params, and Σ_it measure(s_it) over the live steps.
    """
    if batch.mask.size == 0:
        return jax.tree.map(jnp.zeros_like, params), jnp.zeros(())
    if isinstance(policy, RecurrentPolicy):
        share, size = jnp.where(batch.mask, share, 0), _whole_rows(batch)
        return recurrent_scores.pull_back_and_sum(
            policy, params, _episodes(batch), share, measure, size
        )

    def weighted(params: Params, rows: tuple[PyTree, Array, Array, Array]) -> tuple[Array, Array]:
        observation, action, share, live = rows
        measured = jax.vmap(measure or _nothing, (None, 0))(
            jax.lax.stop_gradient(params), observation
        )
        total = _weighted(params, policy, observation, action, share)
        return total, jnp.sum(jnp.where(live, measured, 0))

    gradient = jax.grad(weighted, has_aux=True)
    if batch.mask.size <= rows_of_a_piece():
        return gradient(params, _rows((*_clean(batch, share), batch.mask)))
    flat = _rows((batch.observation, batch.action, share))
    local = varying(params, (params, batch, share))  # no device waits for another's pieces

    def piece(total: Any, piece: tuple[Array, Array, Array]) -> tuple[Any, None]:
        rows, live, is_needed = piece

        def add(total: Any) -> Any:
            observation, action, share = jax.tree.map(lambda x: x[rows], flat)
            share = jnp.where(live, share, 0)
            part = gradient(local, (observation, action, share, live))
            return jax.tree.map(jnp.add, total, part)

        return jax.lax.cond(is_needed, add, lambda total: total, total), None

    example = jax.tree.map(lambda x: x[:1], (*flat, flat[-1] > 0))
    shapes = jax.eval_shape(gradient, local, example)
    start = varying(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), (local, flat))
    total, measured = jax.lax.scan(piece, start, _pieces(batch.mask))[0]
    return summed_like(total, params), measured


def pull_back_each(
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
    share: Float[Array, "N T"],
) -> PyTree[Float[Array, "N ..."]]:
    """Σ_t c_it ∇log π(a_it|s_it), trajectory by trajectory.

    Args:
        policy: whose score.
        params: of the policy.
        batch: [N, T]; its observations, actions and mask are read.
        share: [N, T] c_it.

    Returns:
        A pytree like params with a leading N.
    """
    N, T = batch.mask.shape
    if N * T == 0:
        return jax.tree.map(lambda x: jnp.zeros((N, *x.shape), x.dtype), params)
    if isinstance(policy, RecurrentPolicy):
        share, size = jnp.where(batch.mask, share, 0), min(_whole_rows(batch), TRAJECTORIES)
        return recurrent_scores.pull_back_each(policy, params, _episodes(batch), share, size)
    observation, action, share = _clean(batch, share)
    each = jax.vmap(jax.grad(_weighted), (None, None, 0, 0, 0))
    rows = observation, action, share, batch.mask
    local = varying(params, (params, rows))  # or each would be summed over devices
    if batch.mask.size <= rows_of_a_piece():
        return each(local, policy, observation, action, share)
    size, steps = min(N, TRAJECTORIES), -(-T // -(-T // STEPS))  # pieces of about one length

    def block(which: Array) -> Params:
        here = jax.tree.map(lambda x: x[which], rows)

        def piece(total: Params, time: Array) -> tuple[Params, None]:
            # The last piece reaches back to be whole; what it repeats has no weight in it.
            start = jnp.minimum(time, T - steps)
            observation, action, share, mask = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, start, steps, 1), here
            )
            new = (start + jnp.arange(steps) >= time)[None]

            def add(total: Params) -> Params:
                weight = jnp.where(new, share, 0)
                part = each(local, policy, observation, action, weight)
                return jax.tree.map(jnp.add, total, part)

            return jax.lax.cond(jnp.any(mask & new), add, lambda total: total, total), None

        start = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), local)
        return jax.lax.scan(piece, varying(start, local), jnp.arange(0, T, steps))[0]

    blocks = -(-N // size)
    which = jnp.minimum(jnp.arange(blocks * size), N - 1).reshape(blocks, size)
    gradients = jax.lax.map(block, which)
    gradients = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:N], gradients)
    return gradients


def alive_or_first(mask: Bool[Array, "N T"], tree: PyTree) -> PyTree:
    """Each leaf while the episode lasts, then its first entry (zeros if the episode has no step).

    So a dead row evaluates the policy at a live one, and garbage after the end reaches neither the
    value nor, as NaN · 0, the gradient. Zero is true for booleans: no action mask may be all false.
    """

    def clean(x: Array) -> Array:
        x = jnp.asarray(x)
        alive = mask.reshape(mask.shape + (1,) * (x.ndim - 2))
        zero = jnp.asarray(x.dtype == jnp.bool_, x.dtype)
        return jnp.where(alive, x, jnp.where(alive[:, :1], x[:, :1], zero))

    return jax.tree.map(clean, tree)


def _episodes(batch: Trajectory) -> recurrent_scores.Episodes:
    observation, action = alive_or_first(batch.mask, (batch.observation, batch.action))
    return recurrent_scores.Episodes(observation, action, is_first_step(batch), batch.mask)


def _whole_rows(batch: Trajectory) -> int:
    """How many trajectories, whole in time, make a piece."""
    return max(1, rows_of_a_piece() // batch.mask.shape[1])


def rows_of_a_piece() -> int:
    """What the default device takes at a time."""
    return CPU_ROWS if jax.default_backend() == "cpu" else ACCELERATOR_ROWS


def _pieces(mask: Bool[Array, "N T"]) -> tuple[Array, Array, Array]:
    """Live rows in pieces: their indices, which of them count, and whether the piece has any.

    A piece that is not full repeats a live row, so that no garbage is ever evaluated.
    """
    size = rows_of_a_piece()
    pieces = -(-mask.size // size)
    flat = mask.reshape(-1)
    rows = jax.lax.platform_dependent(flat, cpu=_compact_by_loop, default=_compact)
    rows = jnp.pad(rows, (0, pieces * size - mask.size)).reshape(pieces, size)
    index = jnp.arange(pieces * size, dtype=jnp.int32).reshape(pieces, size)
    live = index < jnp.sum(flat, dtype=jnp.int32)
    return jnp.where(live, rows, rows[0, 0]), live, live[:, 0]


def _compact_by_loop(flat: Bool[Array, "R"]) -> Int[Array, "R"]:
    """Indices of the true entries first: on a CPU one write each beats every parallel form."""

    def write(index: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        out, count = state
        return out.at[count].set(index), count + flat[index].astype(jnp.int32)

    start = varying((jnp.zeros(flat.shape, jnp.int32), jnp.int32(0)), flat)
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(flat.size), write, start)[0]


def _compact(flat: Bool[Array, "R"]) -> Int[Array, "R"]:
    return jnp.nonzero(flat, size=flat.size, fill_value=0)[0].astype(jnp.int32)


def _weighted(
    params: Params, policy: Policy, observation: PyTree, action: Array, share: Array
) -> Float[Array, ""]:
    return jnp.sum(_row_log_probs(policy, params, observation, action) * share)


def _nothing(params: Params, observation: Observation) -> Array:
    return jnp.zeros(())


def _row_log_probs(policy: Policy, params: Params, observation: PyTree, action: Array) -> Array:
    return jax.vmap(policy.log_prob, (None, 0, 0))(params, observation, action)


def _clean(batch: Trajectory, share: Array) -> tuple[PyTree, Array, Array]:
    observation, action = alive_or_first(batch.mask, (batch.observation, batch.action))
    return observation, action, jnp.where(batch.mask, share, 0)


def _rows(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)
