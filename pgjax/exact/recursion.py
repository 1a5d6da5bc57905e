"""The matrix-valued Bellman equation: an estimate's first two moments, by recursion.

An estimate X from one trajectory is built up backwards from the end of the episode, by a recursion
that is affine in the later steps. So the first two moments of the later steps, state by state, are
enough. Let c = ∇log π(a|s), let G = r + γ G' be the return, and let a prime mean one step later.

- Reward-to-go: X = c (G − b) + δ X', with δ = γ, or δ = 1 without γ^t. The recursion carries E[G],
  E[G²], E[X], E[G X] and E[X Xᵀ].
- Total return: X = G Z − D, with the sums Z = c + Z' and D = b c + D'. The recursion carries E[G],
  E[G²], E[G^k Z], E[G^k D], E[G^k Z Zᵀ], E[G^k Z Dᵀ] and E[D Dᵀ], for the k that E[X Xᵀ] needs.

Of a matrix only the symmetric part counts in the end, so x yᵀ may stand for y xᵀ on the way.
(r + γ G')^k is expanded by the binomial theorem. With an infinite horizon, each moment solves a
linear equation once the moments that it depends on are known.

A covariance takes S·P² numbers. If its diagonal is enough, outer products become elementwise ones,
and S·P numbers suffice. Of the score, only the parameters that a state can touch are then kept.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import comb
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import Array
from jax.flatten_util import ravel_pytree

from pgjax.core.compilation import jit_once
from pgjax.core.float64 import to_jax
from pgjax.core.validation import check_finite
from pgjax.exact.dynamics import Model, prepare, reachable_states, stationary
from pgjax.exact.problem import Problem
from pgjax.types import Params, Policy


class Steps(NamedTuple):
    """One step of the process under the policy, over the B states that can follow each state."""

    successor: np.ndarray  # [S, B]
    weight: dict[tuple[int, int], np.ndarray]  # (k, j) -> [S, A, B], see `_power`
    kernel: dict[tuple[int, int], Any]  # (k, j) -> sparse [S, S], the same, summed over actions
    score: np.ndarray  # [S, A, K] ∇log π(a|s), on the support
    support: np.ndarray  # [S, K] which of the P parameters these are
    initial: np.ndarray  # [S]
    discount: float
    baseline: np.ndarray  # [S]


Carried = dict[str, np.ndarray]
"""Moments from each state on: [S], [S, P], and [S, P, P], or [S, P] for its diagonal."""

OuterProduct = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Σ_a x[S,A,K] yᵀ[S,A,K], or its diagonal."""


class Recursion(NamedTuple):
    """An estimate, built up backwards from the end of an episode.

    Attributes:
        layout: (discount) -> for each carried moment, its rank in P and the factor of itself one
            step later. The order is such that no moment depends on a later one.
        step: (steps, P, product, carried) -> carried, one step earlier.
        result: (carried) -> E[X] [S, P] and E[X Xᵀ], up to its antisymmetric part, or its diagonal,
            for every first state.
        must_end: whether, if the horizon is infinite, episodes must end even if γ < 1.
    """

    layout: Callable[[float], dict[str, tuple[int, float]]]
    step: Callable[[Steps, int, OuterProduct, Carried], Carried]
    result: Callable[[Carried], tuple[np.ndarray, np.ndarray]]
    must_end: bool


def steps_of(problem: Problem, baseline: Any, full: bool) -> tuple[Steps, int]:
    """The process under the policy, and P; the whole score if `full`, else its nonzero part."""
    model, params = prepare(problem)
    mdp = problem.mdp
    offset = np.asarray(check_finite("baseline", baseline), np.float64)
    if offset.shape not in ((), (mdp.num_states,)):
        raise ValueError(
            f"baseline must be a scalar or have shape [S] = {(mdp.num_states,)}, got {offset.shape}"
        )
    probabilities = model.probabilities
    joint = probabilities[:, :, None] * mdp.transition
    # States that no episode reaches have no part in the moments, and need not end. Left in, they
    # would make the equations singular if the horizon is infinite.
    joint[mdp.terminal | ~reachable_states(mdp, probabilities)] = 0
    score = scores(problem.policy, params, model)
    touched = np.any(score != 0, axis=1) | full
    successor, support = _ragged(np.any(joint > 0, axis=1)), _ragged(touched)
    probability = np.take_along_axis(joint, successor[:, None], axis=2)
    reward = np.take_along_axis(mdp.reward, successor[:, None], axis=2)
    weight = {
        (k, j): comb(k, j) * reward ** (k - j) * mdp.discount**j * probability
        for k in range(3)
        for j in range(k + 1)
    }
    steps = Steps(
        successor=successor,
        weight=weight,
        kernel={kj: _sparse(successor, np.sum(x, axis=1)) for kj, x in weight.items()},
        score=np.take_along_axis(score, support[:, None], axis=2),
        support=support,
        initial=mdp.initial,
        discount=mdp.discount,
        baseline=np.broadcast_to(offset, (mdp.num_states,)),
    )
    return steps, score.shape[-1]


def scores(policy: Policy, params: Params, model: Model) -> np.ndarray:
    """[S, A, P] ∇log π(a|s)."""
    given = to_jax((params, model.observation))
    return np.asarray(_scores(policy, *given, model.reward.shape[1]))


@partial(jit_once, static_argnums=(0, 3))
def _scores(policy: Policy, params: Params, observation: Array, num_actions: int) -> Array:
    flat, unravel = ravel_pytree(params)

    def log_prob(flat: Array, observation: Array, action: Array) -> Array:
        return policy.log_prob(unravel(flat), observation, action)

    over_actions = jax.vmap(jax.grad(log_prob), (None, None, 0))
    over_states = jax.vmap(over_actions, (None, 0, None))
    return over_states(flat, observation, jnp.arange(num_actions))


def _ragged(present: np.ndarray) -> np.ndarray:
    """[S, W] the columns present in each row, then absent ones, which have weight zero."""
    width = max(int(present.sum(1).max()), 1)
    return np.argsort(~present, axis=1, kind="stable")[:, :width]


def _sparse(columns: np.ndarray, x: np.ndarray) -> Any:
    """Sparse [S, S] with x [S, B] in the given columns [S, B] of each row."""
    S, B = x.shape
    ends = np.arange(0, S * B + 1, B)
    return scipy.sparse.csr_array((x.ravel(), columns.ravel(), ends), shape=(S, S))


def solve(
    recursion: Recursion, P: int, horizon: int | None, full: bool, steps: Steps
) -> tuple[np.ndarray, np.ndarray]:
    """E[X], and Cov[X] or its diagonal, from the initial distribution."""
    S = len(steps.initial)
    layout = recursion.layout(steps.discount)
    shapes = {0: (S,), 1: (S, P), 2: (S, P, P) if full else (S, P)}
    carried = {name: np.zeros(shapes[rank]) for name, (rank, _) in layout.items()}
    product = _outer if full else partial(_diagonal, steps, P)
    if horizon is not None:
        for _ in range(horizon):
            carried = recursion.step(steps, P, product, carried)
    else:
        for name, (_, rate) in layout.items():
            # The source of each equation is without its own share, which is still zero.
            source = recursion.step(steps, P, product, carried)[name]
            solution = stationary(rate * steps.kernel[0, 0].toarray(), source.reshape(S, -1))
            carried = carried | {name: solution.reshape(source.shape)}
    mean, second = (np.tensordot(steps.initial, x, 1) for x in recursion.result(carried))
    if full:
        return mean, (second + second.T) / 2 - np.outer(mean, mean)
    return mean, second - mean**2


def _layout_reward_to_go(discount: float, *, matched: bool) -> dict[str, tuple[int, float]]:
    delta = discount if matched else 1.0
    return {
        "G1": (0, discount),
        "G2": (0, discount**2),
        "X0": (1, delta),
        "X1": (1, delta * discount),
        "XX": (2, delta**2),
    }


def _step_reward_to_go(
    steps: Steps, P: int, product: OuterProduct, carried: Carried, *, matched: bool
) -> Carried:
    delta = steps.discount if matched else 1.0
    c, b = steps.score, steps.baseline[:, None]
    returns, x = _returns(carried), (carried["X0"], carried["X1"])
    mass = [_power(steps, k, returns) for k in range(3)]
    along = [_power(steps, k, x, steps.support) for k in range(2)]
    centered = [mass[k + 1] - b * mass[k] for k in range(2)]  # E[G^k (G − b)]
    own = (centered[1] - b * centered[0])[..., None] * c
    later = delta * (along[1] - b[..., None] * along[0])
    return {
        "G1": np.sum(mass[1], axis=1),
        "G2": np.sum(mass[2], axis=1),
        "X0": _place(steps, P, centered[0]) + delta * _flow(steps, 0, x),
        "X1": _place(steps, P, centered[1]) + delta * _flow(steps, 1, x),
        "XX": product(c, own + 2 * later) + delta**2 * _flow(steps, 0, (carried["XX"],)),
    }


def _layout_total_return(discount: float) -> dict[str, tuple[int, float]]:
    powers = {"G1": (0, discount), "G2": (0, discount**2)}
    sums = {f"{x}{k}": (1, discount**k) for x, top in _SUMS for k in range(top + 1)}
    pairs = {f"{xy}{k}": (2, discount**k) for xy, top in _PAIRS for k in range(top + 1)}
    return powers | sums | pairs


def _step_total_return(steps: Steps, P: int, product: OuterProduct, carried: Carried) -> Carried:
    c, returns = steps.score, _returns(carried)
    own = {"Z": np.ones_like(steps.baseline)[:, None], "D": steps.baseline[:, None]}
    mass = [_power(steps, k, returns) for k in range(3)]
    new = {"G1": np.sum(mass[1], axis=1), "G2": np.sum(mass[2], axis=1)}
    along = {}
    for x, top in _SUMS:
        following = [carried[f"{x}{k}"] for k in range(top + 1)]
        for k in range(top + 1):
            along[x, k] = _power(steps, k, following, steps.support)
            new[f"{x}{k}"] = _place(steps, P, own[x] * mass[k]) + _flow(steps, k, following)
    for (x, y), top in _PAIRS:
        following = [carried[f"{x}{y}{k}"] for k in range(top + 1)]
        for k in range(top + 1):
            both = (own[x] * own[y] * mass[k])[..., None] * c
            one = own[x][..., None] * along[y, k] + own[y][..., None] * along[x, k]
            new[f"{x}{y}{k}"] = product(c, both + one) + _flow(steps, k, following)
    return new


_SUMS = (("Z", 2), ("D", 1))
_PAIRS = (("ZZ", 2), ("ZD", 1), ("DD", 0))
"""The moments E[G^k x] and E[G^k x y], up to the k that E[(G Z − D)(G Z − D)ᵀ] needs."""

REWARD_TO_GO, MISMATCHED = (
    Recursion(
        partial(_layout_reward_to_go, matched=matched),
        partial(_step_reward_to_go, matched=matched),
        lambda carried: (carried["X0"], carried["XX"]),
        must_end=not matched,
    )
    for matched in (True, False)
)
TOTAL_RETURN = Recursion(
    _layout_total_return,
    _step_total_return,
    lambda carried: (
        carried["Z1"] - carried["D0"],
        carried["ZZ2"] - 2 * carried["ZD1"] + carried["DD0"],
    ),
    must_end=True,
)


def _returns(carried: Carried) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.ones_like(carried["G1"]), carried["G1"], carried["G2"]


def _power(
    steps: Steps, k: int, following: Sequence[np.ndarray], columns: np.ndarray | None = None
) -> np.ndarray:
    """π(a|s) E[(r + γ G')^k x' | s, a], [S, A, ...], from following[j] = E[G^j x | s].

    Args:
        steps: of the process.
        k: the power.
        following: moments for j = 0, …, k at least.
        columns: [S, K] the parameters that are needed of each x'; None needs all.
    """
    total = np.zeros(())
    for j in range(k + 1):
        x = following[j]
        if columns is None:
            x = x[steps.successor]
        else:
            x = x[steps.successor[:, :, None], columns[:, None, :]]
        total = total + np.einsum("sab,sb...->sa...", steps.weight[k, j], x)
    return total


def _flow(steps: Steps, k: int, following: Sequence[np.ndarray]) -> np.ndarray:
    """E[(r + γ G')^k x' | s], [S, ...]: as `_power`, but summed over actions first."""
    flat = [x.reshape(len(x), -1) for x in following]
    total = steps.kernel[k, 0] @ flat[0]
    for j in range(1, k + 1):
        total += steps.kernel[k, j] @ flat[j]
    return total.reshape(following[0].shape)


def _place(steps: Steps, P: int, weight: np.ndarray) -> np.ndarray:
    """Σ_a weight[S,A] ∇log π(a|s), [S, P]."""
    return _spread(steps, P, np.einsum("sa,sak->sk", weight, steps.score))


def _spread(steps: Steps, P: int, x: np.ndarray) -> np.ndarray:
    """[S, K] on the support -> [S, P]."""
    dense = np.zeros((len(x), P))
    np.put_along_axis(dense, steps.support, x, axis=1)
    return dense


def _outer(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x.swapaxes(1, 2) @ y


def _diagonal(steps: Steps, P: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _spread(steps, P, np.sum(x * y, axis=1))
