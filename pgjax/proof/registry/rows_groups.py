"""Credit relative to a group: how a trajectory did among those that answer the same question.

Batches of two are one group of two. The term is the ratio, which on-policy is the score's estimate;
what the clip adds off-policy stands with the terms.
"""

from pgjax import terms, weights
from pgjax.baselines import consecutive, group_deviation, group_leave_one_out, group_mean
from pgjax.estimators import dr_grpo, grpo, reinforce, rloo
from pgjax.proof.registry.row import Row
from pgjax.types import Estimator
from pgjax.weights import Discount

PAIRS = consecutive(2)


def _over_deviation(discount: Discount) -> Estimator:
    baseline, scale = group_leave_one_out(PAIRS), group_deviation(PAIRS)
    return Estimator(weights.total_return(discount, baseline=baseline, scale=scale), terms.score)


ROWS: tuple[Row, ...] = (
    Row(
        name="group mean",
        code="reinforce(γ, baseline=group_mean(consecutive(2)))",
        weights="R_i − mean of the group, its own return included",
        term="score",
        bias="shrinks by (G−1)/G in groups of G",
        make=lambda problem: reinforce(problem.mdp.discount, baseline=group_mean(PAIRS)),
        batch_size=2,
    ),
    Row(
        name="group leave-one-out",
        code="rloo(γ, groups=consecutive(2))",
        weights="R_i − mean of the others in the group",
        term="score",
        bias="none",
        make=lambda problem: rloo(problem.mdp.discount, groups=PAIRS),
        batch_size=2,
    ),
    Row(
        name="group leave-one-out / std",
        code="Estimator(weights.total_return(γ, baseline=group_leave_one_out(consecutive(2)), "
        "scale=group_deviation(consecutive(2))), terms.score)",
        weights="(R_i − mean of the others in the group) / (std + ε)",
        term="score",
        bias="biased: the deviation holds the trajectory's own return",
        make=lambda problem: _over_deviation(problem.mdp.discount),
        batch_size=2,
    ),
    Row(
        name="GRPO",
        code="grpo(γ, consecutive(2))",
        weights="(R_i − mean) / (std + ε) in the group, / length",
        term="ratio",
        bias="biased: own return in mean and deviation, and the length",
        make=lambda problem: grpo(problem.mdp.discount, PAIRS),
        batch_size=2,
    ),
    Row(
        name="Dr. GRPO",
        code="dr_grpo(γ, consecutive(2))",
        weights="R_i − mean of the group, its own return included",
        term="ratio",
        bias="shrinks by (G−1)/G in groups of G",
        make=lambda problem: dr_grpo(problem.mdp.discount, PAIRS),
        batch_size=2,
    ),
)
