"""Tails and quantiles are those of scipy.stats, and each quantile inverts its tail."""

import numpy as np
import pytest
from scipy import stats

from pgjax.diagnostics import tails

PROBABILITIES = (1e-12, 1e-6, 0.01, 0.3, 0.9)
DEGREES = (1, 2, 5, 40, 1e4, 1e8)


@pytest.mark.parametrize("n", DEGREES)
def test_they_are_those_of_scipy(n: float) -> None:
    for x in (0.1, 1.0, 2.5):
        np.testing.assert_allclose(tails.t_tail(x, n), stats.t.sf(x, n), rtol=1e-10)
        np.testing.assert_allclose(tails.chi_squared_tail(x * n, n), stats.chi2.sf(x * n, n))
        np.testing.assert_allclose(tails.f_tail(x, 3, n), stats.f.sf(x, 3, n), rtol=1e-10)
    for q in PROBABILITIES:
        np.testing.assert_allclose(tails.t_quantile(q, n), stats.t.isf(q, n), rtol=1e-10)
        np.testing.assert_allclose(tails.normal_quantile(q), stats.norm.isf(q), rtol=1e-12)


@pytest.mark.parametrize("n", DEGREES)
@pytest.mark.parametrize("r", [1, 3, 50])
def test_the_quantile_of_f_inverts_its_tail(r: int, n: float) -> None:
    for q in PROBABILITIES:
        x = tails.f_quantile(q, r, n)
        np.testing.assert_allclose(tails.f_tail(x, r, n), q, rtol=1e-7)
        assert abs(tails.f_tail(1.1 * x, r, n) / q - 1) > 1e-3  # the control
