"""Compiled once for each record of functions: a loop called eagerly would compile at every call."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

import jax

Result = TypeVar("Result")


def compiled(
    num_records: int,
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """`jax.jit` of a function whose first arguments are records of functions, such as a Policy.

    Two records are the same if they hold the same functions. That asks nothing of these: a callable
    that holds arrays has no hash.

    Args:
        num_records: how many arguments are records; the others are pytrees of arrays.

    Returns:
        A decorator. Only positional arguments are taken.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        @partial(jax.jit, static_argnums=0)
        def run(records: _SameFunctions, *arrays: Any) -> Result:
            return function(*records.values, *arrays)

        @wraps(function)
        def call(*args: Any) -> Result:
            return run(_SameFunctions(args[:num_records]), *args[num_records:])

        return call

    return decorate


class _SameFunctions:
    """Records, equal if each of their functions is the very same object."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values
        self.functions = tuple(f for record in values for f in record)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _SameFunctions):
            return False
        pairs = zip(self.functions, other.functions, strict=False)
        same_number = len(self.functions) == len(other.functions)
        return same_number and all(mine is theirs for mine, theirs in pairs)

    def __hash__(self) -> int:
        return hash(tuple(map(id, self.functions)))
