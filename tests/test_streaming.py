"""Streams: however a batch is cut into micro-batches, the estimate is that of the whole batch.

An MDP is sampled in double precision, where equality is sharpest; CartPole in single precision, as
gymnax runs under neither strict promotion nor, everywhere, x64.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import pgjax
from pgjax import (
    Estimator,
    Policy,
    TabularMDP,
    Trajectory,
    baselines,
    tabular,
    terms,
    weights,
)

pytestmark = pytest.mark.usefixtures("checked_annotations")

DISCOUNT = 0.9
N = 24
ESTIMATORS = {
    "uncoupled": pgjax.reward_to_go(DISCOUNT),
    "leave one out": pgjax.rloo(DISCOUNT),
    "batch mean": pgjax.reinforce(DISCOUNT, baseline=baselines.batch_mean),
    "reads observations": pgjax.reward_to_go(
        DISCOUNT,
        baseline=baselines.state_value(lambda s: s @ np.array([1.0, -2.0, 0.5, 3.0], np.float32)),
    ),
    "reads log-probabilities": Estimator(
        weights.reward_to_go(DISCOUNT, baseline=baselines.leave_one_out), terms.importance_ratio
    ),
}
TABLE = np.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]])
MDP = tabular.random_mdp()
TABULAR = pgjax.tabular_softmax(4, 2)
KEY = 7


@cache
def cartpole() -> tuple[Any, Any]:
    return gymnax.make("CartPole-v1")


@cache
def network() -> tuple[Policy, Any]:
    """A policy with several leaves, and its parameters."""
    policy = pgjax.flax_policy(pgjax.MLP(num_actions=2, hidden=(8,)))
    return policy, jax.jit(policy.init)(jax.random.key(1), np.zeros(4, np.float32))


def on_mdp(
    run: Callable[..., Any], *estimator: Estimator, impl: str = "threefry2x32", **settings: Any
) -> Any:
    with jax.enable_x64(True):
        arguments = TABULAR, jnp.asarray(TABLE), MDP, jax.random.key(KEY, impl=impl)
        return run(*estimator, *arguments, num_trajectories=N, num_steps=5, **settings)


def on_cartpole(run: Callable[..., Any], *estimator: Estimator, **settings: Any) -> Any:
    arguments = *network(), cartpole()[0], jax.random.key(KEY)
    return run(*estimator, *arguments, num_trajectories=N, num_steps=40, **settings)


PROBLEMS = {"mdp": on_mdp, "cartpole": on_cartpole}
NAMES = {"mdp": tuple(ESTIMATORS), "cartpole": ("uncoupled", "leave one out", "reads observations")}


class Kept(NamedTuple):
    """What an estimator makes of the batch that is kept."""

    gradient: Any
    of_each: Any


@partial(jax.jit, static_argnums=(0, 1))
def estimates(
    names: tuple[str, ...], policy: Policy, params: Any, batch: Trajectory
) -> dict[str, Kept]:
    """Of each estimator: one program, whose parts share the scores."""
    found = {}
    for name in names:
        estimator = ESTIMATORS[name]
        gradient = pgjax.gradient(estimator, policy, params, batch)
        each = pgjax.per_trajectory_gradients(estimator, policy, params, batch)
        found[name] = Kept(gradient, each)
    return found


@cache
def kept(problem: str) -> dict[str, Kept]:
    batch = PROBLEMS[problem](pgjax.rollout)
    with jax.enable_x64(problem == "mdp"):
        policy, params = (TABULAR, jnp.asarray(TABLE)) if problem == "mdp" else network()
        return jax.device_get(estimates(NAMES[problem], policy, params, batch))


def mean_and_squares(each: Any) -> tuple[Any, Any]:
    """The mean of N gradients, and the sum of the squares of what they differ from it."""
    mean = jax.tree.map(lambda x: np.mean(x, axis=0), each)
    return mean, jax.tree.map(lambda x: N * np.var(x, axis=0), each)


def assert_equal_to_rounding(problem: str, found: Any, expected: Any, power: int = 1) -> None:
    """Within 4 √n eps of the mean size of n terms, n a trajectory's or a batch's steps.

    The terms are those without a baseline, for what a baseline cancels it does not round away; four
    stands for the roundings within a term. `power` 2 is for sums of N squares.
    """
    n = N * (5 if problem == "mdp" else 40)
    precision = np.float64 if problem == "mdp" else np.float32
    bound = 4 * np.sqrt(n) * np.finfo(precision).eps * N ** (power - 1)
    for x, y, each in zip(
        *map(jax.tree.leaves, (found, expected, kept(problem)["uncoupled"].of_each)), strict=True
    ):
        size = np.mean(np.linalg.norm(np.reshape(each, (N, -1)), axis=1) ** power)
        assert_allclose(x, y, rtol=0, atol=bound * size)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("uncoupled", 8),
        ("batch mean", 1),
        *((name, 5) for name in ("leave one out", "reads observations", "reads log-probabilities")),
    ],
)
def test_the_gradient_of_a_stream_is_that_of_the_batch_whatever_the_split(
    name: str, split: int | None
) -> None:
    # Thirds, single trajectories, and micro-batches of a size that does not divide N.
    found = on_mdp(pgjax.sampled_gradient, ESTIMATORS[name], micro_batch_size=split)
    assert_equal_to_rounding("mdp", found, kept("mdp")[name].gradient)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_a_key_of_any_implementation_draws_the_same_whatever_the_split(impl: str) -> None:
    name, batch = "leave one out", on_mdp(pgjax.rollout, impl=impl)
    with jax.enable_x64(True):
        expected = estimates(NAMES["mdp"], TABULAR, jnp.asarray(TABLE), batch)[name].gradient
    found = on_mdp(pgjax.sampled_gradient, ESTIMATORS[name], micro_batch_size=5, impl=impl)
    assert_equal_to_rounding("mdp", found, expected)


def test_rbg_itself_draws_otherwise_in_another_batch() -> None:
    """The negative control: why no rbg key may reach a draw."""

    @jax.jit
    def drawn(key: Any) -> tuple[Any, Any]:
        keys, bits = jax.random.split(key, 4), jax.vmap(jax.random.bits)
        return bits(keys)[2:], bits(keys[2:])

    found, alone = drawn(jax.random.key(KEY, impl="rbg"))
    assert not np.array_equal(found, alone)


@pytest.mark.parametrize(("name", "split"), [("leave one out", 7), ("reads observations", None)])
def test_the_same_with_a_network_on_cartpole(name: str, split: int | None) -> None:
    found = on_cartpole(pgjax.sampled_gradient, ESTIMATORS[name], micro_batch_size=split)
    expected, _ = mean_and_squares(kept("cartpole")[name].of_each)
    assert_equal_to_rounding("cartpole", found, expected)


@pytest.mark.parametrize(
    ("problem", "name", "split"),
    [
        ("mdp", "leave one out", None),
        ("mdp", "leave one out", 5),
        ("cartpole", "leave one out", 1),
    ],
)
def test_running_moments_are_those_of_all_trajectories_at_once(
    problem: str, name: str, split: int | None
) -> None:
    run = PROBLEMS[problem]
    found = run(pgjax.sampled_moments, ESTIMATORS[name], micro_batch_size=split)
    mean, squares = mean_and_squares(kept(problem)[name].of_each)
    assert float(found.num_samples) == N
    assert_equal_to_rounding(problem, found.mean, mean)
    assert_equal_to_rounding(problem, found.squares, squares, power=2)


def test_in_double_precision_they_agree_to_1e_12() -> None:
    name, split = "leave one out", 5
    mean, squares = mean_and_squares(kept("mdp")[name].of_each)
    found = on_mdp(pgjax.sampled_moments, ESTIMATORS[name], micro_batch_size=split)
    gradient = on_mdp(pgjax.sampled_gradient, ESTIMATORS[name], micro_batch_size=split)
    assert gradient.dtype == np.float64
    assert_allclose(gradient, mean, rtol=0, atol=1e-12)
    for x, y in zip(found, (N, mean, squares), strict=True):
        assert_allclose(x, y, rtol=0, atol=1e-12)


def test_weighing_each_micro_batch_on_its_own_gives_another_number() -> None:
    """The negative control: a loop over micro-batches that loses the coupling is noticed."""

    def less_the_others(returns: np.ndarray) -> np.ndarray:
        others = np.sum(returns, axis=-1, keepdims=True) - returns
        return returns - others / (returns.shape[-1] - 1)

    name, reward = "leave one out", np.asarray(on_mdp(pgjax.rollout).reward)
    returns = np.sum(reward * DISCOUNT ** np.arange(5), axis=1)
    score = kept("mdp")[name].of_each / less_the_others(returns)[:, None, None]
    weight = less_the_others(returns.reshape(-1, 8)).ravel()
    naive = np.mean(weight[:, None, None] * score, axis=0)
    streamed = on_mdp(pgjax.sampled_gradient, ESTIMATORS[name], micro_batch_size=5)
    with pytest.raises(AssertionError, match="Mismatched"):
        assert_equal_to_rounding("mdp", streamed, naive)


# Memory: what is kept of a batch.

WIDTH, MANY, LONG = 200, 256, 500
FLOAT = np.dtype(np.float32).itemsize
OBSERVATIONS = MANY * LONG * WIDTH * FLOAT
"""Bytes of the batch's observations."""


def temporary_bytes(estimator: Estimator) -> int:
    """Of the compiled estimate, one trajectory at a time, of an MDP with wide observations."""
    wide = np.random.default_rng(0).normal(size=(4, WIDTH)).astype(np.float32)
    mdp = TabularMDP(MDP.transition, MDP.reward, MDP.initial, MDP.terminal, DISCOUNT, wide)
    policy = pgjax.softmax_policy(
        lambda key, s: jnp.zeros((WIDTH, 2)), lambda params, s: s @ params
    )

    def estimate(params: Any, key: Any) -> Any:
        return pgjax.sampled_gradient(
            estimator, policy, params, mdp, key,
            num_trajectories=MANY, num_steps=LONG, micro_batch_size=1,
        )  # fmt: skip

    lowered = jax.jit(estimate).lower(np.zeros((WIDTH, 2), np.float32), jax.random.key(0))
    analysis = lowered.compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def test_observations_are_not_kept() -> None:
    # Kept of each step are a reward and a flag, then a share; twice, as a loop's carry goes in and
    # out. Of one trajectory's observations at a time there are two copies, recorded and cut.
    kept = MANY * LONG * (FLOAT + 1 + FLOAT)
    held = OBSERVATIONS / MANY
    assert temporary_bytes(ESTIMATORS["leave one out"]) < 2 * (kept + held) < OBSERVATIONS / 20


def test_observations_that_the_weights_read_are_kept_and_the_measure_sees_them() -> None:
    value = baselines.state_value(lambda observation: jnp.sum(observation))
    assert temporary_bytes(pgjax.reward_to_go(DISCOUNT, baseline=value)) > OBSERVATIONS


# Bad input.


@pytest.mark.parametrize("run", [pgjax.sampled_gradient, pgjax.sampled_moments])
def test_bad_input_is_refused_with_what_it_was(run: Callable[..., Any]) -> None:
    estimator = ESTIMATORS["uncoupled"]
    arguments = {
        "estimator": estimator, "policy": TABULAR, "params": jnp.asarray(TABLE),
        "environment": MDP, "key": jax.random.key(0), "num_trajectories": N, "num_steps": 5,
    }  # fmt: skip
    bad: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ValueError, "micro_batch_size must be at least 1, got 0", {"micro_batch_size": 0}),
        (TypeError, "micro_batch_size must be an integer, got 2.5", {"micro_batch_size": 2.5}),
        (ValueError, "num_trajectories must be at least 1", {"num_trajectories": 0}),
        (ValueError, "num_steps must be at least 1", {"num_steps": -1}),
        (TypeError, "environment must be a pgjax Environment", {"environment": "CartPole-v1"}),
        (TypeError, "params must be floating", {"params": jnp.zeros((4, 2), int)}),
        (TypeError, "key must be a jax.random key", {"key": 0}),
    ]
    for error, message, change in bad:
        with pytest.raises(error, match=message):
            run(**arguments | change)
