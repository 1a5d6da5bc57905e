"""Families of distributions by their natural parameters: the mathematics behind the records."""

from itertools import product
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln, ndtri
from jaxtyping import Float, Key

from pgjax.policies import SOFTMAX
from pgjax.types import describe

NORMAL, BERNOULLI, CATEGORICAL = "normal", "bernoulli", "categorical"
ONE_HOT, POISSON = "one-hot categorical", "poisson"
LARGEST = 100_000
"""More outcomes than this are not listed."""


class Natural(NamedTuple):
    """A distribution's family, and its natural parameters.

    Attributes:
        family: "normal", "bernoulli", "categorical", "one-hot categorical" or "poisson".
        values: (mean, log σ), logits or log rate.
    """

    family: str
    values: Any


def check_natural(found: Natural) -> Natural:
    """The natural parameters as floating arrays, if they are such.

    Args:
        found: of any family.

    Raises:
        TypeError: if they are not arrays of numbers, or not a pair where one is needed.
        ValueError: if the shapes of a pair differ, or logits of a categorical have no axis.
    """
    family, values = found
    if family == NORMAL:
        if not isinstance(values, tuple | list) or len(values) != 2:
            raise TypeError(f"params of a normal must be (mean, log_std), got {describe(values)}")
        mean, log_std = (_floating("params of a normal", x) for x in values)
        if mean.shape != log_std.shape:
            raise ValueError(
                f"params of a normal must be two arrays of one shape, got mean {mean.shape} and "
                f"log_std {log_std.shape}; jnp.broadcast_to(log_std, mean.shape) gives one σ to all"
            )
        return Natural(family, (mean, log_std))
    values = _floating(f"params of a {family}", values)
    if family in (CATEGORICAL, ONE_HOT) and not values.ndim:
        raise ValueError(
            f"params of a {family} must be logits [..., K], got one number; bernoulli() takes one"
        )
    return Natural(family, values)


def _floating(name: str, x: Any) -> Array:
    if isinstance(x, tuple | list | dict) or not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise TypeError(
            f"{name} must be a floating array, got {describe(x)}; pass the maker a function from "
            "your parameters to it"
        )
    return jnp.asarray(x)


def sample_natural(natural: Natural, key: Key[Array, ""]) -> Array:
    """One draw of a discrete family.

    Args:
        natural: of any family but the normal.
    """
    family, values = natural
    if family == BERNOULLI:
        uniform = jax.random.uniform(key, values.shape, values.dtype)
        return (uniform < jax.nn.sigmoid(values)).astype(values.dtype)
    if family == POISSON:
        return jax.random.poisson(key, jnp.exp(values)).astype(values.dtype)
    drawn = jax.random.categorical(key, values)
    if family == ONE_HOT:
        return jax.nn.one_hot(drawn, values.shape[-1], dtype=values.dtype)
    return drawn.astype(jnp.int32)


def log_prob_of_coordinates(natural: Natural, x: Array) -> Float[Array, "..."]:
    """Log p of each coordinate of a discrete family's draw.

    Args:
        natural: of any family but the normal.
        x: a draw.
    """
    family, values = natural
    if family == BERNOULLI:
        return jax.nn.log_sigmoid(jnp.where(x == 1, values, -values))
    if family == POISSON:
        x = x.astype(values.dtype)
        return x * values - jnp.exp(values) - gammaln(x + 1)
    if family == ONE_HOT:
        return jnp.sum(jax.nn.log_softmax(values) * x, axis=-1)
    rows = values.reshape(-1, values.shape[-1])
    found = jax.vmap(SOFTMAX.log_prob)(rows, jnp.asarray(x).reshape(-1))
    return found.reshape(values.shape[:-1])


def outcomes_of(natural: Natural) -> Array:
    """[M, ...] every outcome of a discrete family.

    Args:
        natural: of a family with finitely many outcomes.

    Raises:
        ValueError: if there are infinitely many, or more than `LARGEST`.
    """
    family, values = natural
    if family not in (BERNOULLI, CATEGORICAL, ONE_HOT):
        raise ValueError(
            f"distribution must have finitely many outcomes to list them, got a {family}; take "
            "score_function(), or pathwise() if x is continuous"
        )
    shape = values.shape if family == BERNOULLI else values.shape[:-1]
    K = 2 if family == BERNOULLI else values.shape[-1]
    number = K ** prod(shape)
    if number > LARGEST:
        raise ValueError(
            f"distribution must have at most {LARGEST:,} outcomes to list them, got {number:,}; "
            "take an estimator that samples"
        )
    listed = np.array(list(product(range(K), repeat=prod(shape)))).reshape(number, *shape)
    if family == CATEGORICAL:
        return jnp.asarray(listed, jnp.int32)
    if family == BERNOULLI:
        return jnp.asarray(listed, values.dtype)
    return jax.nn.one_hot(listed, K, dtype=values.dtype)


def uniform_shape(natural: Natural) -> tuple[int, ...]:
    """The shape of the uniform numbers behind one draw.

    Args:
        natural: of any family.
    """
    family, values = natural
    if family == NORMAL:
        return values[0].shape
    return values.shape[:-1] if family in (CATEGORICAL, ONE_HOT) else values.shape


def quantile(natural: Natural, uniform: Float[Array, "..."]) -> Array:
    """A draw by inversion, increasing in each uniform number.

    Args:
        natural: of any family but Poisson.
        uniform: in (0, 1), of `uniform_shape`.

    Raises:
        ValueError: if the family is Poisson.
    """
    family, values = natural
    if family == NORMAL:
        return values[0] + jnp.exp(values[1]) * ndtri(uniform)
    if family == BERNOULLI:
        return (uniform > jax.nn.sigmoid(-values)).astype(values.dtype)
    if family == POISSON:
        raise ValueError(
            "distribution must have an inverse to be sampled by antithetic or Sobol numbers, got "
            "a poisson; take score_function() or measure_valued()"
        )
    cumulative = jnp.cumsum(jax.nn.softmax(values), axis=-1)[..., :-1]
    drawn = jnp.sum(uniform[..., None] >= cumulative, axis=-1, dtype=jnp.int32)
    if family == ONE_HOT:
        return jax.nn.one_hot(drawn, values.shape[-1], dtype=values.dtype)
    return drawn
