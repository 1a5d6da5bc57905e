"""Problem: everything that an exact policy gradient is a function of."""

from typing import NamedTuple

import jax
import numpy as np

from pgjax.exact.tabular import TabularMDP
from pgjax.types import Params, Policy


class Problem(NamedTuple):
    """A policy gradient to estimate: everything that ∇J is a function of.

    A noun of its own because whoever judges an estimator needs all of it at once, and a list of it.
    `exact.gradient(*problem.arguments, horizon=problem.horizon)` is the truth.

    Attributes:
        name: as reports print it.
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: float64 NumPy leaves.
        horizon: H, the time limit; it belongs to the task.
    """

    name: str
    mdp: TabularMDP
    policy: Policy
    params: Params
    horizon: int

    @property
    def arguments(self) -> tuple[TabularMDP, Policy, Params]:
        """What every function of `exact` and `enumeration` takes first."""
        return self.mdp, self.policy, self.params

    @property
    def behaviour(self) -> Params:
        """Parameters θ/2 of a policy μ that others may have acted by: less sure than π, never zero.

        Off-policy estimators are judged on its trajectories.
        """
        return jax.tree.map(lambda x: np.asarray(x) / 2, self.params)
