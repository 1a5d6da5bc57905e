"""The benchmarks are a measuring instrument: these laws hold it straight, none of them by time."""

import io
import json
import subprocess
from collections.abc import Callable

import jax.numpy as jnp
import pytest
from rich.console import Console

from benchmarks import first_call, harness, report
from benchmarks.__main__ import main
from benchmarks.harness import TINY, Case, Contender, Missing, Row
from benchmarks.rows import ROWS, startup


class FakeClock:
    """A clock that only contenders move, by the durations they are given."""

    def __init__(self) -> None:
        self.now, self.ran = 0.0, []

    def __call__(self) -> float:
        return self.now

    def contender(self, name: str, durations: list[float], work: float = 1.0) -> Contender:
        remaining = iter(durations)

        def run() -> None:
            self.ran.append(name)
            self.now += next(remaining)

        return Contender(run, work)


def answering(value: float, note: str = "") -> Contender:
    return Contender(lambda: None, answer=lambda: jnp.array([1.0, value]), note=note)


def two_contenders(ours: list[float], theirs: list[float], work: float = 1.0) -> harness.Result:
    clock = FakeClock()
    case = Case({"a": clock.contender("a", ours), "b": clock.contender("b", theirs, work)}, "runs")
    repeats = len(ours) - 1
    return harness.Result("row", "", "runs", "s", "", harness.measure(case, repeats, clock))


def test_rounds_are_interleaved_after_one_warm_up_each():
    clock = FakeClock()
    contenders = {name: clock.contender(name, [1.0] * 4) for name in "abc"}
    harness.measure(Case(dict(contenders)), 3, clock)
    assert "".join(clock.ran) == "abc" * 4


def test_median_leaves_the_warm_up_and_an_outlier_out():
    result = two_contenders([100.0, 1.0, 3.0, 50.0], [1.0] * 4)
    ours = result.measurements[0]
    assert ours.warm_up == 100.0
    assert ours.samples == [1.0, 3.0, 50.0]
    assert ours.median == 3.0


def test_ratio_above_one_says_ours_is_faster():
    result = two_contenders(ours=[1.0, 1.0], theirs=[4.0, 4.0])
    ours, theirs = result.measurements
    assert result.ratio(ours) == 1.0
    assert result.ratio(theirs) == 4.0


def test_ratio_is_per_unit_of_work():
    result = two_contenders(ours=[1.0, 1.0], theirs=[4.0, 4.0], work=0.5)
    assert result.ratio(result.measurements[1]) == 8.0


def test_meter_measures_in_place_of_the_clock():
    def meter(run: Callable[[], float]) -> float:
        return run()

    case = Case({"a": Contender(lambda: 7.0)}, meter=meter, quantity="MiB")
    assert harness.measure(case, 2)[0].samples == [7.0, 7.0]


def test_wrong_answer_is_rejected_before_timing():
    ran = []
    case = Case({"ours": answering(1.0), "rival": answering(1.01)}, tolerance=1e-3)
    row = Row("row", "", lambda scale: case._replace(meter=lambda run: ran.append(run) or 1.0), 1)
    with pytest.raises(AssertionError, match=r"rival differs from ours by 0\.01"):
        harness.run_row(row, TINY)
    assert not ran


def test_answer_within_rounding_is_accepted():
    harness.check(Case({"a": answering(1.0), "b": answering(1.0 + 1e-7)}, tolerance=1e-6))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answer_that_is_not_finite_is_rejected(value):
    with pytest.raises(AssertionError, match="differs from ours"):
        harness.check(Case({"a": answering(1.0), "b": answering(value)}, tolerance=1.0))


def test_answers_of_different_shapes_are_rejected():
    with pytest.raises(AssertionError, match="different shapes"):
        harness.relative_difference(jnp.zeros(2), jnp.zeros(3))


def test_absent_rival_is_shown_with_its_reason():
    assert harness.not_importable(["json"]) is None
    reason = harness.not_importable(["json", "no_such_rival"])
    assert reason is not None
    assert reason == Missing("not installed: no_such_rival")
    case = Case({"ours": answering(1.0), "rival": reason})
    result = harness.run_row(Row("row", "what", lambda scale: case, 1), TINY)
    text = io.StringIO()
    report.print_table(Console(file=text, width=180), [result])
    assert "not installed: no_such_rival" in text.getvalue()


def test_json_round_trip_keeps_every_sample(tmp_path):
    result = two_contenders([9.0, 1.0, 3.0], [9.0, 4.0, 4.0])
    absent = harness.Measurement("c", missing="not installed: c")
    result = harness.Result("row", "what", "runs", "s", "é", [*result.measurements, absent])
    path = tmp_path / "new" / "results.json"
    report.save(path, [result], TINY)
    assert report.load(path) == [result]
    document = json.loads(path.read_text())
    assert document["device"] == report.device()
    assert document["versions"]["jax"] == report.versions()["jax"]
    assert document["rows"][0]["measurements"][1]["ratio"] == 2.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00123, "1.23 ms"), (2.0, "2 s"), (1.5e-6, "1.5 µs"), (2.5e6, "2.5 Ms"), (0.0, "0 µs")],
)
def test_quantity_has_three_digits_and_a_prefix(value, text):
    assert report.quantity(value, "s") == text


def test_row_names_are_unique():
    assert len({row.name for row in ROWS}) == len(ROWS)


# Whole processes would take seconds; one of them is run below, in this one.
IN_PROCESS = [row for row in ROWS if row.name not in ("first-call", "import")]


@pytest.mark.parametrize("row", IN_PROCESS, ids=lambda row: row.name)
def test_contenders_of_every_row_agree_and_run(row):
    result = harness.run_row(row, TINY, repeats=1)
    assert result.measurements[0].name == "pgjax"
    assert all(m.missing or len(m.samples) == 1 for m in result.measurements)


def test_first_call_ends_in_a_gradient():
    first_call.main("pgjax", "6", "9")


def test_process_that_fails_is_not_timed():
    with pytest.raises(subprocess.CalledProcessError):
        startup.run_python("-c", "raise SystemExit(1)")


def test_list_names_every_row_and_runs_none(capsys):
    main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [row.name for row in ROWS]


def test_only_runs_one_row_and_saves_it(tmp_path, capsys):
    path = tmp_path / "results.json"
    main(["--only", "returns-rows", "--quick", "--repeats", "2", "--output", str(path)])
    (result,) = report.load(path)
    assert result.name == "returns-rows"
    assert len(result.measurements[0].samples) == 2
    assert "ratio" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--repeats", "0"], ["--only", "no-such-row"]])
def test_wrong_option_is_an_error(argv):
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2
