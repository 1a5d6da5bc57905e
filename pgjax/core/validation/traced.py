"""Checks of traced values: they wait for `checked`, which switches them on under jit."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import checkify

from pgjax.types import check_function

Result = TypeVar("Result")

_checking = jax.make_user_context(default_value=False)  # JAX's caches distinguish its values


def checked(function: Callable[..., Result]) -> Callable[..., Result]:
    """`function`, jit-compiled, with every check on its traced values switched on.

    Under plain jit, a bad value gives NaN or a wrong number: a NaN reward, say, or a discount
    outside [0, 1]. Here it gives an error, which names the first wrong (trajectory, step). Each
    check costs one more output: use it for debugging, not for speed.

    Args:
        function: of arrays and pytrees of arrays, to the same. It may close over policies and
            estimators.

    Returns:
        A function of the same arguments.

    Raises:
        ValueError: by the returned function, if a check fails.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> returns = pgjax.checked(pgjax.discounted_returns)
        >>> returns(jnp.ones(3), jnp.float32(1.5))
        Traceback (most recent call last):
        ...
        ValueError: discount must lie in [0, 1], got 1.5
    """
    check_function("function", function, "of arrays and pytrees of arrays")
    checkified = jax.jit(checkify.checkify(function, errors=checkify.user_checks))

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Result:
        with _checking(True):
            error, result = checkified(*args, **kwargs)
        message = error.get()
        if message is not None:
            raise ValueError(message.split(" (`check` failed)")[0])
        return result

    return run


def check_traced(message: str, finding: Callable[[], tuple[jax.Array, dict[str, Any]]]) -> None:
    """Under `checked`, raise an error unless a condition on traced values holds; else do nothing.

    Args:
        message: with {name} for each value to show.
        finding: () -> the condition, and the values to show by name.
    """
    if _checking.value:
        holds, values = finding()
        checkify.debug_check(holds, message, **values)


def check_values(
    message: str, finding: Callable[..., tuple[Any, dict[str, Any]]], *values: Any
) -> None:
    """Raise unless a condition on values holds: at once if they are known, else under `checked`.

    Args:
        message: with {name} for each value to show.
        finding: (*values), as NumPy or as JAX arrays, -> the condition, a boolean scalar, and the
            values to show by name.
        values: the arrays.

    Raises:
        ValueError: if the values are known and the condition is false.
    """
    if not is_concrete(values):
        check_traced(message, lambda: finding(*map(jnp.asarray, values)))
        return
    if not all(getattr(value, "is_fully_addressable", True) for value in values):
        return  # other hosts hold the rest
    holds, shown = finding(*map(np.asarray, values))
    if not holds:
        raise ValueError(message.format(**shown))


def is_concrete(*trees: Any) -> bool:
    """Whether every leaf can be read now, that is, none is being traced."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))
