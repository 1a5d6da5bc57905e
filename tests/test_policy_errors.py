"""Policies name what is wrong with an output, an action, a bound or a factor."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen

import pgjax
from pgjax import policies
from pgjax.types import MaskedObservation

SEEN = np.zeros(1, np.float32)


def of_output(distribution: Any, output: Any) -> Any:
    """A policy whose network gives one output, whatever it sees."""
    return policies.distribution_policy(lambda key, s: (), lambda params, s: output, distribution)


def scored(distribution: Any, output: Any, action: Any, seen: Any = SEEN) -> Any:
    return of_output(distribution, output).log_prob((), seen, action)


TWO, FIVE = np.zeros(2, np.float32), np.zeros(5, np.float32)
NORMAL = TWO, TWO
BOUNDED = policies.squashed_gaussian(-1.0, 1.0)
CHOICES = policies.multi_discrete((2, 3))
BOTH = policies.product({"gear": policies.SOFTMAX, "steering": policies.GAUSSIAN})

BAD: dict[str, tuple[Callable[[], Any], type, str]] = {
    "no pair": (lambda: scored(policies.GAUSSIAN, TWO, TWO), TypeError, r"pair \(mean, log_std\)"),
    "mean of a batch": (
        lambda: scored(policies.GAUSSIAN, (np.zeros((2, 2), np.float32), TWO), TWO),
        ValueError,
        r"mean must have shape \[D\] .*got \(2, 2\)",
    ),
    "one σ": (
        lambda: scored(policies.GAUSSIAN, (TWO, np.float32(0)), TWO),
        ValueError,
        r"log_std must have the shape of the mean.*broadcast_to",
    ),
    "σ of zero": (
        lambda: scored(policies.GAUSSIAN, (TWO, TWO - 1e4), TWO),
        ValueError,
        "σ must be positive and finite",
    ),
    "σ overflows": (
        lambda: scored(BOUNDED, (TWO, TWO + 1e4), TWO),
        ValueError,
        "σ must be positive and finite",
    ),
    "a discrete action for a Gaussian": (
        lambda: scored(policies.GAUSSIAN, NORMAL, np.int32(1)),
        ValueError,
        r"must have shape \[D\] = \(2,\), got \(\); a discrete action needs a softmax policy",
    ),
    "integers for a Gaussian": (
        lambda: scored(policies.GAUSSIAN, NORMAL, np.zeros(2, np.int32)),
        TypeError,
        "must be floating, got int32",
    ),
    "a mask for a Gaussian": (
        lambda: scored(policies.GAUSSIAN, NORMAL, TWO, MaskedObservation(SEEN, TWO > 0)),
        TypeError,
        "a Gaussian policy takes no action mask",
    ),
    "beyond the bounds": (
        lambda: scored(BOUNDED, NORMAL, np.array([0.0, 1.5], np.float32)),
        ValueError,
        r"action must lie between -1.0 and 1.0, got \[0",
    ),
    "endless bounds": (
        lambda: policies.squashed_gaussian(-np.inf, 1.0),
        ValueError,
        "must be finite, got -inf and 1.0; .* use gaussian_policy",
    ),
    "bounds in the wrong order": (
        lambda: policies.squashed_gaussian([0.0, 1.0], [1.0, 1.0]),
        ValueError,
        "low must lie below high",
    ),
    "bounds of another length": (
        lambda: scored(policies.squashed_gaussian([0.0] * 3, 1.0), NORMAL, TWO),
        ValueError,
        r"low must be a number or \[D\] = \(2,\), got \(3,\)",
    ),
    "bounds with nothing between": (
        lambda: scored(policies.squashed_gaussian(1e8, 1e8 + 1), NORMAL, TWO + 1e8),
        ValueError,
        "must have a float32 between them",
    ),
    "a mask of another length": (
        lambda: scored(policies.SOFTMAX, TWO, 1, MaskedObservation(SEEN, np.ones(3, bool))),
        ValueError,
        r"action_mask must have the shape of the logits, \[A\] = \(2,\), got \(3,\)",
    ),
    "a mask of numbers": (
        lambda: scored(policies.SOFTMAX, TWO, 1, MaskedObservation(SEEN, np.ones(2, np.float32))),
        TypeError,
        "action_mask must be boolean.*got float32; compare",
    ),
    "no choice": (lambda: policies.multi_discrete(()), ValueError, "at least one choice"),
    "a choice of none": (lambda: policies.multi_discrete((2, 0)), ValueError, "at least 1, got 0"),
    "too few logits": (
        lambda: scored(CHOICES, np.zeros(4, np.float32), np.zeros(2, np.int32)),
        ValueError,
        r"logits must have shape \[ΣA\] = \(5,\) for the sizes \(2, 3\), got \(4,\)",
    ),
    "logits of other sizes": (
        lambda: scored(CHOICES, [np.zeros(3, np.float32), TWO], np.zeros(2, np.int32)),
        ValueError,
        r"logits must be arrays of the sizes \(2, 3\), got shapes \[\(3,\), \(2,\)\]",
    ),
    "a single choice of two": (
        lambda: scored(CHOICES, FIVE, np.int32(1)),
        ValueError,
        r"action must have shape \[D\] = \(2,\), got \(\)",
    ),
    "a choice out of range": (
        lambda: scored(CHOICES, FIVE, np.array([1, 3], np.int32)),
        ValueError,
        "action must lie in 0..2, got 3",
    ),
    "an illegal choice": (
        lambda: scored(
            CHOICES,
            FIVE,
            np.array([1, 2], np.int32),
            MaskedObservation(SEEN, np.arange(5) < 4),
        ),
        ValueError,
        "action 2 is illegal",
    ),
    "an action without a factor": (
        lambda: scored(BOTH, {"gear": TWO, "steering": NORMAL}, {"gear": np.int32(0)}),
        ValueError,
        "action must be structured as the factors",
    ),
    "no factor": (lambda: policies.product({}), ValueError, "at least one Distribution"),
    "a policy among distributions": (
        lambda: policies.product((policies.SOFTMAX, pgjax.tabular_softmax)),
        TypeError,
        "distributions must hold nothing but Distribution records",
    ),
    "a distribution among policies": (
        lambda: policies.factored_policy({"gear": 3}),  # pyright: ignore[reportArgumentType]
        TypeError,
        "policies must hold nothing but Policy records, got 3",
    ),
    "a head that is no module": (
        lambda: policies.flax_recurrent_policy(linen.GRUCell(2), len),  # pyright: ignore
        TypeError,
        "head must be a flax.linen Module, got <built-in function len>",
    ),
    "a cell that is none": (
        lambda: policies.flax_recurrent_policy(linen.Dense(2), linen.Dense(2)),  # pyright: ignore
        TypeError,
        "cell must be a flax.linen RNNCellBase",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named(name: str) -> None:
    attempt, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        attempt()


def test_where_values_are_traced_the_checked_mode_names_them_and_else_they_are_defined() -> None:
    def of_sigma(log_std: Any) -> Any:
        return scored(policies.GAUSSIAN, (TWO, log_std), TWO)

    def of_action(action: Any) -> Any:
        return scored(BOUNDED, NORMAL, action)

    for function, value, message, expected in (
        (of_sigma, TWO - 1e4, "σ must be positive and finite, got σ = ", np.nan),
        (of_action, TWO + 1.5, "action must lie between -1.0 and 1.0, got ", -np.inf),
    ):
        np.testing.assert_equal(float(jax.jit(function)(value)), expected)
        with pytest.raises(ValueError, match=message):
            pgjax.checked(function)(value)
    on_the_bound = TWO + 1.0  # the last number before it
    assert np.isfinite(float(jax.jit(of_action)(on_the_bound)))
