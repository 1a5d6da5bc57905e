"""The function f whose expectation is taken: f(x), or f(params, x)."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from pgjax.records import Configured, record, static
from pgjax.types import Params, check_function, describe, signature_of

SIGNATURE = "(x) -> number, or (params, x) -> number"


@record
class Integrand:
    """f as a function of params and x, whichever of the two it takes.

    Attributes:
        function: f(x) or f(params, x).
        has_params: whether it is the latter.
    """

    function: Callable[..., Any]
    has_params: bool = static(default=False)

    def __call__(self, params: Params, x: Any) -> Array:
        """F at one x, a floating scalar."""
        value = self.whole(params, x)
        if value.shape:
            raise ValueError(
                f"f must return one number, got shape {value.shape}; expectations.jacobians takes "
                "an f with several outputs"
            )
        return value

    def whole(self, params: Params, x: Any) -> Array:
        """F at one x, of any shape."""
        value = self.function(params, x) if self.has_params else self.function(x)
        if not hasattr(value, "dtype") and not isinstance(value, bool | int | float):
            raise TypeError(f"f must return an array of numbers, got {describe(value)}")
        value = jnp.asarray(value)
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            raise TypeError(f"f must return real numbers, got {value.dtype}")
        if jnp.issubdtype(value.dtype, jnp.floating):
            return value
        return value.astype(jnp.result_type(float))

    def own(self, params: Params, x: Any) -> Array:
        """What adds f's own derivative by params to a term: f if it takes params, else zero."""
        return self(params, x) if self.has_params else jnp.zeros(())


def as_integrand(f: Any) -> Integrand:
    """F with the number of its arguments looked up.

    Args:
        f: f(x) or f(params, x), or an Integrand.

    Raises:
        TypeError: if it is not a function, or one of another number of arguments.
    """
    if isinstance(f, Integrand):
        return f
    check_function("f", f, SIGNATURE)
    settings = f.settings if isinstance(f, Configured) else {}
    function = f.function if isinstance(f, Configured) else f
    try:
        parameters = signature_of(function).parameters
    except ValueError:  # of a builtin
        return Integrand(f, has_params=False)
    needed = [
        name
        for name, p in parameters.items()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and name not in settings
    ]
    if len(needed) not in (1, 2):
        takes = ", ".join(parameters)
        raise TypeError(f"f must be a function {SIGNATURE}, got one with the arguments ({takes})")
    return Integrand(f, has_params=len(needed) == 2)
