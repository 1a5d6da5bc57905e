"""Devices: the same program and the same numbers, whatever their number, with one sum over them.

The processes of the tests have eight simulated devices. Two processes, each of which sees another
device, run in `together.py`.
"""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

import pgjax
from pgjax import (
    Trajectory,
    baselines,
    beyond,
    control_variates,
    critics,
    diagnostics,
    regularization,
    tokens,
    training,
    weights,
)
from pgjax.core import chunks
from pgjax.environments.base import Environment
from pgjax.estimators import score_weights
from tests import test_token_log_probs
from tests.together import (
    A2C_SETTINGS,
    AGENT,
    COUPLED,
    DEVICES,
    MDP,
    POLICY,
    STEPS,
    TABLE,
    TABULAR,
    WINDOWS,
    N,
    a2c,
    advanced,
    as_lists,
    parameters,
    sampled,
    trained_parameters,
)
from tests.walks import SMOOTH

UNCOUPLED = pgjax.reward_to_go(0.9)
SECONDS = 1800  # until a process counts as hanging; it takes some ten on a quiet machine
PROGRAM = sys.executable, "-m", "tests.together"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def eight_devices() -> None:
    """The conftest asks for them, unless the caller has decided otherwise."""
    need = "JAX_PLATFORMS=cpu with JAX_NUM_CPU_DEVICES=8 simulates eight devices"
    assert jax.device_count() == DEVICES, f"got {jax.device_count()} devices; {need}"


@cache
def cartpole() -> Environment:
    return pgjax.environments.make("CartPole-v1")


def on_cartpole(**settings: Any) -> Trajectory:
    return sampled(pgjax.rollout, environment=cartpole(), num_steps=CARTPOLE_STEPS, **settings)


class Kept(NamedTuple):
    """A batch that is kept, and what estimators make of it."""

    batch: Trajectory
    gradient: Any
    of_each: Any
    of_each_uncoupled: Any


@cache
def program_of_one_device() -> Any:
    """Compiled: (params, key) -> Kept."""

    def run(params: Any, key: Any) -> Kept:
        batch = pgjax.rollout(POLICY, params, MDP, key, num_trajectories=N, num_steps=STEPS)
        return Kept(
            batch,
            pgjax.gradient(COUPLED, POLICY, params, batch),
            pgjax.per_trajectory_gradients(COUPLED, POLICY, params, batch),
            pgjax.per_trajectory_gradients(UNCOUPLED, POLICY, params, batch),
        )

    return jax.jit(run).lower(parameters(), jax.random.key(0)).compile()


@cache
def kept() -> Kept:
    return program_of_one_device()(parameters(), jax.random.key(7))


def meshes() -> dict[str, Mesh]:
    """Of 2, 4 and 8 devices, with axes of either type, one or two of them."""
    devices = jax.devices()
    explicit, automatic = (AxisType.Explicit,), (AxisType.Auto,)
    return {
        "2, automatic": jax.make_mesh((2,), ("n",), automatic, devices=devices[:2]),
        "4, in another order": Mesh(np.array(devices[3::-1]), ("n",)),
        "8, explicit": jax.make_mesh((8,), ("n",), explicit),
        "4 x 2": jax.make_mesh((4, 2), ("a", "b"), explicit + automatic),
    }


EPS = float(np.finfo(np.float32).eps)
CARTPOLE_STEPS = 40
# A falling pole amplifies what differs at its start some 25-fold in 40 steps of 0.02 s: it falls
# away as exp(4 t).
ROUNDING_OF_A_TRAJECTORY = 25 * CARTPOLE_STEPS * EPS


@cache
def rounding_of_gradient() -> float:
    """√n eps of the mean size of n terms, four roundings each; terms are those without baseline."""
    each = jax.tree.leaves(kept().of_each_uncoupled)
    largest = max(np.max(np.sqrt(np.mean(np.square(x), axis=0))) for x in each)
    return 4 * np.sqrt(N * STEPS) * EPS * float(largest)


def assert_close(found: Any, expected: Any, bound: float) -> None:
    for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert_allclose(x, y, rtol=0, atol=bound)


def assert_same_trajectories(found: Trajectory, expected: Trajectory) -> None:
    """Integers and flags bit by bit, floats to rounding; after an end anything may stand."""
    assert_array_equal(found.mask, expected.mask)
    for x, y in zip(*map(_live, (found, expected)), strict=True):
        if jnp.issubdtype(y.dtype, jnp.floating):
            assert_allclose(x, y, rtol=0, atol=ROUNDING_OF_A_TRAJECTORY)
        else:
            assert_array_equal(x, y)


def _live(batch: Trajectory) -> list[Any]:
    steps = replace(batch, final_observation=None)
    live = jax.tree.map(lambda x: np.asarray(x)[np.asarray(batch.mask)], steps)
    return [*jax.tree.leaves(live), *jax.tree.leaves(batch.final_observation)]


# Trajectories.


def test_trajectories_are_the_same_on_any_mesh() -> None:
    expected = on_cartpole()
    for name in ("4, in another order", "8, explicit"):
        found = on_cartpole(mesh=meshes()[name])
        assert_same_trajectories(found, expected)
        assert len(found.reward.sharding.device_set) == meshes()[name].size


def test_trajectories_are_the_same_within_a_mesh_that_is_set() -> None:
    for name in ("2, automatic", "4 x 2"):
        with jax.set_mesh(meshes()[name]):
            found = sampled(pgjax.rollout, mesh=meshes()[name])
        assert_same_trajectories(found, kept().batch)
        assert len(found.reward.sharding.device_set) == meshes()[name].size


def test_another_key_gives_other_trajectories() -> None:
    """The negative control."""
    mesh = meshes()["4 x 2"]
    with jax.set_mesh(mesh):
        found = sampled(pgjax.rollout, mesh=mesh, seed=8)
    with pytest.raises(AssertionError):
        assert_same_trajectories(found, kept().batch)


def test_trajectories_must_divide_over_the_devices() -> None:
    mesh = meshes()["8, explicit"]
    message = "the 20 trajectories must divide evenly over the 8 devices of the mesh; take 24"
    for run, *first in (
        (pgjax.rollout,),
        (pgjax.sampled_gradient, UNCOUPLED),
        (pgjax.sampled_moments, UNCOUPLED),
        (partial(pgjax.sampled_gradient, micro_batch_size=1), UNCOUPLED),
    ):
        with pytest.raises(ValueError, match=message):
            sampled(run, *first, num_trajectories=20, mesh=mesh)


# Estimates.


@cache
def placed_parameters() -> Any:
    """On each of eight devices."""
    return jax.device_put(parameters(), NamedSharding(meshes()["8, explicit"], PartitionSpec()))


@cache
def program_of_eight_devices(estimator: pgjax.Estimator, split: int | None) -> Any:
    """The estimate, compiled: (placed parameters, key) -> gradient."""

    def estimate(params: Any, key: Any) -> Any:
        return pgjax.sampled_gradient(
            estimator, POLICY, params, MDP, key, num_trajectories=N, num_steps=STEPS,
            micro_batch_size=split, mesh=meshes()["8, explicit"],
        )  # fmt: skip

    return jax.jit(estimate).lower(placed_parameters(), jax.random.key(0)).compile()


def test_gradients_are_the_same_on_any_mesh_and_for_any_split() -> None:
    mesh = meshes()["4, in another order"]
    found = sampled(pgjax.sampled_gradient, COUPLED, mesh=mesh, micro_batch_size=5)
    assert_close(found, kept().gradient, rounding_of_gradient())
    for split in (None, 5):
        found = program_of_eight_devices(COUPLED, split)(placed_parameters(), jax.random.key(7))
        assert_close(found, kept().gradient, rounding_of_gradient())


def test_moments_are_the_same_on_any_mesh_and_for_any_split() -> None:
    each = kept().of_each
    expected = diagnostics.running_moments(each)
    bound = rounding_of_gradient()
    # Sums of N squares: each rounds as the square of a term does.
    largest = max(float(np.max(np.abs(x))) for x in jax.tree.leaves(each))
    for name, split in (("2, automatic", None), ("8, explicit", 5)):
        mesh = meshes()[name]
        found = sampled(pgjax.sampled_moments, COUPLED, mesh=mesh, micro_batch_size=split)
        assert float(found.num_samples) == N
        assert_close(found.mean, expected.mean, bound)
        assert_close(found.squares, expected.squares, 2 * N * largest * bound)


def test_a_mesh_that_is_set_changes_no_gradient() -> None:
    mesh = meshes()["4 x 2"]
    with jax.set_mesh(mesh):
        found = sampled(pgjax.sampled_gradient, COUPLED, mesh=mesh, micro_batch_size=2)
    assert_close(found, kept().gradient, rounding_of_gradient())


def untraced(policy: pgjax.Policy) -> pgjax.Policy:
    """Another record of the same functions, of which nothing has been traced in larger chunks."""
    return pgjax.Policy(*(partial(getattr(policy, f.name)) for f in fields(policy)))


def check_a_batch_on(mesh: Mesh) -> None:
    spread = jax.device_put(kept().batch, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))

    @jax.jit
    def gradients(params: Any, batch: Any) -> tuple[Any, Any]:
        at_once = pgjax.gradient(COUPLED, POLICY, params, batch)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "CPU_ROWS", 64)  # many chunks, each with rows of many devices
            return at_once, pgjax.gradient(COUPLED, untraced(POLICY), params, batch)

    for found in gradients(parameters(), spread):
        assert_close(found, kept().gradient, rounding_of_gradient())


def test_a_batch_that_is_already_spread_has_the_same_gradient() -> None:
    check_a_batch_on(jax.make_mesh((8,), ("n",), (AxisType.Auto,)))


def test_a_batch_whose_type_says_how_it_is_spread_has_the_same_gradient() -> None:
    check_a_batch_on(meshes()["8, explicit"])


# Compiled programs.

SHAPE = re.compile(r"\b[a-z]\w*\[([\d,]*)\]")
COLLECTIVE = re.compile(
    r"= (?P<type>.*?) (?P<name>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)


def collectives(compiled: Any) -> list[tuple[str, int, bool]]:
    """Every operation between devices: its name, the numbers it moves, whether outside of loops."""
    found, entry = [], False
    for line in compiled.as_text().splitlines():
        if line.endswith("{"):
            entry = line.startswith("ENTRY")
        if match := COLLECTIVE.search(line):
            shapes = SHAPE.findall(match["type"])
            sizes = [np.prod([int(n) for n in shape.split(",") if n]) for shape in shapes]
            found.append((match["name"], int(sum(sizes)), entry))
    return sorted(found)


def number_of_parameters() -> int:
    return sum(x.size for x in jax.tree.leaves(parameters()))


def test_parameters_are_summed_over_devices_once_and_nothing_else_is() -> None:
    for split in (None, 1):
        found = collectives(program_of_eight_devices(UNCOUPLED, split))
        assert found == [("all-reduce", number_of_parameters(), True)]


def test_leave_one_out_adds_one_sum_of_returns_a_step() -> None:
    # A micro-batched estimate weighs in each of its two passes, within their loop.
    for split, entry in ((None, True), (5, False)):
        sums = ("all-reduce", STEPS, entry), ("all-reduce", number_of_parameters(), True)
        assert collectives(program_of_eight_devices(COUPLED, split)) == sorted(sums)


def test_a_gather_of_all_rewards_would_be_seen() -> None:
    """The negative control."""
    mesh = meshes()["8, explicit"]
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("n",), ()))
    gather = jax.jit(jnp.negative, in_shardings=rows, out_shardings=whole)
    compiled = gather.lower(jnp.ones((N, STEPS))).compile()
    assert collectives(compiled) == [("all-gather", N * STEPS, True)]


def test_no_device_holds_anything_of_all_trajectories() -> None:
    def holds_all(compiled: Any) -> bool:
        shapes = SHAPE.findall(compiled.as_text())
        sizes = {int(n) for shape in shapes for n in shape.split(",") if n}
        return any(n and n % N == 0 for n in sizes)

    assert holds_all(program_of_one_device())
    for split in (None, 5):
        assert not holds_all(program_of_eight_devices(COUPLED, split))


# A user's own shard_map, with JAX's check of what varies over devices.


SIZES: dict[str, Any] = {"num_trajectories": 3, "num_steps": 4}


def linear(params: Any, key: Any, seen: Any) -> Any:
    return seen @ params.reshape(-1)[:3, None] + 0.1 * jax.random.normal(key, (1,))


RATE: dict[str, Any] = {"discount": 0.9}


def of_a_stream(params: Any, key: Any) -> dict[str, Any]:
    """What is made of one device's trajectories as they are drawn, by the name of the function."""
    drawn = COUPLED, TABULAR, params, MDP, key
    return {
        "sampled_gradient": pgjax.sampled_gradient(*drawn, **SIZES),
        "the same, split": pgjax.sampled_gradient(*drawn, **SIZES, micro_batch_size=2),
        "sampled_moments": pgjax.sampled_moments(*drawn, **SIZES),
    }


def of_a_key(params: Any, key: Any) -> dict[str, Any]:
    """What else the library draws with one device's key, by the name of the function."""
    drawn = TABULAR, params, MDP, key
    return {
        "rollout": pgjax.rollout(*drawn, **SIZES),
        "sampled_trace_gradient": beyond.sampled_trace_gradient(*drawn, **SIZES, **RATE),
        "pathwise": beyond.pathwise_gradient(linear, params, SMOOTH, key, **SIZES, **RATE),
        "antithetic_rollout": beyond.antithetic_rollout(
            beyond.inversion(TABULAR, 2), params, MDP, key, num_pairs=2, num_steps=4
        ).reward,
        "evolution_strategies": beyond.evolution_strategies(
            lambda params, key: jnp.sum(params**2), params, key, scale=0.1, num_pairs=3
        ),
    }


def of_a_batch(params: Any, batch: Any) -> dict[str, Any]:
    """All that the library makes of one device's trajectories, by the name of the function."""
    of_batch = TABULAR, params, batch
    gradient = pgjax.gradient(COUPLED, *of_batch)
    of_each = pgjax.per_trajectory_gradients(COUPLED, *of_batch)
    critic, values = jnp.ones(4), jnp.ones((*batch.mask.shape, 2)) * jnp.array([1.0, 2.0])
    products = {
        "expected_fisher": beyond.expected_fisher(*of_batch, **RATE, num_actions=2),
        "sampled_fisher": beyond.sampled_fisher(*of_batch, **RATE),
    }
    update = pgjax.training.update(
        COUPLED, TABULAR, optax.sgd(0.1), params, optax.sgd(0.1).init(params), batch
    )
    normalised = pgjax.Estimator(
        weights.total_return(0.9, scale=baselines.group_deviation(baselines.groups.consecutive(3))),
        pgjax.terms.score,
    )
    return {
        "discounted_returns": jax.vmap(partial(pgjax.discounted_returns, discount=0.9))(
            batch.reward
        ),
        "gradient": gradient,
        "gradient, normalised": pgjax.gradient(normalised, *of_batch),
        "per_trajectory_gradients": of_each,
        "running_moments": diagnostics.running_moments(of_each),
        "surrogate": pgjax.surrogate(COUPLED, *of_batch),
        "log_probs": pgjax.log_probs(*of_batch),
        "score_weights of log-probabilities that all devices share": score_weights(
            COUPLED, batch, jnp.full(batch.mask.shape, -0.5)
        ),
        "entropy_gradient": regularization.entropy_gradient(*of_batch, **RATE),
        "k2": pgjax.gradient(
            pgjax.Estimator(regularization.visits(0.9), regularization.k2),
            *of_batch[:2],
            regularization.with_reference(batch, batch.log_prob - 1),
        ),
        "with_entropy_reward": regularization.with_entropy_reward(batch, 0.1).reward,
        "all_action": beyond.all_action_gradient(*of_batch, values, **RATE),
        "corrected": beyond.corrected_all_action_gradient(*of_batch, values, **RATE),
        "trace_gradient": beyond.trace_gradient(*of_batch, **RATE),
        **{name: product(jnp.ones((4, 2)) * jnp.arange(2)) for name, product in products.items()},
        "natural_gradient": beyond.natural_gradient(
            gradient, products["expected_fisher"], damping=0.1
        ),
        "score_products": control_variates.score_products(*of_batch, **RATE),
        "critics.fit": critics.fit(
            jnp.dot, critic, batch, batch.reward, optax.sgd(0.1), num_steps=2
        ),
        "update": update,
    }


def keys_of_devices() -> Any:
    return jax.random.split(jax.random.key(5), DEVICES)


def alone(function: Callable[[Any, Any], Any], rows: Any) -> Any:
    """Of each device's row, stacked."""
    one, table = jax.jit(function), jnp.asarray(TABLE)
    each = [one(table, jax.tree.map(lambda x: x[i], rows)) for i in range(DEVICES)]  # noqa: B023
    return jax.tree.map(lambda *x: np.stack(x), *jax.device_get(each))


@cache
def everything_alone() -> dict[str, Any]:
    drawn = alone(of_a_key, keys_of_devices())
    found = drawn | alone(of_a_batch, drawn["rollout"])
    # To rounding, a stream gives what the batch gives that is kept.
    streams = dict.fromkeys(("sampled_gradient", "the same, split"), found["gradient"])
    return found | streams | {"sampled_moments": found["running_moments"]}


def in_shard_map(function: Callable[[Any, Any], Any], rows: Any, mesh: Mesh) -> Any:
    """What each device makes of its own row, [D, ...] each leaf; the table is the same for all."""

    def local(params: Any, rows: Any) -> Any:
        found = function(params, jax.tree.map(lambda x: x[0], rows))
        return jax.tree.map(lambda x: jnp.asarray(x)[None], found)

    split, whole = PartitionSpec("n"), PartitionSpec()
    run = jax.shard_map(local, mesh=mesh, in_specs=(whole, split), out_specs=split)
    table = jax.device_put(TABLE, NamedSharding(mesh, whole))
    rows = jax.tree.map(lambda x: x[: mesh.size], rows)
    return jax.jit(run)(table, jax.device_put(rows, NamedSharding(mesh, split)))


@cache
def on_eight_devices() -> dict[str, dict[str, Any]]:
    """What each makes of its own row, at once and in pieces; of the table, shared and its own."""

    def of_keys(params: Any, key: Any) -> dict[str, Any]:
        own = jax.lax.pcast(params, "n", to="varying")
        sampled = pgjax.sampled_gradient(COUPLED, TABULAR, own, MDP, key, **SIZES)
        shared = of_a_stream(params, key) | of_a_key(params, key)
        return {"shared": shared, "own": {"sampled_gradient": sampled}}

    def of_batches(params: Any, batch: Any) -> dict[str, dict[str, Any]]:
        own = jax.lax.pcast(params, "n", to="varying")

        def gradients(policy: pgjax.Policy, table: Any) -> dict[str, Any]:
            of_batch = COUPLED, policy, table, batch
            return {
                "gradient": pgjax.gradient(*of_batch),
                "per_trajectory_gradients": pgjax.per_trajectory_gradients(*of_batch),
            }

        found = {"shared": of_a_batch(params, batch), "own": gradients(TABULAR, own)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "CPU_ROWS", 8)
            policy = untraced(TABULAR)
            found["shared, in pieces"] = gradients(policy, params)
            found["own, in pieces"] = gradients(policy, own)
        return found

    mesh = meshes()["8, explicit"]
    drawn = in_shard_map(of_keys, keys_of_devices(), mesh)
    found = in_shard_map(of_batches, everything_alone()["rollout"], mesh)
    return {name: drawn.get(name, {}) | found[name] for name in found}


def check_on_eight_devices(name: str) -> None:
    for function, found in on_eight_devices()[name].items():
        try:
            assert_close(found, everything_alone()[function], 1e-5)
        except AssertionError as error:
            raise AssertionError(f"{function}, {name}") from error


def test_trajectories_in_a_shard_map_are_those_of_each_key() -> None:
    found = on_eight_devices()["shared"]["rollout"]
    assert_same_trajectories(found, everything_alone()["rollout"])


def test_every_function_gives_each_device_its_own_with_one_factor() -> None:
    check_on_eight_devices("shared")


def test_every_function_gives_the_same_for_parameters_of_each_device() -> None:
    check_on_eight_devices("own")


def test_every_function_gives_the_same_in_pieces() -> None:
    for name in ("shared, in pieces", "own, in pieces"):
        check_on_eight_devices(name)


def test_parts_of_a_batch_of_tokens_add_up_to_the_whole() -> None:
    """With the weights of the whole batch; by parameters that all devices share, JAX adds up."""
    random = np.random.default_rng(0)
    table, answers = random.normal(size=5).astype(np.float32), random.integers(5, size=(8, 3))
    estimator = tokens.dapo()

    def log_probs(table: Any, answers: Any) -> Any:
        return jax.nn.log_softmax(table)[answers]

    batch = tokens.Batch(
        (table - np.log(np.sum(np.exp(table))))[answers],
        jnp.asarray(np.arange(3) < random.integers(1, 4, (8, 1))),
        reward=jnp.asarray(random.uniform(size=8).astype(np.float32)),
        group=jnp.asarray([0, 1, 0, 1, 2, 2, 0, 1]),
    )

    def gradient(table: Any, answers: Any, batch: Any, weights: Any = None) -> Any:
        return jax.grad(
            lambda t: tokens.surrogate(estimator, log_probs(t, answers), batch, weights=weights)
        )(table)

    def shared_table(table: Any, answers: Any, batch: Any) -> Any:
        return gradient(
            table, answers, batch, tokens.shared_weights(estimator, batch, axis_name="n")
        )

    def own_table(table: Any, answers: Any, batch: Any) -> Any:
        own = jax.lax.pcast(table, "n", to="varying")
        return jax.lax.psum(shared_table(own, answers, batch), "n")

    def alone(table: Any, answers: Any, batch: Any) -> Any:
        own = jax.lax.pcast(table, "n", to="varying")
        return jax.lax.pmean(gradient(own, answers, batch), "n")

    def local(*arguments: Any) -> Any:
        return shared_table(*arguments), own_table(*arguments), alone(*arguments)

    split, whole = PartitionSpec("n"), PartitionSpec()
    spread = jax.shard_map(
        local, mesh=meshes()["2, automatic"], in_specs=(whole, split, split), out_specs=whole
    )
    expected = jax.jit(gradient)(table, answers, batch)
    *found, each_alone = jax.jit(spread)(table, answers, batch)
    for each in found:
        assert_close(each, expected, 1e-6)
    assert np.max(np.abs(np.asarray(each_alone) - expected)) > 1e-3


def test_token_log_probabilities_are_the_dense_ones_however_they_are_spread() -> None:
    with jax.enable_x64(True):
        test_token_log_probs.check_laws_of_devices(jax.devices()[:4])


def test_the_page_shows_what_is_right_on_eight_devices() -> None:
    """The block of docs/scaling.md; `.ci/tests examples` runs it on one device."""
    page = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text("utf-8")
    (block,) = [x for x in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "shard_map" in x]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block, {"jax": jax, "pgjax": pgjax})
    assert printed.getvalue() == "True\n"


def test_the_mean_over_devices_is_the_estimate_from_all_trajectories() -> None:
    mesh = meshes()["2, automatic"]
    batches = everything_alone()["rollout"]
    whole = jax.tree.map(lambda x: np.concatenate(x[: mesh.size]), batches)
    expected = pgjax.gradient(UNCOUPLED, TABULAR, jnp.asarray(TABLE), whole)

    def surrogate(params: Any, batch: Any) -> Any:
        return pgjax.surrogate(UNCOUPLED, TABULAR, params, batch)

    def means(params: Any, batch: Any) -> dict[str, Any]:
        each = pgjax.per_trajectory_gradients(UNCOUPLED, TABULAR, params, batch)
        moments = jax.lax.all_gather(diagnostics.running_moments(each), "n")
        return {
            "of gradients": jax.lax.pmean(pgjax.gradient(UNCOUPLED, TABULAR, params, batch), "n"),
            "within the gradient": jax.grad(
                lambda params: jax.lax.pmean(surrogate(params, batch), "n")
            )(params),
            "of moments": diagnostics.merge_all(moments).mean,
            "left out": jax.grad(surrogate)(params, batch),
        }

    found = in_shard_map(means, batches, mesh)
    summed = found.pop("left out")
    for each in found.values():
        assert_close(each, jnp.stack([expected] * 2), 1e-5)
    # The negative control: without the mean inside, JAX sums over devices.
    assert_close(summed, jnp.stack([2 * expected] * 2), 1e-4)
    with pytest.raises(AssertionError):
        assert_close(summed, jnp.stack([expected] * 2), 1e-4)


def test_a_gradient_under_pmap_is_that_of_each_key() -> None:
    def local(params: Any, key: Any) -> Any:
        return pgjax.sampled_gradient(COUPLED, TABULAR, params, MDP, key, **SIZES)

    found = jax.pmap(local, in_axes=(None, 0))(jnp.asarray(TABLE), keys_of_devices())
    assert_close(found, everything_alone()["sampled_gradient"], 1e-5)


def test_a_key_of_rbg_gives_the_same_on_any_mesh() -> None:
    found = on_cartpole(impl="rbg", mesh=meshes()["8, explicit"])
    assert_same_trajectories(found, on_cartpole(impl="rbg"))


def test_a_network_with_other_variables_is_the_same_on_any_mesh() -> None:
    def build(rngs: nnx.Rngs) -> nnx.Module:
        layers = nnx.Linear(4, 2, rngs=rngs), nnx.BatchNorm(2, rngs=rngs)
        return nnx.Sequential(*layers, nnx.Dropout(0.5, rngs=rngs))

    norm = linen.Sequential((linen.Dense(2), linen.BatchNorm(use_running_average=True)))
    policies = [pgjax.flax_policy(build), pgjax.flax_policy(norm)]

    def start(key: Any) -> list[Any]:
        return [policy.init(key, jnp.zeros(4)) for policy in policies]

    def estimates(params: list[Any], key: Any, mesh: Mesh | None) -> list[Any]:
        estimate = partial(
            pgjax.sampled_gradient, environment=MDP, key=key,
            num_trajectories=N, num_steps=STEPS, mesh=mesh,
        )  # fmt: skip
        each = zip(policies, params, strict=True)
        return [estimate(UNCOUPLED, policy, own) for policy, own in each]

    params = jax.jit(start)(jax.random.key(0))
    estimate = jax.jit(estimates, static_argnames="mesh")
    alone = estimate(params, jax.random.key(7), None)
    assert_close(estimate(params, jax.random.key(7), meshes()["4 x 2"]), alone, 1e-5)


def test_training_is_the_same_on_all_devices_and_stays_spread() -> None:
    alone, spread = (
        training.begin(each, jax.random.key(0)) for each in (a2c(), training.over_devices(a2c()))
    )
    (one, expected), (every, found) = (advanced(run, run.start, 2) for run in (alone, spread))
    assert_array_equal(every.stream.running.state, one.stream.running.state)
    assert_array_equal(every.stream.running.time, one.stream.running.time)
    assert_close(every.params, one.params, 1e-6)
    for name, x, y in zip(found._fields, found, expected, strict=True):
        if y is not None and "gradient_" not in name:  # of groups of other trajectories
            assert_allclose(x, y, rtol=1e-4, atol=1e-6, err_msg=name)
    assert_allclose(found.gradient_norm, expected.gradient_norm, rtol=1e-4)
    # Each device holds its own two environments and all parameters, after two updates too.
    assert {x.data.shape for x in every.stream.keys.addressable_shards} == {(2, 3)}
    assert len(every.stream.running.state.sharding.device_set) == DEVICES
    assert all(x.is_fully_replicated for x in jax.tree.leaves(every.params))
    # The control: a device that kept its own gradient would have other parameters.
    stream = alone.start.stream
    first_two = jax.jit(lambda tree: jax.tree.map(lambda x: x[np.arange(16) % 2], tree))
    running, keys = first_two((stream.running, stream.keys))
    stream = stream._replace(running=running, keys=keys)
    own, _ = advanced(alone, alone.start._replace(stream=stream), 2)
    with pytest.raises(AssertionError):
        assert_close(own.params, one.params, 1e-6)


def test_ppo_on_devices_averages_minibatches_and_refuses_uneven_parts() -> None:
    settings = training.PPOSettings(**WINDOWS, epochs=2, num_minibatches=4)
    learner = training.over_devices(training.ppo(MDP, settings, agent=AGENT))
    run = training.begin(learner, jax.random.key(0))
    state, metrics = advanced(run, run.start, 1)
    copies = [x.addressable_shards for x in jax.tree.leaves((state.params, state.optimizer_state))]
    for shards in copies:
        for shard in shards:
            assert_array_equal(shard.data, shards[0].data)
    assert metrics.steps == 16 * 8
    assert np.isfinite([x for x in metrics if x is not None]).all()
    twelve = replace(settings, num_environments=12)
    with pytest.raises(ValueError, match="must divide the 12 environments evenly, got 8; take 16"):
        training.over_devices(training.ppo(MDP, twelve, agent=AGENT))


def test_a_run_is_resumed_on_another_number_of_devices() -> None:
    def options(devices: int | str, until: float | None) -> training.RunOptions:
        return training.RunOptions(devices=devices, until=until, quiet=True)

    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Any] = {"agent": AGENT}
        given = folder, MDP, A2C_SETTINGS
        run = training.start(*given, options=options("all", -1e6), overwrite=True, **parts)
        assert len(run.log) == 1
        run = training.resume(folder, environment=MDP, options=options(4, None), **parts)
        assert len(run.log) == 2
        assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(run.params)])).all()
        for devices, message in ((9, "at most 8, the devices here, got 9"), (0, "at least 1")):
            with pytest.raises(ValueError, match=message):
                training.start(*given, options=options(devices, None), overwrite=True, **parts)


# Two processes.


def run_together(*commands: tuple[str, ...]) -> list[str]:
    """What processes that need each other print; if one fails, the others are stopped at once."""
    running = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for command in commands
    ]
    deadline = time.monotonic() + SECONDS
    try:
        while any(process.poll() is None for process in running):
            if any(process.poll() for process in running) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
    finally:
        failed = [process.poll() for process in running]
        for process in running:
            process.kill()
        printed = [process.communicate() for process in running]
    for code, (_, errors) in zip(failed, printed, strict=True):
        if code:
            raise AssertionError(f"a process ended with {code}:\n{errors}")
    if None in failed:
        raise AssertionError(f"no end in {SECONDS} s:\n" + "\n".join(e for _, e in printed))
    return [out for out, _ in printed]


def test_two_processes_give_what_one_gives() -> None:
    trained = as_lists(trained_parameters(None))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    commands = [(*PROGRAM, address, str(i)) for i in range(2)]
    for printed in run_together(*commands):
        found = json.loads(printed.splitlines()[-1])
        assert_close(found["gradient"], as_lists(kept().gradient), rounding_of_gradient())
        assert_close(found["trained"], trained, 1e-6)


def test_a_process_that_fails_is_reported_and_stops_the_other() -> None:
    """The negative control: neither a wrong law nor a lost process passes, or hangs."""
    commands = [
        (sys.executable, "-c", "raise SystemExit('lost its way')"),
        (sys.executable, "-c", "import time; time.sleep(1e6)"),
    ]
    with pytest.raises(AssertionError, match="lost its way"):
        run_together(*commands)
    with pytest.raises(AssertionError, match="Mismatched"):
        assert_close([np.ones(3)], [np.full(3, 1 + 1e-3)], 1e-4)
