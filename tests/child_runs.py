"""Runs made cheap: one compilation for many, or in a process of its own, to be stopped and killed.

That process imports this module too, before it imports JAX.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

SECONDS = 300
"""Until a child counts as hanging, however busy the machine is; it takes some three."""

LIBRARIES = [
    *("flax", "optax", "orbax.checkpoint", "matplotlib.figure", "rich.progress", "pytest"),
    *("pgjax.training.runs.starting", "scipy.linalg"),
]
"""Imported before the fork."""


@contextmanager
def compiled_once() -> Iterator[None]:
    """Within, runs that differ in their numbers alone share one program.

    An environment is made once by its name, "walk" too, and an update, of one seed or of several,
    takes the algorithm as an argument. Runs with the same options even share their first state, as
    the functions are pure. Default networks are small.
    """
    import pytest

    from pgjax import environments
    from pgjax.training import Training
    from pgjax.training.runs import seeds, starting

    environment_named, step, update = _of_all_runs()
    original, made = starting._make, {}

    def make(environment, settings, seed, parts, options):
        key = repr((environment, settings, seed, parts, options.devices))
        if key not in made:
            made[key] = original(environment, settings, seed, parts, options)
        return made[key]

    def begin(algorithm: Any, key: Any) -> Training:
        return Training(algorithm.init(key), partial(step, algorithm), algorithm.acting)

    with small_networks(), pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(seeds, "_compiled", lambda algorithm: partial(update, algorithm))
        monkeypatch.setattr(environments, "make", environment_named)
        monkeypatch.setattr(starting, "_make", make)
        monkeypatch.setattr(starting, "begin", begin)
        yield


@contextmanager
def small_networks() -> Iterator[None]:
    """Within, default networks have one hidden layer."""
    import pytest

    from pgjax import MLP, GaussianMLP
    from pgjax.environments.conversion import as_environment
    from pgjax.training import networks

    def network(num_outputs: int, environment: Any) -> MLP:
        categories = as_environment(environment).num_categories
        return MLP(num_outputs, (64,), num_categories=categories)

    def gaussian(environment: Any) -> GaussianMLP:
        space: Any = as_environment(environment).action_space
        return GaussianMLP(space.size, (64,))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(networks, "_network", network)
        monkeypatch.setattr(networks, "default_gaussian_network", gaussian)
        yield


@cache
def _of_all_runs() -> tuple[Callable[..., Any], ...]:
    """Of all runs in a process: environments by name, the step of one seed, that of several."""
    import jax

    from pgjax import environments
    from pgjax.training.runs import seeds
    from tests import walks

    make = environments.make

    @cache
    def environment_named(name: str) -> Any:
        return walks.walk() if name == walks.NAME else make(name)

    @jax.jit
    def step(algorithm: Any, state: Any, measure: Any) -> Any:
        state, metrics = algorithm.step(state, *([measure] if algorithm.measures else []))
        return state, metrics._replace(finite=None), metrics.finite

    return environment_named, step, jax.jit(seeds._update)


@contextmanager
def sketches() -> Iterator[None]:
    """Within, a learning curve is a line of text; elsewhere is tested what it shows."""
    import pytest

    from pgjax.training.runs import curve

    class Sketch:
        def savefig(self, path: Path, dpi: int) -> None:
            path.write_text("a sketch", encoding="utf-8")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(curve, "learning_curve", lambda rows, title: Sketch())
        yield


class Child:
    """Commands in a process of their own, forked from one that has imported the libraries.

    Each begins when the one before has left with status zero. The process reports its moments
    through a pipe, and waits there at those it is asked to hold, until it is told to go on or its
    parent is gone. A moment is "begun", "update 3" before it is computed, "computing update 3"
    within a computation that does not end, "writing NAME" before a file of a checkpoint, a line
    that a signal is answered with, or "left with status 0".

    Attributes:
        process: killed at the end of the `with` block, whatever happens.
        said: the file that its output goes to.
    """

    def __init__(
        self, commands: Sequence[list[str]], said: Path, *, hold: Sequence[str], stuck_at: int
    ) -> None:
        """Start `pgjax` with the arguments of each command, and moments to hold at."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*LIBRARIES, "tests.child_runs"])
        self._pipe, theirs = context.Pipe()
        self.said = said
        self.process = context.Process(
            target=_train, args=(commands, said, hold, stuck_at, theirs), daemon=True
        )
        self.process.start()
        theirs.close()  # the child's end is the child's alone: it is closed when the child ends

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self._pipe.close()

    def wait_until(self, moment: str) -> None:
        """Wait for a report that begins so; AssertionError if the child ends before."""
        try:
            while self._pipe.poll(SECONDS):
                if self._pipe.recv().startswith(moment):
                    return
        except EOFError:
            raise AssertionError(
                f"it ended before {moment!r}:\n{self.said.read_text('utf-8')}"
            ) from None
        raise AssertionError(f"no {moment!r} in {SECONDS} s:\n{self.said.read_text('utf-8')}")

    def go_on(self) -> None:
        """Let it leave the moment that it is held at."""
        self._pipe.send("go on")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def exit_code(self) -> int | None:
        """Wait for its end, and return its status."""
        self.process.join(SECONDS)
        return self.process.exitcode


def handle_signals_as_in_a_terminal() -> None:
    """Undo what a shell's background jobs and nohup set: they ignore SIGINT and SIGHUP."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, handler)


def _train(
    commands: Sequence[list[str]], said: Path, hold: Sequence[str], stuck_at: int, pipe: Any
) -> None:
    """`pgjax train`, its two outputs in a file."""
    handle_signals_as_in_a_terminal()
    import resource  # Windows has none, and starts no such child

    # Whatever becomes of its parent, an endless computation ends.
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    from pgjax.cli import main

    def report(moment: str) -> None:
        pipe.send(moment)
        if moment in hold:
            pipe.recv()  # EOFError if the parent is gone

    _report_moments(report, stuck_at)
    with compiled_once(), sketches():
        for arguments in commands:
            status = main(arguments)
            report(f"left with status {status}")
            if status:
                sys.exit(status)


def _report_moments(report: Callable[[str], None], stuck_at: int) -> None:
    """Report each moment of the run that follows."""
    from pgjax.training.runs import checkpoints, loop, saved_runs, signals

    begin, advance = saved_runs.begin, loop.advance
    write, say = checkpoints._write_durably, signals._print_line

    def reporting_begin(*arguments: Any, **settings: Any) -> None:
        begin(*arguments, **settings)
        report("begun")

    def reporting_advance(run: Any, state: Any, index: int) -> Any:
        report(f"update {index}")
        if index == stuck_at:
            _compute_endlessly(lambda: report(f"computing update {index}"))
        return advance(run, state, index)

    def reporting_write(path: Path, text: str) -> None:
        report(f"writing {path.name}")
        write(path, text)

    def reporting_say(words: str) -> None:
        say(words)
        report(words)

    saved_runs.begin, loop.advance = reporting_begin, reporting_advance
    checkpoints._write_durably, signals._print_line = reporting_write, reporting_say


def _compute_endlessly(report: Callable[[], None]) -> None:
    """The device is busy for ever, where no handler of Python's can run; reported from within."""
    import jax

    def reported(x: Any) -> Any:
        report()
        return x

    @jax.jit
    def endless(x: Any) -> Any:
        x = jax.pure_callback(reported, x, x)
        return jax.lax.while_loop(lambda y: y < 2, lambda y: y * x, x)

    endless(1.0).block_until_ready()
