"""Print exact properties of every estimator: bias, cosine, variance, trajectories needed."""

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pgjax.cli import own_estimators
from pgjax.cli.arguments import check_file, check_picture_path, known_name, nonempty_path

if TYPE_CHECKING:
    from rich.console import Console

    from pgjax.exact.problem import Problem
    from pgjax.proof.certificate import Certificate
    from pgjax.proof.registry import Row

WIDTH = 100
"""The width of the terminal that the longest names need, in characters."""
LEGEND = (
    "bias ‖E ĝ − ∇J‖ / ‖∇J‖; cosine of E ĝ and ∇J; variance K tr Cov(ĝ), relative to "
    "reward-to-go's; N for 1%: trajectories, in independent batches of K, until the "
    "root-mean-square error, bias included, is 1% of ‖∇J‖"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; JAX is not imported here."""
    parser.add_argument(
        "--problem", action="append", help="certify on this problem only; repeat for several"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="certify this row of the registry only, by its name; repeat for several. With "
        "--update, all other rows of the tables stay as they are",
    )
    own_estimators.configure(parser, also=", or a gradient (params, batch)")
    parser.add_argument(
        "--output",
        type=nonempty_path,
        default=Path("certificate.png"),
        help="the file of the picture; with several families of estimators, one file for each, "
        "with the family's name added",
    )
    parser.add_argument(
        "--json", type=nonempty_path, metavar="FILE", help="write every number in full"
    )
    parser.add_argument(
        "--update",
        type=nonempty_path,
        nargs="+",
        metavar="FILE",
        help="replace the generated tables in these Markdown files",
    )


def run(arguments: argparse.Namespace) -> int:
    """Certify, print, draw; status 1 if a row of the registry claims something false."""
    start = time.perf_counter()
    _check_arguments(arguments)
    problems = _problems(arguments.problem)
    rows = _rows(arguments.only, arguments.own, problems)
    from rich.console import Console

    from pgjax.cli import certificate_pictures as pictures
    from pgjax.cli import certificate_tables as tables

    for path in arguments.update or ():
        tables.check_markers(path)
    console = Console()
    console.width = max(console.width, WIDTH)
    certificates = _certify(console, problems, rows)
    if arguments.problem:
        shown = [tables.on_problem(certificates, problem) for problem in problems]
    else:
        sections = tables.by_section(certificates)
        shown = [tables.summary(found, title) for title, found in sections.items()]
    for table in shown:
        console.print(tables.rich(table))
    console.print(LEGEND)
    for path in pictures.save(certificates, arguments.output):
        console.print(f"picture: {path}", soft_wrap=True)
    if arguments.json:
        tables.save_json(certificates, arguments.json)
        console.print(f"numbers: {arguments.json}", soft_wrap=True)
    for file in arguments.update or ():
        texts = tables.generated(certificates, problems)
        tables.update(file, texts, is_whole=not arguments.only)
        console.print(f"updated: {file}", soft_wrap=True)
    return _conclude(console, certificates, is_suite=not arguments.problem, start=start)


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Check the arguments before any work."""
    check_picture_path(arguments.output)
    if arguments.json:
        check_file("--json", arguments.json)
    for file in arguments.update or ():
        if arguments.problem:
            raise ValueError("--update writes results of the whole suite; omit --problem")
        if arguments.own:
            raise ValueError("--update writes pgjax's own rows only; omit --with")
        if not file.is_file() or not os.access(file, os.W_OK):
            raise ValueError(
                f"--update needs files that exist and can be written, got {file}; check the path"
            )


def _problems(names: list[str] | None) -> "list[Problem]":
    from pgjax.proof.problems import certified

    known = {problem.name: problem for problem in certified()}
    for name in names or ():
        known_name("--problem", name, known)
    return [known[name] for name in dict.fromkeys(names or known)]


def _rows(
    names: list[str] | None, targets: list[str] | None, problems: "list[Problem]"
) -> "dict[str, list[Row]]":
    """The argument `rows` of `certify` for the rows asked for; {} for all of the registry."""
    from pgjax.proof.registry import ROWS

    known = {row.name: row for row in ROWS}
    for name in names or ():
        known_name("--only", name, known)
    if not names and not targets:
        return {}
    own = [own_estimators.row(each, problems) for each in own_estimators.load(targets, known)]
    return {"rows": [*(known[name] for name in dict.fromkeys(names or known)), *own]}


def _certify(
    console: "Console", problems: "list[Problem]", rows: "dict[str, list[Row]]"
) -> "list[Certificate]":
    from pgjax.proof.certificate import certify

    found = []
    with console.status("") as status:
        for problem in problems:
            status.update(f"{problem.name}: every trajectory, and every batch of them")
            found += certify(problems=[problem], **rows)
    return found


def _conclude(
    console: "Console", certificates: "list[Certificate]", *, is_suite: bool, start: float
) -> int:
    """Print whether the rows' claims hold; on one problem alone a bias may be hidden."""
    from pgjax.proof.certificate import refuted

    own = [found for found in certificates if found.row.bias == own_estimators.NO_CLAIM]
    for name in dict.fromkeys(found.row.name for found in own):
        console.print(_in_words([found for found in own if found.row.name == name]))
    certificates = [found for found in certificates if found not in own]
    claims = [found for found in certificates if is_suite or found.row.is_unbiased]
    wrong = refuted(claims)
    for sentence in wrong:
        console.print(f"[red]✗[/red] {sentence}")
    held = len({found.row.name for found in claims}) - len(wrong)
    word = "[red]FAIL[/red]" if wrong else "[green]PASS[/green]"
    seconds = time.perf_counter() - start
    console.print(
        f"{word}: {held} of {held + len(wrong)} statements of bias hold ({seconds:.1f} s)"
    )
    return 1 if wrong else 0


def _in_words(found: "list[Certificate]") -> str:
    """The bias of a user's own estimator on all problems, in one sentence."""
    biased = [each for each in found if each.is_biased]
    name, K = found[0].row.name, found[0].row.batch_size
    batches = f", in batches of {K}" if K > 1 else ""
    if not biased:
        return f"{name} is without bias on {len(found)} of {len(found)} problems{batches}"
    worst = max(biased, key=lambda each: each.bias)
    return (
        f"{name} is biased on {len(biased)} of {len(found)} problems{batches}, by {worst.bias:.3g} "
        f"of ‖∇J‖ on {worst.problem}"
    )
