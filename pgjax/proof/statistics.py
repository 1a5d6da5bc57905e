"""Statistical proof by sampling: tests whose rates of error are stated before they are run.

For what cannot be enumerated. A sequential test looks at n0, 2 n0, 4 n0, … samples and spends
α 2^−k at look k, so that its rates hold whenever it stops (a union bound). It either fails, or
passes because the mean is shown to lie within a margin of the truth, or says how many samples it
would have needed: absence of evidence is no pass.

The quantiles are scipy's. They rest on the central limit theorem, guarded by skewness; where a
bound on every sample is known, an empirical Bernstein bound needs no such theorem.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key
from scipy import stats

from pgjax import enumeration
from pgjax.exact.problem import Problem
from pgjax.types import Trajectory

NUM_DIRECTIONS = 48
"""Above this many parameters, only so many projections of the mean are tested."""


class InconclusiveError(AssertionError):
    """The budget ended before the test could pass or fail; the message names what would do."""


class MeanTest(NamedTuple):
    """How a sequential test of a mean ended.

    Attributes:
        passed: the mean is within `margin` of the truth; else it differs from it.
        num_samples: n at the last look.
        distance: ‖ȳ‖, of the mean from the truth (along the directions tested).
        margin: the tolerance in the same units; the smallest bias that could have been missed.
        p_value: of the last look, for a mean equal to the truth.
        num_directions: how many projections were tested; the number of parameters if all.
        mean: [P] of the samples.
    """

    passed: bool
    num_samples: int
    distance: float
    margin: float
    p_value: float
    num_directions: int
    mean: Float[np.ndarray, "P"]


class _Sums(NamedTuple):
    """Raw sums of y = directions · (estimate − truth), and of the estimate less the truth."""

    total: float
    first: np.ndarray  # [D]
    second: np.ndarray  # [D, D]
    third: np.ndarray  # [D]
    deviation: np.ndarray  # [P]


def mean_test(
    draw: Callable[[Key[Array, ""]], Float[Array, "n P"]],
    truth: Float[np.ndarray, "P"],
    key: Key[Array, ""],
    *,
    tolerance: float = 0.02,
    alpha: float = 1e-6,
    max_samples: int = 2**22,
    bound: float | None = None,
) -> MeanTest:
    """Sequential two-sided test that E[draw] = truth, with equivalence as its only way to pass.

    Fails if Hotelling's T², or the largest of the single t with Bonferroni, has p < α_k / 2. Passes
    if ‖ȳ‖ + √(c_k λ_max(S) / n) ≤ tolerance ‖truth‖.

    Args:
        draw: key -> n independent estimates, [n, P], n the same at each call.
        truth: [P], not zero.
        key: from `jax.random.key`.
        tolerance: equivalence margin as a share of ‖truth‖.
        alpha: the rate of false alarms, and the rate of false passes outside the margin.
        max_samples: the budget.
        bound: B if every |estimate_p − truth_p| ≤ B for certain; then a finite-sample bound decides
            instead of a limit theorem.

    Returns:
        MeanTest.

    Raises:
        InconclusiveError: the budget is spent; the message names the number of samples needed.
        ValueError: a truth that is zero, estimates of another length, an estimate that is NaN.

    Bias: with more than 48 parameters only 48 fixed directions, the truth's own among them, are
        tested, and the guarantee is for those.

    References:
        Gandy & Scott, Unit Testing for MCMC and other Monte Carlo Methods (2020), for sequences of
        looks; Hotelling (1931); Maurer & Pontil, Empirical Bernstein Bounds (2009), theorem 4.
    """
    truth = np.asarray(truth, np.float64)
    scale = float(np.linalg.norm(truth))
    if not scale > 0:
        raise ValueError("truth must not be zero: a relative tolerance has no meaning then")
    directions = _directions(truth)
    margin = tolerance * scale
    sums: _Sums | None = None
    look, target = 1, 0
    while True:
        key, chunk_key = jax.random.split(key)
        chunk = _sums(_chunk_sums(draw, jnp.asarray(truth), jnp.asarray(directions), chunk_key))
        if not np.all(np.isfinite(chunk.deviation)):
            raise ValueError("the estimate is not finite on some sample")
        sums = chunk if sums is None else _sums(map(np.add, sums, chunk))
        target = target or max(1024, int(chunk.total))
        if sums.total < target:
            continue
        level = alpha * 2.0**-look
        if bound is None:
            verdict, p_value = _normal_decision(sums, level, margin, scale)
        else:
            verdict, p_value = _bounded_decision(sums, level, margin, bound)
        if verdict is not None:
            break
        if target * 2 > max_samples:
            raise InconclusiveError(_what_it_takes(sums, level, margin, scale, tolerance))
        look, target = look + 1, target * 2
    mean = truth + sums.deviation / sums.total
    distance = float(np.linalg.norm(sums.first / sums.total))
    count = int(sums.total)
    return MeanTest(verdict, count, distance, margin, p_value, len(directions), mean)


class IndependenceTest(NamedTuple):
    """Whether the trajectories of one batch are independent of each other.

    Attributes:
        passed: no sign of dependence at the stated rate.
        variance_ratio: N Var[batch mean] / Var[single], 1 if independent, N for one key throughout.
        p_value: of the worst of return, length and log-probability, with Bonferroni.
    """

    passed: bool
    variance_ratio: float
    p_value: float


def independence_test(batches: Trajectory, *, alpha: float = 1e-6) -> IndependenceTest:
    """Test that trajectories of a batch share no randomness: the mean of a batch would hide it.

    One key broadcast over a batch leaves every estimate unbiased, with N times the variance. For
    independent y_i of mean zero E[Σ_{i≠j} y_i y_j] = 0, batch by batch: a t test over batches.

    Args:
        batches: [B, N, T], B independent batches of N ≥ 2.
        alpha: the rate of false alarms.

    Returns:
        IndependenceTest.

    Raises:
        ValueError: fewer than 32 batches, or batches of one.

    Bias: the t test is asymptotic in B. Power: total dependence gives the statistic its largest
        possible mean, and is found with certainty at B = 256.
    """
    B, N, _ = batches.reward.shape
    if B < 32 or N < 2:
        raise ValueError(f"batches must be at least 32, of at least 2, got {B} of {N}")
    mask = np.asarray(batches.mask)
    features = np.stack(
        [
            np.where(mask, np.asarray(batches.reward, np.float64), 0).sum(-1),
            mask.sum(-1),
            np.where(mask, np.asarray(batches.log_prob, np.float64), 0).sum(-1),
        ]
    )
    spread = features.std(axis=(1, 2))
    features = features[spread > 1e-6]  # a constant has nothing to share
    if not len(features):
        return IndependenceTest(True, 1.0, 1.0)
    centered = features - features.mean(axis=(1, 2), keepdims=True)
    pairs = centered.sum(-1) ** 2 - (centered**2).sum(-1)  # [features, B]
    # Centring at the sample mean makes each pair's mean −σ²/(BN); put it back.
    pairs = pairs + N * (N - 1) * (centered**2).mean(axis=(1, 2))[:, None] / (B * N)
    error = np.maximum(pairs.std(axis=1, ddof=1), 1e-12) / np.sqrt(B)
    p_values = 2 * stats.t.sf(np.abs(pairs.mean(axis=1)) / error, B - 1)
    ratio = 1 + pairs.mean(axis=1) / (N * (centered**2).mean(axis=(1, 2)))
    worst = int(np.argmin(p_values))
    p_value = float(min(1.0, p_values[worst] * len(p_values)))
    return IndependenceTest(p_value >= alpha, float(ratio[worst]), p_value)


class LawTest(NamedTuple):
    """Whether sampled trajectories follow P(τ).

    Attributes:
        passed: counts agree with the exact probabilities, and none was impossible.
        p_value: of the chi-square test.
        num_impossible: trajectories seen that have probability zero.
        num_cells: of the test, after merging those that expect fewer than five.
    """

    passed: bool
    p_value: float
    num_impossible: int
    num_cells: int


def law_test(batch: Trajectory, problem: Problem, *, alpha: float = 1e-6) -> LawTest:
    """Chi-square test of a sampler: counts of whole trajectories against their exact probabilities.

    Args:
        batch: [N, T], N independent trajectories of the problem, T its horizon.
        problem: small enough to enumerate.
        alpha: the rate of false alarms.

    Returns:
        LawTest. Trajectories that look alike are counted together.

    Raises:
        ValueError: too many trajectories to enumerate, another number of steps.

    Bias: asymptotic; every cell expects at least five.

    References:
        Pearson (1900).
    """
    known, probability = enumeration.trajectories(*problem.arguments, horizon=problem.horizon)
    if batch.reward.shape[1] != problem.horizon:
        raise ValueError(
            f"batch must have the problem's {problem.horizon} steps, got {batch.reward.shape[1]}"
        )
    cells: dict[bytes, int] = {}
    index = [cells.setdefault(name, len(cells)) for name in _names(known)]
    expected = np.bincount(index, weights=probability) * batch.reward.shape[0]
    counts, impossible = np.zeros(len(cells)), 0
    for name in _names(batch):
        if name in cells:
            counts[cells[name]] += 1
        else:
            impossible += 1
    order = np.argsort(-expected)
    expected, counts = expected[order], counts[order]
    kept = max(int(np.sum(expected >= 5)), 1)
    expected = np.append(expected[:kept], expected[kept:].sum())
    counts = np.append(counts[:kept], counts[kept:].sum())
    if expected[-1] < 5:  # the rare ones together are still too rare for a cell of their own
        expected = np.append(expected[:-2], expected[-2:].sum())
        counts = np.append(counts[:-2], counts[-2:].sum())
    statistic = np.sum((counts - expected) ** 2 / expected)
    p_value = float(stats.chi2.sf(statistic, max(len(expected) - 1, 1)))
    return LawTest(p_value >= alpha and impossible == 0, p_value, impossible, len(expected))


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
    return count, y.sum(0), y.T @ y, (y**3).sum(0), deviation.sum(0)


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
    p_dense = stats.f.sf(t_squared * (n - r) / (r * (n - 1)), r, n - r)
    deviations = np.sqrt(np.diag(covariance))
    varies = deviations > 1e-6 * scale
    t = np.abs(mean[varies]) / (deviations[varies] / np.sqrt(n))
    p_sparse = varies.sum() * stats.t.sf(t, n - 1).max() * 2
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
    return float(r * (n - 1) / (n - r) * stats.f.isf(level, r, n - r))


def _skew_is_harmless(sums: _Sums, level: float, scale: float) -> bool:
    """N ≥ (|skew| z³ / (6 ln 2))²: the tail is then off by a factor of two at most."""
    n = sums.total
    mean = sums.first / n
    variance = np.diag(sums.second) / n - mean**2
    varies = variance > (1e-6 * scale) ** 2
    third = sums.third / n - 3 * mean * np.diag(sums.second) / n + 2 * mean**3
    skew = np.abs(third[varies]) / variance[varies] ** 1.5
    z = stats.norm.isf(level / 2)
    return bool(n >= (skew.max() * z**3 / (6 * np.log(2))) ** 2)


def _what_it_takes(sums: _Sums, level: float, margin: float, scale: float, tolerance: float) -> str:
    """The number of samples to pass if the mean is right, or to fail if it is as it looks."""
    n, mean, _, values, vectors = _decompose(sums, scale)
    if not values.size:
        return (
            f"inconclusive after {int(n):,} samples: the estimate never varied, so that nothing is "
            "known of what has not been seen; enumerate, or state a bound"
        )
    r = values.size
    to_pass = _critical(level, r, n) * values.max() / margin**2
    effect = float(np.sum((vectors.T @ mean) ** 2 / values))
    to_fail, power = n, 0.0
    while power < 0.99 and to_fail < 1e15:
        to_fail *= 2
        threshold = stats.f.isf(level / 2, r, to_fail - r)
        power = stats.ncf.sf(threshold, r, to_fail - r, to_fail * effect)
    return (
        f"inconclusive after {int(n):,} samples: the mean is {np.linalg.norm(mean) / scale:.2%} of "
        f"the truth's length away from it, the margin is {tolerance:.2%}. If the mean is right, "
        f"about {int(to_pass):,} samples would pass it; if it is off by as much as it looks, about "
        f"{to_fail:,.0f} would refute it. Raise max_samples, or the tolerance"
    )


def _names(batch: Trajectory) -> list[bytes]:
    """Each trajectory as bytes, in single precision, with nothing after its end."""
    mask = np.asarray(batch.mask)
    rows = [mask, *(_blank(mask, x) for x in jax.tree.leaves((batch.observation, batch.action)))]
    rows += [_blank(mask, batch.reward), np.asarray(batch.terminated) & mask]
    flat = [np.asarray(x, np.float32).reshape(mask.shape[0], -1) for x in rows]
    return [row.tobytes() for row in np.concatenate(flat, axis=1) + 0.0]  # no −0


def _blank(mask: np.ndarray, x: Any) -> np.ndarray:
    array = np.asarray(x)
    return np.where(mask.reshape(mask.shape + (1,) * (array.ndim - 2)), array, 0)
