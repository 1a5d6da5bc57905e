"""Tail probabilities and quantiles of the usual distributions.

scipy.stats has them too, but its import takes most of a second. These use scipy.special.
"""

import scipy


def normal_quantile(tail: float) -> float:
    """The z that a standard normal variable exceeds with this probability."""
    return float(-scipy.special.ndtri(tail))


def t_tail(x: float, degrees: int | float) -> float:
    """The probability that Student's t exceeds x."""
    return float(scipy.special.stdtr(degrees, -x))


def t_quantile(tail: float, degrees: int | float) -> float:
    """The x that Student's t exceeds with this probability."""
    return float(-scipy.special.stdtrit(degrees, tail))


def f_tail(x: float, degrees: int | float, of_error: int | float) -> float:
    """The probability that F(degrees, of_error) exceeds x."""
    return float(scipy.special.fdtrc(degrees, of_error, x))


def f_quantile(tail: float, degrees: int | float, of_error: int | float) -> float:
    """The x that F(degrees, of_error) exceeds with this probability.

    It is found from the tail: one minus a small probability would lose its digits.
    """
    share = scipy.special.betaincinv(of_error / 2, degrees / 2, tail)
    rest = scipy.special.betainccinv(degrees / 2, of_error / 2, tail)
    return float(of_error * rest / (degrees * share))


def chi_squared_tail(x: float, degrees: int | float) -> float:
    """The probability that χ² exceeds x."""
    return float(scipy.special.chdtrc(degrees, x))
