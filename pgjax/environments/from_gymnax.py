"""gymnax on the surface: steps go through `reset_env`, `step_env` and `is_truncated`.

So there is no auto-reset, and the observation after the last step is the episode's own.
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from pgjax.environments.base import ActionSpace, Box, Discrete, Environment, Step, stable
from pgjax.environments.import_gymnax import GymnaxEnvironment as GymnaxEnvironment
from pgjax.environments.import_gymnax import gymnax, registered_envs
from pgjax.environments.import_gymnax import spaces as spaces
from pgjax.environments.libraries import known_name
from pgjax.records import configured, data, record, static

DOWNLOADS = frozenset({"MNISTBandit-bsuite"})
"""Environments that fetch a data set when made; training must not depend on a network."""


def adapt(environment: GymnaxEnvironment, params: Any = None) -> Environment:
    """A gymnax environment with its parameters as an Environment.

    Args:
        environment: from `gymnax.make`.
        params: its parameters, leaves of the record, which may be traced; the default ones if
            None.

    Returns:
        An Environment. What depends on traced parameters is not known in it: bounds of a Box are
        then infinite, and the time limit None.

    Raises:
        TypeError: actions that are neither Discrete nor a Box.

    Bias: does not apply.

    Example:
        >>> import gymnax
        >>> environment = adapt(*gymnax.make("CartPole-v1"))
        >>> environment.action_space, environment.time_limit
        (Discrete(num_actions=2), 500)
    """
    params = environment.default_params if params is None else params
    space = environment.action_space(params)

    parts = _Parts(environment, params)
    limit = params.max_steps_in_episode
    return stable(
        Environment(
            configured(_init, parts=parts),
            configured(_step, parts=parts),
            _action_space(environment.name, space),
            time_limit=None if isinstance(limit, Tracer) else int(limit),
            name=environment.name,
            num_categories=_num_categories(environment, params),
        )
    )


@record
class _Parts:
    """A gymnax environment and its parameters, which are leaves."""

    environment: GymnaxEnvironment = static()
    params: Any = data()


def _init(key: Array, *, parts: _Parts) -> tuple[Any, Step]:
    observation, state = parts.environment.reset_env(key, parts.params)
    return state, Step(observation, 0.0, False, False)


def _step(key: Array, state: Any, action: Array, *, parts: _Parts) -> tuple[Any, Step]:
    environment, params = parts.environment, parts.params
    action = jnp.asarray(action).astype(environment.action_space(params).dtype)
    observation, state, reward, terminated, _ = environment.step_env(key, state, action, params)
    truncated = environment.is_truncated(state, params)
    return state, Step(observation, reward, terminated, truncated)


def named(name: str) -> tuple[GymnaxEnvironment, Any]:
    """The gymnax environment of that id and its parameters.

    Args:
        name: as in gymnax's registry.

    Returns:
        (environment, params).

    Raises:
        ValueError: an unknown name, with near matches; one that would download a data set.

    Example:
        >>> named("CartPole")
        Traceback (most recent call last):
        ...
        ValueError: unknown environment 'CartPole'; did you mean CartPole-v1?
    """
    if name in DOWNLOADS:
        raise ValueError(
            f"{name} downloads a data set when it is made, which pgjax does not do; "
            "try SimpleBandit-bsuite"
        )
    known = [other for other in registered_envs if other not in DOWNLOADS]
    return gymnax.make(known_name("", name, known))


def make(name: str) -> Environment:
    """The gymnax environment of that id as an Environment, with its default parameters.

    Args:
        name: as in gymnax's registry.

    Raises:
        ValueError: an unknown name, with near matches; one that would download a data set.
    """
    return replace(adapt(*named(name)), name=name)


def _action_space(name: str, space: Any) -> ActionSpace:
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, spaces.Box):
        shape = tuple(space.shape)
        return Box(_bound(space.low, shape, -np.inf), _bound(space.high, shape, np.inf), shape)
    raise TypeError(
        f"{name} has actions in a {type(space).__name__} space; pgjax takes Discrete ones and Boxes"
    )


def _num_categories(environment: GymnaxEnvironment, params: Any) -> int | None:
    space = environment.observation_space(params)
    return int(space.n) if isinstance(space, spaces.Discrete) else None


def _bound(bound: Any, shape: tuple[int, ...], unknown: float) -> tuple[float, ...]:
    known = unknown if isinstance(bound, Tracer) else np.asarray(bound)
    return tuple(float(x) for x in np.broadcast_to(known, shape).ravel())
