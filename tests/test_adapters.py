"""Adapters: a rollout on the surface is the library's own stepping, and its ends are the library's.

The libraries run under neither strict promotion nor, everywhere, x64: these tests use JAX's
defaults. A library that is not installed is skipped, with the reason.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import pgjax
from pgjax import Policy, Trajectory, environments
from pgjax.environments import from_brax, from_craftax, from_jumanji, from_navix, from_pgx
from pgjax.environments.base import Box, Discrete, Environment, MultiDiscrete
from pgjax.policies import multi_discrete_policy
from pgjax.types import MaskedObservation, RecurrentPolicy

pytestmark = [pytest.mark.adapters, pytest.mark.usefixtures("checked_annotations")]

N, T = 3, 20
KEY = jax.random.key(5)


class Library(NamedTuple):
    """A library's own stepping: what it calls an end is told apart by its own documentation.

    Attributes:
        reset: key -> (state, observation).
        step: (key, state, action) -> (state, observation, reward, terminated, truncated).
        legal: state -> which actions are legal, flat; None where all are.
    """

    reset: Callable[[Any], tuple[Any, Any]]
    step: Callable[[Any, Any, Any], tuple[Any, Any, Any, Any, Any]]
    legal: Callable[[Any], Any] = lambda state: None


class Case(NamedTuple):
    """An environment on the surface and in its library, and how its episodes are known to end."""

    library: str
    make: Callable[[], tuple[Environment, Library]]
    ends: str  # the one flag that is up somewhere before the last step
    script: tuple[int, ...] | None = None


def needed(module: str) -> Any:
    """A library's module; its import is no statement, so that a type checker may lack it too."""
    reason = f'{module.split(".")[0]} is not installed; pip install "policy-gradient-jax[envs]"'
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(module, reason=reason)


# The libraries.


def brax_case(name: str, limit: int) -> tuple[Environment, Library]:
    """brax's own EpisodeWrapper says what a truncation is: done by its limit and not by itself."""
    bare = needed("brax.envs").get_environment(name)
    wrapped = needed("brax.envs.wrappers.training").EpisodeWrapper(bare, limit, 1)

    def reset(key: Any) -> Any:
        state = wrapped.reset(jax.random.key_data(key))  # it looks at the raw key's shape
        return state, state.obs

    def step(key: Any, state: Any, action: Any) -> Any:
        state = wrapped.step(state, action)
        done, truncated = state.done > 0, state.info["truncation"] > 0
        return state, state.obs, state.reward, done & ~truncated, truncated

    return from_brax.adapt(bare, time_limit=limit), Library(reset, step)


def jumanji_case(environment: Any, joint: tuple[int, ...] | None = None) -> Any:
    """dm_env's convention, and jumanji's: the last step's discount is zero if it terminates."""

    def reset(key: Any) -> Any:
        state, timestep = environment.reset(key)
        return (state, timestep), timestep.observation

    def step(key: Any, both: Any, action: Any) -> Any:
        if joint is not None:
            action = jnp.array([action // joint[1], action % joint[1]])
        state, timestep = environment.step(both[0], action)
        ends = timestep.last(), timestep.last() & (timestep.discount > 0)
        return (
            (state, timestep), timestep.observation, timestep.reward, ends[0] & ~ends[1], ends[1]
        )  # fmt: skip

    library = Library(reset, step, lambda both: both[1].observation.action_mask.ravel())
    return from_jumanji.adapt(environment), library


def jumanji_named(name: str, joint: tuple[int, ...] | None = None, **settings: Any) -> Any:
    return jumanji_case(needed("jumanji").make(name, **settings), joint)


def cut_short() -> Any:
    """No jumanji environment of one agent truncates: one that does, after its third step."""

    class Short(needed("jumanji.environments").TSP):
        def step(self, state: Any, action: Any) -> Any:
            state, timestep = super().step(state, action)
            cut = needed("jumanji.types").truncation(timestep.reward, timestep.observation)
            early = state.num_visited >= 4
            return state, jax.tree.map(partial(jnp.where, early), cut, timestep)

    return jumanji_case(Short())


def pgx_case(name: str, limit: int | None = None) -> Any:
    game = needed("pgx").make(name)

    def reset(key: Any) -> Any:
        state = game.init(key)
        return (state, 0), state.observation

    def step(key: Any, timed: Any, action: Any) -> Any:
        state, time = timed
        state = game.step(state, action, key)
        cut = state.truncated if limit is None else time + 1 >= limit
        return (state, time + 1), state.observation, state.rewards[0], state.terminated, cut

    legal = Library(reset, step, lambda timed: timed[0].legal_action_mask)
    return from_pgx.adapt(game, time_limit=limit), legal


def navix_case(name: str, max_steps: int) -> Any:
    environment = needed("navix").make(name, max_steps=max_steps)

    def reset(key: Any) -> Any:
        timestep = environment.reset(key)
        return timestep, timestep.observation

    def step(key: Any, timestep: Any, action: Any) -> Any:
        timestep = environment.step(timestep, action)
        ends = timestep.is_termination(), timestep.is_truncation()
        return timestep, timestep.observation, timestep.reward, *ends

    return from_navix.adapt(environment), Library(reset, step)


ROOM = "Navix-Empty-5x5-v0"
TO_THE_GOAL = (2, 2, 1, 2, 2, 0)
"""Through the room: forward twice, turn right, forward twice."""

CASES = {
    "brax: limit": Case("brax", partial(brax_case, "fast", 5), "truncated"),
    "brax: fall": Case("brax", partial(brax_case, "inverted_pendulum", 1000), "terminated"),
    "jumanji: tour": Case("jumanji", partial(jumanji_named, "TSP-v1"), "terminated"),
    "jumanji: own limit": Case(
        "jumanji", partial(jumanji_named, "Maze-v0", time_limit=6), "terminated"
    ),
    "jumanji: joint": Case(
        "jumanji", partial(jumanji_named, "Minesweeper-v0", joint=(10, 10)), "terminated"
    ),
    "jumanji: cut": Case("jumanji", cut_short, "truncated"),
    "pgx: game": Case("pgx", partial(pgx_case, "minatar-breakout"), "terminated"),
    "pgx: limit": Case("pgx", partial(pgx_case, "2048", limit=4), "truncated"),
    "navix: goal": Case("navix", partial(navix_case, ROOM, 5), "terminated", TO_THE_GOAL),
    "navix: limit": Case("navix", partial(navix_case, ROOM, 4), "truncated", TO_THE_GOAL),
}

# What a test has compiled serves the next of the same library, in the same process.
NAMES = list(CASES)


# The law.


def free(space: Any) -> tuple[Policy, Any]:
    """A policy of the same distribution whatever is seen, and its parameters."""
    match space:
        case Discrete(A):
            logits = jnp.linspace(-0.2, 0.2, A)
            return pgjax.softmax_policy(lambda key, s: logits, lambda params, s: params), logits
        case MultiDiscrete(sizes):
            logits = jnp.linspace(-0.2, 0.2, sum(sizes))
            return multi_discrete_policy(
                lambda key, s: logits, lambda params, s: params, num_actions=sizes
            ), logits
        case Box():
            mean = jnp.full(space.size, 0.2)
            return pgjax.gaussian_policy(
                lambda key, s: mean, lambda params, s: (params, jnp.zeros(space.size))
            ), mean
    raise AssertionError(space)


def scripted(script: tuple[int, ...]) -> RecurrentPolicy:
    """The actions of a list; its memory is the time."""
    actions = jnp.array(script, jnp.int32)
    return RecurrentPolicy(
        init=lambda key, observation: jnp.zeros(()),
        memory=lambda params: jnp.int32(0),
        sample=lambda params, key, time, observation: (time + 1, actions[time], jnp.zeros(())),
        log_prob=lambda params, time, observation, action: (time + 1, jnp.zeros(())),
        entropy=lambda params, time, observation: jnp.zeros(()),
    )


@cache
def made(name: str) -> tuple[Environment, Library]:
    needed(CASES[name].library)
    return CASES[name].make()


def sampled(environment: Environment, script: tuple[int, ...] | None) -> Trajectory:
    policy, params = free(environment.action_space) if script is None else (scripted(script), None)
    return pgjax.rollout(policy, params, environment, KEY, num_trajectories=N, num_steps=T)


@cache
def batch_of(name: str) -> Trajectory:
    return sampled(made(name)[0], CASES[name].script)


def assert_is_the_librarys_own(batch: Trajectory, library: Library) -> None:
    """Every episode against a loop in plain Python, on the same keys and actions, to its end."""
    reset, step = jax.jit(library.reset), jax.jit(library.step)
    for i, (start_key, _, step_keys) in enumerate(jax.random.split(KEY, (N, 3))):
        row = jax.tree.map(lambda x, i=i: np.asarray(x[i]), batch)
        state, observation = reset(start_key)
        t = 0
        for t in range(T):
            assert row.mask[t], f"step {t} is missing"
            assert_seen(row.observation, t, observation, library.legal(state))
            key = jax.random.fold_in(step_keys, t)
            state, observation, reward, *ends = step(key, state, jnp.asarray(row.action[t]))
            np.testing.assert_allclose(row.reward[t], reward, rtol=1e-5, atol=1e-6)
            terminated, truncated = map(bool, ends)
            assert row.terminated[t] == terminated
            last = terminated or truncated
            assert row.truncated[t] == (truncated or (t == T - 1 and not last)) or t == T - 1
            if last:
                break
        assert not np.any(row.mask[t + 1 :]), "the mask goes on after the end"
        assert_seen(row.final_observation, ..., observation, None)


def assert_seen(found: Any, time: Any, observation: Any, legal: Any) -> None:
    if isinstance(found, MaskedObservation):
        if legal is not None:
            np.testing.assert_array_equal(np.ravel(found.action_mask[time]), legal)
        found = found.observation
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(observation), strict=True):
        # Compiled as one program, or step by step: rounding along the episode.
        np.testing.assert_allclose(x[time], y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_is_the_librarys_own_to_its_end(name: str) -> None:
    library = made(name)[1]
    batch = batch_of(name)
    assert_is_the_librarys_own(batch, library)
    flags = {"terminated": batch.terminated, "truncated": batch.truncated[:, : T - 1]}
    assert [flag for flag, raised in flags.items() if np.any(raised)] == [CASES[name].ends]


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_of_whole_episodes_and_has_a_gradient(name: str) -> None:
    environment, batch = made(name)[0], batch_of(name)
    mask = np.asarray(batch.mask)
    assert np.all(mask[:, 1:] <= mask[:, :-1])
    assert np.all(np.isfinite(batch.reward))
    assert batch.reward.dtype == jnp.float32
    if CASES[name].script is None:
        policy, params = free(environment.action_space)
        found = np.asarray(pgjax.log_probs(policy, params, batch))
        np.testing.assert_allclose(np.where(mask, found, 0), batch.log_prob, rtol=1e-4, atol=1e-5)
        gradient = pgjax.gradient(pgjax.reward_to_go(0.9), policy, params, batch)
        assert np.all(np.isfinite(gradient))
    if isinstance(batch.observation, MaskedObservation):
        legal = np.asarray(batch.observation.action_mask)
        chosen = np.take_along_axis(legal, np.asarray(batch.action)[..., None], axis=-1)[..., 0]
        assert np.all(chosen[mask])
        assert not np.all(legal[mask]) or environment.name.startswith("minatar")


@pytest.mark.parametrize("name", NAMES)
def test_state_and_step_keep_their_dtypes(name: str) -> None:
    environment = made(name)[0]
    start = jax.eval_shape(environment.init, KEY)
    action = jax.eval_shape(lambda: batch_of(name).action[0, 0])
    if isinstance(environment.action_space, Box):
        action = jax.ShapeDtypeStruct(environment.action_space.shape, action.dtype)
    following = jax.eval_shape(environment.step, KEY, start[0], action)
    assert jax.tree.structure(start) == jax.tree.structure(following)
    for x, y in zip(jax.tree.leaves(start), jax.tree.leaves(following), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)


# Controls: the law must notice what goes wrong elsewhere.


def late_reward(environment: Environment) -> Environment:
    """Pays what the last step earned."""

    def init(key: Any) -> Any:
        state, step = environment.init(key)
        return (state, jnp.zeros(())), step

    def step(key: Any, paid: Any, action: Any) -> Any:
        state, step = environment.step(key, paid[0], action)
        return (state, step.reward), step._replace(reward=paid[1])

    return replace(environment, init=init, step=step)


def merged_flags(environment: Environment) -> Environment:
    """Treats a truncation as a termination."""

    def step(key: Any, state: Any, action: Any) -> Any:
        state, step = environment.step(key, state, action)
        return state, step._replace(terminated=step.terminated | step.truncated)

    return replace(environment, step=step)


def reset_observation(environment: Environment) -> Environment:
    """Shows the next episode's start where this one ended."""

    def step(key: Any, state: Any, action: Any) -> Any:
        state, step = environment.step(key, state, action)
        fresh, ended = environment.init(key)[1], step.terminated | step.truncated
        return state, step._replace(
            observation=jnp.where(ended, fresh.observation, step.observation)
        )

    return replace(environment, step=step)


def other_limit(environment: Environment) -> Environment:
    """Off by one, the usual way with limits."""
    return brax_case("fast", 6)[0]


def other_action(environment: Environment) -> Environment:
    """Records another action than it takes."""
    return replace(environment, step=lambda key, state, a: environment.step(key, state, -a))


@pytest.mark.parametrize(
    "mutant", [late_reward, merged_flags, reset_observation, other_limit, other_action]
)
def test_the_law_rejects_a_wrong_adapter(mutant: Callable[..., Environment]) -> None:
    environment, library = made("brax: limit")
    with pytest.raises(AssertionError):
        assert_is_the_librarys_own(sampled(mutant(environment), None), library)


# What is particular to one library.


def test_opponents_move_until_it_is_the_players_turn_and_their_rewards_count() -> None:
    pgx = needed("pgx")
    game = pgx.make("tic_tac_toe")
    environment = from_pgx.adapt(game, opponent=from_pgx.uniform)
    policy, params = free(environment.action_space)
    batch = pgjax.rollout(policy, params, environment, KEY, num_trajectories=256, num_steps=6)
    mask = np.asarray(batch.mask)
    board = np.asarray(batch.observation.observation)  # [..., 3, 3, 2]: mine, theirs
    mine, theirs = board[mask].sum(axis=(1, 2)).T
    assert set(theirs - mine) == {0, 1}, "the other is even, or one ahead where it began"
    assert np.all(np.any(batch.terminated, axis=1))
    total = np.asarray(batch.reward).sum(axis=1)
    assert set(total) == {-1.0, 0.0, 1.0}
    # Random play against random play, over who begins: each wins (0.585 + 0.288) / 2 of the games,
    # and 0.127 are drawn; 256 games, 5 standard errors. Known from the 5478 positions.
    for outcome, probability in ((1.0, 0.4364), (-1.0, 0.4364), (0.0, 0.1271)):
        error = np.sqrt(probability * (1 - probability) / 256)
        assert abs(np.mean(total == outcome) - probability) < 5 * error + 0.02
    with pytest.raises(ValueError, match="tic_tac_toe has 2 players, and the environment must mov"):
        environments.make("pgx/tic_tac_toe")


def test_craftax_steps_as_the_library_does(monkeypatch: pytest.MonkeyPatch) -> None:
    named = needed("craftax.craftax_env").make_craftax_env_from_name
    theirs = named("Craftax-Classic-Symbolic-v1", auto_reset=False)
    # Compiled apart from the adapter, once for both: it takes seconds.
    for name in ("reset_env", "step_env"):
        monkeypatch.setattr(theirs, name, jax.jit(getattr(theirs, name)))
    params = theirs.default_params
    ours = from_craftax.adapt(theirs)
    state, step = ours.init(KEY)
    np.testing.assert_array_equal(step.observation, theirs.reset_env(KEY, params)[0])
    for t, key in enumerate(jax.random.split(KEY, 4)):
        action = jnp.int32(5 * t % 17)
        seen, own, reward, done, _ = theirs.step_env(key, state, action, params)
        state, step = ours.step(key, state, action)
        assert jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), state, own))
        np.testing.assert_array_equal(step.observation, seen)
        np.testing.assert_array_equal(step.reward, reward)
        assert bool(jnp.asarray(step.terminated) | step.truncated) == bool(done)


def test_craftax_dies_at_any_time_and_is_cut_at_its_limit() -> None:
    bases = needed("craftax.environment_base.environment_bases")

    @struct.dataclass
    class Params:
        max_timesteps: int = 3

    @struct.dataclass
    class State:
        timestep: Any
        health: Any

    class Fragile(bases.EnvironmentNoAutoReset):
        """Craftax's interface around two numbers."""

        default_params, num_actions, name = Params(), 2, "Fragile"

        def reset_env(self, key: Any, params: Any) -> Any:
            return jnp.zeros(1), State(jnp.int32(0), jnp.int32(2))

        def step_env(self, key: Any, state: Any, action: Any, params: Any) -> Any:
            state = State(state.timestep + 1, state.health - action)
            return jnp.zeros(1), state, 1.0, self.is_terminal(state, params), {}

        def is_terminal(self, state: Any, params: Any) -> Any:
            return (state.timestep >= params.max_timesteps) | (state.health <= 0)

    environment = from_craftax.adapt(Fragile())
    for script, terminated, truncated in (
        ((1, 1, 0), [0, 1], [0, 0]),
        ((0, 0, 0), [0, 0, 0], [0, 0, 1]),
        ((0, 1, 1), [0, 0, 1], [0, 0, 1]),
    ):
        batch = sampled(environment, script)
        length = len(terminated)
        np.testing.assert_array_equal(np.sum(batch.mask, axis=1), length)
        np.testing.assert_array_equal(batch.terminated[0, :length], terminated)
        np.testing.assert_array_equal(batch.truncated[0, :length], truncated)


@pytest.mark.parametrize(
    ("library", "name", "message"),
    [
        ("brax", "brax/fasd", "unknown environment 'brax/fasd'; did you mean brax/fast?"),
        ("jumanji", "jumanji/Snake", "did you mean jumanji/Snake-v1?"),
        ("jumanji", "jumanji/Sokoban-v0", "downloads a data set when it is made"),
        ("pgx", "pgx/breakout", "did you mean pgx/minatar-breakout?"),
        ("navix", "navix/Empty-5x5", "did you mean navix/Navix-Empty-5x5-v0"),
        ("craftax", "craftax/Classic", "did you mean craftax/Craftax-Classic-Pixels-v1"),
    ],
)
def test_names_are_the_librarys_with_near_matches(library: str, name: str, message: str) -> None:
    needed(library)
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        environments.make(name)


@pytest.mark.parametrize(
    ("library", "name", "limit"),
    [
        ("brax", "brax/inverted_pendulum", 1000),
        ("jumanji", "jumanji/Snake-v1", 4000),
        ("pgx", "pgx/minatar-breakout", None),
        ("navix", "navix/Navix-Empty-5x5-v0", 100),
        ("craftax", "craftax/Craftax-Classic-Symbolic-v1", 10000),
    ],
)
def test_a_named_environment_has_its_librarys_time_limit(
    library: str, name: str, limit: int | None
) -> None:
    needed(library)
    environment = environments.make(name)
    assert (environment.name, environment.time_limit) == (name, limit)


def wrapped_brax() -> Any:
    return from_brax.adapt(needed("brax.envs").create("fast"))


def wrapped_jumanji() -> Any:
    wrapper = needed("jumanji.wrappers").AutoResetWrapper
    return from_jumanji.adapt(wrapper(needed("jumanji").make("TSP-v1")))


@pytest.mark.parametrize(
    ("library", "adapt", "message"),
    [
        ("brax", wrapped_brax, "must be a bare brax environment, .*, got AutoResetWrapper"),
        ("brax", lambda: from_brax.adapt(3), "must be a bare brax environment, .*, got int"),
        ("jumanji", wrapped_jumanji, "without wrappers, .*, got AutoResetWrapper"),
        ("pgx", lambda: from_pgx.adapt("2048"), "must be a pgx game, .*, got '2048'"),
        ("navix", lambda: from_navix.adapt(None), "must be of navix, .*, got NoneType"),
        ("craftax", lambda: from_craftax.adapt(None), "must be of Craftax, .*, got NoneType"),
    ],
)
def test_wrappers_that_reset_and_other_objects_are_refused(
    library: str, adapt: Callable[[], Any], message: str
) -> None:
    needed(library)
    with pytest.raises(TypeError, match=message):
        adapt()


def test_an_environment_of_several_rewards_is_refused() -> None:
    jumanji = needed("jumanji")
    with pytest.raises(TypeError, match=r"Connector: step.reward must be a scalar, got shape \(10"):
        jax.eval_shape(from_jumanji.adapt(jumanji.make("Connector-v3")).init, KEY)
