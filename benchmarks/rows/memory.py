"""Peak resident memory of whole processes, one gradient each, above that of a bare one."""

from functools import partial

from benchmarks.harness import Case, Contender, Goal, Row, Scale, returned
from benchmarks.processes import run_python

NAIVE = "naive JAX"
RESOLUTION = 2**20
"""Resident sets of equal processes differ by about so many bytes."""

LONGER = 10
"""Episodes of the growth row are so many times longer."""


def peak(scale: Scale) -> Case:
    N, T = scale.many_trajectories, scale.num_steps
    bare = _peak("bare", N, T)

    def above(name: str) -> int:
        return max(_peak(name, N, T) - bare, RESOLUTION)

    return Case(
        contenders={
            "pgjax": Contender(partial(above, "pgjax"), role="ours"),
            NAIVE: Contender(partial(above, "naive")),
        },
        note=f"rollout and gradient of a policy that balances, N={N}, T={T}, compilation included, "
        f"above a bare process's {bare / 1e6:.0f} MB",
        meter=returned,
        quantity="B",
        goals=[Goal(NAIVE, 10.0)],
    )


def growth(scale: Scale) -> Case:
    N, T = scale.many_trajectories, scale.num_steps

    def grown(name: str) -> int:
        return max(_peak(name, N, LONGER * T) - _peak(name, N, T), RESOLUTION)

    kept = N * T * (LONGER - 1) * (4 + 1 + 1 + 1)
    return Case(
        contenders={
            "pgjax": Contender(partial(grown, "pgjax"), role="ours"),
            "rewards and flags": Contender(
                lambda: kept, role="limit", note="float32; terminated, truncated, mask"
            ),
        },
        note=f"N={N}, peak at T={LONGER * T} above the peak at T={T}",
        meter=returned,
        quantity="B",
    )


def _peak(name: str, N: int, T: int) -> int:
    return int(run_python("-m", "benchmarks.peak_memory", name, str(N), str(T)))


ROWS = (
    Row("memory", "peak memory of a gradient", peak, 3),
    Row("memory-growth", "growth of peak memory with the length of episodes", growth, 1),
)
