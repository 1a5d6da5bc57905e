"""Evaluate a trained policy over fresh episodes."""

import argparse
import math

from pgjax.cli.arguments import nonempty_path, positive_int, seed

UNLIMITED = 1000
"""Steps of an episode, if the environment has no limit."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pgjax evaluate`."""
    parser.add_argument(
        "directory", type=nonempty_path, help="the --output directory of a `pgjax train`"
    )
    parser.add_argument("--num-trajectories", type=positive_int, default=128, help="fresh episodes")
    parser.add_argument(
        "--num-steps",
        type=positive_int,
        help="cut episodes after so many; by default the environment's own limit, or "
        f"{UNLIMITED} where it has none",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the evaluation")


def run(arguments: argparse.Namespace) -> int:
    """Roll out the stochastic policy to the environment's own limit, and print its returns."""
    import jax
    import numpy as np

    from pgjax.training.evaluation import evaluate
    from pgjax.training.runs import saved_runs

    config, environment, policy, params = saved_runs.load(arguments.directory)
    limit = environment.time_limit
    num_steps = min(arguments.num_steps or limit or UNLIMITED, limit or math.inf)
    # Training splits key(seed); folding a number in keeps evaluation apart even at equal seeds.
    key = jax.random.fold_in(jax.random.key(arguments.seed), int.from_bytes(b"eval"))
    returns = evaluate(
        policy,
        params,
        environment,
        key,
        num_trajectories=arguments.num_trajectories,
        num_steps=num_steps,
    )
    returns = np.asarray(returns, np.float64)
    episodes = "1 fresh episode" if returns.size == 1 else f"{returns.size} fresh episodes"
    print(
        f"{config['environment']}: {episodes} of at most {num_steps} steps, "
        "stochastic policy, undiscounted return"
    )
    error = f"{returns.std(ddof=1) / returns.size**0.5:.2g}" if returns.size > 1 else "unknown"
    print(
        f"mean {returns.mean():.5g}  standard error {error}  min {returns.min():g}  "
        f"median {np.median(returns):g}  max {returns.max():g}"
    )
    return 0
