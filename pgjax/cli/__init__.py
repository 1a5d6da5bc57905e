"""The command line: arguments -> calls -> tables and pictures.

A command is a module with `configure(parser)` and `run(arguments) -> exit status`. Only `run` may
import JAX, so that `--help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pgjax import __version__
from pgjax.cli import certify, check, compare, converge, evaluate, train
from pgjax.cli.arguments import Once
from pgjax.cli.encodings import any_encoding

COMMANDS = {
    "certify": certify,
    "converge": converge,
    "check": check,
    "compare": compare,
    "train": train,
    "evaluate": evaluate,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input gives one line and status 2, never a traceback."""
    with any_encoding():
        return _run(sys.argv[1:] if argv is None else argv)


def _run(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    arguments.argv = argv[1:]  # tells given options from defaults
    _use_compilation_cache()
    try:
        return arguments.run(arguments)
    except (ValueError, TypeError, OSError, ImportError) as error:
        message = " ".join(str(error).split())
        print(f"pgjax {arguments.command}: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"pgjax {arguments.command}: interrupted", file=sys.stderr)
        return 130


def _use_compilation_cache() -> None:
    """Use JAX's compilation cache, in the user's cache folder, unless the user has set one.

    Most of a short command is compilation, and the next time it is the same. JAX reads these
    variables when it is imported. JAX_ENABLE_COMPILATION_CACHE=false switches the cache off.
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
        self.register("action", None, Once)  # of an option that names no other action

    def error(self, message: str) -> NoReturn:
        """Print the message and the command for help, and exit with status 2."""
        message = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
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
    return parser
