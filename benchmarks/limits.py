"""Limits: the least that a machine needs for a part of the work which no code can leave out.

A limit is what the network or the memory takes when nothing else is done, written as fast as plain
JAX allows. It is no rival, and its answer is of no use.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks import naive
from benchmarks.harness import Contender
from pgjax.types import Params

CHUNK_ROWS = (4_000, 8_000, 16_000)
"""Rows of one gradient pass to choose from: what they need should stay in a core's cache."""


def read_and_write(reward: Array, discount: Array) -> Array:
    """`r + d`: two reads and one write. No returns can do with less."""
    return reward + discount


def forward(params: Params, N: int, T: int) -> Contender:
    """T forward passes of the policy over N rows, one after another, as a rollout's steps come."""
    run = partial(_forward, params, _observations(N), T)
    return Contender(run, N * T, role="limit", note="nothing else")


def forward_and_gradient(params: Params, N: int, T: int) -> Contender:
    """The same, then value and gradient over as many rows, in the best of several chunk sizes."""
    runs = {}
    for chunks in sorted({max(1, round(N * T / size)) for size in CHUNK_ROWS}):
        size = -(-N * T // chunks)
        rows = _rows(chunks, size)
        runs[size] = partial(_forward_and_gradient, params, _observations(N), rows, T)
    best = min(runs, key=lambda size: _seconds(runs[size]))
    return Contender(runs[best], N, role="limit", note=f"nothing else; {best:,} rows at a time")


@partial(jax.jit, static_argnums=2)
def _forward(params: Params, observation: Array, T: int) -> Array:
    def step(observation: Array, _: None) -> tuple[Array, None]:
        logits: Any = naive.NETWORK.apply(params, observation)
        # Too little to change a digit, and yet no pass can be hoisted out of the scan, or skipped.
        return observation + 1e-30 * jnp.tile(logits, 2), None

    return jax.lax.scan(step, observation, None, T)[0]


@partial(jax.jit, static_argnums=3)
def _forward_and_gradient(params: Params, start: Array, rows: Any, T: int) -> Any:
    def objective(params: Params, observation: Array, action: Array, weight: Array) -> Array:
        return jnp.sum(naive.log_prob(params, observation, action) * weight)

    def chunk(total: Any, rows: tuple[Array, Array, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, jax.value_and_grad(objective)(params, *rows)), None

    # The gradient waits for the last step, as it must; XLA would run two independent loops at once.
    after = 1e-30 * jnp.sum(_forward(params, start, T))
    return jax.lax.scan(chunk, (after, jax.tree.map(jnp.zeros_like, params)), rows)[0]


def products(hidden: Array, table: Array, blocks: int) -> Array:
    """The three matrix products of a last layer and its gradient, the vocabulary in blocks.

    [N, D] by [D, V], and its results by either: no code that returns both gradients can do less.
    Of each product no more is kept than the next needs.
    """
    width = table.shape[1] // blocks
    parts = table[:, : blocks * width].reshape(-1, blocks, width)

    def block(total: Array, part: Array) -> tuple[Array, None]:
        logits = hidden @ part
        return total + logits @ part.T + 1e-30 * jnp.max(hidden.T @ logits), None

    return jax.lax.scan(block, jnp.zeros_like(hidden), parts.swapaxes(0, 1))[0]


def _observations(*shape: int) -> Array:
    return jax.random.normal(jax.random.key(0), (*shape, 4))


def _rows(chunks: int, size: int) -> tuple[Array, Array, Array]:
    """Observations, actions and weights; what they are makes no difference to the cost."""
    action_key, weight_key = jax.random.split(jax.random.key(1))
    action = jax.random.bernoulli(action_key, 0.5, (chunks, size)).astype(jnp.int32)
    return _observations(chunks, size), action, jax.random.normal(weight_key, (chunks, size))


def _seconds(run: Callable[[], Any]) -> float:
    """The best of three runs, after one to compile."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return min(seconds)
