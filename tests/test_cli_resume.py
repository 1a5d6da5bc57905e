"""Long runs: stopped, killed, spoilt or short of disk, a run goes on as if it had never stopped."""

import contextlib
import json
import os
import shutil
import signal
import sys
import time

import jax
import numpy as np
import pytest

pytest.importorskip("resource", reason="signals and limits as Unix has them")
import resource

from pgjax import checkpoints, environments
from pgjax.cli import main
from pgjax.training.runs import log, loop, saved_runs, signals
from tests import child_runs, walks

UPDATES, EVERY = 9, 2
TRAIN = [
    *("train", walks.NAME, "--num-trajectories", "4"),
    *("--updates", str(UPDATES), "--checkpoint-every", str(EVERY)),
]


@pytest.fixture(autouse=True)
def interruptible():
    """Signals as a terminal handles them, however these tests were started."""
    before = {number: signal.getsignal(number) for number in signals.ASKING}
    child_runs.handle_signals_as_in_a_terminal()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module", autouse=True)
def cheap():
    with child_runs.compiled_once(), child_runs.sketches():
        yield


def wait_until_heard(asked):
    """Wait until the listener, a thread, has heard a signal: a busy machine may let it wait."""
    deadline = time.monotonic() + child_runs.SECONDS
    while asked() is None:
        assert time.monotonic() < deadline, "no signal was heard"
        time.sleep(0.001)


def stop_at(update, monkeypatch, signal_number=signal.SIGTERM):
    """A signal comes, and is heard, while that update is computed."""
    original, interruptions = loop.advance, loop.interruptions
    ears = []

    @contextlib.contextmanager
    def listening():
        with interruptions() as asked:
            ears.append(asked)
            yield asked

    def advance(run, state, index):
        if index == update:
            os.kill(os.getpid(), signal_number)
            wait_until_heard(ears[-1])
        return original(run, state, index)

    monkeypatch.setattr(loop, "interruptions", listening)
    monkeypatch.setattr(loop, "advance", advance)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    assert main([*TRAIN, "--output", str(directory)]) == 0
    return directory


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """A run that a signal stopped at update 5: checkpoints of 2, 4 and 5."""
    directory = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_at(5, monkeypatch)
        assert main([*TRAIN, "--output", str(directory)]) == 0
    assert saved_steps(directory) == [2, 4, 5]
    return directory


@pytest.fixture
def stopped(stopped_once, tmp_path):
    return shutil.copytree(stopped_once, tmp_path / "run")


def saved_steps(directory):
    return checkpoints.steps(directory / saved_runs.CHECKPOINTS)


def rows(directory):
    """The log without the time that it took."""
    lines = (directory / saved_runs.LOG).read_bytes().splitlines()
    return [
        {name: x for name, x in json.loads(line).items() if name != "seconds"} for line in lines
    ]


def same(directory, whole):
    """The same parameters and the same log, bit by bit, and nothing half done."""
    left = {path.name for path in directory.iterdir()}
    return (
        (directory / saved_runs.PARAMS).read_bytes() == (whole / saved_runs.PARAMS).read_bytes()
        and rows(directory) == rows(whole)
        and left == {*saved_runs.FILES, saved_runs.CHECKPOINTS}
    )


def resume(directory, *arguments):
    return main(["train", "--resume", str(directory), *arguments])


def the_error(capsys):
    (line,) = errors(capsys)
    return line


def errors(capsys):
    return capsys.readouterr().err.splitlines()


def test_a_stopped_run_says_how_to_go_on_and_goes_on_as_if_it_had_not(
    whole, tmp_path, capsys, monkeypatch
):
    directory = tmp_path / "run"
    for update, number in ((1, signal.SIGINT), (5, signal.SIGTERM), (6, signal.SIGHUP)):
        with monkeypatch.context() as patched:
            stop_at(update, patched, number)
            started = [*TRAIN, "--output", str(directory)]
            assert (main(started) if update == 1 else resume(directory)) == 0
        said = capsys.readouterr().out.splitlines()[-1]
        assert said.startswith(f"{number.name} after update {update} of {UPDATES}: saved; ")
        assert said.endswith(f"pgjax train --resume {directory}")
        assert [row["update"] for row in rows(directory)] == [*range(1, update + 1)]
        assert not same(directory, whole)
    assert resume(directory) == 0
    assert "going on after update 6 of 9" in capsys.readouterr().out
    assert same(directory, whole)
    lines = (directory / saved_runs.LOG).read_text("utf-8").splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_a_run_that_forgot_its_optimizer_is_told_apart(stopped, whole, monkeypatch):
    # The control of every comparison here: Adam starts anew, all else is restored.
    original = checkpoints.restore_latest

    def forgetful(directory, like):
        found = original(directory, like)
        params, _, key = found.state.state
        state = (params, like.state[1], key)
        return found._replace(state=found.state._replace(state=state))

    monkeypatch.setattr(checkpoints, "restore_latest", forgetful)
    assert resume(stopped) == 0
    assert len(rows(stopped)) == UPDATES
    assert not same(stopped, whole)


def test_by_default_a_checkpoint_comes_with_time_and_rarely_where_it_is_dear(
    tmp_path, whole, monkeypatch
):
    default = [*TRAIN[: TRAIN.index("--checkpoint-every")], "--output"]
    monkeypatch.setattr(loop, "SECONDS", 0.0)
    monkeypatch.setattr(loop, "SHARE", 1e-9)  # one save, and then none for years
    assert main([*default, str(tmp_path / "dear")]) == 0
    assert saved_steps(tmp_path / "dear") == [1]
    monkeypatch.setattr(loop, "SHARE", 1e9)
    assert main([*default, str(tmp_path / "cheap")]) == 0
    assert saved_steps(tmp_path / "cheap") == [6, 7, 8]
    assert same(tmp_path / "cheap", whole)
    assert same(tmp_path / "dear", whole)


def test_a_continuous_policy_with_a_critic_goes_on_as_if_it_had_not_stopped(
    tmp_path, capsys, monkeypatch
):
    windows = ("--num-environments", "2", "--num-steps", "8", "--epochs", "2", "--minibatches", "2")
    ppo = ["train", "Pendulum-v1", "--algorithm", "ppo", "--updates", "5", *windows]
    assert main([*ppo, "--checkpoint-every", "4", "--output", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patched:
        stop_at(3, patched)
        assert main([*ppo, "--output", str(tmp_path / "run")]) == 0
    assert len(rows(tmp_path / "run")) == 3
    assert resume(tmp_path / "run") == 0
    assert same(tmp_path / "run", tmp_path / "whole")
    assert [row["environment_steps"] for row in rows(tmp_path / "run")] == [16, 32, 48, 64, 80]
    # Its episodes last 200 steps, so in 5 windows of 8 none has ended.
    assert [row["mean_return"] for row in rows(tmp_path / "run")] == [None] * 5
    assert "no episode has ended yet" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--num-trajectories", "2"]) == 0
    assert "2 fresh episodes of at most 200 steps" in capsys.readouterr().out


def test_a_run_killed_before_its_first_checkpoint_starts_again(stopped, whole, capsys):
    shutil.rmtree(stopped / saved_runs.CHECKPOINTS)
    assert resume(stopped) == 0
    assert "going on after update 0 of 9" in capsys.readouterr().out
    assert same(stopped, whole)


def test_a_torn_line_and_rows_after_the_checkpoint_are_dropped(stopped, whole):
    shutil.rmtree(stopped / saved_runs.CHECKPOINTS / "0000000005")
    with (stopped / saved_runs.LOG).open("ab") as log:
        log.write(b'{"update": 6, "environment_st')
    assert resume(stopped) == 0
    assert same(stopped, whole)


def test_a_finished_run_is_left_alone(whole, tmp_path, capsys):
    directory = shutil.copytree(whole, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert resume(directory) == 0
    assert "has finished; try: pgjax evaluate" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_a_return_to_stop_at_is_kept_and_may_be_changed(stopped, whole, capsys):
    assert resume(stopped, "--until", "-1000", "--checkpoint-every", "3") == 0
    assert len(rows(stopped)) == 5  # it was reached already
    assert resume(stopped) == 0
    assert "has finished" in capsys.readouterr().out
    assert resume(stopped, "--until", "1000") == 0
    assert saved_steps(stopped) == [4, 5, 6]
    assert same(stopped, whole)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
        lambda path: os.truncate(path, path.stat().st_size // 2),
    ],
)
def test_a_spoilt_checkpoint_is_named_and_the_one_before_is_taken(spoil, stopped, whole, capsys):
    data = (stopped / saved_runs.CHECKPOINTS / "0000000005" / checkpoints.STATE).rglob("d/*")
    spoil(max(data, key=lambda path: path.stat().st_size))
    assert resume(stopped) == 0
    found = capsys.readouterr()
    (warning,) = found.err.splitlines()
    assert warning.startswith("pgjax train: warning: ")
    assert "checkpoint 0000000004 in" in warning
    assert "0000000005: checksum differs" in warning
    assert "going on after update 4 of 9" in found.out
    assert same(stopped, whole)


def test_without_a_checkpoint_that_is_whole_nothing_is_touched(stopped, capsys):
    for path in (stopped / saved_runs.CHECKPOINTS).rglob(checkpoints.SUMS):
        path.write_text("", encoding="utf-8")
    before = (stopped / saved_runs.LOG).read_bytes()
    assert resume(stopped) == 2
    (error,) = errors(capsys)
    assert "every checkpoint in" in error
    assert (stopped / saved_runs.LOG).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--updates", "20"], "--updates 20 differs from 9, which the run in"),
        (["--learning-rate", "0.01"], "--learning-rate 0.01 differs from 0.005"),
        (["--seed", "1"], "--seed 1 differs from 0"),
        (["CartPole-v1"], "environment CartPole-v1 differs from walk"),
        (["--output", "elsewhere"], "a resumed run stays in its directory"),
        (["--overwrite"], "give one"),
    ],
)
def test_what_would_make_it_another_run_is_refused(arguments, expected, stopped, capsys):
    assert resume(stopped, *arguments) == 2
    (error,) = errors(capsys)
    assert expected in error


def test_a_default_given_in_words_is_compared_too(stopped, tmp_path, capsys):
    config = json.loads((stopped / saved_runs.CONFIG).read_text("utf-8"))
    config["options"]["seed"] = 7
    saved_runs.write_config(stopped, config)
    assert resume(stopped, "--seed", "0") == 2
    assert "--seed 0 differs from 7" in errors(capsys)[0]


@pytest.mark.parametrize(
    ("change", "status", "expected"),
    [
        ({"settings": {}}, 2, "config.json was edited, or another version of pgjax wrote it"),
        ({"options": None}, 2, "does not say with which options the run began"),
        ({"versions": {"jax": "0.1"}}, 0, "the run began with jax 0.1, and this is"),
    ],
)
def test_a_config_that_does_not_fit_is_told(change, status, expected, stopped, capsys):
    config = json.loads((stopped / saved_runs.CONFIG).read_text("utf-8"))
    saved_runs.write_config(stopped, config | change)
    assert resume(stopped) == status
    assert any(expected in line for line in errors(capsys))


def test_nothing_to_resume_and_nothing_to_train_are_told(tmp_path, capsys):
    assert resume(tmp_path / "nowhere") == 2
    assert "nowhere holds no run to resume: config.json missing" in errors(capsys)[0]
    assert main(["train"]) == 2
    assert "an environment is needed, such as CartPole-v1, or --resume RUN" in errors(capsys)[0]


def test_two_processes_never_train_in_one_directory(stopped, capsys):
    with saved_runs.locked(stopped):
        assert resume(stopped) == 2
    assert "another process is training in" in errors(capsys)[0]


def test_overwriting_leaves_no_checkpoint_of_the_run_before(stopped, monkeypatch):
    stop_at(1, monkeypatch)
    assert main([*TRAIN, "--overwrite", "--output", str(stopped)]) == 0
    assert saved_steps(stopped) == [1]
    assert len(rows(stopped)) == 1


@pytest.fixture
def short_of_disk(monkeypatch):
    """From one update to another no file may be longer than 700 bytes.

    The system call fails as it does on a full disk, in Python and in TensorStore, with EFBIG.
    """
    original, before = loop.advance, resource.getrlimit(resource.RLIMIT_FSIZE)

    def between(first, last):
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

        def advance(run, state, index):
            limit = 700 if first <= index <= last else before[0]
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            return original(run, state, index)

        monkeypatch.setattr(loop, "advance", advance)

    yield between
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


# orbax leaves an event loop behind when a write fails, and says so when it is collected.
unfinished_loops = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@unfinished_loops
def test_a_full_disk_is_told_once_training_goes_on_and_nothing_is_lost(
    short_of_disk, whole, tmp_path, capsys
):
    short_of_disk(3, 7)
    assert main([*TRAIN, "--output", str(tmp_path / "run")]) == 0
    told = errors(capsys)
    for what in ("log.jsonl", "params.msgpack", "a checkpoint"):
        (warning,) = [line for line in told if f"could not write {what}: " in line]
        assert warning.startswith("pgjax train: warning: ")
        assert warning.endswith(": File too large; training goes on")
        assert f"pgjax train: {what} could be written again" in told
    assert len(told) == 6
    assert saved_steps(tmp_path / "run") == [2, 8]
    assert same(tmp_path / "run", whole)


@unfinished_loops
def test_a_disk_that_stays_full_is_an_error_that_names_what_can_be_resumed(
    short_of_disk, whole, tmp_path, capsys
):
    short_of_disk(3, UPDATES)
    directory = tmp_path / "run"
    assert main([*TRAIN, "--output", str(directory)]) == 1
    *_, error = errors(capsys)
    assert error.startswith("pgjax train: error: the final parameters are not saved; the last good")
    assert "checkpoint is that of update 2" in error
    short_of_disk(UPDATES + 1, UPDATES)  # there is room again
    assert resume(directory) == 0
    assert same(directory, whole)


def test_a_reward_that_is_no_number_stops_the_run_and_names_update_and_checkpoint(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(environments, "make", lambda name: walks.walk(edge=5.5))
    directory = tmp_path / "run"
    assert main([*TRAIN, "--seed", "1", "--output", str(directory)]) == 1
    (error,) = errors(capsys)
    good = len(rows(directory))
    assert 1 < good < UPDATES
    assert f"error: update {good + 1}: not finite: " in error
    assert "reward" in error.split(";")[0]
    folder = directory / saved_runs.CHECKPOINTS
    assert f"the last good checkpoint is that of update {good}, in {folder}" in error
    assert saved_steps(directory)[-1] == good
    params = saved_runs.load(directory)[-1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    # It was no accident of the machine: the same update fails again.
    assert resume(directory) == 1
    assert f"error: update {good + 1}: not finite: " in errors(capsys)[0]


@pytest.fixture
def start(tmp_path):
    """Start a child: it is killed at the end of its `with` block."""

    def started(*commands, hold=(), stuck_at=0):
        return child_runs.Child(commands, tmp_path / "said", hold=hold, stuck_at=stuck_at)

    return started


def logged(directory):
    path = directory / saved_runs.LOG
    return path.read_bytes().count(b"\n") if path.exists() else 0


def loses_no_more_than_since_its_last_checkpoint(directory, every):
    return 0 <= logged(directory) - max(saved_steps(directory), default=0) <= every


def test_a_process_killed_in_a_save_loses_only_the_last(whole, tmp_path, start):
    directory = tmp_path / "run"
    in_a_save = directory / saved_runs.CHECKPOINTS / checkpoints.UNFINISHED
    begin = [*TRAIN[:-1], "1", "--output", str(directory)]
    with start(begin, hold=[f"writing {checkpoints.SUMS}"]) as child:
        child.wait_until(f"writing {checkpoints.SUMS}")
    assert child.process.exitcode == -signal.SIGKILL
    assert in_a_save.exists()
    assert (logged(directory), saved_steps(directory)) == (1, [])
    assert resume(directory) == 0
    assert not in_a_save.exists()
    assert saved_steps(directory) == [6, 7, 8]
    assert same(directory, whole)


def test_a_run_goes_on_from_what_a_kill_leaves_at_any_write(whole, tmp_path, monkeypatch):
    # A killed process leaves the files as they are: a copy shows what it would have left.
    directory, copies, flush = tmp_path / "run", [], os.fsync

    def copying(descriptor):
        flush(descriptor)
        if (directory / saved_runs.CONFIG).exists():
            copies.append(shutil.copytree(directory, tmp_path / f"copy {len(copies)}"))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", copying)
        assert main([*TRAIN, "--output", str(directory)]) == 0
    # Of each of four checkpoints: parameters, leaves, sums, the renamed folder; and the end's two.
    assert len(copies) == 4 * 4 + 2
    unfinished = [copy / saved_runs.CHECKPOINTS / checkpoints.UNFINISHED for copy in copies]
    assert sum(path.exists() for path in unfinished) == 4 * 2
    for copy in copies:
        assert loses_no_more_than_since_its_last_checkpoint(copy, EVERY)
        assert resume(copy, "--checkpoint-every", "8") == 0
        assert same(copy, whole)


def test_a_process_asked_to_stop_saves_and_leaves_and_a_second_interrupt_ends_a_computation(
    whole, tmp_path, start, capsys
):
    directory = tmp_path / "run"
    begin, go_on = [*TRAIN, "--output", str(directory)], ["train", "--resume", str(directory)]
    with start(begin, go_on, go_on, hold=["update 3", "update 5"], stuck_at=8) as child:
        for number, update, saved in (
            (signal.SIGTERM, 3, [2, 3]),
            (signal.SIGINT, 5, [3, 4, 5]),
        ):
            child.wait_until(f"update {update}")
            before = (directory / saved_runs.LOG).read_bytes()
            for second in (go_on, [*begin, "--overwrite"]):
                assert main(second) == 2
                assert "another process is training in" in the_error(capsys)
            assert (directory / saved_runs.LOG).read_bytes() == before
            child.signal(number)
            asked = f"{number.name}: the update is finished and saved first"
            child.wait_until(asked)
            child.go_on()
            child.wait_until("left with status 0")
            said = child.said.read_text("utf-8")
            assert asked in said
            assert f"after update {update} of {UPDATES}: saved; go on with: pgjax train" in said
            assert logged(directory) == update
            assert saved_steps(directory) == saved
        child.wait_until("computing update 8")
        child.signal(signal.SIGINT)
        child.wait_until("SIGINT: the update is finished")
        time.sleep(4 * signals.ECHO)  # after this, another one is no echo of the first
        assert child.process.is_alive()
        child.signal(signal.SIGINT)
        assert child.exit_code() == 128 + signal.SIGINT
    assert logged(directory) == 7  # as if killed between updates: nothing is saved any more
    assert saved_steps(directory) == [4, 5, 6]
    assert resume(directory) == 0
    assert same(directory, whole)


def test_a_child_that_ends_or_fails_is_reported_and_none_is_left(start):
    """The negative control of the tests above."""
    with start(["train"]) as child, pytest.raises(AssertionError, match="environment is needed"):
        child.wait_until("begun")
    assert child.process.exitcode == 2
    end = "left with status 2"

    def fail(child):
        child.wait_until(end)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), start(["train"], hold=[end]) as child:
        fail(child)
    assert child.process.exitcode == -signal.SIGKILL


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk, as Linux has it")
def test_a_full_standard_output_is_told_and_costs_nothing(whole, tmp_path, capsys, monkeypatch):
    full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 (closing it fails, too)
    monkeypatch.setattr(sys, "stdout", full)
    assert main([*TRAIN, "--output", str(tmp_path / "run")]) == 0
    sys.stdout.flush()  # as Python does at its end
    monkeypatch.undo()
    (warning,) = errors(capsys)
    assert "could not write standard output: No space left on device" in warning
    assert same(tmp_path / "run", whole)
    with pytest.raises(OSError, match="No space left"):
        full.close()


def test_signals_only_ask_and_are_as_before_afterwards():
    before = {number: signal.getsignal(number) for number in signals.ASKING}
    with signals.interruptions() as asked:
        assert asked() is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        wait_until_heard(asked)
        assert asked() in ("SIGTERM", "SIGINT")
    assert {number: signal.getsignal(number) for number in signals.ASKING} == before


def test_a_system_without_set_blocking_as_windows_before_python_3_12_is_served(monkeypatch):
    monkeypatch.delattr(os, "set_blocking")
    monkeypatch.setattr(signal, "set_wakeup_fd", lambda *_, **__: -1)  # POSIX would ask for it
    with signals.interruptions() as asked:
        assert asked() is None


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with signals.interruptions() as asked:
            # Of two signals at once, the one with the lower number is delivered first.
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until_heard(asked)
            assert asked() == "SIGTERM"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_log_that_lacks_rows_and_holds_others_twice_keeps_what_it_can(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"update": i, "standard_error": None}) for i in (1, 2, 2, 4, 5, 6)]
    path.write_text("\n".join([*lines[:3], "garbage", "[1]", "{}", *lines[3:]]), encoding="utf-8")
    found = log.read_until(path, 6)
    assert [row["update"] for row in found] == [1, 2, 4, 5]  # the last line had not ended
    assert path.read_text("utf-8") == "\n".join([lines[0], lines[1], lines[3], lines[4], ""])
    assert all(row["standard_error"] != row["standard_error"] for row in found)  # NaN
