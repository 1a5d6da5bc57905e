"""Pictures, with Matplotlib's object interface: no global state, no display.

Each function returns a figure; save it with `savefig`. Imported by the command line only.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

if TYPE_CHECKING:
    from pgjax.diagnostics import Interval
    from pgjax.proof.certificate import Certificate
    from pgjax.proof.comparison import Comparison
    from pgjax.proof.error_curves import Point

# Okabe & Ito's palette, distinct under the common colour-vision deficiencies.
_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#E69F00", "#000000")

FAINT = 5e-3
"""A smaller relative bias is drawn at the lower end of the axis."""

_MARKS = tuple(zip(_COLOURS, "osD^vP*", strict=True))


def convergence(points: "Mapping[str, Sequence[Point]]", *, title: str) -> "Figure":
    """Error of the sample gradient against N, one line an estimator, on logarithmic axes.

    Dashed in the same colour: √(tr Σ / N), the expected error of an unbiased estimator with that
    covariance. Dotted: the exact bias, at which a biased one flattens.

    Args:
        points: each estimator's Points, N ascending.
        title: above the picture.
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
                (N[-1], history[-1].bias),  # there the line has settled, and has room below it
                xytext=(0, -8),
                textcoords="offset points",
                horizontalalignment="right",
                verticalalignment="top",
                color=colour,
                fontsize=9,
            )
    axes.plot([], [], "--", color="0.4", linewidth=1, label="√(tr Σ / N), Σ exact")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("trajectories N")
    axes.set_ylabel("relative error  ‖ĝ − ∇J‖ / ‖∇J‖")
    axes.set_title(title)
    axes.legend(frameon=False, fontsize=9)
    return figure


def certificate(certificates: "Sequence[Certificate]") -> Figure:
    """Bias beside variance, one line an estimator, one mark a problem, on logarithmic axes.

    Zero bias has no place on a logarithmic axis, so it has a separate strip.
    """
    lines = _lines(certificates)
    height = 0.34 if len(lines) < 20 else 0.23  # inches a line
    figure = Figure(figsize=(9.5, 1.4 + height * len(lines)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    biases = [found.bias for found in certificates if found.is_biased]
    none = 10 ** np.floor(np.log10(max(min(biases, default=1), FAINT)) - 0.7)
    problems = dict.fromkeys(found.problem for found in certificates)
    marks = dict(zip(problems, cycle(_MARKS), strict=False))
    for line, (_, found) in enumerate(lines):
        for index, each in enumerate(found):
            offset = 0.68 * (index + 0.5) / len(found) - 0.34
            colour, marker = marks[each.problem]
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 3.5}
            bias = max(each.bias, 2.5 * none) if each.is_biased else none
            left.plot(bias, line + offset, linestyle="", **style)
            if each.variance > 1e-14:  # less is rounding
                right.plot(each.variance, line + offset, linestyle="", **style)
    _label_certificate(left, right, lines, none)
    handles = [
        right.plot([], [], linestyle="", color=colour, marker=marker, label=problem)[0]
        for problem, (colour, marker) in marks.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, frameon=False)
    return figure


def _lines(certificates: "Sequence[Certificate]") -> "list[tuple[str, list[Certificate]]]":
    """The name and certificates of each line; a section's title has no certificates."""
    from pgjax.proof.registry import section_of

    sections: dict[str, dict[str, list[Certificate]]] = {}
    for found in certificates:
        rows = sections.setdefault(section_of(found.row), {})
        rows.setdefault(found.row.name, []).append(found)
    if len(sections) == 1:
        return list(next(iter(sections.values())).items())
    return [line for title, rows in sections.items() for line in ((title, []), *rows.items())]


def comparison(found: "Comparison", *, title: str) -> Figure:
    """Noise scale beside cosine, one line an estimator, each with its interval.

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
        left.plot([], [], "o-", color=_COLOURS[0], label="measured, 95 % interval")[0],
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


def learning_curve(rows: "Sequence[Mapping[str, Any]]", *, title: str) -> Figure:
    """Mean return of each update's batch, ± one standard error.

    Args:
        rows: the log of a run, one mapping for each update, with `update`, `environment_steps`
            so far, `mean_return` and `standard_error`.
        title: above the picture.
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


def _label_certificate(
    left: Axes, right: Axes, lines: "list[tuple[str, list[Certificate]]]", none: float
) -> None:
    for axes in (left, right):
        axes.set_xscale("log")
        axes.grid(axis="x", color="0.9", linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        for line in range(0, len(lines), 2):
            axes.axhspan(line - 0.5, line + 0.5, color="0.965", zorder=0)
    left.set_yticks(range(len(lines)), [name for name, _ in lines])
    left.set_ylim(len(lines) - 0.5, -0.5)
    for label, (_, found) in zip(left.get_yticklabels(), lines, strict=True):
        label.set_fontweight("normal" if found else "bold")
    largest = max((each.bias for _, found in lines for each in found), default=1)
    powers = range(round(np.log10(none)) + 1, int(np.log10(max(largest, 1))) + 1)
    ticks = [10.0**power for power in powers]
    left.set_xticks([none, *ticks], ["none", *(f"{100 * tick:g}%" for tick in ticks)])
    left.set_xlim(none / 1.6, 1.6 * max(largest, 1))
    left.minorticks_off()
    left.set_xlabel("relative bias  ‖E ĝ − ∇J‖ / ‖∇J‖")
    left.axvline(none * 1.6, color="0.4", linewidth=1, linestyle=":")
    right.axvline(1, color="0.4", linewidth=1, zorder=1)
    low, high = right.get_xlim()
    is_wide = high > 1e5 * low
    right.xaxis.set_major_locator(LogLocator(base=100) if is_wide else LogLocator(subs=(1, 3)))
    right.xaxis.set_major_formatter("{x:g}")
    right.minorticks_off()
    right.set_xlabel("variance of a trajectory, relative to reward-to-go")


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(which="major", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
