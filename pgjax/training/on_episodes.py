"""Training on whole episodes: roll out, estimate, ascend; with any estimator of `pgjax`."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array

from pgjax.core.scores import log_probs
from pgjax.core.validation import (
    check_counts,
    check_estimator,
    check_optimizer,
    check_params,
    check_policy,
    check_positive,
)
from pgjax.environments.base import Environment
from pgjax.environments.conversion import as_environment
from pgjax.estimators import as_checked_arrays, score_weights
from pgjax.records import configured
from pgjax.rollouts.episodes import rollout
from pgjax.training.algorithm import (
    Algorithm,
    Metrics,
    Training,
    advance,
    all_finite,
    begin,
    first_optimizer_state,
    given_optimizer,
)
from pgjax.training.ascent import update_by_weights
from pgjax.training.networks import params_and_key
from pgjax.training.noise import stated_learning_rate, with_noise
from pgjax.types import Estimator, KeyLike, Params, Policy, RecurrentPolicy


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
    gradient and step are compiled once, as one program. To stop, leave the loop.

    Args:
        policy: the policy that acts and is improved.
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
    check_optimizer(optimizer)
    algorithm = on_episodes(
        policy,
        environment,
        estimator,
        configured(given_optimizer, optimizer=optimizer),
        num_trajectories=num_trajectories,
        num_steps=num_steps,
    )
    return begin(algorithm, key, params)


def on_episodes(
    policy: Policy | RecurrentPolicy,
    environment: Environment,
    estimator: Estimator,
    make_optimizer: Callable[[], optax.GradientTransformation],
    *,
    num_trajectories: int,
    num_steps: int,
) -> Algorithm:
    """The algorithm of `train`: each update draws fresh episodes, estimates and ascends.

    Args:
        policy: the policy that acts and is improved.
        environment: that it acts in.
        estimator: weights and term.
        make_optimizer: a record, () -> optimizer, so that a learning rate in it is a leaf.
        num_trajectories: N.
        num_steps: T.

    Returns:
        An Algorithm whose state is (params, optimizer state, key).
    """
    check_estimator(estimator)
    check_counts(num_trajectories=num_trajectories, num_steps=num_steps)
    return Algorithm(
        init=configured(
            first_state, policy=policy, environment=environment, make_optimizer=make_optimizer
        ),
        step=configured(
            _step,
            policy=policy,
            environment=environment,
            estimator=estimator,
            make_optimizer=make_optimizer,
            num_trajectories=num_trajectories,
            num_steps=num_steps,
        ),
        acting=params_of,
        policy=policy,
        measures=True,
    )


EpisodesState: TypeAlias = tuple[Params, optax.OptState, Array]


def first_state(
    key: KeyLike,
    params: Params | None = None,
    *,
    policy: Policy | RecurrentPolicy,
    environment: Environment,
    make_optimizer: Callable[[], optax.GradientTransformation],
) -> EpisodesState:
    """The state before the first update.

    Args:
        key: from `jax.random.key`.
        params: to start from; None draws them.
        policy: the policy that acts and is improved.
        environment: for the shape of its observation.
        make_optimizer: a record, () -> optimizer.
    """
    params, key = params_and_key(policy, environment, key, params)
    return params, first_optimizer_state(make_optimizer, params), key


def _step(
    state: EpisodesState,
    measure: Any = None,
    *,
    policy: Policy | RecurrentPolicy,
    environment: Environment,
    estimator: Estimator,
    make_optimizer: Callable[[], optax.GradientTransformation],
    num_trajectories: int,
    num_steps: int,
) -> tuple[EpisodesState, Metrics]:
    params, optimizer_state, key = state
    # Everything random happens inside, so that only one program is compiled.
    key, batch_key = jax.random.split(key)
    batch = rollout(
        policy,
        params,
        environment,
        batch_key,
        num_trajectories=num_trajectories,
        num_steps=num_steps,
    )
    before, batch = as_checked_arrays(params, batch)
    score_weight = score_weights(estimator, batch, log_probs(policy, before, batch))
    optimizer = make_optimizer()
    params, optimizer_state, metrics = update_by_weights(
        policy, optimizer, before, optimizer_state, batch, score_weight
    )
    metrics = metrics._replace(learning_rate=stated_learning_rate(optimizer, optimizer_state))
    if measure is not None:
        metrics = with_noise(metrics, measure, policy, before, batch, score_weight)
    # The gradient alone does not show every fault: a weight of zero hides a NaN in the policy.
    finite = all_finite(
        {
            "log-probability": jnp.where(batch.mask, batch.log_prob, 0),
            "reward": metrics.mean_return,
            "gradient": metrics.gradient_norm,
            "optimizer step": params,
        }
    )
    return (params, optimizer_state, key), metrics._replace(finite=finite)


def params_of(state: EpisodesState) -> Params:
    """The policy's parameters in a state."""
    return state[0]


def _loop(run: Training, num_updates: int) -> Iterator[tuple[Params, Metrics]]:
    """The generator of `train`, apart from it so that bad arguments raise at the call."""
    state = run.start
    for index in range(1, num_updates + 1):
        state, metrics = advance(run, state, index)
        yield run.params(state), metrics
