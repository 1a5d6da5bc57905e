"""float64 for exact mathematics, whatever the caller's x64 setting."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def in_float64(function: Callable) -> Callable:
    """`function`, run under a local x64 setting."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.enable_x64(True):
            return function(*args, **kwargs)

    return run


def to_numpy(tree: Any) -> Any:
    """The tree with NumPy leaves: outside x64 a JAX reduction would cut float64 to float32."""
    return jax.tree.map(lambda x: np.asarray(x)[()], tree)


def flatten(tree: Any) -> np.ndarray:
    """All leaves as one NumPy vector [P]; `ravel_pytree` would cut float64 outside x64."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def as_float64(x: Any) -> Array:
    """A float64 JAX array, under the x64 setting."""
    return jnp.asarray(x, jnp.float64)


def to_jax(tree: Any) -> Any:
    """The tree with JAX arrays of the present precision; see `array_to_jax`."""
    return jax.tree.map(array_to_jax, tree)


def array_to_jax(x: Any) -> Array:
    """`x` as a JAX array of the present precision, from a fresh copy.

    JAX caches its conversion of a NumPy array in a trace, even if the x64 setting has changed
    since. It would then give float32 where float64 is needed. NumPy casts the array, because
    `jnp.asarray` compiles a program for each shape where it has to cast, or is told no dtype.
    """
    if not isinstance(x, np.ndarray):
        return jnp.asarray(x)
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    with np.errstate(over="ignore"):  # too large for float32 is infinite, as it is in JAX
        return jnp.asarray(np.array(x, dtype), dtype)
