"""Estimators with one ratio for an answer."""

from typing import Unpack

from pgjax import terms
from pgjax.estimators import Estimator
from pgjax.tokens import advantages
from pgjax.tokens.aggregation import sequence_mean, sequence_sum, token_mean
from pgjax.tokens.composition import Options, estimator
from pgjax.tokens.objective import Aggregation
from pgjax.types import Number, Weights

GRPO_ADVANTAGE = advantages.standardized()


def gspo(
    *,
    clip_low: Number = 3e-4,
    clip_high: Number = 4e-4,
    advantage: Weights = GRPO_ADVANTAGE,
    aggregation: Aggregation = sequence_mean,
    **options: Unpack[Options],
) -> Estimator:
    """GSPO: GRPO with one ratio for an answer, the geometric mean of its tokens' ratios, clipped.

    Args:
        clip_low: in [0, 1], of the geometric mean.
        clip_high: ≥ 0.
        advantage: GRPO's by default.

    Bias: on-policy GRPO's; off-policy also by a ratio that is not the answer's.

    References:
        Zheng et al., Group Sequence Policy Optimization (2025), eq. 5 to 7.
    """
    return estimator(
        advantage,
        aggregation,
        terms.sequence_clip(clip_low, clip_high),
        **options,
    )


def gspo_token(
    *,
    clip_low: Number = 3e-4,
    clip_high: Number = 4e-4,
    advantage: Weights = GRPO_ADVANTAGE,
    aggregation: Aggregation = sequence_mean,
    **options: Unpack[Options],
) -> Estimator:
    """GSPO-token: GSPO that lets each token have its own advantage; equal to it if they are equal.

    Args:
        clip_low: in [0, 1], of the geometric mean.
        clip_high: ≥ 0.
        advantage: GRPO's by default.

    Bias: as for `gspo`.

    References:
        Zheng et al., Group Sequence Policy Optimization (2025), eq. 13 and 14.
    """
    return estimator(
        advantage,
        aggregation,
        terms.sequence_clip_by_token(clip_low, clip_high),
        **options,
    )


def luspo(
    *,
    clip_low: Number = 3e-4,
    clip_high: Number = 4e-4,
    advantage: Weights = GRPO_ADVANTAGE,
    aggregation: Aggregation = sequence_sum,
    **options: Unpack[Options],
) -> Estimator:
    """LUSPO: GSPO times the answer's length.

    Args:
        clip_low: in [0, 1], of the geometric mean.
        clip_high: ≥ 0.
        advantage: GRPO's by default.

    Bias: on-policy only by the group's own deviation and mean; off-policy as `gspo`.

    References:
        Liu et al., Length-Unbiased Sequence Policy Optimization (2026); widths as in `gspo`.
    """
    return estimator(
        advantage,
        aggregation,
        terms.sequence_clip(clip_low, clip_high),
        **options,
    )


def gmpo(
    *,
    width: Number = 0.4,
    advantage: Weights = GRPO_ADVANTAGE,
    aggregation: Aggregation = sequence_mean,
    **options: Unpack[Options],
) -> Estimator:
    """GMPO: the geometric mean of an answer's ratios, of which each is clipped first.

    Args:
        width: ≥ 0, of a token's log-ratio in nats.
        advantage: GRPO's by default.

    Bias: on-policy GRPO's; off-policy as `gspo`.

    References:
        Zhao et al., Geometric-Mean Policy Optimization (2025), eq. 4.
    """
    return estimator(
        advantage,
        aggregation,
        terms.geometric_clip(width),
        **options,
    )


def vespo(
    *,
    positive: tuple[Number, Number] = (2.0, 3.0),
    negative: tuple[Number, Number] = (3.0, 2.0),
    advantage: Weights = GRPO_ADVANTAGE,
    aggregation: Aggregation = token_mean,
    **options: Unpack[Options],
) -> Estimator:
    """VESPO: a smooth weight of the answer's whole ratio s, s^k e^{λ(1−s)}, in place of the clip.

    Args:
        positive: (k, λ) of answers whose advantage is not negative, each ≥ 0.
        negative: (k, λ) of answers with a negative one.
        advantage: GRPO's by default.

    Bias: on-policy DAPO's.

    References:
        Shen et al., VESPO (2026); settings as in TRL.
    """
    return estimator(
        advantage,
        aggregation,
        terms.gamma_gate(positive, negative),
        **options,
    )
