"""Error bands: how the errors of many runs are spread, at each number of trajectories.

A stream of trajectories is cut into runs that share none: of M trajectories, M/N runs of N each,
for N = 2^3, 2^4 and so on. The root of the mean squared error over the runs is what theory
predicts, √(bias² + tr Σ / N), whatever the distribution of an estimate.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pgjax.core.validation import check_real

BLOCK = 2**3
"""The smallest N, and the number of trajectories in a block."""
FEWEST = 32
"""The fewest runs of a band; a band of fewer runs is left out."""


class Band(NamedTuple):
    """The relative errors of all runs of one N.

    Attributes:
        num_trajectories: N.
        num_runs: runs that share no trajectory.
        low: a tenth of the errors lie below it.
        root_mean_square: of the errors.
        high: a tenth of the errors lie above it.
    """

    num_trajectories: int
    num_runs: int
    low: float
    root_mean_square: float
    high: float


class Runs:
    """Errors of every run of a stream, collected block by block.

    Example:
        >>> runs = Runs(np.zeros(2), scale=1.0, num_estimators=1)
        >>> runs.add(np.full((1, 2 * FEWEST, 2), [3.0, 4.0]))
        >>> [(band.num_trajectories, band.root_mean_square) for band in runs.bands(0)]
        [(8, 5.0), (16, 5.0)]
    """

    def __init__(self, truth: Float[np.ndarray, "P"], *, scale: float, num_estimators: int):
        """An empty collection.

        Args:
            truth: ∇J, from which errors are measured.
            scale: ‖∇J‖, by which they are divided.
            num_estimators: R.
        """
        self._truth, self._scale, self._rows = truth, scale, num_estimators
        self._errors: list[list[np.ndarray]] = []  # by the power of two, then in time
        self._waiting: list[np.ndarray] = []  # by the power of two: a run without a partner

    def add(self, means: Float[np.ndarray, "R B P"]) -> None:
        """Add the mean estimates of the next B blocks of BLOCK trajectories, in order.

        Raises:
            ValueError: if they are not [R, B, P].
        """
        means = np.asarray(check_real("means", means), np.float64)
        R, P = self._rows, len(self._truth)
        if means.ndim != 3 or (means.shape[0], means.shape[2]) != (R, P):
            raise ValueError(
                f"means must have shape [R, B, P], R = {R}, P = {P}, got {means.shape}"
            )
        level = 0
        while means.shape[1]:
            if level == len(self._errors):
                self._errors.append([])
                self._waiting.append(np.zeros((self._rows, 0, len(self._truth))))
            self._errors[level].append(np.linalg.norm(means - self._truth, axis=2) / self._scale)
            means = np.concatenate([self._waiting[level], means], axis=1)
            paired = means.shape[1] // 2 * 2
            self._waiting[level] = means[:, paired:]
            means = (means[:, :paired:2] + means[:, 1:paired:2]) / 2
            level += 1

    def bands(self, row: int) -> list[Band]:
        """The bands of one estimator, for each N of which there are FEWEST runs."""
        found = []
        for level, parts in enumerate(self._errors):
            errors = np.concatenate(parts, axis=1)[row]
            if len(errors) >= FEWEST:
                low, high = np.quantile(errors, (0.1, 0.9))
                root = float(np.sqrt(np.mean(errors**2)))
                found.append(Band(BLOCK << level, len(errors), float(low), root, float(high)))
        return found
