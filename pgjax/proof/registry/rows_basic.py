"""Rows of the essentials, REINFORCE and reward-to-go with their baselines, and rows of groups.

Batches of two are one group of two. A group's rows with the term "ratio" have the score's estimate
on-policy; what the clip adds off-policy stands with the terms.
"""

from pgjax.proof.registry.row import Row

ESSENTIALS = (
    Row("REINFORCE", "pgjax.reinforce(γ)", "R", "score", "none"),
    Row(
        "REINFORCE − batch mean",
        "pgjax.reinforce(γ, baseline=pgjax.baselines.batch_mean)",
        weights="R_i − mean, its own return included",
        term="score",
        bias="(K−1)/K of the gradient in a batch of K",
        batch_size=2,
    ),
    Row("RLOO", "pgjax.rloo(γ)", "R_i − mean of the others", "score", "none", batch_size=2),
    Row("reward-to-go", "pgjax.reward_to_go(γ)", "γ^t G_t", "score", "none"),
    Row(
        "reward-to-go − J",
        "pgjax.reward_to_go(γ, baseline=pgjax.baselines.constant(J))",
        weights="γ^t (G_t − J)",
        term="score",
        bias="none",
    ),
    Row(
        "reward-to-go − E[G_t]",
        "pgjax.reward_to_go(γ, baseline=pgjax.baselines.per_time_step(G))",
        weights="γ^t (G_t − E[G_t])",
        term="score",
        bias="none",
    ),
    Row(
        "reward-to-go − V(s_t)",
        "pgjax.reward_to_go(γ, baseline=pgjax.baselines.recorded_value)",
        weights="γ^t (G_t − V(s_t))",
        term="score",
        bias="none",
    ),
    Row(
        "reward-to-go − best b(s_t)",
        "pgjax.reward_to_go(γ, baseline=pgjax.baselines.state_value(b))",
        weights="γ^t (G_t − b(s_t)), b of least variance",
        term="score",
        bias="none",
    ),
    Row(
        "reward-to-go − leave-one-out",
        "pgjax.reward_to_go(γ, baseline=pgjax.baselines.leave_one_out)",
        weights="γ^t (G_it − mean of the others)",
        term="score",
        bias="none",
        batch_size=2,
    ),
    Row(
        "reward-to-go without γ^t",
        "pgjax.mismatched_reward_to_go(γ)",
        weights="G_t, γ^t left out",
        term="score",
        bias="biased when γ < 1; what most code runs",
    ),
    Row(
        "reward-to-go, ratio",
        "pgjax.Estimator(pgjax.weights.reward_to_go(γ), pgjax.terms.importance_ratio)",
        weights="γ^t G_t",
        term="ratio",
        bias="none on-policy, biased off it",
    ),
)

GROUPS = (
    Row(
        "group mean",
        "pgjax.reinforce(γ, baseline=pgjax.baselines.group_mean(pgjax.groups.consecutive(2)))",
        weights="R_i − mean of the group, its own return included",
        term="score",
        bias="(G−1)/G of the gradient in groups of G",
        batch_size=2,
    ),
    Row(
        "group leave-one-out",
        "pgjax.rloo(γ, groups=pgjax.groups.consecutive(2))",
        weights="R_i − mean of the others in the group",
        term="score",
        bias="none",
        batch_size=2,
    ),
    Row(
        "group leave-one-out / std",
        "pgjax.Estimator(pgjax.weights.total_return(γ, "
        "baseline=pgjax.baselines.group_leave_one_out(pgjax.groups.consecutive(2)), "
        "scale=pgjax.baselines.group_deviation(pgjax.groups.consecutive(2))), pgjax.terms.score)",
        weights="(R_i − mean of the others in the group) / (std + ε)",
        term="score",
        bias="biased: the deviation holds the trajectory's own return",
        batch_size=2,
    ),
    Row(
        "GRPO",
        "pgjax.grpo(γ, pgjax.groups.consecutive(2))",
        weights="(R_i − mean) / (std + ε) in the group, / length",
        term="ratio",
        bias="biased: own return in mean and deviation, and the length",
        batch_size=2,
    ),
    Row(
        "Dr. GRPO",
        "pgjax.dr_grpo(γ, pgjax.groups.consecutive(2))",
        weights="R_i − mean of the group, its own return included",
        term="ratio",
        bias="(G−1)/G of the gradient in groups of G",
        batch_size=2,
    ),
)
