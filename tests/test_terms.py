"""Clips and ratios: each against its published formula, where it is silent, and overflow."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import Estimator, enumeration, suite, terms, weights
from pgjax.proof import certificate
from pgjax.records import as_record
from pgjax.types import Term

pytestmark = pytest.mark.usefixtures("strict")

# Ratios on both sides of every bound, with weights of both signs and none, all pairs of them.
RATIO, WEIGHT = (
    grid.ravel()
    for grid in np.meshgrid([0.1, 0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 1.3, 2.9, 3.1], [-2.0, 0, 1.5])
)
PROBLEM = suite.problems()[0]


def at_ratios(ratio: Any = RATIO, weight: Any = WEIGHT) -> tuple[np.ndarray, ...]:
    """log π, log μ = log 0.25, and weights."""
    behaviour = np.full(len(ratio), math.log(0.25))
    return np.log(ratio) + behaviour, behaviour, np.asarray(weight, np.float64)


def value_and_slope(term: Term, *given: Any) -> tuple[Any, Any]:
    """The term, by default at the ratios, and its derivative by log π."""
    kind = jax.tree.structure(term)
    name = next(name for name, other in EVERY.items() if jax.tree.structure(other) == kind)
    return values_and_slopes(*(given or at_ratios()), every=EVERY | {name: term})[name]


def derived(term: Term, log_prob: Any, behaviour: Any, weight: Any) -> tuple[Any, Any]:
    mask = jnp.ones_like(log_prob, bool)
    value, pull = jax.vjp(lambda x: term(x, behaviour, weight, mask), log_prob)
    return value, pull(jnp.ones_like(value))[0]


def values_and_slopes(*given: Any, every: Any = None) -> dict[str, tuple[Any, Any]]:
    """Of every term."""
    return jax.device_get(compiled(every or EVERY, *given))


@jax.jit
def compiled(every: dict[str, Term], *given: Any) -> dict[str, tuple[Any, Any]]:
    """Terms are records: all bounds of one kind share a program."""
    return {name: derived(term, *given) for name, term in every.items()}


def published_clip(ratio: Any, weight: Any, low: float, high: float) -> Any:
    """Schulman et al. (2017), eq. 7; with two widths, Yu et al. (2025)."""
    return np.minimum(ratio * weight, np.clip(ratio, 1 - low, 1 + high) * weight)


def silent(ratio: Any, weight: Any, low: float, high: float) -> Any:
    return ((weight > 0) & (ratio > 1 + high)) | ((weight < 0) & (ratio < 1 - low))


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (1.0, 0.2), (0.0, math.inf)])
def test_the_clip_is_its_published_formula_and_silent_only_where_the_weight_had_its_way(
    low: float, high: float
) -> None:
    value, slope = value_and_slope(terms.asymmetric_clip(low, high))
    np.testing.assert_allclose(value, published_clip(RATIO, WEIGHT, low, high), atol=1e-14)
    expected = np.where(silent(RATIO, WEIGHT, low, high), 0, RATIO * WEIGHT)
    np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-14)
    assert np.any(silent(RATIO, WEIGHT, low, high))


def test_a_clip_blind_to_the_sign_of_the_weight_is_told_apart() -> None:
    blind = np.clip(RATIO, 0.8, 1.2) * WEIGHT
    assert np.any(np.abs(blind - published_clip(RATIO, WEIGHT, 0.2, 0.2)) > 0.1)
    _, slope = value_and_slope(terms.ppo_clip(0.2))
    assert slope[(RATIO == 3.1) & (WEIGHT < 0)] == -2.0 * 3.1
    assert slope[(RATIO == 0.1) & (WEIGHT > 0)] == pytest.approx(0.1 * 1.5)


def test_ppo_clip_is_the_asymmetric_one_of_equal_widths_and_no_widths_are_the_ratio() -> None:
    ours, same = terms.ppo_clip(0.3), terms.asymmetric_clip(0.3, 0.3)
    np.testing.assert_array_equal(value_and_slope(ours), value_and_slope(same))
    free = value_and_slope(terms.asymmetric_clip(1.0, math.inf))
    np.testing.assert_array_equal(free, values_and_slopes(*at_ratios())["ratio"])


def test_the_dual_clip_bounds_what_a_bad_action_costs() -> None:
    value, slope = value_and_slope(terms.dual_clip(0.2, 3.0))
    clipped = published_clip(RATIO, WEIGHT, 0.2, 0.2)
    published = np.where(WEIGHT < 0, np.maximum(clipped, 3.0 * WEIGHT), clipped)  # Ye et al. (2020)
    np.testing.assert_allclose(value, published, rtol=0, atol=1e-14)
    over = (WEIGHT < 0) & (RATIO > 3)
    expected = np.where(silent(RATIO, WEIGHT, 0.2, 0.2) | over, 0, RATIO * WEIGHT)
    np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-14)
    assert np.any(over)


def test_a_truncated_ratio_silences_no_step() -> None:
    _, slope = value_and_slope(terms.truncated_ratio(1.2))
    np.testing.assert_allclose(slope, np.minimum(RATIO, 1.2) * WEIGHT, rtol=0, atol=1e-14)


@pytest.mark.parametrize("weight", [-1.0, 1.0])
def test_on_the_bound_itself_the_whole_gradient_still_counts(weight: float) -> None:
    # jnp.minimum would halve it: on-policy, with ε = 0, every step stands on the bound.
    weights = np.full(len(RATIO), weight)
    _, slope = value_and_slope(terms.ppo_clip(0.0), *at_ratios(np.ones_like(RATIO), weights))
    np.testing.assert_array_equal(slope, weights)
    halved = jax.jit(jax.grad(lambda x: jnp.minimum(x, jnp.ones(()))))(np.ones(()))
    assert halved == 0.5


EVERY: dict[str, Term] = {
    "score": as_record(terms.score),
    "ratio": as_record(terms.importance_ratio),
    "clip": terms.ppo_clip(0.2),
    "clip-higher": terms.asymmetric_clip(0.2, 0.28),
    "clip without an end": terms.asymmetric_clip(0.2, math.inf),
    "dual clip": terms.dual_clip(0.2, 3.0),
    "truncated": terms.truncated_ratio(1.0),
    "truncated at two": terms.truncated_ratio(2.0),
    "untruncated": terms.truncated_ratio(math.inf),
    "dice": as_record(terms.dice),
    "loaded dice": terms.loaded_dice(0.5),
}


@pytest.mark.parametrize("name", EVERY)
def test_on_policy_every_term_has_the_gradient_of_the_score(name: str) -> None:
    weight = np.array([1.5, -2.0, 0.0, 0.3, -0.4, 5.0, -6.0])
    log_prob = np.log([0.2, 0.5, 0.9, 0.1, 0.3, 0.7, 0.6])
    _, slope = values_and_slopes(log_prob, log_prob, weight)[name]
    np.testing.assert_allclose(slope, weight, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", EVERY)
def test_every_term_is_proportional_to_a_weight_of_either_sign(name: str) -> None:
    def slope(scale: float) -> Any:
        return values_and_slopes(*at_ratios(weight=scale * WEIGHT))[name][1]

    for scale in (1e-3, 0.1, 100.0):
        expected = scale * np.asarray(slope(1.0))
        np.testing.assert_allclose(slope(scale), expected, rtol=1e-12, atol=0)


# Overflow


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16])
def test_a_ratio_out_of_range_gives_no_nan(dtype: Any) -> None:
    log_ratio = np.array([200, -200, 800, -800, 30000, -30000, np.inf]).astype(dtype)
    for sign in (1, 0, -1):
        weight = np.full(len(log_ratio), sign).astype(dtype)
        found = values_and_slopes(np.zeros_like(log_ratio), -log_ratio, weight)
        for name, (_, slope) in found.items():
            assert slope.dtype == dtype
            assert np.all(np.isfinite(np.asarray(slope, float))), (name, sign, slope)


def test_the_textbook_formula_is_a_nan_where_ours_is_not() -> None:
    def textbook(log_prob: Any) -> Any:
        ratio, weight = jnp.exp(log_prob), jnp.zeros((), log_prob.dtype)
        return jnp.minimum(ratio * weight, jnp.clip(ratio, 0.8, 1.2) * weight)

    assert np.isnan(jax.jit(jax.grad(textbook))(np.float32(200)))
    ratio = np.full(len(RATIO), math.exp(200))
    _, slope = value_and_slope(terms.ppo_clip(0.2), *at_ratios(ratio, np.zeros_like(ratio)))
    np.testing.assert_array_equal(slope, np.zeros_like(ratio))


def test_a_held_ratio_keeps_its_direction() -> None:
    slope = jax.grad(lambda x: terms.importance_ratio(x, -x, jnp.ones_like(x)).sum())
    found = np.asarray(jax.jit(slope)(np.full(1, 300, np.float32)))
    assert 2e19 < found[0] < math.inf  # twice the held ratio, for both of its sides move


def test_a_gradient_from_another_policys_impossible_actions_is_finite() -> None:
    problem = PROBLEM
    batch, _ = enumeration.trajectories(replace(problem, horizon=1))
    batch = replace(batch, log_prob=np.full_like(batch.log_prob, -200))
    credit = weights.reward_to_go(problem.mdp.discount)

    names = "ratio", "clip", "dual clip", "truncated"

    @jax.jit
    def gradients(params: Any, batch: Any) -> Any:
        estimators = [Estimator(credit, EVERY[name]) for name in names]
        return certificate.gradients(estimators, problem.policy, params, batch)

    with jax.enable_x64(False):
        found = gradients(problem.params, batch)
    for name, gradient in zip(names, found, strict=True):
        assert np.all(np.isfinite(gradient)), name


# What rlax computes


def test_the_clip_is_that_of_rlax() -> None:
    rlax = pytest.importorskip("rlax")

    def theirs(log_prob: Any) -> Any:
        ratio = jnp.exp(log_prob - math.log(0.25))
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            loss = rlax.clipped_surrogate_pg_loss(ratio, jnp.asarray(WEIGHT), 0.2)
        return -loss * len(RATIO)  # it is minimised, and averages over time

    log_prob = np.log(RATIO) + math.log(0.25)
    _, slope = value_and_slope(terms.ppo_clip(0.2))
    np.testing.assert_allclose(jax.jit(jax.grad(theirs))(log_prob), slope, rtol=0, atol=1e-13)


# Bad input


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: terms.ppo_clip(-0.1), r"epsilon must lie in \[0, 1\], got -0.1"),
        (lambda: terms.ppo_clip(1.2), r"epsilon must lie in \[0, 1\], got 1.2"),
        (lambda: terms.ppo_clip(math.nan), r"epsilon must lie in \[0, 1\], got nan"),
        (lambda: terms.asymmetric_clip(1.5, 0.2), r"clip_low must lie in \[0, 1\], got 1.5"),
        (lambda: terms.asymmetric_clip(0.2, -0.2), "clip_high must be at least 0, got -0.2; it is"),
        (lambda: terms.dual_clip(0.2, 1.1), "ceiling must be at least 1.2, got 1.1; it bounds"),
        (lambda: terms.truncated_ratio(-1.0), "ceiling must be at least 0, got -1; it bounds"),
        (lambda: terms.truncated_ratio(math.nan), "ceiling must be at least 0, got nan"),
        (lambda: terms.loaded_dice(1.1), r"lambda_ must lie in \[0, 1\], got 1.1"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(make: Callable, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_bounds_may_be_traced_and_are_then_checked_on_demand() -> None:
    def slope(ceiling: Any) -> Any:
        term = terms.dual_clip(jnp.full((), 0.2), ceiling)
        mask = jnp.ones(1, bool)
        return jax.grad(lambda x: term(x, jnp.zeros(1), -jnp.ones(1), mask).sum())(jnp.ones(1))[0]

    assert jax.jit(slope)(jnp.full((), 2.0)) == 0.0
    assert jax.jit(slope)(jnp.full((), 3.0)) == pytest.approx(-math.e)
    with pytest.raises(ValueError, match=r"ceiling must be at least 1.2\d*, got 1.1"):
        pgjax.checked(slope)(jnp.full((), 1.1))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("weight", [1.0, 0.0, -1.0])
@pytest.mark.parametrize(("log_prob", "behaviour"), [(-math.inf, -math.inf), (-math.inf, -1.0)])
def test_an_action_that_the_policy_never_takes_makes_no_step_nan(
    log_prob: float, behaviour: float, weight: float, name: str
) -> None:
    """Value and derivatives of its neighbours are those without it, where the terms stand alone."""
    steps = np.array(
        [
            [-1.0, log_prob, -0.5, -0.7, -0.2, -2.0, -1.5],
            [-1.0, behaviour, -1.0, -0.4, -0.6, -1.0, -3.0],
            [1.0, weight, 2.0, -1.0, 0.0, 3.0, -0.5],
        ]
    )
    value, slope = map(np.asarray, values_and_slopes(*steps)[name])
    assert not np.isnan(value).any()
    assert np.isfinite(slope).all()
    if weight == 0 or (name != "score" and "clip" not in name):
        assert value[1] == 0  # where a score is not infinite, or a ratio held at a bound
    for whole, alone in zip(
        (value, slope), values_and_slopes(*np.delete(steps, 1, axis=1))[name], strict=True
    ):
        np.testing.assert_allclose(np.delete(whole, 1), alone, rtol=0, atol=1e-14)


def test_a_log_probability_that_is_nan_stays_nan_under_a_weight_of_zero() -> None:
    nan, zeros = np.full(7, np.nan), np.zeros(7)
    for value, _ in values_and_slopes(nan, zeros, zeros).values():
        assert np.isnan(value).all()
