"""Gradients as vectors, whatever their tree: inner product, norm, angle."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

Gradient = PyTree[Float[Array, "..."]]


def cosine(first: Gradient, second: Gradient) -> Float[Array, ""]:
    """Cosine of the angle between two gradients; zero if either is zero.

    It does not test unbiasedness: it is above 0.999 for many biased estimators.
    """
    scale = norm(first) * norm(second)
    safe = jnp.where(scale > 0, scale, 1)
    return jnp.where(scale > 0, dot(first, second) / safe, 0)


def norm(gradient: Gradient) -> Float[Array, ""]:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(dot(gradient, gradient))


def dot(first: Gradient, second: Gradient) -> Float[Array, ""]:
    """Inner product over all leaves."""
    return total(jax.tree.map(jnp.multiply, first, second))


def total(tree: Gradient) -> Array:
    """Sum over all leaves."""
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(tree)), start=jnp.zeros(()))
