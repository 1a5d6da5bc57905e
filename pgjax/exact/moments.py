"""Exact mean and covariance of the classic estimates, from one trajectory, on MDPs of any horizon.

No trajectory is enumerated: see `exact.recursion`. The full covariance is for up to some hundreds
of parameters and tens of states. A Spread holds only its diagonal, and is for up to thousands of
parameters and hundreds of states. The mean of N independent estimates has 1/N of either.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pgjax.core.compilation import jit_once
from pgjax.core.float64 import in_float64, to_jax, to_numpy
from pgjax.core.validation import check_kind
from pgjax.exact.dynamics import prepare
from pgjax.exact.problem import Problem, check_problem
from pgjax.exact.recursion import REWARD_TO_GO, Recursion, Steps, solve, steps_of
from pgjax.types import Moments, Spread

FEW = 10_000_000
"""Up to this many numbers, a program that compiles fast saves more time than one that runs fast."""


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
    before. So its slopes at b = 0 and at b = 1 give every state's minimum.

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
    steps, P = steps_of(problem, 0.0, full=False)

    baselines = (to_jax(np.full(problem.mdp.num_states, x)) for x in (0.0, 1.0))
    at_zero, at_one = (to_numpy(_slope(x, P, problem.horizon, steps)) for x in baselines)
    curvature = at_one - at_zero
    used = curvature > 1e-12 * np.max(curvature)
    return np.where(used, -at_zero / np.where(used, curvature, 1), 0)


@partial(jit_once, static_argnums=(1, 2))
def _slope(baseline: Array, P: int, horizon: int | None, steps: Steps) -> Array:
    """[S] the derivative of tr Σ of reward-to-go by its baseline."""

    def total_variance(baseline: Array) -> Array:
        return jnp.sum(solve(REWARD_TO_GO, P, horizon, False, steps._replace(baseline=baseline))[1])

    return jax.grad(total_variance)(baseline)


_solve_once, _solve = (each(solve, static_argnums=(0, 1, 2, 3)) for each in (jit_once, jax.jit))


def _evaluate(
    problem: Problem, of: Recursion, baseline: Float[np.ndarray, "S"] | float, *, full: bool
) -> tuple[np.ndarray, np.ndarray]:
    check_problem(problem)
    check_kind("of", of, Recursion, "exact.REWARD_TO_GO is one")
    if of.must_end:
        prepare(replace(problem, mdp=replace(problem.mdp, discount=1.0)))  # raises if they need not
    steps, P = steps_of(problem, baseline, full)
    numbers = problem.mdp.num_states * P ** (1 + full) * (problem.horizon or P)
    run = _solve_once if numbers <= FEW else _solve
    return to_numpy(run(of, P, problem.horizon, full, steps))
