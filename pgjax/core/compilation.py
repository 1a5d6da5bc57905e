"""Compiled once for each record of functions: a loop called eagerly would compile at every call."""

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

Result = TypeVar("Result")
SETTINGS = int, float, str, type, type(None), Mesh
"""What is compared by its value: sizes, names, bounds, devices."""


def compiled(
    num_static: int,
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """`jax.jit` of a function whose first arguments are records of functions, such as a Policy.

    Two records are the same if they hold the same functions, objects and settings; records may hold
    records. Functions and objects are the same if they are the very same one. That asks nothing of
    these: a callable that holds arrays has no hash.

    Args:
        num_static: how many arguments are records or settings; the others are pytrees of arrays.

    Returns:
        A decorator. Only positional arguments are taken.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        @partial(jax.jit, static_argnums=0)
        def run(records: _Same, *arrays: Any) -> Result:
            return function(*records.values, *arrays)

        @wraps(function)
        def call(*args: Any) -> Result:
            return run(_Same(args[:num_static]), *args[num_static:])

        return call

    return decorate


class _Same:
    """Records, equal if part by part they hold the same."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values
        self.parts = tuple(_parts(values))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same) or len(self.parts) != len(other.parts):
            return False
        return all(map(_is_same, self.parts, other.parts))

    def __hash__(self) -> int:
        return hash(tuple(x if isinstance(x, SETTINGS) else id(x) for x in self.parts))


def _parts(value: Any) -> Iterator[Any]:
    """Functions, objects and settings, with the type and length of every record they stand in."""
    if isinstance(value, tuple):
        yield type(value)
        yield len(value)
        for part in value:
            yield from _parts(part)
    else:
        yield value


def _is_same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, SETTINGS) and isinstance(theirs, SETTINGS):
        return type(mine) is type(theirs) and mine == theirs
    return mine is theirs
