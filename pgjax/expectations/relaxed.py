"""REBAR and RELAX: the score function with a control variate from a continuous relaxation.

A discrete draw b is the threshold of a continuous z, and z̃ is z drawn anew given b. For any c,

    ĝ = (f(b) − c(z̃)) ∇log p(b) + ∇c(z) − ∇c(z̃)

is unbiased, because E[c(z̃) ∇log p(b)] + E[∇c(z̃)] = E[∇c(z)]. For a Bernoulli, z = φ + log u/(1 − u)
and b = 1[z > 0]. For a categorical, z = φ − log(−log u) and b is the one-hot maximum.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.core.validation import check_above_zero, check_array, check_finite, check_scalars
from pgjax.expectations.distributions import Distribution, natural_of
from pgjax.expectations.estimator import ExpectationEstimator, make
from pgjax.expectations.integrands import Integrand
from pgjax.expectations.natural import BERNOULLI, ONE_HOT, Natural
from pgjax.records import as_record
from pgjax.types import Number, Params, check_function

RELAXABLE = BERNOULLI, ONE_HOT


def rebar(temperature: Number = 0.5, *, scale: Number = 1.0) -> ExpectationEstimator:
    """REBAR: the control variate c(z) = η f(σ(z/λ)), f itself at a relaxed draw.

    Three evaluations of f a sample. σ is the logistic function, or the softmax of a categorical.

    Args:
        temperature: λ > 0; with a smaller λ the relaxed draw is nearer to the discrete one.
        scale: η, any number; 0 gives the plain score function.

    Raises:
        ValueError: if λ is not positive; at use, if the distribution is neither a Bernoulli nor a
            one-hot categorical.
        TypeError: if a setting is not a number.

    Bias: none, whatever λ and η are. f must be defined, and differentiable, between the outcomes.

    References:
        Tucker et al., REBAR: Low-Variance, Unbiased Gradient Estimates for Discrete Latent Variable
        Models (2017).

    Example:
        >>> rebar(0.5)
        rebar(temperature=0.5, scale=1.0)
    """
    check_above_zero("temperature", temperature, "it divides the relaxed draw")
    check_finite("scale", scale)
    settings = {"temperature": temperature, "scale": scale}
    return make(_draw_two_uniforms, _rebar_weights, _rebar, "two uniforms", **settings)


def relax(control: Callable[[Array], Array]) -> ExpectationEstimator:
    """RELAX: the control variate c of your own, such as a network of z.

    One evaluation of f a sample, and two of c. To train c, differentiate the squared gradient with
    respect to its arrays: give c as a record or a `jax.tree_util.Partial`, whose arrays are leaves.

    Args:
        control: c, of one z (of the logits' shape) -> scalar, differentiable.

    Raises:
        TypeError: if it is not a function.
        ValueError: at use, if the distribution is neither a Bernoulli nor a one-hot categorical.

    Bias: none, whatever c is, if it does not depend on the draws.

    References:
        Grathwohl et al., Backpropagation through the Void: Optimizing Control Variates for
        Black-Box Gradient Estimation (2018).

    Example:
        >>> import jax.numpy as jnp
        >>> from jax.tree_util import Partial
        >>> control = Partial(lambda slope, z: jnp.sum(slope * jnp.tanh(z)), 0.1)
        >>> estimator = relax(control)
    """
    check_function("control", control, "z -> scalar")
    return make(
        _draw_two_uniforms, _relax_weights, _relax, "two uniforms", control=as_record(control)
    )


def _draw_two_uniforms(
    distribution: Distribution, params: Params, key: Array, N: int, **settings: Any
) -> Array:
    values = natural_of(distribution, params, RELAXABLE, "rebar and relax").values
    tiny = jnp.finfo(values.dtype).tiny
    return jax.random.uniform(key, (N, 2, *values.shape), values.dtype, minval=tiny)


def relaxed_draws(natural: Natural, uniforms: Array) -> tuple[Array, Array, Array]:
    """b, z and z̃ of one sample; z and z̃ are differentiable by the natural parameters, b given.

    Args:
        natural: of a Bernoulli or a one-hot categorical.
        uniforms: [2, ...] u and v in (0, 1).
    """
    family, logits = natural
    u, v = uniforms
    if family == BERNOULLI:
        z = logits + jnp.log(u) - jnp.log1p(-u)
        b = (u > jax.nn.sigmoid(-jax.lax.stop_gradient(logits))).astype(logits.dtype)
        # Given b, u is uniform above 1 − p or below it: log-odds without a difference near 1.
        p, q = jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)
        above = jnp.log(q + v * p) - jnp.log((1 - v) * p)
        below = jnp.log(v * q) - jnp.log(p + (1 - v) * q)
        return b, z, logits + jnp.where(b == 1, above, below)
    log_p = jax.nn.log_softmax(logits)
    z = log_p - jnp.log(-jnp.log(u))
    best = jnp.argmax(jax.lax.stop_gradient(z), axis=-1)
    b = jax.nn.one_hot(best, logits.shape[-1], dtype=logits.dtype)
    exponential = -jnp.log(v)
    top = jnp.sum(b * exponential, axis=-1, keepdims=True)  # the largest z is −log of it
    others = -jnp.log(exponential / jnp.exp(log_p) + top)
    return b, z, jnp.where(b == 1, -jnp.log(top), others)


def softened(family: str, z: Array, temperature: Number) -> Array:
    """The relaxed draw of z: the logistic function, or the softmax, of z/λ.

    Args:
        family: "bernoulli" or "one-hot categorical".
        z: of one sample.
        temperature: λ.
    """
    z = z / jnp.asarray(temperature, z.dtype)
    return jax.nn.sigmoid(z) if family == BERNOULLI else jax.nn.softmax(z)


def _control(f: Integrand, params: Params, family: str, settings: Any) -> Callable[[Array], Array]:
    temperature, scale = settings["temperature"], settings["scale"]
    check_scalars(temperature=temperature, scale=scale)
    held = jax.lax.stop_gradient(params)
    return lambda z: scale * f(held, softened(family, z, temperature))


def _weights(
    f: Integrand, params: Params, natural: Natural, uniforms: Array, control: Callable
) -> tuple[Array, Array]:
    """f(b) − c(z̃) and b."""

    def of_sample(uniforms: Array) -> tuple[Array, Array]:
        b, _, again = relaxed_draws(natural, uniforms)
        return f(params, b) - check_array("control, its value,", control(again), "[]", ()), b

    return jax.vmap(of_sample)(uniforms)


def _term(
    f: Integrand,
    distribution: Distribution,
    params: Params,
    draw: tuple[Array, Array],
    weight: Any,
    control: Callable,
) -> Array:
    credit, b = weight
    natural = natural_of(distribution, params, RELAXABLE, "rebar and relax")
    _, z, again = relaxed_draws(natural, draw)  # pyright: ignore
    scored = credit * distribution.log_prob(params, b)
    return scored + control(z) - control(again) + f.own(params, b)


def _rebar_weights(
    f: Integrand, distribution: Distribution, params: Params, uniforms: Array, **settings: Any
) -> tuple[Array, Array]:
    natural = natural_of(distribution, params, RELAXABLE, "rebar")
    control = _control(f, params, natural.family, settings)
    return _weights(f, params, natural, uniforms, control)


def _rebar(
    f: Integrand,
    distribution: Distribution,
    params: Params,
    draw: Any,
    weight: Any,
    **settings: Any,
) -> Array:
    family = natural_of(distribution, params, RELAXABLE, "rebar").family
    control = _control(f, params, family, settings)
    return _term(f, distribution, params, draw, weight, control)


def _relax_weights(
    f: Integrand, distribution: Distribution, params: Params, uniforms: Array, *, control: Any
) -> tuple[Array, Array]:
    natural = natural_of(distribution, params, RELAXABLE, "relax")
    return _weights(f, params, natural, uniforms, control)


def _relax(
    f: Integrand,
    distribution: Distribution,
    params: Params,
    draw: Any,
    weight: Any,
    *,
    control: Any,
) -> Array:
    return _term(f, distribution, params, draw, weight, control)
