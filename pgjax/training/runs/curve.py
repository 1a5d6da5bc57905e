"""The learning curve of a run, with Matplotlib's object interface: no global state, no display."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

BLUE = "#0072B2"  # of Okabe & Ito's palette


def learning_curve(rows: Sequence[Mapping[str, Any]], *, title: str) -> Figure:
    """Mean return of each update's batch, ± one standard error, against environment steps.

    Args:
        rows: the log of a run, one mapping for each update, with `environment_steps` so far,
            `mean_return` and `standard_error`.
        title: above the picture.
    """
    figure, axes = _figure(title)
    names = ("environment_steps", "mean_return", "standard_error")
    steps, mean, error = (np.array([row[name] for row in rows], float) for name in names)
    band = axes.fill_between(steps, mean - error, mean + error, color=BLUE, alpha=0.25, linewidth=0)
    (line,) = axes.plot(steps, mean, color=BLUE, linewidth=1.8)
    if len(rows) == 1:  # a line through one point is invisible
        line.set_marker("o")
    axes.legend([(band, line)], ["mean ± standard error"], frameon=False, loc="best")
    return figure


def learning_curves(logs: Sequence[Sequence[Mapping[str, Any]]], *, title: str) -> Figure:
    """The median over several runs, the band between the quartiles, and a thin line for each run.

    Each run's mean returns are interpolated between its updates. The band begins where all runs
    have seen the end of an episode, and ends at the last step that all have made.

    Args:
        logs: of each run, as for `learning_curve`.
        title: above the picture.
    """
    figure, axes = _figure(title)
    known = []
    for rows in logs:
        values = np.array([[row["environment_steps"], row["mean_return"]] for row in rows], float)
        known.append(values[np.isfinite(values[:, 1])])
    for values in known:
        axes.plot(*values.T, color=BLUE, linewidth=0.7, alpha=0.45)
    if all(len(values) for values in known):
        first, last = (reach(values[end, 0] for values in known) for reach, end in ENDS)
        steps = np.linspace(first, max(first, last), 400)
        returns = np.array([np.interp(steps, *values.T) for values in known])
        low, median, high = np.quantile(returns, (0.25, 0.5, 0.75), axis=0)
        band = axes.fill_between(steps, low, high, color=BLUE, alpha=0.25, linewidth=0)
        (line,) = axes.plot(steps, median, color=BLUE, linewidth=2.2)
        words = f"median of {len(logs)} seeds, band from quartile to quartile"
        axes.legend([(band, line)], [words], frameon=False, loc="best")
    return figure


ENDS = (max, 0), (min, -1)
"""All runs have a return from the latest of their first steps to the earliest of their last."""


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(which="major", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return per episode, undiscounted")
    axes.set_title(title)
    return figure, axes
