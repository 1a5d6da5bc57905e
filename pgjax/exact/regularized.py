"""Exact truth with a regulariser: entropy, or the KL divergence to a reference policy.

Two gradients go by one name. Let f(s) be the policy's entropy, or −KL, in a state. The *regularised
return* is E[Σ_t γ^t (r_t + β f(s_t))]. Its gradient also credits an action for the f of the states
that it leads to. The *local* gradient, Σ_s d(s) ∇f(s), does not: it holds the discounted visitation
d fixed. On a bandit both treat f alike; on longer episodes they may point apart.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from pgjax.core.compilation import jit_once
from pgjax.core.float64 import in_float64, to_numpy
from pgjax.core.validation import check_at_least, check_real, check_scalars
from pgjax.exact.dynamics import (
    Model,
    action_probabilities,
    backward,
    kernel_under,
    log_prob_table,
    prepare,
    probabilities_under,
    proper_states,
    visits_over_time,
)
from pgjax.exact.problem import Problem
from pgjax.types import Params, Policy


@in_float64
def kl_regularized_objective(
    problem: Problem, *, reference: Float[np.ndarray, "S A"], coefficient: float
) -> np.float64:
    """The exact KL-regularised return, E[Σ_t γ^t (r_t − β KL(π(·|s_t) ‖ ref(·|s_t)))].

    Args:
        problem: with any horizon.
        reference: [S, A] ref(a|s); `exact.action_probabilities` gives a policy's.
        coefficient: β ≥ 0, in units of reward per nat.

    Returns:
        Scalar, float64.

    Raises:
        ValueError: as for `exact.objective`; if `coefficient` is negative; if `reference` is not
            [S, A], is not a distribution in every state, or is zero where the policy is not.

    Bias: exact.

    References:
        Tang & Munos, On a few pitfalls in KL divergence gradient estimation for RL (2025).
    """
    check_real("reference", reference)
    arguments = _regularized(problem, reference, coefficient)
    return to_numpy(_objective(problem.policy, problem.horizon, *arguments))


@in_float64
def kl_regularized_gradient(
    problem: Problem, *, reference: Float[np.ndarray, "S A"], coefficient: float
) -> PyTree[Float[np.ndarray, "..."]]:
    """The exact KL-regularised gradient, ∇E[Σ_t γ^t (r_t − β KL(π(·|s_t) ‖ ref(·|s_t)))].

    It is the derivative of the dynamic program for `kl_regularized_objective`.

    Args, Raises: as for `kl_regularized_objective`.

    Returns:
        A pytree like params, float64.

    Bias: exact.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import Problem, exact, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> problem = Problem(bandit, tabular_softmax(3, 2), jnp.zeros((3, 2)), horizon=1)
        >>> reference = exact.action_probabilities(problem)
        >>> at_the_reference = kl_regularized_gradient(
        ...     problem, reference=reference, coefficient=1.0)
        >>> at_the_reference[0]
        array([-0.075,  0.075])
    """
    check_real("reference", reference)
    model, params, *rest = _regularized(problem, reference, coefficient)
    return to_numpy(_slope(problem.policy, problem.horizon, model, params, *rest))


@in_float64
def entropy_regularized_objective(problem: Problem, *, coefficient: float) -> np.float64:
    """The exact entropy-regularised return, E[Σ_t γ^t (r_t + β H(π(·|s_t)))].

    It is the maximum-entropy objective.

    Args:
        problem: with any horizon.
        coefficient: β ≥ 0, in units of reward per nat.

    Returns:
        Scalar, float64.

    Raises:
        ValueError: as for `exact.objective`; if `coefficient` is negative.

    Bias: exact.

    References:
        Ziebart et al., Maximum Entropy Inverse Reinforcement Learning (2008).
    """
    arguments = _regularized(problem, None, coefficient)
    return to_numpy(_objective(problem.policy, problem.horizon, *arguments))


@in_float64
def entropy_regularized_gradient(
    problem: Problem, *, coefficient: float
) -> PyTree[Float[np.ndarray, "..."]]:
    """The exact entropy-regularised gradient, ∇E[Σ_t γ^t (r_t + β H(π(·|s_t)))].

    It is the derivative of the dynamic program for `entropy_regularized_objective`.

    Args, Raises: as for `entropy_regularized_objective`.

    Returns:
        A pytree like params, float64.

    Bias: exact.
    """
    model, params, *rest = _regularized(problem, None, coefficient)
    return to_numpy(_slope(problem.policy, problem.horizon, model, params, *rest))


@in_float64
def local_kl_gradient(
    problem: Problem, *, reference: Float[np.ndarray, "S A"]
) -> PyTree[Float[np.ndarray, "..."]]:
    """The local KL gradient, Σ_s d(s) ∇KL(π(·|s) ‖ ref(·|s)), with the visitation d held fixed.

    Args:
        problem: with any horizon.
        reference: [S, A] ref(a|s).

    Returns:
        A pytree like params, float64.

    Raises:
        ValueError: as for `kl_regularized_objective`.

    Bias: exact. It is not the gradient of E[Σ_t γ^t KL(s_t)], which also moves d.
    """
    check_real("reference", reference)
    model, params, alive, _, log_reference = _regularized(problem, reference, 0.0)
    return to_numpy(
        _local_slope(problem.policy, problem.horizon, model, params, alive, log_reference)
    )


@in_float64
def local_entropy_gradient(problem: Problem) -> PyTree[Float[np.ndarray, "..."]]:
    """The local entropy gradient, Σ_s d(s) ∇H(π(·|s)), with the visitation d held fixed.

    Args:
        problem: with any horizon.

    Returns:
        A pytree like params, float64.

    Raises:
        ValueError: as for `exact.objective`.

    Bias: exact. It is not the gradient of E[Σ_t γ^t H(s_t)], which also moves d.
    """
    model, params, alive, _, nothing = _regularized(problem, None, 0.0)
    found = to_numpy(_local_slope(problem.policy, problem.horizon, model, params, alive, nothing))
    return jax.tree.map(np.negative, found)  # H is −KL to a reference of ones


def _regularized(
    problem: Problem, reference: np.ndarray | None, coefficient: float
) -> tuple[Model, Params, Array, Array, Array]:
    """The model, the parameters, [S] states that count, β, and [S, A] log ref, zero for entropy."""
    check_scalars(coefficient=coefficient)
    fix = "give its size: a KL divergence is subtracted, an entropy added"
    check_at_least("coefficient", coefficient, 0.0, fix)
    model, params = prepare(problem)
    alive = ~problem.mdp.terminal & proper_states(problem)
    log_reference = np.zeros((problem.mdp.num_states, problem.mdp.num_actions))
    if reference is not None:
        reference = np.asarray(check_real("reference", reference))
        reference = _checked(reference, action_probabilities(problem))
        log_reference = np.log(np.where(reference > 0, reference, 1))  # read where π > 0 alone
    return model, params, jnp.asarray(alive), jnp.asarray(coefficient), jnp.asarray(log_reference)


def _checked(reference: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    if reference.shape != probabilities.shape:
        raise ValueError(
            f"reference must have shape [S, A] = {probabilities.shape}, got {reference.shape}; "
            "exact.action_probabilities gives a policy's"
        )
    if not np.allclose(reference.sum(-1), 1, atol=1e-4) or np.any(reference < 0):
        raise ValueError(
            "reference must be a distribution over actions in every state, got sums from "
            f"{reference.sum(-1).min():g} to {reference.sum(-1).max():g} and a least entry of "
            f"{reference.min():g}"
        )
    outside = np.argwhere((reference == 0) & (probabilities > 0))
    if len(outside):
        state, action = outside[0]
        raise ValueError(
            f"reference gives action {action} in state {state} no probability, but the policy "
            "does: the KL divergence is infinite; smooth the reference"
        )
    return reference


def _divergence(policy: Policy, params: Params, model: Model, log_reference: Array) -> Array:
    """[S] Σ_a π (log π − log ref)."""
    log_prob = log_prob_table(policy, params, model.observation, model.reward.shape[1])
    possible = log_prob > -jnp.inf
    log_prob = jnp.where(possible, log_prob, 0)
    return jnp.sum(jnp.where(possible, jnp.exp(log_prob) * (log_prob - log_reference), 0), axis=-1)


@partial(jax.jit, static_argnums=(0, 1))
def _objective(
    policy: Policy,
    horizon: int | None,
    model: Model,
    params: Params,
    alive: Array,
    coefficient: Array,
    log_reference: Array,
) -> Array:
    probabilities = probabilities_under(policy, params, model)
    divergence = jnp.where(alive, _divergence(policy, params, model, log_reference), 0)
    source = jnp.sum(probabilities * model.reward, axis=-1) - coefficient * divergence
    stationary = jnp.broadcast_to(source, (horizon or 1, *source.shape))
    kernel = kernel_under(probabilities, model, model.discount)
    return model.initial @ backward(kernel, stationary, horizon)[0]


_slope = jit_once(jax.grad(_objective, argnums=3), static_argnums=(0, 1))


@partial(jit_once, static_argnums=(0, 1))
def _local_slope(
    policy: Policy,
    horizon: int | None,
    model: Model,
    params: Params,
    alive: Array,
    log_reference: Array,
) -> Params:
    """Σ_s d(s) ∇KL(π(·|s) ‖ ref(·|s)), with d(s) zero in terminal states."""
    probabilities = probabilities_under(policy, params, model)
    every = visits_over_time(probabilities, model, model.discount, horizon)
    visits = jnp.where(alive, jnp.sum(every, axis=0), 0)

    def visited(params: Params) -> Array:
        return jnp.sum(visits * _divergence(policy, params, model, log_reference))

    return jax.grad(visited)(params)
