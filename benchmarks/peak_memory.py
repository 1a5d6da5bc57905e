"""Peak resident memory of a fresh process: `python -m benchmarks.peak_memory pgjax 4096 500`.

Prints bytes. `bare` imports the same libraries and compiles one small program; what another takes
above that is its own.
"""

import sys
from functools import partial
from pathlib import Path

import jax

from benchmarks import problems


def peak() -> int:
    """This process's highest resident set so far, in bytes."""
    # Not getrusage: its ru_maxrss is inherited across fork and exec, so that a child of a large
    # process, such as the benchmark's, starts with the parent's peak.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024


def main(name: str, N: str, T: str) -> None:
    """Run one contender once, and print the peak."""
    params, key = problems.trained_params(), jax.random.key(1)
    run = {
        "bare": lambda *sizes: jax.jit(jax.numpy.sin)(1.0),
        "pgjax": partial(problems.gradient, params, key),
        "naive": partial(problems.naive_gradient, params, key),
    }[name]
    jax.block_until_ready(run(int(N), int(T)))
    print(peak())


if __name__ == "__main__":
    main(*sys.argv[1:])
