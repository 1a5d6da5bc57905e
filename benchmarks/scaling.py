"""How estimates scale over devices and processes, and what a thousand accelerators would do.

    python -m benchmarks.scaling                  # some three minutes
    python -m benchmarks.scaling --strong 4096    # another N of strong scaling
    python -m benchmarks.scaling --quick          # small sizes: a smoke test

Strong scaling keeps N, weak scaling N per device. Every CPU device has a core of its own, simulated
in one process or alone in its process, so that one cannot use what two would. All processes live
through all rounds and are timed in turn. Medians are printed, every sample is saved; the sums over
devices are timed alone too. `docs/scaling.md` reads the figures.
"""

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import processes

ROOT = Path(__file__).parents[1]


class Sizes(NamedTuple):
    """What is measured.

    Attributes:
        strong: N of strong scaling.
        weak: N per device of weak scaling.
        steps: T.
        shares: every N of the time that one device takes.
        reductions: numbers summed over devices; the first is the network's.
        rounds: of each.
    """

    strong: int
    weak: int
    steps: int
    shares: tuple[int, ...]
    reductions: tuple[int, ...]
    rounds: int


FULL = Sizes(512, 256, 500, (2, 8, 32, 128, 512), (4610, 2**16, 2**18, 2**20, 2**22), 15)
QUICK = Sizes(64, 32, 50, (2, 64), (4610, 2**16), 3)


class Setting(NamedTuple):
    """Devices, and the processes that they are spread over.

    Attributes:
        kind: "devices" of one process; "processes" of one device each; or "apart", processes that
            have nothing to do with each other, whose speed is the most that this machine can give.
        devices: their number, in all.
        all_cores: for one device.
    """

    kind: str
    devices: int
    all_cores: bool = False

    @property
    def processes(self) -> int:
        """How many."""
        return 1 if self.kind == "devices" else self.devices

    @property
    def name(self) -> str:
        """For tables."""
        if self.devices == 1:
            return "1 device, all cores" if self.all_cores else "1 device"
        return f"{self.devices} {'processes ' * (self.kind == 'apart')}{self.kind}"


class Group:
    """The processes of one setting."""

    def __init__(self, setting: Setting, platform: str) -> None:
        self.setting = setting
        address = _free_address() if setting.kind == "processes" else None
        each = setting.devices // setting.processes
        self.processes = [
            _start(setting, platform, range(each * i, each * (i + 1)), address, i)
            for i in range(setting.processes)
        ]

    def ask(self, *request: Any) -> dict[str, Any]:
        """One process's answer, the slowest one's where that is what they differ in."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        answers = [_answer(process) for process in self.processes]
        return max(answers, key=lambda answer: answer.get("seconds", 0))

    def close(self) -> None:
        """End all of them, together, as a group that was joined must."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(
    setting: Setting, platform: str, own: range, address: str | None, index: int
) -> subprocess.Popen:
    """A process with its own devices, and on a CPU with a core for each."""
    environment = dict(os.environ) | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    cores: list[int] = []
    usable = processes.cores()
    if platform == "cpu":
        environment["JAX_NUM_CPU_DEVICES"] = str(len(own))
        cores = [] if setting.all_cores else [usable[i] for i in own]
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, own))
    join = address and [address, setting.processes, index]
    return _open([cores, join], environment)


def _open(arguments: Any, environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scaling_worker", json.dumps(arguments)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def _answer(process: subprocess.Popen) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):  # what else is printed is Gloo's, of its connections
            return json.loads(line)
    raise RuntimeError(f"a process ended with {process.wait()}; its error is above")


def _free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def _described() -> dict[str, Any]:
    """What a process without settings sees; it does not stay to hold a device."""
    process = _open([[], None], dict(os.environ))
    assert process.stdin is not None
    process.stdin.write('["describe"]\n')
    process.stdin.close()
    answer = _answer(process)
    process.wait()
    return answer


# What is measured.

Tasks: TypeAlias = dict[str, tuple[Group, tuple]]
"""By name: who is asked, and for what."""


def settings(platform: str, count: int) -> list[Setting]:
    """1, 2, 4, 8 devices as far as there are any, in one process and each in its own."""
    several = [n for n in (2, 4, 8) if n <= count]
    found = [Setting(kind, n) for kind in ("devices", "processes", "apart") for n in several]
    all_cores = [Setting("devices", 1, all_cores=True)] if platform == "cpu" and several else []
    return [Setting("devices", 1), *found, *all_cores]


def measure(groups: Sequence[Group], sizes: Sizes) -> dict[str, Any]:
    """Every sample, by setting: strong and weak scaling, one device's shares, sums alone."""
    joined = [group for group in groups if group.setting.kind != "apart"]
    several = [group for group in joined if group.setting.devices > 1]
    strong, weak, reductions = {}, {}, {}
    for group in groups:
        name, devices = group.setting.name, group.setting.devices
        parts = devices if group.setting.kind == "apart" else 1
        strong[name] = group, ("estimate", sizes.strong // parts, sizes.steps)
        weak[name] = group, ("estimate", sizes.weak * devices // parts, sizes.steps)
    shares = {str(N): (groups[0], ("estimate", N, sizes.steps)) for N in sizes.shares}
    for group in several:
        for size in sizes.reductions:
            reductions[f"{group.setting.name}, {size}"] = group, ("reduction", size)
    program = several[0].ask("program", sizes.strong, sizes.steps) if several else {}
    tasks = {"strong": strong, "weak": weak, "shares": shares, "reductions": reductions}
    return _in_turn(tasks, sizes.rounds) | program


def _in_turn(tasks: dict[str, Tasks], rounds: int) -> dict[str, dict[str, list[float]]]:
    samples = {table: {name: [] for name in named} for table, named in tasks.items()}
    for index in range(rounds + 1):
        for table, named in tasks.items():
            for name, (group, request) in named.items():
                seconds = group.ask(*request)["seconds"]
                if index:  # the first is a warm-up
                    samples[table][name].append(seconds)
    return samples


# What follows from it.


class Line(NamedTuple):
    """start + slope · x."""

    start: float
    slope: float

    def __call__(self, x: float) -> float:
        """Its value at x."""
        return self.start + self.slope * x


def fitted(points: dict[float, float]) -> Line:
    """The line of least relative error; neither of its numbers is negative."""
    x, y = np.array(list(points)), np.array(list(points.values()))
    design = np.stack([1 / y, x / y], axis=1)
    start, slope = np.linalg.lstsq(design, np.ones(len(x)), rcond=None)[0]
    if start < 0:
        start, slope = 0.0, float(np.mean(y / x))
    return Line(float(start), float(slope))


class Network(NamedTuple):
    """What a model's estimate costs a device, and what it sums.

    Attributes:
        bytes: of its gradient.
        compute: N per device -> seconds.
    """

    bytes: float
    compute: Line


class Link(NamedTuple):
    """Between devices: bytes a second, each way, and seconds of one message."""

    bandwidth: float
    latency: float

    def reduction(self, size: float, devices: int) -> float:
        """Seconds of a sum of so many bytes: a ring's bandwidth, a tree's latency."""
        hops = math.log2(devices)
        return 2 * size * (devices - 1) / devices / self.bandwidth + self.latency * hops


def efficiency(network: Network, link: Link, devices: int, share: float) -> float:
    """Of `devices`, against one with the same share: compute / (compute + reduction)."""
    compute = network.compute(share)
    return compute / (compute + link.reduction(network.bytes, devices))


def smallest_share(network: Network, link: Link, devices: int, at_least: float = 0.9) -> int:
    """The smallest N per device with such an efficiency."""
    needed = at_least / (1 - at_least) * link.reduction(network.bytes, devices)
    return max(1, math.ceil((needed - network.compute.start) / network.compute.slope))


# 400 Gb/s a device, as InfiniBand NDR is sold, and a usual latency of its messages.
FABRIC = Link(bandwidth=50e9, latency=10e-6)
# 10 Gb/s Ethernet, and a usual latency of TCP on it.
ETHERNET = Link(bandwidth=1.25e9, latency=50e-6)
DEVICES = 1024
LANGUAGE_MODEL = 7e9
TOKENS = 1000
SUSTAINED = 4e14
"""Operations a second, some 40% of what an H100 is sold with in bfloat16."""


def language_model() -> Network:
    """7e9 parameters in float32, 1000 tokens a trajectory: 2 P to sample one, 6 P to learn it."""
    seconds = 8 * LANGUAGE_MODEL * TOKENS / SUSTAINED
    return Network(4 * LANGUAGE_MODEL, Line(0.0, seconds))


def small_network(measured: dict[str, Any]) -> Network:
    """CartPole's, at the rate of one device here."""
    points = {float(N): statistics.median(x) for N, x in measured["shares"].items()}
    return Network(measured["parameters"], fitted(points))


# Tables and a file.


class Speed(NamedTuple):
    """One setting's figure of one kind of scaling.

    Attributes:
        seconds: of an estimate.
        speed_up: trajectories a second over those of one device with one core.
    """

    setting: Setting
    seconds: float
    speed_up: float


def speeds(
    samples: dict[str, list[float]], groups: Sequence[Setting], *, weak: bool
) -> list[Speed]:
    """Of every setting, the first being one device."""
    one = statistics.median(samples[groups[0].name])
    found = []
    for setting in groups:
        seconds = statistics.median(samples[setting.name])
        work = setting.devices if weak else 1
        found.append(Speed(setting, seconds, work * one / seconds))
    return found


def print_results(console: Console, measured: dict[str, Any], groups: Sequence[Setting]) -> None:
    """The tables that `docs/scaling.md` shows."""
    table = Table("scaling", "setting", "ms an estimate", "speed-up", "efficiency")
    for kind in ("strong", "weak"):
        for setting, seconds, speed_up in speeds(measured[kind], groups, weak=kind == "weak"):
            share = "" if setting.all_cores else f"{speed_up / setting.devices:.0%}"
            table.add_row(kind, setting.name, f"{1e3 * seconds:.1f}", f"{speed_up:.2f}", share)
        table.add_section()
    console.print(table)
    shares = {N: statistics.median(x) for N, x in measured["shares"].items()}
    console.print("one device: " + ", ".join(f"N={N} {1e3 * x:.1f} ms" for N, x in shares.items()))
    for name, samples in measured["reductions"].items():
        console.print(f"one sum of {name} numbers: {1e6 * statistics.median(samples):.0f} us")
    if "reduced" in measured:
        console.print(f"bytes: parameters {measured['parameters']}, reduced {measured['reduced']}")
        print_prediction(console, measured)


def print_prediction(console: Console, measured: dict[str, Any]) -> None:
    """Efficiency of many devices, from what was measured and what is assumed."""
    small = small_network(measured)
    start, slope = (1e3 * x for x in small.compute)
    console.print(f"one device takes {start:.2f} ms + {slope:.4f} ms a trajectory")
    table = Table("network", "link", "reduction, ms", "N per device for 90%", "efficiency at 1")
    for label, network in (("CartPole", small), ("7e9 parameters", language_model())):
        for name, link in (("fabric", FABRIC), ("Ethernet", ETHERNET)):
            table.add_row(
                label,
                name,
                f"{1e3 * link.reduction(network.bytes, DEVICES):.3g}",
                str(smallest_share(network, link, DEVICES)),
                f"{efficiency(network, link, DEVICES, 1):.0%}",
            )
    console.print(table)


def save(path: Path, document: dict[str, Any]) -> None:
    """Every sample, with the machine and the versions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--strong", type=int, metavar="N", help="trajectories of strong scaling")
    parser.add_argument("--output", type=Path, help="the JSON file")
    arguments = parser.parse_args(argv)
    sizes = QUICK if arguments.quick else FULL
    sizes = sizes._replace(strong=arguments.strong or sizes.strong)
    described = _described()
    chosen = settings(described["platform"], described["count"])
    groups = [Group(setting, described["platform"]) for setting in chosen]
    try:
        measured = measure(groups, sizes)
    finally:
        for group in groups:
            group.close()
    console = Console(width=None if Console().is_terminal else 120)
    console.print(described["device"])
    print_results(console, measured, chosen)
    name = f"{date.today().isoformat()}-scaling-{described['kind']}.json"
    document = {"date": date.today().isoformat(), **described, "sizes": sizes._asdict(), **measured}
    save(arguments.output or ROOT / "benchmarks" / "results" / name, document)


if __name__ == "__main__":
    main()
