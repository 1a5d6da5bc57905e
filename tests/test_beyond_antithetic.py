"""Antithetic pairs: the joint law enumerated, and the sampler held to it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import pgjax
from pgjax import Problem, beyond, enumeration, exact, sampling, suite, tabular
from pgjax.core.float64 import to_jax
from pgjax.environments.base import Box, Environment, Step
from tests.shared import rows

pytestmark = pytest.mark.usefixtures("strict")

EXACT = 1e-10
KEY = jax.random.key(4)
LOGITS = np.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]])
PROBLEM = Problem(tabular.random_mdp(), pgjax.tabular_softmax(4, 2), LOGITS, horizon=3)
ALIKE = suite.certified()[-1]


def test_each_of_a_pair_has_the_law_of_any_episode() -> None:
    for problem in (PROBLEM, ALIKE):
        batch, joint = beyond.antithetic_pairs(problem)
        known, chance = enumeration.trajectories(problem)
        np.testing.assert_array_equal(batch.observation, known.observation)
        np.testing.assert_array_equal(batch.reward, known.reward)
        np.testing.assert_allclose(batch.log_prob, known.log_prob, rtol=0, atol=1e-14)
        np.testing.assert_allclose(joint.sum(0), chance, rtol=0, atol=1e-14)
        np.testing.assert_allclose(joint, joint.T, rtol=0, atol=1e-16)
        assert (
            np.abs(joint - np.outer(chance, chance)).max() > 1e-3
        )  # and yet they are no strangers


def test_the_coupling_of_three_actions_is_the_overlap_of_mirrored_intervals() -> None:
    transition = np.zeros((2, 3, 2))
    transition[:, :, 1] = 1
    mdp = pgjax.TabularMDP(transition, np.zeros((2, 3, 2)), [1.0, 0], [False, True], 1.0)
    logits = np.log([[0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]])
    _, joint = beyond.antithetic_pairs(Problem(mdp, pgjax.tabular_softmax(2, 3), logits, 1))
    expected = [[0.0, 0.2, 0.3], [0.2, 0.0, 0.0], [0.3, 0.0, 0.0]]
    np.testing.assert_allclose(joint, expected, rtol=0, atol=1e-15)


def test_the_mean_is_the_gradient_and_the_covariance_half_of_variance_and_covariance() -> None:
    estimator = pgjax.reward_to_go(PROBLEM.mdp.discount)
    found = beyond.antithetic_moments(estimator, PROBLEM)
    truth = exact.gradient(PROBLEM).ravel()
    np.testing.assert_allclose(found.mean, truth, rtol=0, atol=EXACT)
    batch, joint = beyond.antithetic_pairs(PROBLEM)
    each = pgjax.per_trajectory_gradients(estimator, PROBLEM.policy, LOGITS, to_jax(batch))
    centered = np.asarray(each).reshape(len(joint), -1) - truth
    alone = centered.T @ (joint.sum(1)[:, None] * centered)
    expected = (alone + centered.T @ joint @ centered) / 2
    np.testing.assert_allclose(found.covariance, expected, rtol=0, atol=EXACT)
    assert found.total_variance < 0.95 * np.trace(alone) / 2  # here a mirror helps


def test_leave_one_out_is_biased_on_a_pair_which_is_not_independent() -> None:
    estimator = pgjax.reward_to_go(0.8, baseline=pgjax.baselines.leave_one_out)
    found = beyond.antithetic_moments(estimator, PROBLEM)
    truth = exact.gradient(PROBLEM).ravel()
    assert np.linalg.norm(found.mean - truth) > 0.1 * np.linalg.norm(truth)


# The sampler


def draws() -> beyond.Draws:
    return beyond.inversion(PROBLEM.policy, 2)


@functools.cache
def many() -> pgjax.Trajectory:
    return sampled(40_000)


def sampled(num_pairs: int) -> pgjax.Trajectory:
    return beyond.antithetic_rollout(
        draws(), PROBLEM.params, PROBLEM.mdp, KEY, num_pairs=num_pairs, num_steps=3
    )


def pair_test(first: pgjax.Trajectory, second: pgjax.Trajectory) -> float:
    """p-value of a chi-square test of pairs against the enumerated joint law."""
    batch, joint = beyond.antithetic_pairs(PROBLEM)

    def names(batch: pgjax.Trajectory) -> list[bytes]:
        mask = np.asarray(batch.mask)
        states = np.argmax(np.asarray(batch.observation), -1) * mask
        final = np.argmax(np.asarray(batch.final_observation), -1)
        rows = np.column_stack([mask, states, np.asarray(batch.action) * mask, final])
        return [row.tobytes() for row in rows.astype(np.int64)]

    index = {name: i for i, name in enumerate(names(batch))}
    assert len(index) == len(joint)
    counts = np.zeros_like(joint)
    np.add.at(counts, tuple([index[n] for n in names(x)] for x in (first, second)), 1)
    expected = (joint * counts.sum()).ravel()
    if np.any(counts.ravel()[expected == 0]):
        return 0.0
    common = expected >= 5
    observed = np.append(counts.ravel()[common], counts.ravel()[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


def test_sampled_pairs_follow_the_joint_law_and_shuffled_ones_do_not() -> None:
    first, second = (rows(many(), slice(i, None, 2)) for i in range(2))
    assert pair_test(first, second) > 1e-6
    shuffled = rows(second, np.roll(np.arange(len(second.mask)), 1))
    assert pair_test(first, shuffled) < 1e-6


def test_each_half_follows_the_law_of_single_episodes() -> None:
    for i in range(2):
        assert sampling.law_test(rows(many(), slice(i, None, 2)), PROBLEM).passed


def test_the_batch_is_as_a_rollout_would_have_recorded_it() -> None:
    batch: Any = rows(many(), slice(100))
    log_prob = pgjax.log_probs(PROBLEM.policy, LOGITS, batch)
    np.testing.assert_allclose(batch.log_prob, log_prob, rtol=0, atol=1e-14)
    batch = jax.tree.map(np.asarray, batch)
    ended = batch.terminated | batch.truncated
    assert np.all(np.sum(ended, 1) == 1)
    np.testing.assert_array_equal(np.argmax(ended, 1) + 1, np.sum(batch.mask, 1))
    assert np.all(np.where(batch.mask, True, batch.reward == 0))


def test_an_illegal_action_is_never_drawn() -> None:
    masked = pgjax.softmax_policy(
        lambda key, s: jnp.zeros(2), lambda p, s: jnp.array([-jnp.inf, 0.3, -0.2, -jnp.inf])
    )
    act, noise = beyond.inversion(masked, 4).act, np.array([1e-12, 0.5, 1 - 1e-12])
    drawn = jax.jit(jax.vmap(lambda u: act(None, u, None)[0]))(noise)
    np.testing.assert_array_equal(drawn, [1, 1, 2])


def test_the_noise_is_never_at_an_end_and_its_mirror_is_exact() -> None:
    made = draws()

    @jax.jit
    def noise_and_mirrored_twice() -> Any:
        noise = jax.vmap(made.noise)(jax.random.split(KEY, 10_000))
        return noise, made.mirror(made.mirror(noise))

    for x64, dtype in ((True, np.float64), (False, np.float32)):
        with jax.enable_x64(x64):
            noise, again = jax.device_get(noise_and_mirrored_twice())
        assert noise.dtype == dtype
        assert np.all((noise > 0) & (noise < 1))
        np.testing.assert_array_equal(again, noise)


def test_mirrored_normal_noise_leaves_a_linear_return_without_variance() -> None:
    def shown(reward: Any) -> Step:
        return Step(jnp.ones(1), reward, jnp.bool_(False), jnp.bool_(False))

    environment = Environment(
        init=lambda key: (jnp.zeros(()), shown(jnp.zeros(()))),
        step=lambda key, state, action: (state, shown(jnp.sum(action))),
        action_space=Box((-np.inf,) * 2, (np.inf,) * 2, (2,)),
    )
    policy = pgjax.policies.gaussian_policy(
        lambda key, s: jnp.zeros(4), lambda p, s: (p[:2] * s, p[2:])
    )
    params = np.array([0.5, -0.2, -0.3, 0.4])
    made = beyond.mirrored_normal(lambda p, s: (p[:2] * s, p[2:]), 2)
    batch = beyond.antithetic_rollout(made, params, environment, KEY, num_pairs=20, num_steps=3)
    returns = np.asarray(batch.reward).sum(1).reshape(20, 2)
    np.testing.assert_allclose(returns.mean(1), 3 * 0.3, rtol=0, atol=1e-14)
    assert returns[:, 0].std() > 0.1
    log_prob = pgjax.log_probs(policy, params, batch)
    np.testing.assert_allclose(batch.log_prob, log_prob, rtol=0, atol=1e-14)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="num_pairs must be at least 1"):
        sampled(0)
    made = beyond.mirrored_normal(lambda p, s: (p, p), 1)
    with pytest.raises(TypeError, match="the policy samples float64"):
        beyond.antithetic_rollout(made, jnp.zeros(1), PROBLEM.mdp, KEY, num_pairs=1, num_steps=1)
