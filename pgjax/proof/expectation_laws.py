"""Every draw of an estimator of ∇E[f(x)] with its probability: by enumeration or by quadrature.

An estimator names the law of its draws. Here each law is a list of batches of draws and their
probabilities, so that an expectation is a finite sum. Discrete draws are enumerated. Normal ones
are Gauss–Hermite nodes, exact where f is a polynomial. Uniform ones are tanh–sinh nodes between the
points where a discrete draw jumps; Poisson counts are cut where less than 1e-17 is left.

Everything is float64, and NumPy until it is handed to the estimator.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import combinations, permutations
from typing import Any

import jax
import numpy as np
from scipy.special import ndtr, softmax

from pgjax.expectations.distributions import Distribution
from pgjax.expectations.estimator import ExpectationEstimator
from pgjax.expectations.natural import BERNOULLI, CATEGORICAL, NORMAL, ONE_HOT, Natural
from pgjax.expectations.pathwise import sobol_points
from pgjax.proof.expectation_derivative_laws import coupled, independent
from pgjax.proof.expectation_sums import (
    Law,
    Outcomes,
    UnknownLawError,
    coordinates,
    normals,
    outcome_law,
    repeated,
    together,
    uniform_rule,
)
from pgjax.types import Params


def listed_draws(
    estimators: Sequence[ExpectationEstimator],
    distribution: Distribution,
    params: Params,
    sizes: Sequence[int],
) -> list[Law]:
    """Every batch of N draws of each estimator, with its probability.

    Args:
        estimators: with a `law`.
        distribution: of a known family.
        params: its parameters, float64.
        sizes: N of each, small: there are M^N batches.

    Returns:
        Draws, leaves [B, N, ...], and probabilities [B], which sum to one, of each.

    Raises:
        UnknownLawError: if the law has no name, or no list for this family.

    Bias: exact for enumerated draws, and to about 1e-13 for smooth functions of the others.
    """
    for estimator in estimators:
        if estimator.law not in _LAWS:
            known = ", ".join(sorted(_LAWS))
            raise UnknownLawError(f"estimator.law must be one of {known}, got {estimator.law!r}")
    natural = None if distribution.natural is None else distribution.natural(params)
    outcomes = cache(partial(outcome_law, distribution, params))
    pairs = zip(estimators, sizes, strict=True)
    return [_LAWS[estimator.law](estimator, outcomes, N, natural) for estimator, N in pairs]


def _outcomes(estimator: Any, outcomes: Outcomes, N: int, natural: Any) -> Law:
    return repeated(*outcomes(), N)


def _groups(estimator: Any, outcomes: Outcomes, N: int, natural: Any) -> Law:
    K = estimator.term.settings["group_size"]
    x, probability = repeated(*outcomes(), N * K)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, N, K, *leaf.shape[2:]), x), probability


def _noise(estimator: Any, outcomes: Outcomes, N: int, natural: Any) -> Law:
    if natural is None or natural.family != NORMAL:
        raise UnknownLawError("distribution must be a normal for its noise to be listed")
    return repeated(*normals(natural.values[0].shape), N)


def _jumps(natural: Natural) -> list[list[float]]:
    """For each coordinate, where a draw by inversion jumps, and where the opposite one does."""
    if natural.family == NORMAL:
        return [[0.5]] * natural.values[0].size
    if natural.family == BERNOULLI:
        p = 1 / (1 + np.exp(-np.asarray(natural.values).ravel()))
        return [[float(q), float(1 - q)] for q in p]
    if natural.family in (CATEGORICAL, ONE_HOT):
        K = natural.values.shape[-1]
        p = softmax(np.asarray(natural.values), axis=-1).reshape(-1, K)
        inner = np.cumsum(p, axis=1)[:, :-1]
        return [[*row, *(1 - row)] for row in inner.tolist() for row in [np.array(row)]]
    raise UnknownLawError(f"uniform numbers of a {natural.family} are not listed")


def _uniforms(estimator: Any, outcomes: Outcomes, N: int, natural: Any) -> Law:
    if natural is None or natural.family != BERNOULLI:
        raise UnknownLawError("distribution must be a bernoulli for its uniforms to be listed")
    rules = [uniform_rule(breaks) for breaks in _jumps(natural)]
    return repeated(*together(rules, natural.values.shape), N)


def _two_uniforms(estimator: Any, outcomes: Outcomes, N: int, natural: Any) -> Law:
    if natural is None or natural.family != BERNOULLI or natural.values.size > 1:
        raise UnknownLawError("distribution must be one bernoulli for its uniforms to be listed")
    rules = [uniform_rule(_jumps(natural)[0]), uniform_rule([])]
    return repeated(*together(rules, (2, *natural.values.shape)), N)


def _mirrored(estimator: Any, outcomes: Outcomes, N: int, natural: Any) -> Law:
    if natural is None or N != 2:
        raise UnknownLawError("num_samples must be 2 for mirrored pairs to be listed")
    if natural.family == NORMAL:  # polynomials of z are integrated exactly, not of its quantile
        z, weight = normals(natural.values[0].shape, 12)  # further out, ndtr rounds to one
        u = ndtr(np.abs(z))
        u = np.where(z < 0, 1 - u, u)
        return np.stack([u, 1 - u], axis=1), weight
    rules = [uniform_rule(breaks) for breaks in _jumps(natural)]
    u, weight = together(rules, coordinates(natural))
    return np.stack([u, 1 - u], axis=1), weight


def _shifted(estimator: Any, outcomes: Outcomes, N: int, natural: Any) -> Law:
    """The shift is uniform; a draw jumps where its point plus the shift meets a jump, modulo 1."""
    if natural is None:
        raise UnknownLawError("distribution must be of a known family for points to be listed")
    if natural.family == NORMAL:
        return _shifted_normal(natural, N)
    jumps = _jumps(natural)
    points = sobol_points(N, len(jumps))
    rules = []
    for place, breaks in enumerate(jumps):
        met = {
            round(float((b - v) % 1.0), 15) for b in [*breaks, 0.0] for v in points[:, place]
        } - {0.0, 1.0}
        ends = np.array([0.0, *sorted(met), 1.0])
        rules.append(((ends[1:] + ends[:-1]) / 2, np.diff(ends)))  # constant between them
    shift, weight = together(rules, (len(jumps),))
    u = (points[None] + shift[:, None]) % 1.0
    return u.reshape(len(shift), N, *coordinates(natural)), weight


def _shifted_normal(natural: Natural, N: int) -> Law:
    """A point plus the shift wraps around where the quantile is infinite, but integrable."""
    shape = natural.values[0].shape
    points = sobol_points(N, max(natural.values[0].size, 1))
    rules = [uniform_rule([float(-v % 1.0) for v in column if v]) for column in points.T]
    shift, weight = together(rules, (len(rules),))
    u = np.clip((points[None] + shift[:, None]) % 1.0, 2.0**-60, 1 - 2.0**-53)
    return u.reshape(len(shift), N, *shape), weight


def _sets(estimator: Any, outcomes: Outcomes, N: int, natural: Any) -> Law:
    """Sets of different outcomes; the probability is summed over the orders of drawing them."""
    k = estimator.term.settings["set_size"]
    _, p = outcomes()
    members = np.array(list(combinations(range(len(p)), k)))
    return repeated(members, np.array([_of_set(p, each) for each in members]), N)


def _of_set(p: np.ndarray, members: np.ndarray) -> float:
    total = 0.0
    for order in permutations(members):
        chance = 1.0
        for place, index in enumerate(order):
            chance *= p[index] / (1 - p[list(order[:place])].sum())
        total += chance
    return total


def _rest(estimator: Any, outcomes: Outcomes, N: int, natural: Any) -> Law:
    """Outcomes that are not among the k likeliest, in proportion to their probabilities."""
    _, p = outcomes()
    k = min(estimator.term.settings["num_outcomes"], len(p))
    p = p.copy()
    p[np.argsort(-p, kind="stable")[:k]] = 0
    if not p.any():
        return np.zeros((1, N), np.int32), np.ones(1)
    kept = np.flatnonzero(p)
    return repeated(kept, p[kept] / p.sum(), N)


def _nothing(estimator: Any, outcomes: Outcomes, N: int, natural: Any) -> Law:
    return np.zeros((1, 1)), np.ones(1)


_LAWS: dict[str, Callable[[Any, Outcomes, int, Any], Law]] = {
    "outcomes": _outcomes,
    "groups": _groups,
    "noise": _noise,
    "uniforms": _uniforms,
    "two uniforms": _two_uniforms,
    "mirrored": _mirrored,
    "shifted": _shifted,
    "sets": _sets,
    "the rest": _rest,
    "nothing": _nothing,
    "coupled derivatives": coupled,
    "independent derivatives": independent,
}
