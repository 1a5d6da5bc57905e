"""A run as a record: environment, policy, parameters, settings and log."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Float

from pgjax.core.validation import check_kind, check_positive
from pgjax.environments import Environment
from pgjax.environments.conversion import AnyEnvironment
from pgjax.policies.greedy import greedy as greedily
from pgjax.training.evaluation import evaluate
from pgjax.training.runs import saved_runs
from pgjax.training.runs.log import Row, read
from pgjax.types import Params, Policy, RecurrentPolicy

UNLIMITED = 1000
"""Steps of an episode, if the environment has no limit."""


@dataclass(frozen=True)
class Run:
    """What a run left in its directory: one of `pgjax train`, or of `pgjax.training.start`.

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
    policy: Policy | RecurrentPolicy
    params: Params
    settings: dict[str, Any]
    config: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether all updates are made, or the return asked for is reached."""
        return bool(self.config.get("finished"))

    @property
    def log(self) -> list[Row]:
        """The rows of `log.jsonl`, one an update; what is not finite in them is NaN."""
        return read(self.directory / saved_runs.LOG)

    def num_steps(self, asked: int | None = None) -> int:
        """Steps after which an episode of an evaluation is cut: as asked, or by default."""
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
        policy: Any = self.policy
        return evaluate(
            greedily(policy) if greedy else policy,
            self.params,
            self.environment,
            key,
            num_trajectories=episodes,
            num_steps=self.num_steps(num_steps),
        )


def load(
    directory: Path | str,
    *,
    environment: "AnyEnvironment | None" = None,
    policy: Policy | RecurrentPolicy | None = None,
) -> Run:
    """The run in a directory that `pgjax train` or `pgjax.training.start` wrote.

    Args:
        directory: of the run.
        environment: the one that it was trained in, if that was not given by a name.
        policy: the one that was trained, if that was not the default network's; an agent's is
            `agent.policy`.

    Returns:
        A Run: environment, policy, parameters, settings; `run.evaluate()` gives returns.

    Raises:
        ValueError: if there is no run, or its files cannot be read, or they do not fit each other.
    """
    check_kind("directory", directory, (str, Path), "the --output of a `pgjax train`")
    config, record, made, params = saved_runs.load(Path(directory), environment, policy)
    return Run(Path(directory), record, made, params, config.get("settings", {}), config)
