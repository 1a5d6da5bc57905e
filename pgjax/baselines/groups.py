"""Groups: the rows of a batch that answer the same question and are compared with each other.

Baselines by group need only one function, the sum over each row's group.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from pgjax.core.validation import (
    as_array,
    check_kind,
    check_positive,
    check_scalars,
    check_traced,
    is_concrete,
)
from pgjax.records import configured, record, static
from pgjax.types import Number, check_function


@record
class Groups:
    """A partition of a batch's rows, from `consecutive` or `labelled`.

    Attributes:
        total: x [N, ...] -> [N, ...], for each row the sum of x over its group, itself included.
        smallest: the number of rows in the smallest group; None if it is not known beforehand.

    Raises:
        TypeError: if `total` is not a function.
        ValueError: if `smallest` is below one.
    """

    total: Callable[[Array], Array]
    smallest: int | None = static()

    def __post_init__(self) -> None:
        check_function("total", self.total, "x [N, ...] -> [N, ...]")
        if self.smallest is not None:
            check_positive("smallest", self.smallest)


def check_groups(groups: Any) -> Groups:
    """Return `groups` if it is a `Groups`, or raise an error."""
    return check_kind("groups", groups, Groups, "baselines.consecutive(group_size) makes them")


def consecutive(group_size: int) -> Groups:
    """Groups of `group_size` rows, one after another: a batch laid out [group, member].

    Raises:
        TypeError: if `group_size` is not an integer.
        ValueError: if `group_size` is below one; at use, if it does not divide N.

    Example:
        >>> import jax.numpy as jnp
        >>> consecutive(2).total(jnp.array([1.0, 2.0, 10.0, 20.0]))
        Array([ 3.,  3., 30., 30.], dtype=float32)
    """
    size = check_positive("group_size", group_size)
    return Groups(configured(_consecutive, group_size=size), size)


def _consecutive(x: Array, *, group_size: int) -> Array:
    if x.shape[0] % group_size:
        raise ValueError(
            f"group_size must divide the batch, got {group_size} for N = {x.shape[0]} "
            "trajectories; change the batch size, or give groups of different sizes by "
            "groups.labelled(ids)"
        )
    members = x.reshape(x.shape[0] // group_size, group_size, *x.shape[1:])
    sums = jnp.sum(members, axis=1, keepdims=True)
    return jnp.broadcast_to(sums, members.shape).reshape(x.shape)


def labelled(
    ids: Int[Array, "N"] | Int[np.ndarray, "N"] | Sequence[int], *, num_groups: int | None = None
) -> Groups:
    """Groups of the rows with the same id, in any order and of any sizes.

    Args:
        ids: [N] the group of each row, in 0, …, num_groups − 1.
        num_groups: the number of groups, of which some may be empty. None takes the largest id plus
            one. It must be given if the ids are traced.

    Raises:
        TypeError: if `ids` are not integers.
        ValueError: if `ids` are not [N] or lie outside the range; if they are traced and
            `num_groups` is None. A traced id outside the range gives NaN, and an error under
            `pgjax.checked`.

    Example:
        >>> import jax.numpy as jnp
        >>> labelled([0, 1, 0]).total(jnp.array([1.0, 2.0, 10.0]))
        Array([11.,  2., 11.], dtype=float32)
    """
    array = as_array("ids", ids)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"ids must have shape [N], one for each trajectory, got {array.shape}")
    array = np.asarray(array) if is_concrete(array) else array
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"ids must be integers, got {array.dtype}; number the groups from 0")
    total = configured(_labelled, ids=array, num_groups=_check_num_groups(array, num_groups))
    if isinstance(array, np.ndarray):
        return Groups(total, int(np.unique(array, return_counts=True)[1].min()))
    return Groups(total, None)


def _labelled(x: Array, *, ids: Array | np.ndarray, num_groups: int) -> Array:
    if x.shape[:1] != ids.shape:
        raise ValueError(
            f"ids must have shape [N] = {x.shape[:1]}, one for each trajectory, got {ids.shape}"
        )
    return _sum_over_groups(x, ids, num_groups)


@partial(jax.jit, static_argnums=2)  # traced once for all the sums of a program
def _sum_over_groups(x: Array, ids: Array, num_groups: int) -> Array:
    sums = jax.ops.segment_sum(x, ids, num_segments=num_groups)
    place = jnp.where(ids < 0, num_groups, ids)  # a negative index would count from the end
    return sums.at[place].get(mode="fill", fill_value=jnp.nan)


def deviation(
    squares: Float[Array, "..."],
    degrees: Float[Array, "..."],
    magnitude: Float[Array, "..."],
    epsilon: Number,
) -> Float[Array, "..."]:
    """A standard deviation to divide by, √(squares / degrees) + ε; infinite if it is only rounding.

    Numbers that differ only by rounding then get zero weight. Otherwise, with ε = 0, their weights
    would be noise or NaN. The result is positive, and never NaN.

    Args:
        squares: the sum of squared deviations from the mean.
        degrees: the divisor of that sum; if it is below one, the result is infinite.
        magnitude: the root mean square of the numbers themselves.
        epsilon: ε ≥ 0, in the numbers' units.

    Raises:
        ValueError: if ε is not a single number.
    """
    check_scalars(epsilon=epsilon)
    found = jnp.sqrt(squares / jnp.maximum(degrees, 1))
    rounding = 32 * jnp.finfo(found.dtype).eps * magnitude
    differ = (degrees >= 1) & (found > rounding)
    return jnp.where(differ, found + jnp.asarray(epsilon, found.dtype), jnp.inf)


def _check_num_groups(ids: np.ndarray | Array, num_groups: int | None) -> int:
    """The number of groups, if all ids lie below it."""
    if isinstance(ids, np.ndarray):
        largest = int(ids.max(initial=-1))
        number = max(largest + 1, 1) if num_groups is None else num_groups
        number = check_positive("num_groups", number)
        outside = ids[(ids < 0) | (ids >= number)]
        if outside.size:
            raise ValueError(
                f"ids must lie in 0 to {number - 1}, got {outside[0]}; number the groups from 0, "
                "and give a num_groups above the largest id"
            )
        return number
    if num_groups is None:
        raise ValueError(
            "num_groups must be given if ids are traced, as under jit, got None: JAX must know "
            "the number of groups when it compiles"
        )
    number = check_positive("num_groups", num_groups)
    inside = (ids >= 0) & (ids < number)
    check_traced(
        "ids must lie in 0 to " + str(number - 1) + ", got {value}",
        lambda: (jnp.all(inside), {"value": ids[jnp.argmin(inside)]}),
    )
    return number
