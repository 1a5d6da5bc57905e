"""Distributions p(x; θ): records of pure functions of the parameters.

Each maker takes a function from the parameters to the distribution's natural parameters, such as a
network; without one, `params` are the natural parameters themselves. Coordinates are independent.

| maker | natural parameters | a draw x |
| --- | --- | --- |
| `normal` | (mean, log σ), of one shape | floats of that shape |
| `bernoulli` | logits [...] | 0. or 1., [...] |
| `categorical` | logits [..., K] | integers 0..K−1, [...] |
| `one_hot_categorical` | logits [..., K] | one-hot floats [..., K] |
| `poisson` | log rate [...] | 0., 1., 2., …, [...] |

Log-probabilities are summed over coordinates, in nats.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from pgjax.core.validation import check_kind
from pgjax.expectations.natural import (
    BERNOULLI,
    CATEGORICAL,
    NORMAL,
    ONE_HOT,
    POISSON,
    Natural,
    check_natural,
    log_prob_of_coordinates,
    outcomes_of,
    sample_natural,
)
from pgjax.policies.gaussian import standard_log_density
from pgjax.records import configured, record
from pgjax.types import Params, check_function


@record
class Distribution:
    """A distribution of x that depends on parameters, as a record of pure functions.

    Attributes:
        sample: (params, key) -> x, one draw; a pytree.
        log_prob: (params, x) -> log p(x; θ), a scalar.
        noise: (params, key) -> the noise behind a draw, whose law does not depend on params.
        transform: (params, noise) -> x, differentiable by params.
        outcomes: params -> [M, ...], every x with a positive probability.
        natural: params -> Natural, its family and natural parameters.

    Each of the last four is None if the distribution has no such function.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> logistic = Distribution(
        ...     sample=lambda params, key: params + jax.random.logistic(key),
        ...     log_prob=lambda params, x: jax.scipy.stats.logistic.logpdf(x - params))
    """

    sample: Callable[[Params, Key[Array, ""]], Any]
    log_prob: Callable[[Params, Any], Float[Array, ""]]
    noise: Callable[[Params, Key[Array, ""]], Any] | None = None
    transform: Callable[[Params, Any], Any] | None = None
    outcomes: Callable[[Params], Any] | None = None
    natural: Callable[[Params], Natural] | None = None

    def __post_init__(self) -> None:
        check_function("sample", self.sample, "(params, key) -> x")
        check_function("log_prob", self.log_prob, "(params, x) -> scalar")
        optional = {
            "noise": "(params, key) -> noise",
            "transform": "(params, noise) -> x",
            "outcomes": "params -> every x, [M, ...]",
            "natural": "params -> Natural(family, values)",
        }
        for name, signature in optional.items():
            if getattr(self, name) is not None:
                check_function(name, getattr(self, name), signature)
        if (self.noise is None) != (self.transform is None):
            raise ValueError(
                "noise and transform must both be given or both be None, got one of them; omit it, "
                "or add the other"
            )


Output = Callable[[Params], Any]
"""params -> natural parameters."""


def normal(mean_and_log_std: Output | None = None) -> Distribution:
    """Independent normal coordinates, x = μ + σ z.

    Args:
        mean_and_log_std: params -> (μ, log σ), of one shape; None takes params as the pair.

    Raises:
        TypeError: when the Distribution is used, if it gets no pair.
        ValueError: when the Distribution is used, if the two differ in shape.

    Example:
        >>> import jax.numpy as jnp
        >>> unit = normal(lambda mean: (mean, jnp.zeros_like(mean)))
        >>> round(float(unit.log_prob(jnp.zeros(2), jnp.zeros(2))), 6)
        -1.837877
    """
    natural = _natural("mean_and_log_std", mean_and_log_std, NORMAL)
    return Distribution(
        configured(_normal_sample, natural=natural),
        configured(_normal_log_prob, natural=natural),
        configured(_normal_noise, natural=natural),
        configured(_normal_transform, natural=natural),
        natural=natural,
    )


def bernoulli(logits: Output | None = None) -> Distribution:
    """Independent coins, p(x_d = 1) = 1/(1 + exp(−φ_d)).

    Args:
        logits: params -> φ [...]; None takes params as φ.

    Example:
        >>> import jax.numpy as jnp
        >>> bernoulli().outcomes(jnp.zeros(2)).tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    return _discrete(_natural("logits", logits, BERNOULLI))


def categorical(logits: Output | None = None) -> Distribution:
    """Independent choices among K, p(x_d = k) = softmax(φ_d)_k, as integers.

    Args:
        logits: params -> φ [..., K]; None takes params as φ.

    Example:
        >>> import jax.numpy as jnp
        >>> categorical().outcomes(jnp.zeros(3)).tolist()
        [0, 1, 2]
    """
    return _discrete(_natural("logits", logits, CATEGORICAL))


def one_hot_categorical(logits: Output | None = None) -> Distribution:
    """Independent choices among K, each as a one-hot vector, so that f can be relaxed.

    Args:
        logits: params -> φ [..., K]; None takes params as φ.

    Example:
        >>> import jax.numpy as jnp
        >>> one_hot_categorical().outcomes(jnp.zeros(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return _discrete(_natural("logits", logits, ONE_HOT))


def poisson(log_rate: Output | None = None) -> Distribution:
    """Independent counts, p(x) = λ^x exp(−λ) / x!.

    Args:
        log_rate: params -> log λ [...]; None takes params as log λ.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(poisson().log_prob(jnp.float32(0.0), jnp.float32(0.0))), 4)
        -1.0
    """
    natural = _natural("log_rate", log_rate, POISSON)
    return Distribution(
        configured(_discrete_sample, natural=natural),
        configured(_discrete_log_prob, natural=natural),
        natural=natural,
    )


def _discrete(natural: Any) -> Distribution:
    return Distribution(
        configured(_discrete_sample, natural=natural),
        configured(_discrete_log_prob, natural=natural),
        outcomes=configured(_outcomes, natural=natural),
        natural=natural,
    )


def _natural(name: str, output: Output | None, family: str) -> Any:
    if output is not None:
        check_function(name, output, "params -> natural parameters")
    return configured(_natural_of, output=output, family=family)


def _natural_of(params: Params, *, output: Output | None, family: str) -> Natural:
    found = params if output is None else output(params)
    return check_natural(Natural(family, found))


def _normal_noise(params: Params, key: Array, *, natural: Any) -> Array:
    mean = natural(params).values[0]
    return jax.random.normal(key, mean.shape, mean.dtype)


def _normal_transform(params: Params, noise: Array, *, natural: Any) -> Array:
    mean, log_std = natural(params).values
    return mean + jnp.exp(log_std) * noise


def _normal_sample(params: Params, key: Array, *, natural: Any) -> Array:
    return _normal_transform(params, _normal_noise(params, key, natural=natural), natural=natural)


def _normal_log_prob(params: Params, x: Array, *, natural: Any) -> Array:
    mean, log_std = natural(params).values
    return standard_log_density(mean, log_std, x)


def _discrete_sample(params: Params, key: Array, *, natural: Any) -> Array:
    return sample_natural(natural(params), key)


def _discrete_log_prob(params: Params, x: Array, *, natural: Any) -> Array:
    return jnp.sum(log_prob_of_coordinates(natural(params), x))


def _outcomes(params: Params, *, natural: Any) -> Array:
    return outcomes_of(natural(params))


def natural_of(
    distribution: Distribution, params: Params, families: tuple[str, ...], asked_by: str
) -> Natural:
    """The distribution's natural parameters, if it is of one of the families.

    Args:
        distribution: of any kind.
        params: its parameters.
        families: that are accepted.
        asked_by: the estimator, for the error's message.

    Raises:
        ValueError: if it is of another family, or of none that is known.
    """
    found = None if distribution.natural is None else distribution.natural(params)
    if found is not None and found.family in families:
        return found
    got = "one of no known family" if found is None else f"a {found.family}"
    makers = " or ".join(f"expectations.{_maker(family)}" for family in families)
    raise ValueError(
        f"distribution must be a {' or '.join(families)} for {asked_by}, got {got}; {makers} makes "
        "one; score_function() takes any distribution"
    )


def _maker(family: str) -> str:
    return family.replace("-", "_").replace(" ", "_")


def listed_outcomes(distribution: Distribution, params: Params, asked_by: str) -> Any:
    """[M, ...] the distribution's outcomes.

    Args:
        asked_by: the estimator, for the error's message.

    Raises:
        ValueError: if it has no list of them.
    """
    if distribution.outcomes is None:
        if distribution.natural is not None:
            outcomes_of(distribution.natural(params))  # says which family it is
        raise ValueError(
            f"distribution must list its outcomes for {asked_by}, got one without `outcomes`: is x "
            "continuous? take score_function(), which takes any distribution"
        )
    return distribution.outcomes(params)


def check_distribution(distribution: Any) -> Distribution:
    """The distribution, if it is one; the error says how to make one from the object given.

    Args:
        distribution: of any type.

    Raises:
        TypeError: if it is no `Distribution`.
    """
    fix = "expectations.normal() makes one"
    name = type(distribution).__name__
    if name in ("Policy", "RecurrentPolicy"):
        fix = "expectations.from_policy(policy, observation) makes one"
    elif hasattr(distribution, "log_prob") and hasattr(distribution, "sample"):
        fix = f"expectations.from_object(lambda params: {name}(...)) makes one"
    elif callable(distribution):
        fix = "call it, or expectations.from_object(function) where it makes an object of a library"
    return check_kind("distribution", distribution, Distribution, fix)
