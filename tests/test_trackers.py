"""The log for TensorBoard and Weights & Biases: the same rows, after a resumption too."""

import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pgjax import training
from pgjax.cli import main
from pgjax.training.algorithm import Metrics
from pgjax.training.runs import loop, saved_runs, trackers
from tests import child_runs, walks

SETTINGS = training.ReinforceSettings(num_updates=3, num_trajectories=4)
TRAIN = ["train", walks.NAME, "--updates", "3", "--num-trajectories", "4", "--output"]
FIRST = training.RunOptions(until=-1000.0, quiet=True, tensorboard=True)  # one update


def numbered(run, state, index):
    """An update that changes nothing, with numbers of its own for the log."""
    given = [index + x / 7 for x in range(6)]
    measured = {"gradient_signal": 1.5, "gradient_noise": 3.0}
    return state, Metrics(*given, explained_variance=np.nan, **measured)


@pytest.fixture(scope="module", autouse=True)
def cheap():
    """Nothing is computed in an update: what is in the log is read here, and not where from."""
    with child_runs.compiled_once(), child_runs.sketches(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "advance", numbered)
        yield


def expected(directory):
    """(steps, name) -> value of each finite entry of the log."""
    rows = [
        json.loads(line) for line in (directory / saved_runs.LOG).read_text("utf-8").splitlines()
    ]
    return {
        (row["environment_steps"], name): value
        for row in rows
        for name, value in row.items()
        if name != "environment_steps" and value is not None
    }


def events(directory):
    """(steps, name) -> value in the event file, each of which must stand there once."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    (path,) = (directory / trackers.TENSORBOARD).iterdir()
    content, place, found = path.read_bytes(), 0, {}
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)  # then a checksum, data, a checksum
        event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
        place += 16 + length
        for value in event.summary.value:
            assert (event.step, value.tag) not in found
            found[event.step, value.tag] = value.simple_value
    return found


def assert_same(found, directory):
    wanted = expected(directory)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-6)


def test_tensorboard_has_the_rows_of_the_log_after_a_resumption_too(tmp_path):
    pytest.importorskip("tensorboardX")
    run = training.start(tmp_path, walks.NAME, SETTINGS, options=FIRST)
    assert len(run.log) == 1
    assert_same(events(tmp_path), tmp_path)
    # It is kept on when the run is resumed, like every option; and it may be switched on then.
    options = training.RunOptions(quiet=True, tensorboard=True)
    assert len(training.resume(tmp_path, options=options).log) == 3
    assert_same(events(tmp_path), tmp_path)
    assert len({steps for steps, _ in events(tmp_path)}) == 3
    # Another run in the directory leaves nothing of this one.
    assert main([*TRAIN, str(tmp_path), "--overwrite", "--quiet"]) == 0
    assert not (tmp_path / trackers.TENSORBOARD).exists()


def test_a_writer_that_fails_costs_a_warning_and_no_update(tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    failing = trackers.Tracker("TensorBoard", fail, fail)
    monkeypatch.setattr(trackers, "trackers", lambda *_: [failing])
    assert main([*TRAIN, str(tmp_path), "--tensorboard", "--quiet"]) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert "could not write TensorBoard: No space left on device; training goes on" in warning
    assert len((tmp_path / saved_runs.LOG).read_text("utf-8").splitlines()) == 3


@pytest.mark.parametrize("name", trackers.FOLDERS)
def test_a_missing_library_is_one_line_with_the_command_that_installs_it(
    name, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, trackers.MODULES[name], None)
    assert main([*TRAIN, str(tmp_path / "run"), f"--{name}"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.endswith(f'not installed; try: pip install "policy-gradient-jax[{name}]"')
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_weights_and_biases_has_the_rows_of_the_log_offline(tmp_path):
    # In a process of its own: it starts one more, and writes in the background.
    train = ["train", "DeepSea-bsuite", *TRAIN[2:], str(tmp_path), "--wandb"]
    command = [sys.executable, "-m", "pgjax", *train]
    assert subprocess.run(command).returncode == 0
    (path,) = (tmp_path / trackers.WANDB).glob("offline-run-*/*.wandb")
    assert_same(history(path), tmp_path)


def history(path: Path):
    """(steps, name) -> value in an offline run of Weights & Biases, in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportMissingImports]

    content, found, data = path.read_bytes(), {}, b""
    for start in range(0, len(content), BLOCK):
        place, end = max(start, HEADER), min(start + BLOCK, len(content))
        while place + HEADER <= end:  # a checksum, the length of the part, and its kind
            _, length, kind = struct.unpack_from("<IHB", content, place)
            data += content[place + HEADER : place + HEADER + length]
            place += HEADER + length
            if kind in (FULL, LAST):
                found |= scalars(Record.FromString(data).history.item)
                data = b""
    return found


BLOCK, HEADER, FULL, LAST = 2**15, 7, 1, 4


def scalars(items):
    """(steps, name) -> value of a record of a history."""
    row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
    return {(row["_step"], name): x for name, x in row.items() if not name.startswith("_")}
