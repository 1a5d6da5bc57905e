"""The surface: an environment as a record of pure functions, whatever library it comes from.

There is no auto-reset and no wrapper: whoever steps freezes what has ended. A finished state may be
stepped again, and what comes of it is never looked at.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jax import Array
from jaxtyping import Bool, Float, Key

from pgjax.types import Observation

State: TypeAlias = Any
"""A pytree of arrays of one shape and dtype at every step; nobody but the environment reads it."""


class Step(NamedTuple):
    """What an environment shows after it started or moved on.

    Attributes:
        observation: a pytree of arrays.
        reward: scalar, of the transition that led here; zero at the start.
        terminated: whether this is a terminal state.
        truncated: whether a time limit of the task ends the episode here. Both may be true.
        action_mask: [A] true where the next action is legal; None where all are, always.
    """

    observation: Observation
    reward: Float[Array, ""] | float
    terminated: Bool[Array, ""] | bool
    truncated: Bool[Array, ""] | bool
    action_mask: Bool[Array, "A"] | None = None


class Discrete(NamedTuple):
    """Actions 0..A−1, as integers.

    Attributes:
        num_actions: A.
    """

    num_actions: int


class MultiDiscrete(NamedTuple):
    """Several discrete choices at once, as a vector of integers.

    Attributes:
        num_actions: how many each has, (A_1, ..., A_D).
    """

    num_actions: tuple[int, ...]


class Box(NamedTuple):
    """Vectors of reals between bounds.

    Attributes:
        low: (D numbers), the least; −inf where there is no bound.
        high: (D numbers), the greatest.
        shape: of the action that the environment takes, D numbers in all.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """D, the numbers of an action."""
        return math.prod(self.shape)


ActionSpace: TypeAlias = Discrete | MultiDiscrete | Box


class Environment(NamedTuple):
    """An environment as a record of pure functions.

    Attributes:
        init: key -> (state, step), an episode's start.
        step: (key, state, action) -> (state, step), without auto-reset.
        action_space: what `step` takes.
        time_limit: steps after which `truncated` comes at the latest; None where it may never.
        name: as messages print it.
    """

    init: Callable[[Key[Array, ""]], tuple[State, Step]]
    step: Callable[[Key[Array, ""], State, Array], tuple[State, Step]]
    action_space: ActionSpace
    time_limit: int | None = None
    name: str = "environment"
