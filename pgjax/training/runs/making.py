"""What a run is made of, and its description for `config.json`."""

from dataclasses import fields, replace
from typing import Any, NamedTuple

from pgjax import environments
from pgjax.core.validation import check_kind
from pgjax.environments.base import Environment
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.settings import (
    CHOICE,
    COUNT,
    SETTINGS,
    ReinforceSettings,
    RunOptions,
    Settings,
    option_name,
    options,
    tuned,
)
from pgjax.settings.tuned_table import tuned_words
from pgjax.training.algorithm import Algorithm
from pgjax.training.algorithms import ALGORITHMS, default_num_steps
from pgjax.training.networks import default_networks, network_description
from pgjax.training.runs.loop import say
from pgjax.types import describe

ENVIRONMENT = "environment"


class Made(NamedTuple):
    """What a run is made of.

    Attributes:
        environment: that it is trained in.
        algorithm: whose steps are taken.
        settings: complete, with the number of steps of an episode.
        description: algorithm, networks and settings, for `config.json`.
    """

    environment: Environment
    algorithm: Algorithm
    settings: Settings
    description: dict[str, Any]


def make(environment: "AnyEnvironment | str", settings: Settings, parts: dict[str, Any]) -> Made:
    """The algorithm of the settings with its own parts, and its description.

    Args:
        environment: a name, or as for `rollout`.
        settings: their class chooses the algorithm.
        parts: in place of the defaults; see `pgjax.training.runs.starting`.

    Raises:
        TypeError: if a part is none of the algorithm's.
    """
    name = algorithm_of(settings)
    known = (network_part(name), "estimator", "optimizer")
    if unknown := [part for part in parts if part not in known]:
        raise TypeError(f"{name} takes the parts {', '.join(known)}, got {', '.join(unknown)}")
    is_name = isinstance(environment, str)
    record = environments.make(environment) if is_name else as_environment(environment)
    if isinstance(settings, ReinforceSettings):
        settings = replace(settings, num_steps=default_num_steps(record, settings.num_steps))
    algorithm = ALGORITHMS[name](record, settings, **parts)
    description: dict[str, Any] = {"algorithm": name}
    if network_part(name) not in parts:
        policy, critic = default_networks(record, settings)
        description["network"] = network_description(policy)
        if name != "reinforce":
            description["critic"] = network_description(critic)
    description["settings"] = by_option(settings)
    own = [*([] if is_name else [ENVIRONMENT]), *sorted(parts)]
    return Made(record, algorithm, settings, description | ({"own": own} if own else {}))


def settings_or_tuned(
    environment: "AnyEnvironment | str", settings: Settings | None, options: RunOptions
) -> Settings:
    """The settings given; if they are None, those tuned for the environment's name.

    If tuned settings are chosen, a line says so. An environment without a name gets the defaults of
    REINFORCE.
    """
    if settings is not None:
        return settings
    if not isinstance(environment, str):
        return ReinforceSettings()
    found = tuned(environment)
    if words := tuned_words(environment, found):
        say(options, words)
    return found


def network_part(algorithm: str) -> str:
    """The name of the part that holds the policy."""
    return "policy" if algorithm == "reinforce" else "agent"


def algorithm_of(settings: Settings) -> str:
    """The name of the algorithm that the settings are of."""
    kinds = {kind: name for name, kind in SETTINGS.items()}
    fix = "pgjax.training.PPOSettings() makes those of PPO"
    check_kind("settings", settings, tuple(kinds), fix)
    return kinds[type(settings)]


def by_option(settings: Settings) -> dict[str, Any]:
    """The settings by their names on the command line, as numbers and strings of Python.

    Raises:
        TypeError: if one is traced, or not a single number.
    """
    return {
        name: _plain(field, getattr(settings, field.name))
        for name, field in options(type(settings))
    }


def _plain(field: Any, value: Any) -> Any:
    if value is None or field.metadata["must_be"] == CHOICE:
        return value
    try:
        return int(value) if field.metadata["must_be"] == COUNT else float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{field.name} must be one number for a run in a directory, got {describe(value)}"
        ) from error


def settings_of(config: dict) -> Settings:
    """The settings that a run began with, from its `config.json`."""
    began = config["options"]
    kind = SETTINGS[began["algorithm"]]
    every = fields(kind)
    return kind(**{each.name: began.get(option_name(each), each.default) for each in every})


def run_options_of(config: dict) -> RunOptions:
    """The options of the run in its `config.json`; those that it lacks have their defaults."""
    began = config["options"]
    names = [field.name for field in fields(RunOptions) if field.name in began]
    return RunOptions(**{name: began[name] for name in names})


def note(made: Made) -> str | None:
    """A sentence if episodes are cut before the environment's limit; None if they are not."""
    limit, settings = made.environment.time_limit, made.settings
    if not isinstance(settings, ReinforceSettings) or limit is None or not settings.num_steps:
        return None
    if settings.num_steps >= limit:
        return None
    return (
        f"episodes are cut after {settings.num_steps} steps, before the environment's limit of "
        f"{limit}: the objective is the return up to there"
    )
