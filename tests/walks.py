"""Two environments that need no other library: a walk on a line, and a smooth one in space."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.environments.base import Box, Discrete, Environment, Step, limited
from pgjax.records import configured

NAME = "walk"
STEPS = 8


def walk(edge: float = STEPS) -> Environment:
    """One step to the left or right, `STEPS` times; √(edge − place) is the reward of a place.

    So it is no number beyond the edge, which is a leaf: the same program serves every edge.
    """
    endless = Environment(_start, configured(_step, edge=np.float32(edge)), Discrete(2), name=NAME)
    return limited(endless, STEPS)


def _start(key: Array) -> tuple[Array, Step]:
    place = jnp.zeros(())
    return place, Step(place[None], 0.0, False, False)


def _step(key: Array, place: Array, action: Array, *, edge: float) -> tuple[Array, Step]:
    place = place + 2 * action - 1
    return place, Step(place[None], jnp.sqrt(edge - place), False, False)


def _seen(place: Array) -> tuple[Array, Step]:
    return place, Step(place, -jnp.sum(place**2), False, False)


SMOOTH = Environment(
    init=lambda key: _seen(jax.random.normal(key, (3,))),
    step=lambda key, place, action: _seen(place + 0.1 * action),
    action_space=Box((-np.inf,), (np.inf,), (1,)),
)
"""An action pushes a place; reward and next place are differentiable functions of both."""
