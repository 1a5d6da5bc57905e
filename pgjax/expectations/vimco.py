"""VIMCO: many draws in one bound, each credited with what it adds to the bound."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.baselines import consecutive
from pgjax.core.validation import check_positive
from pgjax.estimators import evaluate_weights
from pgjax.expectations.distributions import Distribution
from pgjax.expectations.estimator import (
    ExpectationEstimator,
    draw_independently,
    log_probs_of,
    make,
    one_step_batch,
)
from pgjax.expectations.integrands import Integrand
from pgjax.records import configured
from pgjax.terms import score
from pgjax.types import Estimator, Params, Trajectory


def vimco(group_size: int) -> ExpectationEstimator:
    """VIMCO: the gradient of E[log (1/K) Σ_k exp f(x_k)], with a baseline from the other K − 1.

    The credit of x_k is L − L_{−k}, where L is the logarithm of the mean over the group, and
    L_{−k} has f(x_k) replaced by the mean of the others. One sample is one group of K draws: K
    evaluations of f. In variational inference f(params, x) = log p(x, data) − log q(x): L is then
    the importance-weighted bound. If f takes params, the derivative of L through them is added.

    Args:
        group_size: K, at least two.

    Raises:
        ValueError: if `group_size` is below two.

    Bias: none, for the gradient of that bound, which is not E[f].

    References:
        Mnih & Rezende, Variational Inference for Monte Carlo Objectives (2016), eq. 10 with the
        geometric mean.

    Example:
        >>> vimco(4)
        vimco(group_size=4)
    """
    K = _check_group_size(group_size)
    return make(_draw_groups, _vimco_weights, _vimco, "groups", group_size=K)


def vimco_weights(group_size: int) -> Any:
    """VIMCO's credit as weights of episodes: L − L_{−k} in groups of consecutive rows.

    Args:
        group_size: K, at least two.

    Returns:
        A function (batch, log_prob) -> [N, T], which takes each episode's total reward as f.

    Raises:
        ValueError: if K is below two; at use, if N is not a multiple of K.

    Bias: none for the gradient of E[log mean exp f] of each group of independent episodes.

    Example:
        >>> import jax.numpy as jnp
        >>> batch = one_step_batch(jnp.zeros(2), jnp.array([0.0, jnp.log(3.0)]), jnp.zeros(2))
        >>> credit = vimco_weights(2)(batch, batch.log_prob).ravel()  # log 4/6 and log 4/2
        >>> [round(float(x), 4) for x in credit]
        [-0.4055, 0.6931]
    """
    return configured(_group_credit, group_size=_check_group_size(group_size))


def _check_group_size(group_size: int) -> int:
    K = check_positive("group_size", group_size)
    if K < 2:
        raise ValueError(f"group_size must be at least 2, got {K}: a baseline needs other draws")
    return K


def _group_credit(batch: Trajectory, log_prob: Array, *, group_size: int) -> Array:
    value = jnp.sum(batch.reward, axis=1, keepdims=True)
    total = consecutive(group_size).total
    others = (total(value) - value) / (group_size - 1)
    rows = value.reshape(-1, group_size)
    whole = jax.nn.logsumexp(rows, axis=1, keepdims=True)
    replaced = jnp.where(jnp.eye(group_size, dtype=bool), others.reshape(-1, group_size, 1), 0)
    kept = jnp.where(jnp.eye(group_size, dtype=bool), 0, rows[:, None, :])
    without = jax.nn.logsumexp(replaced + kept, axis=2)
    return jnp.broadcast_to((whole - without).reshape(-1, 1), batch.reward.shape)


def _draw_groups(
    distribution: Distribution, params: Params, key: Array, N: int, *, group_size: int
) -> Any:
    x = draw_independently(distribution, params, key, N * group_size)
    return jax.tree.map(lambda leaf: leaf.reshape(N, group_size, *leaf.shape[1:]), x)


def _vimco_weights(
    f: Integrand, distribution: Distribution, params: Params, x: Any, *, group_size: int
) -> tuple[Array, Array]:
    value = jax.vmap(jax.vmap(f, (None, 0)), (None, 0))(params, x)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), x)
    log_prob = log_probs_of(distribution, params, flat)
    batch = one_step_batch(flat, value.reshape(-1), log_prob)
    estimator = Estimator(vimco_weights(group_size), score)
    credit = evaluate_weights(estimator, batch, log_prob[:, None])
    return credit.reshape(value.shape), jax.nn.softmax(value, axis=1)


def _vimco(
    f: Integrand,
    distribution: Distribution,
    params: Params,
    x: Any,
    weights: tuple[Array, Array],
    *,
    group_size: int,
) -> Array:
    credit, share = weights
    log_prob = log_probs_of(distribution, params, x)
    ones = jnp.ones(len(credit), bool)
    own = jax.vmap(f.own, (None, 0))(params, x)
    held = jax.lax.stop_gradient(log_prob)
    return jnp.sum(score(log_prob, held, credit, ones)) + jnp.sum(share * own)
