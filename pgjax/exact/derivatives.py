"""∇J, ∇²J and ∇³J in the form of the policy-gradient theorem."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree

from pgjax.core.compilation import jit_once
from pgjax.core.float64 import in_float64, to_jax, to_numpy
from pgjax.exact.dynamics import (
    Model,
    action_values_over_time,
    backward,
    credited,
    expected_later,
    kernel_of,
    log_prob_table,
    prepare,
    visits_over_time,
)
from pgjax.exact.problem import Problem, check_problem
from pgjax.types import Params, Policy


@in_float64
def gradient(problem: Problem) -> PyTree[Float[np.ndarray, "..."]]:
    """∇J in the theorem's form, Σ_t Σ_s γ^t P(s_t = s) Σ_a ∇π(a|s) Q_t(s, a).

    Returns:
        A pytree like params, float64.

    Raises:
        ValueError, TypeError: as for `objective`.

    Bias: exact.

    References:
        Sutton et al. (2000), theorem 1; here for any horizon.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> gradient(Problem(bandit, tabular_softmax(3, 2), jnp.zeros((3, 2)), horizon=1))[0]
        array([-0.075,  0.075])
    """
    model, params = prepare(problem)
    visits = visits_over_time(model, model.discount, problem.horizon)
    values = action_values_over_time(model, problem.horizon)
    return credited(problem.policy, params, model, np.einsum("ks,ksa->sa", visits, values))


@in_float64
def mismatched_gradient(problem: Problem) -> PyTree[Float[np.ndarray, "..."]]:
    """The mean of reward-to-go without γ^t, Σ_t Σ_s P(s_t = s) Σ_a ∇π(a|s) Q_t(s, a).

    Returns:
        A pytree like params, float64.

    Raises:
        ValueError: as for `objective`; also if γ < 1, where the horizon is infinite and an episode
            need not end.
        TypeError: if a parameter is not floating.

    Bias: differs from ∇J when γ < 1; the difference is the estimator's exact bias.

    References:
        Nota & Thomas (2020), eq. 3.

    Example:
        >>> import numpy as np
        >>> from pgjax import exact, suite
        >>> problem = suite.problems()[1]  # it has γ < 1
        >>> np.allclose(mismatched_gradient(problem), exact.gradient(problem))
        False
    """
    # Undiscounted visits must be bounded. This raises if they are not, and cuts improper states.
    check_problem(problem)
    model, params = prepare(replace(problem, mdp=replace(problem.mdp, discount=1.0)))
    visits = visits_over_time(model, 1.0, problem.horizon)
    model = model._replace(discount=problem.mdp.discount)
    values = action_values_over_time(model, problem.horizon)
    return credited(problem.policy, params, model, np.einsum("ks,ksa->sa", visits, values))


@in_float64
def hessian(problem: Problem) -> Float[np.ndarray, "P P"]:
    """∇²J in the theorem's form, over the flattened parameters.

    Σ_t Σ_s γ^t P(s_t = s) Σ_a [∇²π Q_t + ∇π ∇Q_tᵀ + ∇Q_t ∇πᵀ], with ∇Q from its own Bellman
    equation, ∇V_t = Σ_a (∇π Q_t + π ∇Q_t).

    Returns:
        [P, P], float64; the order of `jax.flatten_util.ravel_pytree(params)`.

    Raises:
        ValueError, TypeError: as for `objective`.

    Bias: exact.

    References:
        Furmston, Lever & Barber, Approximate Newton Methods for Policy Search in Markov Decision
        Processes (2016), theorem 3, with the sum in another arrangement.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> hessian(Problem(bandit, tabular_softmax(3, 2), jnp.zeros((3, 2)), horizon=1)).shape
        (6, 6)
    """
    model, params = prepare(problem)
    visits = visits_over_time(model, model.discount, problem.horizon)
    values = action_values_over_time(model, problem.horizon)
    credit = np.einsum("ks,ksa->sa", visits, values)
    given = to_jax((params, model.observation, credit))
    slope, own = to_numpy(_hessian(problem.policy, *given))
    value_slope = _derived(model, np.einsum("sap,ksa->ksp", slope, values), problem.horizon)
    later = np.einsum("ks,ksap->sap", visits, value_slope)
    cross = np.tensordot(slope, later, ((0, 1), (0, 1)))
    return own + cross + cross.T


@in_float64
def third_derivative(problem: Problem) -> Float[np.ndarray, "P P P"]:
    """∇³J over the flattened parameters: the sum in `hessian`, differentiated once more.

    Σ_t Σ_s γ^t P(s_t = s) Σ_a [∇³π Q_t + 3 sym(∇²π ∇Q_t) + 3 sym(∇π ∇²Q_t)], where sym is the mean
    over the orders of the three axes, and ∇²Q has a Bellman equation of its own, as ∇Q has.

    Args:
        problem: with any horizon; P³ numbers are returned.

    Returns:
        [P, P, P], float64, symmetric; the order of `jax.flatten_util.ravel_pytree(params)`.

    Raises:
        ValueError, TypeError: as for `objective`.

    Bias: exact.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> cube = third_derivative(
        ...     Problem(bandit, tabular_softmax(3, 2), jnp.zeros((3, 2)), horizon=1))
        >>> cube.shape, round(float(cube[0, 0, 0]), 6)
        ((6, 6, 6), 0.0375)
    """
    model, params = prepare(problem)
    visits = visits_over_time(model, model.discount, problem.horizon)
    values = action_values_over_time(model, problem.horizon)
    credit = np.einsum("ks,ksa->sa", visits, values)
    given = to_jax((params, model.observation, credit))
    slope, curvature, own = to_numpy(_third_derivative(problem.policy, *given))
    first = _derived(model, np.einsum("sap,ksa->ksp", slope, values), problem.horizon)
    cross = np.einsum("sap,ksaq->kspq", slope, first)
    second = np.einsum("sapq,ksa->kspq", curvature, values) + cross + cross.swapaxes(2, 3)
    second = _derived(model, second, problem.horizon)
    later = np.einsum("ks,ksap->sap", visits, first)
    latest = np.einsum("ks,ksapq->sapq", visits, second)
    pairs = np.tensordot(curvature, later, ((0, 1), (0, 1)))
    pairs += np.tensordot(latest, slope, ((0, 1), (0, 1)))  # [P, P, P], symmetric in the first two
    return own + pairs + pairs.transpose(0, 2, 1) + pairs.transpose(2, 0, 1)


def _derived(model: Model, source: np.ndarray, horizon: int | None) -> np.ndarray:
    """[K, S, A, ...] a derivative of Q_k, from the source of V's in its Bellman equation."""
    return expected_later(
        model, backward(kernel_of(model, model.discount), source, horizon), horizon
    )


@partial(jit_once, static_argnums=0)
def _hessian(
    policy: Policy, params: Params, observation: Array, credit: Array
) -> tuple[Array, Array]:
    """∇π [S, A, P], and Σ_s Σ_a ∇²π(a|s) credit(s, a) [P, P]."""
    flat, table, total = _flat_functions(policy, params, observation, credit)
    return jax.jacobian(table)(flat), jax.hessian(total)(flat)


@partial(jit_once, static_argnums=0)
def _third_derivative(
    policy: Policy, params: Params, observation: Array, credit: Array
) -> tuple[Array, Array, Array]:
    """∇π [S, A, P], ∇²π [S, A, P, P], and Σ_s Σ_a ∇³π(a|s) credit(s, a) [P, P, P]."""
    flat, table, total = _flat_functions(policy, params, observation, credit)
    return jax.jacobian(table)(flat), jax.hessian(table)(flat), jax.jacfwd(jax.hessian(total))(flat)


def _flat_functions(
    policy: Policy, params: Params, observation: Array, credit: Array
) -> tuple[Array, Callable[[Array], Array], Callable[[Array], Array]]:
    """The parameters as one vector; of them, π [S, A], and Σ_s Σ_a π(a|s) credit(s, a)."""
    flat, unravel = ravel_pytree(params)

    def table(flat: Array) -> Array:
        return jnp.exp(log_prob_table(policy, unravel(flat), observation, credit.shape[1]))

    return flat, table, lambda flat: jnp.sum(credit * table(flat))
