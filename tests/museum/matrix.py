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
from tests.museum.exhibits import EXHIBITS, Exhibit
from tests.museum.samplers import ALIVE

KILLED, GREEN = 1e-6, 1e-10
ABSENT = "–"


@cache
def positions(name: str) -> dict[str, tuple[float, float]]:
    """Where every exhibit's mean is on one problem, exactly: along the truth, and across it.

    In units of ‖truth‖, so that a right one is at (1, 0). NaN where an exhibit has no meaning. One
    enumeration for each batch size.
    """
    shown = case(name)
    found = {exhibit.name: (float("nan"), float("nan")) for exhibit in EXHIBITS}
    groups: dict[int, list[Exhibit]] = {}
    for exhibit in EXHIBITS:
        if shown.tells_states or not exhibit.needs_values:
            groups.setdefault(exhibit.batch_size, []).append(exhibit)
    for batch_size, group in groups.items():
        means = _means(shown, group, batch_size)
        for exhibit in group:
            truth = shown.truth[exhibit.estimand]
            excess = (means[exhibit.name] - truth) / np.linalg.norm(truth)
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


def _means(shown: Case, group: list[Exhibit], batch_size: int) -> dict[str, np.ndarray]:
    """[P] the exact expectation of each, by its name; all are sums over the same batches.

    Where another acts, an estimate is multiplied by how much likelier the other makes the batch.
    """
    problem, made = shown.problem, [(exhibit, exhibit.make(shown)) for exhibit in group]
    surrogates = [(exhibit, f) for exhibit, f in made if not isinstance(f, Estimator)]
    estimators = [(exhibit, f) for exhibit, f in made if isinstance(f, Estimator)]
    ordered = [exhibit for exhibit, _ in (*surrogates, *estimators)]
    acting = [exhibit.acting for exhibit in ordered]
    others = {"stale": (shown.policy, shown.stale), "tempered": (shown.tempered, problem.params)}

    def gradients(params: Any, batch: Trajectory) -> Any:
        log_prob, scores = jax.vjp(lambda params: log_probs(shown.policy, params, batch), params)
        acted, likelier = {"itself": batch}, {"itself": jnp.ones((), log_prob.dtype)}
        for who in sorted(others.keys() & acting):
            log_ratio = log_probs(*others[who], batch) - log_prob
            acted[who] = replace(batch, log_prob=batch.log_prob + log_ratio)
            likelier[who] = jnp.exp(jnp.sum(log_ratio))
        # Derivatives by the parameters, log-probabilities held, and by these: so one pass over the
        # policy serves all exhibits.
        slopes = [
            jax.grad(f, (0, 2))(params, acted[exhibit.acting], log_prob)
            for exhibit, f in surrogates
        ]
        direct, score_weight = map(list, zip(*slopes, strict=True))
        score_weight += [
            score_weights(f, acted[exhibit.acting], log_prob) for exhibit, f in estimators
        ]
        (through,) = jax.vmap(scores)(jnp.stack(score_weight))
        flat = jax.vmap(_flat)(through)
        own = jnp.stack([_flat(each) for each in direct])
        flat = jnp.concatenate([flat[: len(own)] + own, flat[len(own) :]])
        who_acts = np.array([[who == each for who in likelier] for each in acting], float)
        return flat * (who_acts @ jnp.stack([*likelier.values()]))[:, None]

    moments = enumeration.moments(gradients, problem, batch_size=batch_size)
    names = [exhibit.name for exhibit in ordered]
    return dict(zip(names, moments.mean.reshape(len(group), -1), strict=True))


def _flat(tree: Any) -> Any:
    return ravel_pytree(tree)[0]
