"""Returns: one long sequence, and a batch in either layout, with ends inside."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import pgjax
from benchmarks import naive
from benchmarks.harness import Case, Contender, Row, Scale, not_importable, rounding
from benchmarks.problems import DISCOUNT


def sequence(scale: Scale) -> Case:
    return _case(*_data(scale.sequence), batched=lambda function: function)


def rows(scale: Scale) -> Case:
    return _case(*_data(scale.rows, scale.columns), batched=jax.vmap)


def columns(scale: Scale) -> Case:
    batched = partial(jax.vmap, in_axes=1, out_axes=1)
    return _case(*_data(scale.columns, scale.rows), batched=batched)


def _data(*shape: int) -> tuple[Array, Array]:
    """Rewards, and discounts that are zero at about one step in 200: an episode's end."""
    reward_key, end_key = jax.random.split(jax.random.key(0))
    reward = jax.random.normal(reward_key, shape)
    return reward, jnp.where(jax.random.bernoulli(end_key, 1 / 200, shape), 0.0, DISCOUNT)


def _case(reward: Array, discount: Array, batched: Callable[..., Any]) -> Case:
    def contender(function: Callable[[Array, Array], Array]) -> Contender:
        run = partial(jax.jit(batched(function)), reward, discount)
        return Contender(run, work=reward.size, answer=run)

    return Case(
        contenders={
            "pgjax": contender(pgjax.discounted_returns),
            "naive JAX, flipped scan": contender(naive.discounted_returns),
            "associative_scan": contender(naive.associative_returns),
            "rlax": not_importable(["rlax"]) or contender(_rlax_returns),
        },
        unit="elements",
        tolerance=rounding(200),
        note=f"float32 {list(reward.shape)}, an end every 200 steps or so",
    )


def _rlax_returns(reward: Array, discount: Array) -> Array:
    import rlax  # pyright: ignore[reportMissingImports]  # a rival, only in requirements.txt

    return rlax.discounted_returns(reward, discount, jnp.zeros(()))


ROWS = (
    Row("returns", "returns of one long sequence [T]", sequence, 21),
    Row("returns-rows", "returns of a batch laid out [N, T]", rows, 21),
    Row("returns-columns", "returns of a batch laid out [T, N]", columns, 21),
)
