"""Progress of a run: a live line on a terminal, a few plain lines elsewhere."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def reporter(updates: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that takes each row of the log, and prints some of them."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console()
    if console.is_terminal:
        columns = (MofNCompleteColumn(), BarColumn(12), TextColumn("{task.description}"))
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("compiling", total=updates)
            yield lambda row: progress.update(task, completed=row["update"], description=_line(row))
        return
    every = max(1, math.ceil(updates / 20))

    def report(row: dict[str, Any]) -> None:
        if row["update"] in (1, updates) or row["update"] % every == 0:
            print(
                f"update {row['update']:>{len(str(updates))}}/{updates}  {_line(row)}", flush=True
            )

    yield report


def _line(row: dict[str, Any]) -> str:
    rest = f"gradient norm {row['gradient_norm']:.3g}  entropy {row['entropy']:.3f}"
    if math.isnan(row["mean_return"]):
        return f"no episode has ended yet  {rest}"
    error = row["standard_error"]
    spread = f" ± {error:.2g}" if math.isfinite(error) else ""  # a single episode has none
    return f"return {row['mean_return']:.4g}{spread}  {rest}"
