"""Returns and advantages [T] of one sequence, most by the recurrence x_t = b_t + a_t x_{t+1}.

Every function takes one sequence of length T, and `jax.vmap` adds the batch. Sums are accumulated
in float32 or wider, because γ = 0.999 is 1.0 in bfloat16. The result [T] has the reward's dtype, or
float32 if rewards are integers.

The arguments mean the same everywhere:

- reward: [T].
- discount: γ in [0, 1], a scalar or [T]. As [T] it is zero where an episode terminated. If it is
  the scalar 0, what follows does not count, even if it is infinite.
- lambda_: λ in [0, 1], a scalar or [T]. As [T] it is zero at an episode's last step if another step
  follows.
- value: [T] V(s_t).
- next_value: [T] V(s_{t+1}): zero where the episode terminated, V(final observation) where it was
  truncated.

A ValueError is raised if a shape does not fit, or if γ or λ is outside [0, 1].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Num

from pgjax.core.recurrence import accumulation_dtype, reverse_affine, scaled
from pgjax.core.validation import (
    as_array,
    check_positive,
    check_rates,
    check_real,
    check_scalar_or_sequence,
    check_sequence,
)

Scalar = float | int | Num[Array | np.ndarray, ""]
ScalarOrSequence = Scalar | Num[Array | np.ndarray, "T"]


def discounted_returns(
    reward: Num[Array, "T"], discount: ScalarOrSequence, bootstrap_value: Scalar = 0.0
) -> Num[Array, "T"]:
    """Discounted return from each step on, G_t = r_t + γ_t G_{t+1}, with G_T the bootstrap value.

    Args:
        bootstrap_value: V of the state after the last step if the sequence was cut there; else 0.

    Bias: none for the return of the given sequence, except for the error of a bootstrap value.

    References:
        Sutton & Barto, Reinforcement Learning, 2nd ed. (2018), eq. 3.9.

    Example:
        >>> import jax.numpy as jnp
        >>> discounted_returns(jnp.array([1.0, 1.0, 1.0]), 0.5)
        Array([1.75, 1.5 , 1.  ], dtype=float32)
    """
    rewards, gamma, _ = _read(reward, discount)
    last = _scalar("bootstrap_value", bootstrap_value, rewards.dtype)
    return _restore(reverse_affine(jnp.atleast_1d(gamma), rewards, last), reward)


def td_errors(
    reward: Num[Array, "T"],
    discount: ScalarOrSequence,
    value: Float[Array, "T"],
    next_value: Float[Array, "T"],
) -> Num[Array, "T"]:
    """One-step temporal-difference errors, δ_t = r_t + γ_t V(s_{t+1}) − V(s_t).

    Bias: none for the advantage if V = V^π. Otherwise, with the error e = V − V^π, the mean of δ_t
    given s_t and a_t is too large by γ E[e(s_{t+1})] − e(s_t).

    References:
        Sutton & Barto (2018), eq. 6.5.

    Example:
        >>> import jax.numpy as jnp
        >>> td_errors(jnp.array([1.0, 2.0]), 0.5, jnp.array([1.0, 4.0]), jnp.array([4.0, 0.0]))
        Array([ 2., -2.], dtype=float32)
    """
    rewards, gamma, _, value, next_value = _read(
        reward, discount, value=value, next_value=next_value
    )
    return _restore(rewards + scaled(gamma, next_value) - value, reward)


def generalized_advantages(
    reward: Num[Array, "T"],
    discount: ScalarOrSequence,
    lambda_: ScalarOrSequence,
    value: Float[Array, "T"],
    next_value: Float[Array, "T"],
) -> Num[Array, "T"]:
    """Generalized advantage estimates, A_t = δ_t + γ_t λ_t A_{t+1}.

    With λ = 1, A + V is the return.

    Bias: none for the advantage if V = V^π. If λ = 1 and the episode terminates, it is too large by
    V^π(s_t) − V(s_t), which depends on the state alone and so biases no policy gradient.

    References:
        Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage
        Estimation (2016), eq. 16.

    Example:
        >>> import jax.numpy as jnp
        >>> value, next_value = jnp.array([1.0, 4.0]), jnp.array([4.0, 0.0])
        >>> generalized_advantages(jnp.array([1.0, 2.0]), 0.5, 1.0, value, next_value)
        Array([ 1., -2.], dtype=float32)
    """
    rewards, gamma, lambda_, value, next_value = _read(
        reward, discount, lambda_, value=value, next_value=next_value
    )
    error = rewards + scaled(gamma, next_value) - value
    slope = jnp.atleast_1d(gamma * lambda_)
    return _restore(reverse_affine(slope, error, jnp.zeros((), error.dtype)), reward)


def lambda_returns(
    reward: Num[Array, "T"],
    discount: ScalarOrSequence,
    lambda_: ScalarOrSequence,
    next_value: Float[Array, "T"],
) -> Num[Array, "T"]:
    """λ-returns, G_t = r_t + γ_t [(1 − λ_t) V(s_{t+1}) + λ_t G_{t+1}], with G_T = V(s_T).

    λ = 1 gives the return, and λ = 0 the one-step return r_t + γ_t V(s_{t+1}).

    Bias: none for Q^π(s_t, a_t) if V = V^π, or if λ = 1 and the episode terminates.

    References:
        Sutton & Barto (2018), eq. 12.18 with state values.

    Example:
        >>> import jax.numpy as jnp
        >>> lambda_returns(jnp.array([1.0, 2.0]), 0.5, 0.0, jnp.array([4.0, 0.0]))
        Array([3., 2.], dtype=float32)
    """
    rewards, gamma, lambda_, next_value = _read(reward, discount, lambda_, next_value=next_value)
    if rewards.shape == (0,):
        return _restore(rewards, reward)
    intercept = rewards + scaled(gamma * (1 - lambda_), next_value)
    slope = jnp.atleast_1d(gamma * lambda_)
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

    If an episode ends before n steps are over, V of the state after its last step ends the sum. The
    work is min(n, T) · T operations.

    Args:
        n: the number of rewards, at least one; n ≥ T gives the return.
        continues: [T] boolean, false at each episode's last step; None if there is one episode.

    Raises:
        TypeError: if n is not an integer, or `continues` is not boolean.
        ValueError: if n is below one.

    Bias: none for Q^π(s_t, a_t) if V = V^π, or if every episode terminates within n steps of t.

    References:
        Sutton & Barto (2018), eq. 7.1.

    Example:
        >>> import jax.numpy as jnp
        >>> n_step_returns(jnp.array([1.0, 2.0, 4.0]), 0.5, 2, jnp.array([8.0, 8.0, 0.0]))
        Array([4., 4., 4.], dtype=float32)
    """
    n = check_positive("n", n)
    rewards, gamma, _, following = _read(reward, discount, next_value=next_value)
    if continues is not None:
        continues = check_sequence("continues", continues, ("reward", rewards))
        if continues.dtype != jnp.bool_:
            raise TypeError(f"continues must be boolean, got {continues.dtype}; use x > 0")

    # n Bellman backups of all steps at once. A sum that slides over the rewards, R_t − γ^n R_{t+n},
    # would need no loop, but loses digits by cancellation and cannot end at an episode's end.
    def back_up(_: Any, target: Array) -> Array:
        later = jnp.concatenate([target[1:], following[-1:]])
        if continues is not None:
            later = jnp.where(continues, later, following)
        return rewards + scaled(gamma, later)

    target = jax.lax.fori_loop(1, min(n, len(rewards)), back_up, rewards + scaled(gamma, following))
    return _restore(target, reward)


def _read(
    reward: Array, discount: ScalarOrSequence, lambda_: ScalarOrSequence = 1.0, **values: Array
) -> tuple[Array, ...]:
    """Reward, γ, λ and values, checked, in the dtype in which they are accumulated."""
    given = {"discount": discount, "lambda_": lambda_}
    check_rates(**{name: x for name, x in given.items() if np.size(check_real(name, x))})
    reward = check_sequence("reward", reward)
    like = "reward", reward
    read = [check_scalar_or_sequence(name, rate, like) for name, rate in given.items()]
    read += [check_sequence(name, value, like) for name, value in values.items()]
    dtype = accumulation_dtype(reward)
    return tuple(x.astype(dtype) for x in (reward, *read))


def _scalar(name: str, value: Scalar, dtype: jnp.dtype) -> Array:
    array = as_array(name, value)
    if array.ndim:
        raise ValueError(f"{name} must be a scalar, got shape {array.shape}; vmap over a batch")
    return array.astype(dtype)


def _restore(x: Array, like: Array) -> Array:
    """`x` in the dtype of `like`, if that is floating."""
    dtype = jnp.asarray(like).dtype
    return x.astype(dtype) if jnp.issubdtype(dtype, jnp.floating) else x
