"""The convergence experiment: its exact side agrees with enumeration, and its verdicts can fail."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from pgjax import (
    Problem,
    diagnostics,
    enumeration,
    exact,
    gradient,
    reinforce,
    tabular,
    tabular_softmax,
)
from pgjax.cli import converge as command
from pgjax.cli import main, plots
from pgjax.core.float64 import flatten
from pgjax.exact.tabular import TabularMDP
from pgjax.policies import softmax_policy
from pgjax.proof import error_bands, error_curves
from pgjax.proof.error_curves import Point

HORIZON = 3
BLIND = softmax_policy(lambda key, observation: None, lambda logits, observation: logits)
"""Its parameters are the logits, whatever it observes."""


@pytest.fixture(scope="module")
def experiment():
    logits = np.random.default_rng(3).normal(size=(4, 2))
    problem = Problem(tabular.random_mdp(1), tabular_softmax(4, 2), logits, HORIZON)
    return problem, error_curves.contenders(problem)


class Run(NamedTuple):
    history: list[dict[str, Point]]
    runs: error_bands.Runs


@pytest.fixture(scope="module")
def run(experiment) -> Run:
    """One stream of 2^13 trajectories."""
    problem, rows = experiment
    runs = error_curves.empty_runs(problem, rows)
    stream = error_curves.converge(
        problem, jax.random.key(5), rows, max_trajectories=2**13, runs=runs
    )
    return Run([points for _, points in stream if points], runs)


def test_stated_expectations_equal_enumeration(experiment):
    problem, rows = experiment

    def estimates(params, batch):
        return jnp.stack([gradient(r.estimator, problem.policy, params, batch) for r in rows])

    found = enumeration.moments(estimates, problem)
    mean, variance = (np.concatenate([getattr(r, of) for r in rows]) for of in ("mean", "variance"))
    np.testing.assert_allclose(mean, found.mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(variance, np.diag(found.covariance), rtol=0, atol=1e-12)


def test_only_the_estimator_without_discounted_states_is_biased(experiment):
    problem, rows = experiment
    truth = flatten(exact.gradient(problem))
    biases = {row.name: np.linalg.norm(row.mean - truth) for row in rows}
    assert biases.pop("reward-to-go, no γ^t") > 0.1 * np.linalg.norm(truth)
    assert max(biases.values()) < 1e-12


def test_a_point_is_made_of_lengths_relative_to_the_gradient_s():
    """Each field by its definition, for vectors whose lengths and angles are whole numbers."""
    truth, mean, expected = np.array([3.0, 4.0]), np.array([0.0, 8.0]), np.array([3.0, 9.0])
    row = error_curves.Contender("x", reinforce(1.0), expected, np.array([16.0, 9.0]))
    around = np.array([[2.0, 1.0], [-2.0, -1.0]])
    samples = np.tile(mean + around, (2, 1))  # N = 4, of variance 16/3 and 4/3
    moments = jax.jit(diagnostics.running_moments)(samples)
    point = error_curves._point(row, moments, truth)
    assert point.num_trajectories == 4
    assert point.error == pytest.approx(5 / 5)
    assert point.cosine == pytest.approx(32 / 40)
    assert point.standard_error == pytest.approx(np.sqrt(20 / 3 / 4) / 5)
    assert point.bias == pytest.approx(5 / 5)
    assert point.deviation == pytest.approx(5 / 2 / 5)
    assert point.rmse == pytest.approx(np.hypot(1, 0.5))
    assert point.largest_z == pytest.approx(max(3 / 2, 4 / 1.5))
    assert point.expected_z == pytest.approx(max(0, 5 / 1.5))


def test_a_verdict_holds_the_largest_deviation_to_bonferroni_s_quantile():
    """Two sides of P parameters; a bias is seen where it stands three errors beyond that."""
    threshold = norm.isf(0.01 / (2 * 7))
    fields = dict.fromkeys(Point._fields, 0.0) | {"num_trajectories": 1024, "expected_z": 2.0}
    for bias, below in ((0.0, True), (0.3, True), (0.3, False)):
        z = threshold * (1 - 1e-9 if below else 1 + 1e-9)
        point = Point(**{**fields, "bias": bias, "largest_z": z})
        verdict = error_curves.judge(point, num_parameters=7, alpha=0.01)
        assert verdict.threshold == pytest.approx(threshold, rel=1e-12)
        assert (verdict.is_biased, verdict.within) == (bias > 0, below)
        needed = np.ceil(1024 * ((threshold + 3) / 2) ** 2) if bias else 0
        assert verdict.needed == needed


def test_every_power_of_two_is_reported_once_and_means_merge_exactly(run):
    history = run.history
    counts = [points["reward-to-go"].num_trajectories for points in history]
    assert counts == [2**power for power in range(8, 14)]
    assert history[-1]["total return"].standard_error == pytest.approx(
        history[-1]["total return"].deviation, rel=0.1
    )


def test_runs_are_all_disjoint_means_however_the_stream_is_cut():
    truth, size = np.array([1.0, -2.0]), error_bands.BLOCK
    blocks = np.random.default_rng(0).normal(size=(2, 4 * error_bands.FEWEST + 1, 2))
    found = []
    for cuts in ([], [1, 2, 40], [error_bands.FEWEST]):
        runs = error_bands.Runs(truth, scale=2.0, num_estimators=2)
        for part in np.split(blocks, cuts, axis=1):
            runs.add(part)
        found.append([runs.bands(0), runs.bands(1)])
    assert found[0] == found[1] == found[2]
    for row, bands in enumerate(found[0]):
        assert [band.num_trajectories for band in bands] == [size, 2 * size, 4 * size]
        for power, band in enumerate(bands):
            whole = blocks[row, : band.num_runs << power].reshape(-1, 1 << power, 2).mean(axis=1)
            errors = np.linalg.norm(whole - truth, axis=1) / 2
            assert len(errors) == band.num_runs
            assert band.root_mean_square == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-12)
            assert (band.low, band.high) == pytest.approx(np.quantile(errors, (0.1, 0.9)))
    with pytest.raises(ValueError, match=r"means must have shape \[R, B, P\]"):
        error_bands.Runs(truth, scale=1.0, num_estimators=1).add(blocks)


def test_the_errors_of_many_runs_follow_theory_and_no_other_line(experiment, run):
    _, rows = experiment
    for index, row in enumerate(rows):
        point, band = run.history[-1][row.name], run.runs.bands(index)[0]
        variance = point.deviation**2 * point.num_trajectories / band.num_trajectories
        # A mean of 1024 squares of one normal number has a relative deviation of √(2/1024) = 4%.
        assert band.num_runs == 1024
        assert band.root_mean_square**2 == pytest.approx(point.bias**2 + variance, rel=0.25)
        assert band.root_mean_square**2 != pytest.approx(point.bias**2 + variance / 2, rel=0.25)
        assert band.low < band.root_mean_square < band.high


def test_the_picture_joins_equal_errors_and_marks_a_bias_by_its_shape():
    band = error_bands.Band(8, 32, 0.1, 0.2, 0.3)
    point = Point(8, 0.2, 1.0, 0.2, 0.0, 0.2, 0.2, 1.0, 0.0)
    points = {"one": point, "two": point, "biased": point._replace(bias=0.5)}
    bands = {name: [band, band._replace(num_trajectories=16)] for name in points}
    (axes,) = plots.convergence(bands, points, problem="a problem").axes
    assert [line.get_marker() for line in axes.lines[::2]] == ["o", "s"]
    assert {text.get_text() for text in axes.texts} == {
        "one\n= two",
        "biased\nbiased: 50% off, whatever N",
    }


def test_verdicts_hold_at_a_stated_rate(experiment, run):
    # False alarms: 4 estimators × 1e-6. Power: the biased one stands > threshold + 3 errors away.
    _, rows = experiment
    last = run.history[-1]
    verdicts = {
        row.name: error_curves.judge(last[row.name], num_parameters=row.mean.size, alpha=1e-6)
        for row in rows
    }
    assert last["reward-to-go, no γ^t"].expected_z > verdicts["total return"].threshold + 3
    assert all(verdict.passed for verdict in verdicts.values())


def test_a_wrong_claim_of_unbiasedness_is_refuted(experiment, run):
    _, rows = experiment
    liar = run.history[-1]["reward-to-go, no γ^t"]._replace(bias=0.0, expected_z=0.0)
    verdict = error_curves.judge(liar, num_parameters=rows[0].mean.size, alpha=1e-6)
    assert not verdict.is_biased
    assert not verdict.passed


def test_an_unseen_bias_is_no_pass_and_names_the_number_needed():
    point = Point(256, 0.1, 1.0, 0.1, 0.05, 0.1, 0.11, largest_z=2.0, expected_z=1.0)
    verdict = error_curves.judge(point, num_parameters=1, alpha=1e-6)
    assert not verdict.passed
    assert verdict.needed == int(np.ceil(256 * (verdict.threshold + 3) ** 2))


def test_the_baseline_table_is_v_averaged_over_time_and_look_alikes():
    mdp = tabular.short_corridor()
    problem = Problem(mdp, BLIND, np.array([0.3, -0.4]), horizon=4)
    value = jax.jit(error_curves.observation_values(problem))
    visits, values = exact.visitation(problem), exact.state_values(problem)
    expected = (visits * values)[:, :3].sum() / visits[:, :3].sum()
    assert float(value(mdp.observation[0])) == pytest.approx(expected, rel=1e-6)


def test_a_number_that_is_no_power_of_two_is_refused(experiment):
    problem, rows = experiment
    with pytest.raises(ValueError, match="power of two of at least 256, got 1000"):
        next(error_curves.converge(problem, jax.random.key(5), rows, max_trajectories=1000))


def test_command_draws_its_picture_and_passes_for_an_mdp_from_a_file(tmp_path, capsys):
    path, picture = tmp_path / "mine.npz", tmp_path / "picture.png"
    tabular.save(tabular.random_mdp(1), path)
    arguments = ["--mdp", str(path), "--horizon", "3", "--trajectories", "4096", "--hidden", "2"]
    assert main(["converge", *arguments, "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 states, 2 actions" in printed
    assert "✗ biased" in printed
    assert "and more data will not help" in printed
    assert "PASS" in printed


def test_command_holds_real_frozen_lake_to_its_exact_gradient(tmp_path, capsys):
    # Twenty steps instead of a hundred, and γ = 0.7, so that the bias of no γ^t is soon seen.
    arguments = ["--env", "FrozenLake-misc", "--horizon", "20", "--discount", "0.7"]
    arguments += ["--trajectories", "16384", "--hidden", "2", "--output", str(tmp_path / "p.png")]
    assert main(["converge", *arguments]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "FrozenLake-misc: 16 states, 4 actions, γ = 0.7, at most 20 steps" in printed
    assert printed.count("✓ right") == 3
    assert printed.count("✗ biased") == 1


def test_a_truth_of_zero_is_measured_in_its_own_unit():
    # Each arm of the bandit wins and loses alike, so ∇J = 0, and no estimator is biased.
    transition, reward = np.zeros((2, 3, 2, 3))
    transition[0, :, 1:], transition[1, :, 1], transition[2, :, 2] = 0.5, 1, 1
    reward[0, :, 1:] = 1, -1
    mdp = TabularMDP(transition, reward, np.eye(3)[0], np.array([False, True, True]), 0.9)
    zero = np.zeros(2)
    row = error_curves.Contender("total return", reinforce(0.9), zero, zero + 1)
    problem = Problem(mdp, BLIND, np.array([-1.0, 1.0]), horizon=1)
    stream = error_curves.converge(problem, jax.random.key(1), (row,), max_trajectories=2**10)
    point = [points for _, points in stream if points][-1]["total return"]
    verdict = error_curves.judge(point, num_parameters=zero.size, alpha=1e-6)
    assert verdict.passed
    assert not verdict.is_biased
    assert point.error < 1


def test_too_little_data_to_show_a_bias_is_no_failure_and_a_wrong_estimate_is(
    tmp_path, capsys, monkeypatch
):
    conclude, concluded = command._conclude, []

    def recorded(*given):
        concluded.append(given)
        return conclude(*given)

    monkeypatch.setattr(command, "_conclude", recorded)
    arguments = ["--trajectories", "256", "--mdp", "random", "--horizon", "3", "--hidden", "2"]
    arguments += ["--discount", "0.999"]
    assert main(["converge", *arguments, "--output", str(tmp_path / "p.png")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "too few trajectories to see its bias" in printed
    assert "would do" in printed
    assert "PASS, but there was too little data to show a bias" in printed
    ((console, points, verdicts, seconds),) = concluded
    off = {name: v if v.is_biased else v._replace(within=False) for name, v in verdicts.items()}
    assert conclude(console, points, off, seconds) == 1
    printed = capsys.readouterr().out
    assert "too few trajectories to see its bias" in " ".join(printed.split())
    assert "FAIL" in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mdp", "corridr"], "did you mean corridor?"),
        (["--mdp", "nowhere.npz"], "nowhere.npz"),
        (["--env", "FrozenLake"], "did you mean FrozenLake-misc?"),
        (["--env", "CartPole-v1"], "known are FrozenLake-misc, FourRooms-misc"),
        (["--trajectories", "1000"], "power of two"),
        (["--output", "missing_folder/p.png"], "--output must lie in a folder that exists"),
        (["--output", "picture.txt"], "--output must end in"),
    ],
)
def test_bad_arguments_are_answered_in_one_line(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["converge", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_an_mdp_and_an_environment_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        main(["converge", "--mdp", "chain", "--env", "FrozenLake-misc"])
    assert "not allowed with argument --mdp" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--discount", "2"], ["--horizon", "0"], ["--seed", "x"]])
def test_bad_numbers_are_answered_in_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["converge", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert arguments[0] in error
    assert arguments[1] in error
    assert error.count("\n") == 1
