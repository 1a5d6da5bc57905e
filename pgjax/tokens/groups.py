"""The groups of a batch: which answers belong to the same prompt."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from pgjax.baselines import Groups, labelled
from pgjax.core.validation import is_concrete
from pgjax.types import Trajectory


def groups_of(batch: Trajectory, smallest: int = 1) -> Groups:
    """Groups of the rows with the same `batch.group`, for `pgjax.baselines`.

    Rows without live tokens are a group of their own.

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
    live = jnp.any(batch.mask, axis=1)
    label = jnp.where(live, batch.group, jnp.iinfo(batch.group.dtype).max)
    N = label.shape[0]
    _, index = jnp.unique(label, return_inverse=True, size=N)
    groups = labelled(index.reshape(N), num_groups=N)
    if not is_concrete(label, live):
        return replace(groups, smallest=None)
    label = np.asarray(label)[np.asarray(live)]
    names, counts = np.unique(label, return_counts=True)
    if len(counts) and counts.min() < smallest:
        raise ValueError(
            f"batch.group must have at least {smallest} answers to each prompt, "
            f"got {counts.min()} of group {names[counts.argmin()]}; draw more answers, or drop it"
        )
    return replace(groups, smallest=int(counts.min()) if len(counts) else None)
