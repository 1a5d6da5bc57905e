"""Options of a run in a directory."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunOptions:
    """When a run in a directory stops, saves and reports. Only `devices` changes updates.

    Attributes:
        until: a mean return; the run stops at the first batch that has at least this. None makes
            all updates.
        checkpoint_every: a number of updates; None is every 30 seconds, or more rarely where saving
            takes over 2% of the time.
        quiet: print nothing but warnings.
        devices: a number of local devices, or "all", to spread the environments of A2C and PPO
            over, as `training.over_devices` does.
        tensorboard: write the log for TensorBoard too, in the run's folder `tensorboard`.
        wandb: write it for Weights & Biases too, offline, in the run's folder `wandb`.
    """

    until: float | None = None
    checkpoint_every: int | None = None
    quiet: bool = False
    tensorboard: bool = False
    wandb: bool = False
    devices: int | str = 1
