"""Baselines by group: the mean return of a trajectory's group, or of the others in it.

`groups` is `consecutive(group_size)` or `labelled(ids)`. A ValueError is raised at use if the
groups do not fit the batch. An episode that has ended counts with a return of zero. So does a row
that is masked throughout: if rows only pad a batch, give them another id than the episodes'.
"""

import jax.numpy as jnp
from jax import Array

from pgjax.baselines.groups import Groups, check_groups, deviation
from pgjax.core.validation import check_at_least
from pgjax.records import configured
from pgjax.types import Baseline, Number, Trajectory


def group_mean(groups: Groups) -> Baseline:
    """The mean over the trajectory's group, b_it = (1/G) Σ_{j∈group} target_jt, itself included.

    Bias: the gradient is too small, (G−1)/G of the unbiased one in groups of G, because the
    trajectory's own return is subtracted too. In a group of one, the weight is zero.

    References:
        Shao et al., DeepSeekMath (2024), section 4.1.2, there divided by `group_deviation`; Liu et
        al., Understanding R1-Zero-Like Training (2025), without.

    Example:
        >>> import pgjax
        >>> from pgjax.baselines import consecutive, group_mean
        >>> estimator = pgjax.reinforce(1.0, baseline=group_mean(consecutive(8)))
    """
    return configured(_group_mean, groups=check_groups(groups))


def _group_mean(batch: Trajectory, target: Array, *, groups: Groups) -> Array:
    return groups.total(target) / _count_members(groups, target)


def group_leave_one_out(groups: Groups) -> Baseline:
    """The mean over the *others* of the trajectory's group, b_it = Σ_{j≠i} target_jt / (G−1).

    If ids are traced, a group may have only one member. Its baseline is then its own return, so
    that its weight is zero.

    Raises:
        ValueError: if a group is known to have only one member.

    Bias: none, if ids do not depend on the trajectories' actions or rewards. A traced group of one
    contributes zero, and the average still counts it.

    References:
        Kool, van Hoof & Welling (2019), eq. 8; Ahmadian et al., Back to Basics (2024), eq. 8.

    Example:
        >>> import pgjax
        >>> from pgjax.baselines import consecutive, group_leave_one_out
        >>> estimator = pgjax.reinforce(1.0, baseline=group_leave_one_out(consecutive(8)))
    """
    check_groups(groups)
    if groups.smallest is not None and groups.smallest < 2:
        raise ValueError(
            f"group_leave_one_out needs groups of at least 2, got a group of {groups.smallest}; "
            "draw more trajectories for each question"
        )

    return configured(_group_leave_one_out, groups=groups)


def _group_leave_one_out(batch: Trajectory, target: Array, *, groups: Groups) -> Array:
    others = _count_members(groups, target) - 1
    mean = (groups.total(target) - target) / jnp.maximum(others, 1)
    return jnp.where(others > 0, mean, target)


def group_deviation(groups: Groups, *, epsilon: Number = 1e-4) -> Baseline:
    """The group's standard deviation, √(Σ_j (target_jt − mean)² / (G−1)) + ε: a `scale`.

    If the members differ by no more than rounding, or if there is only one, it is infinite. Their
    weights are then zero.

    Args:
        epsilon: ε ≥ 0, in units of return; 1e-4 in TRL, 1e-6 in verl.

    Returns:
        A function like a baseline; weights take it as `scale`, to divide by.

    Raises:
        ValueError: if ε is negative.

    Bias: biased: each group's gradient is divided by a number computed from its own returns. Easy
    and hard questions, whose returns differ little, count for more.

    References:
        Shao et al., DeepSeekMath (2024), section 4.1.2, which leaves divisor and ε open; G−1 is
        the divisor of `torch.std`, which TRL and verl use.

    Example:
        >>> from pgjax import weights
        >>> from pgjax.baselines import consecutive, group_deviation, group_mean
        >>> groups = consecutive(8)
        >>> relative = weights.total_return(
        ...     1.0, baseline=group_mean(groups), scale=group_deviation(groups))
    """
    epsilon = check_at_least("epsilon", epsilon, 0.0, "a deviation is not negative")
    return configured(_group_deviation, groups=check_groups(groups), epsilon=epsilon)


def _group_deviation(batch: Trajectory, target: Array, *, groups: Groups, epsilon: Number) -> Array:
    members = _count_members(groups, target)
    squares = groups.total((target - groups.total(target) / members) ** 2)
    magnitude = jnp.sqrt(groups.total(target**2) / members)
    return deviation(squares, members - 1, magnitude, epsilon)


def _count_members(groups: Groups, target: Array) -> Array:
    """[N, 1] the number of rows in each row's group."""
    return groups.total(jnp.ones((target.shape[0], 1), target.dtype))
