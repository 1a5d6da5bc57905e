"""Biased by design: relaxations that differentiate f at points that x never takes.

They have little variance and a bias that no number of samples removes; its size, and even its sign,
depend on f. All need an f that is differentiable between the outcomes, and a Bernoulli or a one-hot
categorical; otherwise a ValueError is raised at use. Each sample takes one evaluation of f. φ are
the logits.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.core.validation import check_above_zero, check_scalars
from pgjax.expectations.distributions import Distribution, natural_of
from pgjax.expectations.estimator import ExpectationEstimator, draw_independently, make
from pgjax.expectations.integrands import Integrand
from pgjax.expectations.natural import BERNOULLI, Natural
from pgjax.expectations.relaxed import RELAXABLE, softened
from pgjax.types import Number, Params


def straight_through() -> ExpectationEstimator:
    """Straight-through: f's derivative at the discrete draw, as if the draw were its mean.

    ĝ = ∇f(b) ∂p/∂φ.

    Bias: biased by design. For f = (b − 0.45)² at p = 0.3 even its sign is wrong: −0.063 where the
    derivative is +0.021. None if f is linear in every coordinate.

    References:
        Bengio, Léonard & Courville, Estimating or Propagating Gradients Through Stochastic Neurons
        for Conditional Computation (2013), here with the slope of p.

    Example:
        >>> straight_through()
        straight_through()
    """
    return make(_draw_outcomes, _no_weights, _straight_through, "outcomes")


def reinmax() -> ExpectationEstimator:
    """ReinMax: straight-through of second order, by Heun's method.

    Its temperature is 1.

    Bias: biased by design, less than `straight_through`: none if f is a quadratic of one choice.

    References:
        Liu et al., Bridging Discrete and Backpropagation: Straight-Through and Beyond (2023),
        algorithm 2; theorem 3.1 for quadratics.

    Example:
        >>> reinmax()
        reinmax()
    """
    return make(_draw_outcomes, _no_weights, _reinmax, "outcomes")


def gumbel_softmax(temperature: Number = 0.5) -> ExpectationEstimator:
    """Gumbel-softmax, also concrete: the derivative of f at a relaxed draw, softmax((φ + G)/λ).

    Args:
        temperature: λ > 0: a small one has less bias and more variance.

    Raises:
        ValueError: if λ is not positive.

    Bias: biased by design: it estimates the gradient of E[f] at relaxed draws, not of E[f(x)].

    References:
        Jang, Gu & Poole (2017); Maddison, Mnih & Teh, The Concrete Distribution (2017).

    Example:
        >>> gumbel_softmax(1.0)
        gumbel_softmax(temperature=1.0)
    """
    check_above_zero("temperature", temperature, "it divides the relaxed draw")
    return make(_draw_uniforms, _no_weights, _gumbel_softmax, "uniforms", temperature=temperature)


def straight_through_gumbel_softmax(temperature: Number = 0.5) -> ExpectationEstimator:
    """Gumbel-softmax whose f sees the discrete draw, with the relaxed draw's derivative.

    Args:
        temperature: λ > 0.

    Raises:
        ValueError: if λ is not positive.

    Bias: biased by design.

    References:
        Jang, Gu & Poole, Categorical Reparameterization with Gumbel-Softmax (2017), section 2.2.

    Example:
        >>> straight_through_gumbel_softmax(1.0)
        straight_through_gumbel_softmax(temperature=1.0)
    """
    check_above_zero("temperature", temperature, "it divides the relaxed draw")
    return make(
        _draw_uniforms,
        _no_weights,
        _straight_through_gumbel_softmax,
        "uniforms",
        temperature=temperature,
    )


def _of(distribution: Distribution, params: Params) -> Natural:
    return natural_of(distribution, params, RELAXABLE, "a relaxation")


def _no_weights(
    f: Integrand, distribution: Distribution, params: Params, draws: Array, **settings: Any
) -> Array:
    return jnp.zeros(len(draws))


def _draw_outcomes(distribution: Distribution, params: Params, key: Array, N: int) -> Array:
    _of(distribution, params)
    return draw_independently(distribution, params, key, N)


def _draw_uniforms(
    distribution: Distribution, params: Params, key: Array, N: int, **settings: Any
) -> Array:
    values = _of(distribution, params).values
    tiny = jnp.finfo(values.dtype).tiny
    return jax.random.uniform(key, (N, *values.shape), values.dtype, minval=tiny)


def _with_derivative_of(value: Array, soft: Array) -> Array:
    """The value, with the other's derivative."""
    return value + soft - jax.lax.stop_gradient(soft)


def _straight_through(
    f: Integrand, distribution: Distribution, params: Params, b: Array, weight: Array
) -> Array:
    family, logits = _of(distribution, params)
    mean = jax.nn.sigmoid(logits) if family == BERNOULLI else jax.nn.softmax(logits)
    return f(params, _with_derivative_of(b.astype(logits.dtype), mean))


def _reinmax(
    f: Integrand, distribution: Distribution, params: Params, b: Array, weight: Array
) -> Array:
    family, logits = _of(distribution, params)
    b = b.astype(logits.dtype)
    if family == BERNOULLI:  # two categories, of which x is the first one's entry
        pair = jnp.stack([logits, jnp.zeros_like(logits)], axis=-1)
        return f(params, _heun(pair, jnp.stack([b, 1 - b], axis=-1))[..., 0])
    return f(params, _heun(logits, b))


def _heun(logits: Array, b: Array) -> Array:
    probability = jax.nn.softmax(logits)
    middle = jax.lax.stop_gradient((probability + b) / 2)
    # A softmax with the value `middle` and the logits' derivative.
    moved = jax.nn.softmax(_with_derivative_of(jnp.log(middle), logits))
    return _with_derivative_of(b, 2 * moved - probability / 2)


def _relaxed(logits: Array, family: str, uniform: Array, temperature: Number) -> Array:
    check_scalars(temperature=temperature)
    if family == BERNOULLI:
        return softened(family, logits + jnp.log(uniform) - jnp.log1p(-uniform), temperature)
    return softened(family, logits - jnp.log(-jnp.log(uniform)), temperature)


def _gumbel_softmax(
    f: Integrand,
    distribution: Distribution,
    params: Params,
    uniform: Array,
    weight: Array,
    *,
    temperature: Number,
) -> Array:
    family, logits = _of(distribution, params)
    return f(params, _relaxed(logits, family, uniform, temperature))


def _straight_through_gumbel_softmax(
    f: Integrand,
    distribution: Distribution,
    params: Params,
    uniform: Array,
    weight: Array,
    *,
    temperature: Number,
) -> Array:
    family, logits = _of(distribution, params)
    soft = _relaxed(logits, family, uniform, temperature)
    held = jax.lax.stop_gradient(soft)
    if family == BERNOULLI:
        hard = (held > 0.5).astype(soft.dtype)
    else:
        hard = jax.nn.one_hot(jnp.argmax(held, axis=-1), soft.shape[-1], dtype=soft.dtype)
    return f(params, _with_derivative_of(hard, soft))
