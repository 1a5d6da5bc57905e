"""J, V, Q and discounted visitation, by dynamic programming."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pgjax.core.float64 import in_float64, to_numpy
from pgjax.exact.dynamics import (
    action_values_over_time,
    objective_under,
    prepare,
    probabilities_under,
    proper_states,
    values_over_time,
    visits_over_time,
)
from pgjax.exact.tabular import TabularMDP
from pgjax.types import Params, Policy


@in_float64
def objective(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> np.float64:
    """J(θ) = E[Σ_t γ^t r_t], exactly.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H steps at most, or None.

    Returns:
        Scalar, float64.

    Raises:
        ValueError: probabilities that do not sum to one; no horizon, γ = 1 and a reachable state
            from which the episode need not end.

    Bias: exact.

    References:
        Sutton & Barto (2018), section 13.2.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import tabular, tabular_softmax
        >>> mdp = tabular.two_armed_bandit()
        >>> J = objective(mdp, tabular_softmax(3, 2), jnp.zeros((3, 2)), horizon=1)
        >>> round(float(J), 6)
        0.45
    """
    model, params = prepare(mdp, policy, params, horizon)
    return to_numpy(objective_under(policy, horizon, params, model))


@in_float64
def state_values(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> Float[np.ndarray, "... S"]:
    """V(s), the expected discounted return from a state on; zero in terminal states.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H, or None.

    Returns:
        [S] without horizon; [H, S] with one, V_t(s) having H − t steps to go. NaN where γ = 1, no
        horizon, and the state, which no episode reaches, need not end.

    Raises:
        ValueError: as for `objective`.

    Bias: exact.

    References:
        Sutton & Barto (2018), eq. 4.4.
    """
    model, params = prepare(mdp, policy, params, horizon)
    values = values_over_time(probabilities_under(policy, params, model), model, horizon)
    return _reported(values, proper_states(mdp, policy, params, horizon), horizon)


@in_float64
def action_values(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> Float[np.ndarray, "... S A"]:
    """Q(s, a), the expected discounted return after an action; zero in terminal states.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H, or None.

    Returns:
        [S, A] without horizon, [H, S, A] with one; NaN as for `state_values`.

    Raises:
        ValueError: as for `objective`.

    Bias: exact.

    References:
        Sutton & Barto (2018), eq. 4.6.
    """
    model, params = prepare(mdp, policy, params, horizon)
    values = action_values_over_time(probabilities_under(policy, params, model), model, horizon)
    return _reported(values, proper_states(mdp, policy, params, horizon), horizon)


@in_float64
def visitation(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> Float[np.ndarray, "... S"]:
    """Discounted expected visits, d(s) = Σ_t γ^t P(s_t = s), episodes that have ended excluded.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H, or None.

    Returns:
        [S] without horizon; [H, S] with one, the summand γ^t P(s_t = s) of each time. Not
        normalised: with γ = 1 it sums to the expected length.

    Raises:
        ValueError: as for `objective`.

    Bias: exact.

    References:
        Sutton et al. (2000), below eq. 2.
    """
    model, params = prepare(mdp, policy, params, horizon)
    visits = visits_over_time(
        probabilities_under(policy, params, model), model, model.discount, horizon
    )
    return to_numpy(visits[0] if horizon is None else visits)


def _reported(values: Array, proper: np.ndarray, horizon: int | None) -> np.ndarray:
    """[K, S, ...] as the caller sees it: no K without a horizon, NaN in improper states."""
    shape = (1, -1) + (1,) * (values.ndim - 2)
    values = jnp.where(jnp.asarray(proper).reshape(shape), values, jnp.nan)
    return to_numpy(values[0] if horizon is None else values)
