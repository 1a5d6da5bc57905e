"""The oracle against independent oracles: itself in another form, closed forms, brute force."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

import pgjax
from pgjax import Problem, TabularMDP, exact, tabular

pytestmark = pytest.mark.usefixtures("strict")

TOLERANCE = 1e-10


def discounted_return(problem: Problem, params: Any) -> Any:
    """J by a dynamic program of JAX, for problems in which every state is proper."""
    mdp = problem.mdp
    each = jax.vmap(problem.policy.log_prob, (None, None, 0))
    actions = jnp.arange(mdp.num_actions)
    pi = jnp.exp(jax.vmap(lambda s: each(params, s, actions))(mdp.observation))
    pi = jnp.where(mdp.terminal[:, None], 0, pi)
    reward = jnp.einsum("sa,sat,sat->s", pi, mdp.transition, mdp.reward)
    kernel = mdp.discount * jnp.einsum("sa,sat->st", pi, mdp.transition)
    if problem.horizon is None:
        return mdp.initial @ jnp.linalg.solve(jnp.eye(mdp.num_states) - kernel, reward)
    values = reward
    for _ in range(problem.horizon - 1):
        values = reward + kernel @ values
    return mdp.initial @ values


def differentiated(problem: Problem, order: int) -> list[Any]:
    """∇J and further derivatives up to the order, by differentiating the dynamic program itself."""
    flat, unravel = ravel_pytree(problem.params)

    def value(flat: Any) -> Any:
        return discounted_return(problem, unravel(flat))

    def derivatives(flat: Any, order: int) -> list[Any]:
        if order == 1:
            return [jax.grad(value)(flat)]

        def last_and_all(flat: Any) -> Any:
            lower = derivatives(flat, order - 1)
            return lower[-1], lower

        highest, lower = jax.jacfwd(last_and_all, has_aux=True)(flat)
        return [*lower, highest]

    return jax.jit(derivatives, static_argnums=1)(flat, order)


def case(mdp: TabularMDP, policy: pgjax.Policy, params: Any) -> Problem:
    return Problem(mdp, policy, params, horizon=None)


def noisy(params: Any) -> Any:
    """Every leaf a little off, in float64, whatever it was."""
    leaves, tree = jax.tree.flatten(params)
    random = np.random.default_rng(7)
    return tree.unflatten([np.asarray(x) + 0.5 * random.normal(size=x.shape) for x in leaves])


def flax_case(module: Any) -> Problem:
    # Flax promotes its float32 parameters with the observation by itself, in its own way.
    with jax.numpy_dtype_promotion("standard"):
        policy = pgjax.flax_policy(module)
        shapes = jax.eval_shape(lambda: policy.init(jax.random.key(0), jnp.zeros(4)))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape), shapes)
    return case(tabular.random_mdp(), policy, noisy(zeros))


two_logits = pgjax.softmax_policy(lambda key, s: jnp.zeros(2), lambda params, s: params * s)


CASES: dict[str, Callable[[], Problem]] = {
    "tabular": lambda: case(
        tabular.random_mdp(), pgjax.tabular_softmax(4, 2), noisy(np.zeros((4, 2)))
    ),
    "undiscounted": lambda: case(
        tabular.chain(3, discount=1.0), pgjax.tabular_softmax(5, 2), noisy(np.zeros((5, 2)))
    ),
    "aliased": lambda: case(tabular.short_corridor(), two_logits, np.array([-0.3, 0.4])),
    "linen": lambda: flax_case(pgjax.MLP(num_actions=2, hidden=(3,))),
    "nnx": lambda: flax_case(lambda rngs: nnx.Linear(4, 2, rngs=rngs)),
}
# Each pair compiles anew: a case gets one horizon of each kind, a network one.
each_case_and_horizon = pytest.mark.parametrize(
    ("name", "horizon"),
    [
        *(("tabular", 1), ("tabular", 6), ("tabular", None)),
        *(("undiscounted", 6), ("undiscounted", None), ("aliased", 6), ("aliased", None)),
        *(("linen", None), ("nnx", 6)),
    ],
)
OF_ORDER_3 = [("tabular", 6), ("aliased", None)]
OF_ORDER_2 = [*OF_ORDER_3, ("tabular", None), ("undiscounted", None), ("linen", None), ("nnx", 6)]


@pytest.fixture(scope="module")
def cases(strict: None) -> dict[str, Problem]:
    return {name: make() for name, make in CASES.items()}


@pytest.fixture(scope="module")
def other_form(cases: dict[str, Problem]) -> Callable[[str, int | None], list[Any]]:
    """(name, horizon) -> `differentiated`, up to the highest order that is tested."""

    @cache
    def derivatives(name: str, horizon: int | None) -> list[Any]:
        order = 1 + sum((name, horizon) in tested for tested in (OF_ORDER_2, OF_ORDER_3))
        return differentiated(replace(cases[name], horizon=horizon), order)

    return derivatives


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@each_case_and_horizon
def test_both_forms_of_the_gradient_agree(
    name: str, horizon: int | None, cases: dict[str, Problem], other_form: Callable
) -> None:
    problem = replace(cases[name], horizon=horizon)
    found = exact.gradient(problem)
    other = other_form(name, horizon)[0]
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(found))
    np.testing.assert_allclose(flat(found), other, rtol=0, atol=TOLERANCE)
    if horizon in (6, None):  # zero would agree with zero, as it does in very short episodes
        assert np.max(np.abs(flat(found))) > 1e-3


@pytest.mark.parametrize(("name", "horizon"), OF_ORDER_2)
def test_both_forms_of_the_hessian_agree_and_are_symmetric(
    name: str, horizon: int | None, cases: dict[str, Problem], other_form: Callable
) -> None:
    problem = replace(cases[name], horizon=horizon)
    found = exact.hessian(problem)
    other = other_form(name, horizon)[1]
    scale = max(1.0, float(np.max(np.abs(found))))
    np.testing.assert_allclose(found, other, rtol=0, atol=TOLERANCE * scale)
    np.testing.assert_allclose(found, found.T, rtol=0, atol=TOLERANCE * scale)
    assert np.max(np.abs(found)) > 1e-3


@pytest.mark.parametrize(
    ("name", "horizon"),
    [("tabular", 6), ("undiscounted", None), ("aliased", None), ("linen", None), ("nnx", 6)],
)
def test_the_gradient_is_the_slope_of_the_objective_by_finite_differences(
    name: str, horizon: int | None, cases: dict[str, Problem]
) -> None:
    problem = replace(cases[name], horizon=horizon)
    leaves, tree = jax.tree.flatten(problem.params)
    random = np.random.default_rng(3)
    direction = [random.normal(size=x.shape) for x in leaves]
    direction = [x / np.linalg.norm(flat(direction)) for x in direction]
    h = 1e-4

    def at(step: float) -> float:
        there = [x + step * along for x, along in zip(leaves, direction, strict=True)]
        return float(exact.objective(replace(problem, params=tree.unflatten(there))))

    # Richardson's combination of two central differences: off by O(h⁴) and by eps |J| / h, where
    # |J| < 30 in these cases: below 1e-9 with room for the fifth derivative.
    slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    found = flat(exact.gradient(problem)) @ flat(direction)
    np.testing.assert_allclose(found, slope, rtol=0, atol=1e-9)


@each_case_and_horizon
def test_values_and_action_values_obey_bellman(
    name: str, horizon: int | None, cases: dict[str, Problem]
) -> None:
    problem = replace(cases[name], horizon=horizon)
    V = exact.state_values(problem)
    Q = exact.action_values(problem)
    pi = exact.action_probabilities(problem)
    following = V if horizon is None else np.concatenate([V[1:], np.zeros_like(V[:1])])
    mdp = problem.mdp
    alive = np.where(mdp.terminal, 0.0, following)
    target = mdp.reward + mdp.discount * alive[..., None, None, :]
    expected = np.einsum("sat,...sat->...sa", mdp.transition, target)
    expected = np.where(mdp.terminal[:, None], 0.0, expected)
    np.testing.assert_allclose(Q, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(V, np.sum(pi * Q, axis=-1), rtol=0, atol=TOLERANCE)
    J = exact.objective(problem)
    start = V if horizon is None else V[0]
    np.testing.assert_allclose(J, mdp.initial @ start, rtol=0, atol=TOLERANCE)


@each_case_and_horizon
def test_visitation_pays_the_objective_and_flows(
    name: str, horizon: int | None, cases: dict[str, Problem]
) -> None:
    problem = replace(cases[name], horizon=horizon)
    visits = exact.visitation(problem)
    total = visits if horizon is None else visits.sum(0)
    pi = exact.action_probabilities(problem)
    mdp = problem.mdp
    expected_reward = np.einsum("sa,sat,sat->s", pi, mdp.transition, mdp.reward)
    J = exact.objective(problem)
    np.testing.assert_allclose(total @ expected_reward, J, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(total[mdp.terminal], 0)


def test_a_long_horizon_approaches_the_infinite_one(cases: dict[str, Problem]) -> None:
    # The rest of the sum is at most γ^H times the largest value, 0.8^150 < 3e-15.
    for function in (exact.objective, exact.gradient):
        near = function(replace(cases["tabular"], horizon=150))
        np.testing.assert_allclose(near, function(cases["tabular"]), rtol=0, atol=1e-12)


def test_the_mismatched_gradient_is_the_gradient_only_without_discount(
    cases: dict[str, Problem],
) -> None:
    for horizon in (6, None):
        for name, differs in (("tabular", True), ("undiscounted", False)):
            problem = replace(cases[name], horizon=horizon)
            true = exact.gradient(problem)
            found = exact.mismatched_gradient(problem)
            gap = np.max(np.abs(found - true))
            assert gap > 1e-2 if differs else gap < TOLERANCE


def test_one_program_computes_both_gradients_whatever_the_horizon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy, table = pgjax.tabular_softmax(4, 3), np.ones((4, 3))
    problem = Problem(tabular.random_mdp(num_actions=3), policy, table, horizon=5)

    def programs(derive: Callable[[Problem], Any], problem: Problem) -> int:
        caplog.clear()
        with jax.log_compiles():
            derive(problem)
        return sum(
            "_gradient" in message and "Finished XLA" in message for message in caplog.messages
        )

    assert programs(exact.gradient, problem) == 1
    assert programs(exact.mismatched_gradient, problem) == 0
    assert programs(exact.gradient, replace(problem, horizon=None)) == 0


def test_the_mismatched_gradient_weighs_states_without_their_discount(
    cases: dict[str, Problem],
) -> None:
    problem = replace(cases["tabular"], horizon=6)
    visits = exact.visitation(replace(problem, mdp=replace(problem.mdp, discount=1.0)))
    Q = exact.action_values(problem)
    pi = exact.action_probabilities(problem)
    advantage = Q - np.sum(pi * Q, axis=-1, keepdims=True)
    expected = np.einsum("ks,sa,ksa->sa", visits, pi, advantage)  # ∇π = π (e − π) for a softmax
    found = exact.mismatched_gradient(problem)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_two_armed_bandit_in_closed_form() -> None:
    mdp, policy = tabular.two_armed_bandit(), pgjax.tabular_softmax(3, 2)
    params = np.zeros((3, 2))
    params[0] = [0.2, -0.5]
    p = 1 / (1 + np.exp(-0.7))  # of the first arm
    J = exact.objective(Problem(mdp, policy, params, horizon=1))
    np.testing.assert_allclose(J, 0.3 * p + 0.6 * (1 - p), rtol=1e-14)
    slope = p * (1 - p) * (0.3 - 0.6)
    gradient = exact.gradient(case(mdp, policy, params))
    expected = [[slope, -slope], [0, 0], [0, 0]]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-15)
    curvature = exact.hessian(case(mdp, policy, params))
    np.testing.assert_allclose(curvature[0, 0], slope * (1 - 2 * p), rtol=1e-13)


def corridor(probability_of_right: float) -> Problem:
    p = probability_of_right
    return case(tabular.short_corridor(), two_logits, np.array([0.0, np.log(p / (1 - p))]))


def test_the_short_corridor_has_sutton_and_bartos_optimum() -> None:
    # Solving Example 13.1 by hand: V = 2 (p − 2) / (p (1 − p)), largest at p = 2 − √2.
    for p in (0.05, 0.3, 0.9):
        expected = 2 * (p - 2) / (p * (1 - p))
        J = exact.objective(corridor(p))
        np.testing.assert_allclose(J, expected, rtol=1e-12)
    best = corridor(2 - np.sqrt(2))
    J = exact.objective(best)
    np.testing.assert_allclose(J, -2 * (3 + 2 * np.sqrt(2)), rtol=1e-12)
    np.testing.assert_allclose(exact.gradient(best), [0, 0], rtol=0, atol=1e-12)
    curvature = exact.hessian(best)
    assert np.max(np.linalg.eigvalsh(curvature)) < 1e-10  # a maximum; one direction is flat
    assert np.min(np.linalg.eigvalsh(curvature)) < -1


def test_undiscounted_visits_sum_to_the_expected_length() -> None:
    visits = exact.visitation(corridor(0.4))
    J = exact.objective(corridor(0.4))  # −1 a step
    np.testing.assert_allclose(visits.sum(), -J, rtol=1e-12)


def continuing(discount: float) -> TabularMDP:
    transition = np.array([[[0.1, 0.9], [0.6, 0.4]], [[0.5, 0.5], [1.0, 0.0]]])
    reward = np.arange(8.0).reshape(2, 2, 2)
    return TabularMDP(transition, reward, [0.3, 0.7], [False, False], discount)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99])
def test_visits_of_a_continuing_task_sum_to_the_effective_horizon(discount: float) -> None:
    visits = exact.visitation(case(continuing(discount), pgjax.tabular_softmax(2, 2), np.eye(2)))
    np.testing.assert_allclose(visits.sum(), 1 / (1 - discount), rtol=1e-12)


@pytest.mark.parametrize(("name", "horizon"), OF_ORDER_3)
def test_both_forms_of_the_third_derivative_agree_and_are_symmetric(
    name: str, horizon: int | None, cases: dict[str, Problem], other_form: Callable
) -> None:
    problem = replace(cases[name], horizon=horizon)
    found = exact.third_derivative(problem)
    other = other_form(name, horizon)[2]
    scale = float(np.max(np.abs(found)))
    assert scale > 1e-3
    np.testing.assert_allclose(found, other, rtol=0, atol=TOLERANCE * scale)
    for axes in [(1, 0, 2), (0, 2, 1)]:
        np.testing.assert_allclose(found, found.transpose(axes), rtol=0, atol=TOLERANCE * scale)


def test_the_third_derivative_is_the_slope_of_the_hessian(cases: dict[str, Problem]) -> None:
    problem = replace(cases["tabular"], horizon=6)
    step = np.zeros((4, 2))
    step[1, 0] = 1e-4
    above, below = (
        exact.hessian(replace(problem, params=problem.params + h)) for h in (step, -step)
    )
    found = exact.third_derivative(problem)[2]
    np.testing.assert_allclose((above - below) / 2e-4, found, rtol=0, atol=1e-8)


def test_only_unreachable_states_that_need_not_end_have_no_value() -> None:
    # From state 0 the episode ends; states 1 and 2 go round and round, and nothing leads there
    # but state 3, which nothing reaches either.
    transition = np.zeros((5, 1, 5))
    for now, following in enumerate([4, 2, 1, 1, 4]):
        transition[now, 0, following] = 1
    mdp = TabularMDP(transition, np.ones((5, 1, 5)), np.eye(5)[0], np.arange(5) == 4, 1.0)
    problem = case(mdp, pgjax.tabular_softmax(5, 1), np.zeros((5, 1)))
    assert exact.objective(problem) == 1
    np.testing.assert_array_equal(exact.state_values(problem), [1, np.nan, np.nan, np.nan, 0])
    Q = exact.action_values(problem)[:, 0]
    np.testing.assert_array_equal(Q, [1, np.nan, np.nan, np.nan, 0])
    np.testing.assert_array_equal(
        exact.state_values(replace(problem, horizon=2)), [[1, 2, 2, 2, 0], [1, 1, 1, 1, 0]]
    )


def test_an_episode_that_need_not_end_is_refused_by_the_name_of_its_state() -> None:
    problem = case(continuing(1.0), pgjax.tabular_softmax(2, 2), np.eye(2))
    with pytest.raises(ValueError, match=r"from state 0 it need not.*give a horizon or a discount"):
        exact.objective(problem)
    assert np.isfinite(exact.objective(replace(problem, horizon=3)))
    with pytest.raises(ValueError, match="from state 0"):
        exact.mismatched_gradient(replace(problem, mdp=continuing(0.9)))


@pytest.mark.parametrize(
    "function", [exact.objective, exact.gradient, exact.state_values, exact.hessian]
)
def test_results_are_float64_numpy_whatever_the_setting(function: Callable) -> None:
    table = np.linspace(-1, 1, 8).reshape(4, 2).astype(np.float32)
    problem = Problem(tabular.random_mdp(), pgjax.tabular_softmax(4, 2), table, horizon=6)
    wide = function(problem)
    with jax.enable_x64(False):
        found = function(problem)
    assert isinstance(found, np.ndarray | np.float64)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, wide)


def test_another_mdp_of_the_same_shape_does_not_recompile() -> None:
    traced = []

    def logits(params: Any, observation: Any) -> Any:
        traced.append(observation)
        return observation @ params

    policy = pgjax.softmax_policy(lambda key, s: jnp.zeros((4, 2)), logits)
    table = np.eye(4)[:, :2]
    first = exact.gradient(Problem(tabular.random_mdp(0), policy, table, 3))
    before = len(traced)
    assert before > 0
    second = exact.gradient(Problem(tabular.random_mdp(1, discount=0.5), policy, table + 1, 3))
    assert np.any(first != second)
    assert len(traced) == before


@pytest.mark.parametrize("evaluate", [exact.objective, exact.gradient, exact.spread])
def test_an_end_too_unlikely_for_float64_is_named(evaluate: Callable[[Problem], Any]) -> None:
    def walk(end: float) -> Problem:
        transition = np.array([[[1 - end, end]], [[0.0, 1.0]]])
        mdp = TabularMDP(
            transition, np.ones((2, 1, 2)), np.array([1.0, 0.0]), np.array([False, True]), 1.0
        )
        return Problem(mdp, pgjax.tabular_softmax(2, 1), np.zeros((2, 1)), horizon=None)

    evaluate(walk(0.5))
    with pytest.raises(ValueError, match="too small for float64; give a horizon or a discount"):
        evaluate(walk(1e-20))
