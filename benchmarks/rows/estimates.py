"""Whole gradients, from the parameters to the estimate, on one device and on several.

Reward-to-go with γ^t and the leave-one-out baseline, on CartPole with a 2×64 tanh network. Each
contender samples its own episodes, so gradients are compared on one batch, and the samplers by
their mean lengths. The limit is the network alone: forward along the episodes, then backward.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks import limits, naive, problems
from benchmarks.harness import (
    Case,
    Contender,
    Goal,
    Missing,
    Row,
    Scale,
    not_importable,
    relative_difference,
    rounding,
)
from benchmarks.problems import DISCOUNT, ESTIMATOR, PLAIN_ESTIMATOR
from pgjax.types import Estimator, Params, Trajectory

NAIVE = "naive JAX"
TORCH = ("PyTorch, vectorised", "PyTorch, tutorial loop")
LIMIT = "one forward and one gradient pass"


def trained(scale: Scale) -> Case:
    vectorised, tutorial = TORCH
    goals = Goal(NAIVE, 4.0), Goal(vectorised, 8.0), Goal(tutorial, 1000.0), Goal(LIMIT, 0.8)
    params = problems.trained_params()
    limit = limits.forward_and_gradient(params, scale.num_trajectories, scale.num_steps)
    return _case(params, scale, {LIMIT: limit}, goals)


def untrained(scale: Scale) -> Case:
    return _case(problems.untrained_params(), scale, {}, [Goal(NAIVE, 20.0)])


def devices(scale: Scale) -> Case:
    """One device against several, at both sizes; each pair is compared with its own."""
    contenders: dict[str, Contender | Missing] = {}
    params, T = problems.trained_params(), scale.num_steps
    for N in (scale.num_trajectories, scale.many_trajectories):
        run = partial(problems.gradient, params, jax.random.key(1), N, T)
        several, one = (f"pgjax, N={N}, {count}" for count in ("several devices", "one device"))
        contenders[several] = problems.on_several_devices(run, N)
        contenders[one] = Contender(run, N, role="ours", beside=several)
    mesh = problems.mesh()
    return Case(
        contenders,
        unit="trajectories",
        note=f"rollout and gradient of a policy that balances, T={T}",
        # 1.8 where there are two.
        goals=[Goal(list(contenders)[1], 0.9 * (mesh.size if mesh else 1))],
    )


class _TorchLoop(NamedTuple):
    """A PyTorch loop, its threads, the estimator it computes, and its trajectories a run."""

    loop: Any
    threads: int
    estimator: Estimator
    num_trajectories: int


def _case(params: Params, scale: Scale, limit: dict[str, Contender], goals: Sequence[Goal]) -> Case:
    N, T = scale.num_trajectories, scale.num_steps
    key = jax.random.key(1)
    batch = problems.rollout(params, key, N, T)
    absent = not_importable(["torch", "gymnasium"])
    loops = {} if absent else _torch_loops(params, scale)
    judged = problems.with_random_rewards(batch)

    def check() -> None:
        _check_sampled(params, key, batch)
        transitions = problems.naive_rollout(params, key, N, T)
        lengths = np.asarray(naive.first_episode(transitions)).sum(axis=0)
        problems.assert_same_lengths("naive JAX", lengths, batch)
        for name, loop in loops.items():
            _check_torch(name, loop, params, batch)

    ours = partial(problems.gradient, params, key, N, T)
    return Case(
        {
            "pgjax": Contender(
                ours, N, answer=partial(problems.estimate, params, judged), role="ours"
            ),
            "pgjax, several devices": problems.on_several_devices(ours, N),
            "pgjax, by way of a batch": Contender(
                partial(problems.two_stage_gradient, params, key, N, T), N, role="ours"
            ),
            NAIVE: Contender(
                partial(problems.naive_gradient, params, key, N, T),
                N,
                answer=partial(problems.naive_estimate, params, *problems.as_transitions(judged)),
            ),
            **{name: absent or _torch_contender(loops[name]) for name in TORCH},
            **limit,
        },
        unit="trajectories",
        tolerance=rounding(N * T),
        check=check,
        note=f"CartPole-v1, 2×64 tanh, N={N} ({scale.loop_episodes} in the tutorial loop), T={T}, "
        f"mean length {problems.mean_length(batch):.0f}",
        goals=goals,
    )


def _torch_loops(params: Params, scale: Scale) -> dict[str, _TorchLoop]:
    from benchmarks import torch_loop

    N, T, few = scale.num_trajectories, scale.num_steps, scale.loop_episodes
    vectorised = torch_loop.VectorisedLoop(params, DISCOUNT, N, T)
    tutorial = torch_loop.TutorialLoop(params, DISCOUNT, few, T)
    loops = ((vectorised, ESTIMATOR, N), (tutorial, PLAIN_ESTIMATOR, few))
    return {
        name: _TorchLoop(loop, torch_loop.best_threads(loop), estimator, num_trajectories)
        for name, (loop, estimator, num_trajectories) in zip(TORCH, loops, strict=True)
    }


def _torch_contender(entry: _TorchLoop) -> Contender:
    from benchmarks import torch_loop

    return Contender(
        partial(torch_loop.run, entry.loop, entry.threads),
        entry.num_trajectories,
        note=f"{entry.threads} thread{'s' * (entry.threads > 1)}, the faster setting",
    )


def _check_sampled(params: Params, key: Array, batch: Trajectory) -> None:
    """One call from parameters to gradient gives that of the batch with the same key."""
    # Without a baseline: leave-one-out gives zero where all episodes last to the limit.
    actual = problems.gradient(params, key, *batch.mask.shape, PLAIN_ESTIMATOR)
    expected = problems.estimate(params, batch, PLAIN_ESTIMATOR)
    difference = relative_difference(actual, expected)
    if not difference <= rounding(batch.mask.size):
        raise AssertionError(f"sampled_gradient differs from the batch's by {difference:.2g}")


def _check_torch(name: str, loop: _TorchLoop, params: Params, ours: Trajectory) -> None:
    """Its gradient is ours on its own episodes, and its episodes last as long as ours."""
    from benchmarks import torch_loop

    episodes = loop.loop.gradient()
    lengths = [len(rewards) for rewards in episodes.rewards]
    problems.assert_same_lengths(name, lengths, ours)
    batch = _padded(episodes, ours.mask.shape[1])
    expected = problems.estimate(params, batch, loop.estimator)
    # Where the baseline leaves nothing but rounding, the size without it is the measure.
    terms = problems.estimate(params, batch, PLAIN_ESTIMATOR)
    actual = torch_loop.flax_gradient(loop.loop.network)
    difference = relative_difference(actual, expected, size_of=terms)
    if not difference <= rounding(batch.mask.size):
        raise AssertionError(f"{name}: its gradient differs from ours by {difference:.2g}")


def _padded(episodes: Any, T: int) -> Trajectory:
    """Episodes as a batch [N, T]; what an on-policy gradient does not read is left at zero."""

    def pad(x: np.ndarray) -> np.ndarray:
        return np.pad(x, ((0, T - len(x)),) + ((0, 0),) * (x.ndim - 1))

    observation, action, reward = (jnp.stack([pad(x) for x in field]) for field in episodes)
    mask = jnp.stack([pad(np.ones(len(x), bool)) for x in episodes.rewards])
    nothing, never = jnp.zeros(mask.shape), jnp.zeros(mask.shape, bool)
    return Trajectory(
        observation=observation.astype(jnp.float32),
        action=action,
        reward=reward.astype(jnp.float32),
        log_prob=nothing,
        terminated=never,
        truncated=never,
        mask=mask,
        final_observation=observation[:, -1],
    )


ROWS = (
    Row("gradient", "rollout and gradient of a policy that balances", trained, 7),
    Row("gradient-untrained", "rollout and gradient of an untrained policy", untrained, 7),
    Row("devices", "the same on several devices and on one", devices, 7),
)
