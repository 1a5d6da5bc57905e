"""Squashed Gaussian policies: real vectors strictly between bounds, a = mid + half · tanh(u).

Here u is Gaussian, mid = (low + high) / 2 and half = (high − low) / 2. Everything is computed from
the distances a − low and high − a:
u = ½ log((a − low) / (high − a)),  da/du = 2 (a − low)(high − a) / (high − low).
Near a bound one of the distances is small and exact, while tanh(u), close to one, has lost its
digits.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from pgjax.core.validation import check_number, check_values, is_concrete
from pgjax.policies.distribution import Distribution, Output, distribution_policy
from pgjax.policies.gaussian import (
    check_vector,
    gaussian_entropy,
    mean_and_log_std,
    no_mask,
    reparameterised,
    standard_log_density,
)
from pgjax.records import configured, record, static
from pgjax.types import Observation, Params, Policy, check_function

Bound = float | Sequence[float] | Float[np.ndarray, "..."] | Float[Array, "..."]

NODES, REACH = 33, 6.5
"""The entropy's quadrature has 33 equally spaced nodes, up to 6.5 σ on each side of μ. For an
analytic function under a Gaussian weight they are as exact as twice as many Gauss–Hermite nodes."""


def squashed_gaussian_policy(
    init: Callable[[Key[Array, ""], Observation], Params],
    mean_and_log_std: Callable[[Params, Observation], tuple[Array, Array]],
    *,
    low: Bound,
    high: Bound,
) -> Policy:
    """A Policy whose Gaussian u ~ N(μ, σ²) is squashed to bounds, a = mid + half · tanh(u).

    log π(a|s) = Σ_d (log N(u_d; μ_d, σ_d²) − log half_d − log(1 − tanh² u_d)),
    log(1 − tanh² u) = 2 (log 2 − u − softplus(−2u)).

    Here mid = (low + high) / 2 and half = (high − low) / 2. `sample` is reparameterised: action and
    log-probability can be differentiated, also where tanh is flat.

    Args:
        init: (key, observation) -> params.
        mean_and_log_std: (params, observation) -> (μ, log σ) of u, each [D].
        low: the least action, a number or [D].
        high: the greatest action, a number or [D].

    Returns:
        A Policy over actions [D] strictly between the bounds.

    Raises:
        ValueError: if the bounds are not finite or not in order; by its functions, if a known
            action lies beyond them, or for the reasons of `gaussian_policy`.
        TypeError: if the bounds are traced; by its functions, for the reasons of `gaussian_policy`.

    Bias: log-probabilities are exact, to rounding, for the action as it is stored. An action that
        would round onto a bound is stored as the last number before it (|u| ≈ 8 in float32). If a
        policy puts much of its probability beyond that number, its score is biased, because all
        these actions are stored as one. Beyond the bounds log π is −inf, and an error under
        `pgjax.checked`. On a bound log π is finite. There the distance to the bound is taken as the
        larger of the two bounds' distances to the next number inside, because numbers next to zero
        lie far closer. The entropy is a quadrature with absolute error below 1e-9 for each
        coordinate with σ ≤ 1, 1e-5 for σ ≤ 2, 1e-3 for σ ≤ 3.

    References:
        Haarnoja et al., Soft Actor-Critic (2018), appendix C; here with the bounds' scale. For the
        entropy Trefethen & Weideman, The Exponentially Convergent Trapezoidal Rule (2014).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> policy = squashed_gaussian_policy(
        ...     lambda key, x: jnp.zeros(1), lambda w, x: (w, jnp.zeros(1)), low=-2.0, high=2.0)
        >>> action, log_prob = policy.sample(jnp.array([30.0]), jax.random.key(0), None)
        >>> bool(action[0] < 2)
        True
    """
    signature = "(params, observation) -> (mean, log_std)"
    check_function("mean_and_log_std", mean_and_log_std, signature)
    return distribution_policy(init, mean_and_log_std, squashed_gaussian(low, high))


def squashed_gaussian(low: Bound, high: Bound) -> Distribution:
    """The Distribution of `squashed_gaussian_policy`; a network's output is (μ, log σ), each [D].

    Example:
        >>> import jax.numpy as jnp
        >>> distribution = squashed_gaussian(-1.0, 1.0)  # like N(0, 1) in the middle
        >>> round(float(distribution.log_prob((jnp.zeros(1), jnp.zeros(1)), jnp.zeros(1))), 6)
        -0.918939
    """
    limits = _checked_limits(low, high)
    return Distribution(
        sample=configured(_sample, limits=limits),
        log_prob=configured(_log_prob, limits=limits),
        entropy=configured(_entropy, limits=limits),
        masked=no_mask,
    )


def _sample(output: Output, key: Array, *, limits: "_Limits") -> tuple[Array, Array]:
    mean, log_std = mean_and_log_std(output)
    bounds = _bounds(limits, mean.shape, mean.dtype)
    u = reparameterised(mean, log_std, key)
    action = bounds.squash(u)
    # The value is that of the action as rounded, so that scoring it anew gives the same number;
    # the derivative is that of u, which rounding would spoil near a bound.
    smooth = standard_log_density(mean, log_std, u) - jnp.sum(bounds.log_slope(u))
    rounded = jax.lax.stop_gradient(_log_density(mean, log_std, bounds, action))
    return action, rounded + (smooth - jax.lax.stop_gradient(smooth))


def _log_prob(output: Output, action: Any, *, limits: "_Limits") -> Array:
    mean, log_std = mean_and_log_std(output)
    action = check_vector(action, mean)
    mean, log_std = mean.astype(action.dtype), log_std.astype(action.dtype)
    bounds = _bounds(limits, mean.shape, action.dtype)
    beyond = jnp.any((action < bounds.low) | (action > bounds.high))
    message = f"action must lie between {limits.low} and {limits.high}, got {{action}}"
    check_values(message, lambda beyond, action: (~beyond, {"action": action}), beyond, action)
    return jnp.where(beyond, -jnp.inf, _log_density(mean, log_std, bounds, action))


def _entropy(output: Output, *, limits: "_Limits") -> Array:
    mean, log_std = mean_and_log_std(output)
    bounds = _bounds(limits, mean.shape, mean.dtype)
    node = np.linspace(-REACH, REACH, NODES)
    weight = np.exp(-node * node / 2)
    weight = jnp.asarray(weight / weight.sum(), mean.dtype)
    u = mean[None] + jnp.exp(log_std)[None] * jnp.asarray(node, mean.dtype)[:, None]
    return gaussian_entropy(log_std) + jnp.sum(weight @ jax.vmap(bounds.log_slope)(u))


@record
class _Limits:
    """The bounds as they were given, known when a program is compiled."""

    low: float | tuple[float, ...] = static()
    high: float | tuple[float, ...] = static()


class Bounds(NamedTuple):
    """The bounds in the precision of the action, and the first and last numbers between them."""

    low: Float[Array, "D"]
    high: Float[Array, "D"]
    first: Float[Array, "D"]
    last: Float[Array, "D"]

    def squash(self, u: Float[Array, "D"]) -> Float[Array, "D"]:
        """Actions, mid + half · tanh(u), each computed from the bound that is nearer."""
        width = self.high - self.low
        from_low = self.low + width * jax.nn.sigmoid(2 * u)
        from_high = self.high - width * jax.nn.sigmoid(-2 * u)
        return jnp.clip(jnp.where(u < 0, from_low, from_high), self.first, self.last)

    def log_slope(self, u: Float[Array, "D"]) -> Float[Array, "D"]:
        """Log of da/du = half · (1 − tanh² u)."""
        log_half = jnp.log((self.high - self.low) / 2)
        return log_half + 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))


def _log_density(mean: Array, log_std: Array, bounds: Bounds, action: Array) -> Array:
    # A bound of zero has neighbours of 1e-38, whose density would outweigh every other step.
    reach = jnp.maximum(bounds.first - bounds.low, bounds.high - bounds.last)
    inside = jnp.where(action <= bounds.low, bounds.low + reach, action)
    inside = jnp.where(action >= bounds.high, bounds.high - reach, inside)
    inside = jnp.clip(inside, bounds.first, bounds.last)
    log_below, log_above = jnp.log(inside - bounds.low), jnp.log(bounds.high - inside)
    log_slope = math.log(2) + log_below + log_above - jnp.log(bounds.high - bounds.low)
    u = (log_below - log_above) / 2
    return standard_log_density(mean, log_std, u) - jnp.sum(log_slope)


def _checked_limits(low: Bound, high: Bound) -> _Limits:
    if not is_concrete(low, high):
        raise TypeError(
            "low and high must be known when JAX compiles, got traced values; pass them from "
            "outside of jit"
        )
    below, above = (
        np.asarray(check_number(name, bound), np.float64)
        for name, bound in (("low", low), ("high", high))
    )
    if not (np.all(np.isfinite(below)) and np.all(np.isfinite(above))):
        raise ValueError(
            f"low and high must be finite, got {low} and {high}; where there are no bounds use "
            "gaussian_policy"
        )
    if below.ndim > 1 or above.ndim > 1 or not np.all(below < above):
        raise ValueError(
            f"low must lie below high, each a number or a vector [D], got {low} and {high}"
        )
    return _Limits(*(tuple(x.tolist()) if x.ndim else float(x) for x in (below, above)))


def _bounds(limits: _Limits, shape: tuple[int, ...], dtype: Any) -> Bounds:
    below, above = np.asarray(limits.low), np.asarray(limits.high)
    for name, bound in (("low", below), ("high", above)):
        if bound.shape not in ((), shape):
            raise ValueError(f"{name} must be a number or [D] = {shape}, got {bound.shape}")
    low, high = (np.broadcast_to(x.astype(dtype), shape) for x in (below, above))
    # The number next to zero is subnormal, which XLA takes for zero.
    tiny = np.finfo(dtype).tiny
    first = np.maximum(np.nextafter(low, high), low + tiny)
    last = np.minimum(np.nextafter(high, low), high - tiny)
    if not np.all((low < first) & (first <= last) & (last < high)):
        raise ValueError(
            f"low and high must have a {np.dtype(dtype)} between them, got {below} and {above}; "
            "take a wider interval"
        )
    return Bounds(*map(jnp.asarray, (low, high, first, last)))
