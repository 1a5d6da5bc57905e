"""Rollouts of CartPole: ours against the PureJaxRL-style loop, in raw and in useful steps.

Both take N·T network and environment steps. Ours masks what follows an episode's end; the loop
resets instead, so that all of its steps are live, but only those of the first episode of each row
belong to N whole episodes. The ratio is of raw steps; the notes say how many were useful.
"""

from functools import partial

import jax
import numpy as np

from benchmarks import naive, problems
from benchmarks.harness import Case, Contender, Row, Scale
from pgjax.types import Params


def trained(scale: Scale) -> Case:
    return _case(problems.trained_params(), scale)


def untrained(scale: Scale) -> Case:
    return _case(problems.untrained_params(), scale)


def _case(params: Params, scale: Scale) -> Case:
    N, T = scale.num_trajectories, scale.num_steps
    key = jax.random.key(1)
    ours = partial(problems.rollout, params, key, N, T)
    loop = partial(problems.naive_rollout, params, key, N, T)
    batch = ours()
    first_episode = np.asarray(naive.first_episode(loop()))

    def check() -> None:
        problems.assert_same_lengths("naive JAX", first_episode.sum(axis=0), batch)

    return Case(
        contenders={
            "pgjax": Contender(
                ours, N * T, note=f"{np.asarray(batch.mask).mean():.0%} of steps alive"
            ),
            "naive JAX, PureJaxRL loop": Contender(
                loop,
                N * T,
                note=f"all alive, {first_episode.mean():.0%} in a row's first episode",
            ),
        },
        unit="steps",
        check=check,
        note=f"CartPole-v1, 2×64 tanh, N={N}, T={T}, mean length {problems.mean_length(batch):.0f}",
    )


ROWS = (
    Row("rollout", "rollout of a policy that balances", trained, 9),
    Row("rollout-untrained", "rollout of an untrained policy", untrained, 9),
)
