"""navix on the surface: MiniGrid's worlds."""

from dataclasses import replace
from typing import Any

from jax import Array

from pgjax.environments.base import Discrete, Environment, Step, stable
from pgjax.environments.libraries import known_name, library


def adapt(environment: Any) -> Environment:
    """A navix environment as an Environment.

    navix starts anew at the step after an episode's end; here that step is none, because the state
    never says that it has ended.

    Args:
        environment: from `navix.make`.

    Returns:
        An Environment with Discrete actions, which truncates after the environment's `max_steps`.

    Raises:
        TypeError: no navix environment.
        ImportError: navix is not installed.

    Bias: does not apply; dynamics are navix's.

    References:
        Pignatelli et al., NAVIX (2024).

    Example:
        >>> import navix  # doctest: +SKIP
        >>> environment = adapt(navix.make("Navix-Empty-5x5-v0"))  # doctest: +SKIP
        >>> environment.action_space, environment.time_limit  # doctest: +SKIP
        (Discrete(num_actions=7), 100)
    """
    module = library("navix.environments.environment")
    if not isinstance(environment, module.Environment):
        raise TypeError(
            "environment must be of navix, as from navix.make(name), "
            f"got {type(environment).__name__}"
        )
    going = module.StepType.TRANSITION

    def show(timestep: Any) -> tuple[Any, Step]:
        flags = timestep.is_termination(), timestep.is_truncation()
        return timestep.replace(step_type=going), Step(
            timestep.observation, timestep.reward, *flags
        )

    def init(key: Array) -> tuple[Any, Step]:
        return show(environment.reset(key))

    def step(key: Array, timestep: Any, action: Array) -> tuple[Any, Step]:
        # A constant, so that the compiler sees that there is no reset, and drops it.
        return show(environment.step(timestep.replace(step_type=going), action))

    return stable(
        Environment(
            init,
            step,
            Discrete(len(environment.action_set)),
            time_limit=int(environment.max_steps),
            name=type(environment).__name__,
        )
    )


def make(name: str) -> Environment:
    """The navix environment of that id, "Navix-Empty-5x5-v0" say, with navix's own 100 steps.

    Args:
        name: as in navix's registry.

    Raises:
        ValueError: an unknown name, with near matches.
        ImportError: navix is not installed.
    """
    navix = library("navix")
    known = known_name("navix/", name, navix.registry())
    return replace(adapt(navix.make(known)), name=f"navix/{known}")
