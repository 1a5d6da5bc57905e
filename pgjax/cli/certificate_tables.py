"""The certificate's tables, for the terminal and for the pages that are generated from it.

Numbers are printed to two or three digits. Exact numbers agree on every machine to more digits than
these, so a page that differs from this output is out of date.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table as RichTable

from pgjax.exact.problem import Problem
from pgjax.proof.certificate import Certificate
from pgjax.proof.registry import ROWS, SECTIONS, Row, section_of

_GENERATED = re.compile(
    r"(<!-- certificate:begin (?P<name>[\w-]+) -->\n).*?(<!-- certificate:end -->)", re.DOTALL
)


NO_VARIANCE = 1e-14
"""A relative variance below this is rounding."""


class Table(NamedTuple):
    """Cells as text; the first `words` columns are words, the others numbers."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    words: int = 1


def summary(certificates: Sequence[Certificate], title: str = "on the whole suite") -> Table:
    """A line for each estimator: each number's range over the problems, and the lowest cosine."""
    rows = [
        (
            found[0].row.name,
            str(found[0].row.batch_size),
            _range(found, _bias_of, lambda c: c.bias),
            _cosine_of(min(found, key=lambda c: c.cosine)),
            _range(found, _variance_of, lambda c: c.variance),
            _range(found, _needed_of, lambda c: c.needed or float("inf")),
        )
        for found in by_estimator(certificates)
    ]
    head = ("estimator", "K", "bias", "cosine ≥", "variance", "N for 1%")
    return Table(title, head, rows)


def on_problem(certificates: Sequence[Certificate], problem: Problem) -> Table:
    """A line for each estimator, on one problem."""
    rows = [
        (
            found.row.name,
            str(found.row.batch_size),
            _bias_of(found),
            _cosine_of(found),
            _variance_of(found),
            _needed_of(found),
        )
        for found in certificates
        if found.problem == problem.name
    ]
    mdp = problem.mdp
    title = (
        f"{problem.name}: {mdp.num_states} states, {mdp.num_actions} actions, "
        f"γ = {mdp.discount:g}, at most {problem.horizon} step" + "s" * (problem.horizon != 1)
    )
    return Table(title, ("estimator", "K", "bias", "cosine", "variance", "N for 1%"), rows)


def compositions(certificates: Sequence[Certificate]) -> Table:
    """A line for each estimator: its composition, its stated bias, and its exact bias."""
    rows = [
        (
            f"`{found[0].row.code}`",
            found[0].row.weights,
            found[0].row.term,
            _statement(found[0].row),
            _range(found, _bias_of, lambda c: c.bias),
            _range(found, _variance_of, lambda c: c.variance),
        )
        for found in by_estimator(certificates)
    ]
    head = ("estimator", "weights", "term", "bias for ∇J", "exact bias", "exact variance")
    return Table("estimators", head, rows, words=4)


def by_estimator(certificates: Sequence[Certificate]) -> list[list[Certificate]]:
    """Certificates in groups of one row, in the order of the rows."""
    groups: dict[str, list[Certificate]] = {}
    for found in certificates:
        groups.setdefault(found.row.name, []).append(found)
    return list(groups.values())


def rich(table: Table) -> RichTable:
    """The table for the terminal."""
    shown = RichTable(title=table.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, head in enumerate(table.head):
        shown.add_column(head, justify="left" if index < table.words else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    return shown


def markdown(table: Table) -> str:
    """The table in Markdown, for a page."""
    rule = ["---"] * table.words + ["--:"] * (len(table.head) - table.words)
    return "".join(f"| {' | '.join(row)} |\n" for row in (table.head, rule, *table.rows))


def generated(certificates: Sequence[Certificate], problems: Sequence[Problem]) -> dict[str, str]:
    """What stands between the markers of each name: tables of each section, and of all problems."""
    each = (on_problem(certificates, problem) for problem in problems)
    texts = {"problems": "\n".join(f"### {table.title}\n\n{markdown(table)}" for table in each)}
    for section, found in by_section(certificates).items():
        of_compositions, of_summary = _names(section)
        texts[of_compositions] = markdown(compositions(found))
        texts[of_summary] = markdown(summary(found))
    return texts


def known_names() -> list[str]:
    """The names in `generated`, before anything is certified."""
    return ["problems", *(name for section in SECTIONS for name in _names(section))]


def _names(section: str) -> tuple[str, str]:
    """The names of the two tables of a section."""
    slug = section.replace(" ", "-")
    return f"compositions-{slug}", f"summary-{slug}"


def by_section(certificates: Sequence[Certificate]) -> dict[str, list[Certificate]]:
    """Certificates by the section of the registry that their row stands in."""
    sections: dict[str, list[Certificate]] = {}
    for found in certificates:
        sections.setdefault(section_of(found.row), []).append(found)
    return sections


def updated(page: str, texts: Mapping[str, str]) -> str:
    """A page with what stands between its markers replaced.

    Args:
        page: with `<!-- certificate:begin NAME -->` and `<!-- certificate:end -->`, each on a line
            of its own, around every table to generate.
        texts: from `generated`.

    Raises:
        KeyError: if nothing is generated for a NAME; `check_markers` raises a clearer error before.
    """
    return _GENERATED.sub(lambda match: f"{match[1]}\n{texts[match['name']]}\n{match[3]}", page)


def merged(page: str, texts: Mapping[str, str]) -> str:
    """A page whose generated tables get the rows in `texts`, and keep all their other rows.

    Rows are in the order of the registry. A row that is no longer in the registry is removed.

    Args:
        page: as for `updated`.
        texts: from `generated`, of some of the rows.
    """

    def replaced(match: re.Match[str]) -> str:
        fresh = texts.get(match["name"])
        return match[0] if fresh is None else _with_rows(match[0], fresh)

    return _GENERATED.sub(replaced, page)


_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def _with_rows(old: str, new: str) -> str:
    """The tables of `old`, one after the other, with the rows of those of `new` in their place."""
    order = {key: place for place, row in enumerate(ROWS) for key in (row.name, f"`{row.code}`")}
    fresh = iter(_TABLE.findall(new))

    def table(match: re.Match[str]) -> str:
        lines, changed = match[0].splitlines(), next(fresh, "").splitlines()
        rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines[2:] + changed[2:]}
        kept = sorted(rows.keys() & order.keys(), key=lambda key: order[key])
        return "\n".join(lines[:2] + [rows[key] for key in kept]) + "\n"

    return _TABLE.sub(table, old)


def update(path: Path, texts: Mapping[str, str], *, is_whole: bool = True) -> None:
    """Write a file's page `updated`, or `merged` if the texts hold some of the rows only."""
    change = updated if is_whole else merged
    path.write_text(change(path.read_text("utf-8"), texts), "utf-8")


def check_markers(path: Path) -> None:
    """Raise a ValueError if a page has no markers, or if nothing is generated for a NAME."""
    names = [match["name"] for match in _GENERATED.finditer(path.read_text("utf-8"))]
    known = known_names()
    unknown = [name for name in names if name not in known]
    if not names or unknown:
        was = f"{unknown[0]!r} is unknown" if unknown else "the page has no such lines"
        raise ValueError(
            f"{path} must mark its tables by <!-- certificate:begin NAME --> and "
            f"<!-- certificate:end -->, with NAME one of {', '.join(known)}; {was}"
        )


def save_json(certificates: Sequence[Certificate], path: Path) -> None:
    """Write every number in full; `needed` is null if no number of trajectories is enough."""
    records: list[dict[str, Any]] = [
        {
            "estimator": found.row.name,
            "problem": found.problem,
            "batch_size": found.row.batch_size,
            "bias": found.bias,
            "cosine": found.cosine,
            "variance": found.variance,
            "needed": found.needed,
        }
        for found in certificates
    ]
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _statement(row: Row) -> str:
    return row.bias if row.estimand == "∇J" else f"{row.bias}, as an estimate of {row.estimand}"


def _range(
    found: Sequence[Certificate],
    cell: Callable[[Certificate, int], str],
    key: Callable[[Certificate], float],
) -> str:
    low, high = cell(min(found, key=key), 2), cell(max(found, key=key), 2)
    return low if low == high else f"{low}–{high}"


def _bias_of(found: Certificate, digits: int = 3) -> str:
    return percent(found.bias, digits) if found.is_biased else "none"


def _cosine_of(found: Certificate) -> str:
    return f"{found.cosine:.4f}"


def _variance_of(found: Certificate, digits: int = 3) -> str:
    return significant(found.variance, digits) if found.variance > NO_VARIANCE else "none"


def _needed_of(found: Certificate, digits: int = 3) -> str:
    """The number needed, with a k or M: 1234567 is 1.23M."""
    if found.needed is None:
        return "never"
    number = float(f"{found.needed:.{digits - 1}e}")
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return significant(number / 10**power, digits) + letter
    return f"{number:.0f}"


def percent(share: float, digits: int) -> str:
    """A share in per cent: 50%, 0.0123%, and 100% rather than 1e+02%."""
    text = f"{100 * share:.{digits}g}"
    return (f"{float(text):.0f}" if "e+" in text else text) + "%"


def significant(number: float, digits: int) -> str:
    """A number with so many significant digits: 1.00, not 1; 950, not 9.5e+02."""
    exponent = int(f"{number:.{digits - 1}e}".partition("e")[2])
    return f"{number:.{max(digits - 1 - exponent, 0)}f}"
