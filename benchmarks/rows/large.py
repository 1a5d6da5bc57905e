"""Rates over the batch size, 2^10 to 2^20 on an accelerator: where does a device fill up?

Every contender is compared with ours at the same N. On a CPU the sweep stops at 2^14.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax

import pgjax
from benchmarks import limits, naive, problems
from benchmarks.harness import Case, Contender, Missing, Row, Scale, rounding
from benchmarks.rows.returns import contender, data

T = 100

LARGEST_ON_CPU = 2**14

ROW_BYTES = 1024
"""What naive JAX keeps of one row for its reverse pass: two layers of 64, before and after tanh."""

LARGEST_NAIVE = 32 * 2**30 // (ROW_BYTES * T)
"""More trajectories than this would take over 32 GiB."""

Contenders: TypeAlias = dict[str, Contender | Missing]


def rollouts(scale: Scale) -> Case:
    params, key = problems.trained_params(), jax.random.key(1)

    def at(N: int) -> Contenders:
        return {
            "pgjax": Contender(partial(problems.rollout, params, key, N, T), N * T, role="ours"),
            "naive JAX, PureJaxRL loop": Contender(
                partial(problems.naive_rollout, params, key, N, T), N * T
            ),
            "forward pass alone": limits.forward(params, N, T),
        }

    return Case(sweep(_sizes(scale), at), unit="steps", note=f"a policy that balances, T={T}")


def gradients(scale: Scale) -> Case:
    params, key = problems.trained_params(), jax.random.key(1)

    def at(N: int) -> Contenders:
        too_large = Missing(f"its reverse pass keeps about {ROW_BYTES * N * T / 2**30:.0f} GiB")
        theirs = Contender(partial(problems.naive_gradient, params, key, N, T), N)
        return {
            "pgjax": Contender(partial(problems.gradient, params, key, N, T), N, role="ours"),
            "naive JAX": too_large if N > LARGEST_NAIVE else theirs,
        }

    return Case(
        sweep(_sizes(scale), at), unit="trajectories", note=f"a policy that balances, T={T}"
    )


def returns(scale: Scale) -> Case:
    def at(N: int) -> Contenders:
        arrays = data(N, T)
        ready = partial(contender, reward=arrays[0], discount=arrays[1], compared=False)
        return {
            "pgjax": ready(jax.vmap(pgjax.discounted_returns), role="ours"),
            "associative_scan": ready(jax.vmap(naive.associative_returns)),
            "naive JAX, flipped scan": ready(jax.vmap(naive.discounted_returns)),
            "donated copy r+d": ready(limits.read_and_write, donated=True, role="limit"),
        }

    return Case(
        sweep(_sizes(scale), at),
        unit="elements",
        tolerance=rounding(200),
        note=f"float32 [N, {T}], an end every 200 steps or so",
    )


def _sizes(scale: Scale) -> list[int]:
    largest = LARGEST_ON_CPU if jax.default_backend() == "cpu" else max(scale.batch_sizes)
    return [N for N in scale.batch_sizes if largest >= N]


def sweep(sizes: Sequence[int], at: Callable[[int], Contenders]) -> dict[str, Any]:
    """The contenders at every N, each beside the first one at its N."""
    found = {}
    for N in sizes:
        contenders = at(N)
        first = f"{next(iter(contenders))}, N={N}"
        for name, one in contenders.items():
            is_rival = isinstance(one, Contender) and one.role != "ours"
            found[f"{name}, N={N}"] = one._replace(beside=first) if is_rival else one
    return found


ROWS = (
    Row("rollout-scale", "rollouts over the batch size", rollouts, 5),
    Row("gradient-scale", "rollouts and gradients over the batch size", gradients, 5),
    Row("returns-scale", "returns over the batch size, [N, T]", returns, 5),
)
