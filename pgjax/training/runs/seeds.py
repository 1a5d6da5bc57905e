"""Several seeds of one training, in one program: `jax.vmap` over the update.

Each seed has a run directory, `seed-0` and so on, as if it were trained alone: `pgjax.load` reads
it, and `resume` goes on with it alone. Its last bits may differ from those of a run alone, as the
program is another one.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Float

from pgjax.core.validation import check_kind, check_real
from pgjax.diagnostics import Interval
from pgjax.settings import RunOptions, Settings
from pgjax.training.algorithm import MEASURED, Algorithm, Metrics, begin
from pgjax.training.runs import loop, making, saved_runs, trackers
from pgjax.training.runs.loading import Run
from pgjax.training.runs.log import Row, RunLog
from pgjax.training.runs.progress import reporter
from pgjax.training.runs.signals import interruptions
from pgjax.training.runs.starting import checked_options, checked_seed

CURVES, AGGREGATE = "learning_curves.png", "aggregate.json"
LAST = 0.1
"""The share of the updates, at the end, whose mean return is a seed's result."""


class SeedRuns(NamedTuple):
    """Runs that were trained together.

    Attributes:
        runs: one for each seed, in their order.
        returns: [S] of each seed, the mean return over the last tenth of its updates.
        aggregate: the interquartile mean of the returns, with a bootstrap interval.
    """

    runs: tuple[Run, ...]
    returns: Float[np.ndarray, "S"]
    aggregate: Interval


def start_seeds(
    directory: Path | str,
    environment: str,
    settings: Settings | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    *,
    overwrite: bool = False,
    options: RunOptions | None = None,
) -> SeedRuns:
    """Train all seeds together, each in a directory of its own below the one given.

    Beside them are written `learning_curves.png`, with the median and the band from quartile to
    quartile against environment steps, and `aggregate.json`.

    Args:
        directory: that will hold `seed-0` and so on.
        environment: a name for `pgjax.environments.make`.
        settings: those of REINFORCE, A2C or PPO; their class chooses the algorithm. None takes
            those tuned for the environment, or the defaults of REINFORCE if there are none.
        seeds: different ones.
        overwrite: replace runs that are already in the directories.
        options: None is `RunOptions()`; `until`, `wandb` and `devices` must not be given.

    Returns:
        The runs, the return of each, and the aggregate.

    Raises:
        ValueError: if there is a run already, and `overwrite` is false; if seeds repeat; or if
            `options.until`, `options.wandb` or `options.devices` is given.
        RunFailedError: if an update of any seed is not finite, or the device fails; all seeds are
            saved, and each can be resumed alone.

    Example:
        >>> import tempfile, pgjax
        >>> from pgjax import training
        >>> found = start_seeds(tempfile.mkdtemp(), "DeepSea-bsuite",
        ...     training.ReinforceSettings(num_updates=2, num_trajectories=4), [0, 1],
        ...     options=training.RunOptions(quiet=True))
        >>> [run.directory.name for run in found.runs], found.returns.shape
        (['seed-0', 'seed-1'], (2,))
    """
    directory = Path(check_kind("directory", directory, (str, Path), "where the seeds' runs go"))
    check_kind("environment", environment, str, "pgjax.environments.make knows it by this")
    options, seeds = checked_options(options), _checked_seeds(seeds)
    if options.until is not None:
        raise ValueError(
            f"options.until must be None for several seeds, got {options.until}: all make the same "
            "updates"
        )
    if options.devices != 1:
        raise ValueError(
            f"options.devices must be 1 for several seeds, got {options.devices}: they share one "
            "program on one device"
        )
    if options.wandb:
        raise ValueError(
            "options.wandb must be False for several seeds, got True: it logs one run; try "
            "tensorboard"
        )
    folders = [directory / f"seed-{seed}" for seed in seeds]
    for folder in folders:
        saved_runs.check_place(folder, overwrite=overwrite)
    settings = making.settings_or_tuned(environment, settings, options)
    made = making.make(environment, settings, {})
    configs = [saved_runs.describe(environment, seed, made.description) for seed in seeds]
    for seed, config in zip(seeds, configs, strict=True):
        began = {making.ENVIRONMENT: environment, "algorithm": config["algorithm"], "seed": seed}
        config |= {"options": began | making.by_option(settings) | vars(options)}
        config |= {"trained_with_seeds": seeds}
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.enter_context(saved_runs.locked(folder))
        for folder, config in zip(folders, configs, strict=True):
            saved_runs.begin(folder, config, overwrite=overwrite)
        runs = _active_runs(made, configs, folders, options)
        finished = _train(made.algorithm, runs, seeds, options)
        found = _results(directory, made, runs, configs, finished=finished)
        title = f"{environment}, {making.algorithm_of(settings)}"
        _report(directory, found, seeds, options, title)
    return found


def interquartile_mean(values: Float[np.ndarray, "S"], *, level: float = 0.95) -> Interval:
    """The mean of the middle half of the values, with a bootstrap interval.

    Args:
        values: [S], one for each seed.
        level: of the interval's confidence.

    Returns:
        The mean without the lowest and the highest quarter; the interval is by the percentiles of
        2,000 resamples of the seeds. With one seed there is no interval, and its ends are NaN.

    Bias: that of a trimmed mean; none for the centre of a symmetric distribution. With five seeds
        the bootstrap's intervals are too short.

    References:
        Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice (2021).

    Example:
        >>> interquartile_mean(np.array([0.0, 4.0, 6.0, 100.0])).estimate
        5.0
    """
    values = np.asarray(check_real("values", values), np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values must have shape [S] with S of at least 1, got {values.shape}")

    def trimmed(x: np.ndarray, axis: int = -1) -> Any:
        return scipy.stats.trim_mean(x, 0.25, axis=axis)

    estimate = float(trimmed(values))
    if values.size == 1 or not np.ptp(values) > 0:
        end = float("nan") if values.size == 1 else estimate
        return Interval(estimate, end, end)
    found = scipy.stats.bootstrap(
        (values,),
        trimmed,
        confidence_level=level,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(estimate, float(found.low), float(found.high))


def _active_runs(
    made: making.Made, configs: list[dict], folders: list[Path], options: RunOptions
) -> list[loop.ActiveRun]:
    runs = []
    for folder, config in zip(folders, configs, strict=True):
        seed = config["seed"]
        alone = begin(made.algorithm, jax.random.key(seed))
        plan = loop.Plan(
            folder,
            made.settings.num_updates,
            replace(options, quiet=True),
            title=f"{made.environment.name}, seed {seed}",
            resume=f"pgjax train --resume {folder}",
            trackers=trackers.trackers(folder, options, config, []),
            label=f"seed {seed}: ",
        )
        log = RunLog(folder / saved_runs.LOG, [])
        runs.append(loop.ActiveRun(alone, loop.Progress(alone.start, 0, 0), log, plan))
    return runs


def _train(
    algorithm: Algorithm, runs: list[loop.ActiveRun], seeds: list[int], options: RunOptions
) -> bool:
    """Update all runs together, and return whether they are done: no signal stopped them."""
    with interruptions() as asked:
        try:
            with reporter(runs[0].plan.updates, quiet=options.quiet) as report:
                _update_until_stopped(algorithm, runs, seeds, asked, report)
        except (FloatingPointError, jax.errors.JaxRuntimeError) as error:
            failures = [run.failure(error) for run in runs]  # each saves its run
            raise failures[0] from error
        except BaseException:
            for run in runs:
                run.write_results()
            raise
        finally:
            for run in runs:
                run.close_trackers()
        signal_name = asked()
        done = signal_name is None or runs[0].is_done()
        for run in runs:
            if done:
                run.finish()
            else:
                run.stop(str(signal_name))
    return done


def _update_until_stopped(
    algorithm: Algorithm, runs: list[loop.ActiveRun], seeds: list[int], asked: Any, report: Any
) -> None:
    step = _compiled(algorithm)
    while not runs[0].is_done() and asked() is None:
        done = runs[0].progress.update
        states, metrics = step([run.progress.state for run in runs], done % MEASURED == 0)
        metrics = jax.device_get(metrics)
        _check_finite(metrics, seeds, done + 1)
        of_seeds = [jax.tree.map(lambda x, i=i: float(x[i]), metrics) for i in range(len(runs))]
        rows = [
            run.record(state, found._replace(finite=None))
            for run, state, found in zip(runs, states, of_seeds, strict=True)
        ]
        report(_over_seeds(rows))
        for run in runs:
            run.checkpoint_if_due()


def _compiled(algorithm: Algorithm) -> Callable[..., tuple[list[Any], Metrics]]:
    return jax.jit(partial(_update, algorithm))


def _update(algorithm: Algorithm, states: list[Any], measure: Any) -> tuple[list[Any], Metrics]:
    """The states of all seeds after an update, and their metrics with a leading [S]."""
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    # One `measure` for all, so that a branch stays a branch.
    others = (measure,) if algorithm.measures else ()
    stacked, metrics = jax.vmap(lambda state: algorithm.step(state, *others))(stacked)
    return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(states))], metrics


def _check_finite(metrics: Metrics, seeds: list[int], update: int) -> None:
    for index, seed in enumerate(seeds):
        bad = [name for name, is_finite in (metrics.finite or {}).items() if not is_finite[index]]
        if bad:
            raise FloatingPointError(
                f"update {update}, seed {seed}: not finite: {', '.join(bad)}; lower the learning "
                "rate, or find the cause with pgjax.checked"
            )


def _over_seeds(rows: list[Row]) -> Row:
    """A row for the report: the median return, the mean of other numbers, all seeds' steps."""
    returns = np.array([row["mean_return"] for row in rows])
    known = returns[np.isfinite(returns)]
    return {
        "update": rows[0]["update"],
        "environment_steps": sum(row["environment_steps"] for row in rows),
        "mean_return": float(np.median(known)) if known.size else float("nan"),
        "standard_error": float("nan"),
        "gradient_norm": float(np.mean([row["gradient_norm"] for row in rows])),
        "entropy": float(np.mean([row["entropy"] for row in rows])),
        "seconds": rows[0]["seconds"],
    }


def _results(
    directory: Path,
    made: making.Made,
    runs: list[loop.ActiveRun],
    configs: list[dict],
    *,
    finished: bool,
) -> SeedRuns:
    loaded = tuple(
        Run(
            run.plan.directory,
            made.environment,
            made.algorithm.policy,
            run.training.params(run.progress.state),
            config["settings"],
            config | {"finished": run.progress.update if finished else None},
        )
        for run, config in zip(runs, configs, strict=True)
    )
    returns = np.array([_result(run.log.rows) for run in runs])
    return SeedRuns(loaded, returns, interquartile_mean(returns))


def _result(rows: list[Row]) -> float:
    last = rows[-max(1, round(LAST * len(rows))) :]
    return float(np.mean([row["mean_return"] for row in last])) if last else float("nan")


def _report(
    directory: Path, found: SeedRuns, seeds: list[int], options: RunOptions, title: str
) -> None:
    from pgjax.training.runs import curve  # Matplotlib takes a second

    logs = [run.log for run in found.runs]
    if not all(logs):
        return
    curve.learning_curves(logs, title=title).savefig(directory / CURVES, dpi=150)
    aggregate = found.aggregate
    content = {
        "seeds": seeds,
        "returns": found.returns.tolist(),
        "environment_steps": [rows[-1]["environment_steps"] for rows in logs],
        "interquartile_mean": aggregate.estimate,
        "interval": [aggregate.low, aggregate.high],
    }
    text = json.dumps(_without_nan(content), indent=2) + "\n"
    (directory / AGGREGATE).write_text(text, "utf-8")
    each = ", ".join(f"{seed}: {x:.4g}" for seed, x in zip(seeds, found.returns, strict=True))
    loop.say(options, f"return of each seed over the last tenth of the updates: {each}")
    loop.say(
        options,
        f"interquartile mean {aggregate.estimate:.4g}, 95% bootstrap interval "
        f"{aggregate.low:.4g} to {aggregate.high:.4g}",
    )
    loop.say(options, f"saved in {directory}; try: pgjax evaluate {found.runs[0].directory}")
    if not found.runs[0].finished:
        loop.say(
            options,
            f"each seed can be resumed alone: pgjax train --resume {found.runs[0].directory}",
        )


def _without_nan(value: Any) -> Any:
    """JSON has no NaN, so it becomes null."""
    if isinstance(value, dict):
        return {name: _without_nan(x) for name, x in value.items()}
    if isinstance(value, list):
        return [_without_nan(x) for x in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _checked_seeds(seeds: Any) -> list[int]:
    fix = "[0, 1, 2] trains three"
    if isinstance(seeds, str) or not isinstance(seeds, Sequence):
        check_kind("seeds", seeds, Sequence, fix)
        raise TypeError(f"seeds must be a sequence of integers, got {seeds!r}; {fix}")
    found = [checked_seed(seed, "each of seeds") for seed in seeds]
    if not found:
        raise ValueError(f"seeds must hold at least one seed, got none; {fix}")
    if repeated := [seed for seed, count in Counter(found).items() if count > 1]:
        raise ValueError(f"seeds must differ, got {repeated[0]} more than once")
    return found
