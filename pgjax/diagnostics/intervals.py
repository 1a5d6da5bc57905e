"""Jackknife confidence intervals for the noise scale, the signal to noise ratio and the cosine.

Samples are pytrees of [K, ...] with K ≥ 3 independent gradient estimates. Each is from one of K
batches of N trajectories, so that trajectories within a batch may be coupled. `level` is the level
of confidence, and `batch_size` is N. A ValueError is raised if there are fewer than three
estimates. Biases are of order 1/K.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from pgjax.core.validation import check_between, check_gradient, check_positive
from pgjax.diagnostics.geometry import Gradient
from pgjax.diagnostics.moments import (
    RunningMoments,
    cosine_of_means,
    noise_scale,
    num_samples,
    running_moments,
)
from pgjax.diagnostics.tails import t_quantile
from pgjax.types import check_function, describe


class Interval(NamedTuple):
    """An estimate and a confidence interval around it.

    Attributes:
        estimate: the statistic of the whole sample.
        low: the interval's lower end.
        high: its upper end.
    """

    estimate: float
    low: float
    high: float


Scale: TypeAlias = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]
"""An increasing function that makes a statistic close to normal, and its inverse."""

LOGARITHM: Scale = (np.log, np.exp)
LINEAR: Scale = (np.asarray, np.asarray)


def jackknife(
    statistic: Callable[..., Array],
    *samples: PyTree[Float[Array, "..."]],
    scale: Scale,
    level: float = 0.95,
) -> Interval:
    """A confidence interval for a smooth function of moments, by leaving out one sample at a time.

    The standard error is √((K−1)/K Σ_k (f_k − f̄)²), where f_k is the statistic without sample k,
    and f̄ is their mean. It is computed on a scale on which the statistic is close to normal.
    Quantiles are Student's with K − 1 degrees of freedom.

    Args:
        statistic: (*moments) -> scalar, from the RunningMoments of each of the samples.
        *samples: pytrees of [K, ...], independent of each other.
        scale: `LOGARITHM` or `LINEAR`, on which the statistic is close to normal.
        level: in (0, 1).

    Returns:
        An Interval. It is the whole range of the scale if a statistic is not finite, because the
        sample is too small.

    Raises:
        ValueError: if K is below 3, if samples differ in K, or if the level is outside (0, 1).

    Bias: coverage tends to the level as K grows, if the statistic has a derivative at the truth.

    References:
        Efron & Stein, The Jackknife Estimate of Variance (1981); Miller, The Jackknife (1974).

    Example:
        >>> import jax.numpy as jnp
        >>> found = jackknife(
        ...     lambda moments: moments.mean, jnp.array([1.0, 2.0, 4.0]), scale=LOGARITHM)
        >>> [round(float(x), 3) for x in found]
        [2.333, 0.391, 13.908]
    """
    check_function("statistic", statistic, "moments -> scalar")
    if not isinstance(scale, tuple) or len(scale) != 2 or not all(map(callable, scale)):
        raise TypeError(f"scale must be a pair of functions, such as LINEAR, got {describe(scale)}")
    check_between("level", level, 0, 1)
    if not samples:
        raise TypeError("samples must hold at least one pytree of [K, ...], got none")
    names = [f"samples[{index}]" for index in range(len(samples))]
    counts = [num_samples(each, name) for each, name in zip(samples, names, strict=True)]
    K = counts[0]
    if K < 3:
        raise ValueError(
            f"{names[0]} must hold at least 3 independent estimates, got {K}; use more batches"
        )
    if any(count != K for count in counts):
        raise ValueError(f"samples must hold the same number of estimates each, got {counts}")
    if isinstance(statistic, Partial):
        found = _compiled_statistics(statistic, *samples)
    else:  # compiling each new function would take longer than it saves
        found = _statistics(statistic, *samples)
    estimate, left_out = float(found[0]), found[1]
    forward, backward = scale
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = forward(np.asarray(estimate, np.float64))
        replicates = forward(np.asarray(left_out, np.float64))
        if not (np.isfinite(centre) and np.all(np.isfinite(replicates))):
            low, high = backward(np.asarray([-np.inf, np.inf]))
            return Interval(estimate, float(low), float(high))
    error = np.sqrt((K - 1) / K * np.sum((replicates - replicates.mean()) ** 2))
    reach = t_quantile((1 - level) / 2, K - 1) * error
    low, high = backward(np.asarray([centre - reach, centre + reach]))
    return Interval(estimate, float(low), float(high))


def _statistics(statistic: Callable[..., Array], *samples: PyTree) -> tuple[Array, Array]:
    """The statistic of all the samples, and [K] of all but one."""
    whole = statistic(*map(running_moments, samples))
    return whole, jax.vmap(statistic)(*map(_leaving_each_out, samples))


_compiled_statistics = jax.jit(_statistics)


def _leaving_each_out(samples: PyTree) -> RunningMoments:
    """Moments of K − 1 samples, K times: every field with a leading K."""
    K, all_of_them = num_samples(samples), running_moments(samples)

    def mean(m: Array, x: Array) -> Array:
        return m[None] + (m[None] - x) / (K - 1)

    def squares(s: Array, m: Array, x: Array) -> Array:
        # Without sample k, S = Σ (x − m)² loses K/(K−1) (x_k − m)², the mean's move included.
        return jnp.maximum(s[None] - (x - m[None]) ** 2 * (K / (K - 1)), 0)

    return RunningMoments(
        jnp.full(K, K - 1, all_of_them.num_samples.dtype),
        jax.tree.map(mean, all_of_them.mean, samples),
        jax.tree.map(squares, all_of_them.squares, all_of_them.mean, samples),
    )


def noise_scale_interval(
    estimates: PyTree[Float[Array, "K ..."]], *, batch_size: int = 1, level: float = 0.95
) -> Interval:
    """Gradient noise scale in trajectories, N tr Cov(ĝ) / ‖E ĝ‖², with an interval.

    The interval is all of [0, ∞] if the estimated signal ‖E ĝ‖² is not positive, with all estimates
    or without one of them.

    Args:
        estimates: pytree of [K, ...].

    Bias: of order 1/K.

    References:
        McCandlish et al. (2018), eq. 2.9.

    Example:
        >>> import jax
        >>> found = noise_scale_interval(1 + jax.random.normal(jax.random.key(0), (64, 3)))
        >>> found.low < 1 < found.high
        True
    """
    num_samples(estimates, "estimates")
    check_positive("batch_size", batch_size)
    statistic = Partial(_scaled_noise, batch_size)
    return jackknife(statistic, estimates, scale=LOGARITHM, level=level)


def _scaled_noise(batch_size: Array, moments: RunningMoments) -> Array:
    return batch_size * noise_scale(moments)


def signal_to_noise_interval(
    estimates: PyTree[Float[Array, "K ..."]], *, batch_size: int = 1, level: float = 0.95
) -> Interval:
    """Signal to noise of one trajectory, ‖E ĝ‖² / (N tr Cov(ĝ)), with an interval.

    It is the inverse of `noise_scale_interval`, and is all of [0, ∞] in the same case.

    Args:
        estimates: pytree of [K, ...].

    Bias: of order 1/K.

    References:
        Roberts & Tedrake (2009).

    Example:
        >>> import jax
        >>> found = signal_to_noise_interval(1 + jax.random.normal(jax.random.key(0), (64, 3)))
        >>> found.low < 1 < found.high
        True
    """
    return inverse(noise_scale_interval(estimates, batch_size=batch_size, level=level))


def inverse(interval: Interval) -> Interval:
    """The interval of 1/x from that of a positive x."""
    with np.errstate(divide="ignore"):
        estimate, high, low = (float(1 / np.float64(x)) for x in interval)
    return Interval(estimate, low, high)


def cosine_interval(
    estimates: PyTree[Float[Array, "K ..."]], reference: Gradient, *, level: float = 0.95
) -> Interval:
    """Cosine of the angle between E ĝ and a gradient that is known, with an interval.

    The variance is subtracted from the squared length of the mean; otherwise the cosine would be
    too small. The interval lies in [−1, 1]. It is all of [−1, 1] if the estimated squared length is
    not positive, with all estimates or without one of them.

    Args:
        estimates: pytree of [K, ...].
        reference: pytree like one of the estimates, such as ∇J.

    Bias: of order 1/K.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> noisy = jnp.array([3.0, 4.0]) + jax.random.normal(jax.random.key(0), (64, 2))
        >>> found = cosine_interval(noisy, jnp.array([1.0, 0.0]))
        >>> found.low < 0.6 < found.high
        True
    """
    num_samples(estimates, "estimates")
    one = jax.tree.map(lambda x: x[0], estimates)
    check_gradient("reference", reference, ("one of the estimates", one))
    statistic = Partial(_cosine_with, reference)
    return _within_cosines(jackknife(statistic, estimates, scale=LINEAR, level=level))


def _cosine_with(reference: Gradient, moments: RunningMoments) -> Array:
    return cosine_of_means(moments, reference)


def cosine_between_interval(
    first: PyTree[Float[Array, "K ..."]],
    second: PyTree[Float[Array, "K ..."]],
    *,
    level: float = 0.95,
) -> Interval:
    """Cosine of the angle between two expectations, E ĝ and E ĥ, with an interval.

    The interval lies in [−1, 1]. It is all of [−1, 1] if an estimated squared length is not
    positive, with all estimates or without one of them.

    Args:
        first: pytree of [K, ...], estimates ĝ.
        second: pytree of [K, ...], estimates ĥ from other batches: shared noise would count as
            agreement.

    Bias: of order 1/K.

    Example:
        >>> import jax
        >>> first, second = 1 + jax.random.normal(jax.random.key(0), (2, 64, 3))
        >>> found = cosine_between_interval(first, second)
        >>> found.low > 0.8
        True
    """
    num_samples(first, "first")
    num_samples(second, "second")
    found = jackknife(Partial(cosine_of_means), first, second, scale=LINEAR, level=level)
    return _within_cosines(found)


def _within_cosines(found: Interval) -> Interval:
    """The interval cut to [−1, 1], which noise may exceed."""
    estimate, low, high = (float(np.clip(x, -1, 1)) for x in found)
    return Interval(estimate, low, high)
