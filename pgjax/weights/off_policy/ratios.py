"""Ratios ρ_t = π(a_t|s_t)/μ(a_t|s_t) and their products ρ_{0:t} = ρ_0 ⋯ ρ_t, in log space.

Ratios and products stay finite. A ratio above the square root of the largest number of its dtype
(e^44 in float32, e^354 in float64) is held there. An action that π never takes has ratio zero, even
if μ never takes it either. An action that only μ never takes has the largest ratio, which is held.

Batches are [N, T], with μ's log-probabilities as `log_prob`.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.core.episode_boundaries import is_first_step
from pgjax.core.recurrence import accumulation_dtype
from pgjax.core.validation import as_array, check_above_zero, check_log_prob, check_scalars
from pgjax.returns import discounted_returns
from pgjax.terms.ratios import largest_log_ratio
from pgjax.types import Number, Trajectory

ZERO, INFINITE = -1e6, 1e4
"""Log-ratios of actions that π, or μ, never takes. They are finite, so that their sums are, and a
zero outweighs almost a hundred infinities."""


def log_ratios(batch: Trajectory, log_prob: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """Logarithms of the steps' ratios, log ρ_t = log π(a_t|s_t) − log μ(a_t|s_t).

    Args:
        log_prob: [N, T] log π(a_t|s_t); −inf for an action that π never takes.

    Returns:
        [N, T], in the reward's precision or float32, within [−1e6, 1e4]; zero on masked steps.

    Raises:
        ValueError: if `log_prob` is not [N, T].

    Bias: exact within those bounds.
    """
    log_prob = check_log_prob(batch, log_prob)
    dtype = accumulation_dtype(batch.reward)
    never = batch.mask & (log_prob == -jnp.inf)
    known = batch.mask & ~never
    target, behaviour = (jnp.where(known, x, 0).astype(dtype) for x in (log_prob, batch.log_prob))
    return jnp.where(never, jnp.asarray(ZERO, dtype), jnp.clip(target - behaviour, ZERO, INFINITE))


def cumulative_log_ratios(batch: Trajectory, log_prob: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """Sums [N, T] of the log-ratios since the start of each step's episode, log ρ_{0:t}.

    After a row's last step its last sum is repeated.

    Bias: exact, except for an episode that began before its window. There the sum begins with the
    window.

    References:
        Precup, Sutton & Singh, Eligibility Traces for Off-Policy Policy Evaluation (2000), eq. 5.
    """
    log_ratio = log_ratios(batch, log_prob)
    carried = ~is_first_step(batch) | ~batch.mask  # a window's next episode starts anew
    slope = carried.astype(log_ratio.dtype)
    backwards = jax.vmap(discounted_returns)(log_ratio[:, ::-1], slope[:, ::-1])
    return backwards[:, ::-1]


def ratio_below(ceiling: Number, log_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """The bounded ratio min(ρ, c), [...], from log ρ.

    ρ is also held at the square root of the largest number of its dtype. So the result is finite
    unless log ρ is NaN.

    Args:
        ceiling: c > 0, or `math.inf`.
        log_ratio: [...] log ρ.

    Raises:
        ValueError: if the ceiling is not a single positive number.

    Bias: too small where ρ is above the ceiling.

    Example:
        >>> import jax.numpy as jnp
        >>> ratio_below(2.0, jnp.log(jnp.array([0.5, 4.0])))
        Array([0.5, 2. ], dtype=float32)
    """
    check_scalars(ceiling=check_ceiling("ceiling", ceiling))
    log_ratio = as_array("log_ratio", log_ratio)
    held = jnp.exp(jnp.minimum(log_ratio, largest_log_ratio(log_ratio.dtype)))
    return jnp.minimum(held, jnp.asarray(ceiling, held.dtype))


def check_ceiling(name: str, value: Number) -> Number:
    """`value`, if it is positive, perhaps infinite: a bound on a ratio."""
    fix = "it bounds a ratio of probabilities, and math.inf leaves it free"
    return check_above_zero(name, value, fix)
