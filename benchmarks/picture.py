"""One picture of every goal: how far ours is from rival and limit, beside how far it should be."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks import report
from benchmarks.harness import Goal, Result, Role

# Okabe & Ito's, told apart under the common colour-vision deficiencies.
COLOURS: dict[Role, str] = {"rival": "#0072B2", "limit": "#E69F00", "ours": "#009E73"}
MISSED = "#D55E00"


def save(path: Path, results: Sequence[Result]) -> Path:
    """Draw the goals beside a JSON file of the same name; where it went."""
    path = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    goals(results).savefig(path, dpi=150)
    return path


def goals(results: Sequence[Result]) -> Figure:
    """A line for each goal, from equal cost to the ratio reached, and a bar where the goal is."""
    lanes = [(result, goal) for result in results for goal in result.goals]
    figure = Figure(figsize=(11, 1.6 + 0.3 * len(lanes)), layout="constrained")
    axes = figure.add_subplot()
    for y, (result, goal) in enumerate(lanes):
        _lane(axes, y, result, goal)
    _shade(axes, [result.name for result, _ in lanes])
    labels = [f"{result.name}: {goal.against}" for result, goal in lanes]
    _dress(axes, labels)
    axes.set_title(f"{report.device()}\nour speed, or thrift, over the other's", fontsize=10)
    return figure


def _lane(axes: Axes, y: int, result: Result, goal: Goal) -> None:
    ratio, verdict = result.measured(goal), result.verdict(goal)
    axes.plot(goal.at_least, y, "|", color="black", markersize=13, markeredgewidth=2, zorder=3)
    if ratio is not None:
        colour = COLOURS[result.named(goal.against).role]
        axes.plot([1, ratio], [y, y], color=colour, linewidth=5, solid_capstyle="butt")
        filling = colour if verdict == "met" else "white"
        axes.plot(ratio, y, "o", color=colour, markersize=8, zorder=4, markerfacecolor=filling)
    axes.text(
        1.01,
        y,
        f"{report.standing(result, goal)} {'' if verdict == 'met' else verdict}",
        transform=axes.get_yaxis_transform(),
        color=MISSED if verdict == "missed" else "black",
        fontsize=9,
        va="center",
    )


def _shade(axes: Axes, rows: Sequence[str]) -> None:
    """Every other row of the table, behind all of its goals."""
    shaded = list(dict.fromkeys(rows))[::2]
    for y in (y for y, row in enumerate(rows) if row in shaded):
        axes.axhspan(y - 0.5, y + 0.5, color="0.965", zorder=0)


def _dress(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.1), max(high, 10))
    axes.xaxis.set_minor_formatter("")
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.axvline(1, color="0.5", linewidth=1, zorder=1)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [
        *(
            Line2D([], [], color=colour, linewidth=5, label=f"against {role}")
            for role, colour in COLOURS.items()
        ),
        Line2D([], [], color="black", marker="|", markersize=13, linestyle="", label="the goal"),
        Line2D([], [], color="0.3", marker="o", linestyle="", label="met"),
        Line2D([], [], color="0.3", marker="o", linestyle="", label="missed", mfc="white"),
    ]
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
