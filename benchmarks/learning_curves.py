"""A2C and PPO by their defaults, seed after seed, beside Stable-Baselines3 on the same core.

    python -m benchmarks.learning_curves                       # five seeds of each task
    python -m benchmarks.learning_curves --only pendulum --seeds 1
    python -m benchmarks.learning_curves --draw FILE           # only the picture, from the figures

Each run is a process of its own, on one core, one after another (`learning_worker.py`). The rival
has as many environment steps, and one seed. Everything is saved to
`benchmarks/results/<date>-learning-curves.json`, and the picture beside it; tasks that are not run
again keep their figures there. Fails if a task that has a threshold misses it with any seed.
"""

import argparse
import json
import statistics
import sys
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks.processes import run_python

OURS, RIVAL, GOAL = "#009E73", "#0072B2", "0.35"
"""Okabe & Ito's, told apart under the common colour-vision deficiencies."""


class Task(NamedTuple):
    """What is learnt.

    Attributes:
        algorithm: of `pgjax train`.
        environment: by gymnax's name.
        threshold: the mean return of fresh episodes to reach; None where none is usual.
        has_rival: whether gymnasium has the environment.
    """

    algorithm: str
    environment: str
    threshold: float | None
    has_rival: bool

    @property
    def title(self) -> str:
        """As the picture has it."""
        return f"{self.algorithm.upper()} on {self.environment}"


TASKS = {
    "cartpole-a2c": Task("a2c", "CartPole-v1", 475, True),
    "cartpole-ppo": Task("ppo", "CartPole-v1", 475, True),
    "pendulum": Task("ppo", "Pendulum-v1", -250, True),
    "breakout": Task("ppo", "Breakout-MinAtar", None, False),
}

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--no-rival", action="store_true", help="leave out Stable-Baselines3")
    parser.add_argument("--output", type=Path, help="the JSON file")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="only the picture of a JSON file")
    arguments = parser.parse_args()
    path = arguments.draw or arguments.output
    path = path or RESULTS / f"{date.today().isoformat()}-learning-curves.json"
    document = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if arguments.draw is None:
        from benchmarks import report

        document |= {"date": date.today().isoformat(), "device": report.device()}
        document |= {"versions": report.versions(), "tasks": document.get("tasks", {})}
        for name in arguments.only:
            document["tasks"][name] = measured(TASKS[name], arguments.seeds, arguments.no_rival)
            path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    picture(document).savefig(path.with_suffix(".png"), dpi=150)
    print(f"saved {path} and {path.with_suffix('.png')}")
    missed = [name for name in document["tasks"] if not reached(name, document["tasks"][name])]
    if missed:
        print(f"a seed misses the threshold: {', '.join(missed)}")
    return int(bool(missed))


def measured(task: Task, num_seeds: int, no_rival: bool) -> dict[str, Any]:
    """Every seed's run, and the rival's, a line printed for each."""
    seeds = []
    for seed in range(num_seeds):
        seeds.append(worker("pgjax", task, seed))
        print(line(task, "pgjax", seeds[-1]), flush=True)
    found: dict[str, Any] = {"seeds": seeds}
    if task.has_rival and not no_rival:
        found["sb3"] = worker("sb3", task, 0, "--steps", str(round(seeds[0]["steps"])))
        print(line(task, "sb3", found["sb3"]), flush=True)
    return found


def worker(name: str, task: Task, seed: int, *options: str) -> dict[str, Any]:
    """What one process reports."""
    arguments = (name, task.algorithm, task.environment, str(seed), *options)
    return json.loads(run_python("-m", "benchmarks.learning_worker", *arguments).splitlines()[-1])


def line(task: Task, name: str, run: dict[str, Any]) -> str:
    compilation = run.get("compilation_seconds")
    compiled = f", {compilation:.1f} of them compilation" if compilation is not None else ""
    return (
        f"{task.title:<26} {name:<5} seed {run['seed']}: {run['mean']:8.2f} ± "
        f"{run['standard_error']:.2g} over {run['episodes']} fresh episodes; "
        f"{run['steps']:,.0f} steps in {run['seconds']:.1f} s{compiled}, "
        f"{run['cpu_seconds']:.1f} s of processor time; load {run['load_before']:.1f}"
    )


def reached(name: str, found: dict[str, Any]) -> bool:
    """Whether every seed's fresh episodes do as well as the task asks."""
    threshold = TASKS[name].threshold
    return threshold is None or all(run["mean"] >= threshold for run in found["seeds"])


def picture(document: dict[str, Any]) -> Figure:
    """A panel for each task: the seeds, their median, and the rival's run."""
    names = [name for name in TASKS if name in document["tasks"]]
    rows = -(-len(names) // 2)
    figure = Figure(figsize=(11, 4.3 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        panel(axes, TASKS[name], document["tasks"][name])
    for axes in panels[len(names) :]:
        axes.remove()
    note = (
        "curves: episodes that ended, under the policy as it is sampled; times: of training, "
        f"compilation included\n{document['device']}, one core a run, {document['date']}"
    )
    figure.supxlabel(note, fontsize=8, color="0.35")
    return figure


def panel(axes: Axes, task: Task, found: dict[str, Any]) -> None:
    curves = [run["curve"] for run in found["seeds"]]
    for index, curve in enumerate(curves):
        label = f"pgjax, {len(curves)} seeds" if index == 0 else None
        steps, returns, _ = zip(*curve, strict=True)
        axes.plot(steps, returns, color=OURS, linewidth=0.8, alpha=0.45, label=label)
    steps, median = median_curve(curves)
    seconds = statistics.median(run["seconds"] for run in found["seeds"])
    label = f"their median; a run takes {seconds:.3g} s"
    axes.plot(steps, median, color=OURS, linewidth=2.2, label=label)
    if "sb3" in found:
        rival = found["sb3"]
        steps, returns, _ = zip(*rival["curve"], strict=True)
        label = f"Stable-Baselines3, one seed; {rival['seconds']:.3g} s"
        axes.plot(steps, returns, color=RIVAL, linewidth=1.3, linestyle="--", label=label)
    if task.threshold is not None:
        axes.axhline(task.threshold, color=GOAL, linewidth=1, linestyle=":")
        axes.annotate(
            f"{task.threshold:g}",
            (0, task.threshold),
            xycoords=("axes fraction", "data"),
            xytext=(3, -3),
            textcoords="offset points",
            verticalalignment="top",
            fontsize=8,
            color=GOAL,
        )
    axes.set_title(task.title, fontsize=11)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode, undiscounted")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def median_curve(curves: list[list[list[float]]]) -> tuple[list[float], list[float]]:
    """The median over seeds at each point that all have: windows are of one size."""
    common = sorted(set.intersection(*({point[0] for point in curve} for curve in curves)))
    at = [{point[0]: point[1] for point in curve} for curve in curves]
    return common, [statistics.median(curve[steps] for curve in at) for steps in common]


if __name__ == "__main__":
    sys.exit(main())
