"""Estimators with a ratio for each token, and something gentler or stricter than a clip."""

from typing import Unpack

from pgjax import terms
from pgjax.core.validation import check_at_least, check_unit_interval
from pgjax.estimators import Estimator
from pgjax.tokens import advantages
from pgjax.tokens.aggregation import sequence_mean, token_mean
from pgjax.tokens.composition import Options, estimator
from pgjax.tokens.objective import Aggregation
from pgjax.types import Number, Weights

GRPO_ADVANTAGE = advantages.standardized()


def cispo(
    *,
    ceiling: Number = 5.0,
    floor: Number = 0.0,
    clip_high: Number | None = None,
    clip_low: Number | None = None,
    advantage: Weights = GRPO_ADVANTAGE,
    aggregation: Aggregation = token_mean,
    **options: Unpack[Options],
) -> Estimator:
    """CISPO: every token keeps its gradient, times its ratio held in [floor, ceiling].

    Args:
        ceiling: the largest ratio *itself*: what TRL calls ε_high, 5 as recommended there.
        floor: the smallest ratio.
        clip_high: in place of `ceiling`, the ceiling less 1: ε_high in verl, NeMo-RL, SkyRL and the
            paper, which leaves its value open.
        clip_low: in place of `floor`, 1 less the floor.
        advantage: GRPO's by default.

    Bias: on-policy DAPO's, if floor ≤ 1 ≤ ceiling.

    References:
        MiniMax, MiniMax-M1 (2025), eq. 4 and 5; Khatri et al., The Art of Scaling Reinforcement
        Learning Compute for LLMs (2025).

    Example:
        >>> from pgjax import tokens
        >>> tokens.cispo(clip_high=0.25, clip_low=0.5) == tokens.cispo(ceiling=1.25, floor=0.5)
        True
    """
    if clip_high is not None:
        fix = "it is the ceiling less 1"
        ceiling = 1 + check_at_least("clip_high", clip_high, 0.0, fix)
    if clip_low is not None:
        floor = 1 - check_unit_interval("clip_low", clip_low)
    return estimator(advantage, aggregation, terms.truncated_ratio(ceiling, floor=floor), **options)


def sapo(
    *,
    positive: Number = 1.0,
    negative: Number = 1.05,
    advantage: Weights = GRPO_ADVANTAGE,
    aggregation: Aggregation = sequence_mean,
    **options: Unpack[Options],
) -> Estimator:
    """SAPO: a sigmoid of the ratio in place of the clip.

    Args:
        positive: τ > 0 of tokens with a positive advantage.
        negative: τ > 0 of tokens with a negative one.
        advantage: GRPO's by default.

    Bias: on-policy GRPO's.

    References:
        Gao et al., Soft Adaptive Policy Optimization (2025).
    """
    return estimator(
        advantage,
        aggregation,
        terms.sigmoid_gate(positive, negative),
        **options,
    )


def dppo(
    low: Number,
    high: Number,
    *,
    ceiling: Number = 20.0,
    advantage: Weights = advantages.less_group_mean,
    aggregation: Aggregation = token_mean,
    **options: Unpack[Options],
) -> Estimator:
    """DPPO with total variation: no gradient for tokens whose probability has moved too far.

    Args:
        low: in [0, 1], how far a probability may have fallen under a negative advantage.
        high: in [0, 1], how far it may have risen under a positive one.
        ceiling: ≥ 0, of the ratio.
        advantage: the outcome less the group's mean by default.

    Bias: on-policy a factor (G−1)/G, and by the number of tokens.

    References:
        Qi et al., Rethinking the Trust Region in LLM Reinforcement Learning (2026). prime-rl adds
        τ (log π − log μ)²: that is `kl=tokens.kl_in_loss(2 * τ, "k2")` with
        `batch.reference_log_prob` equal to `batch.log_prob`.
    """
    term = terms.divergence_mask(low, high, ceiling=ceiling)
    return estimator(advantage, aggregation, term, **options)


def dppo_kl(
    low: Number,
    high: Number,
    *,
    ceiling: Number = 20.0,
    advantage: Weights = advantages.less_group_mean,
    aggregation: Aggregation = token_mean,
    **options: Unpack[Options],
) -> Estimator:
    """DPPO with the KL divergence of "this token or another" in place of the total variation.

    Args:
        low: ≥ 0, in nats, the bound where a probability has fallen under a negative advantage.
        high: ≥ 0, in nats, where it has risen under a positive one.
        ceiling: ≥ 0, of the ratio.
        advantage: the outcome less the group's mean by default.

    Bias: as for `dppo`.

    References:
        Qi et al., Rethinking the Trust Region in LLM Reinforcement Learning (2026), their
        DPPO-Binary-KL; "dppo_kl" in verl.
    """
    term = terms.kl_mask(low, high, ceiling=ceiling)
    return estimator(advantage, aggregation, term, **options)
