"""Policies to prove estimators on: their parameters are away from the uniform policy."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from pgjax import policies
from pgjax.core.compilation import jit_once
from pgjax.exact.tabular import TabularMDP
from pgjax.types import Params, Policy


def flax_policy_for(mdp: TabularMDP, hidden: int, key: Array) -> tuple[Policy, Params]:
    """A Flax MLP policy on the MDP's observations, at parameters away from the uniform policy.

    Args:
        mdp: S states, A actions.
        hidden: width of the one hidden layer.
        key: from `jax.random.key`.

    Returns:
        The policy, and parameters from `scattered_params`.

    Bias: does not apply.
    """
    policy = policies.flax_policy(policies.MLP(mdp.num_actions, (hidden,)))
    return policy, scattered_params(policy, mdp, key)


def scattered_params(policy: Policy, mdp: TabularMDP, key: Array) -> Params:
    """The policy's initial parameters with normal noise of deviation 0.5 added.

    Args:
        policy: usually one whose initial parameters are close to the uniform policy.
        mdp: whose observations it sees.
        key: from `jax.random.key`.

    Returns:
        A pytree of floating arrays.

    Bias: does not apply.
    """
    return _scattered(policy, key, jnp.asarray(mdp.observation[0]))


@partial(jit_once, static_argnums=0)
def _scattered(policy: Policy, key: Array, observation: Array) -> Params:
    init_key, noise_key = jax.random.split(key)
    flat, unravel = ravel_pytree(policy.init(init_key, observation))
    return unravel(flat + 0.5 * jax.random.normal(noise_key, flat.shape, flat.dtype))
