"""Gradients of fresh episodes without storing the batch: sample, weigh, sample again.

Weights may couple all trajectories, but they read little of them: rewards and flags, as a rule. So
a batch too large to keep is sampled twice, one micro-batch after another. The first pass keeps only
what the weights read; from this each step gets its score weight. The second pass samples the same
episodes again, and adds their weighted scores. One compiled loop body does both, so that the second
pass equals the first to the last bit.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.interpreters import partial_eval
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, PyTree

from pgjax.core.chunks import scan_rows
from pgjax.core.devices import check_mesh, over_devices, varying, without_explicit_axes
from pgjax.core.scores import weighted_score, weighted_score_per_trajectory
from pgjax.core.validation import (
    check_counts,
    check_estimator,
    check_key,
    check_params,
    check_policy,
    check_positive,
)
from pgjax.diagnostics import RunningMoments, merge, merge_all
from pgjax.environments.base import Environment
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.estimators import score_weights
from pgjax.rollouts.episodes import episode_keys, episodes
from pgjax.types import Estimator, KeyLike, Params, Policy, RecurrentPolicy, Trajectory

CPU_BYTES, ACCELERATOR_BYTES = 2**26, 2**31
"""The bytes that observations, actions and per-trajectory gradients may take on each device."""

LARGEST_MESSAGE = 2**24
"""A gradient of at most this many bytes is joined into one array to be summed over devices. Gloo
sends each array by itself, and a small one takes the time of its latency; a large one is not worth
the copy."""

Total: TypeAlias = Any
Sizes: TypeAlias = tuple[int, int, int | None]
"""N, T and the micro-batch size."""


def sampled_gradient(
    estimator: Estimator,
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: AnyEnvironment,
    key: KeyLike,
    *,
    num_trajectories: int,
    num_steps: int,
    micro_batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> PyTree[Float[Array, "..."]]:
    """The estimate of ∇J from fresh episodes: `gradient` of `rollout`, in bounded memory.

    To rounding, the result is that of these two functions, for any estimator, any micro-batch size
    and any number of devices: weights see the whole batch. If a micro-batch is the whole batch,
    nothing is sampled twice.

    Args:
        estimator: weights and term.
        policy: the policy that acts, and is differentiated.
        params: pytree of floating arrays.
        environment: as for `rollout`.
        key: from `jax.random.key`.
        num_trajectories: N.
        num_steps: T.
        micro_batch_size: the number of trajectories whose observations are held at once on each
            device; None holds 64 MiB of them on a CPU, 2 GiB on an accelerator.
        mesh: the devices over which the trajectories are spread, with one reduction at the end.

    Returns:
        A pytree like params, to ascend.

    Raises:
        TypeError: if a parameter is not floating.
        ValueError: if N is not a multiple of the mesh's devices.

    Bias: the estimator's.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> sampled_gradient(
        ...     pgjax.rloo(1.0), pgjax.tabular_softmax(4, 2), jnp.zeros((4, 2)),
        ...     pgjax.tabular.random_mdp(), jax.random.key(0), num_trajectories=64, num_steps=5,
        ... ).shape
        (4, 2)
    """
    sizes = num_trajectories, num_steps, micro_batch_size
    return _checked(_GRADIENT, sizes, mesh, estimator, policy, params, environment, key)


def sampled_moments(
    estimator: Estimator,
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: AnyEnvironment,
    key: KeyLike,
    *,
    num_trajectories: int,
    num_steps: int,
    micro_batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> RunningMoments:
    """Mean and variance of N fresh per-trajectory gradients, without holding them all.

    The mean is `sampled_gradient`. Arguments and errors are the same, except that a micro-batch
    also holds a gradient for each trajectory. `diagnostics.standard_error` says how far to trust
    the mean.

    Returns:
        RunningMoments of N samples, which are independent if the weights do not couple the batch.

    Bias: of the mean, the estimator's.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> moments = sampled_moments(
        ...     pgjax.reward_to_go(1.0), pgjax.tabular_softmax(4, 2), jnp.zeros((4, 2)),
        ...     pgjax.tabular.random_mdp(), jax.random.key(0), num_trajectories=64, num_steps=5)
        >>> float(moments.num_samples)
        64.0
    """
    sizes = num_trajectories, num_steps, micro_batch_size
    return _checked(_MOMENTS, sizes, mesh, estimator, policy, params, environment, key)


class _Statistic(NamedTuple):
    """A statistic of the trajectories' gradients, accumulated over micro-batches and devices.

    Attributes:
        zero: params -> the total before any trajectory.
        add: (policy, total, params, batch, score_weight, counts) -> total, where the bool `counts`
            [n] is false for repeated trajectories.
        join: totals of all devices, stacked -> total.
        of_each: whether each trajectory's gradient is held separately. Its score weights are then
            multiplied by N, because the estimate is the mean of N such gradients.
    """

    zero: Callable[[Params], Total]
    add: Callable[..., Total]
    join: Callable[[Total], Total]
    of_each: bool


def _add_gradient(
    policy: Policy | RecurrentPolicy,
    total: Params,
    params: Params,
    batch: Trajectory,
    score_weight: Array,
    counts: Array,
) -> Params:
    score_weight = jnp.where(counts[:, None], score_weight, 0)
    return jax.tree.map(jnp.add, total, weighted_score(policy, params, batch, score_weight))


def _sum_over_devices(totals: Params) -> Params:
    """The sum of all devices' gradients, whose leaves are [D, ...]."""
    leaves = jax.tree.leaves(totals)
    devices = max((x.shape[0] for x in leaves), default=1)
    size = sum(x.size * x.dtype.itemsize for x in leaves) // devices
    if devices == 1 or size > LARGEST_MESSAGE:
        return jax.tree.map(partial(jnp.sum, axis=0), totals)
    flat = jax.vmap(lambda total: ravel_pytree(total)[0])(totals)
    restore = ravel_pytree(jax.tree.map(lambda x: x[0], totals))[1]
    return restore(jnp.sum(flat, axis=0))


def _add_moments(
    policy: Policy | RecurrentPolicy,
    total: RunningMoments,
    params: Params,
    batch: Trajectory,
    score_weight: Array,
    counts: Array,
) -> RunningMoments:
    each = weighted_score_per_trajectory(policy, params, batch, score_weight)
    dtype = total.num_samples.dtype
    ones = RunningMoments(counts.astype(dtype), each, jax.tree.map(jnp.zeros_like, each))
    return merge(total, merge_all(ones))


def _no_moments(params: Params) -> RunningMoments:
    zero = jax.tree.map(jnp.zeros_like, params)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(params)] or [None]  # JAX's default
    return RunningMoments(jnp.zeros((), dtypes[0]), zero, zero)


_GRADIENT = _Statistic(
    zero=partial(jax.tree.map, jnp.zeros_like),
    add=_add_gradient,
    join=_sum_over_devices,
    of_each=False,
)
_MOMENTS = _Statistic(zero=_no_moments, add=_add_moments, join=merge_all, of_each=True)


def _checked(
    statistic: _Statistic,
    sizes: Sizes,
    mesh: Mesh | None,
    estimator: Estimator,
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: AnyEnvironment,
    key: KeyLike,
) -> Total:
    """The statistic; errors if an argument is wrong."""
    check_estimator(estimator)
    check_policy(policy)
    check_params(params)
    num_trajectories, num_steps, micro_batch_size = sizes
    check_counts(num_trajectories=num_trajectories, num_steps=num_steps)
    if micro_batch_size is not None:
        check_positive("micro_batch_size", micro_batch_size)
    check_mesh(mesh)
    environment, key = as_environment(environment), check_key(key)
    params = varying(params, (params, environment, key))  # one gradient a device, in a shard_map
    return _sampled(statistic, sizes, mesh, estimator, policy, (params, environment), key)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _sampled(
    statistic: _Statistic,
    sizes: Sizes,
    mesh: Mesh | None,
    estimator: Estimator,
    policy: Policy | RecurrentPolicy,
    whole: tuple[Params, Environment],
    key: Array,
) -> Total:
    total = partial(_total, statistic, sizes, mesh)
    return without_explicit_axes(total, PartitionSpec())(estimator, policy, whole, key)


def _total(
    statistic: _Statistic,
    sizes: Sizes,
    mesh: Mesh | None,
    estimator: Estimator,
    policy: Policy | RecurrentPolicy,
    whole: tuple[Params, Environment],
    key: Array,
) -> Total:
    N, T, micro = sizes
    # JAX keeps the trace of a jitted function: it serves for the shapes, and for the draw itself.
    draw = jax.jit(partial(episodes, policy, T), inline=True)
    keys = episode_keys(key, N)
    example = jax.eval_shape(draw, whole, keys)
    micro = micro or _micro_batch_size(example, whole[0] if statistic.of_each else None)
    add = partial(statistic.add, policy)

    def weigh(batch: Trajectory) -> Array:
        return score_weights(estimator, batch, batch.log_prob) * (N if statistic.of_each else 1)

    if micro >= (N if mesh is None else N // mesh.size):
        batch = over_devices(draw, mesh, whole, keys)
        start = partial(_added_once, add, statistic.zero)
        totals = over_devices(start, mesh, whole[0], (batch, weigh(batch)))
    else:
        needed = _read_by_weights(weigh, example)
        sweep = partial(_sweep, draw, add, statistic.zero, needed, micro)

        def one_pass(carry: tuple[list[Array], Total], is_second: Array) -> tuple[Any, None]:
            score_weight = weigh(_filled(needed, example, carry[0]))
            return over_devices(sweep, mesh, (whole, is_second), (keys, score_weight)), None

        devices = 1 if mesh is None else mesh.size
        zero = jax.eval_shape(jax.vmap(statistic.zero, axis_size=devices, in_axes=None), whole[0])
        kept = _select(needed, example)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (kept, zero))
        nothing = varying(nothing, (whole, key))
        (_, totals), _ = jax.lax.scan(one_pass, nothing, jnp.array([False, True]))
    return statistic.join(totals)


def _added_once(
    add: Callable[..., Total],
    zero: Callable[[Params], Total],
    params: Params,
    rows: tuple[Trajectory, Array],
) -> Total:
    """A device's total if its part of the batch is a single micro-batch."""
    batch, score_weight = rows
    counts = jnp.ones(len(score_weight), bool)
    return _stacked(add(zero(params), params, batch, score_weight, counts))


def _sweep(
    draw: Callable[..., Trajectory],
    add: Callable[..., Total],
    zero: Callable[[Params], Total],
    needed: list[bool],
    micro: int,
    whole: Any,
    rows: tuple[Array, Array],
) -> tuple[list[Array], Total]:
    """The leaves that the weights read of a device's rows, and the total if `is_second` is true."""
    (params, environment), is_second = whole

    def micro_batch(total: Total, rows: Any, counts: Array) -> tuple[Total, list[Array]]:
        keys, score_weight = rows
        batch = draw((params, environment), keys)

        def added() -> Total:
            return add(total, params, batch, score_weight, counts)

        return jax.lax.cond(is_second, added, lambda: total), _select(needed, batch)

    total, kept = scan_rows(micro_batch, zero(params), rows, micro)
    return kept, _stacked(total)


def _read_by_weights(weigh: Callable[[Trajectory], Array], example: Trajectory) -> list[bool]:
    """Which leaves of a batch the score weights depend on, found from their jaxpr."""
    leaves, structure = jax.tree.flatten(example)

    def of_leaves(*leaves: Array) -> Array:
        return weigh(jax.tree.unflatten(structure, leaves))

    jaxpr = jax.make_jaxpr(of_leaves)(*leaves).jaxpr
    return partial_eval.dce_jaxpr(jaxpr, [True])[1]


def _select(needed: list[bool], batch: Trajectory) -> list[Array]:
    return [x for x, is_needed in zip(jax.tree.leaves(batch), needed, strict=True) if is_needed]


def _filled(needed: list[bool], example: Trajectory, kept: list[Array]) -> Trajectory:
    """A batch of the kept leaves; the others, which are not read, are zeros and cost nothing."""
    leaves, structure = jax.tree.flatten(example)
    remaining = iter(kept)
    filled = [
        next(remaining) if is_needed else jnp.zeros(x.shape, x.dtype)
        for x, is_needed in zip(leaves, needed, strict=True)
    ]
    return jax.tree.unflatten(structure, filled)


def _micro_batch_size(example: Trajectory, held: Params | None) -> int:
    """The number of trajectories whose observations and gradients fit into the budget of bytes."""
    budget = CPU_BYTES if jax.default_backend() == "cpu" else ACCELERATOR_BYTES
    N = example.reward.shape[0]
    batch = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(example)) // N
    gradient = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(held))
    return max(1, budget // (batch + gradient))


def _stacked(total: Total) -> Total:
    return jax.tree.map(lambda x: x[None], total)
