"""Algorithms that `pgjax train` runs: their options, their defaults, and what they are made of.

An option left out takes its algorithm's default. An option that the algorithm lacks is an error.
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
    CHOICE,
    COUNT,
    NONNEGATIVE,
    OPEN_RATE,
    POSITIVE,
    RATE,
    SETTINGS,
    Settings,
    options,
)
from pgjax.settings.tuned_table import tuned_rows

if TYPE_CHECKING:
    from jax import Array

    from pgjax.environments.conversion import AnyEnvironment
    from pgjax.training.algorithm import Training
    from pgjax.types import Policy, RecurrentPolicy


Made: TypeAlias = "tuple[Training, dict[str, Any], Policy | RecurrentPolicy]"
"""The run; the algorithm, networks and settings for `config.json`; and the trained policy."""

DEFAULTS: dict[str, dict[str, Any]] = {
    algorithm: {name: field.default for name, field in options(kind)}
    for algorithm, kind in SETTINGS.items()
}
"""The default of each option of each algorithm."""

DEFAULT = "reinforce"
"""The algorithm where none is given or tuned."""

OPTIONS: dict[str, Field] = {
    name: field for kind in reversed(SETTINGS.values()) for name, field in options(kind)
}
"""Each option, with the field that describes it: where algorithms share it, the first one's."""

GROUPS = {
    "length": "length of the training",
    "batch": "batch: what an update is made of",
    "objective": "objective: what is maximized",
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
        help="reinforce: whole episodes, reward-to-go and a baseline; a2c, ppo: windows of steps, "
        "and a critic (default: the one tuned for the environment, or reinforce)",
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
        return {"choices": field.metadata["choices"]}
    metavar = "N" if must_be == COUNT else "X"
    return {"type": TYPES[must_be], "metavar": metavar}


def complete(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments with the algorithm's default for each option that is missing.

    Raises:
        ValueError: if an option belongs to another algorithm.
    """
    algorithm = arguments.algorithm or DEFAULT
    defaults = DEFAULTS[algorithm]
    for name in OPTIONS:
        if name not in defaults and getattr(arguments, name) is not None:
            raise ValueError(
                f"{_flag(name)} is not an option of {algorithm}, which takes "
                f"{', '.join(map(_flag, defaults))}"
            )
    given = {name: getattr(arguments, name) for name in defaults}
    filled = {name: defaults[name] if x is None else x for name, x in given.items()}
    return argparse.Namespace(**vars(arguments) | filled | {"algorithm": algorithm})


def with_tuned(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments with the settings tuned for the environment where none are given.

    If an algorithm is given, settings tuned for another algorithm are left out.

    Raises:
        ValueError: if an option does not belong to the tuned algorithm.
    """
    row = tuned_rows().get(arguments.environment)
    if row is None or arguments.algorithm not in (None, row.algorithm):
        return arguments
    filled = argparse.Namespace(**vars(arguments) | {"algorithm": row.algorithm})
    for name, value in row.options.items():
        if getattr(filled, name) is None:
            setattr(filled, name, value)
    try:
        complete(filled)
    except ValueError as error:
        if arguments.algorithm is None:
            reason = f"{error}; {row.algorithm} is tuned for {arguments.environment}; to choose "
            raise ValueError(f"{reason}another, give --algorithm, such as reinforce") from None
        raise
    return filled


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
    from pgjax.training.runs import making

    made = making.make(environment, settings(arguments), {})
    return begin(made.algorithm, key), made.description, made.algorithm.policy


def settings(arguments: argparse.Namespace) -> Settings:
    """The settings that the arguments ask for; options left out have the algorithm's defaults.

    Raises:
        ValueError: if options do not fit each other or the algorithm.
    """
    arguments = complete(arguments)
    is_single = arguments.algorithm == "reinforce" and arguments.num_trajectories == 1
    if is_single and arguments.baseline == "leave-one-out":
        raise ValueError(
            "--baseline leave-one-out needs --num-trajectories of at least 2; "
            "with a single one, use --baseline none"
        )
    kind = SETTINGS[arguments.algorithm]
    return kind(**{field.name: getattr(arguments, name) for name, field in options(kind)})


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
