"""Weights: how much credit each action gets, as functions (batch, log_prob[N,T]) -> [N,T].

The only stage that sees the whole batch. What it returns is a constant under differentiation;
`estimators.surrogate` stops the gradient in one place. Where values are read, they are the batch's
own arrays, written there by a critic: `value`, and for cut episodes `final_value` or `next_value`.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.baselines.groups import deviation
from pgjax.baselines.simple import Baseline
from pgjax.core import episode_boundaries as boundaries
from pgjax.core.episode_boundaries import Rate
from pgjax.core.recurrence import accumulation_dtype
from pgjax.core.validation import check_at_least, check_positive, check_unit_interval
from pgjax.returns import (
    ScalarOrSequence,
    discounted_returns,
    generalized_advantages,
    lambda_returns,
    n_step_returns,
)
from pgjax.types import Trajectory

Discount = Rate
Weights: TypeAlias = Callable[[Trajectory, Array], Array]


def total_return(
    discount: Discount, *, baseline: Baseline | None = None, scale: Baseline | None = None
) -> Weights:
    """w_it = (R_i − b_it) / c_it: every action is credited with the whole episode's return.

    Args:
        discount: γ in [0, 1].
        baseline: b from `pgjax.baselines`, zero if None; it is given R_i on every step.
        scale: c, such as `group_deviation`, one if None; it is given R_i too.

    Raises:
        ValueError: a discount outside [0, 1]; at use, windows, which hold no whole episodes.

    Bias: none if b_it does not depend on a_it or later, and nothing is divided by.

    References:
        Williams (1992), eq. 4 with an episode as one trial.
    """
    check_unit_interval("discount", discount)

    def weigh(batch: Trajectory, log_prob: Array) -> Array:
        if boundaries.holds_windows(batch):
            raise ValueError(
                "total_return needs rows of one whole episode each, got windows (batch.next_value "
                "or batch.time is given); use reward_to_go, or whole episodes: pgjax.rollout"
            )
        returns = returns_to_go(batch, discount)
        total = jnp.broadcast_to(returns[:, :1], returns.shape)
        return _minus(baseline, batch, total, scale)

    return weigh


def reward_to_go(
    discount: Discount, *, baseline: Baseline | None = None, scale: Baseline | None = None
) -> Weights:
    """w_it = γ^t (G_it − b_it) / c_it: an action is credited with what came after it.

    Args:
        discount: γ in [0, 1].
        baseline: b from `pgjax.baselines`, zero if None; it is given G_it.
        scale: c, such as `group_deviation`, one if None; it is given G_it too.

    Raises:
        ValueError: a discount outside [0, 1].

    Bias: none if b_it does not depend on a_it or later, and nothing is divided by.

    References:
        Sutton & Barto (2018), section 13.4, eq. 13.11 with its γ^t.
    """
    mismatched = mismatched_reward_to_go(discount, baseline=baseline, scale=scale)
    return partial(_discounted, discount, mismatched)


def mismatched_reward_to_go(
    discount: Discount, *, baseline: Baseline | None = None, scale: Baseline | None = None
) -> Weights:
    """w_it = (G_it − b_it) / c_it, γ^t left out: what most code runs.

    Returns are discounted, states are not: the discounting mismatch.

    Args:
        discount: γ in [0, 1].
        baseline: b from `pgjax.baselines`, zero if None; it is given G_it.
        scale: c, such as `group_deviation`, one if None; it is given G_it too.

    Raises:
        ValueError: a discount outside [0, 1].

    Bias: biased when γ < 1; not the gradient of any objective.

    References:
        Nota & Thomas, Is the Policy Gradient a Gradient? (2020); Zhang et al., A Deeper Look at
        Discounting Mismatch in Actor-Critic Algorithms (2022).
    """
    check_unit_interval("discount", discount)

    return lambda batch, log_prob: _minus(baseline, batch, returns_to_go(batch, discount), scale)


def n_step(discount: Discount, n: int, *, baseline: Baseline | None = None) -> Weights:
    """w_it = γ^t (G_it − b_it) with G of n rewards and then a critic's word, γ^n V(s_{t+n}).

    Args:
        discount: γ in [0, 1].
        n: steps, at least one.
        baseline: b from `pgjax.baselines`, zero if None; `recorded_value` makes it an advantage.

    Raises:
        TypeError: an n that is no integer.
        ValueError: a discount outside [0, 1], n below one; at use, a batch without values.

    Bias: none if V = V^π, or if n is at least the episode's length; and b as for `reward_to_go`.

    References:
        Sutton & Barto (2018), eq. 7.1; Mnih et al., Asynchronous Methods for Deep Reinforcement
        Learning (2016), section 4, there with as many steps as are left in the window.
    """
    check_unit_interval("discount", discount)
    check_positive("n", n)

    def weigh(batch: Trajectory, log_prob: Array) -> Array:
        def row(reward: Array, following: Array, goes_on: Array) -> Array:
            return n_step_returns(reward, discount, n, following, continues=goes_on)

        following = boundaries.following_values(batch)
        target = jax.vmap(row)(_rewards(batch), following, boundaries.continues(batch))
        return _minus(baseline, batch, target)

    return partial(_discounted, discount, weigh)


def lambda_return(
    discount: Discount, lambda_: Rate, *, baseline: Baseline | None = None
) -> Weights:
    """w_it = γ^t (G_it − b_it) with G the λ-return, a mean of n-step returns weighted by λ^{n−1}.

    Args:
        discount: γ in [0, 1].
        lambda_: λ in [0, 1]; one asks the critic only where an episode was cut.
        baseline: b from `pgjax.baselines`, zero if None; with `recorded_value` this is
            `generalized_advantage`.

    Raises:
        ValueError: a discount or λ outside [0, 1]; at use, a batch without values.

    Bias: none if λ = 1 or V = V^π, and b as for `reward_to_go`.

    References:
        Sutton & Barto (2018), eq. 12.18 with state values.
    """
    check_unit_interval("discount", discount)
    check_unit_interval("lambda_", lambda_)

    def weigh(batch: Trajectory, log_prob: Array) -> Array:
        def row(reward: Array, rate: Array, following: Array) -> Array:
            return lambda_returns(reward, discount, rate, following)

        reward = _rewards(batch)
        rate = jnp.asarray(lambda_, reward.dtype) * boundaries.continues(batch).astype(reward.dtype)
        target = jax.vmap(row)(reward, rate, boundaries.following_values(batch))
        return _minus(baseline, batch, target)

    return partial(_discounted, discount, weigh)


def generalized_advantage(discount: Discount, lambda_: Rate) -> Weights:
    """w_it = γ^t A_it with A = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V(s_{t+1}) − V(s_t): GAE(λ).

    λ = 0 is the one-step TD error, λ = 1 the return less the value.

    Args:
        discount: γ in [0, 1].
        lambda_: λ in [0, 1].

    Raises:
        ValueError: a discount or λ outside [0, 1]; at use, a batch without values.

    Bias: none if λ = 1 or V = V^π; at λ = 1 V still counts where it is what follows a cut.

    References:
        Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage
        Estimation (2016), eq. 16, here with the episode's γ^t.
    """
    return partial(_discounted, discount, mismatched_generalized_advantage(discount, lambda_))


def mismatched_generalized_advantage(discount: Discount, lambda_: Rate) -> Weights:
    """w_it = A_it, GAE(λ) with γ^t left out: what actor-critic and PPO code runs.

    Args:
        discount: γ in [0, 1].
        lambda_: λ in [0, 1].

    Raises:
        ValueError: a discount or λ outside [0, 1]; at use, a batch without values.

    Bias: biased when γ < 1, even with V = V^π; not the gradient of any objective.

    References:
        Schulman et al. (2016), eq. 16; Nota & Thomas (2020) for the mismatch.
    """
    check_unit_interval("discount", discount)
    check_unit_interval("lambda_", lambda_)

    def weigh(batch: Trajectory, log_prob: Array) -> Array:
        def row(reward: Array, rate: ScalarOrSequence, value: Array, following: Array) -> Array:
            return generalized_advantages(reward, discount, rate, value, following)

        rate, following = (
            boundaries.continued(batch, lambda_),
            boundaries.following_values(batch),
        )
        axes = (0, 0 if jnp.ndim(rate) else None, 0, 0)
        return jax.vmap(row, axes)(_rewards(batch), rate, boundaries.values(batch), following)

    return weigh


def centred(weights: Weights) -> Weights:
    """w_it less its mean over all live steps of the batch.

    Args:
        weights: any.

    Bias: biased: the mean holds the step's own weight, and how many steps are live may hang on the
    actions.

    References:
        The first half of `whitened`.
    """
    return lambda batch, log_prob: _central(batch, weights(batch, log_prob))[0]


def whitened(weights: Weights, *, epsilon: float = 1e-8) -> Weights:
    """(w_it − mean) / (std + ε) over all live steps of the batch: advantage normalisation.

    The deviation is divided by the number of live steps, not one less. Where it is no more than
    rounding, weights are zero.

    Args:
        weights: any, such as `mismatched_generalized_advantage`.
        epsilon: ε ≥ 0, in the weights' units.

    Raises:
        ValueError: a negative ε.

    Bias: biased, in size and direction: mean and deviation hold the step's own weight.

    References:
        Andrychowicz et al., What Matters In On-Policy Reinforcement Learning? (2021), appendix
        B.9, over the whole batch here, over each minibatch there; `torch.std` in SB3 divides by one
        step less.
    """
    check_at_least("epsilon", epsilon, 0.0, "a deviation is not negative")

    def weigh(batch: Trajectory, log_prob: Array) -> Array:
        weight = weights(batch, log_prob)
        central, number = _central(batch, weight)
        magnitude = jnp.sqrt(jnp.sum(jnp.where(batch.mask, weight, 0) ** 2) / number)
        return central / deviation(jnp.sum(central**2), number, magnitude, epsilon)

    return weigh


def divided_by_length(weights: Weights) -> Weights:
    """w_it / |τ_i|, by the number of the row's live steps, as the mean over tokens does.

    Args:
        weights: any.

    Bias: biased: long episodes count less for each of their steps, so among bad ones long is
    better.

    References:
        Shao et al., DeepSeekMath (2024), eq. 3, its 1/|o_i|; Liu et al., Understanding
        R1-Zero-Like Training (2025), section 3.1, on the bias.
    """

    def weigh(batch: Trajectory, log_prob: Array) -> Array:
        weight = weights(batch, log_prob)
        length = jnp.sum(batch.mask, axis=1, keepdims=True, dtype=weight.dtype)
        return weight / jnp.maximum(length, 1)

    return weigh


def returns_to_go(batch: Trajectory, discount: Discount) -> Float[Array, "N T"]:
    """G_it of every step of a batch, zero after the episode's end, in float32 or wider.

    Where an episode is cut, but did not terminate, γ times the value of what follows is added to
    its last reward: of a whole episode `final_value`, of a window's episodes `next_value`. Without
    values a cut episode is taken at its rewards alone.

    Args:
        batch: [N, T].
        discount: γ in [0, 1].

    Returns:
        [N, T].

    Bias: none for the H-step objective without values, nor for the uncut one with the right values;
    a wrong value biases every step before the cut.
    """
    reward, following = _rewards(batch), boundaries.bootstrap_values(batch)
    if following is not None:
        reward = reward + jnp.asarray(discount, reward.dtype) * following.astype(reward.dtype)
    slope = boundaries.continued(batch, discount)
    return jax.vmap(discounted_returns, in_axes=(0, 0 if jnp.ndim(slope) else None))(reward, slope)


def _rewards(batch: Trajectory) -> Array:
    """[N, T] zero after the end, in float32 or wider."""
    return jnp.where(batch.mask, batch.reward, 0).astype(accumulation_dtype(batch.reward))


def _discounted(discount: Discount, weights: Weights, batch: Trajectory, log_prob: Array) -> Array:
    return boundaries.discounted_by_age(batch, discount, weights(batch, log_prob))


def _minus(
    baseline: Baseline | None, batch: Trajectory, target: Array, scale: Baseline | None = None
) -> Array:
    less = target if baseline is None else target - baseline(batch, target)
    return less if scale is None else less / scale(batch, target)


def _central(batch: Trajectory, weight: Array) -> tuple[Array, Array]:
    """Deviations from the mean over live steps, zero elsewhere; and the number of live steps."""
    number = jnp.maximum(jnp.sum(batch.mask, dtype=weight.dtype), 1)
    mean = jnp.sum(jnp.where(batch.mask, weight, 0)) / number
    return jnp.where(batch.mask, weight - mean, 0), number
