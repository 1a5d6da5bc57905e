"""Surrogate, loss and metrics of a batch of tokens, and the weights that a whole batch shares."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Float, PyTree

from pgjax.core.recurrence import accumulation_dtype
from pgjax.core.validation import check_array, check_estimator
from pgjax.estimators import evaluate_weights, sum_of_terms
from pgjax.terms.ratios import likelihood_ratio
from pgjax.tokens.batch import Batch, as_trajectories, check_log_prob
from pgjax.tokens.bonuses import TokenWeights, with_entropy
from pgjax.types import Estimator, Trajectory, check_part, describe

Aggregation = Callable[..., Array]
"""(batch) -> [N, T] factors, from `pgjax.tokens.aggregation`."""


@struct.dataclass
class SharedWeights:
    """The weights of a whole batch, row by row: take rows of it as you take rows of the batch.

    Attributes:
        values: [N, T] each leaf, what the estimator's weights are.
        share: [N] of each row in the mean over the whole batch, 1/N.
    """

    values: PyTree[Float[Array, "N T"]]
    share: Float[Array, "N"]


def shared_weights(
    estimator: Estimator,
    batch: Batch,
    log_prob: Float[Array, "N T"] | None = None,
    *,
    axis_name: str | None = None,
) -> SharedWeights:
    """The weights of a whole batch, so that the surrogates of its micro-batches add up to its own.

    Group means, deviations, whitening and counts of tokens depend on the whole batch. If each
    micro-batch computed its own, that would be another estimator. Compute the weights here once,
    and take rows of them as of the batch. Then the gradients of the micro-batches *add up* (do not
    average them) to the gradient of the batch, to rounding, for every estimator.

    Inside `jax.shard_map` each device holds some rows; `axis_name` gathers the batch's arrays,
    which are small beside a network. JAX adds up the devices' gradients with respect to parameters
    that all devices share. If each device has its own copy of the parameters, end with
    `jax.lax.psum`. Under `jax.jit` with sharded arrays there is nothing to do: a batch is then
    whole already.

    Args:
        estimator: any.
        batch: the whole batch, or this device's rows.
        log_prob: [N, T] under the parameters to improve; `batch.log_prob` if None. Penalties and
            bonuses in the reward read it, and off-policy weights of `pgjax.weights`.
        axis_name: the name of the mesh axis over which the batch's rows are spread.

    Returns:
        SharedWeights of the batch's rows, constants under differentiation.

    Raises:
        TypeError, ValueError: as `surrogate` does.

    Bias: the estimator's.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pgjax import tokens
        >>> batch = tokens.Batch(-jnp.ones((4, 3)), jnp.ones((4, 3), bool), jnp.arange(4.0),
        ...     group=jnp.zeros(4, int))
        >>> shared = tokens.shared_weights(tokens.grpo(), batch)
        >>> def part(log_prob, i):
        ...     rows = jax.tree.map(lambda x: x[i], (log_prob, batch, shared))
        ...     return tokens.surrogate(tokens.grpo(), *rows[:2], weights=rows[2])
        >>> def whole(log_prob):
        ...     return tokens.surrogate(tokens.grpo(), log_prob, batch)
        >>> halves = [jax.grad(part)(batch.log_prob, i) for i in (slice(0, 2), slice(2, 4))]
        >>> bool(jnp.allclose(sum(halves), jax.grad(whole)(batch.log_prob)))
        True
    """
    check_estimator(estimator)
    rows = as_trajectories(batch)
    held = rows.log_prob if log_prob is None else _as_log_prob(log_prob, rows)
    number = len(rows.mask)
    if axis_name is not None and not isinstance(axis_name, str):
        raise TypeError(f"axis_name must be the name of a mesh axis, got {describe(axis_name)}")
    if axis_name is None:
        return SharedWeights(evaluate_weights(estimator, rows, held), _shares(rows, number))
    first = jax.lax.axis_index(axis_name) * number
    rows, held = jax.lax.all_gather((rows, held), axis_name, tiled=True)
    found = SharedWeights(evaluate_weights(estimator, rows, held), _shares(rows, len(rows.mask)))
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, number), found)


def surrogate(
    estimator: Estimator,
    log_prob: Float[Array, "N T"],
    batch: Batch,
    *,
    entropy: Float[Array, "N T"] | None = None,
    weights: SharedWeights | None = None,
) -> Float[Array, ""]:
    """The scalar to ascend: its gradient is the estimate of ∇J, and its value is not a return.

    Args:
        estimator: any of `pgjax.tokens`, of `pgjax`, or your own composition.
        log_prob: [N, T] log π(a_t|s_t) of the batch's tokens under the parameters to improve.
        batch: the tokens that were sampled, and their rewards.
        entropy: [N, T] in nats, of the distribution of each token under the parameters to improve;
            for `entropy_in_loss` only, and differentiated.
        weights: rows of `shared_weights` of the whole batch, if this is a part of it. The parts'
            surrogates, and gradients, then add up to the whole batch's.

    Returns:
        A scalar in the precision of `log_prob`, float32 at least.

    Raises:
        TypeError: if `estimator` or `batch` is of another type, or an array has a wrong dtype.
        ValueError: if a shape is wrong, no token is live, a log-probability is above zero, or the
            batch lacks a field that the estimator reads.

    Bias: the estimator's.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pgjax import tokens
        >>> batch = tokens.Batch(jnp.log(jnp.full((2, 1), 0.5)), jnp.ones((2, 1), bool),
        ...     reward=jnp.array([1.0, 0.0]), group=jnp.array([7, 7]))
        >>> jax.grad(lambda x: tokens.surrogate(tokens.rloo(), x, batch))(batch.log_prob)
        Array([[ 0.5],
               [-0.5]], dtype=float32, weak_type=True)
    """
    check_estimator(estimator)
    rows = as_trajectories(batch)
    log_prob = _as_log_prob(log_prob, rows)
    if weights is None:
        share = _shares(rows, len(rows.mask))
        weights = SharedWeights(evaluate_weights(estimator, rows, log_prob), share)
    elif not isinstance(weights, SharedWeights):
        raise TypeError(
            f"weights must be SharedWeights, got {type(weights).__name__}; "
            "take rows of tokens.shared_weights(estimator, batch)"
        )
    elif weights.share.shape != rows.mask.shape[:1]:
        raise ValueError(
            f"weights must have as many rows as the batch, N = {len(rows.mask)}, "
            f"got {len(weights.share)}; take the same rows of both"
        )
    values = with_entropy(weights.values, entropy)
    each = sum_of_terms(estimator, rows, log_prob, values)
    return jnp.sum(each * weights.share.astype(each.dtype))


def loss(
    estimator: Estimator,
    log_prob: Float[Array, "N T"],
    batch: Batch,
    *,
    entropy: Float[Array, "N T"] | None = None,
    weights: SharedWeights | None = None,
) -> Float[Array, ""]:
    """Minus the surrogate, to hand to an optimizer that descends.

    Args:
        estimator: as for `surrogate`.
        log_prob: as for `surrogate`.
        batch: as for `surrogate`.
        entropy: as for `surrogate`.
        weights: as for `surrogate`.

    Raises:
        TypeError, ValueError: as `surrogate` does.

    Bias: the estimator's.
    """
    return -surrogate(estimator, log_prob, batch, entropy=entropy, weights=weights)


def aggregate(x: Float[Array, "N T"], batch: Batch, aggregation: Aggregation) -> Float[Array, ""]:
    """The mean of a number over the batch's tokens, such as the entropy for a bonus.

    Args:
        x: [N, T]; anything where no token is live.
        batch: whose mask and groups are read.
        aggregation: from `pgjax.tokens`, such as `token_mean`.

    Raises:
        TypeError, ValueError: if the batch is not as its docstring says.

    Bias: that of the aggregation.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import tokens
        >>> mask = jnp.array([[True, True, True], [True, False, False]])
        >>> batch = tokens.Batch(-jnp.ones((2, 3)), mask, jnp.zeros(2))
        >>> x = jnp.array([[1.0, 1.0, 1.0], [5.0, jnp.nan, jnp.nan]])
        >>> [float(tokens.aggregate(x, batch, how))
        ...     for how in (tokens.token_mean, tokens.sequence_mean, tokens.sequence_sum)]
        [2.0, 3.0, 4.0]
    """
    rows = as_trajectories(batch)
    check_part("aggregation", aggregation, "aggregation")
    x = check_array("x", x, "[N, T]", rows.mask.shape).astype(accumulation_dtype(jnp.asarray(x)))
    return jnp.mean(jnp.sum(jnp.where(rows.mask, aggregation(rows) * x, 0), axis=1))


def metrics(
    estimator: Estimator,
    log_prob: Float[Array, "N T"],
    batch: Batch,
    *,
    entropy: Float[Array, "N T"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """Statistics to watch during training, as scalars; each is computed from live tokens.

    Args:
        estimator: as for `surrogate`.
        log_prob: [N, T] under the present parameters.
        batch: as for `surrogate`.
        entropy: [N, T] in nats, if it is known.

    Returns:
        - "clipped": share of the tokens with credit whose gradient is zero.
        - "kl_old": mean k3 estimate of KL(old ‖ π) of a token, in nats; "kl_reference" of
          KL(π ‖ reference), if the batch has a reference.
        - "ratio_min", "ratio_median", "ratio_max": of the tokens' π/old.
        - "effective_sample_size": (Σ ρ)² / (S Σ ρ²) of the S answers' ratios, in (0, 1].
        - "silent_answers": share of the answers in which no token has credit.
        - "sampler_ratio": mean of old/sampler, if the batch has a sampler; 1 if they agree.
        - "entropy": mean over tokens, if it is given.

    Raises:
        TypeError, ValueError: as `surrogate` does.

    Bias: "kl_old" has none if the tokens were drawn from the old policy; the others describe the
        batch.
    """
    check_estimator(estimator)
    rows = as_trajectories(batch)
    log_prob = jax.lax.stop_gradient(_as_log_prob(log_prob, rows))
    mask, old = rows.mask, _live(rows, rows.log_prob)
    number = jnp.maximum(_count(mask, log_prob), 1)
    if entropy is not None:
        entropy = check_array("entropy", entropy, "[N, T]", mask.shape)

    def mean(x: Array) -> Array:
        return jnp.sum(jnp.where(mask, x, 0)) / number

    values = evaluate_weights(estimator, rows, log_prob)
    if isinstance(values, TokenWeights) and values.reads_entropy:
        values = with_entropy(values, jnp.zeros_like(log_prob))  # no part of the slope below
    slope = jax.grad(lambda x: jnp.sum(sum_of_terms(estimator, rows, x, values)))(log_prob)
    credit = jax.tree.leaves(values)[0] != 0
    difference = log_prob - old
    ratio = likelihood_ratio(log_prob, old)
    live = jnp.any(mask, axis=1)
    of_answer = jnp.where(live, jnp.sum(difference, axis=1), -jnp.inf)
    weight = jnp.exp(of_answer - jnp.max(of_answer))
    size = jnp.sum(weight) ** 2 / (_count(live, log_prob) * jnp.sum(weight**2))
    seen = jnp.where(mask, ratio, jnp.nan)
    found = {
        "clipped": _count(credit & (slope == 0), slope) / jnp.maximum(_count(credit, slope), 1),
        "kl_old": mean(ratio - 1 - difference),
        "ratio_min": jnp.nanmin(seen),
        "ratio_median": jnp.nanmedian(seen),
        "ratio_max": jnp.nanmax(seen),
        "effective_sample_size": size,
        "silent_answers": _count(live & ~jnp.any(credit, axis=1), slope) / _count(live, slope),
    }
    if rows.reference_log_prob is not None:
        reference = _live(rows, rows.reference_log_prob)
        away = likelihood_ratio(reference, log_prob)
        found["kl_reference"] = mean(away - 1 - (reference - log_prob))
    if rows.sampler_log_prob is not None:
        found["sampler_ratio"] = mean(likelihood_ratio(old, _live(rows, rows.sampler_log_prob)))
    if entropy is not None:
        found["entropy"] = mean(entropy)
    return found


def _count(x: Array, like: Array) -> Array:
    return jnp.sum(x, dtype=like.dtype)


def _as_log_prob(log_prob: Any, rows: Trajectory) -> Float[Array, "N T"]:
    """In float32 at least, and zero where no token is live."""
    check_log_prob("log_prob", log_prob, rows.mask)
    log_prob = jnp.asarray(log_prob)
    wide = log_prob.astype(accumulation_dtype(log_prob))
    return jnp.where(rows.mask, wide, 0)


def _live(rows: Trajectory, x: Array) -> Array:
    return jnp.where(rows.mask, x, 0)


def _shares(rows: Trajectory, number: int) -> Float[Array, "N"]:
    dtype = accumulation_dtype(rows.log_prob)
    return jnp.full(len(rows.mask), 1 / number, dtype)
