"""The update of A2C and PPO: a window, the critic's values in it, and steps on its rows."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Key

from pgjax import weights
from pgjax.core.episode_boundaries import is_first_step, values
from pgjax.core.validation import check_kind, check_params, check_rate
from pgjax.environments.base import Environment
from pgjax.policies.actor_critic import ActorCritic, check_agent
from pgjax.records import configured
from pgjax.rollouts import windows
from pgjax.training.algorithm import Algorithm, Metrics, all_finite, first_optimizer_state
from pgjax.training.minibatches import Rows, Settings, check_settings, improve, over_devices
from pgjax.training.networks import params_and_key
from pgjax.training.noise import stated_learning_rate, with_noise
from pgjax.training.standardization import (
    ObservationMoments,
    no_observations,
    standardizing,
    with_observations,
)
from pgjax.types import KeyLike, Params, RecurrentPolicy, Term, Weights


class ReturnScale(NamedTuple):
    """The mean square of the returns so far; its root is the unit of the rewards in training.

    Attributes:
        squares: the sum over windows of the mean of G².
        number: of windows.
    """

    squares: Float[Array, ""]
    number: Float[Array, ""]


class State(NamedTuple):
    """The state of a run.

    Attributes:
        params: the parameters of policy and critic.
        optimizer_state: the optimizer's state.
        stream: the environments.
        key: decides how later minibatches are dealt.
        finished: the latest statistics of episodes; NaN until the first episode has ended.
        unit: the unit of the rewards that the agent is trained on.
        moments: those of the observations so far; () if no network standardizes them.
    """

    params: Params
    optimizer_state: optax.OptState
    stream: windows.Stream
    key: Key[Array, ""]
    finished: windows.Finished
    unit: ReturnScale
    moments: ObservationMoments | tuple[()] = ()


def on_windows(
    agent: ActorCritic,
    environment: Environment,
    term: Term,
    make_optimizer: Callable[[], optax.GradientTransformation],
    settings: Settings,
    weigh: Weights | None = None,
) -> Algorithm:
    """The algorithm behind A2C and PPO.

    Args:
        agent: policy and critic.
        environment: that it acts in.
        term: from `pgjax.terms`; it is given rows in place of the steps of a trajectory.
        make_optimizer: a record, () -> optimizer, so that a learning rate in it is a leaf.
        settings: of an update.
        weigh: the advantages of a window with the critic's values; None is GAE(λ) without γ^t. The
            critic's target is the λ-return in either case.

    Returns:
        An Algorithm whose state is a `State`.

    Raises:
        ValueError: if the policy has a memory, and the environments cannot be dealt evenly.
    """
    has_memory = isinstance(agent.policy, RecurrentPolicy)
    if has_memory and settings.num_environments % settings.num_minibatches:
        raise ValueError(
            f"num_minibatches must divide the {settings.num_environments} environments of a policy "
            f"with a memory, whose steps stay together, got {settings.num_minibatches}"
        )
    parts = {
        "agent": agent,
        "environment": environment,
        "make_optimizer": make_optimizer,
        "settings": settings,
    }
    return Algorithm(
        init=configured(_first_state, **parts),
        step=configured(_step, term=term, weigh=weigh, **parts),
        acting=configured(_acting, agent=agent),
        policy=agent.policy,
        measures=not has_memory,  # a score would need the memory at the window's start
    )


def rows_of(agent: ActorCritic, params: Params, window: windows.Window, settings: Settings) -> Rows:
    """A window's N·T rows with advantages and value targets, as constants.

    Args:
        agent: policy and critic.
        params: the agent's parameters, those that acted.
        window: from `pgjax.windows.window`.
        settings: of which the discount and λ are read.

    Returns:
        Rows with R = N·T, or R = N if the policy has a memory. The target is A + V(s), the
        λ-return.

    Bias: as for `weights.mismatched_generalized_advantage`.
    """
    check_agent(agent)
    check_params(params)
    check_kind("window", window, windows.Window, "windows.window gives one")
    check_settings(settings)
    batch = windows.with_values(window, partial(agent.value, params))
    return _rows(agent, window._replace(batch=batch), settings, None)


def _rows(
    agent: ActorCritic, window: windows.Window, settings: Settings, weigh: Weights | None
) -> Rows:
    batch = window.batch
    ours = weights.mismatched_generalized_advantage(settings.discount, settings.lambda_)
    generalized = ours(batch, batch.log_prob)
    advantage = generalized if weigh is None else weigh(batch, batch.log_prob)
    target = generalized + values(batch)
    fields = (batch.observation, batch.action, batch.log_prob, advantage, target)
    if isinstance(agent.policy, RecurrentPolicy):
        inside = is_first_step(batch).at[:, 0].set(False)  # there the memory is the window's own
        return Rows(*jax.lax.stop_gradient((*fields, window.memory, inside)))
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), fields)
    return Rows(*jax.lax.stop_gradient(flat))


def scale_rewards(
    unit: ReturnScale, window: windows.Window, discount: float
) -> tuple[ReturnScale, windows.Window]:
    """A window's rewards divided by the root mean square of all returns so far.

    Args:
        unit: of the windows before.
        window: from `pgjax.windows.window`.
        discount: γ.

    Returns:
        The unit with this window in it, and the window with scaled rewards. Rewards are unchanged
        while all returns are zero.
    """
    check_kind("unit", unit, ReturnScale, "a run's State holds one")
    check_kind("window", window, windows.Window, "windows.window gives one")
    check_rate("discount", discount)
    return _scaled(unit, window, _mean_square(window, discount))


def _mean_square(window: windows.Window, discount: float) -> Float[Array, ""]:
    """The mean square of the window's returns."""
    return jnp.mean(weights.returns_to_go(window.batch, discount) ** 2)


def _scaled(
    unit: ReturnScale, window: windows.Window, mean_square: Float[Array, ""]
) -> tuple[ReturnScale, windows.Window]:
    squares = unit.squares + mean_square
    unit = ReturnScale(squares.astype(unit.squares.dtype), unit.number + 1)
    scale = jnp.sqrt(jnp.where(unit.squares > 0, unit.squares / unit.number, 1))
    batch = window.batch
    return unit, window._replace(batch=replace(batch, reward=batch.reward / scale))


def _first_state(
    key: KeyLike,
    params: Params | None = None,
    *,
    agent: ActorCritic,
    environment: Environment,
    make_optimizer: Callable[[], optax.GradientTransformation],
    settings: Settings,
) -> State:
    params, key = params_and_key(agent, environment, key, params)
    stream_key, key = jax.random.split(key)
    policy = agent.policy
    memory = policy.memory(agent.acting(params)) if isinstance(policy, RecurrentPolicy) else ()
    stream = windows.start(environment, stream_key, settings.num_environments, memory)
    unknown = windows.Finished(jnp.int32(0), *jnp.full(3, jnp.nan, jnp.zeros(()).dtype))
    unit = ReturnScale(jnp.zeros(()), jnp.zeros(()))
    moments = no_observations(params)
    optimizer_state = first_optimizer_state(make_optimizer, params)
    return State(params, optimizer_state, stream, key, unknown, unit, moments)


def _step(
    state: State,
    measure: Any = None,
    *,
    agent: ActorCritic,
    environment: Environment,
    term: Term,
    weigh: Weights | None,
    make_optimizer: Callable[[], optax.GradientTransformation],
    settings: Settings,
) -> tuple[State, Metrics]:
    key, deal_key = jax.random.split(state.key)
    acting = agent.acting(state.params)
    stream, window = windows.window(
        agent.policy, acting, environment, state.stream, num_steps=settings.num_steps
    )
    mean_square = over_devices(settings, _mean_square(window, settings.discount))
    unit, scaled = _scaled(state.unit, window, mean_square)
    batch = windows.with_values(scaled, partial(agent.value, state.params))
    rows = _rows(agent, window._replace(batch=batch), settings, weigh)
    optimizer = make_optimizer()
    params, optimizer_state, norm, shown = improve(
        agent,
        optimizer,
        settings,
        term,
        state.params,
        state.optimizer_state,
        rows,
        deal_key,
    )
    finished = _latest(_of_all_devices(settings, windows.finished(window)), state.finished)
    finite = all_finite(
        {
            "log-probability": rows.log_prob,
            "reward": window.batch.reward,
            "value": rows.target,
            "gradient": norm,
            "optimizer step": params,
        }
    )
    devices = 1 if settings.axis is None else jax.lax.axis_size(settings.axis)
    unexplained = _variance(settings, jnp.ravel(rows.target) - jnp.ravel(values(batch)))
    explained = 1 - unexplained / jnp.maximum(_variance(settings, rows.target), 1e-12)
    metrics = Metrics(
        *finished[1:],
        norm,
        steps=jnp.int32(window.batch.reward.size * devices),
        explained_variance=explained,
        learning_rate=stated_learning_rate(optimizer, optimizer_state),
        finite=jax.tree.map(lambda x: over_devices(settings, jnp.float32(x)) == 1, finite),
        **shown._asdict(),
    )
    if measure is not None:
        score_weight = _score_weights(term, rows).reshape(batch.reward.shape)
        metrics = with_noise(metrics, measure, agent.policy, acting, batch, score_weight)
        signal, noise = over_devices(settings, (metrics.gradient_signal, metrics.gradient_noise))
        metrics = metrics._replace(gradient_signal=signal, gradient_noise=noise / devices)
    moments = state.moments
    if isinstance(moments, ObservationMoments):
        # Changed only now: within an update, acting and learning standardize in the same way.
        average = partial(over_devices, settings)
        moments = with_observations(moments, window.batch.observation, average, devices)
        params = standardizing(params, moments)
    return State(params, optimizer_state, stream, key, finished, unit, moments), metrics


def _score_weights(term: Term, rows: Rows) -> Array:
    """[R] the derivative of the mean term by log π(a|s), under the parameters that acted."""
    live = jnp.ones(rows.log_prob.shape, bool)

    def mean(log_prob: Array) -> Array:
        return jnp.mean(term(log_prob, rows.log_prob, rows.advantage, live))

    return jax.grad(mean)(rows.log_prob)


def _acting(state: State, *, agent: ActorCritic) -> Params:
    return agent.acting(state.params)


def _latest(now: windows.Finished, before: windows.Finished) -> windows.Finished:
    """The statistics of this window; if no episode ended in it, the last known ones."""
    return jax.tree.map(lambda x, y: jnp.where(now.number > 0, x, y).astype(y.dtype), now, before)


def _variance(settings: Settings, x: Array) -> Float[Array, ""]:
    """The variance of all numbers on all devices."""
    mean = over_devices(settings, jnp.mean(x))
    return over_devices(settings, jnp.mean((x - mean) ** 2))


def _of_all_devices(settings: Settings, own: windows.Finished) -> windows.Finished:
    """The statistics of the episodes of all devices, from each one's own."""
    if settings.axis is None:
        return own

    def total(x: Array) -> Array:
        return jax.lax.psum(jnp.nan_to_num(x), settings.axis)

    number = total(own.number)
    some = jnp.maximum(number, 1).astype(own.mean_return.dtype)
    mean, length = total(own.number * own.mean_return), total(own.number * own.mean_length)
    within = own.standard_error**2 * own.number * (own.number - 1)
    squares = total(within) + total(own.number * (own.mean_return - mean / some) ** 2)
    error = jnp.sqrt(squares / jnp.maximum(some - 1, 1) / some)
    found = jnp.where(number > 0, mean / some, jnp.nan), jnp.where(number > 1, error, jnp.nan)
    return windows.Finished(number, *found, jnp.where(number > 0, length / some, jnp.nan))
