"""Entropy and the KL divergence to a reference, in the reward or in the loss.

Two gradients go by one name. Let KL_s = KL(π(·|s) ‖ ref(·|s)), and d the discounted visitation.

- The gradient of the regularised return, ∇E[Σ_t γ^t (r_t − β KL_{s_t})]: an action also gets credit
  for the divergence in the states that it leads to (`exact.kl_regularized_gradient`).
- The local gradient, Σ_s d(s) ∇KL_s: d is held fixed (`exact.local_kl_gradient`).

A sampled estimate k of KL_s has three forms. With ρ = ref(a|s)/π(a|s) they are k1 = −log ρ,
k2 = (log ρ)²/2 and k3 = ρ − 1 − log ρ. k1 and k3 have the mean KL_s. What counts is the gradient,
and that depends on whether k stands in the loss or in the reward:

| k | its gradient in the loss has the mean | in the reward |
|---|---|---|
| k1 | 0 | unbiased for the regularised return |
| k2 | Σ_s d(s) ∇KL_s, the local gradient | biased |
| k3 | Σ_s d(s) ∇KL(ref ‖ π), of the other divergence | biased by that, times β |

The entropy is −k1 with ref = 1. So the bonus −log π in the loss has a gradient with mean zero, and
−(log π)²/2 has the local gradient of the entropy. In the reward, −log π is unbiased for the
regularised return.

In the reward: `with_entropy_reward`, `with_k1_reward`, `with_k2_reward` and `with_k3_reward` return
the batch with other rewards, in float32 or wider. Give it to any estimator. Their batch [N, T] is
on-policy, and its `log_prob` is a constant under differentiation. Their `coefficient` is β ≥ 0, in
units of reward per nat.

In the loss: use `Estimator(visits(discount), term)` with a term from here. For k1, k2 and k3, give
it the batch that `with_reference` returns, which carries the reference's log-probabilities.

The reference is `reference_log_prob`, [N, T] log ref(a_it|s_it), such as `pgjax.log_probs(policy,
reference_params, batch)`. A ValueError is raised if it has another shape or is not finite on a live
step, if β is negative, or if γ is outside [0, 1].
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, PyTree

from pgjax.core.episode_boundaries import discounted_by_time, replace_dead_steps
from pgjax.core.recurrence import accumulation_dtype
from pgjax.core.validation import (
    as_array,
    check_at_least,
    check_batch,
    check_policy_without_memory,
    check_rates,
    check_same_shape,
    check_scalars,
    check_traced_finite,
    is_concrete,
)
from pgjax.estimators import as_checked_arrays
from pgjax.records import configured
from pgjax.terms.ratios import likelihood_ratio
from pgjax.types import Number, Params, Policy, Term, Trajectory, Weights


def with_entropy_reward(batch: Trajectory, coefficient: Number) -> Trajectory:
    """The batch with r_t − β log π(a_t|s_t) for r_t: a sampled entropy bonus.

    Bias: none for ∇E[Σ_t γ^t (r_t + β H(π(·|s_t)))], if the estimator has none for ∇J.

    References:
        Haarnoja et al., Soft Actor-Critic (2018), eq. 1, for the objective.

    Example:
        >>> import numpy as np, pgjax
        >>> from dataclasses import replace
        >>> from pgjax import enumeration, exact, suite
        >>> problem = replace(suite.problems()[1], horizon=2)
        >>> batch, probability = enumeration.trajectories(problem)
        >>> sampled = with_entropy_reward(batch, 0.1)
        >>> estimator = pgjax.reward_to_go(problem.mdp.discount)
        >>> each = pgjax.per_trajectory_gradients(
        ...     estimator, problem.policy, problem.params, sampled)
        >>> truth = exact.entropy_regularized_gradient(problem, coefficient=0.1)
        >>> bool(np.allclose(np.tensordot(probability, each, 1), truth, atol=1e-6))
        True
    """
    check_batch(batch)
    return _subtract_penalty(batch, coefficient, batch.log_prob)


def with_k1_reward(
    batch: Trajectory, reference_log_prob: Float[Array, "N T"], coefficient: Number
) -> Trajectory:
    """The batch with r_t − β k1 for r_t, k1 = log π(a_t|s_t) − log ref(a_t|s_t).

    Bias: none for ∇E[Σ_t γ^t (r_t − β KL(π‖ref))], if the estimator has none for ∇J. That k1 itself
    depends on θ does not matter, because E[∇k1] = 0.

    References:
        Schulman, Approximating KL Divergence (2020); Tang & Munos, On a few pitfalls in KL
        divergence gradient estimation for RL (2025); asked for in TRL #4967.
    """
    return _subtract_divergence(batch, reference_log_prob, coefficient, k1)


def with_k2_reward(
    batch: Trajectory, reference_log_prob: Float[Array, "N T"], coefficient: Number
) -> Trajectory:
    """The batch with r_t − β k2 for r_t, k2 = (log π(a_t|s_t) − log ref(a_t|s_t))²/2.

    Bias: biased, for two reasons: E[k2] is not a KL divergence, and the gradient of k2 itself is
    left out. If the estimator has none for ∇J, its mean is
    ∇E[Σ_t γ^t (r_t − β k2)] + β Σ_s d(s) ∇KL(π‖ref).
    """
    return _subtract_divergence(batch, reference_log_prob, coefficient, k2)


def with_k3_reward(
    batch: Trajectory, reference_log_prob: Float[Array, "N T"], coefficient: Number
) -> Trajectory:
    """The batch with r_t − β k3 for r_t, k3 = ρ − 1 − log ρ with ρ = ref(a_t|s_t)/π(a_t|s_t).

    Bias: biased by exactly β Σ_s d(s) ∇KL(ref‖π), although E[k3] is the KL divergence. The gradient
    of k3 itself is left out, and its mean is not zero, unlike that of k1.
    """
    return _subtract_divergence(batch, reference_log_prob, coefficient, k3)


def with_reference(batch: Trajectory, reference_log_prob: Float[Array, "N T"]) -> Trajectory:
    """The batch as though the reference had acted: `log_prob` is log ref(a_it|s_it).

    It is for terms that compare π with a reference, and not with the policy that acted.

    Bias: none; nothing else is changed.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> from pgjax import enumeration, regularization, suite
        >>> problem = suite.problems()[0]
        >>> batch, _ = enumeration.trajectories(problem)
        >>> batch = jax.tree.map(jnp.asarray, batch)
        >>> reference = pgjax.log_probs(problem.policy, jnp.zeros((3, 2)), batch)
        >>> penalty = pgjax.Estimator(regularization.visits(0.9), regularization.k2)
        >>> kl = pgjax.gradient(
        ...     penalty, problem.policy, problem.params, with_reference(batch, reference))
        >>> kl.shape  # to be subtracted, times β, from a policy gradient
        (3, 2)
    """
    return replace(batch, log_prob=_read_reference(batch, reference_log_prob))


def visits(discount: Number) -> Weights:
    """Weights w_it = γ^t: a penalty counts as often as its state is visited, discounted.

    Args:
        discount: γ in [0, 1]; 1 weighs every step alike, as most code does.

    Bias: none for Σ_s d(s) f(s), with d(s) = Σ_t γ^t P(s_t = s).
    """
    return configured(_visits, **check_rates(discount=discount))


def _visits(batch: Trajectory, log_prob: Array, *, discount: Number) -> Array:
    ones = jnp.ones(batch.mask.shape, accumulation_dtype(log_prob))
    return discounted_by_time(batch, discount, ones)


def k1(
    log_prob: Float[Array, "T"],
    reference_log_prob: Float[Array, "T"],
    weight: Float[Array, "T"],
    mask: Bool[Array, "T"] | None = None,
) -> Float[Array, "T"]:
    """KL in the loss by k1 = log π − log ref, times w_t: its mean is right, its gradient is not.

    Bias: biased for the local gradient of the KL divergence: on-policy its gradient, w_t ∇log π, is
    zero in expectation whatever the reference. In the reward it is right.

    References:
        Schulman, Approximating KL Divergence (2020), for the value; as a loss, open-instruct #534
        and verl #2953.
    """
    log_prob, reference_log_prob, weight = check_same_shape(
        log_prob=log_prob, reference_log_prob=reference_log_prob, weight=weight
    )
    return (log_prob - reference_log_prob) * weight


def k2(
    log_prob: Float[Array, "T"],
    reference_log_prob: Float[Array, "T"],
    weight: Float[Array, "T"],
    mask: Bool[Array, "T"] | None = None,
) -> Float[Array, "T"]:
    """KL in the loss by k2 = (log π − log ref)²/2, times w_t: the right local gradient.

    Its gradient, w_t (log π − log ref) ∇log π, is that of k1 in the reward without the later steps.
    It is also that of k3 times the ratio π/sg(π), where sg stops the gradient.

    Bias: on-policy none for Σ_s d(s) ∇KL(π‖ref), weighed by `visits`. It is biased for the gradient
    of the regularised return, by the divergence of later states.

    References:
        Schulman, Approximating KL Divergence (2020), for the value; Tang & Munos, On a few pitfalls
        in KL divergence gradient estimation for RL (2025), for the gradient.
    """
    log_prob, reference_log_prob, weight = check_same_shape(
        log_prob=log_prob, reference_log_prob=reference_log_prob, weight=weight
    )
    return (log_prob - reference_log_prob) ** 2 / 2 * weight


def k3(
    log_prob: Float[Array, "T"],
    reference_log_prob: Float[Array, "T"],
    weight: Float[Array, "T"],
    mask: Bool[Array, "T"] | None = None,
) -> Float[Array, "T"]:
    """KL in the loss by k3 = ρ − 1 − log ρ with ρ = ref/π, times w_t: the opposite KL's gradient.

    A ρ too large for its dtype is held at a bound, as in `likelihood_ratio`.

    Bias: biased for the local gradient of KL(π‖ref): on-policy its gradient, w_t (1 − ρ) ∇log π,
    has the mean ∇KL(ref‖π). The two agree to first order where the policy is near the reference.

    References:
        Schulman, Approximating KL Divergence (2020), for the value; Shao et al., DeepSeekMath
        (2024), eq. 4, as a loss; TRL #4967.
    """
    log_prob, reference_log_prob, weight = check_same_shape(
        log_prob=log_prob, reference_log_prob=reference_log_prob, weight=weight
    )
    ratio = likelihood_ratio(reference_log_prob, log_prob)
    return (ratio - 1 - (reference_log_prob - log_prob)) * weight


def sampled_entropy(
    log_prob: Float[Array, "T"],
    behaviour_log_prob: Float[Array, "T"],
    weight: Float[Array, "T"],
    mask: Bool[Array, "T"] | None = None,
) -> Float[Array, "T"]:
    """Entropy bonus by −log π(a_t|s_t) w_t: its mean is the entropy and its gradient is noise.

    Bias: biased for the local gradient of the entropy: on-policy its gradient, −w_t ∇log π, is zero
    in expectation. `squared_entropy` and `entropy_gradient` are right.
    """
    log_prob, _, weight = check_same_shape(
        log_prob=log_prob, behaviour_log_prob=behaviour_log_prob, weight=weight
    )
    return -log_prob * weight


def squared_entropy(
    log_prob: Float[Array, "T"],
    behaviour_log_prob: Float[Array, "T"],
    weight: Float[Array, "T"],
    mask: Bool[Array, "T"] | None = None,
) -> Float[Array, "T"]:
    """Entropy bonus by −(log π(a_t|s_t))²/2 w_t: its gradient is right, its value is not.

    It is for policies whose entropy has no formula. Its gradient is −w_t log π ∇log π.

    Bias: on-policy none for Σ_s d(s) ∇H(π(·|s)), weighed by `visits`. It is biased for the gradient
    of the regularised return, by the entropy of later states.
    """
    log_prob, _, weight = check_same_shape(
        log_prob=log_prob, behaviour_log_prob=behaviour_log_prob, weight=weight
    )
    return -(log_prob**2) / 2 * weight


def entropy_gradient(
    policy: Policy, params: Params, batch: Trajectory, *, discount: Number
) -> PyTree[Float[Array, "..."]]:
    """The mean over trajectories of Σ_t γ^t ∇H(π(·|s_t)), each entropy from the policy's formula.

    Args:
        batch: [N, T]; its observations, mask and time are read.
        discount: γ; 1 weighs every step alike, as most code does.

    Returns:
        A pytree like params. Add it, times β, to a policy gradient.

    Raises:
        TypeError: if the policy has a memory.

    Bias: on-policy none for Σ_s d(s) ∇H(π(·|s)), and no variance from the actions. It is biased for
    the gradient of the regularised return, by the entropy of later states.

    References:
        Williams & Peng, Function Optimization Using Connectionist Reinforcement Learning
        Algorithms (1991), for the bonus; Mnih et al., Asynchronous Methods for Deep Reinforcement
        Learning (2016), section 4, as it is used.
    """
    check_policy_without_memory(policy)
    check_scalars(discount=discount)
    weights = visits(discount)
    params, batch = as_checked_arrays(params, batch)
    return _entropy_gradient(policy, weights, params, batch)


@jax.jit
def _entropy_gradient(
    policy: Policy, weights: Weights, params: Params, batch: Trajectory
) -> Params:
    weight = weights(batch, batch.log_prob) / batch.mask.shape[0]
    observation = replace_dead_steps(batch.mask, batch.observation)

    def total(params: Params) -> Array:
        entropy = jax.vmap(jax.vmap(policy.entropy, (None, 0)), (None, 0))(params, observation)
        return jnp.sum(jnp.where(batch.mask, weight.astype(entropy.dtype) * entropy, 0))

    return jax.grad(total)(params)


def _subtract_penalty(batch: Trajectory, coefficient: Number, penalty: Array) -> Trajectory:
    fix = "give its size: a KL divergence is subtracted, an entropy added"
    coefficient = check_at_least("coefficient", coefficient, 0.0, fix)
    check_scalars(coefficient=coefficient)
    dtype = accumulation_dtype(jnp.asarray(batch.reward))
    penalty = jax.lax.stop_gradient(jnp.where(batch.mask, penalty, 0)).astype(dtype)
    reward = jnp.asarray(batch.reward).astype(dtype)
    return replace(batch, reward=reward - jnp.asarray(coefficient, dtype) * penalty)


def _subtract_divergence(
    batch: Trajectory, reference_log_prob: Array, coefficient: Number, estimate: Term
) -> Trajectory:
    """The batch with r_t − β k for r_t, where k is the term k1, k2 or k3."""
    reference = _read_reference(batch, reference_log_prob)
    ours = jnp.where(batch.mask, batch.log_prob, 0)
    penalty = jax.vmap(estimate)(ours, reference, jnp.ones_like(ours), batch.mask)
    return _subtract_penalty(batch, coefficient, penalty)


def _read_reference(batch: Trajectory, reference_log_prob: Array) -> Array:
    """The reference's log-probabilities, checked, zero after the end."""
    check_batch(batch)
    reference_log_prob = as_array("reference_log_prob", reference_log_prob)
    if reference_log_prob.shape != batch.reward.shape:
        raise ValueError(
            f"reference_log_prob must have shape [N, T] = {batch.reward.shape}, "
            f"got {reference_log_prob.shape}; it is one log-probability for each action taken"
        )
    if is_concrete(batch.mask, reference_log_prob):
        value = np.asarray(reference_log_prob)
        for row, step in np.argwhere(np.asarray(batch.mask) & ~np.isfinite(value))[:1]:
            raise ValueError(
                f"reference_log_prob is {value[row, step]} at trajectory {row}, step {step}; "
                "if the reference gives an action no probability, the KL divergence is infinite; "
                "smooth the reference"
            )
    check_traced_finite("reference_log_prob", reference_log_prob, batch.mask)
    return jnp.where(batch.mask, reference_log_prob, 0)
