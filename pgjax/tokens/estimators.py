"""The policy gradients that language models are trained with, as compositions.

Each is advantage × aggregation × term, and its settings are the differences between the
implementations that people use. Those that are common to all are

- aggregation: how tokens are averaged, from `pgjax.tokens.aggregation`; the paper's by default;
- kl: a penalty towards `batch.reference_log_prob`, from `pgjax.tokens.penalties`; none by default;
- correction: of a sampler that is not quite the policy, from `pgjax.tokens.corrections`.

Estimators by group read `batch.group`. A ValueError is raised if a setting is outside its range
and, at use, if the batch lacks what is read. "On-policy" means that the tokens were drawn from the
policy of the parameters to improve: the first update of a batch.

All gradients are for E[R], less β KL where there is a penalty. The exact bias of each on small
language models is in the certificate of tokens.
"""

import jax.numpy as jnp
from jax import Array

from pgjax import terms
from pgjax.estimators import Estimator
from pgjax.records import configured
from pgjax.tokens import advantages
from pgjax.tokens.aggregation import sequence_mean, sequence_sum, token_mean
from pgjax.tokens.objective import Aggregation
from pgjax.tokens.penalties import LossPenalty, RewardPenalty, penalized, reference_of
from pgjax.types import Number, Term, Trajectory, Weights, check_part
from pgjax.weights import whitened

Penalty = RewardPenalty | LossPenalty


def estimator(
    advantage: Weights,
    aggregation: Aggregation,
    term: Term,
    *,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """Your own composition: weights = (advantage − penalty) × correction × aggregation, and a term.

    Args:
        advantage: (batch, log_prob) -> [N, T], from `pgjax.tokens.advantages` or `pgjax.weights`.
        aggregation: (batch) -> [N, T] or [N, 1].
        term: from `pgjax.terms`.

    Raises:
        TypeError: if a part is not a function of its arguments, or `kl` no penalty.

    Bias: that of its parts.

    Example:
        >>> from pgjax import terms, tokens
        >>> mine = tokens.estimator(
        ...     tokens.advantages.leave_one_out, tokens.sequence_sum, terms.score)
        >>> mine == tokens.rloo()
        True
    """
    if kl is not None and not isinstance(kl, RewardPenalty | LossPenalty):
        raise TypeError(
            f"kl must be a penalty of pgjax.tokens, got {kl!r}; tokens.kl_in_loss({kl!r}), say"
        )
    in_loss = isinstance(kl, LossPenalty)
    weights = configured(
        _token_weights,
        advantage=check_part("advantage", advantage, "weights"),
        aggregation=check_part("aggregation", aggregation, "aggregation"),
        charge=kl.charge if isinstance(kl, RewardPenalty) else None,
        correction=None if correction is None else check_part("correction", correction, "weights"),
        is_penalized=in_loss,
    )
    check_part("term", term, "term")
    return Estimator(weights, penalized(term, kl) if in_loss else term)


def _token_weights(
    batch: Trajectory,
    log_prob: Array,
    *,
    advantage: Weights,
    aggregation: Aggregation,
    charge: Weights | None,
    correction: Weights | None,
    is_penalized: bool,
) -> Array | tuple[Array, Array, Array]:
    credit = advantage(batch, log_prob)
    if charge is not None:
        credit = credit - charge(batch, log_prob)
    if correction is not None:
        credit = credit * correction(batch, log_prob)
    factor = jnp.broadcast_to(aggregation(batch), batch.mask.shape)
    if not is_penalized:
        return credit * factor
    return credit * factor, factor, reference_of(batch)


def reinforce(
    *,
    aggregation: Aggregation = sequence_sum,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """REINFORCE with the answer's outcome: ĝ = mean_i Σ_t ∇log π(a_t|s_t) R_i.

    Bias: none on-policy.

    References:
        Williams (1992).
    """
    return estimator(advantages.outcome, aggregation, terms.score, kl=kl, correction=correction)


def rloo(
    *,
    term: Term = terms.score,
    aggregation: Aggregation = sequence_sum,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """RLOO: the outcome less the mean of the other answers to the prompt.

    Args:
        term: `terms.ppo_clip(0.2)`, as in TRL, for several updates on a batch.

    Bias: none on-policy.

    References:
        Kool, van Hoof & Welling (2019); Ahmadian et al., Back to Basics (2024), eq. 8.
    """
    return estimator(advantages.leave_one_out, aggregation, term, kl=kl, correction=correction)


def remax(
    *,
    aggregation: Aggregation = sequence_sum,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """ReMax: the outcome less that of the greedy answer, recorded as `batch.value`.

    Bias: none on-policy.

    References:
        Li et al., ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for
        Aligning Large Language Models (2024), algorithm 1.
    """
    return estimator(advantages.less_value, aggregation, terms.score, kl=kl, correction=correction)


def opo(
    *,
    aggregation: Aggregation = sequence_sum,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """OPO: the outcome less the mean of the group by length.

    Bias: biased, about as 1/G: the answer's own reward is in its baseline.

    References:
        Hao et al., On-Policy RL with Optimal Reward Baseline (2025), eq. 8.
    """
    return estimator(
        advantages.less_mean_by_length, aggregation, terms.score, kl=kl, correction=correction
    )


def ppo(
    *,
    lambda_: Number = 0.95,
    discount: Number = 1.0,
    clip_low: Number = 0.2,
    clip_high: Number = 0.2,
    aggregation: Aggregation = token_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """PPO: GAE(λ) of the critic's `batch.value`, and the clipped ratio of each token.

    Args:
        lambda_: λ in [0, 1].
        discount: γ in [0, 1], for each token.
        clip_low: in [0, 1].
        clip_high: ≥ 0.

    Bias: biased by the aggregation; by the values, unless λ = 1; off-policy by ratios and clips.

    References:
        Schulman et al., Proximal Policy Optimization Algorithms (2017), eq. 7; Ouyang et al.,
        Training language models to follow instructions with human feedback (2022). Advantages are
        not whitened here: `pgjax.weights.whitened` does that.
    """
    return estimator(
        advantages.generalized_advantage(lambda_, discount=discount),
        aggregation,
        terms.asymmetric_clip(clip_low, clip_high),
        kl=kl,
        correction=correction,
    )


def grpo(
    *,
    epsilon: Number = 1e-4,
    degrees: int = 1,
    clip_low: Number = 0.2,
    clip_high: Number = 0.2,
    aggregation: Aggregation = sequence_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """GRPO: (R_i − mean) / (deviation + ε) in the group, the clipped ratio, the mean of means.

    Args:
        epsilon: ε ≥ 0, in units of reward; 1e-4 in TRL, 1e-6 in verl.
        degrees: 1 divides the group's squares by G − 1, 0 by G.
        clip_low: in [0, 1].
        clip_high: ≥ 0.
        kl: the paper's is `kl_in_loss(0.04)`.

    Bias: biased, in direction too: lengths, the group's own deviation, own reward in the mean.

    References:
        Shao et al., DeepSeekMath (2024), eq. 3 and section 4.1.2.

    Example:
        >>> from pgjax import tokens
        >>> estimator = tokens.grpo(epsilon=1e-6, kl=tokens.kl_in_loss(0.04))
    """
    return estimator(
        advantages.standardized(epsilon, degrees=degrees),
        aggregation,
        terms.asymmetric_clip(clip_low, clip_high),
        kl=kl,
        correction=correction,
    )


def dr_grpo(
    *,
    clip_low: Number = 0.2,
    clip_high: Number = 0.2,
    aggregation: Aggregation = sequence_sum,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """Dr. GRPO: R_i less the group's mean, the clipped ratio, and no division by lengths.

    Args:
        clip_low: in [0, 1].
        clip_high: ≥ 0.
        aggregation: the paper's code divides by a constant, `constant_length(...)`.

    Bias: on-policy a factor (G−1)/G only.

    References:
        Liu et al., Understanding R1-Zero-Like Training: A Critical Perspective (2025), section 3.2.
    """
    return estimator(
        advantages.less_group_mean,
        aggregation,
        terms.asymmetric_clip(clip_low, clip_high),
        kl=kl,
        correction=correction,
    )


def dapo(
    *,
    epsilon: Number = 1e-4,
    degrees: int = 1,
    clip_low: Number = 0.2,
    clip_high: Number = 0.28,
    aggregation: Aggregation = token_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """DAPO: GRPO with a wider upper clip and the mean over all tokens of the batch.

    Its dynamic sampling, which draws new prompts for groups without signal, happens before.

    Args:
        epsilon: ε ≥ 0, in units of reward.
        degrees: 1 divides the group's squares by G − 1, 0 by G.
        clip_low: in [0, 1].
        clip_high: ≥ 0.

    Bias: biased: the number of tokens, the group's own deviation, own reward in the mean.

    References:
        Yu et al., DAPO: An Open-Source LLM Reinforcement Learning System at Scale (2025), eq. 8.
    """
    return grpo(
        epsilon=epsilon,
        degrees=degrees,
        clip_low=clip_low,
        clip_high=clip_high,
        aggregation=aggregation,
        kl=kl,
        correction=correction,
    )


def lite_ppo(
    *,
    epsilon: Number = 1e-4,
    clip_low: Number = 0.2,
    clip_high: Number = 0.2,
    aggregation: Aggregation = token_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """Lite PPO: R_i less the group's mean, over the deviation of the whole batch's rewards.

    Args:
        epsilon: ε ≥ 0, in units of reward.
        clip_low: in [0, 1].
        clip_high: ≥ 0.

    Bias: biased: the number of tokens, the batch's own deviation, own reward in the mean.

    References:
        Liu et al., Tricks or Traps? A Deep Dive into RL for LLM Reasoning (2025).
    """
    return estimator(
        advantages.scaled_by_batch(epsilon),
        aggregation,
        terms.asymmetric_clip(clip_low, clip_high),
        kl=kl,
        correction=correction,
    )


def reinforce_plus_plus(
    *,
    epsilon: Number = 1e-8,
    clip_low: Number = 0.2,
    clip_high: Number = 0.2,
    aggregation: Aggregation = token_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """REINFORCE++: rewards to go, a penalty in the reward included, whitened over the batch.

    Args:
        epsilon: ε ≥ 0, added to the deviation of the batch's tokens.
        clip_low: in [0, 1].
        clip_high: ≥ 0.
        kl: the paper's is `kl_in_reward(...)`; it is charged before whitening.

    Bias: biased, in direction too: mean and deviation of the batch's own tokens, and their number.

    References:
        Hu, Liu & Shen, REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global
        Advantage Normalization (2025).
    """
    credit = advantages.reward_to_go()
    if isinstance(kl, RewardPenalty):
        credit, kl = configured(_charged, advantage=credit, charge=kl.charge), None
    return estimator(
        whitened(credit, epsilon=epsilon),
        aggregation,
        terms.asymmetric_clip(clip_low, clip_high),
        kl=kl,
        correction=correction,
    )


def _charged(batch: Trajectory, log_prob: Array, *, advantage: Weights, charge: Weights) -> Array:
    return advantage(batch, log_prob) - charge(batch, log_prob)


def reinforce_plus_plus_baseline(
    *,
    epsilon: Number = 1e-8,
    clip_low: Number = 0.2,
    clip_high: Number = 0.2,
    aggregation: Aggregation = token_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """REINFORCE++ with baseline: R_i less the group's mean, then whitened over the batch's tokens.

    Args:
        epsilon: ε ≥ 0, added to the deviation of the batch's tokens.
        clip_low: in [0, 1].
        clip_high: ≥ 0.
        kl: the paper's is `kl_in_loss(..., "k2")`.

    Bias: biased: own reward in the mean, mean and deviation of the batch's tokens, their number.

    References:
        Hu, Liu & Shen (2025), as for `reinforce_plus_plus`.
    """
    return estimator(
        whitened(advantages.less_group_mean, epsilon=epsilon),
        aggregation,
        terms.asymmetric_clip(clip_low, clip_high),
        kl=kl,
        correction=correction,
    )


def gspo(
    *,
    clip_low: Number = 3e-4,
    clip_high: Number = 4e-4,
    epsilon: Number = 1e-4,
    aggregation: Aggregation = sequence_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """GSPO: GRPO with one ratio for an answer, the geometric mean of its tokens' ratios, clipped.

    Args:
        clip_low: in [0, 1], of the geometric mean.
        clip_high: ≥ 0.
        epsilon: ε ≥ 0, in units of reward.

    Bias: on-policy GRPO's; off-policy also by a ratio that is not the answer's.

    References:
        Zheng et al., Group Sequence Policy Optimization (2025), eq. 5 to 7.
    """
    return estimator(
        advantages.standardized(epsilon),
        aggregation,
        terms.sequence_clip(clip_low, clip_high),
        kl=kl,
        correction=correction,
    )


def gspo_token(
    *,
    clip_low: Number = 3e-4,
    clip_high: Number = 4e-4,
    epsilon: Number = 1e-4,
    aggregation: Aggregation = sequence_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """GSPO-token: GSPO that lets each token have its own advantage; equal to it if they are equal.

    Args:
        clip_low: in [0, 1], of the geometric mean.
        clip_high: ≥ 0.
        epsilon: ε ≥ 0, in units of reward.

    Bias: as for `gspo`.

    References:
        Zheng et al., Group Sequence Policy Optimization (2025), eq. 13 and 14.
    """
    return estimator(
        advantages.standardized(epsilon),
        aggregation,
        terms.sequence_clip_by_token(clip_low, clip_high),
        kl=kl,
        correction=correction,
    )


def cispo(
    *,
    ceiling: Number = 5.0,
    floor: Number = 0.0,
    epsilon: Number = 1e-4,
    aggregation: Aggregation = token_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """CISPO: every token keeps its gradient, times its ratio held in [floor, ceiling].

    Args:
        ceiling: the largest ratio *itself*. The paper writes 1 + ε_high and leaves ε_high open;
            verl, NeMo-RL and SkyRL take ε_high, TRL takes the ceiling, 5 as recommended there.
        floor: the smallest ratio.
        epsilon: ε ≥ 0, in units of reward.

    Bias: on-policy DAPO's, if floor ≤ 1 ≤ ceiling.

    References:
        MiniMax, MiniMax-M1 (2025), eq. 4 and 5; Khatri et al., The Art of Scaling Reinforcement
        Learning Compute for LLMs (2025).
    """
    return estimator(
        advantages.standardized(epsilon),
        aggregation,
        terms.truncated_ratio(ceiling, floor=floor),
        kl=kl,
        correction=correction,
    )


def gmpo(
    *,
    width: Number = 0.4,
    epsilon: Number = 1e-4,
    aggregation: Aggregation = sequence_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """GMPO: the geometric mean of an answer's ratios, of which each is clipped first.

    Args:
        width: ≥ 0, of a token's log-ratio in nats.
        epsilon: ε ≥ 0, in units of reward.

    Bias: on-policy GRPO's; off-policy as `gspo`.

    References:
        Zhao et al., Geometric-Mean Policy Optimization (2025), eq. 4.
    """
    return estimator(
        advantages.standardized(epsilon),
        aggregation,
        terms.geometric_clip(width),
        kl=kl,
        correction=correction,
    )


def sapo(
    *,
    positive: Number = 1.0,
    negative: Number = 1.05,
    epsilon: Number = 1e-4,
    aggregation: Aggregation = sequence_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """SAPO: a sigmoid of the ratio in place of the clip.

    Args:
        positive: τ > 0 of tokens with a positive advantage.
        negative: τ > 0 of tokens with a negative one.
        epsilon: ε ≥ 0, in units of reward.

    Bias: on-policy GRPO's.

    References:
        Gao et al., Soft Adaptive Policy Optimization (2025).
    """
    return estimator(
        advantages.standardized(epsilon),
        aggregation,
        terms.sigmoid_gate(positive, negative),
        kl=kl,
        correction=correction,
    )


def luspo(
    *,
    clip_low: Number = 3e-4,
    clip_high: Number = 4e-4,
    epsilon: Number = 1e-4,
    aggregation: Aggregation = sequence_sum,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """LUSPO: GSPO times the answer's length.

    Args:
        clip_low: in [0, 1], of the geometric mean.
        clip_high: ≥ 0.
        epsilon: ε ≥ 0, in units of reward.

    Bias: on-policy only the group's own deviation and mean; off-policy as `gspo`.

    References:
        Liu et al., Length-Unbiased Sequence Policy Optimization (2026); widths as in `gspo`.
    """
    return estimator(
        advantages.standardized(epsilon),
        aggregation,
        terms.sequence_clip(clip_low, clip_high),
        kl=kl,
        correction=correction,
    )


def vespo(
    *,
    positive: tuple[Number, Number] = (2.0, 3.0),
    negative: tuple[Number, Number] = (3.0, 2.0),
    epsilon: Number = 1e-4,
    aggregation: Aggregation = token_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """VESPO: a smooth weight of the answer's whole ratio in place of the clip.

    Args:
        positive: (k, λ) of answers with a positive advantage.
        negative: (k, λ) of answers with a negative one.
        epsilon: ε ≥ 0, in units of reward.

    Bias: on-policy DAPO's.

    References:
        Shen et al., VESPO (2026); settings as in TRL.
    """
    return estimator(
        advantages.standardized(epsilon),
        aggregation,
        terms.gamma_gate(positive, negative),
        kl=kl,
        correction=correction,
    )


def dppo(
    low: Number,
    high: Number,
    *,
    ceiling: Number = 20.0,
    aggregation: Aggregation = token_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """DPPO: tokens whose probability has moved too far are left out, whatever their ratio.

    Args:
        low: in [0, 1], how far a probability may have fallen under a negative advantage.
        high: in [0, 1], how far it may have risen under a positive one.
        ceiling: ≥ 0, of the ratio.

    Bias: on-policy a factor (G−1)/G, and the number of tokens.

    References:
        Qi et al., Rethinking the Trust Region in LLM Reinforcement Learning (2026), with total
        variation; the advantage is the outcome less the group's mean.
    """
    return estimator(
        advantages.less_group_mean,
        aggregation,
        terms.divergence_mask(low, high, ceiling=ceiling),
        kl=kl,
        correction=correction,
    )


def pkpo(
    k: int,
    *,
    aggregation: Aggregation = sequence_sum,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """PKPO: the gradient of the best of k answers; pass@k, if rewards are 0 and 1.

    Args:
        k: at least one, and at most the size of a group.

    Bias: on-policy none for ∇E[max of k rewards].

    References:
        Walder & Karkhanis, Pass@K Policy Optimization (2025), theorem 2, without its baselines.
    """
    return estimator(advantages.best_of(k), aggregation, terms.score, kl=kl, correction=correction)


def maxrl(
    *,
    aggregation: Aggregation = sequence_sum,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """MaxRL: (R_i − mean) / mean in the group, towards the gradient of the log-likelihood.

    Bias: biased for ∇J on purpose; see `advantages.relative_to_mean` for what it estimates.

    References:
        Tajwar et al., Maximum Likelihood Reinforcement Learning (2026).
    """
    return estimator(
        advantages.relative_to_mean, aggregation, terms.score, kl=kl, correction=correction
    )


def gpg(
    *,
    aggregation: Aggregation = token_mean,
    kl: Penalty | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """GPG: R_i less the group's mean, larger where many groups have no signal; no ratio, no clip.

    Bias: biased: own reward in the mean, the share of informative groups, the number of tokens.

    References:
        Chu et al., GPG (2025), eq. 7.
    """
    return estimator(
        advantages.of_informative_groups, aggregation, terms.score, kl=kl, correction=correction
    )
