"""`pgjax train` and `pgjax evaluate`: what they leave behind, and how they answer bad input."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import pgjax
from pgjax import training
from pgjax.cli import main, plots
from pgjax.training.runs import loop, saved_runs
from tests import child_runs, walks

UPDATES = 9  # as in test_cli_resume, which then shares the program
TRAIN = ["train", walks.NAME, "--updates", str(UPDATES), "--num-trajectories", "4"]


@pytest.fixture(scope="module", autouse=True)
def cheap():
    with child_runs.compiled_once():
        yield


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A finished run."""
    directory = tmp_path_factory.mktemp("runs") / "deep" / "sea"
    assert main([*TRAIN, "--output", str(directory)]) == 0
    return directory


@pytest.fixture(autouse=True)
def sketched(directory):
    """The curves of all other runs are sketches."""
    with child_runs.sketches():
        yield


def copy(directory, tmp_path):
    for name in saved_runs.FILES:
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    return tmp_path


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def the_error(capsys):
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


def leaves_equal(first, second):
    return jax.tree.structure(first) == jax.tree.structure(second) and all(
        np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (first, second)), strict=True)
    )


def test_a_run_leaves_its_four_files_and_one_log_line_for_each_update(directory):
    assert set(contents(directory)) == set(saved_runs.FILES)
    rows = [json.loads(line) for line in (directory / "log.jsonl").read_text("utf-8").splitlines()]
    assert [row["update"] for row in rows] == [*range(1, UPDATES + 1)]
    # Walks last eight steps, always.
    assert [row["environment_steps"] for row in rows] == [32 * row["update"] for row in rows]
    assert all(0 < row["entropy"] <= np.log(2) + 1e-6 for row in rows)
    assert all(row["gradient_norm"] > 0 for row in rows)
    np.testing.assert_allclose(
        [row["learning_rate"] for row in rows], 5e-3 * (1 - np.arange(UPDATES) / UPDATES), rtol=1e-6
    )
    # Signal and noise take time: they are measured in one update of ten.
    assert ["gradient_noise" in row for row in rows] == [True] + [False] * (UPDATES - 1)
    ratio = rows[0]["gradient_signal"] / rows[0]["gradient_noise"]
    assert rows[0]["signal_to_noise"] == ratio
    assert (directory / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_config_states_every_setting_of_the_objective(directory):
    config = json.loads((directory / "config.json").read_text("utf-8"))
    assert config["settings"] == {
        "updates": UPDATES,
        "num_trajectories": 4,
        "num_steps": 8,
        "discount": 1.0,
        "learning_rate": 0.005,
        "baseline": "leave-one-out",
    }
    assert config["environment"] == walks.NAME
    assert config["versions"]["jax"] == jax.__version__


def test_saved_parameters_load_back_equal(directory, tmp_path):
    *_, policy, params = saved_runs.load(directory)
    raised = jax.tree.map(lambda x: np.asarray(x) + 1, params)
    saved_runs.write_params(copy(directory, tmp_path), raised)
    saved_runs.mark_finished(tmp_path, UPDATES)  # as the loop does: the config holds their checksum
    *_, again = saved_runs.load(tmp_path)
    assert leaves_equal(again, raised)
    assert not leaves_equal(again, params)
    assert jax.jit(policy.sample)(params, jax.random.key(0), np.zeros(1))[0] in (0, 1)


def test_a_second_run_loses_nothing_unless_told_to_and_then_repeats_the_parameters(
    directory, tmp_path, capsys
):
    before = contents(copy(directory, tmp_path))
    arguments = [*TRAIN, "--output", str(tmp_path)]
    assert main(arguments) == 2
    assert "already holds config.json" in the_error(capsys)
    assert contents(tmp_path) == before
    assert main([*arguments, "--overwrite"]) == 0
    assert contents(tmp_path)["params.msgpack"] == before["params.msgpack"]


def test_evaluation_repeats_itself_and_another_seed_draws_other_episodes(directory, capsys):
    def evaluated(*arguments):
        assert main(["evaluate", str(directory), "--num-trajectories", "32", *arguments]) == 0
        return capsys.readouterr().out

    first, again, other = evaluated(), evaluated(), evaluated("--seed", "1")
    assert "32 fresh episodes of at most 8 steps" in first
    assert all(word in first for word in ("mean", "standard error", "min", "median", "max"))
    assert first == again != other


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), FloatingPointError("update 3: bad")])
def test_a_run_that_stops_early_keeps_its_last_good_parameters(stop, tmp_path, capsys, monkeypatch):
    def stopping(run, state, index):
        if index == 3:
            raise stop
        params, *others = state
        params = jax.tree.map(lambda x: x + index, params)
        reached.append(params)
        return (params, *others), training.Metrics(0.5, float("nan"), 8.0, 1.0, 0.6, 8.0)

    reached = []
    monkeypatch.setattr(loop, "advance", stopping)
    status = main([*TRAIN, "--output", str(tmp_path)])
    assert status == (130 if isinstance(stop, KeyboardInterrupt) else 1)
    assert ("interrupted" if status == 130 else "update 3: bad") in the_error(capsys)
    *_, params = saved_runs.load(tmp_path)
    assert leaves_equal(params, reached[-1])
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    assert [row["standard_error"] for row in rows] == [None, None]
    assert (tmp_path / "learning_curve.png").exists()


def test_a_divergent_rate_stops_with_the_update_named(tmp_path, capsys):
    # The first step overflows the logits, and the second batch shows it in its log-probabilities;
    # in its gradient only if its returns differ, which rests on how the overflow rounds.
    status = main([*TRAIN, "--learning-rate", "1e38", "--output", str(tmp_path)])
    assert status == 1
    error = the_error(capsys)
    assert "update 2: not finite: " in error
    assert "log-probability" in error
    *_, params = saved_runs.load(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["CartPole"], "unknown environment 'CartPole'; did you mean CartPole-v1"),
        (["breakout-minatar"], "did you mean Breakout-MinAtar"),
        (["qqq"], "known: Acrobot-v1, "),
        (["nowhere/CartPole-v1"], "names of other libraries begin with brax/, "),
        (
            ["DeepSea-bsuite", "--epochs", "2"],
            "--epochs is not an option of reinforce, which takes",
        ),
        (["MNISTBandit-bsuite"], "downloads a data set"),
        (["DeepSea-bsuite", "--num-trajectories", "1"], "needs --num-trajectories of at least 2"),
    ],
)
def test_what_cannot_be_trained_is_answered_in_one_line(arguments, expected, tmp_path, capsys):
    assert main(["train", *arguments, "--output", str(tmp_path / "run")]) == 2
    error = the_error(capsys)
    assert error.startswith("pgjax train: error: ")
    assert expected in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--updates", "0"],
        ["--num-steps", "many"],
        ["--discount", "1.5"],
        ["--learning-rate", "-1"],
        ["--learning-rate", "nan"],
        ["--seed", "-1"],
        ["--seed", str(2**32)],
        ["--baseline", "mean"],
    ],
)
def test_bad_numbers_are_named_and_never_reach_the_run(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "CartPole-v1", *arguments])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {arguments[0]}" in last
    assert arguments[1] in last


def test_a_directory_without_a_run_is_named(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "nowhere")]) == 2
    assert "nowhere holds no saved run: config.json and params.msgpack missing" in the_error(capsys)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("params.msgpack", b"\xc1garbage", "params.msgpack is not a parameter file"),
        ("params.msgpack", b"", "params.msgpack is not a parameter file"),
        ("config.json", b"{", "config.json is not the config of a saved run"),
        ("config.json", b"[]", "config.json is not the config of a saved run"),
        ("config.json", b"\xff\xfe", "config.json is not the config of a saved run"),
    ],
)
def test_corrupt_files_are_named(name, content, expected, directory, tmp_path, capsys):
    (copy(directory, tmp_path) / name).write_bytes(content)
    assert main(["evaluate", str(tmp_path)]) == 2
    assert expected in the_error(capsys)


def test_a_flipped_bit_of_a_finished_run_s_parameters_is_told(directory, tmp_path, capsys):
    """Of a number, in the middle of the file: every format would take it for another number."""
    path = copy(directory, tmp_path) / "params.msgpack"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "params.msgpack is damaged: its checksum differs" in the_error(capsys)
    # The control: without the checksum, as in runs of version 0.2, it passes for a run.
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    del config[saved_runs.DIGEST]
    saved_runs.write_config(tmp_path, config)
    assert main(["evaluate", str(tmp_path), "--num-trajectories", "32"]) == 0


def test_parameters_of_another_network_are_refused(directory, tmp_path, capsys):
    copy(directory, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["network"]["hidden"] = [8]
    saved_runs.write_config(tmp_path, config)
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "does not fit the network of config.json" in the_error(capsys)


def test_the_curve_shows_every_update_with_its_standard_error():
    rows = [
        {"update": i, "environment_steps": 10 * i, "mean_return": i**2, "standard_error": 0.5}
        for i in (1, 2, 3)
    ]
    (axes,) = plots.learning_curve(rows, title="title").axes
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[10, 1], [20, 4], [30, 9]])
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (0.5, 9.5)


def test_help_needs_neither_jax_nor_gymnax_nor_matplotlib():
    program = (
        "import sys; from pgjax.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print(sorted({'jax', 'gymnax', 'matplotlib', 'rich', 'optax'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert answer.stdout.splitlines()[-1] == "[]"
    assert "--learning-rate" in answer.stdout


def test_python_m_pgjax_is_the_command() -> None:
    for arguments, status, words in (("--version", 0, f"pgjax {pgjax.__version__}"), ("x", 2, "")):
        call = [sys.executable, "-m", "pgjax", arguments]
        answer = subprocess.run(call, capture_output=True, text=True, encoding="utf-8")
        assert (answer.returncode, answer.stdout.strip()) == (status, words)


def test_until_stops_at_the_first_batch_that_is_good_enough(tmp_path, capsys):
    base = [*TRAIN, "--output", str(tmp_path / "easy")]
    assert main([*base, "--until", "-1000"]) == 0
    rows = (tmp_path / "easy" / saved_runs.LOG).read_text("utf-8").splitlines()
    assert len(rows) == 1
    assert "a mean return of -1000 was reached at update 1" in capsys.readouterr().out
    assert main([*TRAIN, "--output", str(tmp_path / "hard"), "--until", "1000"]) == 0
    rows = (tmp_path / "hard" / saved_runs.LOG).read_text("utf-8").splitlines()
    assert len(rows) == UPDATES
    assert f"no batch reached a mean return of 1000 in {UPDATES} updates" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["nan", "much"])
def test_until_needs_a_finite_number(value, capsys):
    with pytest.raises(SystemExit) as error:
        main([*TRAIN, "--until", value])
    assert error.value.code == 2
    assert "number" in the_error(capsys)


def test_the_command_line_keeps_compilations_and_leaves_the_user_s_cache_alone(tmp_path):
    code = (
        "import os, sys; from pgjax.cli import _use_compilation_cache as use; use()\n"
        "print(os.environ['JAX_COMPILATION_CACHE_DIR'])"
    )
    own = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    own.pop("JAX_COMPILATION_CACHE_DIR", None)
    theirs = own | {"JAX_COMPILATION_CACHE_DIR": "elsewhere"}
    for environment, expected in ((own, str(tmp_path / "pgjax" / "jax")), (theirs, "elsewhere")):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert run.stdout.strip() == expected


def test_a_loaded_run_is_what_the_command_line_evaluates(directory, capsys):
    run = pgjax.load(directory)
    assert run.settings["num_trajectories"] == 4
    assert run.environment.name == walks.NAME
    returns = np.asarray(run.evaluate(episodes=32, seed=3))
    arguments = ["evaluate", str(directory), "--episodes", "32", "--seed", "3", "--csv"]
    assert main(arguments) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "episode,return"
    np.testing.assert_array_equal([float(line.split(",")[1]) for line in lines], returns)
    # A walk has no chance in it: a policy without chance gets one return only.
    assert len(set(np.asarray(run.evaluate(episodes=32, greedy=True)).tolist())) == 1
    assert len(set(returns.tolist())) > 1
    assert main([*arguments[:4], "--greedy"]) == 0
    assert "greedy policy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--lr", "3"], "--learning-rate"),
        (["--learning_rate", "3"], "--learning-rate"),
        (["--num-envs", "3"], "--num-environments"),
        (["--minibatch", "3", "--discuont", "1"], "--discount"),
        (["--env", "CartPole-v1"], "the environment's name without an option"),
    ],
)
def test_a_mistyped_option_is_answered_with_the_one_meant(given, meant, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "CartPole-v1", *given])
    assert stopped.value.code == 2
    error = the_error(capsys)
    assert "unrecognized arguments" in error
    assert f"{meant}?" in error
    assert error.endswith("(see pgjax train --help)")


def test_the_config_of_a_run_makes_the_same_run_and_given_options_hold(directory, tmp_path, capsys):
    config = str(directory / "config.json")
    assert main(["train", "--config", config, "--output", str(tmp_path / "again")]) == 0
    first, again = (
        (path / "params.msgpack").read_bytes() for path in (directory, tmp_path / "again")
    )
    assert first == again
    other = ["--seed", "1", "--output", str(tmp_path / "other")]
    assert main(["train", "--config", config, *other]) == 0
    assert json.loads((tmp_path / "other" / "config.json").read_text("utf-8"))["seed"] == 1
    assert (tmp_path / "other" / "params.msgpack").read_bytes() != first
    capsys.readouterr()
    (tmp_path / "no.json").write_text('{"options": 3}', encoding="utf-8")
    assert main(["train", "--config", str(tmp_path / "no.json")]) == 2
    assert "is not the config.json of a run" in the_error(capsys)
    assert main(["train", "--config", config, "--algorithm", "ppo"]) == 2
    assert "--algorithm ppo differs from reinforce" in the_error(capsys)
