"""What a run says: its pace, and in plain words what stood in the way of learning."""

import math
from typing import Any

import pytest

from pgjax.training.runs.advice import FEWEST, advice
from pgjax.training.runs.progress import Pace


def rows(returns, entropies=None, error=0.0):
    entropies = entropies or [1.0] * len(returns)
    return [
        {"mean_return": x, "standard_error": error, "entropy": h}
        for x, h in zip(returns, entropies, strict=True)
    ]


FALLING = [1.0 / 2**i for i in range(20)]


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (rows([-200.0] * 20), ["no return ever differed: each episode gave -200"]),
        (rows([-200.0] * 20, error=math.nan), ["no return ever differed"]),
        (rows([-200.0] * 20, error=1.0), []),
        (rows([math.nan] * 20), ["no episode ended in 20 updates"]),
        (
            rows([-200.0] * 20, FALLING),
            ["no return ever differed", "entropy fell from 1 to 1.9e-06"],
        ),
        (rows([float(-i) for i in range(20)], FALLING), ["the policy hardly explores any more"]),
        (rows([float(i) for i in range(20)], FALLING), []),
        (rows([math.nan, *range(19)]), []),
        (rows([-200.0] * (FEWEST - 1)), []),
        # A Gaussian's entropy may be negative from the start.
        (rows([float(-i) for i in range(20)], [-1.0 - i for i in range(20)]), []),
    ],
)
def test_a_run_that_learnt_nothing_says_why_and_others_say_nothing(log, words):
    found = advice(log)
    assert len(found) == len(words)
    for sentence, word in zip(found, words, strict=True):
        assert word in sentence


def watched(number=40, returns=-200.0, **columns):
    """Rows of a run whose returns differ and do not rise."""
    log = rows([returns - 0.01 * i for i in range(number)])
    for name, values in columns.items():
        for row, value in zip(log, values, strict=True):
            row[name] = value
    return log


def measured(signals, noise, *, every=4, **columns):
    """Rows of which some have the gradient's signal and noise."""
    log = watched(every * len(signals), **columns)
    for row, signal in zip(log[::every], signals, strict=True):
        row |= {"gradient_signal": signal, "gradient_noise": noise}
    return log


LOSSES: dict[str, Any] = {"value_loss": [1.0] * 48}
AROUND_ZERO = [-3.0, 3.0] * 6
AROUND_ONE = [0.9, 1.1] * 6


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (watched(explained_variance=[-0.5] * 40), "was -0.5 in the median"),
        (watched(explained_variance=[0.9] * 20 + [0.0] * 20), "was 0 in the median"),
        (watched(20, explained_variance=[-0.5] * 20), None),
        (watched(explained_variance=[-0.5] * 20 + [0.1] * 20), None),
        (watched(explained_variance=[math.nan] * 40), None),
        (
            measured(AROUND_ONE, 40.0),
            "about 40 times more trajectories would do; try a larger --num-traj",
        ),
        (measured(AROUND_ONE, 40.0, **LOSSES), "a larger --num-environments or --num-steps"),
        (measured(AROUND_ONE, 8.0), None),
        (measured(AROUND_ONE, 0.0), None),
        # Of what is lost in noise only a bound is known: twice the standard error, 2.7.
        (measured(AROUND_ZERO, 1e4), "more than 3,700 times more trajectories would do"),
        (measured(AROUND_ZERO, 20.0), None),
        (measured([-1.0] * 10, 20.0), "far more trajectories would do"),
        (measured(AROUND_ONE[:3], 40.0), None),
    ],
)
def test_values_that_explain_nothing_and_noise_are_told_with_the_option_that_helps(log, words):
    found = advice(log)
    assert len(found) == (words is not None)
    assert words is None or words in found[0]
    # Where no return differed, that alone is said: there was nothing to explain, and no signal.
    same = [row | {"mean_return": -200.0} for row in log]
    assert [sentence.split(":")[0] for sentence in advice(same)] == ["no return ever differed"]
    # Where the return rises, there is nothing to say.
    assert advice([row | {"mean_return": float(i)} for i, row in enumerate(log)]) == []


def test_the_pace_leaves_out_the_update_that_compiles():
    pace = Pace(updates=102)
    row = {"update": 1, "environment_steps": 1000, "seconds": 20.0}
    assert pace(row) == ""
    later = {"update": 2, "environment_steps": 3500, "seconds": 20.5}
    assert pace(later) == "  5,000 steps/s  0:50 left"
