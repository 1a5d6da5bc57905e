"""The greedy policy: always the most likely action."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from pgjax.core.validation import check_policy_without_memory
from pgjax.policies.distribution import Distribution, Output, _masked_output, _sample
from pgjax.policies.gaussian import GAUSSIAN, mean_and_log_std
from pgjax.policies.softmax import SOFTMAX
from pgjax.records import Configured, configured
from pgjax.types import Observation, Params, Policy, describe


def greedy(policy: Policy) -> Policy:
    """The policy that always takes the most likely action of a softmax, or the mean of a Gaussian.

    Its log-probabilities and entropies stay those of the stochastic policy.

    Args:
        policy: a softmax or Gaussian policy, such as `flax_policy` returns. Illegal actions are
            never taken. Of equally likely actions the first is taken.

    Raises:
        TypeError: if the policy has a memory, or another distribution.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> policy, logits = pgjax.tabular_softmax(2, 3), jnp.array([[0.0, 0.5, 0.1], [0.0] * 3])
        >>> int(greedy(policy).sample(logits, jax.random.key(0), jnp.array([1.0, 0.0]))[0])
        1
    """
    check_policy_without_memory(policy)
    known = {"softmax": SOFTMAX, "Gaussian": GAUSSIAN}
    sample = policy.sample
    if isinstance(sample, Configured) and sample.function is _sample:
        distribution, output = sample.settings["distribution"], sample.settings["output"]
        if distribution in known.values():
            choose = _argmax if distribution == SOFTMAX else _mean
            return Policy(
                policy.init,
                configured(_choose, output=output, distribution=distribution, most_likely=choose),
                policy.log_prob,
                policy.entropy,
            )
    raise TypeError(
        f"policy must be a softmax or a Gaussian policy to act greedily, got {describe(policy)}; "
        "sample from it instead"
    )


def _choose(
    params: Params,
    key: Array,
    observation: Observation,
    *,
    output: Any,
    distribution: Distribution,
    most_likely: Any,
) -> tuple[Any, Array]:
    found = _masked_output(params, observation, output, distribution)
    action = most_likely(found)
    return action, distribution.log_prob(found, action)


def _argmax(logits: Output) -> Array:
    return jnp.argmax(logits).astype(jnp.int32)


def _mean(output: Output) -> Array:
    return mean_and_log_std(output)[0]
