"""Conversion of TabularMDPs and gymnax environments to Environments."""

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from pgjax.environments import from_tabular
from pgjax.environments.base import Environment
from pgjax.exact.tabular import TabularMDP
from pgjax.types import describe

if TYPE_CHECKING:
    from pgjax.environments.import_gymnax import GymnaxEnvironment

AnyEnvironment: TypeAlias = "Environment | TabularMDP | GymnaxEnvironment"


def as_environment(environment: Any) -> Environment:
    """An Environment from an Environment, a TabularMDP or a gymnax environment.

    Args:
        environment: of one of these kinds. A gymnax environment has its default parameters; for
            others use `pgjax.environments.from_gymnax.adapt(environment, params)`.

    Returns:
        An Environment. Converting the same object twice gives equal records, so that a program
        compiled for one serves the other.

    Raises:
        TypeError: if `environment` is of another kind.

    Example:
        >>> import pgjax
        >>> as_environment(pgjax.tabular.random_mdp()).action_space
        Discrete(num_actions=2)
    """
    if isinstance(environment, Environment):
        return environment
    if isinstance(environment, TabularMDP):
        return from_tabular.adapt(environment)
    if "gymnax" in sys.modules:  # importing it is slow; its objects exist only after
        from pgjax.environments import from_gymnax

        is_gymnax = isinstance(environment, from_gymnax.GymnaxEnvironment)
        if is_gymnax or from_gymnax.is_wrapper(environment):
            return from_gymnax.adapt(environment)
    is_name = isinstance(environment, str)
    got = f"the string {environment!r}" if is_name else describe(environment)
    raise TypeError(
        "environment must be a pgjax Environment, a TabularMDP or a gymnax environment, "
        f"got {got}; pgjax.environments.make(name) gives one"
    )
