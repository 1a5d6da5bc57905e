"""The groups of a batch: which answers belong to the same prompt."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.baselines import Groups, labelled
from pgjax.core.validation import is_concrete
from pgjax.types import Trajectory


def groups_of(batch: Trajectory, smallest: int = 1) -> Groups:
    """Groups of the rows with the same `batch.group`, for `pgjax.baselines`.

    All rows without live tokens together are one more group.

    Args:
        batch: [N, T].
        smallest: the least number of answers that a group needs; checked where it is known.

    Raises:
        ValueError: if `batch.group` is None, or a group is known to have fewer answers.
    """
    if batch.group is None:
        raise ValueError(
            "batch.group must say which answers belong to one prompt, got None; "
            "for eight answers to each prompt, one after another: group=jnp.arange(N) // 8"
        )
    index = _number_groups(batch.mask, batch.group)
    groups = labelled(index, num_groups=index.shape[0])
    if not is_concrete(batch.mask, batch.group):
        return replace(groups, smallest=None)
    label = np.asarray(batch.group)[np.asarray(batch.mask).any(axis=1)]
    names, counts = np.unique(label, return_counts=True)
    if len(counts) and counts.min() < smallest:
        raise ValueError(
            f"batch.group must have at least {smallest} answers to each prompt, "
            f"got {counts.min()} of group {names[counts.argmin()]}; draw more, or drop the group"
        )
    return replace(groups, smallest=int(counts.min()) if len(counts) else None)


@jax.jit  # traced once for all the estimators of a program, and one program outside jit
def _number_groups(mask: Array, group: Array) -> Array:
    """[N] the groups as 0, 1, …, in the order of their names; rows without live tokens last."""
    label = jnp.where(jnp.any(mask, axis=1), group, jnp.iinfo(group.dtype).max)
    _, index = jnp.unique(label, return_inverse=True, size=label.shape[0])
    return index.reshape(label.shape)
