"""Terms other than the score, and batches of another policy: what each row leaves uncorrected.

On-policy the ratio is one, every clip is idle, and all terms have the score's estimate. Off-policy
they differ, and each is biased, because states and later rewards still come from the other policy.
The critic is exact, so that what remains of the bias is the estimator's own.
"""

from pgjax.proof.registry.row import Row

_ADVANTAGE = "pgjax.weights.reward_to_go(γ, baseline=pgjax.baselines.recorded_value)"


def _proximal(name: str, term: str, code: str) -> tuple[Row, Row]:
    """The term with γ^t (G_t − V(s_t)), on the policy's own trajectories and on another's."""
    estimator, weights = f"pgjax.Estimator({_ADVANTAGE}, pgjax.terms.{code})", "γ^t (G_t − V(s_t))"
    biased = "biased: states and later rewards are the other policy's"
    return (
        Row(name, estimator, weights, term, "none on-policy"),
        Row(f"{name}, off-policy", estimator, weights, term, biased, off_policy=True),
    )


TERMS = (
    *_proximal("ratio", "ratio", "importance_ratio"),
    *_proximal("PPO clip", "clip", "ppo_clip(0.1)"),
    *_proximal("clip-higher", "clip", "asymmetric_clip(0.1, 0.15)"),
    *_proximal("dual clip", "clip", "dual_clip(0.1, 1.12)"),
    *_proximal("truncated ratio", "truncated ratio", "truncated_ratio(1.0)"),
    Row(
        "DiCE",
        "pgjax.Estimator(pgjax.weights.reward_to_go(γ), pgjax.terms.dice)",
        weights="γ^t G_t",
        term="DiCE",
        bias="none, nor in any higher derivative",
    ),
    Row(
        "DiCE − V(s_t)",
        f"pgjax.Estimator({_ADVANTAGE}, pgjax.terms.dice)",
        weights="γ^t (G_t − V(s_t))",
        term="DiCE",
        bias="none, nor in any higher derivative",
    ),
    Row(
        "Loaded DiCE − V(s_t)",
        f"pgjax.Estimator({_ADVANTAGE}, pgjax.terms.loaded_dice(0.5))",
        weights="γ^t (G_t − V(s_t))",
        term="Loaded DiCE, λ = 0.5",
        bias="none; with λ < 1 some in higher derivatives",
    ),
)


def _row(name: str, weights: str, credit: str, bias: str, batch_size: int = 1) -> Row:
    code = f"pgjax.Estimator(pgjax.{credit}, pgjax.terms.score)"
    return Row(name, code, weights, "score", bias, batch_size, off_policy=True)


_VTRACE = "off_policy.vtrace(γ, ratio_ceiling=math.inf)"

OFF_POLICY = (
    _row(
        "reward-to-go, off-policy",
        "γ^t G_t",
        "weights.reward_to_go(γ)",
        "biased: nothing is corrected",
    ),
    _row("full-trajectory IS", "ρ_{0:T} R", "off_policy.trajectory_importance(γ)", "none"),
    _row(
        "full-trajectory IS, ρ ≤ 1",
        "min(ρ_{0:T}, 1) R",
        "off_policy.trajectory_importance(γ, ceiling=1.0)",
        "biased by what is held",
    ),
    _row(
        "full-trajectory IS, self-normalised",
        "ρ_i/(mean of ρ) R_i",
        "off_policy.normalised_trajectory_importance(γ)",
        "biased, O(1/K)",
        batch_size=2,
    ),
    _row("per-decision IS", "γ^t Σ_k γ^(k−t) ρ_{0:k} r_k", "off_policy.per_decision(γ)", "none"),
    _row(
        "per-decision IS − V(s_t)",
        "the same − γ^t ρ_{0:t} V(s_t)",
        "off_policy.per_decision(γ, baseline=pgjax.baselines.recorded_value)",
        "none",
    ),
    _row(
        "per-decision IS, ρ ≤ 1",
        "γ^t Σ_k γ^(k−t) min(ρ_{0:k}, 1) r_k",
        "off_policy.per_decision(γ, ceiling=1.0)",
        "biased by what is held",
    ),
    _row(
        "per-decision IS, self-normalised",
        "γ^t Σ_k γ^(k−t) ρ_{0:k}/(mean of ρ_{0:k}) r_k",
        "off_policy.normalised_per_decision(γ)",
        "biased, O(1/K)",
        batch_size=2,
    ),
    _row(
        "V-trace",
        "γ^t ρ_t (r_t + γ v_{t+1} − V(s_t)), ρ̄ = c̄ = 1",
        "off_policy.vtrace(γ)",
        "biased: ratios held at 1, states left to μ",
    ),
    _row("V-trace, ρ̄ = ∞", "the same, ρ̄ = ∞", _VTRACE, "biased: states left to μ"),
    _row(
        "V-trace, ρ̄ = ∞, π's states",
        "ρ_{0:t−1} times the same",
        f"off_policy.on_target_states(pgjax.{_VTRACE})",
        "none with the exact V",
    ),
    _row(
        "Retrace actor-critic",
        "γ^t ρ_t (G_t − V(s_t)), G of Retrace",
        "off_policy.retrace(γ)",
        "biased: states left to μ",
    ),
    _row(
        "Retrace, π's states",
        "ρ_{0:t−1} times the same",
        "off_policy.on_target_states(pgjax.off_policy.retrace(γ))",
        "none with the exact Q",
    ),
    _row(
        "tree-backup, π's states",
        "ρ_{0:t−1} γ^t ρ_t (G_t − V(s_t)), G of tree-backup",
        "off_policy.on_target_states(pgjax.off_policy.tree_backup(γ))",
        "none with the exact Q",
    ),
)
