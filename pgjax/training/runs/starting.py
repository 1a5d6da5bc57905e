"""Runs in a directory: started and resumed, from Python and by the command line alike.

A run may be stopped by a signal, be killed, or find the disk full. It can be resumed as if nothing
had happened. Its directory holds the settings, the log, checkpoints, the parameters and the
learning curve; `docs/long-runs.md` describes them. What holds for both functions stands here.

Args:
    directory: of the run. One process at a time may train in it.
    options: when it stops, saves and prints.
    parts: your own parts, in place of the defaults: `policy` (REINFORCE) or `agent` (A2C, PPO),
        `estimator` and `optimizer`, as `pgjax.training.reinforce`, `a2c` and `ppo` take them. They
        cannot be written to a file, so they are given again to resume the run or to load it.

Raises:
    ValueError: if another process trains in the directory, or a setting is out of range.
    PermissionError: if the directory cannot be written.
    ImportError: if a library that the options need is missing.
    RunFailedError: if an update is not finite, the device fails, or the final parameters cannot be
        written. What could be saved is saved, and the message names the last good checkpoint.
"""

import warnings
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from pgjax.core.validation import check_kind, check_number, check_positive
from pgjax.environments.conversion import AnyEnvironment
from pgjax.settings import RunOptions, Settings
from pgjax.training.algorithm import Algorithm, Training, begin
from pgjax.training.runs import checkpoints, loop, making, saved_runs, trackers
from pgjax.training.runs.loading import Run, load
from pgjax.training.runs.log import Row, RunLog, read_until
from pgjax.training.spreading import over_devices
from pgjax.types import describe

Directory: TypeAlias = Path | str


def start(
    directory: Directory,
    environment: "AnyEnvironment | str",
    settings: Settings | None = None,
    *,
    seed: int = 0,
    overwrite: bool = False,
    options: RunOptions | None = None,
    **parts: Any,
) -> Run:
    """Train in a directory until all updates are made, a return is reached, or a signal comes.

    Args:
        directory: a new one, or one without a run.
        environment: a name for `pgjax.environments.make`, which `resume` and `pgjax.load` find in
            the directory; or as for `rollout`.
        settings: those of REINFORCE, A2C or PPO; their class chooses the algorithm. None takes
            those tuned for the environment's name, or the defaults of REINFORCE if there are none.
        seed: the same seed and machine give the same parameters, bit by bit.
        overwrite: replace a run that is already in the directory.
        options: None is `RunOptions()`.
        parts: as in the module's docstring.

    Returns:
        The Run as `pgjax.load` gives it; `run.finished` is false if a signal stopped it.

    Raises:
        ValueError: if there is a run already, and `overwrite` is false.

    Example:
        >>> import tempfile, pgjax
        >>> from pgjax import training
        >>> run = start(tempfile.mkdtemp(), pgjax.tabular.random_mdp(),
        ...     training.ReinforceSettings(num_updates=2, num_trajectories=4, num_steps=5),
        ...     policy=pgjax.tabular_softmax(4, 2), options=training.RunOptions(quiet=True))
        >>> run.finished, run.params.shape, len(run.log)
        (True, (4, 2), 2)
    """
    directory = _checked_directory(directory)
    seed, options = checked_seed(seed), checked_options(options)
    saved_runs.check_place(directory, overwrite=overwrite)
    settings = making.settings_or_tuned(environment, settings, options)
    made, training = _make(environment, settings, seed, parts, options)
    own_name = environment if isinstance(environment, str) else made.environment.name
    config = saved_runs.describe(own_name, seed, made.description)
    began = {making.ENVIRONMENT: own_name, "algorithm": config["algorithm"], "seed": seed}
    config |= {"options": began | making.by_option(settings) | vars(options)}
    with saved_runs.locked(directory):
        saved_runs.begin(directory, config, overwrite=overwrite)
        first = loop.Progress(training.start, 0, 0)
        return _train(directory, config, made, (training, first, []))


def resume(
    directory: Directory,
    *,
    environment: "AnyEnvironment | None" = None,
    options: RunOptions | None = None,
    **parts: Any,
) -> Run:
    """Go on with a run from its last checkpoint, or from its start if there is none.

    Args:
        directory: of the run.
        environment: the one that it began with, if that was not given by a name.
        options: None is those that it began with.
        parts: those that it began with.

    Returns:
        The Run; a run that has finished is only loaded.

    Raises:
        ValueError: if there is no run, or it began with other parts.

    Example:
        >>> import tempfile, pgjax
        >>> from pgjax import training
        >>> directory, mdp = tempfile.mkdtemp(), pgjax.tabular.random_mdp()
        >>> settings = training.ReinforceSettings(num_updates=3, num_trajectories=4, num_steps=5)
        >>> own = {"policy": pgjax.tabular_softmax(4, 2)}
        >>> first = training.start(directory, mdp, settings, **own,
        ...     options=training.RunOptions(until=-1000.0, quiet=True))
        >>> len(first.log)  # the first batch is good enough
        1
        >>> run = resume(directory, environment=mdp, **own,
        ...     options=training.RunOptions(quiet=True))
        >>> len(run.log)
        3
    """
    directory = _checked_directory(directory)
    checked_options(options)
    config = saved_runs.read_config(directory)
    options = options or making.run_options_of(config)
    given = parts if environment is None else {making.ENVIRONMENT: environment, **parts}
    saved_runs.check_own(directory, config, given)
    settings, began = making.settings_of(config), config["options"]
    same_end, finished = options.until == began["until"], config.get("finished")
    if finished and (same_end or finished == settings.num_updates):
        loop.say(options, f"the run in {directory} has finished; try: pgjax evaluate {directory}")
        agent = parts.get("agent")
        policy = parts.get("policy") if agent is None else agent.policy
        return load(directory, environment=environment, policy=policy)
    where = config["environment"] if environment is None else environment
    with saved_runs.locked(directory):
        made, training = _make(where, settings, config["seed"], parts, options)
        for difference in saved_runs.differences(directory, config, made.description):
            loop.print_message(f"warning: {difference}; what follows may differ in its last bits")
        progress = _last_progress(directory, loop.Progress(training.start, 0, 0))
        rows = read_until(directory / saved_runs.LOG, progress.update)
        if len(rows) < progress.update:
            missing = progress.update - len(rows)
            loop.print_message(f"warning: {saved_runs.LOG} lacks {missing} updates")
        config |= {"options": began | vars(options), "finished": None}
        saved_runs.write_config(directory, config)
        loop.say(options, f"going on after update {progress.update} of {settings.num_updates}")
        return _train(directory, config, made, (training, progress, rows))


def _make(
    environment: "AnyEnvironment | str",
    settings: Settings,
    seed: int,
    parts: dict[str, Any],
    options: RunOptions,
) -> tuple[making.Made, Training]:
    made = making.make(environment, settings, parts)
    return made, begin(_spread(made.algorithm, options), jax.random.key(seed))


def _spread(algorithm: Algorithm, options: RunOptions) -> Algorithm:
    """The algorithm on the devices that the options ask for."""
    if options.devices == 1:
        return algorithm
    local = jax.local_devices()
    number = len(local) if options.devices == "all" else int(options.devices)
    if number > len(local):
        raise ValueError(
            f"options.devices must be at most {len(local)}, the devices here, got {number}"
        )
    return over_devices(algorithm, local[:number]) if number > 1 else algorithm


def _train(
    directory: Path,
    config: dict,
    made: making.Made,
    state: tuple[Training, loop.Progress, list[Row]],
) -> Run:
    """Update from a state until the run ends; the directory is locked and has its config."""
    training, progress, rows = state
    options = making.run_options_of(config)
    if note := making.note(made):
        loop.say(options, note)
    plan = loop.Plan(
        directory,
        made.settings.num_updates,
        options,
        title=f"{config['environment']}, seed {config['seed']}",
        resume=_how_to_resume(directory, config),
        trackers=trackers.trackers(directory, options, config, rows),
    )
    log = RunLog(directory / saved_runs.LOG, rows)
    ending = loop.run_updates(training, progress, log, plan)
    config |= {"finished": ending.progress.update if ending.finished else None}
    params = training.params(ending.progress.state)
    policy = made.algorithm.policy
    return Run(directory, made.environment, policy, params, config["settings"], config)


def _how_to_resume(directory: Path, config: dict) -> str:
    if own := config.get("own"):
        given = ", ".join(f"{name}=..." for name in own)
        return f"pgjax.training.resume({str(directory)!r}, {given})"
    return f"pgjax train --resume {directory}"


def _last_progress(directory: Path, start: loop.Progress) -> loop.Progress:
    """The progress in the newest undamaged checkpoint; warnings name the damaged ones."""
    folder = directory / saved_runs.CHECKPOINTS
    if not checkpoints.steps(folder):
        return start
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = checkpoints.restore_latest(folder, start)
    for warning in caught:
        loop.print_message(f"warning: {warning.message}")
    return found.state


def _checked_directory(directory: Directory) -> Path:
    return Path(check_kind("directory", directory, (str, Path), "where the run's files go"))


def checked_seed(seed: Any, name: str = "seed") -> int:
    """A seed as jax.random.key takes it; a TypeError or ValueError if it is none."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {describe(seed)}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"{name} must be from 0 to 2^32 - 1, got {seed}")
    return int(seed)


def checked_options(options: Any) -> RunOptions:
    """The options, or the default ones; each number is checked."""
    if options is None:
        return RunOptions()
    check_kind("options", options, RunOptions, "pgjax.training.RunOptions(until=100.0), say")
    if options.until is not None:
        check_number("options.until", options.until)
    if options.checkpoint_every is not None:
        check_positive("options.checkpoint_every", options.checkpoint_every)
    if options.devices != "all":
        check_positive("options.devices", options.devices)
    trackers.check_installed(options)
    return options
