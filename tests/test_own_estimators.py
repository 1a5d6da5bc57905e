"""`--with FILE.py:name`: a user's own estimator beside those of the library, in three commands."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import enumeration, exact, tabular
from pgjax.cli import main, own_estimators
from pgjax.core.float64 import flatten
from pgjax.proof import error_curves

MINE = """
import jax
import jax.numpy as jnp
import pgjax

right = pgjax.reward_to_go(1.0)

def others():
    return pgjax.reward_to_go(1.0, baseline=pgjax.baselines.leave_one_out)

def wrong(problem):
    def weights(batch, log_prob):
        return pgjax.weights.returns_to_go(batch, problem.mdp.discount) / 2
    return pgjax.Estimator(weights, pgjax.terms.score)

def halved(problem):
    return lambda params, batch: jax.tree.map(
        lambda x: x / 2, pgjax.gradient(right, problem.policy, params, batch)
    )
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_own(*names):
    return [part for name in names for part in ("--with", f"mine.py:{name}")]


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_converge_holds_own_estimators_to_their_exact_bias(folder, capsys):
    own = with_own("others", "wrong")
    sizes = ["--mdp", "bandit", "--trajectories", "4096", "--hidden", "2"]
    assert main(["converge", *sizes, *own]) == 0
    found = printed(capsys)
    assert "wrong is 50% off, and more data will not help" in found
    assert "others has no exact values here" in found
    assert "standard errors from ∇J at most" in found
    # The classic four are all right on the bandit, where γ = 1.
    assert "4 of 5 estimators come as close to ∇J as theory says" in found
    assert (folder / "convergence.png").read_bytes().startswith(b"\x89PNG")


def test_certify_computes_own_rows_by_the_same_engine(folder, capsys):
    arguments = ["--problem", "bandit", "--only", "reward-to-go", "--json", "numbers.json"]
    own = with_own("right", "others", "halved", "right")
    assert main(["certify", *arguments, *own]) == 0
    found = printed(capsys)
    assert "right is without bias on 1 of 1 problems" in found
    assert "others is without bias on 1 of 1 problems, in batches of 2" in found
    assert "halved is biased on 1 of 1 problems, by 0.5 of ‖∇J‖ on bandit" in found
    assert "1 of 1 statements of bias hold" in found
    rows = {
        row["estimator"]: row for row in json.loads((folder / "numbers.json").read_text("utf-8"))
    }
    assert list(rows) == ["reward-to-go", "right", "others", "halved"]
    assert rows["right"]["variance"] == pytest.approx(rows["reward-to-go"]["variance"], rel=1e-10)
    assert rows["halved"]["bias"] == pytest.approx(0.5, abs=1e-10)
    assert rows["halved"]["variance"] == pytest.approx(0.25, rel=1e-10)


def test_compare_shows_own_estimators_and_names_do_not_collide(folder, capsys, monkeypatch):
    (folder / "mine.py").write_text(MINE + "\nRLOO = right\n", encoding="utf-8")
    arguments = ["--batches", "3", "--batch-size", "4", "--hidden", "2"]
    assert main(["compare", "bandit", *arguments, *with_own("others", "wrong", "RLOO")]) == 0
    found = printed(capsys)
    assert "others" in found
    assert "wrong" in found
    assert "mine.py:RLOO" in found


@pytest.fixture(scope="module")
def problem(table):
    return pgjax.Problem(tabular.random_mdp(1), pgjax.tabular_softmax(4, 2), table, 2)


def own(estimator):
    return own_estimators.Own("own", "x.py:own", estimator)


def test_exact_values_of_an_own_estimator_are_the_oracle_s(problem):
    discount = problem.mdp.discount
    found = own_estimators.contender(own(pgjax.reward_to_go(discount)), problem)
    spread = exact.spread(problem)
    assert found.mean is not None
    assert found.variance is not None
    np.testing.assert_allclose(found.mean, spread.mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.variance, spread.variance, rtol=0, atol=1e-10)
    other = own_estimators.contender(own(pgjax.mismatched_reward_to_go(discount)), problem)
    assert other.mean is not None
    assert np.linalg.norm(other.mean - spread.mean) > 0.01


def test_an_estimator_that_compares_trajectories_is_sampled_in_batches(problem):
    discount = problem.mdp.discount
    halves = pgjax.reward_to_go(discount, baseline=pgjax.baselines.batch_mean)
    row = own_estimators.contender(own(halves), problem)
    assert (row.mean, row.variance, row.batch_size) == (None, None, 8)
    runs = error_curves.empty_runs(problem, (row,))
    stream = error_curves.converge(
        problem, jax.random.key(0), (row,), max_trajectories=2**13, runs=runs
    )
    point = [points for _, points in stream if points][-1]["own"]
    # With the mean of K returns as the baseline, the expectation is (1 − 1/K) ∇J.
    assert point.num_trajectories == 2**13
    assert point.error == pytest.approx(1 / 8, abs=4 * point.standard_error)
    assert np.isnan(point.bias)
    verdict = error_curves.judge(point, num_parameters=1, alpha=0.01)
    assert verdict.is_biased == (not verdict.within)
    # The control: enumerated in batches of 2 the bias is a half.
    moments = enumeration.moments(halves, problem, batch_size=2)
    np.testing.assert_allclose(moments.mean, flatten(exact.gradient(problem)) / 2, atol=1e-10)


def test_coupling_is_seen_and_a_mean_over_trajectories_is_not_taken_for_it(problem):
    params, batch = own_estimators._drawn(problem)

    def couples(estimator):
        return own_estimators.couples(
            lambda params, batch: pgjax.gradient(estimator, problem.policy, params, batch),
            params,
            batch,
        )

    def largest(batch, log_prob):
        to_go = pgjax.weights.returns_to_go(batch, 1.0)
        return to_go - jnp.max(to_go, axis=0)

    assert not couples(pgjax.reward_to_go(0.9))
    assert couples(pgjax.reward_to_go(0.9, baseline=pgjax.baselines.leave_one_out))
    assert couples(pgjax.Estimator(largest, pgjax.terms.score))
