"""Whole processes: from start to the first gradient, and from start to the end of an import.

Compilation caches are switched off, so that every process is a cold one; the disk's cache is warm
after the first round.
"""

from functools import partial

from benchmarks.harness import Case, Contender, Goal, Role, Row, Scale
from benchmarks.processes import run_python


def first_gradient(scale: Scale) -> Case:
    N, T = scale.num_trajectories, scale.num_steps

    def contender(name: str, role: Role) -> Contender:
        arguments = "-m", "benchmarks.first_call", name, str(N), str(T)
        return Contender(partial(run_python, *arguments), role=role)

    return Case(
        contenders={
            "pgjax": contender("pgjax", "ours"),
            "naive JAX": contender("naive", "rival"),
        },
        note=f"import, compile and run: CartPole-v1, N={N}, T={T}, untrained, no compile cache",
        goals=[Goal("naive JAX", 1 / 0.9)],
    )


def imports(scale: Scale) -> Case:
    limit = "import jax, flax"

    def contender(script: str, role: Role = "rival") -> Contender:
        return Contender(partial(run_python, "-c", script), role=role)

    return Case(
        contenders={
            "pgjax": contender("import pgjax; pgjax.gradient", "ours"),
            "pgjax, no name used": contender("import pgjax", "ours"),
            limit: contender("import jax, flax", "limit"),
            "gymnax": contender("import gymnax"),
        },
        note="pgjax imports on first use, so `pgjax.gradient` is used; gymnax comes with a rollout",
        goals=[Goal(limit, 1 / 1.1)],
    )


ROWS = (
    Row("first-call", "a fresh process to its first gradient", first_gradient, 3),
    Row("import", "a fresh process to the end of an import", imports, 5),
)
