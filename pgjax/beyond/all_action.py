"""All-action gradients: the sum over actions is computed, from a critic's value of every action.

The policy gradient theorem sums over actions, Σ_a ∇π(a|s) Q(s, a). REINFORCE samples that sum; here
it is computed. Only states are sampled, so that the actions add no variance.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from pgjax.core import episode_boundaries as boundaries
from pgjax.core.episode_boundaries import replace_dead_steps
from pgjax.core.validation import as_array, check_policy_without_memory, check_rate, check_traced
from pgjax.estimators import as_checked_arrays, gradient, reward_to_go
from pgjax.types import Observation, Params, Policy, Trajectory

ActionValues = Float[Any, "N T A"] | Callable[[Observation], Array]
"""[N, T, A], or a function of one observation -> [A]."""


def all_action_gradient(
    policy: Policy,
    params: Params,
    batch: Trajectory,
    action_values: ActionValues,
    *,
    discount: float | Array,
) -> PyTree[Float[Array, "..."]]:
    """The theorem's sum over actions in sampled states, (1/N) Σ_i Σ_t γ^t Σ_a ∇π(a|s_it) Q_it(a).

    Neither the actions of the batch nor its rewards are read.

    Args:
        policy: over actions 0..A−1.
        action_values: Q, [N, T, A] in units of return, or a function of one observation -> [A]. It
            is a constant under differentiation, and its discount is not checked.
        discount: γ in the weight γ^t of a state; t is `batch.time`, or counted from the row's
            start. γ = 1 leaves out γ^t, as most code does, and has the same bias.

    Returns:
        A pytree like params. For the gradient of each trajectory, map over batches of one with
        `jax.vmap`.

    Raises:
        ValueError: if values are not [N, T, A]; under `pgjax.checked`, if the policy is over
            another number of actions.

    Bias: none for ∇J if Q = Q^π (with a finite horizon: Q^π of the remaining steps). With another Q
        it is Σ_t γ^t Σ_a ∇π (Q − Q^π). A part of Q that does not depend on the action adds nothing.

    References:
        Sutton et al., Policy Gradient Methods for RL with Function Approximation (2000), theorem 1;
        Allen et al., Mean Actor Critic (2017); Ciosek & Whiteson, Expected Policy Gradients (2018),
        of which this is the case of finitely many actions. γ^t is the episode's.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> mdp, policy = pgjax.tabular.two_armed_bandit(), pgjax.tabular_softmax(3, 2)
        >>> batch = pgjax.rollout(
        ...     policy, jnp.zeros((3, 2)), mdp, jax.random.key(0), num_trajectories=1, num_steps=1)
        >>> Q = jnp.array([[[0.3, 0.6]]])
        >>> all_action_gradient(policy, jnp.zeros((3, 2)), batch, Q, discount=1.0)[0]
        Array([-0.075,  0.075], dtype=float32)
    """
    check_rate("discount", discount)
    check_policy_without_memory(policy)
    params, batch = as_checked_arrays(params, batch)
    values = values_of_all(action_values, batch)
    return _all_action(policy, params, batch, values, jnp.asarray(discount, values.dtype))


def corrected_all_action_gradient(
    policy: Policy,
    params: Params,
    batch: Trajectory,
    action_values: ActionValues,
    *,
    discount: float | Array,
) -> PyTree[Float[Array, "..."]]:
    """`all_action_gradient` with the critic's error corrected by returns; unbiased for any critic.

    ĝ = (1/N) Σ_i Σ_t γ^t [Σ_a ∇π(a|s) Q(s, a) + ∇log π(a_t|s) (G_t − Q(s, a_t))]: a baseline that
    depends on the action, with its expectation added back exactly. Arguments are those of
    `all_action_gradient`; the batch's rewards and actions are read too.

    Bias: none for ∇J, whatever Q is, if it was not fitted to this batch.

    References:
        Gu et al., Q-Prop (2017), there with a linear critic; Thomas & Brunskill, Policy Gradient
        Methods for RL with Function Approximation and Action-Dependent Baselines (2017). Without
        the first term it is the biased form that Tucker et al., The Mirage of Action-Dependent
        Baselines (2018), found in released code.
    """
    check_rate("discount", discount)
    check_policy_without_memory(policy)
    params, batch = as_checked_arrays(params, batch)
    values = values_of_all(action_values, batch)
    action = replace_dead_steps(batch.mask, batch.action)[..., None]

    def of_the_action(batch: Trajectory, target: Array) -> Array:
        return jnp.take_along_axis(values, action, -1)[..., 0].astype(target.dtype)

    sampled = gradient(reward_to_go(discount, baseline=of_the_action), policy, params, batch)
    expected = all_action_gradient(policy, params, batch, values, discount=discount)
    return jax.tree.map(jnp.add, expected, sampled)


def log_probs_of_all(
    policy: Policy, params: Params, observation: Observation, num_actions: int
) -> Float[Array, "A"]:
    """[A] log π(a|s) of every action for one observation; the network is evaluated once."""
    actions = jnp.arange(num_actions)
    values = jax.vmap(policy.log_prob, (None, None, 0))(params, observation, actions)
    total = jnp.sum(jnp.exp(values))
    check_traced(
        f"the policy's probabilities over {num_actions} actions sum to {{total}}; it is over "
        "another number of actions",
        lambda: (jnp.abs(total - 1) < 1e-3, {"total": total}),
    )
    return values


def expected_value(log_prob: Float[Array, "A"], values: Float[Array, "A"]) -> Float[Array, ""]:
    """Σ_a π(a) Q(a), differentiable by the log-probabilities.

    Args:
        log_prob: [A] log π of each action.
        values: [A] of each; an action of probability zero may have any, NaN included.
    """
    probability = jnp.exp(log_prob)
    return jnp.sum(probability * jnp.where(probability > 0, values, 0))


def state_weights(batch: Trajectory, discount: Array, dtype: Any) -> Float[Array, "N T"]:
    """The weight mask γ^t / N of each step, t counted from the start of its episode."""
    share = batch.mask.astype(dtype) / batch.mask.shape[0]
    return boundaries.discounted_by_time(batch, discount, share)


def values_of_all(action_values: ActionValues, batch: Trajectory) -> Float[Array, "N T A"]:
    """Q of every action at every step, zero after an episode's end."""
    if isinstance(action_values, Callable):
        observation = replace_dead_steps(batch.mask, batch.observation)
        values = jax.vmap(jax.vmap(action_values))(observation)
    else:
        values = as_array("action_values", action_values)
    if values.ndim != 3 or values.shape[:2] != batch.mask.shape or not values.shape[2]:
        raise ValueError(
            f"action_values must be [N, T, A] with [N, T] = {batch.mask.shape}, or a function of "
            f"one observation -> [A]; got {values.shape}"
        )
    return jax.lax.stop_gradient(jnp.where(batch.mask[..., None], values, 0))


@jax.jit
def _all_action(
    policy: Policy, params: Params, batch: Trajectory, values: Array, discount: Array
) -> Params:
    observation = replace_dead_steps(batch.mask, batch.observation)
    A = values.shape[-1]

    def credit(params: Params) -> Array:
        def of_step(observation: Observation, values: Array) -> Array:
            return expected_value(log_probs_of_all(policy, params, observation, A), values)

        expected = jax.vmap(jax.vmap(of_step))(observation, values)
        return jnp.sum(state_weights(batch, discount, expected.dtype) * expected)

    return jax.grad(credit)(params)
