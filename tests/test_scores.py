"""Chunks: a batch evaluated a few live rows at a time gives what the whole batch gives.

The plain path is JAX's derivative of the surrogate of a batch that is one chunk. A hundred steps
in chunks of 16, or of 4 trajectories × 5 steps, make 6 of a batch, or 2 × 3.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import pgjax
from pgjax import Estimator, Trajectory, baselines, terms, weights
from pgjax.core.scores import (
    log_probs,
    weighted_score,
    weighted_score_and_sum,
    weighted_score_per_trajectory,
)
from pgjax.estimators import score_weights

pytestmark = pytest.mark.usefixtures("strict")

N, T = 7, 13
CHUNK, SHAPE = 16, (4, 5)
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
        return np.where(dead, np.asarray(bad if garbage else 0, values.dtype), values)

    fields: dict[str, Any] = {
        "observation": field(random.normal(size=(N, T, 3)), np.nan),
        "action": field(random.integers(2, size=(N, T)), 99),
        "reward": field(random.normal(size=(N, T)), np.nan),
        "log_prob": field(np.log(random.uniform(0.2, 0.9, size=(N, T))), np.nan),
        "terminated": np.zeros((N, T), bool),
        "truncated": np.zeros((N, T), bool),
        "mask": mask,
        "final_observation": np.zeros((N, 3)),
    }
    return Trajectory(**fields)


def gradient(params: Any, batch: Trajectory, chunk_size: int | None = None) -> Any:
    log_prob = log_probs(POLICY, params, batch, chunk_size=chunk_size)
    weight = score_weights(ESTIMATOR, batch, log_prob)
    return weighted_score(POLICY, params, batch, weight, chunk_size=chunk_size)


def each(params: Any, batch: Trajectory, chunk_size: int | None = None) -> Any:
    log_prob = log_probs(POLICY, params, batch, chunk_size=chunk_size)
    weight = N * score_weights(ESTIMATOR, batch, log_prob)
    return weighted_score_per_trajectory(
        POLICY, params, batch, weight, chunk_size=chunk_size, chunk_shape=SHAPE
    )


def ratio_sums(params: Any, batch: Trajectory, chunk_size: int | None = None) -> Any:
    """[N] Σ_t ρ_t w_t, with the whole batch's weights held constant."""
    log_prob = log_probs(POLICY, params, batch, chunk_size=chunk_size)
    reward, behaviour = (jnp.where(batch.mask, x, 0) for x in (batch.reward, batch.log_prob))
    weight = ESTIMATOR.weights(replace(batch, reward=reward), jax.lax.stop_gradient(log_prob))
    ratio = jnp.exp(jnp.where(batch.mask, log_prob - behaviour, 0))
    return jnp.sum(jnp.where(batch.mask, ratio * weight, 0), axis=1)


def surrogate(params: Any, batch: Trajectory, chunk_size: int | None = None) -> Any:
    return jnp.mean(ratio_sums(params, batch, chunk_size))


def in_chunks(params: Any, batch: Trajectory) -> dict[str, Any]:
    """Everything that is evaluated in chunks."""
    value, derivative = jax.value_and_grad(surrogate)(params, batch, CHUNK)
    return {
        "log_probs": log_probs(POLICY, params, batch, chunk_size=CHUNK),
        "surrogate": value,
        "its derivative": derivative,
        "gradient": gradient(params, batch, CHUNK),
        "each": each(params, batch, CHUNK),
    }


def whole(params: Any, batch: Trajectory) -> dict[str, Any]:
    """The same of one chunk, from the surrogate alone."""
    value, derivative = jax.value_and_grad(partial(pgjax.surrogate, ESTIMATOR, POLICY))(
        params, batch
    )
    return {
        "log_probs": log_probs(POLICY, params, batch),
        "surrogate": value,
        "its derivative": derivative,
        "gradient": derivative,
        "each": jax.jacrev(ratio_sums)(params, batch),
    }


class Programs(NamedTuple):
    whole: Callable[..., dict[str, Any]]
    in_chunks: Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def programs(strict: None) -> Programs:
    return Programs(jax.jit(whole), jax.jit(in_chunks))


def assert_close(found: Any, expected: Any) -> None:
    jax.tree.map(lambda x, y: assert_allclose(x, y, **CHECK), found, expected)


@pytest.mark.parametrize("name", MASKS)
def test_chunks_give_what_the_derivative_of_the_whole_surrogate_gives(
    name: str, programs: Programs
) -> None:
    batch = batch_with(MASKS[name])
    expected = programs.whole(PARAMS, batch)
    assert_close(programs.in_chunks(PARAMS, batch), expected)
    largest = max(np.max(np.abs(x)) for x in jax.tree.leaves(expected["gradient"]))
    assert largest == 0 if name == "dead" else largest > 1e-3


@pytest.mark.parametrize("name", ["prefixes", "holes", "dead trajectories", "dead"])
def test_garbage_behind_the_mask_changes_nothing(name: str, programs: Programs) -> None:
    batch = batch_with(MASKS[name], garbage=True)
    assert np.any(np.isnan(batch.observation))
    expected = programs.whole(PARAMS, batch_with(MASKS[name]))
    assert_close(programs.in_chunks(PARAMS, batch), expected)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(expected))


def test_second_derivatives_through_chunks_are_those_of_the_whole() -> None:
    # The Hessian of the surrogate times a random vector, in both modes. `gradient` holds its
    # weights constant, as the surrogate does.
    random = np.random.default_rng(4)
    direction = jax.tree.map(lambda x: random.normal(size=x.shape), PARAMS)

    def forwards(first: Callable, *batch: Any) -> Any:
        return jax.jvp(lambda x: first(x, *batch), (PARAMS,), (direction,))[1]

    def backwards(first: Callable, *batch: Any) -> Any:
        return jax.vjp(lambda x: first(x, *batch), PARAMS)[1](direction)[0]

    @jax.jit
    def products(batch: Trajectory) -> list[Any]:
        first = gradient, jax.grad(surrogate)
        return [mode(f, batch, CHUNK) for mode in (forwards, backwards) for f in first]

    batch = batch_with(MASKS["prefixes"], garbage=True)
    plain = jax.grad(partial(pgjax.surrogate, ESTIMATOR, POLICY))
    expected = jax.jit(partial(forwards, plain))(batch)
    for found in products(batch):
        assert_close(found, expected)


def test_chunks_map_over_parameters_and_over_batches(programs: Programs) -> None:
    functions = [partial(f, chunk_size=CHUNK) for f in (gradient, jax.grad(surrogate))]

    @jax.jit
    def mapped(several: Any, batches: Trajectory) -> tuple[list[Any], list[Any]]:
        params, batch = (jax.tree.map(lambda x: x[0], tree) for tree in (several, batches))
        over_params = [jax.vmap(f, (0, None))(several, batch) for f in functions]
        return over_params, [jax.vmap(f, (None, 0))(params, batches) for f in functions]

    def stacked(trees: Any) -> Any:
        return jax.tree.map(lambda *x: np.stack(x), *trees)

    several = [jax.tree.map(lambda x, s=s: s * x, PARAMS) for s in (1, 2, -1)]
    batches = [
        batch_with(MASKS[name], garbage=True, seed=seed)
        for seed, name in enumerate(["prefixes", "dead", "holes"])
    ]
    over_params, over_batches = mapped(stacked(several), stacked(batches))
    by_params = [programs.whole(params, batches[0])["gradient"] for params in several]
    by_batch = [programs.whole(PARAMS, batch)["gradient"] for batch in batches]
    for found in over_params:
        assert_close(found, stacked(by_params))
    for found in over_batches:
        assert_close(found, stacked(by_batch))


def test_a_measure_of_every_live_observation_shares_the_pass() -> None:
    @partial(jax.jit, static_argnums=3)
    def sums(params: Any, batch: Trajectory, weight: Any, size: int | None) -> Any:
        return weighted_score_and_sum(
            POLICY, params, batch, weight, POLICY.entropy, chunk_size=size
        )

    weight = np.random.default_rng(3).normal(size=(N, T))
    arguments = PARAMS, batch_with(MASKS["holes"], garbage=True), weight
    expected = sums(*arguments, None)
    each_entropy = jax.jit(jax.vmap(jax.vmap(POLICY.entropy, (None, 0)), (None, 0)))
    entropy = np.asarray(each_entropy(PARAMS, arguments[1].observation))
    assert_allclose(expected[1], np.sum(entropy[MASKS["holes"]]), **CHECK)
    assert_close(sums(*arguments, CHUNK), expected)


def test_a_batch_without_steps_has_a_zero_gradient() -> None:
    batch = batch_with(MASKS["full"])
    empty = replace(
        jax.tree.map(lambda x: x[:, :0], replace(batch, final_observation=None)),
        final_observation=batch.final_observation,
    )
    for function in (pgjax.gradient, pgjax.per_trajectory_gradients):
        found = function(ESTIMATOR, POLICY, PARAMS, empty)
        assert not any(np.any(x) for x in jax.tree.leaves(jax.device_get(found)))


def test_one_live_row_left_out_is_noticed(programs: Programs) -> None:
    """The negative control: the comparison sees every single row."""
    mask = MASKS["holes"]
    expected = programs.whole(PARAMS, batch_with(mask))
    # A copy: JAX may still read the memory of the mask above.
    fewer = mask.copy()
    fewer[tuple(np.argwhere(mask)[-1])] = False
    found = programs.in_chunks(PARAMS, batch_with(fewer))
    for name, value in expected.items():
        with pytest.raises(AssertionError, match="Mismatched"):
            assert_close(found[name], value)
