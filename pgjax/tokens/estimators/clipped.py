"""Estimators with a clipped ratio for each token."""

import math
from typing import Unpack

from pgjax import terms
from pgjax.estimators import Estimator
from pgjax.tokens import advantages
from pgjax.tokens.aggregation import sequence_mean, sequence_sum, token_mean
from pgjax.tokens.composition import Options, charged, estimator, in_loss
from pgjax.tokens.objective import Aggregation
from pgjax.types import Number
from pgjax.weights import whitened


def ppo(
    *,
    lambda_: Number = 0.95,
    discount: Number = 1.0,
    clip_low: Number = 0.2,
    clip_high: Number = 0.2,
    ceiling: Number = math.inf,
    aggregation: Aggregation = token_mean,
    **options: Unpack[Options],
) -> Estimator:
    """PPO: GAE(λ) of the critic's `batch.value`, and the clipped ratio of each token.

    Args:
        lambda_: λ in [0, 1].
        discount: γ in [0, 1], for each token.
        clip_low: in [0, 1].
        clip_high: ≥ 0.
        ceiling: of the ratio where the advantage is negative: the dual clip, 3 in verl, Tunix and
            NeMo-RL; "delta" in TRL. Not below 1 + `clip_high`.

    Bias: biased by the aggregation; by the values, unless λ = 1; off-policy by ratios and clips.

    References:
        Schulman et al., Proximal Policy Optimization Algorithms (2017), eq. 7; Ouyang et al.,
        Training language models to follow instructions with human feedback (2022). Advantages are
        not whitened here: `pgjax.weights.whitened` does that.
    """
    return estimator(
        advantages.generalized_advantage(lambda_, discount=discount),
        aggregation,
        terms.asymmetric_clip(clip_low, clip_high, ceiling=ceiling),
        **options,
    )


def grpo(
    *,
    epsilon: Number = 1e-4,
    degrees: int = 1,
    clip_low: Number = 0.2,
    clip_high: Number = 0.2,
    ceiling: Number = math.inf,
    aggregation: Aggregation = sequence_mean,
    **options: Unpack[Options],
) -> Estimator:
    """GRPO: (R_i − mean) / (deviation + ε) in the group, the clipped ratio, the mean of means.

    Args:
        epsilon: ε ≥ 0, in units of reward; 1e-4 in TRL, 1e-6 in verl.
        degrees: 1 divides the group's squares by G − 1, 0 by G.
        clip_low: in [0, 1].
        clip_high: ≥ 0.
        ceiling: of the ratio where the advantage is negative: the dual clip, 3 in verl, Tunix and
            NeMo-RL; "delta" in TRL. Not below 1 + `clip_high`.
        kl: the paper's is `kl_in_loss(0.04)`.

    Bias: biased, in direction too: by the lengths, by the group's own deviation, and by the
    answer's own reward in the mean.

    References:
        Shao et al., DeepSeekMath (2024), eq. 3 and section 4.1.2.

    Example:
        >>> from pgjax import tokens
        >>> estimator = tokens.grpo(epsilon=1e-6, kl=tokens.kl_in_loss(0.04))
    """
    return estimator(
        advantages.standardized(epsilon, degrees=degrees),
        aggregation,
        terms.asymmetric_clip(clip_low, clip_high, ceiling=ceiling),
        **options,
    )


def dr_grpo(
    *,
    clip_low: Number = 0.2,
    clip_high: Number = 0.2,
    ceiling: Number = math.inf,
    aggregation: Aggregation = sequence_sum,
    **options: Unpack[Options],
) -> Estimator:
    """Dr. GRPO: R_i less the group's mean, the clipped ratio, and no division by lengths.

    Args:
        clip_low: in [0, 1].
        clip_high: ≥ 0.
        ceiling: of the ratio where the advantage is negative: the dual clip, 3 in verl, Tunix and
            NeMo-RL; "delta" in TRL. Not below 1 + `clip_high`.
        aggregation: the paper's code divides by a constant, `constant_length(...)`.

    Bias: on-policy a factor (G−1)/G only.

    References:
        Liu et al., Understanding R1-Zero-Like Training: A Critical Perspective (2025), section 3.2.
    """
    return estimator(
        advantages.less_group_mean,
        aggregation,
        terms.asymmetric_clip(clip_low, clip_high, ceiling=ceiling),
        **options,
    )


def dapo(
    *,
    epsilon: Number = 1e-4,
    degrees: int = 1,
    clip_low: Number = 0.2,
    clip_high: Number = 0.28,
    ceiling: Number = math.inf,
    aggregation: Aggregation = token_mean,
    **options: Unpack[Options],
) -> Estimator:
    """DAPO: GRPO with a wider upper clip and the mean over all tokens of the batch.

    Its dynamic sampling, which draws new prompts for groups without signal, happens before.

    Args:
        epsilon: ε ≥ 0, in units of reward.
        degrees: 1 divides the group's squares by G − 1, 0 by G.
        clip_low: in [0, 1].
        clip_high: ≥ 0.
        ceiling: of the ratio where the advantage is negative: the dual clip, 3 in verl, Tunix and
            NeMo-RL; "delta" in TRL. Not below 1 + `clip_high`.

    Bias: biased by the number of tokens, the group's own deviation, and the answer's own reward in
    the mean.

    References:
        Yu et al., DAPO: An Open-Source LLM Reinforcement Learning System at Scale (2025), eq. 8.
    """
    return grpo(
        epsilon=epsilon,
        degrees=degrees,
        clip_low=clip_low,
        clip_high=clip_high,
        ceiling=ceiling,
        aggregation=aggregation,
        **options,
    )


def lite_ppo(
    *,
    epsilon: Number = 1e-4,
    degrees: int = 1,
    clip_low: Number = 0.2,
    clip_high: Number = 0.2,
    aggregation: Aggregation = token_mean,
    **options: Unpack[Options],
) -> Estimator:
    """Lite PPO: R_i less the group's mean, over the deviation of the whole batch's rewards.

    Args:
        epsilon: ε ≥ 0, in units of reward.
        degrees: 1 divides the squares by the number of answers less one, 0 by their number.
        clip_low: in [0, 1].
        clip_high: ≥ 0.

    Bias: biased by the number of tokens, the batch's own deviation, and the answer's own reward in
    the mean.

    References:
        Liu et al., Tricks or Traps? A Deep Dive into RL for LLM Reasoning (2025).
    """
    return estimator(
        advantages.scaled_by_batch(epsilon, degrees=degrees),
        aggregation,
        terms.asymmetric_clip(clip_low, clip_high),
        **options,
    )


def reinforce_plus_plus(
    *,
    epsilon: Number = 1e-8,
    degrees: int = 0,
    clip_low: Number = 0.2,
    clip_high: Number = 0.2,
    aggregation: Aggregation = token_mean,
    **options: Unpack[Options],
) -> Estimator:
    """REINFORCE++: rewards to go, a penalty in the reward included, whitened over the batch.

    Args:
        epsilon: ε ≥ 0, added to the deviation of the batch's tokens.
        degrees: 0 divides the squares by the number of tokens, 1 by one less, as verl does.
        clip_low: in [0, 1].
        clip_high: ≥ 0.
        kl: the paper's is `kl_in_reward(...)`; it is charged before whitening, as an entropy bonus
            in the reward is.

    Bias: biased, in direction too: by mean and deviation of the batch's own tokens, and by their
    number.

    References:
        Hu, Liu & Shen, REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global
        Advantage Normalization (2025).
    """
    credit = charged(advantages.reward_to_go(), options.get("kl"), options.get("entropy"))
    return estimator(
        whitened(credit, epsilon=epsilon, degrees=degrees),
        aggregation,
        terms.asymmetric_clip(clip_low, clip_high),
        **in_loss(options),
    )


def reinforce_plus_plus_baseline(
    *,
    epsilon: Number = 1e-8,
    degrees: int = 0,
    clip_low: Number = 0.2,
    clip_high: Number = 0.2,
    aggregation: Aggregation = token_mean,
    **options: Unpack[Options],
) -> Estimator:
    """REINFORCE++ with baseline: R_i less the group's mean, then whitened over the batch's tokens.

    Args:
        epsilon: ε ≥ 0, added to the deviation of the batch's tokens.
        degrees: 0 divides the squares by the number of tokens, 1 by one less, as verl does.
        clip_low: in [0, 1].
        clip_high: ≥ 0.
        kl: the paper's is `kl_in_loss(..., "k2")`.

    Bias: biased by the answer's own reward in the mean, by mean and deviation of the batch's
    tokens, and by their number.

    References:
        Hu, Liu & Shen (2025), as for `reinforce_plus_plus`.
    """
    return estimator(
        whitened(advantages.less_group_mean, epsilon=epsilon, degrees=degrees),
        aggregation,
        terms.asymmetric_clip(clip_low, clip_high),
        **options,
    )
