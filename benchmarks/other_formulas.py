"""Other people's formulas on our bench: the exact bias for ∇J of rlax's losses.

    python -m benchmarks.other_formulas

Needs rlax (benchmarks/requirements.txt). rlax's functions are single-stream losses over one row of
time, so each is given a whole padded row with its mask as weights, the way its documentation says,
and differentiated. What a row "as it is" lacks for ∇J is then put back, as the control.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax import enumeration, exact, suite
from pgjax.exact.problem import Problem
from pgjax.returns import discounted_returns
from pgjax.types import Params, Trajectory

NAMES = ("random", "time limit", "continuing")


class Score(NamedTuple):
    """One formula on one problem: its relative bias, and the scale that comes closest."""

    formula: str
    problem: str
    bias: float
    scale: float
    shape_error: float


def formulas(problem: Problem) -> dict[str, Callable[[Params, Trajectory], Any]]:
    """Each formula as a gradient to ascend; the first of a pair as it is, the second completed."""
    import rlax  # pyright: ignore[reportMissingImports]  # a rival, only in requirements.txt

    γ, H = problem.mdp.discount, problem.finite_horizon
    discounts = γ ** np.arange(H)  # NumPy keeps float64 until the enumeration traces it
    table = exact.state_values(problem)  # [H, S]
    values = np.concatenate([table, np.zeros_like(table[:1])])

    def loss_gradient(advantage: Callable[..., Array], weight: Callable[[Array], Array]) -> Any:
        def loss(params: Params, row: Trajectory) -> Any:
            return rlax.policy_gradient_loss(
                row.observation @ params, row.action, advantage(params, row), weight(row.mask)
            )

        def gradient(params: Params, batch: Trajectory) -> Params:
            # A padded row holds zeros after its end, where ours may hold anything.
            padded = replace(batch, reward=jnp.where(batch.mask, batch.reward, 0))
            rows = jax.vmap(jax.grad(loss), (None, 0))(params, padded)
            return -jnp.mean(rows, axis=0)

        return gradient

    def returns(params: Params, row: Trajectory) -> Array:
        return discounted_returns(row.reward, γ)

    def vtrace(exact_values: bool) -> Callable[[Params, Trajectory], Any]:
        def advantage(params: Params, row: Trajectory) -> Any:
            final = row.final_observation[None]
            states = jnp.concatenate([row.observation, final])
            value = jnp.sum(states * values, axis=-1) * exact_values
            now, later = value[:-1], value[1:]
            discount = γ * (row.mask & ~row.terminated & ~row.truncated)
            ratio = jnp.ones_like(row.reward)  # on-policy
            return rlax.vtrace_td_error_and_advantage(
                now, later, row.reward, discount, ratio
            ).pg_advantage

        return advantage

    as_it_is = lambda mask: mask.astype(float)  # noqa: E731
    completed = lambda mask: H * discounts * mask  # noqa: E731
    return {
        "policy_gradient_loss, returns": loss_gradient(returns, as_it_is),
        "policy_gradient_loss, returns, × T γ^t": loss_gradient(returns, completed),
        "vtrace advantage, V = 0": loss_gradient(vtrace(False), as_it_is),
        "vtrace advantage, V = 0, × T γ^t": loss_gradient(vtrace(False), completed),
        "vtrace advantage, exact V": loss_gradient(vtrace(True), as_it_is),
        "vtrace advantage, exact V, × T γ^t": loss_gradient(vtrace(True), completed),
    }


def score(problem: Problem) -> list[Score]:
    """Every formula's exact bias on one tabular problem, from one enumeration."""
    found = formulas(problem)

    def every(params: Params, batch: Trajectory) -> list[Any]:
        return [gradient(params, batch) for gradient in found.values()]

    means = enumeration.moments(every, problem).mean
    truth = exact.gradient(problem).ravel()
    size = np.linalg.norm(truth)
    scores = []
    for name, mean in zip(found, means.reshape(len(found), -1), strict=True):
        scale = float(mean @ truth / size**2)
        bias, shape_error = (np.linalg.norm(mean - c * truth) / size for c in (1, scale))
        scores.append(Score(name, problem.name, float(bias), scale, float(shape_error)))
    return scores


def main() -> None:
    """Print the biases as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="exact bias for ∇J, relative; in brackets what no scale explains")
    table.add_column("rlax formula", no_wrap=True)
    columns = [score(problem) for problem in suite.problems() if problem.name in NAMES]
    for name in NAMES:
        table.add_column(name, justify="right")
    for scores in zip(*columns, strict=True):
        cells = (
            "none" if s.bias < 1e-10 else f"{s.bias:.1%} ({s.shape_error:.1%})" for s in scores
        )
        table.add_row(scores[0].formula, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
