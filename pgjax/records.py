"""Records that JAX takes as arguments: their numbers are leaves, their functions are static.

`record` makes a class a frozen dataclass and a pytree. `configured` binds settings to a plain
function, as `functools.partial` does, and returns a record too. So a function of records can be
compiled, mapped over the numbers in them, and differentiated with respect to them. Two records with
equal settings are equal, so that a new one with the same settings does not compile again.

A value is a leaf if it is a floating or complex number, an array, a `jax.tree_util.Partial`, a
record that holds numbers, or a pytree of these. Anything else is static: functions, integers,
strings, None. Static values are compared with ==, or by identity if they have no hash. The leaves
of a record are decided once, and do not change.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.tree_util import GetAttrKey, Partial

T = TypeVar("T")
NUMBERS = float, complex, np.ndarray, np.generic, Array
"""Types of leaves; a tracer is an Array too."""


def static(**options: Any) -> Any:
    """A field of a record that is never a leaf: a size, a shape, a name."""
    return field(metadata={"static": True}, **options)


def data(**options: Any) -> Any:
    """A field of a record whose leaves are always traced, integers included."""
    return field(metadata={"data": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(field, static, data))
def record(cls: type[T]) -> type[T]:
    """A frozen dataclass that is a pytree, compared by its settings and printed with them.

    `__post_init__` runs when a user makes a record, and not when JAX rebuilds one around tracers.

    Args:
        cls: a class with annotated fields.

    Returns:
        The class, registered with JAX.

    Example:
        >>> @record
        ... class Line:
        ...     slope: float
        ...     power: int = static(default=1)
        >>> jax.jit(lambda line, x: line.slope * x**line.power)(Line(2.0, 3), 2.0)
        Array(16., dtype=float32, weak_type=True)
        >>> Line(2.0), Line(2.0) == Line(2.0), Line(2.0) == Line(3.0)
        (Line(slope=2.0), True, False)
    """
    made: Any = dataclass(frozen=True, eq=False, repr=False)(cls)
    declared = {f.name: f.metadata for f in fields(made)}
    defaults = {f.name: f.default for f in fields(made)}

    def program(self: Any) -> "_Program":
        found = self.__dict__.get("_program")
        if found is None:
            values = {name: getattr(self, name) for name in declared}
            found = _Program(values, (n for n, x in values.items() if _is_leaf(x, declared[n])))
            object.__setattr__(self, "_program", found)
        return found

    def rebuild(program: "_Program", leaves: Iterable[Any]) -> Any:
        new = object.__new__(made)
        for name, value in (*program.static, *zip(program.leaves, leaves, strict=True)):
            object.__setattr__(new, name, value)
        object.__setattr__(new, "_program", program)
        return new

    def show(self: Any) -> str:
        shown = {n: getattr(self, n) for n in declared}
        return f"{made.__name__}({_shown_settings(shown, defaults)})"

    made.__eq__, made.__hash__ = _equal, _hash_of_program
    if "__repr__" not in vars(cls):
        made.__repr__ = show
    _register(made, program, getattr, rebuild)
    return made


@dataclass(frozen=True, eq=False, repr=False)
class Configured:
    """A plain function and its settings: (*arguments) -> function(*arguments, **settings).

    Attributes:
        function: defined once, at the top of a module; it is static.
        settings: by keyword.
    """

    function: Callable[..., Any]
    settings: dict[str, Any]

    def __call__(self, *arguments: Any, **others: Any) -> Any:
        """The function's value at these arguments."""
        return self.function(*arguments, **self.settings, **others)

    def __repr__(self) -> str:
        name = _shown(self.function).lstrip("_")
        return f"{name}({_shown_settings(self.settings, {})})"

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    def __hash__(self) -> int:
        return _hash_of_program(self)


def configured(function: Callable[..., Any], **settings: Any) -> Configured:
    """A record of a function and its settings; see `Configured`.

    Args:
        function: defined at the top of a module, because it is compared by identity.
        settings: its keyword arguments.

    Example:
        >>> def _scaled(x, *, factor):
        ...     return factor * x
        >>> double = configured(_scaled, factor=2.0)
        >>> double, double(3.0), double == configured(_scaled, factor=2.0)
        (scaled(factor=2.0), 6.0, True)
        >>> jax.grad(lambda double: double(3.0))(double).settings
        {'factor': Array(3., dtype=float32, weak_type=True)}
    """
    return Configured(function, settings)


class _Program:
    """The static part of a record, equal for records that differ in their numbers only."""

    def __init__(self, values: dict[str, Any], leaves: Iterable[str]) -> None:
        self.leaves = tuple(leaves)
        self.static = tuple((n, x) for n, x in values.items() if n not in self.leaves)
        self.hash = hash((self.leaves, tuple((n, _hash(x)) for n, x in self.static)))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, _Program)
            and self.hash == other.hash
            and self.leaves == other.leaves
            and len(self.static) == len(other.static)
            and all(
                mine[0] == theirs[0] and _is_same(mine[1], theirs[1])
                for mine, theirs in zip(self.static, other.static, strict=True)
            )
        )

    def __hash__(self) -> int:
        return self.hash


def _configured_program(self: Configured) -> _Program:
    found = self.__dict__.get("_program")
    if found is None:
        names = [name for name, x in self.settings.items() if _is_leaf(x, {})]
        found = _Program({"function": self.function, **self.settings}, names)
        object.__setattr__(self, "_program", found)
    return found


def _configured_setting(self: Configured, name: str) -> Any:
    return self.settings[name]


def _rebuild_configured(program: _Program, leaves: Iterable[Any]) -> Configured:
    settings = dict(program.static) | dict(zip(program.leaves, leaves, strict=True))
    new = Configured(settings.pop("function"), settings)
    object.__setattr__(new, "_program", program)
    return new


def _register(cls: Any, program: Callable, setting: Callable, rebuild: Callable) -> None:
    def flatten(self: Any) -> tuple[tuple[Any, ...], _Program]:
        found = program(self)
        return tuple(setting(self, name) for name in found.leaves), found

    def flatten_with_keys(self: Any) -> tuple[tuple[Any, ...], _Program]:
        found = program(self)
        return tuple((GetAttrKey(name), setting(self, name)) for name in found.leaves), found

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, rebuild, flatten)
    _RECORDS.add(cls)


_RECORDS: set[type] = set()
_register(Configured, _configured_program, _configured_setting, _rebuild_configured)


def as_record(function: Any) -> Any:
    """A record of a function; a record, or a `jax.tree_util.Partial`, is returned unchanged."""
    return (
        function if is_record(function) or isinstance(function, Partial) else configured(function)
    )


def is_record(value: Any) -> bool:
    """Whether a value is a record."""
    return type(value) in _RECORDS


def _is_leaf(value: Any, declared: Any) -> bool:
    if "static" in declared:
        return False
    if "data" in declared or isinstance(value, (*NUMBERS, Partial)):
        return True
    if is_record(value):  # one without numbers is compared once, and not flattened
        return bool(jax.tree.leaves(value))
    if value is None or callable(value) or isinstance(value, bool | int | str):
        return False
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(is_record(x) or isinstance(x, NUMBERS) for x in leaves)


def _equal(self: Any, other: object) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    (mine, structure), (theirs, other_structure) = map(jax.tree.flatten, (self, other))
    return structure == other_structure and all(map(_is_same_leaf, mine, theirs))


def _hash_of_program(self: Any) -> int:
    return hash(jax.tree.structure(self))


def _is_same_leaf(mine: Any, theirs: Any) -> bool:
    if mine is theirs:
        return True
    if any(isinstance(x, Tracer) for x in (mine, theirs)):
        return False
    if _is_key(mine) and _is_key(theirs):
        with jax.ensure_compile_time_eval():  # the two are known, even where JAX is tracing
            mine, theirs = map(jax.random.key_data, (mine, theirs))
    return np.array_equal(np.asarray(mine), np.asarray(theirs))


def _is_key(x: Any) -> bool:
    return isinstance(x, Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _is_same(mine: Any, theirs: Any) -> bool:
    if mine is theirs:
        return True
    if type(mine) is not type(theirs) or not (_has_hash(mine) and _has_hash(theirs)):
        return False
    return bool(mine == theirs)


def _has_hash(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _hash(value: Any) -> int:
    return hash(value) if _has_hash(value) else id(value)


def _shown_settings(settings: dict[str, Any], defaults: dict[str, Any]) -> str:
    shown = {
        n: x for n, x in settings.items() if x is not None and not _is_default(x, defaults.get(n))
    }
    return ", ".join(f"{name}={_shown(x)}" for name, x in shown.items())


def _is_default(value: Any, default: Any) -> bool:
    return value is None or (not isinstance(value, Array | np.ndarray) and value is default)


def _shown(value: Any) -> str:
    if isinstance(value, Array | np.ndarray) and np.ndim(value):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, partial):
        return f"partial({_shown(value.func)})"
    if callable(value) and not is_record(value):
        return getattr(value, "__name__", repr(value))
    return repr(value)
