"""Options of a run in a directory."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunOptions:
    """Options of a run in a directory: when it stops, saves and reports, and on which devices.

    None of them but `devices` changes what an update computes.

    Attributes:
        until: a mean return; the run stops at the first batch that reaches it. None makes all
            updates.
        checkpoint_every: the number of updates between checkpoints. None saves every 30 seconds, or
            less often if saving takes over 2% of the time.
        quiet: whether to print only warnings.
        tensorboard: whether to write the log for TensorBoard too, in the run's folder
            `tensorboard`.
        wandb: whether to write it for Weights & Biases too, offline, in the run's folder `wandb`.
        devices: a number of local devices, or "all", over which to spread the environments of A2C
            and PPO, as `training.over_devices` does.
    """

    until: float | None = None
    checkpoint_every: int | None = None
    quiet: bool = False
    tensorboard: bool = False
    wandb: bool = False
    devices: int | str = 1
