"""Train a policy by REINFORCE, A2C or PPO; stop at any time, and go on with --resume."""

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgjax.cli import algorithms
from pgjax.cli.arguments import finite_float, nonempty_name, nonempty_path, positive_int, seed

if TYPE_CHECKING:
    from pgjax.training.algorithm import Training
    from pgjax.training.runs.loop import Plan, Progress

FREE = ("until", "checkpoint_every")
"""Options on when to stop and to save. They change no update, so --resume may change them."""

PLACES = ("output", "overwrite", "resume", "config")
"""Options on the directory of a run."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pgjax train`."""
    parser.add_argument(
        "environment",
        nargs="?",
        type=nonempty_name,
        help="a gymnax id, e.g. CartPole-v1, or another library's after its name and a slash, e.g. "
        "brax/hopper, jumanji/Snake-v1, pgx/minatar-breakout; with --resume, leave it out",
    )
    parser.add_argument(
        "--config",
        type=nonempty_path,
        metavar="FILE",
        help="begin with the options in the config.json of another run; options given here hold",
    )
    algorithms.configure(parser)
    parser.add_argument(
        "--until",
        type=finite_float,
        metavar="RETURN",
        help="stop at the first batch whose mean return is at least this",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="same seed and machine, same parameters"
    )
    parser.add_argument(
        "--output", type=nonempty_path, help="directory (default: runs/ENVIRONMENT)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a run already in the directory"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=positive_int,
        metavar="N",
        help="updates (default: every 30 seconds, or more rarely where saving takes over 2%% of "
        "the time); a signal and a failure save too",
    )
    parser.add_argument(
        "--resume",
        type=nonempty_path,
        metavar="DIRECTORY",
        help="go on with the run in it, from its last checkpoint, as if it had never stopped",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train and report; write parameters, log, curve and config to the directory."""
    return _begin(arguments) if arguments.resume is None else _resume(arguments)


def _begin(arguments: argparse.Namespace) -> int:
    """Start a run."""
    if arguments.config is not None:
        arguments = _with_config(arguments)
    from pgjax.training.runs import loop, saved_runs
    from pgjax.training.runs.log import RunLog

    if arguments.environment is None:
        raise ValueError("name an environment, e.g. CartPole-v1, or a run to --resume")
    arguments = algorithms.complete(arguments)
    training, description = _make(arguments)
    directory = arguments.output or Path("runs") / arguments.environment
    config = saved_runs.describe(arguments.environment, arguments.seed, description)
    with saved_runs.locked(directory):
        config |= {"options": _options(arguments)}
        saved_runs.begin(directory, config, overwrite=arguments.overwrite)
        start = loop.Progress(training.start, 0, 0)
        log = RunLog(directory / saved_runs.LOG, [])
        return loop.run_updates(training, start, log, _plan(arguments, directory))


def _with_config(asked: argparse.Namespace) -> argparse.Namespace:
    """The arguments, with the options of the config file where none was given."""
    path = asked.config
    try:
        options = json.loads(path.read_text("utf-8"))["options"]
        words = {name: str(value) for name, value in options.items() if value is not None}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--config {path} is not the config.json of a run ({type(error).__name__}: {error})"
        ) from error
    given = _given_options(asked.argv)
    if given.get("algorithm", words.get("algorithm")) != words.get("algorithm"):
        raise ValueError(
            f"--algorithm {given['algorithm']} differs from {words.get('algorithm')} in {path}, "
            "whose options are that algorithm's; omit it or omit --config"
        )
    unknown = words.keys() - vars(_parser().parse_args([])).keys()
    if unknown:
        raise ValueError(f"--config {path} has options that are unknown: {', '.join(unknown)}")
    name = words.pop("environment", None)
    argv = [part for key, x in words.items() for part in (f"--{key.replace('_', '-')}", x)]
    parser = _parser()
    parser.prog = f"pgjax train: {path}"
    read = vars(parser.parse_args([*([name] if name else []), *argv]))
    return argparse.Namespace(**vars(asked) | read | given)


def _resume(asked: argparse.Namespace) -> int:
    """Resume a run from its last checkpoint, or from its start if there is none."""
    from pgjax.training.runs import loop, saved_runs
    from pgjax.training.runs.log import RunLog, read_until

    directory = asked.resume
    config = saved_runs.read_config(directory)
    arguments = _original_arguments(asked, config)
    same_end = arguments.until == config["options"]["until"]
    if (finished := config.get("finished")) and (same_end or finished == arguments.updates):
        print(f"the run in {directory} has finished; try: pgjax evaluate {directory}")
        return 0
    training, description = _make(arguments)
    for difference in saved_runs.differences(directory, config, description):
        loop.print_message(f"warning: {difference}; what follows may differ in its last bits")
    with saved_runs.locked(directory):
        progress = _last_progress(directory, loop.Progress(training.start, 0, 0))
        rows = read_until(directory / saved_runs.LOG, progress.update)
        if len(rows) < progress.update:
            missing = progress.update - len(rows)
            loop.print_message(f"warning: {saved_runs.LOG} lacks {missing} updates")
        config |= {"options": _options(arguments), "finished": None}
        saved_runs.write_config(directory, config)
        print(f"going on after update {progress.update} of {arguments.updates}", flush=True)
        log = RunLog(directory / saved_runs.LOG, rows)
        return loop.run_updates(training, progress, log, _plan(arguments, directory))


def _last_progress(directory: Path, start: "Progress") -> "Progress":
    """The progress in the newest undamaged checkpoint; warnings name the damaged ones."""
    from pgjax.training.runs import checkpoints, loop, saved_runs

    folder = directory / saved_runs.CHECKPOINTS
    if not checkpoints.steps(folder):
        return start
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = checkpoints.restore_latest(folder, start)
    for warning in caught:
        loop.print_message(f"warning: {warning.message}")
    return found.state


def _plan(arguments: argparse.Namespace, directory: Path) -> "Plan":
    from pgjax.training.runs.loop import Plan

    def draw(rows: list[dict[str, Any]]) -> Any:
        from pgjax.cli.plots import learning_curve

        return learning_curve(rows, title=f"{arguments.environment}, seed {arguments.seed}")

    return Plan(directory, arguments.updates, arguments.until, arguments.checkpoint_every, draw)


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the run, for `config.json`."""
    names = vars(_parser().parse_args([])).keys() - set(PLACES)
    return {name: getattr(arguments, name) for name in sorted(names)}


def _original_arguments(asked: argparse.Namespace, config: dict) -> argparse.Namespace:
    """The options that the run began with; only the FREE ones may be given other values now."""
    if asked.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite replaces it: give one")
    if asked.output is not None and asked.output.resolve() != asked.resume.resolve():
        raise ValueError(f"a resumed run stays in its directory, {asked.resume}; omit --output")
    given = _given_options(asked.argv)
    options = config["options"]
    for name, value in given.items():
        if name not in (*FREE, *PLACES) and value != options.get(name):
            option = "environment" if name == "environment" else f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{option} {value} differs from {options.get(name)}, which the run in "
                f"{asked.resume} began with, and it can only go on as it began; omit it, or start "
                "another run with another --output"
            )
    free = {name: value for name, value in given.items() if name in FREE}
    return argparse.Namespace(**vars(asked) | options | free)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    configure(parser)
    return parser


def _given_options(argv: Sequence[str]) -> dict[str, Any]:
    """The options on the command line, without the defaults."""
    parser, unset = _parser(), object()
    parser.set_defaults(**dict.fromkeys(vars(parser.parse_args([])), unset))
    return {name: x for name, x in vars(parser.parse_args(argv)).items() if x is not unset}


def _make(arguments: argparse.Namespace) -> "tuple[Training, dict]":
    """The Training, and its description for `config.json`."""
    import jax

    from pgjax import environments

    environment = environments.make(arguments.environment)
    training, description, _ = algorithms.make(
        arguments, environment, jax.random.key(arguments.seed)
    )
    return training, description
