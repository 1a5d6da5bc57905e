"""One table to read, one JSON file to keep: the same figures, with device and versions.

A contender's line says how it stands to ours, and to the goal if it has one; a row that misses a
goal is flagged in its title, and the last line names every goal missed.
"""

import json
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Goal, Measurement, Result, Scale, Verdict
from benchmarks.processes import cores

PACKAGES = ("policy-gradient-jax", "jax", "jaxlib", "flax", "gymnax", "numpy", "rlax", "torch")
PACKAGES += ("gymnasium", "stable-baselines3")
RESULTS = Path(__file__).parent / "results"


def device() -> str:
    """What JAX runs on: the accelerator's kind and driver, or the processor's model and cores."""
    first = jax.devices()[0]
    if first.platform != "cpu":
        return ", ".join(filter(None, [first.device_kind, _driver()]))
    return f"CPU, {_processor()}, {len(cores())} cores"


def versions() -> dict[str, str]:
    """Of Python and of every package timed; "not installed" where it is not."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def default_path() -> Path:
    """`results/<date>-<device>.json` beside this file."""
    first = jax.devices()[0]
    kind = "cpu" if first.platform == "cpu" else first.device_kind
    slug = re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")
    return RESULTS / f"{date.today().isoformat()}-{slug}.json"


def save(path: Path, results: Sequence[Result], scale: Scale) -> None:
    """Write everything that was measured, every sample included."""
    document = {
        "date": date.today().isoformat(),
        "device": device(),
        "versions": versions(),
        "scale": scale._asdict(),
        "rows": [_row(result) for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> list[Result]:
    """The results of a saved file; what was derived is derived again."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return [_result(row) for row in document["rows"]]


def print_table(console: Console, results: Sequence[Result]) -> None:
    """One table; a ratio above 1 says that pgjax was the faster."""
    console.print(f"Device: {device()}")
    console.print("Versions: " + ", ".join(f"{k} {v}" for k, v in versions().items()))
    table = Table("row", "contender", "role", title="Medians; ratio > 1: pgjax is faster")
    for heading in ("median", "min to max", "rate", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("goal", no_wrap=True)
    table.add_column("note")
    for result in results:
        verdicts = [result.verdict(goal) for goal in result.goals]
        flag = MARKS["missed"] if "missed" in verdicts else ""
        table.add_section()
        table.add_row(result.name, f"[i]{result.what}[/i]", *[""] * 5, flag, result.note)
        for measurement in result.measurements:
            table.add_row("", *_cells(result, measurement))
    console.print(table)
    console.print(summary(results), highlight=False, soft_wrap=True)


MARKS: dict[Verdict, str] = {
    "met": "[green]ok[/green]",
    "missed": "[bold red]MISSED[/bold red]",
    "not measured": "not measured",
}


def summary(results: Sequence[Result]) -> str:
    """How many goals are met and missed, and which ones are missed."""
    judged = [(result, goal) for result in results for goal in result.goals]
    named: dict[Verdict, list[str]] = {verdict: [] for verdict in MARKS}
    for result, goal in judged:
        named[result.verdict(goal)].append(
            f"{result.name} against {goal.against} {standing(result, goal)}"
        )
    counts = ", ".join(f"{len(names)} {verdict}" for verdict, names in named.items())
    missed = "; ".join(named["missed"])
    return f"Goals: {counts}" + (f". Missed: {missed}" if missed else "")


def standing(result: Result, goal: Goal) -> str:
    """The ratio reached, and the one asked for."""
    ratio = result.measured(goal)
    reached = "–" if ratio is None else times(ratio)
    return f"{reached} (goal {times(goal.at_least)})"


def times(ratio: float) -> str:
    """Three digits, 1,234x in full."""
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def _cells(result: Result, measurement: Measurement) -> tuple[str, ...]:
    goal = _goal(result, measurement)
    if measurement.missing:
        return measurement.name, measurement.role, *["–"] * 4, goal, measurement.missing
    low, high = min(measurement.samples), max(measurement.samples)
    cost = quantity(measurement.median, result.quantity)
    spread = f"{quantity(low, result.quantity)} to {quantity(high, result.quantity)}"
    rate = quantity(measurement.rate, f" {result.unit}/{result.quantity}") if result.unit else "–"
    ratio = result.ratio(measurement)
    return (
        measurement.name,
        measurement.role,
        cost,
        spread,
        rate,
        "–" if ratio is None else times(ratio),
        goal,
        measurement.note,
    )


def _goal(result: Result, measurement: Measurement) -> str:
    goals = [goal for goal in result.goals if goal.against == measurement.name]
    return ", ".join(f"{standing(result, g)} {MARKS[result.verdict(g)]}" for g in goals)


def quantity(value: float, unit: str) -> str:
    """Three digits and an SI prefix, 0.00123 s is 1.23 ms; a unit with a space keeps its own."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m")):
        if value >= factor:
            return f"{value / factor:.3g} {(prefix + unit).strip()}"
    return f"{value * 1e6:.3g} µ{unit}"


def _row(result: Result) -> dict[str, Any]:
    row = asdict(result)
    for entry, measurement in zip(row["measurements"], result.measurements, strict=True):
        if not measurement.missing:
            entry |= {
                "median": measurement.median,
                "min": min(measurement.samples),
                "max": max(measurement.samples),
                "rate": measurement.rate,
                "ratio": result.ratio(measurement),
            }
    row["goals"] = [
        goal._asdict() | {"ratio": result.measured(goal), "verdict": result.verdict(goal)}
        for goal in result.goals
    ]
    return row


def _result(row: dict[str, Any]) -> Result:
    measurements = [Measurement(**_only(Measurement, m)) for m in row["measurements"]]
    goals = [Goal(goal["against"], goal["at_least"]) for goal in row["goals"]]
    return Result(**{**row, "measurements": measurements, "goals": goals})


def _only(kind: Any, entry: dict[str, Any]) -> dict[str, Any]:
    """What was measured, without what was derived."""
    return {field.name: entry[field.name] for field in fields(kind)}


def _driver() -> str:
    """The NVIDIA driver's version, as the driver's own tool tells it; empty without one."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"driver {answer.stdout.splitlines()[0].rsplit(', ', 1)[1]}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
