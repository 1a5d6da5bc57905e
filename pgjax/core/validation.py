"""Errors at the public boundary: the argument, what it was, what was needed, the usual fix.

Values that are known are checked at once and raise. Values that are being traced cannot be read,
so the same check is traced under `checked` only, and raised by it; elsewhere it costs nothing.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import checkify

from pgjax.types import Estimator, Policy, RecurrentPolicy, Trajectory

Result = TypeVar("Result")

THREEFRY, RAW_KEYS = "threefry2x32", ((2,), (4,))
"""The implementation of every key inside the library; shapes of raw keys, threefry's and rbg's."""

_checking = jax.make_user_context(default_value=False)  # a part of the key of JAX's caches


def checked(function: Callable[..., Result]) -> Callable[..., Result]:
    """`function`, jit-compiled, with every check on its traced values switched on.

    Without it a NaN reward, an action outside the policy's range or a discount outside [0, 1] that
    is only known at run time gives NaN or a wrong number. With it, the error names the first wrong
    (trajectory, step). Each check costs one more output: for debugging, not for speed.

    Args:
        function: arrays and pytrees of arrays in and out; close over policies and estimators.

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
    """Under `checked`, an error unless a condition on traced values holds; elsewhere, nothing.

    Args:
        message: with {name} for each of the values.
        finding: gives the condition, and the values to show.
    """
    if _checking.value:
        holds, values = finding()
        checkify.debug_check(holds, message, **values)


def check_values(
    message: str, finding: Callable[..., tuple[Any, dict[str, Any]]], *values: Any
) -> None:
    """An error unless a condition on values holds: at once if they are known, else by `checked`.

    Args:
        message: with {name} for each of the values to show.
        finding: from the values, as NumPy or as JAX arrays, to the condition, a boolean scalar, and
            the values to show.
        values: the arrays.

    Raises:
        ValueError: if the values are known and the condition is false.
    """
    if not is_concrete(values):
        check_traced(message, lambda: finding(*map(jnp.asarray, values)))
        return
    holds, shown = finding(*map(np.asarray, values))
    if not holds:
        raise ValueError(message.format(**shown))


def is_concrete(*trees: Any) -> bool:
    """Whether every leaf can be read now, that is, none is being traced."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def check_number(name: str, value: Any) -> Any:
    """`value` as a setting of a record: Python integers and lists become floats."""
    if isinstance(value, list | tuple):
        value = np.asarray(value)
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    if not jnp.issubdtype(dtype, jnp.number):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if isinstance(value, int | np.integer):
        return float(value)
    return value


def check_unit_interval(name: str, value: Any) -> Any:
    """`value` (a discount, a λ), if it lies in [0, 1]; as `check_number` gives it."""
    return _check_numbers(name, value, 0, lambda x, _: (x >= 0) & (x <= 1), "lie in [0, 1]")


def check_rates(**values: Any) -> dict[str, Any]:
    """The named settings (γ, λ), if each lies in [0, 1]; as `check_number` gives them."""
    return {name: check_unit_interval(name, value) for name, value in values.items()}


def check_at_least(name: str, value: Any, bound: Any, fix: str) -> Any:
    """`value`, if it is no less than `bound`, and so not NaN; as `check_number` gives it."""
    return _check_numbers(name, value, bound, lambda x, y: x >= y, "be at least {bound}", fix)


def check_above_zero(name: str, value: Any, fix: str) -> Any:
    """`value`, if it is positive, perhaps infinite; as `check_number` gives it."""
    return _check_numbers(name, value, 0, lambda x, _: x > 0, "be positive", fix)


def _check_numbers(
    name: str, value: Any, bound: Any, holds: Callable[..., Any], need: str, fix: str = ""
) -> Any:
    """`value`, if `holds(value, bound)` for each number in it; an error names the first other."""
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
        if jnp.ndim(value):
            raise ValueError(
                f"{name} must be a single number where it is used, got shape {jnp.shape(value)}; "
                "jax.vmap goes over the numbers of an estimator"
            )


def check_sequence(name: str, value: jax.Array, like: tuple[str, jax.Array] | None = None) -> None:
    """Raise if `value` is not [T], or is not as long as the sequence `like`."""
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be real, got {value.dtype}")
    if value.ndim != 1:
        raise ValueError(
            f"{name} must have shape [T], got {value.shape}; add a batch axis with jax.vmap, "
            "drop a trailing one with x[:, 0]"
        )
    if like is not None and value.shape != like[1].shape:
        raise ValueError(
            f"{name} must have the shape of {like[0]}, [T] = {like[1].shape}, got {value.shape}"
        )


def check_scalar_or_sequence(name: str, value: jax.Array, like: tuple[str, jax.Array]) -> None:
    """Raise if `value` is neither a scalar nor as long as the sequence `like`."""
    if value.ndim > 0:
        check_sequence(name, value, like)


def check_batch(batch: Trajectory) -> None:
    """Raise if a field of the batch is not [N, T, ...], or if a traced reward is not finite."""
    if not isinstance(batch, Trajectory):
        raise TypeError(f"batch must be a pgjax.Trajectory, got {type(batch).__name__}")
    shape = batch.reward.shape
    if len(shape) != 2:
        raise ValueError(
            f"batch.reward must have shape [N, T], got {shape}; "
            "give a single trajectory a leading axis: jax.tree.map(lambda x: x[None], trajectory)"
        )
    if shape[0] == 0:
        raise ValueError("batch must hold at least one trajectory, got N = 0")
    optional = ("value", "action_value", "time", "next_value")
    optional += ("reference_log_prob", "sampler_log_prob")
    for name in ("log_prob", "terminated", "truncated", "mask", *optional):
        field = getattr(batch, name)
        if field is not None and field.shape != shape:
            raise ValueError(f"batch.{name} must have shape [N, T] = {shape}, got {field.shape}")
    for path, leaf in jax.tree.leaves_with_path((batch.observation, batch.action)):
        if leaf.shape[:2] != shape:
            name = ("observation", "action")[path[0].idx]
            raise ValueError(
                f"batch.{name} must have shape [N, T, ...] = {(*shape, ...)}, got {leaf.shape}"
            )
    for name in ("final_value", "group"):
        field = getattr(batch, name)
        if field is not None and field.shape != shape[:1]:
            raise ValueError(f"batch.{name} must have shape [N] = {shape[:1]}, got {field.shape}")
    for name in ("terminated", "truncated", "mask"):
        if getattr(batch, name).dtype != jnp.bool_:
            raise TypeError(
                f"batch.{name} must be boolean, got {getattr(batch, name).dtype}; "
                "compare it with zero: x > 0"
            )
    check_traced_finite("batch.reward", batch.reward, batch.mask)
    check_traced_finite("batch.log_prob", batch.log_prob, batch.mask)


def check_traced_finite(name: str, value: jax.Array, mask: jax.Array) -> None:
    """Raise if a traced value is not finite where the mask is true; known ones are not read."""
    if value.size == 0 or is_concrete(value, mask):
        return  # reading every reward would make each eager call wait; `checked` does it

    def finding() -> tuple[jax.Array, dict[str, Any]]:
        bad = mask & ~jnp.isfinite(value)
        index = jnp.argmax(jnp.ravel(bad))
        row, step = index // max(value.shape[1], 1), index % max(value.shape[1], 1)
        return ~jnp.any(bad), {"value": jnp.ravel(value)[index], "row": row, "step": step}

    check_traced(name + " is {value} at trajectory {row}, step {step}", finding)


def check_policy(policy: Any) -> None:
    """Raise if it is no record of pure functions, with the way to make one of a network."""
    if isinstance(policy, Policy | RecurrentPolicy):
        return
    if isinstance(policy, Estimator):
        raise TypeError(
            "policy must be a pgjax.Policy, got an Estimator; the estimator comes first"
        )
    is_flax = any(kind.__module__.startswith("flax.") for kind in type(policy).__mro__)
    fix = "flax_policy(module)" if is_flax else "softmax_policy(init, logits)"
    raise TypeError(
        f"policy must be a pgjax.Policy, got {type(policy).__name__}; pgjax.{fix} makes one"
    )


def check_estimator(estimator: Any) -> None:
    """Raise if it is no Estimator; a function that makes one, not called, is told so."""
    if isinstance(estimator, Estimator):
        return
    name = getattr(estimator, "__name__", None)
    if isinstance(estimator, Policy | RecurrentPolicy):
        name, fix = "a policy", "the policy comes second"
    elif callable(estimator) and name is not None:
        fix = f"call it: {name}(0.99), say"
    else:
        fix = "pgjax.reward_to_go(0.99) makes one"
    raise TypeError(f"estimator must be a pgjax.Estimator, got {name or repr(estimator)}; {fix}")


def check_params(params: Any) -> None:
    """Raise if a leaf of the parameters is not floating, and so has no gradient."""
    for path, leaf in jax.tree.leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} must be floating to have a gradient, "
                f"got {dtype}; cast it, or keep it out of the parameters"
            )


def check_key(key: Any) -> jax.Array:
    """A single typed threefry key; one of another implementation gives its bits to it.

    What a threefry key draws depends on that key alone. What "rbg" and "unsafe_rbg" draw under
    `vmap` depends on the whole batch too: micro-batches, windows and devices, which cut the batch
    otherwise, would then see other numbers for the same key. Raw uint32 keys are taken too.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        if key.shape != ():
            raise ValueError(f"key must be a single key, got a batch of shape {key.shape}")
        if jax.random.key_impl(key) == THREEFRY:
            return key
        return _as_threefry(jax.random.key_data(key))
    if dtype == jnp.uint32 and key.shape in RAW_KEYS:
        return _as_threefry(jnp.asarray(key))
    shown = f"{dtype}{list(key.shape)}" if dtype is not None else repr(key)
    raise TypeError(f"key must be a jax.random key, got {shown}; make one with jax.random.key(0)")


def _as_threefry(words: jax.Array) -> jax.Array:
    """The threefry key of two words, with any others folded in."""
    key = jax.random.wrap_key_data(words[:2], impl=THREEFRY)
    for word in words[2:]:
        key = jax.random.fold_in(key, word)
    return key


def check_positive(name: str, value: Any) -> int:
    """`value` as an int, if it is an integer of at least one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def check_counts(**values: Any) -> dict[str, int]:
    """The named counts as ints, if each is an integer of at least one."""
    return {name: check_positive(name, value) for name, value in values.items()}
