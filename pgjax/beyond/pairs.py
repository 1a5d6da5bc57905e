"""What an antithetic pair does, exactly: the joint law of two episodes on mirrored noise.

On a small MDP it is a product over time, and is enumerated: M trajectories make M² pairs.
"""

from functools import partial

import jax
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from pgjax import enumeration
from pgjax.core.compilation import jit_once
from pgjax.core.float64 import as_float64, in_float64, to_numpy
from pgjax.core.validation import check_estimate
from pgjax.estimators import gradient
from pgjax.exact.dynamics import action_probabilities
from pgjax.exact.problem import Problem, check_problem
from pgjax.policies import tabular_softmax
from pgjax.types import Estimator, Moments, Params, Trajectory

PAIRS_AT_ONCE = 8192
"""Pairs whose estimates are held at a time."""


@in_float64
def antithetic_pairs(problem: Problem) -> tuple[Trajectory, Float[np.ndarray, "M M"]]:
    """All M trajectories, and the exact probability of each pair under `antithetic_rollout`.

    P(τ, τ') = P(s_0) P(s'_0) Π_t C(a_t, a'_t) P(s_{t+1}|s_t,a_t) P(s'_{t+1}|s'_t,a'_t), where C is
    the probability of a u that gives a_t while 1 − u gives a'_t. If one of the two has ended, the
    other's π takes the place of C.

    Args:
        problem: with a finite horizon; its policy draws actions by `inversion`.

    Returns:
        A batch [M, H] as `enumeration.trajectories` gives it, and [M, M] float64, symmetric.

    Raises:
        ValueError: as for `enumeration.trajectories`.

    Bias: exact.

    Example:
        >>> import numpy as np
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> batch, joint = antithetic_pairs(
        ...     Problem(bandit, tabular_softmax(3, 2), np.zeros((3, 2)), horizon=1))
        >>> float(joint[batch.action[:, 0] == 0][:, batch.action[:, 0] == 0].sum())
        0.0
    """
    check_problem(problem)
    mdp, table = problem.mdp, action_probabilities(problem)
    S, A = table.shape
    with np.errstate(divide="ignore"):
        logits = np.log(table)  # the same policy, of states that can be told apart
    visible = mdp.replace(observation=np.eye(S))
    batch, _ = enumeration.trajectories(
        Problem(visible, tabular_softmax(S, A), logits, problem.horizon)
    )
    states = np.argmax(batch.observation, -1)
    final = np.argmax(batch.final_observation, -1)
    batch = batch.replace(
        observation=mdp.observation[states], final_observation=mdp.observation[final]
    )
    following = np.column_stack([states[:, 1:], final])
    transition = np.where(batch.mask, mdp.transition[states, batch.action, following], 1)
    alone = mdp.initial[states[:, 0]] * np.prod(transition, axis=1)
    joint = np.outer(alone, alone)
    for t in range(batch.reward.shape[1]):
        joint *= _coupling(table, states[:, t], batch.action[:, t], batch.mask[:, t])
    return batch, joint


@in_float64
def antithetic_moments(estimator: Estimator | enumeration.Function, problem: Problem) -> Moments:
    """The exact expectation and covariance of an estimate from one antithetic pair.

    Args:
        estimator: an Estimator, or any function (params, batch[2,T]) -> numbers that JAX can trace.
        problem: with a finite horizon; its policy draws actions by `inversion`.

    Returns:
        Moments of one estimate; compare `enumeration.moments` with `batch_size=2`.

    Raises:
        ValueError: as for `enumeration.trajectories`; if an estimate is not finite.

    Bias: exact.
    """
    check_estimate(estimator)
    batch, joint = antithetic_pairs(problem)
    params = jax.tree.map(as_float64, problem.params)
    if isinstance(estimator, Estimator):
        estimate = partial(gradient, estimator, problem.policy)
    else:
        estimate = estimator

    def flat(params: Params, pair: Trajectory) -> Array:
        return ravel_pytree(estimate(params, pair))[0]

    evaluate = jit_once(jax.vmap(flat, (None, 0)))

    def estimates(members: np.ndarray) -> np.ndarray:
        return np.asarray(evaluate(params, jax.tree.map(lambda x: x[members], batch)))

    members = np.argwhere(joint > 0)
    weight = joint[members[:, 0], members[:, 1]]
    missing = -len(members) % min(PAIRS_AT_ONCE, len(members))
    padded = np.pad(members, ((0, missing), (0, 0)))
    chunks = np.split(padded, max(len(padded) // PAIRS_AT_ONCE, 1))
    values = np.concatenate([estimates(x) for x in chunks])[: len(members)]
    if not np.all(np.isfinite(values)):
        raise ValueError(
            "the estimate must be finite on every pair of positive probability, got nan or "
            "infinity; look for log(0), 0/0 or an overflow in the policy and the estimator"
        )
    mean = weight @ values
    centered = values - mean
    return to_numpy(Moments(mean, (weight[:, None] * centered).T @ centered))


def _coupling(
    table: np.ndarray, states: np.ndarray, actions: np.ndarray, alive: np.ndarray
) -> np.ndarray:
    """[M, M] P(a at u, a' at 1 − u) in the states that trajectories are in at one time."""
    high = np.cumsum(table, axis=1)
    high[:, -1] = 1
    low = np.column_stack([np.zeros(len(table)), high[:, :-1]])
    # All of [0, 1] where a trajectory has ended: the other's action is then free.
    lower = np.where(alive, low[states, actions], 0)
    upper = np.where(alive, high[states, actions], 1)
    overlap = np.minimum(upper[:, None], 1 - lower) - np.maximum(lower[:, None], 1 - upper)
    return np.maximum(overlap, 0)
