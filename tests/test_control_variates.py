"""Baselines of least variance: the exact optimum, its published forms, and what fitting costs."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import config

import pgjax
from pgjax import Problem, Trajectory, baselines, enumeration, exact, tabular
from pgjax.control_variates import (
    coefficients,
    cross_fitted,
    observations,
    per_parameter_cross_fitted,
    per_parameter_same_batch,
    same_batch,
    scalar,
    score_products,
    time_steps,
)
from pgjax.types import RecurrentPolicy
from pgjax.weights import returns_to_go
from tests.shared import rows

pytestmark = pytest.mark.usefixtures("strict")

MDP, POLICY = tabular.random_mdp(), pgjax.tabular_softmax(4, 2)
GAMMA, H = MDP.discount, 3
TINY = 1e-10
FEATURES = {
    name: jax.jit(x)
    for name, x in {"scalar": scalar, "time": time_steps, "state": observations}.items()
}
fit = jax.jit(coefficients)
to_go = jax.jit(partial(returns_to_go, discount=GAMMA))


def ones(*shape: int) -> jax.Array:
    return jax.device_put(np.ones(shape))


@pytest.fixture(scope="module")
def listed(strict: None, table: np.ndarray) -> tuple[Trajectory, np.ndarray]:
    """All trajectories and their probabilities."""
    batch, probability = enumeration.trajectories(Problem(MDP, POLICY, table, H))
    return jax.device_put(batch), probability


@pytest.fixture(scope="module")
def products(listed: Any, table: np.ndarray) -> jax.Array:
    return score_products(POLICY, jnp.asarray(table), listed[0], discount=GAMMA)


def gradients_less(value: np.ndarray, table: np.ndarray, batch: Trajectory) -> np.ndarray:
    """[N, P] per-trajectory gradients of reward-to-go less a value at each step."""
    estimator = pgjax.reward_to_go(GAMMA, baseline=baselines.recorded_value)
    batch = replace(batch, value=value)
    found = pgjax.per_trajectory_gradients(estimator, POLICY, jnp.asarray(table), batch)
    return np.asarray(found).reshape(len(batch.reward), -1)


# The exact optimum


def test_over_all_trajectories_the_state_fit_is_the_exact_optimum(listed, products, table):
    batch, probability = listed
    features, target = FEATURES["state"](batch), to_go(batch)
    best = exact.optimal_state_baseline(Problem(MDP, POLICY, table, H))
    found = fit(features, products, target, probability)
    np.testing.assert_allclose(found, best, rtol=0, atol=TINY)
    uniform = np.full(len(probability), 1 / len(probability))
    undiscounted = score_products(POLICY, jnp.asarray(table), batch, discount=1.0)
    each_step_alone = np.asarray(products) * np.eye(H)
    for wrong in (
        fit(features, products, target, uniform),
        fit(features, undiscounted, target, probability),
        fit(features, each_step_alone, target, probability),
    ):
        assert np.max(np.abs(wrong - best)) > 1e-3


@pytest.mark.parametrize("name", FEATURES)
def test_over_all_trajectories_a_fit_is_least_squares_of_the_gradients(
    name, listed, products, table
):
    """min_β Σ_i p_i ‖A_i − Σ_f β_f Z_if‖², Z_f the gradient that a baseline of φ_f takes away."""
    batch, probability = listed
    features = np.asarray(FEATURES[name](batch))
    found = fit(features, products, to_go(batch), probability)
    without = gradients_less(np.zeros(batch.mask.shape), table, batch)
    taken = np.stack(
        [
            without - gradients_less(features[..., f], table, batch)
            for f in range(features.shape[-1])
        ],
        axis=-1,
    )
    root = np.sqrt(probability)[:, None]
    best, *_ = np.linalg.lstsq(
        (root[..., None] * taken).reshape(-1, features.shape[-1]),
        (root * without).reshape(-1),
        rcond=1e-10,
    )
    np.testing.assert_allclose(found, best, rtol=0, atol=TINY)
    variance = probability @ np.sum((without - taken @ best) ** 2, -1)
    assert variance < probability @ np.sum(without**2, -1)


def test_the_scalar_fit_of_the_total_return_is_the_published_one(listed, table):
    """Peters & Schaal (2008), section 3.2: b = E[‖Σ_t c_t‖² R] / E[‖Σ_t c_t‖²]."""
    batch, probability = listed
    R = np.asarray(to_go(batch))[:, :1]
    products = score_products(POLICY, jnp.asarray(table), batch, discount=1.0)
    target = np.broadcast_to(R, batch.mask.shape)
    (found,) = np.asarray(fit(FEATURES["scalar"](batch), products, target, probability))
    value = np.asarray(to_go(batch)) - GAMMA ** -np.arange(H)  # so that every weight is one
    scores = gradients_less(value, table, batch)
    norms = np.sum(scores**2, -1)
    expected = probability @ (norms * R[:, 0]) / (probability @ norms)
    assert found == pytest.approx(expected, abs=TINY)
    mean = exact.objective(Problem(MDP, POLICY, table, H))
    assert abs(expected - mean) > 1e-3  # it is not the mean return

    def variance(b: float) -> float:
        problem = Problem(MDP, POLICY, table, H)
        return float(exact.moments(problem, of=exact.TOTAL_RETURN, baseline=b).total_variance)

    best = variance(float(found))
    assert best < min(variance(float(found) + d) for d in (-0.01, 0.01))


def test_step_by_step_the_fit_weighs_returns_by_squared_score_norms(listed, products):
    """Greensmith et al. (2004), theorem 8, for each time: b_t = E[‖c_t‖² G_t] / E[‖c_t‖²]."""
    batch, probability = listed
    G, products = np.asarray(to_go(batch)), np.asarray(products)
    norms = np.diagonal(products, axis1=1, axis2=2)
    found = fit(FEATURES["time"](batch), products * np.eye(H), G, probability)
    expected = probability @ (norms * G) / (probability @ norms)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TINY)
    assert not np.allclose(found, probability @ G / (probability @ np.asarray(batch.mask)))


def test_a_fit_comes_to_the_exact_optimum_as_the_batch_grows(listed, products, table):
    batch, probability = listed
    best = exact.optimal_state_baseline(Problem(MDP, POLICY, table, H))
    given = FEATURES["state"](batch), products, to_go(batch)
    random = np.random.default_rng(0)

    def root_mean_square_error(N: int) -> float:
        drawn = random.multinomial(N, probability, size=30)  # how often each was drawn
        errors = [np.asarray(fit(*given, weight)) - best for weight in drawn.astype(float)]
        return float(np.sqrt(np.mean(np.square(errors))))

    few, many = root_mean_square_error(400), root_mean_square_error(40_000)
    assert many < 0.02 * np.max(np.abs(best))
    assert few / many == pytest.approx(10, rel=0.3)  # 1/√N


# Fitting to the batch


def estimate(
    fit: Callable[..., Any], features: Callable[..., Any], policy: Any, gamma: float
) -> Any:
    """Reward-to-go less a fitted baseline, as a function (params, batch) -> gradient."""
    estimator = pgjax.reward_to_go(gamma, baseline=baselines.recorded_value)

    def gradient(params: Any, batch: Trajectory) -> Any:
        products = score_products(policy, params, batch, discount=gamma)
        value = fit(features(batch), products, returns_to_go(batch, gamma))
        return pgjax.gradient(estimator, policy, params, replace(batch, value=value))

    return gradient


def test_cross_fitted_baselines_are_unbiased_in_batches_of_three_and_same_batch_ones_are_not():
    mdp = tabular.chain(2, slip=0.3, discount=0.9)
    policy, params = pgjax.tabular_softmax(4, 2), np.zeros((4, 2))
    params[1:3] = [[0.4, -0.2], [-0.3, 0.5]]
    problem = Problem(mdp, policy, params, horizon=2)
    truth = np.ravel(exact.gradient(problem))
    gamma = mdp.discount
    weigh = pgjax.weights.reward_to_go(gamma, baseline=baselines.recorded_value)
    two = partial(cross_fitted, folds=2)  # of one trajectory and of two
    unbiased = [*((two, features) for features in FEATURES.values())]
    unbiased.append((partial(cross_fitted, folds=3), FEATURES["scalar"]))
    biased = [(same_batch, features) for features in FEATURES.values()]
    for_each = [partial(per_parameter_cross_fitted, folds=2), per_parameter_same_batch]

    def estimates(params: Any, batch: Trajectory) -> Any:
        # Σ_t w_t ∇log π_t for all weights w in one pass, which compiles once and not once for each.
        log_prob, pull_back = jax.vjp(lambda x: pgjax.log_probs(policy, x, batch), params)
        products = score_products(policy, params, batch, discount=gamma)
        target = returns_to_go(batch, gamma)
        values = [fit(features(batch), products, target) for fit, features in unbiased + biased]
        weight = [weigh(replace(batch, value=value), log_prob) for value in values]
        found = jax.vmap(pull_back)(jnp.where(batch.mask[None], jnp.stack(weight), 0) / 3)
        without, with_one = (
            pgjax.per_trajectory_gradients(
                pgjax.reward_to_go(gamma, baseline=b), policy, params, batch
            )
            for b in (None, baselines.constant(1.0))
        )
        return found, [fit(without, without - with_one) for fit in for_each]

    found = enumeration.moments(estimates, problem, batch_size=3)
    means = found.mean.reshape(len(unbiased) + len(biased) + 2, -1)
    biases = np.linalg.norm(means - truth, axis=1) / np.linalg.norm(truth)
    is_biased = [*(False for _ in unbiased), *(True for _ in biased), False, True]
    np.testing.assert_array_equal(biases > TINY, is_biased)
    assert np.all(biases[is_biased] > 0.05)


def test_the_same_batch_bias_shrinks_as_one_over_the_batch():
    mdp, policy = tabular.two_armed_bandit(), pgjax.tabular_softmax(3, 2)
    params = np.array([[0.4, -0.2], [0, 0], [0, 0]])
    problem = Problem(mdp, policy, params, horizon=1)
    truth = np.ravel(exact.gradient(problem))
    biases = []
    for K in (6, 12):
        fitted = estimate(same_batch, scalar, policy, 1.0)
        found = enumeration.moments(fitted, problem, batch_size=K)
        biases.append(float(np.linalg.norm(found.mean - truth)))
    assert biases[1] / biases[0] == pytest.approx(1 / 2, abs=0.1)


def test_a_cross_fitted_baseline_does_not_see_its_own_fold_and_a_same_batch_one_does(
    listed, products
):
    batch, products = rows((listed[0], products), slice(-5, None))
    fold = np.array([0, 0, 0, 1, 1])  # five trajectories in two folds
    fits = partial(cross_fitted, folds=2), partial(cross_fitted, folds=5), same_batch

    @jax.jit
    def fitted(target: Any) -> Any:
        return jnp.stack([fit(scalar(batch), products, target) for fit in fits])

    target = np.asarray(to_go(batch))
    change = np.random.default_rng(2).normal(size=target.shape)
    # [F, N, N] whether b_i moves with the returns of trajectory j; it is linear in them.
    moved = [fitted(target + row[:, None] * change) - fitted(target) for row in np.eye(5)]
    found = np.any(np.abs(np.stack(moved, axis=2)) > 1e-12, axis=3)
    np.testing.assert_array_equal(found[0], fold[:, None] != fold[None])
    np.testing.assert_array_equal(found[1], ~np.eye(5, dtype=bool))
    assert np.all(found[2])


def test_baselines_for_each_parameter_are_the_sums_of_their_formulas():
    random = np.random.default_rng(1)
    A, Z = ({"w": random.normal(size=(5, 2, 3)), "b": random.normal(size=(5, 1))} for _ in range(2))
    Z["b"][:3] = 0  # a parameter that the first fold says nothing of
    same, cross = jax.jit(
        lambda A, Z: (per_parameter_same_batch(A, Z), per_parameter_cross_fitted(A, Z, folds=2))
    )(A, Z)
    fold = np.array([0, 0, 0, 1, 1])
    for name in A:
        a, z = A[name], Z[name]
        b = np.sum(a * z, 0) / np.sum(z * z, 0)
        np.testing.assert_allclose(same[name], np.mean(a - b * z, 0), rtol=0, atol=1e-14)
        rows = []
        for i in range(5):
            others = fold != fold[i]
            square = np.sum(z[others] ** 2, 0)
            b = np.where(
                square > 0, np.sum((a * z)[others], 0) / np.where(square > 0, square, 1), 0
            )
            rows.append(a[i] - b * z[i])
        np.testing.assert_allclose(cross[name], np.mean(rows, 0), rtol=0, atol=1e-14)


# What it is fitted with


def test_score_products_are_those_of_the_gradients_of_each_step(listed, products, table):
    batch = listed[0]

    def log_probs(params: Any) -> Any:
        return pgjax.log_probs(POLICY, params, batch)

    scores = np.asarray(jax.jit(jax.jacobian(log_probs))(jnp.asarray(table)))
    scores = GAMMA ** np.arange(H)[None, :, None] * scores.reshape(*batch.mask.shape, -1)
    expected = np.einsum("ntp,nsp->nts", scores, scores)
    np.testing.assert_allclose(products, expected, rtol=0, atol=1e-14)
    live = np.asarray(batch.mask)
    assert np.all(np.asarray(products)[~(live[:, :, None] & live[:, None, :])] == 0)


def test_a_policy_with_a_memory_that_it_ignores_has_the_same_products(listed, products, table):
    def log_prob(params: Any, memory: Any, observation: Any, action: Any) -> Any:
        return memory + 1, POLICY.log_prob(params, observation, action)

    recurrent = RecurrentPolicy(
        init=POLICY.init,
        memory=lambda params: jnp.zeros((), jnp.int32),
        sample=lambda *_: pytest.fail("nothing is sampled"),
        log_prob=log_prob,
        entropy=lambda params, memory, observation: POLICY.entropy(params, observation),
    )
    batch = rows(listed[0], slice(None, None, 40))
    found = score_products(recurrent, jnp.asarray(table), batch, discount=GAMMA)
    np.testing.assert_allclose(found, np.asarray(products)[::40], rtol=0, atol=1e-14)


def test_features_are_zero_where_nothing_was_done_and_count_from_the_episodes_start(listed):
    batch = rows(listed[0], slice(4))
    dead = ~np.asarray(batch.mask)
    assert np.any(dead)
    dirty = np.where(dead[..., None], np.nan, batch.observation)
    dirty = replace(batch, observation=jnp.asarray(dirty))
    for features in FEATURES.values():
        np.testing.assert_array_equal(np.asarray(features(dirty))[dead], 0)
    window = replace(batch, time=jnp.asarray(np.tile([1, 0, 1], (4, 1))))
    found = FEATURES["time"](replace(window, mask=np.ones_like(dead)))
    np.testing.assert_array_equal(found, np.tile(np.eye(3)[[1, 0, 1]], (4, 1, 1)))


# Bad input


@pytest.fixture
def unannotated() -> Iterator[None]:
    """Without the annotations, which would speak first."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def test_trajectories_without_a_step_change_no_baseline(listed, table):
    batch = rows(listed[0], slice(-4, None))
    batch = replace(batch, mask=jnp.asarray(np.asarray(batch.mask) & (np.arange(4) < 3)[:, None]))

    def value(batch: Trajectory, folds: int) -> Any:
        products = score_products(POLICY, jnp.asarray(table), batch, discount=GAMMA)
        return cross_fitted(time_steps(batch), products, returns_to_go(batch, GAMMA), folds=folds)

    value = jax.jit(value, static_argnums=1)
    three = rows(batch, slice(3))
    found, expected = np.asarray(value(batch, 4)), value(three, 3)
    np.testing.assert_allclose(found[:3], expected, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(found[3], 0)
    none = replace(batch, mask=np.zeros(batch.mask.shape, bool))
    np.testing.assert_array_equal(value(none, 4), 0)


def test_features_that_say_the_same_or_nothing_are_left_out(listed, products):
    batch = listed[0]
    one, target, weight = FEATURES["scalar"](batch), to_go(batch), np.ones(len(listed[1]))
    twice = np.asarray(one) * [1, 3, 0]
    found = np.asarray(fit(twice, products, target, weight))
    np.testing.assert_allclose(found[:1], fit(one, products, target, weight))
    np.testing.assert_array_equal(found[1:], 0)


def test_the_scale_of_a_feature_does_not_matter(listed, products):
    batch = listed[0]
    time, target, weight = FEATURES["time"](batch), to_go(batch), np.ones(len(listed[1]))
    scale = np.array([1e-6, 1.0, 1e6])
    found = fit(np.asarray(time) * scale, products, target, weight)
    expected = fit(time, products, target, weight)
    np.testing.assert_allclose(found * scale, expected, rtol=1e-10)


def test_fits_call_no_library_that_could_wait_for_itself():
    given = ones(3, 4, 2, 5), ones(3, 4, 2, 2), ones(3, 4, 2)
    fit = jax.jit(jax.vmap(partial(cross_fitted, folds=2)))
    assert "lapack" not in fit.lower(*given).as_text().lower()
    assert "lapack" in jax.jit(jnp.linalg.eigh).lower(np.eye(2)).as_text().lower()


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("folds", "N", "error", "words"),
    [
        (1, 4, ValueError, r"folds must lie in \[2, N\] for a batch of N = 4 trajectories, got 1"),
        (5, 4, ValueError, r"got 5; each fold needs a trajectory"),
        (2, 1, ValueError, r"N = 1 trajectories, got 2"),
        (0, 4, ValueError, "folds must be at least 1, got 0"),
        (2.0, 4, TypeError, "folds must be an integer, got 2.0"),
    ],
)
def test_folds_that_leave_one_empty_or_nothing_to_fit_to_are_refused(folds, N, error, words):
    given = ones(N, 2, 1), ones(N, 2, 2), ones(N, 2)
    with pytest.raises(error, match=words):
        cross_fitted(*given, folds=folds)
    with pytest.raises(error, match=words):
        per_parameter_cross_fitted(ones(N, 3), ones(N, 3), folds=folds)


@pytest.mark.usefixtures("unannotated")
def test_arrays_that_do_not_fit_are_refused():
    words = r"features must have shape .* target being \(4, 2\), got \(4, 3, 1\)"
    with pytest.raises(ValueError, match=words):
        same_batch(ones(4, 3, 1), ones(4, 2, 2), ones(4, 2))
    with pytest.raises(ValueError, match=r"scores\['a'\] must have the shape of gradients"):
        per_parameter_same_batch({"a": ones(4, 2)}, {"a": ones(4, 3)})
    with pytest.raises(ValueError, match="gradients must have at least one leaf"):
        per_parameter_same_batch({}, {})


def test_a_discount_outside_the_unit_interval_is_refused(listed, table):
    with pytest.raises(ValueError, match="discount must lie in"):
        score_products(POLICY, jnp.asarray(table), listed[0], discount=1.5)
