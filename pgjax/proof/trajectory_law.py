"""A test that sampled trajectories follow the exact law P(τ)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from pgjax import enumeration
from pgjax.core.compilation import jit_once
from pgjax.core.validation import check_between, check_layout
from pgjax.diagnostics import tails
from pgjax.exact.problem import Problem, check_problem
from pgjax.types import Params, Policy, Trajectory


class LawTest(NamedTuple):
    """Whether sampled trajectories follow P(τ).

    Attributes:
        passed: counts agree with the exact probabilities, and none was impossible.
        p_value: of the chi-square test.
        num_impossible: trajectories seen that have probability zero.
        num_cells: of the test, after merging those that expect fewer than five.
    """

    passed: bool
    p_value: float
    num_impossible: int
    num_cells: int


def law_test(batch: Trajectory, problem: Problem, *, alpha: float = 1e-6) -> LawTest:
    """Chi-square test of a sampler: counts of whole trajectories against their exact probabilities.

    Args:
        batch: [N, T], N independent trajectories of the policy that acts, T the horizon.
        problem: small enough to enumerate.
        alpha: the rate of false alarms.

    Returns:
        LawTest. Trajectories that look alike are counted together.

    Raises:
        ValueError: if there are too many trajectories to enumerate, or T is not the horizon.

    Bias: the rate of false alarms is asymptotic; the expected count of every cell is at least five.

    References:
        Pearson (1900).
    """
    check_between("alpha", alpha, 0, 1)
    check_layout(batch)
    known, probability = enumeration.trajectories(problem)
    if batch.reward.shape[1] != problem.horizon:
        raise ValueError(
            f"batch must have the problem's {problem.horizon} steps, got {batch.reward.shape[1]}"
        )
    cells: dict[bytes, int] = {}
    index = [cells.setdefault(name, len(cells)) for name in _names(known)]
    expected = np.bincount(index, weights=probability) * batch.reward.shape[0]
    counts, impossible = np.zeros(len(cells)), 0
    for name in _names(batch):
        if name in cells:
            counts[cells[name]] += 1
        else:
            impossible += 1
    order = np.argsort(-expected)
    expected, counts = expected[order], counts[order]
    kept = max(int(np.sum(expected >= 5)), 1)
    expected = np.append(expected[:kept], expected[kept:].sum())
    counts = np.append(counts[:kept], counts[kept:].sum())
    if expected[-1] < 5:  # the rare ones together are still too rare for a cell of their own
        expected = np.append(expected[:-2], expected[-2:].sum())
        counts = np.append(counts[:-2], counts[-2:].sum())
    statistic = np.sum((counts - expected) ** 2 / expected)
    p_value = tails.chi_squared_tail(statistic, max(len(expected) - 1, 1))
    return LawTest(p_value >= alpha and impossible == 0, p_value, impossible, len(expected))


def wrong_fields(batch: Trajectory, problem: Problem) -> dict[str, str]:
    """The fields that a sampler wrote wrongly, in the light of the other fields.

    Args:
        batch: [N, T] of the policy that acts, T the horizon.
        problem: that was sampled.

    Returns:
        The fields that are wrong, each with what is wrong about it; `law_test` sees the others.

    Bias: does not apply; log-probabilities are held to 1e-3, which bounds what float32 rounds.
    """
    check_problem(problem)
    check_layout(batch)
    mask = np.asarray(batch.mask)
    T = mask.shape[1]
    ends = np.asarray(batch.terminated) & mask
    wrong = {}

    acted = problem.policy, problem.acting_params, batch.observation, batch.action
    log_prob = np.asarray(_log_probs(*acted))
    recorded = np.asarray(batch.log_prob)
    off = ~(np.abs(recorded - log_prob) <= 1e-3 * (1 + np.abs(log_prob))) & mask
    if off.any():
        at = tuple(np.argwhere(off)[0])
        wrong["log_prob"] = (
            f"of the policy that acts it is {log_prob[at]:.6g} at trajectory {at[0]}, step "
            f"{at[1]}, where {recorded[at]:.6g} is recorded"
        )

    alive = np.ones(mask.shape, bool)
    alive[:, 1:] = ~np.logical_or.accumulate(ends, axis=1)[:, :-1]
    if not np.array_equal(alive, mask):
        wrong["mask"] = "it must be true up to the step that terminates, and false after it"
    truncated = np.asarray(batch.truncated) & mask
    last = np.arange(T) == T - 1
    if (truncated & ~last).any() or (mask & last & ~ends & ~truncated).any():
        wrong["truncated"] = (
            f"it must be true at step {T - 1}, the last one, of an episode that has not "
            "terminated, and at no step before"
        )
    if batch.time is not None and (mask & (np.asarray(batch.time) != np.arange(T))).any():
        wrong["time"] = "it must count the steps of the episode from 0"
    return wrong


@partial(jit_once, static_argnums=0)
def _log_probs(policy: Policy, params: Params, observation: Any, action: Any) -> Array:
    """[N, T] log π(a|s), after an episode's end too."""
    over_steps = jax.vmap(jax.vmap(policy.log_prob, (None, 0, 0)), (None, 0, 0))
    return over_steps(params, observation, action)


def wrong_final_observation(batch: Trajectory, problem: Problem) -> str:
    """What is wrong about `final_observation`, or "": it must be what the last step led to.

    Args:
        batch: [N, T] of the policy that acts, T the horizon.
        problem: small enough to enumerate.

    Bias: does not apply.
    """
    check_layout(batch)
    if batch.final_observation is None:
        raise ValueError(
            "batch.final_observation must be an array [N, ...], got None; record the observation "
            "after each trajectory's last step"
        )
    known, _ = enumeration.trajectories(problem)
    possible = set(zip(_names(known), _rows(known.final_observation), strict=True))
    without = {name for name, _ in possible}
    found = zip(_names(batch), _rows(batch.final_observation), strict=True)
    if any(name in without and (name, final) not in possible for name, final in found):
        return "it must be the observation after the last step, never a reset observation"
    return ""


def _rows(tree: Any) -> list[bytes]:
    leaves = [np.asarray(x, np.float32) for x in jax.tree.leaves(tree)]
    flat = np.concatenate([x.reshape(x.shape[0], -1) for x in leaves], axis=1)
    return [row.tobytes() for row in flat + 0.0]


def _names(batch: Trajectory) -> list[bytes]:
    """Each trajectory as bytes, in single precision, with nothing after its end."""
    mask = np.asarray(batch.mask)
    rows = [mask, *(_blank(mask, x) for x in jax.tree.leaves((batch.observation, batch.action)))]
    rows += [_blank(mask, batch.reward), np.asarray(batch.terminated) & mask]
    flat = [np.asarray(x, np.float32).reshape(mask.shape[0], -1) for x in rows]
    return [row.tobytes() for row in np.concatenate(flat, axis=1) + 0.0]  # no −0


def _blank(mask: np.ndarray, x: Any) -> np.ndarray:
    array = np.asarray(x)
    return np.where(mask.reshape(mask.shape + (1,) * (array.ndim - 2)), array, 0)
