"""Advantages of tokens: the credit of each answer, or of each token, as weights.

Weights are functions (batch, log_prob [N, T]) -> [N, T], before any aggregation. R_i is the sum of
the rewards of answer i, and unless a function says otherwise all its tokens get the same advantage.
Sums and means over "the group" are over the answers to the same prompt, `batch.group`, the answer
itself included. A ValueError is raised if a group is needed and `batch.group` is None, or if a
group is known to be too small; a group of one that is only known at run time gets the weight zero.

Any function of `pgjax.weights` may be used in place of these too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.baselines import group_deviation, group_leave_one_out, group_mean
from pgjax.baselines.groups import deviation
from pgjax.core.validation import check_at_least, check_rates, check_scalars
from pgjax.records import configured
from pgjax.returns import discounted_returns, generalized_advantages
from pgjax.tokens.best_of import best_of as best_of
from pgjax.tokens.best_of import best_of_leave_one_out as best_of_leave_one_out
from pgjax.tokens.best_of import best_of_less_mean as best_of_less_mean
from pgjax.tokens.best_of import gain_in_best as gain_in_best
from pgjax.tokens.groups import groups_of
from pgjax.tokens.outcomes import outcomes_of, rewards_of, to_tokens
from pgjax.types import Number, Trajectory, Weights
from pgjax.weights.normalised import check_degrees


def outcome(batch: Trajectory, log_prob: Array) -> Array:
    """The outcome itself, R_i: no baseline.

    Bias: none.
    """
    return to_tokens(batch, outcomes_of(batch))


def less_value(batch: Trajectory, log_prob: Array) -> Array:
    """R_i − V_it, with `batch.value` of a critic, or the reward of the greedy answer: ReMax.

    Raises:
        ValueError: if `batch.value` is None.

    Bias: none, if the value depends on nothing that follows it.

    References:
        Li et al., ReMax (2024), algorithm 1.
    """
    return to_tokens(batch, outcomes_of(batch)) - _values(batch)


def less_group_mean(batch: Trajectory, log_prob: Array) -> Array:
    """R_i less the group's mean, its own R_i included: Dr. GRPO.

    Bias: a factor (G−1)/G in groups of G.

    References:
        Liu et al., Understanding R1-Zero-Like Training (2025), section 3.2.
    """
    return to_tokens(batch, _centred(batch))


def leave_one_out(batch: Trajectory, log_prob: Array) -> Array:
    """R_i less the mean of the *others* in its group: RLOO.

    Bias: none.

    References:
        Kool, van Hoof & Welling (2019), eq. 8; Ahmadian et al., Back to Basics (2024), eq. 8.
    """
    total = outcomes_of(batch)
    return to_tokens(batch, total - group_leave_one_out(groups_of(batch, 2))(batch, total))


def standardized(epsilon: Number = 1e-4, *, degrees: int = 1) -> Weights:
    """(R_i − mean) / (standard deviation + ε) in the group: GRPO.

    Args:
        epsilon: ε ≥ 0, in units of reward; 1e-4 in TRL, 1e-6 in verl and Tunix.
        degrees: subtracted from G in the divisor of the variance: 1 is Bessel's correction, as
            `torch.std` has it, and 0 is NumPy's.

    Raises:
        ValueError: if ε is negative, or `degrees` is neither 0 nor 1.

    Bias: biased: the group's own deviation is in the divisor, and prompts whose answers are nearly
        all right, or all wrong, count for more. A group whose rewards agree gets zero.

    References:
        Shao et al., DeepSeekMath (2024), section 4.1.2.
    """
    epsilon = check_at_least("epsilon", epsilon, 0.0, "a deviation is not negative")
    return configured(_standardized, epsilon=epsilon, degrees=check_degrees(degrees))


def _standardized(batch: Trajectory, log_prob: Array, *, epsilon: Number, degrees: int) -> Array:
    check_scalars(epsilon=epsilon)
    groups, total = groups_of(batch, 2), outcomes_of(batch)
    if degrees == 1:
        scale = group_deviation(groups, epsilon=epsilon)(batch, total)
    else:
        members = groups.total(jnp.ones_like(total))
        squares = groups.total((total - groups.total(total) / members) ** 2)
        magnitude = jnp.sqrt(groups.total(total**2) / members)
        scale = deviation(squares, members, magnitude, epsilon)
    return to_tokens(batch, _centred(batch) / scale)


def scaled_by_batch(epsilon: Number = 1e-4, *, degrees: int = 1) -> Weights:
    """R_i less its group's mean, over the standard deviation of all the batch's rewards, plus ε.

    Args:
        epsilon: ε ≥ 0, in units of reward.
        degrees: 1 divides the squares by the number of answers less one, 0 by their number.

    Raises:
        ValueError: if ε is negative, or `degrees` is neither 0 nor 1.

    Bias: a factor (G−1)/G, and the batch's own deviation in the divisor. The same divisor for all
        prompts leaves their relative weights as they are.

    References:
        Liu et al., Tricks or Traps? A Deep Dive into RL for LLM Reasoning (2025), section 4.1.2;
        "batch" in TRL.
    """
    epsilon = check_at_least("epsilon", epsilon, 0.0, "a deviation is not negative")
    return configured(_scaled_by_batch, epsilon=epsilon, degrees=check_degrees(degrees))


def _scaled_by_batch(batch: Trajectory, log_prob: Array, *, epsilon: Number, degrees: int) -> Array:
    total, live = outcomes_of(batch), jnp.any(batch.mask, axis=1, keepdims=True)
    number = jnp.sum(live, dtype=total.dtype)
    central = jnp.where(live, total - jnp.sum(total) / number, 0)
    magnitude = jnp.sqrt(jnp.sum(total**2) / number)
    scale = deviation(jnp.sum(central**2), number - degrees, magnitude, epsilon)
    return to_tokens(batch, _centred(batch) / scale)


def less_mean_by_length(batch: Trajectory, log_prob: Array) -> Array:
    """R_i − Σ_j L_j R_j / Σ_j L_j over the group, with L_j the number of live tokens: OPO.

    The baseline is roughly that of least variance.

    Bias: biased, because the baseline includes the answer's own reward and length. The bias falls
        as 1/G.

    References:
        Hao et al., On-Policy RL with Optimal Reward Baseline (2025), eq. 8.
    """
    groups, total = groups_of(batch, 2), outcomes_of(batch)
    length = jnp.sum(batch.mask, axis=1, keepdims=True, dtype=total.dtype)
    mean = groups.total(length * total) / jnp.maximum(groups.total(length), 1)
    return to_tokens(batch, total - mean)


def relative_to_mean(batch: Trajectory, log_prob: Array) -> Array:
    """(R_i − mean) / mean over the group, and zero where the mean is zero: MaxRL.

    Bias: biased for ∇J on purpose. For a prompt with rewards 0 and 1 and success probability p its
        mean is Σ_{k=1}^{G−1} (1−p)^{k−1} ∇p, the start of the series of ∇log p.

    References:
        Tajwar et al., Maximum Likelihood Reinforcement Learning (2026).
    """
    groups, total = groups_of(batch, 2), outcomes_of(batch)
    mean = groups.total(total) / jnp.maximum(_members(batch), 1)
    return to_tokens(batch, jnp.where(mean == 0, 0, (total - mean) / jnp.where(mean == 0, 1, mean)))


def of_informative_groups(batch: Trajectory, log_prob: Array) -> Array:
    """α (R_i − mean) with α = answers / answers of groups whose rewards differ: GPG.

    Bias: a factor (G−1)/G, and the factor α, which depends on the batch's own rewards.

    References:
        Chu et al., GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning
        (2025), eq. 7.
    """
    total, central, groups = outcomes_of(batch), _centred(batch), groups_of(batch, 2)
    live = jnp.any(batch.mask, axis=1, keepdims=True)
    informs = live & (groups.total(jnp.abs(central)) > 0)
    share = jnp.sum(live, dtype=total.dtype) / jnp.maximum(jnp.sum(informs, dtype=total.dtype), 1)
    return to_tokens(batch, share * central)


def reward_to_go(discount: Number = 1.0) -> Weights:
    """Σ_{k≥t} γ^{k−t} r_k over live tokens: the rewards from the token on.

    Args:
        discount: γ in [0, 1], for each live token.

    Raises:
        ValueError: if γ is outside [0, 1].

    Bias: none if γ = 1.
    """
    return configured(_reward_to_go, **check_rates(discount=discount))


def _reward_to_go(batch: Trajectory, log_prob: Array, *, discount: Number) -> Array:
    check_scalars(discount=discount)
    return along_live_tokens(
        batch.mask,
        lambda r: discounted_returns(r, jnp.asarray(discount, r.dtype)),
        rewards_of(batch),
    )


def generalized_advantage(lambda_: Number, *, discount: Number = 1.0) -> Weights:
    """GAE over live tokens with the critic's `batch.value`: PPO.

    The value after the last live token is zero.

    Args:
        lambda_: λ in [0, 1].
        discount: γ in [0, 1], for each live token.

    Raises:
        ValueError: if λ or γ is outside [0, 1]; at use, if `batch.value` is None.

    Bias: none if γ = 1, and λ = 1 or V is that of the policy.

    References:
        Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage Estimation
        (2016), eq. 16.
    """
    return configured(_generalized_advantage, **check_rates(lambda_=lambda_, discount=discount))


def _generalized_advantage(
    batch: Trajectory, log_prob: Array, *, lambda_: Number, discount: Number
) -> Array:
    check_scalars(lambda_=lambda_, discount=discount)

    def advantages(reward: Array, value: Array) -> Array:
        following = jnp.append(value[1:], jnp.zeros(1, value.dtype))
        gamma, fade = (jnp.asarray(rate, reward.dtype) for rate in (discount, lambda_))
        return generalized_advantages(reward, gamma, fade, value, following)

    reward = rewards_of(batch)
    return along_live_tokens(batch.mask, advantages, reward, _values(batch).astype(reward.dtype))


def along_live_tokens(mask: Array, function: Callable[..., Array], *arrays: Array) -> Array:
    """A function of sequences [T], applied to each row's live tokens as if they were adjacent.

    Args:
        mask: [N, T].
        function: of sequences that end in zeros, to a sequence.
        arrays: [N, T] each.

    Returns:
        [N, T], zero where the mask is false.
    """
    order = jnp.argsort(~mask, axis=1, stable=True)
    packed = (
        jnp.take_along_axis(jnp.where(mask, x, 0), order, axis=1).astype(x.dtype) for x in arrays
    )
    result = jax.vmap(function)(*packed)
    place = jnp.argsort(order, axis=1)
    return jnp.where(mask, jnp.take_along_axis(result, place, axis=1), 0)


def _values(batch: Trajectory) -> Array:
    if batch.value is None:
        raise ValueError(
            "batch.value must hold a critic's values, or one number for each answer, got None; "
            "tokens.Batch(..., value=...) records them"
        )
    return jnp.where(batch.mask, batch.value, 0)


def _members(batch: Trajectory) -> Array:
    """[N, 1] how many answers each row's group has."""
    total = outcomes_of(batch)
    return groups_of(batch).total(jnp.ones_like(total))


def _centred(batch: Trajectory) -> Array:
    total = outcomes_of(batch)
    return total - group_mean(groups_of(batch, 2))(batch, total)
