"""Weights: how much credit each action gets, as functions (batch, log_prob[N,T]) -> [N,T].

The only stage that sees the whole batch. What it returns is a constant under differentiation;
`estimators.surrogate` stops the gradient in one place.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax import cuts
from pgjax.baselines import Baseline
from pgjax.cuts import Discount as Discount
from pgjax.returns import accumulation_dtype, discounted_returns
from pgjax.types import Trajectory
from pgjax.validation import check_unit_interval

Weights: TypeAlias = Callable[[Trajectory, Array], Array]


def total_return(discount: Discount, *, baseline: Baseline | None = None) -> Weights:
    """w_it = R_i − b_it: every action is credited with the whole episode's return.

    Args:
        discount: γ in [0, 1].
        baseline: from `pgjax.baselines`; it is given R_i on every step.

    Raises:
        ValueError: a discount outside [0, 1]; at use, windows, which hold no whole episodes.

    Bias: none if b_it does not depend on a_it or later.

    References:
        Williams (1992), eq. 4 with an episode as one trial.
    """
    check_unit_interval("discount", discount)

    def weigh(batch: Trajectory, log_prob: Array) -> Array:
        if cuts.holds_windows(batch):
            raise ValueError(
                "total_return needs rows of one whole episode each, got windows (batch.next_value "
                "or batch.time is given); use reward_to_go, or whole episodes: pgjax.rollout"
            )
        returns = returns_to_go(batch, discount)
        total = jnp.broadcast_to(returns[:, :1], returns.shape)
        return _minus(baseline, batch, total)

    return weigh


def reward_to_go(discount: Discount, *, baseline: Baseline | None = None) -> Weights:
    """w_it = γ^t (G_it − b_it): an action is credited with what came after it.

    Args:
        discount: γ in [0, 1].
        baseline: from `pgjax.baselines`; it is given G_it.

    Bias: none if b_it does not depend on a_it or later.

    References:
        Sutton & Barto (2018), section 13.4, eq. 13.11 with its γ^t.
    """
    mismatched = mismatched_reward_to_go(discount, baseline=baseline)

    def weigh(batch: Trajectory, log_prob: Array) -> Array:
        return _discounted(batch, discount, mismatched(batch, log_prob))

    return weigh


def mismatched_reward_to_go(discount: Discount, *, baseline: Baseline | None = None) -> Weights:
    """w_it = G_it − b_it, γ^t left out: what most code runs.

    Returns are discounted, states are not: the discounting mismatch.

    Args:
        discount: γ in [0, 1].
        baseline: from `pgjax.baselines`; it is given G_it.

    Bias: biased when γ < 1; not the gradient of any objective.

    References:
        Nota & Thomas, Is the Policy Gradient a Gradient? (2020); Zhang et al., A Deeper Look at
        Discounting Mismatch in Actor-Critic Algorithms (2022).
    """
    check_unit_interval("discount", discount)

    def weigh(batch: Trajectory, log_prob: Array) -> Array:
        return _minus(baseline, batch, returns_to_go(batch, discount))

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
    reward = jnp.where(batch.mask, batch.reward, 0).astype(accumulation_dtype(batch.reward))
    following = cuts.bootstrap_values(batch)
    if following is not None:
        reward = reward + jnp.asarray(discount, reward.dtype) * following.astype(reward.dtype)
    slope = cuts.continued_discount(batch, discount)
    return jax.vmap(discounted_returns, in_axes=(0, 0 if jnp.ndim(slope) else None))(reward, slope)


def _discounted(batch: Trajectory, discount: Discount, weight: Array) -> Array:
    """γ^t w_it, t being the age of the step's episode."""
    age = cuts.age(batch).astype(weight.dtype)
    return jnp.asarray(discount, weight.dtype) ** age * weight


def _minus(baseline: Baseline | None, batch: Trajectory, target: Array) -> Array:
    return target if baseline is None else target - baseline(batch, target)
