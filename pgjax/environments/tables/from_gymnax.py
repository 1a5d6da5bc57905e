"""The tables themselves: with the time limit in the state, or with the time left out."""

from typing import Any

import numpy as np

from pgjax.environments.tables.reachable_states import explored
from pgjax.exact.tabular import TabularMDP


def tabular_mdp(environment: Any, params: Any = None, *, discount: float) -> TabularMDP:
    """The environment with its time limit in the state, so that it needs no horizon.

    J(θ) = E[Σ_t γ^t r_t], t < limit, is `exact.objective` of a Problem whose horizon is None.
    States that end the episode, by termination or by truncation, are terminal, one for each final
    observation.

    Args:
        environment: of a class named in `BRIDGED`; any constructor arguments.
        params: its parameters; the default ones if None.
        discount: γ; an environment has none.

    Returns:
        A TabularMDP over every state that can be reached; `observation` is what the environment
        emits, in its dtype.

    Raises:
        ValueError: an environment without a law, or with parameters that its law leaves out; more
            than `MAX_STATES` states.

    Bias: exact, but for the resolution of 2⁻²³ with which the environment draws.

    Example:
        >>> import gymnax
        >>> mdp = tabular_mdp(gymnax.make("DeepSea-bsuite", size=3)[0], discount=0.9)
        >>> mdp.num_states, int(mdp.terminal.sum())
        (7, 1)
    """
    return explored(environment, params, keep_time=True).mdp(discount)


def timeless_mdp(
    environment: Any, params: Any = None, *, discount: float
) -> tuple[TabularMDP, int]:
    """The environment without the time where its steps do not read it, and the horizon to use.

    J(θ) is `exact.objective` of a Problem with that horizon: the same number as from `tabular_mdp`,
    from a table that is smaller by as much as the limit is long.

    Args:
        environment: of a class named in `BRIDGED`; any constructor arguments.
        params: its parameters; the default ones if None.
        discount: γ.

    Returns:
        The TabularMDP, in which the time limit ends nothing, and H: the limit, or the length of the
        longest episode if every one ends before it.

    Raises:
        ValueError: as for `tabular_mdp`.

    Bias: as for `tabular_mdp`.

    Example:
        >>> import gymnax
        >>> mdp, horizon = timeless_mdp(gymnax.make("FrozenLake-misc")[0], discount=0.95)
        >>> mdp.num_states, horizon
        (16, 100)
    """
    if params is None:
        params = environment.default_params
    mdp = explored(environment, params, keep_time=False).mdp(discount)
    return mdp, _longest_episode(mdp, int(params.max_steps_in_episode))


def _longest_episode(mdp: TabularMDP, limit: int) -> int:
    """How many steps until every episode has ended, at most `limit`."""
    edge = np.any(mdp.transition > 0, axis=1) & ~mdp.terminal
    alive = mdp.initial > 0
    for step in range(1, limit + 1):
        alive = alive @ edge
        if not alive.any():
            return step
    return limit
