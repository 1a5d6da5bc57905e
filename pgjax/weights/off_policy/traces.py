"""V-trace and Retrace: ratios bounded step by step, with a critic in place of what is cut off.

The targets take one sequence of length T, and `jax.vmap` adds the batch. Their reward, discount,
value and next_value are as in `pgjax.returns`.

The weights read the critic's values from the batch: `value` V(s_t) = E_π Q(s_t, ·), `action_value`
Q(s_t, a_t), and at a cut `final_value`, or `next_value` in a window. They correct an action and
what follows it, but not the state it was taken in: `on_target_states` does that.

γ and λ lie in [0, 1]. A ceiling is positive; `math.inf` sets no bound. A ValueError is raised if
a setting is outside its range, or if a shape does not fit. At use it is raised if the batch lacks
the critic's values.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Num

from pgjax.core import episode_boundaries as boundaries
from pgjax.core.recurrence import accumulation_dtype, reverse_affine
from pgjax.core.validation import (
    check_rates,
    check_scalar_or_sequence,
    check_scalars,
    check_sequence,
)
from pgjax.records import configured
from pgjax.returns import ScalarOrSequence, td_errors
from pgjax.types import Number, Trajectory, Weights
from pgjax.weights.off_policy.ratios import check_ceiling, log_ratios, ratio_below


def vtrace_targets(
    reward: Num[Array, "T"],
    discount: ScalarOrSequence,
    log_ratio: Float[Array, "T"],
    value: Float[Array, "T"],
    next_value: Float[Array, "T"],
    *,
    lambda_: ScalarOrSequence = 1.0,
    ratio_ceiling: Number = 1.0,
    trace_ceiling: Number = 1.0,
) -> Float[Array, "T"]:
    """V-trace's targets for a critic, v_t = V(s_t) + Σ_{k≥t} γ^(k−t) c_t ⋯ c_{k−1} ρ_k δ_k.

    ρ_k = min(ρ̄, π/μ), c_k = λ min(c̄, π/μ), δ_k = r_k + γ V(s_{k+1}) − V(s_k). ρ̄ decides which
    policy is evaluated, and c̄ how fast. If c̄ > 1 a sum can overflow, and then counts as zero.

    Args:
        log_ratio: [T] log π(a_t|s_t) − log μ(a_t|s_t).
        lambda_: λ, a scalar or [T]; zero at an episode's last step if another step follows.
        ratio_ceiling: ρ̄.
        trace_ceiling: c̄; Espeholt et al. ask for c̄ ≤ ρ̄.

    Returns:
        [T], in the reward's precision or float32.

    Bias: none for V^π if no ratio exceeds ρ̄ and V = V^π, or if none exceeds either ceiling and
    λ = 1. Otherwise repeated use leads to the value of a policy between μ and π, proportional to
    min(ρ̄ μ, π), whatever c̄.

    References:
        Espeholt et al., IMPALA: Scalable Distributed Deep-RL with Importance Weighted
        Actor-Learner Architectures (2018), eq. 1 and 2, and λ as in remark 2.

    Example:
        >>> import jax.numpy as jnp
        >>> reward, value, next_value = jnp.ones(2), jnp.zeros(2), jnp.zeros(2)
        >>> vtrace_targets(reward, 0.5, jnp.log(jnp.array([0.5, 4.0])), value, next_value)
        Array([0.75, 1.  ], dtype=float32)
    """
    check_rates(lambda_=lambda_)
    check_scalars(ratio_ceiling=ratio_ceiling, trace_ceiling=trace_ceiling)
    ceilings = (
        check_ceiling("ratio_ceiling", ratio_ceiling),
        check_ceiling("trace_ceiling", trace_ceiling),
    )
    reward = check_sequence("reward", reward)
    value = check_sequence("value", value, ("reward", reward))
    sequences = reward, log_ratio, value, next_value
    error = _errors_and_advantages(discount, lambda_, ceilings, sequences)[0]
    return value.astype(error.dtype) + error


def action_value_targets(
    reward: Num[Array, "T"],
    discount: ScalarOrSequence,
    trace: Float[Array, "T"],
    action_value: Float[Array, "T"],
    next_value: Float[Array, "T"],
) -> Float[Array, "T"]:
    """Targets for a critic of actions, G_t = Q(s_t,a_t) + Σ_{k≥t} γ^(k−t) c_{t+1} ⋯ c_k δ_k.

    δ_k = r_k + γ E_π Q(s_{k+1},·) − Q(s_k,a_k). The trace c makes the method: λ min(1, π/μ) gives
    Retrace, λ π(a|s) tree-backup, λ gives Q^π(λ), and π/μ importance sampling. If traces exceed one
    a sum can overflow, and then counts as zero.

    Args:
        trace: [T] c_t ≥ 0, of (s_t, a_t); zero where an episode starts. The first is not read.
        action_value: [T] Q(s_t, a_t).
        next_value: [T] E_π Q(s_{t+1},·).

    Returns:
        [T], in the reward's precision or float32.

    Bias: none for Q^π(s_t,a_t) if Q = Q^π, whatever the trace, or if the trace is π/μ. With Retrace
    and tree-backup, repeated use leads to Q^π from any μ.

    References:
        Munos et al., Safe and Efficient Off-Policy Reinforcement Learning (2016), eq. 3 and 4;
        Precup, Sutton & Singh (2000) for tree-backup; Harutyunyan et al., Q(λ) with Off-Policy
        Corrections (2016) for Q^π(λ).

    Example:
        >>> import jax.numpy as jnp
        >>> zeros = jnp.zeros(2)
        >>> action_value_targets(jnp.ones(2), 0.5, jnp.array([1.0, 0.5]), zeros, zeros)
        Array([1.25, 1.  ], dtype=float32)
    """
    reward = check_sequence("reward", reward)
    like = "reward", reward
    trace = check_sequence("trace", trace, like)
    action_value = check_sequence("action_value", action_value, like)
    dtype = accumulation_dtype(reward)
    error = td_errors(reward.astype(dtype), discount, action_value, next_value)
    following = jnp.pad(trace[1:], (0, min(1, trace.size))).astype(dtype)
    error = _accumulate_errors(jnp.asarray(discount).astype(dtype) * following, error)
    return action_value.astype(dtype) + error


def vtrace(
    discount: Number,
    *,
    lambda_: Number = 1.0,
    ratio_ceiling: Number = 1.0,
    trace_ceiling: Number = 1.0,
) -> Weights:
    """V-trace actor-critic, w_t = γ^t ρ_t (r_t + γ [λ v_{t+1} + (1−λ) V(s_{t+1})] − V(s_t)).

    v are the targets of `vtrace_targets`, and ρ_t = min(ρ̄, π/μ). On-policy it is γ^t GAE(λ), if no
    ceiling is below one.

    Args:
        lambda_: λ in [0, 1].
        ratio_ceiling: ρ̄, in the targets and in front of the advantage.
        trace_ceiling: c̄, in the targets.

    Bias: biased off-policy: states are left to μ. Otherwise there is none if no ratio exceeds ρ̄ and
    V = V^π, or if none exceeds either ceiling and λ = 1. The mean is then
    Σ_t γ^t Σ_s P_μ(s_t = s) Σ_a ∇π(a|s) Q^π(s,a), and `on_target_states` makes it ∇J. A ratio held
    at ρ̄ adds to the bias.

    References:
        Espeholt et al. (2018), section 4.2; with γ^t, which they leave out, and with λ < 1 as in
        rlax, so that GAE(λ) is its on-policy case.

    Example:
        >>> from pgjax import Estimator, terms
        >>> estimator = Estimator(vtrace(0.99), terms.score)
    """
    return configured(
        _vtrace,
        **check_rates(discount=discount, lambda_=lambda_),
        ratio_ceiling=check_ceiling("ratio_ceiling", ratio_ceiling),
        trace_ceiling=check_ceiling("trace_ceiling", trace_ceiling),
    )


def _vtrace(
    batch: Trajectory,
    log_prob: Array,
    *,
    discount: Number,
    lambda_: Number,
    ratio_ceiling: Number,
    trace_ceiling: Number,
) -> Array:
    check_scalars(discount=discount, lambda_=lambda_)
    ceilings = ratio_ceiling, trace_ceiling
    value, next_value, goes_on = _read_critic(batch, "vtrace")
    log_ratio = log_ratios(batch, log_prob)
    reward = jnp.where(batch.mask, batch.reward, 0).astype(log_ratio.dtype)
    leak = jnp.asarray(lambda_, log_ratio.dtype) * goes_on.astype(log_ratio.dtype)

    def advantages(leak: Array, *sequences: Array) -> Array:
        return _errors_and_advantages(discount, leak, ceilings, sequences)[1]

    advantage = jax.vmap(advantages)(leak, reward, log_ratio, value, next_value)
    return boundaries.discounted_by_time(batch, discount, advantage)


def retrace(
    discount: Number, *, lambda_: Number = 1.0, ratio_ceiling: Number = math.inf
) -> Weights:
    """Actor-critic with Retrace(λ), w_t = γ^t min(π/μ, ρ̄) (G_t − V(s_t)), c_t = λ min(1, π/μ).

    G are the targets of `action_value_targets` with the traces c.

    Args:
        lambda_: λ in [0, 1].
        ratio_ceiling: ρ̄, the largest ratio in front of the advantage.

    Bias: biased off-policy: states are left to μ. With Q = Q^π, V = V^π and no ceiling
    `on_target_states` makes it unbiased for ∇J.

    References:
        Munos et al. (2016), section 3; as an actor-critic Wang et al., Sample Efficient
        Actor-Critic with Experience Replay (2017), eq. 4 and 7, here without ACER's correction of
        what ρ̄ cuts off.

    Example:
        >>> from pgjax import Estimator, terms
        >>> estimator = Estimator(retrace(0.99, lambda_=0.9), terms.score)
    """
    return _configure(_retrace, discount, lambda_, ratio_ceiling)


def _retrace(batch: Trajectory, log_prob: Array, **settings: Any) -> Array:
    trace = ratio_below(1.0, log_ratios(batch, log_prob))
    return _action_value_advantages("retrace", trace, batch, log_prob, **settings)


def tree_backup(
    discount: Number, *, lambda_: Number = 1.0, ratio_ceiling: Number = math.inf
) -> Weights:
    """Actor-critic with tree-backup(λ): `retrace` with the traces c_t = λ π(a_t|s_t).

    These traces need no μ; the ratio in front of the advantage does. Actions must be discrete,
    because a density π(a_t|s_t) can exceed one.

    Bias: as for `retrace`.

    References:
        Precup, Sutton & Singh (2000), section 3, as Munos et al. (2016), table 1, write it.

    Example:
        >>> from pgjax import Estimator, terms
        >>> estimator = Estimator(tree_backup(0.99), terms.score)
    """
    return _configure(_tree_backup, discount, lambda_, ratio_ceiling)


def _tree_backup(batch: Trajectory, log_prob: Array, **settings: Any) -> Array:
    trace = jnp.exp(log_prob)
    return _action_value_advantages("tree_backup", trace, batch, log_prob, **settings)


def _configure(
    function: Callable[..., Array], discount: Number, lambda_: Number, ratio_ceiling: Number
) -> Weights:
    return configured(
        function,
        **check_rates(discount=discount, lambda_=lambda_),
        ratio_ceiling=check_ceiling("ratio_ceiling", ratio_ceiling),
    )


def _action_value_advantages(
    name: str,
    trace: Array,
    batch: Trajectory,
    log_prob: Array,
    *,
    discount: Number,
    lambda_: Number,
    ratio_ceiling: Number,
) -> Array:
    """γ^t min(π/μ, ρ̄) (G_t − V(s_t)), with λ times the trace in the targets G."""
    check_scalars(discount=discount, lambda_=lambda_)
    value, next_value, _ = _read_critic(batch, name)
    action_value = boundaries.require_field(batch, "action_value", f"{name} needs")
    action_value = jnp.where(batch.mask, action_value, 0)
    log_ratio = log_ratios(batch, log_prob)
    reward = jnp.where(batch.mask, batch.reward, 0).astype(log_ratio.dtype)
    trace = jnp.asarray(lambda_, log_ratio.dtype) * trace.astype(log_ratio.dtype)
    trace = jnp.where(boundaries.is_first_step(batch), 0, trace)
    targets = jax.vmap(partial(action_value_targets, discount=discount))
    target = targets(reward, trace=trace, action_value=action_value, next_value=next_value)
    advantage = ratio_below(ratio_ceiling, log_ratio) * (target - value)
    return boundaries.discounted_by_time(batch, discount, advantage)


def _errors_and_advantages(
    discount: ScalarOrSequence,
    lambda_: ScalarOrSequence,
    ceilings: tuple[Number, Number],
    sequences: tuple[Array, ...],
) -> tuple[Array, Array]:
    """V-trace's target less V, and the advantage of the action, [T] each.

    `sequences` are the reward, the log-ratio, V(s_t) and V(s_{t+1}), [T] each.
    """
    reward, log_ratio, value, next_value = sequences
    log_ratio = check_sequence("log_ratio", log_ratio, ("reward", reward))
    lambda_ = check_scalar_or_sequence("lambda_", lambda_, ("reward", reward))
    dtype = accumulation_dtype(reward)
    surprise = td_errors(reward.astype(dtype), discount, value, next_value)
    ratio, trace = (ratio_below(ceiling, log_ratio.astype(dtype)) for ceiling in ceilings)
    leak = jnp.asarray(discount).astype(dtype) * jnp.asarray(lambda_).astype(dtype)
    error = _accumulate_errors(leak * trace, ratio * surprise)
    following = jnp.pad(error[1:], (0, min(1, error.size)))
    return error, ratio * (surprise + leak * following)


def _accumulate_errors(slope: Array, error: Array) -> Array:
    """Σ_{k≥t} slope_t ⋯ slope_{k−1} error_k; zero where only the product has overflowed."""
    total = reverse_affine(slope, error, jnp.zeros((), error.dtype))
    is_given = jnp.all(jnp.isfinite(slope)) & jnp.all(jnp.isfinite(error))
    return jnp.where(is_given & ~jnp.isfinite(total), 0, total)


def _read_critic(batch: Trajectory, name: str) -> tuple[Array, Array, Array]:
    """V(s_t), V of the next state in its episode, and whether the episode goes on, each [N, T]."""
    dtype = accumulation_dtype(batch.reward)
    value = boundaries.require_field(batch, "value", f"{name} needs")
    value = jnp.where(batch.mask, value, 0).astype(dtype)
    following = boundaries.following_values(batch).astype(dtype)
    return value, following, boundaries.same_episode_next(batch)
