"""Fisher information and natural gradients, held to what they equal, without sampling."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import pgjax
from pgjax import Problem, beyond, enumeration, exact, suite, tabular
from pgjax.core.float64 import flatten, to_jax

pytestmark = pytest.mark.usefixtures("strict")

EXACT = 1e-10
PROBLEMS = suite.certified()
LOGITS = np.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]])
MDP, POLICY, H = tabular.random_mdp(), pgjax.tabular_softmax(4, 2), 3
GAMMA, PROBLEM = MDP.discount, Problem(MDP, POLICY, LOGITS, H)


@cache
def enumerated() -> tuple[Any, np.ndarray]:
    """All episodes, and the probability of each."""
    return enumeration.trajectories(PROBLEM)


def truth() -> np.ndarray:
    return exact.gradient(PROBLEM).ravel()


def matrix_of(product: Any, like: Any) -> Any:
    """[P, P] from P products."""
    flat, unravel = ravel_pytree(like)
    return jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])(jnp.eye(flat.size))


# The matrix


def test_of_a_table_it_is_the_visits_times_the_covariance_of_the_actions() -> None:
    visits = exact.visitation(PROBLEM).sum(0)
    probability = exact.action_probabilities(PROBLEM)
    expected = np.zeros((4, 2, 4, 2))
    for s, (d, p) in enumerate(zip(visits, probability, strict=True)):
        expected[s, :, s] = d * (np.diag(p) - np.outer(p, p))
    found = beyond.fisher(PROBLEM)
    np.testing.assert_allclose(found, expected.reshape(8, 8), rtol=0, atol=1e-14)


@pytest.mark.parametrize("problem", PROBLEMS[4:], ids=lambda problem: problem.name)
def test_it_is_the_curvature_of_the_divergence(problem: suite.Problem) -> None:
    mdp, policy, params = problem.mdp, problem.policy, problem.params
    flat, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params))
    visits = jnp.asarray(exact.visitation(problem).sum(0))

    def table(x: Any) -> Any:
        over_actions = jax.vmap(policy.log_prob, (None, None, 0))
        observation = jnp.asarray(mdp.observation, jnp.float64)
        actions = jnp.arange(mdp.num_actions)
        return jax.vmap(over_actions, (None, 0, None))(unravel(x), observation, actions)

    def divergence(x: Any) -> Any:
        old = table(flat)
        return visits @ jnp.sum(jnp.exp(old) * (old - table(x)), -1)

    found = beyond.fisher(problem)
    np.testing.assert_allclose(found, jax.jit(jax.hessian(divergence))(flat), rtol=0, atol=1e-12)


def test_without_discount_it_is_the_covariance_of_the_whole_path_s_score() -> None:
    whole = pgjax.Estimator(lambda batch, log_prob: jnp.ones_like(log_prob), pgjax.terms.score)
    path = enumeration.moments(whole, PROBLEM)
    mdp = MDP.replace(discount=1.0)
    found = beyond.fisher(replace(PROBLEM, mdp=mdp))
    np.testing.assert_allclose(found, path.covariance, rtol=0, atol=EXACT)
    discounted = beyond.fisher(PROBLEM)
    assert np.abs(discounted - path.covariance).max() > 1e-3


# Products


def test_products_from_a_batch_are_unbiased_for_it_and_the_analytic_ones_are_quieter() -> None:
    episodes, chance = enumerated()

    @jax.jit
    def each() -> Any:
        def of_row(row: pgjax.Trajectory) -> Any:
            row = jax.tree.map(lambda x: x[None], row)

            def sampled(discount: Any) -> Any:
                return matrix_of(
                    beyond.sampled_fisher(POLICY, LOGITS, row, discount=discount), LOGITS
                )

            expected = beyond.expected_fisher(POLICY, LOGITS, row, discount=GAMMA, num_actions=2)
            both = jax.vmap(sampled)(jnp.array([GAMMA, 1.0]))
            return matrix_of(expected, LOGITS), *both

        return jax.vmap(of_row)(to_jax(episodes))

    found = [np.asarray(x) for x in each()]
    expected, sampled, undiscounted = (np.tensordot(chance, x, 1) for x in found)
    true = beyond.fisher(PROBLEM)
    np.testing.assert_allclose(expected, true, rtol=0, atol=EXACT)
    np.testing.assert_allclose(sampled, true, rtol=0, atol=EXACT)
    assert np.abs(undiscounted - true).max() > 1e-3
    spread = [float(chance @ np.sum((x - true) ** 2, (1, 2))) for x in found[:2]]
    assert spread[0] < 0.9 * spread[1]


def test_products_are_the_matrix_s_for_a_network_too_and_ignore_garbage() -> None:
    policy = pgjax.flax_policy(pgjax.MLP(2, (3,)))
    shapes = jax.eval_shape(policy.init, jax.random.key(0), np.zeros(4, np.float32))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: random.normal(size=x.shape), shapes)
    batch = jax.tree.map(lambda x: x[[3, 30, 60]], enumerated()[0])
    spoilt = batch.replace(observation=np.where(batch.mask[..., None], batch.observation, np.nan))
    weight = batch.mask * GAMMA ** np.arange(H)[None] / 3

    def scored(observation: Any, action: Any) -> Any:
        log_prob, score = jax.value_and_grad(policy.log_prob)(params, observation, action)
        return jnp.exp(log_prob), ravel_pytree(score)[0]

    def outer(weight: Any, score: Any) -> Any:
        """Σ_it w_it ∇log π(a_it) ∇log π(a_it)ᵀ, written out."""
        return np.einsum("nta,ntap,ntaq->pq", weight, score, score)

    @jax.jit
    def matrices() -> Any:
        of_actions = jax.vmap(scored, (None, 0))
        chance_and_score = jax.vmap(jax.vmap(of_actions, (0, None)), (0, None))(
            batch.observation, np.arange(2)
        )
        sampled = beyond.sampled_fisher(policy, params, spoilt, discount=GAMMA)
        expected = beyond.expected_fisher(policy, params, spoilt, discount=GAMMA, num_actions=2)
        return *chance_and_score, matrix_of(sampled, params), matrix_of(expected, params)

    chance, score, sampled, expected = jax.device_get(matrices())
    taken = weight[..., None] * (batch.action[..., None] == np.arange(2))
    np.testing.assert_allclose(sampled, outer(taken, score), rtol=0, atol=1e-14)
    over_actions = weight[..., None] * chance
    np.testing.assert_allclose(expected, outer(over_actions, score), rtol=0, atol=1e-14)


# Natural gradients


@pytest.mark.parametrize("problem", PROBLEMS[1::3], ids=lambda problem: problem.name)
def test_the_natural_gradient_is_the_best_linear_fit_of_the_advantage(
    problem: suite.Problem,
) -> None:
    found = beyond.exact_natural_gradient(problem)
    fitted = beyond.compatible_weights(problem)
    scale = float(np.linalg.norm(found))
    np.testing.assert_allclose(fitted, found, rtol=0, atol=1e-9 * scale)
    gradient = flatten(exact.gradient(problem))
    if problem.name != "look-alikes":  # where there is but one way to go
        assert np.linalg.norm(gradient / np.linalg.norm(gradient) - found / scale) > 0.01


def test_of_a_table_without_horizon_it_is_the_advantage() -> None:
    found = beyond.exact_natural_gradient(replace(PROBLEM, horizon=None)).reshape(4, 2)
    values = exact.action_values(replace(PROBLEM, horizon=None))
    gap = values[:3, 1] - values[:3, 0]
    np.testing.assert_allclose(found[:3, 1] - found[:3, 0], gap, rtol=0, atol=1e-9)
    with_horizon = beyond.exact_natural_gradient(PROBLEM).reshape(4, 2)
    assert np.abs(with_horizon[:3, 1] - with_horizon[:3, 0] - gap).max() > 0.01


def test_the_step_it_takes_in_the_policy_does_not_depend_on_the_parameters() -> None:
    mixing = np.array([[2.0, 0.3, -0.4], [0.0, 0.5, 0.2], [0.1, 0.0, 1.5]])

    def gap(params: Any) -> Any:
        """θ: log-odds of the three states that are acted in."""
        return params

    def other_gap(params: Any) -> Any:
        mixed = jnp.asarray(mixing) @ params
        return mixed + 0.1 * mixed**3

    def policy_of(gap: Any) -> pgjax.Policy:
        def logits(params: Any, observation: Any) -> Any:
            return jnp.stack([jnp.zeros(()), observation[:3] @ gap(params)])

        return pgjax.softmax_policy(lambda key, s: jnp.zeros(3), logits)

    there = np.array([0.4, -0.3, 0.2])
    steps = []
    for function, params in ((gap, np.asarray(jax.jit(other_gap)(there))), (other_gap, there)):
        policy, slope = policy_of(function), np.asarray(jax.jit(jax.jacobian(function))(params))
        natural = beyond.exact_natural_gradient(replace(PROBLEM, policy=policy, params=params))
        plain = exact.gradient(replace(PROBLEM, policy=policy, params=params))
        steps.append((slope @ natural, slope @ plain))
    np.testing.assert_allclose(steps[0][0], steps[1][0], rtol=0, atol=1e-9)
    assert np.abs(steps[0][1] - steps[1][1]).max() > 0.1


def test_conjugate_gradient_with_the_exact_matrix_gives_the_exact_natural_gradient() -> None:
    matrix, gradient = beyond.fisher(PROBLEM), exact.gradient(PROBLEM)

    def product(vector: Any) -> Any:
        return (matrix @ vector.ravel()).reshape(4, 2)

    @jax.jit
    def natural(damping: Any) -> Any:
        return beyond.natural_gradient(
            jnp.asarray(gradient), product, damping=damping, tolerance=1e-13
        )

    for damping in (0.0, 0.05):
        expected = beyond.exact_natural_gradient(PROBLEM, damping=damping)
        found = np.ravel(jax.device_get(natural(damping)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    undamped = beyond.exact_natural_gradient(PROBLEM)
    assert np.abs(expected - undamped).max() > 0.01


def test_from_a_batch_its_bias_goes_with_the_batch() -> None:
    problem = PROBLEMS[-1]
    mdp, policy, params = problem.mdp, problem.policy, problem.params
    episodes, chance = enumeration.trajectories(replace(problem, horizon=4))
    episodes, params = to_jax((episodes, params))
    target = beyond.exact_natural_gradient(replace(problem, horizon=4), damping=0.1)
    estimator = pgjax.reward_to_go(mdp.discount)

    @jax.jit
    def estimates(members: Any) -> Any:
        def of_batch(members: Any) -> Any:
            batch = jax.tree.map(lambda x: x[members], episodes)
            product = beyond.expected_fisher(
                policy, params, batch, discount=mdp.discount, num_actions=2
            )
            slope = pgjax.gradient(estimator, policy, params, batch)
            natural = beyond.natural_gradient(slope, product, damping=0.1, tolerance=1e-10)
            return ravel_pytree(natural)[0]

        return jax.vmap(of_batch)(members)

    pairs = np.array(np.meshgrid(*2 * [np.arange(len(chance))])).reshape(2, -1).T
    values = np.asarray(estimates(pairs))
    alone = np.where(pairs[:, 0] == pairs[:, 1], chance[pairs[:, 0]], 0)  # twice the same is one
    both = np.prod(chance[pairs], axis=1)
    one, two = (np.linalg.norm(p @ values - target) / np.linalg.norm(target) for p in (alone, both))
    assert one > 0.3
    assert two == pytest.approx(one / 2, rel=0.3)


def test_a_trust_region_s_step_moves_the_policy_by_what_was_asked() -> None:
    gradient, natural = truth(), beyond.exact_natural_gradient(PROBLEM)
    scale = jax.jit(beyond.trust_region_scale)
    visits = exact.visitation(PROBLEM).sum(0)
    old = exact.action_probabilities(PROBLEM)
    errors = []
    for asked in (1e-2, 1e-4):
        step = np.asarray(scale(gradient, natural, asked)) * natural
        new = exact.action_probabilities(replace(PROBLEM, params=LOGITS + step.reshape(4, 2)))
        moved = visits @ np.sum(old * np.log(old / new), -1)
        errors.append(abs(moved / asked - 1))
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)  # of order √δ
    assert beyond.trust_region_scale(jnp.zeros(2), jnp.zeros(2), 0.01) == 0


def test_bad_input_is_named() -> None:
    batch = to_jax(enumerated()[0])
    product = partial(beyond.expected_fisher, POLICY, LOGITS, batch, num_actions=2)
    with pytest.raises(ValueError, match="discount must lie in"):
        product(discount=2.0)
    with pytest.raises(ValueError, match="damping must be at least 0, got -1"):
        beyond.natural_gradient(jnp.ones(2), lambda v: v, damping=-1)
    with pytest.raises(ValueError, match="damping must be at least 0"):
        beyond.exact_natural_gradient(PROBLEM, damping=-0.1)
    with pytest.raises(ValueError, match="max_iterations must be at least 1"):
        beyond.natural_gradient(jnp.ones(2), lambda v: v, damping=0.0, max_iterations=0)
