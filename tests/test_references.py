"""The suite's stored reference values: regenerated, compared, and met by enumeration."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import pgjax
from pgjax import baselines, enumeration, suite
from pgjax.exact.problem import Problem
from tests.references import MOMENTS, PATH, baseline, references

PROBLEMS = suite.problems()
ESTIMATORS = {
    "total return": pgjax.reinforce,
    "reward-to-go": pgjax.reward_to_go,
    "mismatched reward-to-go": pgjax.mismatched_reward_to_go,
}
by_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)


def stored(problem: Problem) -> dict[str, np.ndarray]:
    with np.load(PATH) as file:
        return {name: file[name] for name in file.files if name.startswith(f"{problem.name}: ")}


@by_problem
def test_regenerated_references_are_those_stored(problem: Problem):
    kept, new = stored(problem), references(problem)
    assert kept.keys() == new.keys()
    for name, value in new.items():
        scale = max(float(np.max(np.abs(kept[name]))), 1e-12)
        np.testing.assert_allclose(value, kept[name], rtol=0, atol=1e-12 * scale, err_msg=name)


@by_problem
def test_enumeration_meets_the_references(problem: Problem):
    kept = {name.split(": ")[1]: value for name, value in stored(problem).items()}
    table, states = baseline(problem), np.eye(problem.mdp.num_states)
    made = {f"{name} ": make(problem.mdp.discount) for name, make in ESTIMATORS.items()}
    if np.array_equal(problem.mdp.observation, states):  # else no baseline can tell the states
        value = baselines.state_value(lambda observation: observation @ table)
        for name, make in ESTIMATORS.items():
            made[f"{name} − V "] = make(problem.mdp.discount, baseline=value)

    def together(params, batch):
        flat, unravel = ravel_pytree(params)

        def surrogates(flat):
            every = (
                pgjax.surrogate(e, problem.policy, unravel(flat), batch) for e in made.values()
            )
            return jnp.stack(list(every))

        return jax.jacrev(surrogates)(flat)

    mean, covariance = enumeration.moments(together, *problem.arguments, horizon=problem.horizon)
    P = kept["∇J"].size
    for row, name in enumerate(made):
        block = slice(row * P, (row + 1) * P)
        agree = partial(np.testing.assert_allclose, rtol=0, atol=1e-10, err_msg=name)
        agree(mean[block], kept[f"{name}mean"])
        agree(covariance[block, block], kept[f"{name}covariance"])
        if "mismatched" not in name:
            agree(mean[block], kept["∇J"])


def test_every_reference_is_there_and_finite():
    with np.load(PATH) as file:
        assert len(file.files) == len(PROBLEMS) * (3 + 4 * len(MOMENTS))
        assert all(np.all(np.isfinite(file[name])) for name in file.files)
