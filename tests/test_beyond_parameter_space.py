"""Searches in parameter space, held to Gaussian integrals by quadrature."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import pgjax
from pgjax import beyond, tabular

pytestmark = pytest.mark.usefixtures("strict")

EXACT = 1e-10
THETA = np.array([0.4, -0.3])
KEY = jax.random.key(2)


def objective(theta: Any, key: Any) -> Any:
    """J of two coins, worth 1 with probability 0.3 and 0.6, under a softmax."""
    return jnp.dot(jax.nn.softmax(theta), jnp.array([0.3, 0.6]))


def quadrature(dimensions: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """[n, D] and [n]: Gauss–Hermite nodes and weights of standard normals."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.array(list(itertools.product(points, repeat=dimensions)))
    chance = np.prod(list(itertools.product(weights, repeat=dimensions)), axis=1)
    return grid, chance / chance.sum()


GRID, CHANCE = quadrature(2, 24)


def smoothed(theta: Any, std: Any) -> Any:
    """E J(θ + σε)."""
    std = jnp.broadcast_to(jnp.asarray(std), theta.shape)
    return jnp.asarray(CHANCE) @ jax.vmap(lambda e: objective(theta + std * e, None))(GRID)


smoothed_gradient = jax.jit(jax.grad(smoothed))


@jax.jit
def expectation(scale: Any) -> Any:
    pair = partial(beyond.mirrored_contrast, objective, THETA, key=None, scale=scale)
    return jnp.asarray(CHANCE) @ jax.vmap(lambda e: pair(e))(GRID)


def test_mirrored_pairs_have_the_smoothed_objective_s_gradient_as_their_mean() -> None:
    found = {scale: np.asarray(expectation(scale)) for scale in (0.1, 0.5, 1.0)}
    for scale, mean in found.items():
        np.testing.assert_allclose(mean, smoothed_gradient(THETA, scale), rtol=0, atol=EXACT)
    assert np.abs(found[1.0] - found[0.1]).max() > 1e-3


def test_the_bias_for_the_gradient_itself_is_of_second_order_with_its_known_constant() -> None:
    def laplacian(theta: Any) -> Any:
        return jnp.trace(jax.hessian(objective)(theta, None))

    @jax.jit
    def derivatives(theta: Any) -> Any:
        return jax.grad(objective)(theta, None), jax.grad(laplacian)(theta) / 2

    truth, leading = jax.device_get(derivatives(THETA))
    biases = {scale: np.asarray(expectation(scale)) - truth for scale in (0.2, 0.1, 0.05)}
    for scale in (0.2, 0.1):
        ratio = np.linalg.norm(biases[scale]) / np.linalg.norm(biases[scale / 2])
        assert ratio == pytest.approx(4, rel=0.02)
    np.testing.assert_allclose(biases[0.05] / 0.05**2, leading, rtol=0.01)


def test_pgpe_has_the_gradient_of_the_search_distribution_as_its_mean() -> None:
    start = beyond.SearchDistribution(THETA, np.array([-1.2, -0.7]))
    grid, chance = quadrature(4, 12)  # two pairs, two parameters each

    @jax.jit
    def moments(start: Any) -> Any:
        def batch(noise: Any) -> Any:
            pairs = noise.reshape(2, 2)
            return beyond.symmetric_contrasts(objective, start, pairs, np.zeros(2))

        truth = jax.grad(lambda d: smoothed(d.mean, jnp.exp(d.log_std)))(start)
        # A return that never changes says nothing: each pair's baseline is the other pairs' mean.
        constant = beyond.symmetric_contrasts(
            lambda x, key: jnp.ones(()), start, grid[:8, :2], np.zeros(8)
        )
        found = jax.tree.map(lambda x: jnp.asarray(chance) @ x, jax.vmap(batch)(grid))
        return truth, found, constant

    truth, found, constant = moments(start)
    np.testing.assert_allclose(found.mean, truth.mean, rtol=0, atol=EXACT)
    np.testing.assert_allclose(found.log_std, truth.log_std, rtol=0, atol=EXACT)
    assert np.linalg.norm(truth.log_std) > 1e-3
    np.testing.assert_allclose(constant.log_std, 0, atol=1e-15)


def test_luck_that_a_pair_shares_cancels() -> None:
    def lucky(x: Any, key: Any) -> Any:
        return 3 * x[0] - x[1] + 100 * jax.random.normal(key, (), x.dtype)

    contrast = jax.jit(partial(beyond.mirrored_contrast, lucky, scale=0.1))
    found = contrast(THETA, np.array([1.0, 2.0]), KEY)
    np.testing.assert_allclose(found, [1, 2], rtol=0, atol=1e-10)  # (3·1 − 2) ε


def test_pytrees_keep_their_shape_and_precision() -> None:
    params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3, jnp.float32)}

    def total(params: Any, key: Any) -> Any:
        return jnp.sum(params["w"]) + jnp.sum(params["b"]).astype(jnp.float64)

    with jax.numpy_dtype_promotion("standard"):  # to flatten two precisions
        found = beyond.evolution_strategies(total, params, KEY, scale=0.1, num_pairs=4)
        start = beyond.SearchDistribution(params, params)
        gradient = beyond.pgpe(total, start, KEY, num_pairs=4)
    for tree in (found, gradient.mean, gradient.log_std):
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), tree)
        assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), params)


def test_on_sampled_episodes_the_means_are_those_of_the_smoothed_gradient() -> None:
    """Bonferroni over four coordinates at a false-alarm rate of 1e-6.

    Detectable with 99%: a fifth of each gradient's length. The unsmoothed gradient is farther off
    than that, and must be told apart.
    """
    policy = pgjax.tabular_softmax(3, 2)
    mdp, scale, count = tabular.two_armed_bandit(), 2.0, 60_000
    of_table = beyond.seeded_return(policy, mdp, num_steps=1, discount=1.0)

    @jax.jit
    def sampled(theta: Any, key: Any) -> Any:
        return of_table(jnp.zeros((3, 2)).at[0].set(theta), key)

    start = beyond.SearchDistribution(THETA, np.full(2, np.log(scale)))
    one = partial(beyond.evolution_strategies, sampled, THETA, scale=scale, num_pairs=1)
    two = partial(beyond.pgpe, sampled, start, num_pairs=2)

    @jax.jit
    def estimates() -> Any:
        keys = jax.random.split(KEY, count)
        return jax.vmap(one)(keys), jax.vmap(two)(keys).mean

    found = jax.device_get(estimates())
    truth = np.asarray(smoothed_gradient(THETA, scale))
    unsmoothed = np.asarray(smoothed_gradient(THETA, 1e-6))
    threshold = stats.norm.isf(1e-6 / 8)
    for samples in found:
        error = samples.std(0, ddof=1) / np.sqrt(count)
        assert np.all(np.abs(samples.mean(0) - truth) < threshold * error)
        assert np.any(np.abs(samples.mean(0) - unsmoothed) > threshold * error)
        detectable = (threshold + stats.norm.isf(0.01)) * error
        assert np.all(detectable < 0.2 * np.linalg.norm(truth))


def test_bad_input_is_named() -> None:
    start = beyond.SearchDistribution(jnp.zeros(2), jnp.zeros(2))
    search = partial(beyond.evolution_strategies, objective, THETA, KEY)
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        search(scale=0, num_pairs=1)
    with pytest.raises(ValueError, match="num_pairs must be at least 1"):
        search(scale=0.1, num_pairs=0)
    with pytest.raises(ValueError, match="num_pairs must be at least 2, got 1: the baseline"):
        beyond.pgpe(objective, start, KEY, num_pairs=1)
    with pytest.raises(TypeError, match="must be floating"):
        beyond.evolution_strategies(objective, np.array([1, 2]), KEY, scale=0.1, num_pairs=1)
