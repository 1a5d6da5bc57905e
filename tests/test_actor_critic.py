"""Laws of A2C and PPO: their gradients by hand, their state, and that they climb an exact J."""

from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from jax import Array

from pgjax import Problem, actor_critic, agents, exact, tabular, terms, weights, windows
from pgjax.core import chunks
from pgjax.core.float64 import flatten
from pgjax.environments import from_tabular
from pgjax.environments.base import Box, Environment, Step
from pgjax.estimators import gradient
from pgjax.policies import MLP, flax_policy, gaussian_policy, tabular_softmax
from pgjax.training import advance
from pgjax.training.minibatches import (
    Rows,
    Settings,
    improve,
    objective,
    objective_and_gradient,
)
from pgjax.training.noise import stated_learning_rate
from pgjax.types import Estimator, Policy

MDP = tabular.random_mdp()
TABLE = from_tabular.adapt(MDP)
POLICY = tabular_softmax(4, 2)
SETTINGS = Settings(num_environments=8, num_steps=6, discount=MDP.discount, lambda_=0.9)


class Linear(linen.Module):
    """A table of values, as a network over one-hot states."""

    @linen.compact
    def __call__(self, observation: Array) -> Array:
        return linen.Dense(1, use_bias=False)(observation)


AGENT = agents.separate(POLICY, Linear())


def start():
    """A policy that is uniform nowhere, and a critic that is wrong."""
    table = jnp.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]])
    critic = {"params": {"Dense_0": {"kernel": jnp.array([[0.4], [-0.3], [0.2], [0.1]])}}}
    return {"policy": table, "critic": critic}


def one_window(settings=SETTINGS):
    stream = windows.start(TABLE, jax.random.key(0), settings.num_environments)
    return windows.window(POLICY, start()["policy"], TABLE, stream, num_steps=settings.num_steps)[1]


@pytest.fixture(scope="module")
def rows():
    return actor_critic.rows_of(AGENT, start(), one_window(), SETTINGS)


def ascent(term, settings, params, rows):
    gradient_of = jax.jit(jax.grad(partial(objective, AGENT, term, settings), has_aux=True))
    return gradient_of(params, rows)[0]


def standardised(advantage):
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def test_a2c_ascends_the_estimate_of_weights_and_score_divided_by_the_steps(rows):
    batch = windows.with_values(one_window(), partial(AGENT.value, start()))
    assert (batch.terminated | batch.truncated)[:, :-1].any()  # several episodes in a row
    weigh = weights.mismatched_generalized_advantage(SETTINGS.discount, SETTINGS.lambda_)
    expected = gradient(Estimator(weigh, terms.score), POLICY, start()["policy"], batch)
    found = ascent(terms.score, SETTINGS, start(), rows)["policy"]
    np.testing.assert_allclose(found, expected / SETTINGS.num_steps, rtol=0, atol=1e-7)


def test_ppo_ascends_the_standardised_score_where_it_acted(rows):
    shaped = rows._replace(advantage=standardised(rows.advantage))
    expected = ascent(terms.score, SETTINGS, start(), shaped)

    def term(log_prob, behaviour_log_prob, advantage, mask):
        return terms.ppo_clip(0.2)(log_prob, behaviour_log_prob, standardised(advantage), mask)

    found = ascent(term, SETTINGS, start(), rows)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-7), found, expected)


def test_entropy_and_value_enter_with_their_own_gradients(rows):
    settings = replace(SETTINGS, entropy_weight=0.3, value_weight=0.7)
    silent = rows._replace(advantage=jnp.zeros_like(rows.advantage))
    found = ascent(terms.score, settings, start(), silent)

    def mean_entropy(table):
        return jnp.mean(jax.vmap(partial(POLICY.entropy, table))(rows.observation))

    expected = 0.3 * np.asarray(jax.jit(jax.grad(mean_entropy))(start()["policy"]))
    np.testing.assert_allclose(found["policy"], expected, rtol=0, atol=1e-7)
    observation, target = np.asarray(rows.observation), np.asarray(rows.target)
    value = observation @ np.asarray(start()["critic"]["params"]["Dense_0"]["kernel"])[:, 0]
    pull = 0.7 * observation.T @ (target - value) / value.size
    kernel = np.asarray(found["critic"]["params"]["Dense_0"]["kernel"])[:, 0]
    np.testing.assert_allclose(kernel, pull, rtol=0, atol=1e-7)


def test_targets_are_lambda_returns():
    batch = windows.with_values(one_window(), partial(AGENT.value, start()))
    rows = actor_critic.rows_of(AGENT, start(), one_window(), replace(SETTINGS, lambda_=1.0))
    returns = weights.returns_to_go(batch, SETTINGS.discount)
    np.testing.assert_allclose(rows.target.reshape(8, 6), returns, rtol=0, atol=1e-6)


def test_a_gradient_in_chunks_is_that_of_all_rows(rows, monkeypatch):
    settings = replace(SETTINGS, entropy_weight=0.3, value_weight=0.7)
    term = actor_critic.standardized_clip(0.2)
    moved = jax.tree.map(lambda x: x * 1.1, start())  # so that ratios differ from one
    whole = jax.value_and_grad(partial(objective, AGENT, term, settings), has_aux=True)
    (value, shown), gradient = whole(moved, rows)
    monkeypatch.setattr(chunks, "CPU_ROWS", 10)  # 48 rows in five chunks, the last one padded
    found = objective_and_gradient(AGENT, term, settings, moved, rows)
    close = partial(np.testing.assert_allclose, rtol=0, atol=3e-7)
    jax.tree.map(close, found, (value, shown, gradient))
    parts = jax.tree.map(lambda x: x.reshape(6, 8, *x.shape[1:]), rows)
    apart = jax.vmap(jax.grad(partial(objective, AGENT, term, settings), has_aux=True), (None, 0))
    mean = jax.tree.map(partial(jnp.mean, axis=0), apart(moved, parts)[0])  # standardized apart
    assert max(np.abs(flatten(mean) - flatten(gradient))) > 1e-3


def test_an_epoch_goes_through_every_row_once():
    """With a term whose gradient no step changes, the steps add up whatever the order."""
    policy = replace(POLICY, log_prob=lambda table, seen, action: seen @ table[:, 0])
    agent = agents.ActorCritic(
        lambda key, seen: jnp.zeros((4, 2)),
        policy,
        lambda table: table,
        lambda table, seen: jnp.zeros(()),
    )
    random = np.random.default_rng(0)
    observation = jnp.asarray(random.normal(size=(12, 4)), jnp.float32)
    advantage = jnp.asarray(random.normal(size=12), jnp.float32)
    rows = Rows(observation, jnp.zeros(12, int), jnp.zeros(12), advantage, jnp.zeros(12))
    settings = replace(SETTINGS, epochs=3, num_minibatches=4)
    optimizer, zeros = optax.sgd(1.0), jnp.zeros((4, 2))
    state, key = optimizer.init(zeros), jax.random.key(0)
    params, *_ = improve(agent, optimizer, settings, terms.score, zeros, state, rows, key)
    expected = 3 * 4 * (observation.T @ advantage) / 12
    np.testing.assert_allclose(params[:, 0], expected, rtol=0, atol=1e-5)


def test_each_epoch_deals_its_minibatches_anew():
    """The optimizer keeps its gradients: that of row i is e_i, so they name the rows dealt."""
    policy = replace(POLICY, log_prob=lambda params, seen, action: seen @ params)
    agent = agents.ActorCritic(
        lambda key, seen: jnp.zeros(16),
        replace(policy, entropy=lambda params, seen: jnp.zeros(())),
        lambda params: params,
        lambda params, seen: jnp.zeros(()),
    )
    rows = Rows(jnp.eye(16), jnp.zeros(16, int), jnp.zeros(16), jnp.ones(16), jnp.zeros(16))

    def note(updates: Any, state: Any, params: Any = None) -> Any:
        return jnp.zeros(16), jnp.roll(state, -1, 0).at[-1].set(updates)

    keep = optax.GradientTransformation(lambda params: jnp.zeros((12, 16)), note)
    settings = replace(SETTINGS, epochs=3, num_minibatches=4)

    def dealt(seed):
        zeros, key = jnp.zeros(16), jax.random.key(seed)
        _, kept, *_ = improve(
            agent, keep, settings, terms.score, zeros, keep.init(zeros), rows, key
        )
        minibatches = np.asarray(kept != 0).reshape(3, 4, 16)
        assert (minibatches.sum(1) == 1).all()  # an epoch deals every row once
        assert (minibatches.sum(2) == 4).all()
        return [{frozenset(np.flatnonzero(part)) for part in epoch} for epoch in minibatches]

    # There are 16! / (4!^4 4!) = 2.6 million deals: two agree by chance once in as many keys.
    first, second, third = dealt(0)
    assert first != second != third != first
    assert dealt(1)[0] != first
    assert dealt(0) == [first, second, third]


def test_the_unit_of_rewards_is_of_all_windows_so_far():
    """√ of the mean over windows of their mean squared return, each window counting once."""
    window, unit = one_window(), actor_critic.ReturnScale(jnp.zeros(()), jnp.zeros(()))
    squares = []
    for factor in (1.0, 5.0, 0.1):
        reward = factor * window.batch.reward
        given = window._replace(batch=replace(window.batch, reward=reward))
        returns = weights.returns_to_go(given.batch, SETTINGS.discount)
        squares.append(float(jnp.mean(returns**2)))
        unit, found = actor_critic.scale_rewards(unit, given, SETTINGS.discount)
        expected = reward / np.sqrt(np.mean(squares))
        np.testing.assert_allclose(found.batch.reward, expected, rtol=1e-5)
    last_alone = reward / np.sqrt(squares[-1])
    assert not np.allclose(found.batch.reward, last_alone, rtol=0.5)


def run(algorithm, settings=SETTINGS, environment=TABLE, optimizer=None, seed=1, agent=AGENT):
    return algorithm(
        agent,
        start(),
        environment,
        jax.random.key(seed),
        optimizer=optimizer or optax.adam(0.03),
        settings=settings,
    )


def after(training, num_updates, state=None):
    state = training.start if state is None else state
    state, metrics = advance(training, state, 1)
    for index in range(2, num_updates + 1):
        state, metrics = advance(training, state, index)
    return state, metrics


@pytest.mark.parametrize("algorithm", [actor_critic.a2c, actor_critic.ppo])
def test_both_ascend_the_exact_objective(algorithm):
    several = {"epochs": 4, "num_minibatches": 2} if algorithm is actor_critic.ppo else {}
    training = run(algorithm, replace(SETTINGS, num_environments=32, **several))
    state, metrics = after(training, 40 if several else 120)
    before, found = (
        exact.objective(Problem(MDP, POLICY, training.params(x), None))
        for x in (training.start, state)
    )
    best = max(
        exact.objective(Problem(MDP, POLICY, 50.0 * np.eye(2)[list(actions)], None))
        for actions in product(range(2), repeat=4)
    )
    assert found > before + 0.9 * (best - before), (before, found, best)
    assert metrics.steps == 32 * 6
    assert metrics.mean_length >= 1


def test_an_update_by_sgd_is_the_rate_times_the_ascent():
    training = run(actor_critic.a2c, optimizer=optax.sgd(0.1))
    state, metrics = after(training, 1)
    window = windows.window(
        POLICY, start()["policy"], TABLE, training.start.stream, num_steps=SETTINGS.num_steps
    )[1]
    returns = jax.jit(weights.returns_to_go)(window.batch, SETTINGS.discount)
    unit = np.sqrt(np.mean(np.asarray(returns) ** 2))
    reward = jnp.asarray(np.asarray(window.batch.reward) / unit)
    window = window._replace(batch=replace(window.batch, reward=reward))
    rows = actor_critic.rows_of(AGENT, start(), window, SETTINGS)
    upwards = ascent(terms.score, SETTINGS, start(), rows)
    expected = jax.tree.map(lambda x, y: x + 0.1 * y, start(), upwards)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), state.params, expected)
    assert metrics.gradient_norm == pytest.approx(float(optax.tree.norm(upwards)), rel=1e-5)


def test_a_saved_state_goes_on_as_if_it_had_never_stopped():
    training = run(actor_critic.ppo, replace(SETTINGS, epochs=2, num_minibatches=4))
    middle, _ = after(training, 2)
    leaves, structure = jax.tree.flatten(middle)
    loaded = []
    for leaf in leaves:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        saved = jnp.asarray(np.asarray(jax.random.key_data(leaf) if is_key else leaf))
        loaded.append(jax.random.wrap_key_data(saved) if is_key else saved)
    resumed, _ = after(training, 2, jax.tree.unflatten(structure, loaded))
    whole, _ = after(training, 4)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    again, _ = after(run(actor_critic.ppo, replace(SETTINGS, epochs=2, num_minibatches=4)), 4)
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def test_the_scale_of_rewards_does_not_matter():
    """A power of two, so that not even rounding differs."""
    large = from_tabular.adapt(MDP.replace(reward=1024 * np.asarray(MDP.reward)))
    states = [after(run(actor_critic.a2c, environment=e), 3)[0] for e in (TABLE, large)]
    jax.tree.map(np.testing.assert_array_equal, states[0].params, states[1].params)
    mean, other = (state.finished.mean_return for state in states)
    assert other == pytest.approx(1024 * float(mean))  # what is reported is as it was


def endless(reward, limit=1_000):
    """One state, a reward each step, and only a time limit ends it."""

    def show(time):
        return time, Step(jax.nn.one_hot(0, 4), reward, False, time >= limit)

    return Environment(
        lambda key: show(jnp.int32(0)),
        lambda key, time, action: show(time + 1),
        TABLE.action_space,
        limit,
    )


def test_returns_are_missing_until_an_episode_ends_and_then_the_last_known():
    training = run(actor_critic.a2c, environment=endless(1.0, limit=15))
    state, found = training.start, []
    for _ in range(5):
        state, metrics = after(training, 1, state)
        found.append((metrics.mean_return, metrics.mean_length))
    # Windows of 6 steps: one episode of each stream ends in the third, the next in the fifth.
    np.testing.assert_array_equal(found, [[x, x] for x in (np.nan, np.nan, 15, 15, 15)])


@pytest.mark.parametrize(
    ("environment", "agent", "stage"),
    [
        (endless(jnp.nan), AGENT, "reward, value, gradient, optimizer step"),
        (TABLE, replace(AGENT, value=lambda params, seen: jnp.nan), "value, gradient, optimizer"),
    ],
)
def test_what_is_not_finite_stops_the_run_and_is_named(environment, agent, stage):
    training = run(actor_critic.a2c, environment=environment, agent=agent)
    with pytest.raises(FloatingPointError, match=f"update 7: not finite: {stage}"):
        advance(training, training.start, 7)


class Both(linen.Module):
    """Logits and a value out of one hidden layer."""

    @linen.compact
    def __call__(self, observation: Array) -> tuple[Array, Array]:
        x = linen.tanh(linen.Dense(8)(observation))
        return linen.Dense(2)(x), linen.Dense(1)(x)


def test_a_shared_network_is_pulled_by_policy_and_critic(rows):
    agent = agents.shared(Both())
    params = jax.jit(agent.init)(jax.random.key(0), jnp.zeros(4))
    pull = jax.jit(jax.grad(partial(objective, agent, terms.score, SETTINGS), has_aux=True))
    silent = rows._replace(advantage=jnp.zeros_like(rows.advantage))
    value = jax.jit(jax.vmap(agent.value, (None, 0)))
    right = rows._replace(target=value(params, rows.observation))
    by_critic, by_policy = (pull(params, x)[0]["params"] for x in (silent, right))
    for found in (by_critic, by_policy):
        assert np.linalg.norm(flatten(found["Dense_0"])) > 1e-3
    for untouched in (by_critic["Dense_1"], by_policy["Dense_2"]):
        assert not np.any(flatten(untouched))


def test_an_objective_goes_through_each_network_once(rows):
    policy = flax_policy(MLP(2, (4,)))
    parts = replace(policy, entropy=lambda params, observation: jnp.zeros(()))  # needs no network

    def products(policy: Policy) -> int:
        agent = agents.separate(policy, Linear())
        params = jax.eval_shape(agent.init, jax.random.key(0), rows.observation[0])
        aim = jax.grad(partial(objective, agent, terms.score, SETTINGS), has_aux=True)
        return str(jax.make_jaxpr(aim)(params, rows)).count("dot_general")

    def twice(
        params: Any, observation: Array
    ) -> Array:  # the same number, but a network pass of its own
        return policy.entropy(params, observation)

    assert products(policy) == products(parts) < products(replace(policy, entropy=twice))


def test_ppo_finds_a_continuous_action():
    """A target at (1, −2), and the squared distance to it as the price of a step."""
    target = jnp.array([1.0, -2.0])

    def show(reward, terminated):
        return (), Step(jnp.ones(1), reward, terminated, False)

    throw = Environment(
        lambda key: show(0.0, False),
        lambda key, state, action: show(-jnp.sum((action - target) ** 2), True),
        Box((-9.0, -9.0), (9.0, 9.0), (2,)),
    )
    policy: Policy = gaussian_policy(
        lambda key, seen: {"mean": jnp.zeros(2), "log_std": jnp.zeros(2)},
        lambda params, seen: (params["mean"], params["log_std"]),
    )
    agent = agents.separate(policy, Linear())
    params = jax.jit(agent.init)(jax.random.key(0), jnp.ones(1))
    settings = Settings(32, 4, 1.0, 1.0, epochs=4, num_minibatches=4)
    optimizer = actor_critic.clipped_adam(0.05, num_gradient_steps=60 * 16, max_gradient_norm=1.0)
    state, _ = after(
        actor_critic.ppo(
            agent, params, throw, jax.random.key(0), optimizer=optimizer, settings=settings
        ),
        60,
    )
    np.testing.assert_allclose(state.params["policy"]["mean"], target, atol=0.1)
    assert (state.params["policy"]["log_std"] < -1).all()


def test_adam_is_clipped_and_its_rate_falls_to_zero():
    optimizer = actor_critic.clipped_adam(0.1, num_gradient_steps=4, max_gradient_norm=0.5)
    gradients, state = jnp.array([300.0, -400.0]), None
    state = optimizer.init(gradients)
    steps, update = [], jax.jit(optimizer.update)
    for _ in range(6):
        step, state = update(gradients, state)
        steps.append(np.abs(np.asarray(step)))
    # Adam's first steps are the rate itself, but for its ε beside a clipped gradient.
    expected = np.array([0.1, 0.075, 0.05, 0.025, 0, 0])[:, None] * np.ones(2)
    np.testing.assert_allclose(steps, expected, rtol=1e-4)
    assert stated_learning_rate(optimizer, state) == 0
    _, second = update(gradients, optimizer.init(gradients))
    assert stated_learning_rate(optimizer, second) == np.float32(0.1)
    # Runs that were saved before the rate was stated can go on.
    plain = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(lambda step: 0.1, eps=1e-5))
    assert jax.tree.structure(state) == jax.tree.structure(plain.init(gradients))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_minibatches": 5}, "num_minibatches must divide the 48 rows"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"lambda_": 1.5}, r"lambda_ must lie in \[0, 1\], got 1.5"),
        ({"discount": -0.1}, r"discount must lie in \[0, 1\], got -0.1"),
        ({"entropy_weight": -1.0}, "entropy_weight must be at least 0, got -1"),
        ({"value_weight": float("nan")}, "value_weight must be at least 0, got nan"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(change, message):
    with pytest.raises(ValueError, match=message):
        run(actor_critic.a2c, replace(SETTINGS, **change))


def test_a_critic_of_several_numbers_is_refused():
    refused = (Both(), TypeError, "got a tuple"), (MLP(2), ValueError, r"got shape \(2,\)")
    for critic, error, words in refused:
        agent = agents.separate(POLICY, critic)
        params = jax.jit(agent.init)(jax.random.key(0), jnp.zeros(4))
        with pytest.raises(error, match=f"a critic must give one number, {words}; use MLP"):
            agent.value(params, jnp.zeros(4))
