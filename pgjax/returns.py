"""Returns: thin readings of one reverse affine recurrence, x_t = b_t + a_t x_{t+1}.

Every function here knows one sequence of length T and no batch; `jax.vmap` adds it. Accumulation
is in float32 or wider whatever comes in, because γ = 0.999 is 1.0 in bfloat16; a floating input
gets its own dtype back, an integer one float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Num

from pgjax.core.recurrence import accumulation_dtype, reverse_affine
from pgjax.core.validation import (
    check_positive,
    check_scalar_or_sequence,
    check_sequence,
    check_unit_interval,
)

Scalar = float | int | Num[Array | np.ndarray, ""]
ScalarOrSequence = Scalar | Num[Array | np.ndarray, "T"]


def discounted_returns(
    reward: Num[Array, "T"], discount: ScalarOrSequence, bootstrap_value: Scalar = 0.0
) -> Num[Array, "T"]:
    """Discounted return from each step on, G_t = r_t + γ_t G_{t+1}, with G_T the bootstrap value.

    Args:
        reward: [T].
        discount: γ in [0, 1], a scalar, or [T]: γ times the continuation, zero where an episode
            terminated.
        bootstrap_value: V of what follows the last step, where the sequence was cut, not ended.

    Returns:
        [T], in the reward's dtype (float32 for integers).

    Raises:
        ValueError: a shape other than [T], a discount outside [0, 1].

    Bias: none, for the return of the sequence given; a bootstrap value is as right as its critic.

    References:
        Sutton & Barto, Reinforcement Learning, 2nd ed. (2018), eq. 3.9.

    Example:
        >>> import jax.numpy as jnp
        >>> discounted_returns(jnp.array([1.0, 1.0, 1.0]), 0.5)
        Array([1.75, 1.5 , 1.  ], dtype=float32)
    """
    reward, discount = jnp.asarray(reward), _discount(discount)
    check_sequence("reward", reward)
    check_scalar_or_sequence("discount", discount, ("reward", reward))
    dtype = accumulation_dtype(reward)
    last = _scalar("bootstrap_value", bootstrap_value, dtype)
    returns = reverse_affine(_slope(discount, dtype), reward.astype(dtype), last)
    return _restore(returns, reward)


def td_errors(
    reward: Num[Array, "T"],
    discount: ScalarOrSequence,
    value: Float[Array, "T"],
    next_value: Float[Array, "T"],
) -> Num[Array, "T"]:
    """One-step temporal-difference errors, δ_t = r_t + γ_t V(s_{t+1}) − V(s_t).

    Args:
        reward: [T].
        discount: γ in [0, 1], a scalar or [T].
        value: [T] V(s_t).
        next_value: [T] V(s_{t+1}): zero where the episode terminated, V(final observation) where it
            was truncated.

    Returns:
        [T], in the reward's dtype (float32 for integers).

    Raises:
        ValueError: a shape other than [T], a discount outside [0, 1].

    Bias: E[δ_t|s_t,a_t] is the advantage if V = V^π, else it is off by γ E[V−V^π] − (V−V^π).

    References:
        Sutton & Barto (2018), eq. 6.5.

    Example:
        >>> import jax.numpy as jnp
        >>> td_errors(jnp.array([1.0, 2.0]), 0.5, jnp.array([1.0, 4.0]), jnp.array([4.0, 0.0]))
        Array([ 2., -2.], dtype=float32)
    """
    reward, discount = jnp.asarray(reward), _discount(discount)
    _check_values(reward, discount, value=value, next_value=next_value)
    dtype = accumulation_dtype(reward)
    reward_, value, next_value = (jnp.asarray(x).astype(dtype) for x in (reward, value, next_value))
    return _restore(reward_ + discount.astype(dtype) * next_value - value, reward)


def generalized_advantages(
    reward: Num[Array, "T"],
    discount: ScalarOrSequence,
    lambda_: ScalarOrSequence,
    value: Float[Array, "T"],
    next_value: Float[Array, "T"],
) -> Num[Array, "T"]:
    """Generalized advantage estimates, A_t = δ_t + γ_t λ_t A_{t+1}.

    Args:
        reward: [T].
        discount: γ in [0, 1], a scalar or [T].
        lambda_: λ in [0, 1], a scalar or [T] (zero where nothing may leak back from the next step).
        value: [T] V(s_t).
        next_value: [T] V(s_{t+1}), as for `td_errors`.

    Returns:
        [T], in the reward's dtype (float32 for integers). With λ = 1, A + V is the return.

    Raises:
        ValueError: a shape other than [T], a discount or λ outside [0, 1].

    Bias: none for the advantage if λ = 1 or V = V^π.

    References:
        Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage
        Estimation (2016), eq. 16.

    Example:
        >>> import jax.numpy as jnp
        >>> value, next_value = jnp.array([1.0, 4.0]), jnp.array([4.0, 0.0])
        >>> generalized_advantages(jnp.array([1.0, 2.0]), 0.5, 1.0, value, next_value)
        Array([ 1., -2.], dtype=float32)
    """
    check_unit_interval("lambda_", lambda_)
    reward, discount, lambda_ = jnp.asarray(reward), _discount(discount), jnp.asarray(lambda_)
    _check_values(reward, discount, value=value, next_value=next_value)
    check_scalar_or_sequence("lambda_", lambda_, ("reward", reward))
    dtype = accumulation_dtype(reward)
    error = td_errors(reward.astype(dtype), discount, value, next_value)
    slope = _slope(discount.astype(dtype) * lambda_.astype(dtype), dtype)
    return _restore(reverse_affine(slope, error, jnp.zeros((), dtype)), reward)


def lambda_returns(
    reward: Num[Array, "T"],
    discount: ScalarOrSequence,
    lambda_: ScalarOrSequence,
    next_value: Float[Array, "T"],
) -> Num[Array, "T"]:
    """λ-returns, G_t = r_t + γ_t [(1 − λ_t) V(s_{t+1}) + λ_t G_{t+1}], with G_T = V(s_T).

    Args:
        reward: [T].
        discount: γ in [0, 1], a scalar or [T].
        lambda_: λ in [0, 1], a scalar or [T]; zero at an episode's last step when padding follows.
        next_value: [T] V(s_{t+1}), as for `td_errors`.

    Returns:
        [T], in the reward's dtype (float32 for integers). λ = 1 is the return, λ = 0 one TD step.

    Raises:
        ValueError: a shape other than [T], a discount or λ outside [0, 1].

    Bias: none for Q^π(s_t, a_t) if λ = 1 or V = V^π.

    References:
        Sutton & Barto (2018), eq. 12.18 with state values.

    Example:
        >>> import jax.numpy as jnp
        >>> lambda_returns(jnp.array([1.0, 2.0]), 0.5, 0.0, jnp.array([4.0, 0.0]))
        Array([3., 2.], dtype=float32)
    """
    check_unit_interval("lambda_", lambda_)
    reward, discount, lambda_ = jnp.asarray(reward), _discount(discount), jnp.asarray(lambda_)
    _check_values(reward, discount, next_value=next_value)
    check_scalar_or_sequence("lambda_", lambda_, ("reward", reward))
    if reward.shape == (0,):
        return _restore(reward.astype(accumulation_dtype(reward)), reward)
    dtype = accumulation_dtype(reward)
    discount, lambda_ = discount.astype(dtype), lambda_.astype(dtype)
    next_value = jnp.asarray(next_value).astype(dtype)
    intercept = reward.astype(dtype) + discount * (1 - lambda_) * next_value
    slope = _slope(discount * lambda_, dtype)
    return _restore(reverse_affine(slope, intercept, next_value[-1]), reward)


def n_step_returns(
    reward: Num[Array, "T"],
    discount: ScalarOrSequence,
    n: int,
    next_value: Float[Array, "T"],
    *,
    continues: Bool[Array, "T"] | None = None,
) -> Num[Array, "T"]:
    """n-step returns, G_t = r_t + γ r_{t+1} + … + γ^{n−1} r_{t+n−1} + γ^n V(s_{t+n}).

    Where an episode is cut before n steps are over, V of what followed its last step ends the sum.
    The work is min(n, T) T.

    Args:
        reward: [T].
        discount: γ in [0, 1], a scalar or [T].
        n: steps, at least one; from T on it is the return.
        next_value: [T] V(s_{t+1}), as for `td_errors`.
        continues: [T] false at an episode's last step; None where only the last one is.

    Returns:
        [T], in the reward's dtype (float32 for integers).

    Raises:
        TypeError: an n that is no integer.
        ValueError: n below one, a shape other than [T], a discount outside [0, 1].

    Bias: none for Q^π(s_t, a_t) if V = V^π, or if every episode ends within n steps of t.

    References:
        Sutton & Barto (2018), eq. 7.1.

    Example:
        >>> import jax.numpy as jnp
        >>> n_step_returns(jnp.array([1.0, 2.0, 4.0]), 0.5, 2, jnp.array([8.0, 8.0, 0.0]))
        Array([4., 4., 4.], dtype=float32)
    """
    n, reward, discount = check_positive("n", n), jnp.asarray(reward), _discount(discount)
    _check_values(reward, discount, next_value=next_value)
    if continues is not None:
        check_sequence("continues", jnp.asarray(continues), ("reward", reward))
    dtype = accumulation_dtype(reward)
    gamma = discount.astype(dtype)
    rewards, following = (jnp.asarray(x).astype(dtype) for x in (reward, next_value))

    # n Bellman backups of all steps at once. A sum that slides over the rewards, R_t − γ^n R_{t+n},
    # would need no loop, but cancels, and knows no cuts.
    def back_up(_: Any, target: Array) -> Array:
        later = jnp.concatenate([target[1:], following[-1:]])
        if continues is not None:
            later = jnp.where(continues, later, following)
        return rewards + gamma * later

    target = jax.lax.fori_loop(1, min(n, len(reward)), back_up, rewards + gamma * following)
    return _restore(target, reward)


def _slope(slope: Array, dtype: jnp.dtype) -> Array:
    """[T], or [1] where a scalar serves every step and need not be written out."""
    return jnp.atleast_1d(slope).astype(dtype)


def _restore(x: Array, like: Array) -> Array:
    return x.astype(like.dtype) if jnp.issubdtype(like.dtype, jnp.floating) else x


def _discount(discount: ScalarOrSequence) -> Array:
    check_unit_interval("discount", discount)
    return jnp.asarray(discount)


def _scalar(name: str, value: Scalar, dtype: jnp.dtype) -> Array:
    array = jnp.asarray(value)
    if array.ndim:
        raise ValueError(f"{name} must be a scalar, got shape {array.shape}; vmap over a batch")
    return array.astype(dtype)


def _check_values(reward: Array, discount: Array, **values: Array) -> None:
    check_sequence("reward", reward)
    check_scalar_or_sequence("discount", discount, ("reward", reward))
    for name, value in values.items():
        check_sequence(name, jnp.asarray(value), ("reward", reward))
