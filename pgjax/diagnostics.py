"""Diagnostics: how far an estimate is from the truth, and how far it can be trusted.

Arrays and pytrees only: nothing here knows a policy or an estimator. Samples are pytrees whose
leaves have a leading N, such as `per_trajectory_gradients` returns; a stream of batches is merged
into one RunningMoments of fixed size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree

from pgjax.types import Moments, Spread

Gradient = PyTree[Float[Array, "..."]]


class RunningMoments(NamedTuple):
    """Number, mean and centred squares of a stream of gradients, coordinate by coordinate.

    Attributes:
        num_samples: scalar, the samples seen.
        mean: pytree, their mean.
        squares: pytree, Σ (x − mean)², never a difference of two large numbers.
    """

    num_samples: Float[Array, ""]
    mean: Gradient
    squares: Gradient


def running_moments(gradients: PyTree[Float[Array, "N ..."]]) -> RunningMoments:
    """Moments of N per-trajectory gradients.

    Args:
        gradients: pytree of [N, ...].

    Returns:
        RunningMoments of N samples.

    Raises:
        ValueError: no leaves, or no samples.

    Bias: the mean is unbiased for the estimator's expectation.

    Example:
        >>> import jax.numpy as jnp
        >>> variance(running_moments(jnp.array([[1.0], [3.0]])))
        Array([2.], dtype=float32)
    """
    count = _num_samples(gradients)
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), gradients)
    squares = jax.tree.map(lambda x, m: jnp.sum((x - m[None]) ** 2, axis=0), gradients, mean)
    dtype = jax.tree.leaves(mean)[0].dtype
    return RunningMoments(jnp.asarray(count, dtype), mean, squares)


def merge(first: RunningMoments, second: RunningMoments) -> RunningMoments:
    """Moments of both streams together; the order does not matter beyond rounding.

    Args:
        first: of one stream.
        second: of another, with the same tree.

    Returns:
        RunningMoments of the union.

    Bias: equal to the moments of all samples at once.

    References:
        Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm (1979), eq. 2.1.

    Example:
        >>> import jax.numpy as jnp
        >>> one, two = (running_moments(jnp.array([[x]])) for x in (1.0, 3.0))
        >>> merge(one, two).mean
        Array([2.], dtype=float32)
    """
    count = first.num_samples + second.num_samples
    share = second.num_samples / count
    mean = jax.tree.map(lambda a, b: a + (b - a) * share, first.mean, second.mean)
    squares = jax.tree.map(
        lambda a, b, m, n: a + b + (n - m) ** 2 * (first.num_samples * share),
        first.squares,
        second.squares,
        first.mean,
        second.mean,
    )
    return RunningMoments(count, mean, squares)


def merge_all(moments: RunningMoments) -> RunningMoments:
    """Moments of many streams together, at once.

    Args:
        moments: of K streams, every field with a leading K; a stream may be empty.

    Returns:
        RunningMoments of the union.

    Bias: equal to the moments of all samples at once.

    References:
        Chan, Golub & LeVeque (1979), section 2.

    Example:
        >>> import jax.numpy as jnp
        >>> zeros = jnp.zeros((2, 1))
        >>> streams = RunningMoments(jnp.ones(2), jnp.array([[1.0], [3.0]]), zeros)
        >>> merge_all(streams).squares
        Array([2.], dtype=float32)
    """
    count = jnp.sum(moments.num_samples)
    share = moments.num_samples / count
    mean = jax.tree.map(lambda x: jnp.tensordot(share, x, 1), moments.mean)
    squares = jax.tree.map(
        lambda s, x, m: jnp.sum(s, 0) + jnp.tensordot(moments.num_samples, (x - m[None]) ** 2, 1),
        moments.squares,
        moments.mean,
        mean,
    )
    return RunningMoments(count, mean, squares)


def variance(moments: RunningMoments) -> Gradient:
    """Unbiased variance of one sample, coordinate by coordinate; NaN for one sample."""
    return jax.tree.map(lambda x: x / (moments.num_samples - 1), moments.squares)


def total_variance(moments: RunningMoments) -> Float[Array, ""]:
    """Total variance of one sample, tr Σ, the sum over coordinates."""
    return _sum(variance(moments))


def standard_error(moments: RunningMoments) -> Gradient:
    """Standard error of the mean, coordinate by coordinate, √(σ²/N)."""
    return jax.tree.map(lambda x: jnp.sqrt(x / moments.num_samples), variance(moments))


def bias(moments: RunningMoments, truth: Gradient) -> Gradient:
    """Mean less truth, coordinate by coordinate; read it against `standard_error`."""
    return jax.tree.map(jnp.subtract, moments.mean, truth)


def covariance(gradients: PyTree[Float[Array, "N ..."]]) -> Float[Array, "P P"]:
    """Unbiased covariance of one sample over the flattened parameters.

    Args:
        gradients: pytree of [N, ...], P numbers a sample.

    Returns:
        [P, P], in the order of `ravel_pytree`.

    Raises:
        ValueError: fewer than two samples.

    Bias: none.
    """
    count = _num_samples(gradients)
    if count < 2:
        raise ValueError(f"covariance needs at least 2 samples, got {count}")
    flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])(gradients)
    centered = flat - jnp.mean(flat, axis=0, keepdims=True)
    return centered.T @ centered / (count - 1)


def signal_to_noise(moments: RunningMoments) -> Float[Array, ""]:
    """‖mean‖² / tr Σ of a single sample; N times it for the mean of N.

    Bias: the squared mean is too large by tr Σ / N on average, and so the ratio by about 1/N.

    References:
        Roberts & Tedrake, Signal-to-Noise Ratio Analysis of Policy Gradient Algorithms (2009).
    """
    return dot(moments.mean, moments.mean) / total_variance(moments)


def exact_signal_to_noise(moments: Moments | Spread) -> float:
    """‖E ĝ‖² / tr Σ of a single estimate, exactly; N times it for the mean of N.

    Args:
        moments: exact ones, from `exact` or `enumeration`.

    Returns:
        The ratio, infinite for an estimate without variance.

    Bias: exact.

    References:
        Roberts & Tedrake (2009).

    Example:
        >>> import numpy as np
        >>> exact_signal_to_noise(Spread(np.array([3.0, 4.0]), np.array([10.0, 15.0])))
        1.0
    """
    signal, noise = float(np.sum(np.square(moments.mean))), float(moments.total_variance)
    return signal / noise if noise > 0 else np.inf


def mean_squared_error(
    moments: Moments | Spread, truth: Float[np.ndarray, "P"], num_estimates: int
) -> float:
    """E‖ĝ_N − truth‖² of the mean of N independent estimates, bias² + tr Σ / N, exactly.

    Args:
        moments: exact ones of a single estimate.
        truth: [P], flattened like the moments.
        num_estimates: N.

    Returns:
        The error, in squared units of the gradient.

    Raises:
        ValueError: a truth of another length, N below one.

    Bias: exact.

    Example:
        >>> import numpy as np
        >>> found = Spread(np.array([1.0, 0.0]), np.array([2.0, 2.0]))
        >>> mean_squared_error(found, np.array([1.0, 1.0]), 8)
        1.5
    """
    if num_estimates < 1:
        raise ValueError(f"num_estimates must be at least 1, got {num_estimates}")
    squared_bias = _squared_bias(moments, truth)
    return squared_bias + float(moments.total_variance) / num_estimates


def estimates_needed(
    moments: Moments | Spread, truth: Float[np.ndarray, "P"], relative_error: float
) -> float:
    """The smallest N whose mean has a root mean squared error of `relative_error` ‖truth‖.

    N = ⌈tr Σ / ((ε ‖truth‖)² − bias²)⌉.

    Args:
        moments: exact ones of a single estimate.
        truth: [P], flattened like the moments.
        relative_error: ε, positive.

    Returns:
        N, at least 1; infinite where the bias alone exceeds the error.

    Raises:
        ValueError: a truth of another length, an error that is not positive.

    Bias: exact.

    Example:
        >>> import numpy as np
        >>> found = Spread(np.array([1.0, 0.0]), np.array([2.0, 2.0]))
        >>> estimates_needed(found, np.array([1.0, 0.0]), 0.5)
        16.0
    """
    if not relative_error > 0:
        raise ValueError(f"relative_error must be positive, got {relative_error}")
    room = (relative_error * float(np.linalg.norm(truth))) ** 2 - _squared_bias(moments, truth)
    return max(1.0, float(np.ceil(moments.total_variance / room))) if room > 0 else np.inf


def cosine(first: Gradient, second: Gradient) -> Float[Array, ""]:
    """Cosine of the angle between two gradients; zero if either is zero.

    No test of unbiasedness: it is above 0.999 for many a biased estimator.
    """
    scale = norm(first) * norm(second)
    safe = jnp.where(scale > 0, scale, 1)
    return jnp.where(scale > 0, dot(first, second) / safe, 0)


def norm(gradient: Gradient) -> Float[Array, ""]:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(dot(gradient, gradient))


def dot(first: Gradient, second: Gradient) -> Float[Array, ""]:
    """Inner product over all leaves."""
    return _sum(jax.tree.map(jnp.multiply, first, second))


def _sum(tree: Gradient) -> Array:
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(tree)), start=jnp.zeros(()))


def _squared_bias(moments: Moments | Spread, truth: np.ndarray) -> float:
    if np.shape(truth) != np.shape(moments.mean):
        raise ValueError(
            f"truth must have shape [P] = {np.shape(moments.mean)}, got {np.shape(truth)}; "
            "flatten it with jax.flatten_util.ravel_pytree"
        )
    return float(np.sum(np.square(moments.mean - truth)))


def _num_samples(gradients: PyTree) -> int:
    leaves = jax.tree.leaves(gradients)
    if not leaves:
        raise ValueError("gradients must have at least one leaf, got an empty tree")
    counts = {leaf.shape[:1] for leaf in leaves}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError(
            f"gradients must be a pytree of [N, ...] with one N >= 1, got leading axes {counts}"
        )
    return leaves[0].shape[0]
