"""Warnings in plain words when a run learnt nothing, with the option that may help."""

import math
from collections.abc import Sequence

from pgjax.training.runs.log import Row

FEWEST = 10
"""Updates before anything is said."""

COLLAPSED = 0.02
"""The share of its first entropy below which a policy hardly tries anything else."""


def advice(rows: Sequence[Row]) -> list[str]:
    """What stood in the way of learning, one sentence each; none if the log shows no sign of it.

    Args:
        rows: of the log, from the first update on.

    Example:
        >>> row = {"mean_return": -200.0, "standard_error": 0.0, "entropy": 1.0}
        >>> print(advice([row] * 20)[0].split(":")[0])
        no return ever differed
        >>> advice([row | {"mean_return": float(index)} for index in range(20)])
        []
    """
    if len(rows) < FEWEST:
        return []
    known = [row for row in rows if math.isfinite(row["mean_return"])]
    if not known:
        return [
            f"no episode ended in {len(rows)} updates: nothing is known about returns; take more "
            "--updates, or a larger --num-steps"
        ]
    found = []
    returns = [row["mean_return"] for row in known]
    spread = any(row["standard_error"] > 0 for row in known)  # NaN, of one episode, is no spread
    if len(set(returns)) == 1 and not spread:
        found.append(
            f"no return ever differed: each episode gave {returns[0]:g}, so no action was seen to "
            "be better than another; try --entropy-weight 0.01 with ppo or a2c, or more episodes "
            "or steps in an update"
        )
    first, last = rows[0]["entropy"], rows[-1]["entropy"]
    if first > 0 and last < COLLAPSED * first and not _improved(returns):
        found.append(
            f"the policy hardly tries anything else: its entropy fell from {first:.2g} to "
            f"{last:.2g} nats, and the return did not rise; try a larger --entropy-weight, or a "
            "smaller --learning-rate"
        )
    return found


def _improved(returns: list[float]) -> bool:
    tenth = max(1, len(returns) // 10)
    return sum(returns[-tenth:]) / tenth > sum(returns[:tenth]) / tenth
