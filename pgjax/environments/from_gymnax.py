"""The gymnax adapter: steps use `reset_env`, `step_env` and `is_truncated`.

So there is no auto-reset, and the observation after the last step belongs to its episode.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.tree_util import Partial

from pgjax.environments.base import (
    ActionSpace,
    Box,
    Discrete,
    Environment,
    State,
    Step,
    stable,
)
from pgjax.environments.import_gymnax import GymnaxEnvironment as GymnaxEnvironment
from pgjax.environments.import_gymnax import gymnax, registered_envs
from pgjax.environments.import_gymnax import spaces as spaces
from pgjax.environments.libraries import known_name
from pgjax.records import configured

DOWNLOADS = frozenset({"MNISTBandit-bsuite"})
"""Environments that fetch a data set when made; training must not depend on a network."""


def adapt(environment: Any, params: Any = None) -> Environment:
    """A gymnax environment with its parameters as an Environment.

    Args:
        environment: from `gymnax.make`, alone or in wrappers of gymnax. A LogWrapper is left out,
            because a batch holds what it logs. A FlattenObservationWrapper and a
            StickyActionWrapper act as they do in gymnax.
        params: the environment's parameters, which become leaves of the record and may be traced;
            the default ones if None. If they are traced, the bounds of a Box are infinite, and the
            time limit is None. It is also None if they have no `max_steps_in_episode`.

    Raises:
        TypeError: if actions are neither Discrete nor a Box, or the wrapper is another; by its
            functions, if `step_env` does not return five values.

    Example:
        >>> import gymnax
        >>> environment = adapt(*gymnax.make("CartPole-v1"))
        >>> environment.action_space, environment.time_limit
        (Discrete(num_actions=2), 500)
    """
    if is_wrapper(environment):
        return _adapted_wrapper(environment, params)
    params = environment.default_params if params is None else params
    space = environment.action_space(params)

    limit = getattr(params, "max_steps_in_episode", None)
    return stable(
        Environment(
            Partial(configured(_init, environment=environment), params),
            Partial(configured(_step, environment=environment), params),
            _action_space(environment.name, space),
            time_limit=None if limit is None or isinstance(limit, Tracer) else int(limit),
            name=environment.name,
            num_categories=_num_categories(environment, params),
        )
    )


def _init(params: Any, key: Array, *, environment: GymnaxEnvironment) -> tuple[Any, Step]:
    observation, state = environment.reset_env(key, params)
    return state, Step(observation, 0.0, False, False)


def _step(
    params: Any, key: Array, state: Any, action: Array, *, environment: GymnaxEnvironment
) -> tuple[Any, Step]:
    action = jnp.asarray(action).astype(environment.action_space(params).dtype)
    shown = environment.step_env(key, state, action, params)
    if len(shown) != 5:
        raise TypeError(
            f"{environment.name}.step_env must return (observation, state, reward, terminated, "
            f"info), got {len(shown)} values; return truncation from `is_truncated` alone"
        )
    observation, state, reward, terminated, _ = shown
    return state, Step(observation, reward, terminated, _is_truncated(environment, state, params))


def _is_truncated(environment: GymnaxEnvironment, state: Any, params: Any) -> Any:
    """The environment's own flag; False if it needs a time limit that its parameters lack."""
    reads_limit = type(environment).is_truncated is GymnaxEnvironment.is_truncated
    if reads_limit and not hasattr(params, "max_steps_in_episode"):
        return False
    return environment.is_truncated(state, params)


def is_wrapper(environment: Any) -> bool:
    """Whether `environment` is a gymnax wrapper around a gymnax environment."""
    module = sys.modules.get("gymnax.wrappers.purerl")  # its objects exist only after its import
    return module is not None and isinstance(environment, module.GymnaxWrapper)


def _adapted_wrapper(wrapper: Any, params: Any) -> Environment:
    known: dict[str, Callable[[Any, Environment], Environment]] = {
        "LogWrapper": lambda _, inner: inner,
        "FlattenObservationWrapper": lambda _, inner: _flattened(inner),
        "StickyActionWrapper": lambda wrapper, inner: _sticky(wrapper._sticky_action_prob, inner),
    }
    kind = type(wrapper)
    if kind.__module__ != "gymnax.wrappers.purerl" or kind.__name__ not in known:
        raise TypeError(
            f"environment must be of gymnax, alone or in {', '.join(known)}, got a "
            f"{kind.__name__}; give the environment inside it, or write a "
            "pgjax.environments.Environment"
        )
    return known[kind.__name__](wrapper, adapt(wrapper._env, params))


def _flattened(inner: Environment) -> Environment:
    """The environment with observations of one axis."""
    return replace(
        inner,
        init=configured(_flat_init, init=inner.init),
        step=configured(_flat_step, step=inner.step),
    )


def _flat_init(key: Array, *, init: Callable) -> tuple[State, Step]:
    return _flat(*init(key))


def _flat_step(key: Array, state: State, action: Array, *, step: Callable) -> tuple[State, Step]:
    return _flat(*step(key, state, action))


def _flat(state: State, step: Step) -> tuple[State, Step]:
    return state, step._replace(observation=jnp.reshape(step.observation, -1))


def _sticky(probability: float, inner: Environment) -> Environment:
    """The environment that repeats its last action in place of the new one, with a probability."""
    if probability == 0:
        return inner
    return replace(
        inner,
        init=configured(_sticky_init, init=inner.init),
        step=configured(_sticky_step, step=inner.step, probability=probability),
    )


def _sticky_init(key: Array, *, init: Callable) -> tuple[State, Step]:
    state, step = init(key)
    return (state, jnp.int32(0)), step


def _sticky_step(
    key: Array, state: State, action: Array, *, step: Callable, probability: float
) -> tuple[State, Step]:
    state, last = state
    replay_key, step_key = jax.random.split(key)
    executed = jnp.where(jax.random.bernoulli(replay_key, probability), last, action)
    state, shown = step(step_key, state, executed)
    return (state, executed.astype(jnp.int32)), shown


def named(name: str) -> tuple[GymnaxEnvironment, Any]:
    """The gymnax environment of that id and its parameters.

    Raises:
        ValueError: if the name is unknown, with near matches, or would download a data set.

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
    """The gymnax environment of that id as an Environment, with its default parameters."""
    return replace(adapt(*named(name)), name=name)


def _action_space(name: str, space: Any) -> ActionSpace:
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, spaces.Box):
        shape = tuple(space.shape)
        return Box(_bound(space.low, shape, -np.inf), _bound(space.high, shape, np.inf), shape)
    raise TypeError(
        f"{name} has actions in a {type(space).__name__} space; pgjax takes Discrete and Box"
    )


def _num_categories(environment: GymnaxEnvironment, params: Any) -> int | None:
    space = environment.observation_space(params)
    return int(space.n) if isinstance(space, spaces.Discrete) else None


def _bound(bound: Any, shape: tuple[int, ...], unknown: float) -> tuple[float, ...]:
    known = unknown if isinstance(bound, Tracer) else np.asarray(bound)
    return tuple(float(x) for x in np.broadcast_to(known, shape).ravel())
