"""Control variates by the delta method, for a normal: f less its Taylor polynomial."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.core.validation import (
    check_finite,
)
from pgjax.expectations.distributions import Distribution, natural_of
from pgjax.expectations.estimator import (
    AnyEstimator,
    ExpectationEstimator,
    check_expectation_estimator,
    make,
    stages,
)
from pgjax.expectations.integrands import Integrand
from pgjax.expectations.natural import NORMAL
from pgjax.types import Number, Params


def delta_control_variate(
    estimator: AnyEstimator, *, coefficient: Number = 1.0
) -> ExpectationEstimator:
    """Any estimator, applied to f less its second-order Taylor polynomial h, plus the exact ∇E[h].

    h(x) = f(m) + ∇f(m)·(x − m) + ½ (x − m)ᵀ∇²f(m)(x − m) at the normal's present mean m, and
    ĝ = ĝ[f − β h] + β ∇θ E[h(x)].

    Args:
        estimator: such as `score_function()` or `pathwise()`.
        coefficient: β; where f is its own polynomial and β = 1, no variance is left.

    Raises:
        ValueError: at use, if the distribution is not normal.

    Bias: that of the estimator, applied to f less the polynomial; nothing is added to it.

    References:
        Paisley, Blei & Jordan, Variational Bayesian Inference with Stochastic Search (2012);
        Mohamed et al. (2020), section 7.4.1.

    Example:
        >>> from pgjax.expectations import score_function
        >>> delta_control_variate(score_function(), coefficient=0.5).term.settings["coefficient"]
        0.5
    """
    check_expectation_estimator(estimator)
    check_finite("coefficient", coefficient)
    return make(
        _delta_draw,
        _delta_weights,
        _delta,
        stages(estimator).law,
        estimator=estimator,
        coefficient=coefficient,
    )


class _Taylor:
    """f's polynomial of second order at a normal's mean, for parameters that are held."""

    def __init__(self, f: Integrand, distribution: Distribution, params: Params) -> None:
        held = jax.lax.stop_gradient(params)
        self.distribution = distribution
        mean = natural_of(distribution, held, (NORMAL,), "delta_control_variate").values[0]
        self.point = mean
        flat = partial(self._of_flat, f, held, mean.shape)
        at = mean.reshape(-1)
        self.value, self.slope, self.curvature = flat(at), jax.grad(flat)(at), jax.hessian(flat)(at)

    @staticmethod
    def _of_flat(f: Integrand, params: Params, shape: tuple[int, ...], x: Array) -> Array:
        return f(params, x.reshape(shape))

    def at(self, x: Array) -> Array:
        """h(x)."""
        step = (x - self.point).reshape(-1)
        return self.value + self.slope @ step + step @ self.curvature @ step / 2

    def mean(self, params: Params) -> Array:
        """E[h(x)] under other parameters."""
        natural = natural_of(self.distribution, params, (NORMAL,), "delta_control_variate")
        mean, log_std = natural.values
        spread = jnp.diagonal(self.curvature) @ jnp.exp(2 * log_std).reshape(-1) / 2
        return self.at(mean) + spread


def _delta_draw(
    distribution: Distribution, params: Params, key: Array, N: int, *, estimator: Any, **_: Any
) -> Any:
    return stages(estimator).draw(distribution, params, key, N)


def _less(f: Integrand, polynomial: _Taylor, coefficient: Any) -> Integrand:
    def remainder(params: Params, x: Array) -> Array:
        return f(params, x) - coefficient * polynomial.at(x)

    return Integrand(remainder, has_params=True)


def _delta_weights(
    f: Integrand,
    distribution: Distribution,
    params: Params,
    draws: Any,
    *,
    estimator: Any,
    coefficient: Any,
) -> Any:
    rest = _less(f, _Taylor(f, distribution, params), coefficient)
    return stages(estimator).weights(rest, distribution, params, draws)


def _delta(
    f: Integrand,
    distribution: Distribution,
    params: Params,
    draw: Any,
    weight: Any,
    *,
    estimator: Any,
    coefficient: Any,
) -> Array:
    polynomial = _Taylor(f, distribution, params)
    rest = _less(f, polynomial, coefficient)
    sampled = stages(estimator).term(rest, distribution, params, draw, weight)
    return sampled + coefficient * polynomial.mean(params)
