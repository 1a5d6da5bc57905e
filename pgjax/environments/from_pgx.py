"""The pgx adapter: games of one player, and of several against given opponents."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from pgjax.environments.base import Discrete, Environment, Step, limited, stable
from pgjax.environments.libraries import library, make_known

Opponent: TypeAlias = Callable[
    [Key[Array, ""], Any, Bool[Array, "A"]], Int[Array, ""]
]  # (key, observation, action mask) -> action


def uniform(key: Key[Array, ""], observation: Any, action_mask: Bool[Array, "A"]) -> Array:
    """An opponent that takes any legal action with equal probability."""
    return jax.random.categorical(key, jnp.where(action_mask, 0.0, -jnp.inf))


def adapt(
    environment: Any, *, opponent: Opponent | None = None, time_limit: int | None = None
) -> Environment:
    """A pgx game as an Environment with Discrete actions and a mask, seen by its player 0.

    Other players are part of the environment. After player 0's move they move until it is player
    0's turn again or the game is over. The reward is the sum of player 0's rewards in these moves.
    The objective is the return against that opponent. By pgx's own rule an illegal action ends the
    game at a loss.

    Args:
        environment: from `pgx.make`.
        opponent: (key, observation, action mask) -> action, for every player but player 0; needed
            if there are several players.
        time_limit: steps after which an episode is truncated. pgx's games have none, and the
            MinAtar games may go on for ever.

    Raises:
        ValueError: if there are several players and no opponent, or `time_limit` is below one.

    References:
        Koyamada et al., Pgx (2023).

    Example:
        >>> import pgx  # doctest: +SKIP
        >>> environment = adapt(pgx.make("connect_four"), opponent=uniform)  # doctest: +SKIP
        >>> environment.action_space  # doctest: +SKIP
        Discrete(num_actions=7)
    """
    if not isinstance(environment, library("pgx").Env):
        raise TypeError(
            f"environment must be a pgx game, as from pgx.make(name), got {environment!r}"
        )
    if environment.num_players > 1 and opponent is None:
        raise ValueError(
            f"{environment.id} has {environment.num_players} players, and the environment must "
            "move the others: from_pgx.adapt(pgx.make(name), opponent=from_pgx.uniform)"
        )

    def show(state: Any, reward: Float[Array, ""]) -> tuple[Any, Step]:
        flags = state.terminated, state.truncated
        return state, Step(state.observation, reward, *flags, state.legal_action_mask)

    def init(key: Array) -> tuple[Any, Step]:
        init_key, key = _own_and_others(opponent, key)
        state = environment.init(init_key)
        no_reward = jnp.zeros((), state.rewards.dtype)
        return show(*_others_move(environment, opponent, key, state, no_reward))

    def step(key: Array, state: Any, action: Array) -> tuple[Any, Step]:
        step_key, key = _own_and_others(opponent, key)
        state = environment.step(state, action, step_key)
        return show(*_others_move(environment, opponent, key, state, state.rewards[0]))

    space = Discrete(environment.num_actions)
    return limited(stable(Environment(init, step, space, name=environment.id)), time_limit)


def make(name: str) -> Environment:
    """The pgx game of one player of that id, such as "minatar-breakout" or "2048"."""
    pgx = library("pgx")
    return make_known("pgx/", name, pgx.available_envs(), lambda known: adapt(pgx.make(known)))


def _own_and_others(opponent: Opponent | None, key: Array) -> tuple[Array, Array]:
    """Keys of the game's own step and of the opponents' moves; the same key if there are none."""
    if opponent is None:
        return key, key
    own, others = jax.random.split(key)
    return own, others


def _others_move(
    environment: Any, opponent: Opponent | None, key: Array, state: Any, paid: Array
) -> tuple[Any, Array]:
    """The state at player 0's next turn or the game's end, and player 0's reward until then."""
    if opponent is None:
        return state, paid

    def move(loop: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        state, paid, key = loop
        key, move_key, step_key = jax.random.split(key, 3)
        action = opponent(move_key, state.observation, state.legal_action_mask)
        state = environment.step(state, action, step_key)
        return state, paid + state.rewards[0], key

    def is_theirs(loop: tuple[Any, Array, Array]) -> Array:
        state = loop[0]
        return (state.current_player != 0) & ~(state.terminated | state.truncated)

    return jax.lax.while_loop(is_theirs, move, (state, paid, key))[:2]
