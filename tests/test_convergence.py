"""assert_converges: sample gradients reach the exact one, and wrong ones are shown beside it."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import pgjax
from pgjax import Judge, Problem, baselines, enumeration, exact, sampling, suite
from pgjax.proof.convergence import _allowed
from pgjax.proof.sequential_test import MeanTest

BANDIT, RANDOM, _, CONTINUING, _ = suite.certified()
GAMMA = CONTINUING.mdp.discount
"""Reward-to-go has a relative variance of 0.7 on this problem, and of 176 on the bandit."""
WIDE = Judge(margin=0.1)
"""Rates of error of 1e-6 each; a bias above a tenth of ‖∇J‖ is found."""


def from_list(problem: Problem, batch_size: int = 16) -> Any:
    """A sampler of the list of all trajectories: a much smaller program than a rollout."""
    listed, probability = enumeration.trajectories(problem)

    def draw(params: Any, key: Any) -> Any:
        members = jax.random.choice(key, len(probability), (batch_size,), p=probability)
        return jax.tree.map(lambda x: jnp.asarray(x)[members], listed)

    return draw


def test_a_right_estimator_converges_to_the_exact_gradient():
    # False alarm 1e-6.
    estimator = pgjax.reward_to_go(RANDOM.mdp.discount)
    report = pgjax.assert_converges(estimator, RANDOM, judge=WIDE)
    truth = exact.gradient(RANDOM)
    distance = np.linalg.norm(report.gradient - truth) / np.linalg.norm(truth)
    assert report.error == pytest.approx(distance)
    assert report.error < WIDE.margin
    assert report.num_directions == truth.size
    np.testing.assert_array_equal(report.truth, truth)
    assert f"{report.num_trajectories:,} trajectories" in str(report)
    assert "at a rate of at most 1e-06" in str(report)


def test_a_missing_discount_factor_fails_and_both_gradients_are_shown():
    # False pass 1e-6: without γ^t the bias on this problem is 24% of ‖∇J‖.
    bias = exact.mismatched_gradient(CONTINUING) - exact.gradient(CONTINUING)
    assert np.linalg.norm(bias) > 0.2 * np.linalg.norm(exact.gradient(CONTINUING))
    with pytest.raises(AssertionError) as failure:
        pgjax.assert_converges(
            pgjax.mismatched_reward_to_go(CONTINUING.mdp.discount),
            CONTINUING,
            judge=WIDE,
            rollout=from_list(CONTINUING),
        )
    message = str(failure.value)
    assert not isinstance(failure.value, sampling.InconclusiveError)
    assert "the sample gradient is not the exact gradient" in message
    assert "ACTUAL" in message  # both arrays, as NumPy shows them
    assert "DESIRED" in message


def test_too_few_samples_are_an_error_of_their_own():
    with pytest.raises(sampling.InconclusiveError, match=r"about [\d,]+ samples would pass it"):
        pgjax.assert_converges(
            pgjax.reward_to_go(RANDOM.mdp.discount),
            RANDOM,
            judge=Judge(margin=0.002, max_samples=4096),
            rollout=from_list(RANDOM),
        )


def test_a_bias_of_one_over_the_batch_is_that_of_the_batch_size():
    # The batch mean shrinks the gradient by 1/2 in batches of 2: false pass 1e-6.
    shrunk = pgjax.reinforce(GAMMA, baseline=baselines.batch_mean)
    problem = replace(CONTINUING, params=CONTINUING.params / 2)  # less skewed: fewer samples
    pairs = {"batch_size": 2, "judge": WIDE, "rollout": from_list(problem, 2)}
    with pytest.raises(AssertionError, match="is not the exact gradient"):
        pgjax.assert_converges(shrunk, problem, **pairs)
    found = pgjax.assert_converges(pgjax.rloo(GAMMA), problem, **pairs)
    assert found.error < 0.1


def test_a_small_bias_that_is_found_fails_too():
    # 8% of ‖∇J‖ is within the margin, and the budget's first look already finds it.
    def enlarged(params, batch):
        gradient = pgjax.gradient(pgjax.reward_to_go(GAMMA), CONTINUING.policy, params, batch)
        return jax.tree.map(lambda x: 1.08 * x, gradient)

    with pytest.raises(AssertionError, match="is not the exact gradient"):
        pgjax.assert_converges(
            enlarged, CONTINUING, judge=Judge(margin=0.09), rollout=from_list(CONTINUING)
        )


def test_a_users_sampler_is_tested_with_the_estimator():
    def rollout(params: Any, key: Any) -> Any:
        return pgjax.rollout(
            CONTINUING.policy, params, CONTINUING.mdp, key, num_trajectories=16, num_steps=3
        )

    estimator = pgjax.reward_to_go(GAMMA)
    assert pgjax.assert_converges(estimator, CONTINUING, judge=WIDE, rollout=rollout).error < 0.1
    colder = from_list(replace(CONTINUING, params=CONTINUING.params / 0.2))
    with pytest.raises(AssertionError, match="is not the exact gradient"):
        pgjax.assert_converges(estimator, CONTINUING, judge=WIDE, rollout=colder)


def test_off_policy_batches_come_from_the_behaviour_policy():
    # Unweighted returns of another policy are biased by 22%, importance weights repair it.
    problem = replace(CONTINUING, behaviour=CONTINUING.params / 5)
    weighted = pgjax.Estimator(pgjax.off_policy.per_decision(GAMMA), pgjax.terms.score)
    assert pgjax.assert_converges(weighted, problem, judge=WIDE).error < 0.1
    with pytest.raises(AssertionError, match="is not the exact gradient"):
        pgjax.assert_converges(pgjax.reward_to_go(GAMMA), problem, judge=WIDE)


def test_pytrees_of_parameters_keep_their_structure():
    policy = pgjax.flax_policy(pgjax.MLP(2, ()))
    params = jax.jit(policy.init)(jax.random.key(0), np.ones(3))
    problem = replace(CONTINUING, policy=policy, params=params)
    made = lambda problem: pgjax.reward_to_go(problem.mdp.discount)  # noqa: E731
    report = pgjax.assert_converges(made, problem, judge=WIDE, rollout=from_list(problem))
    assert jax.tree.structure(report.gradient) == jax.tree.structure(params)
    assert jax.tree.map(np.shape, report.gradient) == jax.tree.map(np.shape, report.truth)


def test_with_many_parameters_projections_are_tested():
    mdp, logits = CONTINUING.mdp, np.repeat(CONTINUING.params, 20, axis=1)
    transition, reward = (np.repeat(x, 20, axis=1) for x in (mdp.transition, mdp.reward))
    mdp = mdp.replace(transition=transition, reward=reward)
    problem = Problem(mdp, pgjax.tabular_softmax(3, 40), logits, horizon=1)
    estimator = pgjax.reward_to_go(GAMMA)
    report = pgjax.assert_converges(estimator, problem, judge=Judge(margin=0.3))
    assert report.num_directions == sampling.NUM_DIRECTIONS < logits.size


def test_entries_along_directions_not_tested_may_be_off_by_their_noise():
    """The margin, and the quantile of α / 2P standard errors of the noisiest entry."""
    P, alpha = 120, 1e-3
    error = np.linspace(0.1, 0.4, P)
    test = MeanTest(True, 1024, 0.0, 0.5, 1.0, sampling.NUM_DIRECTIONS, np.zeros(P), error)
    expected = 0.5 + 0.4 * stats.norm.isf(alpha / (2 * P))
    assert _allowed(test, alpha) == pytest.approx(expected, rel=1e-12)
    assert _allowed(test._replace(num_directions=P), alpha) == 0.5


def test_what_cannot_be_judged_is_named():
    estimator = pgjax.reward_to_go(1.0)
    still = replace(BANDIT, mdp=replace(BANDIT.mdp, reward=0 * BANDIT.mdp.reward))
    with pytest.raises(ValueError, match="bandit has a zero gradient"):
        pgjax.assert_converges(estimator, still)
    with pytest.raises(ValueError, match=r"problem\.horizon is infinite"):
        pgjax.assert_converges(estimator, replace(BANDIT, horizon=None))
    with pytest.raises(TypeError, match="candidate must be an Estimator"):
        pgjax.assert_converges(5, BANDIT)  # pyright: ignore[reportArgumentType]  # on purpose
    with pytest.raises(ValueError, match=r"alpha must lie in \(0, 1\)"):
        Judge(alpha=0.0)
    with pytest.raises(ValueError, match="margin must be positive"):
        Judge(margin=0.0)
