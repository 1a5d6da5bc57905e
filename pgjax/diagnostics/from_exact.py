"""Signal to noise, mean squared error and the number of estimates needed, from exact moments.

`moments` are those of a single estimate ĝ, with covariance Σ, from `exact` or `enumeration`.
`truth` is [P], flattened as they are. A ValueError is raised if its length differs. All results are
exact.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from pgjax.core.validation import (
    check_above_zero,
    check_kind,
    check_positive,
    check_real,
    check_scalars,
)
from pgjax.types import Moments, Spread


def exact_signal_to_noise(moments: Moments | Spread) -> float:
    """Exact signal to noise ‖E ĝ‖² / tr Σ of a single estimate; N times it for the mean of N.

    It is infinite for an estimate without variance.

    References:
        Roberts & Tedrake (2009).

    Example:
        >>> import numpy as np
        >>> exact_signal_to_noise(Spread(np.array([3.0, 4.0]), np.array([10.0, 15.0])))
        1.0
    """
    _check_moments(moments)
    signal, noise = float(np.sum(np.square(moments.mean))), float(moments.total_variance)
    return signal / noise if noise > 0 else np.inf


def exact_noise_scale(moments: Moments | Spread) -> float:
    """Exact gradient noise scale tr Σ / ‖E ĝ‖²: the N at which signal and noise are equal.

    It is infinite if the expectation is zero.

    References:
        McCandlish et al., An Empirical Model of Large-Batch Training (2018), eq. 2.9.

    Example:
        >>> import numpy as np
        >>> exact_noise_scale(Spread(np.array([3.0, 4.0]), np.array([10.0, 15.0])))
        1.0
    """
    _check_moments(moments)
    signal, noise = float(np.sum(np.square(moments.mean))), float(moments.total_variance)
    return noise / signal if signal > 0 else np.inf


def mean_squared_error(
    moments: Moments | Spread, truth: Float[np.ndarray, "P"], num_estimates: int
) -> float:
    """Exact mean squared error of the mean of N independent estimates, bias² + tr Σ / N.

    Args:
        truth: [P], such as ∇J.
        num_estimates: N.

    Raises:
        ValueError: if N is below one.

    Example:
        >>> import numpy as np
        >>> found = Spread(np.array([1.0, 0.0]), np.array([2.0, 2.0]))
        >>> mean_squared_error(found, np.array([1.0, 1.0]), 8)
        1.5
    """
    _check_moments(moments)
    check_positive("num_estimates", num_estimates)
    squared_bias = _squared_bias(moments, truth)
    return squared_bias + float(moments.total_variance) / num_estimates


def estimates_needed(
    moments: Moments | Spread, truth: Float[np.ndarray, "P"], relative_error: float
) -> float:
    """The smallest N whose mean has a root mean squared error of at most ε ‖truth‖.

    N = ⌈tr Σ / ((ε ‖truth‖)² − bias²)⌉.

    Args:
        truth: [P], such as ∇J.
        relative_error: ε > 0, a share of the norm of the truth.

    Returns:
        N, at least 1; infinite if the bias alone reaches the error.

    Raises:
        ValueError: if ε is not positive.

    Example:
        >>> import numpy as np
        >>> found = Spread(np.array([1.0, 0.0]), np.array([2.0, 2.0]))
        >>> estimates_needed(found, np.array([1.0, 0.0]), 0.5)
        16.0
    """
    _check_moments(moments)
    check_scalars(relative_error=relative_error)
    check_above_zero("relative_error", relative_error, "it is a share of the truth's norm")
    truth = np.asarray(check_real("truth", truth))
    room = (relative_error * float(np.linalg.norm(truth))) ** 2 - _squared_bias(moments, truth)
    return max(1.0, float(np.ceil(moments.total_variance / room))) if room > 0 else np.inf


def _check_moments(moments: Any) -> None:
    fix = "exact.moments(problem) gives them"
    check_kind("moments", moments, (Moments, Spread), fix)


def _squared_bias(moments: Moments | Spread, truth: np.ndarray) -> float:
    check_real("truth", truth)
    if np.shape(truth) != np.shape(moments.mean):
        raise ValueError(
            f"truth must have shape [P] = {np.shape(moments.mean)}, got {np.shape(truth)}; "
            "flatten it with jax.flatten_util.ravel_pytree"
        )
    return float(np.sum(np.square(moments.mean - truth)))
