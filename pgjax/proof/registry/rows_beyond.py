"""Rows of estimators that are not weights × term, or that sample episodes differently.

Pathwise gradients need actions on a continuum and searches in parameter space need few parameters;
docs/beyond.md has their exact numbers, on problems of their own.
"""

from pgjax.proof.registry.row import Row

BEYOND = (
    Row(
        "all-action, Q^π",
        "pgjax.beyond.all_action_gradient(policy, params, batch, Q(batch), discount=γ)",
        weights="γ^t Q_t(s_t, a), of every action a",
        term="Σ_a π(a)",
        bias="none",
    ),
    Row(
        "all-action, stale Q",
        "pgjax.beyond.all_action_gradient(policy, params, batch, Q_old(batch), discount=γ)",
        weights="γ^t Q_t(s_t, a) of the policy θ/2",
        term="Σ_a π(a)",
        bias="the critic's",
    ),
    Row(
        "all-action, stale Q, corrected",
        "pgjax.beyond.corrected_all_action_gradient"
        "(policy, params, batch, Q_old(batch), discount=γ)",
        weights="the same, and γ^t (G_t − Q_t(s_t, a_t))",
        term="Σ_a π(a), and score",
        bias="none",
    ),
    Row(
        "eligibility traces",
        "pgjax.beyond.trace_gradient(policy, params, batch, discount=γ)",
        weights="γ^t G_t, one reward at a time",
        term="score",
        bias="none",
    ),
    Row(
        "eligibility traces, δ = 0.9",
        "pgjax.beyond.trace_gradient(policy, params, batch, discount=γ, decay=0.9)",
        weights="γ^t Σ_k (0.9 γ)^k r_{t+k}",
        term="score",
        bias="credit fades by δ a step",
    ),
    Row(
        "natural gradient, λ = 0.1",
        "pgjax.beyond.natural_gradient("
        "pgjax.gradient(pgjax.reward_to_go(γ), policy, params, batch), "
        "pgjax.beyond.expected_fisher(policy, params, batch, discount=γ, num_actions=num_actions), "
        "damping=0.1, tolerance=1e-10)",
        weights="γ^t G_t",
        term="score, then (F̂ + λ)⁻¹",
        bias="F̂ is inverted in a batch of K; goes with 1/K",
        batch_size=2,
        estimand="(F + λ)⁻¹∇J",
        truth="pgjax.beyond.exact_natural_gradient(problem, damping=0.1)",
    ),
    Row(
        "reward-to-go, antithetic pairs",
        "pgjax.beyond.antithetic_moments(pgjax.reward_to_go(γ), problem)",
        weights="γ^t G_t, of two on mirrored noise",
        term="score",
        bias="none",
        batch_size=2,
    ),
    Row(
        "leave-one-out, antithetic pairs",
        "pgjax.beyond.antithetic_moments("
        "pgjax.reward_to_go(γ, baseline=pgjax.baselines.leave_one_out), problem)",
        weights="γ^t (G_it − its mirror's)",
        term="score",
        bias="the other is not independent",
        batch_size=2,
    ),
)
