"""Gradients as vectors, whatever their tree: inner product, norm, angle."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from pgjax.core.validation import check_gradient

Gradient = PyTree[Float[Array, "..."]]


def cosine(first: Gradient, second: Gradient) -> Float[Array, ""]:
    """Cosine of the angle between two gradients; zero if either gradient is zero.

    A cosine near 1 does not show that an estimator is unbiased: for many biased ones it is above
    0.999.
    """
    check_gradient("first", first)
    check_gradient("second", second, ("first", first))
    return divide_if_positive(dot(first, second), norm(first) * norm(second))


def norm(gradient: Gradient) -> Float[Array, ""]:
    """Euclidean norm over all leaves."""
    check_gradient("gradient", gradient)
    return jnp.sqrt(dot(gradient, gradient))


def dot(first: Gradient, second: Gradient) -> Float[Array, ""]:
    """Inner product over all leaves."""
    check_gradient("first", first)
    check_gradient("second", second, ("first", first))
    return total(jax.tree.map(jnp.multiply, first, second))


def total(tree: Gradient) -> Array:
    """Sum over all leaves."""
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(tree)), start=jnp.zeros(()))


def divide_if_positive(numerator: Array, denominator: Array, otherwise: float = 0.0) -> Array:
    """The ratio where the denominator is positive, and `otherwise` elsewhere, without a NaN."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), otherwise)
