"""The registry: one row for each public estimator, and the exact numbers follow by themselves.

A row says how an estimator is composed and what its bias is claimed to be. `certificate.certify`
computes what it *is*, on every problem of the suite, and the tables of the README and of
docs/estimators.md are printed from that; a public estimator without a row fails the tests.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pgjax import exact, terms, weights
from pgjax.baselines import (
    batch_mean,
    constant,
    leave_one_out,
    per_time_step,
    recorded_value,
    state_value,
)
from pgjax.estimators import mismatched_reward_to_go, reinforce, reward_to_go, rloo
from pgjax.suite import Problem
from pgjax.types import Estimator, Params, Trajectory


class Row(NamedTuple):
    """An estimator as the certificate needs it.

    Attributes:
        name: as tables and pictures print it.
        code: how one writes it, γ being the problem's discount, and J, G and b what
            `mean_return`, `mean_returns_to_go` and `least_variance_value` give for it.
        weights: the credit of an action, as a formula.
        term: the name of its term.
        bias: for ∇J. It begins with "none" if and only if the bias is zero on the whole suite,
            with on-policy batches of `batch_size`; the certificate refutes what is not so.
        make: Problem -> Estimator, or any function (params, batch) -> gradient. States are one-hot
            in the problem it is given, whatever the policy sees; `value` holds V_t(s_t), exactly,
            in the batches that the estimator will be given.
        batch_size: K, the trajectories that one estimate takes; more than one where they are
            coupled.
    """

    name: str
    code: str
    weights: str
    term: str
    bias: str
    make: Callable[[Problem], Estimator | Callable[[Params, Trajectory], Any]]
    batch_size: int = 1

    @property
    def is_unbiased(self) -> bool:
        """Whether the row claims so."""
        return self.bias.startswith("none")


def mean_return(problem: Problem) -> float:
    """J, the mean return: the constant baseline that everyone tries first.

    Args:
        problem: from the suite, or like it.

    Bias: exact.
    """
    values = exact.state_values(*problem.arguments, horizon=problem.horizon)
    return float(problem.mdp.initial @ values[0])


def mean_returns_to_go(problem: Problem) -> Float[np.ndarray, "T"]:
    """E[G_t] for each time step, episodes that have ended counted as zero.

    Args:
        problem: from the suite, or like it; γ > 0.

    Returns:
        [H].

    Bias: exact.
    """
    visits = exact.visitation(*problem.arguments, horizon=problem.horizon)
    values = exact.state_values(*problem.arguments, horizon=problem.horizon)
    discounted = np.sum(visits * values, axis=-1)  # visits carry γ^t
    return discounted / problem.mdp.discount ** np.arange(problem.horizon)


def least_variance_value(problem: Problem) -> Callable[[Any], Any]:
    """The function b(s) that minimises reward-to-go's total variance, of one-hot states.

    Args:
        problem: with states one-hot.

    Returns:
        One observation -> scalar.

    Bias: exact.
    """
    table = exact.optimal_state_baseline(*problem.arguments, horizon=problem.horizon)
    return lambda observation: jnp.dot(observation, jnp.asarray(table, observation.dtype))


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
"""Every row, in the order that tables print it."""
