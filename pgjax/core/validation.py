"""Errors at the public boundary: the argument, what it was, what was needed, the usual fix.

Known values are checked at once, and a failed check raises. Values that are being traced cannot be
read. Under `checked` their check is traced too, and `checked` raises the error. Elsewhere it costs
nothing.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import checkify

from pgjax.types import (
    Estimator,
    Policy,
    RecurrentPolicy,
    Trajectory,
    check_function,
    describe,
    returned_by,
)

Result = TypeVar("Result")

THREEFRY, RAW_KEYS = "threefry2x32", ((2,), (4,))
"""The implementation of all keys inside the library; the shapes of raw threefry and rbg keys."""

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


def check_real(name: str, value: Any) -> Any:
    """`value` as a NumPy or JAX array of real numbers or booleans; an array is returned unchanged.

    Raises:
        TypeError: if it holds anything else: strings, complex numbers, lists of unequal lengths.
    """
    try:
        array = value if hasattr(value, "dtype") else _gathered(value)
    except ValueError:
        raise TypeError(f"{name} must be an array, got lists of different lengths") from None
    if not (jnp.issubdtype(array.dtype, np.bool_) or _is_real(array.dtype)):
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
    return jnp.asarray(value)


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


def check_kind(name: str, value: Any, kind: type | tuple[type, ...], fix: str) -> Any:
    """`value`, if it is an instance of the class, or of one of several."""
    if isinstance(value, kind):
        return value
    needed = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
    raise TypeError(f"{name} must be a {needed}, got {describe(value)}; {fix}")


def _is_real(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.number) and not jnp.issubdtype(dtype, jnp.complexfloating)


def check_number(name: str, value: Any) -> Any:
    """`value` as a setting of a record: an integer becomes a float, and a list an array."""
    if isinstance(value, list | tuple):
        value = (
            as_array(name, value) if not is_concrete(value) else np.asarray(as_array(name, value))
        )
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    if not _is_real(dtype):
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


FLAGS = ("terminated", "truncated", "mask")
PER_STEP = ("reward", "log_prob", *FLAGS)
PER_STEP_OPTIONAL = (
    *("value", "action_value", "time", "next_value"),
    *("reference_log_prob", "sampler_log_prob"),
)
PER_ROW_OPTIONAL = "final_value", "group"


def check_batch(batch: Trajectory) -> None:
    """Raise if a batch contradicts the docstring of `Trajectory`.

    Shapes and dtypes are always checked. Mask, flags, times and the sign of log-probabilities are
    checked if they are known, and else under `checked`. Traced rewards and log-probabilities that
    are not finite are found under `checked` alone.
    """
    check_layout(batch)
    _check_contents(batch)
    check_traced_finite("batch.reward", batch.reward, batch.mask)
    check_traced_finite("batch.log_prob", batch.log_prob, batch.mask)


def check_layout(batch: Trajectory, name: str = "batch") -> None:
    """Raise if a field of the batch is not [N, T, ...], or has the wrong dtype."""
    if not isinstance(batch, Trajectory):
        raise TypeError(
            f"{name} must be a pgjax.Trajectory, got {describe(batch)}; pgjax.rollout gives one"
        )
    for field in (*PER_STEP, *PER_STEP_OPTIONAL, *PER_ROW_OPTIONAL):
        _check_field(f"{name}.{field}", getattr(batch, field), optional=field not in PER_STEP)
    shape = batch.reward.shape
    if len(shape) != 2:
        raise ValueError(
            f"{name}.reward must have shape [N, T], got {shape}; "
            "give a single trajectory a leading axis: jax.tree.map(lambda x: x[None], trajectory)"
        )
    if shape[0] == 0:
        raise ValueError(f"{name} must hold at least one trajectory, got N = 0")
    for field in (*PER_STEP, *PER_STEP_OPTIONAL):
        found = getattr(batch, field)
        if found is not None and found.shape != shape:
            raise ValueError(f"{name}.{field} must have shape [N, T] = {shape}, got {found.shape}")
    for field in ("observation", "action"):
        _check_leading(f"{name}.{field}", getattr(batch, field), "[N, T, ...]", shape)
    if batch.final_observation is not None:
        _check_final_observation(f"{name}.final_observation", batch)
    for field in PER_ROW_OPTIONAL:
        found = getattr(batch, field)
        if found is not None and found.shape != shape[:1]:
            raise ValueError(f"{name}.{field} must have shape [N] = {shape[:1]}, got {found.shape}")
    for field in FLAGS:
        if getattr(batch, field).dtype != jnp.bool_:
            raise TypeError(
                f"{name}.{field} must be boolean, got {getattr(batch, field).dtype}; "
                "compare it with zero: x > 0"
            )


def _check_field(name: str, value: Any, *, optional: bool) -> None:
    """Raise if a field is not an array of real numbers."""
    if value is None and optional:
        return
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        raise TypeError(f"{name} must be an array, got {describe(value)}; jnp.asarray makes one")
    as_array(name, value)


def _check_leading(name: str, tree: Any, layout: str, shape: tuple[int, ...]) -> None:
    """Raise if a leaf is not an array, or does not begin with the axes of the batch."""
    leaves = jax.tree.leaves_with_path(tree)
    if not leaves:
        raise TypeError(f"{name} must hold an array, got {describe(tree)}")
    for path, leaf in leaves:
        where = name + jax.tree_util.keystr(path)
        if not hasattr(leaf, "shape"):
            raise TypeError(f"{where} must be an array, got {describe(leaf)}; use jnp.asarray")
        if leaf.shape[: len(shape)] != shape:
            raise ValueError(
                f"{where} must have shape {layout} = {(*shape, ...)}, got {leaf.shape}"
            )


def _check_final_observation(name: str, batch: Trajectory) -> None:
    """Raise if it is not [N, ...], with one observation for each trajectory."""
    N = batch.reward.shape[0]
    _check_leading(name, batch.final_observation, "[N, ...]", (N,))
    last = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((N, *x.shape[2:]), x.dtype), batch.observation
    )
    if jax.tree.structure(last) == jax.tree.structure(batch.final_observation):
        check_like(name, batch.final_observation, ("an observation", last))


IMPROBABLE = 1e-3
"""A log-probability this far above zero is not due to rounding, in any precision."""


def _check_contents(batch: Trajectory) -> None:
    """Raise if known flags, times or log-probabilities contradict each other, or their meaning."""
    if batch.mask.size == 0:
        return
    is_windows = batch.time is not None or batch.next_value is not None
    mask, flags = batch.mask, (batch.mask, batch.terminated, batch.truncated)
    place = "at trajectory {row}, step {step}"
    if not is_windows:
        _check_steps(
            f"batch.mask is true {place}, after a step where it is false; "
            "an episode's steps come first",
            lambda mask: mask[:, 1:] & ~mask[:, :-1],
            mask,
        )
        _check_steps(
            f"batch.mask is true {place}, and the step before terminated or truncated; rows of "
            "several episodes need batch.time or batch.next_value",
            lambda mask, terminated, truncated: mask[:, 1:] & (terminated | truncated)[:, :-1],
            *flags,
        )
    if batch.time is not None:
        count = f"batch.time is {{value}} {place}; it must count the steps of each episode from 0"
        _check_steps(count, lambda time, mask: mask & (time < 0), batch.time, mask, first=0)
        _check_steps(count, _breaks_count, batch.time, *flags)
    if all(jnp.issubdtype(x.dtype, jnp.integer) for x in jax.tree.leaves(batch.action)):
        _check_steps(
            f"batch.log_prob is {{value}} {place}; the logarithm of a discrete action's "
            "probability is at most 0: take jnp.log of probabilities",
            lambda log_prob, mask: mask & (log_prob > IMPROBABLE),
            batch.log_prob,
            mask,
            first=0,
        )


def _check_steps(message: str, find_bad: Callable[..., Any], *values: Any, first: int = 1) -> None:
    """Raise an error that names the first bad step.

    Args:
        message: with {row}, {step} and perhaps {value}, which is the first array's.
        find_bad: from the arrays [N, T] to a boolean array, whose columns are steps from `first`.
        values: the arrays.
        first: the first step that can be bad.
    """

    def finding(*values: Any) -> tuple[Any, dict[str, Any]]:
        bad = find_bad(*values)
        index = bad.ravel().argmax()
        row, step = index // bad.shape[1], index % bad.shape[1] + first
        return ~bad.any(), {"value": values[0][row, step], "row": row, "step": step}

    if values[0].shape[1] > first:
        check_values(message, finding, *values)


def _breaks_count(time: Any, mask: Any, terminated: Any, truncated: Any) -> Any:
    """Whether a live step's time does not follow from the live step before it, from step 1 on."""
    goes_on = ~(terminated | truncated)[:, :-1]
    return mask[:, 1:] & mask[:, :-1] & (time[:, 1:] != (time[:, :-1] + 1) * goes_on)


def check_target(batch: Trajectory, target: Any) -> jax.Array:
    """`target` as an array, if it is [N, T] like the batch, whose layout is checked too."""
    check_layout(batch)
    return check_array("target", target, "[N, T]", batch.reward.shape)


def check_log_prob(batch: Trajectory, log_prob: Any) -> jax.Array:
    """`log_prob` as an array, if it is [N, T] like the batch, whose layout is checked too."""
    check_layout(batch)
    return check_array("log_prob", log_prob, "[N, T]", batch.reward.shape)


def check_traced_finite(name: str, value: jax.Array, mask: jax.Array) -> None:
    """Raise if a traced value is not finite where the mask is true; known values are not read."""
    if value.size == 0 or is_concrete(value, mask):
        return  # reading every reward would make each eager call wait; `checked` does it

    def finding() -> tuple[jax.Array, dict[str, Any]]:
        bad = mask & ~jnp.isfinite(value)
        index = jnp.argmax(jnp.ravel(bad))
        row, step = index // max(value.shape[1], 1), index % max(value.shape[1], 1)
        return ~jnp.any(bad), {"value": jnp.ravel(value)[index], "row": row, "step": step}

    place = "is {value} at trajectory {row}, step {step}"
    check_traced(f"{name} {place}; it must be finite where batch.mask is true", finding)


def check_policy(policy: Any) -> None:
    """Raise if it is not a policy; the error says how to make one of a network."""
    if isinstance(policy, Policy | RecurrentPolicy):
        return
    if isinstance(policy, Estimator):
        raise TypeError(
            "policy must be a pgjax.Policy, got an Estimator; the estimator comes first"
        )
    is_flax = any(kind.__module__.startswith("flax.") for kind in type(policy).__mro__)
    fix = "flax_policy(module)" if is_flax else "softmax_policy(init, logits)"
    raise TypeError(f"policy must be a pgjax.Policy, got {describe(policy)}; pgjax.{fix} makes one")


def check_policy_without_memory(policy: Any) -> None:
    """Raise if it is not a Policy; the error names a RecurrentPolicy as such."""
    check_policy(policy)
    if isinstance(policy, RecurrentPolicy):
        raise TypeError(
            "policy must be a Policy, got a RecurrentPolicy; its memory is carried along the "
            "episode by pgjax.rollout and pgjax.gradient only"
        )


def check_estimator(estimator: Any) -> None:
    """Raise if it is not an Estimator; the error says so if it is a function to be called first."""
    if isinstance(estimator, Estimator):
        return
    name = getattr(estimator, "__name__", None)
    if isinstance(estimator, Policy | RecurrentPolicy):
        name, fix = "a policy", "the policy comes second"
    elif callable(estimator) and name is not None:
        fix = f"call it: {name}(0.99)"
    else:
        fix = "pgjax.reward_to_go(0.99) makes one"
    got = name or describe(estimator)
    raise TypeError(f"estimator must be a pgjax.Estimator, got {got}; {fix}")


def check_members(name: str, values: Any, kind: type, fix: str) -> tuple[Any, ...]:
    """`values` as a tuple, if it is a sequence of instances of the class."""
    needed = f"{name} must be a sequence of {kind.__name__} records"
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{needed}, got {describe(values)}; {fix}")
    members = tuple(values)
    for each in members:
        if not isinstance(each, kind):
            raise TypeError(f"{needed}, got one that holds {describe(each)}; {fix}")
    return members


def check_module(name: str, module: Any) -> None:
    """Raise if it is not callable, and so neither a Flax module nor a function that makes one."""
    if not callable(module):
        raise TypeError(
            f"{name} must be a Flax module, got {describe(module)}; pgjax.MLP(1) is one"
        )


def check_optimizer(optimizer: Any) -> None:
    """Raise if it has no `init` and `update`, as optax's transformations have."""
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise TypeError(
            f"optimizer must be an optax.GradientTransformation, got {describe(optimizer)}; "
            "optax.adam(1e-3) makes one"
        )


def check_estimate(estimator: Any) -> None:
    """Raise if it is neither an Estimator nor a function of parameters and batch."""
    if isinstance(estimator, Estimator):
        return
    makes = returned_by(estimator) is Estimator
    if makes or isinstance(estimator, type) or not callable(estimator):
        fix = f"; call it: {estimator.__name__}(0.99)" if makes else ""
        raise TypeError(
            "estimator must be a pgjax.Estimator or a function (params, batch) -> gradient, got "
            f"{describe(estimator)}{fix}"
        )


def check_params(params: Any, name: str = "params") -> None:
    """Raise if a leaf of the parameters is not floating, and so has no gradient."""
    check_leaves(name, params)
    for path, leaf in jax.tree.leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} must be floating to have a gradient, "
                f"got {dtype}; cast it, or keep it out of the parameters"
            )


def check_leaves(name: str, tree: Any) -> None:
    """Raise if a leaf of a pytree is neither an array nor a number, or a list holds the numbers."""
    if isinstance(tree, Policy | RecurrentPolicy | Estimator):
        raise TypeError(f"{name} must be a pytree of arrays, got {describe(tree)}")
    for path, leaf in jax.tree.leaves_with_path(tree):
        where = name + jax.tree_util.keystr(path)
        if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | complex):
            raise TypeError(f"{where} must be an array, got {describe(leaf)}")
        if not hasattr(leaf, "dtype") and path and hasattr(path[-1], "idx"):
            raise TypeError(
                f"{where} must be an array, got {leaf} in a list; jnp.asarray makes one of a list"
            )


def check_gradient(name: str, tree: Any, like: tuple[str, Any] | None = None) -> None:
    """Raise if a pytree has no leaf, a leaf is not real, or it is not structured as `like`."""
    check_leaves(name, tree)
    leaves = jax.tree.leaves(tree)
    if not leaves and (like is None or jax.tree.leaves(like[1])):
        raise ValueError(f"{name} must have at least one leaf, got {describe(tree)}")
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not _is_real(jnp.result_type(leaf)):
            where = name + jax.tree_util.keystr(path)
            raise TypeError(f"{where} must be real, got {jnp.result_type(leaf)}")
    if like is not None:
        check_like(name, tree, like)


def check_like(name: str, tree: Any, like: tuple[str, Any]) -> None:
    """Raise if a pytree has another structure than `like`, or leaves of other shapes."""
    found, needed = jax.tree.structure(tree), jax.tree.structure(like[1])
    if found != needed:
        raise ValueError(f"{name} must be a pytree like {like[0]}, {needed}, got {found}")
    for (path, x), y in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(like[1]), strict=True):
        needed = getattr(y, "shape", ())
        if jnp.shape(x) != needed:
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"{name}{where} must have the shape of {like[0]}{where}, {needed}, "
                f"got {jnp.shape(x)}"
            )


def check_key(key: Any) -> jax.Array:
    """`key` as a single typed threefry key, made from the bits of a key of another implementation.

    What a threefry key draws depends on that key alone. What "rbg" and "unsafe_rbg" keys draw under
    `vmap` depends on the whole batch too. Micro-batches, windows and devices cut the batch
    differently, and would see other numbers for the same key. Raw uint32 keys are accepted too.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        if key.shape != ():
            raise ValueError(
                f"key must be a single key, got a batch of shape {key.shape}; take one, keys[0]"
            )
        if jax.random.key_impl(key) == THREEFRY:
            return key
        return _as_threefry(jax.random.key_data(key))
    if dtype == jnp.uint32 and key.shape in RAW_KEYS:
        return _as_threefry(jnp.asarray(key))
    raise TypeError(
        f"key must be a jax.random key, got {describe(key)}; make one with jax.random.key(0)"
    )


def _as_threefry(words: jax.Array) -> jax.Array:
    """The threefry key of two words, with any others folded in."""
    key = jax.random.wrap_key_data(words[:2], impl=THREEFRY)
    for word in words[2:]:
        key = jax.random.fold_in(key, word)
    return key


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
