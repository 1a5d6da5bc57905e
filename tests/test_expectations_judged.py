"""`assert_unbiased` takes estimators of expectations; surrogates are right at any order."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import baselines, expectations
from pgjax.expectations.estimator import ExpectationEstimator
from pgjax.proof.expectation_problems import toy

COIN = pgjax.Expectation(toy(), expectations.bernoulli(), np.array(-0.8), "coin")


def test_an_unbiased_estimator_passes_and_the_report_says_on_what() -> None:
    report = pgjax.assert_unbiased(expectations.disarm(), COIN)
    assert report.passed
    assert report.findings[0].bias < 1e-12
    assert "all draws of 1 and 2 samples" in str(report)
    report = pgjax.assert_unbiased(expectations.without_replacement(2), batch_size=1)
    assert [f.problem for f in report.findings] == ["coin", "two coins", "three choices"]


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (expectations.straight_through(), "the sign is wrong"),
        (expectations.score_function(baseline=baselines.batch_mean), "a pure scale, .* = 0.5 "),
        (
            lambda problem: expectations.antithetic(pgjax.rloo(1.0)),
            "wrong on 1 of 1 problems\n✗ coin",
        ),
    ],
)
def test_a_biased_estimator_is_refused_with_what_it_is(candidate, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        pgjax.assert_unbiased(candidate, [COIN], batch_size=2)
    if "scale" in words:
        judge = pgjax.Judge(up_to_scale=True)
        assert pgjax.assert_unbiased(candidate, [COIN], batch_size=2, judge=judge).passed


def _draw(distribution, params, key, N):
    return jax.vmap(distribution.sample, (None, 0))(params, jax.random.split(key, N))


def _weights(f, distribution, params, x):
    return jax.vmap(f, (None, 0))(params, x)


def _right(f, distribution, params, x, weight):
    return weight * distribution.log_prob(params, x)


def _doubled(f, distribution, params, x, weight):
    return 2 * weight * distribution.log_prob(params, x)


def test_an_estimator_without_a_named_law_is_judged_by_sampling() -> None:
    judge = pgjax.Judge(margin=0.2)
    report = pgjax.assert_unbiased(
        ExpectationEstimator(_draw, _weights, _right), COIN, batch_size=64, judge=judge
    )
    assert report.findings[0].tier == "sampling"
    with pytest.raises(AssertionError, match="wrong on 1"):
        pgjax.assert_unbiased(
            ExpectationEstimator(_draw, _weights, _doubled), COIN, batch_size=64, judge=judge
        )


def test_what_is_no_judgement_of_expectations_is_refused() -> None:
    with pytest.raises(ValueError, match="rollout must be None for an expectation"):
        pgjax.assert_unbiased(expectations.arm(), COIN, rollout=pgjax.rollout)  # pyright: ignore
    with pytest.raises(TypeError, match="problems must be a sequence of Expectation"):
        pgjax.assert_unbiased(expectations.arm(), [COIN, 3])  # pyright: ignore
    flat = pgjax.Expectation(lambda b: 0 * b, expectations.bernoulli(), np.array(0.2), "flat")
    with pytest.raises(ValueError, match=r"problems must have ∇E\[f\] other than 0, got flat"):
        pgjax.assert_unbiased(expectations.arm(), flat)


# --- A program of two draws, the second of which depends on the first and on the parameters ----


def parts(params, x):
    coin = expectations.bernoulli()
    log_probs = [
        coin.log_prob(params[0], x[0]),
        coin.log_prob(params[1] * (1 + x[0]) + params[0] ** 2, x[1]),
    ]
    costs = jnp.tanh(params[1]) * x[0], (x[0] - 0.3) * x[1] + params[0] * x[1]
    return log_probs, costs


def program(params, x, forgets: bool = False):
    (first, second), (early, late) = parts(params, x)
    return expectations.surrogate(
        [(early, [first]), (late, [second] if forgets else [first, second])],
        baselines=[(0.4, [first]), (0.2 + x[0], [first, second])],
    )


def test_every_derivative_of_a_program_s_surrogate_is_unbiased() -> None:
    with jax.enable_x64(True):
        params = jnp.array([0.4, -0.7])
        x = jnp.array(list(product((0.0, 1.0), repeat=2)))
        direction = jnp.array([0.8, -1.3])  # of the second and third derivative

        def chance(params):
            return jax.vmap(lambda x: jnp.exp(sum(parts(params, x)[0])))(x)

        def objective(params):
            return chance(params) @ jax.vmap(lambda x: sum(parts(params, x)[1]))(x)

        def objectives(params):
            """[3] The expectation, the surrogate's mean, and that of one that forgets a draw."""
            held = jax.lax.stop_gradient(chance(params))
            means = [
                held @ jax.vmap(lambda x, f=forgets: program(params, x, f))(x)
                for forgets in (False, True)
            ]
            return jnp.stack([objective(params), *means])

        def first(params):
            slope = jax.jacrev(objectives)(params)
            return slope, [slope]

        def second(params):
            _, slope, before = jax.jvp(first, (params,), (direction,), has_aux=True)
            return slope, [*before, slope]

        @jax.jit
        def three_derivatives():
            _, slope, before = jax.jvp(second, (params,), (direction,), has_aux=True)
            return [*before, slope]

        found = jax.device_get(three_derivatives())
    for right, mine, forgotten in found:
        np.testing.assert_allclose(mine, right, rtol=0, atol=1e-12)
        assert np.max(np.abs(forgotten - right)) > 1e-3


def test_a_baseline_lowers_the_variance_and_leaves_the_value() -> None:
    @jax.jit
    def value_and_costs(params, x):
        return program(params, x), parts(params, x)[1]

    value, (early, late) = value_and_costs(np.array([0.4, -0.7]), np.array([1.0, 1.0]))
    assert float(value) == pytest.approx(float(early) + float(late), rel=1e-6)

    @jax.jit
    def variance(baseline):
        def of_one(params, x):
            log_prob = expectations.bernoulli().log_prob(params, x)
            cost = (x - 0.45) ** 2
            return expectations.surrogate([(cost, [log_prob])], baselines=[(baseline, [log_prob])])

        each = jax.vmap(jax.grad(of_one), (None, 0))(jnp.float32(0.0), jnp.array([0.0, 1.0]))
        return jnp.var(each)

    assert float(variance(0.0)) == pytest.approx(0.0159391, rel=1e-4)
    assert float(variance(0.2525)) < 1e-9


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        (np.ones(2), "costs must be a sequence of pairs"),
        ([(np.ones(2), [])], r"costs\[0\] must have shape"),
        ([(1.0, [np.ones(2)])], r"costs\[0\], log-probability 0 must have shape"),
        ([(1.0, np.ones(2))], "costs must pair each number with a list"),
    ],
)
def test_costs_that_are_no_pairs_of_numbers_are_refused(costs, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        expectations.surrogate(costs)
    with pytest.raises(ValueError, match="must list at least one log-probability"):
        expectations.surrogate([], baselines=[(1.0, [])])
