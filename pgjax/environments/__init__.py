"""Environments: one record of pure functions, and adapters of other libraries to it.

Importing this package imports no library of environments; naming an environment does. Each adapter
`from_*` has `adapt`, from the library's object to an Environment, and `make`, from a name. The
dynamics are the library's. `adapt` raises a TypeError if its argument is not the library's, and
`make` a ValueError with near matches if a name is unknown. Both raise an ImportError if the library
is not installed.
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
"""The adapter of each library, by the prefix of its names before the slash. Names of gymnax have no
prefix."""


def make(name: str) -> Environment:
    """The environment of that name, with its library's parameters and time limit.

    Args:
        name: of gymnax, "CartPole-v1"; or of another library, after the library's name and a slash:
            "brax/inverted_pendulum", "jumanji/Snake-v1", "pgx/minatar-breakout",
            "navix/Navix-Empty-5x5-v0", "craftax/Craftax-Classic-Symbolic-v1".

    Raises:
        TypeError: if `name` is not a string.
        ValueError: if the name is unknown, with near matches; if it is a game of several players;
            or if the environment would download a data set.
        ImportError: if its library is not installed; the message says how to install it.

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
            f"unknown environment {name!r}; {hint}names of other libraries begin with "
            f"{', '.join(f'{each}/' for each in LIBRARIES)}, and names of gymnax have no slash"
        )
    return LIBRARIES[library].make(rest)
