"""Baselines: what is subtracted from a return, as functions (batch, target[N,T]) -> [N,T].

`target` is the return the baseline is compared with: the total return on every step, or the
reward-to-go. A baseline costs nothing, in expectation, if b_it depends on nothing that trajectory i
does from a_it on; each docstring says whether that holds.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.types import Trajectory

Baseline: TypeAlias = Callable[[Trajectory, Array], Array]


def constant(baseline: float | Float[Array, ""]) -> Baseline:
    """The same number b on every step.

    Args:
        baseline: b, in units of return.

    Bias: none. It can raise the variance as well as lower it.

    References:
        Williams, Simple Statistical Gradient-Following Algorithms (1992), section 4.
    """
    return lambda batch, target: jnp.broadcast_to(jnp.asarray(baseline, target.dtype), target.shape)


def per_time_step(baseline: Float[Array, "T"]) -> Baseline:
    """A number for each time step, b_t, given beforehand.

    Args:
        baseline: [T] in units of return.

    Raises:
        ValueError: from the estimator, if T is not the batch's.

    Bias: none if the numbers were not computed from the batch.

    References:
        Peters & Schaal, Reinforcement learning of motor skills with policy gradients (2008), 3.2.
    """

    def evaluate(batch: Trajectory, target: Array) -> Array:
        values = jnp.asarray(baseline, target.dtype)
        if values.shape != target.shape[1:]:
            raise ValueError(
                f"per_time_step baseline must have shape [T] = {target.shape[1:]}, "
                f"got {values.shape}"
            )
        return jnp.broadcast_to(values, target.shape)

    return evaluate


def state_value(value: Callable[[Array], Array]) -> Baseline:
    """A fixed function of the observation, b(s_t).

    Args:
        value: one observation -> scalar, in units of return; for a table over one-hot
            observations, `lambda observation: observation @ table`.

    Bias: none, whatever the function, if it was not fitted to this batch.

    References:
        Sutton et al., Policy Gradient Methods for RL with Function Approximation (2000), section 2.
    """
    return lambda batch, target: jax.vmap(jax.vmap(value))(batch.observation).astype(target.dtype)


def recorded_value(batch: Trajectory, target: Array) -> Array:
    """The batch's own `value`, b_it = V(s_it), written there by a critic.

    Raises:
        ValueError: the batch carries no value.

    Bias: none if the critic was not fitted to this batch.

    References:
        Sutton & Barto (2018), section 13.4.
    """
    if batch.value is None:
        raise ValueError(
            "batch.value is None, and the recorded_value baseline needs it: "
            "batch.replace(value=critic(batch.observation))"
        )
    return batch.value.astype(target.dtype)


def batch_mean(batch: Trajectory, target: Array) -> Array:
    """The batch's mean at each time step, b_t = (1/N) Σ_j target_jt, own sample included.

    An episode that has ended counts with a return of zero.

    Bias: the gradient shrinks by (N−1)/N, because the trajectory's own return is subtracted too.

    References:
        The baseline of most REINFORCE code; with groups, of Shao et al., DeepSeekMath (2024).
    """
    return jnp.broadcast_to(jnp.mean(target, axis=0), target.shape)


def leave_one_out(batch: Trajectory, target: Array) -> Array:
    """The mean over the *other* trajectories, b_it = Σ_{j≠i} target_jt / (N−1).

    An episode that has ended counts with a return of zero; so the number of others is N−1 at every
    step, whatever trajectory i does.

    Raises:
        ValueError: a batch of one, which has no others.

    Bias: none.

    References:
        Kool, van Hoof & Welling, Buy 4 REINFORCE Samples, Get a Baseline for Free! (2019), eq. 8.
    """
    N = target.shape[0]
    if N < 2:
        raise ValueError(f"leave_one_out needs a batch of at least 2 trajectories, got N = {N}")
    return (jnp.sum(target, axis=0, keepdims=True) - target) / (N - 1)
