"""Exact truth with a regulariser: entropy, or the KL divergence to a reference policy.

Two estimands go by one name. The gradient of the *regularised return*, E[Σ_t γ^t (r_t + β f(s_t))]
with f the entropy or −KL of the policy at each state visited, also credits an action for the f of
the states that it leads to. The *local* gradient, Σ_s d(s) ∇f(s) with the discounted visitation d
held fixed, does not. On a bandit they are the same; on longer episodes they may point apart.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from pgjax.core.float64 import in_float64, to_numpy
from pgjax.core.validation import check_at_least
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
from pgjax.exact.tabular import TabularMDP
from pgjax.types import Params, Policy


@in_float64
def kl_regularized_objective(
    mdp: TabularMDP,
    policy: Policy,
    params: Params,
    *,
    horizon: int | None,
    reference: Float[np.ndarray, "S A"],
    coefficient: float,
) -> np.float64:
    """E[Σ_t γ^t (r_t − β KL(π(·|s_t) ‖ ref(·|s_t)))], exactly.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H steps at most, or None.
        reference: [S, A] ref(a|s); `exact.action_probabilities` gives a policy's.
        coefficient: β ≥ 0, in units of reward per nat.

    Returns:
        Scalar, float64.

    Raises:
        ValueError: as for `exact.objective`; a reference of another shape, that is no distribution,
            or zero where the policy is not; a negative coefficient.

    Bias: exact.

    References:
        Tang & Munos, On a few pitfalls in KL divergence gradient estimation for RL (2025).
    """
    arguments = _regularized(mdp, policy, params, horizon, reference, coefficient)
    return to_numpy(_objective(policy, horizon, *arguments))


@in_float64
def kl_regularized_gradient(
    mdp: TabularMDP,
    policy: Policy,
    params: Params,
    *,
    horizon: int | None,
    reference: Float[np.ndarray, "S A"],
    coefficient: float,
) -> PyTree[Float[np.ndarray, "..."]]:
    """∇E[Σ_t γ^t (r_t − β KL(π(·|s_t) ‖ ref(·|s_t)))], by differentiating the dynamic program.

    Args, Raises: as for `kl_regularized_objective`.

    Returns:
        A pytree like params, float64.

    Bias: exact.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import exact, tabular, tabular_softmax
        >>> mdp, policy = tabular.two_armed_bandit(), tabular_softmax(3, 2)
        >>> reference = exact.action_probabilities(mdp, policy, jnp.zeros((3, 2)))
        >>> at_the_reference = kl_regularized_gradient(
        ...     mdp, policy, jnp.zeros((3, 2)), horizon=1, reference=reference, coefficient=1.0)
        >>> at_the_reference[0]
        array([-0.075,  0.075])
    """
    model, params, *rest = _regularized(mdp, policy, params, horizon, reference, coefficient)
    objective = partial(_objective, policy, horizon, model)
    return to_numpy(jax.grad(objective)(params, *rest))


@in_float64
def entropy_regularized_objective(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None, coefficient: float
) -> np.float64:
    """E[Σ_t γ^t (r_t + β H(π(·|s_t)))], exactly: the maximum-entropy objective.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H steps at most, or None.
        coefficient: β ≥ 0, in units of reward per nat.

    Returns:
        Scalar, float64.

    Raises:
        ValueError: as for `exact.objective`; a negative coefficient.

    Bias: exact.

    References:
        Ziebart et al., Maximum Entropy Inverse Reinforcement Learning (2008).
    """
    arguments = _regularized(mdp, policy, params, horizon, None, coefficient)
    return to_numpy(_objective(policy, horizon, *arguments))


@in_float64
def entropy_regularized_gradient(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None, coefficient: float
) -> PyTree[Float[np.ndarray, "..."]]:
    """∇E[Σ_t γ^t (r_t + β H(π(·|s_t)))], by differentiating the dynamic program.

    Args, Raises: as for `entropy_regularized_objective`.

    Returns:
        A pytree like params, float64.

    Bias: exact.
    """
    model, params, *rest = _regularized(mdp, policy, params, horizon, None, coefficient)
    return to_numpy(jax.grad(partial(_objective, policy, horizon, model))(params, *rest))


@in_float64
def local_kl_gradient(
    mdp: TabularMDP,
    policy: Policy,
    params: Params,
    *,
    horizon: int | None,
    reference: Float[np.ndarray, "S A"],
) -> PyTree[Float[np.ndarray, "..."]]:
    """Σ_s d(s) ∇KL(π(·|s) ‖ ref(·|s)), the discounted visitation d held fixed.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H, or None.
        reference: [S, A] ref(a|s).

    Returns:
        A pytree like params, float64.

    Raises:
        ValueError: as for `kl_regularized_objective`.

    Bias: exact. It is not the gradient of E[Σ_t γ^t KL(s_t)], which also moves d.
    """
    model, params, alive, _, log_reference = _regularized(
        mdp, policy, params, horizon, reference, 0.0
    )
    visits = _visits(policy, params, model, horizon, alive)
    return to_numpy(jax.grad(_visited)(params, policy, model, visits, log_reference))


@in_float64
def local_entropy_gradient(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> PyTree[Float[np.ndarray, "..."]]:
    """Σ_s d(s) ∇H(π(·|s)), the discounted visitation d held fixed.

    Args, Returns, Raises: as for `local_kl_gradient`.

    Bias: exact. It is not the gradient of E[Σ_t γ^t H(s_t)], which also moves d.
    """
    model, params, alive, _, nothing = _regularized(mdp, policy, params, horizon, None, 0.0)
    visits = -_visits(policy, params, model, horizon, alive)  # H is −KL to a measure that is one
    return to_numpy(jax.grad(_visited)(params, policy, model, visits, nothing))


def _regularized(
    mdp: TabularMDP,
    policy: Policy,
    params: Params,
    horizon: int | None,
    reference: np.ndarray | None,
    coefficient: float,
) -> tuple[Model, Params, Array, Array, Array]:
    """The model, the parameters, [S] states that count, β, and [S, A] log ref, zero for entropy."""
    check_at_least("coefficient", coefficient, 0.0, "a penalty is subtracted, a bonus added")
    model, params = prepare(mdp, policy, params, horizon)
    alive = ~mdp.terminal & proper_states(mdp, policy, params, horizon)
    log_reference = np.zeros((mdp.num_states, mdp.num_actions))
    if reference is not None:
        reference = _checked(np.asarray(reference), action_probabilities(mdp, policy, params))
        log_reference = np.log(np.where(reference > 0, reference, 1))  # read where π > 0 alone
    return model, params, jnp.asarray(alive), jnp.asarray(coefficient), jnp.asarray(log_reference)


def _checked(reference: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    if reference.shape != probabilities.shape:
        raise ValueError(
            f"reference must have shape [S, A] = {probabilities.shape}, got {reference.shape}; "
            "exact.action_probabilities gives a policy's"
        )
    if not np.allclose(reference.sum(-1), 1, atol=1e-4) or np.any(reference < 0):
        raise ValueError("reference must be a distribution over actions in every state")
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


def _visited(
    params: Params, policy: Policy, model: Model, visits: Array, log_reference: Array
) -> Array:
    return jnp.sum(visits * _divergence(policy, params, model, log_reference))


def _visits(
    policy: Policy, params: Params, model: Model, horizon: int | None, alive: Array
) -> Array:
    """[S] d(s), zero in terminal states."""
    probabilities = probabilities_under(policy, params, model)
    visits = visits_over_time(probabilities, model, model.discount, horizon)
    return jnp.where(alive, jnp.sum(visits, axis=0), 0)
