"""Runs from Python are those of the command line; parts of one's own are given again to resume."""

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pgjax
from pgjax import training
from pgjax.cli import main
from pgjax.training.runs import making, saved_runs
from tests import child_runs, walks
from tests.test_cli_train import the_error
from tests.test_trackers import assert_same, events

SETTINGS = training.ReinforceSettings(num_updates=3, num_trajectories=4)
QUIET = training.RunOptions(quiet=True)
MDP = pgjax.tabular.random_mdp()
OWN: dict[str, Any] = {"policy": pgjax.tabular_softmax(4, 2), "estimator": pgjax.rloo(0.9)}
SMALL = training.ReinforceSettings(num_updates=4, num_trajectories=4, num_steps=5)


@pytest.fixture(scope="module", autouse=True)
def cheap():
    with child_runs.compiled_once(), child_runs.sketches():
        yield


def without_pace(said):
    return re.sub(r"  [\d,]+ steps/s .*", "", said)


def config_of(directory):
    return json.loads((directory / saved_runs.CONFIG).read_text("utf-8"))


@pytest.fixture(scope="module")
def first_batch(tmp_path_factory):
    """A run with parts of its own that stopped at its first batch."""
    directory = tmp_path_factory.mktemp("runs") / "own"
    options = training.RunOptions(until=-1000.0, quiet=True)
    run = training.start(directory, MDP, SMALL, options=options, **OWN)
    assert run.finished
    assert len(run.log) == 1
    return directory


def test_python_and_the_command_line_leave_the_same_run(tmp_path, capsys):
    command, python = tmp_path / "command", tmp_path / "python"
    train = ["train", walks.NAME, "--updates", "3", "--num-trajectories", "4", "--seed", "7"]
    assert main([*train, "--output", str(command)]) == 0
    said = without_pace(capsys.readouterr().out)
    run = training.start(python, walks.NAME, SETTINGS, seed=7)
    assert run.finished
    assert without_pace(capsys.readouterr().out.replace(str(python), str(command))) == said
    assert config_of(python) == config_of(command)
    assert [(python / name).read_bytes() for name in (saved_runs.PARAMS,)] == [
        (command / name).read_bytes() for name in (saved_runs.PARAMS,)
    ]
    # Either reads what the other wrote.
    assert main(["evaluate", str(python), "--num-trajectories", "2"]) == 0
    loaded = pgjax.load(command)
    assert loaded.finished
    assert all(
        np.array_equal(x, y)
        for x, y in zip(*map(jax.tree.leaves, (loaded.params, run.params)), strict=True)
    )
    # The control: another seed is another run.
    other = training.start(tmp_path / "other", walks.NAME, SETTINGS, options=QUIET)
    assert other.log != run.log
    assert capsys.readouterr().err == ""


def test_a_quiet_run_prints_nothing(tmp_path, capsys):
    training.start(tmp_path / "run", walks.NAME, SETTINGS, options=QUIET)
    training.resume(tmp_path / "run")
    assert capsys.readouterr().out == ""
    training.resume(tmp_path / "run", options=training.RunOptions())
    assert "has finished" in capsys.readouterr().out


def test_a_run_with_its_own_parts_goes_on_as_if_it_had_not_stopped(first_batch, tmp_path):
    whole = training.start(tmp_path / "whole", MDP, SMALL, options=QUIET, **OWN)
    directory = shutil.copytree(first_batch, tmp_path / "run")
    run = training.resume(directory, environment=MDP, options=QUIET, **OWN)
    assert [row["update"] for row in run.log] == [1, 2, 3, 4]
    np.testing.assert_array_equal(run.params, whole.params)
    loaded = pgjax.load(directory, environment=MDP, policy=OWN["policy"])
    np.testing.assert_array_equal(loaded.params, whole.params)
    assert loaded.evaluate(episodes=3, num_steps=5).shape == (3,)
    # The control: with another estimator it is another run.
    other = shutil.copytree(first_batch, tmp_path / "other")
    changed = OWN | {"estimator": pgjax.rloo(0.5)}
    run = training.resume(other, environment=MDP, options=QUIET, **changed)
    assert not np.array_equal(run.params, whole.params)


def test_tensorboard_has_the_rows_of_a_run_s_own_metrics(tmp_path):
    pytest.importorskip("tensorboardX")
    options = training.RunOptions(quiet=True, tensorboard=True)
    assert len(training.start(tmp_path, MDP, SMALL, options=options, **OWN).log) == 4
    assert_same(events(tmp_path), tmp_path)


def test_parts_that_are_missing_or_that_it_never_had_are_named(first_batch, tmp_path, capsys):
    directory = shutil.copytree(first_batch, tmp_path / "run")
    with pytest.raises(ValueError, match=r"began with your own environment and estimator and pol"):
        training.resume(directory)
    with pytest.raises(ValueError, match=r"with your own estimator, .* environment=..., estimator"):
        training.resume(directory, environment=MDP, policy=OWN["policy"])
    with pytest.raises(ValueError, match="began without your own optimizer; omit it"):
        training.resume(directory, environment=MDP, **OWN, optimizer=None)
    with pytest.raises(ValueError, match=r"was trained with your own environment"):
        pgjax.load(directory)
    with pytest.raises(ValueError, match=r"was trained with your own policy"):
        pgjax.load(directory, environment=MDP)
    with pytest.raises(TypeError, match=r"reinforce takes the parts policy, .* got agent"):
        training.start(tmp_path / "new", MDP, SMALL, agent=None)
    assert not (tmp_path / "new").exists()
    assert main(["train", "--resume", str(directory)]) == 2
    assert "began with your own environment" in the_error(capsys)
    assert main(["evaluate", str(directory)]) == 2
    assert "load it in Python" in the_error(capsys)


def test_a_fault_is_an_error_that_names_the_update_and_what_can_be_resumed(tmp_path):
    optimizer = optax.sgd(lambda count: jnp.where(jnp.asarray(count) < 1, 0.1, jnp.nan))
    parts: dict[str, Any] = OWN | {"optimizer": optimizer}
    with pytest.raises(training.RunFailedError, match=r"update 2: not finite: .*; the last good"):
        training.start(tmp_path, MDP, SMALL, options=QUIET, **parts)
    loaded = pgjax.load(tmp_path, environment=MDP, policy=OWN["policy"])
    assert not loaded.finished
    assert np.isfinite(loaded.params).all()


def test_settings_that_are_no_single_numbers_are_refused(tmp_path):
    settings = training.ReinforceSettings(3, 4, 5, learning_rate=np.ones(2))  # pyright: ignore
    with pytest.raises(ValueError, match="learning_rate must be a single number"):
        training.start(tmp_path / "run", MDP, settings, policy=OWN["policy"])
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_used_is_told_before_anything_is_made(
    first_batch, tmp_path, monkeypatch
):
    monkeypatch.setattr(making, "make", lambda *_: pytest.fail("an algorithm is made"))
    (tmp_path / "file").touch()
    shutil.copytree(first_batch, tmp_path / "seed-1")
    name = walks.NAME
    with pytest.raises(ValueError, match="own already holds config"):
        training.start(first_batch, name, SETTINGS)
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(PermissionError, match=r"nothing can be written in .*\(Not a directory"):
            training.start(folder, name, SETTINGS)
    with (
        saved_runs.locked(first_batch),
        pytest.raises(ValueError, match="another process is train"),
    ):
        training.start(first_batch, name, SETTINGS, overwrite=True)
    with pytest.raises(ValueError, match="seed-1 already holds config"):
        training.start_seeds(tmp_path, name, SETTINGS, [0, 1])
    assert {path.name for path in tmp_path.iterdir()} == {"file", "seed-1"}
    # The control: with a good folder, one is made.
    with pytest.raises(pytest.fail.Exception, match="an algorithm is made"):
        training.start_seeds(tmp_path, name, SETTINGS, [0])


# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: with them a process writes and looks wherever it likes.
OVERRIDES_RIGHTS = 1 << 1 | 1 << 2


@contextlib.contextmanager
def bound_by_rights():
    """A process of root is bound by the rights of files here, as every other process is.

    Only that one capability is given up: as another user, it could not read its own modules.
    """
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version of the call; this thread
    held = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, held) == 0
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~OVERRIDES_RIGHTS
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


@pytest.fixture
def read_only():
    """A folder, with a folder `run` in it, that this process cannot write to."""
    folder = Path(tempfile.mkdtemp())
    with bound_by_rights():
        yield folder
    for path in (folder, folder / "run"):
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such rights")
def test_a_read_only_folder_is_named_in_one_line_and_loses_nothing(first_batch, read_only, capsys):
    directory = shutil.copytree(first_batch, read_only / "run")
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    for path in (directory, read_only):
        path.chmod(0o555)
    if os.access(directory, os.W_OK, effective_ids=True):
        pytest.skip("this user may write everywhere")
    with pytest.raises(PermissionError, match=r"nothing can be written in .*run \(it is read-on"):
        training.resume(directory, environment=MDP, options=training.RunOptions(), **OWN)
    arguments = [walks.NAME, "--updates", "3", "--num-trajectories", "4"]
    assert main(["train", *arguments, "--output", str(read_only / "new")]) == 2
    assert "nothing can be written in" in (error := the_error(capsys))
    assert "new (Permission denied); choose another" in error
    assert main(["train", *arguments, "--output", str(directory), "--overwrite"]) == 2
    assert "run (it is read-only)" in the_error(capsys)
    read_only.chmod(0)  # nothing in it can be looked at either
    with pytest.raises(PermissionError, match=r"nothing can be written in .*new/run \(Permission"):
        training.start(read_only / "new" / "run", MDP, **OWN)
    read_only.chmod(0o555)
    assert {path: path.read_bytes() for path in before} == before


INTERRUPTED = """
import os, signal, sys
from pgjax.cli import main

class Interrupting:
    def find_spec(self, name, *_):
        if name == "jax":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException:
                raise ImportError("swallowed") from None

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_in_an_import_ends_with_status_130_even_if_a_library_swallows_it(tmp_path):
    output = tmp_path / "run"
    found = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "train", "CartPole-v1", "--output", str(output)],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert (found.returncode, found.stderr) == (130, "pgjax train: interrupted\n")
    assert not output.exists()
    assert signal.getsignal(signal.SIGINT) is not None
