"""Features of states and times for fitted baselines, and the products of the scores.

A batch is [N, T]. Features [N, T, F] and products are zero on masked steps.
"""

from dataclasses import replace
from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.core import episode_boundaries as boundaries
from pgjax.core.scores import weighted_score_per_trajectory
from pgjax.core.validation import check_batch, check_policy, check_rate
from pgjax.estimators import as_checked_arrays
from pgjax.types import Number, Params, Policy, RecurrentPolicy, Trajectory


def scalar(batch: Trajectory) -> Float[Array, "N T 1"]:
    """A single feature [N, T, 1] that is one on every live step: the baseline b is a number."""
    check_batch(batch)
    return jnp.asarray(batch.mask)[..., None].astype(_dtype(batch))


def time_steps(batch: Trajectory) -> Float[Array, "N T T"]:
    """One-hot features [N, T, T] of the time since the episode's start: b is a table b(t).

    A step whose time is T or later, as in a window, has no feature.
    """
    check_batch(batch)
    time = boundaries.time_in_episode(batch)[..., None]
    steps = jnp.arange(batch.mask.shape[1], dtype=time.dtype)
    return (batch.mask[..., None] & (time == steps[None, None])).astype(_dtype(batch))


def observations(batch: Trajectory) -> Float[Array, "N T F"]:
    """The observation as F numbers, [N, T, F]: b is a table b(s) if it is one-hot, else linear."""
    check_batch(batch)
    N, T = batch.mask.shape
    leaves = [jnp.reshape(jnp.asarray(x), (N, T, -1)) for x in jax.tree.leaves(batch.observation)]
    features = jnp.concatenate([x.astype(_dtype(batch)) for x in leaves], axis=-1)
    return jnp.where(batch.mask[..., None], features, 0)


def score_products(
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
    *,
    discount: Number,
) -> Float[Array, "N T T"]:
    """Products of a trajectory's scores, K_tt' = γ^t γ^t' ∇log π(a_t|s_t) · ∇log π(a_t'|s_t').

    The scores of one trajectory, T·P numbers, are held at a time. For a recurrent policy each step
    is unrolled separately, at T times the work.

    Args:
        discount: γ in the weights' γ^t: that of `reward_to_go`, or 1 for weights without γ^t, such
            as the total return.

    Returns:
        [N, T, T]. Its diagonal holds the squared norms of the scores, times γ^2t. With the rest set
        to zero, a fit minimises the variance of each step alone. Such a fit needs fewer
        trajectories, and ignores the covariances of the steps.

    Raises:
        ValueError: if γ is outside [0, 1], or if the batch is not laid out as [N, T].

    Bias: exact. A discount that is not the estimator's makes a fit worse, but biases nothing.

    References:
        Greensmith, Bartlett & Baxter, Variance Reduction Techniques for Gradient Estimates in
        Reinforcement Learning (2004), theorem 8, for the norms of the scores.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import Problem, enumeration, tabular, tabular_softmax
        >>> mdp, policy = tabular.two_armed_bandit(), tabular_softmax(3, 2)
        >>> params = jnp.zeros((3, 2))
        >>> batch, _ = enumeration.trajectories(Problem(mdp, policy, params, horizon=1))
        >>> score_products(policy, params, batch, discount=1.0).ravel()
        Array([0.5, 0.5, 0.5, 0.5], dtype=float32)
    """
    check_policy(policy)
    discount = check_rate("discount", discount)
    return _score_products(policy, *as_checked_arrays(params, batch), discount)


@jax.jit
def _score_products(
    policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory, discount: Number
) -> Float[Array, "N T T"]:
    recurrent = isinstance(policy, RecurrentPolicy)

    def of_row(row: Trajectory) -> Array:
        one = jax.tree.map(lambda x: x[None], row)
        scores = weighted_score_per_trajectory(
            policy, params, *(_repeat_for_each_step(one) if recurrent else _split_into_steps(one))
        )
        flat = [x.reshape(x.shape[0], -1) for x in jax.tree.leaves(scores)]
        return reduce(jnp.add, [x @ x.T for x in flat])

    products = jax.lax.map(of_row, batch)
    ones = jnp.ones(batch.mask.shape, products.dtype)
    scale = boundaries.discounted_by_time(batch, discount, ones)
    return products * scale[:, :, None] * scale[:, None, :]


def _split_into_steps(one: Trajectory) -> tuple[Trajectory, Array]:
    """A row of T steps as T rows of one step, of which observation, action and mask are read."""
    steps = jax.tree.map(lambda x: x[0][:, None], (one.observation, one.action, one.mask))
    batch = replace(one, observation=steps[0], action=steps[1], mask=steps[2])
    return batch, steps[2].astype(_dtype(one))


def _repeat_for_each_step(one: Trajectory) -> tuple[Trajectory, Array]:
    """A row of T steps, repeated T times; each copy gives weight to one step only."""
    T = one.mask.shape[1]
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x, (T, *x.shape[1:])), one)
    return batch, jnp.eye(T, dtype=_dtype(one)) * one.mask.astype(_dtype(one))


def _dtype(batch: Trajectory) -> jnp.dtype:
    return jnp.result_type(batch.log_prob)  # float32 for NumPy's float64 outside x64
