"""Log-probabilities and entropies of tokens, value and gradient: time, and temporary memory.

The rival is what a training step does without care: all logits, their log-softmax, and JAX's own
derivative. Dense memory at full size is 10 GB.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks import limits
from benchmarks.harness import (
    Case,
    Contender,
    Goal,
    Missing,
    Row,
    Scale,
    not_importable,
    returned,
    rounding,
)
from pgjax.tokens.log_probs import log_probs

DENSE = "naive JAX, dense log-softmax"
LIMIT = "three matrix products"
BLOCK = 4096
"""Columns of the table that the limit multiplies at a time."""
TOKAMAX = "tokamax, log-probability alone"
"""It has no entropy: less work."""

SHOWN = 16
"""One column in so many of the table's gradient is compared: all would take gigabytes."""


def dense(hidden: Array, table: Array, token: Array) -> tuple[Array, Array]:
    log_p = jax.nn.log_softmax(hidden @ table)
    own = jnp.take_along_axis(log_p, token[:, None], axis=-1)[:, 0]
    return own, -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def tokamax(hidden: Array, table: Array, token: Array) -> tuple[Array, Array]:
    import tokamax  # pyright: ignore[reportMissingImports] (it needs Python 3.12)

    loss = tokamax.linear_softmax_cross_entropy_loss(
        hidden, token, table, reduction="none", implementation="chunked_xla"
    )
    return -loss, jnp.zeros_like(loss)


def seconds(scale: Scale) -> Case:
    tokens, width, vocabulary = scale.head

    def contender(function: Callable[..., Any], role: Any = "rival") -> Contender:
        run = partial(_gradient(function), *_arguments(scale))
        return Contender(run, tokens, answer=lambda: _shown(run()), role=role)

    return Case(
        contenders={
            "pgjax": contender(log_probs, "ours"),
            DENSE: contender(dense),
            TOKAMAX: not_importable(["tokamax"]) or contender(tokamax)._replace(answer=None),
            LIMIT: _limit(scale),
        },
        unit="tokens",
        tolerance=rounding(vocabulary),
        note=f"{tokens} tokens, D={width}, V={vocabulary}, float32; by hidden states and table",
        goals=[Goal(DENSE, 1 / 1.3)],
    )


def temporary_memory(scale: Scale) -> Case:
    tokens, width, vocabulary = scale.head

    def contender(function: Callable[..., Any], role: Any = "rival") -> Contender:
        return Contender(partial(_temporary_bytes, function, scale), role=role)

    absent: Missing | None = not_importable(["tokamax"])
    return Case(
        contenders={
            "pgjax": contender(log_probs, "ours"),
            DENSE: contender(dense),
            TOKAMAX: absent or contender(tokamax),
        },
        note=f"{tokens} tokens, D={width}, V={vocabulary}; what the compiled program asks for "
        "beside its arguments and results",
        meter=returned,
        quantity="B",
        goals=[Goal(DENSE, 20.0)],
    )


def _limit(scale: Scale) -> Contender:
    tokens, _, vocabulary = scale.head
    hidden, table, *_ = _arguments(scale)
    run = partial(jax.jit(limits.products, static_argnums=2), hidden, table)
    return Contender(partial(run, max(vocabulary // BLOCK, 1)), tokens, role="limit")


def _arguments(scale: Scale) -> tuple[Array, ...]:
    """Hidden states, table, tokens, and a cotangent a token for each of the two results."""
    tokens, width, vocabulary = scale.head
    keys = jax.random.split(jax.random.key(0), 4)
    return (
        jax.random.normal(keys[0], (tokens, width)),
        jax.random.normal(keys[1], (width, vocabulary)) * width**-0.5,
        jax.random.randint(keys[2], (tokens,), 0, vocabulary),
        jax.random.normal(keys[3], (2, tokens)),
    )


def _gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Both results, and the gradient of their sum with the cotangents."""

    @jax.jit
    def run(hidden: Array, table: Array, token: Array, cotangents: Array) -> Any:
        def loss(hidden: Array, table: Array) -> Any:
            found = function(hidden, table, token)
            return jnp.sum(jnp.stack(found) * cotangents), found

        (_, found), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, table)
        return found, gradients

    return run


def _shown(result: Any) -> Any:
    found, (by_hidden, by_table) = result
    return found, by_hidden, by_table[:, ::SHOWN]


def _temporary_bytes(function: Callable[..., Any], scale: Scale) -> int:
    shapes = jax.eval_shape(partial(_arguments, scale))
    compiled: Any = jax.jit(_gradient(function)).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


ROWS = (
    Row("tokens", "token log-probabilities and their gradient", seconds, 3),
    Row("tokens-memory", "temporary memory of the same", temporary_memory, 1),
)
