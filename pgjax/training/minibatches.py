"""Minibatches: how fixed rows of steps become a better policy and a better critic.

Once a window's advantages and value targets are known, its rows have nothing more to do with each
other. Epoch after epoch they are dealt into minibatches, each of which takes a step up

    mean over rows of  term(log π(a|s), log μ(a|s), A) + c_H H(π(·|s)) − c_V (V(s) − target)² / 2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Key, Num, PyTree

from pgjax.core.validation import check_positive, check_unit_interval
from pgjax.policies.actor_critic import ActorCritic
from pgjax.training.reinforce import climb
from pgjax.types import Observation, Params, Term


class Settings(NamedTuple):
    """How an update goes.

    Attributes:
        num_environments: N streams that are stepped together.
        num_steps: T steps of each in a window; an update has N·T rows.
        discount: γ in [0, 1].
        lambda_: λ of the advantages, in [0, 1].
        epochs: how often an update goes through its rows.
        num_minibatches: equal parts that an epoch deals them into.
        clip: PPO's ε; A2C has none to read.
        entropy_weight: c_H, of the entropy in nats.
        value_weight: c_V, of the critic's squared error; beside a critic of its own it only scales
            the gradient norm that the two share.
    """

    num_environments: int
    num_steps: int
    discount: float
    lambda_: float
    epochs: int = 1
    num_minibatches: int = 1
    clip: float = 0.2
    entropy_weight: float = 0.0
    value_weight: float = 0.5


class Form(NamedTuple):
    """What tells one algorithm from another.

    Attributes:
        term: from `pgjax.terms`; it sees rows where others see a trajectory, so it must take each
            step by itself.
        shape: advantages [R] of a minibatch -> the weights [R] of its terms.
    """

    term: Term
    shape: Callable[[Array], Array]


class Rows(NamedTuple):
    """What an update keeps of each step; everything but the parameters is fixed.

    Attributes:
        observation: [R, ...].
        action: [R, ...].
        log_prob: [R] log μ(a|s), under the parameters that acted.
        advantage: [R] the weight of the step.
        target: [R] what the critic is to say of it.
    """

    observation: Observation
    action: PyTree[Num[Array, "..."]]
    log_prob: Float[Array, "R"]
    advantage: Float[Array, "R"]
    target: Float[Array, "R"]


def objective(
    agent: ActorCritic, form: Form, settings: Settings, params: Params, rows: Rows
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What a step ascends, and the mean entropy in it.

    Args:
        agent: policy and critic.
        form: term and weights.
        settings: the weights of entropy and value.
        params: to improve.
        rows: of a minibatch.

    Returns:
        The mean over rows of term + c_H H − c_V (V − target)²/2, and the mean of H.
    """
    acting = agent.acting(params)
    log_prob = jax.vmap(partial(agent.policy.log_prob, acting))(rows.observation, rows.action)
    entropy = jnp.mean(jax.vmap(partial(agent.policy.entropy, acting))(rows.observation))
    error = jax.vmap(partial(agent.value, params))(rows.observation) - rows.target
    climbed = jnp.mean(form.term(log_prob, rows.log_prob, form.shape(rows.advantage)))
    lost = settings.value_weight * jnp.mean(error**2) / 2
    return climbed + settings.entropy_weight * entropy - lost, entropy


def improve(
    agent: ActorCritic,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    form: Form,
    params: Params,
    optimizer_state: optax.OptState,
    rows: Rows,
    key: Key[Array, ""],
) -> tuple[Params, optax.OptState, Array, Array]:
    """Every epoch's minibatches, one step of the optimizer each.

    Args:
        agent: policy and critic.
        optimizer: from optax, descending as usual.
        settings: epochs, minibatches, and the weights of entropy and value.
        form: term and weights.
        params: of both.
        optimizer_state: of the optimizer.
        rows: R of them, a multiple of the number of minibatches.
        key: deals them; a single minibatch keeps their order.

    Returns:
        Parameters and optimizer state after the last step; the mean over the steps of the
        gradient's norm, and of the entropy.
    """
    ascend = jax.grad(partial(objective, agent, form, settings), has_aux=True)

    def minibatch(carry: tuple[Any, Any], rows: Rows) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        params, optimizer_state = carry
        ascent, entropy = ascend(params, rows)
        seen = optax.tree.norm(ascent), entropy
        return climb(optimizer, params, optimizer_state, ascent), seen

    def epoch(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        return jax.lax.scan(minibatch, carry, _dealt(rows, settings.num_minibatches, key))

    start = params, optimizer_state
    carry, seen = jax.lax.scan(epoch, start, jax.random.split(key, settings.epochs))
    params, optimizer_state = carry
    norm, entropy = map(jnp.mean, seen)
    return params, optimizer_state, norm, entropy


def check_settings(settings: Settings) -> None:
    """Counts of at least one, rates in [0, 1], weights that are not negative, rows dealt evenly."""
    for name in ("num_environments", "num_steps", "epochs", "num_minibatches"):
        check_positive(name, getattr(settings, name))
    check_unit_interval("discount", settings.discount)
    check_unit_interval("lambda_", settings.lambda_)
    for name in ("entropy_weight", "value_weight"):
        if not 0 <= getattr(settings, name) < float("inf"):
            raise ValueError(f"{name} must be at least 0, got {getattr(settings, name):g}")
    rows = settings.num_environments * settings.num_steps
    if rows % settings.num_minibatches:
        raise ValueError(
            f"num_minibatches must divide the {rows} rows of an update "
            f"({settings.num_environments} environments × {settings.num_steps} steps), "
            f"got {settings.num_minibatches}"
        )


def _dealt(rows: Rows, num_minibatches: int, key: Array) -> Rows:
    """[M, R/M, ...] in random order; a single minibatch needs none."""
    size = rows.log_prob.size
    if num_minibatches > 1:
        order = jax.random.permutation(key, size)
        rows = jax.tree.map(lambda x: x[order], rows)
    shape = num_minibatches, size // num_minibatches
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), rows)
