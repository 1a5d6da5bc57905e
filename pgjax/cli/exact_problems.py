"""Problems with exact values, by name: finite MDPs, and environments with a table.

Imports JAX and gymnax, so a command imports this module only when it runs.
"""

from dataclasses import replace
from typing import Any

from jax import Array

from pgjax import flax_policy, training
from pgjax.cli.arguments import ENV_DISCOUNT, known_name
from pgjax.environments import tables
from pgjax.exact import Problem, tabular
from pgjax.exact.tabular import TabularMDP
from pgjax.proof import scattered_policies


def of_mdp(
    name: str, horizon: int | None, discount: float | None, hidden: int, key: Array
) -> tuple[Problem, dict[str, Any]]:
    """The Problem of a finite MDP; trajectories come from the same MDP."""
    mdp, horizon = _mdp(name, horizon, discount)
    policy, params = scattered_policies.flax_policy_for(mdp, hidden, key)
    return Problem(mdp, policy, params, horizon, name), {}


def of_environment(
    name: str, horizon: int | None, discount: float | None, hidden: int, key: Array
) -> tuple[Problem, dict[str, Any]]:
    """The Problem of an environment's table; trajectories come from the environment."""
    environment, params = tables.make(name)
    discount = ENV_DISCOUNT if discount is None else discount
    mdp, longest = tables.timeless_mdp(environment, params, discount=discount)
    network = training.default_network(environment).clone(hidden=(hidden,))
    policy = flax_policy(network)
    problem = Problem(
        mdp,
        policy,
        scattered_policies.scattered_params(policy, mdp, key),
        min(longest, horizon or longest),
        name,
    )
    return problem, {"environment": environment}


def _mdp(name: str, horizon: int | None, discount: float | None) -> tuple[TabularMDP, int]:
    if name in tabular.NAMED:
        mdp, horizon = tabular.NAMED[name].make(), horizon or tabular.NAMED[name].horizon
    else:
        if not name.endswith(".npz"):
            known_name("--mdp", name, [*tabular.NAMED, "a path that ends in .npz"])
        mdp = tabular.load(name)
    if horizon is None:
        raise ValueError("--horizon is needed for an MDP from a file, which states none, e.g. 10")
    if discount is not None:
        mdp = replace(mdp, discount=discount)
    return mdp, horizon
