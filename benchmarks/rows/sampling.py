"""Rollouts of CartPole: ours against the PureJaxRL-style loop, in raw and in useful steps.

Both take N·T network and environment steps. Ours masks what follows an episode's end; the loop
resets instead, so that all of its steps are live, but only those of the first episode of each row
belong to N whole episodes. The ratio is of raw steps; the notes say how many were useful. The limit
is the network alone.
"""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from benchmarks import limits, naive, problems
from benchmarks.harness import Case, Contender, Goal, Row, Scale
from pgjax.types import Params

LOOP = "naive JAX, PureJaxRL loop"
LIMIT = "forward pass alone"
GOALS = Goal(LOOP, 2.0), Goal(LIMIT, 0.8)


def trained(scale: Scale) -> Case:
    return _case(problems.trained_params(), scale.num_trajectories, scale.num_steps, GOALS)


def trained_many(scale: Scale) -> Case:
    return _case(problems.trained_params(), scale.many_trajectories, scale.num_steps, GOALS)


def untrained(scale: Scale) -> Case:
    return _case(problems.untrained_params(), scale.num_trajectories, scale.num_steps, ())


def _case(params: Params, N: int, T: int, goals: Sequence[Goal]) -> Case:
    key = jax.random.key(1)
    ours = partial(problems.rollout, params, key, N, T)
    loop = partial(problems.naive_rollout, params, key, N, T)
    batch = ours()
    first_episode = np.asarray(naive.first_episode(loop()))

    def check() -> None:
        problems.assert_same_lengths("naive JAX", first_episode.sum(axis=0), batch)

    alive = f"{np.asarray(batch.mask).mean():.0%} of steps alive"
    useful = f"all alive, {first_episode.mean():.0%} in a row's first episode"
    return Case(
        contenders={
            "pgjax": Contender(ours, N * T, note=alive, role="ours"),
            "pgjax, several devices": problems.on_several_devices(ours, N * T),
            LOOP: Contender(loop, N * T, note=useful),
            LIMIT: limits.forward(params, N, T),
        },
        unit="steps",
        check=check,
        note=f"CartPole-v1, 2×64 tanh, N={N}, T={T}, mean length {problems.mean_length(batch):.0f}",
        goals=goals,
    )


ROWS = (
    Row("rollout", "rollout of a policy that balances", trained, 9),
    Row("rollout-many", "rollout of a large batch of a policy that balances", trained_many, 5),
    Row("rollout-untrained", "rollout of an untrained policy", untrained, 9),
)
