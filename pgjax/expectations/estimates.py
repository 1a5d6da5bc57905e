"""Estimates of ∇θ E_{x~p(θ)}[f(x)]: one engine for every estimator.

An estimator is draws, weights and a term, as for policy gradients:

    ĝ = ∇θ (1/N) Σ_i term(params, draw_i, weights_i),   weights = weights(draws), constant in θ.

Any `pgjax.Estimator` can be used too. A draw is then an episode of one step, with x its action and
f(x) its reward. Baselines, groups and terms are those of policy gradients.

What the arguments mean everywhere:

- estimator: an `ExpectationEstimator` of this package, or any `pgjax.Estimator`.
- f: f(x) or f(params, x), of one draw; with params, the derivative through them is added.
- distribution: a `Distribution`.
- params: a pytree of floating arrays. Gradients are pytrees like it, to ascend.
- key: from `jax.random.key`, or a raw uint32 key.
- num_samples: N, at least one. One sample is one row of what `per_sample_gradients` returns; an
  estimator's docstring says how often it evaluates f for each.

All raise a TypeError if an argument is of the wrong kind. They raise a ValueError if f does not
return what is asked, if the distribution lacks a function that the estimator needs, or if there are
too few samples. Outside jit they also raise one if an estimate is NaN; under jit a NaN stays a NaN.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from pgjax.core.float64 import to_jax
from pgjax.core.validation import (
    check_key,
    check_params,
    check_positive,
    is_concrete,
)
from pgjax.expectations.distributions import Distribution, check_distribution
from pgjax.expectations.estimator import (
    AnyEstimator,
    Draws,
    check_expectation_estimator,
    stages,
)
from pgjax.expectations.integrands import Integrand, as_integrand
from pgjax.records import as_record
from pgjax.types import KeyLike, Params, describe


def gradient(
    estimator: AnyEstimator,
    f: Callable[..., Any],
    distribution: Distribution,
    params: Params,
    key: KeyLike,
    *,
    num_samples: int,
) -> PyTree[Float[Array, "..."]]:
    """The estimate of ∇θ E[f(x)], a pytree like params, to ascend.

    It is compiled once for each function f, distribution and size. Called within `jax.jit` it is a
    part of that program.

    Bias: the estimator's.

    References:
        Mohamed, Rosca, Figurnov & Mnih, Monte Carlo Gradient Estimation in Machine Learning (2020).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pgjax import expectations
        >>> g = gradient(expectations.disarm(), lambda b: (b - 0.45) ** 2,
        ...     expectations.bernoulli(), jnp.float32(0.0), jax.random.key(0), num_samples=1)
        >>> round(float(g), 4)
        0.025
    """
    given = _checked(estimator, f, distribution, params, key, num_samples)
    return _finite(_run(_gradient, given), given)


def per_sample_gradients(
    estimator: AnyEstimator,
    f: Callable[..., Any],
    distribution: Distribution,
    params: Params,
    key: KeyLike,
    *,
    num_samples: int,
) -> PyTree[Float[Array, "N ..."]]:
    """Each sample's share of the estimate; their mean is `gradient` of the same key.

    Returns:
        A pytree like params with a leading N. The rows are independent unless the estimator
        couples samples, as a leave-one-out baseline or antithetic sampling does.

    Bias: the estimator's.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pgjax import expectations
        >>> per_sample_gradients(expectations.score_function(), lambda x: x**2,
        ...     expectations.bernoulli(), jnp.zeros(()), jax.random.key(0), num_samples=5).shape
        (5,)
    """
    given = _checked(estimator, f, distribution, params, key, num_samples)
    return _finite(_run(_per_sample, given), given)


def jacobians(
    estimator: AnyEstimator,
    f: Callable[..., Any],
    distribution: Distribution,
    params: Params,
    key: KeyLike,
    *,
    num_samples: int,
) -> PyTree[Float[Array, "M ..."]]:
    """The estimate for each of the M outputs of f, from the same draws.

    Args:
        f: f(x) or f(params, x) -> [M].

    Returns:
        A pytree like params with a leading M.

    Bias: the estimator's, for each output.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pgjax import expectations
        >>> jacobians(expectations.pathwise(), lambda x: jnp.stack([x, 2 * x]),
        ...     expectations.normal(lambda mean: (mean, 0 * mean)), jnp.float32(0.0),
        ...     jax.random.key(0), num_samples=1).tolist()
        [1.0, 2.0]
    """
    given = _checked(estimator, f, distribution, params, key, num_samples)
    return _finite(_run(_jacobians, given), given, axis=0)


def objective(
    estimator: AnyEstimator,
    f: Callable[..., Any],
    distribution: Distribution,
    params: Params,
    key: KeyLike,
    *,
    num_samples: int,
) -> Float[Array, ""]:
    """A scalar whose derivative is `gradient` of the same key; its value means nothing.

    For `jax.grad` of a larger loss, with other terms in it.

    Bias: the estimator's.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pgjax import expectations
        >>> def loss(params):
        ...     return params**2 - objective(expectations.all_outcomes(), lambda b: (b - 0.45) ** 2,
        ...         expectations.bernoulli(), params, jax.random.key(0), num_samples=1)
        >>> round(float(jax.grad(loss)(jnp.float32(0.0))), 4)
        -0.025
    """
    estimator, f, distribution, params, key, N = _checked(
        estimator, f, distribution, params, key, num_samples
    )
    return _objective(estimator, f, distribution, params, key, N)


def draws_and_weights(
    estimator: AnyEstimator,
    f: Integrand,
    distribution: Distribution,
    params: Params,
    draws: Draws,
) -> Any:
    """The weights of given draws, constants in θ; what `term` takes.

    Args:
        draws: leaves [N, ...], as the estimator's `draw` gives them.

    Bias: the estimator's.
    """
    held = jax.lax.stop_gradient(params)
    try:
        return stages(estimator).weights(f, distribution, held, draws)
    except ValueError as error:
        N = len(jax.tree.leaves(draws)[0])
        if N == 1 and "at least 2" in str(error):
            raise ValueError(
                f"num_samples must be at least 2 for {estimator!r}, got 1: {error}"
            ) from None
        raise


def objective_of_draws(
    estimator: AnyEstimator, f: Integrand, distribution: Distribution, params: Params, draws: Draws
) -> Float[Array, ""]:
    """`objective` for draws that are given.

    Args:
        draws: leaves [N, ...].

    Bias: the estimator's.
    """
    weights = draws_and_weights(estimator, f, distribution, params, draws)
    term = partial(stages(estimator).term, f, distribution, params)
    return jnp.mean(jax.vmap(term)(draws, weights))


def _objective(
    estimator: Any, f: Integrand, distribution: Distribution, params: Params, key: Array, N: int
) -> Array:
    draws = _draw(estimator, distribution, params, key, N)
    return objective_of_draws(estimator, f, distribution, params, draws)


def _draw(estimator: Any, distribution: Distribution, params: Params, key: Array, N: int) -> Draws:
    held = jax.lax.stop_gradient(params)
    return jax.lax.stop_gradient(stages(estimator).draw(distribution, held, key, N))


def _gradient(
    estimator: Any, f: Integrand, distribution: Distribution, params: Params, key: Array, N: int
) -> Params:
    draws = _draw(estimator, distribution, params, key, N)
    return jax.grad(partial(objective_of_draws, estimator, f, distribution))(params, draws=draws)


def _per_sample(
    estimator: Any, f: Integrand, distribution: Distribution, params: Params, key: Array, N: int
) -> Params:
    draws = _draw(estimator, distribution, params, key, N)
    return gradients_of_draws(estimator, f, distribution, params, draws)


def gradients_of_draws(
    estimator: AnyEstimator, f: Integrand, distribution: Distribution, params: Params, draws: Draws
) -> PyTree[Float[Array, "N ..."]]:
    """`per_sample_gradients` for draws that are given.

    Args:
        draws: leaves [N, ...].

    Bias: the estimator's.
    """
    weights = draws_and_weights(estimator, f, distribution, params, draws)
    term = stages(estimator).term

    def of_sample(draw: Any, weight: Any) -> Params:
        return jax.grad(lambda params: term(f, distribution, params, draw, weight))(params)

    return jax.vmap(of_sample)(draws, weights)


def _jacobians(
    estimator: Any, f: Integrand, distribution: Distribution, params: Params, key: Array, N: int
) -> Params:
    draws = _draw(estimator, distribution, params, key, N)
    shape = jax.eval_shape(
        lambda key: f.whole(params, distribution.sample(params, key)), jax.random.key(0)
    ).shape
    if len(shape) != 1:
        raise ValueError(f"f must return [M] for jacobians, got shape {shape}; use jnp.ravel")

    def of_output(index: Array) -> Params:
        def output(params: Params, x: Any) -> Array:
            return f.whole(params, x)[index]

        one = Integrand(output if f.has_params else partial(output, params), f.has_params)
        return jax.grad(partial(objective_of_draws, estimator, one, distribution))(
            params, draws=draws
        )

    return jax.vmap(of_output)(jnp.arange(shape[0]))


_COMPILED = {each: jax.jit(each, static_argnums=5) for each in (_gradient, _per_sample, _jacobians)}


def _run(function: Callable[..., Params], given: tuple[Any, ...]) -> Params:
    """Compiled if its arguments are known; else it is a part of what is being traced."""
    return (_COMPILED[function] if is_concrete(given[:5]) else function)(*given)


def _checked(
    estimator: Any, f: Any, distribution: Any, params: Any, key: Any, num_samples: Any
) -> tuple[Any, Integrand, Distribution, Params, Array, int]:
    check_expectation_estimator(estimator)
    integrand = as_integrand(f)
    integrand = Integrand(as_record(integrand.function), integrand.has_params)
    check_distribution(distribution)
    check_params(params)
    if not jax.tree.leaves(params):
        raise TypeError(f"params must hold at least one array, got {describe(params)}")
    N = check_positive("num_samples", num_samples)
    params = to_jax(params)
    return estimator, integrand, distribution, params, check_key(key), N


def _finite(found: Params, given: tuple[Any, ...], axis: int | None = None) -> Params:
    """What was found, if it is known and holds no NaN."""
    if not is_concrete(found) or not is_concrete(given[:5]):
        return found
    if not any(np.isnan(np.asarray(x)).any() for x in jax.tree.leaves(found)):
        return found
    _, f, distribution, params, key, N = given
    keys = jax.random.split(key, N)
    x = jax.vmap(distribution.sample, (None, 0))(params, keys)
    value = np.asarray(jax.vmap(partial(f.whole, params))(x))
    if np.isnan(value).any():
        raise ValueError(
            f"f must return numbers, got nan at {int(np.isnan(value).sum())} of {value.size} "
            "values for draws of the distribution"
        )
    raise ValueError(
        "params, f or distribution must give a finite estimate, got nan although the values of f "
        "are finite; look for nan in params, in the derivative of f and in distribution.log_prob"
    )
