"""Importance sampling as weights for the score term: products of ratios, bounded or normalised.

A product of ratios turns an expectation over μ's trajectories into one over π's. Its variance grows
exponentially with the number of steps, and every bound on it biases the estimate. ρ_{0:t} is the
product of the ratios of steps 0 to t.

The settings mean the same everywhere:

- discount: γ in [0, 1].
- ceiling: c > 0, the largest product of ratios; `math.inf` sets no bound.
- baseline: b from `pgjax.baselines`; None is zero.

A ValueError is raised if γ is outside [0, 1] or the ceiling is not positive. At use it is raised
if the ratios need whole episodes and rows are windows.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.core.episode_boundaries import discounted_by_time, holds_windows, is_first_step
from pgjax.core.validation import check_rates, check_scalars
from pgjax.records import configured
from pgjax.types import Baseline, Number, Trajectory, Weights, check_part
from pgjax.weights.off_policy.ratios import (
    ZERO,
    check_ceiling,
    cumulative_log_ratios,
    ratio_below,
)
from pgjax.weights.on_policy import returns_to_go, total_return

Ratios: TypeAlias = Callable[[Number, Array], Array]
"""(ceiling, log-ratios [N, T]) -> ratios [N, T]."""


def trajectory_importance(
    discount: Number, *, ceiling: Number = math.inf, baseline: Baseline | None = None
) -> Weights:
    """Full-trajectory importance sampling, w_it = min(ρ_i, c) (R_i − b_it).

    ρ_i is the product of the ratios of all of the episode's steps.

    Bias: none off-policy without a ceiling, if b_it does not depend on a_it or later and μ may take
    every action that π may. A ceiling gives too little weight to episodes that are much more
    probable under π than under μ.

    References:
        Precup, Sutton & Singh (2000), eq. 4, for values; Ionides, Truncated Importance Sampling
        (2008), for the ceiling.

    Example:
        >>> from pgjax import Estimator, terms
        >>> estimator = Estimator(trajectory_importance(0.9), terms.score)
    """
    return _configure(_trajectory_importance, discount, ceiling, baseline)


def _trajectory_importance(batch: Trajectory, log_prob: Array, **settings: Any) -> Array:
    return _by_trajectory(ratio_below, batch, log_prob, **settings)


def normalised_trajectory_importance(
    discount: Number, *, ceiling: Number = math.inf, baseline: Baseline | None = None
) -> Weights:
    """Self-normalised, or weighted, importance sampling, w_it = ρ_i/(1/N Σ_j ρ_j) (R_i − b_it).

    ρ_i is the product of the ratios of all of the episode's steps. The ceiling is applied before
    the ratios are normalised. If every episode of the batch has ratio zero, every weight is zero.

    Raises:
        ValueError: at use, if N = 1.

    Bias: biased, by O(1/N) without a ceiling. In exchange, no ratio exceeds N.

    References:
        Precup, Sutton & Singh (2000), eq. 7; Owen, Monte Carlo Theory, Methods and Examples (2013),
        section 9.2.

    Example:
        >>> from pgjax import Estimator, terms
        >>> estimator = Estimator(normalised_trajectory_importance(0.9), terms.score)
    """
    return _configure(_normalised_trajectory_importance, discount, ceiling, baseline)


def _normalised_trajectory_importance(batch: Trajectory, log_prob: Array, **settings: Any) -> Array:
    _check_episodes("self-normalised ratios", batch)
    return _by_trajectory(_normalised_ratios, batch, log_prob, **settings)


def per_decision(
    discount: Number, *, ceiling: Number = math.inf, baseline: Baseline | None = None
) -> Weights:
    """Per-decision importance sampling, w_t = γ^t (Σ_{k≥t} γ^(k−t) ρ_{0:k} r_k − ρ_{0:t} b_t).

    A reward is weighed by the ratios of the actions up to it, and not of later ones.

    Args:
        baseline: b, in units of return. Its target is Σ_{k≥t} γ^(k−t) ρ_{0:k} r_k, so that
            `leave_one_out` estimates E_π[G_t].

    Bias: none off-policy without a ceiling, if b_t does not depend on a_t or later and μ may take
    every action that π may. A window's first episode is corrected only from the window's start on.

    References:
        Precup, Sutton & Singh (2000), eq. 6, for values; for gradients Jie & Abbeel, On a
        Connection between Importance Sampling and the Likelihood Ratio Policy Gradient (2010).

    Example:
        >>> from pgjax import Estimator, baselines, terms
        >>> weights = per_decision(0.9, baseline=baselines.recorded_value)
        >>> estimator = Estimator(weights, terms.score)
    """
    return _configure(_per_decision, discount, ceiling, baseline)


def _per_decision(batch: Trajectory, log_prob: Array, **settings: Any) -> Array:
    return _by_decision(ratio_below, batch, log_prob, **settings)


def normalised_per_decision(
    discount: Number, *, ceiling: Number = math.inf, baseline: Baseline | None = None
) -> Weights:
    """Self-normalised per-decision importance sampling: ρ_{0:k}/(1/N Σ_j ρ^j_{0:k}) for ρ_{0:k}.

    Each time step is normalised by itself, after the ceiling is applied. An episode that has ended
    counts with its last product of ratios.

    Raises:
        ValueError: at use, if N = 1.

    Bias: biased, by O(1/N) without a ceiling. In exchange, no ratio exceeds N.

    References:
        Thomas, Safe Reinforcement Learning (2015), section 3.8 (consistent weighted per-decision
        importance sampling), for values.

    Example:
        >>> from pgjax import Estimator, terms
        >>> estimator = Estimator(normalised_per_decision(0.9), terms.score)
    """
    return _configure(_normalised_per_decision, discount, ceiling, baseline)


def _normalised_per_decision(batch: Trajectory, log_prob: Array, **settings: Any) -> Array:
    _check_episodes("self-normalised ratios", batch)
    return _by_decision(_normalised_ratios, batch, log_prob, **settings)


def on_target_states(credit: Weights, *, ceiling: Number = math.inf) -> Weights:
    """Weights times min(ρ_{0:t−1}, c): credit as if the states were those of π, and not of μ.

    It is for weights that correct an action and what follows it, but not the state that it is taken
    in: `vtrace`, `retrace`, `tree_backup`.

    Args:
        credit: the weights to correct.
        ceiling: c > 0, the largest product of ratios; `math.inf` sets no bound.

    Bias: none without a ceiling, if the mean of w_t under μ, given s_t, a_t and all before, is
    γ^t ρ_t (Q^π(s_t,a_t) − b(s_t)).

    References:
        Degris, White & Sutton, Off-Policy Actor-Critic (2012), section 2.2, leave this ratio out;
        Imani, Graves & White, An Off-policy Policy Gradient Theorem Using Emphatic Weightings
        (2018), section 4, say what that costs.

    Example:
        >>> from pgjax import Estimator, terms
        >>> from pgjax.weights.off_policy import on_target_states, vtrace
        >>> estimator = Estimator(on_target_states(vtrace(0.99)), terms.score)
    """
    return configured(
        _on_target_states,
        credit=check_part("credit", credit, "weights"),
        ceiling=check_ceiling("ceiling", ceiling),
    )


def _on_target_states(
    batch: Trajectory, log_prob: Array, *, credit: Weights, ceiling: Number
) -> Array:
    before = jnp.pad(cumulative_log_ratios(batch, log_prob)[:, :-1], ((0, 0), (1, 0)))
    before = jnp.where(is_first_step(batch), 0, before)
    weight = credit(batch, log_prob)
    return ratio_below(ceiling, before).astype(weight.dtype) * weight


def _configure(
    function: Callable[..., Array], discount: Number, ceiling: Number, baseline: Baseline | None
) -> Weights:
    return configured(
        function,
        **check_rates(discount=discount),
        ceiling=check_ceiling("ceiling", ceiling),
        baseline=None if baseline is None else check_part("baseline", baseline, "baseline"),
    )


def _by_trajectory(
    ratios: Ratios,
    batch: Trajectory,
    log_prob: Array,
    *,
    discount: Number,
    ceiling: Number,
    baseline: Baseline | None,
) -> Array:
    _check_episodes("full-trajectory ratios", batch)
    ratio = ratios(ceiling, cumulative_log_ratios(batch, log_prob))
    return ratio[:, -1:] * total_return(discount, baseline=baseline)(batch, log_prob)


def _by_decision(
    ratios: Ratios,
    batch: Trajectory,
    log_prob: Array,
    *,
    discount: Number,
    ceiling: Number,
    baseline: Baseline | None,
) -> Array:
    """Reward-to-go of a batch whose rewards and bootstrap values are weighed by ρ_{0:k}."""
    ratio = ratios(ceiling, cumulative_log_ratios(batch, log_prob))
    target = returns_to_go(_weigh_rewards(batch, ratio), discount)
    # ρ_{0:t} and not ρ_{0:t−1}: under μ it is ρ_t ∇log π(a_t|s_t) whose mean is zero.
    less = target if baseline is None else target - ratio * baseline(batch, target)
    return discounted_by_time(batch, discount, less)


def _weigh_rewards(batch: Trajectory, ratio: Array) -> Trajectory:
    final, following = batch.final_value, batch.next_value
    return replace(
        batch,
        reward=ratio * jnp.where(batch.mask, batch.reward, 0).astype(ratio.dtype),
        final_value=None if final is None else ratio[:, -1] * final.astype(ratio.dtype),
        next_value=None if following is None else ratio * following.astype(ratio.dtype),
    )


def _normalised_ratios(ceiling: Number, log_ratio: Array) -> Array:
    """Ratios over their mean at each time step: N softmax(log ρ)."""
    check_scalars(ceiling=ceiling)
    N = log_ratio.shape[0]
    if N < 2:
        raise ValueError(
            f"self-normalised ratios need a batch of at least 2 trajectories, got N = {N}; "
            "one ratio over itself is 1, and corrects nothing"
        )
    held = jnp.minimum(log_ratio, jnp.log(jnp.asarray(ceiling, log_ratio.dtype)))
    any_possible = jnp.max(held, axis=0, keepdims=True) > ZERO / 2
    return jnp.where(any_possible, N * jax.nn.softmax(held, axis=0), 0)


def _check_episodes(what: str, batch: Trajectory) -> None:
    if holds_windows(batch):
        raise ValueError(
            f"{what} need rows of one whole episode each, got windows (batch.next_value or "
            "batch.time is given); use per_decision, vtrace or retrace"
        )
