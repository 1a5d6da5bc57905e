"""The benchmarks are a measuring instrument: these laws hold it straight, none of them by time."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from rich.console import Console

from benchmarks import __main__ as benchmarks_main
from benchmarks import (
    cartpole_to_475,
    earlier,
    first_call,
    harness,
    limits,
    naive,
    peak_memory,
    picture,
    ppo_parts,
    ppo_steps,
    problems,
    processes,
    report,
    scaling_counts,
)
from benchmarks.__main__ import GPU_ROWS, main, within
from benchmarks.harness import TINY, Case, Contender, Goal, Measurement, Missing, Result, Row
from benchmarks.rows import ROWS, compilations, learning, memory, startup
from pgjax.core import chunks


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


def judged(goal: float, *, ours: str = "", beside: str = "") -> Result:
    """A rival at three times the cost of the first of ours, and at 1.5 times that of the second."""
    measurements = [
        Measurement("pgjax", [1.0], role="ours"),
        Measurement("pgjax, other", [2.0], role="ours"),
        Measurement("rival", [3.0], beside=beside),
        Measurement("limit", [0.5], role="limit", note="é"),
        Measurement("absent", missing="not installed: absent"),
    ]
    goals = [Goal("rival", goal), Goal("absent", 2.0)]
    return Result("row", "what", "runs", "s", "é", measurements, goals, ours)


@pytest.mark.parametrize(("goal", "verdict"), [(2.9, "met"), (3.0, "met"), (3.1, "missed")])
def test_goal_is_met_from_its_ratio_on(goal, verdict):
    result = judged(goal)
    assert result.verdict(result.goals[0]) == verdict


def test_goal_against_an_absent_rival_is_not_measured():
    result = judged(2.0)
    assert result.measured(result.goals[1]) is None
    assert result.verdict(result.goals[1]) == "not measured"


@pytest.mark.parametrize("names", [{"ours": "pgjax, other"}, {"beside": "pgjax, other"}])
def test_ratio_is_to_the_contender_of_ours_that_is_named(names):
    result = judged(2.0, **names)
    assert result.measured(result.goals[0]) == 1.5
    assert result.verdict(result.goals[0]) == "missed"


def test_where_ours_is_absent_nothing_is_judged():
    measurements = [Measurement("ours", missing="why", role="ours"), Measurement("rival", [1.0])]
    result = Result("row", "", "", "s", "", measurements, [Goal("rival", 2.0)])
    assert result.ratio(measurements[1]) is None
    assert result.verdict(result.goals[0]) == "not measured"
    assert "why" in printed(result)


def printed(result: Result) -> str:
    text = io.StringIO()
    report.print_table(Console(file=text, width=200), [result])
    return text.getvalue()


def test_table_shows_a_goal_met():
    text = printed(judged(2.5))
    assert "3x (goal 2.5x) ok" in text
    assert "MISSED" not in text
    assert text.endswith("Goals: 1 met, 0 missed, 1 not measured\n")


def test_table_flags_a_row_that_misses_its_goal_and_names_it_last():
    *_, last = lines = printed(judged(4.0)).splitlines()
    assert [line for line in lines if "what" in line and "MISSED" in line]
    assert [line for line in lines if "rival" in line and "3x (goal 4x) MISSED" in line]
    assert last.startswith("Goals: 0 met, 1 missed")
    assert last.endswith("Missed: row against rival 3x (goal 4x)")


def test_fresh_arguments_are_made_for_each_run_and_outside_the_clock():
    clock, given = FakeClock(), []

    def fresh() -> tuple[int]:
        clock.now += 100.0
        given.append(len(given))
        return (given[-1],)

    def run(argument: int) -> None:
        assert argument == given[-1]
        clock.now += 1.0

    (found,) = harness.measure(Case({"a": Contender(run, fresh=fresh)}), 3, clock)
    assert given == [0, 1, 2, 3]
    assert [found.warm_up, *found.samples] == [1.0] * 4


def test_donated_input_can_be_given_afresh():
    add = jax.jit(jnp.add, donate_argnums=0)
    fresh = lambda: (jnp.ones(3), jnp.ones(3))  # noqa: E731
    assert len(harness.measure(Case({"a": Contender(add, fresh=fresh)}), 2)[0].samples) == 2


def test_json_round_trip_keeps_every_sample(tmp_path):
    result = judged(4.0, ours="pgjax, other")
    path = tmp_path / "new" / "results.json"
    report.save(path, [result], TINY)
    assert report.load(path) == [result]
    document = json.loads(path.read_text("utf-8"))
    assert document["device"] == report.device()
    assert document["versions"]["jax"] == report.versions()["jax"]
    (row,) = document["rows"]
    assert row["measurements"][2]["ratio"] == 1.5
    assert [goal["verdict"] for goal in row["goals"]] == ["missed", "not measured"]
    assert row["goals"][0]["ratio"] == 1.5


def test_picture_has_a_line_for_every_goal(tmp_path):
    path = picture.save(tmp_path / "new" / "results.json", [judged(2.0), judged(4.0)])
    assert path == tmp_path / "new" / "results.png"
    height, width, _ = imread(path).shape
    assert min(height, width) > 300
    (axes,) = picture.goals([judged(2.0), judged(4.0)]).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["row: rival", "row: absent"] * 2
    texts = [text.get_text() for text in axes.texts]
    assert texts[0].strip() == "3x (goal 2x)"
    assert texts[2] == "3x (goal 4x) missed"
    assert texts[3] == "– (goal 2x) not measured"


def test_lines_of_the_picture_do_not_overlap():
    figure = picture.goals([judged(2.0)] * 10)
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert all(not a.overlaps(b) for a, b in pairwise(boxes))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00123, "1.23 ms"), (2.0, "2 s"), (1.5e-6, "1.5 µs"), (2.5e6, "2.5 Ms"), (0.0, "0 µs")],
)
def test_quantity_has_three_digits_and_a_prefix(value, text):
    assert report.quantity(value, "s") == text


def test_row_names_are_unique():
    assert len({row.name for row in ROWS}) == len(ROWS)


# Whole processes would take seconds; what they run is run below, in this one.
WHOLE_PROCESSES = {*startup.ROWS, *memory.ROWS, *learning.ROWS}
IN_PROCESS = [row for row in ROWS if row not in {*WHOLE_PROCESSES, *compilations.ROWS}]


@pytest.fixture
def one_device(monkeypatch):
    """The rows are so small here that they do not divide over all devices of the tests."""
    only = jax.devices()[:1]
    for name, found in (("devices", only), ("local_devices", only), ("device_count", 1)):
        monkeypatch.setattr(jax, name, lambda *_, found=found: found)


@pytest.mark.adapters
@pytest.mark.parametrize("row", IN_PROCESS, ids=lambda row: row.name)
def test_contenders_of_every_row_agree_and_run(row, one_device):
    result = harness.run_row(row, TINY, repeats=1)
    assert result.measurements[0].role == "ours"
    assert result.measurements[0].name.startswith("pgjax")
    assert all(m.missing or len(m.samples) == 1 for m in result.measurements)
    assert all(result.verdict(goal) in report.MARKS for goal in result.goals)


def test_a_second_call_with_new_data_compiles_nothing(monkeypatch):
    monkeypatch.setattr(chunks, "CPU_ROWS", 16)  # loops, which eager calls would compile anew
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # other tests would compile theirs anew
    scale = TINY._replace(num_steps=11)  # of its own, so that its programs are new
    case = compilations.second_call(scale)
    all_rounds, first = (c.run() for c in case.contenders.values() if isinstance(c, Contender))
    assert all_rounds == first > 0
    seen = compilations.compilations(lambda: jax.jit(lambda x: 3 * x)(jnp.ones(7)))
    assert seen > 0  # the count would notice a new program


def test_first_call_ends_in_a_gradient():
    first_call.main("pgjax", "6", "9")


def test_peak_memory_is_printed_in_bytes(capsys):
    peak_memory.main("pgjax", "6", "9")
    assert int(capsys.readouterr().out) > 2**26


@pytest.mark.adapters
def test_training_ends_at_the_threshold():
    found = cartpole_to_475.pgjax(0, threshold=15.0)
    assert 0 < found["training_seconds"] < 60
    assert found["steps"] >= 15 * cartpole_to_475.NUM_TRAJECTORIES


@pytest.mark.adapters
def test_ppo_ends_at_the_threshold():
    pytest.importorskip("stable_baselines3", reason="a rival, only in requirements.txt")
    found = cartpole_to_475.sb3(0, threshold=9.0, threads=1, sampled=True)
    assert found["steps"] == cartpole_to_475.EVALUATION_EVERY


def test_first_update_counts_as_a_typical_one():
    assert cartpole_to_475._without_compilation([50.0, 1.0, 2.0, 9.0]) == 14.0


def test_rows_of_learning_share_their_processes_and_give_each_round_a_seed(monkeypatch):
    ran = []

    def run_python(*arguments: str, settings: dict[str, str]) -> str:
        ran.append((arguments[2], arguments[3], *arguments[6:], bool(settings)))
        return 'noise\n{"training_seconds": 2.0, "steps": 3.0}\n'

    monkeypatch.setattr(learning, "run_python", run_python)
    monkeypatch.setattr(learning, "not_importable", lambda modules: None)
    monkeypatch.setattr(learning, "_faster_threads", lambda threshold: 1)
    scale = TINY._replace(threshold=-1.0)  # of its own, so that nothing is remembered
    *_, result = [harness.run_row(row, scale, repeats=2) for row in learning.ROWS]
    assert [m.samples for m in result.measurements] == [[2.0, 2.0]] * 3
    assert len(ran) == len(set(ran)) == 4 * 3
    assert {seed for _, seed, *_ in ran} == {"0", "1", "2"}
    assert sum(warm for *_, warm in ran) == 3


def test_limit_takes_the_gradient_of_all_its_rows():
    params, start = problems.trained_params(), np.zeros((2, 4))
    rows = jax.device_get(limits._rows(3, 5))
    _, chunked = limits._forward_and_gradient(params, start, rows, 4)
    observation, action, weight = (x.reshape(15, *x.shape[2:]) for x in rows)

    def objective(params: Any) -> jax.Array:
        return jnp.sum(naive.log_prob(params, observation, action) * weight)

    whole = jax.jit(jax.grad(objective))(params)
    assert harness.relative_difference(chunked, whole) <= harness.rounding(15)


def test_compilations_are_counted_and_calls_are_not():
    triple = jax.jit(lambda x: 3 * x)
    short, other, long = np.ones(3), np.zeros(3), np.ones(4)
    assert compilations.compilations(lambda: triple(short)) == 1
    assert compilations.compilations(lambda: triple(other)) == 0
    assert compilations.compilations(lambda: [triple(short), triple(long)]) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="the tool is a shell script")
def test_driver_is_told_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert report._driver() == ""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA X1, 1.2.3'\n", encoding="utf-8")
    tool.chmod(0o755)
    assert report._driver() == "driver 1.2.3"


def test_process_that_fails_is_not_timed():
    with pytest.raises(subprocess.CalledProcessError):
        processes.run_python("-c", "raise SystemExit(1)")


def test_process_has_no_compile_cache_unless_it_is_given_one(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "caller")
    show = "-c", "import os; print(os.environ.get('JAX_COMPILATION_CACHE_DIR'))"
    assert processes.run_python(*show).strip() == "None"
    given = {"JAX_COMPILATION_CACHE_DIR": "given"}
    assert processes.run_python(*show, settings=given).strip() == "given"


def test_each_core_is_a_device_when_the_rows_are_imported(monkeypatch):
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    script = (
        "from benchmarks import __main__ as b; b._use_every_core()",
        "import pgjax.environments.import_gymnax",  # without its plotting libraries, which are slow
        "b._registry(); import jax; print(jax.device_count('cpu'))",
    )
    printed = processes.run_python("-c", "\n".join(script))
    assert int(printed) == len(processes.cores())


def test_list_names_every_row_and_runs_none(capsys):
    main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [row.name for row in ROWS]


def test_no_row_is_begun_after_the_time_is_spent():
    clock = FakeClock()
    begun = []
    for row in within(10.0, ROWS[:4], clock):
        begun.append(row)
        clock.now += 6
    assert begun == list(ROWS[:2])
    assert list(within(None, ROWS, clock)) == list(ROWS)


def test_gpu_runs_its_rows_in_their_order_and_names_those_left_out(monkeypatch, tmp_path, capsys):
    measured = []

    def run_row(row: Row, scale: harness.Scale, repeats: int | None) -> Result:
        measured.append((row.name, repeats))
        return Result(row.name, row.what, "", "s", "", [Measurement("pgjax", [1.0], role="ours")])

    monkeypatch.setattr(benchmarks_main, "run_row", run_row)
    arguments = ["--gpu", "--output", str(tmp_path / "results.json")]
    main(arguments)
    assert measured == [(name, 3) for name in GPU_ROWS]
    monkeypatch.setattr(benchmarks_main, "GPU_SECONDS", -1.0)
    main(arguments)
    assert len(measured) == len(GPU_ROWS)
    assert f"No time was left for {GPU_ROWS[0]}" in capsys.readouterr().out


def test_only_runs_one_row_and_saves_it(tmp_path, capsys):
    path = tmp_path / "results.json"
    main(["--only", "returns-cliff", "--quick", "--repeats", "2", "--output", str(path)])
    (result,) = report.load(path)
    assert path.with_suffix(".png").exists()
    assert result.name == "returns-cliff"
    assert len(result.measurements[0].samples) == 2
    assert "ratio" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--repeats", "0"], ["--only", "no-such-row"]])
def test_wrong_option_is_an_error(argv):
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2


def test_steps_of_ppo_are_compared_by_the_best_rounds_and_a_worker_that_ends_is_named() -> None:
    run = {"compilation": 2.0, "operations": 481, "mean_return": 50.0}
    found = {
        "pgjax": [run | {"seconds": 4.0}, {"seconds": 2.0, "mean_return": 50.0}],
        "PureJaxRL": [run | {"seconds": 5.0, "compilation": 3.0}],
    }
    ours, theirs = ppo_steps.shown(64, 1000, found).splitlines()
    assert "500 steps/s, compiled in 2.0 s (481 operations), mean return 50" in ours
    assert theirs.endswith("ours is 2.50x, its compilation 1.50x")
    worker = processes.Worker(sys.executable, "-c", "")
    with pytest.raises(SystemExit, match="has ended"):
        worker.ask("4 1 1")
    worker.stop()


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    return {"episodes": "a", "gradient": [4.0, 1.0], "per-trajectory": [1.0, -2.0], "programs": 0}


def test_versions_that_answer_alike_do_not_disagree(answers):
    rounded = answers | {"gradient": [4.0 + 1e-4, 1.0], "programs": 2}
    assert earlier.disagreements(rounded, answers) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"episodes": "b"}, "the versions sample different episodes from the same key"),
        ({"gradient": [4.0, 1.002]}, "gradient: the versions differ by 5.0e-04 of the largest"),
        ({"gradient": [4.0, np.nan]}, "gradient: the versions differ by nan"),
        ({"per-trajectory": [1.0, 2.0]}, "per-trajectory: the versions differ by 2.0e"),
        ({"programs": 3}, "a second call with new data compiles 3 programs"),
    ],
)
def test_what_versions_must_agree_on_is_held_against_them(answers, changed, message):
    (fault,) = earlier.disagreements(answers, answers | changed)
    assert message in fault


def test_versions_are_asked_in_turn_and_compared_round_by_round():
    asked: list[str] = []
    times = {"earlier": iter([4.0, 2.0, 3.0]), "now": iter([2.0, 2.0, 1.0])}

    def call(name: str) -> float:
        asked.append(name)
        return next(times[name])

    found = earlier.in_turn({name: partial(call, name) for name in times}, 3)
    assert asked == ["earlier", "now", "now", "earlier", "earlier", "now"]
    assert earlier.shown("rollout", found) == (
        "rollout: 3 s earlier, 2 s now; medians 2.000, best 2.000, 3 rounds"
    )


@pytest.mark.skipif(shutil.which("git") is None, reason="needs Git")
def test_a_commit_is_checked_out_beside_what_is_being_worked_on(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    git = "git", "-C", str(root), "-c", "user.name=A", "-c", "user.email=a@example.org"
    for content in ("before", "after"):
        (root / "file").write_text(content, "utf-8")
        for command in (("init", "-q"), ("add", "file"), ("commit", "-q", "-m", content)):
            subprocess.run([*git, *command], check=True)
    (root / "file").write_text("at work", "utf-8")
    monkeypatch.setattr(earlier, "ROOT", root)
    folder = earlier.checkout("HEAD~1", tmp_path / "one")
    assert (folder / "file").read_text("utf-8") == "before"
    assert (root / "file").read_text("utf-8") == "at work"
    with pytest.raises(SystemExit, match="one that this clone holds, got nonsense; Git says"):
        earlier.checkout("nonsense", tmp_path / "two")


@pytest.mark.adapters
def test_a_version_beside_itself_agrees_in_all_it_must(capsys):
    folders = {"earlier": processes.ROOT, "now": processes.ROOT}
    samples, faults = earlier.measured(folders, TINY, rounds=1, fresh=1)
    assert not faults
    assert list(samples) == [*earlier.TIMED, *earlier.WHOLE]
    assert all(len(taken) == 1 for each in samples.values() for taken in each.values())
    assert "programs that a second call compiles: 0, now 0" in capsys.readouterr().out


def test_counts_of_a_program_and_of_a_balance_are_those_made_by_hand():
    lengths = np.array([3, 1, 2, 2, 8, 0, 1, 1])
    # Four devices hold 4, 4, 8 and 2 live steps; their longest episodes have 3, 2, 8 and 1.
    assert scaling_counts.balance(lengths, 4) == (18 / 4 / 8, 14 / 4 / 8)
    assert scaling_counts.balance(lengths, 1) == (1, 1)
    text = """
ENTRY %main (x: f32[3]) -> f32[3] {
  %x = f32[3]{0} parameter(0)
  %all-gather = f32[6]{0} all-gather(f32[3]{0} %x), dimensions={0}
  ROOT %all-reduce.1 = f32[3]{0} all-reduce(f32[3]{0} %x), to_apply=%add
}
"""
    assert len(scaling_counts.INSTRUCTION.findall(text)) == 3
    assert len(scaling_counts.COLLECTIVE.findall(text)) == 2
    assert scaling_counts.bytes_reduced(text) == 12


def test_each_part_of_an_update_can_follow_itself() -> None:
    def before_and_after() -> Any:
        every = ppo_parts.parts(4)
        assert list(every) == ["sampling", "gradients", "minibatches"]
        return [(carry, step(carry, jnp.int32(0))[0]) for step, carry in every.values()]

    for carry, after in jax.eval_shape(before_and_after):
        jax.tree.map(lambda x, y: chex.assert_equal_shape([x, y]), after, carry)
