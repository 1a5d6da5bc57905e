"""Reference values of the suite: `python -m tests.references` regenerates `references.npz`."""

from pathlib import Path

import jax
import numpy as np

from pgjax import exact
from pgjax.exact.problem import Problem
from pgjax.proof.problems import problems

PATH = Path(__file__).with_name("references.npz")
MOMENTS = {
    "total return": exact.total_return_moments,
    "reward-to-go": exact.reward_to_go_moments,
    "mismatched reward-to-go": exact.mismatched_reward_to_go_moments,
}


def baseline(problem: Problem) -> np.ndarray:
    """[S] b(s) = V_0(s)."""
    return exact.state_values(*problem.arguments, horizon=problem.horizon)[0]


def references(problem: Problem) -> dict[str, np.ndarray]:
    """J, ∇J, ∇²J, and estimators' exact means and covariances, without and with a baseline."""
    about, settings = problem.arguments, {"horizon": problem.horizon}
    gradient = exact.gradient(*about, **settings)
    found = {
        "J": np.asarray(exact.objective(*about, **settings)),
        "∇J": np.concatenate([x.ravel() for x in jax.tree.leaves(gradient)]),
        "∇²J": exact.hessian(*about, **settings),
    }
    for name, moments in MOMENTS.items():
        for suffix, b in ((" ", np.zeros(problem.mdp.num_states)), (" − V ", baseline(problem))):
            mean, covariance = moments(*about, **settings, baseline=b)
            found |= {f"{name}{suffix}mean": mean, f"{name}{suffix}covariance": covariance}
    return {f"{problem.name}: {key}": value for key, value in found.items()}


if __name__ == "__main__":
    np.savez_compressed(PATH, **{k: v for p in problems() for k, v in references(p).items()})  # pyright: ignore[reportArgumentType]
