"""Exact mean and covariance of the classic estimates, from one trajectory, on MDPs of any horizon.

No trajectory is enumerated: see `exact.recursion`. The full covariance is for some hundreds of
parameters and tens of states; a Spread keeps its diagonal only, and goes on to thousands of
parameters and hundreds of states. The mean of N independent estimates has 1/N of either.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pgjax.core.float64 import in_float64, to_numpy
from pgjax.exact.dynamics import prepare
from pgjax.exact.recursion import (
    MISMATCHED,
    REWARD_TO_GO,
    TOTAL_RETURN,
    Estimate,
    Steps,
    solve,
    steps_of,
)
from pgjax.exact.tabular import TabularMDP
from pgjax.types import Moments, Params, Policy, Spread

Baseline = float | Float[Any, "S"]


@in_float64
def reward_to_go_moments(
    mdp: TabularMDP,
    policy: Policy,
    params: Params,
    *,
    horizon: int | None,
    baseline: Baseline = 0.0,
) -> Moments:
    """Mean and covariance of Σ_t γ^t ∇log π(a_t|s_t) (G_t − b(s_t)), one trajectory, exactly.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy, P numbers in all; some hundreds at most.
        horizon: H, or None.
        baseline: b(s), [S] or a scalar, in units of return.

    Returns:
        Moments; the mean is ∇J.

    Raises:
        ValueError: a baseline that is not [S]; otherwise as for `exact.gradient`.

    Bias: exact.

    References:
        The second-moment Bellman equation is Sobel's, The Variance of Discounted Markov Decision
        Processes (1982), here for a vector that carries the score along.

    Example:
        >>> import numpy as np
        >>> from pgjax import tabular, tabular_softmax
        >>> mdp, policy = tabular.two_armed_bandit(), tabular_softmax(3, 2)
        >>> reward_to_go_moments(mdp, policy, np.zeros((3, 2)), horizon=1).mean[:2]
        array([-0.075,  0.075])
    """
    settings = mdp, policy, params, horizon, baseline
    return Moments(*_evaluate(REWARD_TO_GO, *settings, full=True))


@in_float64
def mismatched_reward_to_go_moments(
    mdp: TabularMDP,
    policy: Policy,
    params: Params,
    *,
    horizon: int | None,
    baseline: Baseline = 0.0,
) -> Moments:
    """The same without γ^t: Σ_t ∇log π(a_t|s_t) (G_t − b(s_t)).

    Args: as for `reward_to_go_moments`; without horizon, episodes must end with probability one.

    Returns:
        Moments; the mean is `exact.mismatched_gradient`.

    Raises:
        ValueError: as for `reward_to_go_moments`; visits without bound.

    Bias: exact; the mean is not ∇J when γ < 1.

    References:
        Nota & Thomas (2020), eq. 3.
    """
    settings = mdp, policy, params, horizon, baseline
    return Moments(*_evaluate(MISMATCHED, *settings, full=True))


@in_float64
def total_return_moments(
    mdp: TabularMDP,
    policy: Policy,
    params: Params,
    *,
    horizon: int | None,
    baseline: Baseline = 0.0,
) -> Moments:
    """Mean and covariance of Σ_t ∇log π(a_t|s_t) (R − b(s_t)), one trajectory, exactly.

    Args: as for `reward_to_go_moments`; without horizon, episodes must end with probability one.

    Returns:
        Moments; the mean is ∇J.

    Raises:
        ValueError: as for `reward_to_go_moments`; an episode that need not end.

    Bias: exact.

    References:
        Williams (1992) for the estimate; Sobel (1982) for the recursion.
    """
    settings = mdp, policy, params, horizon, baseline
    return Moments(*_evaluate(TOTAL_RETURN, *settings, full=True))


@in_float64
def reward_to_go_spread(
    mdp: TabularMDP,
    policy: Policy,
    params: Params,
    *,
    horizon: int | None,
    baseline: Baseline = 0.0,
) -> Spread:
    """Mean and variances of reward-to-go, for many parameters: memory grows with S·P, not P².

    Args: as for `reward_to_go_moments`, P in the thousands.

    Returns:
        Spread: mean and variance of each parameter; `total_variance` is tr Σ.

    Raises:
        ValueError: as for `reward_to_go_moments`.

    Bias: exact.

    References:
        As for `reward_to_go_moments`.
    """
    settings = mdp, policy, params, horizon, baseline
    return Spread(*_evaluate(REWARD_TO_GO, *settings, full=False))


@in_float64
def mismatched_reward_to_go_spread(
    mdp: TabularMDP,
    policy: Policy,
    params: Params,
    *,
    horizon: int | None,
    baseline: Baseline = 0.0,
) -> Spread:
    """Mean and variances of reward-to-go without γ^t, for many parameters.

    Args, Returns, Raises: as for `reward_to_go_spread` and `mismatched_reward_to_go_moments`.

    Bias: exact; the mean is not ∇J when γ < 1.
    """
    settings = mdp, policy, params, horizon, baseline
    return Spread(*_evaluate(MISMATCHED, *settings, full=False))


@in_float64
def total_return_spread(
    mdp: TabularMDP,
    policy: Policy,
    params: Params,
    *,
    horizon: int | None,
    baseline: Baseline = 0.0,
) -> Spread:
    """Mean and variances of the total-return estimate, for many parameters.

    Args, Returns, Raises: as for `reward_to_go_spread` and `total_return_moments`.

    Bias: exact.
    """
    settings = mdp, policy, params, horizon, baseline
    return Spread(*_evaluate(TOTAL_RETURN, *settings, full=False))


@in_float64
def optimal_state_baseline(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> Float[np.ndarray, "S"]:
    """The b(s) that minimises tr Σ of reward-to-go.

    tr Σ is quadratic in b without cross terms, because E[∇log π(a|s)] = 0 given s, whatever came
    before: so two slopes, at b = 0 and at b = 1, give every state's minimum.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H, or None.

    Returns:
        [S] float64; zero in states that no episode acts in.

    Raises:
        ValueError: as for `exact.gradient`.

    Bias: exact; as a baseline it leaves the estimate unbiased.

    References:
        Greensmith, Bartlett & Baxter, Variance Reduction Techniques for Gradient Estimates (2004),
        give the minimum for a single step; this is the one for the whole estimate.
    """
    steps, P = steps_of(mdp, policy, params, horizon, 0.0, full=False)

    zero = jnp.zeros(mdp.num_states)
    at_zero, at_one = (_slope(x, P, horizon, steps) for x in (zero, zero + 1))
    curvature = at_one - at_zero
    used = curvature > 1e-12 * jnp.max(curvature)
    return to_numpy(jnp.where(used, -at_zero / jnp.where(used, curvature, 1), 0))


@partial(jax.jit, static_argnums=(1, 2))
def _slope(baseline: Array, P: int, horizon: int | None, steps: Steps) -> Array:
    """[S] the derivative of tr Σ of reward-to-go by its baseline."""

    def total_variance(baseline: Array) -> Array:
        return jnp.sum(solve(REWARD_TO_GO, P, horizon, False, steps._replace(baseline=baseline))[1])

    return jax.grad(total_variance)(baseline)


def _evaluate(
    estimate: Estimate,
    mdp: TabularMDP,
    policy: Policy,
    params: Params,
    horizon: int | None,
    baseline: Baseline,
    *,
    full: bool,
) -> tuple[np.ndarray, np.ndarray]:
    if estimate.must_end:
        prepare(replace(mdp, discount=1.0), policy, params, horizon)
    steps, P = steps_of(mdp, policy, params, horizon, baseline, full)
    return to_numpy(jax.jit(solve, static_argnums=(0, 1, 2, 3))(estimate, P, horizon, full, steps))
