"""The Craftax adapter: open worlds, large states, sparse rewards."""

from typing import Any

from jax import Array

from pgjax.environments.base import Discrete, Environment, Step, stable
from pgjax.environments.libraries import library, make_known

NAMES = (
    "Craftax-Symbolic-v1",
    "Craftax-Pixels-v1",
    "Craftax-Classic-Symbolic-v1",
    "Craftax-Classic-Pixels-v1",
)


def adapt(environment: Any, params: Any = None) -> Environment:
    """A Craftax environment as an Environment with Discrete actions.

    Craftax has one flag for an episode that ends because the player dies or wins, or after
    `max_timesteps`. Here the time limit truncates. The other reasons terminate, also in the last
    step.

    Args:
        environment: from `craftax.craftax_env.make_craftax_env_from_name`, with or without
            auto-reset: only its `reset_env` and `step_env` are called.
        params: its parameters; the default ones if None.

    References:
        Matthews et al., Craftax (2024).

    Example:
        >>> from craftax.craftax_env import make_craftax_env_from_name  # doctest: +SKIP
        >>> bare = make_craftax_env_from_name(NAMES[2], auto_reset=False)  # doctest: +SKIP
        >>> environment = adapt(bare)  # doctest: +SKIP
        >>> environment.action_space, environment.time_limit  # doctest: +SKIP
        (Discrete(num_actions=17), 10000)
    """
    bases = library("craftax.environment_base.environment_bases")
    if not isinstance(environment, bases.EnvironmentAutoReset | bases.EnvironmentNoAutoReset):
        raise TypeError(
            "environment must be of Craftax, as from make_craftax_env_from_name(name, False), "
            f"got {type(environment).__name__}"
        )
    params = environment.default_params if params is None else params

    def init(key: Array) -> tuple[Any, Step]:
        observation, state = environment.reset_env(key, params)
        return state, Step(observation, 0.0, False, False)

    def step(key: Array, state: Any, action: Array) -> tuple[Any, Step]:
        observation, state, reward, _, _ = environment.step_env(key, state, action, params)
        endless = params.replace(max_timesteps=state.timestep + 1)
        terminated = environment.is_terminal(state, endless)
        return state, Step(observation, reward, terminated, state.timestep >= params.max_timesteps)

    return stable(
        Environment(
            init,
            step,
            Discrete(int(environment.num_actions)),
            time_limit=int(params.max_timesteps),
            name=environment.name,
        )
    )


def make(name: str) -> Environment:
    """The Craftax environment of that id, one of `NAMES`."""
    named = library("craftax.craftax_env").make_craftax_env_from_name
    return make_known("craftax/", name, NAMES, lambda known: adapt(named(known, auto_reset=False)))
