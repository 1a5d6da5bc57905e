"""Environments: one small surface of pure functions, and adapters to it.

Importing this package imports no library of environments; naming an environment does.
"""

import difflib

from pgjax.environments import from_brax, from_craftax, from_jumanji, from_navix, from_pgx
from pgjax.environments.base import Environment as Environment
from pgjax.environments.base import Step as Step
from pgjax.environments.base import limited as limited

LIBRARIES = {
    "brax": from_brax,
    "jumanji": from_jumanji,
    "pgx": from_pgx,
    "navix": from_navix,
    "craftax": from_craftax,
}
"""The adapters, by the prefixes of names, before a slash; gymnax's names have none."""


def make(name: str) -> Environment:
    """The environment of that name, as a record of pure functions.

    Args:
        name: one of gymnax as it stands there, "CartPole-v1"; of another library after its name and
            a slash: "brax/inverted_pendulum", "jumanji/Snake-v1", "pgx/minatar-breakout",
            "navix/Navix-Empty-5x5-v0", "craftax/Craftax-Classic-Symbolic-v1".

    Returns:
        An Environment, with the library's own parameters and time limit.

    Raises:
        ValueError: an unknown name, with near matches; a game of several players; one that would
            download a data set.
        ImportError: its library is not installed; the message says how to.

    Bias: does not apply.

    Example:
        >>> environment = make("CartPole-v1")
        >>> environment.action_space, environment.time_limit
        (Discrete(num_actions=2), 500)
        >>> make("CartPole")
        Traceback (most recent call last):
        ...
        ValueError: unknown environment 'CartPole'; did you mean CartPole-v1?
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, such as 'CartPole-v1', got {name!r}")
    library, slash, rest = name.partition("/")
    if not slash:
        from pgjax.environments import from_gymnax  # slow to import

        return from_gymnax.make(name)
    if library not in LIBRARIES:
        near = difflib.get_close_matches(library.lower(), LIBRARIES, n=1)
        hint = f"did you mean {near[0]}/{rest}? " if near else ""
        raise ValueError(
            f"unknown environment {name!r}; {hint}before the slash stands one of "
            f"{', '.join(LIBRARIES)}, and gymnax's names have none"
        )
    return LIBRARIES[library].make(rest)
