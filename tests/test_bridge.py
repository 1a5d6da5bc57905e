"""The bridge: each table is held to the environment that it is the table of, step by step.

Episodes of the real environment under uniformly random actions supply real states for every node of
the table; from each, the real `step_env` is drawn under many keys and every action. What arrives
must be in the table's support, must exhaust it, and must occur as often as the table says: one
chi-square over all states and actions, at a false alarm rate of 1e-6 for each environment.
"""

from dataclasses import replace
from functools import cache, partial

import gymnax
import jax
import numpy as np
import pytest
from scipy import stats

from pgjax import Problem, bridge, estimators, exact, flax_policy, rollout
from pgjax.environments import from_gymnax
from pgjax.environments.tables import laws, reachable_states
from pgjax.training import default_network

ALPHA = 1e-6
KEYS = 256  # draws for each state and action; a way of probability 1/6 is missed once in 1e20
BATCH = 4096  # episodes, and real steps at a time: one compilation for both


# The same objects for all tables: a step is compiled once for each object.
default = cache(bridge.make)
other = cache(gymnax.make)


def made(name, limit=None, **kwargs):
    environment, params = other(name, **kwargs) if kwargs else default(name)
    return environment, params if limit is None else params.replace(max_steps_in_episode=limit)


def four_rooms(limit=5, **kwargs):
    """Start and goal close by, so that few steps reach every cell of a small region."""
    environment, params = made("FourRooms-misc", limit, goal_fixed=(1, 3), pos_fixed=(2, 2))
    return environment, params.replace(**kwargs)


CASES = {
    "FrozenLake": lambda: made("FrozenLake-misc", limit=12),
    "FourRooms": four_rooms,
    "FourRooms, start drawn": lambda: four_rooms(limit=1, resample_init_pos=True),
    "Catch": lambda: made("Catch-bsuite"),
    "DeepSea": lambda: made("DeepSea-bsuite", size=5),
    "DiscountingChain": lambda: made("DiscountingChain-bsuite", limit=11, n_actions=3),
    "SimpleBandit": lambda: made("SimpleBandit-bsuite", num_actions=5),
    "UmbrellaChain": lambda: made("UmbrellaChain-bsuite"),
    "UmbrellaChain, distractor": lambda: made("UmbrellaChain-bsuite", n_distractor=1),
}


def keys(random):
    """[BATCH] keys."""
    return jax.random.split(jax.random.key(random.integers(2**32)), BATCH)


@partial(jax.jit, static_argnums=0)
def real_resets(environment, keys, params):
    return jax.vmap(environment.reset_env, (0, None))(keys, params)


@partial(jax.jit, static_argnums=0)
def real_steps(environment, keys, states, actions, params):
    def step(key, state, action):
        observation, state, reward, terminated, _ = environment.step_env(key, state, action, params)
        return observation, state, reward, terminated | environment.is_truncated(state, params)

    return jax.vmap(step)(keys, states, actions)


class Held:
    """A table, the real environment, and which real state is which row of the table."""

    def __init__(self, environment, params):
        self.law = laws.law_of(environment)
        self.mdp, nodes = reachable_states.reachable_mdp(
            environment, params, discount=0.9, keep_time=True
        )
        self.reset = partial(real_resets, environment, params=params)
        self.step = partial(real_steps, environment, params=params)
        rows = self._rounded(reachable_states._identity(nodes))
        self.index = {row.tobytes(): number for number, row in enumerate(rows)}
        assert len(self.index) == self.mdp.num_states

    @staticmethod
    def _rounded(rows):
        # Two compilations of one division may differ in the last bit of a float32.
        return np.round(rows, 4) + 0.0

    def numbers(self, observation, state, reward, ended):
        """[B] which rows of the table real states are; −1 for none."""
        kept = reachable_states._kept(self.law, jax.device_get(state), True)
        mark = reward if self.law.draws_reward else np.zeros(len(ended))
        nodes = reachable_states.Nodes(observation, kept, mark, ended)
        rows = self._rounded(reachable_states._identity(nodes))
        return np.array([self.index.get(row.tobytes(), -1) for row in rows])

    def starts(self, seed):
        """[BATCH] rows of the table that real resets are."""
        observation, state = self.reset(keys(np.random.default_rng(seed)))
        none = np.zeros(BATCH)
        return self.numbers(observation, state, none, none > 0)

    def episodes(self, seed):
        """Real states of random play, all steps joined, and their rows; −1 after the end."""
        random = np.random.default_rng(seed)
        observation, state = self.reset(keys(random))
        # Resets may differ from steps in dtype, which would compile the step twice.
        like = jax.eval_shape(self.step, keys(random), state, np.zeros(BATCH, np.int32))
        state = jax.tree.map(lambda x, y: np.asarray(x, y.dtype), state, like[1])
        reward, ended = np.zeros(BATCH), np.zeros(BATCH, bool)
        states, rows = [], []
        while not np.all(ended):
            number = np.where(ended, -1, self.numbers(observation, state, reward, ended))
            assert np.all(number[~ended] >= 0), "a real state that the table lacks"
            states.append(jax.tree.map(np.asarray, state))
            rows.append(number)
            action = random.integers(self.mdp.num_actions, size=BATCH, dtype=np.int32)
            observation, state, reward, now = self.step(keys(random), state, action)
            ended = ended | np.asarray(now)
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *states)
        return joined, np.concatenate(rows)

    def counts(self, seed, states, rows):
        """[S, A, S] how often KEYS real steps from each living state lead where.

        Also checks what needs no statistics: every living row of the table is a real state, every
        step arrives in the table, and pays and shows what the table says.
        """
        random = np.random.default_rng(seed)
        S, A = self.mdp.num_states, self.mdp.num_actions
        found = np.zeros((S, A, S), int)
        living = np.flatnonzero(~self.mdp.terminal)
        order = np.argsort(rows, kind="stable")
        begin, end = (np.searchsorted(rows[order], living, side) for side in ("left", "right"))
        assert np.all(end > begin), "a row of the table that is no real state"
        # Different real states where there are enough: what a row forgets may differ among them.
        picked = order[begin[:, None] + np.arange(KEYS) % (end - begin)[:, None]].ravel()
        for action in range(A):
            for part in np.split(picked, range(BATCH, len(picked), BATCH)):
                chosen = np.resize(part, BATCH)
                observation, state, reward, ended = jax.tree.map(
                    np.asarray,
                    self.step(
                        keys(random),
                        jax.tree.map(lambda x, chosen=chosen: x[chosen], states),
                        np.full(BATCH, action, np.int32),
                    ),
                )
                arrived = self.numbers(observation, state, reward, ended)
                assert np.all(arrived >= 0), "a real step that leads out of the table"
                origin = rows[chosen]
                paid = self.mdp.reward[origin, action, arrived]
                np.testing.assert_allclose(reward, paid, rtol=1e-6, atol=1e-7)
                np.testing.assert_array_equal(ended, self.mdp.terminal[arrived])
                shown = self.mdp.observation[arrived]
                np.testing.assert_allclose(observation, shown, rtol=1e-6, atol=1e-7)
                np.add.at(found[:, action], (origin[: len(part)], arrived[: len(part)]), 1)
        return found


def chi_square(counts, probability):
    """p-value of [R, K] counts under [R, K] probabilities, each row a sample of its own."""
    expected = counts.sum(-1, keepdims=True) * probability
    possible = probability > 0
    statistic = np.sum((counts - expected)[possible] ** 2 / expected[possible])
    freedom = possible.sum() - len(counts)
    return stats.chi2.sf(statistic, freedom) if freedom else 1.0


@cache
def held_to(name):
    return Held(*CASES[name]())


@pytest.fixture(scope="module", params=list(CASES))
def held(request):
    return held_to(request.param)


def test_starts_are_distributed_as_the_table_says(held):
    rows = held.starts(0)
    assert np.all(rows >= 0)
    counts = np.bincount(rows, minlength=held.mdp.num_states)
    assert np.array_equal(counts > 0, held.mdp.initial > 0)
    assert chi_square(counts[None], held.mdp.initial[None]) > ALPHA


def test_steps_arrive_where_the_table_says_and_as_often(held):
    states, rows = held.episodes(1)
    counts = held.counts(2, states, rows)
    living = ~held.mdp.terminal
    counts, probability = counts[living], held.mdp.transition[living]
    assert np.array_equal(counts > 0, probability > 0)
    S = held.mdp.num_states
    assert chi_square(counts.reshape(-1, S), probability.reshape(-1, S)) > ALPHA


def test_another_slip_is_rejected():
    # Power: slipping with 0.7 instead of 2/3, 256 draws on each of > 300 states and actions shift
    # the statistic by some hundreds, on a standard deviation of some forty.
    held = held_to("FrozenLake")
    environment, params = made("FrozenLake-misc", limit=12, success_rate=0.3)
    other = Held(environment, params)
    states, rows = other.episodes(1)
    living = ~held.mdp.terminal
    counts = other.counts(2, states, rows)[living]
    S = held.mdp.num_states
    probability = held.mdp.transition[living].reshape(-1, S)
    assert chi_square(counts.reshape(-1, S), probability) < ALPHA


def test_a_forgotten_field_that_matters_is_found(monkeypatch):
    held = held_to("Catch")
    monkeypatch.setattr(held, "law", held.law._replace(forgotten=("paddle_x",)))
    with pytest.raises(AssertionError, match="a real state that the table lacks"):
        held.episodes(0)


@cache
def flax_problem(name):
    """A table without the time, its horizon, and a policy at parameters far from uniform."""
    environment, params = CASES[name]()
    mdp, horizon = bridge.timeless_mdp(environment, params, discount=0.9)
    policy = flax_policy(default_network(environment).clone(hidden=(4,)))
    like = jax.eval_shape(policy.init, jax.random.key(0), mdp.observation[0])
    random = np.random.default_rng(1)
    theta = jax.tree.map(lambda x: random.normal(size=x.shape).astype(x.dtype), like)
    return mdp, horizon, policy, theta


@pytest.mark.parametrize("name", ["FrozenLake", "FourRooms", "DeepSea"])
def test_time_in_the_state_and_a_horizon_are_one_gradient(name):
    mdp, horizon, policy, theta = flax_problem(name)
    one = exact.gradient(Problem(mdp, policy, theta, horizon))
    other = exact.gradient(Problem(held_to(name).mdp, policy, theta, None))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-10)


def test_the_table_of_an_environment_is_the_one_that_is_held_to_it():
    found = bridge.tabular_mdp(*CASES["DeepSea"](), discount=0.9)
    jax.tree.map(np.testing.assert_array_equal, found, held_to("DeepSea").mdp)


def test_sizes_by_default_are_small():
    sizes = {}
    for name in bridge.BRIDGED:
        mdp, horizon = bridge.timeless_mdp(*default(name), discount=0.95)
        sizes[name] = mdp.num_states, horizon
    assert sizes == {
        "FrozenLake-misc": (16, 100),
        "FourRooms-misc": (104, 500),
        "Catch-bsuite": (210, 9),
        "DeepSea-bsuite": (37, 8),
        "DiscountingChain-bsuite": (501, 100),
        "SimpleBandit-bsuite": (12, 1),
        "UmbrellaChain-bsuite": (80, 10),
    }


def discounted_returns(batch, discount):
    discounted = np.asarray(batch.reward, float) * discount ** np.arange(batch.reward.shape[1])
    return np.where(batch.mask, discounted, 0).sum(1)


@pytest.mark.parametrize("name", ["FourRooms", "UmbrellaChain", "DiscountingChain"])
def test_exact_objective_is_the_mean_of_real_returns(name):
    # Five standard errors: 6e-7, were the mean normal. Power: a J that is off by a tenth of the
    # returns' standard deviation stands 12 standard errors away.
    mdp, horizon, policy, theta = flax_problem(name)
    adapted = from_gymnax.adapt(*CASES[name]())
    batch = rollout(
        policy, theta, adapted, jax.random.key(4), num_trajectories=2**14, num_steps=horizon
    )
    returns = discounted_returns(batch, mdp.discount)
    error = abs(returns.mean() - exact.objective(Problem(mdp, policy, theta, horizon)))
    assert error < 5 * returns.std() / len(returns) ** 0.5


def test_exact_objective_and_gradient_are_means_of_real_ones_on_frozen_lake():
    # 1e-6, split over the parameters. Power: with a γ of 0.8 instead it is found.
    mdp, horizon, policy, theta = flax_problem("FrozenLake")
    adapted = from_gymnax.adapt(*CASES["FrozenLake"]())
    batch = rollout(
        policy, theta, adapted, jax.random.key(5), num_trajectories=2**15, num_steps=horizon
    )
    returns = discounted_returns(batch, mdp.discount)
    error = abs(returns.mean() - exact.objective(Problem(mdp, policy, theta, horizon)))
    assert error < 5 * returns.std() / len(returns) ** 0.5
    estimator = estimators.reward_to_go(mdp.discount)
    gradients = estimators.per_trajectory_gradients(estimator, policy, theta, batch)
    flat = np.concatenate([x.reshape(2**15, -1) for x in jax.tree.leaves(gradients)], axis=1)
    threshold = stats.norm.isf(ALPHA / (2 * flat.shape[1]))

    def largest_z(mdp):
        truth = exact.moments(Problem(mdp, policy, theta, horizon))
        # Above zero, for a cell that no episode acts in has weights without any gradient.
        error_bar = np.maximum(np.sqrt(np.diag(truth.covariance) / len(flat)), 1e-7)
        return np.max(np.abs(flat.mean(0, dtype=float) - truth.mean) / error_bar)

    assert largest_z(mdp) < threshold
    assert largest_z(replace(mdp, discount=0.8)) > threshold


def test_observations_keep_their_dtype():
    mdp = flax_problem("FrozenLake")[0]
    assert mdp.observation.dtype == np.int32
    np.testing.assert_array_equal(np.sort(mdp.observation), np.arange(16))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: bridge.make("FrozenLake-mis"), "did you mean FrozenLake-misc"),
        (lambda: bridge.make("CartPole-v1"), "known are FrozenLake-misc, FourRooms-misc"),
        (lambda: bridge.tabular_mdp(gymnax.make("CartPole-v1")[0], discount=1), "no exact table"),
        (
            lambda: bridge.tabular_mdp(*made("FourRooms-misc"), discount=0.9),
            "more than 4096 states",
        ),
        (
            lambda: bridge.timeless_mdp(
                (pair := gymnax.make("DeepSea-bsuite"))[0],
                pair[1].replace(deterministic=False),
                discount=0.9,
            ),
            "deterministic must be True",
        ),
        (
            lambda: bridge.timeless_mdp(
                (pair := gymnax.make("DeepSea-bsuite"))[0],
                pair[1].replace(sample_action_map=True),
                discount=0.9,
            ),
            "sample_action_map",
        ),
    ],
)
def test_what_has_no_table_is_refused_by_name(build, expected):
    with pytest.raises(ValueError, match=expected):
        build()


def test_a_table_is_of_the_object_as_it_is_now() -> None:
    environment, params = gymnax.make("Catch-bsuite")
    tall, _ = bridge.timeless_mdp(environment, params, discount=0.9)
    environment.rows = 4
    low, _ = bridge.timeless_mdp(environment, params, discount=0.9)
    assert low.num_states < tall.num_states
