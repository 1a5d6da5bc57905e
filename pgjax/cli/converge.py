"""Draw the error of sample gradients against N, and compare it with the exact bias."""

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgjax.cli import own_estimators
from pgjax.cli.arguments import (
    ENV_DISCOUNT,
    check_picture_path,
    nonempty_name,
    nonempty_path,
    positive_int,
    seed,
    unit_interval,
)

if TYPE_CHECKING:
    from rich.console import Console

    from pgjax.proof.error_curves import Point, Verdict

ALPHA = 1e-6
"""The stated rate of false alarms of each verdict."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; JAX is not imported here."""
    problem = parser.add_mutually_exclusive_group()
    problem.add_argument(
        "--mdp",
        type=nonempty_name,
        default="random",
        metavar="NAME|FILE",
        help="random, bandit, corridor, chain, gridworld, or a .npz file that holds a TabularMDP",
    )
    problem.add_argument(
        "--env",
        type=nonempty_name,
        metavar="NAME",
        help="instead of --mdp: a gymnax environment with an exact table, e.g. FrozenLake-misc",
    )
    parser.add_argument(
        "--horizon", type=positive_int, help="steps H (default: the MDP's or environment's own)"
    )
    parser.add_argument(
        "--discount",
        type=unit_interval,
        help=f"γ in [0, 1] (default: the MDP's own, or {ENV_DISCOUNT} for an environment)",
    )
    parser.add_argument(
        "--trajectories",
        type=positive_int,
        help=f"the largest N, a power of two (default: {2**18}, or {2**16} for an environment)",
    )
    parser.add_argument("--hidden", type=positive_int, default=8, help="width of the Flax policy")
    own_estimators.configure(parser)
    parser.add_argument("--seed", type=seed, default=0, help="seed of policy and rollouts")
    parser.add_argument(
        "--output",
        type=nonempty_path,
        default=Path("convergence.png"),
        help="the file of the picture",
    )


def run(arguments: argparse.Namespace) -> int:
    """Converge, print the table, draw the picture; status 1 if an estimator is shown wrong."""
    start = time.perf_counter()
    _check_arguments(arguments)
    import jax
    from rich.console import Console

    from pgjax import exact
    from pgjax.cli import exact_problems, plots
    from pgjax.proof import error_curves

    console = Console()
    own = own_estimators.load(arguments.own, ())  # no name in Python is one of the rows' names
    trajectories = arguments.trajectories or (2**16 if arguments.env else 2**18)
    policy_key, rollout_key = jax.random.split(jax.random.key(arguments.seed))
    name = arguments.env or arguments.mdp
    options = arguments.horizon, arguments.discount, arguments.hidden, policy_key
    if arguments.env:
        problem, source = exact_problems.of_environment(arguments.env, *options)
    else:
        problem, source = exact_problems.of_mdp(arguments.mdp, *options)
    mdp, horizon = problem.mdp, problem.horizon
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(problem.params))
    console.print(
        f"[bold]{name}[/bold]: {mdp.num_states} states, {mdp.num_actions} actions, "
        f"γ = {mdp.discount:g}, at most {horizon} steps; Flax policy of {num_parameters} parameters"
    )
    with console.status("exact expectations and variances"):
        added = tuple(own_estimators.contender(each, problem) for each in own)
        rows = error_curves.contenders(problem) + added
        console.print(f"exact: J = {exact.objective(problem):.6g}, Σ by dynamic programming")
    runs = error_curves.empty_runs(problem, rows)
    settings = {"problem": problem, "runs": runs} | source
    points = _stream(console, rows, settings, rollout_key, trajectories)
    last = {name: history[-1] for name, history in points.items()}
    verdicts = {
        name: error_curves.judge(point, num_parameters=num_parameters, alpha=ALPHA)
        for name, point in last.items()
    }
    console.print(_table(last, verdicts))
    bands = {row.name: runs.bands(index) for index, row in enumerate(rows)}
    words = f"Problem “{name}”: {mdp.num_states} states, γ = {mdp.discount:g}, {horizon} steps"
    plots.convergence(bands, last, problem=words).savefig(arguments.output, dpi=150)
    console.print(f"picture: {arguments.output}", soft_wrap=True)
    return _conclude(console, last, verdicts, time.perf_counter() - start)


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Check the arguments before any work."""
    trajectories = arguments.trajectories
    if trajectories and (trajectories & (trajectories - 1) or trajectories < 256):
        raise ValueError(
            f"--trajectories must be a power of two of at least 256, got {trajectories}; "
            f"{2**18} is the default for an MDP"
        )
    check_picture_path(arguments.output)


def _stream(
    console: "Console", rows: Any, settings: dict[str, Any], key: Any, trajectories: int
) -> "dict[str, list[Point]]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from pgjax.proof import error_curves

    points: dict[str, list[Point]] = {row.name: [] for row in rows}
    columns = (
        TextColumn("trajectories"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=console.is_terminal) as progress:
        task = progress.add_task("compiling", total=trajectories)
        stream = error_curves.converge(
            **settings, rows=rows, key=key, max_trajectories=trajectories
        )
        for seen, found in stream:
            for name, point in (found or {}).items():
                points[name].append(point)
            latest = ", ".join(f"{history[-1].error:.1%}" for history in points.values())
            progress.update(task, completed=seen, description=f"errors {latest}")
    return points


def _table(points: "dict[str, Point]", verdicts: "dict[str, Verdict]") -> Any:
    from rich import box
    from rich.table import Table

    N = next(iter(points.values())).num_trajectories
    table = Table(
        title=f"N = {N:,}",
        caption="error ‖ĝ−∇J‖, s.e. √(tr Σ̂/N), exact bias ‖Eĝ−∇J‖ and "
        "RMSE √(bias² + tr Σ/N) as shares of ‖∇J‖; "
        "max|z| over the parameters, in standard errors",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("estimator", no_wrap=True)
    for head in ("error", "cosine", "s.e.", "bias", "RMSE", "max|z|"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for name, point in points.items():
        verdict = verdicts[name]
        table.add_row(
            name,
            _percent(point.error),
            f"{point.cosine:.4f}",
            _percent(point.standard_error),
            _bias(point, verdict),
            _percent(point.rmse) if point.bias >= 0 else "–",
            f"{point.largest_z:.1f}",
            _word(verdict, is_known=not math.isnan(point.bias)),
        )
    return table


def _bias(point: "Point", verdict: "Verdict") -> str:
    """The exact bias; a dash if it is not known."""
    if math.isnan(point.bias):
        return "–"
    return _percent(point.bias) if verdict.is_biased else "none"


def _percent(share: float) -> str:
    """Three significant digits: errors span orders of magnitude."""
    return f"{100 * share:.3g}%" if share < 10 else f"{share:.3g}×"


def _word(verdict: "Verdict", *, is_known: bool) -> str:
    """A verdict in one word, with its colour."""
    if not is_known:
        return "[yellow]✗ biased[/yellow]" if verdict.is_biased else "? unseen"
    if verdict.is_biased:
        return "[yellow]? unseen[/yellow]" if verdict.within else "[yellow]✗ biased[/yellow]"
    return "[green]✓ right[/green]" if verdict.within else "[red]✗ off[/red]"


def _in_words(points: "dict[str, Point]", verdicts: "dict[str, Verdict]") -> str:
    """The finding in plain words, below the table."""
    known = {name: each for name, each in verdicts.items() if not math.isnan(points[name].bias)}
    right = [name for name, verdict in known.items() if not verdict.is_biased and verdict.within]
    found = [f"{len(right)} of {len(known)} estimators come as close to ∇J as theory says."]
    found += [
        f"{name} is {points[name].bias:.0%} off, and more data will not help."
        for name, verdict in known.items()
        if verdict.is_biased and not verdict.within
    ]
    for name in (name for name in verdicts if name not in known):
        z = points[name].largest_z
        found.append(
            f"{name} has no exact values here; its estimate lies {z:.1f} standard errors from ∇J "
            + ("in some parameter: it is biased." if verdicts[name].is_biased else "at most.")
        )
    return " ".join(found)


def _conclude(
    console: "Console",
    points: "dict[str, Point]",
    verdicts: "dict[str, Verdict]",
    seconds: float,
) -> int:
    threshold = next(iter(verdicts.values())).threshold
    console.print(
        f"verdict: an unbiased estimator lies within {threshold:.2f} standard errors of ∇J in "
        f"every parameter (false alarm {ALPHA:g} each), a biased one does not"
    )
    for name, verdict in verdicts.items():
        if verdict.is_biased and verdict.within:
            console.print(
                f"{name}: too few trajectories to see its bias of {points[name].bias:.2%}; "
                f"about {verdict.needed:,} would do"
            )
    console.print(_in_words(points, verdicts))
    wrong = any(not (verdict.is_biased or verdict.within) for verdict in verdicts.values())
    unseen = any(verdict.is_biased and verdict.within for verdict in verdicts.values())
    word = "[red]FAIL[/red]" if wrong else "[green]PASS[/green]"
    rest = ", but there was too little data to show a bias" if unseen and not wrong else ""
    console.print(f"{word}{rest} in {seconds:.1f} s")
    return 1 if wrong else 0
