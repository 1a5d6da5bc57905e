"""Judge: which bias is accepted, at which rates of error, and how much work may be spent."""

from typing import Any

from pgjax.core.validation import (
    check_above_zero,
    check_between,
    check_counts,
    check_kind,
    check_scalars,
)
from pgjax.records import record, static
from pgjax.types import describe


@record
class Judge:
    """The settings of `assert_unbiased` and `assert_converges`.

    Attributes:
        tolerance: the largest relative bias accepted of an exact expectation; 1e-10 suits float64
            code, 1e-5 code that computes in float32.
        margin: the largest relative bias that a sampled proof may miss.
        alpha: of a sampled proof, the rate of false alarms, and the rate of false passes.
        max_samples: the largest number of batches that a sampled proof draws.
        limit: the largest number of batches that are enumerated; beyond it, they are sampled.
        up_to_scale: whether E[ĝ] = c ∇J with c > 0 is accepted. This holds for exact expectations
            only, because the sampled test does not estimate c.

    Raises:
        ValueError: if `tolerance` or `margin` is not positive, or `alpha` is outside (0, 1).

    Example:
        >>> import pgjax
        >>> pgjax.assert_unbiased(
        ...     lambda problem: pgjax.reward_to_go(problem.mdp.discount),
        ...     pgjax.suite.problems()[0], judge=Judge(tolerance=1e-12)).passed
        True
    """

    tolerance: float = 1e-10
    margin: float = 0.02
    alpha: float = 1e-6
    max_samples: int = static(default=2**22)
    limit: int = static(default=500_000)
    up_to_scale: bool = static(default=False)

    def __post_init__(self) -> None:
        for name in ("tolerance", "margin"):
            value = getattr(self, name)
            check_scalars(**{name: value})
            check_above_zero(name, value, "it is a share of the truth")
        check_between("alpha", self.alpha, 0, 1)
        check_counts(max_samples=self.max_samples, limit=self.limit)
        if not isinstance(self.up_to_scale, bool):
            raise TypeError(f"up_to_scale must be a boolean, got {describe(self.up_to_scale)}")


def check_judge(judge: Any) -> None:
    """Raise a TypeError if it is no Judge."""
    check_kind("judge", judge, Judge, "pgjax.Judge(margin=0.05) is one")


DEFAULT_JUDGE = Judge()
"""Tolerance 1e-10; margin 2% at rates of error of one in a million."""
