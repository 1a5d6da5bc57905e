"""Ratios, clips and DiCE: what else than the score the log-probability may enter by.

On-policy the ratio is one, every clip is idle, and all of them are the score's estimate. They part
where another policy acted; there each is biased, for states and later rewards still come from it.
"""

from pgjax import terms, weights
from pgjax.baselines import recorded_value
from pgjax.exact.problem import Problem
from pgjax.proof.registry.row import Row
from pgjax.types import Estimator, Term
from pgjax.weights import Weights


def _credit(problem: Problem) -> Weights:
    return weights.reward_to_go(problem.mdp.discount, baseline=recorded_value)


def _proximal(name: str, term: str, code: str, made: Term) -> tuple[Row, Row]:
    """The term with γ^t (G_t − V(s_t)), on the policy's own trajectories and on another's."""
    on_policy = Row(
        name=name,
        code=f"Estimator(weights.reward_to_go(γ, baseline=recorded_value), {code})",
        weights="γ^t (G_t − V(s_t))",
        term=term,
        bias="none on-policy",
        make=lambda problem: Estimator(_credit(problem), made),
    )
    off_policy = on_policy._replace(
        name=f"{name}, off-policy",
        bias="biased: states and later rewards are the other policy's",
        off_policy=True,
    )
    return on_policy, off_policy


ROWS: tuple[Row, ...] = (
    *_proximal("ratio", "ratio", "terms.importance_ratio", terms.importance_ratio),
    *_proximal("PPO clip", "clip", "terms.ppo_clip(0.1)", terms.ppo_clip(0.1)),
    *_proximal(
        "clip-higher", "clip", "terms.asymmetric_clip(0.1, 0.15)", terms.asymmetric_clip(0.1, 0.15)
    ),
    *_proximal("dual clip", "clip", "terms.dual_clip(0.1, 1.12)", terms.dual_clip(0.1, 1.12)),
    *_proximal(
        "truncated ratio", "truncated ratio", "terms.truncated_ratio(1.0)",
        terms.truncated_ratio(1.0),
    ),
    Row(
        name="DiCE",
        code="Estimator(weights.reward_to_go(γ), terms.dice)",
        weights="γ^t G_t",
        term="DiCE",
        bias="none, nor in any higher derivative",
        make=lambda problem: Estimator(weights.reward_to_go(problem.mdp.discount), terms.dice),
    ),
    Row(
        name="DiCE − V(s_t)",
        code="Estimator(weights.reward_to_go(γ, baseline=recorded_value), terms.dice)",
        weights="γ^t (G_t − V(s_t))",
        term="DiCE",
        bias="none, nor in any higher derivative",
        make=lambda problem: Estimator(_credit(problem), terms.dice),
    ),
    Row(
        name="Loaded DiCE − V(s_t)",
        code="Estimator(weights.reward_to_go(γ, baseline=recorded_value), terms.loaded_dice(0.5))",
        weights="γ^t (G_t − V(s_t))",
        term="Loaded DiCE, λ = 0.5",
        bias="none; with λ < 1 some in higher derivatives",
        make=lambda problem: Estimator(_credit(problem), terms.loaded_dice(0.5)),
    ),
)  # fmt: skip
