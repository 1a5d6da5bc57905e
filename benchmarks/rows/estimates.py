"""Whole gradients, from the parameters to the estimate, and per-trajectory gradients of a batch.

Reward-to-go with γ^t and the leave-one-out baseline, on CartPole with a 2×64 tanh network. Each
contender samples its own episodes, so gradients are compared on one batch, and the samplers by
their mean lengths.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pgjax
from benchmarks import naive, problems
from benchmarks.harness import (
    Case,
    Contender,
    Missing,
    Row,
    Scale,
    not_importable,
    relative_difference,
    rounding,
)
from benchmarks.problems import DISCOUNT, ESTIMATOR, PLAIN_ESTIMATOR, POLICY
from pgjax.types import Estimator, Params, Trajectory


def whole_trained(scale: Scale) -> Case:
    return _whole(problems.trained_params(), scale)


def whole_untrained(scale: Scale) -> Case:
    return _whole(problems.untrained_params(), scale)


def per_trajectory(scale: Scale) -> Case:
    N, T = scale.num_trajectories, scale.num_steps
    params = problems.untrained_params()
    batch = problems.rollout(params, jax.random.key(1), N, T)
    ours = partial(jax.jit(partial(pgjax.per_trajectory_gradients, ESTIMATOR, POLICY)), params)
    theirs = partial(jax.jit(partial(naive.per_trajectory_gradients, discount=DISCOUNT)), params)
    ours, theirs = partial(ours, batch), partial(theirs, *problems.as_transitions(batch))
    return Case(
        contenders={
            "pgjax": Contender(ours, N, answer=ours),
            "naive JAX, one vmap(grad)": Contender(theirs, N, answer=theirs),
        },
        unit="trajectories",
        tolerance=rounding(N * T),
        note=f"N={N}, T={T}, the batch given",
    )


class _TorchLoop(NamedTuple):
    """A PyTorch loop, its threads, the estimator it computes, and its trajectories a run."""

    loop: Any
    threads: int
    estimator: Estimator
    num_trajectories: int


def _whole(params: Params, scale: Scale) -> Case:
    N, T = scale.num_trajectories, scale.num_steps
    key = jax.random.key(1)
    batch = problems.rollout(params, key, N, T)
    absent = not_importable(["torch", "gymnasium"])
    loops = {} if absent else _torch_loops(params, scale)

    def check() -> None:
        transitions = problems.naive_rollout(params, key, N, T)
        lengths = np.asarray(naive.first_episode(transitions)).sum(axis=0)
        problems.assert_same_lengths("naive JAX", lengths, batch)
        for name, loop in loops.items():
            _check_torch(name, loop, params, batch)

    judged = _with_random_rewards(batch)
    contenders: dict[str, Contender | Missing] = {
        "pgjax": Contender(
            partial(problems.gradient, params, key, N, T),
            N,
            answer=partial(problems.estimate, params, judged),
        ),
        "naive JAX": Contender(
            partial(problems.naive_gradient, params, key, N, T),
            N,
            answer=partial(problems.naive_estimate, params, *problems.as_transitions(judged)),
        ),
    }
    for name in TORCH:
        contenders[name] = absent or _torch_contender(loops[name])
    return Case(
        contenders,
        unit="trajectories",
        tolerance=rounding(N * T),
        check=check,
        note=f"CartPole-v1, 2×64 tanh, N={N} ({scale.loop_episodes} in the tutorial loop), T={T}, "
        f"mean length {problems.mean_length(batch):.0f}",
    )


def _with_random_rewards(batch: Trajectory) -> Trajectory:
    """Episodes that all last to the limit have equal returns, and leave-one-out then gives zero."""
    return replace(batch, reward=jax.random.normal(jax.random.key(2), batch.reward.shape))


TORCH = ("PyTorch, vectorised", "PyTorch, tutorial loop")


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
    Row("gradient", "rollout and gradient of a policy that balances", whole_trained, 7),
    Row("gradient-untrained", "rollout and gradient of an untrained policy", whole_untrained, 7),
    Row("per-trajectory", "per-trajectory gradients of a batch", per_trajectory, 7),
)
