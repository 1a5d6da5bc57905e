"""The family that everyone starts with: REINFORCE, reward-to-go, and what is subtracted."""

import jax.numpy as jnp

from pgjax import terms, weights
from pgjax.baselines import (
    batch_mean,
    constant,
    leave_one_out,
    per_time_step,
    recorded_value,
    state_value,
)
from pgjax.estimators import mismatched_reward_to_go, reinforce, reward_to_go, rloo
from pgjax.proof.registry.row import Row, least_variance_value, mean_return, mean_returns_to_go
from pgjax.types import Estimator

ROWS: tuple[Row, ...] = (
    Row(
        name="REINFORCE",
        code="reinforce(γ)",
        weights="R",
        term="score",
        bias="none",
        make=lambda problem: reinforce(problem.mdp.discount),
    ),
    Row(
        name="REINFORCE − batch mean",
        code="reinforce(γ, baseline=batch_mean)",
        weights="R_i − mean, its own return included",
        term="score",
        bias="shrinks by (K−1)/K in a batch of K",
        make=lambda problem: reinforce(problem.mdp.discount, baseline=batch_mean),
        batch_size=2,
    ),
    Row(
        name="RLOO",
        code="rloo(γ)",
        weights="R_i − mean of the others",
        term="score",
        bias="none",
        make=lambda problem: rloo(problem.mdp.discount),
        batch_size=2,
    ),
    Row(
        name="reward-to-go",
        code="reward_to_go(γ)",
        weights="γ^t G_t",
        term="score",
        bias="none",
        make=lambda problem: reward_to_go(problem.mdp.discount),
    ),
    Row(
        name="reward-to-go − J",
        code="reward_to_go(γ, baseline=constant(J))",
        weights="γ^t (G_t − J)",
        term="score",
        bias="none",
        make=lambda problem: reward_to_go(
            problem.mdp.discount, baseline=constant(mean_return(problem))
        ),
    ),
    Row(
        name="reward-to-go − E[G_t]",
        code="reward_to_go(γ, baseline=per_time_step(G))",
        weights="γ^t (G_t − E[G_t])",
        term="score",
        bias="none",
        make=lambda problem: reward_to_go(
            problem.mdp.discount, baseline=per_time_step(jnp.asarray(mean_returns_to_go(problem)))
        ),
    ),
    Row(
        name="reward-to-go − V(s_t)",
        code="reward_to_go(γ, baseline=recorded_value)",
        weights="γ^t (G_t − V(s_t))",
        term="score",
        bias="none",
        make=lambda problem: reward_to_go(problem.mdp.discount, baseline=recorded_value),
    ),
    Row(
        name="reward-to-go − best b(s_t)",
        code="reward_to_go(γ, baseline=state_value(b))",
        weights="γ^t (G_t − b(s_t)), b of least variance",
        term="score",
        bias="none",
        make=lambda problem: reward_to_go(
            problem.mdp.discount, baseline=state_value(least_variance_value(problem))
        ),
    ),
    Row(
        name="reward-to-go − leave-one-out",
        code="reward_to_go(γ, baseline=leave_one_out)",
        weights="γ^t (G_it − mean of the others)",
        term="score",
        bias="none",
        make=lambda problem: reward_to_go(problem.mdp.discount, baseline=leave_one_out),
        batch_size=2,
    ),
    Row(
        name="reward-to-go without γ^t",
        code="mismatched_reward_to_go(γ)",
        weights="G_t, γ^t left out",
        term="score",
        bias="biased when γ < 1; what most code runs",
        make=lambda problem: mismatched_reward_to_go(problem.mdp.discount),
    ),
    Row(
        name="reward-to-go, ratio",
        code="Estimator(weights.reward_to_go(γ), terms.importance_ratio)",
        weights="γ^t G_t",
        term="ratio",
        bias="none on-policy, biased off it",
        make=lambda problem: Estimator(
            weights.reward_to_go(problem.mdp.discount), terms.importance_ratio
        ),
    ),
)
