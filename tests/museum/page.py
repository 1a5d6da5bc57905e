"""The page: what is generated of `docs/museum.md`, and how to read it back."""

import inspect
import re
from pathlib import Path

from tests.museum import losses, samplers
from tests.museum.cases import NAMES
from tests.museum.exhibits import EXHIBITS

PATH = Path(__file__).parents[2] / "docs" / "museum.md"
SECTION = re.compile(r"(<!-- museum:begin (\w+) -->\n).*?(<!-- museum:end -->)", re.DOTALL)
LINKED = re.compile(r"\[(?P<name>[^\]]+)\]\(#[^)]+\)")
SPELT = {"·": "no bias", "–": "no meaning"}
"""Cells in words."""
ESTIMANDS = {"∇KL, states held": "∇KL with the distribution of states held fixed"}
"""Estimands in words, where their names are short."""

Columns = dict[str, dict[str, str]]
"""Cells by problem, then by exhibit."""

SAMPLERS = {
    plan.__name__.replace("_", " "): plan for plan in (*samplers.MUTANTS, *samplers.RECORDS)
}
MUTANTS = [exhibit.name for exhibit in EXHIBITS if exhibit.mutant] + list(SAMPLERS)
CONTROLS = [exhibit.name for exhibit in EXHIBITS if not exhibit.mutant] + [
    plan.__name__.replace("_", " ") for plan in samplers.CONTROLS
]


def sections(columns: Columns) -> dict[str, str]:
    """Each generated section of the page by name."""
    labels = {name: inspect.getdoc(plan) or "" for name, plan in SAMPLERS.items()}
    exhibits = {exhibit.name: exhibit for exhibit in EXHIBITS}

    def words(name: str) -> str:
        if name not in exhibits:
            plan = SAMPLERS.get(name, samplers.separate)
            return f"{labels.get(name) or inspect.getdoc(plan)} A sampler."
        exhibit = exhibits[name]
        line = exhibit.label
        if exhibit.estimand != "∇J":
            line += f" Claims {ESTIMANDS.get(exhibit.estimand, exhibit.estimand)}."
        if exhibit.seen:
            line += f" *Seen: {exhibit.seen}.*" if exhibit.mutant else f" *{exhibit.seen}.*"
        return line

    count = f"{len(MUTANTS)} mutants, {len(CONTROLS)} controls, {len(NAMES)} problems."
    return losses.sections() | {
        "count": count,
        "matrix": _table({name: f"[{name}](#{anchor(name)})" for name in MUTANTS}, columns),
        "green": _table({name: name for name in CONTROLS}, columns),
        "mutants": "\n\n".join(
            f"### {title(name)}\n\n{words(name)}\n\n{_picture(name, columns)}" for name in MUTANTS
        ),
        "controls": "\n".join(f"- **{name}**: {words(name)}" for name in CONTROLS),
    }


def anchor(name: str) -> str:
    """Where an exhibit stands on the page, as in a link to it."""
    return name.replace(" ", "-")


def title(name: str) -> str:
    """The heading of an exhibit."""
    return "GAE" + name[3:] if name.startswith("gae ") else name[0].upper() + name[1:]


def _picture(name: str, columns: Columns) -> str:
    cells = {problem: column[name] for problem, column in columns.items()}
    shown = "; ".join(f"{problem}: {SPELT.get(cell, cell)}" for problem, cell in cells.items())
    return f"![{shown}](museum/{anchor(name)}.svg)"


def _table(names: dict[str, str], columns: Columns) -> str:
    """The cells of exhibits; their names as the first column shows them."""
    head = f"| | {' | '.join(columns)} |\n| --- |{' --: |' * len(columns)}\n"
    return head + "\n".join(
        f"| {shown} | {' | '.join(column[name] for column in columns.values())} |"
        for name, shown in names.items()
    )


def written(page: str, columns: Columns) -> str:
    """The page with its generated sections made anew."""
    generated = sections(columns)
    return SECTION.sub(lambda found: f"{found[1]}\n{generated[found[2]]}\n\n{found[3]}", page)


def read(page: str) -> Columns:
    """The cells that a page shows."""
    columns: Columns = {name: {} for name in NAMES}
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    for first, *cells in rows:
        name = LINKED.sub(r"\g<name>", first)
        if name in MUTANTS + CONTROLS:
            for problem, cell in zip(NAMES, cells, strict=True):
                columns[problem][name] = cell
    return columns
