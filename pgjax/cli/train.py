"""Train a policy on a gymnax environment by REINFORCE with reward-to-go and a baseline."""

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pgjax.cli.arguments import positive_int, unit_interval

MAX_DEFAULT_STEPS = 500
"""A cap on the *default* --num-steps: a batch keeps N·T observations in memory."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pgjax train`."""
    parser.add_argument("environment", help="a gymnax id with discrete actions, e.g. CartPole-v1")
    parser.add_argument("--updates", type=positive_int, default=100, help="gradient steps")
    parser.add_argument(
        "--until",
        type=_finite_float,
        metavar="RETURN",
        help="stop at the first batch whose mean return is at least this",
    )
    parser.add_argument(
        "--num-trajectories", type=positive_int, default=64, help="episodes in each update"
    )
    parser.add_argument(
        "--num-steps",
        type=positive_int,
        help="cut episodes after this many steps; by default the environment's own limit, "
        f"but at most {MAX_DEFAULT_STEPS} (a cut changes the objective to the return so far)",
    )
    parser.add_argument(
        "--discount",
        type=unit_interval,
        default=1.0,
        help="γ of the objective E[Σ γ^t r]; 1 is the episode's return, the number reported",
    )
    parser.add_argument(
        "--learning-rate",
        type=_positive_float,
        default=0.005,  # twice that learns CartPole sooner, and freezes on a bad FrozenLake policy
        help="Adam's, at the start; it falls linearly to zero",
    )
    parser.add_argument(
        "--baseline",
        choices=("leave-one-out", "batch-mean", "none"),
        default="leave-one-out",
        help="subtracted from the return at each time step; leave-one-out and none are unbiased",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="same seed and machine, same parameters"
    )
    parser.add_argument("--output", type=Path, help="directory (default: runs/ENVIRONMENT)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a run already in the directory"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, reporting as it goes; leave parameters, log, curve and config in the directory."""
    import jax

    from pgjax.cli import saved_runs
    from pgjax.policies import flax_policy
    from pgjax.training import default_network, initial_params

    environment, environment_params = saved_runs.make_environment(arguments.environment)
    network = default_network(environment, environment_params)
    num_steps = _num_steps(arguments.num_steps, saved_runs.time_limit(environment_params))
    settings = {
        "updates": arguments.updates,
        "num_trajectories": arguments.num_trajectories,
        "num_steps": num_steps,
        "discount": arguments.discount,
        "learning_rate": arguments.learning_rate,
        "baseline": arguments.baseline,
    }
    policy = flax_policy(network)
    init_key, train_key = jax.random.split(jax.random.key(arguments.seed))
    params = initial_params(policy, environment, init_key, environment_params)
    loop = _loop(settings, policy, params, environment, environment_params, train_key)

    directory = arguments.output or Path("runs") / arguments.environment
    saved_runs.prepare(directory, overwrite=arguments.overwrite)
    config = saved_runs.describe(arguments.environment, network, arguments.seed, settings)
    saved_runs.write_config(directory, config)
    status = _follow(loop, params, directory, arguments)
    print(f"saved in {directory}; try: pgjax evaluate {directory}")
    return status


def _num_steps(asked: int | None, limit: int) -> int:
    """T, and a word where it cuts episodes that the task does not cut."""
    num_steps = asked or min(limit, MAX_DEFAULT_STEPS)
    if num_steps < limit:
        print(
            f"episodes are cut after {num_steps} steps, before the environment's limit of {limit}: "
            "the objective is the return up to there"
        )
    return min(num_steps, limit)  # no episode lasts longer, whatever was asked


def _loop(
    settings: dict,
    policy: Any,
    params: Any,
    environment: Any,
    environment_params: Any,
    key: Any,
) -> Iterator[tuple[Any, Any]]:
    """The generator of `training.train`, with estimator and optimizer from the settings."""
    import optax

    from pgjax import baselines
    from pgjax.estimators import reward_to_go
    from pgjax.training import train

    choices = {
        "leave-one-out": baselines.leave_one_out,
        "batch-mean": baselines.batch_mean,
        "none": None,
    }
    baseline = choices[settings["baseline"]]
    if baseline is baselines.leave_one_out and settings["num_trajectories"] < 2:
        raise ValueError(
            "--baseline leave-one-out needs --num-trajectories of at least 2; "
            "with a single one, use --baseline none"
        )
    # Falling to zero, the rate averages the noise away at the end, where the parameters are kept.
    rate = optax.linear_schedule(settings["learning_rate"], 0.0, settings["updates"])
    return train(
        policy,
        params,
        environment,
        key,
        estimator=reward_to_go(settings["discount"], baseline=baseline),
        optimizer=optax.adam(rate),
        num_updates=settings["updates"],
        num_trajectories=settings["num_trajectories"],
        num_steps=settings["num_steps"],
        environment_params=environment_params,
    )


def _follow(
    loop: Iterator[tuple[Any, Any]], params: Any, directory: Path, arguments: argparse.Namespace
) -> int:
    """Run the loop, logging each update; whatever stops it, the last good parameters are saved."""
    import jax

    from pgjax.cli import saved_runs
    from pgjax.plots import learning_curve

    rows: list[dict[str, Any]] = []
    start, steps = time.perf_counter(), 0.0
    try:
        with (directory / saved_runs.LOG).open("w") as log, _reporter(arguments.updates) as report:
            for improved, metrics in loop:
                params = improved
                steps += metrics.mean_length * arguments.num_trajectories
                row = {"update": len(rows) + 1, "environment_steps": round(steps)}
                row |= metrics._asdict() | {"seconds": round(time.perf_counter() - start, 3)}
                rows.append(row)
                print(json.dumps(_finite(row), allow_nan=False), file=log, flush=True)
                report(row)
                if arguments.until is not None and metrics.mean_return >= arguments.until:
                    break
    except (FloatingPointError, jax.errors.JaxRuntimeError) as error:
        print(f"pgjax train: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    finally:
        saved_runs.write_params(directory, params)
        if rows:
            figure = learning_curve(rows, title=f"{arguments.environment}, seed {arguments.seed}")
            figure.savefig(directory / saved_runs.CURVE, dpi=150)
    if arguments.until is not None and rows:
        print(_verdict(rows[-1], arguments.until))
    return 0


def _verdict(row: dict[str, Any], until: float) -> str:
    """Whether the return asked for was reached, and where."""
    if row["mean_return"] >= until:
        return f"a mean return of {until:g} was reached at update {row['update']}"
    return f"no batch reached a mean return of {until:g} in {row['update']} updates"


@contextlib.contextmanager
def _reporter(updates: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A live line on a terminal; about twenty plain lines anywhere else."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console()
    if console.is_terminal:
        columns = (MofNCompleteColumn(), BarColumn(12), TextColumn("{task.description}"))
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("compiling", total=updates)
            yield lambda row: progress.update(task, advance=1, description=_line(row))
        return
    every = max(1, math.ceil(updates / 20))

    def report(row: dict[str, Any]) -> None:
        if row["update"] in (1, updates) or row["update"] % every == 0:
            print(
                f"update {row['update']:>{len(str(updates))}}/{updates}  {_line(row)}", flush=True
            )

    yield report


def _line(row: dict[str, Any]) -> str:
    error = row["standard_error"]
    spread = f" ± {error:.2g}" if math.isfinite(error) else ""  # a single episode has none
    return (
        f"return {row['mean_return']:.4g}{spread}  "
        f"gradient norm {row['gradient_norm']:.3g}  entropy {row['entropy']:.3f}"
    )


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: the standard error of a single episode becomes null."""
    return {
        name: None if isinstance(x, float) and not math.isfinite(x) else x
        for name, x in row.items()
    }


def seed(text: str) -> int:
    """An integer that fits 32 bits, as jax.random.key takes it."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs an integer, got {text!r}") from None
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"needs an integer from 0 to 2^32 - 1, got {value}")
    return value


def _finite_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs a number, got {text!r}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"needs a finite number, got {text}")
    return value


def _positive_float(text: str) -> float:
    value = _finite_float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"needs a positive number, got {text}")
    return value
