"""One step of gradient ascent, and the update of parameters by a batch of episodes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from pgjax.core.scores import log_probs, weighted_score_and_sum
from pgjax.core.validation import (
    check_estimator,
    check_gradient,
    check_optimizer,
    check_params,
    check_policy,
)
from pgjax.estimators import as_checked_arrays, score_weights
from pgjax.training.algorithm import Metrics, Number
from pgjax.training.evaluation import returns_of
from pgjax.types import Estimator, Params, Policy, RecurrentPolicy, Trajectory, check_function


def update(
    estimator: Estimator,
    policy: Policy | RecurrentPolicy,
    optimizer: optax.GradientTransformation,
    params: Params,
    optimizer_state: optax.OptState,
    batch: Trajectory,
) -> tuple[Params, optax.OptState, Metrics]:
    """One step of gradient ascent, θ ← θ + optimizer(ĝ).

    Args:
        estimator: weights and term.
        policy: whose parameters are improved.
        optimizer: from optax.
        params: of the policy.
        optimizer_state: from `optimizer.init(params)`, then from the last update.
        batch: [N, T] episodes, for an on-policy estimator drawn under `params`.

    Returns:
        Parameters and optimizer state after the step, and metrics of the batch.

    Raises:
        ValueError: if the batch is not laid out as [N, T], or is empty.
        TypeError: if a parameter is not floating, or the mask not boolean.

    Bias: ĝ has the estimator's bias. An adaptive optimizer such as Adam rescales ĝ by earlier
        gradients, so that the expected step is in general no multiple of ∇J.

    References:
        Kingma & Ba, Adam (2015), for the usual optimizer.

    Example:
        >>> import functools, jax, jax.numpy as jnp, optax, pgjax
        >>> policy, params = pgjax.tabular_softmax(4, 2), jnp.zeros((4, 2))
        >>> batch = pgjax.rollout(policy, params, pgjax.tabular.random_mdp(), jax.random.key(0),
        ...     num_trajectories=3, num_steps=5)
        >>> optimizer = optax.sgd(0.1)
        >>> step = jax.jit(functools.partial(update, pgjax.rloo(1.0), policy, optimizer))
        >>> params, state, metrics = step(params, optimizer.init(params), batch)
        >>> float(metrics.entropy)  # doctest: +ELLIPSIS
        0.6931...
    """
    check_estimator(estimator)
    check_policy(policy)
    check_optimizer(optimizer)
    params, batch = as_checked_arrays(params, batch)
    score_weight = score_weights(estimator, batch, log_probs(policy, params, batch))
    return update_by_weights(policy, optimizer, params, optimizer_state, batch, score_weight)


def update_by_weights(
    policy: Policy | RecurrentPolicy,
    optimizer: optax.GradientTransformation,
    params: Params,
    optimizer_state: optax.OptState,
    batch: Trajectory,
    score_weight: Float[Array, "N T"],
) -> tuple[Params, optax.OptState, Metrics]:
    """`update` by the gradient of given score weights c_it, ĝ = Σ_it c_it ∇log π(a_it|s_it)."""
    gradient, entropy = weighted_score_and_sum(policy, params, batch, score_weight, policy.entropy)
    metrics = metrics_of(batch, gradient, entropy)
    params, optimizer_state = ascend(
        optimizer, params, optimizer_state, gradient, metrics.mean_return
    )
    return params, optimizer_state, metrics


def ascend(
    optimizer: optax.GradientTransformation,
    params: Params,
    optimizer_state: optax.OptState,
    gradient: Params,
    value: Number | None = None,
    objective: Callable[[Params], Number] | None = None,
) -> tuple[Params, optax.OptState]:
    """One step of gradient ascent.

    Args:
        optimizer: from optax. It descends, so it is given −ĝ and minus the objective.
        params: before the step.
        optimizer_state: before the step.
        gradient: ĝ, a pytree like params.
        value: of the objective, for optimizers that read it, such as `reduce_on_plateau`; None if
            it is not known.
        objective: params -> value, for optimizers that search along a line; None if there is no
            such function.

    Returns:
        Parameters and optimizer state after the step.

    Raises:
        TypeError: if the optimizer reads `value` and it is None, or searches along a line and
            `objective` is None.
    """
    check_optimizer(optimizer)
    check_params(params)
    check_gradient("gradient", gradient, ("params", params))
    if objective is not None:
        check_function("objective", objective, "params -> value")
    descent = jax.tree.map(jnp.negative, gradient)

    def loss(params: Params) -> Number:
        if objective is None:
            raise TypeError(
                "optimizer must step by the gradient alone, got one that searches along a line, as "
                "optax.lbfgs does; each batch has another objective, so take optax.adam"
            )
        return -objective(params)

    known = {"grad": descent, "value_fn": loss} | ({} if value is None else {"value": -value})
    take_step = optax.with_extra_args_support(optimizer).update
    try:
        step, optimizer_state = take_step(descent, optimizer_state, params, **known)
    except TypeError as error:
        if value is None and "argument: 'value'" in str(error):
            raise TypeError(
                "value must be a number for this optimizer, got None; pass the estimate of J"
            ) from error
        raise
    return optax.apply_updates(params, step), optimizer_state


class Scheduled(optax.GradientTransformationExtraArgs):
    """An optimizer with a known schedule of learning rates; its state is as optax makes it.

    It reads each number of a gradient by itself, and all of them through their norm. So it takes
    the same step if it is given all numbers in one vector.
    """

    schedule: optax.Schedule


def with_schedule(
    optimizer: optax.GradientTransformation, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The same optimizer as a `Scheduled` record, whose learning rate can be read.

    Args:
        optimizer: an optimizer that scales its steps by this schedule. It must not tell one leaf
            of the parameters from another.
        schedule: number of steps so far -> learning rate.
    """
    scheduled = Scheduled(optimizer.init, optax.with_extra_args_support(optimizer).update)
    scheduled.schedule = schedule
    return scheduled


def vectors(
    optimizer: optax.GradientTransformation, params: Params
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Functions that turn each tree like the parameters into one vector, and back.

    A step on one vector is a few operations, where a step on a tree is a few for each leaf. So a
    program compiles in less time. It holds one more copy of the parameters.

    Args:
        optimizer: the functions change nothing if it is not `Scheduled`.
        params: they change nothing if its leaves differ in dtype.

    Returns:
        Both functions. They take parameters, a gradient or an optimizer's state, and leave other
        numbers in it, such as a count of steps, as they are.
    """
    leaves, structure = jax.tree.flatten(params)
    if (
        not isinstance(optimizer, Scheduled)
        or len(leaves) < 2
        or len(set(map(jnp.result_type, leaves))) > 1
    ):
        return (lambda tree: tree), (lambda tree: tree)
    vector, as_tree = ravel_pytree(params)

    def is_like(tree: Any) -> bool:
        return jax.tree.structure(tree) == structure

    def pack(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: ravel_pytree(x)[0] if is_like(x) else x, tree, is_leaf=is_like
        )

    def unpack(packed: Any) -> Any:
        return jax.tree.map(lambda x: as_tree(x) if x.shape == vector.shape else x, packed)

    return pack, unpack


def metrics_of(batch: Trajectory, gradient: Params, entropy: Array) -> Metrics:
    """Metrics of a batch of episodes, from its gradient and the sum of its steps' entropy."""
    returns, steps = returns_of(batch), jnp.sum(batch.mask)
    return Metrics(
        mean_return=jnp.mean(returns),
        standard_error=jnp.std(returns, ddof=1) / returns.size**0.5,
        mean_length=steps / returns.size,
        gradient_norm=optax.tree.norm(gradient),
        # The mean of −log π(a|s) would be free, but noisy: it can exceed log A.
        entropy=entropy / jnp.maximum(steps, 1),
        steps=steps,
    )
