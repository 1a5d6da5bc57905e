"""Estimators of ∇E[f(x)] are what is said of them: exactly, by enumeration and quadrature."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import baselines, expectations
from pgjax.core.float64 import in_float64
from pgjax.expectations.estimates import gradients_of_draws, objective_of_draws
from pgjax.expectations.estimator import one_step_batch
from pgjax.expectations.integrands import as_integrand
from pgjax.proof.expectation_certificate import (
    ExpectationCertificate,
    certify_expectations,
    evaluate_code,
    expectation_moments,
    refuted,
    table,
)
from pgjax.proof.expectation_problems import Expectation, problems, toy, true_gradient
from pgjax.proof.registry.rows_expectations import EXPECTATIONS, ExpectationRow

PLAIN = expectations.score_function()
LEAVE_ONE_OUT = expectations.score_function(baseline=baselines.leave_one_out)


def coin(p: float, t: float = 0.45) -> Expectation:
    return Expectation(toy(t), expectations.bernoulli(), np.log(np.array(p / (1 - p))), "coin")


def certified(problem: Expectation, *names: str) -> dict[str, ExpectationCertificate]:
    """The certificates of rows of the registry on a problem that has the name of theirs."""
    rows = [row for row in EXPECTATIONS if row.name in names]
    return {c.row.name: c for c in certify_expectations(rows, [problem])}


@pytest.fixture(scope="module")
def found():
    return certify_expectations()


def test_statements_of_bias_agree_with_the_exact_numbers(found) -> None:
    assert refuted(found) == []


def test_false_statements_are_refuted(found) -> None:
    for name, false in (("score function", "biased"), ("straight-through", "none")):
        changed = [c._replace(row=c.row._replace(bias=false)) for c in found if c.row.name == name]
        assert len(refuted(changed)) == 1


def test_every_estimator_has_a_row() -> None:
    made = {
        name
        for name, item in vars(expectations).items()
        if getattr(item, "__annotations__", {}).get("return")
        in (expectations.ExpectationEstimator, pgjax.Estimator)
    }
    assert len(made) >= 19
    assert {name for name in made if not any(f"{name}(" in r.code for r in EXPECTATIONS)} == set()


def test_the_table_has_a_line_for_each_row(found) -> None:
    of_coin = [c for c in found if c.problem == "coin"]
    lines = table(of_coin).splitlines()
    assert len(lines) == 1 + len(of_coin)
    assert lines[-5].split()[:3] == ["Sobol", "score", "function"]


# Tucker's toy and that of RELAX: the derivative, and variances by estimator (expectations.md).
TOYS = [
    (0.5, 0.45, 0.025, 0.0159391, 6.25e-4, 2.08333e-4, 0.0),
    (0.3, 0.45, 0.021, 0.0155938, 6.09e-4, 3.39e-4, 2.94e-4),
    (0.5, 0.499, 5e-4, 0.01562513, 2.5e-7, 8.33e-8, 0.0),
    (0.3, 0.499, 4.2e-4, 0.01316714, 2.436e-7, 1.356e-7, 1.176e-7),
]


@pytest.mark.parametrize(("p", "t", "truth", "plain", "others", "arm", "disarm"), TOYS)
def test_the_published_toys_are_reproduced(p, t, truth, plain, others, arm, disarm) -> None:
    variances = {"score function": plain, "leave one out": others, "ARM": arm, "DisARM": disarm}
    for name, certificate in certified(coin(p, t), *variances).items():
        np.testing.assert_allclose(certificate.truth, [truth], rtol=1e-12)
        np.testing.assert_allclose(certificate.moments.mean, [truth], rtol=1e-10)
        assert certificate.variance == pytest.approx(variances.pop(name), rel=2e-3, abs=1e-18)
    assert not variances


def test_straight_through_has_the_wrong_sign_on_the_toy(found) -> None:
    (of_coin,) = [c for c in found if (c.row.name, c.problem) == ("straight-through", "coin")]
    np.testing.assert_allclose(of_coin.moments.mean, [-0.063], rtol=1e-12)
    assert of_coin.truth[0] > 0


def test_the_variances_of_a_quadratic_by_the_mean_are_mohameds() -> None:
    mean, std = 2.0, 1.0
    log_std = float(np.log(std))
    problem = Expectation(
        lambda x: (x - 1.0) ** 2,
        expectations.normal(lambda mean: (mean, jnp.full_like(mean, log_std))),
        np.array(mean),
        "quadratic of a normal",
    )
    m, s = mean - 1, std
    formulas = {
        "score function": m**4 / s**2 + 14 * m**2 + 15 * s**2,
        "pathwise": 4 * s**2,
        "measure-valued": m**2 * (16 / np.pi - 4),
    }
    assert list(formulas.values()) == pytest.approx([30, 4, 1.093], abs=1e-3)
    of = certified(problem, *formulas, "measure-valued, uncoupled")
    for name, variance in formulas.items():
        np.testing.assert_allclose(of[name].moments.mean, [2 * m], rtol=1e-10)
        np.testing.assert_allclose(of[name].variance, variance, rtol=1e-10)
    assert of["measure-valued, uncoupled"].variance > 1.5 * formulas["measure-valued"]


def test_greensmiths_identity_holds_for_a_constant_baseline() -> None:
    # Var(b) = Var(b*) + E‖s‖² (b − b*)², for every b; it fails about another constant than b*.
    problem = coin(0.3)
    least = jax.jit(partial(expectations.least_variance_constant, problem.f, problem.distribution))
    best = float(in_float64(least)(problem.params))
    squared_score, mean = 0.3 * 0.7, 0.2235
    code = "expectations.score_function(baseline=pgjax.baselines.constant({}))"
    constants = (-1.0, 0.0, 0.5, best, mean)
    rows = [ExpectationRow(str(b), code.format(b), "none") for b in constants]
    found = certify_expectations(rows, [problem])
    variance = {b: c.variance for b, c in zip(constants, found, strict=True)}
    for b in (-1.0, 0.0, 0.5):
        excess = squared_score * (b - best) ** 2
        assert variance[b] == pytest.approx(variance[best] + excess, rel=1e-10)
        about_the_mean = squared_score * (b - mean) ** 2
        assert variance[b] != pytest.approx(variance[mean] + about_the_mean, rel=1e-4)


def test_tuckers_decomposition_by_total_variance_holds() -> None:
    # Cov ĝ = E Cov(ĝ | x, y) + E_y Cov(E[ĝ | x, y] | y) + Cov_y E[ĝ | y], for a context y, a draw x
    # and a noisy f. A baseline Q(y, x) with its mean added removes the second part alone.
    p_y, p, Q = np.array([0.4, 0.6]), np.array([0.3, 0.8]), np.array([[0.2, 1.0], [0.5, -0.4]])
    noise = np.array([-0.7, 0.7])  # equally likely, added to Q
    x = np.array([0.0, 1.0])
    score = x[None] - p[:, None]  # [y, x]
    chance = p_y[:, None] * np.stack([1 - p, p], axis=1)
    estimate = score[..., None] * (Q[..., None] + noise)
    weight = chance[..., None] * np.array([0.5, 0.5])
    mean_of_x = np.sum(np.stack([1 - p, p], axis=1) * score * Q, axis=1)
    total = np.sum(weight * estimate**2) - np.sum(weight * estimate) ** 2
    of_f = np.sum(chance * score**2 * 0.49)
    of_x = np.sum(chance * (score * Q - mean_of_x[:, None]) ** 2)
    of_y = p_y @ mean_of_x**2 - (p_y @ mean_of_x) ** 2
    assert total == pytest.approx(of_f + of_x + of_y, rel=1e-12)

    @in_float64
    @jax.jit
    @jax.vmap
    def estimates(at_zero, at_one, logit):
        f = as_integrand(lambda x: at_zero + (at_one - at_zero) * x)
        return gradients_of_draws(PLAIN, f, expectations.bernoulli(), logit, x)

    values = Q[..., None] + noise  # [y, x, noise]
    logits = np.broadcast_to(np.log(p / (1 - p))[:, None], (2, 2))  # [y, noise]
    found = estimates(*(each.ravel() for each in (values[:, 0], values[:, 1], logits)))
    squared = np.asarray(found).reshape(2, 2, 2).swapaxes(1, 2) ** 2  # [y, x, noise]
    second = np.sum(weight * squared)
    assert second - (p_y @ mean_of_x) ** 2 == pytest.approx(total, rel=1e-10)
    with_baseline = of_f + of_y  # score · noise, plus the exact mean for each y
    assert total - with_baseline == pytest.approx(of_x, rel=1e-12)
    assert of_x > 0.01


def test_one_step_episodes_are_the_estimator_itself() -> None:
    assert expectations.score_function() == pgjax.reinforce(1.0)
    policy = pgjax.softmax_policy(lambda key, s: jnp.zeros(3), lambda params, s: params)
    f = lambda x: jnp.sin(x + 1.0)  # noqa: E731

    @jax.jit
    def both(params, x):
        mine = jax.grad(
            lambda params: objective_of_draws(
                LEAVE_ONE_OUT, as_integrand(f), expectations.categorical(), params, x
            )
        )(params)
        batch = one_step_batch(x, f(x), jnp.zeros(4))
        return mine, pgjax.gradient(LEAVE_ONE_OUT, policy, params, batch)

    mine, wanted = both(np.array([0.3, -0.2, 0.6]), np.array([0, 2, 1, 1]))
    np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-7)


def test_the_derivative_of_f_by_its_own_parameters_is_added(found) -> None:
    (two,) = [problem for problem in problems() if problem.name == "two coins"]
    frozen = Expectation(
        lambda b: two.f(jnp.asarray(two.params), b), two.distribution, two.params, two.name
    )
    of_two = {c.row.name: c for c in found if c.problem == two.name}
    of_frozen = certified(frozen, "score function", "ARM", "likeliest outcome")
    assert len(of_frozen) == 3
    for name, part in of_frozen.items():
        difference = of_two[name].truth - part.truth
        assert abs(difference[0]) > 0.05
        assert abs(difference[1]) < 1e-14
        of_mean = of_two[name].moments.mean - part.moments.mean
        np.testing.assert_allclose(of_mean, difference, rtol=0, atol=1e-12)


def test_per_sample_gradients_average_to_the_gradient_and_jacobians_are_rows() -> None:
    params, key = np.array([0.3, -0.2]), jax.random.key(1)
    f = lambda b: (b[0] - 0.45) ** 2 + b[0] * b[1]  # noqa: E731
    given = expectations.bernoulli(), params, key
    both = expectations.jacobians(
        LEAVE_ONE_OUT, lambda b: jnp.stack([f(b), 2 * f(b)]), *given, num_samples=6
    )
    each = np.asarray(expectations.per_sample_gradients(LEAVE_ONE_OUT, f, *given, num_samples=6))
    mean = np.asarray(expectations.gradient(LEAVE_ONE_OUT, f, *given, num_samples=6))
    assert each.shape == (6, 2)
    np.testing.assert_allclose(each.mean(axis=0), mean, rtol=1e-5)
    np.testing.assert_allclose(both, np.stack([mean, 2 * mean]), rtol=1e-5)


@pytest.mark.parametrize(
    "of",
    [
        lambda coin: expectation_moments(PLAIN, coin).mean,
        true_gradient,
        lambda coin: expectations.least_variance_constant(coin.f, coin.distribution, coin.params),
    ],
    ids=["moments", "gradient", "constant"],
)
def test_a_value_that_f_closes_over_is_read_anew_in_each_call(of: Any) -> None:
    scale = [1.0]
    problem = replace(coin(0.3), f=lambda b: scale[0] * jnp.sum(b))
    once = np.asarray(of(problem))
    scale[0] = 2.0
    np.testing.assert_allclose(of(problem), 2 * once, rtol=1e-6)
    assert np.all(once != 0)


def test_the_true_gradient_of_a_normal_needs_no_transform() -> None:
    scored = replace(expectations.normal(), noise=None, transform=None)
    problem = Expectation(
        lambda x: jnp.sum((x - 1) ** 2), scored, (np.array([2.0]), np.array([0.3]))
    )
    np.testing.assert_allclose(true_gradient(problem), [2, 2 * np.exp(0.6)], rtol=1e-12)


def test_estimators_are_arguments_of_jit_and_their_numbers_are_leaves() -> None:
    key, f = jax.random.key(0), lambda b: (b - 0.45) ** 2

    @jax.jit
    @jax.value_and_grad
    def squared(estimator: expectations.ExpectationEstimator) -> jax.Array:
        g = expectations.per_sample_gradients(
            estimator, f, expectations.bernoulli(), jnp.float32(0.2), key, num_samples=16
        )
        return jnp.mean(g**2)

    _, slope = squared(expectations.rebar(0.5, scale=0.1))
    step = [squared(expectations.rebar(0.5, scale=0.1 + h))[0] for h in (-0.01, 0.01)]
    by_scale = slope.term.settings["scale"] + slope.weights.settings["scale"]
    assert float(by_scale) == pytest.approx(float(step[1] - step[0]) / 0.02, rel=1e-3)
    assert expectations.rebar(0.5) == expectations.rebar(0.5) != expectations.rebar(0.6)


def test_a_moving_average_is_the_weighted_mean_of_earlier_values() -> None:
    average = expectations.MovingAverage(0.9)
    state = average.init()

    def value(state) -> float:
        baseline: Any = average.baseline(state)
        return float(baseline.settings["baseline"])

    assert value(state) == 0
    means = [1.0, -2.0, 4.0]
    for mean in means:
        state = average.update(state, jnp.array([mean - 1, mean + 1]))
    weights = np.array([0.81, 0.9, 1.0])
    wanted = float(weights @ means / weights.sum())
    assert value(state) == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(ValueError, match="decay must lie in"):
        expectations.MovingAverage(1.5)


def test_the_conditional_relaxation_of_a_choice_has_the_law_of_the_relaxation_given_it() -> None:
    # E[c(z̃) | b] over v is E[c(z) | b] over u, for each b: what REBAR's lack of bias rests on.
    from pgjax.expectations.natural import Natural
    from pgjax.expectations.relaxed import relaxed_draws
    from pgjax.proof.expectation_sums import uniform_rule

    with jax.enable_x64(True):
        logits = np.array([0.4, -0.3])
        natural = Natural("one-hot categorical", logits)
        p = np.exp(logits) / np.exp(logits).sum()
        u, weight = uniform_rule([])
        grid = np.stack(np.meshgrid(u, u, indexing="ij"), axis=-1).reshape(-1, 2)
        weight = np.outer(weight, weight).ravel()

        def control(z):
            return jnp.tanh(z[0]) + z[0] * jnp.exp(-(z[1] ** 2))

        @jax.jit
        def of_grid(pairs):
            b, z, again = jax.vmap(lambda u: relaxed_draws(natural, u))(pairs)
            return jnp.argmax(b, axis=1), jax.vmap(control)(z), jax.vmap(control)(again)

        for chosen in range(2):
            other = 1 - chosen
            # `chosen` wins if u_other lies under the bound u_chosen^(p_other / p_chosen).
            bound = grid[:, 0] ** (p[other] / p[chosen])
            columns = {chosen: grid[:, 0], other: bound * grid[:, 1]}
            first = np.stack([columns[0], columns[1]], axis=1)
            b, at_z, again = map(np.asarray, of_grid(np.stack([first, grid], axis=1)))
            assert weight @ (b != chosen) < 1e-12  # ties at the grid's ends
            wanted = weight @ (at_z * bound) / p[chosen]
            assert weight @ again == pytest.approx(wanted, rel=1e-9)
            assert weight @ at_z != pytest.approx(wanted, rel=1e-2)


def draws_of_each_estimator() -> dict[Any, Any]:
    """Functions of a key; draws of x alone are left out, where a distribution splits the key."""
    found = {}
    for problem in problems():
        rows = [row for row in EXPECTATIONS if problem.name in row.problems]
        for row in rows:
            if "params" in row.code:
                continue  # a constant of the problem's is a baseline, for draws of x alone
            estimator = evaluate_code(row.code, problem)
            if getattr(estimator, "law", "outcomes") != "outcomes":
                found[problem.name, estimator.draw] = problem, estimator
    return found


def test_no_draw_consumes_a_key_twice() -> None:
    """What is drawn twice from one key is dependent, though each mean may be right."""
    found = draws_of_each_estimator()
    assert len(found) >= 30
    key = jax.random.key(0)
    with jax.debug_key_reuse(True):  # JAX looks for such keys as it traces: nothing need run
        for problem, estimator in found.values():
            draw = partial(estimator.draw, problem.distribution, problem.params)
            jax.jit(lambda key, draw=draw: draw(key, 4)).trace(key)
        with pytest.raises(jax.errors.KeyReuseError):  # the control
            jax.jit(lambda key: (jax.random.normal(key), jax.random.uniform(key))).trace(key)
