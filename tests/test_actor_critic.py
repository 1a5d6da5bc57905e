"""Laws of A2C and PPO: their gradients by hand, their state, and that they climb an exact J."""

from dataclasses import replace
from functools import cache, partial
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
from pgjax.environments.base import Box, Environment, Step, limited
from pgjax.estimators import gradient
from pgjax.policies import MLP, flax_policy, gaussian_policy, tabular_softmax
from pgjax.training import Training, advance
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


def in_table(mdp, limit):
    steps: Any = np.int32(limit)  # an int would be static
    return limited(from_tabular.adapt(mdp), steps)


TABLE = in_table(MDP, limit=1000)  # no episode is as long
POLICY = tabular_softmax(4, 2)
SETTINGS = Settings(num_environments=8, num_steps=6, discount=MDP.discount, lambda_=0.9)
SEVERAL_STEPS = replace(SETTINGS, epochs=2, num_minibatches=4)
SGD, ADAM = optax.sgd(3.0), optax.adam(0.03)


class Linear(linen.Module):
    """A table of values, as a network over one-hot states."""

    @linen.compact
    def __call__(self, observation: Array) -> Array:
        return linen.Dense(1, use_bias=False)(observation)


AGENT = agents.separate(POLICY, Linear())


def start():
    """A policy that is uniform nowhere, and a critic that is wrong."""
    table = np.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]], np.float32)
    kernel = np.array([[0.4], [-0.3], [0.2], [0.1]], np.float32)
    return {"policy": table, "critic": {"params": {"Dense_0": {"kernel": kernel}}}}


def window_of(stream):
    policy, table = POLICY, start()["policy"]
    return windows.window(policy, table, TABLE, stream, num_steps=SETTINGS.num_steps)[1]


@cache
def one_window():
    return window_of(windows.start(TABLE, jax.random.key(0), SETTINGS.num_environments))


@jax.jit
def valued(window, settings):
    """A window's rows, its batch with the critic's values, and the returns with them."""
    rows = actor_critic.rows_of(AGENT, start(), window, settings)
    batch = windows.with_values(window, partial(AGENT.value, start()))
    return rows, batch, weights.returns_to_go(batch, settings.discount)


returns_to_go = jax.jit(weights.returns_to_go)


@pytest.fixture(scope="module")
def rows():
    return jax.device_get(valued(one_window(), SETTINGS)[0])


@partial(jax.jit, static_argnums=(0, 4))
def ascent(term, settings, params, rows, agent=AGENT):
    return jax.grad(partial(objective, agent, term, settings), has_aux=True)(params, rows)[0]


def standardised(advantage):
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def test_a2c_ascends_the_estimate_of_weights_and_score_divided_by_the_steps(rows):
    batch = jax.device_get(valued(one_window(), SETTINGS)[1])
    assert (batch.terminated | batch.truncated)[:, :-1].any()  # several episodes in a row
    weigh = weights.mismatched_generalized_advantage(SETTINGS.discount, SETTINGS.lambda_)
    expected = gradient(Estimator(weigh, terms.score), POLICY, start()["policy"], batch)
    found = ascent(terms.score, SETTINGS, start(), rows)["policy"]
    expected = np.asarray(expected) / SETTINGS.num_steps
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_ppo_ascends_the_standardised_score_where_it_acted(rows):
    shaped = rows._replace(advantage=standardised(rows.advantage))
    expected = ascent(terms.score, SETTINGS, start(), shaped)

    def term(log_prob, behaviour_log_prob, advantage, mask):
        return terms.ppo_clip(0.2)(log_prob, behaviour_log_prob, standardised(advantage), mask)

    found = ascent(term, SETTINGS, start(), rows)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-7), found, expected)


def test_entropy_and_value_enter_with_their_own_gradients(rows):
    settings = replace(SETTINGS, entropy_weight=0.3, value_weight=0.7)
    silent = rows._replace(advantage=np.zeros_like(rows.advantage))
    found = ascent(terms.score, settings, start(), silent)

    def mean_entropy(table):
        return jnp.mean(jax.vmap(partial(POLICY.entropy, table))(rows.observation))

    expected = 0.3 * np.asarray(jax.jit(jax.grad(mean_entropy))(start()["policy"]))
    np.testing.assert_allclose(found["policy"], expected, rtol=0, atol=1e-7)
    observation, target = rows.observation, rows.target
    value = observation @ start()["critic"]["params"]["Dense_0"]["kernel"][:, 0]
    pull = 0.7 * observation.T @ (target - value) / value.size
    kernel = np.asarray(found["critic"]["params"]["Dense_0"]["kernel"])[:, 0]
    np.testing.assert_allclose(kernel, pull, rtol=0, atol=1e-7)


def test_targets_are_lambda_returns():
    rows, _, returns = valued(one_window(), replace(SETTINGS, lambda_=1.0))
    target = np.reshape(rows.target, (8, 6))
    np.testing.assert_allclose(target, returns, rtol=0, atol=1e-6)


def test_a_gradient_in_chunks_is_that_of_all_rows(rows, monkeypatch):
    settings = replace(SETTINGS, entropy_weight=0.3, value_weight=0.7)
    term = actor_critic.standardized_clip(0.2)
    moved = jax.tree.map(lambda x: x * np.float32(1.1), start())  # so that ratios differ from one
    parts = jax.tree.map(lambda x: x.reshape(6, 8, *x.shape[1:]), rows)
    whole = jax.value_and_grad(partial(objective, AGENT, term, settings), has_aux=True)
    in_chunks = partial(objective_and_gradient, AGENT, term, settings)
    monkeypatch.setattr(chunks, "CPU_ROWS", 10)  # 48 rows in five chunks, the last one padded

    @jax.jit
    def computed(params, rows, parts):
        return (
            whole(params, rows),
            in_chunks(params, rows),
            jax.vmap(whole, (None, 0))(params, parts),
        )

    ((value, shown), gradient), found, (_, apart) = jax.device_get(computed(moved, rows, parts))
    close = partial(np.testing.assert_allclose, rtol=0, atol=3e-7)
    jax.tree.map(close, found, (value, shown, gradient))
    mean = jax.tree.map(lambda x: np.mean(x, axis=0), apart)  # standardized apart
    assert max(np.abs(flatten(mean) - flatten(gradient))) > 1e-3


def rows_with(observation, advantage):
    """Rows of one action, for a critic whose target is zero."""
    zeros = np.zeros(len(observation), np.float32)
    return Rows(*jax.device_put((observation, zeros.astype(int), zeros, advantage, zeros)))


@partial(jax.jit, static_argnums=1)
def improved(agent, optimizer, settings, params, rows, key):
    """Parameters and optimizer state after the steps of all epochs, from the first state."""
    state = optimizer.init(params)
    return improve(agent, optimizer, settings, terms.score, params, state, rows, key)[:2]


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
    observation = random.normal(size=(12, 4)).astype(np.float32)
    advantage = random.normal(size=12).astype(np.float32)
    rows = rows_with(observation, advantage)
    settings = replace(SETTINGS, epochs=3, num_minibatches=4)
    optimizer, table = optax.sgd(1.0), np.zeros((4, 2), np.float32)
    found = improved(agent, optimizer, settings, table, rows, jax.random.key(0))[0]
    expected = 3 * 4 * (observation.T @ advantage) / 12
    np.testing.assert_allclose(np.asarray(found)[:, 0], expected, rtol=0, atol=1e-5)


def test_each_epoch_deals_its_minibatches_anew():
    """The optimizer keeps its gradients: that of row i is e_i, so they name the rows dealt."""
    policy = replace(POLICY, log_prob=lambda params, seen, action: seen @ params)
    agent = agents.ActorCritic(
        lambda key, seen: jnp.zeros(16),
        replace(policy, entropy=lambda params, seen: jnp.zeros(())),
        lambda params: params,
        lambda params, seen: jnp.zeros(()),
    )
    zeros = np.zeros(16, np.float32)
    rows = rows_with(np.eye(16, dtype=np.float32), zeros + 1)

    def note(updates: Any, state: Any, params: Any = None) -> Any:
        return jnp.zeros(16), jnp.roll(state, -1, 0).at[-1].set(updates)

    keep = optax.GradientTransformation(lambda params: jnp.zeros((12, 16)), note)
    settings = replace(SETTINGS, epochs=3, num_minibatches=4)

    def dealt(seed):
        _, kept = improved(agent, keep, settings, zeros, rows, jax.random.key(seed))
        minibatches = (np.asarray(kept) != 0).reshape(3, 4, 16)
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
    window = jax.device_get(one_window())
    unit = actor_critic.ReturnScale(jnp.zeros(()), jnp.zeros(()))
    scale_rewards = jax.jit(actor_critic.scale_rewards)
    squares = []
    for factor in (1.0, 5.0, 0.1):
        reward = np.float32(factor) * window.batch.reward
        given = window._replace(batch=replace(window.batch, reward=reward))
        returns = np.asarray(returns_to_go(given.batch, SETTINGS.discount))
        squares.append(np.mean(returns**2))
        unit, found = scale_rewards(unit, given, SETTINGS.discount)
        expected = reward / np.sqrt(np.mean(squares))
        np.testing.assert_allclose(found.batch.reward, expected, rtol=1e-5)
    last_alone = reward / np.sqrt(squares[-1])
    assert not np.allclose(found.batch.reward, last_alone, rtol=0.5)


@jax.jit
def one_step(algorithm, state, measure):
    state, metrics = algorithm.step(state, measure)
    return state, metrics._replace(finite=None), metrics.finite


@pytest.fixture(autouse=True)
def one_program(monkeypatch):
    """Runs that differ in their numbers alone share one program."""

    def begin(algorithm, key, params):
        return Training(algorithm.init(key, params), partial(one_step, algorithm), algorithm.acting)

    monkeypatch.setattr(actor_critic, "begin", begin)


def run(algorithm, settings, optimizer, environment=TABLE):
    key = jax.random.key(1)
    return algorithm(AGENT, start(), environment, key, optimizer=optimizer, settings=settings)


run_in = partial(run, actor_critic.a2c, SETTINGS, SGD)


def after(training, num_updates, state=None):
    state = training.start if state is None else state
    state, metrics = advance(training, state, 1)
    for index in range(2, num_updates + 1):
        state, metrics = advance(training, state, index)
    return state, metrics


@pytest.mark.parametrize(
    ("algorithm", "settings", "optimizer", "num_updates"),
    [(actor_critic.a2c, SETTINGS, SGD, 120), (actor_critic.ppo, SEVERAL_STEPS, ADAM, 60)],
    ids=["a2c", "ppo"],
)
def test_both_ascend_the_exact_objective(algorithm, settings, optimizer, num_updates):
    training = run(algorithm, settings, optimizer)
    state, metrics = after(training, num_updates)
    before, found = (
        exact.objective(Problem(MDP, POLICY, training.params(x), None))
        for x in (training.start, state)
    )
    best = max(
        exact.objective(Problem(MDP, POLICY, 50.0 * np.eye(2)[list(actions)], None))
        for actions in product(range(2), repeat=4)
    )
    assert found > before + 0.9 * (best - before), (before, found, best)
    assert metrics.steps == 8 * 6
    assert metrics.mean_length >= 1


def test_an_update_by_sgd_is_the_rate_times_the_ascent():
    training = run(actor_critic.a2c, SETTINGS, SGD)
    state, metrics = after(training, 1)
    window = jax.device_get(window_of(training.start.stream))
    returns = np.asarray(returns_to_go(window.batch, SETTINGS.discount))
    reward = window.batch.reward / np.sqrt(np.mean(returns**2))
    window = window._replace(batch=replace(window.batch, reward=reward))
    upwards = ascent(terms.score, SETTINGS, start(), valued(window, SETTINGS)[0])
    expected = jax.tree.map(lambda x, y: x + 3.0 * np.asarray(y), start(), upwards)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), state.params, expected)
    assert metrics.gradient_norm == pytest.approx(np.linalg.norm(flatten(upwards)), rel=1e-5)


def test_a_saved_state_goes_on_as_if_it_had_never_stopped():
    training = run(actor_critic.ppo, SEVERAL_STEPS, ADAM)
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
    anew = run(actor_critic.ppo, SEVERAL_STEPS, ADAM).start
    again, _ = after(training, 4, anew)  # by the same program
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def test_the_scale_of_rewards_does_not_matter():
    """A power of two, so that not even rounding differs."""
    large = in_table(MDP.replace(reward=1024 * np.asarray(MDP.reward)), limit=1000)
    states = [after(run_in(environment), 3)[0] for environment in (TABLE, large)]
    jax.tree.map(np.testing.assert_array_equal, states[0].params, states[1].params)
    mean, other = (state.finished.mean_return for state in states)
    assert other == pytest.approx(1024 * float(mean))  # what is reported is as it was


def endless(reward, limit):
    """The same reward each step, infinite from 1e39 on, and only a time limit ends an episode."""
    first = np.zeros(MDP.transition.shape)
    first[..., 0] = 1  # every action leads to the first state
    same = np.full(MDP.reward.shape, reward)
    mdp = MDP.replace(transition=first, reward=same, initial=first[0, 0])
    return in_table(mdp, limit)


def test_returns_are_missing_until_an_episode_ends_and_then_the_last_known():
    training = run_in(endless(1.0, limit=15))
    state, found = training.start, []
    for _ in range(5):
        state, metrics = after(training, 1, state)
        found.append((metrics.mean_return, metrics.mean_length))
    # Windows of 6 steps: one episode of each stream ends in the third, the next in the fifth.
    np.testing.assert_array_equal(found, [[x, x] for x in (np.nan, np.nan, 15, 15, 15)])


@pytest.mark.parametrize(
    ("environment", "factor", "stage"),
    [
        (endless(1e39, limit=1000), 1.0, "reward, value, gradient, optimizer step"),
        (TABLE, np.nan, "value, gradient, optimizer step"),
    ],
    ids=["a reward", "the critic"],
)
def test_what_is_not_finite_stops_the_run_and_is_named(environment, factor, stage):
    training = run_in(environment)
    params = training.start.params
    critic = jax.tree.map(lambda x: x * np.float32(factor), params["critic"])
    state = training.start._replace(params=params | {"critic": critic})
    with pytest.raises(FloatingPointError, match=f"update 7: not finite: {stage}"):
        advance(training, state, 7)


class Both(linen.Module):
    """Logits and a value out of one hidden layer."""

    @linen.compact
    def __call__(self, observation: Array) -> tuple[Array, Array]:
        x = linen.tanh(linen.Dense(8)(observation))
        return linen.Dense(2)(x), linen.Dense(1)(x)


def test_a_shared_network_is_pulled_by_policy_and_critic(rows):
    agent = agents.shared(Both())
    shapes = jax.eval_shape(agent.init, jax.random.key(0), np.zeros(4, np.float32))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: random.normal(size=x.shape).astype(x.dtype), shapes)
    silent = rows._replace(advantage=np.zeros_like(rows.advantage))
    without_critic = replace(SETTINGS, value_weight=0.0)
    by_critic, by_policy = (
        ascent(terms.score, settings, params, given, agent)["params"]
        for settings, given in ((SETTINGS, silent), (without_critic, rows))
    )
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
    target = np.array([1.0, -2.0], np.float32)

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
    params = jax.jit(agent.init)(jax.random.key(0), np.ones(1, np.float32))
    settings = Settings(32, 4, 1.0, 1.0, epochs=4, num_minibatches=4)
    optimizer = actor_critic.clipped_adam(0.05, num_gradient_steps=60 * 16, max_gradient_norm=1.0)
    state, _ = after(
        actor_critic.ppo(
            agent, params, throw, jax.random.key(0), optimizer=optimizer, settings=settings
        ),
        60,
    )
    np.testing.assert_allclose(state.params["policy"]["mean"], target, atol=0.1)
    assert (np.asarray(state.params["policy"]["log_std"]) < -1).all()


def test_adam_is_clipped_and_its_rate_falls_to_zero():
    optimizer = actor_critic.clipped_adam(0.1, num_gradient_steps=4, max_gradient_norm=0.5)
    gradients = np.array([300.0, -400.0], np.float32)
    first = state = jax.jit(optimizer.init)(gradients)
    steps, update = [], jax.jit(optimizer.update)
    for _ in range(6):
        step, state = update(gradients, state)
        steps.append(np.abs(np.asarray(step)))
    # Adam's first steps are the rate itself, but for its ε beside a clipped gradient.
    expected = np.array([0.1, 0.075, 0.05, 0.025, 0, 0])[:, None] * np.ones(2)
    np.testing.assert_allclose(steps, expected, rtol=1e-4)
    stated = jax.jit(partial(stated_learning_rate, optimizer))
    assert stated(state) == 0
    _, second = update(gradients, first)
    assert stated(second) == np.float32(0.1)
    # Runs that were saved before the rate was stated can go on.
    plain = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(lambda step: 0.1, eps=1e-5))
    assert jax.tree.structure(state) == jax.tree.structure(jax.eval_shape(plain.init, gradients))


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
        run(actor_critic.a2c, replace(SETTINGS, **change), SGD)


def test_a_critic_of_several_numbers_is_refused():
    refused = (Both(), TypeError, "got a tuple"), (MLP(2), ValueError, r"got shape \(2,\)")
    for critic, error, words in refused:
        agent = agents.separate(POLICY, critic)
        params = jax.eval_shape(agent.init, jax.random.key(0), np.zeros(4, np.float32))
        with pytest.raises(error, match=f"a critic must give one number, {words}; use MLP"):
            jax.eval_shape(agent.value, params, np.zeros(4, np.float32))
