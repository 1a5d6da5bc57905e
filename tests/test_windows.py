"""Laws of windows: their estimates are exact in expectation, and they are drawn as the chain says.

Every window of a tiny MDP is listed with its probability: several episodes in a row, new starts,
ends by termination, by a time limit, and by the window itself.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import stats

from pgjax import Problem, baselines, exact, terms, weights, windows
from pgjax.environments import from_tabular
from pgjax.environments.base import Box, Discrete, Environment, Step
from pgjax.estimators import per_trajectory_gradients
from pgjax.exact.tabular import TabularMDP
from pgjax.policies import gaussian_policy, softmax_policy, tabular_softmax
from pgjax.policies.recurrent import as_recurrent
from pgjax.types import Estimator, Trajectory

pytestmark = pytest.mark.usefixtures("strict")

LIMIT, T, GAMMA = 3, 4, 0.9
TRANSITION = np.zeros((3, 2, 3))
TRANSITION[0] = [[0.3, 0.7, 0], [0, 0.5, 0.5]]
TRANSITION[1] = [[1, 0, 0], [0, 0.4, 0.6]]
TRANSITION[2, :, 2] = 1
REWARD = np.random.default_rng(0).normal(size=(3, 2, 3))
MDP = TabularMDP(TRANSITION, REWARD, [0.6, 0.4, 0], [False, False, True], GAMMA)
PARAMS = np.array([[0.3, -0.4], [-0.8, 0.1], [0.0, 0.0]])
START = np.zeros((LIMIT, 3))
"""[age, S] where a window begins: within an episode as often as not."""
START[0], START[1], START[2] = [0.3, 0.1, 0], [0.1, 0.2, 0], [0.2, 0.1, 0]

# What is seen holds the episode's age, for the critic, whose values depend on it; the policy reads
# the state alone.
POLICY = softmax_policy(
    lambda key, seen: jnp.zeros((3, 2)), lambda params, seen: seen["state"] @ params
)


def show(limit, state, age, reward):
    seen = {"state": jax.nn.one_hot(state, 3), "age": age}
    return (state, age), Step(seen, jnp.asarray(reward), state == 2, age >= limit)


def draw(key, probability):
    return jax.random.categorical(key, jnp.log(probability)).astype(jnp.int32)


def begin(initial, limit, key):
    return show(limit, draw(key, initial), jnp.int32(0), 0.0)


def move(limit, key, placed, action):
    state, age = placed
    following = draw(key, jnp.asarray(TRANSITION)[state, action])
    return show(limit, following, age + 1, jnp.asarray(REWARD)[state, action, following])


def environment(initial=(0.6, 0.4, 0.0), limit=LIMIT):
    """The MDP with a time limit, on the surface. Its numbers are leaves, for one program of all."""
    return Environment(
        init=Partial(begin, np.array(initial), np.int32(limit)),
        step=Partial(move, np.int32(limit)),
        action_space=Discrete(2),
        time_limit=limit,
    )


ENVIRONMENT = environment()
STREAMS, LONG = 64, 150


class Paths(NamedTuple):
    """Every window of positive probability, as indices [M, T]."""

    state: np.ndarray
    age: np.ndarray
    action: np.ndarray
    following: np.ndarray
    probability: np.ndarray  # [M]


def policy_table():
    exponent = np.exp(PARAMS)
    return exponent / exponent.sum(1, keepdims=True)


def list_windows(start, num_steps):
    """Depth first, through ends and new starts."""
    pi, found = policy_table(), []

    def go_on(state, age, mass, path):
        if len(path) == num_steps:
            found.append((path, mass))
            return
        for action, following in product(range(2), range(3)):
            here = mass * pi[state, action] * TRANSITION[state, action, following]
            if here == 0:
                continue
            step = [*path, (state, age, action, following)]
            if following == 2 or age + 1 == LIMIT:
                # The window's last step starts no episode within it.
                starts = np.flatnonzero(MDP.initial) if len(step) < num_steps else [0]
                for first in starts:
                    share = MDP.initial[first] if len(step) < num_steps else 1
                    go_on(first, 0, here * share, step)
            else:
                go_on(following, age + 1, here, step)

    for age, state in zip(*np.nonzero(start), strict=True):
        go_on(int(state), int(age), start[age, state], [])
    indices = np.array([path for path, _ in found])
    state, age, action, following = np.moveaxis(indices, -1, 0)
    return Paths(state, age, action, following, np.array([mass for _, mass in found]))


def see(state, age):
    return {"state": jax.nn.one_hot(state, 3), "age": jnp.asarray(age, jnp.int32)}


def as_window(paths):
    """The Window that the sampler would have recorded."""
    state, age, action, following, _ = map(jnp.asarray, paths)
    terminated, truncated = following == 2, age + 1 == LIMIT
    log_prob = jnp.log(jnp.asarray(policy_table()))[state, action]
    after = see(following, age + 1)
    batch = Trajectory(
        observation=see(state, age),
        action=action,
        reward=jnp.asarray(REWARD)[state, action, following],
        log_prob=log_prob,
        terminated=terminated,
        truncated=truncated.at[:, -1].set(True),
        mask=jnp.ones(state.shape, bool),
        final_observation=jax.tree.map(lambda x: x[:, -1], after),
        time=jnp.asarray(age, jnp.int32),
    )
    return windows.Window(batch, after, terminated | truncated, jnp.zeros(state.shape))


def values_of(task):
    """[LIMIT + 1, S] and [LIMIT, S, A]: whether the limit is the task's own, or the sampler's."""
    if task == "limited":
        value = exact.state_values(Problem(MDP, POLICY_TABULAR, PARAMS, LIMIT))
        action_value = exact.action_values(Problem(MDP, POLICY_TABULAR, PARAMS, LIMIT))
        return np.concatenate([value, np.zeros((1, 3))]), action_value
    value = exact.state_values(Problem(MDP, POLICY_TABULAR, PARAMS, None))
    action_value = exact.action_values(Problem(MDP, POLICY_TABULAR, PARAMS, None))
    return np.tile(value, (LIMIT + 1, 1)), np.tile(action_value, (LIMIT, 1, 1))


POLICY_TABULAR = tabular_softmax(3, 2)


def table_value(table):
    table = jnp.asarray(table)
    return lambda seen: table[seen["age"]] @ seen["state"]


def truth(task):
    """Σ_t E[γ^age Σ_a ∇π(a|s) Q(s, a)] over the chain of episodes, by dynamic programming."""
    pi, (_, action_value) = policy_table(), values_of(task)
    jacobian = np.einsum("sa,ab->sab", pi, np.eye(2)) - np.einsum("sa,sb->sab", pi, pi)
    gradient, place = np.zeros((3, 2)), START
    for _ in range(T):
        for age in range(LIMIT):
            pull = np.einsum("sab,sa->sb", jacobian, action_value[age])
            gradient += GAMMA**age * place[age][:, None] * pull
        moved = np.einsum("hs,sa,sak->hk", place, pi, TRANSITION)
        following, ended = np.zeros_like(place), moved[:, 2].sum() + moved[LIMIT - 1, :2].sum()
        following[1:, :2] = moved[:-1, :2]
        following[0] += ended * MDP.initial
        place = following
    return gradient


PATHS = list_windows(START, T)
RETURN = baselines.recorded_value
WEIGHTS = {
    "GAE 0": weights.generalized_advantage(GAMMA, 0.0),
    "GAE 0.5": weights.generalized_advantage(GAMMA, 0.5),
    "GAE 1": weights.generalized_advantage(GAMMA, 1.0),
    "2 steps": weights.n_step(GAMMA, 2, baseline=RETURN),
    "returns": weights.reward_to_go(GAMMA),
}


@jax.jit
def weigh(weights, batch):
    """Weights are records: those of one kind share a program."""
    return weights(batch, batch.log_prob)


def scores():
    """[M, T, S, A] ∇log π(a|s) by each logit."""
    pi, every = policy_table(), np.eye(3)[PATHS.state]
    return every[..., None] * (np.eye(2)[PATHS.action] - pi[PATHS.state])[..., None, :]


def expectation(name, batch):
    """The exact expectation of the estimate from one window."""
    return np.einsum("m,mt,mtsa->sa", PATHS.probability, weigh(WEIGHTS[name], batch), scores())


def judged(task, value=None):
    value = values_of(task)[0] if value is None else value
    return judged_by(PATHS, value)


@jax.jit
def judged_by(paths, value):
    return windows.with_values(as_window(paths), table_value(value))


def test_the_listed_windows_are_all_there_is():
    assert PATHS.probability.sum() == pytest.approx(1, abs=1e-12)
    ended = (PATHS.following == 2) | (PATHS.age + 1 == LIMIT)
    assert ended[:, :-1].sum(1).max() >= 3  # episodes in one row
    assert (PATHS.age[:, 0] > 0).any()


@pytest.mark.parametrize("task", ["limited", "endless"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_expected_estimate_of_a_window_is_the_gradient_over_the_chain(task, name):
    found = expectation(name, judged(task))
    np.testing.assert_allclose(found, truth(task), rtol=0, atol=1e-10)


def test_each_window_is_a_trajectory_to_the_estimators():
    batch = judged("limited")
    estimator = Estimator(WEIGHTS["GAE 0.5"], terms.score)
    each = per_trajectory_gradients(estimator, POLICY, jnp.asarray(PARAMS), batch)
    expected = np.einsum("mt,mtsa->msa", weigh(WEIGHTS["GAE 0.5"], batch), scores())
    np.testing.assert_allclose(each, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["GAE 0", "GAE 0.5", "2 steps"])
def test_a_wrong_critic_biases_what_trusts_it(name):
    wrong = values_of("limited")[0] + np.array([0.5, -0.5, 0.0])
    error = expectation(name, judged("limited", wrong)) - truth("limited")
    assert np.abs(error).max() > 1e-3


def test_a_critic_of_the_endless_task_biases_the_limited_one():
    error = expectation("GAE 1", judged("endless")) - truth("limited")
    assert np.abs(error).max() > 1e-3


@pytest.mark.parametrize("task", ["limited", "endless"])
def test_asking_the_critic_about_a_reset_observation_is_biased(task):
    batch = judged(task)
    value, following = np.asarray(batch.value), np.asarray(batch.next_value)
    of_the_next_row = np.concatenate([value[:, 1:], following[:, -1:]], 1)
    wrong = replace(batch, next_value=of_the_next_row)
    error = expectation("GAE 1", wrong) - truth(task)
    assert np.abs(error).max() > 1e-3


def test_returns_that_leak_into_the_episode_before_are_biased():
    batch = judged("limited")
    never = np.zeros(batch.terminated.shape, bool)
    wrong = replace(batch, terminated=never, truncated=never)
    error = expectation("returns", wrong) - truth("limited")
    assert np.abs(error).max() > 1e-3


@pytest.mark.parametrize("task", ["limited", "endless"])
def test_a_cut_taken_for_an_end_is_biased(task):
    batch = judged(task)
    wrong = replace(batch, terminated=batch.terminated | batch.truncated)
    error = expectation("GAE 1", wrong) - truth(task)
    assert np.abs(error).max() > 1e-3


def test_discounting_from_the_start_of_the_window_is_biased():
    batch = judged("limited")
    wrong = replace(batch, time=np.broadcast_to(np.arange(T, dtype=np.int32), batch.mask.shape))
    error = expectation("GAE 1", wrong) - truth("limited")
    assert np.abs(error).max() > 1e-3


def drawn(environment, num_windows, num_steps, before=0):
    """A window of many streams, after some windows before it, and as NumPy arrays."""
    stream = windows.start(environment, jax.random.key(3), num_windows)
    act = partial(windows.window, POLICY, PARAMS, environment, num_steps=num_steps)
    for _ in range(before):
        stream, _ = act(stream)
    return jax.device_get(act(stream)[1])


def path_indices(window):
    """[N, T, 4] of a sampled window, as `Paths` has them."""
    batch = window.batch
    after = window.next_observation
    state, following = (seen["state"].argmax(-1) for seen in (batch.observation, after))
    return np.stack([state, batch.time, batch.action, following], -1)


def goodness_of_fit(window, paths):
    """The chi-square test's p-value; rare windows are counted together."""
    indices = np.stack([paths.state, paths.age, paths.action, paths.following], -1)
    which = {path.tobytes(): i for i, path in enumerate(indices.astype(np.int64))}
    sampled = path_indices(window).astype(np.int64)
    assert all(path.tobytes() in which for path in sampled)  # nothing impossible is drawn
    counts = np.bincount([which[path.tobytes()] for path in sampled], minlength=len(which))
    expected = len(sampled) * paths.probability
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    return stats.chisquare(counts, expected).pvalue


def test_windows_are_drawn_with_their_exact_probabilities():
    """False alarm: 1e-6."""
    fresh = np.zeros((LIMIT, 3))
    fresh[0] = MDP.initial
    paths = list_windows(fresh, T)
    assert goodness_of_fit(drawn(ENVIRONMENT, 20_000, T), paths) > 1e-6
    # Starts one part in ten elsewhere are told apart.
    other = environment(initial=(0.66, 0.34, 0.0))
    assert goodness_of_fit(drawn(other, 20_000, T), paths) < 1e-6


def test_a_window_that_begins_within_an_episode_knows_its_age():
    window = drawn(ENVIRONMENT, STREAMS, 2, before=1)
    np.testing.assert_array_equal(window.batch.time, window.batch.observation["age"])
    assert len(np.unique(window.batch.observation["age"][:, 0])) == LIMIT


def test_two_windows_in_a_row_are_one_longer_window():
    stream = windows.start(ENVIRONMENT, jax.random.key(0), STREAMS)
    act = partial(windows.window, POLICY, PARAMS, ENVIRONMENT)
    after, whole = act(stream, num_steps=2 * LONG)
    stream, first = act(stream, num_steps=LONG)
    stream, second = act(stream, num_steps=LONG)
    jax.tree.map(np.testing.assert_array_equal, stream._replace(keys=()), after._replace(keys=()))
    whole, first, second = jax.device_get((whole, first, second))
    # Only at the seam does the first window's own end count as a cut.
    cut = whole.batch.truncated | (np.arange(2 * LONG) == LONG - 1)
    whole = whole._replace(batch=replace(whole.batch, truncated=cut))
    for name in ("next_observation", "ended", "total"):
        parts = (getattr(window, name) for window in (first, second))
        joined = jax.tree.map(lambda *x: np.concatenate(x, 1), *parts)
        jax.tree.map(np.testing.assert_array_equal, joined, getattr(whole, name))
    last = second.batch.final_observation
    one, two = (replace(window.batch, final_observation=None) for window in (first, second))
    joined = jax.tree.map(lambda *x: np.concatenate(x, 1), one, two)
    joined = replace(joined, final_observation=last)
    jax.tree.map(np.testing.assert_array_equal, joined, whole.batch)


@jax.jit
def valued(table, window):
    return windows.with_values(window, table_value(table))


@pytest.mark.parametrize("limit", [LIMIT, 100])
def test_what_follows_is_judged_in_its_own_episode(limit):
    """Where no limit cuts inside the window, the critic is asked about the next steps only once."""
    table = np.random.default_rng(1).normal(size=(101, 3))
    window = drawn(environment(limit=limit), STREAMS, LONG)
    inside = (window.batch.truncated & ~window.batch.terminated)[:, :-1]
    assert inside.any() == (limit == LIMIT)
    batch = jax.device_get(valued(table, window))
    after = window.next_observation
    expected = np.take_along_axis(
        table[after["age"]], after["state"].argmax(-1)[..., None], -1
    ).squeeze(-1)
    np.testing.assert_array_equal(batch.next_value, np.where(batch.terminated, 0, expected))
    seen = batch.observation
    now = np.take_along_axis(table[seen["age"]], seen["state"].argmax(-1)[..., None], -1)
    np.testing.assert_array_equal(batch.value, now.squeeze(-1))


def test_values_written_into_a_window_are_constants():
    window = drawn(ENVIRONMENT, STREAMS, LONG)

    def total(table):
        batch = valued(table, window)
        return jnp.sum(batch.value + batch.next_value)

    found, slope = jax.jit(jax.value_and_grad(total))(np.ones((101, 3)))
    assert found > 0
    np.testing.assert_array_equal(slope, 0)


finished = jax.jit(windows.finished)


def test_statistics_are_of_whole_episodes_that_ended_in_the_window():
    stream = windows.start(ENVIRONMENT, jax.random.key(5), STREAMS)
    running, totals, lengths, found = np.zeros((STREAMS, 2)), [], [], None
    for _ in range(3):
        stream, window = windows.window(POLICY, PARAMS, ENVIRONMENT, stream, num_steps=2)
        reward, ended = np.asarray(window.batch.reward), np.asarray(window.ended)
        totals, lengths = [], []
        for t, i in product(range(2), range(STREAMS)):
            running[i] += [reward[i, t], 1]
            if ended[i, t]:
                totals.append(running[i, 0])
                lengths.append(running[i, 1])
                running[i] = 0
        found = finished(window)
    assert found is not None
    assert found.number == len(totals)
    assert found.mean_return == pytest.approx(np.mean(totals), abs=1e-12)
    assert found.mean_length == pytest.approx(np.mean(lengths), abs=1e-6)
    assert found.standard_error == pytest.approx(stats.sem(totals), abs=1e-12)


def test_statistics_of_no_episode_are_missing():
    window = drawn(ENVIRONMENT, STREAMS, 2)
    found = finished(window._replace(ended=np.zeros_like(window.ended)))
    assert found.number == 0
    assert all(np.isnan(x) for x in found[1:])


def test_illegal_actions_are_never_taken_and_the_mask_is_recorded():
    def show(time):
        legal = jnp.array([True, False]) == (time % 2 == 0)
        return time, Step(jax.nn.one_hot(0, 3), 1.0, False, time >= 3, legal)

    masked = Environment(
        init=lambda key: show(jnp.int32(0)),
        step=lambda key, time, action: show(time + 1),
        action_space=Discrete(2),
    )
    stream = windows.start(masked, jax.random.key(0), 2)
    _, window = windows.window(POLICY_TABULAR, PARAMS, masked, stream, num_steps=6)
    window = jax.device_get(window)
    seen = window.batch.observation
    np.testing.assert_array_equal(window.batch.action, [[0, 1, 0, 0, 1, 0]] * 2)
    np.testing.assert_array_equal(seen.action_mask[:, :, 0], window.batch.action == 0)


def test_bad_input_is_refused_with_the_fix():
    key = jax.random.key(0)
    with pytest.raises(TypeError, match=r"must be a pgjax Environment, .*got a tuple"):
        windows.start((MDP, None), key, 2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="num_environments must be at least 1, got 0"):
        windows.start(ENVIRONMENT, key, 0)
    stream = windows.start(ENVIRONMENT, key, STREAMS)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        windows.window(POLICY, PARAMS, ENVIRONMENT, stream, num_steps=0)
    remembering = as_recurrent(POLICY)  # of nothing: the window is that of the policy itself
    one, other = [
        jax.tree.leaves(windows.window(policy, PARAMS, ENVIRONMENT, stream, num_steps=2))
        for policy in (POLICY, remembering)
    ]
    same = jax.jit(lambda *both: [jnp.all(x == y) for x, y in zip(*both, strict=True)])
    assert all(same(one, other))


@pytest.mark.parametrize("space", [Discrete(2), Box((-1.0, -1.0), (1.0, 1.0), (2,))])
def test_actions_of_the_other_kind_are_refused(space):
    gaussian = gaussian_policy(
        lambda key, seen: jnp.zeros(2), lambda params, seen: (params, jnp.zeros(2))
    )
    table = replace(from_tabular.adapt(MDP), action_space=space)
    stream = windows.start(from_tabular.adapt(MDP), jax.random.key(0), 2)
    is_discrete = isinstance(space, Discrete)
    policy, params = (gaussian, jnp.zeros(2)) if is_discrete else (POLICY_TABULAR, PARAMS)
    with pytest.raises(TypeError, match="the policy samples"):
        windows.window(policy, params, table, stream, num_steps=2)
