"""Entropy and the KL divergence to a reference, each form held to what it is taken to estimate.

The reference is the suite's other policy, θ/2. A form in the reward, and a bonus or penalty beside
plain reward-to-go, is held to the gradient of the regularised return; the gradient of a form in the
loss, alone, to the local one, with the visitation held fixed.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from pgjax import exact
from pgjax.core.float64 import flatten
from pgjax.core.scores import log_probs
from pgjax.estimators import gradient, reward_to_go
from pgjax.exact.problem import Problem
from pgjax.proof.registry.row import Row
from pgjax.regularization import (
    entropy_gradient,
    k1,
    k2,
    k3,
    sampled_entropy,
    squared_entropy,
    visits,
    with_entropy_reward,
    with_k1_reward,
    with_k2_reward,
    with_k3_reward,
    with_reference,
)
from pgjax.types import Estimator, Params, Term, Trajectory

COEFFICIENT = 0.5
"""β of the rows, in units of reward per nat."""

Estimate = Callable[[Params, Trajectory], Any]
Penalty = Callable[[Trajectory, Any, Any], Trajectory]


def _reference(problem: Problem) -> Float[np.ndarray, "S A"]:
    return exact.action_probabilities(problem.mdp, problem.policy, problem.behaviour)


def _kl_return(problem: Problem) -> np.ndarray:
    found = exact.kl_regularized_gradient(
        *problem.arguments,
        horizon=problem.horizon,
        reference=_reference(problem),
        coefficient=COEFFICIENT,
    )
    return flatten(found)


def _entropy_return(problem: Problem) -> np.ndarray:
    found = exact.entropy_regularized_gradient(
        *problem.arguments, horizon=problem.horizon, coefficient=COEFFICIENT
    )
    return flatten(found)


def _local_kl(problem: Problem) -> np.ndarray:
    found = exact.local_kl_gradient(
        *problem.arguments, horizon=problem.horizon, reference=_reference(problem)
    )
    return flatten(found)


def _local_entropy(problem: Problem) -> np.ndarray:
    return flatten(exact.local_entropy_gradient(*problem.arguments, horizon=problem.horizon))


def _entropy_in_the_reward(problem: Problem) -> Estimate:
    estimator = reward_to_go(problem.mdp.discount)
    return lambda params, batch: gradient(
        estimator, problem.policy, params, with_entropy_reward(batch, COEFFICIENT)
    )


def _entropy_in_the_loss(problem: Problem) -> Estimate:
    """What most code runs, were it not for γ^t."""
    estimator, discount = reward_to_go(problem.mdp.discount), problem.mdp.discount

    def estimate(params: Params, batch: Trajectory) -> Any:
        ascent = gradient(estimator, problem.policy, params, batch)
        bonus = entropy_gradient(problem.policy, params, batch, discount=discount)
        return jax.tree.map(lambda x, y: x + COEFFICIENT * y, ascent, bonus)

    return estimate


def _kl_in_the_reward(penalize: Penalty) -> Callable[[Problem], Estimate]:
    def make(problem: Problem) -> Estimate:
        estimator = reward_to_go(problem.mdp.discount)

        def estimate(params: Params, batch: Trajectory) -> Any:
            reference = log_probs(problem.policy, problem.behaviour, batch)
            penalized = penalize(batch, reference, COEFFICIENT)
            return gradient(estimator, problem.policy, params, penalized)

        return estimate

    return make


def _kl_in_the_loss(term: Term) -> Callable[[Problem], Estimate]:
    """The divergence alone, whose gradient is to be subtracted."""

    def make(problem: Problem) -> Estimate:
        estimator = Estimator(visits(problem.mdp.discount), term)

        def estimate(params: Params, batch: Trajectory) -> Any:
            reference = log_probs(problem.policy, problem.behaviour, batch)
            return gradient(estimator, problem.policy, params, with_reference(batch, reference))

        return estimate

    return make


def _entropy_term(term: Term) -> Callable[[Problem], Estimator]:
    return lambda problem: Estimator(visits(problem.mdp.discount), term)


ROWS: tuple[Row, ...] = (
    Row(
        name="entropy in the reward",
        code="gradient(reward_to_go(γ), policy, params, "
        "regularization.with_entropy_reward(batch, β))",
        weights="γ^t G_t of r − β log π",
        term="score",
        bias="none",
        make=_entropy_in_the_reward,
        estimand="∇E[Σ γ^t (r + β H)]",
        truth=_entropy_return,
    ),
    Row(
        name="entropy bonus in the loss",
        code="gradient(reward_to_go(γ), …) + β regularization.entropy_gradient(…, discount=γ)",
        weights="γ^t G_t, and γ^t",
        term="score, and β H",
        bias="biased: the entropy of later states is not credited",
        make=_entropy_in_the_loss,
        estimand="∇E[Σ γ^t (r + β H)]",
        truth=_entropy_return,
    ),
    Row(
        name="entropy, exact",
        code="regularization.entropy_gradient(policy, params, batch, discount=γ)",
        weights="γ^t",
        term="H",
        bias="none",
        make=lambda problem: (
            lambda params, batch: entropy_gradient(
                problem.policy, params, batch, discount=problem.mdp.discount
            )
        ),
        estimand="Σ d ∇H",
        truth=_local_entropy,
    ),
    Row(
        name="entropy, −(log π)²/2",
        code="Estimator(regularization.visits(γ), regularization.squared_entropy)",
        weights="γ^t",
        term="−(log π)²/2",
        bias="none",
        make=_entropy_term(squared_entropy),
        estimand="Σ d ∇H",
        truth=_local_entropy,
    ),
    Row(
        name="entropy, −log π",
        code="Estimator(regularization.visits(γ), regularization.sampled_entropy)",
        weights="γ^t",
        term="−log π",
        bias="biased: zero in expectation",
        make=_entropy_term(sampled_entropy),
        estimand="Σ d ∇H",
        truth=_local_entropy,
    ),
    Row(
        name="k1 in the reward",
        code="gradient(reward_to_go(γ), policy, params, "
        "regularization.with_k1_reward(batch, reference, β))",
        weights="γ^t G_t of r − β k1",
        term="score",
        bias="none",
        make=_kl_in_the_reward(with_k1_reward),
        estimand="∇E[Σ γ^t (r − β KL)]",
        truth=_kl_return,
    ),
    Row(
        name="k2 in the reward",
        code="gradient(reward_to_go(γ), policy, params, "
        "regularization.with_k2_reward(batch, reference, β))",
        weights="γ^t G_t of r − β k2",
        term="score",
        bias="biased: E[k2] is not the KL, and its own gradient is left out",
        make=_kl_in_the_reward(with_k2_reward),
        estimand="∇E[Σ γ^t (r − β KL)]",
        truth=_kl_return,
    ),
    Row(
        name="k3 in the reward",
        code="gradient(reward_to_go(γ), policy, params, "
        "regularization.with_k3_reward(batch, reference, β))",
        weights="γ^t G_t of r − β k3",
        term="score",
        bias="biased by β Σ d ∇KL(ref‖π)",
        make=_kl_in_the_reward(with_k3_reward),
        estimand="∇E[Σ γ^t (r − β KL)]",
        truth=_kl_return,
    ),
    Row(
        name="k1 in the loss",
        code="gradient(Estimator(regularization.visits(γ), regularization.k1), "
        "policy, params, regularization.with_reference(batch, reference))",
        weights="γ^t",
        term="k1",
        bias="biased: zero in expectation",
        make=_kl_in_the_loss(k1),
        estimand="Σ d ∇KL",
        truth=_local_kl,
    ),
    Row(
        name="k2 in the loss",
        code="gradient(Estimator(regularization.visits(γ), regularization.k2), "
        "policy, params, regularization.with_reference(batch, reference))",
        weights="γ^t",
        term="k2",
        bias="none",
        make=_kl_in_the_loss(k2),
        estimand="Σ d ∇KL",
        truth=_local_kl,
    ),
    Row(
        name="k3 in the loss",
        code="gradient(Estimator(regularization.visits(γ), regularization.k3), "
        "policy, params, regularization.with_reference(batch, reference))",
        weights="γ^t",
        term="k3",
        bias="biased: the mean is Σ d ∇KL(ref‖π), of the other divergence",
        make=_kl_in_the_loss(k3),
        estimand="Σ d ∇KL",
        truth=_local_kl,
    ),
)
