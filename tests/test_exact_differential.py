"""`exact` against NumPy written from the definitions, on MDPs of every degenerate kind.

The other implementation shares no code with pgjax. Where the horizon is infinite it uses none of
its linear systems either: sums over time go on until what is left is below rounding.
"""

from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest

from pgjax import Problem, exact, tabular_softmax
from pgjax.exact.tabular import TabularMDP

S = 4
DISCOUNTS = (0.0, 0.5, 0.9, 0.99, 1.0)
KINDS = ("dense", "deterministic", "self-loops", "unreachable", "no reward", "large logits")
TERMINAL = np.array([False, False, False, True])


class Case(NamedTuple):
    mdp: TabularMDP
    logits: np.ndarray
    horizon: int | None


def make(kind: str, num_actions: int, discount: float, horizon: int | None, seed: int) -> Case:
    """A random MDP of four states, the last of them terminal."""
    random = np.random.default_rng(seed)
    transition = random.dirichlet(np.ones(S), size=(S, num_actions))
    initial = random.dirichlet(np.ones(S - 1))
    if kind == "deterministic":
        target = random.integers(1, S, size=(S, num_actions))
        target[:, 0] = np.arange(1, S + 1).clip(max=S - 1)  # one action always goes on
        transition = np.eye(S)[target]
        if horizon is None and discount == 1:
            transition = 0.9 * transition + 0.1 * np.eye(S)[-1]
    if kind == "self-loops":
        transition = 0.8 * np.eye(S)[:, None] + 0.2 * transition
    if kind == "unreachable":  # state 2 never ends, and no episode gets there
        transition[:, :, 2] = 0
        transition[2] = np.eye(S)[2]
        transition /= transition.sum(-1, keepdims=True)
        initial[2] = 0
    reward = random.normal(size=(S, num_actions, S)) * (kind != "no reward")
    transition[-1] = np.eye(S)[-1]
    reward[-1] = 0
    initial = np.append(initial[: S - 1], 0)
    mdp = TabularMDP(transition, reward, initial / initial.sum(), TERMINAL, discount)
    size = 40 if kind == "large logits" else 1
    logits = random.uniform(-size, size, size=(S, num_actions))
    if kind == "large logits" and horizon is None and discount == 1:
        logits /= 8  # or an episode may last 1e15 steps
    return Case(mdp, logits, horizon)


class Truth(NamedTuple):
    objective: float
    values: np.ndarray  # [S] of the first step
    gradient: np.ndarray  # [S, A]
    mismatched: np.ndarray  # [S, A]


def by_definition(case: Case) -> Truth:
    """Sums over time of what a step adds, forwards for visits and backwards for values."""
    mdp, γ = case.mdp, case.mdp.discount
    shifted = np.exp(case.logits - case.logits.max(1, keepdims=True))
    π = shifted / shifted.sum(1, keepdims=True)
    alive = ~mdp.terminal
    P = mdp.transition * alive[:, None, None]
    r = (P * mdp.reward).sum(-1)
    H = case.horizon or 20_000
    if case.horizon is None:  # values have converged to rounding long before
        V = np.zeros(S)
        for _ in range(H):
            V, before = (π * (r + γ * P @ V)).sum(1), V
            if np.max(np.abs(V - before)) < 1e-16:
                break
        values = [V] * (H + 1)
    else:
        values = [np.zeros(S)]
        for _ in range(H):
            values.append((π * (r + γ * P @ values[-1])).sum(1))
        values = values[::-1]
    visits = mdp.initial * alive
    gradient, mismatched = np.zeros_like(π), np.zeros_like(π)
    for step in range(H):
        later = values[step + 1] if case.horizon is not None else values[0]
        Q = r + γ * P @ later
        share = visits[:, None] * π * (Q - (π * Q).sum(1, keepdims=True))
        gradient += γ**step * share
        mismatched += share
        visits = np.einsum("s,sa,sat->t", visits, π, P) * alive
        if visits.sum() < 1e-18:
            break
    return Truth(float(mdp.initial @ values[0]), values[0], gradient, mismatched)


@pytest.mark.parametrize(("num_actions", "horizon"), [(3, 1), (3, 4), (3, None), (1, 4), (1, None)])
def test_exact_is_what_the_definitions_give(num_actions, horizon):
    """150 MDPs in all: 6 kinds, 5 discounts, and one step, some, or no end to them."""
    policy = tabular_softmax(S, num_actions)
    differing = 0.0
    for seed, (kind, discount) in enumerate(product(KINDS, DISCOUNTS)):
        case = make(kind, num_actions, discount, horizon, seed)
        truth = by_definition(case)
        problem = Problem(case.mdp, policy, case.logits, horizon)
        scale = max(1.0, float(np.max(np.abs(truth.values))))
        name = f"{kind}, {num_actions} actions, γ = {discount}, H = {horizon}"

        def close(found, expected, what, name=name, scale=scale):
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=1e-10 * scale, err_msg=f"{what} of {name}"
            )

        close(exact.objective(problem), truth.objective, "J")
        values = exact.state_values(problem)
        first = values if horizon is None else values[0]
        known = ~np.isnan(first)  # NaN where an endless episode has no value
        assert known[(case.mdp.initial > 0)].all()
        close(first[known], truth.values[known], "V")
        gradient = exact.gradient(problem)
        close(gradient, truth.gradient, "∇J")
        close(exact.mismatched_gradient(problem), truth.mismatched, "the mismatched gradient")
        mean = exact.moments(problem).mean.reshape(S, num_actions)
        close(mean, truth.gradient, "the mean of reward-to-go")
        if kind == "dense":
            wrong = by_definition(case._replace(mdp=replace(case.mdp, discount=discount / 2 + 0.2)))
            differing = max(differing, float(np.max(np.abs(wrong.gradient - gradient))))
    if num_actions > 1 and horizon != 1:
        assert differing > 1e-3  # the negative control: another γ is seen


EXACT = {
    "gradient": exact.gradient,
    "mismatched_gradient": exact.mismatched_gradient,
    "hessian": exact.hessian,
    "third_derivative": exact.third_derivative,
    "optimal_state_baseline": exact.optimal_state_baseline,
    "visitation": exact.visitation,
    "local_entropy_gradient": exact.local_entropy_gradient,
    **{
        f"moments of {name}": lambda problem, of=of: exact.moments(problem, of=of)
        for name, of in (
            ("reward-to-go", exact.REWARD_TO_GO),
            ("the total return", exact.TOTAL_RETURN),
            ("the mismatched one", exact.MISMATCHED),
        )
    },
    "spread": lambda problem: exact.spread(problem),
}


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("name", EXACT)
def test_a_state_that_no_episode_gets_to_changes_nothing(name, discount):
    """It loops for ever; the MDP in which it ends at once is the truth."""
    random = np.random.default_rng(0)
    transition = np.zeros((3, 2, 3))
    transition[0] = [[0.6, 0, 0.4], [0.3, 0, 0.7]]
    transition[1, :, 1] = transition[2, :, 2] = 1
    reward = random.normal(size=(3, 2, 3))
    reward[2] = 0
    initial, terminal = np.array([1.0, 0, 0]), np.array([False, False, True])
    logits = random.normal(size=(3, 2))
    looping = TabularMDP(transition, reward, initial, terminal, discount)
    reward = reward * np.array([1, 0, 0])[:, None, None]
    ending = TabularMDP(transition, reward, initial, np.array([False, True, True]), discount)

    def numbers(found):
        return np.concatenate(
            [np.ravel(x) for x in (found if isinstance(found, tuple) else (found,))]
        )

    found, expected = (
        numbers(EXACT[name](Problem(mdp, tabular_softmax(3, 2), logits, None)))
        for mdp in (looping, ending)
    )
    assert np.all(np.isfinite(found))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.any(expected != 0)
