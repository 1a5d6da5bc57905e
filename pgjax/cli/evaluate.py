"""Evaluate a trained policy over fresh episodes."""

import argparse

from pgjax.cli.arguments import declare_acting, nonempty_path, positive_int


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pgjax evaluate`."""
    parser.add_argument(
        "directory", type=nonempty_path, help="the --output directory of a `pgjax train`"
    )
    parser.add_argument(
        "--episodes",
        "--num-trajectories",
        dest="num_trajectories",
        type=positive_int,
        default=128,
        help="fresh episodes",
    )
    parser.add_argument(
        "--csv", action="store_true", help="print episode,return lines and nothing else"
    )
    declare_acting(parser)


def run(arguments: argparse.Namespace) -> int:
    """Roll out the policy to the environment's own limit, and print its returns."""
    import numpy as np

    from pgjax.training.runs.loading import load

    run = load(arguments.directory)
    returns = np.asarray(
        run.evaluate(
            episodes=arguments.num_trajectories,
            greedy=arguments.greedy,
            num_steps=arguments.num_steps,
            seed=arguments.seed,
        ),
        np.float64,
    )
    if arguments.csv:
        print("episode,return")
        print("\n".join(f"{index},{value!r}" for index, value in enumerate(returns.tolist(), 1)))
        return 0
    episodes = "1 fresh episode" if returns.size == 1 else f"{returns.size} fresh episodes"
    print(
        f"{run.config['environment']}: {episodes} of at most "
        f"{run.num_steps(arguments.num_steps)} steps, "
        f"{'greedy' if arguments.greedy else 'stochastic'} policy, undiscounted return"
    )
    error = f"{returns.std(ddof=1) / returns.size**0.5:.2g}" if returns.size > 1 else "unknown"
    print(
        f"mean {returns.mean():.5g}  standard error {error}  min {returns.min():g}  "
        f"median {np.median(returns):g}  max {returns.max():g}"
    )
    return 0
