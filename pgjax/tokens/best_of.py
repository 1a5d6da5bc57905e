"""Credit for the best of k answers: PKPO, and pass@k where rewards are 0 and 1.

In a group of G answers with rewards R, answer i is in C(G−1, k−1) of the C(G, k) sets of k.

References:
    Walder & Karkhanis, Pass@K Policy Optimization: Solving Harder Reinforcement Learning Problems
    (2025).
"""

import jax.numpy as jnp
from jax import Array

from pgjax.core.validation import check_positive
from pgjax.records import configured
from pgjax.tokens.groups import groups_of
from pgjax.tokens.outcomes import outcomes_of, to_tokens
from pgjax.types import Trajectory, Weights


def best_of(k: int) -> Weights:
    """Each answer's share in the best of k, G C(G,k)^{-1} Σ_{S∋i} max_S R: PKPO, and pass@k.

    The sum is over the sets S of k answers of the group that contain answer i.

    Args:
        k: at least one, and at most the size of a group.

    Raises:
        TypeError: if k is not an integer.
        ValueError: if k is below one; at use, if a group is known to have fewer answers.

    Bias: none for ∇E[max of k rewards], the gradient of pass@k if rewards are 0 and 1.

    References:
        Walder & Karkhanis, Pass@K Policy Optimization (2025), theorem 2, without its baselines.
    """
    return configured(_best_of, k=check_positive("k", k))


def _best_of(batch: Trajectory, log_prob: Array, *, k: int) -> Array:
    groups_of(batch, k)
    return to_tokens(batch, _shares_in_best(batch, k))


def best_of_less_mean(k: int) -> Weights:
    """`best_of`, less its mean over the group.

    Args:
        k: at least one, and at most the size of a group.

    Raises:
        TypeError: if k is not an integer.
        ValueError: if k is below one; at use, if a group is known to have fewer answers.

    Bias: biased for ∇E[max of k rewards] by the answer's own share in the mean.

    References:
        Walder & Karkhanis, Pass@K Policy Optimization (2025), as in their examples.
    """
    return configured(_best_of_less_mean, k=check_positive("k", k))


def _best_of_less_mean(batch: Trajectory, log_prob: Array, *, k: int) -> Array:
    share, groups = _shares_in_best(batch, k), groups_of(batch, k)
    members = groups.total(jnp.ones_like(share))
    return to_tokens(batch, share - groups.total(share) / jnp.maximum(members, 1))


def best_of_leave_one_out(k: int) -> Weights:
    """`best_of`, less G k/(G−1) times the mean best of k of the *other* answers.

    Args:
        k: at least one, and less than the size of a group.

    Raises:
        TypeError: if k is not an integer.
        ValueError: if k is below one; at use, if a group is known to have no more than k answers.

    Bias: none for ∇E[max of k rewards].

    References:
        Walder & Karkhanis (2025), eq. 29.
    """
    return configured(_best_of_leave_one_out, k=check_positive("k", k))


def _best_of_leave_one_out(batch: Trajectory, log_prob: Array, *, k: int) -> Array:
    groups_of(batch, k + 1)
    best, sets, number = _best_of_others(batch, k)
    share = _shares_in_best(batch, k) - number * k / jnp.maximum(number - 1, 1) * best
    return to_tokens(batch, jnp.where(sets > 0, share, 0))


def gain_in_best(k: int) -> Weights:
    """What an answer adds to the best of k, G C(G,k)^{-1} Σ_{S∋i} (max_S R − max_{S∖i} R).

    It is `best_of`, less k times the mean best of k − 1 of the other answers.

    Args:
        k: at least two, and at most the size of a group.

    Raises:
        TypeError: if k is not an integer.
        ValueError: if k is below two; at use, if a group is known to have fewer answers.

    Bias: none for ∇E[max of k rewards].

    References:
        Walder & Karkhanis (2025), eq. 33.
    """
    if check_positive("k", k) < 2:
        raise ValueError(f"k must be at least 2, got {k}; for one answer, advantages.leave_one_out")
    return configured(_gain_in_best, k=k)


def _gain_in_best(batch: Trajectory, log_prob: Array, *, k: int) -> Array:
    groups_of(batch, k)
    best, sets, _ = _best_of_others(batch, k - 1)
    return to_tokens(batch, jnp.where(sets > 0, _shares_in_best(batch, k) - k * best, 0))


def _shares_in_best(batch: Trajectory, k: int) -> Array:
    """[N, 1] G C(G,k)^{-1} Σ_{S∋i} max_S R.

    As the best of a set, answer j of rank r beats k − 1 of the r answers below it; of these sets,
    C(r−1, k−2) contain a given lower answer i.
    """
    reward, same, below = _ranked(batch)
    rank = jnp.sum(below, axis=1).astype(reward.dtype)
    own = _choose(rank, k - 1) * reward
    others = below.T.astype(reward.dtype) @ (_choose(rank - 1, k - 2) * reward)
    number = jnp.sum(same, axis=1).astype(reward.dtype)
    sets = _choose(number, k)
    share = number * (own + others) / jnp.where(sets > 0, sets, 1)
    return jnp.where(sets > 0, share, 0)[:, None]


def _best_of_others(batch: Trajectory, k: int) -> tuple[Array, Array, Array]:
    """[N, 1] each: the mean best of k of the other answers, the number of their sets, and G."""
    reward, same, below = _ranked(batch)
    rank = jnp.sum(below, axis=1).astype(reward.dtype)
    without = rank[None] - below.T.astype(rank.dtype)  # [i, j]: rank of j without i
    other = same & ~jnp.eye(len(reward), dtype=bool)
    best = jnp.sum(jnp.where(other, _choose(without, k - 1) * reward[None], 0), axis=1)
    number = jnp.sum(same, axis=1).astype(reward.dtype)
    sets = _choose(number - 1, k)
    found = jnp.where(sets > 0, best / jnp.where(sets > 0, sets, 1), 0)
    return found[:, None], sets[:, None], number[:, None]


def _ranked(batch: Trajectory) -> tuple[Array, Array, Array]:
    """Rewards [N]; whether i and j are live answers of a group; whether j is then below i."""
    reward = outcomes_of(batch)[:, 0]
    N = len(reward)
    index = jnp.arange(N)
    same = groups_of(batch).total(jnp.eye(N, dtype=reward.dtype)) > 0  # [i, j]
    same = same & jnp.any(batch.mask, axis=1)[None]
    below = (reward[None] < reward[:, None]) | (
        (reward[None] == reward[:, None]) & (index[None] < index[:, None])
    )
    return reward, same, same & below


def _choose(n: Array, k: int) -> Array:
    """The binomial coefficient of whole numbers n, zero where n < k; k is static."""
    if k < 0:
        return jnp.zeros_like(n)
    result = jnp.ones_like(n)
    for i in range(k):
        result = result * jnp.maximum(n - i, 0) / (i + 1)
    return result
