"""What a run says: its pace, and in plain words what stood in the way of learning."""

import math

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
        (rows([float(-i) for i in range(20)], FALLING), ["the policy hardly tries anything else"]),
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


def test_the_pace_leaves_out_the_update_that_compiles():
    pace = Pace(updates=102)
    row = {"update": 1, "environment_steps": 1000, "seconds": 20.0}
    assert pace(row) == ""
    later = {"update": 2, "environment_steps": 3500, "seconds": 20.5}
    assert pace(later) == "  5,000 steps/s  0:50 left"
