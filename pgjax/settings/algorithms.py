"""Settings of REINFORCE, A2C and PPO: frozen dataclasses that need no JAX.

In training their real numbers are leaves of a pytree, and their counts are static. So `jax.vmap`
can go over learning rates, discounts, λ or clips. The command line makes its options from the same
fields. A field's metadata hold the option's name if it differs, its group, its meaning, and the
values that it accepts.
"""

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeAlias

MAX_DEFAULT_STEPS = 500
"""A cap on REINFORCE's *default* number of steps: a batch keeps N·T observations in memory."""

BASELINES = ("leave-one-out", "batch-mean", "none")

RAW, STANDARDIZED = "raw", "standardized"
"""The two forms in which the default networks of A2C and PPO see observations."""

COUNT, RATE, OPEN_RATE = "count", "in [0, 1]", "in (0, 1)"
POSITIVE, NONNEGATIVE, CHOICE = "positive", "at least 0", "choice"


def setting(
    default: Any,
    group: str,
    must_be: str,
    meaning: str,
    *,
    option: str | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of settings.

    Args:
        default: the field's value if none is given.
        group: the group of options in the command line's help.
        must_be: COUNT, RATE, OPEN_RATE, POSITIVE, NONNEGATIVE or CHOICE.
        meaning: the field's meaning and unit, for the help.
        option: the option's name on the command line; None takes the field's.
        choices: the accepted values of a CHOICE.
    """
    about = {"group": group, "must_be": must_be, "meaning": meaning}
    return field(default=default, metadata=about | {"option": option, "choices": choices})


def _updates(default: int) -> Any:
    meaning = "updates in all, each of a batch of episodes or of a window"
    return setting(default, "length", COUNT, meaning, option="updates")


def _learning_rate(default: float) -> Any:
    meaning = "of Adam at the first update; it falls linearly to zero at the last"
    return setting(default, "optimizer", POSITIVE, meaning)


def _discount(default: float) -> Any:
    meaning = "γ of the objective E[Σ γ^t r], per step; 1 is the return that is reported"
    return setting(default, "objective", RATE, meaning)


@dataclass(frozen=True)
class ReinforceSettings:
    """Settings of REINFORCE on whole episodes.

    Attributes:
        num_updates: the number of updates. The learning rate falls to zero at the last.
        num_trajectories: N, the episodes in each update.
        num_steps: T, the number of steps after which an episode is cut. None is the environment's
            own limit, but at most `MAX_DEFAULT_STEPS`.
        discount: γ in [0, 1], per step.
        baseline: "leave-one-out", "batch-mean" or "none", as in `pgjax.baselines`.
        learning_rate: of Adam, at the first update.
    """

    num_updates: int = _updates(100)
    num_trajectories: int = setting(64, "batch", COUNT, "episodes in each update")
    num_steps: int | None = setting(
        None,
        "batch",
        COUNT,
        "steps: a window's length; for reinforce episodes are cut after so many, by default at the "
        f"environment's own limit, at most {MAX_DEFAULT_STEPS}, and a cut changes the objective to "
        "the return so far",
    )
    discount: float = _discount(1.0)
    baseline: str = setting(
        "leave-one-out",
        "objective",
        CHOICE,
        "subtracted from the return at each time step; leave-one-out and none are unbiased",
        choices=BASELINES,
    )
    # Twice this rate learns CartPole sooner, but gets stuck on FrozenLake.
    learning_rate: float = _learning_rate(0.005)


@dataclass(frozen=True)
class A2CSettings:
    """Settings of A2C on windows.

    Attributes:
        num_updates: the number of updates. The learning rate falls to zero at the last.
        num_environments: N, the environments that are stepped together.
        num_steps: T, the steps of each environment in a window; an update has N·T steps.
        discount: γ in [0, 1], per step.
        lambda_: λ of the advantages, in [0, 1].
        entropy_weight: c_H ≥ 0, the weight of the entropy in nats.
        value_weight: c_V ≥ 0, the weight of the critic's squared error.
        learning_rate: of Adam, at the first update.
        max_gradient_norm: the largest norm of a gradient; a longer gradient is shortened to it.
        observations: "raw" or "standardized". If standardized, the default networks see them less
            their mean so far, divided by their standard deviation so far.
    """

    num_updates: int = _updates(1000)
    num_environments: int = setting(16, "batch", COUNT, "environments stepped together")
    num_steps: int = setting(16, "batch", COUNT, "steps of each environment in a window")
    discount: float = _discount(0.99)
    lambda_: float = setting(
        0.95,
        "objective",
        RATE,
        "λ of the advantages: 0 trusts the critic, 1 the returns",
        option="gae_lambda",
    )
    entropy_weight: float = setting(
        0.0, "objective", NONNEGATIVE, "weight of the policy's entropy, in nats"
    )
    value_weight: float = setting(
        0.5, "objective", NONNEGATIVE, "weight of the critic's squared error"
    )
    learning_rate: float = _learning_rate(0.002)
    max_gradient_norm: float = setting(
        0.5, "optimizer", POSITIVE, "a longer gradient is shortened to it"
    )
    observations: str = setting(
        RAW,
        "batch",
        CHOICE,
        "as the networks see them: standardized is less their mean so far, over their standard "
        "deviation so far",
        choices=(RAW, STANDARDIZED),
    )


@dataclass(frozen=True)
class PPOSettings(A2CSettings):
    """Settings of PPO on windows: those of A2C, and three more.

    Attributes:
        epochs: the passes of an update through its window.
        num_minibatches: the equal parts of a window in an epoch, each for one step of Adam.
        clip: ε in (0, 1), of `terms.ppo_clip`: ratios beyond 1 ± ε give no more incentive.
    """

    num_updates: int = _updates(100)
    num_steps: int = setting(128, "batch", COUNT, "steps of each environment in a window")
    learning_rate: float = _learning_rate(0.001)
    epochs: int = setting(10, "batch", COUNT, "passes through each window")
    num_minibatches: int = setting(
        8,
        "batch",
        COUNT,
        "equal parts of a window, one step of Adam each",
        option="minibatches",
    )
    clip: float = setting(
        0.2, "objective", OPEN_RATE, "ε: ratios beyond 1 ± ε give no more incentive"
    )


Settings: TypeAlias = ReinforceSettings | A2CSettings

SETTINGS: dict[str, type[Settings]] = {
    "reinforce": ReinforceSettings,
    "a2c": A2CSettings,
    "ppo": PPOSettings,
}
"""The class of settings of each algorithm."""


def option_name(field: Field) -> str:
    """The name of a field on the command line and in `config.json`."""
    return field.metadata["option"] or field.name


def options(kind: type[Settings]) -> Iterator[tuple[str, Field]]:
    """Each field of a class of settings, under its name on the command line."""
    return ((option_name(field), field) for field in fields(kind))
