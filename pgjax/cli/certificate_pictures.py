"""Pictures of the certificate: one for each family of estimators, exact bias beside exact variance.

A round blue mark is an estimator without bias on a problem; a square red mark is one with bias.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

if TYPE_CHECKING:
    from pgjax.proof.certificate import Certificate

UNBIASED: dict[str, Any] = {"color": "#0072B2", "marker": "o"}
BIASED: dict[str, Any] = {"color": "#D55E00", "marker": "s"}
NONE = 1e-4
"""Where the bias axis shows "none"; a smaller bias that is not zero is drawn just above."""
LEAST = 1e-4
"""A smaller variance is drawn at the left end of its axis."""


def family(certificates: "Sequence[Certificate]", *, title: str) -> Figure:
    """Bias and variance of a family's estimators, one line each, one mark for each problem.

    Args:
        certificates: of one family.
        title: the family's name.

    Returns:
        A figure whose title says how many of the estimators are unbiased.
    """
    lines: dict[str, list[Certificate]] = {}
    for found in certificates:
        lines.setdefault(found.row.name, []).append(found)
    figure = Figure(figsize=(8.5, 1.75 + 0.3 * len(lines)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for line, each in enumerate(lines.values()):
        style = BIASED if any(found.is_biased for found in each) else UNBIASED
        biases = [max(found.bias, 2 * NONE) if found.is_biased else NONE for found in each]
        variances = [max(found.variance, LEAST) for found in each]
        for axes, values in ((left, biases), (right, variances)):
            axes.plot([min(values), max(values)], [line, line], color=style["color"], alpha=0.35)
            axes.plot(
                values, [line] * len(values), linestyle="", markersize=5.5, alpha=0.8, **style
            )
    _label_lines(left, list(lines), [each[0].row.batch_size for each in lines.values()])
    _label_axes(left, right)
    count = sum(not any(found.is_biased for found in each) for each in lines.values())
    problems = len({found.problem for found in certificates})
    where = "this problem" if problems == 1 else f"all {problems} problems"
    figure.suptitle(
        f"{title.capitalize()}: {count} of {len(lines)} without bias on {where}",
        x=0.01,
        horizontalalignment="left",
        fontweight="bold",
    )
    handles = [
        Line2D([], [], linestyle="", markersize=6, label=label, **style)
        for label, style in (("without bias", UNBIASED), ("biased on some problem", BIASED))
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False)
    return figure


def save(certificates: "Sequence[Certificate]", output: Path) -> list[Path]:
    """Save a picture for each family: `certificate-critics.png` beside `certificate.png`.

    Args:
        certificates: of any rows.
        output: the path; if there is one family only, its picture is saved there.

    Returns:
        The files written.
    """
    from pgjax.cli.certificate_tables import by_section

    sections = by_section(certificates)
    paths = []
    for title, found in sections.items():
        name = f"{output.stem}-{title.replace(' ', '-')}{output.suffix}"
        paths.append(output if len(sections) == 1 else output.with_name(name))
        family(found, title=title).savefig(paths[-1], dpi=150)
    return paths


def _label_lines(axes: Axes, names: list[str], batch_sizes: list[int]) -> None:
    coupled = (f"  (K = {size})" if size > 1 else "" for size in batch_sizes)
    labels = [name.replace("γ^t", "γᵗ") + each for name, each in zip(names, coupled, strict=True)]
    axes.set_yticks(range(len(names)), labels)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _label_axes(left: Axes, right: Axes) -> None:
    for axes in (left, right):
        axes.set_xscale("log")
        axes.grid(axis="x", color="0.92", linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.minorticks_off()
    highest = max(left.get_xlim()[1], 2.0)
    ticks = [tick for tick in (1e-2, 1.0, 100.0) if tick <= highest]
    left.set_xticks([NONE, *ticks], ["none", *(f"{100 * tick:g}%" for tick in ticks)])
    left.set_xlim(NONE / 2, highest)
    left.axvline(1.5 * NONE, color="0.5", linewidth=1, linestyle=":")
    left.set_xlabel("bias, relative")
    right.axvline(1, color="0.4", linewidth=1, zorder=1)
    low, high = right.get_xlim()
    low, high = min(low, 0.3), max(high, 3.0)
    right.set_xlim(low, high)
    decades = np.log10(high / low)
    subs = (1.0, 3.0) if decades < 2.5 else (1.0,)
    right.xaxis.set_major_locator(LogLocator(base=100 if decades > 5 else 10, subs=subs))
    right.xaxis.set_major_formatter("{x:g}")
    right.minorticks_off()
    right.set_xlabel("variance (reward-to-go: 1)")
