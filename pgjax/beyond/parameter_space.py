"""Scores in the space of parameters: perturb the policy, not the action.

Any function from parameters to a return can be used: neither the environment nor the policy needs a
derivative. The estimand is not ∇J but the gradient of J smoothed by the noise; the difference is of
second order in the scale of the noise.

The argument `objective` is f, (params, key) -> scalar, such as `seeded_return`. Both members of a
pair get the same key, so that the randomness of f cancels in their difference. K pairs take 2K
evaluations, all at once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Key, PyTree, UInt32

from pgjax.core.float64 import to_jax
from pgjax.core.validation import (
    check_above_zero,
    check_gradient,
    check_key,
    check_kind,
    check_like,
    check_params,
    check_positive,
    check_scalars,
)
from pgjax.records import as_record
from pgjax.types import Params, check_function

Objective: TypeAlias = Callable[[Params, Any], Array]
"""(params, key) -> a scalar to make large."""


class SearchDistribution(NamedTuple):
    """Independent Gaussians over parameters, from which PGPE draws policies.

    Attributes:
        mean: μ, a pytree.
        log_std: log σ, a pytree like it.
    """

    mean: PyTree[Float[Array, "..."]]
    log_std: PyTree[Float[Array, "..."]]


def _check_distribution(distribution: Any) -> None:
    """Raise if it is no SearchDistribution over floating parameters."""
    fix = "SearchDistribution(mean, log_std) makes one"
    check_kind("distribution", distribution, SearchDistribution, fix)
    check_params(distribution.mean, "distribution.mean")
    check_params(distribution.log_std, "distribution.log_std")
    check_like("distribution.log_std", distribution.log_std, ("mean", distribution.mean))


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
        scale: σ > 0, in units of the parameters.

    Raises:
        ValueError: if the scale is not positive.

    Bias: none for ∇E_ε J(θ + σε), ε standard normal. For ∇J it is biased by σ²/2 ∇ΔJ + O(σ⁴), Δ the
        Laplacian. Pairs are independent.

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
    check_function("objective", objective, "(params, key) -> scalar")
    check_positive("num_pairs", num_pairs)
    check_params(params)
    check_scalars(scale=scale)
    check_above_zero("scale", scale, "it is a standard deviation of the parameters")
    return _search(as_record(objective), params, check_key(key), scale, num_pairs)


@partial(jax.jit, static_argnames="num_pairs")
def _search(
    objective: Objective, params: Params, key: Array, scale: float | Array, num_pairs: int
) -> Params:
    noise_keys, keys = _split_keys(key, num_pairs)
    params = to_jax(params)

    def of_pair(noise_key: Array, key: Array) -> Params:
        noise = normal_like(noise_key, params)
        return mirrored_contrast(objective, params, noise, key, scale=scale)

    return _mean(jax.vmap(of_pair)(noise_keys, keys))


def mirrored_contrast(
    objective: Objective, params: Params, noise: Params, key: Any, *, scale: float | Array
) -> PyTree[Float[Array, "..."]]:
    """The estimate from one mirrored pair with given noise, (f(θ + σε) − f(θ − σε)) ε / 2σ.

    It is a pure function of the noise: its expectation over ε is a Gaussian integral, which
    quadrature computes exactly if parameters are few.

    Args:
        params: θ.
        noise: ε, a pytree like θ.
        key: of both evaluations; passed on unchanged.
        scale: σ > 0.

    Bias: over ε standard normal, none for ∇E_ε f(θ + σε).

    References:
        Salimans et al. (2017), section 2; mirrored sampling: Brockhoff et al. (2010).
    """
    check_function("objective", objective, "(params, key) -> scalar")
    check_params(params)
    check_gradient("noise", noise, ("params", params))
    check_scalars(scale=scale)
    check_above_zero("scale", scale, "it is a standard deviation of the parameters")
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

    The derivative by the mean is (f₊ − f₋)/2 · ε/σ, and by log σ ((f₊ + f₋)/2 − b)(ε² − 1), with
    f± = f(μ ± σε) and b the mean of (f₊ + f₋)/2 over the other pairs.

    Returns:
        The gradient, a SearchDistribution as well, to ascend.

    Raises:
        ValueError: if there are fewer than two pairs.

    Bias: none for the gradient of E f(μ + σε), which is what PGPE ascends. As an estimate of
        ∇J(μ) it is biased as evolution strategies are.

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
    check_function("objective", objective, "(params, key) -> scalar")
    if check_positive("num_pairs", num_pairs) < 2:
        raise ValueError(
            "num_pairs must be at least 2, got 1: the baseline of a pair is the mean of the others"
        )
    _check_distribution(distribution)
    return _explore(as_record(objective), distribution, check_key(key), num_pairs)


@partial(jax.jit, static_argnames="num_pairs")
def _explore(
    objective: Objective, distribution: SearchDistribution, key: Array, num_pairs: int
) -> SearchDistribution:
    noise_keys, keys = _split_keys(key, num_pairs)
    distribution = to_jax(distribution)
    noise = jax.vmap(lambda key: normal_like(key, distribution.mean))(noise_keys)
    return symmetric_contrasts(objective, distribution, noise, keys)


def symmetric_contrasts(
    objective: Objective, distribution: SearchDistribution, noise: PyTree, keys: Any
) -> SearchDistribution:
    """PGPE's estimate with given noise; a pure function of it.

    Args:
        distribution: μ and log σ.
        noise: ε_k, a pytree like μ with a leading K.
        keys: [K], one for each pair; passed on unchanged.

    Bias: over independent standard normal noise, none for the gradient of E f(μ + σε).

    References:
        Sehnke et al. (2010).
    """
    check_function("objective", objective, "(params, key) -> scalar")
    _check_distribution(distribution)
    check_gradient("noise", noise)
    if jax.tree.structure(noise) != jax.tree.structure(distribution.mean):
        raise ValueError(
            f"noise must be a pytree like distribution.mean, got {jax.tree.structure(noise)}"
        )
    for leaf, mean in zip(*map(jax.tree.leaves, (noise, distribution.mean)), strict=True):
        if jnp.shape(leaf)[1:] != jnp.shape(mean) or not jnp.size(leaf):
            raise ValueError(
                f"noise must have shape [K, ...] = (K, {jnp.shape(mean)}), got {jnp.shape(leaf)}"
            )
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


def _split_keys(key: Any, count: int) -> tuple[Array, Array]:
    noise_key, objective_key = jax.random.split(key)
    return jax.random.split(noise_key, count), jax.random.split(objective_key, count)


def _moved(params: Params, step: Params, factor: float | Array) -> Params:
    return jax.tree.map(lambda x, e: x + jnp.asarray(factor, e.dtype) * e, params, step)


def _weighted(weight: Array, x: Array) -> Array:
    return jnp.mean(weight.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1)) * x, axis=0)


def _mean(each: Params) -> Params:
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), each)
