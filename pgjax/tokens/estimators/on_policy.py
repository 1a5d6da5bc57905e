"""Estimators with the score itself: no ratio, for tokens of the policy to improve."""

from typing import Unpack

from pgjax import terms
from pgjax.estimators import Estimator
from pgjax.tokens import advantages
from pgjax.tokens.aggregation import sequence_sum, token_mean
from pgjax.tokens.composition import Options, estimator
from pgjax.tokens.objective import Aggregation
from pgjax.types import Term, describe


def reinforce(
    *,
    aggregation: Aggregation = sequence_sum,
    **options: Unpack[Options],
) -> Estimator:
    """REINFORCE with the answer's outcome: ĝ = mean_i Σ_t ∇log π(a_t|s_t) R_i.

    Bias: none on-policy.

    References:
        Williams (1992).
    """
    return estimator(advantages.outcome, aggregation, terms.score, **options)


def rloo(
    *,
    term: Term = terms.score,
    aggregation: Aggregation = sequence_sum,
    **options: Unpack[Options],
) -> Estimator:
    """RLOO: the outcome less the mean of the other answers to the prompt.

    Args:
        term: `terms.ppo_clip(0.2)`, as in TRL, for several updates on a batch.

    Bias: none on-policy.

    References:
        Kool, van Hoof & Welling (2019); Ahmadian et al., Back to Basics (2024), eq. 8.
    """
    return estimator(advantages.leave_one_out, aggregation, term, **options)


def remax(
    *,
    aggregation: Aggregation = sequence_sum,
    **options: Unpack[Options],
) -> Estimator:
    """ReMax: the outcome less that of the greedy answer, recorded as `batch.value`.

    Bias: none on-policy.

    References:
        Li et al., ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for
        Aligning Large Language Models (2024), algorithm 1.
    """
    return estimator(advantages.less_value, aggregation, terms.score, **options)


def opo(
    *,
    aggregation: Aggregation = sequence_sum,
    **options: Unpack[Options],
) -> Estimator:
    """OPO: the outcome less the group's mean, in which each answer counts by its length.

    Bias: biased, about as 1/G: the answer's own reward is in its baseline.

    References:
        Hao et al., On-Policy RL with Optimal Reward Baseline (2025), eq. 8.
    """
    return estimator(advantages.less_mean_by_length, aggregation, terms.score, **options)


def gpg(
    *,
    aggregation: Aggregation = token_mean,
    **options: Unpack[Options],
) -> Estimator:
    """GPG: R_i less the group's mean, larger where many groups have no signal; no ratio, no clip.

    Bias: biased by the answer's own reward in the mean, the share of informative groups, and the
    number of tokens.

    References:
        Chu et al., GPG (2025), eq. 7.
    """
    return estimator(advantages.of_informative_groups, aggregation, terms.score, **options)


def maxrl(
    *,
    aggregation: Aggregation = sequence_sum,
    **options: Unpack[Options],
) -> Estimator:
    """MaxRL: (R_i − mean) / mean in the group, towards the gradient of the log-likelihood.

    Bias: biased for ∇J on purpose; see `advantages.relative_to_mean` for what it estimates.

    References:
        Tajwar et al., Maximum Likelihood Reinforcement Learning (2026).
    """
    return estimator(advantages.relative_to_mean, aggregation, terms.score, **options)


def pkpo(
    k: int,
    *,
    baseline: str = "loo-1",
    aggregation: Aggregation = sequence_sum,
    **options: Unpack[Options],
) -> Estimator:
    """PKPO: the gradient of the best of k answers; pass@k, if rewards are 0 and 1.

    Args:
        k: at least one, and at most the size of a group.
        baseline: "loo-1", the best of k − 1 others, the paper's recommendation (k ≥ 2); "loo", the
            best of k others (k is less than the group); or "none".

    Raises:
        TypeError: if k is not an integer.
        ValueError: if k is too small, or `baseline` none of these three.

    Bias: on-policy none for ∇E[max of k rewards].

    References:
        Walder & Karkhanis, Pass@K Policy Optimization (2025), eq. 33, 29 and 19.
    """
    found = {
        "loo-1": advantages.gain_in_best,
        "loo": advantages.best_of_leave_one_out,
        "none": advantages.best_of,
    }
    if not isinstance(baseline, str) or baseline not in found:
        needed, got = ", ".join(found), describe(baseline)
        raise ValueError(f"baseline must be one of {needed}, got {got}")
    return estimator(found[baseline](k), aggregation, terms.score, **options)
