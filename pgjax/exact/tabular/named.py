"""Small MDPs with names, for tests, examples and the command line."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from pgjax.core.validation import check_positive, check_rate
from pgjax.exact.tabular.mdp import TabularMDP
from pgjax.types import describe


def two_armed_bandit(discount: float = 1.0) -> TabularMDP:
    """One decision between two arms: a coin worth 1 with probability 0.3, and one with 0.6.

    Each face of the coin is a terminal state, so that the reward is a function of the transition.
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

    Actions: 0 left, 1 right. The best policy is stochastic, and no policy that is greedy in action
    values is good.

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
    check_rate("slip", slip)
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

    Actions: 0 up, 1 right, 2 down, 3 left. A move into a wall changes nothing, and a slip moves in
    a uniformly random direction. Episodes start in any cell but the goal, uniformly.

    Args:
        height: rows.
        width: columns.
        slip: probability of a random direction.
        discount: γ.
    """
    check_positive("height", height)
    check_positive("width", width)
    check_rate("slip", slip)
    S, goal = height * width, height * width - 1
    if S < 2:
        raise ValueError(
            "gridworld needs a cell beside the goal, got 1 x 1; make height or width at least 2"
        )
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
    """A seeded random MDP without symmetries, on which known mistakes show.

    It has stochastic transitions, normal rewards and an asymmetric start. Its one terminal state
    has a larger reward on entering it, and makes episodes differ in length.

    Args:
        seed: of NumPy's default generator.
        num_states: S, the terminal state included.
        num_actions: A.
        num_successors: the number of states that each state and action can lead to.
        discount: γ.

    Raises:
        TypeError: if a count or the seed is not an integer.
        ValueError: if `num_states` is below 2, or `num_successors` is above it.

    References:
        The construction is close to the Garnet problems of Bhatnagar et al., Natural Actor-Critic
        Algorithms (2009), section 7.
    """
    for name, count in (("num_actions", num_actions), ("num_successors", num_successors)):
        check_positive(name, count)
    if check_positive("num_states", num_states) < 2:
        raise ValueError(f"num_states must be at least 2, one of them terminal, got {num_states}")
    if num_successors > num_states:
        raise ValueError(
            f"num_successors must be at most num_states = {num_states}, got {num_successors}"
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise TypeError(f"seed must be an integer, zero or more, got {describe(seed)}")
    random = np.random.default_rng(seed)
    S, A = num_states, num_actions
    transition = np.zeros((S, A, S))
    for state in range(S - 1):
        for action in range(A):
            # The first successors go round all states, so that every state is reached.
            first = (state + action + 1) % S
            others = random.choice(np.delete(np.arange(S), first), num_successors - 1, False)
            transition[state, action, [first, *others]] = random.dirichlet(np.ones(num_successors))
    transition[-1, :, -1] = 1
    reward = random.normal(size=(S, A, S))
    reward[:-1, :, -1] += 2.0
    initial = np.append(random.dirichlet(np.ones(S - 1)), 0.0)
    return TabularMDP(transition, reward, initial, np.arange(S) == S - 1, discount)


class NamedMDP(NamedTuple):
    """A row of the registry: a function that makes an MDP, and the horizon that it is meant for."""

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
