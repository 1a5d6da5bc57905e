"""Argument types shared by the commands; each names what it was given and what it needs."""

import argparse

ENV_DISCOUNT = 0.95
"""An environment has no discount of its own."""


def positive_int(text: str) -> int:
    """An integer of at least one."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs an integer, got {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"needs an integer of at least 1, got {value}")
    return value


def unit_interval(text: str) -> float:
    """A number in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs a number in [0, 1], got {text!r}") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"needs a number in [0, 1], got {text}")
    return value
