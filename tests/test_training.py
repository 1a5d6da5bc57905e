"""Laws of training: the step is an ascent, the loop is one program, and both are reproducible."""

from dataclasses import replace
from functools import cache

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pgjax import Problem, baselines, enumeration, exact, tabular
from pgjax.environments import from_gymnax
from pgjax.estimators import gradient, reward_to_go
from pgjax.policies import MLP, ConvNet, GaussianMLP, flax_policy, tabular_softmax
from pgjax.training import all_finite, evaluate, train, update
from pgjax.training.networks import (
    default_critic,
    default_gaussian_network,
    default_network,
    initial_params,
)
from pgjax.types import Trajectory

HORIZON = 6
MDP = tabular.random_mdp()
POLICY = tabular_softmax(4, 2)
ESTIMATOR = reward_to_go(MDP.discount, baseline=baselines.leave_one_out)


def start():
    return np.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]], np.float32)


@cache
def enumerated():
    """All episodes of three steps, and their probabilities."""
    return enumeration.trajectories(Problem(MDP, POLICY, start(), 3))


@pytest.fixture
def batch():
    """Twenty-four episodes, some of which terminate and some of which the last step cuts."""
    return jax.tree.map(lambda x: x[:96:4], enumerated()[0])


RATES = [0.0] * 3 + [0.5] * 20 + [np.inf]
"""Of the updates: at first only the batches can differ, and in the end the parameters overflow."""
ASCENT = optax.sgd(lambda count: jnp.array(RATES)[count])
UPDATES = len(RATES)


def run(estimator=ESTIMATOR, num_updates=UPDATES, num_trajectories=16):
    return train(
        POLICY,
        start(),
        MDP,
        jax.random.key(0),
        estimator=estimator,
        optimizer=ASCENT,
        num_updates=num_updates,
        num_trajectories=num_trajectories,
        num_steps=HORIZON,
    )


@cache
def trained():
    """Parameters and metrics after each update, and what the last one raised."""
    found, loop = [], run()
    with pytest.raises(FloatingPointError) as raised:
        found += loop
    return [(np.asarray(params), metrics) for params, metrics in found], str(raised.value)


@jax.jit
def step(batch):
    """One update by plain gradient ascent, at a rate of 0.1."""
    optimizer = optax.sgd(0.1)
    return update(ESTIMATOR, POLICY, optimizer, start(), optimizer.init(start()), batch)


def test_expected_sgd_step_is_the_exact_gradient():
    horizon = 3
    batch, probability = enumerated()
    optimizer, estimator = optax.sgd(1.0), reward_to_go(MDP.discount)

    def stepped(trajectory):
        one = jax.tree.map(lambda x: x[None], trajectory)
        return update(estimator, POLICY, optimizer, start(), optimizer.init(start()), one)[0]

    moved = np.asarray(jax.jit(jax.vmap(stepped))(batch)) - start()
    expected = np.tensordot(np.asarray(probability), moved, 1)
    truth = exact.gradient(Problem(MDP, POLICY, start(), horizon))
    # Float32 sums of a few hundred terms of order one.
    np.testing.assert_allclose(expected, truth, rtol=0, atol=1e-5)


def test_sgd_step_is_the_rate_times_the_estimate_upwards(batch):
    params, _, metrics = step(batch)
    ascent = np.asarray(jax.jit(gradient)(ESTIMATOR, POLICY, start(), batch))
    np.testing.assert_allclose(params, start() + 0.1 * ascent, rtol=1e-6)
    assert metrics.gradient_norm == pytest.approx(np.linalg.norm(ascent), rel=1e-6)


def test_training_ascends_the_exact_objective():
    before = exact.objective(Problem(MDP, POLICY, start(), HORIZON))
    params, _ = trained()[0][-1]
    assert exact.objective(Problem(MDP, POLICY, params, HORIZON)) > before + 0.2


def test_one_trace_serves_every_update_and_the_same_key_gives_the_same_bits():
    traces = []

    def weights(batch, log_prob):
        traces.append(batch.reward.shape)
        return ESTIMATOR.weights(batch, log_prob)

    again = run(estimator=replace(ESTIMATOR, weights=weights), num_updates=UPDATES - 1)
    again = [np.asarray(params) for params, _ in again]
    assert traces == [(16, HORIZON)]
    np.testing.assert_array_equal(again, [params for params, _ in trained()[0]])


def test_metrics_are_of_the_episodes_and_garbage_after_their_end_changes_nothing():
    nan = np.nan
    mask = np.array([[True, True, True], [True, False, False]])
    fields = {
        "observation": np.where(mask[:, :, None], [1.0, 0.0, 0.0, 0.0], nan),
        "action": np.zeros((2, 3), int),
        "reward": np.array([[1.0, 2.0, 3.0], [4.0, nan, nan]]),
        "log_prob": np.array([[-0.5, -0.5, -0.5], [-0.5, nan, nan]]),
        "terminated": np.array([[False, False, True], [True, True, True]]),
        "truncated": np.zeros((2, 3), bool),
        "mask": mask,
        "final_observation": np.zeros((2, 4)),
    }
    batch = Trajectory(**jax.device_put(jax.tree.map(lambda x: np.concatenate([x] * 12), fields)))
    params, _, metrics = step(batch)
    assert metrics.mean_return == 5
    assert metrics.standard_error == pytest.approx(23**-0.5)  # returns 6 and 4, twelve times each
    assert metrics.mean_length == 2
    assert metrics.steps == 4 * 12
    probability = np.exp(start()[0]) / np.sum(np.exp(start()[0]))
    entropy = -np.sum(probability * np.log(probability))
    assert metrics.entropy == pytest.approx(entropy, rel=1e-6)
    clean, _, _ = step(replace(batch, reward=jax.device_put(np.nan_to_num(batch.reward))))
    np.testing.assert_array_equal(params, clean)


def test_an_end_and_a_cut_differ_only_where_a_value_follows(batch):
    swapped = replace(batch, terminated=batch.truncated, truncated=batch.terminated)
    assert np.any(batch.terminated)
    assert np.any(batch.truncated & ~batch.terminated)
    # The task's own limit ends the sum: without values neither flag enters the step.
    np.testing.assert_array_equal(step(batch)[0], step(swapped)[0])
    ones = np.ones(24, np.float32)
    with_value = [step(b.replace(final_value=ones))[0] for b in (batch, swapped)]
    assert not np.allclose(with_value[0], with_value[1], rtol=1e-3)


def test_each_batch_is_fresh_and_parameters_that_overflow_are_never_yielded():
    found, error = trained()
    assert len(found) == UPDATES - 1
    assert error.startswith(f"update {UPDATES}: not finite: optimizer step")
    assert len({float(metrics.mean_return) for _, metrics in found[:3]}) == 3
    for params, _ in found[:3]:
        np.testing.assert_array_equal(params, start())


def test_mean_evaluated_return_is_the_undiscounted_objective():
    key = jax.random.key(7)
    found = evaluate(POLICY, start(), MDP, key, num_trajectories=4096, num_steps=HORIZON)
    returns = np.asarray(found, np.float64)
    undiscounted = replace(MDP, discount=1.0)
    truth = exact.objective(Problem(undiscounted, POLICY, start(), HORIZON))
    error = returns.std(ddof=1) / 64
    assert error < 0.05
    assert abs(returns.mean() - truth) < 5 * error  # false alarm: 6e-7


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("CartPole-v1", MLP(2)),
        ("Breakout-MinAtar", ConvNet(3)),
        ("Catch-bsuite", MLP(3)),
        ("FrozenLake-misc", MLP(4, num_categories=16)),
        ("FourRooms-misc", MLP(4)),
    ],
)
def test_default_network_fits_observations_and_actions(name, network):
    environment, environment_params = gymnax.make(name)
    assert default_network(environment) == network
    policy = flax_policy(network)

    def probabilities(key):
        params = initial_params(policy, environment, key)
        observation, _ = environment.reset_env(key, environment_params)
        return jax.nn.softmax(network.apply(params, observation))

    (num_actions,) = jax.eval_shape(probabilities, jax.random.key(0)).shape
    assert num_actions == environment.num_actions


def test_each_kind_of_action_has_its_network_and_the_other_is_refused():
    pendulum, cart_pole = gymnax.make("Pendulum-v1")[0], gymnax.make("CartPole-v1")[0]
    assert default_gaussian_network(pendulum) == GaussianMLP(1)
    assert default_network(from_gymnax.adapt(cart_pole)) == default_network(cart_pole)
    with pytest.raises(TypeError, match="Pendulum-v1 has actions in a Box space"):
        default_network(pendulum)
    with pytest.raises(TypeError, match=r"CartPole-v1 has Discrete.*needs a Box"):
        default_gaussian_network(cart_pole)


@pytest.mark.parametrize("name", ["Pendulum-v1", "Breakout-MinAtar", "FrozenLake-misc"])
def test_default_critic_gives_one_number(name):
    environment = gymnax.make(name)[0]
    critic = default_critic(environment)

    def value(key):
        observation, _ = environment.reset_env(key, environment.default_params)
        return critic.apply(critic.init(key, observation), observation)

    assert jax.eval_shape(value, jax.random.key(0)).shape == (1,)


def test_faults_are_named_in_the_order_in_which_they_spread():
    stages = {"zebra": jnp.array([1, jnp.nan]), "apple": {"x": 1.0, "y": jnp.inf}, "fine": 1.0}
    assert list(jax.jit(lambda: all_finite(stages))().items()) == [
        ("zebra", False),
        ("apple", False),
        ("fine", True),
    ]


def test_bad_counts_are_refused_before_the_loop_starts():
    with pytest.raises(ValueError, match="num_updates must be at least 1, got 0"):
        run(num_updates=0)
    with pytest.raises(TypeError, match=r"num_trajectories must be an integer, got 2\.5"):
        run(num_trajectories=2.5)  # pyright: ignore[reportArgumentType]
