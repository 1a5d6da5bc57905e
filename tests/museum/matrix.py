"""The kill matrix: the exact relative bias of every exhibit on every problem it can be shown on."""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import pgjax
from pgjax import Estimator, Trajectory, enumeration
from tests.museum.cases import Case, cases
from tests.museum.exhibits import EXHIBITS, Exhibit

KILLED, GREEN = 1e-6, 1e-10


class Row(NamedTuple):
    """An exhibit, and its relative bias on each problem by name; NaN where it has no meaning."""

    exhibit: Exhibit
    bias: dict[str, float]

    @property
    def killers(self) -> list[str]:
        return [name for name, bias in self.bias.items() if bias > KILLED]


@cache
def rows() -> tuple[Row, ...]:
    """One enumeration for each problem, batch size and way of acting, many exhibits in each."""
    found: dict[str, dict[str, float]] = {exhibit.name: {} for exhibit in EXHIBITS}
    for case in cases():
        groups: dict[tuple, list[Exhibit]] = {}
        for exhibit in EXHIBITS:
            found[exhibit.name][case.problem.name] = float("nan")
            if case.tells_states or not exhibit.needs_values:
                groups.setdefault((exhibit.acting, exhibit.batch_size), []).append(exhibit)
        for (acting, batch_size), group in groups.items():
            for exhibit, mean in zip(group, _means(case, group, acting, batch_size), strict=True):
                truth = case.truth[exhibit.estimand]
                bias = np.linalg.norm(mean - truth) / np.linalg.norm(truth)
                found[exhibit.name][case.problem.name] = float(bias)
    return tuple(Row(exhibit, found[exhibit.name]) for exhibit in EXHIBITS)


def _means(case: Case, group: list[Exhibit], acting: str, batch_size: int) -> np.ndarray:
    """[exhibits, P] the exact expectation of each."""
    problem = case.problem
    policy = case.tempered if acting == "tempered" else case.policy
    acts = case.stale if acting == "stale" else problem.params

    def surrogates(params: Any, batch: Trajectory) -> Any:
        return jnp.stack([_surrogate(case, exhibit, params, batch) for exhibit in group])

    def gradients(params: Any, batch: Trajectory) -> Any:
        # Who acts is enumerated over; who learns has the problem's own parameters.
        learns = params if acting == "itself" else problem.params
        flat, unravel = ravel_pytree(learns)
        return jax.jacrev(lambda flat: surrogates(unravel(flat), batch))(flat)

    moments = enumeration.moments(
        gradients, problem.mdp, policy, acts, horizon=problem.horizon, batch_size=batch_size
    )
    return moments.mean.reshape(len(group), -1)


def _surrogate(case: Case, exhibit: Exhibit, params: Any, batch: Trajectory) -> Any:
    made = exhibit.make(case)
    if isinstance(made, Estimator):
        return pgjax.surrogate(made, case.policy, params, batch)
    return made(params, batch)
