"""Train a policy by REINFORCE, A2C or PPO; stop at any time, and go on with --resume."""

import argparse
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgjax.cli import algorithms
from pgjax.cli.arguments import positive_int

if TYPE_CHECKING:
    from pgjax.training.reinforce import Training
    from pgjax.training.runs.loop import Plan, Progress

FREE = ("until", "checkpoint_every")
"""Options that say when to stop and to save. They change no update, so --resume may change them."""

PLACES = ("output", "overwrite", "resume")
"""Options that say where a run is."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pgjax train`."""
    parser.add_argument(
        "environment",
        nargs="?",
        help="a gymnax id, e.g. CartPole-v1, or another library's after its name and a slash, e.g. "
        "brax/hopper, jumanji/Snake-v1, pgx/minatar-breakout; with --resume, leave it out",
    )
    algorithms.configure(parser)
    parser.add_argument(
        "--until",
        type=_finite_float,
        metavar="RETURN",
        help="stop at the first batch whose mean return is at least this",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="same seed and machine, same parameters"
    )
    parser.add_argument("--output", type=Path, help="directory (default: runs/ENVIRONMENT)")
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
        type=Path,
        metavar="DIRECTORY",
        help="go on with the run in it, from its last checkpoint, as if it had never stopped",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, reporting as it goes; leave parameters, log, curve and config in the directory."""
    return _begin(arguments) if arguments.resume is None else _resume(arguments)


def _begin(arguments: argparse.Namespace) -> int:
    """A run from its start."""
    from pgjax.training.runs import loop, saved_runs
    from pgjax.training.runs.log import RunLog

    if arguments.environment is None:
        raise ValueError("name an environment, e.g. CartPole-v1, or a run to --resume")
    arguments = algorithms.complete(arguments)
    training, description = _make(arguments)
    directory = arguments.output or Path("runs") / arguments.environment
    config = saved_runs.describe(arguments.environment, arguments.seed, description)
    with saved_runs.alone_in(directory):
        config |= {"options": _options(arguments)}
        saved_runs.begin(directory, config, overwrite=arguments.overwrite)
        start = loop.Progress(training.start, 0, 0)
        log = RunLog(directory / saved_runs.LOG, [])
        return loop.follow(training, start, log, _plan(arguments, directory))


def _resume(asked: argparse.Namespace) -> int:
    """A run from its last checkpoint, or from its start where there is none."""
    from pgjax.training.runs import loop, saved_runs
    from pgjax.training.runs.log import RunLog, read_until

    directory = asked.resume
    config = saved_runs.read_config(directory)
    arguments = _as_it_began(asked, config)
    same_end = arguments.until == config["options"]["until"]
    if (finished := config.get("finished")) and (same_end or finished == arguments.updates):
        print(f"the run in {directory} has finished; try: pgjax evaluate {directory}")
        return 0
    training, description = _make(arguments)
    for difference in saved_runs.differences(directory, config, description):
        loop.say(f"warning: {difference}; what follows may differ in its last bits")
    with saved_runs.alone_in(directory):
        progress = _last_progress(directory, loop.Progress(training.start, 0, 0))
        rows = read_until(directory / saved_runs.LOG, progress.update)
        if len(rows) < progress.update:
            loop.say(f"warning: {saved_runs.LOG} lacks {progress.update - len(rows)} updates")
        config |= {"options": _options(arguments), "finished": None}
        saved_runs.write_config(directory, config)
        print(f"going on after update {progress.update} of {arguments.updates}", flush=True)
        log = RunLog(directory / saved_runs.LOG, rows)
        return loop.follow(training, progress, log, _plan(arguments, directory))


def _last_progress(directory: Path, start: "Progress") -> "Progress":
    """The newest checkpoint's; one that is spoilt is passed over, with a line that says so."""
    from pgjax.training.runs import checkpoints, loop, saved_runs

    folder = directory / saved_runs.CHECKPOINTS
    if not checkpoints.steps(folder):
        return start
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = checkpoints.restore_latest(folder, start)
    for warning in caught:
        loop.say(f"warning: {warning.message}")
    return found.state


def _plan(arguments: argparse.Namespace, directory: Path) -> "Plan":
    from pgjax.training.runs.loop import Plan

    def draw(rows: list[dict[str, Any]]) -> Any:
        from pgjax.cli.plots import learning_curve

        return learning_curve(rows, title=f"{arguments.environment}, seed {arguments.seed}")

    return Plan(directory, arguments.updates, arguments.until, arguments.checkpoint_every, draw)


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that the run began with, for whoever resumes it."""
    names = vars(_parser().parse_args([])).keys() - set(PLACES)
    return {name: getattr(arguments, name) for name in sorted(names)}


def _as_it_began(asked: argparse.Namespace, config: dict) -> argparse.Namespace:
    """The options that the run began with; of those given now, only the free ones may differ."""
    if asked.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite replaces it: give one")
    if asked.output is not None and asked.output.resolve() != asked.resume.resolve():
        raise ValueError(f"a resumed run stays in its directory, {asked.resume}; omit --output")
    given = _given(asked.argv)
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


def _given(argv: Sequence[str]) -> dict[str, Any]:
    """What the command line itself says, without the defaults."""
    parser, unset = _parser(), object()
    parser.set_defaults(**dict.fromkeys(vars(parser.parse_args([])), unset))
    return {name: x for name, x in vars(parser.parse_args(argv)).items() if x is not unset}


def _make(arguments: argparse.Namespace) -> "tuple[Training, dict]":
    """The Training, and what `config.json` says of it."""
    import jax

    from pgjax import environments

    environment = environments.make(arguments.environment)
    made = algorithms.make(arguments, environment, jax.random.key(arguments.seed))
    return made.training, made.description


def seed(text: str) -> int:
    """An integer that fits 32 bits, as jax.random.key takes it."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs an integer, got {text!r}") from None
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"needs an integer from 0 to 2^32 - 1, got {value}")
    return value


def _finite_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs a number, got {text!r}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"needs a finite number, got {text}")
    return value
