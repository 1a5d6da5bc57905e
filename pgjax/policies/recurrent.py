"""Recurrent policies: policies with a memory that is carried along the episode."""

from collections.abc import Callable
from typing import Any

from jax import Array
from jaxtyping import Key

from pgjax.core.validation import check_kind, check_policy_without_memory
from pgjax.policies.distribution import Distribution, Output, mask_output, unmasked
from pgjax.policies.softmax import SOFTMAX
from pgjax.records import configured
from pgjax.types import Observation, Params, Policy, RecurrentPolicy, check_function


def recurrent_policy(
    init: Callable[[Key[Array, ""], Observation], Params],
    memory: Callable[[Params], Any],
    step: Callable[[Params, Any, Observation], tuple[Any, Output]],
    distribution: Distribution = SOFTMAX,
) -> RecurrentPolicy:
    """A policy with a memory, from a function that updates the memory and returns an output.

    (m_{t+1}, o_t) = step(θ, m_t, s_t), and π(a_t|s_0, ..., s_t) is the distribution given o_t.

    The memory has seen s_t before a_t is drawn, but not a_t, nor the reward, nor the action mask.
    If a policy should remember those, the environment must show them in the next observation.

    Args:
        init: (key, observation) -> params.
        memory: params -> the memory at an episode's start, a pytree of arrays; a parameter may be
            in it.
        step: (params, memory, observation) -> (memory, what the distribution takes); the memory
            keeps its shapes and dtypes.
        distribution: of the actions.

    Returns:
        A RecurrentPolicy.

    Bias: none: gradients go back through the whole episode. Truncating them would bias the
    estimate.

    References:
        Wierstra et al., Recurrent Policy Gradients (2010).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def step(w, memory, x):  # how much of x was seen so far
        ...     memory = memory + x
        ...     return memory, jnp.stack([w * memory, 0.0])
        >>> policy = recurrent_policy(
        ...     lambda key, x: jnp.ones(()), lambda w: jnp.zeros(()), step)
        >>> memory, log_prob = policy.log_prob(jnp.ones(()), jnp.zeros(()), 1.0, 0)
        >>> memory, log_prob = policy.log_prob(jnp.ones(()), memory, 1.0, 0)
        >>> float(memory), round(float(log_prob), 6)
        (2.0, -0.126928)
    """
    check_function("init", init, "(key, observation) -> params")
    check_function("step", step, "(params, memory, observation) -> (memory, output)")
    check_kind("distribution", distribution, Distribution, "pgjax.policies.SOFTMAX is one")
    settings: dict[str, Any] = {"step": step, "distribution": distribution}
    return RecurrentPolicy(
        init=configured(_init, init=init),
        memory=memory,
        sample=configured(_sample, **settings),
        log_prob=configured(_log_prob, **settings),
        entropy=configured(_entropy, **settings),
    )


def _init(key: Array, observation: Observation, *, init: Any) -> Params:
    return init(key, unmasked(observation))


def _next(
    params: Params, before: Any, observation: Observation, step: Any, distribution: Distribution
) -> tuple[Any, Output]:
    after, output = step(params, before, unmasked(observation))
    return after, mask_output(distribution, output, observation)


def _sample(
    params: Params, key: Array, before: Any, observation: Observation, **settings: Any
) -> tuple[Any, Any, Array]:
    after, output = _next(params, before, observation, **settings)
    return after, *settings["distribution"].sample(output, key)


def _log_prob(
    params: Params, before: Any, observation: Observation, action: Any, **settings: Any
) -> tuple[Any, Array]:
    after, output = _next(params, before, observation, **settings)
    return after, settings["distribution"].log_prob(output, action)


def _entropy(params: Params, before: Any, observation: Observation, **settings: Any) -> Array:
    return settings["distribution"].entropy(_next(params, before, observation, **settings)[1])


def as_recurrent(policy: Policy) -> RecurrentPolicy:
    """A policy without memory as a RecurrentPolicy with the memory () and the same parameters.

    Raises:
        TypeError: if `policy` has a memory already, or is no policy.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> policy = as_recurrent(pgjax.tabular_softmax(2, 2))
        >>> policy.log_prob(jnp.zeros((2, 2)), (), jnp.array([0.0, 1.0]), 1)
        ((), Array(-0.6931472, dtype=float32))
    """
    check_policy_without_memory(policy)
    return RecurrentPolicy(
        init=policy.init,
        memory=_no_memory,
        sample=configured(_sample_without, policy=policy),
        log_prob=configured(_log_prob_without, policy=policy),
        entropy=configured(_entropy_without, policy=policy),
    )


def _no_memory(params: Params) -> tuple[()]:
    return ()


def _sample_without(
    params: Params, key: Array, memory: Any, observation: Observation, *, policy: Policy
) -> tuple[Any, Any, Array]:
    return memory, *policy.sample(params, key, observation)


def _log_prob_without(
    params: Params, memory: Any, observation: Observation, action: Any, *, policy: Policy
) -> tuple[Any, Array]:
    return memory, policy.log_prob(params, observation, action)


def _entropy_without(
    params: Params, memory: Any, observation: Observation, *, policy: Policy
) -> Array:
    return policy.entropy(params, observation)
