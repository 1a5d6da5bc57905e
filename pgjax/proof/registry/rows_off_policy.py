"""Off-policy: batches are another policy's, and each row says what it leaves uncorrected.

The critic is exact, so that what remains of the bias is the estimator's own.
"""

import math

from pgjax import terms, weights
from pgjax.baselines import recorded_value
from pgjax.proof.registry.row import Row
from pgjax.types import Estimator
from pgjax.weights import off_policy

ROWS: tuple[Row, ...] = (
    Row(
        name="reward-to-go, off-policy",
        code="Estimator(weights.reward_to_go(γ), terms.score)",
        weights="γ^t G_t",
        term="score",
        bias="biased: nothing is corrected",
        make=lambda problem: Estimator(weights.reward_to_go(problem.mdp.discount), terms.score),
        off_policy=True,
    ),
    Row(
        name="full-trajectory IS",
        code="Estimator(off_policy.trajectory_importance(γ), terms.score)",
        weights="ρ_{0:T} R",
        term="score",
        bias="none",
        make=lambda problem: Estimator(
            off_policy.trajectory_importance(problem.mdp.discount), terms.score
        ),
        off_policy=True,
    ),
    Row(
        name="full-trajectory IS, ρ ≤ 1",
        code="Estimator(off_policy.trajectory_importance(γ, ceiling=1.0), terms.score)",
        weights="min(ρ_{0:T}, 1) R",
        term="score",
        bias="biased by what is held",
        make=lambda problem: Estimator(
            off_policy.trajectory_importance(problem.mdp.discount, ceiling=1.0), terms.score
        ),
        off_policy=True,
    ),
    Row(
        name="full-trajectory IS, self-normalised",
        code="Estimator(off_policy.normalised_trajectory_importance(γ), terms.score)",
        weights="ρ_i/(mean of ρ) R_i",
        term="score",
        bias="biased, O(1/K)",
        make=lambda problem: Estimator(
            off_policy.normalised_trajectory_importance(problem.mdp.discount), terms.score
        ),
        batch_size=2,
        off_policy=True,
    ),
    Row(
        name="per-decision IS",
        code="Estimator(off_policy.per_decision(γ), terms.score)",
        weights="γ^t Σ_k γ^(k−t) ρ_{0:k} r_k",
        term="score",
        bias="none",
        make=lambda problem: Estimator(off_policy.per_decision(problem.mdp.discount), terms.score),
        off_policy=True,
    ),
    Row(
        name="per-decision IS − V(s_t)",
        code="Estimator(off_policy.per_decision(γ, baseline=recorded_value), terms.score)",
        weights="the same − γ^t ρ_{0:t} V(s_t)",
        term="score",
        bias="none",
        make=lambda problem: Estimator(
            off_policy.per_decision(problem.mdp.discount, baseline=recorded_value), terms.score
        ),
        off_policy=True,
    ),
    Row(
        name="per-decision IS, ρ ≤ 1",
        code="Estimator(off_policy.per_decision(γ, ceiling=1.0), terms.score)",
        weights="γ^t Σ_k γ^(k−t) min(ρ_{0:k}, 1) r_k",
        term="score",
        bias="biased by what is held",
        make=lambda problem: Estimator(
            off_policy.per_decision(problem.mdp.discount, ceiling=1.0), terms.score
        ),
        off_policy=True,
    ),
    Row(
        name="per-decision IS, self-normalised",
        code="Estimator(off_policy.normalised_per_decision(γ), terms.score)",
        weights="γ^t Σ_k γ^(k−t) ρ_{0:k}/(mean of ρ_{0:k}) r_k",
        term="score",
        bias="biased, O(1/K)",
        make=lambda problem: Estimator(
            off_policy.normalised_per_decision(problem.mdp.discount), terms.score
        ),
        batch_size=2,
        off_policy=True,
    ),
    Row(
        name="V-trace",
        code="Estimator(off_policy.vtrace(γ), terms.score)",
        weights="γ^t ρ_t (r_t + γ v_{t+1} − V(s_t)), ρ̄ = c̄ = 1",
        term="score",
        bias="biased: ratios held at 1, states left to μ",
        make=lambda problem: Estimator(off_policy.vtrace(problem.mdp.discount), terms.score),
        off_policy=True,
    ),
    Row(
        name="V-trace, ρ̄ = ∞",
        code="Estimator(off_policy.vtrace(γ, ratio_ceiling=math.inf), terms.score)",
        weights="the same, ρ̄ = ∞",
        term="score",
        bias="biased: states left to μ",
        make=lambda problem: Estimator(
            off_policy.vtrace(problem.mdp.discount, ratio_ceiling=math.inf), terms.score
        ),
        off_policy=True,
    ),
    Row(
        name="V-trace, ρ̄ = ∞, π's states",
        code=(
            "Estimator(off_policy.on_target_states(off_policy.vtrace(γ, ratio_ceiling=math.inf)), "
            "terms.score)"
        ),
        weights="ρ_{0:t−1} times the same",
        term="score",
        bias="none with the exact V",
        make=lambda problem: Estimator(
            off_policy.on_target_states(
                off_policy.vtrace(problem.mdp.discount, ratio_ceiling=math.inf)
            ),
            terms.score,
        ),
        off_policy=True,
    ),
    Row(
        name="Retrace actor-critic",
        code="Estimator(off_policy.retrace(γ), terms.score)",
        weights="γ^t ρ_t (G_t − V(s_t)), G of Retrace",
        term="score",
        bias="biased: states left to μ",
        make=lambda problem: Estimator(off_policy.retrace(problem.mdp.discount), terms.score),
        off_policy=True,
    ),
    Row(
        name="Retrace, π's states",
        code="Estimator(off_policy.on_target_states(off_policy.retrace(γ)), terms.score)",
        weights="ρ_{0:t−1} times the same",
        term="score",
        bias="none with the exact Q",
        make=lambda problem: Estimator(
            off_policy.on_target_states(off_policy.retrace(problem.mdp.discount)), terms.score
        ),
        off_policy=True,
    ),
    Row(
        name="tree-backup, π's states",
        code="Estimator(off_policy.on_target_states(off_policy.tree_backup(γ)), terms.score)",
        weights="ρ_{0:t−1} γ^t ρ_t (G_t − V(s_t)), G of tree-backup",
        term="score",
        bias="none with the exact Q",
        make=lambda problem: Estimator(
            off_policy.on_target_states(off_policy.tree_backup(problem.mdp.discount)), terms.score
        ),
        off_policy=True,
    ),
)
