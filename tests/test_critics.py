"""Critics: their values are arrays in the batch, and a fit is least squares."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pgjax
from pgjax import Problem, baselines, critics, enumeration, weights

MDP, HORIZON = pgjax.tabular.random_mdp(), 4
POLICY = pgjax.tabular_softmax(4, 2)
TABLE = np.array([1.0, -2.0, 0.5, 7.0])
returns_to_go = jax.jit(weights.returns_to_go)


@pytest.fixture(scope="module")
def batch(table):
    with jax.enable_x64(True):
        found, _ = enumeration.trajectories(Problem(MDP, POLICY, table, HORIZON))
        yield jax.device_put(found)


def test_recorded_values_are_the_baseline_of_the_same_function(batch, table):
    recorded = pgjax.reward_to_go(0.9, baseline=baselines.recorded_value)
    direct = pgjax.reward_to_go(0.9, baseline=baselines.state_value(lambda s: s @ TABLE))

    @jax.jit
    def gradients(params, batch):
        filled = critics.with_values(jnp.dot, jnp.asarray(TABLE), batch)
        pairs = (recorded, filled), (direct, batch)
        return [pgjax.gradient(estimator, POLICY, params, each) for estimator, each in pairs]

    one, other = gradients(table, batch)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)


def test_a_critic_of_other_episodes_is_an_unbiased_baseline(table):
    problem = Problem(MDP, POLICY, table, HORIZON)
    plain = pgjax.exact.gradient(problem).ravel()

    def estimate(params, batch):
        batch = critics.with_values(jnp.dot, jnp.asarray(TABLE), batch)
        estimator = pgjax.reward_to_go(MDP.discount, baseline=baselines.recorded_value)
        return pgjax.gradient(estimator, POLICY, params, batch)

    def fitted_to_its_own(params, batch):
        target = weights.returns_to_go(batch, MDP.discount)
        sgd = optax.sgd(0.5)
        own = critics.fit(jnp.dot, jnp.zeros(4), batch, target, sgd, num_steps=40)
        estimator = pgjax.reward_to_go(MDP.discount, baseline=baselines.recorded_value)
        batch = critics.with_values(jnp.dot, own, batch)
        return pgjax.gradient(estimator, POLICY, params, batch)

    found = enumeration.moments(estimate, problem)
    np.testing.assert_allclose(found.mean, plain, rtol=0, atol=1e-12)
    wrong = enumeration.moments(fitted_to_its_own, problem)
    assert np.linalg.norm(wrong.mean - plain) > 0.3 * np.linalg.norm(plain)


def test_a_fit_is_least_squares(batch):
    target = returns_to_go(batch, MDP.discount)
    live = np.asarray(batch.mask)
    rows, wanted = np.asarray(batch.observation)[live], np.asarray(target)[live]
    best = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    fit = partial(critics.fit, jnp.dot, optimizer=optax.sgd(1.0), num_steps=400)
    found = jax.jit(fit)(np.zeros(4), batch, target)
    np.testing.assert_allclose(found, best, rtol=0, atol=1e-9)


def test_a_cut_episode_bootstraps_only_where_asked_to(batch):
    cut = replace(batch, terminated=jax.device_put(np.zeros(batch.mask.shape, bool)))

    @jax.jit
    def computed(table, batch):
        filled = critics.with_values(jnp.dot, table, batch)
        asked = critics.with_bootstrap(jnp.dot, table, batch)
        return [weights.returns_to_go(each, 0.5) for each in (batch, filled, asked)]

    none, plain, found = jax.device_get(computed(TABLE, cut))
    np.testing.assert_array_equal(plain, none)
    length = np.asarray(cut.mask).sum(1)
    expected = 0.5**length * (np.asarray(cut.final_observation) @ TABLE)
    np.testing.assert_allclose(found[:, 0] - plain[:, 0], expected, rtol=0, atol=1e-14)


def test_garbage_after_the_end_reaches_neither_values_nor_fit(batch):
    dead = ~np.asarray(batch.mask)
    observation = np.where(dead[..., None], np.nan, batch.observation)
    spoilt = replace(batch, observation=jax.device_put(observation))

    @jax.jit
    def computed(table, batch):
        target = jnp.where(batch.mask, 1.0, jnp.nan)
        fitted = critics.fit(jnp.dot, jnp.zeros(4), batch, target, optax.sgd(0.1), num_steps=3)
        return critics.with_values(jnp.dot, table, batch).value, fitted

    for one, other in zip(computed(TABLE, spoilt), computed(TABLE, batch), strict=True):
        np.testing.assert_array_equal(one, other)


def test_values_of_dead_steps_are_zero(batch):
    """Of a critic that has no zero: elsewhere they are its values."""
    fill = jax.jit(partial(critics.with_values, lambda params, s: s @ params + 3))
    found = np.asarray(fill(TABLE, batch).value)
    live = np.asarray(batch.mask)
    assert not live.all()
    np.testing.assert_array_equal(found[~live], 0)
    observation = np.asarray(batch.observation)
    np.testing.assert_allclose(found[live], observation[live] @ TABLE + 3, rtol=1e-14)


def test_what_is_no_critic_is_refused(batch):
    value = critics.flax_value(pgjax.MLP(2))
    params = jax.eval_shape(pgjax.MLP(2).init, jax.random.key(0), np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=r"one number, got shape \(2,\); use MLP\(1\)"):
        jax.eval_shape(value, params, np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=r"target must have shape \[N, T\]"):
        critics.fit(jnp.dot, jnp.zeros(4), batch, jnp.zeros(3), optax.sgd(0.1), num_steps=1)
