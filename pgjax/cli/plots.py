"""Pictures, with Matplotlib's object interface: no global state, no display.

Each function returns a figure; save it with `savefig`. Imported by the command line only.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from pgjax.training.runs.curve import learning_curve as learning_curve

if TYPE_CHECKING:
    from pgjax.diagnostics import Interval
    from pgjax.proof.comparison import Comparison
    from pgjax.proof.error_bands import Band
    from pgjax.proof.error_curves import Point

# Okabe & Ito's palette, distinct under the common colour-vision deficiencies.
_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#E69F00", "#000000")


def convergence(
    bands: "Mapping[str, Sequence[Band]]", points: "Mapping[str, Point]", *, problem: str
) -> "Figure":
    """Error of the sample gradient against N, over many runs, on logarithmic axes.

    The marks are the root of the mean squared error of all runs, and the band holds the middle 80%
    of the runs. The line is theory, √(bias² + tr Σ / N). Unbiased estimators have round marks,
    biased ones square marks. Estimators with the same error share one line and one label. An
    estimator without exact values has diamonds, joined by a dotted line, and no line of theory.

    Args:
        bands: each estimator's, N ascending.
        points: each estimator's at the largest N.
        problem: a few words on it, below the title.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    right, wrong = itertools.cycle(_COLOURS[:3]), itertools.cycle(_COLOURS[3:])
    labels = []
    for names in _with_one_error(points):
        point, found = points[names[0]], bands[names[0]]
        is_biased, is_known = point.bias > 1e-9, not np.isnan(point.bias)
        marker = ("s" if is_biased else "o") if is_known else "D"
        colour = next(right if is_known and not is_biased else wrong)
        N = np.array([band.num_trajectories for band in found])
        low, root, high = (
            np.array([getattr(band, name) for band in found])
            for name in ("low", "root_mean_square", "high")
        )
        axes.fill_between(N, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(N, root, marker, color=colour, markersize=5)
        if not is_known:
            axes.plot(N, root, ":", color=colour, linewidth=1.5)
            labels.append((root[-1], names[0], colour))
            continue
        reach = np.geomspace(N[0], 2 * N[-1], 50)
        theory = np.sqrt(point.bias**2 + point.deviation**2 * point.num_trajectories / reach)
        axes.plot(reach, theory, color=colour, linewidth=1.5)
        label = "\n= ".join(names).replace("γ^t", "γᵗ") + (
            f"\nbiased: {point.bias:.0%} off, whatever N" if is_biased else ""
        )
        labels.append((theory[-1], label, colour))
    unknown = any(np.isnan(point.bias) for point in points.values())
    axes.set_xscale("log", base=10)
    axes.set_yscale("log")
    _label_ends(axes, labels)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.grid(which="major", color="0.92", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("trajectories N")
    axes.set_ylabel("error of the gradient, share of ‖∇J‖")
    figure.suptitle(_finding(points), x=0.01, ha="left", fontsize=13, fontweight="bold")
    axes.set_title(
        f"{problem}.\nMarks: root mean square of {_runs(bands)}. "
        "Bands: the middle 80% of them.\n"
        "Lines: theory, √(bias² + tr Σ / N); nothing is fitted."
        + (" Dotted: not known exactly." if unknown else ""),
        loc="left",
        fontsize=9,
        color="0.35",
    )
    return figure


def _with_one_error(points: "Mapping[str, Point]") -> list[list[str]]:
    """The names of the estimators, in groups of the same bias and variance."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, point in points.items():
        key = f"{point.bias if point.bias > 1e-9 else 0:.6g}", f"{point.deviation:.6g}"
        key = ("", name) if np.isnan(point.bias) else key
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _finding(points: "Mapping[str, Point]") -> str:
    """What the picture shows, in one sentence."""
    right = sum(point.bias <= 1e-9 for point in points.values())
    biased = [name for name, point in points.items() if point.bias > 1e-9]
    if not biased:
        begin = "All estimators" if right == len(points) else f"{right} estimators"
        return f"{begin} close in on ∇J: 100 times the data, a tenth of the error"
    close = {1: "One estimator closes", 2: "Two estimators close", 3: "Three estimators close"}
    begin = close.get(right, f"{right} estimators close")
    ours = "Without γᵗ" if biased == ["reward-to-go, no γ^t"] else f"For {len(biased)} others"
    return f"{begin} in on ∇J. {ours}, more data does not help"


def _runs(bands: "Mapping[str, Sequence[Band]]") -> str:
    counts = [band.num_runs for found in bands.values() for band in found]
    least, most = min(counts), max(counts)
    return f"{most:,} to {least:,} runs" if least < most else f"{most:,} runs"


def _label_ends(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Labels at the right ends of the lines, moved apart where lines end close together."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    line = 0.05 * np.log(high / low)  # the height of one line of text
    place, below = -np.inf, 0
    for end, label, colour in sorted(labels):
        lines = label.count("\n") + 1
        place, below = max(np.log(end), place + line * (lines + below) / 2), lines
        axes.annotate(
            label,
            (1.01, np.exp(place)),
            xycoords=("axes fraction", "data"),
            color=colour,
            fontsize=10,
            fontweight="bold",
            verticalalignment="center",
            annotation_clip=False,
        )


def comparison(found: "Comparison", *, title: str) -> Figure:
    """Noise scale beside cosine, one line for each estimator, each with its interval.

    Hollow diamonds are exact values. An arrow marks an interval without an end.

    Args:
        found: from `comparison.compare`.
        title: above the picture.
    """
    rows = found.rows
    figure = Figure(figsize=(9.5, 1.6 + 0.42 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    seen = [x for row in rows for x in row.noise_scale if 0 < x < np.inf] + [found.batch_size]
    reach = (min(seen) / 2, 2 * max(seen))
    for line, row in enumerate(rows):
        _interval(left, line, row.noise_scale, reach)
        _interval(right, line, row.cosine, (-1.0, 1.0))
        for axes, value in ((left, row.exact_noise_scale), (right, row.exact_cosine)):
            if value is not None:
                axes.plot(value, line, "D", color=_COLOURS[3], fillstyle="none", markersize=8)
    left.set_xscale("log")
    left.set_xlim(*reach)
    left.axvline(found.batch_size, color="0.4", linewidth=1, linestyle=":")
    left.xaxis.set_major_formatter("{x:g}")
    left.set_xlabel("noise scale, in trajectories (dotted: the batch)")
    lowest = min(row.cosine.low for row in rows)
    margin = max(0.04 * (1 - lowest), 1e-3)
    right.set_xlim(lowest - margin, 1 + margin)
    right.set_xlabel("cosine of E ĝ and the reference")
    left.set_yticks(range(len(rows)), [row.name for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    for axes in (left, right):
        axes.grid(axis="x", color="0.9", linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    handles = [
        left.plot([], [], "o-", color=_COLOURS[0], label="measured, 95% interval")[0],
        left.plot([], [], "D", color=_COLOURS[3], fillstyle="none", label="exact")[0],
    ]
    exact = any(row.exact_noise_scale is not None for row in rows)
    figure.suptitle(title)
    figure.legend(handles=handles[: 1 + exact], loc="outside lower center", ncols=2, frameon=False)
    return figure


def _interval(axes: Axes, line: int, interval: "Interval", reach: tuple[float, float]) -> None:
    low, high = max(interval.low, reach[0]), min(interval.high, reach[1])
    axes.plot([low, high], [line, line], color=_COLOURS[0], linewidth=1.8)
    if interval.high > reach[1]:
        axes.plot(reach[1], line, ">", color=_COLOURS[0], markersize=6, clip_on=False)
    if np.isfinite(interval.estimate):
        axes.plot(interval.estimate, line, "o", color=_COLOURS[0], markersize=5)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(which="major", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
