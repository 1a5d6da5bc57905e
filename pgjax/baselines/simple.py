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

from pgjax.baselines.groups import Groups, deviation
from pgjax.baselines.groups import consecutive as consecutive
from pgjax.baselines.groups import labelled as labelled
from pgjax.core.validation import check_at_least
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


def group_mean(groups: Groups) -> Baseline:
    """The mean over the trajectory's group, b_it = (1/G) Σ_{j∈group} target_jt, itself included.

    An episode that has ended counts with a return of zero, and so does a row whose mask hides it
    all; rows that only pad a batch want an id of their own.

    Args:
        groups: `consecutive(group_size)` or `labelled(ids)`.

    Raises:
        ValueError: at use, groups that do not fit the batch.

    Bias: the gradient shrinks by (G−1)/G in groups of G, because the trajectory's own return is
    subtracted too. In a group of one, nothing is left.

    References:
        Shao et al., DeepSeekMath (2024), section 4.1.2, there divided by `group_deviation`; Liu et
        al., Understanding R1-Zero-Like Training (2025), without.

    Example:
        >>> import pgjax
        >>> from pgjax.baselines.simple import consecutive, group_mean
        >>> estimator = pgjax.reinforce(1.0, baseline=group_mean(consecutive(8)))
    """
    return lambda batch, target: groups.total(target) / _members(groups, target)


def group_leave_one_out(groups: Groups) -> Baseline:
    """The mean over the *others* of the trajectory's group, b_it = Σ_{j≠i} target_jt / (G−1).

    An episode that has ended counts with a return of zero, and so does a row whose mask hides it
    all.

    Args:
        groups: `consecutive(group_size)` or `labelled(ids)`.

    Returns:
        A baseline. Where ids are traced a group may turn out to be of one: its baseline is then its
        own return, so that it weighs nothing.

    Raises:
        ValueError: a group of one, if sizes are known beforehand; at use, groups that do not fit
            the batch.

    Bias: none, if ids do not depend on what the trajectories did (a traced group of one gives zero,
    and so is left out of the average that still divides by it).

    References:
        Kool, van Hoof & Welling (2019), eq. 8; Ahmadian et al., Back to Basics (2024), eq. 8.
    """
    if groups.smallest is not None and groups.smallest < 2:
        raise ValueError(
            f"group_leave_one_out needs groups of at least 2, got one of {groups.smallest}; "
            "draw more trajectories for each question"
        )

    def evaluate(batch: Trajectory, target: Array) -> Array:
        others = _members(groups, target) - 1
        mean = (groups.total(target) - target) / jnp.maximum(others, 1)
        return jnp.where(others > 0, mean, target)

    return evaluate


def group_deviation(groups: Groups, *, epsilon: float | Float[Array, ""] = 1e-4) -> Baseline:
    """The group's standard deviation, √(Σ_j (target_jt − mean)² / (G−1)) + ε: a `scale`.

    The divisor is G−1. Where it tells the members apart by no more than rounding (all agree, or
    there is but one) it is infinite, so that they weigh nothing.

    Args:
        groups: `consecutive(group_size)` or `labelled(ids)`.
        epsilon: ε ≥ 0, in units of return; 1e-4 in TRL, 1e-6 in verl.

    Returns:
        A function like a baseline; weights take it as `scale`, to divide by.

    Raises:
        ValueError: a negative ε; at use, groups that do not fit the batch.

    Bias: biased: each group's gradient is divided by a number that its own returns decide. Easy and
    hard questions, whose returns differ little, count for more.

    References:
        Shao et al., DeepSeekMath (2024), section 4.1.2, which leaves divisor and ε open; G−1 is
        what `torch.std` in TRL and verl divides by.
    """
    check_at_least("epsilon", epsilon, 0.0, "a deviation is not negative")

    def evaluate(batch: Trajectory, target: Array) -> Array:
        members = _members(groups, target)
        squares = groups.total((target - groups.total(target) / members) ** 2)
        magnitude = jnp.sqrt(groups.total(target**2) / members)
        return deviation(squares, members - 1, magnitude, epsilon)

    return evaluate


def _members(groups: Groups, target: Array) -> Array:
    """[N, 1] how many rows each row's group has."""
    return groups.total(jnp.ones((target.shape[0], 1), target.dtype))
