"""∇J, ∇²J and ∇³J in the form of the policy-gradient theorem."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree

from pgjax.core.compilation import jit_once
from pgjax.core.float64 import in_float64, to_numpy
from pgjax.exact.dynamics import (
    Model,
    action_values_over_time,
    backward,
    kernel_under,
    one_step_later,
    prepare,
    probabilities_under,
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
    return to_numpy(_gradient(problem.policy, problem.horizon, params, model, model.discount))


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
    model = model._replace(discount=jnp.asarray(problem.mdp.discount))
    undiscounted = jnp.asarray(1.0)  # its type is γ's, so that the program for ∇J is used again
    return to_numpy(_gradient(problem.policy, problem.horizon, params, model, undiscounted))


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
    return to_numpy(_hessian(problem.policy, problem.horizon, params, model))


@in_float64
def third_derivative(problem: Problem) -> Float[np.ndarray, "P P P"]:
    """∇³J over the flattened parameters: the sum in `hessian`, differentiated once more.

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
    return to_numpy(_third_derivative(problem.policy, problem.horizon, params, model))


@partial(jit_once, static_argnums=(0, 1))
def _gradient(
    policy: Policy, horizon: int | None, params: Params, model: Model, state_discount: Array
) -> Params:
    probabilities = probabilities_under(policy, params, model)
    credit = jnp.einsum(
        "ks,ksa->sa",
        visits_over_time(probabilities, model, state_discount, horizon),
        action_values_over_time(probabilities, model, horizon),
    )
    return jax.grad(lambda params: jnp.sum(credit * probabilities_under(policy, params, model)))(
        params
    )


@partial(jax.jit, static_argnums=(0, 1))
def _hessian(policy: Policy, horizon: int | None, params: Params, model: Model) -> Array:
    flat, unravel = ravel_pytree(params)

    def table(flat: Array) -> Array:
        return probabilities_under(policy, unravel(flat), model)

    probabilities = table(flat)
    slope = jax.jacobian(table)(flat)  # [S, A, P]
    visits = visits_over_time(probabilities, model, model.discount, horizon)
    values = action_values_over_time(probabilities, model, horizon)
    value_slope = backward(
        kernel_under(probabilities, model, model.discount),
        jnp.einsum("sap,ksa->ksp", slope, values),
        horizon,
    )
    action_value_slope = model.discount * jnp.einsum(
        "sat,ktp->ksap", model.transition, one_step_later(value_slope, horizon)
    )
    cross = jnp.einsum("ks,sap,ksaq->pq", visits, slope, action_value_slope)
    credit = jnp.einsum("ks,ksa->sa", visits, values)
    return jax.hessian(lambda flat: jnp.sum(credit * table(flat)))(flat) + cross + cross.T


@partial(jit_once, static_argnums=(0, 1))
def _third_derivative(policy: Policy, horizon: int | None, params: Params, model: Model) -> Array:
    flat, unravel = ravel_pytree(params)
    return jax.jacfwd(lambda flat: _hessian(policy, horizon, unravel(flat), model))(flat)
