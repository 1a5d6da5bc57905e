"""The jumanji adapter: combinatorial problems, most of them with action masks."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.environments.base import (
    ActionSpace,
    Box,
    Discrete,
    Environment,
    MultiDiscrete,
    Step,
    stable,
)
from pgjax.environments.libraries import library, make_known

DOWNLOADS = frozenset({"Sokoban-v0"})
"""Environments that fetch a data set when made; training must not depend on a network."""


def adapt(environment: Any) -> Environment:
    """A jumanji environment of one agent as an Environment.

    The last time step terminates if its discount is zero, and truncates if it is not. Most jumanji
    environments end at their own time limit with a discount of zero. The limit is then part of the
    task, and nothing is bootstrapped there.

    The observation is jumanji's, a named tuple. A mask in it is also the step's action mask. If a
    mask is over tuples of choices (Tetris, Minesweeper, BinPack), legality does not factor. Actions
    are then Discrete, and number the tuples in row-major order.

    Args:
        environment: from `jumanji.make`, without wrappers.

    Raises:
        TypeError: if actions are neither discrete, vectors of discrete choices, nor bounded floats;
            by its functions, if there are several rewards.

    References:
        Bonnet et al., Jumanji (2024).

    Example:
        >>> import jumanji  # doctest: +SKIP
        >>> environment = adapt(jumanji.make("Snake-v1"))  # doctest: +SKIP
        >>> environment.action_space, environment.time_limit  # doctest: +SKIP
        (Discrete(num_actions=4), 4000)
    """
    env, wrappers = library("jumanji.env"), library("jumanji.wrappers")
    if isinstance(environment, wrappers.Wrapper) or not isinstance(environment, env.Environment):
        raise TypeError(
            "environment must be a jumanji environment without wrappers, as from "
            f"jumanji.make(name), got {type(environment).__name__}"
        )
    name, last = type(environment).__name__, library("jumanji.types").StepType.LAST
    choices, mask_shape = _choices(environment), _mask_shape(environment)
    joint = len(choices) > 1 and mask_shape == choices

    def show(state: Any, timestep: Any) -> tuple[Any, Step]:
        is_last, ends = timestep.step_type == last, timestep.discount == 0
        mask = None
        if mask_shape is not None:
            mask = timestep.observation.action_mask
            mask = jnp.ravel(mask) if joint else _one_after_another(mask, choices)
        step = Step(timestep.observation, timestep.reward, is_last & ends, is_last & ~ends, mask)
        return state, step

    def init(key: Array) -> tuple[Any, Step]:
        return show(*environment.reset(key))

    def step(key: Array, state: Any, action: Array) -> tuple[Any, Step]:
        if joint:
            action = jnp.stack(jnp.unravel_index(action, choices))
        spec = environment.action_spec
        return show(*environment.step(state, action.astype(spec.dtype).reshape(spec.shape)))

    space = Discrete(math.prod(choices)) if joint else _action_space(environment)
    return stable(Environment(init, step, space, _time_limit(environment), name))


def make(name: str) -> Environment:
    """The jumanji environment of that id, such as "Snake-v1".

    Raises:
        ValueError: if the environment would download a data set.
    """
    if name in DOWNLOADS:
        raise ValueError(
            f"jumanji/{name} downloads a data set when it is made, which pgjax does not do; "
            "try jumanji/SlidingTilePuzzle-v0"
        )
    jumanji = library("jumanji")
    names = jumanji.registered_environments() - DOWNLOADS
    return make_known("jumanji/", name, names, lambda known: adapt(jumanji.make(known)))


def _choices(environment: Any) -> tuple[int, ...]:
    """The sizes of an action's discrete choices; () if it is real-valued."""
    specs, spec = library("jumanji.specs"), environment.action_spec
    if isinstance(spec, specs.DiscreteArray | specs.MultiDiscreteArray):
        return tuple(int(n) for n in np.ravel(spec.num_values))
    return ()


def _action_space(environment: Any) -> ActionSpace:
    specs, spec = library("jumanji.specs"), environment.action_spec
    choices = _choices(environment)
    if isinstance(spec, specs.DiscreteArray):
        return Discrete(choices[0])
    if choices:
        return MultiDiscrete(choices)
    if isinstance(spec, specs.BoundedArray) and jnp.issubdtype(spec.dtype, jnp.floating):
        low, high = (np.broadcast_to(x, spec.shape).ravel() for x in (spec.minimum, spec.maximum))
        return Box(tuple(map(float, low)), tuple(map(float, high)), tuple(spec.shape))
    raise TypeError(
        f"{type(environment).__name__} has actions of {type(spec).__name__}; pgjax takes discrete "
        "actions, vectors of discrete choices, and bounded floats"
    )


def _mask_shape(environment: Any) -> tuple[int, ...] | None:
    """The specified shape of the observation's action mask; None if there is no mask."""
    spec = getattr(environment.observation_spec, "action_mask", None)
    return None if spec is None else tuple(spec.shape)


def _one_after_another(mask: Array, choices: tuple[int, ...]) -> Array:
    """A mask [D, A] of D choices as [A_1 + ... + A_D]; the mask of a single choice is unchanged."""
    if len(choices) < 2:
        return mask
    rows = mask.reshape(len(choices), -1)
    return jnp.concatenate([row[:n] for row, n in zip(rows, choices, strict=True)])


def _time_limit(environment: Any) -> int | None:
    limit = getattr(environment, "time_limit", None)
    return None if limit is None else int(limit)
