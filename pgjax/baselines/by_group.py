"""Baselines by group: the mean return of a trajectory's group, or of the others in it."""

import jax.numpy as jnp
from jax import Array

from pgjax.baselines.groups import Groups, deviation
from pgjax.core.validation import check_at_least
from pgjax.records import configured
from pgjax.types import Baseline, Number, Trajectory


def group_mean(groups: Groups) -> Baseline:
    """The mean over the trajectory's group, b_it = (1/G) Σ_{j∈group} target_jt, itself included.

    An episode that has ended counts with a return of zero, and so does a row whose mask hides it
    all; rows that only pad a batch want an id of their own.

    Raises:
        ValueError: at use, if the groups do not fit the batch.

    Bias: the gradient shrinks by (G−1)/G in groups of G, because the trajectory's own return is
    subtracted too. In a group of one, nothing is left.

    References:
        Shao et al., DeepSeekMath (2024), section 4.1.2, there divided by `group_deviation`; Liu et
        al., Understanding R1-Zero-Like Training (2025), without.

    Example:
        >>> import pgjax
        >>> from pgjax.baselines import consecutive, group_mean
        >>> estimator = pgjax.reinforce(1.0, baseline=group_mean(consecutive(8)))
    """
    return configured(_group_mean, groups=groups)


def _group_mean(batch: Trajectory, target: Array, *, groups: Groups) -> Array:
    return groups.total(target) / _count_members(groups, target)


def group_leave_one_out(groups: Groups) -> Baseline:
    """The mean over the *others* of the trajectory's group, b_it = Σ_{j≠i} target_jt / (G−1).

    An episode that has ended counts with a return of zero, and so does a row whose mask hides it
    all.

    Returns:
        A baseline. Where ids are traced a group may turn out to be of one: its baseline is then its
        own return, so that it weighs nothing.

    Raises:
        ValueError: if a group is known to be of one; at use, if the groups do not fit the batch.

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

    return configured(_group_leave_one_out, groups=groups)


def _group_leave_one_out(batch: Trajectory, target: Array, *, groups: Groups) -> Array:
    others = _count_members(groups, target) - 1
    mean = (groups.total(target) - target) / jnp.maximum(others, 1)
    return jnp.where(others > 0, mean, target)


def group_deviation(groups: Groups, *, epsilon: Number = 1e-4) -> Baseline:
    """The group's standard deviation, √(Σ_j (target_jt − mean)² / (G−1)) + ε: a `scale`.

    The divisor is G−1. Where it tells the members apart by no more than rounding (all agree, or
    there is but one) it is infinite, so that they weigh nothing.

    Args:
        epsilon: ε ≥ 0, in units of return; 1e-4 in TRL, 1e-6 in verl.

    Returns:
        A function like a baseline; weights take it as `scale`, to divide by.

    Raises:
        ValueError: if ε is negative; at use, if the groups do not fit the batch.

    Bias: biased: each group's gradient is divided by a number that its own returns decide. Easy and
    hard questions, whose returns differ little, count for more.

    References:
        Shao et al., DeepSeekMath (2024), section 4.1.2, which leaves divisor and ε open; G−1 is
        what `torch.std` in TRL and verl divides by.
    """
    epsilon = check_at_least("epsilon", epsilon, 0.0, "a deviation is not negative")
    return configured(_group_deviation, groups=groups, epsilon=epsilon)


def _group_deviation(batch: Trajectory, target: Array, *, groups: Groups, epsilon: Number) -> Array:
    members = _count_members(groups, target)
    squares = groups.total((target - groups.total(target) / members) ** 2)
    magnitude = jnp.sqrt(groups.total(target**2) / members)
    return deviation(squares, members - 1, magnitude, epsilon)


def _count_members(groups: Groups, target: Array) -> Array:
    """[N, 1] how many rows each row's group has."""
    return groups.total(jnp.ones((target.shape[0], 1), target.dtype))
