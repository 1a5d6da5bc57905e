"""Estimators and rollouts of all the forms that users may give, as functions of one form."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Key

from pgjax import enumeration
from pgjax.core.float64 import in_float64
from pgjax.enumeration import Function
from pgjax.estimators import gradient
from pgjax.exact.problem import Problem
from pgjax.types import Estimator, Params, Trajectory, signature_of

Candidate = (
    Estimator
    | Function
    | Callable[[Problem], Estimator | Function]
    | Callable[[], Estimator | Function]
)
"""An Estimator, a function (params, batch) -> gradient, or a function problem -> either.

A function without arguments that returns either is accepted too."""

Rollout = Callable[[Params, Key[Array, ""]], Trajectory]
"""(params, key) -> a batch of K trajectories of the policy with these parameters."""


def estimate_on(candidate: Candidate, problem: Problem) -> Function:
    """The candidate as (params, batch) -> gradient, which must have the parameters' structure.

    Args:
        candidate: of any of the forms.
        problem: given to a function of one argument.

    Raises:
        TypeError: if the candidate is neither an Estimator nor a function.
    """
    resolved = candidate if isinstance(candidate, Estimator) else resolve(candidate, problem)
    if isinstance(resolved, Estimator):
        return partial(gradient, resolved, problem.policy)

    def estimate(params: Params, batch: Trajectory) -> Any:
        try:
            result = resolved(params, batch)
        except NEEDS_A_VALUE as error:
            raise TypeError(
                "the candidate must be a function that JAX can trace, but it asks for the value of "
                "an array, as NumPy, float() and `if` do; use jax.numpy instead of numpy, and "
                f"jnp.where instead of `if` ({str(error).splitlines()[0]})"
            ) from error
        expected, got = (
            [(jax.tree_util.keystr(path), jnp.shape(leaf)) for path, leaf in found]
            for found in map(jax.tree.leaves_with_path, (params, result))
        )
        if expected != got:
            raise ValueError(
                f"the estimate must be a pytree like params, {expected}, got {got}; "
                "return the gradient with respect to params"
            )
        return result

    return estimate


NEEDS_A_VALUE = (
    jax.errors.TracerArrayConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
)
"""What JAX raises where the value of a traced array is asked for."""


def resolve(function: Any, problem: Problem) -> Any:
    """The result of a function of problem; a function of (params, batch) or (params, key) itself.

    A function without arguments is called.

    One that can be called either way, as with an optional second argument, is called with the
    problem: it is a function of problem if that gives an Estimator or a function.

    Args:
        function: of either kind.
        problem: to call it with.

    Raises:
        TypeError: if it is not a function.
    """
    if not callable(function):
        raise TypeError(
            "candidate must be an Estimator, a function (params, batch) -> gradient, or a function "
            f"problem -> either, got {function!r}"
        )
    if not _accepts(function, 1):
        return function() if _accepts(function, 0) else function
    if not _accepts(function, 2):
        return function(problem)
    try:
        made = function(problem)
    except Exception:  # it is a function of params, so what it raises here means nothing
        return function
    return made if callable(made) or isinstance(made, Estimator) else function


def _accepts(function: Callable, num_arguments: int) -> bool:
    """Whether the function can be called with so many arguments, by position."""
    try:
        signature_of(function).bind(*range(num_arguments))
    except TypeError:
        return False
    return True


@in_float64
def check_repeats(estimate: Function, problem: Problem, batch_size: int) -> None:
    """Raise if the estimate, called twice on the same batch, answers differently.

    Args:
        estimate: a function (params, batch) -> gradient.
        problem: whose trajectories make the batch.
        batch_size: K.

    Raises:
        ValueError: if the two answers are not the same numbers.
    """
    if enumeration.count(problem) < 10_000:
        listed, probability = enumeration.trajectories(problem)
        members = np.arange(batch_size) % len(probability)
        batch = jax.tree.map(lambda x: x[members], listed)
    else:
        batch = library_rollout(problem, batch_size)(problem.acting_params, jax.random.key(0))
    # Each trace of a new function calls it anew. If both traces are the same program, the answers
    # are equal, and nothing is computed; only a different program has to be compiled.
    traced = [
        jax.make_jaxpr(lambda params, batch: estimate(params, batch))(problem.params, batch)
        for _ in range(2)
    ]
    if str(traced[0]) == str(traced[1]) and _equal(*(program.consts for program in traced)):
        return
    inputs = jax.tree.leaves((problem.params, batch))
    if not _equal(*(jax.jit(jaxpr_as_fun(program))(*inputs) for program in traced)):
        raise ValueError(NOT_PURE)


NOT_PURE = (
    "the candidate must be a pure function, but it answers differently when called twice with the "
    "same parameters and the same batch; draw nothing from NumPy or Python's random, and keep "
    "nothing between calls"
)


def _equal(one: Any, other: Any) -> bool:
    pairs = zip(*map(jax.tree.leaves, (one, other)), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def library_rollout(problem: Problem, batch_size: int) -> Rollout:
    """`pgjax.rollout` of the problem: batches of K trajectories."""
    from pgjax.rollouts.episodes import rollout  # imports gymnax, which enumeration does not need

    def run(params: Params, key: Array) -> Trajectory:
        return rollout(
            problem.policy,
            params,
            problem.mdp,
            key,
            num_trajectories=batch_size,
            num_steps=problem.finite_horizon,
        )

    return run
