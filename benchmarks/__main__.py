"""`python -m benchmarks`: time pgjax beside its rivals; one table, one JSON file, one picture."""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
from rich.console import Console

from benchmarks import picture, report
from benchmarks.harness import FULL, QUICK, Row, run_row
from benchmarks.processes import cores

QUICK_REPEATS = 3

GPU_ROWS = (
    "returns", "returns-rows", "returns-columns", "rollout", "gradient", "tokens", "tokens-memory",
    "ppo-scale", "returns-scale", "rollout-scale", "gradient-scale",
)  # fmt: skip
"""What an accelerator is for, the most telling first: `--gpu` runs them while its time lasts."""

GPU_SECONDS = 300.0
"""No row of `--gpu` is begun later than this, so that the last one ends within six minutes."""

GPU_REPEATS = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Run the rows asked for."""
    arguments = _parser().parse_args(argv)
    # Wide enough for the table where there is no terminal to ask.
    console = Console(width=None if Console().is_terminal else 200)
    chosen = _chosen(arguments.only)
    if arguments.gpu and not arguments.only:
        chosen = sorted(_chosen(GPU_ROWS), key=lambda row: GPU_ROWS.index(row.name))
    if arguments.list:
        for row in chosen:
            console.print(f"{row.name:20} {row.what}", highlight=False)
        return
    scale = QUICK if arguments.quick else FULL
    fewer = QUICK_REPEATS if arguments.quick else GPU_REPEATS if arguments.gpu else None
    repeats = arguments.repeats or fewer
    if arguments.gpu and jax.default_backend() == "cpu":
        console.print(
            "JAX sees no accelerator: this is a trial of --gpu on the CPU", style="yellow"
        )
    results = []
    for row in within(GPU_SECONDS if arguments.gpu else None, chosen):
        console.print(f"{row.name}: {row.what} …", highlight=False)
        results.append(run_row(row, scale, repeats))
    if left := [row.name for row in chosen[len(results) :]]:
        console.print(
            f"No time was left for {', '.join(left)}: name them by --only", style="yellow"
        )
    report.print_table(console, results)
    path = arguments.output or report.default_path()
    report.save(path, results, scale)
    console.print(f"Saved {path}", highlight=False, soft_wrap=True)
    if any(result.goals for result in results):
        console.print(f"Saved {picture.save(path, results)}", highlight=False, soft_wrap=True)


def within(
    seconds: float | None, rows: Sequence[Row], clock: Callable[[], float] = time.monotonic
) -> Iterator[Row]:
    """The rows, until that many seconds have passed; all of them if None."""
    start = clock()
    for row in rows:
        if seconds is not None and clock() - start > seconds:
            return
        yield row


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [row.name for row in _registry()]
    parser.add_argument(
        "--only", action="append", metavar="NAME", choices=names, help="one row; may be repeated"
    )
    parser.add_argument("--repeats", type=_at_least_one, help="rounds of every row")
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="the rows that an accelerator is for, three rounds each, in at most six minutes",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, three rounds")
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON file; the picture is put beside it (benchmarks/results/<date>-<device>)",
    )
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    return parser


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"needs an integer of at least 1, got {value}")
    return value


def _chosen(names: Sequence[str] | None) -> list[Row]:
    return [row for row in _registry() if names is None or row.name in names]


def _registry() -> Sequence[Row]:
    # Not above: gymnax makes arrays when it is imported, and then the CPU's devices are settled.
    from benchmarks.rows import ROWS

    return ROWS


def _use_every_core() -> None:
    """One CPU device for each core, unless the caller has decided."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" not in os.environ and "device_count" not in flags:
        jax.config.update("jax_num_cpu_devices", len(cores()))


if __name__ == "__main__":
    _use_every_core()
    main()
