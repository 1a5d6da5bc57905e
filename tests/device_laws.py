"""The laws of several devices, as a program: `test_devices.py` starts it in processes of their own.

It runs with eight simulated devices, and prints which laws failed; or as one of two processes on
loopback, and prints what they computed. One process runs all the laws of eight devices: its imports
take longer than most of them.
"""

import contextlib
import io
import json
import re
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnax
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
    tabular,
    tokens,
    training,
    weights,
)
from pgjax.core import chunks
from pgjax.estimators import score_weights

DEVICES = 8
WINDOWS: dict[str, Any] = {"num_environments": 16, "num_steps": 8}
N = 24
TABLE = np.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]], np.float32)
MDP = tabular.random_mdp()
TABULAR = pgjax.tabular_softmax(4, 2)
UNCOUPLED = pgjax.reward_to_go(0.9)
COUPLED = pgjax.reward_to_go(0.9, baseline=baselines.leave_one_out)


# What they compute.


@cache
def cartpole() -> tuple[Any, Any]:
    return gymnax.make("CartPole-v1")


@cache
def network() -> tuple[pgjax.Policy, Any]:
    """A policy with six leaves, and its parameters."""
    policy = pgjax.flax_policy(pgjax.MLP(num_actions=2, hidden=(8, 8)))
    return policy, jax.jit(policy.init)(jax.random.key(1), jnp.zeros(4))


def on_cartpole(run: Callable[..., Any], *first: Any, **settings: Any) -> Any:
    arguments = *first, *network(), cartpole()[0], jax.random.key(7)
    return run(*arguments, num_trajectories=N, num_steps=40, **settings)


def on_mdp(run: Callable[..., Any], *first: Any, **settings: Any) -> Any:
    arguments = *first, TABULAR, jnp.asarray(TABLE), MDP, jax.random.key(7)
    return run(*arguments, **{"num_trajectories": N, "num_steps": 5, **settings})


def gradient_leaves(mesh: Mesh | None) -> list[list]:
    """Of the estimate on CartPole, as lists."""
    leaves = jax.tree.leaves(on_cartpole(pgjax.sampled_gradient, COUPLED, mesh=mesh))
    return [np.asarray(x).tolist() for x in leaves]


def trained_leaves(devices: Any) -> list[list]:
    """The parameters after two updates of A2C, on devices of all processes if there are any."""
    agent = pgjax.agents.separate(TABULAR, linen.Dense(1))
    learner = training.a2c(MDP, training.A2CSettings(**WINDOWS), agent=agent)
    learner = learner if devices is None else training.over_devices(learner, devices)
    state, _ = run_of(learner, 2)
    return [np.asarray(x).tolist() for x in jax.tree.leaves(state.params)]


def meshes() -> dict[str, Mesh]:
    """Of 2, 4 and 8 devices, with axes of either type, one or two of them."""
    devices = jax.devices()
    explicit, automatic = (AxisType.Explicit,), (AxisType.Auto,)
    return {
        "2, automatic": jax.make_mesh((2,), ("n",), automatic, devices=devices[:2]),
        "4, in another order": Mesh(np.array(devices[3::-1]), ("n",)),
        "8, explicit": jax.make_mesh((8,), ("n",), explicit),
        "8, automatic": jax.make_mesh((8,), ("n",), automatic),
        "4 x 2": jax.make_mesh((4, 2), ("a", "b"), explicit + automatic),
    }


STEPS = 40
EPS = float(np.finfo(np.float32).eps)
# A falling pole amplifies what differs at its start some 25-fold in 40 steps of 0.02 s: it falls
# away as exp(4 t).
ROUNDING_OF_A_TRAJECTORY = 25 * STEPS * EPS


@cache
def rounding_of_gradient() -> float:
    """√n eps of the mean size of n terms, four roundings each; terms are those without baseline."""
    each = on_cartpole(pgjax.sampled_moments, UNCOUPLED)
    sizes = jax.tree.map(lambda m, s: jnp.sqrt(m**2 + s / N), each.mean, each.squares)
    largest = max(float(jnp.max(x)) for x in jax.tree.leaves(sizes))
    return 4 * np.sqrt(N * STEPS) * EPS * largest


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


def trajectories_are_the_same_on_any_mesh() -> None:
    expected = on_cartpole(pgjax.rollout)
    for mesh in meshes().values():
        found = on_cartpole(pgjax.rollout, mesh=mesh)
        assert_same_trajectories(found, expected)
        assert len(found.reward.sharding.device_set) == mesh.size


def trajectories_are_the_same_within_a_mesh_that_is_set() -> None:
    expected = on_mdp(pgjax.rollout)
    for mesh in meshes().values():
        with jax.set_mesh(mesh):
            assert_same_trajectories(on_mdp(pgjax.rollout, mesh=mesh), expected)


def another_key_gives_other_trajectories() -> None:
    """The negative control."""
    expected = on_mdp(pgjax.rollout)
    arguments = TABULAR, jnp.asarray(TABLE), MDP, jax.random.key(8)
    mesh = meshes()["8, automatic"]
    found = pgjax.rollout(*arguments, num_trajectories=N, num_steps=5, mesh=mesh)
    with pytest.raises(AssertionError):
        assert_same_trajectories(found, expected)


def trajectories_must_divide_over_the_devices() -> None:
    mesh = meshes()["8, automatic"]
    message = "the 20 trajectories must divide evenly over the 8 devices of the mesh; take 24"
    for run, *first in (
        (pgjax.rollout,),
        (pgjax.sampled_gradient, UNCOUPLED),
        (pgjax.sampled_moments, UNCOUPLED),
        (partial(pgjax.sampled_gradient, micro_batch_size=1), UNCOUPLED),
    ):
        with pytest.raises(ValueError, match=message):
            on_mdp(run, *first, num_trajectories=20, mesh=mesh)


# Estimates.


def on_the_whole_batch(function: Callable[..., Any]) -> Any:
    """A function of (estimator, policy, params, batch) on a batch that is kept, on one device."""
    policy, params = network()
    batch = on_cartpole(pgjax.rollout)
    return jax.jit(lambda params, batch: function(COUPLED, policy, params, batch))(params, batch)


def gradients_are_the_same_on_any_mesh_and_for_any_split() -> None:
    bound = rounding_of_gradient()
    expected = on_the_whole_batch(pgjax.gradient)
    for name, split in (
        ("2, automatic", 5),
        ("4, in another order", None),
        ("8, explicit", 2),
        ("4 x 2", None),
    ):
        mesh = meshes()[name]
        found = on_cartpole(pgjax.sampled_gradient, COUPLED, mesh=mesh, micro_batch_size=split)
        assert_close(found, expected, bound)


def moments_are_the_same_on_any_mesh_and_for_any_split() -> None:
    each = on_the_whole_batch(pgjax.per_trajectory_gradients)
    expected = diagnostics.running_moments(each)
    bound = rounding_of_gradient()
    for name, split in (("8, explicit", None), ("2, automatic", 5)):
        mesh = meshes()[name]
        found = on_cartpole(pgjax.sampled_moments, COUPLED, mesh=mesh, micro_batch_size=split)
        assert float(found.num_samples) == N
        assert_close(found.mean, expected.mean, bound)
        # Sums of N squares: each rounds as the square of a term does.
        largest = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(each))
        assert_close(found.squares, expected.squares, 2 * N * largest * bound)


def parameters_on_the_mesh_and_a_mesh_that_is_set_change_nothing() -> None:
    expected = on_mdp(pgjax.sampled_gradient, UNCOUPLED)
    bound = 5 * N * EPS * float(jnp.max(jnp.abs(expected)))
    mesh = meshes()["8, explicit"]
    placed = jax.device_put(TABLE, NamedSharding(mesh, PartitionSpec()))
    found = pgjax.sampled_gradient(
        UNCOUPLED, TABULAR, placed, MDP, jax.random.key(7),
        num_trajectories=N, num_steps=5, mesh=mesh,
    )  # fmt: skip
    assert_close(found, expected, bound)
    mesh = meshes()["4 x 2"]
    with jax.set_mesh(mesh):
        found = on_mdp(pgjax.sampled_gradient, UNCOUPLED, mesh=mesh, micro_batch_size=2)
        assert_close(found, expected, bound)


def untraced(policy: pgjax.Policy) -> pgjax.Policy:
    """Another record of the same functions, of which nothing has been traced in larger chunks."""
    return pgjax.Policy(*(partial(getattr(policy, f.name)) for f in fields(policy)))


def check_a_batch_on(mesh: Mesh) -> None:
    policy, params = network()
    batch = on_cartpole(pgjax.rollout)
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
    estimate = jax.jit(lambda params, batch: pgjax.gradient(COUPLED, policy, params, batch))
    expected = estimate(params, batch)
    assert_close(estimate(params, spread), expected, rounding_of_gradient())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CPU_ROWS", 64)  # many chunks, each with rows of many devices
        again = untraced(policy)
        in_pieces = jax.jit(lambda params, batch: pgjax.gradient(COUPLED, again, params, batch))
        assert_close(in_pieces(params, spread), expected, rounding_of_gradient())


def a_batch_that_is_already_spread_has_the_same_gradient() -> None:
    check_a_batch_on(meshes()["8, automatic"])


def so_has_one_whose_type_says_how_it_is_spread() -> None:
    check_a_batch_on(meshes()["8, explicit"])


# Compiled programs.

SHAPE = re.compile(r"\b[a-z]\w*\[([\d,]*)\]")
COLLECTIVE = re.compile(
    r"= (?P<type>.*?) (?P<name>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)


def collectives(lowered: Any) -> list[tuple[str, int, bool]]:
    """Every operation between devices: its name, the numbers it moves, whether outside of loops."""
    found, entry = [], False
    for line in lowered.compile().as_text().splitlines():
        if line.endswith("{"):
            entry = line.startswith("ENTRY")
        if match := COLLECTIVE.search(line):
            shapes = SHAPE.findall(match["type"])
            sizes = [np.prod([int(n) for n in shape.split(",") if n]) for shape in shapes]
            found.append((match["name"], int(sum(sizes)), entry))
    return sorted(found)


def compiled_collectives(estimator: pgjax.Estimator, split: int | None) -> list:
    environment, _ = cartpole()
    policy, params = network()

    def estimate(params: Any, key: Any) -> Any:
        return pgjax.sampled_gradient(
            estimator, policy, params, environment, key,
            num_trajectories=N, num_steps=STEPS,
            micro_batch_size=split, mesh=meshes()["8, explicit"],
        )  # fmt: skip

    return collectives(jax.jit(estimate).lower(params, jax.random.key(0)))


def parameters_are_summed_over_devices_once_and_nothing_else_is() -> None:
    count = sum(x.size for x in jax.tree.leaves(network()[1]))
    for split in (None, 1):
        assert compiled_collectives(UNCOUPLED, split) == [("all-reduce", count, True)]


def leave_one_out_adds_one_sum_of_returns_a_step() -> None:
    count = sum(x.size for x in jax.tree.leaves(network()[1]))
    # A micro-batched estimate weighs in each of its two passes, within their loop.
    for split, entry in ((None, True), (1, False)):
        expected = sorted([("all-reduce", STEPS, entry), ("all-reduce", count, True)])
        assert compiled_collectives(COUPLED, split) == expected


def a_gather_of_all_rewards_would_be_seen() -> None:
    """The negative control."""
    mesh = meshes()["8, automatic"]
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("n",), ()))
    gather = jax.jit(jnp.negative, in_shardings=rows, out_shardings=whole)
    assert collectives(gather.lower(jnp.ones((N, STEPS)))) == [("all-gather", N * STEPS, True)]


def no_device_holds_anything_of_all_trajectories() -> None:
    many = DEVICES * 1009

    def estimate(params: Any, mesh: Mesh | None) -> Any:
        return pgjax.sampled_gradient(
            COUPLED, TABULAR, params, MDP, jax.random.key(0),
            num_trajectories=many, num_steps=5, mesh=mesh,
        )  # fmt: skip

    def holds_all(mesh: Mesh | None) -> bool:
        lowered = jax.jit(partial(estimate, mesh=mesh)).lower(jnp.asarray(TABLE))
        shapes = SHAPE.findall(lowered.compile().as_text() or "")
        sizes = {int(n) for shape in shapes for n in shape.split(",") if n}
        return any(n and n % many == 0 for n in sizes)

    assert holds_all(None)
    assert not holds_all(meshes()["8, explicit"])


# A user's own shard_map, with JAX's check of what varies over devices.


def local_batches() -> tuple[Any, list[Trajectory]]:
    keys = jax.random.split(jax.random.key(5), DEVICES)
    table = jnp.asarray(TABLE)
    return keys, [
        pgjax.rollout(TABULAR, table, MDP, key, num_trajectories=3, num_steps=7) for key in keys
    ]


def check_in_shard_map(rows_per_chunk: int) -> None:
    keys, batches = local_batches()
    one = jax.jit(lambda p, b: pgjax.gradient(COUPLED, TABULAR, p, b))
    each = jax.jit(lambda p, b: pgjax.per_trajectory_gradients(COUPLED, TABULAR, p, b))
    gradients, separate = ([f(jnp.asarray(TABLE), b) for b in batches] for f in (one, each))
    mesh, split, whole = meshes()["8, explicit"], PartitionSpec("n"), PartitionSpec()
    table = jax.device_put(TABLE, NamedSharding(mesh, whole))
    spread_keys = jax.device_put(keys, NamedSharding(mesh, split))
    policy = untraced(TABULAR)

    def local(params: Any, keys: Any) -> tuple[Any, ...]:
        batch = pgjax.rollout(policy, params, MDP, keys[0], num_trajectories=3, num_steps=7)
        returns = jax.vmap(lambda reward: pgjax.discounted_returns(reward, 0.9))(batch.reward)
        own = jax.lax.pcast(params, "n", to="varying")
        return (
            batch,
            returns,
            pgjax.gradient(COUPLED, policy, params, batch)[None],
            pgjax.gradient(COUPLED, policy, own, batch)[None],
            pgjax.per_trajectory_gradients(COUPLED, policy, params, batch),
        )

    run = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, split),
        out_specs=split,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CPU_ROWS", rows_per_chunk)
        batch, returns, shared, own, trajectories = jax.jit(run)(table, spread_keys)
    expected = jax.tree.map(lambda *x: jnp.concatenate(x), *batches)
    assert_same_trajectories(batch, expected)
    by_rows = jax.vmap(lambda reward: pgjax.discounted_returns(reward, 0.9))(expected.reward)
    assert_close(returns, by_rows, 1e-5)
    assert_close(own, jnp.stack(gradients), 1e-5)
    assert_close(trajectories, jnp.concatenate(separate), 1e-5)
    assert_close(shared, jnp.stack(gradients), 1e-5)


def everything_works_in_a_shard_map() -> None:
    check_in_shard_map(4096)


def so_it_does_in_pieces() -> None:
    check_in_shard_map(16)


PENDULUM = beyond.differentiable(gymnax.make("Pendulum-v1")[0])
SIZES: dict[str, Any] = {"num_trajectories": 3, "num_steps": 4}


def linear(params: Any, key: Any, seen: Any) -> Any:
    return seen @ params.reshape(-1)[:3, None] + 0.1 * jax.random.normal(key, (1,))


def everything(params: Any, key: Any) -> dict[str, Any]:
    """All that the library makes of one device's trajectories, by the name of the function."""
    batch = pgjax.rollout(TABULAR, params, MDP, key, **SIZES)
    both, of_batch = (TABULAR, params, MDP, key), (TABULAR, params, batch)
    critic, values = jnp.ones(4), jnp.ones((*batch.mask.shape, 2)) * jnp.array([1.0, 2.0])
    rate: dict[str, Any] = {"discount": 0.9}
    products = {
        "expected_fisher": beyond.expected_fisher(*of_batch, **rate, num_actions=2),
        "sampled_fisher": beyond.sampled_fisher(*of_batch, **rate),
    }
    update = pgjax.training.update(
        COUPLED, TABULAR, optax.sgd(0.1), params, optax.sgd(0.1).init(params), batch
    )
    normalised = pgjax.Estimator(
        weights.total_return(0.9, scale=baselines.group_deviation(baselines.groups.consecutive(3))),
        pgjax.terms.score,
    )
    return {
        "gradient": pgjax.gradient(COUPLED, *of_batch),
        "gradient, normalised": pgjax.gradient(normalised, *of_batch),
        "per_trajectory_gradients": pgjax.per_trajectory_gradients(COUPLED, *of_batch),
        "running_moments": diagnostics.running_moments(
            pgjax.per_trajectory_gradients(COUPLED, *of_batch)
        ),
        "surrogate": pgjax.surrogate(COUPLED, *of_batch),
        "log_probs": pgjax.log_probs(*of_batch),
        "score_weights of log-probabilities that all devices share": score_weights(
            COUPLED, batch, jnp.full(batch.mask.shape, -0.5)
        ),
        "sampled_gradient": pgjax.sampled_gradient(COUPLED, *both, **SIZES),
        "the same, split": pgjax.sampled_gradient(COUPLED, *both, **SIZES, micro_batch_size=2),
        "sampled_moments": pgjax.sampled_moments(COUPLED, *both, **SIZES),
        "entropy_gradient": regularization.entropy_gradient(*of_batch, **rate),
        "k2": pgjax.gradient(
            pgjax.Estimator(regularization.visits(0.9), regularization.k2),
            *of_batch[:2],
            regularization.with_reference(batch, batch.log_prob - 1),
        ),
        "with_entropy_reward": regularization.with_entropy_reward(batch, 0.1).reward,
        "all_action": beyond.all_action_gradient(*of_batch, values, **rate),
        "corrected": beyond.corrected_all_action_gradient(*of_batch, values, **rate),
        "trace_gradient": beyond.trace_gradient(*of_batch, **rate),
        "sampled_trace_gradient": beyond.sampled_trace_gradient(*both, **SIZES, **rate),
        "pathwise": beyond.pathwise_gradient(linear, params, PENDULUM, key, **SIZES, **rate),
        "antithetic_rollout": beyond.antithetic_rollout(
            beyond.inversion(TABULAR, 2), params, MDP, key, num_pairs=2, num_steps=4
        ).reward,
        "evolution_strategies": beyond.evolution_strategies(
            lambda params, key: jnp.sum(params**2), params, key, scale=0.1, num_pairs=3
        ),
        **{name: product(jnp.ones((4, 2)) * jnp.arange(2)) for name, product in products.items()},
        "natural_gradient": beyond.natural_gradient(
            pgjax.gradient(COUPLED, *of_batch), products["expected_fisher"], damping=0.1
        ),
        "score_products": control_variates.score_products(*of_batch, **rate),
        "critics.fit": critics.fit(
            jnp.dot, critic, batch, batch.reward, optax.sgd(0.1), num_steps=2
        ),
        "update": update,
    }


def in_shard_map(function: Callable[[Any, Any], Any], mesh: Mesh, *, is_own: bool) -> Any:
    """What each device makes of its own key, [D, ...] each leaf; the table is the same for all."""

    def local(params: Any, keys: Any) -> Any:
        params = jax.lax.pcast(params, "n", to="varying") if is_own else params
        return jax.tree.map(lambda x: jnp.asarray(x)[None], function(params, keys[0]))

    split, whole = PartitionSpec("n"), PartitionSpec()
    run = jax.shard_map(local, mesh=mesh, in_specs=(whole, split), out_specs=split)
    keys = jax.random.split(jax.random.key(5), mesh.size)
    return jax.jit(run)(jnp.asarray(TABLE), keys)


def some_of_it(params: Any, key: Any) -> dict[str, Any]:
    batch = pgjax.rollout(TABULAR, params, MDP, key, **SIZES)
    return {
        "gradient": pgjax.gradient(COUPLED, TABULAR, params, batch),
        "per_trajectory_gradients": pgjax.per_trajectory_gradients(COUPLED, TABULAR, params, batch),
        "sampled_gradient": pgjax.sampled_gradient(COUPLED, TABULAR, params, MDP, key, **SIZES),
    }


def every_function_gives_each_device_its_own_with_one_factor() -> None:
    one = jax.jit(everything)
    for function, D, is_own in ((everything, 2, False), (some_of_it, 8, True)):
        found = in_shard_map(function, meshes()[f"{D}, automatic"], is_own=is_own)
        keys = jax.random.split(jax.random.key(5), D)
        each = [one(jnp.asarray(TABLE), key) for key in keys]
        expected = jax.tree.map(lambda *x: jnp.stack(x), *each)
        for name in found:
            try:
                assert_close(found[name], expected[name], 2e-5)
            except AssertionError as error:
                raise AssertionError(f"{name} on {D} devices, own {is_own}") from error


def parts_of_a_batch_of_tokens_add_up_to_the_whole() -> None:
    """With the weights of the whole batch; by parameters that all devices share, JAX adds up."""
    random = np.random.default_rng(0)
    table, tokens_there = jnp.asarray(random.normal(size=5)), random.integers(5, size=(8, 3))
    estimator, answers = tokens.dapo(), jnp.asarray(tokens_there)

    def log_probs(table: Any, answers: Any) -> Any:
        return jax.nn.log_softmax(table)[answers]

    batch = tokens.Batch(
        log_probs(table, answers),
        jnp.asarray(np.arange(3) < random.integers(1, 4, (8, 1))),
        reward=jnp.asarray(random.uniform(size=8)),
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

    split, whole = PartitionSpec("n"), PartitionSpec()
    expected = jax.jit(gradient)(table, answers, batch)

    def run(local: Any) -> Any:
        specs = {"mesh": meshes()["2, automatic"], "in_specs": (whole, split, split)}
        return jax.jit(jax.shard_map(local, **specs, out_specs=whole))(table, answers, batch)

    assert_close(run(shared_table), expected, 1e-6)
    assert_close(run(own_table), expected, 1e-6)
    assert float(jnp.abs(run(alone) - expected).max()) > 1e-3


def the_page_shows_what_is_right() -> None:
    """The block of docs/scaling.md; its own test runs it on one device."""
    page = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text("utf-8")
    (block,) = [x for x in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "shard_map" in x]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block, {"jax": jax, "pgjax": pgjax})
    assert printed.getvalue() == "True\n"


def the_mean_over_devices_is_the_estimate_from_all_trajectories() -> None:
    mesh = meshes()["8, automatic"]
    batches = [
        pgjax.rollout(TABULAR, jnp.asarray(TABLE), MDP, key, **SIZES)
        for key in jax.random.split(jax.random.key(5), DEVICES)
    ]
    batch = jax.tree.map(lambda *x: jnp.concatenate(x), *batches)
    expected = pgjax.gradient(UNCOUPLED, TABULAR, jnp.asarray(TABLE), batch)

    def mean(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
        def run(params: Any, key: Any) -> Any:
            batch = pgjax.rollout(TABULAR, params, MDP, key, **SIZES)
            return function(params, batch)

        return run

    def surrogate(params: Any, batch: Any) -> Any:
        return pgjax.surrogate(UNCOUPLED, TABULAR, params, batch)

    def gradient(params: Any, batch: Any) -> Any:
        return jax.lax.pmean(pgjax.gradient(UNCOUPLED, TABULAR, params, batch), "n")

    def of_mean(params: Any, batch: Any) -> Any:
        return jax.grad(lambda params: jax.lax.pmean(surrogate(params, batch), "n"))(params)

    def moments(params: Any, batch: Any) -> Any:
        each = pgjax.per_trajectory_gradients(UNCOUPLED, TABULAR, params, batch)
        every = jax.lax.all_gather(diagnostics.running_moments(each), "n")
        return diagnostics.merge_all(every).mean

    for function in (gradient, of_mean, moments):
        found = in_shard_map(mean(function), mesh, is_own=False)
        assert_close(found, jnp.stack([expected] * DEVICES), 1e-5)
    # The negative control: without the mean inside, JAX sums over devices.
    found = in_shard_map(mean(jax.grad(surrogate)), mesh, is_own=False)
    assert_close(found, jnp.stack([DEVICES * expected] * DEVICES), 1e-4)
    with pytest.raises(AssertionError):
        assert_close(found, jnp.stack([expected] * DEVICES), 1e-4)


def the_same_holds_under_pmap() -> None:
    keys = jax.random.split(jax.random.key(5), DEVICES)

    def local(params: Any, key: Any) -> Any:
        return pgjax.sampled_gradient(COUPLED, TABULAR, params, MDP, key, **SIZES)

    expected = [local(jnp.asarray(TABLE), key) for key in keys]
    found = jax.pmap(local, in_axes=(None, 0))(jnp.asarray(TABLE), keys)
    assert_close(found, jnp.stack(expected), 1e-5)


def a_key_of_rbg_gives_the_same_on_any_mesh() -> None:
    def sampled(mesh: Mesh | None) -> Any:
        key = jax.random.key(7, impl="rbg")
        return pgjax.rollout(
            TABULAR, jnp.asarray(TABLE), MDP, key, num_trajectories=N, num_steps=5, mesh=mesh
        )

    assert_same_trajectories(sampled(meshes()["8, explicit"]), sampled(None))


def a_network_with_other_variables_is_the_same_on_any_mesh() -> None:
    def build(rngs: nnx.Rngs) -> nnx.Module:
        layers = nnx.Linear(4, 2, rngs=rngs), nnx.BatchNorm(2, rngs=rngs)
        return nnx.Sequential(*layers, nnx.Dropout(0.5, rngs=rngs))

    norm = linen.Sequential([linen.Dense(2), linen.BatchNorm(use_running_average=True)])
    for module, name in ((build, "8, explicit"), (norm, "2, automatic")):
        policy = pgjax.flax_policy(module)
        params = jax.jit(policy.init)(jax.random.key(0), jnp.zeros(4))
        estimate = partial(
            pgjax.sampled_gradient, UNCOUPLED, policy, params, MDP, jax.random.key(7),
            num_trajectories=N, num_steps=5,
        )  # fmt: skip
        assert_close(estimate(mesh=meshes()[name]), estimate(), 1e-5)


def run_of(algorithm: Any, updates: int) -> tuple[Any, Any]:
    """The state and the metrics after so many updates."""
    run = training.begin(algorithm, jax.random.key(0))
    state, metrics = run.start, None
    for index in range(updates, 0, -1):  # signal and noise are measured in the last
        state, metrics = training.advance(run, state, index)
    compiled: Any = run.step
    assert compiled._cache_size() == 1
    return state, metrics


def training_is_the_same_on_all_devices_and_stays_spread() -> None:
    agent = pgjax.agents.separate(TABULAR, linen.Dense(1))
    learner = training.a2c(MDP, training.A2CSettings(**WINDOWS), agent=agent)
    (one, expected), (every, found) = (
        run_of(each, 2) for each in (learner, training.over_devices(learner))
    )
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
    other = training.a2c(MDP, training.A2CSettings(num_environments=2, num_steps=8), agent=agent)
    with pytest.raises(AssertionError):
        assert_close(run_of(other, 2)[0].params, one.params, 1e-6)


def ppo_on_devices_averages_minibatches_and_refuses_uneven_parts() -> None:
    agent = pgjax.agents.separate(TABULAR, linen.Dense(1))
    settings = training.PPOSettings(**WINDOWS, epochs=2, num_minibatches=4)
    learner = training.over_devices(training.ppo(MDP, settings, agent=agent))
    state, metrics = run_of(learner, 1)
    copies = [x.addressable_shards for x in jax.tree.leaves((state.params, state.optimizer_state))]
    for shards in copies:
        for shard in shards:
            assert_array_equal(shard.data, shards[0].data)
    assert metrics.steps == 16 * 8
    assert np.isfinite([x for x in metrics if x is not None]).all()
    twelve = replace(settings, num_environments=12)
    with pytest.raises(ValueError, match="must divide the 12 environments evenly, got 8; take 16"):
        training.over_devices(training.ppo(MDP, twelve, agent=agent))


def a_run_is_resumed_on_another_number_of_devices() -> None:
    def options(devices: int | str, until: float | None) -> training.RunOptions:
        return training.RunOptions(devices=devices, until=until, quiet=True)

    settings = training.A2CSettings(num_updates=2, **WINDOWS)
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Any] = {"agent": pgjax.agents.separate(TABULAR, linen.Dense(1))}
        given = folder, MDP, settings
        run = training.start(*given, options=options("all", -1e6), overwrite=True, **parts)
        assert len(run.log) == 1
        run = training.resume(folder, environment=MDP, options=options(4, None), **parts)
        assert len(run.log) == 2
        assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(run.params)])).all()
        for devices, message in ((9, "at most 8, the devices here, got 9"), (0, "at least 1")):
            with pytest.raises(ValueError, match=message):
                training.start(*given, options=options(devices, None), overwrite=True, **parts)


LAWS: list[Callable[[], None]] = [
    trajectories_are_the_same_on_any_mesh,
    trajectories_are_the_same_within_a_mesh_that_is_set,
    another_key_gives_other_trajectories,
    trajectories_must_divide_over_the_devices,
    gradients_are_the_same_on_any_mesh_and_for_any_split,
    moments_are_the_same_on_any_mesh_and_for_any_split,
    parameters_on_the_mesh_and_a_mesh_that_is_set_change_nothing,
    a_batch_that_is_already_spread_has_the_same_gradient,
    so_has_one_whose_type_says_how_it_is_spread,
    parameters_are_summed_over_devices_once_and_nothing_else_is,
    leave_one_out_adds_one_sum_of_returns_a_step,
    a_gather_of_all_rewards_would_be_seen,
    no_device_holds_anything_of_all_trajectories,
    everything_works_in_a_shard_map,
    so_it_does_in_pieces,
    every_function_gives_each_device_its_own_with_one_factor,
    parts_of_a_batch_of_tokens_add_up_to_the_whole,
    the_page_shows_what_is_right,
    the_mean_over_devices_is_the_estimate_from_all_trajectories,
    the_same_holds_under_pmap,
    a_key_of_rbg_gives_the_same_on_any_mesh,
    a_network_with_other_variables_is_the_same_on_any_mesh,
    training_is_the_same_on_all_devices_and_stays_spread,
    ppo_on_devices_averages_minibatches_and_refuses_uneven_parts,
    a_run_is_resumed_on_another_number_of_devices,
]


# The processes, from inside.


def run_laws() -> None:
    """Print which laws failed, and how, as the last line."""
    assert jax.device_count() == DEVICES
    errors = {}
    for law in LAWS:
        try:
            law()
            errors[law.__name__] = ""
        except Exception:
            errors[law.__name__] = traceback.format_exc()
    print(json.dumps(errors))


def run_as_one_of_two() -> None:
    """One of two processes with a device each; both print a gradient and trained parameters."""
    assert jax.device_count() == jax.process_count() == 2
    assert jax.local_device_count() == 1
    gradient = gradient_leaves(jax.make_mesh((2,), ("n",)))
    print(json.dumps({"gradient": gradient, "trained": trained_leaves(jax.devices())}))
    jax.distributed.shutdown()


if __name__ == "__main__":
    run_as_one_of_two() if jax.process_count() == 2 else run_laws()
