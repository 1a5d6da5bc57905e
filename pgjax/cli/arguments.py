"""Argument types and checks shared by the commands; errors name the value and what is needed."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Number = TypeVar("Number", int, float)

ENV_DISCOUNT = 0.95
"""The default discount for environments, which have none."""


def positive_int(text: str) -> int:
    """An integer of at least one."""
    value = _parsed(int, text, "an integer")
    _require(value >= 1, "an integer of at least 1", text)
    return value


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


def check_picture_path(output: Path) -> None:
    """Raise a ValueError if no picture can be saved under `--output`."""
    if output.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--output must end in .png, .pdf or .svg, got {output}")
    check_folder("--output", output)


def check_folder(option: str, path: Path) -> None:
    """Raise a ValueError if the folder of a file to write does not exist."""
    if not path.parent.is_dir():
        raise ValueError(f"{option} must lie in a folder that exists, got {path}")


def _parsed(kind: Callable[[str], Number], text: str, need: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs {need}, got {text!r}") from None


def _require(is_good: bool, need: str, text: str) -> None:
    if not is_good:
        raise argparse.ArgumentTypeError(f"needs {need}, got {text}")
