"""What users give a judge, an estimator and a rollout of any form, as functions of one form."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key

from pgjax.enumeration import Function
from pgjax.estimators import gradient
from pgjax.exact.problem import Problem
from pgjax.types import Estimator, Params, Trajectory

Candidate = Estimator | Function | Callable[[Problem], Estimator | Function]
"""An Estimator, a function (params, batch) -> gradient, or a function problem -> either."""

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
        result = resolved(params, batch)
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


def resolve(function: Any, problem: Problem) -> Any:
    """A function of one argument, problem -> x, called; any other function as it is."""
    if not callable(function):
        raise TypeError(
            "candidate must be an Estimator, a function (params, batch) -> gradient, or a function "
            f"problem -> either, got {function!r}"
        )
    required = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind != parameter.KEYWORD_ONLY
    ]
    return function(problem) if len(required) == 1 else function


def library_rollout(problem: Problem, batch_size: int) -> Rollout:
    """`pgjax.rollout` of the problem: batches of K trajectories."""
    from pgjax.rollouts.episodes import rollout  # imports gymnax, which enumeration needs not

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
