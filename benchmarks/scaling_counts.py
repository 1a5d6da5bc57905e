"""How an estimate scales over devices by counting, where there are too few cores to time it.

    python -m benchmarks.scaling_counts            # a minute or two
    python -m benchmarks.scaling_counts --quick    # small sizes: a smoke test

A process with D simulated devices compiles the estimate and counts what its program does: sums over
devices, the bytes that they move, instructions, and temporary memory of a device. Strong scaling
keeps N, weak scaling N a device. The balance of live steps needs no devices at all: trajectories
are the same on any number of them, so it is counted in one batch, cut into D equal parts.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.processes import ROOT, run_python
from benchmarks.scaling import save
from benchmarks.scaling_worker import ALL_REDUCE, bytes_reduced

COLLECTIVE = re.compile(
    r"= .*? (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?[\w.\-]+ = ", re.MULTILINE)


class Sizes(NamedTuple):
    """What is counted.

    Attributes:
        devices: their numbers.
        strong: N of strong scaling.
        weak: N a device of weak scaling.
        steps: T.
        balanced: the numbers of devices whose balance is counted.
        shares: N a device there.
    """

    devices: tuple[int, ...]
    strong: int
    weak: int
    steps: int
    balanced: tuple[int, ...]
    shares: tuple[int, ...]


FULL = Sizes((1, 2, 4, 8), 512, 256, 500, (1, 2, 4, 8, 64, 1024), (4, 64))
QUICK = Sizes((1, 2), 16, 8, 20, (1, 2, 8), (4,))


def program(N: int, T: int) -> dict[str, int]:
    """Counts of the compiled estimate of one device, of all devices that JAX sees here."""
    import jax

    from benchmarks import problems

    mesh = None
    if jax.device_count() > 1:
        mesh = jax.make_mesh((jax.device_count(),), ("trajectories",))
    params = problems.trained_params()
    lowered = problems.gradient.lower(params, jax.random.key(0), N, T, mesh=mesh)
    compiled = lowered.compile()
    text = compiled.as_text() or ""
    memory: Any = compiled.memory_analysis()
    return {
        "trajectories a device": N // jax.device_count(),
        "sums": len(ALL_REDUCE.findall(text)),
        "other messages": len(COLLECTIVE.findall(text)) - len(ALL_REDUCE.findall(text)),
        "bytes summed": bytes_reduced(text),
        "instructions": len(INSTRUCTION.findall(text)),
        "temporary bytes": memory.temp_size_in_bytes,
    }


def live_steps(N: int, T: int) -> np.ndarray:
    """[N] lengths of episodes of CartPole under an untrained policy, the least balanced one."""
    import jax

    from benchmarks import problems

    batch = problems.rollout(problems.untrained_params(), jax.random.key(7), N, T)
    return np.asarray(batch.mask).sum(axis=1)


class Balance(NamedTuple):
    """Of D devices with equal parts of a batch, each a share: 1 is perfect.

    Attributes:
        live: the mean of the devices' live steps over the largest.
        longest: the mean of the devices' longest episodes over the longest of all, for which every
            device waits.
    """

    live: float
    longest: float


def balance(lengths: np.ndarray, devices: int) -> Balance:
    """How evenly live steps lie on so many devices."""
    parts = lengths.reshape(devices, -1)
    live, longest = parts.sum(axis=1), parts.max(axis=1)
    return Balance(float(live.mean() / live.max()), float(longest.mean() / longest.max()))


def counted(sizes: Sizes) -> dict[str, Any]:
    """Every count, by kind of scaling and number of devices."""
    found: dict[str, Any] = {"strong": {}, "weak": {}, "balance": {}}
    for D in sizes.devices:
        for kind, N in (("strong", sizes.strong), ("weak", sizes.weak * D)):
            request = "--count", str(N), str(sizes.steps)
            settings = {"JAX_NUM_CPU_DEVICES": str(D), "JAX_PLATFORMS": "cpu"}
            printed = run_python("-m", "benchmarks.scaling_counts", *request, settings=settings)
            found[kind][str(D)] = json.loads(printed.splitlines()[-1])
    for share in sizes.shares:
        lengths = live_steps(max(sizes.balanced) * share, sizes.steps)
        found["balance"][str(share)] = {
            str(D): balance(lengths[: D * share], D)._asdict() for D in sizes.balanced
        }
    return found


def print_counts(console: Console, found: dict[str, Any]) -> None:
    """The tables that `docs/scaling.md` shows."""
    for kind in ("strong", "weak"):
        columns = list(next(iter(found[kind].values())))
        table = Table(kind, *columns)
        for D, counts in found[kind].items():
            table.add_row(f"{D} devices", *(f"{counts[column]:,}" for column in columns))
        console.print(table)
    table = Table("balance", "trajectories a device", "live steps", "longest episode")
    for share, by_devices in found["balance"].items():
        for D, one in by_devices.items():
            table.add_row(f"{D} devices", share, f"{one['live']:.0%}", f"{one['longest']:.0%}")
    console.print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """Count, print, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--output", type=Path, help="the JSON file")
    parser.add_argument("--count", type=int, nargs=2, metavar=("N", "T"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.count:
        print(json.dumps(program(*arguments.count)))
        return
    sizes = QUICK if arguments.quick else FULL
    found = counted(sizes)
    print_counts(Console(width=None if Console().is_terminal else 120), found)
    from benchmarks import report

    today = date.today().isoformat()
    path = arguments.output or ROOT / "benchmarks" / "results" / f"{today}-scaling-counts.json"
    about = {"date": today, "versions": report.versions(), "sizes": sizes._asdict()}
    save(path, about | found)


if __name__ == "__main__":
    sys.exit(main())
