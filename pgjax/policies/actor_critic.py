"""Actor-critic agents: a policy and a critic in one record, with separate networks or one."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jaxtyping import Key

from pgjax.core.validation import check_kind, check_module, check_one_value, check_policy
from pgjax.policies import SOFTMAX, Distribution, distribution_policy, flax_functions
from pgjax.policies.critics import Value, flax_value
from pgjax.policies.distribution import unmasked
from pgjax.records import configured, record
from pgjax.types import Observation, Params, Policy, RecurrentPolicy, check_functions, describe


@record
class ActorCritic:
    """A policy and a critic, and how they share their parameters.

    Attributes:
        init: (key, observation) -> params of both.
        policy: a Policy or a RecurrentPolicy, which acts. If it has a memory, the critic still sees
            the observation alone.
        acting: params -> the policy's params.
        value: (params, observation) -> V(s), a scalar in units of return.
    """

    init: Callable[[Key[Array, ""], Observation], Params]
    policy: Any
    acting: Callable[[Params], Params]
    value: Callable[[Params, Observation], Array]

    def __post_init__(self) -> None:
        check_policy(self.policy)
        check_functions(
            self,
            init="(key, observation) -> params",
            acting="params -> the policy's params",
            value="(params, observation) -> scalar",
        )


def check_agent(agent: Any) -> None:
    """Raise a TypeError if `agent` is not an ActorCritic."""
    check_kind("agent", agent, ActorCritic, "pgjax.agents.separate(policy, critic) makes one")


def separate(policy: Policy | RecurrentPolicy, critic: Any) -> ActorCritic:
    """An ActorCritic whose policy and critic have separate networks.

    Its parameters are {"policy": ..., "critic": ...}.

    Args:
        policy: any Policy or RecurrentPolicy.
        critic: a module for `flax_value`. It sees the observation without its action mask.

    Raises:
        TypeError: if `policy` is no policy, or `critic` is not a Flax module.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> agent = separate(pgjax.flax_policy(pgjax.MLP(2)), pgjax.MLP(1))
        >>> params = agent.init(jax.random.key(0), jnp.zeros(4))
        >>> agent.value(params, jnp.zeros(4)).shape
        ()
    """
    check_policy(policy)
    check_module("critic", critic)
    return ActorCritic(
        init=configured(_init_separate, policy=policy, critic=flax_functions(critic)[0]),
        policy=policy,
        acting=_acting,
        value=configured(_separate_value, value=flax_value(critic)),
    )


def _init_separate(key: Array, observation: Observation, *, policy: Any, critic: Any) -> Params:
    policy_key, critic_key = jax.random.split(key)
    return {
        "policy": policy.init(policy_key, observation),
        "critic": critic(critic_key, unmasked(observation)),
    }


def _acting(params: Params) -> Params:
    return params["policy"]


def _separate_value(params: Params, observation: Observation, *, value: Value) -> Array:
    return value(params["critic"], unmasked(observation))


def shared(module: Any, distribution: Distribution = SOFTMAX) -> ActorCritic:
    """An ActorCritic whose policy and critic share one network and all its parameters.

    Args:
        module: a linen or NNX module, as for `pgjax.flax_policy`. For one observation it returns a
            pair: the distribution's input, logits [A] for a softmax, and V(s), one number.
        distribution: of the actions.

    Raises:
        TypeError: if `module` is not a Flax module; by the agent, if it does not return a pair.
        ValueError: by the agent, if the second of the pair is more than one number.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> from flax import linen
        >>> class Both(linen.Module):
        ...     @linen.compact
        ...     def __call__(self, x):
        ...         x = linen.tanh(linen.Dense(8)(x))
        ...         return linen.Dense(2)(x), linen.Dense(1)(x)
        >>> agent = shared(Both())
        >>> params = agent.init(jax.random.key(0), jnp.zeros(4))
        >>> agent.value(params, jnp.zeros(4)).shape
        ()
    """
    check_module("module", module)
    init, both = flax_functions(module)
    policy = distribution_policy(init, configured(_shared_output, both=both), distribution)
    return ActorCritic(policy.init, policy, _all_params, configured(_shared_value, both=both))


def _shared_output(params: Params, observation: Observation, *, both: Any) -> Any:
    return _pair(both(params, unmasked(observation)))[0]


def _shared_value(params: Params, observation: Observation, *, both: Any) -> Array:
    value = _pair(both(params, unmasked(observation)))[1]
    return check_one_value(value, "the module's second output must be V(s), such as Dense(1)(x)")


def _pair(output: Any) -> Any:
    if not isinstance(output, tuple | list) or len(output) != 2:
        got = describe(output) if not isinstance(output, tuple | list) else f"{len(output)} outputs"
        raise TypeError(
            "a module shared by policy and critic must return a pair (the distribution's input, "
            f"V(s)), got {got}; agents.separate(policy, critic) takes a module for each"
        )
    return output


def _all_params(params: Params) -> Params:
    return params
