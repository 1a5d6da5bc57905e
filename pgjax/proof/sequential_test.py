"""The sequential test of a mean: its rates of error are stated before it runs.

It is for expectations that cannot be enumerated. The test looks at n0, 2 n0, 4 n0, … samples and
spends α 2^−k at look k, so that its rates hold whenever it stops (a union bound). It fails, or it
passes because the mean is shown to lie within a margin of the truth. Otherwise it says how many
samples it would have needed: too few samples do not pass.

The quantiles are scipy's. They rest on the central limit theorem, guarded by skewness. If a bound
on every sample is known, an empirical Bernstein bound needs no such theorem.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import Array
from jaxtyping import Float, Key

from pgjax.core.validation import (
    check_above_zero,
    check_between,
    check_key,
    check_positive,
    check_real,
    check_scalars,
)
from pgjax.diagnostics import tails
from pgjax.types import check_function

NUM_DIRECTIONS = 48
"""The most projections of the mean that are tested, if there are more parameters than this."""


FIRST_LOOK = 1024
"""The number of samples after which the test first decides, or more if one draw gives more."""


class InconclusiveError(AssertionError):
    """All samples are used before the test passes or fails; the message says how many it needs."""


class MeanTest(NamedTuple):
    """How a sequential test of a mean ended.

    Attributes:
        passed: the mean is within `margin` of the truth; else it differs from it.
        num_samples: n at the last look.
        distance: ‖ȳ‖, of the mean from the truth (along the directions tested).
        margin: in the same units; the largest bias that could have been missed.
        p_value: of the last look, for a mean equal to the truth.
        num_directions: how many projections were tested; the number of parameters if all.
        mean: [P] of the samples.
        standard_error: [P] of that mean.
    """

    passed: bool
    num_samples: int
    distance: float
    margin: float
    p_value: float
    num_directions: int
    mean: Float[np.ndarray, "P"]
    standard_error: Float[np.ndarray, "P"]


class _Sums(NamedTuple):
    """Raw sums of y = directions · (estimate − truth), and of the estimate less the truth."""

    total: float
    first: np.ndarray  # [D]
    second: np.ndarray  # [D, D]
    third: np.ndarray  # [D]
    deviation: np.ndarray  # [P]
    square: np.ndarray  # [P]


def mean_test(
    draw: Callable[[Key[Array, ""]], Float[Array, "n P"]],
    truth: Float[np.ndarray, "P"],
    key: Key[Array, ""],
    *,
    margin: float = 0.02,
    alpha: float = 1e-6,
    max_samples: int = 2**22,
    bound: float | None = None,
) -> MeanTest:
    """Sequential two-sided test that E[draw] = truth, with equivalence as its only way to pass.

    Fails if Hotelling's T², or the largest of the single t with Bonferroni, has p < α_k / 2. Passes
    if ‖ȳ‖ + √(c_k λ_max(S) / n) ≤ margin ‖truth‖.

    Args:
        draw: key -> n independent estimates, [n, P], n the same at each call.
        truth: [P], not zero.
        key: from `jax.random.key`.
        margin: of equivalence, as a share of ‖truth‖.
        alpha: the rate of false alarms, and the rate of false passes outside the margin.
        max_samples: the largest number of estimates to draw.
        bound: B if every |estimate_p − truth_p| ≤ B for certain; then a finite-sample bound decides
            instead of a limit theorem.

    Returns:
        MeanTest.

    Raises:
        InconclusiveError: if `max_samples` are not enough; the message names the number needed.
        ValueError: if the truth is zero, or an estimate has another length or is NaN.

    Bias: with more than 48 parameters only 48 fixed directions, the truth's own among them, are
        tested, and the guarantee is for those.

    References:
        Gandy & Scott, Unit Testing for MCMC and other Monte Carlo Methods (2020), for sequences of
        looks; Hotelling (1931); Maurer & Pontil, Empirical Bernstein Bounds (2009), theorem 4.
    """
    check_function("draw", draw, "key -> estimates [n, P]")
    check_scalars(margin=margin)
    check_above_zero("margin", margin, "it is a share of the truth's norm")
    check_between("alpha", alpha, 0, 1)
    check_positive("max_samples", max_samples)
    if bound is not None:
        check_scalars(bound=bound)
        check_above_zero("bound", bound, "it is a distance from the truth")
    key = check_key(key)
    truth = np.asarray(check_real("truth", truth), np.float64)
    if truth.ndim != 1:
        raise ValueError(f"truth must have shape [P], got {truth.shape}; flatten it")
    scale = float(np.linalg.norm(truth))
    if not scale > 0:
        raise ValueError(
            f"truth must not be zero, because the margin is relative to it, got {truth}"
        )
    directions = _directions(truth)
    allowed = margin * scale
    sums: _Sums | None = None
    look, target = 1, 0
    while True:
        key, chunk_key = jax.random.split(key)
        chunk = _sums(_chunk_sums(draw, truth, directions, chunk_key))
        if not np.all(np.isfinite(chunk.deviation)):
            raise ValueError(
                "the estimate must be finite on every sample, got nan or infinity; look for "
                "log(0), 0/0 or an overflow in it"
            )
        sums = chunk if sums is None else _sums(map(np.add, sums, chunk))
        target = target or max(FIRST_LOOK, int(chunk.total))
        if sums.total < target:
            continue
        level = alpha * 2.0**-look
        if bound is None:
            verdict, p_value = _normal_decision(sums, level, allowed, scale)
        else:
            verdict, p_value = _bounded_decision(sums, level, allowed, bound)
        if verdict is not None:
            break
        if target * 2 > max_samples:
            raise InconclusiveError(_what_it_takes(sums, level, allowed, scale))
        look, target = look + 1, target * 2
    n, deviation = sums.total, sums.deviation / sums.total
    return MeanTest(
        passed=verdict,
        num_samples=int(n),
        distance=float(np.linalg.norm(sums.first / n)),
        margin=allowed,
        p_value=p_value,
        num_directions=len(directions),
        mean=truth + deviation,
        standard_error=np.sqrt(np.maximum(sums.square / n - deviation**2, 0) / n),
    )


def _directions(truth: np.ndarray) -> np.ndarray:
    """[D, P]: every axis, or fixed orthonormal directions that begin with the truth's own."""
    P = truth.size
    if P <= NUM_DIRECTIONS:
        return np.eye(P)
    random = np.random.default_rng(0).normal(size=(P, NUM_DIRECTIONS - 1))
    return np.linalg.qr(np.column_stack([truth, random]))[0].T


def _sums(parts: Iterable[Any]) -> _Sums:
    total, *rest = (np.asarray(part, np.float64) for part in parts)
    return _Sums(float(total), *rest)


@partial(jax.jit, static_argnums=0)
def _chunk_sums(draw: Callable, truth: Array, directions: Array, key: Array) -> tuple:
    estimates = draw(key)
    if estimates.ndim != 2 or estimates.shape[1] != truth.size:
        raise ValueError(f"draw must return [n, P] = [n, {truth.size}], got {estimates.shape}")
    deviation = estimates - truth[None].astype(estimates.dtype)  # centre first, then accumulate
    y = deviation @ directions.T.astype(estimates.dtype)
    count = jnp.asarray(y.shape[0], y.dtype)
    return (
        count, y.sum(0), y.T @ y, (y**3).sum(0), deviation.sum(0), (deviation**2).sum(0)
    )  # fmt: skip


def _normal_decision(
    sums: _Sums, level: float, margin: float, scale: float
) -> tuple[bool | None, float]:
    n, mean, covariance, values, vectors = _decompose(sums, scale)
    r = values.size
    if r == 0:  # nothing varied yet, and a rare event may not have been seen
        return None, 1.0
    if not _skew_is_harmless(sums, level, scale):
        return None, 1.0
    coordinates = vectors.T @ mean
    t_squared = n * np.sum(coordinates**2 / values)
    p_dense = tails.f_tail(t_squared * (n - r) / (r * (n - 1)), r, n - r)
    deviations = np.sqrt(np.diag(covariance))
    varies = deviations > 1e-6 * scale
    t = np.abs(mean[varies]) / (deviations[varies] / np.sqrt(n))
    p_sparse = 2 * varies.sum() * tails.t_tail(t.max(), n - 1)
    p_value = float(min(1.0, 2 * min(p_dense, p_sparse)))
    if p_value < level:
        return False, p_value
    radius = np.sqrt(_critical(level, r, n) * values.max() / n)
    return (True if np.linalg.norm(mean) + radius <= margin else None), p_value


def _bounded_decision(
    sums: _Sums, level: float, margin: float, bound: float
) -> tuple[bool | None, float]:
    """Empirical Bernstein in each direction, for samples in an interval of length 2B."""
    n = sums.total
    mean = sums.first / n
    # A projection on a unit vector is bounded by √P times the bound on each coordinate.
    longest = bound * (1.0 if sums.deviation.size == mean.size else np.sqrt(sums.deviation.size))
    log = np.log(2 * 2 * mean.size / level)
    variance = np.maximum(np.diag(sums.second) / n - mean**2, 0) * n / (n - 1)
    radius = np.sqrt(2 * variance * log / n) + 7 * 2 * longest * log / (3 * (n - 1))
    if np.any(np.abs(mean) > radius):
        return False, level
    if np.linalg.norm(np.abs(mean) + radius) <= margin:
        return True, 1.0
    return None, 1.0


def _decompose(
    sums: _Sums, scale: float
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """n, mean, covariance, and the eigenpairs that carry variance: softmax makes it singular."""
    n = sums.total
    mean = sums.first / n
    covariance = (sums.second - n * np.outer(mean, mean)) / (n - 1)
    values, vectors = np.linalg.eigh(covariance)
    kept = values > max(1e-8 * values.max(), (1e-6 * scale) ** 2)
    return n, mean, covariance, values[kept], vectors[:, kept]


def _critical(level: float, r: int, n: float) -> float:
    return float(r * (n - 1) / (n - r) * tails.f_quantile(level, r, n - r))


def _skew_is_harmless(sums: _Sums, level: float, scale: float) -> bool:
    """N ≥ (|skew| z³ / (6 ln 2))²: the tail is then off by a factor of two at most."""
    n = sums.total
    mean = sums.first / n
    variance = np.diag(sums.second) / n - mean**2
    varies = variance > (1e-6 * scale) ** 2
    third = sums.third / n - 3 * mean * np.diag(sums.second) / n + 2 * mean**3
    skew = np.abs(third[varies]) / variance[varies] ** 1.5
    z = tails.normal_quantile(level / 2)
    return bool(n >= (skew.max() * z**3 / (6 * np.log(2))) ** 2)


def _what_it_takes(sums: _Sums, level: float, margin: float, scale: float) -> str:
    """The number of samples to pass if the mean is right, or to fail if it is as it looks."""
    n, mean, _, values, vectors = _decompose(sums, scale)
    if not values.size:
        return (
            f"inconclusive after {int(n):,} samples: the estimate never varied, so nothing is "
            "known about rare samples; enumerate, or state a bound"
        )
    r = values.size
    to_pass = _critical(level, r, n) * values.max() / margin**2
    effect = float(np.sum((vectors.T @ mean) ** 2 / values))
    to_fail, power = n, 0.0
    while power < 0.99 and to_fail < 1e15:
        to_fail *= 2
        threshold = tails.f_quantile(level / 2, r, to_fail - r)
        power = scipy.stats.ncf.sf(threshold, r, to_fail - r, to_fail * effect)
    return (
        f"inconclusive after {int(n):,} samples: the mean is {np.linalg.norm(mean) / scale:.2%} of "
        f"the truth's length away from it, the margin is {margin / scale:.2%}. If the mean is "
        f"right, about {int(to_pass):,} samples would pass it; if it is as far off as it looks, "
        f"about {to_fail:,.0f} would refute it. Raise max_samples, or the margin"
    )
