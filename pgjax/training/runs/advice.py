"""Warnings in plain words when a run learnt nothing, with the option that may help."""

import math
import statistics
from collections.abc import Sequence

from pgjax.training.runs.log import Row

FEWEST = 10
"""The number of updates before any advice is given."""

MANY = 30
"""The number of updates by which a critic should explain something, and noise be told from
signal."""

COLLAPSED = 0.02
"""The share of its first entropy below which a policy hardly explores any more."""

DROWNED = 0.1
"""The ratio of signal to noise, both squared, below which a gradient points almost anywhere."""


def advice(rows: Sequence[Row]) -> list[str]:
    """Sentences on what stood in the way of learning; none if the log shows no sign of it.

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
            f"no return ever differed: each episode gave {returns[0]:g}, so no action looked "
            "better than another; try --entropy-weight 0.01 with ppo or a2c, or more episodes "
            "or steps in an update"
        )
    first, last = rows[0]["entropy"], rows[-1]["entropy"]
    if first > 0 and last < COLLAPSED * first and not _improved(returns):
        found.append(
            f"the policy hardly explores any more: its entropy fell from {first:.2g} to "
            f"{last:.2g} nats, and the return did not rise; try a larger --entropy-weight, or a "
            "smaller --learning-rate"
        )
    if not found and not _improved(returns):
        found += [*_on_values(rows), *_on_noise(rows)]
    return found


def _on_values(rows: Sequence[Row]) -> list[str]:
    """On a critic that explains nothing in the last half of the updates."""
    explained = [row["explained_variance"] for row in rows if "explained_variance" in row]
    late = [x for x in explained[len(explained) // 2 :] if math.isfinite(x)]
    if len(explained) < MANY or not late or statistics.median(late) > 0:
        return []
    return [
        f"the critic explains nothing: over the last {len(late)} updates the explained variance "
        f"was {statistics.median(late):.2g} in the median, where 1 is perfect and 0 is no help; "
        "try more --epochs or another --learning-rate for the critic to learn, or --gae-lambda 1, "
        "which trusts it less"
    ]


def _on_noise(rows: Sequence[Row]) -> list[str]:
    """On a gradient that is mostly noise in the last half of the updates where it was measured."""
    measured = [row for row in rows if "gradient_signal" in row]
    late = measured[len(measured) // 2 :]
    if len(rows) < MANY or len(late) < 2:
        return []
    signals = [row["gradient_signal"] for row in late]
    noise = statistics.mean(row["gradient_noise"] for row in late)
    signal = statistics.mean(signals)
    error = statistics.stdev(signals) / len(signals) ** 0.5
    most = signal + 2 * error  # no more than this in the light of the measurements
    if noise <= 0 or most >= DROWNED * noise:
        return []
    is_seen = signal > 2 * error
    times = _rounded(noise / signal if is_seen else noise / most if most > 0 else math.inf)
    words = f"about {times} times more" if is_seen else f"more than {times} times more"
    if times == "inf":
        words = "far more"
    option = (
        "--num-environments or --num-steps" if "value_loss" in rows[0] else "--num-trajectories"
    )
    return [
        f"the gradient is noise at this batch size: {words} trajectories would do; try "
        f"a larger {option}, or a smaller --discount, which makes returns less noisy"
    ]


def _rounded(number: float) -> str:
    """A number of times, with two digits."""
    return f"{float(f'{number:.2g}'):,.0f}" if math.isfinite(number) else "inf"


def _improved(returns: list[float]) -> bool:
    tenth = max(1, len(returns) // 10)
    return sum(returns[-tenth:]) / tenth > sum(returns[:tenth]) / tenth
