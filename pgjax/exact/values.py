"""J, V, Q and discounted visitation, by dynamic programming."""

import numpy as np
from jaxtyping import Float

from pgjax.exact.dynamics import (
    Model,
    action_values_over_time,
    prepare,
    values_over_time,
    visits_over_time,
)
from pgjax.exact.problem import Problem


def objective(problem: Problem) -> np.float64:
    """The exact objective J(θ) = E[Σ_t γ^t r_t].

    Returns:
        Scalar, float64.

    Raises:
        TypeError: if a parameter is not floating.
        ValueError: if the policy's probabilities do not sum to one; if γ = 1, the horizon is
            infinite and an episode need not end.

    Bias: exact.

    References:
        Sutton & Barto (2018), section 13.2.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> problem = Problem(bandit, tabular_softmax(3, 2), jnp.zeros((3, 2)), horizon=1)
        >>> round(float(objective(problem)), 6)
        0.45
    """
    model, _ = prepare(problem)
    return np.float64(model.initial @ values_over_time(model, problem.horizon)[0])


def state_values(problem: Problem) -> Float[np.ndarray, "... S"]:
    """V(s), the expected discounted return from a state on; zero in terminal states.

    Returns:
        [S] if the horizon is infinite; else [H, S], where V_t(s) has H − t steps to go. If γ = 1
        and the horizon is infinite, it is NaN in a state from which episodes need not end.

    Raises:
        ValueError: as for `objective`.

    Bias: exact.

    References:
        Sutton & Barto (2018), eq. 4.4.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> problem = Problem(bandit, tabular_softmax(3, 2), jnp.zeros((3, 2)), horizon=1)
        >>> state_values(problem).round(6)
        array([[0.45, 0.  , 0.  ]])
    """
    model, _ = prepare(problem)
    return _reported(values_over_time(model, problem.horizon), model, problem.horizon)


def action_values(problem: Problem) -> Float[np.ndarray, "... S A"]:
    """Q(s, a), the expected discounted return after an action; zero in terminal states.

    Returns:
        [S, A] if the horizon is infinite, else [H, S, A]; NaN as for `state_values`.

    Raises:
        ValueError: as for `objective`.

    Bias: exact.

    References:
        Sutton & Barto (2018), eq. 4.6.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> problem = Problem(bandit, tabular_softmax(3, 2), jnp.zeros((3, 2)), horizon=1)
        >>> action_values(problem)[0, 0]
        array([0.3, 0.6])
    """
    model, _ = prepare(problem)
    return _reported(action_values_over_time(model, problem.horizon), model, problem.horizon)


def visitation(problem: Problem) -> Float[np.ndarray, "... S"]:
    """Discounted expected visits, d(s) = Σ_t γ^t P(s_t = s), episodes that have ended excluded.

    Returns:
        [S] if the horizon is infinite; else [H, S], the summand γ^t P(s_t = s) of each time. It is
        not normalised: with γ = 1 it sums to an episode's expected length.

    Raises:
        ValueError: as for `objective`.

    Bias: exact.

    References:
        Sutton et al. (2000), below eq. 2.
    """
    model, _ = prepare(problem)
    found = visits_over_time(model, model.discount, problem.horizon)
    return found[0] if problem.horizon is None else found


def _reported(values: np.ndarray, model: Model, horizon: int | None) -> np.ndarray:
    """Values [K, S, ...] as returned: no K if the horizon is infinite, NaN in improper states."""
    shape = (1, -1) + (1,) * (values.ndim - 2)
    found = np.where(model.proper.reshape(shape), values, np.nan)
    return found[0] if horizon is None else found
