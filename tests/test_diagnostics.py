"""Diagnostics against NumPy, and the laws of merging."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jaxtyping import config

from pgjax import diagnostics
from pgjax.diagnostics.intervals import LINEAR, _leaving_each_out

pytestmark = pytest.mark.usefixtures("strict")


def samples(seed: int, count: int) -> dict:
    random = np.random.default_rng(seed)
    tree = {"b": random.normal(3.0, 2.0, size=(count,)), "w": random.normal(size=(count, 2, 3))}
    return jax.device_put(tree)


def flat(tree: dict) -> np.ndarray:
    return np.concatenate([np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(tree)], axis=1)


def test_moments_are_numpys() -> None:
    tree = samples(0, 50)
    functions = (
        *(diagnostics.variance, diagnostics.total_variance),
        *(diagnostics.standard_error, diagnostics.signal_to_noise),
    )

    @jax.jit
    def found(tree: dict) -> Any:
        moments = diagnostics.running_moments(tree)
        flattened = [ravel_pytree(f(moments))[0] for f in functions]
        return moments, ravel_pytree(moments.mean)[0], flattened, diagnostics.covariance(tree)

    moments, mean, (variance, (total,), error, (ratio,)), covariance = found(tree)
    rows = flat(tree)
    assert moments.num_samples == 50
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(variance, rows.var(0, ddof=1), rtol=1e-13)
    np.testing.assert_allclose(total, rows.var(0, ddof=1).sum(), rtol=1e-13)
    np.testing.assert_allclose(error, np.sqrt(rows.var(0, ddof=1) / 50), rtol=1e-13)
    np.testing.assert_allclose(ratio, np.sum(rows.mean(0) ** 2) / total, rtol=1e-13)
    np.testing.assert_allclose(covariance, np.cov(rows.T), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("cut", [1, 8, 19])
def test_merging_two_streams_equals_all_samples_at_once_in_either_order(cut: int) -> None:
    @jax.jit
    def moments(tree: dict) -> Any:
        one, other = (
            diagnostics.running_moments(jax.tree.map(lambda x, part=part: x[part], tree))
            for part in (slice(cut), slice(cut, None))
        )
        merged = diagnostics.merge(one, other), diagnostics.merge(other, one)
        return diagnostics.running_moments(tree), merged

    whole, both = moments(samples(1, 20))
    for merged in both:
        for x, y in zip(jax.tree.leaves(merged), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-13, atol=1e-13)


def test_squares_do_not_cancel_far_from_zero() -> None:
    tree = jnp.asarray(1e8 + np.array([[1.0], [2.0], [3.0]]))
    moments = diagnostics.running_moments(tree)
    np.testing.assert_array_equal(jax.jit(diagnostics.variance)(moments), [1.0])


def test_the_variance_of_one_sample_is_not_a_number() -> None:
    moments = diagnostics.running_moments(samples(2, 1))
    variance = jax.jit(diagnostics.variance)(moments)
    assert all(np.all(np.isnan(x)) for x in jax.tree.leaves(variance))


def test_bias_is_the_mean_less_the_truth() -> None:
    tree = samples(3, 8)
    moments = diagnostics.running_moments(tree)
    truth = jax.tree.map(lambda x: np.asarray(x) - 0.5, moments.mean)
    off = jax.jit(diagnostics.bias)(moments, truth)
    for x in jax.tree.leaves(off):
        np.testing.assert_allclose(x, np.full(x.shape, 0.5), rtol=1e-13)


def test_cosine_is_that_of_the_angle_and_zero_for_a_zero_vector() -> None:
    x, y = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    cosine = jax.jit(diagnostics.cosine)
    np.testing.assert_allclose(cosine(x, y), np.sqrt(0.5), rtol=1e-15)
    np.testing.assert_allclose(cosine(x, -3.0 * x), -1.0, rtol=1e-15)
    assert cosine(x, np.zeros(2)) == 0
    norm, dot = jax.jit(diagnostics.norm), jax.jit(diagnostics.dot)
    np.testing.assert_allclose(norm({"a": x, "b": y}), np.sqrt(3.0), rtol=1e-15)
    assert np.asarray(dot({"a": x, "b": y}, {"a": y, "b": y})) == 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "at least one leaf"),
        ({"x": np.zeros((0, 2))}, "N >= 1"),
        ({"x": np.zeros((2, 2)), "y": np.zeros((3, 2))}, "the same N"),
        ({"x": np.zeros(())}, r"\[N, ...\]"),
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


# Intervals

TRUTH, DEVIATION, BATCHES = np.array([1.0, -0.5, 0.25, 0.0]), 2.0, 48
REFERENCE = np.array([1.0, 1.0, 0.0, 0.0])
EXPERIMENTS, LEVEL = 300, 0.9
FEWEST = 240
"""Were the coverage 0.9, fewer than 240 of 300 would cover with probability 5e-8 (binomial)."""


def experiments(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return TRUTH + DEVIATION * random.normal(size=(EXPERIMENTS, BATCHES, len(TRUTH)))


def covered(intervals: list, truth: Any) -> int:
    return sum(found.low <= truth <= found.high for found in intervals)


SCALE = len(TRUTH) * DEVIATION**2 / np.sum(TRUTH**2)
COSINE = TRUTH @ REFERENCE / np.linalg.norm(TRUTH) / np.linalg.norm(REFERENCE)


def test_the_noise_scale_of_a_known_normal_is_covered_at_the_level() -> None:
    found = [diagnostics.noise_scale_interval(jnp.asarray(x), level=LEVEL) for x in experiments(0)]
    assert covered(found, SCALE) >= FEWEST
    inverse = [
        diagnostics.signal_to_noise_interval(jnp.asarray(x), level=LEVEL)
        for x in experiments(0)[:5]
    ]
    for one, other in zip(found, inverse, strict=False):
        np.testing.assert_allclose([1 / other.high, 1 / other.low], [one.low, one.high])


def test_a_cosine_is_covered_at_the_level_and_the_plain_one_of_means_is_too_small() -> None:
    samples = [jnp.asarray(x) for x in experiments(1)]
    reference = jnp.asarray(REFERENCE)
    found = [diagnostics.cosine_interval(x, reference, level=LEVEL) for x in samples]
    assert covered(found, COSINE) >= FEWEST
    means = np.mean(samples, axis=1)
    plain = means @ REFERENCE / np.linalg.norm(means, axis=1) / np.linalg.norm(REFERENCE)
    debiased = np.nanmedian([one.estimate for one in found])
    assert np.median(plain) < COSINE - 0.015  # ‖mean‖² is 1.31 + 16/48 where ‖truth‖² is 1.31
    assert abs(debiased - COSINE) < 0.015


def test_the_cosine_of_two_samples_is_covered_where_shared_noise_would_be_agreement() -> None:
    first, second = experiments(2), experiments(3)
    pairs = [(jnp.asarray(x), jnp.asarray(y)) for x, y in zip(first, second, strict=True)]
    found = [diagnostics.cosine_between_interval(x, y, level=LEVEL) for x, y in pairs[:150]]
    assert covered(found, 1.0) >= FEWEST // 2
    truth = 4 * TRUTH[None, None]  # opposed, and loud enough for an interval short of all
    apart = zip(first[:20] + 3 * truth, second[:20] - 5 * truth, strict=True)
    opposed = [
        diagnostics.cosine_between_interval(jnp.asarray(x), jnp.asarray(y), level=LEVEL)
        for x, y in apart
    ]
    assert covered(opposed, 1.0) == 0


def test_no_signal_gives_the_whole_range() -> None:
    noise = jnp.asarray(np.random.default_rng(4).normal(size=(8, 50)))
    scale = diagnostics.noise_scale_interval(noise)
    assert (scale.low, scale.high) == (0.0, np.inf)
    angle = diagnostics.cosine_interval(noise, jnp.ones(50))
    assert (angle.low, angle.high) == (-1.0, 1.0)


def test_leaving_one_out_is_what_it_says() -> None:
    tree = samples(6, 5)
    left = jax.device_get(jax.jit(_leaving_each_out)(tree))
    for k in range(5):
        others = jax.tree.map(lambda x, k=k: jnp.asarray(np.delete(x, k, axis=0)), tree)
        direct = diagnostics.running_moments(others)
        here = jax.tree.map(lambda x, k=k: x[k], left)
        for x, y in zip(jax.tree.leaves(here), jax.tree.leaves(direct), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12)


def test_the_sampled_noise_scale_counts_trajectories_whatever_the_batch_size() -> None:
    # Means of batches of 4 have a quarter of the variance; the scale in trajectories stays.
    each = TRUTH + np.random.default_rng(5).normal(size=(4000, len(TRUTH)))
    means = each.reshape(1000, 4, -1).mean(1)
    one = diagnostics.noise_scale_interval(jnp.asarray(each[:400]))
    four = diagnostics.noise_scale_interval(jnp.asarray(means[:400]), batch_size=4)
    truth = len(TRUTH) / np.sum(TRUTH**2)
    assert one.low < truth < one.high
    assert four.low < truth < four.high


size = jax.jit(diagnostics.effective_sample_size)


@pytest.mark.parametrize("shift", [0.0, 800.0, -800.0])
def test_the_effective_sample_size_knows_no_scale_and_does_not_overflow(shift: float) -> None:
    log_weight = np.log([1.0, 1.0, 2.0]) + shift
    np.testing.assert_allclose(size(log_weight), 16 / 6, rtol=1e-12)
    per_step = size(np.stack([log_weight, 0 * log_weight], axis=1))
    np.testing.assert_allclose(per_step, [16 / 6, 3], rtol=1e-12)


def test_one_weight_of_many_is_worth_one_and_none_is_not_a_number() -> None:
    assert np.asarray(size(np.array([-np.inf, 3.0, -np.inf]))) == 1
    assert np.isnan(size(np.full(3, -np.inf)))
    with pytest.raises(ValueError, match="N >= 1"):
        diagnostics.effective_sample_size(jnp.asarray(np.zeros(0)))


def test_an_interval_needs_three_estimates_and_a_level() -> None:
    with pytest.raises(ValueError, match="at least 3 independent estimates, got 2"):
        diagnostics.noise_scale_interval(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="level must lie in"):
        diagnostics.noise_scale_interval(jnp.ones((4, 3)), level=95.0)
    two, three = {"x": jnp.ones((4, 3))}, {"x": jnp.ones((5, 3))}
    with pytest.raises(ValueError, match=r"same number of estimates each, got \[4, 5\]"):
        diagnostics.jackknife(diagnostics.cosine_of_means, two, three, scale=LINEAR)
