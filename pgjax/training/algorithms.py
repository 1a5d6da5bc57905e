"""REINFORCE, A2C and PPO with everything filled in, as Algorithms.

Each takes an environment and settings; the network, critic, estimator and optimizer that the
command line would use are the defaults, and each may be replaced. The numbers of the settings may
be traced: `jax.vmap` maps over them. The following holds for all three.

Args:
    environment: as for `rollout`, or a name for `pgjax.environments.make`.
    settings: a frozen dataclass; `dataclasses.replace` makes one with some fields changed.
    optimizer: from optax, in place of Adam; it descends, as usual, and the learning rate of the
        settings is not read.

Raises:
    ValueError: if a setting is out of range, or the rows of a window cannot be dealt evenly.
    TypeError: if an argument is of another kind, or the environment's actions have no default
        network.
"""

from dataclasses import fields
from typing import Any, TypeAlias

import jax
import optax

from pgjax import baselines, environments, terms
from pgjax.core.validation import (
    check_above_zero,
    check_at_least,
    check_estimator,
    check_finite,
    check_kind,
    check_optimizer,
    check_policy,
    check_positive,
    check_rate,
    check_scalars,
)
from pgjax.environments.base import Environment
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.estimators import reward_to_go
from pgjax.policies.actor_critic import ActorCritic, check_agent, separate
from pgjax.records import configured
from pgjax.settings import (
    CHOICE,
    COUNT,
    MAX_DEFAULT_STEPS,
    NONNEGATIVE,
    OPEN_RATE,
    RATE,
    SETTINGS,
    A2CSettings,
    PPOSettings,
    ReinforceSettings,
)
from pgjax.training.actor_critic import clipped_adam, standardized_clip
from pgjax.training.algorithm import Algorithm, given_optimizer
from pgjax.training.ascent import with_schedule
from pgjax.training.minibatches import Settings, check_settings
from pgjax.training.networks import default_networks, network_for, policy_of
from pgjax.training.on_episodes import on_episodes
from pgjax.training.on_windows import on_windows
from pgjax.types import Estimator, Policy, RecurrentPolicy

NamedEnvironment: TypeAlias = "AnyEnvironment | str"

for _kind in SETTINGS.values():
    _static = [f.name for f in fields(_kind) if f.metadata["must_be"] in (COUNT, CHOICE)]
    jax.tree_util.register_dataclass(
        _kind, [f.name for f in fields(_kind) if f.name not in _static], _static
    )


def reinforce(
    environment: NamedEnvironment,
    settings: ReinforceSettings | None = None,
    *,
    policy: Policy | RecurrentPolicy | None = None,
    estimator: Estimator | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Algorithm:
    """REINFORCE on whole episodes, by default with reward-to-go, γ^t and a leave-one-out baseline.

    Args:
        environment: to act in.
        settings: None is `ReinforceSettings()`.
        policy: None is the policy of the default network. It may have a memory.
        estimator: weights and term; None is `pgjax.reward_to_go(discount, baseline=...)`.
        optimizer: None is Adam at a rate that falls linearly to zero.

    Returns:
        An Algorithm whose state is (params, optimizer state, key).

    Bias: the estimator's. The default estimator has none, for the discounted objective of episodes
    of at most `num_steps` steps.

    References:
        Williams, Simple Statistical Gradient-Following Algorithms (1992).

    Example:
        >>> import jax, pgjax
        >>> learner = reinforce(pgjax.tabular.random_mdp(),
        ...     ReinforceSettings(num_trajectories=2, num_steps=5),
        ...     policy=pgjax.tabular_softmax(4, 2))
        >>> state, metrics = jax.jit(learner.step)(learner.init(jax.random.key(0)))
        >>> bool(metrics.steps <= 2 * 5)
        True
    """
    chosen, policy, record, estimator, num_steps = reinforce_parts(
        environment, settings, policy, estimator
    )
    make_optimizer = configured(
        falling_adam, learning_rate=chosen.learning_rate, num_updates=chosen.num_updates
    )
    return on_episodes(
        policy,
        record,
        estimator,
        own_or(optimizer, make_optimizer),
        num_trajectories=chosen.num_trajectories,
        num_steps=num_steps,
    )


def a2c(
    environment: NamedEnvironment,
    settings: A2CSettings | None = None,
    *,
    agent: ActorCritic | None = None,
    estimator: Estimator | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Algorithm:
    """Advantage actor-critic: one step for each window, on the score times GAE(λ).

    Args:
        environment: to act in.
        settings: None is `A2CSettings()`.
        agent: policy and critic; None is two default networks. The policy may have a memory.
        estimator: its weights see the window with the critic's values, and its term is given rows;
            None is the score times GAE(λ) without γ^t. The critic learns the λ-return in either
            case.
        optimizer: None is Adam at a rate that falls linearly to zero, on clipped gradients.

    Returns:
        An Algorithm whose state is a `pgjax.actor_critic.State`.

    Bias: as stated at `pgjax.actor_critic.a2c`.

    References:
        Mnih et al., Asynchronous Methods for Deep Reinforcement Learning (2016), synchronous.

    Example:
        >>> import jax
        >>> learner = a2c("CartPole-v1", A2CSettings(num_environments=2, num_steps=3))
        >>> learner.init(jax.random.key(0)).stream.running.observation.shape
        (2, 4)
    """
    chosen: A2CSettings = _checked(settings, A2CSettings)
    return _actor_critic(environment, chosen, terms.score, agent, estimator, optimizer)


def ppo(
    environment: NamedEnvironment,
    settings: PPOSettings | None = None,
    *,
    agent: ActorCritic | None = None,
    estimator: Estimator | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Algorithm:
    """Proximal policy optimization: epochs of minibatches on the clipped ratio times GAE(λ).

    Args:
        environment: to act in.
        settings: None is `PPOSettings()`.
        agent: policy and critic; None is two default networks.
        estimator: as for `a2c`; None is the clipped ratio times GAE(λ), standardized in each
            minibatch.
        optimizer: None is Adam at a rate that falls linearly to zero, on clipped gradients.

    Returns:
        An Algorithm whose state is a `pgjax.actor_critic.State`.

    Bias: as stated at `pgjax.actor_critic.ppo`.

    References:
        Schulman et al., Proximal Policy Optimization Algorithms (2017), eq. 9.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> from pgjax import training
        >>> agent = pgjax.agents.separate(pgjax.tabular_softmax(4, 2), pgjax.MLP(1, hidden=()))
        >>> def last_entropy(learning_rate, key):
        ...     settings = PPOSettings(num_updates=2, num_environments=2, num_steps=8,
        ...         epochs=1, num_minibatches=2, learning_rate=learning_rate)
        ...     learner = ppo(pgjax.tabular.random_mdp(), settings, agent=agent)
        ...     return training.run(learner, key, 2)[1].entropy[-1]
        >>> rates, keys = jnp.array([1e-4, 1e-3, 1e-2]), jax.random.split(jax.random.key(0), 3)
        >>> jax.jit(jax.vmap(last_entropy))(rates, keys).shape
        (3,)
    """
    chosen: PPOSettings = _checked(settings, PPOSettings)
    term = standardized_clip(chosen.clip)
    return _actor_critic(environment, chosen, term, agent, estimator, optimizer)


ALGORITHMS = {"reinforce": reinforce, "a2c": a2c, "ppo": ppo}
"""The algorithms by the names of the command line."""


def falling_adam(*, learning_rate: float, num_updates: int) -> optax.GradientTransformation:
    """Adam at a rate that falls linearly to zero.

    The small last steps average out the noise of the gradient before the parameters are kept.
    """
    schedule = optax.linear_schedule(learning_rate, 0.0, num_updates)
    return with_schedule(optax.adam(schedule), schedule)


def reinforce_parts(
    environment: NamedEnvironment,
    settings: ReinforceSettings | None,
    policy: Policy | RecurrentPolicy | None,
    estimator: Estimator | None,
) -> tuple[ReinforceSettings, Policy | RecurrentPolicy, Environment, Estimator, int]:
    """The checked parts of an algorithm that learns from whole episodes.

    A part that was not given is None; the default takes its place.

    Args:
        environment: an environment, or its name.
        settings: these name the baseline of the default estimator.
        policy: the policy that acts.
        estimator: weights and term.

    Returns:
        Settings, policy, environment, estimator, and the number of steps of an episode.
    """
    chosen: ReinforceSettings = _checked(settings, ReinforceSettings)
    record = _named(environment)
    if policy is None:
        policy = policy_of(network_for(record))
    check_policy(policy)
    if estimator is None:
        choices = {
            "leave-one-out": baselines.leave_one_out,
            "batch-mean": baselines.batch_mean,
            "none": None,
        }
        baseline = choices[chosen.baseline]
        if baseline is baselines.leave_one_out and chosen.num_trajectories < 2:
            raise ValueError(
                "num_trajectories must be at least 2 for the baseline leave-one-out, got 1; "
                "use baseline='none'"
            )
        estimator = reward_to_go(chosen.discount, baseline=baseline)
    check_estimator(estimator)
    return chosen, policy, record, estimator, default_num_steps(record, chosen.num_steps)


def default_num_steps(environment: Environment, num_steps: int | None) -> int:
    """REINFORCE's T: as asked, but at most the environment's limit, which ends every episode.

    Args:
        environment: whose time limit it is.
        num_steps: as asked; None is the limit, or `MAX_DEFAULT_STEPS` if that is less.
    """
    limit = environment.time_limit
    asked = num_steps or min(limit or MAX_DEFAULT_STEPS, MAX_DEFAULT_STEPS)
    return asked if limit is None else min(asked, limit)


def _actor_critic(
    environment: NamedEnvironment,
    settings: A2CSettings,
    term: Any,
    agent: ActorCritic | None,
    estimator: Estimator | None,
    optimizer: optax.GradientTransformation | None,
) -> Algorithm:
    record = _named(environment)
    if agent is None:
        policy, critic = default_networks(record, settings)
        agent = separate(policy_of(policy), critic)
    check_agent(agent)
    if estimator is not None:
        check_kind("estimator", estimator, Estimator, "Estimator(weights, term) makes one")
    names = {f.name for f in fields(Settings)} & {f.name for f in fields(settings)}
    of_update = Settings(**{name: getattr(settings, name) for name in names})
    check_settings(of_update)
    steps = settings.num_updates * of_update.epochs * of_update.num_minibatches
    make_optimizer = configured(
        _clipped_adam,
        learning_rate=settings.learning_rate,
        max_gradient_norm=settings.max_gradient_norm,
        num_gradient_steps=steps,
    )
    return on_windows(
        agent,
        record,
        term if estimator is None else estimator.term,
        own_or(optimizer, make_optimizer),
        of_update,
        None if estimator is None else estimator.weights,
    )


def _clipped_adam(*, learning_rate: float, **others: Any) -> optax.GradientTransformation:
    return clipped_adam(learning_rate, **others)


def own_or(optimizer: optax.GradientTransformation | None, otherwise: Any) -> Any:
    """A record that makes the optimizer that was given. Without one, it is `otherwise`."""
    if optimizer is None:
        return otherwise
    check_optimizer(optimizer)
    return configured(given_optimizer, optimizer=optimizer)


def _named(environment: NamedEnvironment) -> Environment:
    is_name = isinstance(environment, str)
    return as_environment(environments.make(environment) if is_name else environment)


def _checked(settings: Any, kind: type[Any]) -> Any:
    """The settings, or the default ones; each number is checked."""
    if settings is None:
        return kind()
    check_kind("settings", settings, kind, f"pgjax.training.{kind.__name__}(...) makes them")
    for each in fields(kind):
        value, must_be = getattr(settings, each.name), each.metadata["must_be"]
        if must_be == COUNT:
            if value is not None or each.default is not None:
                check_positive(each.name, value)
        elif must_be == CHOICE:
            if value not in (choices := each.metadata["choices"]):
                raise ValueError(f"{each.name} must be one of {choices}, got {value!r}")
        else:
            _check_number(each.name, value, must_be)
    return settings


def _check_number(name: str, value: Any, must_be: str) -> None:
    check_scalars(**{name: value})
    if must_be == NONNEGATIVE:
        check_finite(name, check_at_least(name, value, 0, "0 leaves it out"))
    elif must_be in (RATE, OPEN_RATE):
        check_rate(name, value)
    else:
        check_above_zero(name, value, "1e-3 is usual")
