"""Measure-valued gradients: a derivative of p as the difference of two distributions.

∂p/∂η = c (p⁺ − p⁻) for a natural parameter η, so that ∂E[f]/∂η = c (E⁺[f] − E⁻[f]), with one
coordinate of x drawn from p⁺ or p⁻ and the others from p. f needs no derivative.

| family | parameter | c | p⁺ | p⁻ |
| --- | --- | --- | --- | --- |
| normal | mean | 1/(σ√2π) | μ + σ W, W Rayleigh | μ − σ W |
| normal | log σ | 1 | μ + σ M, M double-sided Maxwell | the normal |
| Bernoulli | logit | p(1 − p) | 1 | 0 |
| categorical | logit k | p_k (1 − p_k) | k | p given x ≠ k |
| Poisson | log rate | λ | x + 1 | x |

f is evaluated twice for each parameter and sample, and once more for f's own derivative.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.expectations.distributions import Distribution, natural_of
from pgjax.expectations.estimator import ExpectationEstimator, make
from pgjax.expectations.integrands import Integrand
from pgjax.expectations.natural import BERNOULLI, CATEGORICAL, NORMAL, ONE_HOT, POISSON, Natural
from pgjax.types import Params

FAMILIES = NORMAL, BERNOULLI, CATEGORICAL, ONE_HOT, POISSON


def measure_valued() -> ExpectationEstimator:
    """Measure-valued gradients, with the two draws of each parameter coupled.

    The two draws share one W for both signs; the normal is M times a uniform number; all k share
    one order of the categories; both counts share one Poisson draw. A sample takes 2 P evaluations
    of f for P natural parameters.

    Raises:
        ValueError: at use, if the family has no rule in the table.

    Bias: none.

    References:
        Pflug, Sampling Derivatives of Probabilities (1989); Heidergott, Vázquez-Abad &
        Volk-Makarewicz, Sensitivity Estimation for Gaussian Systems (2008); Mohamed et
        al. (2020), section 6.

    Example:
        >>> measure_valued()
        measure_valued()
    """
    return make(_draw_coupled, _measure_valued_weights, _measure_valued, "coupled derivatives")


def uncoupled_measure_valued() -> ExpectationEstimator:
    """Measure-valued gradients with independent draws of p⁺ and p⁻: more variance.

    Raises:
        ValueError: at use, if the family has no rule in the table.

    Bias: none.

    References:
        As for `measure_valued`.

    Example:
        >>> uncoupled_measure_valued()
        uncoupled_measure_valued()
    """
    return make(
        _draw_uncoupled,
        _measure_valued_weights,
        _uncoupled_measure_valued,
        "independent derivatives",
    )


def _draw_coupled(distribution: Distribution, params: Params, key: Array, N: int) -> Any:
    natural = natural_of(distribution, params, FAMILIES, "measure_valued")
    return jax.vmap(lambda key: _draw_one(natural, key, True))(jax.random.split(key, N))


def _draw_uncoupled(distribution: Distribution, params: Params, key: Array, N: int) -> Any:
    natural = natural_of(distribution, params, FAMILIES, "measure_valued")
    return jax.vmap(lambda key: _draw_one(natural, key, False))(jax.random.split(key, N))


def _draw_one(natural: Natural, key: Array, coupled: bool) -> dict[str, Array]:
    """One sample's random numbers, flat over coordinates, for `_derivatives`."""
    family, values = natural
    first, second, third, fourth, fifth = jax.random.split(key, 5)
    if family == NORMAL:
        size, dtype = values[0].size, values[0].dtype
        plus = rayleigh(first, size, dtype)
        maxwell = jnp.sqrt(jnp.sum(jax.random.normal(second, (3, size), dtype) ** 2, axis=0))
        maxwell = maxwell * jax.random.rademacher(third, (size,), dtype)
        normal = jax.random.normal(fourth, (size,), dtype)
        if coupled:
            minus, of_scale = plus, maxwell * jax.random.uniform(fifth, (size,), dtype)
        else:
            minus_key, scale_key = jax.random.split(fifth)
            minus = rayleigh(minus_key, size, dtype)
            of_scale = jax.random.normal(scale_key, (size,), dtype)
        return {
            "normal": normal,
            "plus": plus,
            "minus": minus,
            "maxwell": maxwell,
            "scale": of_scale,
        }
    if family in (CATEGORICAL, ONE_HOT):
        logits = values.reshape(-1, values.shape[-1])
        D, K = logits.shape
        drawn = jax.random.categorical(first, logits)
        shape = (D, 1, K) if coupled else (D, K, K)  # the order of the categories, for each k
        noisy = logits[:, None, :] + jax.random.gumbel(second, shape, logits.dtype)
        other = jnp.argmax(jnp.where(jnp.eye(K, dtype=bool), -jnp.inf, noisy), axis=-1)
        return {"x": drawn, "other": other}
    flat = values.reshape(-1)
    if family == BERNOULLI:
        drawn = jax.random.uniform(first, flat.shape, flat.dtype) < jax.nn.sigmoid(flat)
        return {"x": drawn.astype(flat.dtype)}
    count = jax.random.poisson(first, jnp.exp(flat)).astype(flat.dtype)
    again = count if coupled else jax.random.poisson(second, jnp.exp(flat)).astype(flat.dtype)
    return {"x": count, "other": again}


def rayleigh(key: Array, size: int, dtype: Any) -> Array:
    """[size] draws with density w exp(−w²/2), w > 0.

    Args:
        key: of JAX.
        size: how many.
        dtype: floating.
    """
    return jnp.sqrt(2 * jax.random.exponential(key, (size,), dtype))


def _measure_valued_weights(
    f: Integrand, distribution: Distribution, params: Params, draws: Any
) -> tuple[Any, Array]:
    natural = natural_of(distribution, params, FAMILIES, "measure_valued")
    return jax.vmap(lambda draw: _derivatives(lambda x: f(params, x), natural, draw))(draws)


def _derivatives(f: Callable[[Array], Array], natural: Natural, draw: dict[str, Array]) -> Any:
    """The derivative of E[f] by each natural parameter, and a draw of x, of one sample."""
    family, values = natural
    if family == NORMAL:
        mean, log_std = values
        return _of_normal(f, mean, log_std, draw)
    if family in (CATEGORICAL, ONE_HOT):
        return _of_categorical(f, family, values, draw)
    shape, flat, x = values.shape, values.reshape(-1), draw["x"]
    if family == BERNOULLI:
        ones, other = jnp.ones_like(x), jnp.zeros_like(x)
        constant = jax.nn.sigmoid(flat) * jax.nn.sigmoid(-flat)
    else:
        ones, other, constant = x + 1, draw["other"], jnp.exp(flat)
    change = _changed(f, x, ones, shape) - _changed(f, x, other, shape)
    return (constant * change).reshape(shape), x.reshape(shape)


def _changed(f: Callable, x: Array, new: Array, shape: tuple[int, ...]) -> Array:
    """[D] f at x with coordinate d replaced by new_d, for each d."""
    places = jnp.arange(len(x))
    return jax.vmap(lambda d: f(x.at[d].set(new[d]).reshape(shape)))(places)


def _of_normal(f: Callable, mean: Array, log_std: Array, draw: dict[str, Array]) -> Any:
    shape, center, std = mean.shape, mean.reshape(-1), jnp.exp(log_std).reshape(-1)
    x = center + std * draw["normal"]
    at = {name: center + std * draw[name] for name in ("plus", "maxwell", "scale")}
    below = center - std * draw["minus"]
    by_mean = _changed(f, x, at["plus"], shape) - _changed(f, x, below, shape)
    by_mean = by_mean / (std * math.sqrt(2 * math.pi))
    by_log_std = _changed(f, x, at["maxwell"], shape) - _changed(f, x, at["scale"], shape)
    return (by_mean.reshape(shape), by_log_std.reshape(shape)), x.reshape(shape)


def _of_categorical(f: Callable, family: str, logits: Array, draw: dict[str, Array]) -> Any:
    shape, K = logits.shape[:-1], logits.shape[-1]
    probability = jax.nn.softmax(logits).reshape(-1, K)

    def of_indices(x: Array) -> Array:
        x = x.reshape(shape)
        return f(jax.nn.one_hot(x, K, dtype=logits.dtype) if family == ONE_HOT else x)

    def by(category: Array) -> Array:
        x, other = draw["x"].astype(jnp.int32), draw["other"][:, category].astype(jnp.int32)
        these = jnp.full_like(x, category)
        return _changed(of_indices, x, these, x.shape) - _changed(of_indices, x, other, x.shape)

    change = jax.vmap(by, out_axes=1)(jnp.arange(K))
    x = draw["x"].astype(jnp.int32).reshape(shape)
    x = jax.nn.one_hot(x, K, dtype=logits.dtype) if family == ONE_HOT else x
    return (probability * (1 - probability) * change).reshape(logits.shape), x


def _term(f: Integrand, distribution: Distribution, params: Params, weight: Any) -> Array:
    slopes, x = weight
    values = natural_of(distribution, params, FAMILIES, "measure_valued").values
    products = jax.tree.map(lambda slope, value: jnp.sum(slope * value), slopes, values)
    return sum(jax.tree.leaves(products)) + f.own(params, x)


def _measure_valued(
    f: Integrand, distribution: Distribution, params: Params, draw: Any, weight: Any
) -> Array:
    return _term(f, distribution, params, weight)


def _uncoupled_measure_valued(
    f: Integrand, distribution: Distribution, params: Params, draw: Any, weight: Any
) -> Array:
    return _term(f, distribution, params, weight)
