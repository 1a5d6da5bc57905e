"""Gaussian policies: densities, their scores by quadrature, bounds, and what samples carry."""

from functools import partial
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis.extra import numpy as arrays

from pgjax import Policy, policies

pytestmark = pytest.mark.usefixtures("strict")

D = 3
SEEN = np.zeros(1)
PARAMS = {"mean": np.array([0.3, -1.2, 2.0]), "log_std": np.array([-0.7, 0.4, 0.1])}
plain = policies.gaussian_policy(
    lambda key, s: jax.tree.map(jnp.zeros_like, PARAMS), lambda p, s: (p["mean"], p["log_std"])
)


def parameters(params: Any, seen: Any) -> tuple[Any, Any]:
    return params["mean"], params["log_std"]


@jax.jit
def score_all(policy: Policy, params: Any, actions: Any) -> Any:
    return jax.vmap(policy.log_prob, (None, None, 0))(params, SEEN, actions)


log_prob = jax.jit(plain.log_prob)
sample_all = jax.jit(jax.vmap(plain.sample, (None, 0, None)))
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
    found = jax.jit(plain.entropy)(PARAMS, SEEN)
    expected = scipy.stats.norm.entropy(PARAMS["mean"], np.exp(PARAMS["log_std"])).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def one(mean: Any, log_std: Any) -> dict[str, np.ndarray]:
    return {"mean": np.array([mean]), "log_std": np.array([log_std])}


@partial(jax.jit, static_argnums=0)
def values_and_scores(policy: Any, params: Any, actions: Any) -> Any:
    one_score = jax.value_and_grad(policy.log_prob)
    return jax.vmap(lambda a: one_score(params, SEEN, a[None]))(actions)


def scored(policy: Any, params: Any, actions: Any) -> tuple[np.ndarray, np.ndarray]:
    """Densities, and scores [2, n] by mean and log σ."""
    values, scores = jax.device_get(values_and_scores(policy, params, actions))
    return np.exp(values), np.stack([scores["mean"][:, 0], scores["log_std"][:, 0]])


def test_a_density_has_mass_one_and_its_score_has_mean_zero() -> None:
    params = one(0.4, -0.3)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    half = 10 * np.exp(-0.3)
    action, weight = 0.4 + half * nodes, half * weights
    density, scores = scored(plain, params, action)
    np.testing.assert_allclose(density @ weight, 1, rtol=0, atol=1e-13)
    np.testing.assert_allclose(scores @ (density * weight), 0, rtol=0, atol=1e-13)
    assert np.all(np.abs(scores) @ (density * weight) > 0.5)


def test_a_sample_carries_the_log_probability_that_scoring_it_gives() -> None:
    keys = jax.random.split(jax.random.key(0), 2**14)
    actions, found = sample_all(PARAMS, keys, SEEN)
    again = score_all(plain, PARAMS, actions)
    np.testing.assert_allclose(found, again, rtol=1e-14, atol=1e-14)


def test_samples_are_from_the_density() -> None:
    # α = 1e-6. Power: a mean off by 0.1 σ shifts the statistic's D by 0.04, of which 2^14 draws
    # reject 0.02.
    keys = jax.random.split(jax.random.key(1), 2**14)
    actions = np.asarray(sample_all(PARAMS, keys, SEEN)[0])
    for d in range(D):
        mean, std = PARAMS["mean"][d], np.exp(PARAMS["log_std"][d])
        assert scipy.stats.kstest(actions[:, d], "norm", (mean, std)).pvalue > 1e-6
        assert scipy.stats.kstest(actions[:, d], "norm", (mean + 0.1 * std, std)).pvalue < 1e-6


def test_a_sample_moves_with_the_mean_and_with_sigma_by_its_noise() -> None:
    key = jax.random.key(2)

    def sample(params: Any) -> tuple[Any, Any]:
        action, _ = plain.sample(params, key, SEEN)
        return action, action

    slopes, action = jax.jit(jax.jacobian(sample, has_aux=True))(PARAMS)
    np.testing.assert_allclose(slopes["mean"], np.eye(D), rtol=0, atol=1e-15)
    np.testing.assert_allclose(
        slopes["log_std"], np.diag(np.asarray(action) - PARAMS["mean"]), atol=1e-14
    )


# Squashed to (low, high).

LOW, HIGH = np.array([-2.0, 0.0, 1e3]), np.array([1.0, 5.0, 1e3 + 1])
squashed = policies.squashed_gaussian_policy(
    plain.init, lambda p, s: (p["mean"], p["log_std"]), low=LOW, high=HIGH
)
squashed_log_prob = jax.jit(squashed.log_prob)
single = policies.squashed_gaussian_policy(
    plain.init, lambda p, s: (p["mean"], p["log_std"]), low=-2.0, high=1.0
)
raw = policies.gaussian_policy(plain.init, lambda p, s: (p["mean"], p["log_std"]))


def to_raw(action: np.ndarray, low: Any = LOW, high: Any = HIGH) -> np.ndarray:
    return np.arctanh((2 * action - low - high) / (high - low))


@hypothesis.given(arrays.arrays(np.float64, D, elements=st.floats(-4, 4, width=64)))
@hypothesis.settings(deadline=None)
def test_the_squashed_log_probability_is_scipys_with_the_slope_of_the_squashing(
    u: np.ndarray,
) -> None:
    half = (HIGH - LOW) / 2
    action = (HIGH + LOW) / 2 + half * np.tanh(u)
    found = squashed_log_prob(PARAMS, SEEN, jnp.asarray(action))
    density = scipy.stats.norm.logpdf(u, PARAMS["mean"], np.exp(PARAMS["log_std"]))
    expected = np.sum(density - np.log(half) - np.log(1 - np.tanh(u) ** 2))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # tanh and its inverse: 1e-13/ε


def quadrature() -> tuple[Any, np.ndarray]:
    """Actions in (−2, 1) and weights: Gauss–Legendre, exact where the density is smooth."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    return -0.5 + 1.5 * nodes, 1.5 * weights


def test_a_squashed_density_has_mass_one_and_its_score_has_mean_zero() -> None:
    params = one(0.4, -0.7)
    actions, weights = quadrature()
    density, score = scored(single, params, actions)
    np.testing.assert_allclose(density @ weights, 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(score @ (density * weights), 0, rtol=0, atol=1e-12)


def test_the_raw_log_probability_of_a_squashed_action_is_caught() -> None:
    """The negative control, and what it does: ratios of a policy to itself that are not one."""
    params = one(0.4, -0.7)
    actions, weights = quadrature()
    u = to_raw(actions, -2.0, 1.0)
    density, score = scored(single, params, actions)
    of_raw, _ = scored(raw, params, u)
    assert abs(of_raw @ weights - 1) > 0.1
    ratio = density / of_raw
    assert np.max(np.abs(ratio - 1)) > 0.5
    reward = np.sin(3 * actions)
    truth = score @ (density * weights * reward)
    assert np.all(np.abs(score @ (density * weights * ratio * reward) - truth) > 0.01)
    # And scored as if the squashed action were the raw one, the score's mean is not zero.
    _, wrong = scored(raw, params, actions)
    assert np.all(np.abs(wrong @ (density * weights)) > 0.1)


BOUNDS = (-2.0, 1.0), (0.0, 1e-3), (-7.0, 0.0), (1e3, 1e3 + 1)
BOUNDED = [
    policies.squashed_gaussian_policy(plain.init, parameters, low=low, high=high)
    for low, high in BOUNDS
]


@jax.jit
def sample_500(params: Any) -> Any:
    """Of each bounded policy."""
    keys = jax.random.split(jax.random.key(3), 500)
    return [jax.vmap(each.sample, (None, 0, None))(params, keys, SEEN) for each in BOUNDED]


@jax.jit
def score_each(params: Any, actions: list[Any]) -> Any:
    return [score_all(each, params, x) for each, x in zip(BOUNDED, actions, strict=True)]


@pytest.mark.parametrize("mean", [0.0, -6.0, 8.0, 30.0, -200.0])
def test_in_float32_a_stored_action_is_scored_as_it_was_sampled_even_at_the_bounds(
    mean: float,
) -> None:
    params = jax.tree.map(np.float32, one(mean, 0.5))
    sampled = jax.device_get(sample_500(params))
    scored_again = jax.device_get(score_each(params, [actions for actions, _ in sampled]))
    for (low, high), (actions, found), again in zip(BOUNDS, sampled, scored_again, strict=True):
        assert actions.dtype == np.float32
        assert np.all((actions > np.float32(low)) & (actions < np.float32(high)))
        assert np.all(np.isfinite(found))
        # Two programs, and so a few units in the last place of the largest term: 8 · 2^−24.
        np.testing.assert_allclose(found, again, rtol=5e-7, atol=5e-6)


def test_a_sample_and_its_log_probability_move_as_the_raw_one_even_at_the_bounds() -> None:
    key = jax.random.key(4)

    def by_hand(p: Any) -> Any:
        z = jax.random.normal(key, (1,), jnp.float64)
        u = p["mean"] + jnp.exp(p["log_std"]) * z
        density = -z * z / 2 - p["log_std"] - 2 * (jnp.log(2.0) - u - jax.nn.softplus(-2 * u))
        return -0.5 + 1.5 * jnp.tanh(u), jnp.sum(density)

    @jax.jit
    def slopes(params: Any) -> Any:
        sample = jax.jacobian(lambda p: single.sample(p, key, SEEN))
        return sample(params), jax.jacobian(by_hand)(params)

    for mean in (0.2, 30.0):
        found, expected = jax.device_get(slopes(one(mean, -0.5)))
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14)
    assert abs(found[1]["mean"][0] - 2) < 1e-6  # d/dμ of −log(1 − tanh²): the way out of saturation


@pytest.mark.parametrize(("std", "tolerance"), [(0.1, 1e-9), (1.0, 1e-9), (2.0, 1e-5), (3.0, 1e-3)])
def test_the_squashed_entropy_has_the_stated_accuracy(std: float, tolerance: float) -> None:
    z = np.linspace(-10, 10, 200_001)
    weight = np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    entropy = jax.jit(single.entropy)
    for mean in (0.0, 0.7, -1.1, 6.0):
        u = mean + std * z
        slope = np.log(1.5) + 2 * (np.log(2) - u - np.logaddexp(0, -2 * u))
        expected = np.log(std) + 0.5 * np.log(2 * np.pi * np.e) + weight @ slope
        found = entropy(one(mean, np.log(std)), SEEN)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
