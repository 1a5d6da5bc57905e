"""Progress of a run: a live line on a terminal, a few plain lines elsewhere."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def reporter(updates: int, *, quiet: bool = False) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that takes each row of the log, and prints some of them; none if `quiet`."""
    if quiet:
        yield lambda row: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    console = Console()
    pace = Pace(updates)
    if console.is_terminal:
        columns = (
            MofNCompleteColumn(),
            BarColumn(12),
            TimeElapsedColumn(),  # runs while the first update compiles
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("compiling", total=updates)

            def show(row: dict[str, Any]) -> None:
                progress.update(task, completed=row["update"], description=_line(row) + pace(row))

            yield show
        return
    every = max(1, math.ceil(updates / 20))

    def report(row: dict[str, Any]) -> None:
        words = pace(row)
        if row["update"] in (1, updates) or row["update"] % every == 0:
            print(
                f"update {row['update']:>{len(str(updates))}}/{updates}  {_line(row)}{words}",
                flush=True,
            )

    yield report


class Pace:
    """Steps per second and the time left, from the rows since the first, which compiles."""

    def __init__(self, updates: int) -> None:
        """For a run of so many updates."""
        self.updates = updates
        self.first: dict[str, Any] | None = None

    def __call__(self, row: dict[str, Any]) -> str:
        """The words for a row; none as long as the time of an update is unknown."""
        first = self.first = self.first or row
        seconds = row["seconds"] - first["seconds"]
        if row["update"] == first["update"] or seconds <= 0:
            return ""
        rate = (row["environment_steps"] - first["environment_steps"]) / seconds
        left = seconds / (row["update"] - first["update"]) * (self.updates - row["update"])
        minutes, rest = divmod(round(left), 60)
        return f"  {rate:,.0f} steps/s  {minutes}:{rest:02d} left"


def _line(row: dict[str, Any]) -> str:
    rest = f"gradient norm {row['gradient_norm']:.3g}  entropy {row['entropy']:.3f}"
    if math.isnan(row["mean_return"]):
        return f"no episode has ended yet  {rest}"
    error = row["standard_error"]
    spread = f" ± {error:.2g}" if math.isfinite(error) else ""  # a single episode has none
    return f"return {row['mean_return']:.4g}{spread}  {rest}"
