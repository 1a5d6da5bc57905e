"""Train a policy by REINFORCE, A2C or PPO; stop at any time, and go on with --resume."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pgjax.cli import algorithms
from pgjax.cli.arguments import (
    devices,
    finite_float,
    nonempty_name,
    nonempty_path,
    positive_int,
    seed,
)
from pgjax.settings import RunOptions
from pgjax.settings.tuned_table import tuned_words

FREE = tuple(field.name for field in fields(RunOptions))
"""Options on when to stop, save and print, and on devices: what --resume may change."""

PLACES = ("output", "overwrite", "resume", "config", "seeds", "untuned")
"""Options on the directory of a run, and on where its settings come from."""


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
        help="take the options in the config.json of another run, unless they are given here too",
    )
    algorithms.configure(parser)
    parser.add_argument(
        "--untuned",
        action="store_true",
        help="take the algorithm's defaults, not the settings tuned for the environment",
    )
    parser.add_argument(
        "--until",
        type=finite_float,
        metavar="RETURN",
        help="stop at the first batch whose mean return is at least this",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="on one machine a seed gives the same parameters"
    )
    parser.add_argument(
        "--seeds",
        type=seed,
        nargs="+",
        metavar="N",
        help="instead of --seed: train all of these seeds in one program, each in its own run "
        "directory, seed-N in --output",
    )
    parser.add_argument(
        "--output", type=nonempty_path, help="directory of the run (default: runs/ENVIRONMENT)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a run already in the directory"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=positive_int,
        metavar="N",
        help="save every N updates (default: every 30 seconds, or less often if saving takes over "
        "2%% of the time); also saved at a signal and at a failure",
    )
    parser.add_argument(
        "--devices",
        type=devices,
        default=1,
        metavar="N",
        help="a2c and ppo: local devices to spread the environments over, a number or all",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but warnings")
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write the log for TensorBoard too, in the folder tensorboard of the run",
    )
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="write the log for Weights & Biases too, offline; `wandb sync` uploads it",
    )
    parser.add_argument(
        "--resume",
        type=nonempty_path,
        metavar="DIRECTORY",
        help="go on with the run in this directory from its last checkpoint, as if never stopped",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train and report; write parameters, log, curve and config to the directory."""
    if arguments.config is not None and arguments.resume is None:
        arguments = _with_config(arguments)
    elif arguments.resume is None and not arguments.untuned:
        arguments = algorithms.with_tuned(arguments)
    if arguments.environment is None and arguments.resume is None:
        raise ValueError("an environment is needed, such as CartPole-v1, or --resume RUN")
    if arguments.seeds is not None:
        _check_seeds(arguments)
    from pgjax.training.runs import loop

    try:
        (_begin if arguments.resume is None else _resume)(arguments)
    except loop.RunFailedError as error:
        loop.print_message(f"error: {error}")
        return 1
    return 0


def _begin(arguments: argparse.Namespace) -> None:
    if arguments.seeds is not None:
        import jax

        # Without this a vmapped training often hangs on two cores (jaxlib 0.10.2).
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    from pgjax.training.runs.seeds import start_seeds
    from pgjax.training.runs.starting import start

    settings = algorithms.settings(arguments)
    from_table = arguments.config is None and not arguments.untuned
    if (
        from_table
        and not arguments.quiet
        and (words := tuned_words(arguments.environment, settings))
    ):
        print(f"{words} (--untuned: without them)", flush=True)
    what: dict[str, Any] = {
        "directory": arguments.output or Path("runs") / arguments.environment,
        "environment": arguments.environment,
        "settings": settings,
        "overwrite": arguments.overwrite,
        "options": _free(vars(arguments)),
    }
    if arguments.seeds is None:
        start(seed=arguments.seed, **what)
    else:
        start_seeds(seeds=arguments.seeds, **what)


def _check_seeds(arguments: argparse.Namespace) -> None:
    """Raise a ValueError if an option needs a single seed."""
    given = _given_options(arguments.argv)
    if "seed" in given:
        raise ValueError("--seed cannot be given with --seeds; omit one of them")
    if arguments.until is not None:
        raise ValueError(
            "--until cannot be given with --seeds, whose seeds all make the same updates; omit it"
        )
    if arguments.wandb:
        raise ValueError(
            "--wandb cannot be given with --seeds, because it logs one run; try --tensorboard"
        )
    if arguments.devices != 1:
        raise ValueError(
            "--devices cannot be given with --seeds, whose seeds share one program on one device; "
            "omit one of them"
        )
    if arguments.resume is not None:
        raise ValueError(
            "--resume goes on with one run; name the folder of a seed, as in "
            f"--resume {arguments.resume / 'seed-0'}, and omit --seeds"
        )
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise ValueError(
            f"--seeds must be different numbers, got {' '.join(map(str, arguments.seeds))}; "
            "give each once"
        )


def _free(arguments: dict[str, Any]) -> RunOptions:
    return RunOptions(**{name: arguments[name] for name in FREE if name in arguments})


def _with_config(asked: argparse.Namespace) -> argparse.Namespace:
    """The arguments, completed by the options of the config file."""
    path = asked.config
    try:
        options = json.loads(path.read_text("utf-8"))["options"]
        words = {
            name: str(value)
            for name, value in options.items()
            if value is not None and value is not False
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--config {path} is not the config.json of a run ({type(error).__name__}: {error}); "
            "pgjax train writes one into the directory of each run"
        ) from error
    given = _given_options(asked.argv)
    if given.get("algorithm", words.get("algorithm")) != words.get("algorithm"):
        raise ValueError(
            f"--algorithm {given['algorithm']} differs from {words.get('algorithm')} in {path}, "
            "and the other options there belong to it; omit --algorithm or --config"
        )
    unknown = words.keys() - vars(_parser().parse_args([])).keys()
    if unknown:
        raise ValueError(f"--config {path} has unknown options: {', '.join(unknown)}; remove them")
    name = words.pop("environment", None)
    argv = [
        part
        for key, x in words.items()
        for part in (f"--{key.replace('_', '-')}", *([] if x == "True" else [x]))
    ]
    parser = _parser()
    parser.prog = f"pgjax train: {path}"
    read = vars(parser.parse_args([*([name] if name else []), *argv]))
    return argparse.Namespace(**vars(asked) | read | given)


def _resume(asked: argparse.Namespace) -> None:
    from pgjax.training.runs.saved_runs import read_config
    from pgjax.training.runs.starting import resume

    free = _free_options(asked, read_config(asked.resume))
    resume(asked.resume, options=free)


def _free_options(asked: argparse.Namespace, config: dict) -> RunOptions:
    """The FREE options, as the run began or as given now; a ValueError if another one differs."""
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
    return _free(options | given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    configure(parser)
    return parser


def _given_options(argv: Sequence[str]) -> dict[str, Any]:
    """The options on the command line, without the defaults."""
    parser, unset = _parser(), object()
    parser.set_defaults(**dict.fromkeys(vars(parser.parse_args([])), unset))
    return {name: x for name, x in vars(parser.parse_args(argv)).items() if x is not unset}
