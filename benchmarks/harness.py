"""One timing harness: contenders of one row, run in turn, checked before they are timed.

A row prepares a case; a case names its contenders, ours first, and the goals that ours is held to.
Rounds are interleaved (A B C, A B C, …), because a machine's speed drifts by more than the
differences that matter.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np

Clock: TypeAlias = Callable[[], float]
Role: TypeAlias = Literal["ours", "rival", "limit"]
Verdict: TypeAlias = Literal["met", "missed", "not measured"]


class Scale(NamedTuple):
    """The sizes that rows are prepared at.

    Attributes:
        sequence: T of the one long sequence.
        rows, columns: N and T of the returns of a batch.
        wide_rows, wide_columns: N and T of the returns of a wide batch of short rows.
        num_trajectories, num_steps: N and T of rollouts and gradients.
        many_trajectories: N where a large batch is the point.
        loop_episodes: episodes of one run of the one-environment Python loop, which is too slow for
            N of them; rates and ratios are taken per trajectory.
        batch_sizes: every N of the rows that sweep over it.
        threshold: the mean return at which CartPole counts as learnt.
        head: tokens, width and vocabulary of a language model's last layer.
        seeds: of training runs, the updates of each, and its environments.
    """

    sequence: int
    rows: int
    columns: int
    wide_rows: int
    wide_columns: int
    num_trajectories: int
    num_steps: int
    many_trajectories: int
    loop_episodes: int
    batch_sizes: tuple[int, ...]
    threshold: float
    head: tuple[int, int, int]
    seeds: tuple[int, int, int]


SWEEP = tuple(2**power for power in range(10, 21, 2))
HEAD = 4096, 1024, 151_936  # of Qwen3-0.6B
SEEDS = 32, 20, 4
FULL = Scale(1_000_000, 4096, 500, 65_536, 128, 256, 500, 4096, 4, SWEEP, 475.0, HEAD, SEEDS)
QUICK = Scale(
    100_000, 512, 100, 4096, 32, 32, 100, 128, 2, (64, 256), 60.0, (512, 64, 8192), (8, 2, 4)
)
TINY = Scale(257, 5, 7, 6, 4, 6, 9, 8, 2, (4, 6), 15.0, (6, 4, 11), (2, 1, 4))


class Contender(NamedTuple):
    """One way to do a row's work.

    Attributes:
        run: what is timed; whatever it returns is waited for.
        work: how much one run does, in the case's unit.
        answer: what must equal ours to rounding; None where randomness of its own makes that
            impossible, and the case's `check` judges instead.
        note: one phrase for the table.
        role: ours; a rival, which does the same work; or a limit, the least that the machine needs
            for some part of it.
        fresh: makes the arguments of one `run`, before the clock starts and waited for: a donated
            input is gone after one.
        beside: the contender of ours that it is compared with; empty is the one judged.
    """

    run: Callable[..., Any]
    work: float = 1.0
    answer: Callable[[], Any] | None = None
    note: str = ""
    role: Role = "rival"
    fresh: Callable[[], Sequence[Any]] | None = None
    beside: str = ""


class Missing(NamedTuple):
    """A contender that cannot run here, and why; shown, never dropped."""

    reason: str
    role: Role = "rival"


class Goal(NamedTuple):
    """What ours is held to: the other's cost over ours is at least so much.

    Attributes:
        against: the other contender.
        at_least: of the ratio. At most a tenth of a rival's memory is a ratio of at least 10; 80%
            of a limit's speed is one of at least 0.8.
    """

    against: str
    at_least: float


class Case(NamedTuple):
    """A row made ready at one scale.

    Attributes:
        contenders: by name, ours first.
        unit: of the contenders' work; empty where a rate says nothing.
        tolerance: largest difference of an answer from ours, as a share of ours' largest entry.
        check: raises AssertionError where contenders disagree in what `answer` cannot show.
        note: what the reader must know to judge the figures.
        meter: what is measured, a function of `run` (peak memory, say); None is wall-clock seconds.
        quantity: the unit of what is measured.
        goals: what the contender judged is held to.
        judged: that contender; empty is the first.
    """

    contenders: dict[str, Contender | Missing]
    unit: str = ""
    tolerance: float = 0.0
    check: Callable[[], None] | None = None
    note: str = ""
    meter: Callable[[Callable[[], Any]], float] | None = None
    quantity: str = "s"
    goals: Sequence[Goal] = ()
    judged: str = ""


class Row(NamedTuple):
    """One row of the registry: a name, a sentence, and how to make its case."""

    name: str
    what: str
    prepare: Callable[[Scale], Case]
    repeats: int


@dataclass(frozen=True)
class Measurement:
    """What one contender cost: one figure a round, and the warm-up before them (compilation)."""

    name: str
    samples: list[float] = field(default_factory=list)
    warm_up: float = 0.0
    work: float = 1.0
    note: str = ""
    missing: str = ""
    role: Role = "rival"
    beside: str = ""

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    @property
    def rate(self) -> float:
        """Work per unit of what was measured, at the median."""
        return self.work / self.median


@dataclass(frozen=True)
class Result:
    """A measured row, and what ours was held to."""

    name: str
    what: str
    unit: str
    quantity: str
    note: str
    measurements: list[Measurement]
    goals: list[Goal] = field(default_factory=list)
    judged: str = ""

    def named(self, name: str) -> Measurement:
        """The measurement of a contender; the empty name is the one judged."""
        by_name = {measurement.name: measurement for measurement in self.measurements}
        return by_name[name or self.judged or self.measurements[0].name]

    def ratio(self, measurement: Measurement) -> float | None:
        """Its cost per unit of work over ours: above 1, ours is cheaper. None if one is absent."""
        ours = self.named(measurement.beside)
        if ours.missing or measurement.missing:
            return None
        return ours.rate / measurement.rate

    def measured(self, goal: Goal) -> float | None:
        """The ratio that a goal speaks of, where both were there to be measured."""
        return self.ratio(self.named(goal.against))

    def verdict(self, goal: Goal) -> Verdict:
        """Whether a goal is met."""
        ratio = self.measured(goal)
        if ratio is None:
            return "not measured"
        return "met" if ratio >= goal.at_least else "missed"


def run_row(row: Row, scale: Scale, repeats: int | None = None) -> Result:
    """Prepare, check, then measure a row; `repeats` overrides the row's own."""
    case = row.prepare(scale)
    check(case)
    measurements = measure(case, row.repeats if repeats is None else repeats)
    return Result(
        row.name,
        row.what,
        case.unit,
        case.quantity,
        case.note,
        measurements,
        list(case.goals),
        case.judged,
    )


def measure(case: Case, repeats: int, clock: Clock = time.perf_counter) -> list[Measurement]:
    """Warm every contender up once, then run them in turn, `repeats` rounds."""
    meter = case.meter or (lambda run: _seconds(run, clock))
    ready = {n: c for n, c in case.contenders.items() if isinstance(c, Contender)}
    warm_up = {name: meter(_ready(contender)) for name, contender in ready.items()}
    samples: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(repeats):
        for name, contender in ready.items():
            samples[name].append(meter(_ready(contender)))
    return [
        Measurement(name, missing=contender.reason, role=contender.role)
        if isinstance(contender, Missing)
        else Measurement(
            name,
            samples[name],
            warm_up[name],
            contender.work,
            contender.note,
            role=contender.role,
            beside=contender.beside,
        )
        for name, contender in case.contenders.items()
    ]


def returned(run: Callable[[], Any]) -> float:
    """A meter: the contender measures itself, and returns the figure."""
    return float(run())


def check(case: Case) -> None:
    """Every contender's answer equals ours, or AssertionError: a wrong answer is not timed."""
    answers = {
        name: contender.answer()
        for name, contender in case.contenders.items()
        if isinstance(contender, Contender) and contender.answer is not None
    }
    for name in list(answers)[1:]:
        ours, theirs = answers[next(iter(answers))], answers[name]
        difference = relative_difference(theirs, ours)
        if not difference <= case.tolerance:
            raise AssertionError(
                f"{name} differs from ours by {difference:.2g} of its largest entry, "
                f"more than rounding explains ({case.tolerance:.2g})"
            )
    if case.check is not None:
        case.check()


def relative_difference(tree: Any, reference: Any, *, size_of: Any = None) -> float:
    """The largest difference of two pytrees, over the largest entry of the second (or a third)."""
    largest = max(np.abs(x).max() for x in _leaves(reference if size_of is None else size_of))
    differences = []
    for x, y in zip(_leaves(tree), _leaves(reference), strict=True):
        if x.shape != y.shape:
            raise AssertionError(f"answers have different shapes, {x.shape} and {y.shape}")
        differences.append(np.abs(x - y).max())
    return float(max(differences) / largest)


def rounding(num_terms: int) -> float:
    """What the order of a float32 sum of so many terms may change: eps √n, with 16 to spare."""
    return 16 * float(np.finfo(np.float32).eps) * num_terms**0.5


def not_importable(modules: Sequence[str]) -> Missing | None:
    """None if all import; otherwise which one does not, and why.

    Any exception counts: a rival that breaks at import is as absent as one that is not there.
    """
    for module in modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            return Missing(f"not installed: {error.name}")
        except Exception as error:
            return Missing(f"{module} does not import: {error}")
    return None


def _leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


def _ready(contender: Contender) -> Callable[[], Any]:
    if contender.fresh is None:
        return contender.run
    return partial(contender.run, *jax.block_until_ready(contender.fresh()))


def _seconds(run: Callable[[], Any], clock: Clock) -> float:
    start = clock()
    jax.block_until_ready(run())
    return clock() - start
