"""What a row of the registry is, and the exact quantities that baselines are given."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pgjax import exact
from pgjax.exact.problem import Problem
from pgjax.types import Estimator, Moments, Params, Trajectory


class Row(NamedTuple):
    """An estimator as the certificate needs it.

    Attributes:
        name: as tables and pictures print it.
        code: how one writes it, γ being the problem's discount, and J, G and b what
            `mean_return`, `mean_returns_to_go` and `least_variance_value` give for it.
        weights: the credit of an action, as a formula.
        term: the name of its term.
        bias: for ∇J, or for `truth`. It begins with "none" if and only if the bias is zero on the
            whole suite, in batches of `batch_size`; the certificate refutes what is not so.
        make: Problem -> Estimator, or any function (params, batch) -> gradient. States are one-hot
            in the problem it is given, whatever the policy sees. The batches that the estimator
            will be given hold V_t(s_t) of the target policy as `value` and Q_t(s_t, a_t) as
            `action_value`, exactly.
        batch_size: K, the trajectories that one estimate takes; more than one where they are
            coupled.
        off_policy: whether the batches come from `Problem.behaviour`, and their `log_prob` with
            them, while the gradient is that of the problem's own policy.
        estimand: what it estimates, where that is not ∇J.
        truth: Problem -> [P], the exact estimand where it is not ∇J.
        moments: Problem -> the exact moments of one estimate, for what does not draw its batches
            as independent trajectories; `make` is then never called.
    """

    name: str
    code: str
    weights: str
    term: str
    bias: str
    make: Callable[[Problem], Estimator | Callable[[Params, Trajectory], Any]]
    batch_size: int = 1
    off_policy: bool = False
    estimand: str = "∇J"
    truth: Callable[[Problem], Float[np.ndarray, "P"]] | None = None
    moments: Callable[[Problem], Moments] | None = None

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
