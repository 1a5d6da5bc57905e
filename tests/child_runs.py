"""Runs made cheap: one compilation for many, or in a process of its own, to be stopped and killed.

That process imports this module too, before it imports JAX.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SLOW = 0.15
"""Seconds that a slow save waits, twice, so that most moments lie within one."""


@contextmanager
def compiled_once() -> Iterator[None]:
    """Within, runs with the same options share their compiled step, as the functions are pure."""
    import pytest

    from pgjax.cli import train

    original, made = train._make, {}

    def make(arguments):
        options = train._options(arguments)
        key = json.dumps({name: x for name, x in options.items() if name not in train.FREE})
        if key not in made:
            made[key] = original(arguments)
        return made[key]

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(train, "_make", make)
        yield


@contextmanager
def sketches() -> Iterator[None]:
    """Within, a learning curve is a line of text; elsewhere is tested what it shows."""
    import pytest

    from pgjax.cli import plots

    class Sketch:
        def savefig(self, path: Path, dpi: int) -> None:
            path.write_text("a sketch")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(plots, "learning_curve", lambda rows, title: Sketch())
        yield


def train(arguments: list[str], said: Path, cache: str, hook: str = "") -> None:
    """`pgjax train`, its two outputs in a file; `hook` says what is done to it."""
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    import jax

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    from pgjax.cli import main

    if hook == "slow saves":
        _slow_saves()
    if hook == "stuck":
        _stuck_at_update(4)
    with sketches():
        sys.exit(main(arguments))


def _slow_saves() -> None:
    from pgjax import checkpoints

    quick = checkpoints._durably

    def slow(path: Path, text: str) -> None:
        time.sleep(SLOW)
        quick(path, text)

    checkpoints._durably = slow


def _stuck_at_update(number: int) -> None:
    """One update is in the device's hands for hours, where no handler of Python's can run."""
    import jax

    from pgjax.training.runs import loop

    quick = loop.advance

    def stuck(run, state, index):
        if index == number:
            endless = jax.jit(lambda x: jax.lax.while_loop(lambda y: y < 2, lambda y: y * x, x))
            endless(1.0).block_until_ready()
        return quick(run, state, index)

    loop.advance = stuck
