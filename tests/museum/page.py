"""The page: what is generated of `docs/museum.md`, and how to read it back."""

import inspect
import re
from pathlib import Path

from tests.museum import losses, samplers
from tests.museum.cases import NAMES
from tests.museum.exhibits import EXHIBITS

PATH = Path(__file__).parents[2] / "docs" / "museum.md"
SECTION = re.compile(r"(<!-- museum:begin (\w+) -->\n).*?(<!-- museum:end -->)", re.DOTALL)

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
    found = {"mutants": [], "controls": []}
    for name in MUTANTS + CONTROLS:
        if name in exhibits:
            exhibit = exhibits[name]
            line = f"- **{name}**: {exhibit.label}"
            if exhibit.estimand != "∇J":
                line += f" Claims {exhibit.estimand}."
            if exhibit.seen:
                line += f" *Seen: {exhibit.seen}.*" if exhibit.mutant else f" *{exhibit.seen}.*"
        else:
            plan = SAMPLERS.get(name, samplers.separate)
            line = f"- **{name}**: {labels.get(name) or inspect.getdoc(plan)} A sampler."
        found["mutants" if name in MUTANTS else "controls"].append(line)
    count = f"{len(MUTANTS)} mutants, {len(CONTROLS)} controls, {len(NAMES)} problems."
    return (
        losses.sections()
        | {
            "count": count,
            "matrix": _table(MUTANTS, columns),
            "green": _table(CONTROLS, columns),
        }
        | {name: "\n".join(lines) for name, lines in found.items()}
    )


def _table(names: list[str], columns: Columns) -> str:
    head = f"| | {' | '.join(columns)} |\n| --- |{' --: |' * len(columns)}\n"
    return head + "\n".join(
        f"| {name} | {' | '.join(column[name] for column in columns.values())} |" for name in names
    )


def written(page: str, columns: Columns) -> str:
    """The page with its generated sections made anew."""
    generated = sections(columns)
    return SECTION.sub(lambda found: f"{found[1]}\n{generated[found[2]]}\n\n{found[3]}", page)


def read(page: str) -> Columns:
    """The cells that a page shows."""
    columns: Columns = {name: {} for name in NAMES}
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    for name, *cells in rows:
        if name in MUTANTS + CONTROLS:
            for problem, cell in zip(NAMES, cells, strict=True):
                columns[problem][name] = cell
    return columns
