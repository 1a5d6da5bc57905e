"""Signal and noise of an update's gradient, and the learning rate of its last step."""

import math
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pgjax
from pgjax import enumeration, estimators, tabular, training
from pgjax.training import actor_critic, algorithm, noise
from pgjax.training.algorithms import falling_adam
from tests.test_actions import batch_of
from tests.test_training_algorithms import (
    A2C,
    KEY,
    ON_EPISODES,
    PPO,
    UPDATES,
    a2c,
    assert_same_bits,
    looped,
    one_step,
    ppo,
    reinforce,
    reinforce_run,
)

PARAMS = jnp.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]])
PROBLEM = pgjax.Problem(tabular.random_mdp(), pgjax.tabular_softmax(4, 2), PARAMS, horizon=2)


def measured(estimator):
    """(params, batch) -> signal, noise, the square of the estimate itself, and the estimate."""

    def measure(params, batch):
        log_prob = pgjax.log_probs(PROBLEM.policy, params, batch)
        weight = estimators.score_weights(estimator, batch, log_prob)
        found = noise.signal_and_noise(PROBLEM.policy, params, batch, weight)
        gradient = pgjax.gradient(estimator, PROBLEM.policy, params, batch)
        return jnp.concatenate([found, jnp.sum(gradient**2)[None], jnp.ravel(gradient)])

    return measure


CONSTANT = pgjax.reinforce(0.9, baseline=pgjax.baselines.constant(0.3))
COUPLED = pgjax.reinforce(0.9, baseline=pgjax.baselines.leave_one_out)


@cache
def moments_of_two():
    """Over all batches of two, of what is `measured` of either estimator, in this order."""

    def both(params, batch):
        return [measured(estimator)(params, batch) for estimator in (CONSTANT, COUPLED)]

    return enumeration.moments(both, PROBLEM, batch_size=2)


@pytest.mark.parametrize("batch_size", [2, 3])
def test_signal_and_noise_are_exact_in_the_mean_over_all_batches(batch_size):
    if batch_size == 2:
        problem, found = PROBLEM, moments_of_two()
    else:
        problem = replace(PROBLEM, horizon=1)
        found = enumeration.moments(measured(CONSTANT), problem, batch_size=batch_size)
    single = enumeration.moments(CONSTANT, problem)
    signal, spread, square = found.mean[:3]
    truth = np.sum(single.mean**2), np.trace(single.covariance) / batch_size
    np.testing.assert_allclose((signal, spread), truth, rtol=0, atol=1e-12)
    # The control: the square of the estimate is too large, by the noise.
    np.testing.assert_allclose(square, sum(truth), rtol=0, atol=1e-12)
    assert square - signal > 1e-3


def test_a_coupled_baseline_is_measured_to_order_one_over_n():
    found = moments_of_two()
    _, spread, _ = np.split(found.mean, 2)[1][:3]
    exact = np.trace(found.covariance[-PARAMS.size :, -PARAMS.size :])
    assert 1e-3 < abs(spread - exact) < exact  # why the docstring says so


@cache
def noise_and_gradients():
    """Number of trajectories -> signal and noise, and the gradient of each of forty."""
    policy, estimator = PROBLEM.policy, pgjax.reinforce(0.9)

    @jax.jit
    def computed(batch):
        weight = estimators.score_weights(estimator, batch, batch.log_prob)
        first = jax.tree.map(lambda x: x[:1], batch)
        of_one = noise.signal_and_noise(policy, PARAMS, first, weight[:1])
        of_all = noise.signal_and_noise(policy, PARAMS, batch, weight)
        each = pgjax.per_trajectory_gradients(estimator, policy, PARAMS, batch)
        return {1: of_one, 40: of_all}, each

    return jax.device_get(computed(batch_of(np.random.default_rng(0), N=40, T=2)))


@pytest.mark.parametrize("number", [1, 40])
def test_trajectories_that_fill_no_group_are_left_out_and_counted(number):
    found, each = noise_and_gradients()
    signal, spread = found[number]
    if number == 1:
        assert np.isnan(signal)
        assert np.isnan(spread)
        return
    size = number // 16
    groups = each[: 16 * size].reshape(16, size, -1).mean(1)
    of_mean = np.sum(np.var(groups, axis=0, ddof=1)) / 16
    np.testing.assert_allclose(signal, np.sum(groups.mean(0) ** 2) - of_mean, rtol=1e-5)
    np.testing.assert_allclose(spread, of_mean * 16 * size / number, rtol=1e-5)


NO_CRITIC = {"value_weight": 0.0, "learning_rate": 0.1}
ONE_STEP = {"epochs": 1, "num_minibatches": 1}


@pytest.mark.parametrize(
    ("learner", "is_whole"),
    [
        (reinforce(), True),
        (a2c(replace(A2C, **NO_CRITIC)), True),
        (ppo(replace(PPO, **NO_CRITIC, **ONE_STEP)), True),
        # The control: the critic's and the entropy's gradients are no part of what is measured.
        (a2c(replace(A2C, entropy_weight=0.3)), False),
    ],
    ids=["reinforce", "a2c", "ppo", "a2c with all terms"],
)
def test_signal_and_noise_are_of_the_update_s_gradient_and_change_nothing(learner, is_whole):
    start = learner.init(KEY)
    state, metrics = one_step(learner, start, np.True_)
    metrics = jax.device_get(metrics)
    square = float(metrics.gradient_norm) ** 2
    found = float(metrics.gradient_signal + metrics.gradient_noise)
    assert (abs(found - square) < 1e-5 * square) == is_whole
    again, unmeasured = one_step(learner, start, np.False_)
    assert np.isnan(unmeasured.gradient_signal)
    assert np.isnan(unmeasured.gradient_noise)
    assert_same_bits(state, again)
    in_a_scan = jax.eval_shape(learner.step, start)[1]
    assert in_a_scan.gradient_signal is None  # not even compiled


def test_a_loop_measures_the_first_of_every_ten_updates(monkeypatch):
    monkeypatch.setattr(algorithm, "MEASURED", 2)
    bound = reinforce_run()
    state, found = bound.start, []
    for index in (1, 2, 3):
        state, metrics = training.advance(bound, state, index)
        assert isinstance(metrics.gradient_noise, float)
        found.append(math.isfinite(metrics.gradient_noise))
    assert found == [True, False, True]


def test_the_learning_rate_is_that_of_the_last_step():
    for (_, metrics), steps in ((looped(reinforce(), KEY), 1), (looped(ppo(), KEY), 4)):
        done = steps * np.arange(1, UPDATES + 1) - 1
        expected = 0.1 * (1 - done / (steps * UPDATES))
        np.testing.assert_allclose([x.learning_rate for x in metrics], expected, rtol=1e-6)
    silent = reinforce(ON_EPISODES, optimizer=optax.sgd(0.1))
    assert jax.eval_shape(silent.step, silent.init(KEY))[1].learning_rate is None


def test_the_optimizers_that_state_their_rate_are_adam_bit_by_bit():
    schedule = optax.linear_schedule(0.1, 0.0, 3)
    pairs = [
        (falling_adam(learning_rate=0.1, num_updates=3), optax.adam(schedule)),
        (
            actor_critic.clipped_adam(0.1, num_gradient_steps=3, max_gradient_norm=0.5),
            optax.chain(optax.clip_by_global_norm(0.5), optax.adam(schedule, eps=1e-5)),
        ),
    ]

    def after_three_steps(optimizer, start):
        def step(carry, _):
            params, state = carry
            found, state = optimizer.update(start**2, state, params)
            return (optax.apply_updates(params, found), state), None

        return jax.lax.scan(step, (start, optimizer.init(start)), length=3)[0][0]

    @jax.jit
    def computed(start):
        return [[after_three_steps(optimizer, start) for optimizer in pair] for pair in pairs]

    for ours, usual in computed(PARAMS):
        np.testing.assert_array_equal(ours, usual)
        assert not np.array_equal(ours, PARAMS)
