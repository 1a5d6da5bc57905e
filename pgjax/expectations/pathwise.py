"""Pathwise gradients, and antithetic and quasi-Monte-Carlo numbers for them and for scores."""

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import Array
from jaxtyping import Float

from pgjax.expectations.distributions import Distribution, natural_of
from pgjax.expectations.estimator import (
    AnyEstimator,
    ExpectationEstimator,
    check_expectation_estimator,
    make,
    one_step_term,
    one_step_weights,
)
from pgjax.expectations.integrands import Integrand
from pgjax.expectations.natural import (
    BERNOULLI,
    CATEGORICAL,
    NORMAL,
    ONE_HOT,
    Natural,
    quantile,
    uniform_shape,
)
from pgjax.types import Estimator, Params

INVERTIBLE = NORMAL, BERNOULLI, CATEGORICAL, ONE_HOT


def pathwise() -> ExpectationEstimator:
    """The pathwise derivative, ĝ = mean_i ∇θ f(T(θ, noise_i)): the reparameterisation trick.

    One evaluation of f a sample.

    Raises:
        ValueError: at use, if the distribution has no `transform`.

    Bias: none if f and T are continuous in θ, and differentiable almost everywhere.

    References:
        Kingma & Welling, Auto-Encoding Variational Bayes (2014); Mohamed et al. (2020), section 5.

    Example:
        >>> pathwise()
        pathwise()
    """
    return make(_draw_noise, _no_weights, _pathwise, "noise")


def _draw_noise(distribution: Distribution, params: Params, key: Array, N: int) -> Any:
    noise = _of_transform(distribution, params).noise
    return jax.vmap(noise, (None, 0))(params, jax.random.split(key, N))


def _of_transform(distribution: Distribution, params: Params) -> Any:
    if distribution.transform is None:
        got = "" if distribution.natural is None else f" of a {distribution.natural(params).family}"
        raise ValueError(
            "distribution must have a transform(params, noise) for pathwise, got one without"
            f"{got}; take score_function(), which needs only log_prob"
        )
    return distribution


def _no_weights(f: Integrand, distribution: Distribution, params: Params, draws: Any) -> Array:
    return jnp.zeros(len(jax.tree.leaves(draws)[0]))


def _pathwise(
    f: Integrand, distribution: Distribution, params: Params, noise: Any, weight: Array
) -> Array:
    return f(params, _of_transform(distribution, params).transform(params, noise))


def antithetic(estimator: AnyEstimator) -> ExpectationEstimator:
    """Antithetic sampling: uniform numbers u and 1 − u behind each pair of draws.

    One evaluation of f a sample. Draws are by inversion, so that the two of a pair lie on opposite
    sides of the median, in every coordinate. The variance is less than that of independent draws
    if f times the score, or f's derivative, is monotone; it can also be more.

    Args:
        estimator: `score_function(baseline=...)`, any `pgjax.Estimator`, or `pathwise()`.

    Raises:
        TypeError: if the estimator is of another kind.
        ValueError: at use, if `num_samples` is odd or the distribution has no inverse.

    Bias: none, if the estimator has none without a baseline from the batch. With `leave_one_out`
    it is biased, because the two of a pair are not independent.

    References:
        Hammersley & Morton, A New Monte Carlo Technique: Antithetic Variates (1956).

    Example:
        >>> antithetic(pathwise())
        antithetic(estimator=pathwise())
    """
    return _with_uniforms(_draw_mirrored, _antithetic, "mirrored", estimator)


def quasi_monte_carlo(estimator: AnyEstimator) -> ExpectationEstimator:
    """Quasi-Monte-Carlo: Sobol points, shifted at random as a whole, behind the draws.

    The points are scipy's, without scrambling; all of them are shifted by one uniform vector,
    modulo 1, so that each is uniform. One evaluation of f a sample. The rows of
    `per_sample_gradients` depend on each other.

    Args:
        estimator: as for `antithetic`.

    Raises:
        TypeError: if the estimator is of another kind.
        ValueError: at use, if the distribution has no inverse.

    Bias: none, if the estimator has none without a baseline from the batch. With `leave_one_out`
    it is biased. Numbers of samples that are powers of two fill the space evenly.

    References:
        Sobol' (1967); Cranley & Patterson, Randomization of Number Theoretic Methods for Multiple
        Integration (1976), for the shift; Buchholz, Wenzel & Mandt, Quasi-Monte Carlo Variational
        Inference (2018).

    Example:
        >>> quasi_monte_carlo(pathwise())
        quasi_monte_carlo(estimator=pathwise())
    """
    return _with_uniforms(_draw_sobol, _quasi_monte_carlo, "shifted", estimator)


def sobol_points(num_samples: int, num_dimensions: int) -> Float[np.ndarray, "N D"]:
    """[N, D] the first Sobol points of scipy, unscrambled, in [0, 1).

    Args:
        num_samples: N; computed for the next power of two and cut.
        num_dimensions: D.
    """
    power = int(np.ceil(np.log2(num_samples)))
    return scipy.stats.qmc.Sobol(num_dimensions, scramble=False).random_base2(power)[:num_samples]


def shifted(points: Array, shift: Array) -> Array:
    """The points moved by the shift, modulo 1, and kept within (0, 1).

    Args:
        points: [N, D] in [0, 1).
        shift: [D] in [0, 1).
    """
    smallest = jnp.finfo(shift.dtype).eps / 2
    return jnp.clip((points + shift) % 1.0, smallest, 1 - smallest)


def _with_uniforms(draw: Any, term: Any, law: str, estimator: Any) -> ExpectationEstimator:
    check_expectation_estimator(estimator)
    if not isinstance(estimator, Estimator) and estimator != pathwise():
        raise TypeError(
            f"estimator must be score_function() or pathwise(), got {estimator!r}, whose noise "
            "is not one uniform number for each coordinate"
        )
    return make(draw, _uniform_weights, term, law, estimator=estimator)


def _invertible(distribution: Distribution, params: Params) -> Natural:
    return natural_of(distribution, params, INVERTIBLE, "antithetic or Sobol numbers")


def _draw_mirrored(
    distribution: Distribution, params: Params, key: Array, N: int, *, estimator: Any
) -> Array:
    if N % 2:
        raise ValueError(f"num_samples must be even for antithetic pairs, got {N}")
    shape = uniform_shape(_invertible(distribution, params))
    half = _open_uniform(key, (N // 2, *shape), params)
    return jnp.stack([half, 1 - half], axis=1).reshape(N, *shape)


def _draw_sobol(
    distribution: Distribution, params: Params, key: Array, N: int, *, estimator: Any
) -> Array:
    shape = uniform_shape(_invertible(distribution, params))
    shift = _open_uniform(key, (prod(shape),), params)
    points = jnp.asarray(sobol_points(N, prod(shape)), shift.dtype)
    return shifted(points, shift).reshape(N, *shape)


def _open_uniform(key: Array, shape: tuple[int, ...], params: Params) -> Array:
    """Uniform numbers in (0, 1), never at its ends."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    smallest = jnp.finfo(dtype).eps / 2
    return jax.random.uniform(key, shape, dtype, smallest, 1 - smallest)


def _uniform_weights(
    f: Integrand, distribution: Distribution, params: Params, uniform: Array, *, estimator: Any
) -> Any:
    natural = _invertible(distribution, params)
    if not isinstance(estimator, Estimator):
        _of_transform(distribution, params)
        return _no_weights(f, distribution, params, uniform)
    x = jax.vmap(lambda u: quantile(natural, u))(uniform)
    return x, one_step_weights(f, distribution, params, x, estimator=estimator)


def _uniform_term(
    f: Integrand,
    distribution: Distribution,
    params: Params,
    uniform: Array,
    weight: Any,
    *,
    estimator: Any,
) -> Array:
    if not isinstance(estimator, Estimator):
        return f(params, quantile(_invertible(distribution, params), uniform))
    x, weight = weight
    return one_step_term(f, distribution, params, x, weight, estimator=estimator)


def _antithetic(*arguments: Any, estimator: Any) -> Array:
    return _uniform_term(*arguments, estimator=estimator)


def _quasi_monte_carlo(*arguments: Any, estimator: Any) -> Array:
    return _uniform_term(*arguments, estimator=estimator)
