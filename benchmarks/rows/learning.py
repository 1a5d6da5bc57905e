"""CartPole-v1 learnt, in whole processes: pgjax's plain policy gradient beside SB3's PPO.

Each round is another seed, the same for all. The three rows read the same processes in three ways,
so each process is run once.
"""

import json
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import count
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.harness import Case, Contender, Goal, Row, Scale, not_importable, returned
from benchmarks.processes import cores, run_python

PPO = "SB3 PPO, judged greedily"
PPO_SAMPLED = "SB3 PPO, judged as sampled"


class Run(NamedTuple):
    """One process: its seconds in all, those of training alone, and its environment steps."""

    process: float
    training: float
    steps: float


def process_seconds(run: Run) -> float:
    return run.process


def training_seconds(run: Run) -> float:
    return run.training


def cold(scale: Scale) -> Case:
    ours = partial(_pgjax, scale.threshold)
    note = "import, compile, train; no compile cache"
    return _case(scale, ours, process_seconds, note, at_least=2.5)


def warm(scale: Scale) -> Case:
    ours = partial(_pgjax, scale.threshold, compile_cache=_compile_cache().name)
    note = "import, train; the compile cache is filled by our warm-up"
    return _case(scale, ours, process_seconds, note, at_least=4.5)


def training(scale: Scale) -> Case:
    ours = partial(_pgjax, scale.threshold)
    note = "training alone, without import and compilation"
    return _case(scale, ours, training_seconds, note, at_least=30.0)


def _case(
    scale: Scale,
    ours: Callable[..., Run],
    read: Callable[[Run], float],
    note: str,
    *,
    at_least: float,
) -> Case:
    absent = not_importable(["stable_baselines3"])
    threads = 1 if absent else _faster_threads(scale.threshold)
    ppo = partial(_ppo, scale.threshold, threads)

    def over_seeds(run: Callable[..., Run]) -> Callable[[], float]:
        seeds: Iterator[int] = count()
        return lambda: read(run(seed=next(seeds)))

    theirs = f"{threads} thread{'s' * (threads > 1)}, the faster setting"
    return Case(
        contenders={
            "pgjax": Contender(over_seeds(ours), role="ours", note="judged as sampled"),
            PPO: absent or Contender(over_seeds(ppo), note=theirs),
            PPO_SAMPLED: absent or Contender(over_seeds(partial(ppo, sampled=True)), note=theirs),
        },
        note=f"CartPole-v1 to a mean return of {scale.threshold:g}, a seed each round: {note}",
        meter=returned,
        goals=[Goal(PPO, at_least)],
    )


@cache
def _pgjax(threshold: float, *, seed: int, compile_cache: str = "") -> Run:
    settings = {
        "JAX_COMPILATION_CACHE_DIR": compile_cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return _run("pgjax", seed, threshold, settings=settings if compile_cache else {})


@cache
def _ppo(threshold: float, threads: int, *, seed: int, sampled: bool = False) -> Run:
    options = ["--sampled"] if sampled else []
    return _run("sb3", seed, threshold, "--threads", str(threads), *options, settings={})


@cache
def _faster_threads(threshold: float) -> int:
    """One thread or every core, whichever takes a step faster."""

    # Not all of training: another order of summation is another run, of another length.
    def seconds_per_step(threads: int) -> float:
        run = _ppo(threshold, threads, seed=0)
        return run.training / run.steps

    return min(sorted({1, len(cores())}), key=seconds_per_step)


@cache
def _compile_cache() -> TemporaryDirectory:
    """Kept until the benchmark ends."""
    return TemporaryDirectory()


def _run(name: str, seed: int, threshold: float, *options: str, settings: dict[str, str]) -> Run:
    start = time.perf_counter()
    arguments = name, str(seed), "--threshold", str(threshold), *options
    printed = run_python("-m", "benchmarks.cartpole_to_475", *arguments, settings=settings)
    process = time.perf_counter() - start
    found = json.loads(printed.splitlines()[-1])
    return Run(process, found["training_seconds"], found["steps"])


ROWS = (
    Row("cartpole", "CartPole learnt, a cold process", cold, 5),
    Row("cartpole-warm", "CartPole learnt, a process with a warm compile cache", warm, 5),
    Row("cartpole-training", "CartPole learnt, training alone", training, 5),
)
