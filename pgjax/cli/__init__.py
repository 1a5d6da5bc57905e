"""The command line: arguments -> calls -> tables and pictures.

A command is a module with `configure(parser)` and `run(arguments) -> exit status`. Only `run` may
import JAX, so that `--help` answers at once.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pgjax import __version__
from pgjax.cli import certify, check, compare, converge, evaluate, train, watch
from pgjax.cli.arguments import Once
from pgjax.cli.encodings import any_encoding
from pgjax.cli.interrupts import noted_interrupts

COMMANDS = {
    "certify": certify,
    "converge": converge,
    "check": check,
    "compare": compare,
    "train": train,
    "evaluate": evaluate,
    "watch": watch,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input gives one line and status 2, never a traceback."""
    argv = sys.argv[1:] if argv is None else argv
    with any_encoding(), noted_interrupts() as interrupted:
        try:
            return _run(argv, interrupted)
        except BaseException as error:
            if not (interrupted() or isinstance(error, KeyboardInterrupt)):
                raise
            return _interrupted(argv)


def _run(argv: Sequence[str], interrupted: Callable[[], bool]) -> int:
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.commands[arguments.command].error(_unrecognized(parser, arguments.command, unknown))
    arguments.argv = argv[1:]  # tells given options from defaults
    _use_compilation_cache()
    try:
        return arguments.run(arguments)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if interrupted():
            raise
        message = " ".join(str(error).split())
        print(f"pgjax {arguments.command}: error: {message}", file=sys.stderr)
        return 2


def _interrupted(argv: Sequence[str]) -> int:
    name = f" {argv[0]}" if argv and argv[0] in COMMANDS else ""
    print(f"pgjax{name}: interrupted", file=sys.stderr)
    return 130


def _use_compilation_cache() -> None:
    """Use JAX's compilation cache, in the user's cache folder, unless the user has set one.

    A short command spends most of its time on compilation, and the same programs are compiled at
    the next call. JAX reads these environment variables when it is imported.
    JAX_ENABLE_COMPILATION_CACHE=false switches the cache off.
    """
    if "jax" in sys.modules:
        return
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(home) / "pgjax" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of an option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


class _Parser(argparse.ArgumentParser):
    """Reports a bad argument in one line, without the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands: dict[str, argparse.ArgumentParser] = {}
        self.register("action", None, Once)  # of an option that names no other action

    def error(self, message: str) -> NoReturn:
        """Print the message and the command for help, and exit with status 2."""
        message = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


USUAL = {
    "lr": "--learning-rate",
    "gamma": "--discount",
    "lambda": "--gae-lambda",
    "num-envs": "--num-environments",
    "n-envs": "--num-environments",
    "n-steps": "--num-steps",
    "total-timesteps": "--updates",
    "num-updates": "--updates",
    "batch-size": "--num-trajectories",
    "ent-coef": "--entropy-weight",
    "vf-coef": "--value-weight",
    "clip-coef": "--clip",
    "clip-range": "--clip",
    "num-minibatches": "--minibatches",
    "update-epochs": "--epochs",
    "max-grad-norm": "--max-gradient-norm",
    "env-id": "the environment's name without an option",
    "env": "the environment's name without an option",
}
"""Options of other libraries, each with our name for it."""


def _unrecognized(parser: "_Parser", command: str, unknown: list[str]) -> str:
    """The message on arguments that a command does not know, with the option that was meant."""
    known = parser.commands[command]._option_string_actions
    hints = []
    for word in (each.partition("=")[0] for each in unknown if each.startswith("--")):
        usual = USUAL.get(word[2:].replace("_", "-"), "")
        near = difflib.get_close_matches(word, known, n=1)
        if usual in known or (usual and not usual.startswith("--") and command == "train"):
            hints.append(usual)
        elif near:
            hints.append(near[0])
    hint = f"; did you mean {' and '.join(hints)}?" if hints else ""
    return f"unrecognized arguments: {' '.join(unknown)}{hint}"


def _parser() -> "_Parser":
    parser = _Parser(
        prog="pgjax", description="Policy-gradient estimators in pure JAX that prove themselves."
    )
    parser.add_argument("--version", action="version", version=f"pgjax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").strip().splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=_Formatter,
        )
        module.configure(command)
        command.set_defaults(run=module.run)
        parser.commands[name] = command
    return parser
