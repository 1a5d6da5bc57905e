"""Devices: the same program and the same numbers, whatever their number, with one sum over them.

JAX decides at its start how many devices there are, so the laws run in processes of their own:
`device_laws.py`, with eight simulated devices or as one of two processes on loopback.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.device_laws import (
    DEVICES,
    LAWS,
    as_lists,
    assert_close,
    kept,
    rounding_of_gradient,
    trained_parameters,
)

SECONDS = 1800  # until a process counts as hanging; it takes some thirty on a quiet machine
PROGRAM = sys.executable, "-m", "tests.device_laws"
ROOT = Path(__file__).parents[1]


def run_together(*commands: tuple[str, ...], settings: dict[str, str]) -> list[str]:
    """What processes that need each other print; if one fails, the others are stopped at once."""
    running = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for command in commands
    ]
    deadline = time.monotonic() + SECONDS
    try:
        while any(process.poll() is None for process in running):
            if any(process.poll() for process in running) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
    finally:
        failed = [process.poll() for process in running]
        for process in running:
            process.kill()
        printed = [process.communicate() for process in running]
    for code, (_, errors) in zip(failed, printed, strict=True):
        if code:
            raise AssertionError(f"a process ended with {code}:\n{errors}")
    if None in failed:
        raise AssertionError(f"no end in {SECONDS} s:\n" + "\n".join(e for _, e in printed))
    return [out for out, _ in printed]


def test_laws_hold_on_eight_devices(subtests: pytest.Subtests) -> None:
    flag = f"--xla_force_host_platform_device_count={DEVICES}"
    settings = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}"}
    (printed,) = run_together(PROGRAM, settings=settings)
    errors = json.loads(printed.splitlines()[-1])
    assert list(errors) == [law.__name__ for law in LAWS]
    for name, error in errors.items():
        with subtests.test(name):
            assert not error, error


def test_two_processes_give_what_one_gives() -> None:
    trained = as_lists(trained_parameters(None))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    commands = [(*PROGRAM, address, str(i)) for i in range(2)]
    for printed in run_together(*commands, settings={}):
        found = json.loads(printed.splitlines()[-1])
        assert_close(found["gradient"], as_lists(kept().gradient), rounding_of_gradient())
        assert_close(found["trained"], trained, 1e-6)


def test_a_process_that_fails_is_reported_and_stops_the_other() -> None:
    """The negative control: neither a wrong law nor a lost process passes, or hangs."""
    commands = [
        (sys.executable, "-c", "raise SystemExit('lost its way')"),
        (sys.executable, "-c", "import time; time.sleep(1e6)"),
    ]
    with pytest.raises(AssertionError, match="lost its way"):
        run_together(*commands, settings={})
    with pytest.raises(AssertionError, match="Mismatched"):
        assert_close([np.ones(3)], [np.full(3, 1 + 1e-3)], 1e-4)
