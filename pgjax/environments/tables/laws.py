"""The laws of gymnax's small environments: what is random in each class, as finite lists."""

import copy
import difflib
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.core.validation import check_kind
from pgjax.environments.import_gymnax import gymnax

bandit, catch, deep_sea, discounting_chain, umbrella_chain = (
    getattr(gymnax.environments.bsuite, name)
    for name in ("bandit", "catch", "deep_sea", "discounting_chain", "umbrella_chain")
)
frozen_lake, rooms = gymnax.environments.misc.frozen_lake, gymnax.environments.misc.rooms

Start = tuple[float, Any, Any]
"""Probability, observation, state."""
Step = Callable[[Any, Any], tuple[Any, Any, Any, Any]]
"""State and action -> observation, state, reward, terminated; nothing is drawn."""

_UNUSED = jax.random.key(0)  # where a law says that nothing is drawn, or replaces what was drawn


class Law(NamedTuple):
    """All that is random in an environment class, as finite lists of outcomes.

    Attributes:
        kind: the class itself; a subclass may draw differently, and has no law.
        starts: (environment, params) -> every first state, with its observation and probability.
        steps: (environment, params) -> ways to step, each deterministic, with their probabilities.
        forgotten: fields of the state that only keep statistics, or that a step draws afresh.
        reads_time: whether steps or observations depend on the time.
        draws_reward: whether one state and successor can pay several rewards. The reward is then
            part of the next state, like the face of a coin.
    """

    kind: type
    starts: Callable[[Any, Any], list[Start]]
    steps: Callable[[Any, Any], list[tuple[float, Step]]]
    forgotten: tuple[str, ...] = ()
    reads_time: bool = False
    draws_reward: bool = False


def make(name: str) -> tuple[Any, Any]:
    """A gymnax environment that has a table, and its default parameters, as from `gymnax.make`.

    Args:
        name: one of `BRIDGED`.

    Raises:
        TypeError: if `name` is not a string.
        ValueError: if it is not one of `BRIDGED`, with near matches.
    """
    check_kind("name", name, str, f"one of {', '.join(BRIDGED)}")
    if name not in BRIDGED:
        near = difflib.get_close_matches(name, BRIDGED, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{name!r} has no exact table; {hint}known are {', '.join(BRIDGED)}")
    return gymnax.make(name)


def law_of(environment: Any) -> Law:
    """The law of an environment's class.

    Raises:
        ValueError: if the class has no law. A subclass has none, because it may draw differently.
    """
    for law in LAWS.values():
        if type(environment) is law.kind:
            return law
    raise ValueError(
        f"{getattr(environment, 'name', type(environment).__name__)} has no exact table; "
        f"known are {', '.join(BRIDGED)}"
    )


def _reset(environment: Any, params: Any) -> Any:
    """A first state; a law replaces what was drawn in it."""
    return jax.jit(environment.reset_env)(_UNUSED, params)[1]


def _own_step(environment: Any, params: Any) -> list[tuple[float, Step]]:
    """The environment's own step, as the only way to step, because it draws nothing."""

    def step(state: Any, action: Any) -> tuple[Any, Any, Any, Any]:
        return environment.step_env(_UNUSED, state, action, params)[:4]

    return [(1.0, step)]


def _redirected(step: Step, turn: Callable[[Any], Any]) -> Step:
    """The step with the action turn(action) in place of the chosen one."""
    return lambda state, action: step(state, turn(action))


def _one_start(environment: Any, params: Any) -> list[Start]:
    state = _reset(environment, params)
    return [(1.0, environment.observe(_UNUSED, state, None, params), state)]


def _frozen_lake_steps(environment: Any, params: Any) -> list[tuple[float, Step]]:
    dry = copy.copy(environment)
    dry.is_slippery = False
    [(_, step)] = _own_step(dry, params)
    success = environment.success_rate if environment.is_slippery else 1.0
    return [(success, step)] + [
        ((1 - success) / 2, _redirected(step, lambda action, turn=turn: (action + turn) % 4))
        for turn in (-1, 1)
    ]


def _four_rooms_starts(environment: Any, params: Any) -> list[Start]:
    cells, first = np.asarray(environment.coords), _reset(environment, params)
    goals = cells if params.resample_goal_pos else [np.asarray(environment.goal_fixed)]
    starts = []
    for goal in goals:
        elsewhere = cells[np.any(cells != goal, axis=1)]
        places = elsewhere if params.resample_init_pos else [environment.pos_fixed]
        for place in places:
            state = first.replace(pos=place, goal=goal)
            starts.append((1 / (len(goals) * len(places)), environment.get_obs(state), state))
    return starts


def _four_rooms_steps(environment: Any, params: Any) -> list[tuple[float, Step]]:
    [(_, step)] = _own_step(environment, params.replace(fail_prob=0.0))
    random = min(float(params.fail_prob) * 4 / 3, 1.0)
    return [(1 - random, step)] + [
        (random / 4, _redirected(step, lambda action, taken=taken: jnp.full_like(action, taken)))
        for taken in range(4)
    ]


def _catch_starts(environment: Any, params: Any) -> list[Start]:
    columns, first = environment.columns, _reset(environment, params)
    states = [first.replace(ball_x=jnp.int32(x)) for x in range(columns)]
    return [(1 / columns, environment.get_obs(state), state) for state in states]


def _deep_sea_starts(environment: Any, params: Any) -> list[Start]:
    if not params.deterministic:
        raise ValueError(
            "deterministic must be True for a table of DeepSea, got False: rewards are then normal "
            "numbers, and a table holds finitely many"
        )
    if params.sample_action_map:
        raise ValueError(
            "sample_action_map must be False for a table of DeepSea, got True: it would need "
            f"2^{environment.size**2} states for the start alone"
        )
    return _one_start(environment, params)


def _bandit_steps(environment: Any, params: Any) -> list[tuple[float, Step]]:
    # An episode pulls one arm, and each entry of a random permutation is uniform: so the reward is
    # drawn when it is paid, and none of the n! permutations has to be a state.
    [(_, step)] = _own_step(environment, params)
    n = environment.num_actions

    def pay(reward: Array) -> Step:
        return lambda state, action: step(state.replace(rewards=jnp.full(n, reward)), action)

    return [(1 / n, pay(reward)) for reward in jnp.linspace(0, 1, n)]


def _umbrella_starts(environment: Any, params: Any) -> list[Start]:
    starts, first = [], _reset(environment, params)
    for need, has in product((0, 1), repeat=2):
        state = first.replace(need_umbrella=need, has_umbrella=has)
        observation = environment.get_obs(state, _UNUSED, params)
        for bits in product((0.0, 1.0), repeat=environment.n_distractor):
            probability = 0.25 / 2**environment.n_distractor
            starts.append((probability, observation.at[3:].set(jnp.array(bits)), state))
    return starts


def _umbrella_steps(environment: Any, params: Any) -> list[tuple[float, Step]]:
    [(_, step)] = _own_step(environment, params)

    def toss(coin: int, bits: tuple[float, ...]) -> Step:
        def tossed(state: Any, action: Any) -> tuple[Any, Any, Any, Any]:
            observation, state, reward, terminated = step(state, action)
            # Only the end of the chain pays for the umbrella; before it a fair coin pays ±1.
            observation = observation.at[3:].set(jnp.array(bits))
            return observation, state, jnp.where(terminated, reward, coin), terminated

        return tossed

    draws = list(product((-1, 1), product((0.0, 1.0), repeat=environment.n_distractor)))
    return [(1 / len(draws), toss(coin, bits)) for coin, bits in draws]


LAWS = {
    "FrozenLake-misc": Law(frozen_lake.FrozenLake, _one_start, _frozen_lake_steps),
    "FourRooms-misc": Law(rooms.FourRooms, _four_rooms_starts, _four_rooms_steps),
    "Catch-bsuite": Law(catch.Catch, _catch_starts, _own_step),
    "DeepSea-bsuite": Law(
        deep_sea.DeepSea,
        _deep_sea_starts,
        _own_step,
        forgotten=("bad_episode", "total_bad_episodes", "denoised_return"),
    ),
    "DiscountingChain-bsuite": Law(
        discounting_chain.DiscountingChain, _one_start, _own_step, reads_time=True
    ),
    "SimpleBandit-bsuite": Law(
        bandit.SimpleBandit,
        _one_start,
        _bandit_steps,
        forgotten=("rewards", "total_regret"),
        draws_reward=True,
    ),
    "UmbrellaChain-bsuite": Law(
        umbrella_chain.UmbrellaChain,
        _umbrella_starts,
        _umbrella_steps,
        forgotten=("total_regret",),
        reads_time=True,
        draws_reward=True,
    ),
}

BRIDGED = tuple(LAWS)
"""The names, in gymnax's registry, of the environments that have a law here."""
