"""Error curves: sample gradients of a growing N against the exact gradient.

Trajectories stream through the same rollout as any environment's, in chunks of fixed size, so that
memory does not grow with N. Every estimator sees the same trajectories.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from pgjax import baselines, diagnostics, estimators, exact
from pgjax.core.float64 import flatten
from pgjax.core.scores import log_probs, weighted_score_per_trajectory
from pgjax.core.validation import check_positive
from pgjax.diagnostics import RunningMoments, tails
from pgjax.exact.problem import Problem
from pgjax.proof.error_bands import BLOCK, Runs
from pgjax.rollouts.episodes import rollout
from pgjax.types import Estimator, Params, Policy, Trajectory

FIRST = 2**8
"""The smallest N reported, and the number of trajectories whose moments are merged at a time."""
CHUNK = 2**12
"""The most trajectories that are rolled out at once, to bound the memory."""
CHUNK_STEPS = 2**19
"""The most steps that are rolled out at once, unless FIRST trajectories have more."""


class Contender(NamedTuple):
    """An estimator under test, and what is exactly known of it.

    Attributes:
        name: as tables and pictures print it.
        estimator: weights and term.
        mean: [P] its exact expectation; None if it is not known.
        variance: [P] of one trajectory, exact; it sums to tr Σ. None if it is not known.
        batch_size: K, a power of two up to BLOCK: an estimator that compares trajectories with
            each other is given batches of K.
    """

    name: str
    estimator: Estimator
    mean: Float[np.ndarray, "P"] | None
    variance: Float[np.ndarray, "P"] | None
    batch_size: int = 1


class Point(NamedTuple):
    """One estimator at one N; every length is relative to ‖∇J‖.

    Attributes:
        num_trajectories: N.
        error: ‖ĝ − ∇J‖.
        cosine: of ĝ and ∇J.
        standard_error: √(tr Σ̂ / N), Σ̂ from the sample.
        bias: ‖E ĝ − ∇J‖, exact; NaN if it is not known, and so are `rmse` and `expected_z`.
        deviation: √(tr Σ / N), Σ exact; from the sample if it is not known.
        rmse: √(bias² + deviation²), the root of the mean squared error.
        largest_z: the largest |ĝ_p − ∇J_p| over the parameters, in standard errors.
        expected_z: the largest |E ĝ_p − ∇J_p| over the parameters, in standard errors.
    """

    num_trajectories: int
    error: float
    cosine: float
    standard_error: float
    bias: float
    deviation: float
    rmse: float
    largest_z: float
    expected_z: float


class Verdict(NamedTuple):
    """Whether an estimator behaved as its exact bias says.

    Attributes:
        is_biased: its exact bias is not zero; or, if that is not known, it is not `within`.
        within: the sample gradient is within `threshold` standard errors in every parameter.
        threshold: of the two-sided normal test, `alpha` split over the parameters.
        needed: trajectories after which its bias is missed once in a thousand; 0 without a bias.
    """

    is_biased: bool
    within: bool
    threshold: float
    needed: int

    @property
    def passed(self) -> bool:
        """Whether it is unbiased and within the threshold, or biased and beyond it."""
        return self.within != self.is_biased


def contenders(problem: Problem) -> tuple[Contender, ...]:
    """The four classic estimators with their exact expectations and variances.

    Args:
        problem: with a finite horizon.

    Returns:
        Total return, reward-to-go, the same with V as a baseline, the same without γ^t.

    Raises:
        ValueError: as for `exact.gradient`.

    Bias: all that is stated is exact, by dynamic programming, and does not use the estimators.
    """
    value, discount = observation_values(problem), problem.mdp.discount
    with jax.enable_x64(True):
        by_state = np.asarray(jax.jit(jax.vmap(value))(jnp.asarray(problem.mdp.observation)))
    rows = {
        "total return": (
            estimators.reinforce(discount),
            exact.spread(problem, of=exact.TOTAL_RETURN),
        ),
        "reward-to-go": (estimators.reward_to_go(discount), exact.spread(problem)),
        "reward-to-go, V(s)": (
            estimators.reward_to_go(discount, baseline=baselines.state_value(value)),
            exact.spread(problem, baseline=by_state),
        ),
        "reward-to-go, no γ^t": (
            estimators.mismatched_reward_to_go(discount),
            exact.spread(problem, of=exact.MISMATCHED),
        ),
    }
    return tuple(
        Contender(name, estimator, spread.mean, spread.variance.clip(0))
        for name, (estimator, spread) in rows.items()
    )


def observation_values(problem: Problem) -> Callable[[Array], Array]:
    """V as a function of the observation: averaged, by visits, over time and look-alike states.

    Args:
        problem: with a finite horizon.

    Returns:
        One observation -> scalar: the entry of the nearest observation that a state has.

    Bias: exact. As a baseline it is unbiased, like any function of the observation.
    """
    mdp, visits, values = problem.mdp, exact.visitation(problem), exact.state_values(problem)
    rows = np.asarray(mdp.observation, np.float64).reshape(mdp.num_states, -1)
    seen, which = np.unique(rows, axis=0, return_inverse=True)
    weight = np.bincount(which.ravel(), visits.sum(0))
    table = np.bincount(which.ravel(), (visits * values).sum(0)) / np.where(weight > 0, weight, 1)

    def value(observation: Array) -> Array:
        # Nearest, not equal: compilers may round an environment's own divisions differently.
        distance = jnp.sum((jnp.asarray(seen, float) - jnp.ravel(observation)) ** 2, axis=-1)
        return jnp.asarray(table, float)[jnp.argmin(distance)]

    return value


def empty_runs(problem: Problem, rows: Sequence[Contender]) -> Runs:
    """A collection for `converge`, which measures errors from the problem's ∇J.

    Args:
        problem: with a finite horizon.
        rows: from `contenders`.

    Returns:
        Runs without a run.

    Bias: does not apply.
    """
    truth = flatten(exact.gradient(problem))
    return Runs(truth, scale=_scale(truth), num_estimators=len(rows))


def converge(
    problem: Problem,
    key: Array,
    rows: Sequence[Contender],
    *,
    max_trajectories: int,
    environment: Any = None,
    runs: Runs | None = None,
) -> Iterator[tuple[int, dict[str, Point] | None]]:
    """Points of all contenders at N = 2^8, 2^9, …, from one stream of trajectories.

    Args:
        problem: with a finite horizon.
        key: from `jax.random.key`.
        rows: from `contenders`.
        max_trajectories: the last N, a power of two of at least 2^8.
        environment: where trajectories are drawn: the gymnax environment that the MDP is the table
            of, or the MDP itself if None.
        runs: from `empty_runs`; it is given every block of trajectories.

    Yields:
        After each chunk the trajectories so far and, where N is a power of two, each contender's
        Point, by name; else None.

    Raises:
        ValueError: if a number of trajectories is not a power of two, or is below 2^8.

    Bias: the sample means are their estimators'; merged in float64.
    """
    last = check_positive("max_trajectories", max_trajectories)
    if last < FIRST or last & (last - 1):
        raise ValueError(f"max_trajectories must be a power of two of at least {FIRST}, got {last}")
    truth, horizon = flatten(exact.gradient(problem)), problem.finite_horizon
    size = min(CHUNK, last, max(FIRST, _power_of_two(CHUNK_STEPS / horizon)))
    draw = partial(
        rollout,
        environment=problem.mdp if environment is None else environment,
        num_trajectories=size,
        num_steps=horizon,
    )
    sample = jax.jit(partial(_chunk, draw, problem.policy, tuple(rows)))
    running: list[RunningMoments] | None = None
    seen = 0
    while seen < last:
        key, chunk_key = jax.random.split(key)
        segments, blocks = jax.tree.map(
            lambda x: np.asarray(x, np.float64), sample(problem.params, chunk_key)
        )
        if runs is not None:
            runs.add(np.stack(blocks))
        for index in range(size // FIRST):
            here = jax.tree.map(lambda x, i=index: x[i], segments)
            merged = here if running is None else map(diagnostics.merge, running, here)
            running = list(merged)
            seen += FIRST
            if seen & (seen - 1) == 0:
                points = {
                    row.name: _point(row, moments, truth)
                    for row, moments in zip(rows, running, strict=True)
                }
                yield seen, points
        yield seen, None


def judge(point: Point, *, num_parameters: int, alpha: float) -> Verdict:
    """Whether an estimator behaves as its exact bias says, at a stated rate of false alarms.

    Args:
        point: where it stands at the last N.
        num_parameters: P.
        alpha: probability of calling a correct estimator wrong, by the normal approximation.

    Returns:
        A Verdict.

    Bias: the test is two-sided and normal in each parameter, with alpha / P each (Bonferroni).
    """
    threshold = tails.normal_quantile(alpha / (2 * num_parameters))
    within = point.largest_z <= threshold
    if np.isnan(point.bias):
        return Verdict(not within, within, threshold, 0)
    is_biased = point.bias > 1e-9
    # A bias of three standard errors beyond the threshold is missed once in a thousand.
    share = (threshold + 3) / point.expected_z if is_biased else 0.0
    return Verdict(is_biased, within, threshold, int(np.ceil(point.num_trajectories * share**2)))


def _chunk(
    draw: Callable[..., Trajectory],
    policy: Policy,
    rows: tuple[Contender, ...],
    params: Params,
    key: Array,
) -> tuple[list[RunningMoments], list[Array]]:
    """By estimator, moments of each FIRST trajectories, and means of each BLOCK of them."""
    batch = draw(policy, params, key=key)
    log_prob = log_probs(policy, params, batch)

    def of_weights(K: int, weights: Array) -> tuple[RunningMoments, Array]:
        each = weighted_score_per_trajectory(policy, params, batch, weights)
        flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])(each)
        flat = flat.reshape(-1, K, flat.shape[1]).sum(axis=1)
        segments = flat.reshape(-1, FIRST // K, flat.shape[1])
        blocks = flat.reshape(-1, BLOCK // K, flat.shape[1]).mean(axis=1)
        return jax.vmap(diagnostics.running_moments)(segments), blocks

    found: dict[int, tuple[RunningMoments, Array]] = {}
    for K in {row.batch_size for row in rows}:
        same = [place for place, row in enumerate(rows) if row.batch_size == K]
        weights = jnp.stack([_score_weights(rows[place], batch, log_prob) for place in same])
        moments = jax.lax.map(partial(of_weights, K), weights)
        for index, place in enumerate(same):
            found[place] = jax.tree.map(lambda x, i=index: x[i], moments)
    return [found[place][0] for place in range(len(rows))], [
        found[place][1] for place in range(len(rows))
    ]


def _score_weights(row: Contender, batch: Trajectory, log_prob: Array) -> Array:
    """[N, T] those of the sum over the trajectories of one estimate, from a batch of K."""
    N, K = len(log_prob), row.batch_size
    if K == 1:
        return N * estimators.score_weights(row.estimator, batch, log_prob)
    batches = jax.tree.map(lambda x: x.reshape(N // K, K, *x.shape[1:]), (batch, log_prob))
    return jax.vmap(partial(estimators.score_weights, row.estimator))(*batches).reshape(N, -1)


def _point(row: Contender, moments: RunningMoments, truth: np.ndarray) -> Point:
    num_estimates = float(moments.num_samples)
    N = num_estimates * row.batch_size
    mean, sampled = np.asarray(moments.mean), np.asarray(diagnostics.variance(moments))
    scale = _scale(truth)
    of_mean = sampled / num_estimates if row.variance is None else row.variance / N
    expected = np.full_like(truth, np.nan) if row.mean is None else row.mean
    bias = float(np.linalg.norm(expected - truth)) / scale
    deviation = float(np.sqrt(of_mean.sum())) / scale
    # Single-precision samples carry rounding of their own, where a variance is nearly zero.
    error_bar = np.maximum(np.sqrt(of_mean), 1e-5 * scale)
    return Point(
        num_trajectories=int(N),
        error=float(np.linalg.norm(mean - truth)) / scale,
        cosine=float(mean @ truth / (np.linalg.norm(mean) * scale)) if mean.any() else 0.0,
        standard_error=float(np.sqrt(sampled.sum() / num_estimates)) / scale,
        bias=bias,
        deviation=deviation,
        rmse=float(np.hypot(bias, deviation)),
        largest_z=float(np.max(np.abs(mean - truth) / error_bar)),
        expected_z=float(np.max(np.abs(expected - truth) / error_bar)),
    )


def _scale(truth: np.ndarray) -> float:
    """‖∇J‖, the unit of every length; one where it is zero but for rounding."""
    length = float(np.linalg.norm(truth))
    return length if length > 1e-12 else 1.0


def _power_of_two(x: float) -> int:
    """The largest power of two that is not above x; one at least."""
    return 1 << max(int(np.log2(x)), 0)
