"""The laws of gymnax's small environments: what is random in each class, as finite lists."""

import copy
import difflib
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.core.validation import check_kind
from pgjax.environments.import_gymnax import gymnax
from pgjax.records import Configured, configured

bandit, catch, deep_sea, discounting_chain, umbrella_chain = (
    getattr(gymnax.environments.bsuite, name)
    for name in ("bandit", "catch", "deep_sea", "discounting_chain", "umbrella_chain")
)
frozen_lake, rooms = gymnax.environments.misc.frozen_lake, gymnax.environments.misc.rooms

Start = tuple[float, Any, Any]
"""Probability, observation, state."""
Way = tuple[float, Configured]
"""Probability, and a record of (state, action, params) -> observation, state, reward, terminated.

Nothing is drawn. Equal records share one program for all tables of an environment.
"""

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
    steps: Callable[[Any, Any], list[Way]]
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


@partial(jax.jit, static_argnums=0)
def _reset(environment: Any, params: Any) -> tuple[Any, Any]:
    """A first observation and state; a law replaces what was drawn in them."""
    return environment.reset_env(_UNUSED, params)


@partial(jax.jit, static_argnums=0)
def _observations(environment: Any, states: Any) -> Any:
    return jax.vmap(environment.get_obs)(states)


def _equally_likely(environment: Any, states: Any) -> list[Start]:
    """Starts from NumPy arrays of states [K, ...]."""
    leaves, structure = jax.tree.flatten((_observations(environment, states), states))
    leaves = [np.asarray(x) for x in leaves]
    K = len(leaves[0])
    return [(1 / K, *structure.unflatten(x[i] for x in leaves)) for i in range(K)]


def _one_start(environment: Any, params: Any) -> list[Start]:
    return [(1.0, *_reset(environment, params))]


def _own_steps(environment: Any, params: Any) -> list[Way]:
    """The environment's own step, as the only way to step, because it draws nothing."""
    return [(1.0, configured(_own_step, environment=environment))]


def _own_step(state: Any, action: Any, params: Any, *, environment: Any) -> tuple:
    return environment.step_env(_UNUSED, state, action, params)[:4]


def _frozen_lake_steps(environment: Any, params: Any) -> list[Way]:
    success = environment.success_rate if environment.is_slippery else 1.0
    chances = {0: success, -1: (1 - success) / 2, 1: (1 - success) / 2}
    return [
        (chance, configured(_turned, environment=environment, turn=turn))
        for turn, chance in chances.items()
    ]


def _turned(state: Any, action: Any, params: Any, *, environment: Any, turn: int) -> tuple:
    dry = copy.copy(environment)
    dry.is_slippery = False
    return dry.step_env(_UNUSED, state, (action + turn) % 4, params)[:4]


def _four_rooms_starts(environment: Any, params: Any) -> list[Start]:
    cells, first = np.asarray(environment.coords), _reset(environment, params)[1]
    goals = cells if params.resample_goal_pos else [np.asarray(environment.goal_fixed)]
    pairs = []
    for goal in goals:
        elsewhere = cells[np.any(cells != goal, axis=1)]
        places = elsewhere if params.resample_init_pos else [np.asarray(environment.pos_fixed)]
        pairs += [(place, goal) for place in places]
    place, goal = np.stack(pairs, axis=1)
    time = np.full(len(pairs), first.time)
    return _equally_likely(environment, first.replace(pos=place, goal=goal, time=time))


def _four_rooms_steps(environment: Any, params: Any) -> list[Way]:
    random = min(float(params.fail_prob) * 4 / 3, 1.0)
    chances = {None: 1 - random, **dict.fromkeys(range(4), random / 4)}
    return [
        (chance, configured(_taken, environment=environment, taken=taken))
        for taken, chance in chances.items()
    ]


def _taken(state: Any, action: Any, params: Any, *, environment: Any, taken: int | None) -> tuple:
    action = action if taken is None else jnp.full_like(action, taken)
    return environment.step_env(_UNUSED, state, action, params.replace(fail_prob=0.0))[:4]


def _catch_starts(environment: Any, params: Any) -> list[Start]:
    columns, first = environment.columns, _reset(environment, params)[1]
    states = jax.tree.map(lambda x: np.repeat(x, columns), jax.device_get(first))
    return _equally_likely(environment, states.replace(ball_x=np.arange(columns, dtype=np.int32)))


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


def _bandit_steps(environment: Any, params: Any) -> list[Way]:
    # An episode pulls one arm, and each entry of a random permutation is uniform: so the reward is
    # drawn when it is paid, and none of the n! permutations has to be a state.
    n = environment.num_actions
    rewards = np.asarray(jnp.linspace(0, 1, n))
    return [(1 / n, configured(_pay, environment=environment, reward=x)) for x in rewards]


def _pay(state: Any, action: Any, params: Any, *, environment: Any, reward: Any) -> tuple:
    state = state.replace(rewards=jnp.full(environment.num_actions, reward))
    return environment.step_env(_UNUSED, state, action, params)[:4]


def _umbrella_starts(environment: Any, params: Any) -> list[Start]:
    starts, (shown, first) = [], jax.device_get(_reset(environment, params))
    for need, has in product(np.arange(2, dtype=np.int32), repeat=2):
        state = first.replace(need_umbrella=need, has_umbrella=has)
        for bits in product((0, 1), repeat=environment.n_distractor):
            probability = 0.25 / 2**environment.n_distractor
            observation = np.array([need, has, shown[2], *bits], shown.dtype)
            starts.append((probability, observation, state))
    return starts


def _umbrella_steps(environment: Any, params: Any) -> list[Way]:
    draws = list(product((-1, 1), product((0, 1), repeat=environment.n_distractor)))
    return [
        (1 / len(draws), configured(_toss, environment=environment, coin=coin, bits=bits))
        for coin, bits in draws
    ]


def _toss(
    state: Any, action: Any, params: Any, *, environment: Any, coin: int, bits: tuple[int, ...]
) -> tuple:
    observation, state, reward, terminated = _own_step(
        state, action, params, environment=environment
    )
    # Only the end of the chain pays for the umbrella; before it a fair coin pays ±1.
    observation = observation.at[3:].set(jnp.array(bits))
    return observation, state, jnp.where(terminated, reward, coin), terminated


LAWS = {
    "FrozenLake-misc": Law(frozen_lake.FrozenLake, _one_start, _frozen_lake_steps),
    "FourRooms-misc": Law(rooms.FourRooms, _four_rooms_starts, _four_rooms_steps),
    "Catch-bsuite": Law(catch.Catch, _catch_starts, _own_steps),
    "DeepSea-bsuite": Law(
        deep_sea.DeepSea,
        _deep_sea_starts,
        _own_steps,
        forgotten=("bad_episode", "total_bad_episodes", "denoised_return"),
    ),
    "DiscountingChain-bsuite": Law(
        discounting_chain.DiscountingChain, _one_start, _own_steps, reads_time=True
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
