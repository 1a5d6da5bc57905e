"""Prove an estimator of your own unbiased, or show where and by how much it is not."""

import argparse

from pgjax.cli import user_code
from pgjax.cli.arguments import known_name, positive_float, positive_int


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; JAX is not imported here."""
    parser.add_argument(
        "target",
        metavar="module:name",
        help="an Estimator, a function (params, batch) -> gradient, or problem -> either; "
        "the module by its name or as a path to a .py file",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        help="trajectories in a batch, K; by default 2, and also 1 and 3 if the batches of 3 are "
        "few enough to list",
    )
    parser.add_argument(
        "--problem", action="append", help="judge on this problem only; repeat for several"
    )
    parser.add_argument(
        "--up-to-scale", action="store_true", help="accept a mean of c ∇J for any c > 0"
    )
    parser.add_argument(
        "--behaviour",
        choices=["policy", "other"],
        help="the policy that acts: the policy itself, or another one; by default the policy "
        "itself, and also the other one if batch.log_prob is read",
    )
    parser.add_argument(
        "--tolerance",
        type=positive_float,
        default=1e-10,
        help="largest relative bias of an exact mean",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report; status 0 if unbiased, 1 if not."""
    candidate = user_code.load(arguments.target)
    from pgjax.proof.judge import Judge
    from pgjax.proof.problems import off_policy
    from pgjax.proof.problems import problems as all_problems
    from pgjax.proof.unbiased import assert_unbiased

    problems = {problem.name: problem for problem in all_problems()}
    chosen = [known_name("--problem", name, problems) for name in arguments.problem or problems]
    behaviours = {
        None: None,
        "policy": lambda problem: problem.params,
        "other": lambda problem: off_policy(problem).behaviour,
    }
    try:
        report = assert_unbiased(
            candidate,
            [problems[name] for name in dict.fromkeys(chosen)],
            batch_size=arguments.batch_size,
            behaviour=behaviours[arguments.behaviour],
            judge=Judge(tolerance=arguments.tolerance, up_to_scale=arguments.up_to_scale),
        )
    except AssertionError as failure:
        print(failure)
        return 1
    except (ValueError, TypeError, OSError, ImportError):
        raise
    except Exception as error:
        raise ValueError(f"{arguments.target} fails with {user_code.shown(error)}") from error
    print(report)
    return 0
