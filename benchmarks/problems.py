"""What the rows have in common: CartPole, a 2×64 tanh network, and two policies for it."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

import pgjax
from benchmarks import naive
from benchmarks.harness import Contender, Missing
from pgjax.types import Estimator, Params, Trajectory

DISCOUNT = 0.99
POLICY = pgjax.flax_policy(pgjax.MLP(num_actions=2))
ESTIMATOR = pgjax.reward_to_go(DISCOUNT, baseline=pgjax.baselines.leave_one_out)
PLAIN_ESTIMATOR = pgjax.reward_to_go(DISCOUNT)


@cache
def cartpole() -> tuple[Any, Any]:
    """The environment and its parameters; one object, so that it is compiled for once."""
    return gymnax.make("CartPole-v1")


@cache
def untrained_params() -> Params:
    """Fresh parameters: nearly uniform actions, episodes of some 20 steps."""
    return jax.jit(POLICY.init)(jax.random.key(0), jnp.zeros(4))


@cache
def trained_params() -> Params:
    """Parameters that balance the pole, set by hand: episodes last to the limit.

    A linear feedback (push towards the fall) runs through the first unit of each layer; the other
    units stay as they were. So what a policy costs once it has learnt does not hang on the training
    code that is being measured.
    """
    params = untrained_params()["params"]
    feedback = np.array([0.05, 0.15, 0.9, 0.5])
    layers = dict(params)
    layers["Dense_0"] = _first_unit(params["Dense_0"], feedback)
    layers["Dense_1"] = _first_unit(params["Dense_1"], np.eye(64)[0])
    kernel = np.array(params["Dense_2"]["kernel"])
    kernel[0] = -20.0, 20.0
    layers["Dense_2"] = {**params["Dense_2"], "kernel": jnp.asarray(kernel)}
    return {"params": layers}


@cache
def mesh() -> Mesh | None:
    """Devices over which trajectories are spread; None where there is only one."""
    # A power of two, because N must be a multiple of it.
    count = 2 ** int(math.log2(jax.device_count()))
    devices = jax.devices()[:count]
    return jax.make_mesh((count,), ("trajectories",), devices=devices) if count > 1 else None


def on_several_devices(
    run: Callable[..., Any], work: float, beside: str = ""
) -> Contender | Missing:
    """A contender of ours, of what takes a `mesh`; missing on one device."""
    several = mesh()
    if several is None:
        return Missing("JAX sees one device", role="ours")
    note = f"{several.size} devices"
    return Contender(partial(run, mesh=several), work, note=note, role="ours", beside=beside)


@partial(jax.jit, static_argnames=("N", "T", "mesh"))
def rollout(params: Params, key: Array, N: int, T: int, mesh: Mesh | None = None) -> Trajectory:
    """A batch of CartPole episodes by pgjax."""
    environment, _ = cartpole()
    return pgjax.rollout(
        POLICY,
        params,
        environment,
        key,
        num_trajectories=N,
        num_steps=T,
        mesh=mesh,
    )


@partial(jax.jit, static_argnames=("N", "T"))
def naive_rollout(params: Params, key: Array, N: int, T: int) -> naive.Transition:
    """The same by the PureJaxRL-style loop."""
    return naive.rollout(params, *cartpole(), key, N, T)


@partial(jax.jit, static_argnames="estimator")
def estimate(params: Params, batch: Trajectory, estimator: Estimator = ESTIMATOR) -> Any:
    """The gradient of a batch by pgjax."""
    return pgjax.gradient(estimator, POLICY, params, batch)


@jax.jit
def naive_estimate(params: Params, transitions: naive.Transition, mask: Array) -> Any:
    """The same by plain JAX, with ESTIMATOR's weights."""
    return naive.gradient(params, transitions, mask, DISCOUNT)


@partial(jax.jit, static_argnames=("N", "T", "estimator", "mesh"))
def gradient(
    params: Params,
    key: Array,
    N: int,
    T: int,
    estimator: Estimator = ESTIMATOR,
    mesh: Mesh | None = None,
) -> Any:
    """Rollout and estimate by pgjax, compiled as one."""
    environment, _ = cartpole()
    return pgjax.sampled_gradient(
        estimator,
        POLICY,
        params,
        environment,
        key,
        num_trajectories=N,
        num_steps=T,
        mesh=mesh,
    )


@partial(jax.jit, static_argnames=("N", "T"))
def two_stage_gradient(params: Params, key: Array, N: int, T: int) -> Any:
    """The same by way of a batch that is kept."""
    return estimate(params, rollout(params, key, N, T))


@partial(jax.jit, static_argnames=("N", "T"))
def naive_gradient(params: Params, key: Array, N: int, T: int) -> Any:
    """The same by plain JAX."""
    transitions = naive_rollout(params, key, N, T)
    return naive_estimate(params, transitions, naive.first_episode(transitions))


def mean_length(batch: Trajectory) -> float:
    """Mean steps of an episode."""
    return float(np.asarray(batch.mask).sum(axis=1).mean())


def as_transitions(batch: Trajectory) -> tuple[naive.Transition, Array]:
    """A pgjax batch as the naive side holds it, [T, N], with its mask."""
    fields = batch.observation, batch.action, batch.reward, batch.log_prob, batch.terminated
    transposed = (jnp.asarray(np.swapaxes(x, 0, 1)) for x in (*fields, batch.mask))
    *transitions, mask = transposed
    return naive.Transition(*transitions), mask


def with_random_rewards(batch: Trajectory) -> Trajectory:
    """Episodes that all last to the limit have equal returns, and leave-one-out then gives zero."""
    return replace(batch, reward=jax.random.normal(jax.random.key(2), batch.reward.shape))


def assert_same_lengths(name: str, lengths: Any, batch: Trajectory) -> None:
    """Mean episode lengths of two samplers agree to 5 standard errors (one false alarm in 2e6)."""
    ours, theirs = np.asarray(batch.mask).sum(axis=1), np.asarray(lengths)
    error = (ours.var() / ours.size + theirs.var() / theirs.size) ** 0.5
    # Equal lengths have no spread at all, and a few short ones hardly any: allow a step.
    if abs(ours.mean() - theirs.mean()) > 5 * error + 1:
        raise AssertionError(
            f"{name} has episodes of {theirs.mean():.1f} steps, ours {ours.mean():.1f}; "
            f"the standard error of the difference is {error:.2g}"
        )


def _first_unit(layer: dict[str, Array], weight: np.ndarray) -> dict[str, Array]:
    kernel = np.array(layer["kernel"])
    kernel[:, 0] = weight
    return {**layer, "kernel": jnp.asarray(kernel)}
