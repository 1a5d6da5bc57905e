"""A test that sampled trajectories follow the exact law P(τ)."""

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from pgjax import enumeration
from pgjax.exact.problem import Problem
from pgjax.types import Trajectory


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
        batch: [N, T], N independent trajectories of the policy that acts, T the horizon.
        problem: small enough to enumerate.
        alpha: the rate of false alarms.

    Returns:
        LawTest. Trajectories that look alike are counted together.

    Raises:
        ValueError: if there are too many trajectories to enumerate, or T is not the horizon.

    Bias: asymptotic; every cell expects at least five.

    References:
        Pearson (1900).
    """
    known, probability = enumeration.trajectories(problem)
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
