"""The brax adapter: real-valued actions on rigid bodies, without brax's training wrappers."""

from typing import Any

from jax import Array

from pgjax.environments.base import Box, Environment, Step, limited, stable
from pgjax.environments.libraries import library, make_known

EPISODE_LENGTH = 1000
"""The number of steps after which brax itself cuts an episode by default."""


def adapt(environment: Any, *, time_limit: int | None = EPISODE_LENGTH) -> Environment:
    """A brax environment as an Environment with actions in a Box.

    In a bare brax environment `done` marks a terminal state; a limit on the steps is added by a
    wrapper. Actions lie in [−1, 1] by brax's convention. Actions outside are passed on, and most
    actuators clip them.

    Args:
        environment: from `brax.envs.get_environment`, without an episode, auto-reset or vmap
            wrapper.
        time_limit: steps after which an episode is truncated; None for no limit.

    Bias: after an episode's end a state may hold NaN, whose gradient passes through `where`. Freeze
        the state, or step from one where a step is possible, as rollouts and `pgjax.beyond` do.

    References:
        Freeman et al., Brax (2021).

    Example:
        >>> from brax import envs  # doctest: +SKIP
        >>> environment = adapt(envs.get_environment("fast"))  # doctest: +SKIP
        >>> environment.action_space.shape, environment.time_limit  # doctest: +SKIP
        ((1,), 1000)
    """
    base, wrappers = library("brax.envs.base"), library("brax.envs.wrappers.training")
    refused = wrappers.EpisodeWrapper, wrappers.AutoResetWrapper, wrappers.VmapWrapper
    inner = environment
    while isinstance(inner, base.Wrapper) and not isinstance(inner, refused):
        inner = inner.env
    if isinstance(inner, refused) or not isinstance(inner, base.Env):
        raise TypeError(
            "environment must be a bare brax environment, as from brax.envs.get_environment(name), "
            f"got {type(inner).__name__}"
        )
    size = environment.action_size

    def init(key: Array) -> tuple[Any, Step]:
        state = environment.reset(key)
        return state, Step(state.obs, 0.0, False, False)

    def step(key: Array, state: Any, action: Array) -> tuple[Any, Step]:
        state = environment.step(state, action)
        return state, Step(state.obs, state.reward, state.done > 0, False)

    space = Box((-1.0,) * size, (1.0,) * size, (size,))
    name = type(environment.unwrapped).__name__
    return limited(stable(Environment(init, step, space, name=name)), time_limit)


def make(name: str) -> Environment:
    """The brax environment of that name, such as "inverted_pendulum", truncated at 1000 steps."""
    envs = library("brax.envs")
    known = envs._envs  # brax lists its names nowhere else
    return make_known("brax/", name, known, lambda known: adapt(envs.get_environment(known)))
