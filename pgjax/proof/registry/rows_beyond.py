"""What is no weights × term, or comes in another way, where the suite has a meaning for it.

Pathwise gradients need actions on a continuum and searches in parameter space need few parameters;
docs/beyond.md has their exact numbers, on problems of their own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pgjax import exact
from pgjax.baselines import leave_one_out
from pgjax.beyond.all_action import all_action_gradient, corrected_all_action_gradient
from pgjax.beyond.fisher import expected_fisher
from pgjax.beyond.natural import exact_natural_gradient, natural_gradient
from pgjax.beyond.pairs import antithetic_moments
from pgjax.beyond.traces import trace_gradient
from pgjax.enumeration import Function
from pgjax.estimators import gradient, reward_to_go
from pgjax.exact.problem import Problem
from pgjax.proof.registry.row import Row
from pgjax.types import Moments, Params, Trajectory

DAMPING = 0.1
"""λ of the natural gradient's row."""


def action_values(problem: Problem) -> Callable[[Trajectory], Any]:
    """Q_t(s_t, ·) of the problem's policy for every step of a batch.

    Args:
        problem: with states one-hot.

    Returns:
        batch -> [N, T, A].

    Bias: exact.
    """
    return _looked_up(exact.action_values(*problem.arguments, horizon=problem.horizon))


def stale_action_values(problem: Problem) -> Callable[[Trajectory], Any]:
    """The same of the policy with θ/2: what a critic says that has not followed yet.

    Args:
        problem: with states one-hot.

    Returns:
        batch -> [N, T, A].

    Bias: does not apply.
    """
    mdp, policy = problem.mdp, problem.policy
    return _looked_up(exact.action_values(mdp, policy, problem.behaviour, horizon=problem.horizon))


def _looked_up(table: np.ndarray) -> Callable[[Trajectory], Any]:
    return lambda batch: jnp.einsum("nts,tsa->nta", batch.observation, jnp.asarray(table))


def _all_action(problem: Problem) -> Function:
    values, discount = action_values(problem), problem.mdp.discount
    return lambda params, batch: all_action_gradient(
        problem.policy, params, batch, values(batch), discount=discount
    )


def _all_action_of_a_stale_critic(problem: Problem) -> Function:
    values, discount = stale_action_values(problem), problem.mdp.discount
    return lambda params, batch: all_action_gradient(
        problem.policy, params, batch, values(batch), discount=discount
    )


def _corrected(problem: Problem) -> Function:
    values, discount = stale_action_values(problem), problem.mdp.discount
    return lambda params, batch: corrected_all_action_gradient(
        problem.policy, params, batch, values(batch), discount=discount
    )


def _traces(problem: Problem, decay: float) -> Function:
    discount = problem.mdp.discount
    return lambda params, batch: trace_gradient(
        problem.policy, params, batch, discount=discount, decay=decay
    )


def _natural(problem: Problem) -> Function:
    discount, num_actions = problem.mdp.discount, problem.mdp.num_actions
    estimator = reward_to_go(discount)

    def estimate(params: Params, batch: Trajectory) -> Any:
        product = expected_fisher(
            problem.policy, params, batch, discount=discount, num_actions=num_actions
        )
        slope = gradient(estimator, problem.policy, params, batch)
        return natural_gradient(slope, product, damping=DAMPING, tolerance=1e-10)

    return estimate


def _natural_truth(problem: Problem) -> Float[np.ndarray, "P"]:
    return exact_natural_gradient(*problem.arguments, horizon=problem.horizon, damping=DAMPING)


def _antithetic(problem: Problem) -> Moments:
    estimator = reward_to_go(problem.mdp.discount)
    return antithetic_moments(estimator, *problem.arguments, horizon=problem.horizon)


def _antithetic_leave_one_out(problem: Problem) -> Moments:
    estimator = reward_to_go(problem.mdp.discount, baseline=leave_one_out)
    return antithetic_moments(estimator, *problem.arguments, horizon=problem.horizon)


ROWS: tuple[Row, ...] = (
    Row(
        name="all-action, Q^π",
        code="beyond.all_action_gradient(policy, params, batch, Q, discount=γ)",
        weights="γ^t Q_t(s_t, a), of every action a",
        term="Σ_a π(a)",
        bias="none",
        make=_all_action,
    ),
    Row(
        name="all-action, stale Q",
        code="beyond.all_action_gradient(policy, params, batch, Q_old, discount=γ)",
        weights="γ^t Q_t(s_t, a) of the policy θ/2",
        term="Σ_a π(a)",
        bias="the critic's",
        make=_all_action_of_a_stale_critic,
    ),
    Row(
        name="all-action, stale Q, corrected",
        code="beyond.corrected_all_action_gradient(policy, params, batch, Q_old, discount=γ)",
        weights="the same, and γ^t (G_t − Q_t(s_t, a_t))",
        term="Σ_a π(a), and score",
        bias="none",
        make=_corrected,
    ),
    Row(
        name="eligibility traces",
        code="beyond.trace_gradient(policy, params, batch, discount=γ)",
        weights="γ^t G_t, one reward at a time",
        term="score",
        bias="none",
        make=lambda problem: _traces(problem, 1.0),
    ),
    Row(
        name="eligibility traces, δ = 0.9",
        code="beyond.trace_gradient(policy, params, batch, discount=γ, decay=0.9)",
        weights="γ^t Σ_k (0.9 γ)^k r_{t+k}",
        term="score",
        bias="credit fades by δ a step",
        make=lambda problem: _traces(problem, 0.9),
    ),
    Row(
        name="natural gradient, λ = 0.1",
        code="beyond.natural_gradient(gradient, beyond.expected_fisher(…), damping=0.1)",
        weights="γ^t G_t",
        term="score, then (F̂ + λ)⁻¹",
        bias="F̂ is inverted in a batch of K; goes with 1/K",
        make=_natural,
        batch_size=2,
        estimand="(F + λ)⁻¹∇J",
        truth=_natural_truth,
    ),
    Row(
        name="reward-to-go, antithetic pairs",
        code="reward_to_go(γ) on beyond.antithetic_rollout(…)",
        weights="γ^t G_t, of two on mirrored noise",
        term="score",
        bias="none",
        make=lambda problem: partial(gradient, reward_to_go(problem.mdp.discount), problem.policy),
        batch_size=2,
        moments=_antithetic,
    ),
    Row(
        name="leave-one-out, antithetic pairs",
        code="reward_to_go(γ, baseline=leave_one_out) on beyond.antithetic_rollout(…)",
        weights="γ^t (G_it − its mirror's)",
        term="score",
        bias="the other is not independent",
        make=lambda problem: partial(
            gradient,
            reward_to_go(problem.mdp.discount, baseline=leave_one_out),
            problem.policy,
        ),
        batch_size=2,
        moments=_antithetic_leave_one_out,
    ),
)
