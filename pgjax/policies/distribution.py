"""Distributions: what a network's output means, as pure functions of that output.

Policies with and without a memory, and the factors of a product, all read a network's output
through a Distribution.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from jax import Array
from jaxtyping import Bool, Float, Key, PyTree

from pgjax.core.validation import check_kind
from pgjax.records import Configured, configured, record
from pgjax.types import (
    MaskedObservation,
    Observation,
    Params,
    Policy,
    check_function,
    check_functions,
)

Output: TypeAlias = PyTree
"""What a network gives for one observation, such as logits [A], or a mean and a log σ."""


@record
class Distribution:
    """A family of distributions over actions, one for each output of a network.

    Attributes:
        sample: (output, key) -> (action, its log-probability).
        log_prob: (output, action) -> log π(a), a scalar.
        entropy: output -> H(π) in nats, a scalar.
        masked: (output, action_mask) -> the output under which illegal actions have probability
            zero; raises a TypeError if no action can be illegal.
    """

    sample: Callable[[Output, Key[Array, ""]], tuple[Any, Float[Array, ""]]]
    log_prob: Callable[[Output, Any], Float[Array, ""]]
    entropy: Callable[[Output], Float[Array, ""]]
    masked: Callable[[Output, PyTree[Bool[Array, "..."]]], Output]

    def __post_init__(self) -> None:
        check_functions(
            self,
            sample="(output, key) -> (action, log_prob)",
            log_prob="(output, action) -> scalar",
            entropy="output -> scalar",
            masked="(output, action_mask) -> output",
        )


def distribution_policy(
    init: Callable[[Key[Array, ""], Observation], Params],
    output: Callable[[Params, Observation], Output],
    distribution: Distribution,
) -> Policy:
    """A Policy from a network and the distribution of the actions given its output.

    If the observation is a MaskedObservation, the network sees the observation in it, and the mask
    goes to the distribution, for sampling and for scoring.

    Args:
        init: (key, observation) -> params.
        output: (params, observation) -> what the distribution takes.
        distribution: of the actions.

    Raises:
        TypeError: if `init` or `output` is not a function, or `distribution` not a Distribution.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax.policies import SOFTMAX
        >>> zeros = lambda key, x: jnp.zeros((2, 3))
        >>> policy = distribution_policy(zeros, lambda w, x: x @ w, SOFTMAX)
        >>> float(policy.entropy(jnp.zeros((2, 3)), jnp.ones(2)))  # doctest: +ELLIPSIS
        1.0986...
    """
    check_function("init", init, "(key, observation) -> params")
    check_function("output", output, "(params, observation) -> output")
    check_kind("distribution", distribution, Distribution, "pgjax.policies.SOFTMAX is one")
    return Policy(
        init=configured(_init, init=init),
        sample=configured(_sample, output=output, distribution=distribution),
        log_prob=configured(_log_prob, output=output, distribution=distribution),
        entropy=configured(_entropy, output=output, distribution=distribution),
    )


def log_prob_and_entropy(
    policy: Policy, params: Params, observation: Observation, action: Any
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Log-probability log π(a|s) and entropy H(π(·|s)) from one pass over the policy's network.

    JAX would take the derivative of two calls in two passes over the network.

    Args:
        policy: any Policy. If it is not from `distribution_policy`, its two functions are called
            one after the other.
        params: the policy's parameters.
        observation: one observation.
        action: one action.
    """
    scored, spread = policy.log_prob, policy.entropy
    if not (isinstance(scored, Configured) and scored.function is _log_prob) or (
        spread != configured(_entropy, **scored.settings)
    ):
        return scored(params, observation, action), spread(params, observation)
    output = _masked_output(params, observation, **scored.settings)
    distribution = scored.settings["distribution"]
    return distribution.log_prob(output, action), distribution.entropy(output)


def unmasked(observation: Observation) -> Observation:
    """The observation without its action mask."""
    return observation.observation if isinstance(observation, MaskedObservation) else observation


def mask_output(distribution: Distribution, output: Output, observation: Observation) -> Output:
    """The output, under the observation's action mask if it has one."""
    if not isinstance(observation, MaskedObservation):
        return output
    return distribution.masked(output, observation.action_mask)


def _init(key: Array, observation: Observation, *, init: Any) -> Params:
    return init(key, unmasked(observation))


def _masked_output(
    params: Params, observation: Observation, output: Any, distribution: Distribution
) -> Output:
    return mask_output(distribution, output(params, unmasked(observation)), observation)


def _sample(
    params: Params, key: Array, observation: Observation, *, output: Any, distribution: Distribution
) -> tuple[Any, Array]:
    return distribution.sample(_masked_output(params, observation, output, distribution), key)


def _log_prob(
    params: Params,
    observation: Observation,
    action: Any,
    *,
    output: Any,
    distribution: Distribution,
) -> Array:
    return distribution.log_prob(_masked_output(params, observation, output, distribution), action)


def _entropy(
    params: Params, observation: Observation, *, output: Any, distribution: Distribution
) -> Array:
    return distribution.entropy(_masked_output(params, observation, output, distribution))
