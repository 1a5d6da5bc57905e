"""Judge: how large a bias is refused, at which rates of error, and how much work may be spent."""

from pgjax.records import record, static


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
        up_to_scale: whether E[ĝ] = c ∇J with c > 0 is accepted; of an exact expectation only, since
            a sampled proof knows no scale.

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
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must lie in (0, 1), got {self.alpha}")


DEFAULT_JUDGE = Judge()
"""Tolerance 1e-10; margin 2 % at rates of error of one in a million."""
