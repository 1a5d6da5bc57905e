"""Numbers and arrays: settings such as a discount, counts, sequences and shapes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.core.float64 import array_to_jax
from pgjax.core.validation.traced import check_traced, is_concrete
from pgjax.types import describe


def check_real(name: str, value: Any) -> Any:
    """`value` as a NumPy or JAX array of real numbers or booleans; an array is returned unchanged.

    Raises:
        TypeError: if it holds anything else: strings, complex numbers, lists of unequal lengths.
    """
    try:
        array = value if hasattr(value, "dtype") else _gathered(value)
    except ValueError:
        raise TypeError(f"{name} must be an array, got lists of different lengths") from None
    if not (jnp.issubdtype(array.dtype, np.bool_) or is_real(array.dtype)):
        raise TypeError(f"{name} must be an array of real numbers, got {describe(value)}")
    return array


def _gathered(value: Any) -> Any:
    return np.asarray(value) if is_concrete(value) else jnp.asarray(value)


def check_one_value(found: Any, fix: str) -> jax.Array:
    """A critic's output for one observation as a scalar; the messages end with `fix`.

    Raises:
        TypeError: if it is not an array.
        ValueError: if it holds more than one number, or none.
    """
    if not hasattr(found, "shape"):
        raise TypeError(f"a critic must give one number, got {describe(found)}; {fix}")
    if found.size != 1:
        raise ValueError(f"a critic must give one number, got shape {found.shape}; {fix}")
    return found.reshape(())


def as_array(name: str, value: Any) -> jax.Array:
    """`value` as a JAX array of real numbers, or of booleans; raises as `check_real`."""
    check_real(name, value)
    return array_to_jax(value)


def check_array(name: str, value: Any, layout: str, shape: tuple[int | None, ...]) -> jax.Array:
    """`value` as an array of real numbers, if it has this shape; None stands for any length."""
    array = as_array(name, value)
    fits = array.ndim == len(shape) and all(
        need in (None, found) for need, found in zip(shape, array.shape, strict=True)
    )
    if not fits:
        known = "" if None in shape else f" = {shape}"
        raise ValueError(f"{name} must have shape {layout}{known}, got {array.shape}")
    return array


def check_same_shape(**arrays: Any) -> tuple[jax.Array, ...]:
    """Sequences [T] as arrays of real numbers, if all are as long as the first."""
    (first, value), *others = arrays.items()
    found = check_array(first, value, "[T]", (None,))
    layout = f"of {first}, [T]"
    rest = (check_array(name, other, layout, found.shape) for name, other in others)
    return (found, *rest)


def is_real(dtype: Any) -> bool:
    """Whether numbers of this dtype are integers or floating."""
    return jnp.issubdtype(dtype, jnp.number) and not jnp.issubdtype(dtype, jnp.complexfloating)


def check_number(name: str, value: Any) -> Any:
    """`value` as a setting of a record: an integer becomes a float, and a list an array."""
    if isinstance(value, list | tuple):
        value = (
            as_array(name, value) if not is_concrete(value) else np.asarray(as_array(name, value))
        )
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    if not is_real(dtype):
        raise TypeError(f"{name} must be a real number and no boolean, got {describe(value)}")
    if not np.size(value):
        raise ValueError(
            f"{name} must hold a number, got an empty array of shape {np.shape(value)}"
        )
    if isinstance(value, int | np.integer):
        return float(value)
    return value


def check_finite(name: str, value: Any) -> Any:
    """`value`, if each number in it is finite; as `check_number` gives it."""
    return _check_numbers(name, value, 0, lambda x, _: x - x == 0, "be finite")


def check_unit_interval(name: str, value: Any) -> Any:
    """`value` (a discount, a λ), if it lies in [0, 1]; as `check_number` gives it."""
    return _check_numbers(name, value, 0, lambda x, _: (x >= 0) & (x <= 1), "lie in [0, 1]")


def check_rates(**values: Any) -> dict[str, Any]:
    """The named settings (γ, λ), if each lies in [0, 1]; as `check_number` gives them."""
    return {name: check_unit_interval(name, value) for name, value in values.items()}


def check_rate(name: str, value: Any) -> Any:
    """`value`, if it is a single number in [0, 1]: for functions, where records take several."""
    check_unit_interval(name, value)
    check_scalars(**{name: value})
    return value


def check_between(name: str, value: Any, low: float, high: float) -> None:
    """Raise if `value` is not a single number, or is known not to lie strictly between the two."""
    check_scalars(**{name: value})
    if is_concrete(value) and not low < value < high:
        raise ValueError(f"{name} must lie in ({low:g}, {high:g}), got {value}")


def check_at_least(name: str, value: Any, bound: Any, fix: str) -> Any:
    """`value`, if it is no less than `bound`, and so not NaN; as `check_number` gives it."""
    return _check_numbers(name, value, bound, lambda x, y: x >= y, "be at least {bound}", fix)


def check_above_zero(name: str, value: Any, fix: str) -> Any:
    """`value`, if it is positive or infinite; as `check_number` gives it."""
    return _check_numbers(name, value, 0, lambda x, _: x > 0, "be positive", fix)


def _check_numbers(
    name: str, value: Any, bound: Any, holds: Callable[..., Any], need: str, fix: str = ""
) -> Any:
    """`value`, if `holds(value, bound)` for each number in it; an error shows the first failure."""
    value = check_number(name, value)
    message = f"{name} must {need}, got {{value}}" + (f"; {fix}" if fix else "")
    if is_concrete(value, bound):
        x, y = np.broadcast_arrays(np.asarray(value), np.asarray(bound))
        if (wrong := ~holds(x, y)).any():
            found, needed = x[wrong].flat[0], y[wrong].flat[0]
            raise ValueError(message.format(value=f"{found:g}", bound=f"{needed:g}"))
    elif np.size(value):

        def finding() -> tuple[jax.Array, dict[str, Any]]:
            x = jnp.asarray(value)
            x, y = jnp.broadcast_arrays(x, jnp.asarray(bound).astype(x.dtype))
            good = jnp.ravel(holds(x, y))
            first = jnp.argmin(good)
            return jnp.all(good), {"value": jnp.ravel(x)[first], "bound": jnp.ravel(y)[first]}

        check_traced(message, finding)
    return value


def check_scalars(**values: Any) -> None:
    """Raise if a setting is not a single number where it is used."""
    for name, value in values.items():
        check_number(name, value)
        if jnp.ndim(value):
            raise ValueError(
                f"{name} must be a single number where it is used, got shape {jnp.shape(value)}; "
                "to use several, map over the estimator with jax.vmap"
            )


def check_sequence(name: str, value: Any, like: tuple[str, jax.Array] | None = None) -> jax.Array:
    """`value` as an array; raise if it is not [T], or is not as long as the sequence `like`."""
    value = as_array(name, value)
    if value.ndim != 1:
        raise ValueError(
            f"{name} must have shape [T], got {value.shape}; add a batch axis with jax.vmap, "
            "drop a trailing one with x[:, 0]"
        )
    if like is not None and value.shape != like[1].shape:
        raise ValueError(
            f"{name} must have the shape of {like[0]}, [T] = {like[1].shape}, got {value.shape}"
        )
    return value


def check_scalar_or_sequence(name: str, value: Any, like: tuple[str, jax.Array]) -> jax.Array:
    """`value` as an array; raise if it is neither a scalar nor as long as the sequence `like`."""
    value = as_array(name, value)
    return check_sequence(name, value, like) if value.ndim else value


def check_positive(name: str, value: Any) -> int:
    """`value` as an int, if it is an integer of at least one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {describe(value)}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def check_counts(**values: Any) -> dict[str, int]:
    """The named counts as ints, if each is an integer of at least one."""
    return {name: check_positive(name, value) for name, value in values.items()}
