"""Signal and noise of an update's gradient, from the gradients of groups of its trajectories.

A batch's trajectories are independent, and so are the gradients of disjoint groups of them: their
mean is the update's gradient, and their spread is its noise. The measurement costs one more pass
over the network, so only a few updates make it.
"""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float

from pgjax import diagnostics
from pgjax.core.scores import weighted_score
from pgjax.training.algorithm import Metrics
from pgjax.training.ascent import Scheduled
from pgjax.types import Params, Policy, RecurrentPolicy, Trajectory

MOST_GROUPS = 16
"""Groups of trajectories: more groups would measure the noise more precisely, and take longer."""


def signal_and_noise(
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
    score_weight: Float[Array, "N T"],
) -> Float[Array, "2"]:
    """‖E ĝ‖² and tr Cov ĝ of ĝ = Σ_it c_it ∇log π(a_it|s_it), estimated from one batch.

    Args:
        policy: whose gradient it is.
        params: of the policy.
        batch: [N, T]. If N is no multiple of the number of groups, a few trajectories are left out.
        score_weight: [N, T] c_it.

    Returns:
        [2], in the square of the gradient's unit. The signal may be negative by noise; both are NaN
        for a single trajectory, and for a policy without parameters.

    Bias: none if the weights do not couple the trajectories. If they do, as leave-one-out does, of
        order 1/N.

    References:
        McCandlish et al., An Empirical Model of Large-Batch Training (2018), appendix A.
    """
    N = len(batch.mask)
    groups = min(N, MOST_GROUPS)
    if groups < 2 or not jax.tree.leaves(params):
        return jnp.full(2, jnp.nan, score_weight.dtype)
    size = N // groups
    kept = jax.tree.map(
        lambda x: x[: groups * size].reshape(groups, size, *x.shape[1:]), (batch, score_weight)
    )

    def gradient(group: tuple[Trajectory, Array]) -> Params:
        found = weighted_score(policy, params, *group)
        return jax.tree.map(lambda x: x * (N / size), found)  # of a batch of such trajectories

    moments = diagnostics.running_moments(jax.lax.map(gradient, kept))
    noise = diagnostics.total_variance(moments) * (size / N)
    return jnp.stack([diagnostics.squared_signal(moments), noise])


def with_noise(
    metrics: Metrics,
    measure: Bool[Array, ""],
    policy: Policy | RecurrentPolicy,
    params: Params,
    batch: Trajectory,
    score_weight: Float[Array, "N T"],
) -> Metrics:
    """The metrics with signal and noise of the gradient; NaN, at no cost, if `measure` is false.

    Args:
        metrics: of the update.
        measure: whether to measure.
        policy: as for `signal_and_noise`.
        params: before the update.
        batch: of the update.
        score_weight: [N, T].
    """
    found = jax.lax.cond(
        measure,
        lambda: signal_and_noise(policy, params, batch, score_weight),
        lambda: jnp.full(2, jnp.nan, score_weight.dtype),
    )
    return metrics._replace(gradient_signal=found[0], gradient_noise=found[1])


def stated_learning_rate(
    optimizer: optax.GradientTransformation, state: optax.OptState
) -> Float[Array, ""] | None:
    """The learning rate of the last step, if the optimizer states one; else None.

    Args:
        optimizer: one from `with_schedule` states it, and one of `optax.inject_hyperparams`.
        state: of the optimizer, after the step.
    """
    parts = jax.tree.leaves(state, is_leaf=_says_something)
    if isinstance(optimizer, Scheduled):
        (count,) = (x.count for x in parts if isinstance(x, optax.ScaleByScheduleState))
        return jnp.asarray(optimizer.schedule(count - 1))
    found = [
        x.hyperparams["learning_rate"]
        for x in parts
        if _has_hyperparams(x) and "learning_rate" in x.hyperparams
    ]
    return jnp.asarray(found[0]) if len(found) == 1 and jnp.ndim(found[0]) == 0 else None


def _says_something(x: object) -> bool:
    return _has_hyperparams(x) or isinstance(x, optax.ScaleByScheduleState)


def _has_hyperparams(x: object) -> bool:
    return isinstance(getattr(x, "hyperparams", None), dict)
