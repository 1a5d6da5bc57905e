"""Every trajectory of a small MDP with its probability, and any estimator's exact moments from it.

An expectation over trajectories becomes a finite sum. So every function of a batch, pgjax's or
yours, has an exact mean and covariance here, with no noise and no derivation.

For an estimator that couples a batch of K, the sum goes over the multisets of K trajectories with
their multinomial weights. They are far fewer than the K-tuples. An estimator that depends on the
order within the batch is recognised, and summed over the tuples.

All results are computed in float64, whatever the caller's setting, and returned as NumPy arrays.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations_with_replacement, islice, product
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int

from pgjax.core.compilation import jit_once
from pgjax.core.float64 import as_float64, in_float64
from pgjax.core.validation import check_estimate, check_positive
from pgjax.estimators import gradient
from pgjax.exact.dynamics import action_probabilities
from pgjax.exact.problem import Problem, check_problem
from pgjax.exact.tabular import TabularMDP
from pgjax.types import Estimator, Moments, Params, Trajectory

LIMIT = 5_000_000
"""The largest number of trajectories, or of batches of them, that is accepted by default."""

FEW = 100_000
"""Up to this many batches, a program that compiles fast saves more time than one that runs fast."""

Function = Callable[[Params, Trajectory], Any]
"""A function of parameters and a batch, often a gradient; see `moments`."""


@in_float64
def trajectories(
    problem: Problem, *, limit: int = LIMIT
) -> tuple[Trajectory, Float[np.ndarray, "M"]]:
    """All M trajectories of positive probability, as one batch, with their probabilities.

    P(τ) = P(s_0) Π_t μ(a_t|s_t) P(s_{t+1}|s_t,a_t), with μ the policy that acts.

    Args:
        problem: with a finite horizon; an episode that is cut there is `truncated`.
        limit: the largest M accepted.

    Returns:
        A batch [M, H], and the probabilities [M], which sum to one. Real numbers are float64.

    Raises:
        ValueError: if M is above the limit, the horizon is infinite, or the policy is not a
            distribution over the MDP's actions.

    Bias: exact.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> batch, probability = trajectories(
        ...     Problem(bandit, tabular_softmax(3, 2), jnp.zeros((3, 2)), horizon=1))
        >>> probability
        array([0.35, 0.15, 0.2 , 0.3 ])
    """
    tables, paths = _enumerated(problem, limit)
    return _assemble(tables, paths.states, paths.actions), paths.probability


@in_float64
def count(problem: Problem) -> int:
    """The number M of trajectories of positive probability, without listing them.

    Args:
        problem: with a finite horizon.

    Returns:
        M, a Python integer of any size.

    Raises:
        ValueError: if the horizon is infinite, or the policy is not a distribution over the MDP's
            actions.

    Bias: exact.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> count(Problem(tabular.chain(), tabular_softmax(7, 2), jnp.zeros((7, 2)), horizon=60))
        345274638254210627387564060263888
    """
    check_problem(problem)
    edges = _edges(problem.mdp, _acting_probabilities(problem))
    return _count(problem.mdp, edges > 0, problem.finite_horizon)


@in_float64
def moments(
    estimator: Estimator | Function,
    problem: Problem,
    *,
    batch_size: int = 1,
    limit: int = LIMIT,
) -> Moments:
    """The exact expectation and covariance of an estimate from a batch of K trajectories.

    E[ĝ] = Σ_batches P(batch) ĝ(batch), and likewise E[ĝ ĝᵀ] − E[ĝ] E[ĝ]ᵀ.

    Args:
        estimator: an Estimator, or a function (params, batch [K, T]) -> numbers that JAX can trace.
            Such a function is given `problem.params`, and a batch with a rollout's fields. Where
            the batch's mask is false, it holds garbage on purpose.
        problem: with a finite horizon. Its acting policy draws the batches.
        batch_size: K.
        limit: the largest number of trajectories, and of batches, accepted.

    Returns:
        Moments of the estimate from *one* batch of K, over the flattened result. For P numbers the
        covariance holds P².

    Raises:
        ValueError: if there are more trajectories or batches than the limit; if the horizon is
            infinite; if the estimate is not finite on a trajectory of positive probability.

    Bias: exact. The mean less `exact.gradient` is the estimator's bias.

    Example:
        >>> import jax.numpy as jnp, numpy as np, pgjax
        >>> from pgjax import exact, tabular
        >>> mdp, policy = tabular.random_mdp(), pgjax.tabular_softmax(4, 2)
        >>> problem = pgjax.Problem(mdp, policy, jnp.ones((4, 2)), horizon=3)
        >>> found = moments(pgjax.reward_to_go(mdp.discount), problem)
        >>> truth = exact.gradient(problem)
        >>> bool(np.allclose(found.mean, truth.ravel(), rtol=0, atol=1e-12))
        True
    """
    return _sums(_prepared(estimator, problem, batch_size, limit), tuples=False)


class Examination(NamedTuple):
    """The findings of an enumeration about an estimate on one problem.

    Attributes:
        moments: the estimate's exact mean and covariance.
        over_tuples: whether the sums go over all tuples of K trajectories, and so over every order
            of a batch. If false, they go over multisets: a sample of orders made no difference.
        reads_padding: whether NaN in `reward` and `log_prob`, where the mask is false, changes the
            estimate.
        reads_log_prob: whether the estimate depends on `batch.log_prob`, and so on the policy that
            acted.
        repeats: whether a second run on the same batches gives the same numbers.
    """

    moments: Moments
    over_tuples: bool
    reads_padding: bool
    reads_log_prob: bool
    repeats: bool


@in_float64
def examine(
    estimator: Estimator | Function,
    problem: Problem,
    *,
    batch_size: int = 1,
    limit: int = LIMIT,
) -> Examination:
    """An estimate's exact moments, and whether it reads the padding or the log-probabilities.

    The moments are those of `moments`, summed over all tuples if the limit allows.

    Args:
        estimator: as for `moments`.
        problem: with a finite horizon.
        batch_size: K.
        limit: the largest number of trajectories, and of batches, accepted.

    Returns:
        Examination. Every trajectory is in at least one of the batches that were tried.

    Raises:
        ValueError: as for `moments`.

    Bias: exact.

    Example:
        >>> import pgjax
        >>> problem = pgjax.suite.problems()[0]
        >>> found = examine(pgjax.reward_to_go(1.0), problem, batch_size=2)
        >>> found.over_tuples, found.reads_padding, found.reads_log_prob
        (True, False, False)
    """
    run = _prepared(estimator, problem, batch_size, limit)
    M = len(run.probability)
    reads_padding, reads_log_prob, repeats = False, False, True
    random = np.random.default_rng(0)
    for begin in range(0, M, run.chunk):
        members = random.integers(M, size=(run.chunk, batch_size))
        members[:, 0] = np.arange(begin, begin + run.chunk) % M
        plain, again, with_nan, shifted = (
            run.estimates(members, *changes) for changes in ((), (), (np.nan, 0.0), (NOISE, 1.0))
        )
        same = partial(np.array_equal, plain, equal_nan=True)
        repeats = repeats and same(again)
        reads_padding = reads_padding or not same(with_nan)
        reads_log_prob = reads_log_prob or not same(shifted)
    tuples = M**batch_size <= limit
    return Examination(_sums(run, tuples), tuples, reads_padding, reads_log_prob, repeats)


def multisets(
    probability: Float[np.ndarray, "M"], size: int, *, limit: int = LIMIT
) -> tuple[Int[np.ndarray, "B K"], Float[np.ndarray, "B"]]:
    """All batches of K trajectories, whatever their order, with their multinomial probabilities.

    Args:
        probability: [M] of the trajectories.
        size: K.
        limit: the largest number of batches accepted.

    Returns:
        The indices of the trajectories in each batch, [B, K], ascending, and the probabilities [B].

    Raises:
        ValueError: if there are more batches than the limit, or `size` is below one.

    Bias: exact, for functions that do not depend on the order within a batch.

    Example:
        >>> members, weight = multisets(np.array([0.25, 0.75]), 2)
        >>> members.tolist(), weight.tolist()
        ([[0, 0], [0, 1], [1, 1]], [0.0625, 0.375, 0.5625])
    """
    count = math.comb(len(probability) + size - 1, check_positive("size", size))
    ((members, weight),) = _batches(probability, size, count, False, limit)
    return members, weight


class _Run(NamedTuple):
    """An enumeration: the function that evaluates batches, the trajectories, and the sizes."""

    estimates: Callable[..., np.ndarray]  # members [B, K] -> [B, P]
    probability: np.ndarray  # [M]
    batch_size: int  # K
    chunk: int  # batches at a time
    size: int  # P
    limit: int


def _prepared(
    estimator: Estimator | Function, problem: Problem, batch_size: int, limit: int
) -> _Run:
    check_problem(problem)
    check_estimate(estimator)
    K = check_positive("batch_size", batch_size)
    params = jax.tree.map(as_float64, problem.params)
    tables, paths = _enumerated(problem, limit)
    if isinstance(estimator, Estimator):
        estimator = partial(gradient, estimator, problem.policy)
    M = len(paths.probability)
    few = math.comb(M + K - 1, K) <= FEW
    # A new function each time: JAX would reuse the trace of an old one, although a value that the
    # estimator closes over may have changed. It is traced once, for its size and for all batches.
    estimate = jax.jit(partial(estimator))

    def flat(params: Params, batch: Trajectory) -> Any:
        return ravel_pytree(estimate(params, batch))[0]

    evaluate = (jit_once if few else jax.jit)(jax.vmap(flat, (None, 0)))
    one = _assemble(tables, paths.states[:1].repeat(K, 0), paths.actions[:1].repeat(K, 0))
    P = jax.eval_shape(flat, params, one).size

    def estimates(members: np.ndarray, padding: float = NOISE, shift: float = 0.0) -> np.ndarray:
        batches = _spoiled(tables, paths.states[members], paths.actions[members], padding, shift)
        return np.asarray(evaluate(params, batches))

    return _Run(estimates, paths.probability, K, _chunk_size(one, P, M, K), P, limit)


def _sums(run: _Run, tuples: bool) -> Moments:
    """Moments over all tuples, or over multisets if the order in a batch seems not to matter."""
    M, K = len(run.probability), run.batch_size
    ordered = K > 1 and (tuples or _depends_on_order(run.estimates, M, (run.chunk, K)))
    center, shifted = np.zeros(run.size), False
    mass = first = second = np.zeros(())
    for members, weight in _batches(run.probability, K, run.chunk, ordered, run.limit):
        values = run.estimates(members)
        if not shifted:  # a shift by a typical value keeps the second moment from cancelling
            total, typical, _ = _weighted_sums(values, weight, center)
            center, shifted = np.where(np.isfinite(typical), typical / total, 0), True
        sums = _weighted_sums(values, weight, center)
        mass, first, second = mass + sums[0], first + sums[1], second + sums[2]
    if not np.all(np.isfinite(first)):
        raise ValueError(
            "the estimate must be finite on every trajectory of positive probability, got a mean "
            f"with {int(np.sum(~np.isfinite(first)))} of {np.size(first)} entries not finite; look "
            "for log(0), 0/0 or an overflow in the policy and the estimator"
        )
    shift = first / mass
    return Moments(center + shift, second / mass - np.outer(shift, shift))


class _Tables(NamedTuple):
    """Arrays that turn indices of states and actions into a Trajectory."""

    probability: np.ndarray  # [S, A]
    reward: np.ndarray  # [S, A, S]
    terminal: np.ndarray  # [S]
    observation: np.ndarray  # [S, ...]


class _Paths(NamedTuple):
    """M trajectories as indices; after the end the last state, and action 0, repeat."""

    states: np.ndarray  # [M, H + 1]
    actions: np.ndarray  # [M, H]
    probability: np.ndarray  # [M]


def _enumerated(problem: Problem, limit: int) -> tuple[_Tables, _Paths]:
    check_problem(problem)
    check_positive("limit", limit)
    mdp, probability = problem.mdp, _acting_probabilities(problem)
    tables = _Tables(probability, mdp.reward, mdp.terminal, mdp.observation)
    return tables, _paths(mdp, probability, problem.finite_horizon, limit)


def _acting_probabilities(problem: Problem) -> np.ndarray:
    """[S, A] probabilities of the policy that acts."""
    return action_probabilities(replace(problem, params=problem.acting_params))


def _paths(mdp: TabularMDP, probability: np.ndarray, horizon: int, limit: int) -> _Paths:
    """Breadth first: at each depth, every unfinished prefix is repeated once for each way on."""
    edges = _edges(mdp, probability)
    total = _count(mdp, edges > 0, horizon)
    if total > limit:
        raise ValueError(
            f"horizon {horizon} gives {total} trajectories, more than the limit of {limit}; "
            "shorten the horizon, or use exact.gradient, which needs no enumeration"
        )
    origin, action, target = np.nonzero(edges)
    weight = edges[origin, action, target]
    ways, start = np.bincount(origin, minlength=mdp.num_states), np.searchsorted(
        origin, np.arange(mdp.num_states)
    )  # fmt: skip
    states = np.flatnonzero(mdp.initial)[:, None]
    actions = np.zeros((len(states), 0), int)
    mass = mdp.initial[states[:, 0]]
    finished = []
    for step in range(horizon):
        prefix = np.repeat(np.arange(len(states)), ways[states[:, -1]])
        nth = np.arange(len(prefix)) - np.searchsorted(prefix, prefix)
        edge = start[states[prefix, -1]] + nth
        states = np.column_stack([states[prefix], target[edge]])
        actions = np.column_stack([actions[prefix], action[edge]])
        mass = mass[prefix] * weight[edge]
        ended = mdp.terminal[states[:, -1]] | (step == horizon - 1)
        finished.append(_padded(states[ended], actions[ended], mass[ended], horizon))
        states, actions, mass = states[~ended], actions[~ended], mass[~ended]
    return _Paths(*(np.concatenate(parts) for parts in zip(*finished, strict=True)))


def _edges(mdp: TabularMDP, probability: np.ndarray) -> np.ndarray:
    """[S, A, S] probability of each action and next state; zero from a terminal state."""
    edges = probability[:, :, None] * mdp.transition
    edges[mdp.terminal] = 0
    return edges


def _count(mdp: TabularMDP, edge: np.ndarray, horizon: int) -> int:
    """The number of paths, in Python integers, which do not overflow."""
    ways = edge.sum(1).astype(object)  # [S, S]
    paths = np.array([1] * mdp.num_states, object)
    for _ in range(horizon):
        paths = np.where(mdp.terminal, 1, ways @ paths)
    return int(paths[mdp.initial > 0].sum())


def _padded(states: np.ndarray, actions: np.ndarray, mass: np.ndarray, horizon: int) -> _Paths:
    missing = horizon - actions.shape[1]
    return _Paths(
        np.pad(states, ((0, 0), (0, missing)), mode="edge").astype(np.int32),
        np.pad(actions, ((0, 0), (0, missing))).astype(np.int32),
        mass,
    )


def _assemble(tables: _Tables, states: np.ndarray, actions: np.ndarray) -> Trajectory:
    """Indices [..., H+1] and [..., H] -> the Trajectory that a rollout would have recorded."""
    now, following = states[..., :-1], states[..., 1:]
    mask = ~tables.terminal[now]
    H = actions.shape[-1]
    fields: dict[str, Any] = {
        "observation": tables.observation[now],
        "action": actions,
        "reward": np.where(mask, tables.reward[now, actions, following], 0),
        "log_prob": np.log(np.where(mask, tables.probability[now, actions], 1)),
        "terminated": mask & tables.terminal[following],
        "truncated": mask & (np.arange(H) == H - 1),
        "mask": mask,
        "final_observation": tables.observation[states[..., -1]],
    }
    return Trajectory(**fields)


NOISE = 7.0
"""The size of the garbage in rewards and log-probabilities where the mask is false."""


def _spoiled(
    tables: _Tables, states: np.ndarray, actions: np.ndarray, padding: float, shift: float
) -> Trajectory:
    """The batch with garbage where its mask is false, and falsified log-probabilities.

    The garbage is what `Trajectory` allows there: numbers of the size of `padding`, raised flags,
    and observations and actions of other steps. `shift` is the size of the falsification.
    """
    batch = _assemble(tables, states, actions)
    mask, (S, A) = batch.mask, tables.probability.shape
    time = np.arange(mask.shape[-1], dtype=np.int32)
    noise = np.sin(1.0 + 3.0 * time)
    elsewhere = np.where(mask, states[..., :-1], (states[..., :-1] + 1 + time) % S)
    return replace(
        batch,
        observation=tables.observation[elsewhere],
        action=np.where(mask, batch.action, (batch.action + 1 + time) % A),
        reward=np.where(mask, batch.reward, padding * noise),
        log_prob=np.where(mask, batch.log_prob + shift * noise, padding * noise),
        terminated=batch.terminated | ~mask,
        truncated=batch.truncated | ~mask,
    )


def _weighted_sums(
    values: np.ndarray, weight: np.ndarray, center: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Σ w, Σ w x and Σ w x xᵀ over a chunk of batches, x the estimate less its center."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused at the end
        centered = np.where(weight[:, None] > 0, values - center, 0)  # padding weighs nothing
        weighted = weight[:, None] * centered
        return float(np.sum(weight)), np.sum(weighted, axis=0), weighted.T @ centered


def _batches(
    probability: np.ndarray, K: int, size: int, ordered: bool, limit: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of members [size, K] and weights [size], the last one padded with weight zero."""
    M = len(probability)
    count = M**K if ordered else math.comb(M + K - 1, K)
    if count > limit:
        kind = "ordered tuples" if ordered else "multisets"
        raise ValueError(
            f"batch_size {K} over {M} trajectories gives {count} {kind}, more than the limit of "
            f"{limit}; shorten the horizon or the batch"
        )
    indices = range(M)
    every = product(indices, repeat=K) if ordered else combinations_with_replacement(indices, K)
    for begin in range(0, count, size):
        here = min(size, count - begin)
        if K == 1:
            members = np.arange(begin, begin + here)[:, None]
        else:
            members = np.array(list(islice(every, here)), int)
        weight = np.prod(probability[members], axis=1)
        if not ordered:
            weight = weight * _orderings(members)
        missing = size - here
        yield np.pad(members, ((0, missing), (0, 0))), np.pad(weight, (0, missing))


def _orderings(members: np.ndarray) -> np.ndarray:
    """The number of orders in which each sorted row can be drawn, K! / Π multiplicity!."""
    count = np.full(len(members), float(math.factorial(members.shape[1])))
    run = np.ones(len(members))
    for left, right in zip(members.T[:-1], members.T[1:], strict=True):
        run = np.where(left == right, run + 1, 1)
        count = count / run
    return count


def _depends_on_order(
    estimates: Callable[[np.ndarray], np.ndarray], num_trajectories: int, shape: tuple[int, int]
) -> bool:
    """Whether shuffling the rows of some random batches changes the estimate."""
    random = np.random.default_rng(0)
    members = random.integers(num_trajectories, size=shape)
    one = estimates(members)
    return any(
        not np.allclose(
            one, estimates(random.permuted(members, axis=1)), rtol=1e-9, atol=1e-12, equal_nan=True
        )
        for _ in range(3)
    )


def _chunk_size(one: Trajectory, P: int, M: int, K: int) -> int:
    """The number of batches like `one` in a chunk of some 64 MB of observations and estimates.

    Few batches come in small chunks, because every chunk is evaluated whole, and because `examine`
    evaluates each chunk four times more.
    """
    numbers = 4 * P + 4 * sum(leaf.size for leaf in jax.tree.leaves(one))
    most = 65_536 if K == 1 else 512 if math.comb(M + K - 1, K) <= FEW else 4096
    return int(min(max(8_000_000 // numbers, 1), most, M**K))
