"""Adapters: distributions of NumPyro, Distrax and TensorFlow Probability, and policies.

An object is recognized by its methods, so none of these libraries is imported: `sample` takes a key
as its first argument or as `seed`, and `log_prob` takes a draw. Further methods are used if there
are any: `enumerate_support`, `has_rsample` or `reparameterization_type`, and the attributes of a
normal, a Bernoulli, a categorical or a Poisson.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.core.validation import check_policy_without_memory
from pgjax.expectations.distributions import Distribution
from pgjax.expectations.natural import (
    BERNOULLI,
    CATEGORICAL,
    NORMAL,
    ONE_HOT,
    POISSON,
    Natural,
    check_natural,
    outcomes_of,
)
from pgjax.policies import GAUSSIAN, SOFTMAX
from pgjax.policies.distribution import mask_output, unmasked
from pgjax.records import configured
from pgjax.types import Observation, Params, Policy, check_function, describe, signature_of


def from_object(build: Callable[[Params], Any]) -> Distribution:
    """A Distribution from a function that makes an object of another library.

    A batch of independent distributions counts as one draw of all of them: log-probabilities are
    summed. If an object does not say whether it is reparameterised, as in Distrax, it counts as
    reparameterised if its draws are floating.

    Args:
        build: params -> an object with `sample` and `log_prob`.

    Returns:
        A Distribution. Its `outcomes`, `natural` and `transform` raise a ValueError at use if the
        object does not provide them.

    Raises:
        TypeError: when the Distribution is used, if the object has no `sample` or no `log_prob`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> class Exponential:
        ...     def __init__(self, rate):
        ...         self.rate = rate
        ...     def sample(self, key):
        ...         return jax.random.exponential(key) / self.rate
        ...     def log_prob(self, x):
        ...         return jnp.log(self.rate) - self.rate * x
        >>> float(from_object(Exponential).log_prob(jnp.float32(1.0), jnp.float32(2.0)))
        -2.0
    """
    if not isinstance(build, type):  # a class makes an object of its one argument
        check_function("build", build, "params -> an object with sample and log_prob")
    return Distribution(
        configured(_sample, build=build),
        configured(_log_prob, build=build),
        _key_itself,
        configured(_transform, build=build),
        configured(_outcomes, build=build),
        configured(_natural, build=build),
    )


def from_policy(policy: Policy, observation: Observation) -> Distribution:
    """The distribution of a policy's actions for one observation.

    Args:
        policy: without memory.
        observation: one, without a batch axis.

    Raises:
        TypeError: if it is not a policy, or has a memory.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> policy = pgjax.tabular_softmax(2, 3)
        >>> state = from_policy(policy, jnp.array([1.0, 0.0]))
        >>> state.outcomes(jnp.zeros((2, 3))).tolist()
        [0, 1, 2]
    """
    check_policy_without_memory(policy)
    given = {"policy": policy, "observation": observation}
    settings = getattr(policy.log_prob, "settings", {})
    kind = settings.get("distribution")
    family = {SOFTMAX: CATEGORICAL, GAUSSIAN: NORMAL}.get(kind) if kind is not None else None
    natural = outcomes = None
    if family is not None:
        natural = configured(
            _policy_natural,
            family=family,
            kind=kind,
            output=settings["output"],
            observation=observation,
        )
    if family == CATEGORICAL:
        outcomes = configured(_policy_outcomes, natural=natural)
    return Distribution(
        configured(_policy_sample, **given),
        configured(_policy_log_prob, **given),
        _key_itself,
        configured(_policy_transform, **given),
        outcomes,
        natural,
    )


def _policy_sample(params: Params, key: Array, *, policy: Policy, observation: Any) -> Any:
    return policy.sample(params, key, observation)[0]


def _policy_log_prob(params: Params, x: Any, *, policy: Policy, observation: Any) -> Array:
    return policy.log_prob(params, observation, x)


def _policy_transform(params: Params, noise: Array, *, policy: Policy, observation: Any) -> Any:
    return _check_floating(policy.sample(params, noise, observation)[0], "a policy's actions")


def _policy_natural(
    params: Params, *, family: str, kind: Any, output: Any, observation: Any
) -> Natural:
    found = mask_output(kind, output(params, unmasked(observation)), observation)
    return check_natural(Natural(family, found))


def _policy_outcomes(params: Params, *, natural: Any) -> Array:
    return outcomes_of(natural(params))


def _key_itself(params: Params, key: Array) -> Array:
    return key


def _built(build: Any, params: Params) -> Any:
    found = build(params)
    for name in ("sample", "log_prob"):
        if not callable(getattr(found, name, None)):
            raise TypeError(
                f"build must return an object with sample and log_prob, got {describe(found)}"
            )
    return found


def _drawn(made: Any, key: Array) -> Any:
    takes = signature_of(made.sample).parameters
    return made.sample(seed=key) if "seed" in takes else made.sample(key)


def _sample(params: Params, key: Array, *, build: Any) -> Any:
    return _drawn(_built(build, params), key)


def _log_prob(params: Params, x: Any, *, build: Any) -> Array:
    return jnp.sum(_built(build, params).log_prob(x))


def _transform(params: Params, noise: Array, *, build: Any) -> Any:
    made = _built(build, params)
    flag = getattr(made, "has_rsample", None)
    kind = getattr(made, "reparameterization_type", None)
    if flag is False or (kind is not None and "NOT" in repr(kind)):
        _refuse(f"a {type(made).__name__}")
    return _check_floating(_drawn(made, noise), f"a {type(made).__name__}, whose draws")


def _check_floating(x: Any, what: str) -> Any:
    for leaf in jax.tree.leaves(x):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            _refuse(f"{what} are {leaf.dtype}")
    return x


def _refuse(what: str) -> None:
    raise ValueError(
        f"distribution must have a transform(params, noise) to differentiate x by params, got "
        f"{what}; take score_function()"
    )


def _outcomes(params: Params, *, build: Any) -> Any:
    made = _built(build, params)
    if getattr(made, "has_enumerate_support", False) and not getattr(made, "batch_shape", ()):
        return made.enumerate_support(expand=False)
    listed = outcomes_of(_natural(params, build=build))
    sample = jax.eval_shape(lambda key: _drawn(made, key), jax.random.key(0))
    return listed.astype(sample.dtype)


def _natural(params: Params, *, build: Any) -> Natural:
    made = _built(build, params)
    while not hasattr(made, "loc") and hasattr(made, "base_dist"):
        made = made.base_dist
    if type(made).__name__ == "Independent" and hasattr(made, "distribution"):
        made = made.distribution
    name = type(made).__name__.removesuffix("Logits").removesuffix("Probs")
    if name in ("Normal", "MultivariateNormalDiag", "MultiNormal"):
        scale = made.scale_diag if hasattr(made, "scale_diag") else made.scale
        mean, scale = jnp.broadcast_arrays(made.loc, scale)
        return check_natural(Natural(NORMAL, (mean, jnp.log(scale))))
    families = {"Bernoulli": BERNOULLI, "Categorical": CATEGORICAL, "OneHotCategorical": ONE_HOT}
    if name in families:
        logits = made.logits_parameter() if hasattr(made, "logits_parameter") else made.logits
        return check_natural(Natural(families[name], logits))
    if name == "Poisson":
        return check_natural(Natural(POISSON, jnp.log(made.rate)))
    return Natural(f"{type(made).__name__}, no family with natural parameters here", None)
