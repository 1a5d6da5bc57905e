"""Algorithms that `pgjax train` runs: their options, their defaults, and what they are made of.

An option left out takes its algorithm's default; one that the algorithm has no use for is refused.
Only `make` imports JAX.
"""

import argparse
from dataclasses import Field
from typing import TYPE_CHECKING, Any, TypeAlias

from pgjax.cli.arguments import (
    nonnegative_float,
    open_unit_interval,
    positive_float,
    positive_int,
    unit_interval,
)
from pgjax.settings import (
    BASELINES,
    CHOICE,
    COUNT,
    MAX_DEFAULT_STEPS,
    NONNEGATIVE,
    OPEN_RATE,
    POSITIVE,
    RATE,
    SETTINGS,
    options,
)

if TYPE_CHECKING:
    from jax import Array

    from pgjax.environments.conversion import AnyEnvironment
    from pgjax.training.algorithm import Algorithm, Training
    from pgjax.types import Policy, RecurrentPolicy


Made: TypeAlias = "tuple[Training, dict[str, Any], Policy | RecurrentPolicy]"
"""The run; the algorithm, networks and settings for `config.json`; and the trained policy."""

DEFAULTS: dict[str, dict[str, Any]] = {
    algorithm: {name: field.default for name, field in options(kind)}
    for algorithm, kind in SETTINGS.items()
}
"""The default of each option of each algorithm."""

OPTIONS: dict[str, Field] = {
    name: field for kind in reversed(SETTINGS.values()) for name, field in options(kind)
}
"""Each option, with the field that describes it: where algorithms share it, the first one's."""

GROUPS = {
    "length": "length of the training",
    "batch": "batch: what an update is made of",
    "objective": "objective: what is climbed",
    "optimizer": "optimizer",
}
TYPES = {
    COUNT: positive_int,
    RATE: unit_interval,
    OPEN_RATE: open_unit_interval,
    POSITIVE: positive_float,
    NONNEGATIVE: nonnegative_float,
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of all algorithms; `complete` fills in their defaults."""
    parser.add_argument(
        "--algorithm",
        choices=tuple(DEFAULTS),
        default="reinforce",
        help="reinforce: whole episodes, reward-to-go and a baseline; a2c, ppo: windows of steps, "
        "and a critic",
    )
    groups = {name: parser.add_argument_group(title) for name, title in GROUPS.items()}
    for name, field in OPTIONS.items():
        groups[field.metadata["group"]].add_argument(
            _flag(name), help=f"{field.metadata['meaning']} ({_default(name)})", **_kind(field)
        )


def _default(name: str) -> str:
    """The default of an option, of each algorithm where they differ."""
    of = [algorithm for algorithm, settings in DEFAULTS.items() if name in settings]
    stated = {a: DEFAULTS[a][name] for a in of if DEFAULTS[a][name] is not None}
    only = "" if len(of) == len(DEFAULTS) else f"{' and '.join(of)} only; "
    values = set(stated.values())
    if len(values) == 1 and len(stated) == len(of):
        return f"{only}default {values.pop()}"
    return f"{only}default " + ", ".join(f"{a} {value}" for a, value in stated.items())


def _kind(field: "Field") -> dict[str, Any]:
    must_be = field.metadata["must_be"]
    if must_be == CHOICE:
        return {"choices": BASELINES}
    metavar = "N" if must_be == COUNT else "X"
    return {"type": TYPES[must_be], "metavar": metavar}


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
    from pgjax.training.algorithm import begin

    algorithm, description = build(arguments, environment)
    return begin(algorithm, key), description, algorithm.policy


def build(
    arguments: argparse.Namespace, environment: "AnyEnvironment"
) -> "tuple[Algorithm, dict[str, Any]]":
    """The Algorithm of the arguments, and its description for `config.json`."""
    from pgjax.environments.conversion import as_environment
    from pgjax.training.algorithms import ALGORITHMS
    from pgjax.training.networks import default_critic, network_description, network_for

    arguments = complete(arguments)
    name = arguments.algorithm
    if name == "reinforce":
        if arguments.baseline == "leave-one-out" and arguments.num_trajectories < 2:
            raise ValueError(
                "--baseline leave-one-out needs --num-trajectories of at least 2; "
                "with a single one, use --baseline none"
            )
        limit = as_environment(environment).time_limit
        arguments.num_steps = _num_steps(arguments.num_steps, limit)
    settings = {option: getattr(arguments, option) for option in DEFAULTS[name]}
    record = SETTINGS[name](
        **{field.name: settings[option] for option, field in options(SETTINGS[name])}
    )
    networks = {"network": network_description(network_for(environment))}
    if name != "reinforce":
        networks["critic"] = network_description(default_critic(environment))
    algorithm = ALGORITHMS[name](environment, record)
    return algorithm, {"algorithm": name, **networks, "settings": settings}


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
