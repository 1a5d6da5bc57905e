"""Argument types and checks shared by the commands; errors name the value and what is needed."""

import argparse
import difflib
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

Number = TypeVar("Number", int, float)

ENV_DISCOUNT = 0.95
"""The default discount for environments, which have none."""


class Once(argparse.Action):
    """Stores an option's value; an error if the option was given before."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value."""
        given = vars(namespace).setdefault("given", set())
        if option_string is not None and self.dest in given:
            parser.error(f"argument {option_string}: given twice; give it once")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def nonempty_path(text: str) -> Path:
    """A path that is not empty: an empty one would mean the present folder."""
    _require(bool(text.strip()), "a path", repr(text))
    return Path(text)


def nonempty_name(text: str) -> str:
    """A name that is not empty."""
    _require(bool(text.strip()), "a name", repr(text))
    return text


def known_name(option: str, text: str, known: Iterable[str]) -> str:
    """`text`, if it is one of the names; a ValueError suggests near ones."""
    known = list(known)
    if text in known:
        return text
    near = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"{option} {text} is unknown; {hint}known are {', '.join(known)}")


def positive_int(text: str) -> int:
    """An integer of at least one."""
    value = _parsed(int, text, "an integer")
    _require(value >= 1, "an integer of at least 1", text)
    return value


def devices(text: str) -> int | str:
    """A number of devices, or all."""
    return text if text == "all" else positive_int(text)


def seed(text: str) -> int:
    """An integer that fits 32 bits, as jax.random.key takes it."""
    value = _parsed(int, text, "an integer")
    _require(0 <= value < 2**32, "an integer from 0 to 2^32 - 1", text)
    return value


def unit_interval(text: str) -> float:
    """A number in [0, 1]."""
    value = _parsed(float, text, "a number in [0, 1]")
    _require(0 <= value <= 1, "a number in [0, 1]", text)
    return value


def open_unit_interval(text: str) -> float:
    """A number between 0 and 1."""
    value = positive_float(text)
    _require(value < 1, "a number between 0 and 1", text)
    return value


def finite_float(text: str) -> float:
    """A finite number."""
    value = _parsed(float, text, "a number")
    _require(math.isfinite(value), "a finite number", text)
    return value


def nonnegative_float(text: str) -> float:
    """A finite number of at least 0."""
    value = _parsed(float, text, "a number")
    _require(0 <= value < math.inf, "a finite number of at least 0", text)
    return value


def positive_float(text: str) -> float:
    """A finite positive number."""
    value = nonnegative_float(text)
    _require(value > 0, "a positive number", text)
    return value


def declare_acting(parser: argparse.ArgumentParser) -> None:
    """Declare how a trained policy acts in fresh episodes."""
    parser.add_argument(
        "--greedy",
        action="store_true",
        help="take the most likely action (the mean of a Gaussian) instead of drawing one",
    )
    parser.add_argument(
        "--num-steps",
        type=positive_int,
        help="cut episodes after N steps; by default the environment's own limit, or 1000 where "
        "it has none",
    )
    parser.add_argument("--seed", type=seed, default=0, help="the seed of the episodes")


def check_picture_path(output: Path) -> None:
    """Raise a ValueError if no picture can be saved under `--output`."""
    if output.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--output must end in .png, .pdf or .svg, got {output}")
    check_file("--output", output)


def check_file(option: str, path: Path) -> None:
    """Raise a ValueError if no file can be written there."""
    if path.is_dir():
        raise ValueError(f"{option} must be a file, got the folder {path}; add a file name")
    if not path.parent.is_dir():
        raise ValueError(f"{option} must lie in a folder that exists, got {path}; make the folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(
            f"{option} must be a file that can be written, got {path}; change its permissions, or "
            "give another path"
        )


def _parsed(kind: Callable[[str], Number], text: str, need: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs {need}, got {text!r}") from None


def _require(is_good: bool, need: str, text: str) -> None:
    if not is_good:
        raise argparse.ArgumentTypeError(f"needs {need}, got {text}")
