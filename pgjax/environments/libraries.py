"""Libraries of environments that are not installed with pgjax, imported when they are used."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


def library(name: str) -> Any:
    """An optional library's module.

    Args:
        name: of the module, dots included.

    Raises:
        ImportError: it is not installed; the message says how to.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'{name} cannot be imported ({error}); pip install "policy-gradient-jax[envs]"'
        ) from error


def known_name(prefix: str, name: str, known: Iterable[str]) -> str:
    """The name itself, or a ValueError with near matches.

    Args:
        prefix: of the library, as in "brax".
        name: within it.
        known: the library's names.

    Raises:
        ValueError: a name that is not among them.
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
