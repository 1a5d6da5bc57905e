"""Baselines of least variance, fitted to the same trajectories or to other folds.

The arguments mean the same everywhere:

- features: [N, T, F] Φ, of states and time, not of actions.
- products: [N, T, T] K, as from `score_products`.
- target: [N, T] G, the return that the baseline is subtracted from, as from
  `weights.returns_to_go`.
- folds: their number, from 2 to N. A fold is consecutive trajectories, and sizes differ by at most
  one. N folds of one use the most trajectories for each fit.
- gradients, scores: pytrees of [N, ...]. A_i is each trajectory's gradient without a baseline, and
  Z_i is the part of it that a baseline of 1 subtracts.

A ValueError is raised if shapes do not fit, or if `folds` is outside [2, N].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from pgjax.core.validation import check_array, check_gradient, check_positive
from pgjax.diagnostics.geometry import divide_if_positive
from pgjax.diagnostics.moments import num_samples


def coefficients(
    features: Float[Array, "N T F"],
    products: Float[Array, "N T T"],
    target: Float[Array, "N T"],
    weight: Float[Array, "N"],
) -> Float[Array, "F"]:
    """β of least variance, Σ_i w_i Φ_iᵀ K_i Φ_i β = Σ_i w_i Φ_iᵀ K_i G_i.

    Args:
        weight: [N] w_i of each trajectory: one, or its probability if all trajectories are listed.

    Returns:
        [F]; zero for a feature that is zero on every step, or a combination of features before it.

    Bias: exact if all trajectories are listed, with their probabilities as weights. From a sample,
    the mean of β differs from the best by O(1/N).

    References:
        Greensmith, Bartlett & Baxter (2004), section 4; Peters & Schaal, Reinforcement Learning of
        Motor Skills with Policy Gradients (2008), section 3.2: with one feature and the total
        return, b = E[‖Σ_t c_t‖² R] / E[‖Σ_t c_t‖²].

    Example:
        >>> import jax.numpy as jnp
        >>> products = jnp.array([[[1.0]], [[3.0]]])  # squared norms of two trajectories of a step
        >>> coefficients(jnp.ones((2, 1, 1)), products, jnp.array([[4.0], [8.0]]), jnp.ones(2))
        Array([7.], dtype=float32)
    """
    features, products, target = _check_arrays(features, products, target)
    gram, moment = _normal_equations(features, products, target)
    weight = check_array("weight", weight, "[N]", gram.shape[:1])
    return _solve(jnp.tensordot(weight, gram, 1), jnp.tensordot(weight, moment, 1))


def same_batch(
    features: Float[Array, "N T F"],
    products: Float[Array, "N T T"],
    target: Float[Array, "N T"],
) -> Float[Array, "N T"]:
    """The baseline fitted to the same trajectories that it is subtracted from, b_it = φ_it·β.

    Returns:
        [N, T], for the batch's `value`.

    Bias: biased, by O(1/N): β depends on every trajectory's own actions.

    References:
        As for `coefficients`; verl has it for each token (Optimal Token Baseline, 2025).

    Example:
        >>> import jax.numpy as jnp
        >>> products = jnp.array([[[1.0]], [[3.0]]])
        >>> same_batch(jnp.ones((2, 1, 1)), products, jnp.array([[4.0], [8.0]])).ravel()
        Array([7., 7.], dtype=float32)
    """
    features, products, target = _check_arrays(features, products, target)
    beta = coefficients(features, products, target, jnp.ones(target.shape[:1], products.dtype))
    return jnp.einsum("ntf,f->nt", features, beta)


def cross_fitted(
    features: Float[Array, "N T F"],
    products: Float[Array, "N T T"],
    target: Float[Array, "N T"],
    *,
    folds: int,
) -> Float[Array, "N T"]:
    """The baseline fitted to the other folds, b_it = φ_it·β, with β from all folds but i's.

    Returns:
        [N, T], for the batch's `value`.

    Raises:
        TypeError: if `folds` is not an integer.

    Bias: none, if trajectories are drawn independently. Their gradients are no longer independent.

    References:
        As for `coefficients`; cross-fitting is that of Chernozhukov et al., Double/Debiased Machine
        Learning for Treatment and Structural Parameters (2018), definition 3.2.

    Example:
        >>> import jax.numpy as jnp
        >>> products = jnp.array([[[1.0]], [[3.0]]])
        >>> b = cross_fitted(jnp.ones((2, 1, 1)), products, jnp.array([[4.0], [8.0]]), folds=2)
        >>> b.ravel().round(4)
        Array([8., 4.], dtype=float32)
    """
    features, products, target = _check_arrays(features, products, target)
    fold, others = _split_into_folds(folds, target.shape[0])
    gram, moment = _normal_equations(features, products, target)
    weight = jnp.asarray(others, gram.dtype)
    beta = jax.vmap(_solve)(jnp.tensordot(weight, gram, 1), jnp.tensordot(weight, moment, 1))
    return jnp.einsum("ntf,nf->nt", features, beta[fold])


def per_parameter_same_batch(
    gradients: PyTree[Float[Array, "N ..."]], scores: PyTree[Float[Array, "N ..."]]
) -> PyTree[Float[Array, "..."]]:
    """Mean gradient less a baseline for each parameter, fitted to the same trajectories.

    ĝ_p = 1/N Σ_i (A_ip − b_p Z_ip), b_p = Σ_i A_ip Z_ip / Σ_i Z_ip².

    Bias: biased, by O(1/N): b depends on every trajectory's own actions.

    References:
        Peters & Schaal (2008), section 3.2, where A = R Z and Z = Σ_t c_t.

    Example:
        >>> import jax.numpy as jnp
        >>> gradients, scores = jnp.array([[1.0], [7.0]]), jnp.array([[1.0], [2.0]])
        >>> per_parameter_same_batch(gradients, scores)  # less 3·1 and 3·2
        Array([-0.5], dtype=float32)
    """
    _check_same_shapes(gradients, scores)

    def of_leaf(gradient: Array, score: Array) -> Array:
        baseline = divide_if_positive(jnp.sum(gradient * score, axis=0), jnp.sum(score**2, axis=0))
        return jnp.mean(gradient - baseline[None] * score, axis=0)

    return jax.tree.map(of_leaf, gradients, scores)


def per_parameter_cross_fitted(
    gradients: PyTree[Float[Array, "N ..."]],
    scores: PyTree[Float[Array, "N ..."]],
    *,
    folds: int,
) -> PyTree[Float[Array, "..."]]:
    """Mean gradient less a baseline for each parameter, fitted to the other folds.

    ĝ_p = 1/N Σ_i (A_ip − b_p^(−i) Z_ip), b_p^(−i) = Σ_j A_jp Z_jp / Σ_j Z_jp² over the other folds.
    Weights cannot do that: they have one number a step for all parameters.

    Args:
        scores: `gradients` less `per_trajectory_gradients` with `baseline=constant(1.0)`.

    Raises:
        TypeError: if `folds` is not an integer.

    Bias: none, for trajectories drawn independently.

    References:
        Peters & Schaal (2008), section 3.2, where A = R Z and Z = Σ_t c_t, there fitted to the same
        trajectories.

    Example:
        >>> import jax.numpy as jnp
        >>> gradients, scores = jnp.array([[2.0], [6.0]]), jnp.array([[1.0], [2.0]])
        >>> per_parameter_cross_fitted(gradients, scores, folds=2)  # less 3·1 and 2·2
        Array([0.5], dtype=float32)
    """
    _check_same_shapes(gradients, scores)
    fold, others = _split_into_folds(folds, jax.tree.leaves(gradients)[0].shape[0])

    def of_leaf(gradient: Array, score: Array) -> Array:
        weight = jnp.asarray(others, gradient.dtype)
        products, squares = (jnp.tensordot(weight, x, 1) for x in (gradient * score, score**2))
        baseline = divide_if_positive(products, squares)[fold]
        return jnp.mean(gradient - baseline * score, axis=0)

    return jax.tree.map(of_leaf, gradients, scores)


@jax.jit
def _normal_equations(features: Array, products: Array, target: Array) -> tuple[Array, Array]:
    """Φᵀ K Φ and Φᵀ K G of each trajectory."""
    features, target = features.astype(products.dtype), target.astype(products.dtype)
    weighed = jnp.einsum("ntf,nts->nsf", features, products)
    gram = jnp.einsum("nsf,nsg->nfg", weighed, features)
    return gram, jnp.einsum("nsf,ns->nf", weighed, target)


def _check_arrays(features: Any, products: Any, target: Any) -> tuple[Array, Array, Array]:
    """The three arguments as arrays, if they are [N, T, F], [N, T, T] and [N, T]."""
    target = check_array("target", target, "[N, T]", (None, None))
    N, T = target.shape
    features = check_array("features", features, f"[N, T, F], target being {(N, T)}", (N, T, None))
    if not features.shape[2]:
        raise ValueError(f"features must hold at least one feature, got shape {features.shape}")
    return features, check_array("products", products, "[N, T, T]", (N, T, T)), target


@jax.jit
def _solve(gram: Array, moment: Array) -> Array:
    """β of gram β = moment by elimination, with each feature scaled to norm one.

    A feature is left out if less than √eps of it is independent of the ones before, because its
    pivot would be noise. LAPACK would be faster. But several of its calls in one program, batched
    by vmap, were seen to deadlock on a CPU of two cores.
    """
    size = jnp.diagonal(gram)
    scale = jnp.where(size > 0, jax.lax.rsqrt(jnp.where(size > 0, size, 1)), 0)
    least = float(np.sqrt(jnp.finfo(gram.dtype).eps))

    def eliminate(k: Array, rows: Array) -> Array:
        row = jax.lax.dynamic_index_in_dim(rows, k, 0)
        column = jax.lax.dynamic_index_in_dim(rows, k, 1)
        pivot = jax.lax.dynamic_index_in_dim(row, k, 1)
        row = jnp.where(pivot > least, row / jnp.where(pivot > least, pivot, 1), 0)
        return jnp.where(jnp.arange(len(rows))[:, None] == k, row, rows - column * row)

    rows = jnp.column_stack([gram * scale[:, None] * scale[None], scale * moment])
    return scale * jax.lax.fori_loop(0, gram.shape[0], eliminate, rows)[:, -1]


def _split_into_folds(folds: int, N: int) -> tuple[np.ndarray, np.ndarray]:
    """[N] the fold of each trajectory, and [folds, N] which trajectories are in other folds."""
    if not 2 <= check_positive("folds", folds) <= N:
        raise ValueError(
            f"folds must lie in [2, N] for a batch of N = {N} trajectories, got {folds}; "
            "each fold needs a trajectory, and other folds to fit to"
        )
    fold = np.arange(N) * folds // N
    return fold, fold[None] != np.arange(folds)[:, None]


def _check_same_shapes(gradients: PyTree, scores: PyTree) -> None:
    check_gradient("gradients", gradients)
    num_samples(gradients)
    check_gradient("scores", scores, ("gradients", gradients))
