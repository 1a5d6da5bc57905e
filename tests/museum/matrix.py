"""The kill matrix: the exact relative bias of every exhibit on every problem it can be shown on."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import pgjax
from pgjax import Estimator, Trajectory, enumeration
from tests.museum import samplers
from tests.museum.cases import Case, case
from tests.museum.exhibits import EXHIBITS, Exhibit, Surrogate
from tests.museum.samplers import ALIVE

KILLED, GREEN = 1e-6, 1e-10
ABSENT = "–"


@cache
def positions(name: str) -> dict[str, tuple[float, float]]:
    """Where every exhibit's mean is on one problem, exactly: along the truth, and across it.

    In units of ‖truth‖, so that a right one is at (1, 0). NaN where an exhibit has no meaning. One
    enumeration for each batch size and way of acting.
    """
    shown = case(name)
    found = {exhibit.name: (float("nan"), float("nan")) for exhibit in EXHIBITS}
    groups: dict[tuple[str, int], list[Exhibit]] = {}
    for exhibit in EXHIBITS:
        if shown.tells_states or not exhibit.needs_values:
            groups.setdefault((exhibit.acting, exhibit.batch_size), []).append(exhibit)
    for (acting, batch_size), group in groups.items():
        for exhibit, mean in zip(group, _means(shown, group, acting, batch_size), strict=True):
            truth = shown.truth[exhibit.estimand]
            excess = (mean - truth) / np.linalg.norm(truth)
            along = float(excess @ truth / np.linalg.norm(truth))
            across = np.linalg.norm(excess - along * truth / np.linalg.norm(truth))
            found[exhibit.name] = (1 + along, float(across))
    return found


def biases(name: str) -> dict[str, float]:
    """Every exhibit's relative bias ‖E[ĝ] − truth‖ / ‖truth‖ on one problem, exactly."""
    return {
        exhibit: float(np.hypot(along - 1, across))
        for exhibit, (along, across) in positions(name).items()
    }


@cache
def column(name: str) -> dict[str, str]:
    """One column of the kill matrix: what the page shows of every exhibit and sampler."""
    shown = {exhibit: _percentage(bias) for exhibit, bias in biases(name).items()}
    return shown | samplers.verdicts(case(name).problem)


def _percentage(bias: float) -> str:
    if np.isnan(bias):
        return ABSENT
    if bias < KILLED:
        return ALIVE
    # A nudge keeps 12.5 from falling either way with the last bit.
    return f"{float(f'{100 * bias * (1 + 1e-9):.2g}'):g}%"


def _means(shown: Case, group: list[Exhibit], acting: str, batch_size: int) -> np.ndarray:
    """[exhibits, P] the exact expectation of each."""
    problem = shown.problem
    policy = shown.tempered if acting == "tempered" else shown.policy
    acts = shown.stale if acting == "stale" else problem.params

    def surrogates(params: Any, batch: Trajectory) -> Any:
        log_prob = pgjax.log_probs(shown.policy, params, batch)
        return jnp.stack(
            [_surrogate(exhibit.make(shown), params, batch, log_prob) for exhibit in group]
        )

    def gradients(params: Any, batch: Trajectory) -> Any:
        # Who acts is enumerated over; who learns has the problem's own parameters.
        learns = params if acting == "itself" else problem.params
        flat, unravel = ravel_pytree(learns)
        return jax.jacrev(lambda flat: surrogates(unravel(flat), batch))(flat)

    moments = enumeration.moments(
        gradients, replace(problem, policy=policy, params=acts), batch_size=batch_size
    )
    return moments.mean.reshape(len(group), -1)


def _surrogate(made: Estimator | Surrogate, params: Any, batch: Trajectory, log_prob: Any) -> Any:
    """`pgjax.surrogate`, from log-probabilities that all exhibits share."""
    if not isinstance(made, Estimator):
        return made(params, batch, log_prob)
    weight = jax.lax.stop_gradient(made.weights(batch, jax.lax.stop_gradient(log_prob)))
    term = jax.vmap(made.term)(log_prob, batch.log_prob, weight, batch.mask)
    return jnp.mean(jnp.sum(jnp.where(batch.mask, term, 0), axis=1))
