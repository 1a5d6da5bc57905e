"""Baselines of least variance, fitted to the batch: cross-fitted, and as others ship them.

At K = 2 a fit has one trajectory to go by, and the same-batch bias is at its largest.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax import Array

from pgjax.baselines import constant, recorded_value
from pgjax.control_variates import (
    cross_fitted,
    observations,
    per_parameter_cross_fitted,
    per_parameter_same_batch,
    same_batch,
    scalar,
    score_products,
    time_steps,
)
from pgjax.enumeration import Function
from pgjax.estimators import gradient, per_trajectory_gradients, reward_to_go
from pgjax.exact.problem import Problem
from pgjax.proof.registry.row import Row
from pgjax.types import Params, Trajectory
from pgjax.weights import returns_to_go

CROSS, SAME = "none", "biased, O(1/K): fitted to its own actions"


def _row(
    name: str, baseline: str, code: str, bias: str, make: Callable[[Problem], Function]
) -> Row:
    return Row(name, code, f"γ^t (G_t − {baseline})", "score", bias, make, batch_size=2)


def _fitted(
    features: Callable[[Trajectory], Array], fit: Callable[..., Array]
) -> Callable[[Problem], Function]:
    def make(problem: Problem) -> Function:
        discount = problem.mdp.discount
        estimator = reward_to_go(discount, baseline=recorded_value)

        def estimate(params: Params, batch: Trajectory) -> Any:
            products = score_products(problem.policy, params, batch, discount=discount)
            value = fit(features(batch), products, returns_to_go(batch, discount))
            return gradient(estimator, problem.policy, params, replace(batch, value=value))

        return estimate

    return make


def _per_parameter(fit: Callable[..., Any]) -> Callable[[Problem], Function]:
    def make(problem: Problem) -> Function:
        discount = problem.mdp.discount
        without, with_one = (reward_to_go(discount, baseline=b) for b in (None, constant(1.0)))

        def estimate(params: Params, batch: Trajectory) -> Any:
            gradients, rest = (
                per_trajectory_gradients(estimator, problem.policy, params, batch)
                for estimator in (without, with_one)
            )
            return fit(gradients, jax.tree.map(lambda x, y: x - y, gradients, rest))

        return estimate

    return make


_CROSS = partial(cross_fitted, folds=2)

ROWS: tuple[Row, ...] = (
    _row(
        "reward-to-go − cross-fitted b",
        "b",
        "value=control_variates.cross_fitted(scalar, …, folds=2)",
        CROSS,
        _fitted(scalar, _CROSS),
    ),
    _row(
        "reward-to-go − same-batch b",
        "b",
        "value=control_variates.same_batch(scalar, …)",
        SAME,
        _fitted(scalar, same_batch),
    ),
    _row(
        "reward-to-go − cross-fitted b(t)",
        "b(t)",
        "value=control_variates.cross_fitted(time_steps, …, folds=2)",
        CROSS,
        _fitted(time_steps, _CROSS),
    ),
    _row(
        "reward-to-go − same-batch b(t)",
        "b(t)",
        "value=control_variates.same_batch(time_steps, …)",
        SAME,
        _fitted(time_steps, same_batch),
    ),
    _row(
        "reward-to-go − cross-fitted b(s_t)",
        "b(s_t)",
        "value=control_variates.cross_fitted(observations, …, folds=2)",
        CROSS,
        _fitted(observations, _CROSS),
    ),
    _row(
        "reward-to-go − same-batch b(s_t)",
        "b(s_t)",
        "value=control_variates.same_batch(observations, …)",
        SAME,
        _fitted(observations, same_batch),
    ),
    _row(
        "reward-to-go − cross-fitted b_p",
        "b_p for each parameter p",
        "control_variates.per_parameter_cross_fitted(A, Z, folds=2)",
        CROSS,
        _per_parameter(partial(per_parameter_cross_fitted, folds=2)),
    ),
    _row(
        "reward-to-go − same-batch b_p",
        "b_p for each parameter p",
        "control_variates.per_parameter_same_batch(A, Z)",
        SAME,
        _per_parameter(per_parameter_same_batch),
    ),
)
