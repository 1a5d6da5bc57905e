"""Policy-gradient training: roll out, estimate, ascend; with any estimator of `pgjax`."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from pgjax.core.scores import log_probs, weighted_score_and_sum
from pgjax.core.validation import (
    check_counts,
    check_estimator,
    check_gradient,
    check_key,
    check_leaves,
    check_optimizer,
    check_params,
    check_policy,
    check_positive,
)
from pgjax.environments.conversion import as_environment
from pgjax.estimators import as_checked_arrays, score_weights
from pgjax.rollouts.episodes import rollout
from pgjax.types import (
    Estimator,
    KeyLike,
    Params,
    Policy,
    RecurrentPolicy,
    Trajectory,
    check_function,
)

Number = float | Float[Array, ""]


class Metrics(NamedTuple):
    """Statistics of one update, all under the parameters *before* the step.

    On windows the returns and lengths are of the episodes that ended in the window, or in the last
    one in which any ended (NaN before). If an update takes several steps, norm and entropy are
    means over these.

    Attributes:
        mean_return: the batch's mean undiscounted return per episode.
        standard_error: of that mean; NaN for a batch of one.
        mean_length: steps per episode.
        gradient_norm: the Euclidean norm of the whole estimate of ∇J.
        entropy: H(π(·|s)) in nats, the mean over the steps of the batch.
        steps: of the environment in the update.
    """

    mean_return: Number
    standard_error: Number
    mean_length: Number
    gradient_norm: Number
    entropy: Number
    steps: Number


class Training(NamedTuple):
    """A training run: its first state, and one update.

    Attributes:
        start: a pytree of arrays, the whole state of the run; it may be saved and restored.
        step: state -> (state, Metrics, {stage: whether it was finite}), compiled, and pure.
        params: state -> the policy's parameters.
    """

    start: Any
    step: Callable[[Any], tuple[Any, Metrics, dict[str, Array]]]
    params: Callable[[Any], Params]


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

    Bias: ĝ has the estimator's. An adaptive optimizer such as Adam rescales it by its history, so
        that the step's expectation is in general no multiple of ∇J.

    References:
        Kingma & Ba, Adam (2015), for the usual optimizer.

    Example:
        >>> import functools, jax, jax.numpy as jnp, optax, pgjax
        >>> policy, params = pgjax.tabular_softmax(4, 2), jnp.zeros((4, 2))
        >>> batch = rollout(policy, params, pgjax.tabular.random_mdp(), jax.random.key(0),
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
    gradient, entropy = weighted_score_and_sum(policy, params, batch, score_weight, policy.entropy)
    metrics = _metrics(batch, gradient, entropy)
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
        optimizer: from optax. It descends, so it is given −ĝ, and minus the objective: the only
            minus signs in pgjax.
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
        TypeError: if the optimizer reads the value, or searches along a line, and there is none.
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
                "optax.lbfgs does; each batch has another objective, so take optax.adam, say"
            )
        return -objective(params)

    known = {"grad": descent, "value_fn": loss} | ({} if value is None else {"value": -value})
    take_step = optax.with_extra_args_support(optimizer).update
    try:
        step, optimizer_state = take_step(descent, optimizer_state, params, **known)
    except TypeError as error:
        if value is None and "argument: 'value'" in str(error):
            raise TypeError(
                "value must be a number for an optimizer that reads it, got None"
            ) from error
        raise
    return optax.apply_updates(params, step), optimizer_state


def train(
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: Any,
    key: KeyLike,
    *,
    estimator: Estimator,
    optimizer: optax.GradientTransformation,
    num_updates: int,
    num_trajectories: int,
    num_steps: int,
) -> Iterator[tuple[Params, Metrics]]:
    """Roll out, estimate, ascend, repeatedly: a generator of parameters and metrics.

    Each update draws N fresh episodes of at most T steps under the current parameters. Rollout,
    gradient and step are compiled once, as one program. Leave the loop to stop.

    Args:
        policy: acts and is improved.
        params: to start from.
        environment: as for `rollout`.
        key: from `jax.random.key`; the same key gives the same parameters, bit by bit.
        estimator: e.g. `pgjax.reward_to_go(1.0, baseline=pgjax.baselines.leave_one_out)`.
        optimizer: from optax.
        num_updates: the number of yielded pairs.
        num_trajectories: N.
        num_steps: T. Below the task's own limit the objective becomes the T-step one.

    Yields:
        The parameters after each update, and the metrics of its batch.

    Raises:
        FloatingPointError: if a log-probability, reward, gradient or parameter is not finite. The
            message names it and the update; everything yielded before is finite.

    Bias: the estimator's, in each update.

    Example:
        >>> import jax, jax.numpy as jnp, optax, pgjax
        >>> loop = train(pgjax.tabular_softmax(4, 2), jnp.zeros((4, 2)), pgjax.tabular.random_mdp(),
        ...     jax.random.key(0), estimator=pgjax.rloo(1.0), optimizer=optax.adam(0.1),
        ...     num_updates=2, num_trajectories=8, num_steps=5)
        >>> [params.shape for params, metrics in loop]
        [(4, 2), (4, 2)]
    """
    check_positive("num_updates", num_updates)
    run = policy_gradient(
        policy,
        params,
        environment,
        key,
        estimator=estimator,
        optimizer=optimizer,
        num_trajectories=num_trajectories,
        num_steps=num_steps,
    )
    return _loop(run, num_updates)


def policy_gradient(
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: Any,
    key: KeyLike,
    *,
    estimator: Estimator,
    optimizer: optax.GradientTransformation,
    num_trajectories: int,
    num_steps: int,
) -> Training:
    """The run of `train` as a Training; use it to save or resume the state.

    The arguments are those of `train`; the state is (params, optimizer state, key).
    """
    check_policy(policy)
    check_params(params)
    environment = as_environment(environment)
    check_estimator(estimator)
    check_optimizer(optimizer)
    key = check_key(key)
    draw = partial(
        rollout,
        num_trajectories=check_positive("num_trajectories", num_trajectories),
        num_steps=check_positive("num_steps", num_steps),
    )

    # Everything random happens inside, so that one program is all there is to compile.
    @jax.jit
    def step(state: tuple[Params, optax.OptState, Array]) -> tuple[Any, Metrics, dict[str, Array]]:
        params, optimizer_state, key = state
        key, batch_key = jax.random.split(key)
        batch = draw(policy, params, environment, batch_key)
        updated = update(estimator, policy, optimizer, params, optimizer_state, batch)
        params, optimizer_state, metrics = updated
        # The gradient alone would not do: a NaN in the policy hides behind a weight of zero.
        finite = all_finite(
            {
                "log-probability": jnp.where(batch.mask, batch.log_prob, 0),
                "reward": metrics.mean_return,
                "gradient": metrics.gradient_norm,
                "optimizer step": params,
            }
        )
        return (params, optimizer_state, key), metrics, finite

    return Training((params, jax.jit(optimizer.init)(params), key), step, lambda state: state[0])


def _loop(run: Training, num_updates: int) -> Iterator[tuple[Params, Metrics]]:
    """The generator of `train`, apart from it so that bad arguments raise at the call."""
    state = run.start
    for index in range(1, num_updates + 1):
        state, metrics = advance(run, state, index)
        yield run.params(state), metrics


def advance(run: Training, state: Any, index: int) -> tuple[Any, Metrics]:
    """One update, and its metrics on the host.

    Args:
        run: whose step is taken.
        state: before the update.
        index: of the update, from 1, for the message.

    Returns:
        The state after it, and its metrics as floats.

    Raises:
        FloatingPointError: if a stage is not finite; the message names it and the update.
    """
    state, metrics, finite = run.step(state)
    metrics, finite = jax.device_get((metrics, finite))
    bad = [name for name, is_finite in finite.items() if not is_finite]
    if bad:
        raise FloatingPointError(
            f"update {index}: not finite: {', '.join(bad)}; "
            "lower the learning rate, or find the cause with pgjax.checked"
        )
    return state, Metrics(*map(float, metrics))


def evaluate(
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: Any,
    key: KeyLike,
    *,
    num_trajectories: int,
    num_steps: int,
) -> Float[Array, "N"]:
    """Undiscounted returns of fresh episodes under the stochastic policy, R_i = Σ_t r_it.

    Args:
        policy: acts, by sampling.
        params: of the policy.
        environment: as for `rollout`.
        key: from `jax.random.key`; use one that training did not.
        num_trajectories: N.
        num_steps: T; below the task's own limit it cuts episodes, and their returns with them.

    Returns:
        [N], in units of reward.

    Bias: their mean is unbiased for the undiscounted T-step objective of fixed parameters.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> evaluate(pgjax.tabular_softmax(4, 2), jnp.zeros((4, 2)), pgjax.tabular.random_mdp(),
        ...     jax.random.key(0), num_trajectories=3, num_steps=5).shape
        (3,)
    """
    check_policy(policy)
    check_leaves("params", params)
    environment = as_environment(environment)
    check_counts(num_trajectories=num_trajectories, num_steps=num_steps)

    # Under one jit the stacked observations are never used, so XLA does not store them.
    @jax.jit
    def returns(params: Params, key: Array) -> Array:
        draw = partial(rollout, num_trajectories=num_trajectories, num_steps=num_steps)
        return _returns(draw(policy, params, environment, key))

    return returns(params, check_key(key))


def _metrics(batch: Trajectory, gradient: Params, entropy: Array) -> Metrics:
    returns, steps = _returns(batch), jnp.sum(batch.mask)
    return Metrics(
        mean_return=jnp.mean(returns),
        standard_error=jnp.std(returns, ddof=1) / returns.size**0.5,
        mean_length=steps / returns.size,
        gradient_norm=optax.tree.norm(gradient),
        # The mean of −log π(a|s) would be free, but noisy: it can exceed log A.
        entropy=entropy / jnp.maximum(steps, 1),
        steps=steps,
    )


def _returns(batch: Trajectory) -> Array:
    return jnp.sum(jnp.where(batch.mask, batch.reward, 0), axis=1)


def all_finite(stages: dict[str, Any]) -> dict[str, Array]:
    """Whether every number in each stage of an update is finite, for `advance` to report.

    Args:
        stages: name -> a pytree of arrays, in the order in which a fault would spread.

    Returns:
        name -> a boolean scalar.
    """
    return OrderedDict(  # a dict would come out of jit in the alphabet's order
        (name, jnp.all(jnp.asarray([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(values)])))
        for name, values in stages.items()  # a policy without parameters has no leaf
    )
