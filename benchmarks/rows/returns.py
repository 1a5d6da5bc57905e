"""Returns: one long sequence, and a batch in either layout, with ends inside.

Every run gets fresh rewards, written outside the timing, so that a donated input can be used up and
nobody's input is warmer than another's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import pgjax
from benchmarks import limits, naive
from benchmarks.harness import (
    Case,
    Contender,
    Goal,
    Missing,
    Row,
    Scale,
    not_importable,
    rounding,
)
from benchmarks.problems import DISCOUNT

LIMIT = "donated copy r+d"
FLIPPED, ASSOCIATIVE = "naive JAX, flipped scan", "associative_scan"


def sequence(scale: Scale) -> Case:
    goals = Goal("rlax", 3.0), Goal(LIMIT, 0.25)
    return _case(*data(scale.sequence), lambda function: function, goals)


def rows(scale: Scale) -> Case:
    return _case(*data(scale.rows, scale.columns), jax.vmap, [Goal("rlax", 2.5)])


def short_rows(scale: Scale, more: float) -> Case:
    """Episodes of a fifth of the length; `more` times as many."""
    given = data(int(scale.rows * more), scale.columns // 5)
    return _case(*given, jax.vmap, [Goal(name, 1.0) for name in ("rlax", FLIPPED, ASSOCIATIVE)])


def columns(scale: Scale) -> Case:
    goals = Goal("rlax", 1.5), Goal(LIMIT, 0.5)
    return _case(*data(scale.columns, scale.rows), over_columns, goals)


def wide_columns(scale: Scale) -> Case:
    goals = Goal("rlax", 3.0), Goal(LIMIT, 0.4)
    return _case(*data(scale.wide_columns, scale.wide_rows), over_columns, goals)


def cliff(scale: Scale) -> Case:
    """XLA's cost of an unrolled scan over one sequence jumps with the length; ours must not."""
    long, short = data(scale.sequence), data(max(scale.sequence // 10, 1))
    ours, tenth = "pgjax", "pgjax, a tenth as long"

    def unrolled(unroll: int) -> Contender:
        return contender(partial(_unrolled_returns, unroll=unroll), *long)

    return Case(
        contenders={
            ours: contender(pgjax.discounted_returns, *long, role="ours"),
            tenth: contender(pgjax.discounted_returns, *short, role="ours", compared=False),
            "plain scan, unroll 8": unrolled(8),
            "plain scan, unroll 12": unrolled(12),
        },
        unit="elements",
        tolerance=rounding(200),
        note="costs per element; the goal is at most twice the cost at a tenth of the length",
        goals=[Goal(tenth, 0.5)],
    )


def data(*shape: int) -> tuple[Array, Array]:
    """Rewards, and discounts that are zero at about one step in 200: an episode's end."""
    reward_key, end_key = jax.random.split(jax.random.key(0))
    reward = jax.random.normal(reward_key, shape)
    return reward, jnp.where(jax.random.bernoulli(end_key, 1 / 200, shape), 0.0, DISCOUNT)


def contender(
    function: Callable[[Array, Array], Array],
    reward: Array,
    discount: Array,
    *,
    donated: bool = False,
    compared: bool = True,
    **settings: Any,
) -> Contender:
    """A function of rewards and discounts, jitted, its rewards fresh in every run."""
    run = jax.jit(function, donate_argnums=(0,) if donated else ())

    def fresh() -> tuple[Array, Array]:
        return jnp.copy(reward), discount

    answer = (lambda: run(*fresh())) if compared else None
    return Contender(run, work=reward.size, answer=answer, fresh=fresh, **settings)


over_columns = partial(jax.vmap, in_axes=1, out_axes=1)


def _case(
    reward: Array, discount: Array, batched: Callable[..., Any], goals: Sequence[Goal]
) -> Case:
    def ready(function: Callable[[Array, Array], Array], **settings: Any) -> Contender:
        return contender(batched(function), reward, discount, **settings)

    def rlax(**settings: Any) -> Contender | Missing:
        return not_importable(["rlax"]) or ready(_rlax_returns, **settings)

    limit = contender(
        limits.read_and_write, reward, discount, donated=True, compared=False, role="limit"
    )
    return Case(
        contenders={
            "pgjax": ready(pgjax.discounted_returns, role="ours"),
            "pgjax, donated": ready(pgjax.discounted_returns, donated=True, role="ours"),
            "rlax": rlax(),
            "rlax, donated": rlax(donated=True),
            FLIPPED: ready(naive.discounted_returns),
            ASSOCIATIVE: ready(naive.associative_returns),
            LIMIT: limit,
        },
        unit="elements",
        tolerance=rounding(200),
        note=f"float32 {list(reward.shape)}, an end every 200 steps or so; ours in place, by "
        "donation, against rlax as it is called and in place",
        goals=goals,
        judged="pgjax, donated",
    )


def _rlax_returns(reward: Array, discount: Array) -> Any:
    import rlax  # pyright: ignore[reportMissingImports]  # a rival, only in requirements.txt

    return rlax.discounted_returns(reward, discount, jnp.zeros(()))


def _unrolled_returns(reward: Array, discount: Array, unroll: int) -> Array:
    def step(following: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        following = x[0] + x[1] * following
        return following, following

    start = jnp.zeros(())
    return jax.lax.scan(step, start, (reward, discount), reverse=True, unroll=unroll)[1]


ROWS = (
    Row("returns", "returns of one long sequence [T]", sequence, 21),
    Row("returns-rows", "returns of a batch laid out [N, T]", rows, 21),
    Row(
        "returns-short-few",
        "the same of short rows, a quarter as many",
        partial(short_rows, more=0.25),
        21,
    ),
    Row("returns-short", "the same of short rows", partial(short_rows, more=1), 21),
    Row(
        "returns-short-many",
        "the same of short rows, four times as many",
        partial(short_rows, more=4),
        21,
    ),
    Row("returns-columns", "returns of a batch laid out [T, N]", columns, 21),
    Row("returns-wide", "returns of a wide batch laid out [T, N]", wide_columns, 11),
    Row("returns-cliff", "a long sequence costs no more per element", cliff, 11),
)
