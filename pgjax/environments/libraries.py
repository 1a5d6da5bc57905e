"""Optional libraries of environments, imported when they are used."""

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pgjax.environments.base import Environment


def library(name: str) -> Any:
    """The module of an optional library.

    Args:
        name: the module's name, such as "brax.envs".

    Raises:
        ImportError: if it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'{name} cannot be imported ({error}); pip install "policy-gradient-jax[envs]"'
        ) from error


def make_known(
    prefix: str, name: str, known: Iterable[str], make: Callable[[str], Environment]
) -> Environment:
    """`make(name)`, named "library/name"; a ValueError with near matches if it is unknown."""
    known = known_name(prefix, name, known)
    return replace(make(known), name=prefix + known)


def known_name(prefix: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if the library has it.

    Args:
        prefix: the prefix of the library's names, such as "brax/".
        name: the name within the library.
        known: the library's names.

    Raises:
        ValueError: if the name is unknown, with near matches.
    """
    known = sorted(known)
    if name in known:
        return name
    # Case and suffix are the usual slips: snake-v1, Snake, breakout.
    lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    near += [other for other in lower if name and name.lower() in other]
    names = [f"{prefix}{lower[other]}" for other in dict.fromkeys(near)]
    hint = f"did you mean {' or '.join(names[:3])}?" if names else f"known: {', '.join(known)}"
    raise ValueError(f"unknown environment {prefix + name!r}; {hint}")
