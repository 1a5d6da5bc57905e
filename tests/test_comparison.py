"""Comparisons: intervals hold the exact values, and the command shows them."""

import argparse
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

import pgjax
from pgjax import Problem, exact, tabular
from pgjax.cli import compare as command
from pgjax.cli import main
from pgjax.proof import error_curves
from pgjax.proof.comparison import Batches, Comparison, compare

LEVEL = 1 - 1e-5
"""Of each interval, so that eight of them all hold but once in 12,000 seeds."""
HORIZON = 3


@pytest.fixture(scope="module")
def known() -> Problem:
    logits = np.random.default_rng(3).normal(size=(4, 2))
    return Problem(tabular.random_mdp(1), pgjax.tabular_softmax(4, 2), logits, HORIZON)


@pytest.fixture(scope="module")
def rows(known) -> tuple[error_curves.Contender, ...]:
    return error_curves.contenders(known)


def compared(known, rows, **settings: Any) -> Comparison:
    batches = Batches(
        known.policy,
        known.params,
        known.mdp,
        64,
        HORIZON,
        behaviour=settings.pop("behaviour", None),
    )
    return compare(
        {row.name: row.estimator for row in rows}, batches, jax.random.key(0),
        **{"reference": exact.gradient(known), "num_batches": 64} | settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(known, rows) -> Comparison:
    exactly = {row.name: pgjax.Spread(row.mean, row.variance) for row in rows}
    return compared(known, rows, exactly=exactly, level=LEVEL)


def test_intervals_hold_the_exact_values_and_not_those_of_another_estimator(found):
    by_name = {row.name: row for row in found.rows}
    assert list(by_name) == ["total return", "reward-to-go", "reward-to-go, V(s)",
                             "reward-to-go, no γ^t"]  # fmt: skip
    for row in found.rows:
        assert row.noise_scale.low < row.exact_noise_scale < row.noise_scale.high
        assert row.cosine.low <= row.exact_cosine + 1e-6
        assert row.exact_cosine <= row.cosine.high + 1e-6
        np.testing.assert_allclose(
            [row.signal_to_noise.low, row.signal_to_noise.high],
            [1 / row.noise_scale.high, 1 / row.noise_scale.low],
        )
    whole, value = by_name["total return"], by_name["reward-to-go, V(s)"]
    assert whole.exact_noise_scale > value.noise_scale.high


def test_on_policy_every_trajectory_counts_in_full(found):
    assert found.effective_share.estimate == pytest.approx(1, abs=1e-5)


def test_off_policy_the_effective_share_is_the_inverse_second_moment(known, rows):
    behaviour = jax.tree.map(lambda x: 0.3 * x, known.params)
    off = compared(known, rows[:1], behaviour=behaviour, level=LEVEL)
    batch, probability = pgjax.enumeration.trajectories(replace(known, behaviour=behaviour))
    log_prob = pgjax.log_probs(known.policy, known.params, batch)
    weight = np.exp(np.sum(np.where(batch.mask, log_prob - batch.log_prob, 0), axis=1))
    limit = 1 / np.sum(probability * weight**2)  # of ESS / N as N grows; at 64 within 1/64 or so
    assert limit < 0.97
    assert off.effective_share.estimate == pytest.approx(limit, abs=0.02)


def test_a_reference_may_be_an_estimator_with_batches_of_its_own(known, rows):
    sampled = compared(known, rows[1:2], reference=rows[2].estimator, level=LEVEL)
    (row,) = sampled.rows
    assert row.cosine.high == 1
    assert row.exact_cosine is None


def test_too_few_batches_are_refused(known, rows):
    with pytest.raises(ValueError, match="num_batches must be at least 3"):
        compared(known, rows, num_batches=2)


def test_the_command_prints_exact_values_and_draws(tmp_path, capsys):
    picture = tmp_path / "comparison.png"
    sizes = ["--batches", "4", "--batch-size", "8", "--num-steps", "3"]
    arguments = [*sizes, "--hidden", "2", "--output", str(picture)]
    assert main(["compare", "random", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "exact by dynamic programming" in printed
    assert "GAE, λ = 0.95" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["compare", "random", "--behaviour-scale", "0.5", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "per-decision IS" in printed
    assert "effective sample size" in printed


def test_the_command_compares_on_an_environment_without_a_table(tmp_path, capsys):
    arguments = ["--batches", "3", "--batch-size", "2", "--num-steps", "3", "--output"]
    assert main(["compare", "Pendulum-v1", *arguments, str(tmp_path / "comparison.png")]) == 0
    assert "reference: reward-to-go, LOO on as many batches of its own" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["CartPole"], "unknown environment 'CartPole'; did you mean CartPole-v1"),
        (["random", "--output", "picture.txt"], "--output must end in .png"),
        (
            ["random", "--output", "nowhere/picture.png"],
            "--output must lie in a folder that exists",
        ),
        (["random", "--batches", "2"], "--batches must be at least 3"),
        (["random", "--batch-size", "1"], "--batch-size must be at least 2"),
        (["random", "--policy", "runs"], "--policy cannot be given for random"),
    ],
)
def test_bad_arguments_are_answered_in_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("config", "asked", "limit", "expected"),
    [
        ({}, {}, 1000, (0.95, 500)),
        ({}, {"discount": 0.5, "num_steps": 7}, None, (0.5, 7)),
        ({"algorithm": "reinforce", "discount": 1.0, "num_steps": 60}, {}, 200, (1.0, 60)),
        ({"algorithm": "ppo", "discount": 0.99, "num_steps": 128}, {}, 1000, (0.99, 1000)),
        ({"algorithm": "ppo", "discount": 0.99, "num_steps": 128}, {"num_steps": 9}, 5, (0.99, 5)),
    ],
)
def test_a_run_is_compared_on_the_objective_that_it_was_trained_on(config, asked, limit, expected):
    saved = {"algorithm": config.pop("algorithm"), "settings": config} if config else {}
    arguments = argparse.Namespace(**{"discount": None, "num_steps": None} | asked)
    assert command._objective(arguments, saved, limit) == expected
