"""Random numbers for many steps, drawn at once outside the loop over time.

A step of a rollout is a function of keys and of a carry. Part of it, the hashing of keys into
uniform or Gaussian numbers, reads the keys alone. Inside a loop over time that part would run once
for each step, on a few numbers; outside it runs once for all steps. The step's jaxpr shows which
part it is, so this works for any policy and any environment.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, Literal, Var
from jaxtyping import PyTree

LARGEST_DRAW = 64
"""The most numbers that an operation may draw outside the loop: all draws are held at once."""


def split_random_draws(
    function: Callable[[PyTree, PyTree], PyTree], keys: PyTree, carry: PyTree
) -> tuple[Callable[[PyTree], list[Array]], Callable[[list[Array], PyTree], PyTree]]:
    """A function of (keys, carry) as two: `step(draw(keys), carry)` is `function(keys, carry)`.

    Args:
        function: (keys, carry) -> any pytree. Arrays that it closes over are constants.
        keys: an example of the first argument; shapes and dtypes are enough.
        carry: an example of the second.

    Returns:
        `draw`, which computes all that depends on the keys alone, and `step`, which computes the
        rest. Operations with side effects, and those that draw too many numbers, stay in `step`.
    """
    closed, result = jax.make_jaxpr(function, return_shape=True)(keys, carry)
    jaxpr = closed.jaxpr
    num_keys = len(jax.tree.leaves(keys))
    from_keys, from_carry = set(jaxpr.invars[:num_keys]), set(jaxpr.invars[num_keys:])
    drawn, stepped = [], []
    for equation in jaxpr.eqns:
        read = {x for x in equation.invars if not isinstance(x, Literal)}
        keyed = not read.isdisjoint(from_keys)
        large = any(getattr(x.aval, "size", 1) > LARGEST_DRAW for x in equation.outvars)
        if not read.isdisjoint(from_carry) or equation.effects or (keyed and large):
            from_carry.update(equation.outvars)
            stepped.append(equation)
        elif keyed:
            from_keys.update(equation.outvars)
            drawn.append(equation)
        else:  # a constant, cheap enough for both
            drawn.append(equation)
            stepped.append(equation)
    needed = [x for equation in stepped for x in equation.invars] + list(jaxpr.outvars)
    crossing = list(dict.fromkeys(x for x in needed if isinstance(x, Var) and x in from_keys))
    structure = jax.tree.structure(result)
    draw_jaxpr = _part(closed, drawn, jaxpr.invars[:num_keys], crossing)
    step_jaxpr = _part(closed, stepped, [*crossing, *jaxpr.invars[num_keys:]], jaxpr.outvars)

    def draw(keys: PyTree) -> list[Array]:
        return eval_jaxpr(draw_jaxpr, closed.consts, *jax.tree.leaves(keys))

    def step(draws: list[Array], carry: PyTree) -> PyTree:
        out = eval_jaxpr(step_jaxpr, closed.consts, *draws, *jax.tree.leaves(carry))
        return jax.tree.unflatten(structure, out)

    return draw, step


def _part(closed: ClosedJaxpr, equations: list, invars: list, outvars: list) -> Any:
    """The equations as a function, without those that do not contribute to its results."""
    jaxpr, kept = closed.jaxpr, []
    read = {x for x in outvars if isinstance(x, Var)}
    for equation in reversed(equations):
        if equation.effects or not read.isdisjoint(equation.outvars):
            read.update(x for x in equation.invars if isinstance(x, Var))
            kept.insert(0, equation)
    info = jaxpr.debug_info.with_unknown_names()
    return jaxpr.replace(eqns=kept, invars=invars, outvars=outvars, debug_info=info)
