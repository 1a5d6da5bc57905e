"""Tables of gymnax environments: with the time limit in the state, or without the time."""

from typing import Any

import numpy as np

from pgjax.core.validation import check_rate
from pgjax.environments.import_gymnax import GymnaxEnvironment
from pgjax.environments.tables.reachable_states import reachable_mdp
from pgjax.exact.tabular import TabularMDP
from pgjax.types import describe


def tabular_mdp(environment: Any, params: Any = None, *, discount: float) -> TabularMDP:
    """A gymnax environment as an exact TabularMDP with the time in its state.

    So it needs no horizon: J(θ) = E[Σ_t γ^t r_t], t < limit, is `exact.objective` of a Problem
    whose horizon is None. States that end the episode, by termination or by truncation, are
    terminal, one for each final observation.

    Args:
        environment: of a class named in `BRIDGED`; any constructor arguments.
        params: its parameters; the default ones if None.
        discount: γ in [0, 1].

    Returns:
        A TabularMDP over every reachable state; `observation` is the environment's, in its dtype.

    Raises:
        TypeError: if `environment` is not of gymnax.
        ValueError: if the environment has no law, its parameters are not covered by the law, it has
            more than `MAX_STATES` states, or `discount` is outside [0, 1].

    Bias: exact, but for the resolution of 2⁻²³ with which the environment draws.

    Example:
        >>> import gymnax
        >>> mdp = tabular_mdp(gymnax.make("DeepSea-bsuite", size=3)[0], discount=0.9)
        >>> mdp.num_states, int(mdp.terminal.sum())
        (7, 1)
    """
    _check(environment, discount)
    return reachable_mdp(environment, params, discount=discount, keep_time=True)[0]


def timeless_mdp(
    environment: Any, params: Any = None, *, discount: float
) -> tuple[TabularMDP, int]:
    """A gymnax environment as a TabularMDP without the time, and the horizon H to use.

    J(θ) is `exact.objective` of a Problem with the horizon H. It is the same number as from
    `tabular_mdp`, from a table that is smaller, by up to a factor of the time limit. If the
    environment's steps read the time, it stays in the state. Arguments and errors are those of
    `tabular_mdp`.

    Returns:
        The TabularMDP, in which the time limit ends no episode, and H: the limit, or the length of
        the longest episode if every episode ends before it.

    Example:
        >>> import gymnax
        >>> mdp, horizon = timeless_mdp(gymnax.make("FrozenLake-misc")[0], discount=0.95)
        >>> mdp.num_states, horizon
        (16, 100)
    """
    _check(environment, discount)
    if params is None:
        params = environment.default_params
    mdp, _ = reachable_mdp(environment, params, discount=discount, keep_time=False)
    return mdp, _longest_episode(mdp, int(params.max_steps_in_episode))


def _check(environment: Any, discount: Any) -> None:
    """Raise if the environment is not of gymnax, or the discount is not a number in [0, 1]."""
    check_rate("discount", discount)
    if not isinstance(environment, GymnaxEnvironment):
        raise TypeError(
            f"environment must be of gymnax, gymnax.make(name)[0], got {describe(environment)}"
        )


def _longest_episode(mdp: TabularMDP, limit: int) -> int:
    """The number of steps after which every episode has ended, at most `limit`."""
    edge = np.any(mdp.transition > 0, axis=1) & ~mdp.terminal
    alive = mdp.initial > 0
    for step in range(1, limit + 1):
        alive = alive @ edge
        if not alive.any():
            return step
    return limit
