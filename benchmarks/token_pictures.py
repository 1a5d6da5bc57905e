"""The pictures of the three pages on choices over tokens; every number is exact.

python -m benchmarks.token_pictures    # docs/which-aggregation.png, which-kl.png, which-ratio.png
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from pgjax import Estimator, exact, terms, tokens
from pgjax.estimators import gradient
from pgjax.proof.language_models import LanguageModel, of_length, three_tokens
from pgjax.proof.token_moments import bias_scale_residue, group_moments

DOCS = Path(__file__).parents[1] / "docs"
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"
LENGTHS = 1, 2, 3, 4, 5
GROUPS = 2, 3, 4, 5
Curves = dict[str, list[float]]


def means(
    made: dict[str, Estimator], model: LanguageModel, group_size: int, acting: str
) -> dict[str, np.ndarray]:
    """The exact mean of each estimator, from one enumeration; V is the exact J."""

    def estimate(params: Any, batch: Any) -> Any:
        return [gradient(each, model.problem.policy, params, batch) for each in made.values()]

    value = float(exact.objective(model.problem))
    found = group_moments(estimate, model, group_size=group_size, acting=acting, value=value)
    return dict(zip(made, np.split(found.mean, len(made)), strict=True))


def aggregations() -> Curves:
    """The part across ∇J, in per cent, for each group size."""
    averages = {
        "mean of means (GRPO)": tokens.sequence_mean,
        "token mean (DAPO)": tokens.token_mean,
        "mean of sums (Dr. GRPO)": tokens.sequence_sum,
    }
    made = {
        name: tokens.estimator(tokens.advantages.less_value, each, terms.score)
        for name, each in averages.items()
    }
    model = three_tokens()
    truth = np.ravel(exact.gradient(model.problem))
    curves: Curves = {name: [] for name in made}
    for size in GROUPS:
        for name, mean in means(made, model, size, "policy").items():
            curves[name].append(100 * bias_scale_residue(mean, truth)[2])
    return curves


def penalties() -> Curves:
    """The bias of each penalty for ∇KL of the answer, on-policy, in per cent, for each length."""

    def silent(batch: Any, log_prob: Any) -> Any:
        return jnp.zeros_like(log_prob)

    kinds = {
        "k3 in the loss": tokens.kl_in_loss(1.0),
        "k2, or k3 × token ratio": tokens.kl_in_loss(1.0, "k2"),
        "k1 in the reward": tokens.kl_in_reward(1.0),
    }
    made = {
        name: tokens.estimator(silent, tokens.sequence_sum, terms.score, kl=kl)
        for name, kl in kinds.items()
    }
    curves: Curves = {name: [] for name in made}
    for length in LENGTHS:
        found = means(made, of_length(length), 1, "policy")
        truth = found["k1 in the reward"]  # exact on-policy, as the tests show
        for name, mean in found.items():
            curves[name].append(100 * bias_scale_residue(mean, truth)[0])
    return curves


def ratios() -> Curves:
    """The bias for ∇J on answers of the old policy, in per cent, for each length."""
    sums, averages = tokens.sequence_sum, tokens.sequence_mean
    kinds = {
        "GSPO": (averages, terms.sequence_clip(1.0, float("inf"))),
        "PPO clip 0.2": (sums, terms.ppo_clip(0.2)),
        "token ratio": (sums, terms.importance_ratio),
        "prefix ratio": (sums, terms.prefix_ratio),
        "sequence ratio": (sums, terms.sequence_ratio),
    }
    made = {
        name: tokens.estimator(tokens.advantages.less_value, each, term)
        for name, (each, term) in kinds.items()
    }
    curves: Curves = {name: [] for name in made}
    for length in LENGTHS:
        model = of_length(length)
        truth = np.ravel(exact.gradient(model.problem))
        for name, mean in means(made, model, 1, "old").items():
            curves[name].append(100 * bias_scale_residue(mean, truth)[0])
    return curves


def draw(path: Path, curves: Curves, at: Sequence[int], title: str, x: str, y: str) -> None:
    """A line for each curve, with its name at the end, moved apart where two would touch."""
    figure = Figure(figsize=(6, 3.6), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    highest = max(max(curve) for curve in curves.values())
    place = -np.inf
    for name in sorted(curves, key=lambda name: curves[name][-1]):
        colour = COLOURS[list(curves).index(name)]
        axes.plot(at, curves[name], color=colour, marker="o", markersize=4, linewidth=2)
        place = max(curves[name][-1], place + 0.075 * highest)
        axes.annotate(
            f"{name}: {curves[name][-1]:.0f}%",
            (at[-1], place),
            xytext=(8, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=10,
            annotation_clip=False,
        )
    axes.set(xlabel=x, ylabel=y, xticks=at, ylim=(-0.04 * highest, 1.1 * highest))
    axes.set_xlim(at[0] - 0.1, at[-1] + 0.55 * (at[-1] - at[0]))
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.savefig(path, dpi=150)
    print(f"picture: {path}")


def main() -> None:
    """Draw all three."""
    draw(
        DOCS / "which-aggregation.png",
        aggregations(),
        GROUPS,
        "Larger groups mend the token mean's direction,\nand not that of the mean of means",
        "answers in a group",
        "part across ∇J, % of ‖∇J‖",
    )
    draw(
        DOCS / "which-kl.png",
        penalties(),
        LENGTHS,
        "One token hides what longer answers show:\nKL penalties in the loss are biased",
        "most tokens of an answer",
        "bias, % of ‖∇KL‖",
    )
    draw(
        DOCS / "which-ratio.png",
        ratios(),
        LENGTHS,
        "On stale data only the ratio of the whole answer\nis unbiased at every length",
        "most tokens of an answer",
        "bias, % of ‖∇J‖",
    )


if __name__ == "__main__":
    main()
