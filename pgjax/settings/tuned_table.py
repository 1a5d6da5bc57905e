"""Settings tuned for an environment, from the table in `tuned.toml`."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from pgjax.settings.algorithms import SETTINGS, ReinforceSettings, Settings, options

FACTS = ("steps", "goal", "returns")
"""The keys of a section that are not settings."""


@dataclass(frozen=True)
class TunedRow:
    """A section of the table.

    Attributes:
        algorithm: "reinforce", "a2c" or "ppo".
        options: by their names on the command line; the others have the algorithm's defaults.
        steps: the environment's steps in the training of one seed.
        goal: a return that each of the returns reaches.
        returns: the mean return over the last tenth of the updates, for seeds 0 to 4.
    """

    algorithm: str
    options: dict[str, Any]
    steps: int
    goal: float
    returns: tuple[float, ...]

    @property
    def settings(self) -> Settings:
        """The section's settings, completed with the algorithm's defaults."""
        kind = SETTINGS[self.algorithm]
        names = {name: field.name for name, field in options(kind)}
        return kind(**{names[name]: value for name, value in self.options.items()})


@cache
def tuned_rows() -> dict[str, TunedRow]:
    """All sections of the table, by the names of their environments.

    Example:
        >>> tuned_rows()["CartPole-v1"].goal
        475
    """
    text = (resources.files("pgjax.settings") / "tuned.toml").read_text("utf-8")
    return {name: _row(section) for name, section in tomllib.loads(text).items()}


def tuned(name: str) -> Settings:
    """The settings tuned for an environment; REINFORCE's defaults if the table lacks it.

    Args:
        name: of the environment, as for `pgjax.environments.make`.

    Raises:
        TypeError: if `name` is not a string.

    Example:
        >>> tuned("CartPole-v1").num_updates, tuned("DeepSea-bsuite") == ReinforceSettings()
        (30, True)
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, such as 'CartPole-v1', got {name!r}")
    row = tuned_rows().get(name)
    return ReinforceSettings() if row is None else row.settings


def tuned_words(name: str, taken: Settings) -> str | None:
    """A sentence that names the tuned settings among those taken; None if there are none.

    Args:
        name: of the environment.
        taken: the settings of the training, some of which may be tuned.
    """
    row = tuned_rows().get(name)
    if row is None or type(taken) is not SETTINGS[row.algorithm]:
        return None
    fields = {option: field.name for option, field in options(type(taken))}
    same = {o: x for o, x in row.options.items() if getattr(taken, fields[o]) == x}
    if not same:
        return None
    words = " ".join(f"--{option.replace('_', '-')} {x}" for option, x in same.items())
    said = f"tuned for {name}: --algorithm {row.algorithm} {words}"
    if taken != row.settings:
        return said
    return f"{said}; five seeds of five reached a return of {row.goal:g}"


def _row(section: dict[str, Any]) -> TunedRow:
    chosen = {name: x for name, x in section.items() if name not in ("algorithm", *FACTS)}
    returns = tuple(section["returns"])
    return TunedRow(section["algorithm"], chosen, section["steps"], section["goal"], returns)
