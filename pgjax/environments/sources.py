"""Where episodes come from: whatever kind of environment was given, as one record.

What is static is apart from what is traced, so that a program is compiled once for many parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from pgjax.core.float64 import to_jax
from pgjax.environments import from_gymnax, from_tabular
from pgjax.environments.base import Environment, stable
from pgjax.exact.tabular import TabularMDP

AnyEnvironment: TypeAlias = Environment | TabularMDP | from_gymnax.GymnaxEnvironment


class Source(NamedTuple):
    """Where episodes come from, without the parameters that are traced.

    Parameters turn it into an Environment within the compiled program: another MDP of the same
    shape, or other parameters of the same gymnax environment, do not compile again.

    Attributes:
        bind: (what, params) -> Environment.
        what: the environment that was given; None where the parameters are all there is to it.
    """

    bind: Callable[[Any, Any], Environment]
    what: Any


def resolve(environment: AnyEnvironment, environment_params: Any = None) -> tuple[Source, Any]:
    """Where episodes come from and its parameters, whatever kind of environment was given.

    Raises:
        TypeError: an environment that is none; parameters where they belong to no environment.
    """
    if isinstance(environment, from_gymnax.GymnaxEnvironment):
        if environment_params is None:
            environment_params = environment.default_params
        return Source(from_gymnax.adapt, environment), environment_params
    if not isinstance(environment, TabularMDP | Environment):
        raise TypeError(
            "environment must be a gymnax Environment, a TabularMDP or a pgjax Environment, got "
            f"{type(environment).__name__}; gymnax.make(name) returns (environment, params)"
        )
    if environment_params is not None:
        raise TypeError(
            "environment_params belong to a gymnax environment; "
            f"a {type(environment).__name__} holds its own"
        )
    if isinstance(environment, TabularMDP):
        return Source(_from_tabular, None), to_jax(environment)
    return Source(_as_it_is, environment), None


def bound(environment: AnyEnvironment, environment_params: Any = None) -> Environment:
    """Whatever `rollout` takes as an Environment of its own, its parameters fixed in it.

    Args:
        environment: an Environment, a gymnax environment, or a TabularMDP.
        environment_params: of a gymnax environment; its default ones if None.

    Raises:
        TypeError: an environment that is none; parameters where they belong to no environment.
    """
    source, parameters = resolve(environment, environment_params)
    return source.bind(source.what, parameters)


def _from_tabular(_: None, mdp: TabularMDP) -> Environment:
    return from_tabular.adapt(mdp)


def _as_it_is(environment: Environment, _: None) -> Environment:
    return stable(environment)
