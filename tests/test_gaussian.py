"""Gaussian policies: densities, their scores by quadrature, bounds, and what samples carry."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis.extra import numpy as arrays

from pgjax import policies

pytestmark = pytest.mark.usefixtures("strict")

D = 3
SEEN = jnp.zeros(1)
PARAMS = {"mean": np.array([0.3, -1.2, 2.0]), "log_std": np.array([-0.7, 0.4, 0.1])}
plain = policies.gaussian_policy(
    lambda key, s: jax.tree.map(jnp.zeros_like, PARAMS), lambda p, s: (p["mean"], p["log_std"])
)
log_prob = jax.jit(plain.log_prob)
numbers = arrays.arrays(np.float64, D, elements=st.floats(-5, 5, width=64))


@hypothesis.given(numbers, numbers, numbers)
@hypothesis.settings(deadline=None)
def test_the_log_probability_is_the_sum_of_scipys(
    mean: np.ndarray, log_std: np.ndarray, action: np.ndarray
) -> None:
    found = log_prob({"mean": mean, "log_std": log_std}, SEEN, jnp.asarray(action))
    expected = scipy.stats.norm.logpdf(action, mean, np.exp(log_std)).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-12)


def test_the_entropy_is_scipys() -> None:
    found = plain.entropy(PARAMS, SEEN)
    expected = scipy.stats.norm.entropy(PARAMS["mean"], np.exp(PARAMS["log_std"])).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def one(mean: Any, log_std: Any) -> dict[str, np.ndarray]:
    return {"mean": np.array([mean]), "log_std": np.array([log_std])}


def test_a_density_has_mass_one_and_its_score_has_mean_zero() -> None:
    params = one(0.4, -0.3)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    half = 10 * np.exp(-0.3)
    action, weight = jnp.asarray(0.4 + half * nodes), half * weights
    values = jax.vmap(lambda a: plain.log_prob(params, SEEN, a[None]))(action)
    scores = jax.vmap(lambda a: jax.grad(plain.log_prob)(params, SEEN, a[None]))(action)
    density = np.exp(values) * weight
    np.testing.assert_allclose(density.sum(), 1, rtol=0, atol=1e-13)
    for score in jax.tree.leaves(scores):
        np.testing.assert_allclose(density @ score[:, 0], 0, rtol=0, atol=1e-13)
        assert density @ np.abs(score[:, 0]) > 0.5


def test_a_sample_carries_the_log_probability_that_scoring_it_gives() -> None:
    keys = jax.random.split(jax.random.key(0), 100)
    actions, found = jax.vmap(plain.sample, (None, 0, None))(PARAMS, keys, SEEN)
    again = jax.vmap(plain.log_prob, (None, None, 0))(PARAMS, SEEN, actions)
    np.testing.assert_array_equal(found, again)


def test_samples_are_from_the_density() -> None:
    # α = 1e-6. Power: a mean off by 0.1 σ shifts the statistic's D by 0.04, of which 2^14 draws
    # reject 0.02.
    keys = jax.random.split(jax.random.key(1), 2**14)
    actions = np.asarray(jax.vmap(plain.sample, (None, 0, None))(PARAMS, keys, SEEN)[0])
    for d in range(D):
        mean, std = PARAMS["mean"][d], np.exp(PARAMS["log_std"][d])
        assert scipy.stats.kstest(actions[:, d], "norm", (mean, std)).pvalue > 1e-6
        assert scipy.stats.kstest(actions[:, d], "norm", (mean + 0.1 * std, std)).pvalue < 1e-6


def test_a_sample_moves_with_the_mean_and_with_sigma_by_its_noise() -> None:
    key = jax.random.key(2)
    slopes = jax.jacobian(lambda p: plain.sample(p, key, SEEN)[0])(PARAMS)
    action = plain.sample(PARAMS, key, SEEN)[0]
    np.testing.assert_allclose(slopes["mean"], np.eye(D), rtol=0, atol=1e-15)
    np.testing.assert_allclose(slopes["log_std"], np.diag(action - PARAMS["mean"]), atol=1e-14)
