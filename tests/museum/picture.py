"""The museum's picture: which problem shows which mistake, and how large its bias is there."""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from tests.museum import page

PATH = page.PATH.with_name("museum.png")
STEPS = (1e-4, 1, 10, 50, 100, 1e4)
"""Bounds in per cent between the shades of bias."""
SHADES = ListedColormap(["#FDE3C8", "#F9B27C", "#EE7A3A", "#C84A11", "#7A2506"])
WORD, HIDDEN, EMPTY = "#7A86B8", "#F1F3F5", "#FFFFFF"


def number(cell: str) -> float | None:
    """The bias of a cell in per cent; None for a dot, a dash or a word."""
    return float(cell.removesuffix("%")) if cell.endswith("%") else None


def colour(cell: str, norm: BoundaryNorm) -> object:
    """The colour of a cell: a shade for a bias, and one each for a word, a dot and a dash."""
    bias = number(cell)
    if bias is not None:
        return SHADES(norm(min(max(bias, STEPS[0]), STEPS[-1] - 1)))
    return {"·": HIDDEN, "–": EMPTY}.get(cell, WORD)


def draw(columns: page.Columns) -> Figure:
    """A row for each mutant, those that few problems show at the top; a column for each problem."""
    problems, norm = list(columns), BoundaryNorm(STEPS, SHADES.N)

    def shown(name: str) -> int:
        return sum(columns[problem][name] not in "·–" for problem in problems)

    names = sorted(page.MUTANTS, key=shown)
    figure = Figure(figsize=(7.5, 1.6 + 0.19 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for line, name in enumerate(names):
        for place, problem in enumerate(problems):
            cell = columns[problem][name]
            axes.barh(line, 0.94, 0.88, place - 0.47, color=colour(cell, norm))
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xticks(range(len(problems)), problems, fontsize=8)
    axes.xaxis.tick_top()
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-0.5, len(problems) - 0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    most = int(np.max([sum(columns[p][n] not in "·–" for n in names) for p in problems]))
    figure.suptitle(
        f"No problem shows every mistake: the best shows {most} of {len(names)}",
        x=0.01,
        horizontalalignment="left",
        fontweight="bold",
    )
    bar = figure.colorbar(
        ScalarMappable(norm, SHADES), ax=axes, location="bottom", aspect=60, pad=0.01
    )
    bar.set_ticks(list(STEPS), labels=["0", *(f"{step:g}%" for step in STEPS[1:-1]), "more"])
    bar.set_label("bias.  Grey: none, so the mistake stays hidden.  Blue: shown by another test")
    bar.outline.set_visible(False)
    return figure
