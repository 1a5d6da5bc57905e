"""Agents: a policy and a critic in one record, with networks of their own or with a shared one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen
from jax import Array
from jaxtyping import Key

from pgjax.policies import SOFTMAX, Distribution, distribution_policy
from pgjax.policies.critics import flax_value
from pgjax.policies.distribution import unmasked
from pgjax.types import Observation, Params, Policy


class ActorCritic(NamedTuple):
    """A policy and a critic, and how they share their parameters, as a record of pure functions.

    Attributes:
        init: (key, observation) -> params, of both.
        policy: the one that acts.
        acting: params -> what `policy` takes.
        value: (params, observation) -> V(s), a scalar in units of return.
    """

    init: Callable[[Key[Array, ""], Observation], Params]
    policy: Policy
    acting: Callable[[Params], Params]
    value: Callable[[Params, Observation], Array]


def separate(policy: Policy, critic: linen.Module) -> ActorCritic:
    """A policy and a critic with networks of their own; parameters {"policy": ..., "critic": ...}.

    Args:
        policy: any.
        critic: a module for `flax_value`: one number for one observation, without its action mask.

    Raises:
        ValueError: by its functions: a critic that gives more than one number.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> agent = separate(pgjax.flax_policy(pgjax.MLP(2)), pgjax.MLP(1))
        >>> params = agent.init(jax.random.key(0), jnp.zeros(4))
        >>> agent.value(params, jnp.zeros(4)).shape
        ()
    """
    of_critic = flax_value(critic)

    def init(key: Array, observation: Observation) -> Params:
        policy_key, critic_key = jax.random.split(key)
        return {
            "policy": policy.init(policy_key, observation),
            "critic": critic.init(critic_key, unmasked(observation)),
        }

    def value(params: Params, observation: Observation) -> Array:
        return of_critic(params["critic"], unmasked(observation))

    return ActorCritic(init, policy, lambda params: params["policy"], value)


def shared(module: linen.Module, distribution: Distribution = SOFTMAX) -> ActorCritic:
    """A policy and a critic out of one network.

    Args:
        module: gives (output, V(s)) for one observation: what the distribution takes, logits [A]
            for a softmax, and one number.
        distribution: over the actions, from `pgjax.policies`.

    Raises:
        ValueError: by its functions: a second result that is more than one number.
    """

    def results(params: Params, observation: Observation) -> Any:
        return module.apply(params, unmasked(observation))

    def output(params: Params, observation: Observation) -> Any:
        return results(params, observation)[0]

    def value(params: Params, observation: Observation) -> Array:
        return results(params, observation)[1].reshape(())

    policy = distribution_policy(module.init, output, distribution)
    return ActorCritic(policy.init, policy, lambda params: params, value)
