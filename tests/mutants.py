"""Mutants: small faults put into the library one at a time, each of which a test must see.

    python -m tests.mutants --number 330             a sample, balanced over AREAS, files and kinds
    python -m tests.mutants --only core/chunks.py    all of one file or folder
    python -m tests.mutants --again survived         those that ended so, with all tests of AREAS

A process that has imported the libraries forks for each mutant. The child imports pgjax with the
source of one file replaced in memory, so that the working tree is never edited, and runs tests that
call the changed function, until one fails. Which functions a test calls is recorded once, in a run
of its file without a mutant. Results are lines of JSON; a later line about a mutant replaces an
earlier one. `equivalent_mutants.toml` lists mutants that change no result, each with the reason.
"""

import argparse
import collections
import ctypes
import gc
import importlib.util
import json
import os
import re
import resource
import select
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import SourceFileLoader
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest

from tests.mutations import PACKAGE, Mutant, sample

ROOT = PACKAGE.parent
LIBRARIES = [
    *("jax", "flax.linen", "flax.nnx", "optax", "chex", "scipy.stats", "beartype", "jaxtyping"),
    *("hypothesis", "equinox", "rich.progress", "orbax.checkpoint", "matplotlib.figure"),
]

# A mutant here takes a whole certificate: it is left out unless --only asks for it.
SLOW = "proof/registry", "proof/certificate.py"
# A folder or file of pgjax, and the test files that hold it, the most specific first.
AREAS = {
    "core": "randomness recurrence chunks scores validation actions recurrent windows_credit "
    "credit streaming weights returns bad_arguments",
    "returns": "returns recurrence credit credit_input validation windows_credit",
    "baselines": "weights credit credit_input control_variates settings_of_estimators estimators",
    "terms/sequences.py": "tokens",
    "terms/divergences.py": "tokens",
    "terms": "terms dice off_policy settings_of_estimators estimators",
    "weights": "weights credit credit_input off_policy windows_credit settings_of_estimators "
    "estimators",
    "exact": "exact tabular validation moments exact_differential regularization",
    "estimators": "estimators settings_of_estimators scores streaming recurrent validation "
    "bad_arguments",
    "enumeration": "enumeration estimators judging_traps dice moments validation",
    "tokens": "tokens token_log_probs",
    "rollouts": "rollouts windows streaming windows_credit beyond_traces beyond_pathwise "
    "validation",
    **dict.fromkeys(SLOW, "certificate"),
    **dict.fromkeys(
        ("proof/token_losses.py", "proof/token_moments.py", "proof/language_models.py"),
        "token_losses token_certificate",
    ),
    "proof": "sampling unbiased judging_traps convergence error_curves comparison",
}


def in_child(work: Callable[[], Any], seconds: float) -> Any:
    """What `work` returns in a forked process; None if it takes longer, or ends without.

    The limit is of processor time, and ten times as much of any. Whatever happens, the process and
    those that it started are ended.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with its parent
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 6))
            with tempfile.TemporaryFile() as output:
                for stream in (1, 2):
                    os.dup2(output.fileno(), stream)
                os.write(writer, json.dumps(work()).encode() + b"\n")
        finally:
            os._exit(0)
    os.close(writer)
    said, deadline = b"", time.monotonic() + 10 * seconds
    try:
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
            if not ready or not (more := os.read(reader, 2**16)):
                return None
            said += more
        return json.loads(said)
    finally:
        os.close(reader)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class Plugin:
    """Chooses tests for pytest, and notes the processor time, the calls and the failures.

    Attributes:
        order: the tests to run, and when; all if empty.
        seconds: of each test.
        calls: the functions of pgjax that each test calls, if `noting`.
        failed: the tests that fail, and the files that cannot be imported.
    """

    def __init__(self, tests: Sequence[str] = (), *, noting: bool) -> None:
        self.order = {name: index for index, name in enumerate(tests)}
        self.noting = noting
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, set[str]] = {}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.order:
            chosen = [item for item in items if item.nodeid in self.order]
            items[:] = sorted(chosen, key=lambda item: self.order[item.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.failed += [report.nodeid] if report.failed else []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed += [report.nodeid] if report.failed else []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        start, codes = time.process_time(), {}
        if self.noting:
            sys.settrace(
                lambda frame, event, arg: codes.__setitem__(id(frame.f_code), frame.f_code)
            )
        result = yield
        sys.settrace(None)
        self.seconds[item.nodeid] = time.process_time() - start
        self.calls[item.nodeid] = {
            f"{os.path.relpath(code.co_filename, PACKAGE)}:{_outside_lambdas(code.co_qualname)}"
            for code in codes.values()
            if code.co_filename.startswith(f"{PACKAGE}{os.sep}")
        }
        return result


def _outside_lambdas(name: str) -> str:
    return re.sub(r"(\.<locals>)?\.?<(lambda|\w+comp|genexpr)>", "", name) or "<module>"


def run_pytest(plugin: Plugin, file: str, *options: str, writes_cache: bool) -> None:
    """Run tests of a file in this process, which imported JAX before `conftest` could set it."""
    import jax

    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
    jax.config.update("jax_compilation_cache_dir", cache)
    # What a mutant compiles is of no use to anyone.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0 if writes_cache else 1e9)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # pytest itself reads what it takes for a test, as it would `proof/sequential_test.py`.
    settings = ["-p", "no:cacheprovider", "-o", "python_files=test_*.py"]
    pytest.main([*settings, *options, file], plugins=[plugin])


def record(file: str) -> dict[str, Any]:
    """The tests of a file that pass without a mutant: processor time and calls of each."""
    plugin = Plugin(noting=True)
    run_pytest(plugin, file, writes_cache=True)
    return {
        name: {"seconds": seconds, "calls": sorted(plugin.calls[name])}
        for name, seconds in plugin.seconds.items()
        if name not in plugin.failed
    }


def judge(mutant: Mutant, tests: Sequence[str]) -> dict[str, Any]:
    """The outcome of a mutant, in the process that is spent on it."""
    changed, get_data = str(PACKAGE / mutant.path), SourceFileLoader.get_data
    compiled = importlib.util.cache_from_source(changed).rpartition(".cpython")[0]

    def read(self: Any, path: str) -> bytes:
        if path.startswith(compiled):
            raise FileNotFoundError(path)
        return mutant.source() if path == changed else get_data(self, path)

    SourceFileLoader.get_data = read
    SourceFileLoader.set_data = lambda *_, **__: None
    plugin = Plugin(tests, noting=False)
    for file in dict.fromkeys(test.partition("::")[0] for test in tests):
        if not plugin.failed:  # most mutants need no other file to be imported
            run_pytest(plugin, file, "-x", writes_cache=False)
    return {"outcome": "killed" if plugin.failed else "survived", "by": plugin.failed[:1]}


class Records(dict[str, dict[str, Any]]):
    """What `record` finds of each test file, on first use, and kept in a file."""

    def __init__(self, path: Path, *, read: bool) -> None:
        """Of a file; its content is taken up if `read`."""
        super().__init__(json.loads(path.read_text("utf-8")) if read and path.exists() else {})
        self.path = path

    def __missing__(self, file: str) -> dict[str, Any]:
        self[file] = in_child(lambda: record(file), 3600) or {}
        print(f"{file}: {len(self[file])} tests pass without a mutant", flush=True)
        self.path.write_text(json.dumps(self), encoding="utf-8")
        return self[file]


def tests_for(mutant: Mutant, records: Records, most: float) -> tuple[list[str], float]:
    """The tests that call the changed function, and the seconds that they take.

    They are those of its area, file by file, quick ones first, of `most` seconds together, and at
    least one. If none calls it, those that call any function of its file are taken, or else all.
    """
    names = AREAS[area_of(mutant.path)].split()
    files = [sorted(records[f"tests/test_{name}.py"].items(), key=_seconds) for name in names]
    for place in (f"{mutant.path}:{mutant.function}", f"{mutant.path}:", ""):
        tests, total = [], 0.0
        for name, test in chain(*files):
            fits = not tests or total + test["seconds"] <= most
            if fits and any(_is_within(call, place) for call in test["calls"]):
                tests, total = [*tests, name], total + test["seconds"]
        if tests:
            return tests, total
    return [], 0.0


def _seconds(item: tuple[str, Any]) -> float:
    return item[1]["seconds"]


def _is_within(call: str, place: str) -> bool:
    """Whether a call is of a place, or of a function within it; "" is every place."""
    return call == place or call.startswith(place if place[-1:] in ":" else f"{place}.")


def run(mutant: Mutant, records: Records, most: float) -> dict[str, Any]:
    """The outcome of a mutant, and by which test."""
    tests, seconds = tests_for(mutant, records, most)
    # Nothing that a mutant changes is in the compile cache: it takes far longer.
    return in_child(lambda: judge(mutant, tests), 60 + 15 * seconds) or {"outcome": "timeout"}


def area_of(path: str) -> str:
    """The area of AREAS that a file of pgjax belongs to."""
    return next((area for area in AREAS if path.startswith(area)), "")


def known_equivalent() -> set[str]:
    """The names of the mutants that change no result."""
    reasons = tomllib.loads(Path(__file__).with_name("equivalent_mutants.toml").read_text("utf-8"))
    return {name for names in reasons.values() for name in names}


def summary(results: Iterable[dict[str, Any]]) -> str:
    """Counts of outcomes by area and by kind of mutation, and the survivors."""
    outcomes = ["killed", "timeout", "equivalent", "survived"]
    lines = []
    for title in ("area", "kind"):
        counts = collections.defaultdict(collections.Counter)
        for each in results:
            for group in (area_of(each["path"]) if title == "area" else each["kind"], "together"):
                counts[group][each["outcome"]] += 1
        lines.append(f"{'by ' + title:16}" + "".join(f"{x:>12}" for x in ["run", *outcomes]))
        for group, count in sorted(counts.items(), key=lambda item: (item[0] == "together", item)):
            numbers = count.total(), *(count[outcome] for outcome in outcomes)
            lines.append(f"{group:16}" + "".join(f"{number:12}" for number in numbers))
    alive = (each for each in results if each["outcome"] == "survived")
    return "\n".join([*lines, *(f"alive, line {each['line']}: {each['name']}" for each in alive)])


def main() -> None:
    """Run a campaign, or go on with one."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m tests.mutants", description=__doc__, formatter_class=form
    )
    parser.add_argument("--only", metavar="PATH", default="", help="a file or folder of pgjax")
    parser.add_argument("--number", type=int, help="of mutants (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--seconds", type=float, default=60, help="of tests, at most, for a mutant")
    parser.add_argument("--resume", action="store_true", help="leave out mutants with a result")
    parser.add_argument("--again", metavar="OUTCOME", help="only mutants that ended so before")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "mutants.jsonl")
    options = parser.parse_args()
    out, goes_on = options.out, options.resume or options.again
    out.parent.mkdir(parents=True, exist_ok=True)
    if not (goes_on and out.exists()):
        out.write_text("", encoding="utf-8")
    equivalent = known_equivalent()
    results = {line["name"]: line for line in map(json.loads, out.read_text("utf-8").splitlines())}
    for name in equivalent & set(results):
        results[name]["outcome"] = "equivalent"
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()  # the children then share these pages

    paths = [str(path.relative_to(PACKAGE)) for path in sorted(PACKAGE.rglob("*.py"))]
    paths = [path for path in paths if path.startswith(options.only)]
    chosen = [area for area in AREAS if options.only or area not in SLOW]
    areas = [[path for path in paths if area_of(path) == area] for area in chosen]
    records = Records(out.with_suffix(".calls.json"), read=bool(goes_on))
    for mutant in islice(sample(areas, options.seed), options.number):
        before = results.get(mutant.name, {}).get("outcome")
        if (options.resume and before) or (options.again and before != options.again):
            continue
        same = mutant.name in equivalent
        found = {"outcome": "equivalent"} if same else run(mutant, records, options.seconds)
        results[mutant.name] = {"name": mutant.name, **mutant._asdict(), **found}
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(results[mutant.name], ensure_ascii=False) + "\n")
        print(f"{found['outcome']:10} {mutant.name}  {found.get('by', '')}", flush=True)
    print(summary(results.values()))


if __name__ == "__main__":
    main()
