"""Diagnostics against NumPy, and the laws of merging."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jaxtyping import config

from pgjax import diagnostics

pytestmark = pytest.mark.usefixtures("strict")


def samples(seed: int, count: int) -> dict:
    random = np.random.default_rng(seed)
    tree = {"b": random.normal(3.0, 2.0, size=(count,)), "w": random.normal(size=(count, 2, 3))}
    return jax.tree.map(jnp.asarray, tree)


def flat(tree: dict) -> np.ndarray:
    return np.concatenate([np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(tree)], axis=1)


def test_moments_are_numpys() -> None:
    tree = samples(0, 50)
    moments = diagnostics.running_moments(tree)
    rows = flat(tree)
    assert moments.num_samples == 50
    np.testing.assert_allclose(ravel_pytree(moments.mean)[0], rows.mean(0), rtol=1e-13)
    variance = diagnostics.variance(moments)
    np.testing.assert_allclose(ravel_pytree(variance)[0], rows.var(0, ddof=1), rtol=1e-13)
    total = rows.var(0, ddof=1).sum()
    np.testing.assert_allclose(diagnostics.total_variance(moments), total, rtol=1e-13)
    error = ravel_pytree(diagnostics.standard_error(moments))[0]
    np.testing.assert_allclose(error, np.sqrt(rows.var(0, ddof=1) / 50), rtol=1e-13)
    ratio = np.sum(rows.mean(0) ** 2) / total
    np.testing.assert_allclose(diagnostics.signal_to_noise(moments), ratio, rtol=1e-13)
    np.testing.assert_allclose(diagnostics.covariance(tree), np.cov(rows.T), rtol=1e-12, atol=1e-14)


@hypothesis.given(cut=st.integers(1, 19))
@hypothesis.settings(deadline=None, max_examples=10)
def test_merging_two_streams_equals_all_samples_at_once_in_either_order(cut: int) -> None:
    tree = samples(1, 20)
    whole = diagnostics.running_moments(tree)
    one = diagnostics.running_moments(jax.tree.map(lambda x: x[:cut], tree))
    other = diagnostics.running_moments(jax.tree.map(lambda x: x[cut:], tree))
    for merged in (diagnostics.merge(one, other), diagnostics.merge(other, one)):
        for x, y in zip(jax.tree.leaves(merged), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-13, atol=1e-13)


def test_squares_do_not_cancel_far_from_zero() -> None:
    tree = jnp.asarray(1e8 + np.array([[1.0], [2.0], [3.0]]))
    moments = diagnostics.running_moments(tree)
    np.testing.assert_array_equal(diagnostics.variance(moments), [1.0])


def test_the_variance_of_one_sample_is_not_a_number() -> None:
    moments = diagnostics.running_moments(samples(2, 1))
    assert np.all(np.isnan(ravel_pytree(diagnostics.variance(moments))[0]))


def test_bias_is_the_mean_less_the_truth() -> None:
    tree = samples(3, 8)
    moments = diagnostics.running_moments(tree)
    off = diagnostics.bias(moments, jax.tree.map(lambda x: x - 0.5, moments.mean))
    np.testing.assert_allclose(ravel_pytree(off)[0], np.full(7, 0.5), rtol=1e-13)


def test_cosine_is_that_of_the_angle_and_zero_for_a_zero_vector() -> None:
    x, y = jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0])
    np.testing.assert_allclose(diagnostics.cosine(x, y), np.sqrt(0.5), rtol=1e-15)
    np.testing.assert_allclose(diagnostics.cosine(x, -3.0 * x), -1.0, rtol=1e-15)
    assert diagnostics.cosine(x, jnp.zeros(2)) == 0
    np.testing.assert_allclose(diagnostics.norm({"a": x, "b": y}), np.sqrt(3.0), rtol=1e-15)
    assert diagnostics.dot({"a": x, "b": y}, {"a": y, "b": y}) == 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "at least one leaf"),
        ({"x": jnp.zeros((0, 2))}, "N >= 1"),
        ({"x": jnp.zeros((2, 2)), "y": jnp.zeros((3, 2))}, "one N"),
        ({"x": jnp.zeros(())}, r"\[N, ...\]"),
    ],
)
def test_what_are_no_samples_is_refused(bad: dict, message: str) -> None:
    config.update("jaxtyping_disable", True)  # the annotation would speak first
    try:
        with pytest.raises(ValueError, match=message):
            diagnostics.running_moments(bad)
    finally:
        config.update("jaxtyping_disable", False)


def test_a_covariance_needs_two_samples() -> None:
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        diagnostics.covariance(samples(4, 1))
