"""Scores in the space of parameters: perturb the policy, not the action.

Whatever maps parameters to a return can be searched so: no step of it needs a derivative, not even
the policy. What is estimated is not ∇J but the gradient of J smoothed by the noise; the difference
is of second order in its scale.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Key, PyTree, UInt32

from pgjax.core.validation import check_key, check_params, check_positive
from pgjax.records import as_record
from pgjax.types import Params

Objective: TypeAlias = Callable[[Params, Any], Array]
"""(params, key) -> a scalar to make large."""


class SearchDistribution(NamedTuple):
    """Independent Gaussians over parameters, from which PGPE draws whole policies.

    Attributes:
        mean: μ, a pytree.
        log_std: log σ, a pytree like it.
    """

    mean: PyTree[Float[Array, "..."]]
    log_std: PyTree[Float[Array, "..."]]


def evolution_strategies(
    objective: Objective,
    params: Params,
    key: Key[Array, ""] | UInt32[Array, "2"],
    *,
    scale: float | Array,
    num_pairs: int,
) -> PyTree[Float[Array, "..."]]:
    """Evolution strategies with mirrored noise, ĝ = (1/K) Σ_k (f(θ + σε_k) − f(θ − σε_k)) ε_k / 2σ.

    Args:
        objective: f, (params, key) -> scalar: `seeded_return`, or any other function. Both members
            of a pair are given the same key, so that luck cancels in their difference.
        params: θ, pytree of floating arrays.
        scale: σ > 0, in units of the parameters.
        num_pairs: K, all evaluated at once; 2K evaluations.

    Returns:
        A pytree like params, to ascend.

    Raises:
        ValueError: a scale that is not positive, no pairs.

    Bias: none for ∇E_ε J(θ + σε), ε standard normal. For ∇J it is biased by σ²/2 ∇ΔJ + O(σ⁴), Δ the
        Laplacian. An average over independent pairs: nothing couples them.

    References:
        Salimans et al., Evolution Strategies as a Scalable Alternative to Reinforcement Learning
        (2017), section 2, without the ranking of returns, which changes the estimand; Nesterov &
        Spokoiny, Random Gradient-Free Minimization of Convex Functions (2017).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> found = evolution_strategies(
        ...     lambda x, key: 3 * x[0] - x[1], jnp.zeros(2), jax.random.key(0), scale=0.1,
        ...     num_pairs=10_000)
        >>> bool(jnp.allclose(found, jnp.array([3.0, -1.0]), atol=0.1))
        True
    """
    check_positive("num_pairs", num_pairs)
    check_params(params)
    check_scale("scale", scale)
    return _search(as_record(objective), params, check_key(key), scale, num_pairs)


@partial(jax.jit, static_argnames="num_pairs")
def _search(
    objective: Objective, params: Params, key: Array, scale: float | Array, num_pairs: int
) -> Params:
    noise_keys, keys = _keys(key, num_pairs)
    params = jax.tree.map(jnp.asarray, params)

    def of_pair(noise_key: Array, key: Array) -> Params:
        noise = normal_like(noise_key, params)
        return mirrored_contrast(objective, params, noise, key, scale=scale)

    return _mean(jax.vmap(of_pair)(noise_keys, keys))


def mirrored_contrast(
    objective: Objective, params: Params, noise: Params, key: Any, *, scale: float | Array
) -> PyTree[Float[Array, "..."]]:
    """What one mirrored pair says, (f(θ + σε) − f(θ − σε)) ε / 2σ, the noise given.

    A pure function of the noise: its expectation over ε is a Gaussian integral, and exact by
    quadrature where parameters are few.

    Args:
        params: θ.
        noise: ε, a pytree like it.
        key: of both evaluations; passed on as it is.
        scale: σ > 0.

    Returns:
        A pytree like params.

    Bias: over ε standard normal, none for ∇E_ε f(θ + σε).

    References:
        Salimans et al. (2017), section 2; mirrored sampling: Brockhoff et al. (2010).
    """
    plus, minus = (_moved(params, noise, factor * jnp.asarray(scale)) for factor in (1, -1))
    slope = (objective(plus, key) - objective(minus, key)) / (2 * scale)
    return jax.tree.map(lambda e: slope.astype(e.dtype) * e, noise)


def pgpe(
    objective: Objective,
    distribution: SearchDistribution,
    key: Key[Array, ""] | UInt32[Array, "2"],
    *,
    num_pairs: int,
) -> SearchDistribution:
    """PGPE with symmetric samples: the gradient of E f(μ + σε) by μ and by log σ.

    By the mean (f₊ − f₋)/2 · ε/σ, by log σ ((f₊ + f₋)/2 − b)(ε² − 1), with f± = f(μ ± σε) and b the
    mean of (f₊ + f₋)/2 over the other pairs.

    Args:
        objective: f, (params, key) -> scalar. Both members of a pair are given the same key.
        distribution: where policies are drawn from.
        num_pairs: K ≥ 2, all evaluated at once; 2K evaluations.

    Returns:
        The gradient, a SearchDistribution as well, to ascend.

    Raises:
        ValueError: fewer than two pairs, which have no others.

    Bias: none for the gradient of E f(μ + σε), which is what PGPE ascends: a policy is a draw. As
        an estimate of ∇J(μ) it is biased as evolution strategies are.

    References:
        Sehnke et al., Parameter-Exploring Policy Gradients (2010), with its symmetric sampling.
        Deviations: log σ in the place of σ, so that it stays positive; the baseline leaves the
        pair's own samples out, where theirs is a moving average; returns are not normalised.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> start = SearchDistribution(jnp.array([1.0]), jnp.array([-1.0]))
        >>> found = pgpe(lambda x, key: -x[0] ** 2, start, jax.random.key(0), num_pairs=20_000)
        >>> bool(jnp.allclose(found.mean, -2.0, atol=0.1))  # ∇μ −(μ² + σ²)
        True
        >>> bool(jnp.allclose(found.log_std, -2 * jnp.exp(-2.0), atol=0.05))
        True
    """
    if check_positive("num_pairs", num_pairs) < 2:
        raise ValueError("num_pairs must be at least 2: each pair's baseline is the others' mean")
    check_params(distribution)
    return _explore(as_record(objective), distribution, check_key(key), num_pairs)


@partial(jax.jit, static_argnames="num_pairs")
def _explore(
    objective: Objective, distribution: SearchDistribution, key: Array, num_pairs: int
) -> SearchDistribution:
    noise_keys, keys = _keys(key, num_pairs)
    distribution = jax.tree.map(jnp.asarray, distribution)
    noise = jax.vmap(lambda key: normal_like(key, distribution.mean))(noise_keys)
    return symmetric_contrasts(objective, distribution, noise, keys)


def symmetric_contrasts(
    objective: Objective, distribution: SearchDistribution, noise: PyTree, keys: Any
) -> SearchDistribution:
    """PGPE's estimate with the noise given, a pure function of it.

    Args:
        distribution: μ and log σ.
        noise: ε_k, a pytree like μ with a leading K.
        keys: [K], one for each pair; passed on as they are.

    Returns:
        A SearchDistribution, the mean over the pairs.

    Bias: over independent standard normal noise, none for the gradient of E f(μ + σε).

    References:
        Sehnke et al. (2010).
    """
    std = jax.tree.map(jnp.exp, distribution.log_std)

    def evaluate(noise: Params, key: Any) -> tuple[Array, Array]:
        step = jax.tree.map(jnp.multiply, std, noise)
        plus, minus = (_moved(distribution.mean, step, factor) for factor in (1.0, -1.0))
        above, below = objective(plus, key), objective(minus, key)
        return (above - below) / 2, (above + below) / 2

    contrast, level = jax.vmap(evaluate)(noise, keys)
    K = level.shape[0]
    others = (jnp.sum(level, keepdims=True) - level) / (K - 1)
    by_mean = jax.tree.map(lambda e, s: _weighted(contrast, e / s[None]), noise, std)
    by_log_std = jax.tree.map(lambda e: _weighted(level - others, e**2 - 1), noise)
    return SearchDistribution(by_mean, by_log_std)


def normal_like(key: Key[Array, ""], params: Params) -> Params:
    """Standard normal noise in the shape and precision of the parameters."""
    flat, unravel = ravel_pytree(params)
    return unravel(jax.random.normal(key, flat.shape, flat.dtype))


def check_scale(name: str, scale: Any) -> None:
    """A scale that is known is positive."""
    if isinstance(scale, float | int) and not scale > 0:
        raise ValueError(f"{name} must be positive, got {scale}")


def _keys(key: Any, count: int) -> tuple[Array, Array]:
    noise_key, objective_key = jax.random.split(key)
    return jax.random.split(noise_key, count), jax.random.split(objective_key, count)


def _moved(params: Params, step: Params, factor: float | Array) -> Params:
    return jax.tree.map(lambda x, e: x + jnp.asarray(factor, e.dtype) * e, params, step)


def _weighted(weight: Array, x: Array) -> Array:
    return jnp.mean(weight.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1)) * x, axis=0)


def _mean(each: Params) -> Params:
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), each)
