"""Baselines from the batch: the mean return of all its trajectories, or of all the others.

An episode that has ended counts with a return of zero. The number of trajectories averaged is
therefore the same at every step, whatever trajectory i does.
"""

import jax.numpy as jnp
from jax import Array

from pgjax.core.validation import check_target
from pgjax.types import Trajectory


def batch_mean(batch: Trajectory, target: Array) -> Array:
    """The batch's mean at each time step, b_t = (1/N) Σ_j target_jt, own sample included.

    Bias: the gradient is too small, (N−1)/N of the unbiased one, because the trajectory's own
    return is subtracted too.

    References:
        Most REINFORCE code uses it; with groups, Shao et al., DeepSeekMath (2024).

    Example:
        >>> import pgjax
        >>> estimator = pgjax.reward_to_go(0.99, baseline=pgjax.baselines.batch_mean)
    """
    target = check_target(batch, target)
    return jnp.broadcast_to(jnp.mean(target, axis=0), target.shape)


def leave_one_out(batch: Trajectory, target: Array) -> Array:
    """The mean over the *other* trajectories, b_it = Σ_{j≠i} target_jt / (N−1).

    Raises:
        ValueError: if N = 1, because there are no others.

    Bias: none.

    References:
        Kool, van Hoof & Welling, Buy 4 REINFORCE Samples, Get a Baseline for Free! (2019), eq. 8.

    Example:
        >>> import pgjax
        >>> estimator = pgjax.reward_to_go(0.99, baseline=pgjax.baselines.leave_one_out)
    """
    target = check_target(batch, target)
    N = target.shape[0]
    if N < 2:
        raise ValueError(
            f"leave_one_out needs a batch of at least 2 trajectories, got N = {N}; draw more, or "
            "use another baseline"
        )
    return (jnp.sum(target, axis=0, keepdims=True) - target) / (N - 1)
