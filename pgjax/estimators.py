"""Estimators: a gradient from weights × term, derived once; the named compositions pass through.

All three derivations ascend J, sum over time and average over trajectories.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Float, PyTree

from pgjax.compilation import compiled
from pgjax.compositions import actor_critic as actor_critic
from pgjax.compositions import dr_grpo as dr_grpo
from pgjax.compositions import grpo as grpo
from pgjax.compositions import mismatched_actor_critic as mismatched_actor_critic
from pgjax.compositions import mismatched_reward_to_go as mismatched_reward_to_go
from pgjax.compositions import n_step_actor_critic as n_step_actor_critic
from pgjax.compositions import reinforce as reinforce
from pgjax.compositions import reward_to_go as reward_to_go
from pgjax.compositions import rloo as rloo
from pgjax.devices import without_explicit_axes
from pgjax.pullback import alive_or_first, log_probs, pull_back, pull_back_each
from pgjax.types import Estimator, Params, Policy, RecurrentPolicy, Trajectory
from pgjax.validation import check_batch, check_params


def surrogate(
    estimator: Estimator, policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory
) -> Float[Array, ""]:
    """The scalar whose gradient is the estimate, (1/N) Σ_i Σ_t mask · term(log π, log μ, w).

    Ascend it; its value is not an estimate of J. Weights are constants.

    Args:
        estimator: weights and term.
        policy: log-probabilities of the batch's actions are taken from it.
        params: pytree of floating arrays.
        batch: [N, T]; anything may stand after an episode's end.

    Returns:
        Scalar, in the parameters' precision or float32.

    Raises:
        ValueError: a batch not laid out as [N, T], or empty.
        TypeError: a parameter that is not floating, a mask that is not boolean.

    Bias: the estimator's.
    """
    params, batch = admit(params, batch)
    log_prob = log_probs(policy, params, batch)
    return _mean_term(estimator, batch, log_prob, _weigh(estimator, batch, log_prob))


def gradient(
    estimator: Estimator, policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory
) -> PyTree[Float[Array, "..."]]:
    """The estimate of ∇J from a batch, to ascend.

    Args:
        estimator: weights and term.
        policy: log-probabilities of the batch's actions are taken from it.
        params: pytree of floating arrays.
        batch: [N, T]; anything may stand after an episode's end.

    Returns:
        A pytree like params.

    Raises:
        ValueError: a batch not laid out as [N, T], or empty.
        TypeError: a parameter that is not floating, a mask that is not boolean.

    Bias: the estimator's.
    """
    estimate = partial(_admitted, _gradient, estimator, policy)
    return without_explicit_axes(estimate, PartitionSpec())(params, batch)


def per_trajectory_gradients(
    estimator: Estimator, policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory
) -> PyTree[Float[Array, "N ..."]]:
    """Each trajectory's share of the estimate; their mean is `gradient`, coupled baselines too.

    The weights are computed once, for the whole batch, and only then is the term differentiated
    trajectory by trajectory. (vmapping a whole loss over single trajectories would lose the
    coupling.)

    Args:
        estimator: weights and term.
        policy: log-probabilities of the batch's actions are taken from it.
        params: pytree of floating arrays.
        batch: [N, T]; anything may stand after an episode's end.

    Returns:
        A pytree like params with a leading N.

    Raises:
        ValueError: a batch not laid out as [N, T], or empty.
        TypeError: a parameter that is not floating, a mask that is not boolean.

    Bias: the estimator's. The samples are independent if the weights do not couple the batch.
    """
    return _admitted(_each_gradient, estimator, policy, params, batch)


def shares(
    estimator: Estimator, batch: Trajectory, log_prob: Float[Array, "N T"]
) -> Float[Array, "N T"]:
    """Derivative of the surrogate by each log-probability, ĝ = Σ_it c_it ∇log π(a_it|s_it).

    Of the score term it is w_it/N, for which no log-probability is needed: compiled, their pass
    over the network then vanishes.

    Args:
        estimator: weights and term.
        batch: [N, T]; its observations are read by no more than the weights.
        log_prob: [N, T] log π(a_it|s_it) under the parameters to improve.

    Returns:
        [N, T], zero after each episode's end.

    Bias: the estimator's.
    """
    weight = _weigh(estimator, batch, log_prob)
    return jax.grad(lambda log_prob: _mean_term(estimator, batch, log_prob, weight))(log_prob)


def _admitted(
    function: Callable[..., Params],
    estimator: Estimator,
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
) -> Params:
    return function(estimator, policy, *admit(params, batch))


@compiled(2)
def _gradient(
    estimator: Estimator, policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory
) -> Params:
    share = shares(estimator, batch, log_probs(policy, params, batch))
    return pull_back(policy, params, batch, share)


@compiled(2)
def _each_gradient(
    estimator: Estimator, policy: Policy | RecurrentPolicy, params: Params, batch: Trajectory
) -> Params:
    share = shares(estimator, batch, log_probs(policy, params, batch))
    return pull_back_each(policy, params, batch, share * share.shape[0])


def _mean_term(
    estimator: Estimator, batch: Trajectory, log_prob: Array, weight: Array
) -> Float[Array, ""]:
    term = partial(_trajectory_term, estimator)
    return jnp.mean(jax.vmap(term)(log_prob, batch.log_prob, weight, batch.mask))


def _weigh(estimator: Estimator, batch: Trajectory, log_prob: Array) -> Array:
    weight = estimator.weights(_without_garbage(batch), jax.lax.stop_gradient(log_prob))
    if weight.shape != batch.mask.shape:
        raise ValueError(
            f"estimator.weights must return shape [N, T] = {batch.mask.shape}, got {weight.shape}"
        )
    return jax.lax.stop_gradient(jnp.where(batch.mask, weight, 0))


def _trajectory_term(
    estimator: Estimator, log_prob: Array, behaviour: Array, weight: Array, mask: Array
) -> Array:
    term = estimator.term(log_prob, jnp.where(mask, behaviour, 0), weight)
    if term.shape != mask.shape:
        raise ValueError(f"estimator.term must return shape [T] = {mask.shape}, got {term.shape}")
    return jnp.sum(jnp.where(mask, term, 0))


def _without_garbage(batch: Trajectory) -> Trajectory:
    return replace(
        batch,
        observation=alive_or_first(batch.mask, batch.observation),
        action=alive_or_first(batch.mask, batch.action),
        reward=jnp.where(batch.mask, batch.reward, 0),
        log_prob=jnp.where(batch.mask, batch.log_prob, 0),
        terminated=batch.terminated & batch.mask,
        truncated=batch.truncated & batch.mask,
        value=_live(batch.mask, batch.value),
        action_value=_live(batch.mask, batch.action_value),
        next_value=_live(batch.mask, batch.next_value),
    )


def _live(mask: Array, field: Array | None) -> Array | None:
    return None if field is None else jnp.where(mask, field, 0)


def admit(params: Params, batch: Trajectory) -> tuple[Params, Trajectory]:
    """Validated, and as JAX arrays: NumPy's float64 is welcome whatever the x64 setting.

    Bias: none; nothing is changed.
    """
    check_params(params)
    check_batch(batch)
    return jax.tree.map(jnp.asarray, (params, batch))
