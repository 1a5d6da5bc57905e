"""A test that the trajectories of a batch are independent of each other."""

from typing import NamedTuple

import numpy as np

from pgjax.core.validation import check_array, check_between, check_kind
from pgjax.diagnostics import tails
from pgjax.types import Trajectory


class IndependenceTest(NamedTuple):
    """Whether the trajectories of one batch are independent of each other.

    Attributes:
        passed: no sign of dependence at the stated rate.
        variance_ratio: N Var[batch mean] / Var[single]; 1 if they are independent, N if all use
            the same key.
        p_value: of the worst of return, length and log-probability, with Bonferroni.
    """

    passed: bool
    variance_ratio: float
    p_value: float


def independence_test(batches: Trajectory, *, alpha: float = 1e-6) -> IndependenceTest:
    """Test that the trajectories of a batch share no randomness, which their mean does not show.

    One key broadcast over a batch leaves every estimate unbiased, with N times the variance. For
    independent y_i of mean zero E[Σ_{i≠j} y_i y_j] = 0, batch by batch: a t test over batches.

    Args:
        batches: [B, N, T], B independent batches of N ≥ 2.
        alpha: the rate of false alarms.

    Returns:
        IndependenceTest.

    Raises:
        ValueError: if there are fewer than 32 batches, or batches of one.

    Bias: the t test is asymptotic in B. Power: total dependence gives the statistic its largest
        possible mean, and is found with certainty at B = 256.
    """
    check_between("alpha", alpha, 0, 1)
    check_kind("batches", batches, Trajectory, "jax.vmap of a rollout gives them, [B, N, T]")
    shape = np.shape(batches.reward)
    if len(shape) != 3:
        raise ValueError(f"batches.reward must have shape [B, N, T], got {shape}")
    for field in ("mask", "reward", "log_prob"):
        check_array(f"batches.{field}", getattr(batches, field), "[B, N, T]", shape)
    B, N, _ = shape
    if B < 32 or N < 2:
        raise ValueError(
            "batches must hold at least 32 batches of at least 2 trajectories, got "
            f"{B} batches of {N}"
        )
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
    t = np.abs(pairs.mean(axis=1)) / error
    p_values = 2 * np.array([tails.t_tail(each, B - 1) for each in t])
    ratio = 1 + pairs.mean(axis=1) / (N * (centered**2).mean(axis=(1, 2)))
    worst = int(np.argmin(p_values))
    p_value = float(min(1.0, p_values[worst] * len(p_values)))
    return IndependenceTest(p_value >= alpha, float(ratio[worst]), p_value)
