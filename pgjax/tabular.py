"""TabularMDP: a finite Markov decision process as arrays, and small ones with names."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from pgjax.validation import check_positive, check_unit_interval, is_concrete

_FIELDS = ("transition", "reward", "initial", "terminal", "discount", "observation")


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """A finite MDP, held in float64 NumPy arrays so that exact mathematics stays exact.

    Entering a terminal state pays its reward and ends the episode; the terminal state's own rows
    play no part. Construction validates; rows of `transition` are normalised to sum to one exactly.

    Attributes:
        transition: [S, A, S] P(s'|s,a).
        reward: [S, A, S] r(s,a,s').
        initial: [S] distribution of the first state; zero on terminal states.
        terminal: [S] boolean.
        discount: γ in [0, 1].
        observation: [S, ...] what a policy sees; one-hot by default. Two states may look alike.

    Raises:
        ValueError: a wrong shape, a row that is no distribution (its state and action are named), a
            discount outside [0, 1], no state to start from.

    Example:
        >>> mdp = TabularMDP([[[1.0]]], [[[2.0]]], [1.0], [False], discount=0.5)
        >>> mdp.observation
        array([[1.]])
    """

    transition: Float[Any, "S A S"]
    reward: Float[Any, "S A S"]
    initial: Float[Any, "S"]
    terminal: Bool[Any, "S"]
    discount: float
    observation: Shaped[Any, "S ..."] = None

    def __post_init__(self) -> None:
        if not is_concrete(tuple(getattr(self, name) for name in _FIELDS)):
            return  # built inside a traced function, where no value can be read
        for name, value in _validated(self).items():
            object.__setattr__(self, name, value)

    def replace(self, **fields: Any) -> "TabularMDP":
        """The same with other fields, validated again."""
        return replace(self, **fields)

    @property
    def num_states(self) -> int:
        """S, terminal states included."""
        return self.transition.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.transition.shape[1]


def _flatten(mdp: TabularMDP) -> tuple[tuple[Any, ...], None]:
    return tuple(getattr(mdp, name) for name in _FIELDS), None


def _unflatten(_: None, leaves: Any) -> TabularMDP:
    """Without validation: tree transformations rebuild it around tracers and placeholders."""
    mdp = object.__new__(TabularMDP)
    for name, leaf in zip(_FIELDS, leaves, strict=True):
        object.__setattr__(mdp, name, leaf)
    return mdp


jax.tree_util.register_pytree_node(TabularMDP, _flatten, _unflatten)


def to_jax(tree: Any) -> Any:
    """Leaves as JAX arrays of the present precision, each from a fresh copy.

    JAX remembers what it made of a NumPy array it has traced, also when the x64 setting has changed
    since, and would give float32 where float64 is asked for.
    """
    return jax.tree.map(
        lambda x: jnp.asarray(np.array(x) if isinstance(x, np.ndarray) else x), tree
    )


def save(mdp: TabularMDP, path: str | Path) -> None:
    """Write an MDP to a .npz file, one array a field."""
    arrays: dict[str, Any] = {name: np.asarray(getattr(mdp, name)) for name in _FIELDS}
    np.savez(path, **arrays)


def load(path: str | Path) -> TabularMDP:
    """Read an MDP from a .npz file with the arrays of TabularMDP; `observation` may be missing.

    Raises:
        ValueError: an array missing, unknown or invalid; not a .npz file.
        FileNotFoundError: no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, AttributeError, TypeError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is not a .npz file of arrays: {error}") from error
    missing = [name for name in _FIELDS[:-1] if name not in arrays]
    unknown = sorted(set(arrays) - set(_FIELDS))
    if missing or unknown:
        raise ValueError(
            f"{path} must hold the arrays {', '.join(_FIELDS)} (observation optional); "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        )
    if arrays["discount"].size != 1:
        raise ValueError(f"discount must be a scalar, got shape {arrays['discount'].shape}")
    return TabularMDP(**{**arrays, "discount": arrays["discount"].item()})


def two_armed_bandit(discount: float = 1.0) -> TabularMDP:
    """One decision between two arms: a coin worth 1 with probability 0.3, and one with 0.6.

    The coin's face is the terminal state it leads to, so that rewards are part of the transition.
    """
    transition = np.zeros((3, 2, 3))
    transition[0, 0] = [0, 0.7, 0.3]
    transition[0, 1] = [0, 0.4, 0.6]
    transition[1:, :, 1:] = np.eye(2)[:, None]
    reward = np.zeros((3, 2, 3))
    reward[0, :, 2] = 1
    return TabularMDP(transition, reward, [1.0, 0, 0], [False, True, True], discount)


def short_corridor(discount: float = 1.0) -> TabularMDP:
    """Three states that all look alike, the second with its actions reversed; −1 a step.

    Actions: 0 left, 1 right. The best policy is stochastic, and no value-greedy one is good.

    References:
        Sutton & Barto (2018), Example 13.1.
    """
    transition = np.zeros((4, 2, 4))
    for state, (left, right) in enumerate([(0, 1), (2, 0), (1, 3), (3, 3)]):
        transition[state, 0, left] = transition[state, 1, right] = 1
    reward = -np.ones((4, 2, 4))
    terminal = [False, False, False, True]
    return TabularMDP(transition, reward, [1.0, 0, 0, 0], terminal, discount, np.ones((4, 1)))


def chain(length: int = 5, slip: float = 0.2, discount: float = 0.9) -> TabularMDP:
    """A line of states with a small prize at its left end and a large one at its right.

    Actions: 0 left, 1 right; a slip reverses the move. Both ends are terminal, and pay 0.2 and 1.

    Args:
        length: states between the ends; episodes start in the middle one.
        slip: probability that the move is reversed.
        discount: γ.
    """
    check_positive("length", length)
    check_unit_interval("slip", slip)
    S = length + 2
    transition, reward = np.zeros((S, 2, S)), np.zeros((S, 2, S))
    for state in range(1, S - 1):
        for action, move in enumerate((-1, 1)):
            transition[state, action, state + move] += 1 - slip
            transition[state, action, state - move] += slip
    transition[0, :, 0] = transition[-1, :, -1] = 1
    reward[1, :, 0], reward[-2, :, -1] = 0.2, 1.0
    terminal = np.isin(np.arange(S), [0, S - 1])
    return TabularMDP(transition, reward, np.eye(S)[S // 2], terminal, discount)


def gridworld(
    height: int = 4, width: int = 4, slip: float = 0.1, discount: float = 0.95
) -> TabularMDP:
    """A grid with a goal in the last corner: +1 on entering it, −0.04 on every other step.

    Actions: 0 up, 1 right, 2 down, 3 left; into a wall stays put; a slip moves in a uniformly
    random direction. Episodes start anywhere else, uniformly.

    Args:
        height: rows.
        width: columns.
        slip: probability of a random direction.
        discount: γ.
    """
    check_positive("height", height)
    check_positive("width", width)
    check_unit_interval("slip", slip)
    S, goal = height * width, height * width - 1
    if S < 2:
        raise ValueError("gridworld needs a cell beside the goal, got 1 x 1")
    transition = np.zeros((S, 4, S))
    for state in range(S):
        row, column = divmod(state, width)
        for action, (down, right) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
            arrived = min(max(row + down, 0), height - 1) * width + min(
                max(column + right, 0), width - 1
            )
            transition[state, action, arrived] += 1 - slip
            transition[state, :, arrived] += slip / 4
    reward = np.full((S, 4, S), -0.04)
    reward[:, :, goal] = 1.0
    initial = np.where(np.arange(S) == goal, 0.0, 1 / (S - 1))
    return TabularMDP(transition, reward, initial, np.arange(S) == goal, discount)


def random_mdp(
    seed: int = 0,
    num_states: int = 4,
    num_actions: int = 2,
    num_successors: int = 2,
    discount: float = 0.8,
) -> TabularMDP:
    """A seeded random MDP on which known mistakes show: nothing about it is symmetric.

    Stochastic transitions, normal rewards, an asymmetric start, and one absorbing state with a
    non-zero reward on entering it, so that episodes differ in length.

    Args:
        seed: of NumPy's default generator.
        num_states: S, the terminal state included.
        num_actions: A.
        num_successors: states that each state and action can lead to.
        discount: γ.

    References:
        The construction is close to the Garnet problems of Bhatnagar et al., Natural Actor-Critic
        Algorithms (2009), section 7.
    """
    for name, count in (("num_actions", num_actions), ("num_successors", num_successors)):
        check_positive(name, count)
    if check_positive("num_states", num_states) < 2:
        raise ValueError(f"num_states must be at least 2, one of them terminal, got {num_states}")
    if num_successors > num_states:
        raise ValueError(f"num_successors must be at most num_states, got {num_successors}")
    random = np.random.default_rng(seed)
    S, A = num_states, num_actions
    transition = np.zeros((S, A, S))
    for state in range(S - 1):
        for action in range(A):
            # The first successors run round the states, so that every state is reached.
            first = (state + action + 1) % S
            others = random.choice(np.delete(np.arange(S), first), num_successors - 1, False)
            transition[state, action, [first, *others]] = random.dirichlet(np.ones(num_successors))
    transition[-1, :, -1] = 1
    reward = random.normal(size=(S, A, S))
    reward[:-1, :, -1] += 2.0
    initial = np.append(random.dirichlet(np.ones(S - 1)), 0.0)
    return TabularMDP(transition, reward, initial, np.arange(S) == S - 1, discount)


class NamedMDP(NamedTuple):
    """A row of the registry: how to make the MDP, and the horizon it is meant for."""

    make: Callable[[], TabularMDP]
    horizon: int


NAMED: dict[str, NamedMDP] = {
    "random": NamedMDP(partial(random_mdp, 1), 6),
    "bandit": NamedMDP(two_armed_bandit, 1),
    "corridor": NamedMDP(short_corridor, 10),
    "chain": NamedMDP(chain, 8),
    "gridworld": NamedMDP(gridworld, 20),
}
"""The MDPs that the command line knows by name; the first is its default."""


def _validated(mdp: TabularMDP) -> dict[str, Any]:
    transition = np.asarray(mdp.transition, np.float64)
    if transition.ndim != 3 or transition.shape[0] != transition.shape[2]:
        raise ValueError(f"transition must have shape [S, A, S], got {transition.shape}")
    S, A, _ = transition.shape
    if S == 0 or A == 0:
        raise ValueError(f"transition must have at least one state and action, got {S} and {A}")
    reward = _shaped("reward", mdp.reward, "[S, A, S]", (S, A, S))
    initial = _shaped("initial", mdp.initial, "[S]", (S,))
    terminal = np.asarray(mdp.terminal)
    if terminal.shape != (S,) or terminal.dtype != np.bool_:
        raise ValueError(
            f"terminal must be boolean with shape [S] = {(S,)}, "
            f"got {terminal.dtype} with shape {terminal.shape}"
        )
    check_unit_interval("discount", mdp.discount)
    for state, action in np.ndindex(S, A):
        _check_distribution(
            f"transition[{state}, {action}] (state {state}, action {action})",
            transition[state, action],
        )
    _check_distribution("initial", initial)
    if np.any(initial[terminal] > 0):
        raise ValueError(
            f"initial must be zero on terminal states, got {initial[terminal].max():g} in state "
            f"{np.flatnonzero(terminal & (initial > 0))[0]}"
        )
    bad = np.argwhere(~np.isfinite(reward) & (transition > 0) & ~terminal[:, None, None])
    if bad.size:
        raise ValueError(f"reward[{', '.join(map(str, bad[0]))}] must be finite")
    observation = np.eye(S) if mdp.observation is None else np.asarray(mdp.observation)
    if observation.shape[:1] != (S,):
        raise ValueError(
            f"observation must have one row for each of the {S} states, got {observation.shape}"
        )
    return {
        "transition": transition / transition.sum(-1, keepdims=True),
        "reward": np.where(np.isfinite(reward), reward, 0.0),
        "initial": initial / initial.sum(),
        "terminal": terminal,
        "discount": float(mdp.discount),
        "observation": observation,
    }


def _shaped(name: str, value: Any, layout: str, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(value, np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {layout} = {shape}, got {array.shape}")
    return array


def _check_distribution(name: str, row: np.ndarray) -> None:
    if not np.all(row >= 0):  # also false for NaN
        raise ValueError(f"{name} must be non-negative, got {row.min():g}")
    if abs(row.sum() - 1) > 1e-6:
        raise ValueError(f"{name} must sum to 1, got {row.sum():g}")
