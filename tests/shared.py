"""Expensive results that all workers need, computed once in a run of the tests.

A result is a pickle in the folder that the workers of one run share. Whoever comes first computes
it under a lock of the kernel, which is gone with the process; the others wait and read.
"""

import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pgjax.proof.certificate import Certificate, certify
from pgjax.proof.problems import certified
from pgjax.proof.registry import ROWS

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no such lock: a worker may compute what another does
    fcntl = None


def rows(tree: Any, index: Any) -> Any:
    """Rows of every leaf, taken by NumPy: JAX compiles a program for each shape and each slice."""
    return jax.device_put(jax.tree.map(lambda x: np.asarray(x)[index], tree))


def folder(factory: pytest.TempPathFactory) -> Path:
    """The folder that all the workers of this run write to."""
    own = factory.getbasetemp()
    return own.parent if own.name.startswith("popen-") else own


def once(folder: Path, functions: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """The result of each function by its name; each runs in one worker only.

    A worker leaves out what another is computing, and comes back to it after the rest.

    Args:
        folder: that the workers share.
        functions: of no argument, with results that pickle takes.

    Returns:
        Results, in the order of the functions.
    """
    found: dict[str, Any] = {}
    for wait in (False, True):
        for name, function in functions.items():
            if name not in found and (lock := _locked(folder, name, wait=wait)):
                with lock:
                    found[name] = _computed(folder / f"{name}.pickle", function)
    return {name: found[name] for name in functions}


def _locked(folder: Path, name: str, *, wait: bool) -> Any:
    """An open file with the lock; None where another process has it and we do not wait."""
    file = (folder / f"{name}.lock").open("w", encoding="utf-8")
    if fcntl is None:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _computed(path: Path, function: Callable[[], Any]) -> Any:
    if path.exists():
        return pickle.loads(path.read_bytes())
    result = function()
    unfinished = path.with_suffix(f".unfinished.{os.getpid()}")
    unfinished.write_bytes(pickle.dumps(result))
    unfinished.replace(path)
    return result


def certificates(folder: Path) -> list[Certificate]:
    """`certify()`, a problem a worker."""
    functions = {problem.name: partial(certify, ROWS, [problem]) for problem in certified()}
    return [each for found in once(folder, functions).values() for each in found]
