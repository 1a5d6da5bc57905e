"""Every state that an environment can reach, found by running its own steps under its law."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.environments.tables.laws import Law, Step, law_of
from pgjax.exact.tabular import TabularMDP

MAX_STATES = 4096
"""Larger tables are refused: at this size a float64 tensor [S, A, S] with A = 4 takes 0.5 GB."""

_CHUNK = 64  # states expanded at a time, so that one compilation serves them all


class Nodes(NamedTuple):
    """States of the table, stacked along the first axis."""

    observation: Any
    state: Any
    reward: Any  # on the way in; zero unless the law draws rewards
    ended: Any


def reachable_mdp(
    environment: Any, params: Any, *, discount: float, keep_time: bool
) -> tuple[TabularMDP, Nodes]:
    """The table over all reachable states, and these states.

    The search is breadth first from the first states, in chunks; states are numbered as they are
    met.

    Args:
        environment: a gymnax environment that has a law.
        params: its parameters; the default ones if None.
        discount: γ.
        keep_time: whether the time is part of the state.

    Returns:
        The TabularMDP, and its S states as Nodes [S, ...].

    Raises:
        ValueError: if there is no law, there are more than `MAX_STATES` states, or the law gives
            one transition two different rewards.
    """
    law = law_of(environment)
    params = environment.default_params if params is None else params
    ways = [(p, step) for p, step in law.steps(environment, params) if p > 0]
    keep_time = keep_time or law.reads_time
    starts = law.starts(environment, params)
    expand = jax.jit(jax.vmap(_expansion(environment, params, law, ways, keep_time)))
    known, batch = {}, _first_nodes([start[1:] for start in starts], law, keep_time, expand)
    met: list[Nodes] = []

    def number(batch: Nodes) -> np.ndarray:
        """The nodes' numbers; new ones are appended."""
        for index, key in enumerate(keys := [row.tobytes() for row in _identity(batch)]):
            if known.setdefault(key, len(known)) == len(met):
                met.append(_rows(batch, index))
        if len(met) > MAX_STATES:
            raise ValueError(
                f"{environment.name} has more than {MAX_STATES} states with these parameters; "
                "lower max_steps_in_episode or the size, or leave the time out (timeless_mdp)"
            )
        return np.array([known[key] for key in keys])

    first = number(batch)
    edges, done = [], 0
    while done < len(met):
        chunk = met[done : done + _CHUNK]
        padded = _stacked(chunk + chunk[-1:] * (_CHUNK - len(chunk)))
        arrived, reward = jax.tree.map(np.asarray, expand(padded.state))
        alive = np.flatnonzero(~padded.ended[: len(chunk)])
        successor = np.zeros((len(chunk), *reward.shape[1:]), int)
        if alive.size:
            flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), _rows(arrived, alive))
            successor[alive] = number(flat).reshape(successor[alive].shape)
        edges.append((successor, reward[: len(chunk)]))
        done += len(chunk)
    nodes, initial = _stacked(met), np.bincount(first, [p for p, *_ in starts], minlength=len(met))
    ended = np.asarray(nodes.ended, bool)
    successor, rewards = (np.concatenate(parts) for parts in zip(*edges, strict=True))
    probability = [p for p, _ in ways]
    transition, reward = _dense(ended, successor, rewards.astype(np.float64), probability)
    return TabularMDP(transition, reward, initial, ended, discount, nodes.observation), nodes


def _dense(
    ended: np.ndarray, successor: np.ndarray, rewards: np.ndarray, probability: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Transitions and rewards [S, A, S] from successors [S, A, W]; an ended state stays."""
    S, A, num_ways = successor.shape
    transition = np.zeros((S, A, S))
    reward = np.full((S, A, S), np.nan)
    state, action = np.ogrid[:S, :A]
    for way in range(num_ways):
        entry = state, action, successor[..., way]
        if np.any(np.abs(reward[entry] - rewards[..., way])[~ended] > 0):  # NaN is neither
            raise ValueError(
                "a transition has two different rewards, and a table holds one; list it as two "
                "outcomes"
            )
        reward[entry] = rewards[..., way]
        transition[entry] += probability[way]
    transition[ended] = np.eye(S)[ended][:, None]
    reward[ended] = 0
    return transition, np.nan_to_num(reward)


def _expansion(environment: Any, params: Any, law: Law, ways: Any, keep_time: bool) -> Any:
    """State -> the nodes [A, W] that it leads to, and the rewards [A, W]."""
    space = environment.action_space(params)

    def arrive(step: Step, state: Any, action: Array) -> tuple[Nodes, Array]:
        observation, following, reward, terminated = step(state, action)
        truncated = keep_time & jnp.asarray(environment.is_truncated(following, params))
        mark = reward if law.draws_reward else jnp.zeros_like(reward)
        following = _kept(law, following, keep_time)
        return Nodes(observation, following, mark, terminated | truncated), reward

    def expand(state: Any) -> tuple[Nodes, Array]:
        def act(action: Array) -> Any:
            arrivals = [arrive(step, state, action) for _, step in ways]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrivals)

        return jax.vmap(act)(jnp.arange(int(space.n), dtype=space.dtype))

    return expand


def _first_nodes(starts: Any, law: Law, keep_time: bool, expand: Any) -> Nodes:
    """The first states in the dtypes that a step returns; some environments' resets differ."""
    kept = [(observation, _kept(law, state, keep_time)) for observation, state in starts]
    observation, state = _stacked(kept)
    nodes = Nodes(observation, state, np.zeros(len(kept)), np.zeros(len(kept), bool))
    # In the shape of the chunks to come, so that the expansion is traced once.
    chunk = jax.tree.map(lambda x: jax.ShapeDtypeStruct((_CHUNK, *x.shape[1:]), x.dtype), state)
    stepped = jax.eval_shape(expand, chunk)[0]
    return jax.tree.map(lambda x, y: x.astype(np.promote_types(x.dtype, y.dtype)), nodes, stepped)


def _kept(law: Law, state: Any, keep_time: bool) -> Any:
    """The state with zeros in the fields that no step reads."""
    names = law.forgotten if keep_time else (*law.forgotten, "time")
    return state.replace(**{name: jnp.zeros_like(getattr(state, name)) for name in names})


def _rows(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees)


def _identity(nodes: Nodes) -> np.ndarray:
    """[B, D] numbers that differ if two nodes do; the state of an ended node does not count."""
    B = len(nodes.ended)

    def columns(tree: Any) -> np.ndarray:
        leaves = [np.asarray(x, np.float64).reshape(B, -1) for x in jax.tree.leaves(tree)]
        return np.concatenate(leaves, axis=1)

    ended = np.asarray(nodes.ended)[:, None]
    state = np.where(ended, 0, columns(nodes.state))
    seen = columns((nodes.observation, nodes.reward))
    return np.concatenate([seen, state, ended], axis=1) + 0.0  # −0 becomes 0
