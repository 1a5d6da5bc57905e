"""ARM and DisARM: a Bernoulli's gradient from two coupled draws, without a score.

Both draw uniform numbers u, and evaluate f twice a sample: at b = 1[u > 1 − p] and at the opposite
draw b' = 1[u < p], coordinate by coordinate. If f takes params, its own derivative is the mean of
those at the two draws.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.expectations.distributions import Distribution, natural_of
from pgjax.expectations.estimator import ExpectationEstimator, make
from pgjax.expectations.integrands import Integrand
from pgjax.expectations.natural import BERNOULLI
from pgjax.types import Params


def arm() -> ExpectationEstimator:
    """Augment-REINFORCE-merge: ĝ = (f(b) − f(b')) (u − ½), by the logits.

    Two evaluations of f a sample.

    Raises:
        ValueError: at use, if the distribution is not a Bernoulli.

    Bias: none.

    References:
        Yin & Zhou, ARM: Augment-REINFORCE-Merge Gradient for Stochastic Binary Networks (2019),
        theorem 1.

    Example:
        >>> arm()
        arm()
    """
    return make(_draw_uniforms, _arm_weights, _arm, "uniforms")


def disarm() -> ExpectationEstimator:
    """DisARM, also U2G: ARM with u averaged out given the two draws.

    ĝ_d = ½ (f(b) − f(b')) (b_d − b'_d) 1/(1 + exp(−|φ_d|)), by the logits φ. Two evaluations of f
    a sample.

    Raises:
        ValueError: at use, if the distribution is not a Bernoulli.

    Bias: none. Its variance is at most ARM's.

    References:
        Dong, Mnih & Tucker, DisARM: An Antithetic Gradient Estimator for Binary Latent Variables
        (2020), eq. 4; Yin et al., Probabilistic Best Subset Selection via Gradient-Based
        Optimization (2020).

    Example:
        >>> disarm()
        disarm()
    """
    return make(_draw_uniforms, _disarm_weights, _disarm, "uniforms")


def _draw_uniforms(distribution: Distribution, params: Params, key: Array, N: int) -> Array:
    logits = natural_of(distribution, params, (BERNOULLI,), "arm and disarm").values
    return jax.random.uniform(key, (N, *logits.shape), logits.dtype)


def _pair(logits: Array, uniform: Array) -> tuple[Array, Array]:
    first = uniform > jax.nn.sigmoid(-logits)
    second = uniform < jax.nn.sigmoid(logits)
    return first.astype(logits.dtype), second.astype(logits.dtype)


def _difference(f: Integrand, params: Params, logits: Array, uniform: Array) -> Any:
    first, second = _pair(logits, uniform)
    return (f(params, first) - f(params, second)).astype(logits.dtype), first, second


def _arm_weights(
    f: Integrand, distribution: Distribution, params: Params, uniform: Array
) -> tuple[Array, Array]:
    logits = natural_of(distribution, params, (BERNOULLI,), "arm").values

    def of_sample(u: Array) -> tuple[Array, Array]:
        change, first, second = _difference(f, params, logits, u)
        return change * (u - 0.5), jnp.stack([first, second])

    return jax.vmap(of_sample)(uniform)


def _disarm_weights(
    f: Integrand, distribution: Distribution, params: Params, uniform: Array
) -> tuple[Array, Array]:
    logits = natural_of(distribution, params, (BERNOULLI,), "disarm").values

    def of_sample(u: Array) -> tuple[Array, Array]:
        change, first, second = _difference(f, params, logits, u)
        slope = change / 2 * (first - second) * jax.nn.sigmoid(jnp.abs(logits))
        return slope, jnp.stack([first, second])

    return jax.vmap(of_sample)(uniform)


def _by_logits(f: Integrand, distribution: Distribution, params: Params, weight: Any) -> Array:
    slope, pair = weight
    logits = natural_of(distribution, params, (BERNOULLI,), "arm and disarm").values
    own = (f.own(params, pair[0]) + f.own(params, pair[1])) / 2
    return jnp.sum(slope * logits) + own


def _arm(
    f: Integrand, distribution: Distribution, params: Params, uniform: Array, weight: Any
) -> Array:
    return _by_logits(f, distribution, params, weight)


def _disarm(
    f: Integrand, distribution: Distribution, params: Params, uniform: Array, weight: Any
) -> Array:
    return _by_logits(f, distribution, params, weight)
