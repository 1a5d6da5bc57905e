"""A run in a process of its own, to be stopped and killed; imported by that process too."""

import os
import sys
import time
from pathlib import Path

SLOW = 0.15
"""Seconds that a slow save waits, twice, so that most moments lie within one."""


def train(arguments: list[str], said: Path, cache: str, hook: str = "") -> None:
    """`pgjax train`, its two outputs in a file; `hook` says what is done to it."""
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    if hook == "stdout is full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    import jax

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    from pgjax.cli import main

    if hook == "slow saves":
        _slow_saves()
    if hook == "stuck":
        _stuck_at_update(4)
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

    from pgjax.cli import running

    quick = running.advance

    def stuck(run, state, index):
        if index == number:
            endless = jax.jit(lambda x: jax.lax.while_loop(lambda y: y < 2, lambda y: y * x, x))
            endless(1.0).block_until_ready()
        return quick(run, state, index)

    running.advance = stuck
