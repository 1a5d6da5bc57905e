"""Pictures, with Matplotlib's object interface: no global state, no display.

Imported by the command line only.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

if TYPE_CHECKING:
    from pgjax.convergence import Point

# Okabe & Ito's palette, distinct under the common colour-vision deficiencies.
_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#E69F00", "#000000")


def convergence(points: "Mapping[str, Sequence[Point]]", *, is_exact: bool, title: str) -> "Figure":
    """Error of the sample gradient against N, one line an estimator, on logarithmic axes.

    Dashed in the same colour: √(tr Σ / N), the error expected of an unbiased estimator with that
    covariance. Dotted: the exact bias, at which a biased one flattens.

    Args:
        points: each estimator's Points, N ascending.
        is_exact: whether Σ is exact, or the sample's.
        title: above the picture.

    Returns:
        A figure; save it with `savefig`.
    """
    figure, axes = _figure()
    for colour, (name, history) in zip(_COLOURS, points.items(), strict=False):
        N = [point.num_trajectories for point in history]
        errors = [point.error for point in history]
        axes.loglog(N, errors, "o-", color=colour, label=name, markersize=4, linewidth=1.8)
        deviation = [point.deviation for point in history]
        axes.loglog(N, deviation, "--", color=colour, linewidth=1, alpha=0.7)
        if history[-1].bias > 1e-9:
            axes.axhline(history[-1].bias, color=colour, linestyle=":", linewidth=1.2)
            axes.annotate(
                f"exact bias {history[-1].bias:.1%}",
                (N[0], history[-1].bias),
                xytext=(0, 4),
                textcoords="offset points",
                color=colour,
                fontsize=9,
            )
    source = "Σ exact" if is_exact else "Σ from the sample"
    axes.plot([], [], "--", color="0.4", linewidth=1, label=f"√(tr Σ / N), {source}")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("trajectories N")
    axes.set_ylabel("relative error  ‖ĝ − ∇J‖ / ‖∇J‖")
    axes.set_title(title)
    axes.legend(frameon=False, fontsize=9)
    return figure


def learning_curve(rows: "Sequence[Mapping[str, Any]]", *, title: str) -> Figure:
    """Mean return of each update's batch, ± one standard error.

    Args:
        rows: the log of a run, one mapping for each update, with `update`, `environment_steps`
            so far, `mean_return` and `standard_error`.
        title: above the picture.

    Returns:
        A figure; save it with `savefig`.
    """
    figure, axes = _figure()
    names = ("update", "mean_return", "standard_error")
    update, mean, error = (np.array([row[name] for row in rows], float) for name in names)
    band = axes.fill_between(
        update, mean - error, mean + error, color=_COLOURS[0], alpha=0.25, linewidth=0
    )
    (line,) = axes.plot(update, mean, color=_COLOURS[0], linewidth=1.8)
    if len(rows) == 1:  # a line through one point is invisible
        line.set_marker("o")
    axes.legend([(band, line)], ["mean ± standard error"], frameon=False, loc="best")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    steps = EngFormatter(places=1, sep="")(rows[-1]["environment_steps"])
    axes.set_xlabel(f"update ({steps} environment steps in all)")
    axes.set_ylabel("return per episode, undiscounted")
    axes.set_title(title)
    return figure


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(which="major", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
