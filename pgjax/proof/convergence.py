"""`assert_converges`: the sample gradient of an estimator reaches the exact gradient of a problem.

Where `assert_unbiased` sums over all trajectories, this draws them, as training does: from the
library's rollout or your own. So it needs no enumeration, and it tests the sampler too.
"""

from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree

from pgjax import exact
from pgjax.core.float64 import flatten
from pgjax.core.validation import check_key, check_positive
from pgjax.diagnostics import tails
from pgjax.enumeration import Function
from pgjax.exact.problem import Problem, check_problem
from pgjax.proof.candidates import Candidate, Rollout, estimate_on, library_rollout, resolve
from pgjax.proof.judge import DEFAULT_JUDGE, Judge, check_judge
from pgjax.proof.sequential_test import FIRST_LOOK, MeanTest, mean_test
from pgjax.types import KeyLike, check_function

NUMBERS_AT_ONCE = 2**22
"""The most gradients, and steps, that are held at once, to bound the memory."""


class Convergence(NamedTuple):
    """What `assert_converges` showed; print it.

    Attributes:
        problem: its name.
        num_trajectories: how many were drawn.
        error: ‖ĝ − ∇J‖ / ‖∇J‖ of the sample gradient.
        margin: a relative bias above this would have passed with probability at most `alpha`.
        alpha: the rate of false alarms, and that of false passes.
        num_directions: how many projections of the gradient were tested; P if all.
        gradient: the sample gradient ĝ, a pytree like the parameters.
        truth: ∇J, likewise.
    """

    problem: str
    num_trajectories: int
    error: float
    margin: float
    alpha: float
    num_directions: int
    gradient: PyTree[Float[np.ndarray, "..."]]
    truth: PyTree[Float[np.ndarray, "..."]]

    def __str__(self) -> str:
        return (
            f"on {self.problem} the sample gradient of {self.num_trajectories:,} trajectories is "
            f"{self.error:.2%} of ‖∇J‖ away from the exact gradient, tested in "
            f"{self.num_directions} directions; a right estimator fails, and one with a bias above "
            f"{self.margin:g} ‖∇J‖ passes, at a rate of at most {self.alpha:g}"
        )


def assert_converges(
    candidate: Candidate,
    problem: Problem,
    *,
    batch_size: int = 16,
    judge: Judge = DEFAULT_JUDGE,
    rollout: Rollout | None = None,
    key: KeyLike | None = None,
) -> Convergence:
    """Assert that an estimator's sample gradient converges to the exact gradient of a problem.

    (1/n) Σ_i ĝ(batch_i) → ∇J, over fresh batches. A sequential test passes once the mean is shown
    to lie within the margin of ∇J; `chex.assert_trees_all_close` then compares the two pytrees,
    and its message shows both if the test fails.

    Args:
        candidate: an Estimator, a function (params, batch) -> gradient, or a function of one
            argument, problem -> either of these.
        problem: with a finite horizon, and ∇J not zero. Nothing is enumerated, so it may be large.
        batch_size: K, the trajectories in a batch. Larger batches take fewer gradients, and hide
            biases of order 1/K.
        judge: its `margin`, `alpha` and `max_samples`, the largest number of batches, are used.
        rollout: (params, key) -> batch of K, your own sampler; the library's if None.
        key: `jax.random.key(0)` if None.

    Returns:
        Convergence: what was shown, at which rates, from how many trajectories.

    Raises:
        AssertionError: if the sample gradient is not the exact one. An unbiased estimator fails
            with probability at most `judge.alpha`. One with a relative bias above `judge.margin`
            passes with probability at most `judge.alpha`; else it gets this error or the next.
        statistics.InconclusiveError: if `judge.max_samples` batches can neither show nor refute it;
            the message names the number that would.
        ValueError: if ∇J is zero, the horizon is infinite, or a gradient is not finite or has
            another structure than the parameters.
        TypeError: if the candidate is neither an Estimator nor a function.

    Bias: a bias below the margin may pass. Samples are computed in the caller's precision. With
        more than 48 parameters, 48 fixed projections are tested, ∇J's own direction among them.

    References:
        As for `statistics.mean_test`.

    Example:
        >>> import pgjax
        >>> problem = pgjax.suite.problems()[0]
        >>> report = assert_converges(pgjax.reward_to_go(1.0), problem, judge=Judge(margin=0.1))
        >>> report.error < 0.1, report.num_trajectories
        (True, 1048576)
    """
    K = check_positive("batch_size", batch_size)
    check_problem(problem)
    check_judge(judge)
    if rollout is not None:
        check_function("rollout", rollout, "(params, key) -> batch, or problem -> such a function")
    key = jax.random.key(0) if key is None else check_key(key)
    estimate = estimate_on(candidate, problem)
    run = library_rollout(problem, K) if rollout is None else resolve(rollout, problem)
    truth = exact.gradient(problem)
    if not np.linalg.norm(flatten(truth)) > 1e-12:
        raise ValueError(
            f"problem {problem.name} has a zero gradient, which shows no bias; take other params"
        )
    test = mean_test(
        _draws(estimate, run, problem, K),
        flatten(truth),
        key,
        margin=judge.margin,
        alpha=judge.alpha,
        max_samples=judge.max_samples,
    )
    scale = float(np.linalg.norm(flatten(truth)))
    found = Convergence(
        problem=problem.name,
        num_trajectories=test.num_samples * K,
        error=float(np.linalg.norm(test.mean - flatten(truth))) / scale,
        margin=judge.margin,
        alpha=judge.alpha,
        num_directions=test.num_directions,
        gradient=_like(truth, test.mean),
        truth=truth,
    )
    deviation = np.abs(test.mean - flatten(truth))
    chex.assert_trees_all_close(
        found.gradient,
        found.truth,
        rtol=0,
        atol=_allowed(test, judge.alpha) if test.passed else min(test.margin, deviation.max() / 2),
        custom_message=f"the sample gradient is not the exact gradient (p = {test.p_value:.2g}): "
        f"{found}",
    )
    return found


def _draws(estimate: Function, rollout: Rollout, problem: Problem, K: int) -> Any:
    """Key -> [n, P] estimates from n independent batches."""
    acting, params = (
        jax.tree.map(lambda x: jax.device_put(np.asarray(x, float)), tree)
        for tree in (problem.acting_params, problem.params)
    )
    numbers = flatten(problem.params).size + 4 * K * problem.finite_horizon
    n = 1 << max(int(np.log2(NUMBERS_AT_ONCE / numbers)), 0)

    def draw(key: Array) -> Array:
        def one(key: Array) -> Array:
            return ravel_pytree(estimate(params, rollout(acting, key)))[0]

        return jax.vmap(one)(jax.random.split(key, min(n, FIRST_LOOK)))

    return draw


def _like(tree: Any, flat: np.ndarray) -> Any:
    """A flat vector as a pytree like another, in NumPy."""
    leaves, structure = jax.tree.flatten(tree)
    parts = np.split(flat, np.cumsum([np.size(leaf) for leaf in leaves])[:-1])
    return structure.unflatten(
        [part.reshape(np.shape(leaf)) for part, leaf in zip(parts, leaves, strict=True)]
    )


def _allowed(test: MeanTest, alpha: float) -> float:
    """The margin; with projections, also the noise of entries along directions not tested."""
    if test.num_directions == test.mean.size:
        return test.margin
    z = tails.normal_quantile(alpha / (2 * test.mean.size))
    return test.margin + z * float(test.standard_error.max())
