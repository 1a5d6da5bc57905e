"""Minibatches: a better policy and a better critic from fixed rows of steps.

Once a window's advantages and value targets are known, its rows are independent. In each epoch they
are dealt into minibatches, each of which takes a step up

    mean over rows of  term(log π(a|s), log μ(a|s), A) + c_H H(π(·|s)) − c_V (V(s) − target)² / 2.

The term is from `pgjax.terms`. It gets rows in place of the steps of a trajectory, in any order, so
it must not rely on time.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float, Key, Num, PyTree

from pgjax.core.chunks import even_size, map_rows, rows_per_chunk, scan_rows
from pgjax.core.devices import varying
from pgjax.core.recurrent_log_probs import unroll_window
from pgjax.core.shuffling import random_order
from pgjax.core.validation import (
    check_at_least,
    check_finite,
    check_kind,
    check_positive,
    check_rate,
    check_scalars,
)
from pgjax.policies.actor_critic import ActorCritic
from pgjax.policies.distribution import log_prob_and_entropy
from pgjax.records import record, static
from pgjax.training.ascent import ascend, vectors
from pgjax.types import Observation, Params, Policy, RecurrentPolicy, Term


@record
class Settings:
    """The settings of an update; `training.ppo` and `training.a2c` make them from their settings.

    Attributes:
        num_environments: N streams that are stepped together.
        num_steps: T steps of each in a window; an update has N·T rows.
        discount: γ in [0, 1].
        lambda_: λ of the advantages, in [0, 1].
        epochs: the number of passes of an update through its rows.
        num_minibatches: equal parts of the rows in an epoch.
        clip: PPO's ε; A2C does not read it.
        entropy_weight: c_H, of the entropy in nats.
        value_weight: c_V, of the critic's squared error; for a separate critic it only scales
            the gradient norm that policy and critic share.
        axis: name of the mesh axis whose devices share an update. N is then the number on each
            device, and gradients are means over all. None if one device makes the update.
    """

    num_environments: int = static()
    num_steps: int = static()
    discount: float
    lambda_: float
    epochs: int = static(default=1)
    num_minibatches: int = static(default=1)
    clip: float = 0.2
    entropy_weight: float = 0.0
    value_weight: float = 0.5
    axis: str | None = static(default=None)


def over_devices(settings: Settings, tree: Any) -> Any:
    """The mean of each number over all devices that share the update."""
    return tree if settings.axis is None else jax.lax.pmean(tree, settings.axis)


class Rows(NamedTuple):
    """The data of an update's steps, which are constants.

    A row is a step. If the policy has a memory, a row is the T steps of one environment: each field
    below is then [R, T, ...].

    Attributes:
        observation: [R, ...].
        action: [R, ...].
        log_prob: [R] log μ(a|s), under the parameters that acted.
        advantage: [R] the weight of the step.
        target: [R] of the critic.
        memory: [R, ...] of the policy before each row's first step; () if it has none.
        is_first: [R, T] whether an episode begins there, inside the row; None without a memory.
    """

    observation: Observation
    action: PyTree[Num[Array, "..."]]
    log_prob: Float[Array, "R"]
    advantage: Float[Array, "R"]
    target: Float[Array, "R"]
    memory: Any = ()
    is_first: Bool[Array, "R T"] | None = None


class Step(NamedTuple):
    """Statistics of one step of the optimizer; after `improve`, their means over its steps.

    Attributes:
        entropy: H(π(·|s)) in nats, the mean over the rows.
        policy_loss: minus the mean of the term.
        value_loss: the mean of (V(s) − target)² / 2.
        approximate_kl: an estimate of KL(μ ‖ π) in nats, where μ acted: the mean of ρ − 1 − log ρ.
        clip_fraction: the share of rows whose ratio ρ lies outside 1 ± ε.
    """

    entropy: Float[Array, ""]
    policy_loss: Float[Array, ""]
    value_loss: Float[Array, ""]
    approximate_kl: Float[Array, ""]
    clip_fraction: Float[Array, ""]


def objective(
    agent: ActorCritic, term: Term, settings: Settings, params: Params, rows: Rows
) -> tuple[Float[Array, ""], Step]:
    """The objective of a step, as in the module's docstring, and its statistics."""
    log_prob, entropies, errors = _outputs(agent, params, rows)
    rows, live = _each_step(rows), jnp.ones(log_prob.shape, bool)
    gain = jnp.mean(term(log_prob, rows.log_prob, rows.advantage, live))
    shown = _statistics(settings, rows, log_prob, gain, jnp.mean(entropies), jnp.mean(errors**2))
    return _value(settings, shown), shown


def objective_and_gradient(
    agent: ActorCritic, term: Term, settings: Settings, params: Params, rows: Rows
) -> tuple[Float[Array, ""], Step, Params]:
    """`objective`, its statistics, and its gradient: of many rows, a chunk at a time.

    The activations of all rows would not fit into the cache. The term may couple rows, as one that
    standardizes advantages does. So it is computed once for all rows, and each chunk uses its
    derivatives by log π(a|s).

    Args:
        agent: policy and critic.
        term: from `pgjax.terms`, or your own.
        settings: of which the weights of entropy and value are read, and ε for the statistics.
        params: the agent's parameters.
        rows: R of them; rows with a memory are taken whole.

    Returns:
        The objective, its statistics, and the gradient, a pytree like params.

    Bias: none; the gradient is that of `objective`, to rounding.
    """
    aim = partial(objective, agent, term, settings)
    R = rows.log_prob.size
    if rows_per_chunk() >= R or rows.is_first is not None:
        (value, shown), gradient = jax.value_and_grad(aim, has_aux=True)(params, rows)
        return value, shown, gradient
    size = even_size(R, rows_per_chunk())

    def score(rows: Rows) -> Array:
        return jax.vmap(partial(agent.policy.log_prob, agent.acting(params)))(*rows[:2])

    def mean_term(log_prob: Array) -> Array:
        return jnp.mean(term(log_prob, rows.log_prob, rows.advantage, jnp.ones(R, bool)))

    log_prob = map_rows(score, rows, size)
    gain, weight = jax.value_and_grad(mean_term)(log_prob)

    def add(total: tuple, rows_and_weight: tuple[Rows, Array], counts: Array) -> tuple[tuple, None]:
        rows, weight = rows_and_weight

        def aim(params: Params) -> tuple[Array, tuple]:
            log_prob, entropies, errors = _outputs(agent, params, rows)
            entropy, squares = (jnp.sum(x, where=counts) / R for x in (entropies, errors**2))
            gain = jnp.sum(weight * log_prob, where=counts)
            shown = _statistics(settings, rows, log_prob, gain, entropy, squares)
            return _value(settings, shown), (entropy, squares)

        return jax.tree.map(jnp.add, total, jax.grad(aim, has_aux=True)(params)), None

    zeros = jax.tree.map(jnp.zeros_like, (params, (gain, gain)))
    (gradient, means), _ = scan_rows(add, varying(zeros, (params, rows)), (rows, weight), size)
    shown = _statistics(settings, rows, log_prob, gain, *means)
    return _value(settings, shown), shown, gradient


def _outputs(agent: ActorCritic, params: Params, rows: Rows) -> tuple[Array, Array, Array]:
    """Log π(a|s), H(π(·|s)) and V(s) − target, one for each step."""
    log_prob, entropies = map(jnp.ravel, scores(agent.policy, agent.acting(params), rows))
    rows = _each_step(rows)
    value = jax.vmap(partial(agent.value, params))(rows.observation)
    return log_prob, entropies, value - rows.target


def scores(
    policy: Policy | RecurrentPolicy, params: Params, rows: Rows
) -> tuple[Float[Array, "R ..."], Float[Array, "R ..."]]:
    """Log π(a|s) and the entropy of each step of the rows: [R], or [R, T] with a memory.

    Args:
        policy: the policy that is scored.
        params: the policy's parameters.
        rows: R of them.
    """
    if isinstance(policy, RecurrentPolicy):
        steps = rows.observation, rows.action, rows.is_first
        return jax.vmap(partial(unroll_window, policy, params))(rows.memory, steps)
    return jax.vmap(partial(log_prob_and_entropy, policy, params))(rows.observation, rows.action)


def _each_step(rows: Rows) -> Rows:
    """The steps of the rows, one to a row."""
    if rows.is_first is None:
        return rows
    return Rows(*jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows[:5]))


def _statistics(
    settings: Settings, rows: Rows, log_prob: Array, gain: Array, entropy: Array, squares: Array
) -> Step:
    """The statistics of a step, from the mean term, entropy and squared error.

    References:
        Schulman, Approximating KL Divergence (2020), k3, for the approximate KL.
    """
    log_ratio = jax.lax.stop_gradient(log_prob - rows.log_prob)
    excess = jnp.expm1(log_ratio)
    return Step(
        entropy,
        -gain,
        squares / 2,
        jnp.mean(excess - log_ratio),
        jnp.mean(jnp.abs(excess) > settings.clip),
    )


def _value(settings: Settings, shown: Step) -> Float[Array, ""]:
    """The value of the objective."""
    loss = settings.value_weight * shown.value_loss
    return settings.entropy_weight * shown.entropy - shown.policy_loss - loss


def improve(
    agent: ActorCritic,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    term: Term,
    params: Params,
    optimizer_state: optax.OptState,
    rows: Rows,
    key: Key[Array, ""],
) -> tuple[Params, optax.OptState, Array, Step]:
    """One step of the optimizer for each minibatch of each epoch.

    Args:
        agent: policy and critic.
        optimizer: from optax.
        settings: epochs, minibatches, and the weights of entropy and value.
        term: from `pgjax.terms`.
        params: the agent's parameters.
        optimizer_state: the optimizer's state.
        rows: R of them, a multiple of the number of minibatches.
        key: decides how they are dealt; a single minibatch keeps their order.

    Returns:
        Parameters and optimizer state after the last step; the mean over the steps of the
        gradient's norm, and of the statistics.
    """
    pack, unpack = vectors(optimizer, params)

    def minibatch(carry: tuple[Any, Any], rows: Rows) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        params, optimizer_state = carry
        given = agent, term, settings
        found = objective_and_gradient(*given, unpack(params), rows)
        value, shown, gradient = over_devices(settings, found)
        gradient = pack(gradient)
        metrics = optax.tree.norm(gradient), shown

        def fixed(params: Params) -> Array:
            return over_devices(settings, objective(*given, unpack(params), rows)[0])

        return ascend(optimizer, params, optimizer_state, gradient, value, fixed), metrics

    def epoch(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        return jax.lax.scan(minibatch, carry, _deal_rows(rows, settings.num_minibatches, key))

    start = pack((params, optimizer_state))
    carry, metrics = jax.lax.scan(epoch, start, jax.random.split(key, settings.epochs))
    params, optimizer_state = unpack(carry)
    norm, shown = jax.tree.map(jnp.mean, metrics)
    return params, optimizer_state, norm, shown


def check_settings(settings: Settings) -> None:
    """Raise a ValueError if a setting is out of range, or the rows cannot be dealt evenly."""
    check_kind("settings", settings, Settings, "actor_critic.Settings(...) makes them")
    for name in ("num_environments", "num_steps", "epochs", "num_minibatches"):
        check_positive(name, getattr(settings, name))
    for name in ("discount", "lambda_", "clip"):
        check_rate(name, getattr(settings, name))
    for name in ("entropy_weight", "value_weight"):
        value = getattr(settings, name)
        check_scalars(**{name: value})
        check_finite(name, check_at_least(name, value, 0, "0 leaves it out"))
    rows = settings.num_environments * settings.num_steps
    if rows % settings.num_minibatches:
        raise ValueError(
            f"num_minibatches must divide the {rows} rows of an update "
            f"({settings.num_environments} environments × {settings.num_steps} steps), "
            f"got {settings.num_minibatches}"
        )


def _deal_rows(rows: Rows, num_minibatches: int, key: Array) -> Rows:
    """[M, R/M, ...] in random order; a single minibatch keeps the order."""
    size = len(rows.log_prob)
    if num_minibatches > 1:
        order = random_order(key, size)
        rows = jax.tree.map(lambda x: x[order], rows)
    shape = num_minibatches, size // num_minibatches
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), rows)
