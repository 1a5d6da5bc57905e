"""Policies with a memory on windows: carried from window to window, reset inside, and trained."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pgjax
from pgjax import agents, tabular, training, windows
from pgjax.core.episode_boundaries import is_first_step
from pgjax.environments import from_tabular
from pgjax.training import A2CSettings, PPOSettings, actor_critic, minibatches

WALK = from_tabular.adapt(tabular.random_mdp())
N, T = 4, 6
SGD = optax.sgd(0.1)
SETTINGS = A2CSettings(num_environments=N, num_steps=T, entropy_weight=0.1)


def init(key, observation):
    size = observation.shape[0]
    into, out, first = jax.random.normal(key, (3, size, size))
    return {"into": into, "out": out[:2], "first": first[0]}


def remember(params, memory, observation):
    memory = jnp.tanh(0.9 * memory + params["into"] @ observation)
    return memory, params["out"] @ memory


# The memory that an episode begins with is a parameter, too.
POLICY = pgjax.recurrent_policy(init, lambda params: params["first"], remember)
AGENT = agents.ActorCritic(
    init=lambda key, seen: {"policy": init(key, seen), "critic": jnp.zeros(4)},
    policy=POLICY,
    acting=lambda params: params["policy"],
    value=lambda params, seen: seen @ params["critic"],
)
RANDOM = np.random.default_rng(0)
ACTING = {
    name: RANDOM.normal(size=size).astype(np.float32)
    for name, size in {"into": (4, 4), "out": (2, 4), "first": 4}.items()
}
PARAMS = {"policy": ACTING, "critic": np.ones(4, np.float32)}


def started(number=N):
    return windows.start(WALK, jax.random.key(1), number, ACTING["first"])


@jax.jit
def stored(params, stream):
    """Of a window: it, the sampler's log-probabilities, and those recomputed from its rows."""
    stream, window = windows.window(POLICY, params["policy"], WALK, stream, num_steps=T)
    settings = actor_critic.Settings(N, T, 0.9, 0.9)
    rows = actor_critic.rows_of(AGENT, params, window, settings)
    forgotten = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (N, *x.shape)), POLICY.memory(params["policy"])
    )
    dropped = rows._replace(memory=forgotten)
    never_reset = rows._replace(is_first=jnp.zeros((N, T), bool))
    each = rows, dropped, never_reset
    found = [minibatches.scores(POLICY, params["policy"], x)[0] for x in each]
    return stream, window, (rows.log_prob, *found)


@pytest.fixture(scope="module")
def three_windows():
    """Three in a row, of which the second and third begin within episodes."""
    stream, found = started(), []
    for _ in range(3):
        stream, *rest = stored(PARAMS, stream)
        found.append(jax.device_get(rest))
    return found


def test_log_probabilities_recomputed_on_the_stored_window_are_the_sampler_s(three_windows):
    apart = {"memory": [], "reset": []}
    inside = 0
    for window, (sampled, again, without_memory, without_reset) in three_windows:
        np.testing.assert_allclose(again, sampled, rtol=0, atol=1e-6)
        apart["memory"].append(np.max(np.abs(without_memory - sampled)))
        apart["reset"].append(np.max(np.abs(without_reset - sampled)))
        inside += np.sum(window.ended[:, :-1])
        assert np.all(window.batch.mask)
    # The controls: in the first window, all begin with the initial memory, and later they do not.
    assert apart["memory"][0] < 1e-6
    assert min(apart["memory"][1:]) > 1e-2
    assert inside > 0
    assert max(apart["reset"]) > 1e-2


def test_two_windows_in_a_row_are_the_window_of_both_lengths():
    act = partial(windows.window, POLICY, ACTING, WALK)
    stream, first = act(started(), num_steps=T)
    end, second = act(stream, num_steps=T)
    whole_end, whole = act(started(), num_steps=2 * T)
    for name in ("action", "log_prob", "reward", "time"):
        pieces = [getattr(window.batch, name) for window in (first, second)]
        np.testing.assert_array_equal(np.concatenate(pieces, 1), getattr(whole.batch, name))
    np.testing.assert_array_equal(end.running.memory, whole_end.running.memory)
    np.testing.assert_array_equal(second.memory, stream.running.memory)


def test_the_gradient_on_a_first_window_is_the_estimators_own():
    """There every row begins an episode, and `pgjax.gradient` unrolls from the same memory."""
    _, window = windows.window(POLICY, ACTING, WALK, started(), num_steps=T)
    settings = actor_critic.Settings(N, T, 0.9, 0.9, value_weight=0.0)

    @jax.jit
    def both(acting, window):
        rows = actor_critic.rows_of(AGENT, PARAMS, window, settings)

        def aim(acting):
            params = PARAMS | {"policy": acting}
            return minibatches.objective(AGENT, pgjax.terms.score, settings, params, rows)[0]

        estimator = pgjax.Estimator(lambda batch, log_prob: rows.advantage / T, pgjax.terms.score)
        expected = pgjax.gradient(estimator, POLICY, acting, window.batch)
        return jax.grad(aim)(acting), expected, is_first_step(window.batch)

    found, expected, is_first = jax.device_get(both(ACTING, window))
    assert np.any(is_first[:, 1:])
    for name in ("into", "out"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
    # The memory before a row's first step is a constant: no gradient goes back through it.
    assert not np.allclose(found["first"], expected["first"], rtol=1e-2)
    assert np.any(found["first"] != 0)  # but through that of episodes that begin inside


def test_ppo_and_a2c_train_it_and_stay_on_policy_until_the_first_step():
    one_step = PPOSettings(num_environments=N, num_steps=T, epochs=1, num_minibatches=1)
    learners = (
        training.a2c(WALK, SETTINGS, agent=AGENT),
        training.ppo(WALK, one_step, agent=AGENT, optimizer=SGD),
    )

    @jax.jit
    def train(key, params):
        return [training.run(learner, key, params=params, num_updates=3) for learner in learners]

    for learner, (state, metrics) in zip(learners, train(jax.random.key(2), PARAMS), strict=True):
        # The KL from the policy that acted is zero before the first step, in each later window too.
        np.testing.assert_allclose(metrics.approximate_kl, 0, atol=1e-6)
        assert not np.array_equal(learner.acting(state)["into"], ACTING["into"])
        assert np.all(np.isfinite(np.asarray(metrics.entropy)))


def test_minibatches_hold_whole_rows_and_their_number_must_divide_the_environments(three_windows):
    window, *_ = three_windows[1]
    settings = actor_critic.Settings(N, T, 0.9, 0.9, num_minibatches=2, epochs=2)

    @jax.jit
    def improved(window):
        rows = actor_critic.rows_of(AGENT, PARAMS, window, settings)
        given = AGENT, SGD, settings, pgjax.terms.ppo_clip(0.2), PARAMS, SGD.init(PARAMS), rows
        return minibatches.improve(*given, jax.random.key(0))

    params, _, norm, _ = improved(window)
    assert np.isfinite(norm)
    assert not np.array_equal(params["policy"]["into"], ACTING["into"])
    even = PPOSettings(num_environments=N, num_steps=T, num_minibatches=2)
    assert not training.ppo(WALK, even, agent=AGENT).measures
    with pytest.raises(ValueError, match="num_minibatches must divide the 4 environments of a pol"):
        training.ppo(WALK, PPOSettings(num_environments=N, num_steps=T), agent=AGENT)


def test_a_stream_without_the_policy_s_memory_is_refused_with_the_fix():
    without = windows.start(WALK, jax.random.key(0), N)
    for policy, stream in ((POLICY, without), (pgjax.tabular_softmax(4, 2), started())):
        with pytest.raises(ValueError, match=r"stream must carry a memory .*policy\.memory"):
            windows.window(policy, ACTING, WALK, stream, num_steps=T)
