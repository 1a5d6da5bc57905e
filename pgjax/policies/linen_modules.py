"""Linen modules as two pure functions of parameters: `init` and `output`.

Params are `{"params": ...}` and nothing else. Other collections, such as batch statistics, are
constants. A bound module, `module.bind(variables)`, brings its own constants. Those of any other
module are made by `module.init` from `jax.random.key(0)` and an observation of zeros.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors, linen
from jax import Array

from pgjax.core.compilation import jit_once
from pgjax.core.validation import is_concrete
from pgjax.records import configured
from pgjax.types import Params

EVALUATION = (
    "a network must be a function of its parameters and the observation alone. The usual fix is "
    "evaluation mode: deterministic=True for dropout, use_running_average=True for batch "
    "statistics, decode=False for a cache; a state to carry along the episode needs "
    "pgjax.recurrent_policy"
)


def linen_functions(
    module: linen.Module, arguments: Callable[..., tuple] | None = None
) -> tuple[Callable[..., Params], Callable[..., Any]]:
    """A linen module as `init`, (key, observation) -> params, and `output`.

    Args:
        module: if it is bound, `init` returns its own parameters, whatever the key.
        arguments: observation -> the module's arguments; None calls it with the observation.
    """
    bound = None
    if module.scope is not None:
        module, variables = module.unbind()
        bound = dict(variables)
    constants = _others(bound) if bound else None
    output = configured(_apply, module=module, constants=constants or None)
    own = None if bound is None else _only_params(bound)
    init = configured(_init, module=module, output=output, own=own, arguments=arguments)
    return init, output


def _init(
    key: Array, observation: Any, *, module: linen.Module, output: Any, own: Any, arguments: Any
) -> Params:
    called_with = (observation,) if arguments is None else arguments(observation)
    with _plain_errors(module):
        params = _fresh(module, key, called_with) if own is None else own
    jax.eval_shape(output, params, *called_with)  # it refuses a module that is not a pure function
    return params


def _fresh(module: linen.Module, key: Array, called_with: tuple) -> Params:
    """Fresh parameters from one compiled program, where eager code would compile each operation.

    Inside a traced function, or if the module cannot be hashed, they are drawn directly.
    """
    if not is_concrete(key, called_with, jnp.zeros(())):  # under jit even a constant is traced
        return _drawn(module, key, called_with)
    try:
        program = _program(module)
    except TypeError:  # a module that has no hash
        return _drawn(module, key, called_with)
    return program(key, called_with)


def _drawn(module: linen.Module, key: Array, called_with: tuple) -> Params:
    return _only_params(module.init(key, *called_with))


@lru_cache(maxsize=256)
def _program(module: linen.Module) -> Callable[..., Params]:
    return jit_once(partial(_drawn, module))


def _apply(params: Params, *called_with: Any, module: linen.Module, constants: Any) -> Any:
    if not isinstance(params, Mapping) or set(params) != {"params"}:
        keys = sorted(params) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(
            f"params of a linen module must hold the 'params' collection alone, got {keys}; pass "
            "what init returned, or {'params': variables['params']}. Other variables are "
            "constants of the network: flax_policy(module.bind(variables))"
        )
    if constants is None:
        constants = _initial_constants(module, called_with)
    with _plain_errors(module):
        return module.apply({**constants, **params}, *called_with)


def _only_params(variables: Any) -> Params:
    return {"params": variables.get("params", {})}


def _others(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in variables.items() if name != "params"}


@contextmanager
def _plain_errors(module: linen.Module) -> Iterator[None]:
    """Raise a ValueError in place of Flax's errors; it names the module and the fix."""
    try:
        yield
    except (errors.InvalidRngError, errors.ModifyScopeVariableError) as error:
        raise ValueError(f"module {type(module).__name__}: {_first(error)}: {EVALUATION}") from None
    except errors.FlaxError as error:
        raise ValueError(
            f"params, or the variables that the module is bound to, do not fit the module "
            f"{type(module).__name__}: {_first(error)}; pass what init returned"
        ) from None


def _first(error: Exception) -> str:
    """Flax's sentence, without the address of its page."""
    return str(error).split(" (https://")[0].rstrip(".")


def _initial_constants(module: linen.Module, called_with: tuple) -> dict[str, Any]:
    """The collections other than params of a module that is not bound."""
    leaves, structure = jax.tree.flatten(called_with)
    shapes = tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)
    arguments = module, structure, shapes, jnp.result_type(float)
    try:
        return _computed_once(*arguments)
    except TypeError:  # a module that has no hash
        return _computed_once.__wrapped__(*arguments)


@lru_cache(maxsize=256)
def _computed_once(
    module: linen.Module, structure: Any, shapes: tuple, precision: Any
) -> dict[str, Any]:
    @jax.jit
    def init(key: Array, leaves: list[Any]) -> dict[str, Any]:
        return _others(module.init(key, *jax.tree.unflatten(structure, leaves)))

    arguments = jax.eval_shape(jax.random.key, 0), [np.zeros(*x) for x in shapes]

    # Fresh parameters may be narrower than the observation, although those in use are not.
    with _plain_errors(module), jax.numpy_dtype_promotion("standard"):
        if not jax.eval_shape(init, *arguments):
            return {}
        program = init.lower(*arguments).compile()
    with jax.ensure_compile_time_eval():  # concrete, also in a traced function
        return program(jax.random.key(0), arguments[1])
