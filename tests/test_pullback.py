"""Pieces: a batch taken a few rows at a time, live ones only, gives what the whole batch gives.

The plain path is JAX's derivative of the surrogate of a batch small enough to be one piece. Pieces
are made small here, so that a batch of a hundred rows has many.
"""

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import pgjax
from pgjax import Estimator, Policy, Trajectory, baselines, terms, weights
from pgjax.core import scores
from pgjax.core.scores import log_probs, pull_back_and_sum

pytestmark = pytest.mark.usefixtures("strict")

N, T = 7, 13
CHECK = {"rtol": 0, "atol": 1e-12}
# Coupled, and with log-probabilities in the term: both passes over the network matter.
ESTIMATOR = Estimator(
    weights.reward_to_go(0.9, baseline=baselines.leave_one_out), terms.importance_ratio
)
POLICY = pgjax.softmax_policy(
    lambda key, s: {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)},
    lambda params, s: jnp.tanh(s @ jnp.asarray(params["w"])) + params["b"],
)
RANDOM = np.random.default_rng(0)
PARAMS = {"w": RANDOM.normal(size=(3, 2)), "b": RANDOM.normal(size=2)}


def small_pieces() -> pytest.MonkeyPatch:
    """Pieces of 16 rows, or of 4 trajectories × 5 steps: 6 of a batch, or 2 × 3; until undone.

    The policy is another record of the same functions: what was traced of the first, in one piece,
    is not found again.
    """
    patch = pytest.MonkeyPatch()
    patch.setattr(
        sys.modules[__name__],
        "POLICY",
        Policy(*(partial(getattr(POLICY, f.name)) for f in fields(POLICY))),
    )
    patch.setattr(scores, "CPU_ROWS", 16)
    patch.setattr(scores, "ACCELERATOR_ROWS", 16)
    patch.setattr(scores, "TRAJECTORIES", 4)
    patch.setattr(scores, "STEPS", 5)
    assert scores.rows_of_a_piece() < N * T
    return patch


def compiled_in_pieces(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    patch = small_pieces()
    try:
        return jax.jit(lambda *x: function(*x)).lower(*arguments).compile()
    finally:
        patch.undo()


def masks() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    length = random.integers(1, T + 1, size=(N, 1))
    prefix = np.arange(T) < length
    return {
        "full": np.ones((N, T), bool),
        "prefixes": prefix,
        "holes": random.random((N, T)) < 0.4,
        "dead trajectories": prefix & (np.arange(N)[:, None] % 3 == 1),
        "one live row": (np.arange(N * T) == 40).reshape(N, T),
        "dead": np.zeros((N, T), bool),
    }


MASKS = masks()


def batch_with(mask: np.ndarray, *, garbage: bool = False, seed: int = 2) -> Trajectory:
    """A random batch; behind the mask zeros, or what must never be read."""
    random = np.random.default_rng(seed)

    def field(values: np.ndarray, bad: Any) -> Any:
        dead = ~mask.reshape(mask.shape + (1,) * (values.ndim - 2))
        return jnp.asarray(np.where(dead, np.asarray(bad if garbage else 0, values.dtype), values))

    return Trajectory(
        observation=field(random.normal(size=(N, T, 3)), np.nan),
        action=field(random.integers(2, size=(N, T)), 99),
        reward=field(random.normal(size=(N, T)), np.nan),
        log_prob=field(np.log(random.uniform(0.2, 0.9, size=(N, T))), np.nan),
        terminated=jnp.zeros((N, T), bool),
        truncated=jnp.zeros((N, T), bool),
        mask=jnp.asarray(mask),
        final_observation=jnp.zeros((N, 3)),
    )


def gradient(params: Any, batch: Trajectory) -> Any:
    return pgjax.gradient(ESTIMATOR, POLICY, params, batch)


def surrogate(params: Any, batch: Trajectory) -> Any:
    return pgjax.surrogate(ESTIMATOR, POLICY, params, batch)


def each(params: Any, batch: Trajectory) -> Any:
    return pgjax.per_trajectory_gradients(ESTIMATOR, POLICY, params, batch)


def each_by_reverse_mode(params: Any, batch: Trajectory) -> Any:
    """The terms' sum of every trajectory, with the whole batch's weights, differentiated."""

    def sums(params: Any) -> Any:
        log_prob = log_probs(POLICY, params, batch)
        weight = jax.lax.stop_gradient(ESTIMATOR.weights(batch, log_prob))
        term = jax.vmap(ESTIMATOR.term)(log_prob, batch.log_prob, weight)
        return jnp.sum(jnp.where(batch.mask, term, 0), axis=1)

    return jax.jacrev(sums)(params)


def in_pieces(params: Any, batch: Trajectory) -> dict[str, Any]:
    """Everything that goes through pieces."""
    value, derivative = jax.value_and_grad(surrogate)(params, batch)
    return {
        "log_probs": log_probs(POLICY, params, batch),
        "surrogate": value,
        "its derivative": derivative,
        "gradient": gradient(params, batch),
        "each": each(params, batch),
    }


def whole(params: Any, batch: Trajectory) -> dict[str, Any]:
    """The same of one piece, from nothing but the surrogate."""
    value, derivative = jax.value_and_grad(surrogate)(params, batch)
    return {
        "log_probs": log_probs(POLICY, params, batch),
        "surrogate": value,
        "its derivative": derivative,
        "gradient": derivative,
        "each": each_by_reverse_mode(params, batch),
    }


class Programs(NamedTuple):
    whole: Callable[..., dict[str, Any]]
    in_pieces: Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def programs(strict: None) -> Programs:
    example = PARAMS, batch_with(MASKS["full"])
    return Programs(jax.jit(whole), compiled_in_pieces(in_pieces, *example))


def assert_close(found: Any, expected: Any) -> None:
    jax.tree.map(lambda x, y: assert_allclose(x, y, **CHECK), found, expected)


@pytest.mark.parametrize("name", MASKS)
def test_pieces_give_what_the_derivative_of_the_whole_surrogate_gives(
    name: str, programs: Programs
) -> None:
    batch = batch_with(MASKS[name])
    expected = programs.whole(PARAMS, batch)
    assert_close(programs.in_pieces(PARAMS, batch), expected)
    largest = max(np.max(np.abs(x)) for x in jax.tree.leaves(expected["gradient"]))
    assert largest == 0 if name == "dead" else largest > 1e-3


@pytest.mark.parametrize("name", ["prefixes", "holes", "dead trajectories", "dead"])
def test_garbage_behind_the_mask_changes_nothing(name: str, programs: Programs) -> None:
    batch = batch_with(MASKS[name], garbage=True)
    assert np.any(np.isnan(batch.observation))
    expected = programs.whole(PARAMS, batch_with(MASKS[name]))
    assert_close(programs.in_pieces(PARAMS, batch), expected)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(expected))


def test_second_derivatives_through_pieces_are_those_of_the_whole() -> None:
    # The Hessian of the surrogate. `gradient` holds its weights constant, as the surrogate does.
    def hessians(params: Any, batch: Trajectory) -> list[Any]:
        first = gradient, jax.grad(surrogate)
        return [mode(f)(params, batch) for mode in (jax.jacfwd, jax.jacrev) for f in first]

    batch = batch_with(MASKS["prefixes"], garbage=True)
    expected = jax.jit(jax.hessian(surrogate))(PARAMS, batch)
    for found in compiled_in_pieces(hessians, PARAMS, batch)(PARAMS, batch):
        assert_close(found, expected)


def test_pieces_map_over_parameters_and_over_batches() -> None:
    def mapped(params: Any, batch: Trajectory, several: Any, batches: Trajectory) -> list[Any]:
        functions = gradient, jax.grad(surrogate)
        over_params = [jax.vmap(f, (0, None))(several, batch) for f in functions]
        return over_params + [jax.vmap(f, (None, 0))(params, batches) for f in functions]

    several = jax.tree.map(lambda x: np.stack([x, 2 * x, -x]), PARAMS)
    batches = [
        batch_with(MASKS[name], garbage=True, seed=seed)
        for seed, name in enumerate(["prefixes", "dead", "holes"])
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    arguments = PARAMS, batches[0], several, stacked
    expected = jax.jit(lambda *x: mapped(*x))(*arguments)
    assert_close(compiled_in_pieces(mapped, *arguments)(*arguments), expected)
    one_by_one = [jax.jit(gradient)(PARAMS, batch) for batch in batches]
    assert_close(expected[-1], jax.tree.map(lambda *x: jnp.stack(x), *one_by_one))


def test_a_measure_of_every_live_observation_shares_the_pass() -> None:
    def sums(params: Any, batch: Trajectory, share: Any) -> Any:
        return pull_back_and_sum(POLICY, params, batch, share, POLICY.entropy)

    share = jnp.asarray(np.random.default_rng(3).normal(size=(N, T)))
    arguments = PARAMS, batch_with(MASKS["holes"], garbage=True), share
    expected = jax.jit(lambda *x: sums(*x))(*arguments)
    each_entropy = jax.vmap(jax.vmap(POLICY.entropy, (None, 0)), (None, 0))
    entropy = np.asarray(each_entropy(PARAMS, arguments[1].observation))
    assert_allclose(expected[1], np.sum(entropy[MASKS["holes"]]), **CHECK)
    assert_close(compiled_in_pieces(sums, *arguments)(*arguments), expected)


def test_a_batch_without_steps_has_a_zero_gradient() -> None:
    batch = batch_with(MASKS["full"])
    empty = replace(
        jax.tree.map(lambda x: x[:, :0], replace(batch, final_observation=None)),
        final_observation=batch.final_observation,
    )
    for function in (gradient, each):
        assert not any(np.any(x) for x in jax.tree.leaves(function(PARAMS, empty)))


def test_one_live_row_left_out_is_noticed(programs: Programs) -> None:
    """The negative control: the comparison sees every single row."""
    mask = MASKS["holes"].copy()
    expected = programs.whole(PARAMS, batch_with(mask))
    mask[tuple(np.argwhere(mask)[-1])] = False
    found = programs.in_pieces(PARAMS, batch_with(mask))
    for name, value in expected.items():
        with pytest.raises(AssertionError, match="Mismatched"):
            assert_close(found[name], value)
