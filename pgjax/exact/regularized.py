"""Exact truth with a regulariser: entropy, or the KL divergence to a reference policy.

Two gradients go by one name. Let f(s) be the policy's entropy, or −KL, in a state. The *regularised
return* is E[Σ_t γ^t (r_t + β f(s_t))]. Its gradient also credits an action for the f of the states
that it leads to. The *local* gradient, Σ_s d(s) ∇f(s), does not: it holds the discounted visitation
d fixed. On a bandit both treat f alike; on longer episodes they may point apart.
"""

import jax
import numpy as np
from jaxtyping import Float, PyTree

from pgjax.core.float64 import in_float64
from pgjax.core.validation import check_at_least, check_real, check_scalars
from pgjax.exact.derivatives import credited
from pgjax.exact.dynamics import (
    Model,
    action_values_over_time,
    prepare,
    values_over_time,
    visits_over_time,
)
from pgjax.exact.problem import Problem
from pgjax.types import Params


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
    return _objective(problem, reference, coefficient)


@in_float64
def kl_regularized_gradient(
    problem: Problem, *, reference: Float[np.ndarray, "S A"], coefficient: float
) -> PyTree[Float[np.ndarray, "..."]]:
    """The exact KL-regularised gradient, ∇E[Σ_t γ^t (r_t − β KL(π(·|s_t) ‖ ref(·|s_t)))].

    It is the sum in `exact.gradient`, of values with the penalty, less β `local_kl_gradient`.

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
    return _gradient(problem, reference, coefficient)


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
    return _objective(problem, None, coefficient)


@in_float64
def entropy_regularized_gradient(
    problem: Problem, *, coefficient: float
) -> PyTree[Float[np.ndarray, "..."]]:
    """The exact entropy-regularised gradient, ∇E[Σ_t γ^t (r_t + β H(π(·|s_t)))].

    It is the sum in `exact.gradient`, of values with the entropy, plus β `local_entropy_gradient`.

    Args, Raises: as for `entropy_regularized_objective`.

    Returns:
        A pytree like params, float64.

    Bias: exact.
    """
    return _gradient(problem, None, coefficient)


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
    return _local_gradient(problem, reference)


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
    found = _local_gradient(problem, None)
    return jax.tree.map(np.negative, found)  # H is −KL to a reference of ones


def _objective(problem: Problem, reference: np.ndarray | None, coefficient: float) -> np.float64:
    _check_coefficient(coefficient)
    model, _ = prepare(problem)
    bonus = -coefficient * np.sum(model.probabilities * _log_ratio(problem, model, reference), -1)
    return np.float64(model.initial @ values_over_time(model, problem.horizon, bonus)[0])


def _gradient(problem: Problem, reference: np.ndarray | None, coefficient: float) -> Params:
    _check_coefficient(coefficient)
    model, params = prepare(problem)
    log_ratio = _log_ratio(problem, model, reference)
    bonus = -coefficient * np.sum(model.probabilities * log_ratio, -1)
    visits = visits_over_time(model, model.discount, problem.horizon)
    values = action_values_over_time(model, problem.horizon, bonus) - coefficient * log_ratio
    return credited(problem.policy, params, model, np.einsum("ks,ksa->sa", visits, values))


def _local_gradient(problem: Problem, reference: np.ndarray | None) -> Params:
    """Σ_s d(s) ∇KL(π(·|s) ‖ ref(·|s)), where ∇KL = Σ_a ∇π (log π − log ref), as Σ_a ∇π = 0."""
    model, params = prepare(problem)
    visits = visits_over_time(model, model.discount, problem.horizon).sum(0)
    credit = visits[:, None] * _log_ratio(problem, model, reference)
    return credited(problem.policy, params, model, credit)


def _check_coefficient(coefficient: float) -> None:
    check_scalars(coefficient=coefficient)
    fix = "give its size: a KL divergence is subtracted, an entropy added"
    check_at_least("coefficient", coefficient, 0.0, fix)


def _log_ratio(problem: Problem, model: Model, reference: np.ndarray | None) -> np.ndarray:
    """[S, A] log π − log ref, or log π for entropy; zero where no step is taken."""
    probabilities = model.probabilities
    taken = (probabilities > 0) & (model.proper & ~problem.mdp.terminal)[:, None]
    log_ratio = np.log(np.where(taken, probabilities, 1))
    if reference is not None:
        reference = _checked(np.asarray(check_real("reference", reference)), probabilities)
        log_ratio -= np.log(np.where(taken, reference, 1))
    return log_ratio


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
