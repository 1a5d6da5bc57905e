"""Exact mathematics, compilation included: it is asked once for each problem, not in a loop."""

from functools import partial
from math import log, sqrt

import jax
import numpy as np

import pgjax
from benchmarks.harness import Case, Contender, Row, Scale
from pgjax import enumeration, exact, tabular
from pgjax.exact.tabular import TabularMDP


def enumerated(scale: Scale) -> Case:
    """Two actions and two successors: 4^H trajectories, about as many as the long sequence."""
    horizon = max(round(log(scale.sequence, 4)), 1)
    mdp = _endless()
    settings = {"horizon": horizon, "limit": 4 ** (horizon + 1)}
    policy, params = pgjax.tabular_softmax(4, 2), np.linspace(-1, 1, 8).reshape(4, 2)

    def run() -> np.ndarray:
        jax.clear_caches()
        estimator = pgjax.reward_to_go(mdp.discount)
        return enumeration.moments(estimator, mdp, policy, params, **settings).mean

    def check() -> None:
        truth = exact.gradient(mdp, policy, params, horizon=horizon).ravel()
        np.testing.assert_allclose(run(), truth, rtol=0, atol=1e-10)

    count = enumeration.count(mdp, policy, params, horizon=horizon)
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
    policy = pgjax.tabular_softmax(S, 4)
    logits = 0.1 * np.random.default_rng(0).normal(size=(S, 4))

    def spread(function) -> np.ndarray:
        jax.clear_caches()
        return function(mdp, policy, logits, horizon=horizon).mean

    def check() -> None:
        truth = exact.gradient(mdp, policy, logits, horizon=horizon).ravel()
        for function in (exact.reward_to_go_spread, exact.total_return_spread):
            np.testing.assert_allclose(spread(function), truth, rtol=0, atol=1e-10)

    return Case(
        {
            "pgjax": Contender(partial(spread, exact.reward_to_go_spread), S, role="ours"),
            "pgjax, total return": Contender(
                partial(spread, exact.total_return_spread), S, role="ours"
            ),
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
