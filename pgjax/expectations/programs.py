"""Stochastic computation graphs: one scalar for a program that samples several times, by DiCE."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.core.validation import check_array
from pgjax.terms import dice
from pgjax.types import describe

Scalar = float | Float[Array, ""]


def surrogate(
    costs: Sequence[tuple[Scalar, Sequence[Scalar]]],
    *,
    baselines: Sequence[tuple[Scalar, Sequence[Scalar]]] = (),
) -> Float[Array, ""]:
    """A scalar whose every derivative estimates that derivative of E[Σ costs].

    Σ_j □(W_j) c_j, with W_j the sum of the log-probabilities of the draws that c_j depends on and
    □(W) = exp(W − stop_gradient(W)). Its value is Σ_j c_j.

    Differentiate it once for ∇, twice for the Hessian. Hold each draw constant,
    `jax.lax.stop_gradient(x)`. A reparameterised draw is the exception: it stays differentiable,
    and its log-probability is not listed. For many samples, `jax.vmap` the program and take the
    mean.

    Args:
        costs: pairs (c_j, log-probabilities of every draw that c_j depends on, by its value or by
            the parameters of a later draw). c_j may depend on the parameters itself.
        baselines: pairs (b_k, log-probabilities): b_k is the baseline of the draw that is last in
            the list. With W the sum of the list and W' the sum without the last, (□(W') − □(W)) b_k
            is added, whose value is zero. b_k may depend on the draws before the last one.

    Returns:
        The scalar, to ascend if costs are rewards.

    Raises:
        TypeError: if `costs` or `baselines` is not a sequence of pairs.
        ValueError: if a cost or a log-probability is not a scalar.

    Bias: none at any order, if each cost lists all draws that it depends on.

    References:
        Schulman et al., Gradient Estimation Using Stochastic Computation Graphs (2015); Foerster et
        al., DiCE (2018), eq. 6; Mao et al. (2019) for baselines at any order.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pgjax import expectations
        >>> coin = expectations.bernoulli()
        >>> def program(logit, first, second):  # the second coin's logit is moved by the first
        ...     log_probs = [coin.log_prob(logit, first), coin.log_prob(logit + first, second)]
        ...     return surrogate([(first, log_probs[:1]), (first * second, log_probs)])
        >>> one = jnp.float32(1.0)
        >>> round(float(jax.grad(program)(jnp.float32(0.0), one, one)), 4)  # (1+1)·0.5 + 0.2689
        1.2689
    """
    total = jnp.zeros(())
    for index, (cost, log_probs) in enumerate(_pairs("costs", costs)):
        cost = _scalar(f"costs[{index}]", cost)
        total = total + _box(_sum(f"costs[{index}]", log_probs)) * cost
    for index, (value, log_probs) in enumerate(_pairs("baselines", baselines)):
        name = f"baselines[{index}]"
        if not log_probs:
            raise ValueError(f"{name} must list at least one log-probability, got none")
        value = jax.lax.stop_gradient(_scalar(name, value))
        sequence = jnp.stack([_sum(name, log_probs[:-1]), _sum(name, log_probs[-1:])])
        weight = jnp.stack([jnp.zeros_like(value), value])
        total = total - dice(sequence, jax.lax.stop_gradient(sequence), weight)[1]
    return total


def _box(log_prob: Array) -> Array:
    return jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))


def _sum(name: str, log_probs: Sequence[Any]) -> Array:
    parts = [_scalar(f"{name}, log-probability {i}", each) for i, each in enumerate(log_probs)]
    return sum(parts, start=jnp.zeros(()))


def _scalar(name: str, value: Any) -> Array:
    return check_array(name, value, "[]", ())


def _pairs(name: str, pairs: Any) -> list[tuple[Any, Sequence[Any]]]:
    fix = "such as [(reward, [log_prob_of_a, log_prob_of_b])]"
    if not isinstance(pairs, tuple | list):
        raise TypeError(f"{name} must be a sequence of pairs, {fix}, got {describe(pairs)}")
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{name} must be a sequence of pairs, {fix}, got one {describe(pair)}")
        if not isinstance(pair[1], tuple | list):
            raise TypeError(
                f"{name} must pair each number with a list of log-probabilities, {fix}, got "
                f"{describe(pair[1])}"
            )
    return list(pairs)
