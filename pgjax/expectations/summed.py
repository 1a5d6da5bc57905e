"""Sums over outcomes: of all of them, or of the likeliest with one draw of the rest.

With x one of M listed outcomes, E[f(x)] is the value of a state with M actions, and these are the
all-action gradients of one step.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.beyond.all_action import expected_value
from pgjax.core.validation import check_positive
from pgjax.expectations.distributions import Distribution, listed_outcomes
from pgjax.expectations.estimator import ExpectationEstimator, log_probs_of, make
from pgjax.expectations.integrands import Integrand
from pgjax.types import Params


def all_outcomes() -> ExpectationEstimator:
    """The exact gradient, Σ_x f(x) ∇p(x; θ): `beyond.all_action_gradient` of one step.

    M evaluations of f. Nothing is drawn: `num_samples` is not read, and one row comes back.

    Raises:
        ValueError: at use, if the distribution has no list of outcomes, or too long a one.

    Bias: none, and no variance.

    References:
        Sutton et al. (2000), theorem 1, for one state.

    Example:
        >>> all_outcomes()
        all_outcomes()
    """
    return make(_draw_nothing, _value_of_all, _all_outcomes, "nothing")


def _draw_nothing(distribution: Distribution, params: Params, key: Array, N: int) -> Array:
    return jnp.zeros(1)


def _value_of_all(
    f: Integrand, distribution: Distribution, params: Params, draws: Array
) -> tuple[Array, Any]:
    x = listed_outcomes(distribution, params, "all_outcomes")
    return jax.tree.map(lambda leaf: leaf[None], (jax.vmap(f, (None, 0))(params, x), x))


def _all_outcomes(
    f: Integrand, distribution: Distribution, params: Params, draw: Array, weight: Any
) -> Array:
    value, x = weight
    log_prob = log_probs_of(distribution, params, x)
    own = jax.vmap(f.own, (None, 0))(params, x)
    return expected_value(log_prob, value) + expected_value(jax.lax.stop_gradient(log_prob), own)


def likeliest_outcomes(num_outcomes: int) -> ExpectationEstimator:
    """Rao–Blackwellised: the k likeliest outcomes are summed, and one draw stands for the rest.

    ĝ = Σ_{x∈C} f(x) ∇p(x) + P(x∉C) f(x') ∇log p(x'), with x' drawn from the rest. k + 1
    evaluations of f a sample.

    Args:
        num_outcomes: k, at least one; from M on it is `all_outcomes`.

    Raises:
        ValueError: if k is below one; at use, if the distribution has no list of outcomes.

    Bias: none. The variance is at most that of the score function without a baseline.

    References:
        Liu et al., Rao-Blackwellized Stochastic Gradients for Discrete Distributions (2019).

    Example:
        >>> likeliest_outcomes(2)
        likeliest_outcomes(num_outcomes=2)
    """
    k = check_positive("num_outcomes", num_outcomes)
    return make(_draw_rest, _likeliest_weights, _likeliest_outcomes, "the rest", num_outcomes=k)


def _split(
    distribution: Distribution, params: Params, num_outcomes: int
) -> tuple[Any, Array, Array]:
    """Every x, log p with −∞ at the likeliest, and the indices of those."""
    x = listed_outcomes(distribution, params, "likeliest_outcomes")
    log_prob = log_probs_of(distribution, params, x)
    top = jax.lax.top_k(log_prob, min(num_outcomes, len(log_prob)))[1]
    return x, log_prob.at[top].set(-jnp.inf), top


def _draw_rest(
    distribution: Distribution, params: Params, key: Array, N: int, *, num_outcomes: int
) -> Array:
    """[N] indices of outcomes that are not among the likeliest."""
    _, rest, _ = _split(distribution, params, num_outcomes)
    return jax.random.categorical(key, rest, shape=(N,))


def _likeliest_weights(
    f: Integrand, distribution: Distribution, params: Params, drawn: Array, *, num_outcomes: int
) -> tuple[Array, Array, Any]:
    """Value and share of each of the k + 1 outcomes, and the outcomes: [N, k + 1, ...]."""
    x, rest, top = _split(distribution, params, num_outcomes)
    values = jax.vmap(f, (None, 0))(params, jax.tree.map(lambda leaf: leaf[top], x))
    probability = jnp.exp(log_probs_of(distribution, params, x))
    left = jnp.sum(jnp.where(jnp.isneginf(rest), 0, probability))

    def of_sample(index: Array) -> tuple[Array, Array, Any]:
        members = jnp.append(top, index)
        one = jax.tree.map(lambda leaf: leaf[members], x)
        last = f(params, jax.tree.map(lambda leaf: leaf[index], x))
        share = jnp.append(probability[top], left)
        return jnp.append(values, last), share, one

    return jax.vmap(of_sample)(drawn)


def _likeliest_outcomes(
    f: Integrand,
    distribution: Distribution,
    params: Params,
    draw: Array,
    weight: Any,
    *,
    num_outcomes: int,
) -> Array:
    value, share, x = weight
    log_prob = log_probs_of(distribution, params, x)
    own = jax.vmap(f.own, (None, 0))(params, x)
    # ∇p = p ∇log p, so each outcome enters by its share and its score.
    return jnp.sum(share * (value * jnp.where(share > 0, log_prob, 0) + own))
