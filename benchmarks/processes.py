"""Processes that are measured from outside: fresh interpreters, and workers that stay."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

INHERITED = ("JAX_COMPILATION_CACHE_DIR",)
"""Settings of the caller that would make a cold process a warm one."""


def cores() -> list[int]:
    """The cores that this process may use; all of them where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class Worker:
    """A process that times one library, or one version of it, for as long as it is asked to."""

    def __init__(self, *command: str, folder: Path = ROOT) -> None:
        self.command = " ".join(command)
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def ask(self, question: str) -> dict[str, Any]:
        """Its answer, a line of JSON, to a line; whatever else it prints is left out."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{question}\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"the worker has ended: {self.command}")

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def run_python(
    *arguments: str, settings: Mapping[str, str] | None = None, folder: Path = ROOT
) -> str:
    """What a fresh interpreter prints, run from a repository's root; raises if it fails.

    Compilation caches are off, unless `settings`, environment variables, turn one on.
    """
    environment = {k: v for k, v in os.environ.items() if k not in INHERITED}
    # The parent may hold most of a GPU's memory already.
    environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **(settings or {})}
    finished = subprocess.run(
        [sys.executable, *arguments],
        check=True,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    return finished.stdout
