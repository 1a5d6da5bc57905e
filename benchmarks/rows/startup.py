"""Whole processes: from start to the first gradient, and from start to the end of an import.

Compilation caches are switched off, so that every process is a cold one; the disk's cache is warm
after the first round.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.harness import Case, Contender, Row, Scale

ROOT = Path(__file__).parents[2]


def first_gradient(scale: Scale) -> Case:
    N, T = scale.num_trajectories, scale.num_steps

    def contender(name: str) -> Contender:
        arguments = "-m", "benchmarks.first_call", name, str(N), str(T)
        return Contender(partial(run_python, *arguments))

    return Case(
        contenders={"pgjax": contender("pgjax"), "naive JAX": contender("naive")},
        note=f"import, compile and run: CartPole-v1, N={N}, T={T}, untrained, no compile cache",
    )


def imports(scale: Scale) -> Case:
    scripts = {
        "pgjax": "import pgjax; pgjax.gradient",
        "pgjax, no name used": "import pgjax",
        "jax and flax.linen": "import jax, flax.linen",
        "gymnax": "import gymnax",
    }
    return Case(
        contenders={n: Contender(partial(run_python, "-c", s)) for n, s in scripts.items()},
        note="pgjax imports on first use, so `pgjax.gradient` is used; gymnax comes with a rollout",
    )


def run_python(*arguments: str) -> None:
    """Run a fresh interpreter from the repository's root; raises if it fails."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    # The parent may hold most of a GPU's memory already.
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, env=environment)


ROWS = (
    Row("first-call", "a fresh process to its first gradient", first_gradient, 3),
    Row("import", "a fresh process to the end of an import", imports, 5),
)
