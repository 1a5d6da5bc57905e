"""NNX modules as two pure functions of parameters: `init` and `output`.

Params are the state of `nnx.Param`. All other variables are constants, with the values they had
when the functions were made. The module given is copied and never changed. The copy is in
evaluation mode, `nnx.Module.eval`: dropout is off, and batch statistics are used, not computed.
What the module sows is dropped.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.extend.core import Literal
from jax.interpreters import partial_eval

from pgjax.policies.linen_modules import EVALUATION
from pgjax.records import configured
from pgjax.types import Params

Path = tuple[Any, ...]

CALLS = "jit", "remat2"
"""Operations that call a jaxpr once, on their inputs."""


def nnx_functions(module: Any) -> tuple[Callable[..., Params], Callable[..., Any]]:
    """An NNX module as `init`, (key, observation) -> params, and `output`.

    Args:
        module: a built module, whose parameters `init` returns whatever the key, or a function
            `rngs -> module`.
    """
    from flax import nnx  # slow to import

    if isinstance(module, nnx.Module):
        graph, params, constants = _split(module)
        output = configured(_output, graph=graph, constants=constants)
        return configured(_current, params=params, output=output), output
    graph, _, constants = _built(module, 0)
    output = configured(_output, graph=graph, constants=constants)
    return configured(_init, build=module, output=output), output


def _current(key: Array, observation: Any, *, params: Params, output: Any) -> Params:
    jax.eval_shape(output, params, observation)  # it refuses a module that is not a pure function
    return jax.tree.map(lambda x: x, params)


def _init(key: Array, observation: Any, *, build: Any, output: Any) -> Params:
    return _current(key, observation, params=_built(build, key)[1], output=output)


def _built(build: Any, seed: Any) -> tuple[Any, Params, tuple]:
    from flax import nnx

    module = build(nnx.Rngs(seed))
    if not isinstance(module, nnx.Module):
        raise TypeError(
            "module must be a flax.linen module, a flax.nnx module or a function rngs -> nnx "
            f"module, got a function that returns {module!r}"
        )
    return _split(module)


def _split(module: Any) -> tuple[Any, Params, tuple]:
    """Graph, params, and (other variables,) or () if there are none, of a copy in evaluation."""
    from flax import nnx

    for path, x in nnx.to_flat_state(nnx.state(module)):
        if any(isinstance(leaf, jax.Ref) for leaf in jax.tree.leaves(x)):
            raise ValueError(
                f"module must hold arrays, got a mutable reference in its variable "
                f"{_shown(module, path)}; make it with ref=False"
            )
    module = nnx.clone(module)
    nnx.Module.eval(module)
    nnx.pop(module, nnx.Intermediate)
    graph, params, others = nnx.split(module, nnx.Param, ...)
    return graph, params, (others,) if jax.tree.leaves(others) else ()


def _output(params: Params, observation: Any, *, graph: Any, constants: tuple) -> Any:
    from flax import nnx

    module = nnx.merge(graph, params, *constants, copy=True)
    before = _constants_of(module)
    found = module(observation)
    after = _constants_of(module)
    if _identities(before) != _identities(after):
        _check_pure(params, observation, graph, constants)
    return found


def _constants_of(module: Any) -> dict[Path, list[Any]]:
    """The leaves of every variable that is neither a parameter nor sown, by its path."""
    from flax import nnx

    left_out = nnx.Param, nnx.Intermediate, nnx.Perturbation
    flat = nnx.to_flat_state(nnx.state(module))
    return {path: jax.tree.leaves(x) for path, x in flat if not isinstance(x, left_out)}


def _identities(variables: dict[Path, list[Any]]) -> dict[Path, list[int]]:
    return {path: list(map(id, leaves)) for path, leaves in variables.items()}


def _check_pure(params: Params, observation: Any, graph: Any, constants: tuple) -> None:
    """Raise if a call changes a constant, or if what it returns depends on a number it drew.

    `nnx.jit` and `nnx.remat` write every variable anew; the jaxpr says which ones stay the same.
    The count of an `nnx.Rngs` may change if the result does not read it: a recurrent cell draws
    even for its memory of zeros.
    """
    from flax import nnx

    leaves, structure = jax.tree.flatten(constants)
    numbered = jax.tree.unflatten(structure, range(len(leaves)))
    before = {
        path: jax.tree.leaves(x) for state in numbered for path, x in nnx.to_flat_state(state)
    }
    called: list[Any] = []

    def call(*leaves: Any) -> tuple[Any, dict[Path, list[Any]]]:
        module = nnx.merge(graph, params, *jax.tree.unflatten(structure, leaves), copy=True)
        called.append(module)
        return module(observation), _constants_of(module)

    closed, shapes = jax.make_jaxpr(call, return_shape=True)(*leaves)
    handed = jax.tree.unflatten(jax.tree.structure(shapes), _handed_through(closed.jaxpr))
    of_result = [i < len(jax.tree.leaves(shapes[0])) for i in range(len(closed.jaxpr.outvars))]
    is_read = partial_eval.dce_jaxpr(closed.jaxpr, of_result)[1]
    after = dict(handed[1])
    for path in before | after:
        variable = _find(called[0], path)[-1]
        is_drawn = isinstance(variable, nnx.RngState) and path in before
        is_used = any(is_read[i] for i in before.get(path, []))
        if after.get(path) != before.get(path) and (is_used or not is_drawn):
            raise ValueError(
                f"module {type(called[0]).__name__}: a call changes {_shown(called[0], path)}: "
                f"{EVALUATION}"
            )


def _handed_through(jaxpr: Any) -> list[int]:
    """For each output, the number of the input that it passes on unchanged, or -1 if it is new."""
    number = {x: i for i, x in enumerate(jaxpr.invars)}

    def number_of(x: Any) -> int:
        return -1 if isinstance(x, Literal) else number.get(x, -1)

    for equation in jaxpr.eqns:
        if equation.primitive.name in CALLS:
            inner = equation.params["jaxpr"]
            sources = _handed_through(getattr(inner, "jaxpr", inner))
            for out, i in zip(equation.outvars, sources, strict=True):
                number[out] = number_of(equation.invars[i]) if i >= 0 else -1
    return [number_of(x) for x in jaxpr.outvars]


def _find(module: Any, path: Path) -> list[Any]:
    """The module, every object on the path to a variable, and the variable."""
    found = [module]
    for name in path:
        has = isinstance(name, str) and hasattr(found[-1], name)
        found.append(getattr(found[-1], name) if has else found[-1][name])
    return found


def _shown(module: Any, path: Path) -> str:
    """A variable by its path and type, and the layer that holds it."""
    from flax import nnx

    found = _find(module, path)
    layer = [x for x in found if isinstance(x, nnx.Module)][-1]
    variable = type(found[-1]).__name__ if isinstance(found[-1], nnx.Variable) else "array"
    kind = f"{variable}, of the layer {type(layer).__name__}"
    return f"{'.'.join(map(str, path))!r} ({kind})"
