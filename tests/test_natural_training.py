"""The natural step is F⁻¹g exactly, and TRPO's step stays within its divergence."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, softmax

import pgjax
from pgjax import beyond, enumeration, exact, tabular, training
from pgjax.training import ReinforceSettings, natural
from tests.walks import SMOOTH

BANDIT = tabular.two_armed_bandit()
POLICY = pgjax.tabular_softmax(3, 2)
ONE_STEP = ReinforceSettings(num_updates=1, num_trajectories=20, num_steps=1)
MDP, TABLE = tabular.random_mdp(), pgjax.tabular_softmax(4, 2)
SETTINGS = ReinforceSettings(num_updates=8, num_trajectories=16, num_steps=5)
ZEROS = np.zeros((4, 2), np.float32)
DELTA = 0.02
TRPO = training.trpo(MDP, SETTINGS, policy=TABLE, max_divergence=DELTA)
SCALE = natural.trust_region_scale


@pytest.fixture
def whole_law(monkeypatch):
    """A batch in which each trajectory stands as often as it is probable: 7, 3, 4 and 6 of 20."""
    with jax.enable_x64(True):
        problem = pgjax.Problem(BANDIT, POLICY, np.zeros((3, 2)), horizon=1)
        each, probability = enumeration.trajectories(problem)
        times = np.rint(20 * probability).astype(int)
        np.testing.assert_allclose(times / 20, probability, rtol=0, atol=1e-12)
        batch = jax.tree.map(lambda x: np.repeat(np.asarray(x), times, axis=0), each)
        batch = jax.device_put(batch)
        monkeypatch.setattr(natural, "rollout", lambda *_, **__: batch)
        yield problem


def test_the_natural_step_is_the_exact_natural_gradient(whole_law):
    learner = training.natural_policy_gradient(
        BANDIT,
        ONE_STEP,
        policy=POLICY,
        estimator=pgjax.reinforce(1.0),
        optimizer=optax.sgd(1.0),
        damping=0.0,
    )
    start = np.zeros((3, 2))
    step = jax.jit(lambda key: learner.step(learner.init(key, start)))
    state, metrics = step(jax.random.key(0))
    expected = beyond.exact_natural_gradient(whole_law)
    np.testing.assert_allclose(np.ravel(state[0]), expected, rtol=0, atol=1e-10)
    # The control: the plain gradient is another step.
    plain = exact.gradient(whole_law).ravel()
    np.testing.assert_allclose(metrics.gradient_norm, np.linalg.norm(plain), rtol=1e-10)
    assert np.max(np.abs(plain - expected)) > 0.01


def batch_of(state):
    """The batch that the next update on MDP draws."""
    _, batch_key = jax.random.split(state[2])
    return pgjax.rollout(TABLE, state[0], MDP, batch_key, num_trajectories=16, num_steps=5)


def fisher_and_gradient(params, batch):
    """The Fisher matrix [4, 2, 4, 2] and the gradient of reward-to-go, γ = 0.9, step by step."""
    probability, share = softmax(params, axis=-1), 0.9 ** np.arange(5) / 16
    weight = np.cumsum((share * batch.reward)[:, ::-1], axis=1)[:, ::-1]
    fisher, gradient = np.zeros((4, 2, 4, 2)), np.zeros((4, 2))
    for row, time in np.argwhere(batch.mask):
        state = np.argmax(batch.observation[row, time])
        p, taken = probability[state], np.eye(2)[batch.action[row, time]]
        fisher[state, :, state] += share[time] * (np.diag(p) - np.outer(p, p))
        gradient[state] += weight[row, time] * (taken - p)
    return fisher, gradient


def test_a_damped_step_solves_the_system_of_its_own_batch():
    with jax.enable_x64(True):
        start = np.random.default_rng(0).normal(size=(4, 2))
        learner = training.natural_policy_gradient(
            MDP,
            replace(SETTINGS, discount=0.9),
            policy=TABLE,
            estimator=pgjax.reward_to_go(0.9),
            optimizer=optax.sgd(0.5),
            damping=0.1,
            max_iterations=50,
        )

        @jax.jit
        def step(key):
            state = learner.init(key, start)
            (params, *_), _ = learner.step(state)
            return params, batch_of(state)

        params, batch = jax.device_get(step(jax.random.key(0)))
    fisher, gradient = fisher_and_gradient(start, batch)
    matrix, gradient = fisher.reshape(8, 8) + 0.1 * np.eye(8), gradient.ravel()
    moved = np.ravel(params - start)
    # Conjugate gradient stops at a residual of 1e-6 of the gradient.
    residual = matrix @ moved / 0.5 - gradient
    assert np.linalg.norm(residual) < 1e-5 * np.linalg.norm(gradient)


def mean_divergence(old, new, batch):
    """KL(π_old ‖ π_new), summed over actions, the mean over the steps of a batch."""
    state = np.argmax(np.asarray(batch.observation), -1)[np.asarray(batch.mask)]
    before, after = (log_softmax(np.asarray(x, np.float64), axis=-1) for x in (old, new))
    return np.sum(np.exp(before) * (before - after), -1)[state].mean()


@jax.jit
def trpo_step(state, factor):
    """The batch, and the update from it; it first tries its own step times the factor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(natural, "trust_region_scale", lambda *rest: factor * SCALE(*rest))
        return batch_of(state), *TRPO.step(state)


def test_trpo_stays_within_its_divergence_uses_it_and_improves():
    state = TRPO.init(jax.random.key(1), ZEROS)
    first, used = state, []
    for _ in range(SETTINGS.num_updates):
        batch, after, metrics = trpo_step(state, np.float32(1))
        found = mean_divergence(state[0], after[0], batch)
        np.testing.assert_allclose(metrics.approximate_kl, found, rtol=1e-3, atol=1e-7)
        assert found <= DELTA * (1 + 1e-3)
        used.append(found)
        state = after
    assert np.median(used) > DELTA / 5  # halved once, a step has a quarter of the divergence
    objective = [
        exact.objective(pgjax.Problem(MDP, TABLE, params, 5)) for params in (first[0], state[0])
    ]
    assert objective[1] > objective[0] + 0.1


def test_a_step_that_no_halving_makes_good_is_not_taken():
    start = TRPO.init(jax.random.key(1), ZEROS)
    # The control of the bound: a step 30 times as long is far beyond it, and the search halves it.
    _, after, metrics = jax.device_get(trpo_step(start, np.float32(30)))
    assert 0 < metrics.approximate_kl <= DELTA
    _, after, metrics = jax.device_get(trpo_step(start, np.float32(30 * 2**natural.HALVINGS)))
    assert metrics.approximate_kl == 0
    np.testing.assert_array_equal(after[0], start[0])


def test_continuous_actions_take_sampled_products():
    policy = pgjax.gaussian_policy(
        lambda key, seen: {"mean": jnp.zeros((1, 3)), "log_std": jnp.zeros(1)},
        lambda params, seen: (params["mean"] @ seen, params["log_std"]),
    )
    settings = ReinforceSettings(num_updates=2, num_trajectories=4, num_steps=6)
    learner = training.trpo(SMOOTH, settings, policy=policy, max_divergence=DELTA, damping=0.1)
    step = jax.jit(lambda key: learner.step(learner.init(key)))
    _, metrics = jax.device_get(step(jax.random.key(0)))
    assert 0 <= metrics.approximate_kl <= DELTA
    assert np.isfinite(metrics.gradient_norm)
