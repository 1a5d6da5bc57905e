"""Estimators: a gradient from weights × term, derived once, and the named compositions.

`surrogate`, `gradient` and `per_trajectory_gradients` ascend J, sum over time and average over
trajectories. They compute the log-probabilities of the batch's actions with the policy. Their
params are a pytree of floating arrays. Their batch is [N, T], and may hold anything after an
episode's end.

They raise a ValueError if the batch is not laid out as [N, T] or holds no trajectory. They raise a
TypeError if a parameter is not floating or the mask is not boolean. If the batch has an action that
the policy lacks, they raise a ValueError outside jit. Under jit the whole estimate is then NaN.

Within your own `shard_map` or `pmap` they see the trajectories of one device. `jax.lax.pmean` of
the gradients is the estimate from all devices.

The settings of the named estimators are those of `pgjax.weights` and `pgjax.terms`:

- discount: γ in [0, 1].
- lambda_: λ in [0, 1].
- baseline: from `pgjax.baselines`; None subtracts nothing.
- groups: `consecutive(group_size)` or `labelled(ids)`, from `pgjax.groups`.

A ValueError is raised if γ or λ is outside [0, 1]. At use it is raised if groups do not fit the
batch, or if the batch lacks the critic's `value`. An episode is bootstrapped if it is cut before it
terminates, and the batch has the critic's value after the cut.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Float

from pgjax import terms, weights
from pgjax.baselines import (
    Groups,
    group_deviation,
    group_leave_one_out,
    group_mean,
    leave_one_out,
    recorded_value,
)
from pgjax.core.devices import varying, without_explicit_axes
from pgjax.core.episode_boundaries import replace_dead_steps
from pgjax.core.float64 import to_jax
from pgjax.core.scores import (
    explained,
    log_probs,
    weighted_score,
    weighted_score_per_trajectory,
)
from pgjax.core.validation import (
    check_batch,
    check_estimator,
    check_log_prob,
    check_params,
    check_policy,
)
from pgjax.types import (
    Baseline,
    Credit,
    Estimator,
    Gradient,
    Gradients,
    Number,
    Params,
    Policy,
    RecurrentPolicy,
    Term,
    Trajectory,
)


def surrogate(
    estimator: Estimator, policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory
) -> Float[Array, ""]:
    """The scalar whose gradient is the estimate, (1/N) Σ_i Σ_t mask · term(log π, log μ, w).

    Ascend it; its value is not an estimate of J. Weights are constants in θ. The scalar has the
    precision of the parameters or of the weights, whichever is wider. Within `shard_map`,
    differentiate `jax.lax.pmean` of it: JAX sums the derivative with respect to replicated
    parameters over devices.

    Bias: the estimator's.
    """
    _check_arguments(estimator, policy)
    params, batch = as_checked_arrays(params, batch)
    log_prob = log_probs(policy, params, batch)
    value = _mean_term(estimator, batch, log_prob, evaluate_weights(estimator, batch, log_prob))
    return explained(value, policy, params, batch)


def gradient(
    estimator: Estimator, policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory
) -> Gradient:
    """The estimate of ∇J from a batch, to ascend; a pytree like params.

    Bias: the estimator's.

    Example:
        >>> from pgjax import enumeration, suite
        >>> problem = suite.problems()[0]
        >>> batch, _ = enumeration.trajectories(problem)
        >>> gradient(reward_to_go(0.9), problem.policy, problem.params, batch).shape
        (3, 2)
    """
    _check_arguments(estimator, policy)

    def estimate(estimator: Estimator, params: Params, batch: Trajectory) -> Params:
        return _gradient(policy, estimator, *as_checked_arrays(params, batch))

    found = without_explicit_axes(estimate, PartitionSpec())(estimator, params, batch)
    return explained(found, policy, params, batch)


def per_trajectory_gradients(
    estimator: Estimator, policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory
) -> Gradients:
    """Each trajectory's share of the estimate, whose mean over the batch is `gradient`.

    The weights are computed once, for the whole batch. Then the term is differentiated trajectory
    by trajectory. So baselines that couple the batch are right too; under a `vmap` of the whole
    loss over single trajectories they would not be.

    Returns:
        A pytree like params with a leading N.

    Bias: the estimator's. The samples are independent if the weights do not couple the batch.

    Example:
        >>> from pgjax import enumeration, suite
        >>> problem = suite.problems()[0]
        >>> batch, _ = enumeration.trajectories(problem)
        >>> each = per_trajectory_gradients(rloo(0.9), problem.policy, problem.params, batch)
        >>> each.shape == (len(batch.reward), 3, 2)
        True
    """
    _check_arguments(estimator, policy)
    found = _each_gradient(policy, estimator, *as_checked_arrays(params, batch))
    return explained(found, policy, params, batch)


def score_weights(
    estimator: Estimator, batch: Trajectory, log_prob: Float[Array, "N T"]
) -> Float[Array, "N T"]:
    """Score weights c_it, the surrogate's derivative by log π(a_it|s_it): ĝ = Σ_it c_it ∇log π.

    For the score term c_it is w_it/N, which needs no log-probability. The compiled program then
    skips the pass over the network.

    Args:
        batch: [N, T]; its observations are read by the weights only.
        log_prob: [N, T] log π(a_it|s_it) under the parameters to improve.

    Returns:
        [N, T], zero after each episode's end.

    Raises:
        ValueError: if `log_prob` is not [N, T].

    Bias: the estimator's.
    """
    check_estimator(estimator)
    log_prob = check_log_prob(batch, log_prob)
    weight = evaluate_weights(estimator, batch, log_prob)
    if estimator.term is terms.score and isinstance(weight, jax.Array):
        return (weight * (1 / len(batch.mask))).astype(log_prob.dtype)
    own = varying(log_prob, (log_prob, weight, batch.log_prob))  # without it devices' are summed

    def mean_term(log_prob: Array) -> Array:
        return _mean_term(estimator, batch, log_prob, weight)

    return jax.grad(mean_term)(own)


def reinforce(discount: Number, *, baseline: Baseline | None = None) -> Estimator:
    """REINFORCE: the total return times the summed score, ĝ = mean_i Σ_t ∇log π(a_t|s_t) (R − b).

    Bias: none for ∇J if the baseline has none. Its variance is often the largest of the family.

    References:
        Williams (1992).

    Example:
        >>> reinforce(0.99)
        Estimator(weights=total_return(discount=0.99), term=score)
    """
    return Estimator(weights.total_return(discount, baseline=baseline), terms.score)


def reward_to_go(discount: Number, *, baseline: Baseline | None = None) -> Estimator:
    """Reward-to-go, also GPOMDP: ĝ = mean_i Σ_t γ^t ∇log π(a_t|s_t) (G_t − b_t).

    Bias: none for ∇J if the baseline has none.

    References:
        Sutton et al. (2000), theorem 1; Baxter & Bartlett, Infinite-Horizon Policy-Gradient
        Estimation (2001), here with the episode's γ^t.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> estimator = pgjax.reward_to_go(0.9, baseline=pgjax.baselines.leave_one_out)
    """
    return Estimator(weights.reward_to_go(discount, baseline=baseline), terms.score)


def mismatched_reward_to_go(discount: Number, *, baseline: Baseline | None = None) -> Estimator:
    """Reward-to-go without γ^t, ĝ = mean_i Σ_t ∇log π(a_t|s_t) (G_t − b_t): what most code runs.

    Bias: biased for ∇J when γ < 1, because it weighs states as if they were not discounted.

    References:
        Nota & Thomas (2020); Zhang et al. (2022).

    Example:
        >>> mismatched_reward_to_go(0.99)
        Estimator(weights=mismatched_reward_to_go(discount=0.99), term=score)
    """
    return Estimator(weights.mismatched_reward_to_go(discount, baseline=baseline), terms.score)


def rloo(discount: Number, *, groups: Groups | None = None) -> Estimator:
    """REINFORCE leave-one-out: each return less the mean return of the other trajectories.

    Args:
        groups: the others are those of the trajectory's group; None takes the batch as one group.

    Raises:
        ValueError: if a group has only one member; at use, if there are no groups and N = 1.

    Bias: none for ∇J.

    References:
        Kool et al. (2019); Ahmadian et al., Back to Basics (2024).

    Example:
        >>> from pgjax.baselines import consecutive
        >>> estimator = rloo(1.0, groups=consecutive(4))
    """
    baseline = leave_one_out if groups is None else group_leave_one_out(groups)
    return reinforce(discount, baseline=baseline)


def grpo(
    discount: Number,
    groups: Groups,
    *,
    epsilon: Number = 1e-4,
    term: Term = terms.importance_ratio,
) -> Estimator:
    """GRPO: w_i = (R_i − mean) / (std + ε) in the trajectory's group, divided by its length |τ_i|.

    ĝ = mean_i (1/|τ_i|) Σ_t ρ_t ∇log π(a_t|s_t) w_i. The ratio ρ is clipped if the term clips it.

    Args:
        discount: γ; 1 in the paper, where the only reward comes at the end.
        groups: the answers to one question are a group.
        epsilon: ε ≥ 0, in units of return.
        term: `terms.ppo_clip(0.2)` is the paper's.

    Raises:
        ValueError: if ε is negative.

    Bias: biased, for three reasons. The mean includes the trajectory's own return, the standard
    deviation comes from the same returns, and the sum is divided by the length. A group whose
    returns agree gives zero.

    References:
        Shao et al., DeepSeekMath (2024), eq. 3 and section 4.1.2 (outcome supervision), without
        the KL term; the deviation's divisor is G−1, as in TRL and verl.

    Example:
        >>> from pgjax import terms
        >>> from pgjax.baselines import consecutive
        >>> estimator = grpo(1.0, consecutive(8), term=terms.ppo_clip(0.2))
    """
    relative = weights.total_return(
        discount, baseline=group_mean(groups), scale=group_deviation(groups, epsilon=epsilon)
    )
    return Estimator(weights.divided_by_length(relative), term)


def dr_grpo(discount: Number, groups: Groups, *, term: Term = terms.importance_ratio) -> Estimator:
    """Dr. GRPO, GRPO done right: w_i = R_i − mean in the group, without any division.

    Args:
        term: `terms.ppo_clip(0.2)` is the paper's.

    Bias: on-policy it is (G−1)/G times `rloo` in groups of G, and so too small. Off-policy biased,
    as its term is.

    References:
        Liu et al., Understanding R1-Zero-Like Training: A Critical Perspective (2025), section 3.2.

    Example:
        >>> from pgjax import terms
        >>> from pgjax.baselines import consecutive
        >>> estimator = dr_grpo(1.0, consecutive(8), term=terms.ppo_clip(0.2))
    """
    return Estimator(weights.total_return(discount, baseline=group_mean(groups)), term)


def actor_critic(discount: Number, lambda_: Number) -> Estimator:
    """Actor-critic: ĝ = mean_i Σ_t γ^t ∇log π(a_t|s_t) A_t, with A = GAE(λ) of the batch's values.

    Args:
        lambda_: 0 is the TD error, 1 the return less the value.

    Bias: none for ∇J if V = V^π, or if λ = 1 and no episode is bootstrapped.

    References:
        Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage
        Estimation (2016); Sutton & Barto (2018), section 13.5 (λ = 0), with its γ^t.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> from pgjax import enumeration, tabular
        >>> mdp, policy = tabular.random_mdp(), pgjax.tabular_softmax(4, 2)
        >>> params = jnp.ones((4, 2))
        >>> batch, _ = enumeration.trajectories(pgjax.Problem(mdp, policy, params, horizon=3))
        >>> batch = batch.replace(value=batch.observation @ jnp.arange(4.0))  # the critic's values
        >>> estimator = actor_critic(mdp.discount, 0.95)
        >>> pgjax.gradient(estimator, policy, params, batch).shape
        (4, 2)
    """
    return Estimator(weights.generalized_advantage(discount, lambda_), terms.score)


def mismatched_actor_critic(discount: Number, lambda_: Number) -> Estimator:
    """Actor-critic without γ^t, ĝ = mean_i Σ_t ∇log π(a_t|s_t) A_t: what most code runs.

    Bias: biased for ∇J when γ < 1, even with V = V^π.

    References:
        Mnih et al., Asynchronous Methods for Deep Reinforcement Learning (2016), with GAE; Nota &
        Thomas (2020) for the mismatch.
    """
    return Estimator(weights.mismatched_generalized_advantage(discount, lambda_), terms.score)


def n_step_actor_critic(discount: Number, n: int) -> Estimator:
    """Actor-critic of n steps: ĝ = mean_i Σ_t γ^t ∇log π(a_t|s_t) (G_t − V(s_t)), G of n rewards.

    G_t = r_t + … + γ^{n−1} r_{t+n−1} + γ^n V(s_{t+n}), with fewer rewards if the episode ends
    earlier.

    Args:
        n: rewards before the critic's value, at least one.

    Raises:
        TypeError: if n is not an integer.
        ValueError: if n is below one.

    Bias: none for ∇J if V = V^π, or if n is at least the episode's length and no episode is
    bootstrapped.

    References:
        Sutton & Barto (2018), eq. 7.1; Mnih et al. (2016), section 4, where n is the number of
        steps left in the window, and γ^t is left out.

    Example:
        >>> estimator = n_step_actor_critic(0.99, 5)
    """
    return Estimator(weights.n_step(discount, n, baseline=recorded_value), terms.score)


@jax.jit
def _gradient(
    policy: Policy | RecurrentPolicy, estimator: Estimator, params: Params, batch: Trajectory
) -> Params:
    score_weight = score_weights(estimator, batch, log_probs(policy, params, batch))
    return weighted_score(policy, params, batch, score_weight)


@jax.jit
def _each_gradient(
    policy: Policy | RecurrentPolicy, estimator: Estimator, params: Params, batch: Trajectory
) -> Params:
    score_weight = score_weights(estimator, batch, log_probs(policy, params, batch))
    return weighted_score_per_trajectory(policy, params, batch, score_weight * len(score_weight))


def _mean_term(
    estimator: Estimator, batch: Trajectory, log_prob: Array, weight: Any
) -> Float[Array, ""]:
    return jnp.mean(sum_of_terms(estimator, batch, log_prob, weight))


def sum_of_terms(
    estimator: Estimator, batch: Trajectory, log_prob: Float[Array, "N T"], weight: Any
) -> Float[Array, "N"]:
    """Σ_t mask · term of each trajectory, [N]; their mean is the surrogate.

    Args:
        batch: [N, T]; its mask and `log_prob` are read.
        log_prob: [N, T] log π(a_it|s_it) under the parameters to improve.
        weight: of the estimator, from `evaluate_weights`.

    Bias: the estimator's.
    """
    term = partial(_trajectory_term, estimator)
    return jax.vmap(term)(log_prob, batch.log_prob, weight, batch.mask)


def evaluate_weights(
    estimator: Estimator, batch: Trajectory, log_prob: Float[Array, "N T"]
) -> Credit:
    """The estimator's weights, constants in θ, zero where the mask is false.

    Args:
        batch: [N, T]; anything may stand where its mask is false.
        log_prob: [N, T] log π(a_it|s_it) under the parameters to improve.

    Raises:
        ValueError: if the weights are not [N, T].

    Bias: the estimator's.
    """
    # Their arguments are constants in θ; their settings, such as γ, can still be differentiated.
    weight = estimator.weights(*_constants(batch, log_prob))
    for leaf in jax.tree.leaves(weight):
        if leaf.shape != batch.mask.shape:
            raise ValueError(
                f"estimator.weights must return shape [N, T] = {batch.mask.shape}, got "
                f"{leaf.shape}; broadcast to the shape of batch.mask"
            )

    def masked(leaf: Array) -> Array:
        return jnp.where(batch.mask, leaf, 0)

    return jax.tree.map(masked, weight)


def _trajectory_term(
    estimator: Estimator, log_prob: Array, behaviour: Array, weight: Any, mask: Array
) -> Array:
    term = estimator.term(log_prob, jnp.where(mask, behaviour, 0), weight, mask)
    if term.shape != mask.shape:
        raise ValueError(
            f"estimator.term must return shape [T] = {mask.shape}, got {term.shape}; return one "
            "number for each step, and do not sum over time"
        )
    return jnp.sum(jnp.where(mask, term, 0))


@jax.jit  # traced once for all the estimators of a program, and one program outside jit
def _constants(batch: Trajectory, log_prob: Array) -> tuple[Trajectory, Array]:
    """Both as constants; the batch with zeros, or repeated steps, after each episode's end."""
    names = ("observation", "action", "terminated", "truncated")
    names += ("reward", "log_prob", "value", "action_value", "next_value")
    names += ("reference_log_prob", "sampler_log_prob")
    given = {name: x for name in names if (x := getattr(batch, name)) is not None}
    mask = batch.mask

    def cleaned(name: str, x: Any) -> Any:
        if name in ("observation", "action"):
            return replace_dead_steps(mask, x)
        return x & mask if name in ("terminated", "truncated") else jnp.where(mask, x, 0)

    clean = replace(batch, **{name: cleaned(name, x) for name, x in given.items()})
    return jax.lax.stop_gradient((clean, log_prob))


def _check_arguments(estimator: Any, policy: Any) -> None:
    """Raise a TypeError unless the estimator is an Estimator and the policy is a policy."""
    check_estimator(estimator)
    check_policy(policy)


def as_checked_arrays(params: Params, batch: Trajectory) -> tuple[Params, Trajectory]:
    """The parameters and the batch, checked and as JAX arrays of the present precision.

    Within `shard_map` the parameters are marked as each device's own, as its batch is.

    Bias: none; nothing else is changed.
    """
    check_params(params)
    check_batch(batch)
    params, batch = to_jax((params, batch))
    return varying(params, (params, batch)), batch
