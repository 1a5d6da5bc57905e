"""A saved run as a record: environment, policy, parameters and settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Float

from pgjax.core.validation import check_kind, check_positive
from pgjax.environments import Environment
from pgjax.policies.greedy import greedy as greedily
from pgjax.training.evaluation import evaluate
from pgjax.training.runs import saved_runs
from pgjax.types import Params, Policy

UNLIMITED = 1000
"""Steps of an episode, if the environment has no limit."""


@dataclass(frozen=True)
class Run:
    """What a run of `pgjax train` left in its directory.

    Attributes:
        directory: of the run.
        environment: that it was trained in.
        policy: that was trained.
        params: of the policy; the last that were saved.
        settings: by the names of the command line's options.
        config: all of `config.json`.
    """

    directory: Path
    environment: Environment
    policy: Policy
    params: Params
    settings: dict[str, Any]
    config: dict[str, Any]

    def num_steps(self, asked: int | None = None) -> int:
        """Steps after which an episode of an evaluation is cut: as asked, or the own limit."""
        limit = self.environment.time_limit
        chosen = asked or limit or UNLIMITED
        return chosen if limit is None else min(chosen, limit)

    def evaluate(
        self,
        *,
        episodes: int = 128,
        greedy: bool = False,
        num_steps: int | None = None,
        seed: int = 0,
    ) -> Float[jax.Array, "N"]:
        """Undiscounted returns [N] of fresh episodes, in units of reward.

        Args:
            episodes: N.
            greedy: take the most likely action instead of drawing one.
            num_steps: steps after which an episode is cut; None is the environment's own limit.
            seed: of the evaluation; training never uses its draws.

        Raises:
            TypeError: if `greedy`, and the policy is neither of a softmax nor of a Gaussian.
        """
        check_positive("episodes", episodes)
        # Training splits key(seed); folding a number in keeps evaluation apart at equal seeds.
        key = jax.random.fold_in(jax.random.key(seed), int.from_bytes(b"eval"))
        return evaluate(
            greedily(self.policy) if greedy else self.policy,
            self.params,
            self.environment,
            key,
            num_trajectories=episodes,
            num_steps=self.num_steps(num_steps),
        )


def load(directory: Path | str) -> Run:
    """The run in a directory that `pgjax train` wrote.

    Args:
        directory: the `--output` of the training.

    Returns:
        A Run: environment, policy, parameters, settings; `run.evaluate()` gives returns.

    Raises:
        ValueError: if there is no run, or its files cannot be read, or they do not fit each other.
    """
    check_kind("directory", directory, (str, Path), "the --output of a `pgjax train`")
    config, environment, policy, params = saved_runs.load(Path(directory))
    return Run(Path(directory), environment, policy, params, config.get("settings", {}), config)
