"""Sampled moments: mean and variance of a stream of gradients, and statistics from both."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree

from pgjax.core.validation import check_gradient, check_kind
from pgjax.diagnostics.geometry import Gradient, divide_if_positive, dot, norm, total


class RunningMoments(NamedTuple):
    """Number, mean and centred squares of a stream of gradients, coordinate by coordinate.

    Attributes:
        num_samples: scalar, the number of samples seen.
        mean: pytree, the mean of the samples.
        squares: pytree, Σ (x − mean)², which is never computed as a difference of large numbers.
    """

    num_samples: Float[Array, ""]
    mean: Gradient
    squares: Gradient


def running_moments(gradients: PyTree[Float[Array, "N ..."]]) -> RunningMoments:
    """Moments of N per-trajectory gradients, a pytree of [N, ...].

    Raises:
        ValueError: if there are no leaves, or no samples.

    Bias: the mean has none for the estimator's expectation.

    Example:
        >>> import jax.numpy as jnp
        >>> variance(running_moments(jnp.array([[1.0], [3.0]])))
        Array([2.], dtype=float32)
    """
    num_samples(gradients)  # refuses what is no batch of gradients
    return _moments(gradients)


@jax.jit
def _moments(gradients: PyTree[Float[Array, "N ..."]]) -> RunningMoments:
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), gradients)
    squares = jax.tree.map(lambda x, m: jnp.sum((x - m[None]) ** 2, axis=0), gradients, mean)
    dtype = jax.tree.leaves(mean)[0].dtype
    return RunningMoments(jnp.asarray(num_samples(gradients), dtype), mean, squares)


def merge(first: RunningMoments, second: RunningMoments) -> RunningMoments:
    """Moments of both streams together, equal to those of all samples at once.

    References:
        Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm (1979), eq. 2.1.

    Example:
        >>> import jax.numpy as jnp
        >>> one, two = (running_moments(jnp.array([[x]])) for x in (1.0, 3.0))
        >>> merge(one, two).mean
        Array([2.], dtype=float32)
    """
    _check_moments("first", first)
    _check_moments("second", second)
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
    """Moments of many streams together, equal to those of all samples at once.

    Args:
        moments: of K streams, every field with a leading K. Some streams may be empty.

    References:
        Chan, Golub & LeVeque (1979), section 2.

    Example:
        >>> import jax.numpy as jnp
        >>> zeros = jnp.zeros((2, 1))
        >>> streams = RunningMoments(jnp.ones(2), jnp.array([[1.0], [3.0]]), zeros)
        >>> merge_all(streams).squares
        Array([2.], dtype=float32)
    """
    _check_moments("moments", moments)
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
    """Unbiased variance of a sample, coordinate by coordinate; NaN if there is only one sample."""
    _check_moments("moments", moments)
    return jax.tree.map(lambda x: x / (moments.num_samples - 1), moments.squares)


def total_variance(moments: RunningMoments) -> Float[Array, ""]:
    """Total variance of a sample, tr Σ, the sum of the variances of all coordinates."""
    _check_moments("moments", moments)
    return total(variance(moments))


def standard_error(moments: RunningMoments) -> Gradient:
    """Standard error of the mean, coordinate by coordinate, √(σ²/N)."""
    _check_moments("moments", moments)
    return jax.tree.map(lambda x: jnp.sqrt(x / moments.num_samples), variance(moments))


def bias(moments: RunningMoments, truth: Gradient) -> Gradient:
    """Mean less truth, coordinate by coordinate; read it against `standard_error`."""
    _check_moments("moments", moments)
    check_gradient("truth", truth, ("moments.mean", moments.mean))
    return jax.tree.map(jnp.subtract, moments.mean, truth)


def covariance(gradients: PyTree[Float[Array, "N ..."]]) -> Float[Array, "P P"]:
    """Unbiased covariance of a sample over the flattened parameters.

    Args:
        gradients: pytree of [N, ...], with P numbers in each sample.

    Returns:
        [P, P], in the order of `ravel_pytree`.

    Raises:
        ValueError: if there are fewer than two samples.

    Bias: none.
    """
    count = num_samples(gradients)
    if count < 2:
        raise ValueError(f"covariance needs at least 2 samples, got {count}; draw more")
    flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])(gradients)
    centered = flat - jnp.mean(flat, axis=0, keepdims=True)
    return centered.T @ centered / (count - 1)


def signal_to_noise(moments: RunningMoments) -> Float[Array, ""]:
    """Signal to noise ‖mean‖² / tr Σ of a single sample; N times it for the mean of N.

    Bias: the squared mean is too large by tr Σ / N on average, and so the ratio by about 1/N.

    References:
        Roberts & Tedrake, Signal-to-Noise Ratio Analysis of Policy Gradient Algorithms (2009).
    """
    _check_moments("moments", moments)
    return dot(moments.mean, moments.mean) / total_variance(moments)


def squared_signal(moments: RunningMoments) -> Float[Array, ""]:
    """Squared signal ‖E g‖², estimated as ‖mean‖² − tr Σ̂ / N; noise can make it negative.

    Bias: none.

    Example:
        >>> import jax.numpy as jnp
        >>> squared_signal(running_moments(jnp.array([[1.0], [3.0]])))
        Array(3., dtype=float32)
    """
    _check_moments("moments", moments)
    spread = total_variance(moments) / moments.num_samples
    return dot(moments.mean, moments.mean) - spread


def noise_scale(moments: RunningMoments) -> Float[Array, ""]:
    """Gradient noise scale B = tr Σ / ‖E g‖²: the batch size at which signal and noise are equal.

    Larger batches are worth their cost up to about B, and hardly beyond.

    Args:
        moments: of at least two samples, the unit of B.

    Returns:
        Scalar, infinite if the estimated signal is not positive.

    Bias: of order 1/N, although numerator and denominator have none.

    References:
        McCandlish et al., An Empirical Model of Large-Batch Training (2018), eq. 2.9 and A.2.

    Example:
        >>> import jax.numpy as jnp
        >>> noise_scale(running_moments(jnp.array([[1.0], [3.0]])))
        Array(0.6666667, dtype=float32)
    """
    _check_moments("moments", moments)
    return divide_if_positive(total_variance(moments), squared_signal(moments), otherwise=jnp.inf)


def cosine_of_means(first: RunningMoments, second: RunningMoments | Gradient) -> Float[Array, ""]:
    """Cosine of the angle between E g and another gradient, corrected for noise in both lengths.

    The plain cosine of sample means is too small, because noise makes the means longer.

    Args:
        first: of at least two samples.
        second: moments of *independent* samples, or a known gradient.

    Returns:
        Scalar; noise can make it exceed 1. It is NaN if an estimated squared length is not
        positive.

    Bias: of order 1/N.

    Example:
        >>> import jax.numpy as jnp
        >>> moments = running_moments(jnp.array([[1.0, 0.0], [1.0, 2.0]]))
        >>> cosine_of_means(moments, jnp.array([1.0, 0.0]))
        Array(1., dtype=float32)
    """
    _check_moments("first", first)
    if not isinstance(second, RunningMoments):
        check_gradient("second", second, ("first.mean", first.mean))
    length = squared_signal(first)
    if isinstance(second, RunningMoments):
        other, product = squared_signal(second), dot(first.mean, second.mean)
    else:
        other, product = norm(second) ** 2, dot(first.mean, second)
    seen = (length > 0) & (other > 0)
    return jnp.where(seen, product / jnp.sqrt(jnp.where(seen, length * other, 1)), jnp.nan)


def _check_moments(name: str, moments: Any) -> None:
    check_kind(name, moments, RunningMoments, "running_moments(gradients) gives them")


def num_samples(gradients: PyTree, name: str = "gradients") -> int:
    """The number N of samples in a pytree of [N, ...].

    Args:
        gradients: pytree of [N, ...].
        name: of the argument, for messages.

    Raises:
        TypeError: if a leaf is not an array of real numbers, or there is none.
        ValueError: if there are no samples, or leaves of different N.
    """
    check_gradient(name, gradients)
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(gradients)}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError(
            f"every array of {name} must have shape [N, ...] with the same N >= 1, got leading "
            f"axes {counts}; give a single sample a leading axis with x[None]"
        )
    return counts.pop()[0]
