"""Agents: a policy and a critic in one record, with networks of their own or with a shared one."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen
from jax import Array
from jaxtyping import Key

from pgjax.policies import SOFTMAX, Distribution, distribution_policy
from pgjax.policies.critics import Value, flax_value
from pgjax.policies.distribution import unmasked
from pgjax.records import configured, record
from pgjax.types import Observation, Params, Policy


@record
class ActorCritic:
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
    return ActorCritic(
        init=configured(_init_separate, policy=policy, critic=critic),
        policy=policy,
        acting=_acting,
        value=configured(_separate_value, value=flax_value(critic)),
    )


def _init_separate(
    key: Array, observation: Observation, *, policy: Policy, critic: linen.Module
) -> Params:
    policy_key, critic_key = jax.random.split(key)
    return {
        "policy": policy.init(policy_key, observation),
        "critic": critic.init(critic_key, unmasked(observation)),
    }


def _acting(params: Params) -> Params:
    return params["policy"]


def _separate_value(params: Params, observation: Observation, *, value: Value) -> Array:
    return value(params["critic"], unmasked(observation))


def shared(module: linen.Module, distribution: Distribution = SOFTMAX) -> ActorCritic:
    """A policy and a critic out of one network.

    Args:
        module: gives (output, V(s)) for one observation: what the distribution takes, logits [A]
            for a softmax, and one number.
        distribution: over the actions, from `pgjax.policies`.

    Raises:
        ValueError: by its functions: a second result that is more than one number.
    """
    output = configured(_shared_output, module=module)
    policy = distribution_policy(configured(_init_shared, module=module), output, distribution)
    return ActorCritic(policy.init, policy, _all_params, configured(_shared_value, module=module))


def _init_shared(key: Array, observation: Observation, *, module: linen.Module) -> Params:
    return module.init(key, observation)


def _shared_output(params: Params, observation: Observation, *, module: Any) -> Any:
    return module.apply(params, unmasked(observation))[0]


def _shared_value(params: Params, observation: Observation, *, module: Any) -> Array:
    return module.apply(params, unmasked(observation))[1].reshape(())


def _all_params(params: Params) -> Params:
    return params
