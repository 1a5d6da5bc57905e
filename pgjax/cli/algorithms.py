"""Algorithms that `pgjax train` runs: their options, their defaults, and what they are made of.

An option left out takes its algorithm's default; one that the algorithm has no use for is refused.
Only `make` imports JAX.
"""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from pgjax.cli.arguments import (
    nonnegative_float,
    open_unit_interval,
    positive_float,
    positive_int,
    unit_interval,
)
from pgjax.cli.default_settings import BASELINES, DEFAULTS, MAX_DEFAULT_STEPS

if TYPE_CHECKING:
    from jax import Array

    from pgjax.environments.conversion import AnyEnvironment
    from pgjax.training.algorithm import Training
    from pgjax.types import Policy


Made: TypeAlias = "tuple[Training, dict[str, Any], Policy]"
"""The run; the algorithm, networks and settings for `config.json`; and the trained policy."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of all algorithms; `complete` fills in their defaults."""
    parser.add_argument(
        "--algorithm",
        choices=tuple(DEFAULTS),
        default="reinforce",
        help="reinforce: whole episodes, reward-to-go and a baseline; a2c, ppo: windows of steps, "
        "and a critic",
    )
    for name, (kind, meaning) in OPTIONS.items():
        of = [algorithm for algorithm, settings in DEFAULTS.items() if name in settings]
        stated = {a: DEFAULTS[a][name] for a in of if DEFAULTS[a][name] is not None}
        values = set(stated.values())
        only = "" if len(of) == len(DEFAULTS) else f"{' and '.join(of)} only; "
        default = (
            f"default {values.pop()}"
            if len(values) == 1 and len(stated) == len(of)
            else "default " + ", ".join(f"{a} {value}" for a, value in stated.items())
        )
        extra: dict[str, Any] = {"choices": BASELINES} if name == "baseline" else {"type": kind}
        parser.add_argument(_flag(name), help=f"{meaning} ({only}{default})", **extra)


def complete(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments with the algorithm's default for each option that is missing.

    Raises:
        ValueError: if an option belongs to another algorithm.
    """
    algorithm = arguments.algorithm
    defaults = DEFAULTS[algorithm]
    for name in OPTIONS:
        if name not in defaults and getattr(arguments, name) is not None:
            raise ValueError(
                f"{_flag(name)} is no option of {algorithm}, which takes "
                f"{', '.join(map(_flag, defaults))}"
            )
    given = {name: getattr(arguments, name) for name in defaults}
    filled = {name: defaults[name] if x is None else x for name, x in given.items()}
    return argparse.Namespace(**vars(arguments) | filled)


def make(arguments: argparse.Namespace, environment: "AnyEnvironment", key: "Array") -> Made:
    """The training run of the arguments, its description, and its policy.

    Args:
        arguments: from a parser with the options of `configure`.
        environment: as for `rollout`.
        key: from `jax.random.key`, for parameters and training.

    Raises:
        ValueError: if options do not fit each other or the algorithm.
        TypeError: if no default network fits the environment's actions.
    """
    arguments = complete(arguments)
    make_run = _reinforce if arguments.algorithm == "reinforce" else _on_windows
    return make_run(arguments, environment, key)


def _reinforce(arguments: argparse.Namespace, environment: "AnyEnvironment", key: "Array") -> Made:
    import jax
    import optax

    from pgjax import baselines
    from pgjax.environments.conversion import as_environment
    from pgjax.estimators import reward_to_go
    from pgjax.training.networks import (
        initial_params,
        network_description,
        network_for,
        policy_of,
    )
    from pgjax.training.on_episodes import policy_gradient

    choices = {
        "leave-one-out": baselines.leave_one_out,
        "batch-mean": baselines.batch_mean,
        "none": None,
    }
    baseline = choices[arguments.baseline]
    if baseline is baselines.leave_one_out and arguments.num_trajectories < 2:
        raise ValueError(
            "--baseline leave-one-out needs --num-trajectories of at least 2; "
            "with a single one, use --baseline none"
        )
    network = network_for(environment)
    settings = _settings(arguments)
    settings["num_steps"] = _num_steps(arguments.num_steps, as_environment(environment).time_limit)
    init_key, train_key = jax.random.split(key)
    policy = policy_of(network)
    # Falling to zero, the rate averages the noise away at the end, where the parameters are kept.
    rate = optax.linear_schedule(settings["learning_rate"], 0.0, settings["updates"])
    training = policy_gradient(
        policy,
        initial_params(policy, environment, init_key),
        environment,
        train_key,
        estimator=reward_to_go(settings["discount"], baseline=baseline),
        optimizer=optax.adam(rate),
        num_trajectories=settings["num_trajectories"],
        num_steps=settings["num_steps"],
    )
    networks = {"network": network_description(network)}
    return training, {"algorithm": "reinforce", **networks, "settings": settings}, policy


def _on_windows(arguments: argparse.Namespace, environment: "AnyEnvironment", key: "Array") -> Made:
    import jax

    from pgjax.policies.actor_critic import separate
    from pgjax.training import actor_critic
    from pgjax.training.minibatches import Settings
    from pgjax.training.networks import (
        default_critic,
        initial_params,
        network_description,
        network_for,
        policy_of,
    )

    network, critic = network_for(environment), default_critic(environment)
    policy = policy_of(network)
    agent = separate(policy, critic)
    given = _settings(arguments)
    settings = Settings(
        num_environments=given["num_environments"],
        num_steps=given["num_steps"],
        discount=given["discount"],
        lambda_=given["gae_lambda"],
        epochs=given.get("epochs", 1),
        num_minibatches=given.get("minibatches", 1),
        clip=given.get("clip", 0.2),
        entropy_weight=given["entropy_weight"],
        value_weight=given["value_weight"],
    )
    optimizer = actor_critic.clipped_adam(
        given["learning_rate"],
        num_gradient_steps=given["updates"] * settings.epochs * settings.num_minibatches,
        max_gradient_norm=given["max_gradient_norm"],
    )
    init_key, train_key = jax.random.split(key)
    train = {"a2c": actor_critic.a2c, "ppo": actor_critic.ppo}[arguments.algorithm]
    training = train(
        agent,
        initial_params(agent, environment, init_key),
        environment,
        train_key,
        optimizer=optimizer,
        settings=settings,
    )
    networks = {
        "network": network_description(network),
        "critic": network_description(critic),
    }
    return training, {"algorithm": arguments.algorithm, **networks, "settings": given}, policy


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The algorithm's options, by name."""
    return {name: getattr(arguments, name) for name in DEFAULTS[arguments.algorithm]}


def _num_steps(asked: int | None, limit: int | None) -> int:
    """T; prints a note if it cuts episodes before the environment's limit."""
    if limit is None:
        return asked or MAX_DEFAULT_STEPS
    num_steps = asked or min(limit, MAX_DEFAULT_STEPS)
    if num_steps < limit:
        print(
            f"episodes are cut after {num_steps} steps, before the environment's limit of {limit}: "
            "the objective is the return up to there"
        )
    return min(num_steps, limit)  # no episode lasts longer


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "updates": (positive_int, "in all; an update is a batch of episodes or a window"),
    "num_trajectories": (positive_int, "episodes in each update"),
    "num_environments": (positive_int, "stepped together"),
    "num_steps": (
        positive_int,
        "of the environments in each window; reinforce: episodes are cut after so many, by default "
        f"at the environment's own limit, but at most {MAX_DEFAULT_STEPS}, and a cut changes the "
        "objective to the return so far",
    ),
    "discount": (unit_interval, "γ of the objective E[Σ γ^t r]; 1 is the return that is reported"),
    "gae_lambda": (unit_interval, "λ of the advantages: 0 trusts the critic, 1 the returns"),
    "learning_rate": (positive_float, "Adam's, at the start; it falls linearly to zero"),
    "baseline": (
        str,
        "subtracted from the return at each time step; leave-one-out and none are unbiased",
    ),
    "epochs": (positive_int, "passes through each window"),
    "minibatches": (positive_int, "equal parts of a window, one step of Adam each"),
    "clip": (open_unit_interval, "ε: ratios beyond 1 ± ε give no more incentive"),
    "entropy_weight": (nonnegative_float, "of the policy's entropy in the objective"),
    "value_weight": (nonnegative_float, "of the critic's squared error"),
    "max_gradient_norm": (positive_float, "a longer gradient is shortened to it"),
}
"""The type and the help of each option."""
