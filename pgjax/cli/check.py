"""Prove an estimator of your own unbiased, or show where and by how much it is not."""

import argparse
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

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
        help="trajectories a batch, K; by default 2, and 1 and 3 where all batches of 3 are few",
    )
    parser.add_argument(
        "--problem", action="append", help="judge on this problem only; repeat for several"
    )
    parser.add_argument(
        "--up-to-scale", action="store_true", help="accept c ∇J with c > 0, knowingly"
    )
    parser.add_argument(
        "--behaviour",
        choices=["policy", "other"],
        help="who acts: the policy itself, or another one; by default the policy itself, and the "
        "other too if batch.log_prob is read",
    )
    parser.add_argument(
        "--tolerance",
        type=positive_float,
        default=1e-10,
        help="largest relative bias of an exact mean",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report; status 0 if unbiased, 1 if not."""
    candidate = _load(arguments.target)
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
        raise ValueError(f"{arguments.target} fails with {_shown(error)}") from error
    print(report)
    return 0


def _load(target: str) -> Any:
    """The object that `module:name` or `path/to/file.py:name` names."""
    module_name, colon, name = target.rpartition(":")
    if not colon or not module_name or not name:
        raise ValueError(f"the estimator must be given as module:name, got {target}")
    load = _load_file if module_name.endswith(".py") else _import
    try:
        module = load(module_name)
    except SystemExit as end:
        raise ValueError(
            f"{module_name} ends the process with status {end.code or 0} when it is imported; put "
            'what is for the command line behind `if __name__ == "__main__":`'
        ) from None
    except (ValueError, ImportError):
        raise
    except Exception as error:
        raise ValueError(f"{module_name} cannot be imported: {_shown(error)}") from error
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module_name} has no {name}")
        found = getattr(found, part)
    return found


def _shown(error: Exception) -> str:
    """An error of the user's own code, and where in it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    file, line = place.filename, place.lineno
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno
    return f"{type(error).__name__}: {error} ({Path(file).name}, line {line})"


def _load_file(name: str) -> Any:
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    sys.path.insert(0, str(path.resolve().parent))  # as `python path` would
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None  # a .py file always has one
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _import(name: str) -> Any:
    sys.path.insert(0, "")  # the folder the command is called from, as for `python -m`
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(f"there is no module {name} here or on the path") from None
        raise ValueError(f"{name} could not be imported: {error}") from error
