"""What the code of this checkout takes, beside the code of an earlier commit.

    python -m benchmarks.earlier cefee81

Each commit has a process that stays, and both are asked in turn, so that a machine that slows down
slows both. Whole processes (peak memory, and a fresh process to its first gradient) start in turn
too, without a compilation cache. A ratio is the earlier figure over the present one: above 1, the
present code is better. "Medians" is the median of the rounds' ratios, "best" compares the best
round of each.

The commit's own `benchmarks` states its problems: CartPole-v1, a balancing 2×64 tanh network, 256
trajectories of 500 steps, and 4096 for memory. Both must sample the same episodes from a key, and
their gradients must agree up to rounding; otherwise the command ends with status 1.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import FULL, QUICK, Scale
from benchmarks.processes import ROOT, Worker, run_python
from benchmarks.report import device, versions

TIMED = ("rollout", "gradient", "per-trajectory")
"""Asked of the processes that stay; what `earlier_worker.py` can time."""
WHOLE = ("memory", "first-call")
"""Measured of processes of their own."""
ROUNDING = 1e-4
"""The largest relative difference of two gradients that is put down to rounding."""

Samples = Mapping[str, Sequence[float]]
"""Of one row: what each version took, round by round."""


def main() -> None:
    """Measure both in turn, print a line for each row, and save every sample."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("commit", help="the earlier commit, as Git knows it")
    parser.add_argument("--rounds", type=int, default=12, help="of what is timed in processes")
    parser.add_argument("--fresh", type=int, default=3, help="rounds of whole processes")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--output", type=Path, help="a JSON file for every sample")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.fresh) < 1:
        parser.error("--rounds and --fresh must be at least 1")
    scale = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        folders = {"earlier": checkout(arguments.commit, Path(folder)), "now": ROOT}
        print(f"{device()}; {arguments.commit} over the present code, above 1 is better now")
        samples, faults = measured(folders, scale, arguments.rounds, arguments.fresh)
    if arguments.output:
        about = {"device": device(), "versions": versions(), "commit": arguments.commit}
        arguments.output.write_text(json.dumps({**about, "samples": samples}, indent=1), "utf-8")
    if faults:
        raise SystemExit("\n".join(faults))


def checkout(commit: str, folder: Path) -> Path:
    """The files of a commit in a folder of their own; what is being worked on is left alone."""
    git = partial(subprocess.run, capture_output=True, text=True, encoding="utf-8")
    for command in (
        ["git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder / "code")],
        ["git", "-C", str(folder / "code"), "checkout", "--quiet", "--detach", commit, "--"],
    ):
        ran = git(command)
        if ran.returncode:
            raise SystemExit(
                f"commit must be one that this clone holds, got {commit}; Git says: "
                f"{ran.stderr.strip()}"
            )
    return folder / "code"


def measured(
    folders: Mapping[str, Path], scale: Scale, rounds: int, fresh: int
) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """All samples, each row printed once it is complete, and in what the versions disagree."""
    sizes = scale.num_trajectories, scale.num_steps
    script = str(Path(__file__).with_name("earlier_worker.py"))
    command = [sys.executable, script, *map(str, sizes)]
    workers = {name: Worker(*command, folder=folder) for name, folder in folders.items()}
    samples = {}
    try:
        answers = {name: worker.ask("answers") for name, worker in workers.items()}
        for row in TIMED:
            samples[row] = in_turn(
                {name: partial(_seconds, worker, row) for name, worker in workers.items()}, rounds
            )
            print(shown(row, samples[row]), flush=True)
    finally:
        for worker in workers.values():
            worker.stop()
    whole = {
        "memory": partial(_megabytes, scale.many_trajectories, scale.num_steps),
        "first-call": partial(_first_call, *sizes),
    }
    for row in WHOLE:
        samples[row] = in_turn(
            {name: partial(whole[row], folder) for name, folder in folders.items()}, fresh
        )
        print(shown(row, samples[row]), flush=True)
    programs = {name: answer["programs"] for name, answer in answers.items()}
    print(f"programs that a second call compiles: {programs['earlier']}, now {programs['now']}")
    return samples, disagreements(answers["earlier"], answers["now"])


def in_turn(calls: Mapping[str, Any], rounds: int) -> dict[str, list[float]]:
    """The samples of each call. The order turns around from round to round."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        for name in list(calls)[:: -1 if index % 2 else 1]:
            found[name].append(calls[name]())
    return found


def shown(row: str, samples: Samples) -> str:
    """A line: medians of both, and the two ratios."""
    earlier, now = samples["earlier"], samples["now"]
    unit = "MB" if row == "memory" else "s"
    medians = statistics.median(x / y for x, y in zip(earlier, now, strict=True))
    return (
        f"{row}: {statistics.median(earlier):.4g} {unit} earlier, "
        f"{statistics.median(now):.4g} {unit} now; "
        f"medians {medians:.3f}, best {min(earlier) / min(now):.3f}, {len(now)} rounds"
    )


def disagreements(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each thing in which two workers' answers differ and must not."""
    faults = []
    if earlier["episodes"] != now["episodes"]:
        faults.append("the versions sample different episodes from the same key")
    for row in ("gradient", "per-trajectory"):
        one, other = np.asarray(earlier[row]), np.asarray(now[row])
        difference = np.abs(one - other).max() / np.abs(one).max()
        if not difference <= ROUNDING:
            faults.append(f"{row}: the versions differ by {difference:.1e} of the largest entry")
    if now["programs"]:
        faults.append(f"a second call with new data compiles {now['programs']} programs")
    return faults


def _seconds(worker: Worker, row: str) -> float:
    return worker.ask(row)["seconds"]


def _megabytes(N: int, T: int, folder: Path) -> float:
    """A gradient's peak memory above that of a bare process."""
    peak = partial(run_python, "-m", "benchmarks.peak_memory")
    ours, bare = (int(peak(name, str(N), str(T), folder=folder)) for name in ("pgjax", "bare"))
    return (ours - bare) / 1e6


def _first_call(N: int, T: int, folder: Path) -> float:
    clock = "import time; begin = time.perf_counter()"
    program = (
        f"{clock}; from benchmarks.first_call import main; main('pgjax', '{N}', '{T}'); "
        "print(time.perf_counter() - begin)"
    )
    return float(run_python("-c", program, folder=folder))


if __name__ == "__main__":
    main()
