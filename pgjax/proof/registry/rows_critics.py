"""Credit from a critic: what it says in place of rewards to come, right or wrong.

The batches carry the exact V_t(s_t). A wrong critic is off by a fixed function of the state,
cos(s)/2 for the state number s; what it does to the gradient is exact too.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from pgjax import terms, weights
from pgjax.core import episode_boundaries as boundaries
from pgjax.estimators import actor_critic, gradient, mismatched_actor_critic, n_step_actor_critic
from pgjax.exact.problem import Problem
from pgjax.proof.registry.row import Row
from pgjax.types import Estimator, Params, Trajectory
from pgjax.weights import Discount

Make = Callable[[Discount], Estimator]


def _right(make: Make) -> Callable[[Problem], Estimator]:
    return lambda problem: make(problem.mdp.discount)


def _wrong(make: Make) -> Callable[[Problem], Callable[[Params, Trajectory], Any]]:
    """The estimate of the same estimator from a batch whose values are wrong."""

    def of_problem(problem: Problem) -> Callable[[Params, Trajectory], Any]:
        estimator = make(problem.mdp.discount)
        states = jnp.arange(problem.mdp.num_states)

        def estimate(params: Params, batch: Trajectory) -> Any:
            value = boundaries.values(batch)
            error = batch.observation @ (jnp.cos(states.astype(value.dtype)) / 2)
            judged = replace(batch, value=value + error)
            return gradient(estimator, problem.policy, params, judged)

        return estimate

    return of_problem


ROWS: tuple[Row, ...] = (
    Row(
        name="GAE(0.95)",
        code="actor_critic(γ, 0.95)",
        weights="γ^t Σ_k (γλ)^k δ_{t+k}",
        term="score",
        bias="none",
        make=_right(lambda γ: actor_critic(γ, 0.95)),
    ),
    Row(
        name="GAE(0.9), wrong V",
        code="actor_critic(γ, 0.9)",
        weights="γ^t Σ_k (γλ)^k δ_{t+k}",
        term="score",
        bias="biased: λ < 1 lets the wrong V in",
        make=_wrong(lambda γ: actor_critic(γ, 0.9)),
    ),
    Row(
        name="GAE(1), wrong V",
        code="actor_critic(γ, 1.0)",
        weights="γ^t (G_t − V(s_t))",
        term="score",
        bias="none",
        make=_wrong(lambda γ: actor_critic(γ, 1.0)),
    ),
    Row(
        name="TD error",
        code="actor_critic(γ, 0.0)",
        weights="γ^t δ_t",
        term="score",
        bias="none",
        make=_right(lambda γ: actor_critic(γ, 0.0)),
    ),
    Row(
        name="TD error, wrong V",
        code="actor_critic(γ, 0.0)",
        weights="γ^t δ_t",
        term="score",
        bias="biased: V is all there is after one reward",
        make=_wrong(lambda γ: actor_critic(γ, 0.0)),
    ),
    Row(
        name="2-step",
        code="n_step_actor_critic(γ, 2)",
        weights="γ^t (r_t + γ r_{t+1} + γ² V(s_{t+2}) − V(s_t))",
        term="score",
        bias="none",
        make=_right(lambda γ: n_step_actor_critic(γ, 2)),
    ),
    Row(
        name="2-step, wrong V",
        code="n_step_actor_critic(γ, 2)",
        weights="γ^t (r_t + γ r_{t+1} + γ² V(s_{t+2}) − V(s_t))",
        term="score",
        bias="biased: by γ² times the error two steps on",
        make=_wrong(lambda γ: n_step_actor_critic(γ, 2)),
    ),
    Row(
        name="λ-return",
        code="Estimator(weights.lambda_return(γ, 0.9), terms.score)",
        weights="γ^t G^λ_t, λ = 0.9",
        term="score",
        bias="none",
        make=_right(lambda γ: Estimator(weights.lambda_return(γ, 0.9), terms.score)),
    ),
    Row(
        name="GAE(0.95) without γ^t",
        code="mismatched_actor_critic(γ, 0.95)",
        weights="Σ_k (γλ)^k δ_{t+k}, γ^t left out",
        term="score",
        bias="biased when γ < 1; what most code runs",
        make=_right(lambda γ: mismatched_actor_critic(γ, 0.95)),
    ),
    Row(
        name="GAE(0.95), whitened",
        code="Estimator(weights.whitened(weights.mismatched_generalized_advantage(γ, 0.95)), "
        "terms.score)",
        weights="(A_t − mean) / std over the batch's steps, γ^t left out",
        term="score",
        bias="biased: mean and deviation hold the step's own advantage",
        make=_right(
            lambda γ: Estimator(
                weights.whitened(weights.mismatched_generalized_advantage(γ, 0.95)), terms.score
            )
        ),
        batch_size=2,
    ),
    Row(
        name="reward-to-go, whitened",
        code="Estimator(weights.whitened(weights.reward_to_go(γ)), terms.score)",
        weights="(γ^t G_t − mean) / std over the batch's steps",
        term="score",
        bias="biased: mean and deviation hold the step's own return",
        make=_right(lambda γ: Estimator(weights.whitened(weights.reward_to_go(γ)), terms.score)),
        batch_size=2,
    ),
    Row(
        name="reward-to-go, centred",
        code="Estimator(weights.centred(weights.reward_to_go(γ)), terms.score)",
        weights="γ^t G_t − mean over the batch's steps",
        term="score",
        bias="biased: the mean holds the step's own return",
        make=_right(lambda γ: Estimator(weights.centred(weights.reward_to_go(γ)), terms.score)),
        batch_size=2,
    ),
)
