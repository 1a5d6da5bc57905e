"""Losses over tokens that differ from their papers, and the exact bias of each beside the paper's.

A loss here is ∂loss/∂log_prob in NumPy, as `pgjax.judge_loss` takes it: a difference that was seen
in a library, written again in a few lines, on the model of three tokens.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from pgjax import judge_loss
from pgjax.proof.token_losses import Verdict

Loss = Callable[..., np.ndarray]


class Exhibit(NamedTuple):
    """A loss that differs, the paper's, and where the difference was seen.

    Attributes:
        name: of what differs.
        label: what it does.
        seen: library, version and file.
        loss: the one that differs.
        paper: the other.
        group_size: G.
        acting: "policy", or "old" where only stale data shows it.
    """

    name: str
    label: str
    seen: str
    loss: Loss
    paper: Loss
    group_size: int = 4
    acting: str = "policy"


def token_mean(weight: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return -np.where(mask, weight, 0) / mask.sum()


def capped(ceiling: float) -> Loss:
    """CISPO with the ratio held below a cap."""

    def loss(log_prob: Any, old_log_prob: Any, mask: Any, advantages: Any) -> np.ndarray:
        ratio = np.minimum(np.exp(log_prob - old_log_prob), ceiling)
        return token_mean(ratio * advantages[:, None], mask)

    return loss


def zero_outside(log_prob: Any, old_log_prob: Any, mask: Any, rewards: Any, value: Any) -> Any:
    ratio = np.exp(log_prob - old_log_prob)
    inside = (ratio >= 0.8) & (ratio <= 1.2)
    return -np.where(mask & inside, ratio * (rewards - value)[:, None], 0) / len(mask)


def held_inside(log_prob: Any, old_log_prob: Any, mask: Any, rewards: Any, value: Any) -> Any:
    ratio = np.clip(np.exp(log_prob - old_log_prob), 0.8, 1.2)
    return -np.where(mask, ratio * (rewards - value)[:, None], 0) / len(mask)


def longest_of_batch(mask: Any, rewards: Any, value: Any) -> np.ndarray:
    return by_constant(mask, rewards, value) * mask.shape[1] / mask.sum(axis=1).max()


def by_constant(mask: Any, rewards: Any, value: Any) -> np.ndarray:
    return -np.where(mask, (rewards - value)[:, None], 0) / mask.size


def standardised(degrees: int) -> Loss:
    """GRPO's advantage, and the sum over tokens."""

    def loss(mask: Any, rewards: Any) -> np.ndarray:
        scale = rewards.std(ddof=degrees) + 1e-4
        return -np.where(mask, (rewards - rewards.mean())[:, None] / scale, 0) / len(mask)

    return loss


def others(rewards: np.ndarray) -> np.ndarray:
    """[G, G − 1] the rewards of the others."""
    own = np.eye(len(rewards), dtype=bool)
    return np.broadcast_to(rewards, own.shape)[~own].reshape(len(rewards), -1)


def leave_one_out(mask: Any, rewards: Any) -> np.ndarray:
    credit = rewards - others(rewards).mean(axis=1)
    return -np.where(mask, credit[:, None], 0) / len(mask)


def over_deviation_of_others(mask: Any, rewards: Any) -> np.ndarray:
    scale = others(rewards).std(axis=1, ddof=1, keepdims=True) + 1e-6
    return leave_one_out(mask, rewards) / scale


def cap_free(log_prob: Any, old_log_prob: Any, mask: Any, rewards: Any, value: Any) -> Any:
    ratio = np.exp(log_prob - old_log_prob)
    slope = np.where(ratio < 5, ratio * (1 + log_prob), 5.0)
    return -np.where(mask, slope * (rewards - value)[:, None], 0) / len(mask)


def cap_held(log_prob: Any, old_log_prob: Any, mask: Any, rewards: Any, value: Any) -> Any:
    ratio = np.minimum(np.exp(log_prob - old_log_prob), 5)
    return -np.where(mask, ratio * (rewards - value)[:, None], 0) / len(mask)


LOSSES = [
    Exhibit(
        "CISPO capped at 0.2",
        "The cap itself is ε_high, and its default is PPO's 0.2: a ratio of 1 is cut to a fifth.",
        'TRL 1.16.0, `GRPOTrainer._compute_loss` with `loss_type="cispo"` and its defaults; run',
        capped(0.2),
        capped(1.2),
    ),
    Exhibit(
        "zero outside the clip",
        "A token whose ratio is outside [0.8, 1.2] is dropped; CISPO holds it at the bound.",
        "SkyRL 0.4.0, `rollout_is_policy_loss`; its docstring says that the gradient stays; read",
        zero_outside,
        held_inside,
        1,
        "old",
    ),
    Exhibit(
        "divided by the batch's longest",
        "Sums are divided by the width that the batch was padded to, not by a constant.",
        "verl 0.9.1, `agg_loss` with `seq-mean-token-sum-norm` and no `loss_scale_factor`; read",
        longest_of_batch,
        by_constant,
    ),
    Exhibit(
        "deviation without Bessel's correction",
        "The group's variance is divided by G: the gradient is longer by √(G/(G−1)), to the ε.",
        "MaxText 0.2.5, `experimental/rl`; read",
        standardised(0),
        standardised(1),
    ),
    Exhibit(
        "over the deviation of the others",
        "The reward less the mean of the others, over the deviation of the others plus 1e-6: it "
        "explodes where they agree.",
        "NeMo-RL, issues #1518, #4158 and #4161",
        over_deviation_of_others,
        leave_one_out,
    ),
    Exhibit(
        "CISPO's ratio differentiated",
        "The ratio within the cap is not held constant, and log π is in the gradient as a factor.",
        "",
        cap_free,
        cap_held,
        1,
    ),
]


@cache
def verdicts(exhibit: Exhibit) -> tuple[Verdict, Verdict]:
    """Of the loss that differs, and of the paper's."""
    setting: Any = {"group_size": exhibit.group_size, "acting": exhibit.acting}
    return judge_loss(exhibit.loss, **setting), judge_loss(exhibit.paper, **setting)


def sections() -> dict[str, str]:
    """The generated sections of the page: the table, and the list."""
    rows, lines = [], []
    for exhibit in LOSSES:
        both = verdicts(exhibit)
        cells = (shown(x) for each in both for x in (each.bias, each.scale, each.residue))
        who = "on-policy" if exhibit.acting == "policy" else "stale"
        rows.append(f"| {exhibit.name} | {who}, G = {exhibit.group_size} | {' | '.join(cells)} |")
        seen = f" *Seen: {exhibit.seen}.*" if exhibit.seen else ""
        lines.append(f"- **{exhibit.name}**: {exhibit.label}{seen}")
    head = "| loss | answers | bias | scale | off | paper: bias | scale | off |\n"
    head += f"| --- | --- |{' --: |' * 6}\n"
    return {"losses": head + "\n".join(rows), "differences": "\n".join(lines)}


def shown(x: float) -> str:
    """A cell: three digits, or a dot for zero."""
    return "·" if abs(x) < 1e-10 else f"{x:.3g}" if abs(x) >= 100 else f"{x:.3f}"
