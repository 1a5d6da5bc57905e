"""The navix adapter: MiniGrid's worlds."""

from typing import Any

from jax import Array

from pgjax.environments.base import Discrete, Environment, Step, stable
from pgjax.environments.libraries import library, make_known


def adapt(environment: Any) -> Environment:
    """A navix environment as an Environment with Discrete actions, truncated after its `max_steps`.

    navix resets at the step after an episode's end. Here it never does, because the state never
    says that its episode has ended.

    Args:
        environment: from `navix.make`.

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
        ended = timestep.is_termination(), timestep.is_truncation()
        step = Step(timestep.observation, timestep.reward, *ended)
        return timestep.replace(step_type=going), step

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
    """The navix environment of that id, such as "Navix-Empty-5x5-v0", with navix's 100 steps."""
    navix = library("navix")
    return make_known("navix/", name, navix.registry(), lambda known: adapt(navix.make(known)))
