"""Fresh interpreters: what a process costs from its start can be measured from outside only."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]

INHERITED = ("JAX_COMPILATION_CACHE_DIR",)
"""Settings of the caller that would make a cold process a warm one."""


def cores() -> list[int]:
    """The cores that this process may use; all of them where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def run_python(*arguments: str, settings: Mapping[str, str] | None = None) -> str:
    """What a fresh interpreter prints, run from the repository's root; raises if it fails.

    Compilation caches are off, unless `settings`, environment variables, turn one on.
    """
    environment = {k: v for k, v in os.environ.items() if k not in INHERITED}
    # The parent may hold most of a GPU's memory already.
    environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **(settings or {})}
    finished = subprocess.run(
        [sys.executable, *arguments],
        check=True,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    return finished.stdout
