"""One table to read, one JSON file to keep: the same figures, with device and versions."""

import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Measurement, Result, Scale

PACKAGES = ("policy-gradient-jax", "jax", "jaxlib", "flax", "gymnax", "numpy", "rlax", "torch")
PACKAGES += ("gymnasium",)
RESULTS = Path(__file__).parent / "results"


def device() -> str:
    """What JAX runs on: the accelerator's kind, or the processor's model and cores."""
    first = jax.devices()[0]
    if first.platform != "cpu":
        return first.device_kind
    return f"CPU, {_processor()}, {len(os.sched_getaffinity(0))} cores"


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
    table = Table("row", "contender", title="Medians; ratio > 1: pgjax is faster")
    for heading in ("median", "min to max", "rate", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("note")
    for result in results:
        table.add_section()
        table.add_row(result.name, f"[i]{result.what}[/i]", *[""] * 4, result.note)
        for measurement in result.measurements:
            table.add_row("", *_cells(result, measurement))
    console.print(table)


def _cells(result: Result, measurement: Measurement) -> tuple[str, ...]:
    if measurement.missing:
        return measurement.name, "–", "–", "–", "–", measurement.missing
    low, high = min(measurement.samples), max(measurement.samples)
    cost = quantity(measurement.median, result.quantity)
    spread = f"{quantity(low, result.quantity)} to {quantity(high, result.quantity)}"
    rate = quantity(measurement.rate, f" {result.unit}/{result.quantity}") if result.unit else "–"
    return (
        measurement.name,
        cost,
        spread,
        rate,
        f"{result.ratio(measurement):.2f}",
        measurement.note,
    )


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
    return row


def _result(row: dict[str, Any]) -> Result:
    fields = ("name", "samples", "warm_up", "work", "note", "missing")
    measurements = [Measurement(**{k: m[k] for k in fields}) for m in row["measurements"]]
    return Result(**{**row, "measurements": measurements})


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
