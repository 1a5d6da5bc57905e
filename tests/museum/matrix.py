"""The kill matrix: the exact relative bias of every exhibit on every problem it can be shown on."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from pgjax import Estimator, Trajectory, enumeration, log_probs
from pgjax.estimators import score_weights
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
    groups: dict[tuple[bool, int], list[Exhibit]] = {}
    for exhibit in EXHIBITS:
        if shown.tells_states or not exhibit.needs_values:
            groups.setdefault((exhibit.acting == "stale", exhibit.batch_size), []).append(exhibit)
    for (is_stale, batch_size), group in groups.items():
        for exhibit, mean in zip(group, _means(shown, group, is_stale, batch_size), strict=True):
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


def _means(shown: Case, group: list[Exhibit], is_stale: bool, batch_size: int) -> np.ndarray:
    """[exhibits, P] the exact expectation of each."""
    problem = shown.problem

    def gradients(params: Any, batch: Trajectory) -> Any:
        # Who acts is enumerated over; who learns has the problem's own parameters.
        learns = problem.params if is_stale else params
        log_prob, scores = jax.vjp(lambda params: log_probs(shown.policy, params, batch), learns)
        slopes = [_slopes(exhibit.make(shown), learns, batch, log_prob) for exhibit in group]
        direct, score_weight = zip(*slopes, strict=True)
        (through,) = jax.vmap(scores)(jnp.stack(score_weight))
        stacked = jax.tree.map(lambda x, *own: x + jnp.stack(own), through, *direct)
        flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])(stacked)
        if not (tempered := np.array([exhibit.acting == "tempered" for exhibit in group])).any():
            return flat
        # How much likelier the batch is under the tempered policy than under the one that acts.
        log_ratio = log_probs(shown.tempered, learns, batch) - log_prob
        return flat * jnp.where(tempered, jnp.exp(jnp.sum(log_ratio)), 1)[:, None]

    moments = enumeration.moments(
        gradients,
        replace(problem, params=shown.stale) if is_stale else problem,
        batch_size=batch_size,
    )
    return moments.mean.reshape(len(group), -1)


def _slopes(
    made: Estimator | Surrogate, params: Any, batch: Trajectory, log_prob: Any
) -> tuple[Any, Any]:
    """The derivatives of what is ascended by the parameters, log-probabilities held, and by these.

    So that one pass over the policy serves all exhibits.
    """
    if isinstance(made, Estimator):
        return jax.tree.map(jnp.zeros_like, params), score_weights(made, batch, log_prob)
    return jax.grad(made, (0, 2))(params, batch, log_prob)
