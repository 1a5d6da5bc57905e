"""The learning curve of a run, with Matplotlib's object interface: no global state, no display."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

BLUE = "#0072B2"  # of Okabe & Ito's palette


def learning_curve(rows: Sequence[Mapping[str, Any]], *, title: str) -> Figure:
    """Mean return of each update's batch, ± one standard error.

    Args:
        rows: the log of a run, one mapping for each update, with `update`, `environment_steps`
            so far, `mean_return` and `standard_error`.
        title: above the picture.
    """
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(which="major", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    names = ("update", "mean_return", "standard_error")
    update, mean, error = (np.array([row[name] for row in rows], float) for name in names)
    band = axes.fill_between(
        update, mean - error, mean + error, color=BLUE, alpha=0.25, linewidth=0
    )
    (line,) = axes.plot(update, mean, color=BLUE, linewidth=1.8)
    if len(rows) == 1:  # a line through one point is invisible
        line.set_marker("o")
    axes.legend([(band, line)], ["mean ± standard error"], frameon=False, loc="best")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    steps = EngFormatter(places=1, sep="")(rows[-1]["environment_steps"])
    axes.set_xlabel(f"update ({steps} environment steps in all)")
    axes.set_ylabel("return per episode, undiscounted")
    axes.set_title(title)
    return figure
