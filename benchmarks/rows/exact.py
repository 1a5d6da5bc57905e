"""Exact mathematics, compilation included: it is asked once for each problem, not in a loop."""

from functools import partial
from math import log, sqrt

import jax
import numpy as np

import pgjax
from benchmarks.harness import Case, Contender, Row, Scale
from pgjax import Problem, enumeration, exact, tabular
from pgjax.exact.tabular import TabularMDP


def enumerated(scale: Scale) -> Case:
    """Two actions and two successors: 4^H trajectories, about as many as the long sequence."""
    horizon = max(round(log(scale.sequence, 4)), 1)
    mdp = _endless()
    params = np.linspace(-1, 1, 8).reshape(4, 2)
    problem = Problem(mdp, pgjax.tabular_softmax(4, 2), params, horizon)

    def run() -> np.ndarray:
        jax.clear_caches()
        estimator = pgjax.reward_to_go(mdp.discount)
        return enumeration.moments(estimator, problem, limit=4 ** (horizon + 1)).mean

    def check() -> None:
        truth = exact.gradient(problem).ravel()
        np.testing.assert_allclose(run(), truth, rtol=0, atol=1e-10)

    count = enumeration.count(problem)
    return Case(
        {"pgjax": Contender(run, work=count, role="ours")},
        unit="trajectories",
        check=check,
        note=f"float64, {count:,} trajectories of {horizon} steps, mean and covariance, P = 8",
    )


def gridworld(scale: Scale) -> Case:
    """A square grid of about as many cells as a batch has columns: 20 × 20 at full size."""
    side = max(int(sqrt(0.8 * scale.columns)), 2)
    mdp, horizon = tabular.gridworld(side, side), max(scale.columns * 2 // 5, 2)
    S = mdp.num_states
    logits = 0.1 * np.random.default_rng(0).normal(size=(S, 4))
    problem = Problem(mdp, pgjax.tabular_softmax(S, 4), logits, horizon)

    def spread(of) -> np.ndarray:
        jax.clear_caches()
        return exact.spread(problem, of).mean

    def check() -> None:
        truth = exact.gradient(problem).ravel()
        for of in (exact.REWARD_TO_GO, exact.TOTAL_RETURN):
            np.testing.assert_allclose(spread(of), truth, rtol=0, atol=1e-10)

    return Case(
        {
            "pgjax": Contender(partial(spread, exact.REWARD_TO_GO), S, role="ours"),
            "pgjax, total return": Contender(partial(spread, exact.TOTAL_RETURN), S, role="ours"),
        },
        unit="states",
        check=check,
        note=f"float64, {S} states, 4 actions, P = {4 * S}, horizon {horizon}, mean and variances",
    )


def _endless() -> TabularMDP:
    """A random MDP without its terminal state: every trajectory has all H steps."""
    base = tabular.random_mdp(0, num_states=5)
    transition = np.zeros((4, 2, 4))
    for state, action in np.ndindex(4, 2):
        transition[state, action, [(state + action) % 4, (state + action + 2) % 4]] = [0.4, 0.6]
    return TabularMDP(transition, base.reward[:4, :, :4], np.eye(4)[0], np.zeros(4, bool), 0.8)


ROWS = (
    Row("enumeration", "exact moments over every trajectory", enumerated, 3),
    Row("exact-gridworld", "exact variances by dynamic programming", gridworld, 3),
)
