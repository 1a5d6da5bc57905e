"""Exact moments by the Bellman equation: enumeration and long horizons agree with them."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import Problem, baselines, diagnostics, enumeration, exact, suite, tabular

PROBLEMS = {problem.name: problem for problem in suite.certified()}
KINDS = {
    "REWARD_TO_GO": pgjax.reward_to_go,
    "MISMATCHED": pgjax.mismatched_reward_to_go,
    "TOTAL_RETURN": pgjax.reinforce,
}


def moments(problem, kind, baseline: Any = 0.0):
    return exact.moments(problem, getattr(exact, kind), baseline)


def spread(problem, kind, baseline: Any = 0.0):
    return exact.spread(problem, getattr(exact, kind), baseline)


def as_baseline(problem, values):
    """b(s) for the estimator, which sees the observation; look-alikes must share their value."""
    rows = problem.mdp.observation.reshape(problem.mdp.num_states, -1)

    def value(observation):
        same = jnp.all(jnp.asarray(rows) == jnp.ravel(observation)[None], axis=-1)
        return jnp.asarray(values)[jnp.argmax(same)]

    return baselines.state_value(value)


@pytest.mark.parametrize("name", PROBLEMS)
def test_mean_and_covariance_equal_enumeration_with_and_without_a_baseline(name):
    problem = PROBLEMS[name]
    states = np.arange(problem.mdp.num_states)
    values = np.ones(len(states)) if name == "look-alikes" else 0.3 * states - 0.2
    estimators = {
        (kind, with_baseline): make(
            problem.mdp.discount, baseline=as_baseline(problem, values) if with_baseline else None
        )
        for kind, make in KINDS.items()
        for with_baseline in (False, True)
    }

    def every(params, batch):
        return [pgjax.gradient(e, problem.policy, params, batch) for e in estimators.values()]

    found = enumeration.moments(every, problem)
    P = found.mean.size // len(estimators)
    for index, (kind, with_baseline) in enumerate(estimators):
        block = slice(index * P, (index + 1) * P)
        baseline = values if with_baseline else 0.0
        exactly = moments(problem, kind, baseline)
        np.testing.assert_allclose(exactly.mean, found.mean[block], rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            exactly.covariance, found.covariance[block, block], rtol=0, atol=1e-10
        )
        diagonal = spread(problem, kind, baseline)
        np.testing.assert_allclose(diagonal.mean, exactly.mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            diagonal.variance, np.diag(exactly.covariance), rtol=0, atol=1e-12
        )


FOREVER, LONG = (replace(PROBLEMS["random"], horizon=horizon) for horizon in (None, 600))


@pytest.mark.parametrize("kind", KINDS)
def test_the_infinite_horizon_is_the_limit_of_long_ones(kind):
    forever, long = moments(FOREVER, kind, 0.7), moments(LONG, kind, 0.7)
    np.testing.assert_allclose(forever.mean, long.mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(forever.covariance, long.covariance, rtol=0, atol=1e-10)


def test_means_are_the_exact_gradients():
    truth = exact.gradient(LONG).ravel()
    wrong = exact.mismatched_gradient(LONG).ravel()
    for kind in KINDS:
        mean = moments(LONG, kind, 0.5).mean
        expected = wrong if kind == "MISMATCHED" else truth
        np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-12)
    assert np.linalg.norm(wrong - truth) > 0.1 * np.linalg.norm(truth)  # the two can be told apart


def test_the_best_state_baseline_beats_v_and_every_neighbour():
    # On the continuing problem V raises the variance above that of no baseline.
    problem = PROBLEMS["continuing"]

    def variance(baseline):
        found = exact.spread(problem, baseline=baseline)
        return float(found.total_variance)

    best = exact.optimal_state_baseline(problem)
    values = exact.state_values(problem)[0]
    assert variance(best) < 0.6 * variance(0.0) < variance(0.0) < variance(values)
    for state in range(problem.mdp.num_states):
        for step in (-0.05, 0.05):
            assert variance(best + step * np.eye(len(best))[state]) > variance(best)


def test_the_best_baseline_is_zero_where_no_episode_acts():
    problem = PROBLEMS["random"]
    best = exact.optimal_state_baseline(problem)
    assert best[problem.mdp.terminal] == 0


def test_the_best_baseline_is_zero_where_there_is_nothing_to_choose():
    mdp = tabular.random_mdp(num_actions=1)
    best = exact.optimal_state_baseline(
        Problem(mdp, pgjax.tabular_softmax(4, 1), np.zeros((4, 1)), horizon=3)
    )
    np.testing.assert_array_equal(best, np.zeros(4))


def test_a_large_gridworld_keeps_only_the_diagonal():
    mdp = tabular.gridworld(6, 6)
    policy = pgjax.tabular_softmax(36, 4)
    logits = 0.1 * np.random.default_rng(0).normal(size=(36, 4))
    problem = Problem(mdp, policy, logits, horizon=30)
    found = exact.spread(problem)
    truth = exact.gradient(problem).ravel()
    np.testing.assert_allclose(found.mean, truth, rtol=0, atol=1e-12)
    full = exact.moments(problem)
    assert found.total_variance == pytest.approx(full.total_variance, rel=1e-10)
    assert np.linalg.eigvalsh(full.covariance).min() > -1e-10


def test_errors_and_numbers_needed_follow_from_the_moments():
    problem = PROBLEMS["random"]
    truth = exact.gradient(problem).ravel()
    found = exact.spread(problem)
    needed = diagnostics.estimates_needed(found, truth, 0.01)
    goal = (0.01 * np.linalg.norm(truth)) ** 2
    assert diagnostics.mean_squared_error(found, truth, int(needed)) <= goal
    assert diagnostics.mean_squared_error(found, truth, int(needed) - 1) > goal
    ratio = diagnostics.exact_signal_to_noise(found)
    assert needed == pytest.approx(1 / (0.01**2 * ratio), abs=1)  # unbiased: the same question
    wrong = exact.spread(problem, of=exact.MISMATCHED)
    assert diagnostics.estimates_needed(wrong, truth, 0.01) == np.inf
    with pytest.raises(ValueError, match=r"truth must have shape \[P\]"):
        diagnostics.mean_squared_error(found, truth[:2], 10)


def test_bad_input_is_named():
    problem = PROBLEMS["random"]
    with pytest.raises(ValueError, match=r"baseline must be a scalar or have shape \[S\] = \(4,\)"):
        exact.moments(problem, baseline=np.zeros(3))
    endless = replace(PROBLEMS["continuing"], horizon=None)
    for kind in ("TOTAL_RETURN", "MISMATCHED"):
        with pytest.raises(ValueError, match="every episode must end"):
            moments(endless, kind)
    assert np.all(np.isfinite(exact.moments(endless).mean))


def test_the_callers_precision_does_not_matter():
    problem = PROBLEMS["bandit"]
    with jax.enable_x64(False):
        single = exact.moments(problem)
    assert single.covariance.dtype == np.float64
