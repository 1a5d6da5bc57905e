"""The Fisher information of a policy: exact on a finite MDP, and as products from a batch.

F = E[Σ_t γ^t ∇log π(a_t|s_t) ∇log π(a_t|s_t)ᵀ] is summed over time as ∇J is, so that F⁻¹∇J does not
depend on the normalisation of either. F is singular if two parameters have the same effect, as in
every softmax over a table: natural gradients then use the pseudo-inverse, or a little damping.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from pgjax import exact
from pgjax.beyond.all_action import log_probs_of_all, state_weights
from pgjax.core.devices import varying
from pgjax.core.episode_boundaries import replace_dead_steps
from pgjax.core.float64 import as_float64, in_float64, to_jax
from pgjax.core.scores import log_probs, weighted_score
from pgjax.core.validation import (
    check_policy,
    check_policy_without_memory,
    check_positive,
    check_rate,
)
from pgjax.estimators import as_checked_arrays
from pgjax.exact.dynamics import log_prob_table
from pgjax.exact.problem import Problem, check_problem
from pgjax.types import Observation, Params, Policy, Trajectory

Product: TypeAlias = Callable[[Params], Params]
"""v -> F v, pytrees like the parameters."""


@in_float64
def fisher(problem: Problem) -> Float[np.ndarray, "P P"]:
    """The exact Fisher matrix, F = Σ_t Σ_s γ^t P(s_t = s) Σ_a π(a|s) ∇log π(a|s) ∇log π(a|s)ᵀ.

    Returns:
        [P, P] float64, in the order of `ravel_pytree(params)`. Not normalised: the weights of the
        states are `exact.visitation`, and sum to the discounted expected length.

    Raises:
        ValueError, TypeError: as for `exact.gradient`.

    Bias: exact.

    References:
        Kakade, A Natural Policy Gradient (2001), section 2, there under the stationary
        distribution; Bagnell & Schneider, Covariant Policy Search (2003).

    Example:
        >>> import numpy as np
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> fisher(Problem(bandit, tabular_softmax(3, 2), np.zeros((3, 2)), horizon=1))[:2, :2]
        array([[ 0.25, -0.25],
               [-0.25,  0.25]])
    """
    weight, score = visited_scores(problem)
    weight = weight.sum(0)
    return np.einsum("sa,sap,saq->pq", weight, score, score)


@in_float64
def visited_scores(
    problem: Problem,
) -> tuple[Float[np.ndarray, "K S A"], Float[np.ndarray, "S A P"]]:
    """γ^t P(s_t = s, a_t = a) and ∇log π(a|s), exactly; K is H, or 1 if H is infinite."""
    check_problem(problem)
    mdp = problem.mdp
    visits = exact.visitation(problem).reshape(-1, mdp.num_states)
    probability = exact.action_probabilities(problem)
    params, observation = jax.tree.map(as_float64, problem.params), to_jax(mdp.observation)
    score = np.asarray(_scores(problem.policy, mdp.num_actions, params, observation))
    return visits[:, :, None] * probability[None], score


def expected_fisher(
    policy: Policy,
    params: Params,
    batch: Trajectory,
    *,
    discount: float | Array,
    num_actions: int,
) -> Product:
    """Fisher-vector products with the exact expectation over actions, in sampled states.

    F̂ v = (1/N) Σ_i Σ_t γ^t Σ_a π(a|s_it) ∇log π(a|s_it) (∇log π(a|s_it)ᵀ v): one product forward
    (JVP) and one back (VJP); no [P, P] is formed.

    Args:
        policy: over actions 0..A−1.
        batch: [N, T]; its observations and mask are read.
        discount: γ; 1 for the undiscounted visits that TRPO averages over.
        num_actions: A.

    Returns:
        v -> F̂ v, for pytrees like params.

    Bias: none for F v.

    References:
        Schulman et al., Trust Region Policy Optimization (2015), appendix C: the analytic form.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> mdp, policy = pgjax.tabular.two_armed_bandit(), pgjax.tabular_softmax(3, 2)
        >>> params = jnp.zeros((3, 2))
        >>> batch = pgjax.rollout(
        ...     policy, params, mdp, jax.random.key(0), num_trajectories=1, num_steps=1)
        >>> product = expected_fisher(policy, params, batch, discount=1.0, num_actions=2)
        >>> product(jnp.zeros((3, 2)).at[0, 0].set(1.0))[0]
        Array([ 0.25, -0.25], dtype=float32)
    """
    check_policy_without_memory(policy)
    check_rate("discount", discount)
    check_positive("num_actions", num_actions)
    params, batch = as_checked_arrays(params, batch)
    observation = replace_dead_steps(batch.mask, batch.observation)

    @jax.jit  # so that a product is a few programs, and not one for each operation
    def table(params: Params) -> Array:
        def of_step(observation: Observation) -> Array:
            return log_probs_of_all(policy, params, observation, num_actions)

        return jax.vmap(jax.vmap(of_step))(observation)

    log_prob, push = jax.linearize(table, params)
    pull = jax.linear_transpose(push, params)
    weight = state_weights(batch, jnp.asarray(discount), log_prob.dtype)[..., None]
    weight = weight * jnp.exp(log_prob)  # zero where an action is illegal
    return lambda vector: pull(weight * push(varying(vector, params)))[0]


def sampled_fisher(
    policy: Policy, params: Params, batch: Trajectory, *, discount: float | Array
) -> Product:
    """Fisher-vector products from the scores of the actions taken, for any kind of action.

    F̂ v = (1/N) Σ_i Σ_t γ^t ∇log π(a_it|s_it) (∇log π(a_it|s_it)ᵀ v).

    Args:
        policy: of any kind.
        batch: [N, T]; its observations, actions and mask are read.

    Returns:
        v -> F̂ v, for pytrees like params.

    Bias: none for F v on-policy. The rank of F̂ is at most the number of live steps. So with few
        steps it is zero in some directions in which `expected_fisher` is not.

    References:
        Schulman et al. (2015), appendix C, the covariance of the gradients; Peters & Schaal,
        Natural Actor-Critic (2008).
    """
    check_policy(policy)
    check_rate("discount", discount)
    params, batch = as_checked_arrays(params, batch)
    value, push = jax.linearize(jax.jit(lambda params: log_probs(policy, params, batch)), params)
    weight = state_weights(batch, jnp.asarray(discount), value.dtype)

    def product(vector: Params) -> Params:
        along = push(varying(vector, params))
        return weighted_score(policy, params, batch, weight * along)

    return product


@partial(jax.jit, static_argnums=(0, 1))
def _scores(
    policy: Policy, num_actions: int, params: Params, observation: Array
) -> Float[Array, "S A P"]:
    flat, unravel = ravel_pytree(params)

    def table(flat: Array) -> Array:
        return log_prob_table(policy, unravel(flat), observation, num_actions)

    return jax.jacobian(table)(flat)
