"""Exact mean and covariance of the classic estimates, from one trajectory, on MDPs of any horizon.

No trajectory is enumerated: see `exact.recursion`. The full covariance is for up to some hundreds
of parameters and tens of states. A Spread holds only its diagonal, and is for up to thousands of
parameters and hundreds of states. The mean of N independent estimates has 1/N of either.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float

from pgjax.core.float64 import in_float64
from pgjax.core.validation import check_kind
from pgjax.exact.dynamics import (
    Model,
    action_values_over_time,
    kernel_of,
    prepare,
    stationary,
    visits_over_time,
)
from pgjax.exact.problem import Problem, check_problem
from pgjax.exact.recursion import REWARD_TO_GO, Recursion, scores, solve, steps_of
from pgjax.types import Moments, Spread


@in_float64
def moments(
    problem: Problem, of: Recursion = REWARD_TO_GO, baseline: Float[np.ndarray, "S"] | float = 0.0
) -> Moments:
    """Exact mean and covariance of an estimate from one trajectory.

    - `REWARD_TO_GO`: Σ_t γ^t ∇log π(a_t|s_t) (G_t − b(s_t)), with mean ∇J.
    - `MISMATCHED`: the same without γ^t, with mean `exact.mismatched_gradient`.
    - `TOTAL_RETURN`: Σ_t ∇log π(a_t|s_t) (R − b(s_t)), with mean ∇J.

    Args:
        problem: of some hundreds of parameters at most.
        of: `exact.REWARD_TO_GO`, `exact.MISMATCHED` or `exact.TOTAL_RETURN`.
        baseline: b(s), [S] or a scalar, in units of return.

    Returns:
        Moments, over the flattened parameters.

    Raises:
        ValueError: as for `exact.gradient`; if the baseline is neither a scalar nor [S]. For
            `MISMATCHED` and `TOTAL_RETURN` also if γ < 1, where the horizon is infinite and an
            episode need not end.

    Bias: exact; the mean of `MISMATCHED` is not ∇J when γ < 1.

    References:
        The second-moment Bellman equation is Sobel's, The Variance of Discounted Markov Decision
        Processes (1982), here for a vector that carries the score along. The total return is
        Williams' (1992); without γ^t, Nota & Thomas (2020), eq. 3.

    Example:
        >>> import numpy as np
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> problem = Problem(bandit, tabular_softmax(3, 2), np.zeros((3, 2)), horizon=1)
        >>> moments(problem).mean[:2]
        array([-0.075,  0.075])
    """
    return Moments(*_evaluate(problem, of, baseline, full=True))


@in_float64
def spread(
    problem: Problem, of: Recursion = REWARD_TO_GO, baseline: Float[np.ndarray, "S"] | float = 0.0
) -> Spread:
    """Exact mean and variances of an estimate, for many parameters: memory grows as S·P, not S·P².

    Args, Raises: as for `moments`, for thousands of parameters.

    Returns:
        Spread: mean and variance of each parameter; `total_variance` is tr Σ.

    Bias: exact; the mean of `MISMATCHED` is not ∇J when γ < 1.

    References:
        As for `moments`.

    Example:
        >>> import numpy as np
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> problem = Problem(bandit, tabular_softmax(3, 2), np.zeros((3, 2)), horizon=1)
        >>> spread(problem).variance[:2].round(6)
        array([0.106875, 0.106875])
    """
    return Spread(*_evaluate(problem, of, baseline, full=False))


@in_float64
def optimal_state_baseline(problem: Problem) -> Float[np.ndarray, "S"]:
    """The state baseline b(s) that minimises the total variance tr Σ of reward-to-go.

    tr Σ is quadratic in b without cross terms, because E[∇log π(a|s)] = 0 given s, whatever came
    before. It is least where b(s) Σ_t γ^{2t} E[1(s_t = s) |c_t|²] = Σ_t γ^t E[1(s_t = s) c_t · X],
    with c_t = ∇log π(a_t|s_t), and X the estimate without a baseline.

    Returns:
        [S] float64, in units of return; zero in states in which no episode acts.

    Raises:
        ValueError: as for `exact.gradient`.

    Bias: exact; as a baseline it leaves the estimate unbiased.

    References:
        Greensmith, Bartlett & Baxter, Variance Reduction Techniques for Gradient Estimates (2004),
        give the minimum for a single step; this is the one for the whole estimate.

    Example:
        >>> import numpy as np
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> problem = Problem(bandit, tabular_softmax(3, 2), np.zeros((3, 2)), horizon=1)
        >>> optimal_state_baseline(problem).round(6)
        array([0.45, 0.  , 0.  ])
    """
    model, params = prepare(problem)
    score = scores(problem.policy, params, model)
    slope = model.probabilities[..., None] * score  # ∇π, [S, A, P]
    length = np.sum(slope * score, axis=-1)  # [S, A] π |c|²
    values = action_values_over_time(model, problem.horizon)
    visits = visits_over_time(model, model.discount**2, problem.horizon)
    along = np.sum(visits * np.einsum("sa,ksa->ks", length, values), axis=0)  # c_t · c_t G_t
    along += _along_later(model, slope, values, visits, problem.horizon)
    along += _along_earlier(model, slope, values, visits, problem.horizon)
    curvature = np.sum(visits, axis=0) * np.sum(length, axis=1)
    used = curvature > 1e-12 * np.max(curvature)
    return np.where(used, along / np.where(used, curvature, 1), 0)


def _along_later(
    model: Model, slope: np.ndarray, values: np.ndarray, visits: np.ndarray, horizon: int | None
) -> np.ndarray:
    """[S] Σ_t γ^{2t} E[1(s_t = s) c_t · γ ∇V(s_{t+1})]: what X adds after t, in the mean."""
    S, A, P = slope.shape
    flat, moves = _rows(slope), model.transition.reshape(S * A, S)
    kernel = kernel_of(model, model.discount)
    later = np.zeros((S, P))
    if horizon is None:
        later = stationary(kernel, np.einsum("sap,sa->sp", slope, values[0]))
    total = np.zeros(S)
    for k in reversed(range(len(values))):
        inner = np.sum(moves * (flat @ later.T), axis=1).reshape(S, A)
        total += visits[k] * model.discount * np.sum(inner, axis=1)
        later = np.einsum("sap,sa->sp", slope, values[k]) + kernel @ later
    return total


def _along_earlier(
    model: Model, slope: np.ndarray, values: np.ndarray, visits: np.ndarray, horizon: int | None
) -> np.ndarray:
    """[S] Σ_t γ^{2t} E[1(s_t = s) Σ_{u<t} c_u · c_t G_t]: earlier scores by later returns."""
    S, A, P = slope.shape
    flat, moves = _rows(slope), model.discount**2 * model.transition.reshape(S * A, S)
    kernel = kernel_of(model, model.discount**2).T
    past, total = np.zeros((S, P)), np.zeros(S)
    if horizon is None:
        past = stationary(kernel, _arriving(moves, flat, visits[0]))
    for k in range(len(values)):
        total += np.sum(past * np.einsum("sap,sa->sp", slope, values[k]), axis=1)
        past = _arriving(moves, flat, visits[k]) + kernel @ past
    return total


def _arriving(moves: np.ndarray, flat: Any, visits: np.ndarray) -> np.ndarray:
    """[S, P] Σ_s Σ_a visits(s) P(s'|s, a) ∇π(a|s) for each following s'."""
    each = np.repeat(visits, len(moves) // len(visits))
    return (flat.T @ (moves * each[:, None])).T


def _rows(slope: np.ndarray) -> Any:
    """[S, A, P] as a sparse [S A, P]: a state touches few of many parameters."""
    return scipy.sparse.csr_array(slope.reshape(-1, slope.shape[-1]))


def _evaluate(
    problem: Problem, of: Recursion, baseline: Float[np.ndarray, "S"] | float, *, full: bool
) -> tuple[np.ndarray, np.ndarray]:
    check_problem(problem)
    check_kind("of", of, Recursion, "exact.REWARD_TO_GO is one")
    if of.must_end:
        prepare(replace(problem, mdp=replace(problem.mdp, discount=1.0)))  # raises if they need not
    steps, P = steps_of(problem, baseline, full)
    return solve(of, P, problem.horizon, full, steps)
