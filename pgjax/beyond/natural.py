"""Natural gradients: the direction that is steepest in the policy, not in its parameters.

F⁻¹∇J from a batch, by conjugate gradient on Fisher-vector products, and exactly on a finite MDP.
On a finite MDP it is also computed in a second way: it equals the weights of the best linear fit of
the advantage.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.sparse.linalg import cg
from jaxtyping import Float, PyTree

from pgjax import diagnostics, exact
from pgjax.beyond.fisher import Product, fisher, visited_scores
from pgjax.core.float64 import flatten
from pgjax.core.validation import (
    check_above_zero,
    check_at_least,
    check_gradient,
    check_params,
    check_positive,
    check_scalars,
)
from pgjax.exact.problem import Problem
from pgjax.types import Params, check_function, describe

RANK = 1e-10
"""Eigenvalues of F below this share of the largest are directions that change no policy."""


def natural_gradient(
    gradient: PyTree[Float[Array, "..."]],
    product: Product,
    *,
    damping: float | Array,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
) -> PyTree[Float[Array, "..."]]:
    """The natural gradient from a batch, x = (F̂ + λI)⁻¹ ĝ, by conjugate gradient.

    Args:
        gradient: ĝ, from any estimator of ∇J.
        product: v -> F̂ v, from `expected_fisher` or `sampled_fisher`.
        damping: λ ≥ 0, in units of F. F is singular in every softmax over logits: with 0 the
            system is solvable only if ĝ lies in the range of F̂, as it does in exact arithmetic if
            both come from the same batch.
        max_iterations: of conjugate gradient.
        tolerance: it stops at a residual of this share of ‖ĝ‖.

    Returns:
        A pytree like the gradient, to ascend.

    Raises:
        ValueError: if damping is negative, or if `max_iterations` is below one.
        TypeError: if the gradient is not floating.

    Bias: biased for F⁻¹∇J by O(1/N): the inverse of an estimate does not estimate the inverse, and
        both estimates come from one batch. With the exact F and λ = 0 it is F⁻¹ times the bias of
        ĝ.

    References:
        Kakade, A Natural Policy Gradient (2001); conjugate gradient with damping as in Schulman et
        al., Trust Region Policy Optimization (2015), appendix C.

    Example:
        >>> import jax.numpy as jnp
        >>> matrix = jnp.array([[2.0, 0.0], [0.0, 0.5]])
        >>> natural_gradient(jnp.array([1.0, 1.0]), lambda v: matrix @ v, damping=0.0)
        Array([0.5, 2. ], dtype=float32)
    """
    check_params(gradient, "gradient")
    if not jax.tree.leaves(gradient):
        raise TypeError(f"gradient must have at least one leaf, got {describe(gradient)}")
    check_function("product", product, "v -> F v")
    check_positive("max_iterations", max_iterations)
    _check_damping(damping)
    check_scalars(tolerance=tolerance)
    check_above_zero("tolerance", tolerance, "it is a share of the gradient's norm")

    def damped(vector: Params) -> Params:
        return jax.tree.map(
            lambda fv, v: fv + jnp.asarray(damping, v.dtype) * v, product(vector), vector
        )

    return cg(damped, gradient, tol=tolerance, maxiter=max_iterations)[0]


def _check_damping(damping: Any) -> None:
    """Raise if it is not a single number, zero or more."""
    check_scalars(damping=damping)
    check_at_least("damping", damping, 0.0, "it is added to the eigenvalues of F")


def trust_region_scale(
    gradient: PyTree[Float[Array, "..."]],
    natural: PyTree[Float[Array, "..."]],
    max_divergence: float | Array,
) -> Float[Array, ""]:
    """The longest step along F⁻¹g that moves the policy by δ, √(2δ / gᵀF⁻¹g).

    To second order, KL(π_θ ‖ π_{θ+x}) = ½ xᵀF x.

    Args:
        gradient: g.
        natural: F⁻¹g.
        max_divergence: δ > 0 in nats. It bounds the sum Σ_t γ^t KL(s_t) of an episode, because F is
            summed over time. To bound the mean of a step, multiply that bound by the (discounted)
            number of steps.

    Returns:
        The scalar to multiply F⁻¹g with; zero where g is zero.

    Bias: δ is met up to O(δ^{3/2}).

    References:
        Schulman et al. (2015), appendix C; its line search is left to the caller.

    Example:
        >>> import jax.numpy as jnp
        >>> trust_region_scale(jnp.array([2.0]), jnp.array([4.0]), 0.01)
        Array(0.05, dtype=float32)
    """
    check_params(gradient, "gradient")
    check_gradient("natural", natural, ("gradient", gradient))
    check_scalars(max_divergence=max_divergence)
    check_at_least("max_divergence", max_divergence, 0.0, "it is a divergence, in nats")
    slope = diagnostics.dot(gradient, natural)
    safe = jnp.where(slope > 0, slope, 1)
    return jnp.where(slope > 0, jnp.sqrt(2 * jnp.asarray(max_divergence, safe.dtype) / safe), 0)


def exact_natural_gradient(problem: Problem, *, damping: float = 0.0) -> Float[np.ndarray, "P"]:
    """The exact natural gradient, F⁺∇J, or (F + λI)⁻¹∇J.

    Args:
        problem: with any horizon.
        damping: λ ≥ 0; 0 takes the pseudo-inverse, which gives the shortest natural gradient.

    Returns:
        [P] float64, in the order of `ravel_pytree(params)`.

    Raises:
        ValueError: if `damping` is negative; otherwise as for `exact.gradient`.
        TypeError: if a parameter is not floating.

    Bias: exact.

    References:
        Kakade (2001), section 2. For a softmax over a table and no horizon it is the advantage
        A(s, a), up to a constant in each state: Agarwal et al., On the Theory of Policy Gradient
        Methods (2021), on natural gradients as soft policy iteration; their 1/(1 − γ) is the
        normalisation of the visits.

    Example:
        >>> import numpy as np
        >>> from pgjax import Problem, tabular, tabular_softmax
        >>> bandit = tabular.two_armed_bandit()
        >>> problem = Problem(bandit, tabular_softmax(3, 2), np.zeros((3, 2)), horizon=1)
        >>> exact_natural_gradient(problem)[:2]
        array([-0.15,  0.15])
    """
    _check_damping(damping)
    matrix = fisher(problem)
    truth = flatten(exact.gradient(problem))
    values, vectors = np.linalg.eigh(matrix)
    informative = values > RANK * values.max()
    values = np.where(informative, values, 0) + damping
    inverse = np.divide(1, values, out=np.zeros_like(values), where=values > 0)
    return vectors @ (inverse * (vectors.T @ truth))


def compatible_weights(problem: Problem) -> Float[np.ndarray, "P"]:
    """The best linear fit of the advantage by the score, argmin_w E[(A(s,a) − wᵀ∇log π(a|s))²].

    The expectation is over the discounted visits, Σ_t γ^t P(s_t = s) π(a|s). By a theorem of Kakade
    w is the natural gradient.

    Args:
        problem: if its horizon is finite, A_t(s, a) is fitted by the same w at all t.

    Returns:
        [P] float64, the shortest of all best fits.

    Raises:
        ValueError, TypeError: as for `exact.gradient`.

    Bias: exact.

    References:
        Kakade (2001), theorem 1; Sutton et al. (2000), theorem 2, for compatible features.
    """
    weight, score = visited_scores(problem)
    values = exact.action_values(problem).reshape(weight.shape)
    probability = exact.action_probabilities(problem)
    advantage = values - np.sum(probability * values, axis=-1, keepdims=True)
    root = np.sqrt(weight)
    features = (root[..., None] * score).reshape(-1, score.shape[-1])
    target = (root * np.where(weight > 0, advantage, 0)).ravel()
    return np.linalg.lstsq(features, target, rcond=RANK**0.5)[0]
