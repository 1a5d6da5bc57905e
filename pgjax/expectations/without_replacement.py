"""The score function from a set of different outcomes, drawn without replacement."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.core.validation import check_positive
from pgjax.expectations.distributions import Distribution, listed_outcomes
from pgjax.expectations.estimator import ExpectationEstimator, log_probs_of, make
from pgjax.expectations.integrands import Integrand
from pgjax.types import Params

LARGEST_SET = 8
"""Sums run over the subsets of a set, of which there are 2^k."""


def without_replacement(set_size: int) -> ExpectationEstimator:
    """The unordered-set estimator: k different outcomes, weighted by their chance to be drawn.

    ĝ = Σ_{s∈S} p(s) R(S, s) ∇log p(s) (f(s) − b_s), with R(S, s) = P(S | s first) / P(S) and the
    baseline b_s = Σ_{s'∈S} p(s') R^{−s}(S, s') f(s'), where R^{−s} is that of the set without s.
    One sample is one set: k evaluations of f.

    Args:
        set_size: k, from 2 to 8.

    Raises:
        ValueError: if k is outside the range; at use, if there are fewer outcomes than k, or the
            distribution has no list of them.

    Bias: none. With k = M it is exact.

    References:
        Kool, van Hoof & Welling, Estimating Gradients for Discrete Random Variables by Sampling
        without Replacement (2020), eq. 13 and 17. Their ordered form (2019) has more variance.

    Example:
        >>> without_replacement(2)
        without_replacement(set_size=2)
    """
    k = check_positive("set_size", set_size)
    if not 2 <= k <= LARGEST_SET:
        raise ValueError(
            f"set_size must lie in 2 to {LARGEST_SET}, got {k}; all_outcomes() sums all"
        )
    return make(_draw_sets, _set_weights, _without_replacement, "sets", set_size=k)


def completion_probabilities(
    log_prob: Float[Array, "M"], members: Array
) -> Float[Array, "subsets"]:
    """For each subset U of a set S, the chance that draws after U, without replacement, give S∖U.

    Entry number U, read as bits; a subset's next member has probability p_s / (1 − p(U)).

    Args:
        log_prob: [M] of all outcomes.
        members: [k] the indices in S.
    """
    k = members.shape[0]
    inside = jnp.exp(log_prob[members])
    is_member = jnp.zeros(log_prob.shape, bool).at[members].set(True)
    outside = jnp.sum(jnp.where(is_member, 0, jnp.exp(log_prob)))
    found: list[Any] = [None] * 2**k
    found[-1] = jnp.ones((), log_prob.dtype)
    for subset in reversed(range(2**k - 1)):
        missing = [i for i in range(k) if not subset >> i & 1]
        left = outside + sum(inside[i] for i in missing)  # 1 − p(U), without a difference
        found[subset] = sum(inside[i] / left * found[subset | 1 << i] for i in missing)
    return jnp.stack(found)


def _log_probs(distribution: Distribution, params: Params) -> tuple[Any, Array]:
    x = listed_outcomes(distribution, params, "without_replacement")
    return x, log_probs_of(distribution, params, x)


def _draw_sets(
    distribution: Distribution, params: Params, key: Array, N: int, *, set_size: int
) -> Array:
    """[N, k] indices of the outcomes with the largest log p plus Gumbel noise."""
    _, log_prob = _log_probs(distribution, params)
    if set_size > len(log_prob):
        raise ValueError(
            f"set_size must be at most the number of outcomes, {len(log_prob)}, got {set_size}"
        )
    noise = jax.random.gumbel(key, (N, len(log_prob)), log_prob.dtype)
    return jax.lax.top_k(log_prob + noise, set_size)[1]


def _set_weights(
    f: Integrand, distribution: Distribution, params: Params, sets: Array, *, set_size: int
) -> tuple[Array, Array, Any]:
    """What multiplies each member's score, its chance p(s) R(S, s), and the members."""
    x, log_prob = _log_probs(distribution, params)
    pairs = jnp.array([[1 << i | 1 << j for j in range(set_size)] for i in range(set_size)])

    def of_set(members: Array) -> tuple[Array, Array, Any]:
        chance = completion_probabilities(log_prob, members)
        probability = jnp.exp(log_prob[members])
        alone = chance[1 << jnp.arange(set_size)]
        included = probability * alone / chance[0]
        one = jax.tree.map(lambda leaf: leaf[members], x)
        value = jax.vmap(f, (None, 0))(params, one)
        baseline = chance[pairs] / alone[:, None] @ (probability * value)
        return included * (value - baseline), included, one

    return jax.vmap(of_set)(sets)


def _without_replacement(
    f: Integrand,
    distribution: Distribution,
    params: Params,
    members: Array,
    weight: Any,
    *,
    set_size: int,
) -> Array:
    credit, included, x = weight
    own = jax.vmap(f.own, (None, 0))(params, x)
    return jnp.sum(credit * log_probs_of(distribution, params, x) + included * own)
