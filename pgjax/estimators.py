"""Estimators: a gradient from weights × term, derived once, and the named compositions.

All three derivations ascend J, sum over time and average over trajectories.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from pgjax import terms, weights
from pgjax.baselines import Baseline, leave_one_out
from pgjax.types import Estimator, Params, Policy, Trajectory
from pgjax.validation import check_batch, check_params
from pgjax.weights import Discount


def reinforce(discount: Discount, *, baseline: Baseline | None = None) -> Estimator:
    """REINFORCE: the total return times the summed score, ĝ = mean_i Σ_t ∇log π(a_t|s_t) (R − b).

    Args:
        discount: γ in [0, 1].
        baseline: from `pgjax.baselines`.

    Raises:
        ValueError: a discount outside [0, 1].

    Bias: none for ∇J if the baseline has none. The largest variance of the family.

    References:
        Williams (1992).
    """
    return Estimator(weights.total_return(discount, baseline=baseline), terms.score)


def reward_to_go(discount: Discount, *, baseline: Baseline | None = None) -> Estimator:
    """Reward-to-go, also GPOMDP: ĝ = mean_i Σ_t γ^t ∇log π(a_t|s_t) (G_t − b_t).

    Args:
        discount: γ in [0, 1].
        baseline: from `pgjax.baselines`.

    Raises:
        ValueError: a discount outside [0, 1].

    Bias: none for ∇J if the baseline has none.

    References:
        Sutton et al. (2000), theorem 1; Baxter & Bartlett, Infinite-Horizon Policy-Gradient
        Estimation (2001), here with the episode's γ^t.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> estimator = pgjax.reward_to_go(0.9, baseline=pgjax.baselines.leave_one_out)
    """
    return Estimator(weights.reward_to_go(discount, baseline=baseline), terms.score)


def mismatched_reward_to_go(discount: Discount, *, baseline: Baseline | None = None) -> Estimator:
    """Reward-to-go without γ^t, ĝ = mean_i Σ_t ∇log π(a_t|s_t) (G_t − b_t): what most code runs.

    Args:
        discount: γ in [0, 1].
        baseline: from `pgjax.baselines`.

    Raises:
        ValueError: a discount outside [0, 1].

    Bias: biased for ∇J when γ < 1: it weighs states as if undiscounted.

    References:
        Nota & Thomas (2020); Zhang et al. (2022).
    """
    return Estimator(weights.mismatched_reward_to_go(discount, baseline=baseline), terms.score)


def rloo(discount: Discount) -> Estimator:
    """REINFORCE leave-one-out: each return less the mean return of the others.

    Args:
        discount: γ in [0, 1].

    Raises:
        ValueError: a discount outside [0, 1]; at use, a batch of one.

    Bias: none.

    References:
        Kool et al. (2019); Ahmadian et al., Back to Basics (2024).
    """
    return reinforce(discount, baseline=leave_one_out)


def surrogate(
    estimator: Estimator, policy: Policy, params: Params, batch: Trajectory
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
    return _surrogate(estimator, policy, *_admit(params, batch))


def gradient(
    estimator: Estimator, policy: Policy, params: Params, batch: Trajectory
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
    return jax.grad(_surrogate, argnums=2)(estimator, policy, *_admit(params, batch))


def per_trajectory_gradients(
    estimator: Estimator, policy: Policy, params: Params, batch: Trajectory
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
    params, batch = _admit(params, batch)
    _, weight = _evaluate(estimator, policy, params, batch)

    def term(params: Params, trajectory: Trajectory, weight: Array) -> Array:
        one = jax.tree.map(lambda x: x[None], trajectory)
        log_prob = log_probs(policy, params, one)[0]
        return _trajectory_term(estimator, log_prob, trajectory.log_prob, weight, trajectory.mask)

    return jax.vmap(jax.grad(term), (None, 0, 0))(params, batch, weight)


def log_probs(policy: Policy, params: Params, batch: Trajectory) -> Float[Array, "N T"]:
    """Log-probabilities log π(a_it|s_it) under params, zero after each episode's end.

    Rows are flattened to [N·T] first, so that a network sees one matrix.

    Args:
        policy: whose log-probabilities.
        params: of the policy.
        batch: [N, T].

    Returns:
        [N, T].

    Bias: exact.
    """
    if batch.mask.size == 0:  # a check inside the policy cannot be mapped over no rows
        return jnp.zeros_like(batch.log_prob)
    # Double where: a dead row evaluates the policy at a live one (or at zeros), so that garbage
    # after the end reaches neither the value nor, as NaN · 0, the gradient.
    observation, action = jax.tree.map(
        lambda x: _rows(_alive_or_first(batch.mask, x)), (batch.observation, batch.action)
    )
    log_prob = jax.vmap(policy.log_prob, (None, 0, 0))(params, observation, action)
    return jnp.where(batch.mask, log_prob.reshape(batch.mask.shape), 0)


def _surrogate(
    estimator: Estimator, policy: Policy, params: Params, batch: Trajectory
) -> Float[Array, ""]:
    log_prob, weight = _evaluate(estimator, policy, params, batch)
    term = partial(_trajectory_term, estimator)
    return jnp.mean(jax.vmap(term)(log_prob, batch.log_prob, weight, batch.mask))


def _evaluate(
    estimator: Estimator, policy: Policy, params: Params, batch: Trajectory
) -> tuple[Array, Array]:
    log_prob = log_probs(policy, params, batch)
    weight = estimator.weights(_without_garbage(batch), jax.lax.stop_gradient(log_prob))
    if weight.shape != batch.mask.shape:
        raise ValueError(
            f"estimator.weights must return shape [N, T] = {batch.mask.shape}, got {weight.shape}"
        )
    return log_prob, jax.lax.stop_gradient(jnp.where(batch.mask, weight, 0))


def _trajectory_term(
    estimator: Estimator, log_prob: Array, behaviour: Array, weight: Array, mask: Array
) -> Array:
    term = estimator.term(log_prob, jnp.where(mask, behaviour, 0), weight)
    if term.shape != mask.shape:
        raise ValueError(f"estimator.term must return shape [T] = {mask.shape}, got {term.shape}")
    return jnp.sum(jnp.where(mask, term, 0))


def _without_garbage(batch: Trajectory) -> Trajectory:
    def clean(x: Array) -> Array:
        return _alive_or_first(batch.mask, x)

    return replace(
        batch,
        observation=jax.tree.map(clean, batch.observation),
        action=jax.tree.map(clean, batch.action),
        reward=jnp.where(batch.mask, batch.reward, 0),
        log_prob=jnp.where(batch.mask, batch.log_prob, 0),
        terminated=batch.terminated & batch.mask,
        truncated=batch.truncated & batch.mask,
        value=None if batch.value is None else jnp.where(batch.mask, batch.value, 0),
    )


def _alive_or_first(mask: Array, x: Array) -> Array:
    """`x` while the episode lasts, then its first entry (zeros if the episode has no step)."""
    x = jnp.asarray(x)
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - 2))
    zero = jnp.zeros((), x.dtype)
    return jnp.where(mask, x, jnp.where(mask[:, :1], x[:, :1], zero))


def _rows(x: Array) -> Array:
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _admit(params: Params, batch: Trajectory) -> tuple[Params, Trajectory]:
    """Validated, and as JAX arrays: NumPy's float64 is welcome whatever the x64 setting."""
    check_params(params)
    check_batch(batch)
    return jax.tree.map(jnp.asarray, (params, batch))
