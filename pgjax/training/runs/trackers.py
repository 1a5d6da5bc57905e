"""The rows of the log for TensorBoard and Weights & Biases, by option.

The log's JSON lines remain the source. When a run starts or is resumed, a writer is given all the
rows so far, and then each new one. So it never holds more or less than the log. The horizontal axis
is the number of environment steps.
"""

import importlib
import importlib.util
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pgjax.settings import RunOptions
from pgjax.training.runs.log import Row

TENSORBOARD, WANDB = "tensorboard", "wandb"
FOLDERS = (TENSORBOARD, WANDB)
"""In the directory of a run; each is named as its option and its extra."""

MODULES = {TENSORBOARD: "tensorboardX", WANDB: "wandb"}
TITLES = {TENSORBOARD: "TensorBoard", WANDB: "Weights & Biases"}
STEPS = "environment_steps"


class Tracker(NamedTuple):
    """A writer of rows.

    Attributes:
        name: for messages.
        write: row -> None.
        close: () -> None; what is waiting is written.
    """

    name: str
    write: Callable[[Row], None]
    close: Callable[[], None]


def check_installed(options: RunOptions) -> None:
    """Raise an ImportError with the command that installs it, if a library is missing."""
    for name, module in MODULES.items():
        if getattr(options, name) and importlib.util.find_spec(module) is None:
            raise ImportError(
                f"{TITLES[name]} needs {module}, which is not installed; try: "
                f'pip install "policy-gradient-jax[{name}]"'
            )


def trackers(
    directory: Path, options: RunOptions, config: Mapping[str, Any], rows: Sequence[Row]
) -> list[Tracker]:
    """The writers that the options ask for; each has written the rows so far.

    Args:
        directory: of the run.
        options: of the run.
        config: of the run, for Weights & Biases.
        rows: of the log so far.

    Raises:
        ImportError: if a library is missing.
    """
    check_installed(options)
    makers = {TENSORBOARD: _tensorboard, WANDB: _wandb}
    made = [maker(directory, config) for name, maker in makers.items() if getattr(options, name)]
    for tracker in made:
        for row in rows:
            tracker.write(row)
    return made


def _tensorboard(directory: Path, config: Mapping[str, Any]) -> Tracker:
    folder = directory / TENSORBOARD
    shutil.rmtree(folder, ignore_errors=True)  # of the process before: it is written again
    writer = importlib.import_module(MODULES[TENSORBOARD]).SummaryWriter(str(folder))

    def write(row: Row) -> None:
        for name, value in _numbers(row).items():
            writer.add_scalar(name, value, row[STEPS])

    return Tracker(TITLES[TENSORBOARD], write, writer.close)


def _wandb(directory: Path, config: Mapping[str, Any]) -> Tracker:
    wandb: Any = importlib.import_module(MODULES[WANDB])
    run = wandb.init(
        mode="offline",
        project="pgjax",
        name=f"{config['environment']}, seed {config['seed']}",
        config=dict(config),
        dir=str(directory),
        settings=wandb.Settings(silent=True, console="off"),
    )

    def write(row: Row) -> None:
        run.log(_numbers(row), step=row[STEPS])

    return Tracker(TITLES[WANDB], write, run.finish)


def _numbers(row: Row) -> dict[str, float]:
    """The finite entries, without the axis."""
    return {name: x for name, x in row.items() if name != STEPS and math.isfinite(x)}
