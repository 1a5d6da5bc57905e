"""Finite sums for expectations: nodes and weights, and the laws of a single draw of x."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from pgjax.core.compilation import jit_once
from pgjax.expectations.distributions import Distribution
from pgjax.expectations.estimator import log_probs_of
from pgjax.expectations.natural import CATEGORICAL, NORMAL, ONE_HOT, POISSON, Natural
from pgjax.types import Params

Law = tuple[Any, np.ndarray]
"""Batches of draws, leaves [B, N, ...], and their probabilities [B]."""

Outcomes = Callable[[], Law]
"""The law of one draw of x, computed when it is first asked for."""

LARGEST = 300_000
"""More batches of draws than this are not listed."""

HERMITE, STEPS = 24, 40
"""Nodes of a normal number; of a uniform one, tanh–sinh steps to each side of the middle."""


class UnknownLawError(ValueError):
    """The draws of an estimator cannot be listed on a distribution."""


def outcome_law(distribution: Distribution, params: Params) -> Law:
    """Every x of one draw, [M, ...], with its probability.

    Args:
        distribution: with a list of outcomes, or a Poisson or normal of one coordinate.
        params: its parameters, float64.

    Raises:
        UnknownLawError: if it has neither.
    """
    x, weight = outcomes_or_nodes(distribution, params)
    if weight is not None:
        return x, weight
    # A new function each time: a value that it closes over may have changed since the last trace.
    return x, np.exp(jit_once(partial(log_probs_of))(distribution, params, x))


def outcomes_or_nodes(distribution: Distribution, params: Params) -> tuple[Any, np.ndarray | None]:
    """Every x of one draw, [M, ...], and weights if they are nodes; outcomes have probabilities.

    Args:
        distribution: with a list of outcomes, or a Poisson or normal of one coordinate.
        params: its parameters, float64.

    Raises:
        UnknownLawError: if it has neither.
    """
    if distribution.outcomes is not None:
        return distribution.outcomes(params), None
    natural = None if distribution.natural is None else distribution.natural(params)
    if natural is not None and natural.family == NORMAL:
        z, weight = normals(natural.values[0].shape)
        mean, log_std = map(np.asarray, natural.values)
        return mean + np.exp(log_std) * z, weight
    if natural is not None and natural.family == POISSON and natural.values.size == 1:
        count = np.arange(largest_count(float(np.exp(natural.values).ravel()[0])) + 1.0)
        return count.reshape(-1, *natural.values.shape), None
    raise UnknownLawError("distribution must have outcomes that can be listed, got one without")


def largest_count(rate: float) -> int:
    """A count above which a Poisson has less than 1e-17 of its probability.

    Args:
        rate: λ.
    """
    return math.ceil(rate + 12 * math.sqrt(rate)) + 40


def uniform_rule(breaks: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Tanh–sinh nodes and weights on (0, 1), between the break points.

    The rule is exact to rounding for functions that are analytic between these points. At the
    points a function may have an integrable singularity.

    Args:
        breaks: points in (0, 1) at which the function may jump.
    """
    t = np.linspace(-3.6, 3.6, 2 * STEPS + 1)
    # Distances to both ends of a piece, each without a difference of nearly equal numbers.
    left = 1 / (1 + np.exp(-np.pi * np.sinh(t)))
    right = left[::-1]
    weight = np.pi * np.cosh(t) * left * right * (t[1] - t[0])
    weight = weight / weight.sum()
    ends = [0.0, *sorted(set(breaks)), 1.0]
    nodes, weights = [], []
    for low, high in pairwise(ends):
        size = high - low
        nodes.append(np.where(t < 0, low + size * left, high - size * right))
        weights.append(size * weight)
    u = np.concatenate(nodes)
    return np.clip(u, 1e-300, 1 - 2**-53), np.concatenate(weights)


def normals(shape: tuple[int, ...], order: int = HERMITE) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Hermite nodes [B, *shape] of independent standard normals."""
    z, weight = np.polynomial.hermite_e.hermegauss(order)
    return together([(z, weight / weight.sum())] * math.prod(shape), shape)


def together(
    rules: list[tuple[np.ndarray, np.ndarray]], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Independent numbers, one rule each, as arrays of the shape."""
    nodes = np.stack(np.meshgrid(*(nodes for nodes, _ in rules), indexing="ij"), axis=-1)
    weights = np.prod(np.meshgrid(*(w for _, w in rules), indexing="ij"), axis=0)
    return nodes.reshape(-1, *shape), weights.ravel()


def repeated(draws: Any, probability: np.ndarray, num_samples: int) -> Law:
    """N independent draws of a law of one."""
    if len(probability) ** num_samples > LARGEST:
        raise UnknownLawError(
            f"num_samples must leave at most {LARGEST:,} batches of draws to list, got "
            f"{len(probability)} to the power {num_samples}"
        )
    places = np.indices((len(probability),) * num_samples).reshape(num_samples, -1).T
    chosen = jax.tree.map(lambda x: np.asarray(x)[places], draws)  # JAX compiles for each shape
    return chosen, np.prod(probability[places], axis=1)


def coordinates(natural: Natural) -> tuple[int, ...]:
    """The shape of the coordinates of a draw of a discrete family."""
    is_choice = natural.family in (CATEGORICAL, ONE_HOT)
    return natural.values.shape[:-1] if is_choice else natural.values.shape


def coordinates_of(natural: Natural) -> tuple[int, ...]:
    """The shape of the coordinates of a draw of any family."""
    return natural.values[0].shape if natural.family == NORMAL else coordinates(natural)


def half_line(density: Callable[[np.ndarray], np.ndarray], order: int) -> tuple[Any, Any]:
    """Gauss nodes for a density on (0, ∞), from its moments' Jacobi matrix by fine quadrature."""
    u, weight = np.polynomial.legendre.leggauss(20)
    grid = np.concatenate([low + 1 + u for low in np.arange(0, 40, 2)])
    mass = np.tile(weight, 20) * density(grid)
    mass = mass / mass.sum()
    before, now = np.zeros_like(grid), np.ones_like(grid)
    alpha, beta = [], []
    for _ in range(order):
        size = mass @ now**2
        alpha.append(mass @ (grid * now**2) / size)
        after = (grid - alpha[-1]) * now - (beta[-1] if beta else 0) * before
        beta.append(mass @ after**2 / size)
        before, now = now, after
    off = np.sqrt(beta[:-1])
    nodes, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(off, 1) + np.diag(off, -1))
    return nodes, vectors[0] ** 2
