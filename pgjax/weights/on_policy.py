"""On-policy weights: functions (batch, log_prob [N, T]) -> [N, T] for a policy's own batches.

Weights are constants in θ, because the batch and the log-probabilities that they are given are
constants under differentiation. V is the batch's `value`, which a critic writes there; after a cut
it is `final_value` or `next_value`. An episode is bootstrapped if V after its cut is given.

The settings mean the same everywhere:

- discount: γ in [0, 1].
- lambda_: λ in [0, 1].
- baseline: b from `pgjax.baselines`, a function of the return that it is subtracted from. None is
  zero.
- scale: c, a function of that return too, which divides it, such as `group_deviation`. None is one.

A ValueError is raised if γ or λ is outside [0, 1]. At use it is raised if weights need values and
the batch has none.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.core import episode_boundaries as boundaries
from pgjax.core.recurrence import accumulation_dtype, scaled
from pgjax.core.validation import check_counts, check_layout, check_rate, check_rates, check_scalars
from pgjax.records import configured
from pgjax.returns import (
    discounted_returns,
    generalized_advantages,
    lambda_returns,
    n_step_returns,
)
from pgjax.types import Baseline, Number, Trajectory, Weights, check_part


def total_return(
    discount: Number, *, baseline: Baseline | None = None, scale: Baseline | None = None
) -> Weights:
    """Weights w_it = (R_i − b_it) / c_it: every action is credited with its episode's whole return.

    Raises:
        ValueError: at use, if rows are windows and not whole episodes.

    Bias: none if b_it does not depend on a_it or later, and there is no scale.

    References:
        Williams (1992), eq. 4 with an episode as one trial.

    Example:
        >>> from pgjax import Estimator, terms
        >>> Estimator(total_return(0.99), terms.score)
        Estimator(weights=total_return(discount=0.99), term=score)
    """
    return _configure(_total_return, discount, baseline, scale)


def _total_return(
    batch: Trajectory, log_prob: Array, *, discount: Number, **adjustments: Baseline | None
) -> Array:
    if boundaries.holds_windows(batch):
        raise ValueError(
            "total_return needs rows of one whole episode each, got windows (batch.next_value "
            "or batch.time is given); use reward_to_go, or whole episodes: pgjax.rollout"
        )
    returns = returns_to_go(batch, discount)
    total = jnp.broadcast_to(returns[:, :1], returns.shape)
    return _subtract_and_divide(batch, total, **adjustments)


def reward_to_go(
    discount: Number, *, baseline: Baseline | None = None, scale: Baseline | None = None
) -> Weights:
    """Weights w_it = γ^t (G_it − b_it) / c_it: an action is credited with the rewards after it.

    Bias: none if b_it does not depend on a_it or later, and there is no scale.

    References:
        Sutton & Barto (2018), section 13.4, eq. 13.11 with its γ^t.

    Example:
        >>> from pgjax import Estimator, baselines, terms
        >>> weights = reward_to_go(0.99, baseline=baselines.leave_one_out)
        >>> estimator = Estimator(weights, terms.ppo_clip(0.2))
    """
    return _configure(_reward_to_go, discount, baseline, scale)


def _reward_to_go(
    batch: Trajectory, log_prob: Array, *, discount: Number, **adjustments: Baseline | None
) -> Array:
    weight = _subtract_and_divide(batch, returns_to_go(batch, discount), **adjustments)
    return boundaries.discounted_by_time(batch, discount, weight)


def mismatched_reward_to_go(
    discount: Number, *, baseline: Baseline | None = None, scale: Baseline | None = None
) -> Weights:
    """Weights w_it = (G_it − b_it) / c_it, without γ^t: what most code runs.

    Returns are discounted and states are not. This is called the discounting mismatch.

    Bias: biased when γ < 1; not the gradient of any objective.

    References:
        Nota & Thomas, Is the Policy Gradient a Gradient? (2020); Zhang et al., A Deeper Look at
        Discounting Mismatch in Actor-Critic Algorithms (2022).
    """
    return _configure(_mismatched_reward_to_go, discount, baseline, scale)


def _mismatched_reward_to_go(
    batch: Trajectory, log_prob: Array, *, discount: Number, **adjustments: Baseline | None
) -> Array:
    return _subtract_and_divide(batch, returns_to_go(batch, discount), **adjustments)


def n_step(discount: Number, n: int, *, baseline: Baseline | None = None) -> Weights:
    """Weights w_it = γ^t (G_it − b_it) with G of n rewards and a critic's value, γ^n V(s_{t+n}).

    Args:
        n: the number of rewards, at least one.
        baseline: with `recorded_value` the weight is an advantage.

    Raises:
        TypeError: if n is not an integer.
        ValueError: if n is below one.

    Bias: none if b is as for `reward_to_go`, and either V = V^π, or n is at least the episode's
    length and no episode is bootstrapped.

    References:
        Sutton & Barto (2018), eq. 7.1; Mnih et al., Asynchronous Methods for Deep Reinforcement
        Learning (2016), section 4, there with as many steps as are left in the window.
    """
    return configured(
        _n_step,
        **check_rates(discount=discount),
        **check_counts(n=n),
        baseline=_check_baseline("baseline", baseline),
    )


def _n_step(
    batch: Trajectory, log_prob: Array, *, discount: Number, n: int, baseline: Baseline | None
) -> Array:
    check_scalars(discount=discount)
    target = jax.vmap(partial(n_step_returns, discount=discount, n=n))(
        _live_rewards(batch),
        next_value=boundaries.following_values(batch),
        continues=boundaries.same_episode_next(batch),
    )
    weight = _subtract_and_divide(batch, target, baseline)
    return boundaries.discounted_by_time(batch, discount, weight)


def lambda_return(
    discount: Number, lambda_: Number, *, baseline: Baseline | None = None
) -> Weights:
    """Weights w_it = γ^t (G_it − b_it) with G the λ-return, n-step returns averaged by λ^{n−1}.

    Args:
        lambda_: λ; with 1, values count only where an episode is bootstrapped.
        baseline: with `recorded_value` the weights are those of `generalized_advantage`.

    Bias: none if b is as for `reward_to_go`, and either V = V^π, or λ = 1 and no episode is
    bootstrapped.

    References:
        Sutton & Barto (2018), eq. 12.18 with state values.
    """
    rates = check_rates(discount=discount, lambda_=lambda_)
    return configured(_lambda_return, **rates, baseline=_check_baseline("baseline", baseline))


def _lambda_return(
    batch: Trajectory,
    log_prob: Array,
    *,
    discount: Number,
    lambda_: Number,
    baseline: Baseline | None,
) -> Array:
    check_scalars(discount=discount, lambda_=lambda_)
    reward, following = _live_rewards(batch), boundaries.following_values(batch)
    goes_on = boundaries.same_episode_next(batch).astype(reward.dtype)
    rate = jnp.asarray(lambda_, reward.dtype) * goes_on
    target = jax.vmap(lambda_returns, (0, None, 0, 0))(reward, discount, rate, following)
    weight = _subtract_and_divide(batch, target, baseline)
    return boundaries.discounted_by_time(batch, discount, weight)


def generalized_advantage(discount: Number, lambda_: Number) -> Weights:
    """GAE(λ): w_it = γ^t A_it with A = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V(s_{t+1}) − V(s_t).

    λ = 0 gives the one-step TD error, and λ = 1 the return less the value.

    Bias: none if V = V^π, or if λ = 1 and no episode is bootstrapped.

    References:
        Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage
        Estimation (2016), eq. 16, here with the episode's γ^t.

    Example:
        >>> from pgjax import Estimator, terms
        >>> estimator = Estimator(generalized_advantage(0.99, 0.95), terms.score)
    """
    return configured(_generalized_advantage, **check_rates(discount=discount, lambda_=lambda_))


def _generalized_advantage(batch: Trajectory, log_prob: Array, **rates: Number) -> Array:
    advantage = _mismatched_generalized_advantage(batch, log_prob, **rates)
    return boundaries.discounted_by_time(batch, rates["discount"], advantage)


def mismatched_generalized_advantage(discount: Number, lambda_: Number) -> Weights:
    """GAE(λ) without γ^t, w_it = A_it: what actor-critic and PPO code runs.

    Bias: biased when γ < 1, even with V = V^π; not the gradient of any objective.

    References:
        Schulman et al. (2016), eq. 16; Nota & Thomas (2020) for the mismatch.
    """
    return configured(
        _mismatched_generalized_advantage, **check_rates(discount=discount, lambda_=lambda_)
    )


def _mismatched_generalized_advantage(
    batch: Trajectory, log_prob: Array, *, discount: Number, lambda_: Number
) -> Array:
    check_scalars(discount=discount, lambda_=lambda_)
    rate = boundaries.rate_within_episode(batch, lambda_)
    values, following = boundaries.values(batch), boundaries.following_values(batch)
    axes = (0, None, 0 if jnp.ndim(rate) else None, 0, 0)
    rows = _live_rewards(batch), discount, rate, values, following
    return jax.vmap(generalized_advantages, axes)(*rows)


def returns_to_go(batch: Trajectory, discount: Number) -> Float[Array, "N T"]:
    """G_it of every step of a batch, zero after the episode's end, in float32 or wider.

    If an episode is cut before it terminates, γ times the value of the next state is added to its
    last reward. That value is `final_value` for a whole episode, and `next_value` in a window.
    Without values, a cut episode has the return of its rewards alone.

    Args:
        batch: [N, T].
        discount: γ, a single number.

    Raises:
        ValueError: if the batch is not laid out as [N, T], or if γ is not a single number.

    Bias: none for the return up to the cut, without values; none for the uncut return, if the
    values are V^π. A wrong value biases every step before the cut.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pgjax import Problem, enumeration, tabular, tabular_softmax
        >>> mdp, policy = tabular.short_corridor(), tabular_softmax(1, 2)
        >>> problem = Problem(mdp, policy, jnp.zeros((1, 2)), horizon=2)
        >>> batch, _ = enumeration.trajectories(problem)
        >>> returns_to_go(jax.tree.map(jnp.asarray, batch), 1.0)[0]
        Array([-2., -1.], dtype=float32)
    """
    check_layout(batch)
    check_rate("discount", discount)
    reward, following = _live_rewards(batch), boundaries.bootstrap_values(batch)
    if following is not None:
        reward = reward + scaled(
            jnp.asarray(discount, reward.dtype), following.astype(reward.dtype)
        )
    slope = boundaries.rate_within_episode(batch, discount)
    return jax.vmap(discounted_returns, in_axes=(0, 0 if jnp.ndim(slope) else None))(reward, slope)


def _live_rewards(batch: Trajectory) -> Array:
    """[N, T] zero after the end, in float32 or wider."""
    return jnp.where(batch.mask, batch.reward, 0).astype(accumulation_dtype(batch.reward))


def _configure(
    function: Callable[..., Array],
    discount: Number,
    baseline: Baseline | None,
    scale: Baseline | None,
) -> Weights:
    return configured(
        function,
        **check_rates(discount=discount),
        baseline=_check_baseline("baseline", baseline),
        scale=_check_baseline("scale", scale),
    )


def _check_baseline(name: str, value: Baseline | None) -> Baseline | None:
    return None if value is None else check_part(name, value, "baseline")


def _subtract_and_divide(
    batch: Trajectory, target: Array, baseline: Baseline | None, scale: Baseline | None = None
) -> Array:
    """The target less its baseline, divided by its scale."""
    less = target if baseline is None else target - baseline(batch, target)
    return less if scale is None else less / scale(batch, target)
