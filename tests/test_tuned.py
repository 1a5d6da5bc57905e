"""The table of tuned settings: its rows are valid, and `train` takes them unless told otherwise."""

import argparse
import contextlib
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pgjax
from pgjax import environments, training
from pgjax.cli import algorithms, main
from pgjax.environments.import_gymnax import registered_envs
from pgjax.policies.networks import OBSERVATION_MEAN
from pgjax.settings import SETTINGS, options, tuned
from pgjax.settings.tuned_table import tuned_rows, tuned_words
from pgjax.training.runs import seeds, starting
from tests import child_runs

ROWS = tuned_rows()
QUIET = training.RunOptions(quiet=True)


def flaws(row):
    """What is wrong with a row of the table."""
    defaults = algorithms.DEFAULTS[row.algorithm]
    found = [f"{name} is a default" for name, x in row.options.items() if defaults.get(name) == x]
    argv = [word for name, x in row.options.items() for word in (flag(name), str(x))]
    parser = argparse.ArgumentParser(exit_on_error=False)
    algorithms.configure(parser)
    try:
        read = algorithms.settings(parser.parse_args(["--algorithm", row.algorithm, *argv]))
    except (ValueError, argparse.ArgumentError) as error:
        return [*found, str(error)]
    if read != row.settings:
        found.append("the command line reads other settings")
    settings: Any = row.settings
    if row.steps != settings.num_updates * settings.num_environments * settings.num_steps:
        found.append("steps differ from updates times environments times steps")
    if len(row.returns) != 5 or min(row.returns) < row.goal:
        found.append("fewer than five returns reach the goal")
    return found


def flag(name):
    return f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("name", ROWS)
def test_each_row_has_settings_of_its_algorithm_and_five_returns_at_its_goal(name):
    assert flaws(ROWS[name]) == []
    assert type(tuned(name)) is SETTINGS[ROWS[name].algorithm]
    assert name in registered_envs or name.partition("/")[0] in environments.LIBRARIES


def test_a_row_with_a_flaw_is_seen():
    good = ROWS["CartPole-v1"]
    for change, words in (
        ({"options": good.options | {"clip": 2.0}}, "between 0 and 1"),
        ({"options": good.options | {"baseline": "none"}}, "--baseline is not an option of ppo"),
        ({"options": good.options | {"discount": 0.99}}, "discount is a default"),
        ({"steps": good.steps + 1}, "steps differ"),
        ({"returns": (*good.returns[:4], good.goal - 1)}, "fewer than five"),
    ):
        assert any(words in flaw for flaw in flaws(dataclasses.replace(good, **change)))


@pytest.fixture
def asked(monkeypatch):
    """What the command line asks `start` and `start_seeds` to do, instead of training."""
    calls = []
    monkeypatch.setattr(starting, "start", lambda **given: calls.append(given))
    monkeypatch.setattr(seeds, "start_seeds", lambda **given: calls.append(given))
    return calls


def test_the_row_is_taken_where_no_other_setting_is_given(asked, capsys):
    ppo, row = training.PPOSettings, tuned("CartPole-v1")
    assert row != ppo()
    cases = [
        ([], row, "tuned for CartPole-v1: --algorithm ppo --updates 30; five seeds of five "),
        (["--seeds", "0", "1"], row, "a return of 475 (--untuned: without them)"),
        (["--algorithm", "ppo"], row, "tuned for CartPole-v1"),
        (["--clip", "0.1"], dataclasses.replace(row, clip=0.1), "--updates 30 (--untuned"),
        (["--updates", "7"], dataclasses.replace(row, num_updates=7), ""),
        (["--algorithm", "reinforce"], training.ReinforceSettings(), ""),
        (["--algorithm", "a2c"], training.A2CSettings(), ""),
        (["--untuned"], training.ReinforceSettings(), ""),
        (["--untuned", "--algorithm", "ppo"], ppo(), ""),
    ]
    for arguments, expected, said in cases:
        assert main(["train", "CartPole-v1", *arguments]) == 0
        assert asked[-1]["settings"] == expected, arguments
        out = capsys.readouterr().out
        assert (said in out) if said else (out == ""), arguments
    assert main(["train", "DeepSea-bsuite"]) == 0
    assert asked[-1]["settings"] == training.ReinforceSettings()
    assert main(["train", "CartPole-v1", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["train", "CartPole-v1", "--num-trajectories", "8"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "--num-trajectories is not an option of ppo" in error
    assert "ppo is tuned for CartPole-v1" in error


def test_the_config_of_a_run_holds_against_the_row(asked, tmp_path, capsys):
    kept = {name: field.default for name, field in options(training.PPOSettings)}
    config = tmp_path / "config.json"
    began = {"environment": "Pendulum-v1", "algorithm": "ppo", "seed": 3}
    config.write_text(json.dumps({"options": began | kept}), "utf-8")
    assert main(["train", "--config", str(config)]) == 0
    assert asked[-1]["settings"] == training.PPOSettings() != tuned("Pendulum-v1")
    assert capsys.readouterr().out == ""


def test_the_words_claim_the_return_only_for_the_row_itself():
    row = tuned("Pendulum-v1")
    assert "five seeds of five" in str(tuned_words("Pendulum-v1", row))
    other = dataclasses.replace(row, clip=0.3)
    assert "--discount 0.9" in str(tuned_words("Pendulum-v1", other))
    assert "five seeds of five" not in str(tuned_words("Pendulum-v1", other))
    assert tuned_words("Pendulum-v1", training.A2CSettings()) is None
    assert tuned_words("DeepSea-bsuite", tuned("DeepSea-bsuite")) is None


STANDARDIZED = "MountainCarContinuous-v0"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What Python says of a run of a small row, that run, and one whose settings are given."""
    small = {"updates": 2, "num_environments": 2, "num_steps": 4, "epochs": 1, "minibatches": 1}
    row, said, directory = ROWS[STANDARDIZED], io.StringIO(), tmp_path_factory.mktemp("runs")
    shrunk = dataclasses.replace(row, options=row.options | small)
    with (
        pytest.MonkeyPatch.context() as patch,
        child_runs.compiled_once(),
        child_runs.sketches(),
        contextlib.redirect_stdout(said),
    ):
        patch.setitem(tuned_rows(), STANDARDIZED, shrunk)
        training.start(directory / "tuned", STANDARDIZED)
        given = training.start(directory / "given", STANDARDIZED, shrunk.settings, options=QUIET)
    return said.getvalue(), pgjax.load(directory / "tuned"), given


def test_python_takes_the_row_too_and_its_updates_train(runs, tmp_path, capsys):
    said, run, given = runs
    assert said.count(f"tuned for {STANDARDIZED}") == 1
    assert run.config["algorithm"] == "ppo"
    assert run.settings == given.settings
    assert run.settings["num_environments"] == 2
    mdp = pgjax.tabular.random_mdp()
    with pytest.raises(TypeError, match="reinforce takes the parts policy"):
        training.start(tmp_path / "none", mdp, agent=3)
    assert capsys.readouterr().out.count("tuned for") == 0


def test_a_run_keeps_the_moments_and_its_updates_begin_with_the_policy_that_acted(runs):
    """The row's observations are standardized."""
    run = runs[1]
    assert run.config["network"]["standardized"]
    assert run.config["critic"]["standardized"]
    mean = np.asarray(run.params["params"][OBSERVATION_MEAN])
    assert np.all(mean != 0)
    assert np.all(np.abs(mean) <= [1.2, 0.07])  # the bounds of position and speed
    # One step on each window: the KL divergence before it is of the acting policy from itself.
    # With the moments of the second window in it already, it would not be zero.
    assert [abs(row["approximate_kl"]) < 1e-6 for row in run.log] == [True, True]
    action, _ = jax.eval_shape(run.policy.sample, run.params, jax.random.key(0), np.ones(2))
    assert action.shape == (1,)


def test_the_page_has_each_row_as_the_file_has_it():
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text("utf-8")
    for name, row in ROWS.items():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
        _, _, options, steps, returns, _ = map(str.strip, line.split("|"))
        chosen = {"algorithm": row.algorithm} | row.options
        assert options == f"`{' '.join(f'{flag(key)} {x}' for key, x in chosen.items())}`"
        assert steps == f"{row.steps:,}"
        assert returns == ", ".join(f"{x:g}".replace("-", "−") for x in row.returns)
