"""The loop of a training run in its directory: updates, log, checkpoints, results."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

import jax

from pgjax.settings import RunOptions
from pgjax.training.algorithm import Metrics, Training, advance
from pgjax.training.runs import checkpoints, saved_runs
from pgjax.training.runs.advice import advice
from pgjax.training.runs.log import Row, RunLog
from pgjax.training.runs.progress import reporter
from pgjax.training.runs.signals import interruptions
from pgjax.training.runs.trackers import Tracker

SECONDS = 30.0
"""The default time between two checkpoints."""

SHARE = 0.02
"""The default share of the time for checkpoints: a large state is saved more rarely."""


class Progress(NamedTuple):
    """The state of a run that a checkpoint holds.

    Attributes:
        state: of the Training: parameters, optimizer, key, streams of episodes.
        update: the number of updates so far.
        environment_steps: the number of steps in them.
    """

    state: Any
    update: int
    environment_steps: int


class Plan(NamedTuple):
    """The goal of a run, and its directory.

    Attributes:
        directory: of the run.
        updates: the number in all.
        options: when it stops, saves and prints.
        title: of the learning curve.
        resume: how to go on with the run, for messages.
        trackers: that are given each row of the log, and closed at the end.
        label: in front of messages, "seed 3: " where several seeds are trained together.
    """

    directory: Path
    updates: int
    options: RunOptions
    title: str
    resume: str
    trackers: Sequence[Tracker] = ()
    label: str = ""


class Ending(NamedTuple):
    """How a run ended.

    Attributes:
        progress: at the end.
        finished: whether it is done; false if a signal stopped it, and it can be resumed.
    """

    progress: Progress
    finished: bool


class RunFailedError(RuntimeError):
    """A run stopped by a fault; what could be saved is saved, and the message says where."""


def run_updates(training: Training, progress: Progress, log: RunLog, plan: Plan) -> Ending:
    """Update, log and save, until the plan is done, a signal asks to stop, or an update fails.

    Args:
        training: whose steps are taken.
        progress: at the start.
        log: of the updates so far.
        plan: of the run.

    Returns:
        The Ending; the run is done, or saved so that it can be resumed.

    Raises:
        RunFailedError: if an update is not finite, the device fails, or the final parameters or the
            checkpoint after a signal cannot be written.
    """
    run = ActiveRun(training, progress, log, plan)
    with interruptions() as asked:
        try:
            with reporter(plan.updates, quiet=plan.options.quiet) as report:
                run.update_until_stopped(asked, report)
        except (FloatingPointError, jax.errors.JaxRuntimeError) as error:
            raise run.failure(error) from error
        except BaseException:
            run.write_results()
            raise
        finally:
            run.close_trackers()
        signal_name = asked()
        if signal_name is None or run.is_done():
            run.finish()
            return Ending(run.progress, finished=True)
        run.stop(signal_name)
        return Ending(run.progress, finished=False)


def say(options: RunOptions, line: str) -> None:
    """Print one line to standard output, unless the run is to be quiet."""
    if not options.quiet:
        print(line, flush=True)


def print_message(message: str) -> None:
    """Print one line to standard error, which may itself be a file on a full disk."""
    with suppress(OSError):
        print(f"pgjax train: {message}", file=sys.stderr, flush=True)


class ActiveRun:
    """The mutable state of a run. Every file is written through `_attempt`."""

    def __init__(self, training: Training, progress: Progress, log: RunLog, plan: Plan) -> None:
        self.training, self.progress, self.log, self.plan = training, progress, log, plan
        self.failing: set[str] = set()
        self.ending = False
        self.saved_update = progress.update  # of a checkpoint, or the start, which needs none
        self.saved_at, self.cost = time.monotonic(), 0.0
        earlier = log.rows[-1]["seconds"] if log.rows else 0.0
        self.started_at = time.perf_counter() - earlier

    def update_until_stopped(
        self, asked: Callable[[], str | None], report: Callable[[dict], None]
    ) -> None:
        """Update until the run is done, or a signal asks to stop."""
        while not self.is_done() and asked() is None:
            update = self.progress.update + 1
            row = self.record(*advance(self.training, self.progress.state, update))
            self._show(lambda row=row: report(row))
            self.checkpoint_if_due()

    def record(self, state: Any, metrics: Metrics) -> Row:
        """Record an update in the progress and the log, and return its row.

        Args:
            state: after the update.
            metrics: of it, as floats.
        """
        steps = self.progress.environment_steps + round(float(metrics.steps))
        self.progress = Progress(state, self.progress.update + 1, steps)
        row = self._row(metrics)
        self.log.append(row)
        # Rows that could not be written wait for the next checkpoint.
        if saved_runs.LOG not in self.failing:
            self._attempt(saved_runs.LOG, self.log.flush)
        for tracker in self.plan.trackers:
            self._attempt(tracker.name, lambda write=tracker.write: write(row))
        return row

    def checkpoint_if_due(self) -> None:
        """Write a checkpoint if the last one is old enough; the end of the run needs none."""
        if self._is_due() and not self.is_done():
            self.checkpoint()

    def close_trackers(self) -> None:
        """Let the trackers write what is waiting."""
        for tracker in self.plan.trackers:
            self._attempt(tracker.name, tracker.close)

    def is_done(self) -> bool:
        """Whether all updates are made, or the return asked for is reached."""
        return self.progress.update >= self.plan.updates or self._is_reached()

    def _is_reached(self) -> bool:
        until, rows = self.plan.options.until, self.log.rows
        return until is not None and bool(rows) and rows[-1]["mean_return"] >= until

    def _row(self, metrics: Metrics) -> dict[str, Any]:
        row: dict[str, Any] = {
            "update": self.progress.update,
            "environment_steps": self.progress.environment_steps,
        }
        found = {name: x for name, x in metrics._asdict().items() if x is not None}
        signal, noise = found.pop("gradient_signal", nan), found.pop("gradient_noise", nan)
        row |= {name: x for name, x in found.items() if name != "steps"}
        if isfinite(signal) and isfinite(noise):  # not every update measures them
            row |= {"gradient_signal": signal, "gradient_noise": noise}
            row["signal_to_noise"] = signal / noise if noise > 0 else nan
        return row | {"seconds": round(time.perf_counter() - self.started_at, 3)}

    def _is_due(self) -> bool:
        if self.plan.options.checkpoint_every is not None:
            return self.progress.update % self.plan.options.checkpoint_every == 0
        return time.monotonic() - self.saved_at >= max(SECONDS, self.cost / SHARE)

    def checkpoint(self) -> bool:
        """Write log, parameters and checkpoint, in this order, so that the log is complete."""
        if self.saved_update == self.progress.update:
            return True
        start = time.monotonic()
        folder = self.plan.directory / saved_runs.CHECKPOINTS
        self._attempt(saved_runs.LOG, self.log.flush)
        self._write_params()
        saved = self._attempt(
            "a checkpoint", lambda: checkpoints.save(folder, self.progress.update, self.progress)
        )
        if saved:
            self.saved_update = self.progress.update
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - start
        return saved

    def write_results(self) -> bool:
        """Write log, parameters and picture, and return whether the parameters are written."""
        self.ending = True
        self._attempt(saved_runs.LOG, self.log.flush)
        if self.log.waiting:
            self._warn(f"{saved_runs.LOG} lacks the last {self.log.waiting} updates")
        written = self._write_params()
        if self.log.rows:
            self._attempt(saved_runs.CURVE, self._draw)
        return written

    def finish(self) -> None:
        """Write the results of a run that is done."""
        if not self.write_results():
            raise RunFailedError(f"the final parameters are not saved; {self._last_checkpoint()}")
        directory, update = self.plan.directory, self.progress.update
        self._attempt(saved_runs.CONFIG, lambda: saved_runs.mark_finished(directory, update))
        for sentence in advice(self.log.rows):
            self._warn(sentence)
        if self.plan.options.until is not None and self.log.rows:
            self._print(_verdict(self.log.rows[-1], self.plan.options.until))
        self._print(f"saved in {directory}; try: pgjax evaluate {directory}")

    def stop(self, signal_name: str) -> None:
        """Save the run after a signal, and print how to resume it."""
        self.ending = True
        saved = self.checkpoint()
        self.write_results()
        where = f"{signal_name} after update {self.progress.update} of {self.plan.updates}"
        resume = self.plan.resume
        if not saved:
            last = self._last_checkpoint()
            raise RunFailedError(f"{where}: it is not saved; {last}; try: {resume}")
        self._print(f"{where}: saved; go on with: {resume}")

    def failure(self, error: Exception) -> RunFailedError:
        """Save the updates before one that failed: it was not finite, or the device failed."""
        self.ending = True
        self.checkpoint()
        self.write_results()
        return RunFailedError(f"{' '.join(str(error).split())}; {self._last_checkpoint()}")

    def _last_checkpoint(self) -> str:
        folder = self.plan.directory / saved_runs.CHECKPOINTS
        if not (steps := checkpoints.steps(folder)):
            return "there is no checkpoint"
        return f"the last good checkpoint is that of update {steps[-1]}, in {folder}"

    def _write_params(self) -> bool:
        def write() -> None:
            params = self.training.params(self.progress.state)
            saved_runs.write_params(self.plan.directory, params)

        return self._attempt(saved_runs.PARAMS, write)

    def _draw(self) -> None:
        from pgjax.training.runs import curve  # Matplotlib takes a second

        figure = curve.learning_curve(self.log.rows, title=self.plan.title)
        figure.savefig(self.plan.directory / saved_runs.CURVE, dpi=150)

    def _warn(self, sentence: str) -> None:
        print_message(f"warning: {self.plan.label}{sentence}")

    def _print(self, line: str) -> None:
        self._show(lambda: say(self.plan.options, line))

    def _show(self, write: Callable[[], Any]) -> None:
        """Print; standard output may be a file on the full disk, or a closed terminal."""
        if "standard output" in self.failing:
            return
        if not self._attempt("standard output", write):
            # Python would flush it again at its exit, and fail.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the end)

    def _attempt(self, what: str, write: Callable[[], Any]) -> bool:
        """Whether it was written; no failure to write stops the training."""
        try:
            write()
        except Exception as error:
            if what not in self.failing:
                system_reason = error.strerror if isinstance(error, OSError) else None
                reason = system_reason or " ".join(str(error).split())
                suffix = "" if self.ending else "; training goes on"
                self._warn(f"could not write {what}: {reason}{suffix}")
            self.failing.add(what)
            return False
        if what in self.failing:
            self.failing.remove(what)
            print_message(f"{self.plan.label}{what} could be written again")
        return True


def _verdict(row: dict[str, Any], until: float) -> str:
    """A sentence on whether the required return was reached, and when."""
    if row["mean_return"] >= until:
        return f"a mean return of {until:g} was reached at update {row['update']}"
    return f"no batch reached a mean return of {until:g} in {row['update']} updates"
