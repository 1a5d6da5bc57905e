"""Advantages of tokens: the credit of each answer, or of each token, as weights.

Weights are functions (batch, log_prob [N, T]) -> [N, T], before any aggregation. R_i is the sum of
the rewards of answer i, and unless a function says otherwise all its tokens get the same advantage.
Sums and means over "the group" are over the answers to the same prompt, `batch.group`, the answer
itself included. A ValueError is raised if a group is needed and `batch.group` is None, or if a
group is known to be too small; a group of one that is only known at run time gets the weight zero.

To baseline and credit as in `pgjax.weights` is the same: any of its functions may stand here.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.baselines import group_deviation, group_leave_one_out, group_mean
from pgjax.baselines.groups import deviation
from pgjax.core.recurrence import accumulation_dtype
from pgjax.core.validation import check_at_least, check_positive, check_rates, check_scalars
from pgjax.records import configured
from pgjax.returns import discounted_returns, generalized_advantages
from pgjax.tokens.groups import groups_of
from pgjax.types import Number, Trajectory, Weights


def outcome(batch: Trajectory, log_prob: Array) -> Array:
    """The outcome itself, R_i: no baseline.

    Bias: none.
    """
    return _everywhere(batch, _outcomes(batch))


def less_value(batch: Trajectory, log_prob: Array) -> Array:
    """R_i − V_it, with `batch.value` of a critic, or the reward of the greedy answer: ReMax.

    Raises:
        ValueError: if `batch.value` is None.

    Bias: none, if the value depends on nothing that follows it.

    References:
        Li et al., ReMax (2024), algorithm 1.
    """
    return _everywhere(batch, _outcomes(batch)) - _values(batch)


def less_group_mean(batch: Trajectory, log_prob: Array) -> Array:
    """R_i less the group's mean, its own R_i included: Dr. GRPO.

    Bias: a factor (G−1)/G in groups of G.

    References:
        Liu et al., Understanding R1-Zero-Like Training (2025), section 3.2.
    """
    return _everywhere(batch, _centred(batch))


def leave_one_out(batch: Trajectory, log_prob: Array) -> Array:
    """R_i less the mean of the *others* in its group: RLOO.

    Bias: none.

    References:
        Kool, van Hoof & Welling (2019), eq. 8; Ahmadian et al., Back to Basics (2024), eq. 8.
    """
    total = _outcomes(batch)
    return _everywhere(batch, total - group_leave_one_out(groups_of(batch, 2))(batch, total))


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
    if degrees not in (0, 1) or isinstance(degrees, bool):
        raise ValueError(f"degrees must be 0 or 1, got {degrees!r}; 1 is Bessel's correction")
    epsilon = check_at_least("epsilon", epsilon, 0.0, "a deviation is not negative")
    return configured(_standardized, epsilon=epsilon, degrees=degrees)


def _standardized(batch: Trajectory, log_prob: Array, *, epsilon: Number, degrees: int) -> Array:
    check_scalars(epsilon=epsilon)
    groups, total = groups_of(batch, 2), _outcomes(batch)
    if degrees == 1:
        scale = group_deviation(groups, epsilon=epsilon)(batch, total)
    else:
        members = groups.total(jnp.ones_like(total))
        squares = groups.total((total - groups.total(total) / members) ** 2)
        magnitude = jnp.sqrt(groups.total(total**2) / members)
        scale = deviation(squares, members, magnitude, epsilon)
    return _everywhere(batch, _centred(batch) / scale)


def scaled_by_batch(epsilon: Number = 1e-4) -> Weights:
    """R_i less its group's mean, over the standard deviation of all the batch's rewards, plus ε.

    Args:
        epsilon: ε ≥ 0, in units of reward.

    Raises:
        ValueError: if ε is negative.

    Bias: a factor (G−1)/G, and the batch's own deviation in the divisor: prompts keep their shares.

    References:
        Liu et al., Tricks or Traps? A Deep Dive into RL for LLM Reasoning (2025), section 4.1.2;
        "batch" in TRL.
    """
    epsilon = check_at_least("epsilon", epsilon, 0.0, "a deviation is not negative")
    return configured(_scaled_by_batch, epsilon=epsilon)


def _scaled_by_batch(batch: Trajectory, log_prob: Array, *, epsilon: Number) -> Array:
    total, live = _outcomes(batch), jnp.any(batch.mask, axis=1, keepdims=True)
    number = jnp.sum(live, dtype=total.dtype)
    central = jnp.where(live, total - jnp.sum(total) / number, 0)
    magnitude = jnp.sqrt(jnp.sum(total**2) / number)
    scale = deviation(jnp.sum(central**2), number - 1, magnitude, epsilon)
    return _everywhere(batch, _centred(batch) / scale)


def less_mean_by_length(batch: Trajectory, log_prob: Array) -> Array:
    """R_i − Σ_j L_j R_j / Σ_j L_j over the group: the baseline of least variance, roughly: OPO.

    Bias: biased, as the answer's own reward and length are in its baseline; it fades as 1/G.

    References:
        Hao et al., On-Policy RL with Optimal Reward Baseline (2025), eq. 8.
    """
    groups, total = groups_of(batch, 2), _outcomes(batch)
    length = jnp.sum(batch.mask, axis=1, keepdims=True, dtype=total.dtype)
    mean = groups.total(length * total) / jnp.maximum(groups.total(length), 1)
    return _everywhere(batch, total - mean)


def relative_to_mean(batch: Trajectory, log_prob: Array) -> Array:
    """(R_i − mean) / mean over the group, and zero where the mean is zero: MaxRL.

    Bias: biased for ∇J on purpose. For a prompt with rewards 0 and 1 and success probability p its
        mean is Σ_{k=1}^{G−1} (1−p)^{k−1} ∇p, the start of the series of ∇log p.

    References:
        Tajwar et al., Maximum Likelihood Reinforcement Learning (2026).
    """
    groups, total = groups_of(batch, 2), _outcomes(batch)
    mean = groups.total(total) / jnp.maximum(_members(batch), 1)
    return _everywhere(
        batch, jnp.where(mean == 0, 0, (total - mean) / jnp.where(mean == 0, 1, mean))
    )


def of_informative_groups(batch: Trajectory, log_prob: Array) -> Array:
    """α (R_i − mean) with α = answers / answers of groups whose rewards differ: GPG.

    Bias: a factor (G−1)/G, and α, which depends on the batch.

    References:
        Chu et al., GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning
        (2025), eq. 7.
    """
    total, central, groups = _outcomes(batch), _centred(batch), groups_of(batch, 2)
    live = jnp.any(batch.mask, axis=1, keepdims=True)
    informs = live & (groups.total(jnp.abs(central)) > 0)
    share = jnp.sum(live, dtype=total.dtype) / jnp.maximum(jnp.sum(informs, dtype=total.dtype), 1)
    return _everywhere(batch, share * central)


def best_of(k: int) -> Weights:
    """Each answer's share in the best of k, G C(G,k)^{-1} Σ_{S∋i} max_S R: PKPO, and pass@k.

    The sum is over the sets S of k answers of the group that contain answer i.

    Args:
        k: at least one, and at most the size of a group.

    Raises:
        TypeError: if k is not an integer.
        ValueError: if k is below one; at use, if a group is known to have fewer answers.

    Bias: none for ∇E[max of k rewards], the gradient of pass@k if rewards are 0 and 1.

    References:
        Walder & Karkhanis, Pass@K Policy Optimization (2025), theorem 2, without its baselines.
    """
    return configured(_best_of, k=check_positive("k", k))


def _best_of(batch: Trajectory, log_prob: Array, *, k: int) -> Array:
    groups_of(batch, k)
    return _everywhere(batch, _shares_in_best(batch, k))


def best_of_less_mean(k: int) -> Weights:
    """`best_of`, less its mean over the group.

    Args:
        k: at least one, and at most the size of a group.

    Raises:
        TypeError: if k is not an integer.
        ValueError: if k is below one; at use, if a group is known to have fewer answers.

    Bias: biased for ∇E[max of k rewards] by the answer's own share in the mean.

    References:
        Walder & Karkhanis, Pass@K Policy Optimization (2025), as in their examples.
    """
    return configured(_best_of_less_mean, k=check_positive("k", k))


def _best_of_less_mean(batch: Trajectory, log_prob: Array, *, k: int) -> Array:
    share, groups = _shares_in_best(batch, k), groups_of(batch, k)
    return _everywhere(batch, share - groups.total(share) / jnp.maximum(_members(batch), 1))


def reward_to_go(discount: Number = 1.0) -> Weights:
    """Σ_{k≥t} γ^{k−t} r_k over live tokens: what follows the token.

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
        batch.mask, lambda r: discounted_returns(r, jnp.asarray(discount, r.dtype)), _rewards(batch)
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

    reward = _rewards(batch)
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


def _rewards(batch: Trajectory) -> Array:
    """[N, T] in the accumulation dtype, zero at dead tokens."""
    return jnp.where(batch.mask, batch.reward, 0).astype(accumulation_dtype(batch.reward))


def _outcomes(batch: Trajectory) -> Array:
    """[N, 1]."""
    return jnp.sum(_rewards(batch), axis=1, keepdims=True)


def _values(batch: Trajectory) -> Array:
    if batch.value is None:
        raise ValueError(
            "batch.value must hold a critic's values, or one number for each answer, got None; "
            "tokens.Batch(..., value=...) records them"
        )
    return jnp.where(batch.mask, batch.value, 0)


def _members(batch: Trajectory) -> Array:
    """[N, 1] how many answers each row's group has."""
    total = _outcomes(batch)
    return groups_of(batch).total(jnp.ones_like(total))


def _centred(batch: Trajectory) -> Array:
    total = _outcomes(batch)
    return total - group_mean(groups_of(batch, 2))(batch, total)


def _everywhere(batch: Trajectory, credit: Array) -> Array:
    """[N, 1] -> [N, T]."""
    return jnp.broadcast_to(credit, batch.mask.shape)


def _shares_in_best(batch: Trajectory, k: int) -> Array:
    """[N, 1] G C(G,k)^{-1} Σ_{S∋i} max_S R.

    Answers are ranked within their group. As the best of a set, answer j of rank r beats k − 1 of
    the r answers below it; of these sets, C(r−1, k−2) contain a given lower answer i.
    """
    reward = _outcomes(batch)[:, 0]
    N = len(reward)
    index = jnp.arange(N)
    same = groups_of(batch).total(jnp.eye(N, dtype=reward.dtype)) > 0  # [i, j]
    same = same & jnp.any(batch.mask, axis=1)[None]
    below = (reward[None] < reward[:, None]) | (
        (reward[None] == reward[:, None]) & (index[None] < index[:, None])
    )  # [i, j]: j is below i
    rank = jnp.sum(same & below, axis=1).astype(reward.dtype)
    own = _choose(rank, k - 1) * reward
    above = (same & below).T  # [i, j]: j is above i
    others = above.astype(reward.dtype) @ (_choose(rank - 1, k - 2) * reward)
    number = jnp.sum(same, axis=1).astype(reward.dtype)
    sets = _choose(number, k)
    share = number * (own + others) / jnp.where(sets > 0, sets, 1)
    return jnp.where(sets > 0, share, 0)[:, None]


def _choose(n: Array, k: int) -> Array:
    """The binomial coefficient of whole numbers n, zero where n < k; k is static."""
    if k < 0:
        return jnp.zeros_like(n)
    result = jnp.ones_like(n)
    for i in range(k):
        result = result * jnp.maximum(n - i, 0) / (i + 1)
    return result
