"""Laws of algorithms as records: one scan is the loop, and vmap goes over seeds and settings."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from pgjax import (
    actor_critic,
    agents,
    baselines,
    reward_to_go,
    tabular,
    terms,
    training,
    weights,
    windows,
)
from pgjax.environments.conversion import as_environment
from pgjax.policies import tabular_softmax
from pgjax.records import configured
from pgjax.settings import SETTINGS
from pgjax.training import A2CSettings, PPOSettings, ReinforceSettings
from pgjax.training.algorithms import falling_adam
from pgjax.types import Estimator

MDP = tabular.random_mdp()
POLICY = tabular_softmax(4, 2)
AGENT = agents.separate(POLICY, linen.Dense(1, kernel_init=linen.initializers.normal(1.0)))
KEY = jax.random.key(3)
UPDATES = 3
ON_EPISODES = ReinforceSettings(
    num_updates=UPDATES, num_trajectories=8, num_steps=5, discount=0.9, learning_rate=0.1
)
PPO = PPOSettings(
    num_updates=UPDATES,
    num_environments=4,
    num_steps=6,
    discount=0.9,
    epochs=2,
    num_minibatches=2,
    learning_rate=0.1,
)
A2C = A2CSettings(num_updates=UPDATES, num_environments=4, num_steps=6, learning_rate=0.1)


def reinforce(settings=ON_EPISODES, **own):
    return training.reinforce(MDP, settings, policy=POLICY, **own)


def ppo(settings=PPO, **own):
    return training.ppo(MDP, settings, agent=AGENT, **own)


def a2c(settings=A2C, **own):
    return training.a2c(MDP, settings, agent=AGENT, **own)


TRACES = []
"""One entry for each time that `one_step` was traced."""


@jax.jit
def one_step(algorithm, state, measure):
    """One program for all algorithms that differ in their numbers alone."""
    TRACES.append(type(algorithm))
    return algorithm.step(state, measure)


def looped(algorithm, key):
    """The last state of a loop in Python, and the metrics of each update."""
    state, found = algorithm.init(key), []
    for _ in range(UPDATES):
        state, metrics = one_step(algorithm, state, np.False_)
        found.append(jax.device_get(metrics))
    return state, found


def bits(tree):
    def plain(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return [plain(x) for x in jax.tree.leaves(tree)]


def assert_same_bits(one, other):
    for x, y in zip(bits(one), bits(other), strict=True):
        np.testing.assert_array_equal(x, y)


@cache
def reinforce_run():
    params = np.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]], np.float32)
    return training.begin(reinforce(), KEY, params)


def assert_same_training(one: Any, other: Any):
    """One start, one program and its constants: all states agree bit by bit."""
    assert_same_bits(one.start, other.start)
    ours, theirs = (each.step.trace(one.start, True).jaxpr for each in (one, other))
    assert str(ours) == str(theirs)
    assert_same_bits(ours.consts, theirs.consts)


def test_reinforce_is_the_loop_of_train_bit_by_bit():
    start = reinforce_run().start
    params = start[0]
    theirs = training.policy_gradient(
        POLICY,
        params,
        MDP,
        KEY,
        estimator=reward_to_go(0.9, baseline=baselines.leave_one_out),
        optimizer=falling_adam(learning_rate=0.1, num_updates=UPDATES),
        num_trajectories=8,
        num_steps=5,
    )
    assert_same_training(reinforce_run(), theirs)
    assert not np.array_equal(one_step(reinforce(), start, np.False_)[0][0], params)


def test_ppo_is_the_training_of_the_same_name_bit_by_bit():
    # Without parameters a part of the key draws them, and the rest is the training's.
    init_key, train_key = jax.random.split(KEY)
    theirs = actor_critic.ppo(
        AGENT,
        training.initial_params(AGENT, MDP, init_key),
        MDP,
        train_key,
        optimizer=actor_critic.clipped_adam(
            0.1, num_gradient_steps=UPDATES * 4, max_gradient_norm=0.5
        ),
        settings=actor_critic.Settings(
            num_environments=4,
            num_steps=6,
            discount=0.9,
            lambda_=0.95,
            epochs=2,
            num_minibatches=2,
        ),
    )
    assert_same_training(training.begin(ppo(), KEY), theirs)


def test_one_scan_mapped_over_seeds_and_settings_is_each_loop_alone():
    names = ("learning_rate", "discount", "lambda_", "clip", "entropy_weight", "max_gradient_norm")
    rows = [0.1, 0.9, 0.9, 0.2, 0.0, 0.5], [0.02, 0.5, 0.2, 0.01, 0.3, 9.0]
    keys = jax.random.split(KEY, 2)
    pairs = (0, 0), (1, 1), (0, 1)  # of settings and seeds

    def made(numbers):
        return ppo(replace(PPO, **dict(zip(names, numbers, strict=True))))

    def whole_run(numbers, seed):
        state, metrics = training.run(made(numbers), keys[seed], UPDATES)
        return state.params, metrics.gradient_norm, metrics.finite

    settings, seeds = np.transpose(pairs)
    mapped = jax.jit(jax.vmap(whole_run))
    params, norms, finite = jax.device_get(mapped(np.array(rows, np.float32)[settings], seeds))
    # One program instead of three calls may round otherwise: a few units in the last place.
    close = partial(np.testing.assert_allclose, rtol=1e-5)
    for index, (i, j) in enumerate(pairs):
        last, each = looped(made(rows[i]), keys[j])
        jax.tree.map(lambda x, y, index=index: close(x[index], y), params, last.params)
        close(norms[index], [metrics.gradient_norm for metrics in each])
    assert all(x.all() for x in finite.values())
    # Controls: each setting, and the seed, changes what is learnt.
    learnt = params["policy"]
    for number, value in enumerate(rows[1]):
        other = [*rows[0][:number], value, *rows[0][number + 1 :]]
        alone = looped(made(other), keys[0])[0].params["policy"]
        assert not np.allclose(alone, learnt[0], rtol=0, atol=1e-5)
    assert not np.allclose(learnt[0], learnt[2], atol=1e-3)


def test_an_algorithm_is_an_argument_and_its_numbers_are_leaves():
    traces = len(TRACES)
    one, other = reinforce(), reinforce(replace(ON_EPISODES, learning_rate=0.2))
    start = one.init(KEY)
    states = [one_step(each, start, np.False_)[0] for each in (one, other, reinforce())]
    assert len(TRACES) <= traces + 1
    found = [np.asarray(params) for params, *_ in states]
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])
    assert one == reinforce()
    assert one != other


def scaled_advantage(batch, log_prob, *, factor):
    usual = weights.mismatched_generalized_advantage(A2C.discount, A2C.lambda_)
    return factor * usual(batch, log_prob)


def test_own_weights_move_the_policy_and_leave_the_critic_its_target():
    settings = replace(A2C, max_gradient_norm=1e9)  # a clip would scale both by the norm of both
    usual, idle, same = (
        a2c(settings, estimator=each)
        for each in (
            None,
            Estimator(configured(scaled_advantage, factor=0.0), terms.score),
            Estimator(configured(scaled_advantage, factor=1.0), terms.score),
        )
    )
    start = usual.init(KEY)
    ours, theirs, again = (one_step(each, start, np.False_)[0] for each in (idle, usual, same))
    np.testing.assert_array_equal(ours.params["policy"], start.params["policy"])
    assert not np.array_equal(theirs.params["policy"], start.params["policy"])
    assert_same_bits(ours.params["critic"], theirs.params["critic"])
    assert_same_bits(again.params, theirs.params)


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (reinforce, {"num_trajectories": 1}, "num_trajectories must be at least 2 .* got 1"),
        (reinforce, {"num_updates": 0}, "num_updates must be at least 1, got 0"),
        (reinforce, {"baseline": "mean"}, "baseline must be one of .* got 'mean'"),
        (reinforce, {"discount": 1.5}, r"discount must lie in \[0, 1\], got 1.5"),
        (ppo, {"learning_rate": 0.0}, "learning_rate must be positive, got 0"),
        (ppo, {"num_minibatches": 5}, "num_minibatches must divide the 24 rows"),
        (ppo, {"entropy_weight": -1.0}, "entropy_weight must be at least 0, got -1"),
        (ppo, {"clip": 2.0}, r"clip must lie in \[0, 1\], got 2"),
    ],
)
def test_bad_settings_are_named(make, change, message):
    settings = ON_EPISODES if make is reinforce else PPO
    with pytest.raises(ValueError, match=message):
        make(replace(settings, **change))


def test_other_settings_and_unknown_names_are_refused():
    with pytest.raises(TypeError, match="settings must be a PPOSettings, got"):
        training.ppo(MDP, A2C)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="did you mean CartPole-v1"):
        training.ppo("CartPole")


def test_every_field_says_what_it_means_on_the_command_line():
    for kind in SETTINGS.values():
        for field in kind.__dataclass_fields__.values():
            assert {"group", "must_be", "meaning", "option"} <= set(field.metadata), field.name


def test_what_one_watches_is_what_it_says_by_hand():
    state = a2c().init(KEY)
    _, metrics = one_step(a2c(), state, np.False_)
    settings = actor_critic.Settings(
        num_environments=4, num_steps=6, discount=A2C.discount, lambda_=A2C.lambda_
    )

    @jax.jit
    def rows_of(state):
        params, environment = state.params, as_environment(MDP)
        _, window = windows.window(POLICY, params["policy"], environment, state.stream, num_steps=6)
        _, scaled = actor_critic.scale_rewards(state.unit, window, A2C.discount)
        return actor_critic.rows_of(AGENT, params, scaled, settings)

    rows = rows_of(state)
    # The advantage of GAE is the target less the critic's value.
    error, target = np.asarray(rows.advantage, float), np.asarray(rows.target, float)
    close = partial(np.testing.assert_allclose, rtol=1e-5)
    close(metrics.value_loss, np.mean(error**2) / 2)
    close(metrics.policy_loss, -np.mean(error * np.asarray(rows.log_prob)))
    close(metrics.explained_variance, 1 - np.var(error) / np.var(target))
    # The policy of the only step is the one that acted; of PPO's later steps it is another one.
    assert metrics.approximate_kl == metrics.clip_fraction == 0
    first = looped(ppo(), KEY)[1][0]
    assert first.approximate_kl > 0
    assert 0 < first.clip_fraction < 1
