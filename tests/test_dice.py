"""DiCE: every derivative of the surrogate is an unbiased estimate of that derivative of J.

Expectations are sums over all trajectories, their probabilities held constant: an estimate is what
is drawn, and then differentiated.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import Estimator, Trajectory, baselines, enumeration, exact, suite, terms
from pgjax import weights as credit
from pgjax.core import chunks
from pgjax.exact.problem import Problem
from tests.shared import rows

pytestmark = pytest.mark.usefixtures("strict")

PROBLEMS = suite.certified()
PROBLEM = replace(PROBLEMS[1], horizon=3)  # γ < 1, stochastic, lengths 1 to 3
GAMMA = PROBLEM.mdp.discount
WRONG = np.array([0.7, -0.3, 0.4, 0.0])  # a wrong value function is as unbiased a baseline
CHECK = {"rtol": 0, "atol": 1e-10}


@cache
def values() -> np.ndarray:
    """[H, S] V_t(s), exactly."""
    return exact.state_values(PROBLEM)


@pytest.fixture(scope="module", autouse=True)
def values_before_any_program_is_traced(strict: None) -> None:
    values()


def value(batch: Trajectory, target: Any = None) -> Any:
    """[N, T] V_t(s_t), as a baseline."""
    return jnp.einsum("nts,ts->nt", batch.observation, jnp.asarray(values()))


PLAIN = credit.reward_to_go(GAMMA)
LESS_VALUE = credit.reward_to_go(GAMMA, baseline=value)
LESS_WRONG_VALUE = credit.reward_to_go(
    GAMMA, baseline=baselines.state_value(lambda state: state @ jnp.asarray(WRONG))
)


def derivative(function: Callable, order: int) -> Callable:
    """The gradient, the Hessian, …: forward passes, whose programs are the smallest."""
    for _ in range(order):
        function = jax.jacfwd(function)
    return function


def along(function: Callable, order: int) -> Callable:
    """(x, v) -> dᵏ/dhᵏ f(x + h v) at h = 0."""

    def found(x: Any, v: Any) -> Any:
        if not order:
            return function(x)
        return jax.jvp(lambda x: along(function, order - 1)(x, v), (x,), (v,))[1]

    return found


def expectation(
    estimators: Sequence[Estimator], order: int, problem: Problem = PROBLEM, K: int = 1
) -> np.ndarray:
    """Of each estimator's derivative: that of Σ P(batch) surrogate(batch), P(batch) constant.

    Returns:
        [E, D] along `directions(problem)`.
    """
    every, probability = enumeration.trajectories(problem)
    members = np.array(list(product(range(len(probability)), repeat=K)))
    batches, weight = rows(every, members), np.prod(probability[members], axis=1)

    def mean(params: Any) -> Any:
        def one(batch: Trajectory) -> Any:
            surrogates = [
                pgjax.surrogate(each, problem.policy, params, batch) for each in estimators
            ]
            return jnp.stack(surrogates)

        return jnp.asarray(weight) @ jax.vmap(one)(batches)

    run = jax.jit(along(mean, order))
    return np.stack([run(problem.params, v) for v in directions(problem)], axis=1)


def directions(problem: Problem) -> list[Any]:
    """A few directions at random, like the parameters."""
    random = np.random.default_rng(3)
    return [
        jax.tree.map(lambda x: random.normal(size=np.shape(x)), problem.params) for _ in range(4)
    ]


def in_directions(tensor: np.ndarray, problem: Problem = PROBLEM) -> np.ndarray:
    """[D] a symmetric tensor, multiplied by each direction in all its axes."""
    found = []
    for direction in directions(problem):
        v, rest = np.concatenate([np.ravel(x) for x in jax.tree.leaves(direction)]), tensor
        while rest.ndim:
            rest = rest @ v
        found.append(rest)
    return np.array(found)


@pytest.fixture(scope="module")
def hessian(strict: None) -> np.ndarray:
    return exact.hessian(PROBLEM)


# The expectation of every derivative


def test_the_hessian_of_the_surrogate_has_that_of_j_as_its_mean_and_no_other_terms_has(
    hessian: np.ndarray,
) -> None:
    right = {
        "reward-to-go": Estimator(PLAIN, terms.dice),
        "minus a value": Estimator(LESS_VALUE, terms.dice),
        "minus a wrong value": Estimator(LESS_WRONG_VALUE, terms.dice),
        "total return": Estimator(credit.total_return(GAMMA), terms.dice),
        "loaded, λ = 1": Estimator(LESS_VALUE, terms.loaded_dice(1.0)),
    }
    wrong = {
        "score": Estimator(PLAIN, terms.score),
        "ratio": Estimator(PLAIN, terms.importance_ratio),
        "loaded, λ = 0.5": Estimator(PLAIN, terms.loaded_dice(0.5)),
        "loaded, λ = 0": Estimator(PLAIN, terms.loaded_dice(0.0)),
    }
    found, truth = expectation([*right.values(), *wrong.values()], 2), in_directions(hessian)
    for name, mean in zip(right, found, strict=False):
        np.testing.assert_allclose(mean, truth, err_msg=name, **CHECK)
    for name, mean in zip(wrong, found[len(right) :], strict=True):
        assert np.max(np.abs(mean - truth)) > 1e-3, name  # the first derivative of all is right


def test_the_third_derivative_of_the_surrogate_has_that_of_j_as_its_mean() -> None:
    estimators = [Estimator(LESS_VALUE, terms.dice), Estimator(PLAIN, terms.score)]
    ours, plain = expectation(estimators, 3)
    cube = in_directions(exact.third_derivative(PROBLEM))
    np.testing.assert_allclose(ours, cube, **CHECK)
    assert np.max(np.abs(plain - cube)) > 0.1


def test_the_hessian_of_a_network_is_unbiased_too() -> None:
    problem = PROBLEMS[4]
    estimators = [Estimator(credit.reward_to_go(problem.mdp.discount), terms.dice)]
    truth = in_directions(exact.hessian(problem), problem)
    (found,) = expectation(estimators, 2, problem)
    np.testing.assert_allclose(found, truth, **CHECK)
    assert np.max(np.abs(truth)) > 1e-3


def test_with_a_leave_one_out_baseline_the_hessian_stays_unbiased() -> None:
    problem = replace(PROBLEM, horizon=2)
    own_sample_too, without = (
        Estimator(credit.reward_to_go(GAMMA, baseline=baseline), terms.dice)
        for baseline in (baselines.batch_mean, baselines.leave_one_out)
    )
    found = expectation([without, own_sample_too], 2, problem, K=2)
    truth = in_directions(exact.hessian(problem), problem)
    np.testing.assert_allclose(found[0], truth, **CHECK)
    assert np.max(np.abs(found[1] - truth)) > 1e-3


# Trajectory by trajectory


@pytest.fixture(scope="module")
def batch(strict: None) -> Trajectory:
    """Nine trajectories of different lengths."""
    every, _ = enumeration.trajectories(PROBLEM)
    chosen = rows(every, slice(None, None, 11))
    assert len(set(np.asarray(chosen.mask).sum(1))) == 3
    return chosen


def discounts() -> Any:
    return (jnp.asarray(GAMMA) ** jnp.arange(3.0))[None]


def box(x: Any) -> Any:
    return jnp.exp(x - jax.lax.stop_gradient(x))


PUBLISHED = Estimator(
    weights=lambda batch, log_prob: discounts() * batch.reward,
    term=lambda log_prob, behaviour, weight, mask: box(jnp.cumsum(log_prob)) * weight,
)
"""Foerster et al. (2018), as they write it: Σ_t □(W_t) γ^t r_t."""


@pytest.fixture(scope="module")
def derivatives(batch: Trajectory) -> list[Any]:
    """The first three of ours, and of the published objective, for each trajectory."""

    def each(params: Any) -> Any:
        def one(trajectory: Trajectory, estimator: Estimator) -> Any:
            alone = jax.tree.map(lambda x: x[None], trajectory)
            return pgjax.surrogate(estimator, PROBLEM.policy, params, alone)

        forms = Estimator(PLAIN, terms.dice), PUBLISHED
        return [jax.vmap(one, (0, None))(batch, form) for form in forms]

    run = jax.jit(lambda x, v: [along(each, order)(x, v) for order in (1, 2, 3)])
    several = [run(PROBLEM.params, v) for v in directions(PROBLEM)]
    return jax.tree.map(lambda *x: np.stack(x), *several)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ours_is_the_published_objective_trajectory_by_trajectory(
    order: int, derivatives: list[Any]
) -> None:
    ours, theirs = derivatives[order - 1]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)
    assert np.max(np.abs(ours)) > 0.1


def test_the_first_derivative_is_the_scores(batch: Trajectory) -> None:
    @jax.jit
    def slopes(params: Any) -> Any:
        return [
            pgjax.per_trajectory_gradients(
                Estimator(LESS_VALUE, term), PROBLEM.policy, params, batch
            )
            for term in (terms.score, terms.dice, terms.loaded_dice(0.3))
        ]

    score, *others = slopes(PROBLEM.params)
    for found in others:
        np.testing.assert_allclose(found, score, rtol=0, atol=1e-15)


def test_pieces_and_garbage_after_the_end_change_no_derivative(
    batch: Trajectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def curvature(batch: Trajectory) -> Any:
        def surrogate(params: Any) -> Any:
            return pgjax.surrogate(Estimator(PLAIN, terms.dice), PROBLEM.policy, params, batch)

        return jax.jit(along(jax.grad(surrogate), 1))(PROBLEM.params, directions(PROBLEM)[0])

    whole, dead = curvature(batch), ~np.asarray(batch.mask)
    garbage = replace(
        batch,
        reward=jnp.asarray(np.where(dead, np.nan, batch.reward)),
        log_prob=jnp.asarray(np.where(dead, np.nan, batch.log_prob)),
        observation=jnp.asarray(np.where(dead[..., None], np.nan, batch.observation)),
    )
    monkeypatch.setattr(chunks, "CPU_ROWS", 8)  # 27 rows
    np.testing.assert_allclose(curvature(garbage), whole, rtol=0, atol=1e-14)


# Loaded DiCE


def test_lambda_fades_what_an_action_owes_to_earlier_ones() -> None:
    fade, weight, every = 0.7, np.array([3.0, 5.0, -2.0, 4.0]), np.ones(4, bool)

    def loss(x: Any, *given: Any) -> Any:
        return terms.loaded_dice(fade)(x, *given).sum()

    found = jax.jit(jax.hessian(loss))(-np.ones(4), np.zeros(4), weight, every)
    earlier, later = np.minimum(*np.indices((4, 4))), np.maximum(*np.indices((4, 4)))
    expected = fade ** (later - earlier) * weight[later]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_with_lambda_one_nothing_fades() -> None:
    given = np.zeros(3), np.array([3.0, 5.0, -2.0]), np.ones(3, bool)

    def forms(log_prob: Any, *given: Any) -> Any:
        return [term(log_prob, *given).sum() for term in (terms.loaded_dice(1.0), terms.dice)]

    loaded, plain = jax.jit(derivative(forms, 4))(-np.arange(1.0, 4.0), *given)
    np.testing.assert_allclose(loaded, plain, rtol=0, atol=1e-13)


# Variance


def first_order_baseline(batch: Trajectory, log_prob: Any) -> Any:
    """Foerster et al. (2018): Σ_t (1 − □(l_t)) γ^t V_t, for the first derivative."""
    return jnp.sum(jnp.where(batch.mask, (1 - box(log_prob)) * discounts() * value(batch), 0))


def second_order_baseline(batch: Trajectory, log_prob: Any) -> Any:
    """Mao et al. (2019): what is missing there, −Σ_t (1 − □(W_{t−1})) (1 − □(l_t)) γ^t V_t."""
    past = 1 - box(jnp.cumsum(log_prob, axis=1) - log_prob)
    missing = past * (1 - box(log_prob)) * discounts() * value(batch)
    return -jnp.sum(jnp.where(batch.mask, missing, 0))


RELATIVE_VARIANCE = {
    "DiCE": 1.0,
    "with the first-order baseline": 0.844,
    "with the second-order baseline too": 0.565,
    "Loaded DiCE": 0.565,
    "Loaded DiCE, λ = 0.5": 0.255,
}
"""Total variance of the second derivative from one trajectory, exactly."""


def test_published_baselines_are_contained_and_each_has_its_exact_variance(
    hessian: np.ndarray,
) -> None:
    def forms(params: Any, batch: Trajectory) -> Any:
        log_prob = pgjax.log_probs(PROBLEM.policy, params, batch)
        plain, loaded, faded = (
            pgjax.surrogate(Estimator(*each), PROBLEM.policy, params, batch)
            for each in (
                (PLAIN, terms.dice),
                (LESS_VALUE, terms.dice),
                (LESS_VALUE, terms.loaded_dice(0.5)),
            )
        )
        first = plain + first_order_baseline(batch, log_prob)
        both = first + second_order_baseline(batch, log_prob)
        return jnp.stack([plain, first, both, loaded, faded])

    found = enumeration.moments(jax.jit(derivative(forms, 2)), PROBLEM)
    means = found.mean.reshape(5, 8, 8)
    variances = np.diag(found.covariance).reshape(5, 64).sum(1)
    for mean in means[:4]:
        np.testing.assert_allclose(mean, hessian, **CHECK)
    assert np.max(np.abs(means[4] - hessian)) > 1e-3  # λ < 1 pays with a bias
    np.testing.assert_allclose(variances[2], variances[3], rtol=1e-10)
    expected = list(RELATIVE_VARIANCE.values())
    np.testing.assert_allclose(variances / variances[0], expected, rtol=0, atol=6e-4)
