"""Problem: an MDP, a policy, its parameters and a horizon, which define an exact gradient."""

from typing import Any

from pgjax.core.validation import check_leaves, check_policy_without_memory, check_positive
from pgjax.exact.tabular import TabularMDP
from pgjax.records import data, record, static
from pgjax.types import Params, Policy, describe


@record
class Problem:
    """A finite MDP with S states and A actions, and a policy with its parameters.

    Every function of `exact` and `enumeration`, and every judge, takes a Problem.
    `dataclasses.replace` gives the same problem with another horizon, MDP, or parameters.

    Attributes:
        mdp: a TabularMDP with S states and A actions.
        policy: a Policy over the MDP's A actions.
        params: of the policy, P numbers in all.
        horizon: H, the number of steps after which an episode is cut; it is part of the task. None
            is the infinite horizon.
        name: the name that reports print.
        behaviour: parameters of the policy that acts, if they are not `params`. Enumeration and
            sampling draw trajectories with them, and record their log-probabilities. J, its
            derivatives and the values stay those of `params`.

    Raises:
        TypeError: if `mdp` is not a TabularMDP, `policy` is not a Policy without memory, or
            `horizon` is not an integer.
        ValueError: if `horizon` is below one.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> mdp, policy = pgjax.tabular.two_armed_bandit(), pgjax.tabular_softmax(3, 2)
        >>> problem = Problem(mdp, policy, jnp.zeros((3, 2)), horizon=1)
        >>> round(float(pgjax.exact.objective(problem)), 6)
        0.45
    """

    mdp: TabularMDP = data()
    policy: Policy
    params: Params = data()
    horizon: int | None = static()
    name: str = static(default="problem")
    behaviour: Params | None = data(default=None)

    def __post_init__(self) -> None:
        if not isinstance(self.mdp, TabularMDP):
            raise TypeError(
                f"mdp must be a pgjax.TabularMDP, got {describe(self.mdp)}; "
                "pgjax.tabular.chain() makes one"
            )
        check_policy_without_memory(self.policy)
        check_leaves("params", self.params)
        check_leaves("behaviour", self.behaviour)
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, got {describe(self.name)}")
        if self.horizon is not None:
            check_positive("horizon", self.horizon)

    @property
    def finite_horizon(self) -> int:
        """The horizon H.

        Raises:
            ValueError: if the horizon is infinite.
        """
        if self.horizon is None:
            raise ValueError(
                "problem.horizon is infinite, so its trajectories can be neither listed nor drawn; "
                "dataclasses.replace(problem, horizon=...) gives it one"
            )
        return self.horizon

    @property
    def acting_params(self) -> Params:
        """Parameters of the policy that acts: `behaviour`, or `params` if there is none."""
        return self.params if self.behaviour is None else self.behaviour


def check_problem(problem: Any) -> None:
    """Raise a TypeError if it is not a Problem."""
    if not isinstance(problem, Problem):
        raise TypeError(
            f"problem must be a pgjax.Problem, got {describe(problem)}; "
            "pgjax.Problem(mdp, policy, params, horizon) makes one"
        )
