"""A row of the registry: the code of an estimator, what is claimed of it, and how it is evaluated.

`Row.code` runs as written after `import math, jax, pgjax`, so the code that a table prints is the
code that was certified. On each problem these names have a meaning:

- `problem`, with its `policy`, `γ` and `num_actions`; states are one-hot, whatever the policy sees;
- `params`, `batch`: the arguments of a gradient; code that names `batch` is a function of the two.
  The batch holds the exact V_t(s_t) as `value`, and the exact Q_t(s_t, a_t) as `action_value`;
- `J`: the mean return; `G`: [H] E[G_t], episodes that have ended counted as zero; `b`: the function
  of one observation that minimises the variance of reward-to-go;
- `old`: the parameters θ/2 of another policy: a reference, and the one that acts off-policy;
  `π_old`: [S, A] its probabilities;
- `Q(batch)`: [N, T, A] exact values of all actions; `Q_old(batch)`: those of the policy `old`;
- `wrong(batch)`: the batch with a wrong V, off by cos(s)/2 in state number s;
- `β` = 0.5, in units of reward per nat.
"""

import ast
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import pgjax
from pgjax import exact
from pgjax.core import episode_boundaries as boundaries
from pgjax.core.validation import check_kind
from pgjax.enumeration import Function
from pgjax.exact.problem import Problem, check_problem
from pgjax.types import Estimator, Moments, Params, Trajectory


class Row(NamedTuple):
    """An estimator as the certificate needs it.

    Attributes:
        name: as tables and pictures print it.
        code: an expression, see the module: an Estimator, a gradient from `params` and `batch`, or
            the exact Moments of one estimate, if its batches are not independent trajectories.
        weights: the credit of an action, as a formula.
        term: the name of its term.
        bias: for ∇J, or for `truth`. It begins with "none" if and only if the bias is zero on the
            whole suite, in batches of `batch_size`; the certificate refutes a false claim.
        batch_size: K, the trajectories that one estimate takes; more than one if it couples them.
        off_policy: whether the policy of `old` acts, and the batch has its `log_prob`, while the
            gradient is that of the problem's own policy.
        estimand: what it estimates, if that is not ∇J.
        truth: code of the exact estimand, a pytree like the parameters.
        make: Problem -> Estimator or function (params, batch) -> gradient, in place of the code;
            for an estimator of your own.
    """

    name: str
    code: str
    weights: str
    term: str
    bias: str
    batch_size: int = 1
    off_policy: bool = False
    estimand: str = "∇J"
    truth: str = "pgjax.exact.gradient(problem)"
    make: Callable[[Problem], Estimator | Function] | None = None

    @property
    def is_unbiased(self) -> bool:
        """Whether the row claims so."""
        return self.bias.startswith("none")

    def estimate(self, problem: Problem) -> Estimator | Function | Moments:
        """What the code is on a problem.

        Args:
            problem: with states one-hot, and a `behaviour`.

        Bias: does not apply.
        """
        return evaluate(self.code, problem) if self.make is None else self.make(problem)


def evaluate(code: str, problem: Problem) -> Any:
    """The value of a row's code on a problem; a function (params, batch) if it names `batch`.

    Args:
        code: an expression.
        problem: with states one-hot, and a `behaviour`.

    Raises:
        NameError: if the code uses a name without a meaning.
        ValueError: if `code` is not an expression.

    Bias: does not apply.

    Example:
        >>> from pgjax import suite
        >>> round(evaluate("γ * J", suite.problems()[0]), 6)
        0.311553
    """
    check_kind("code", code, str, "an expression, such as 'reinforce(γ)'")
    check_problem(problem)
    try:
        tree = ast.parse(code, mode="eval")
    except SyntaxError as error:
        raise ValueError(f"code must be an expression, got {code!r}: {error.msg}") from None
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names = {"pgjax": pgjax, "jax": jax, "math": math}
    names |= {name: _NAMES[name](problem) for name in used & _NAMES.keys()}
    compiled = compile(tree, code, "eval")
    if "batch" not in used:
        return eval(compiled, names)

    def estimate(params: Params, batch: Trajectory) -> Any:
        return eval(compiled, names | {"params": params, "batch": batch})

    return estimate


def _mean_returns_to_go(problem: Problem) -> Float[np.ndarray, "T"]:
    discounted = np.sum(exact.visitation(problem) * exact.state_values(problem), axis=-1)
    return discounted / problem.mdp.discount ** np.arange(problem.finite_horizon)


def _least_variance_value(problem: Problem) -> Callable[[Any], Any]:
    table = exact.optimal_state_baseline(problem)
    return lambda observation: jnp.dot(observation, jnp.asarray(table, observation.dtype))


def _action_values(problem: Problem, params: Params) -> Callable[[Trajectory], Any]:
    table = exact.action_values(replace(problem, params=params))
    return lambda batch: jnp.einsum("nts,tsa->nta", batch.observation, jnp.asarray(table))


def _wrong_values(problem: Problem) -> Callable[[Trajectory], Trajectory]:
    states = jnp.arange(problem.mdp.num_states)

    def wrong(batch: Trajectory) -> Trajectory:
        value = boundaries.values(batch)
        error = batch.observation @ (jnp.cos(states.astype(value.dtype)) / 2)
        return replace(batch, value=value + error)

    return wrong


_NAMES: dict[str, Callable[[Problem], Any]] = {
    "problem": lambda problem: problem,
    "policy": lambda problem: problem.policy,
    "num_actions": lambda problem: problem.mdp.num_actions,
    "γ": lambda problem: problem.mdp.discount,
    "J": lambda problem: float(problem.mdp.initial @ exact.state_values(problem)[0]),
    "G": lambda problem: jnp.asarray(_mean_returns_to_go(problem)),
    "b": _least_variance_value,
    "old": lambda problem: problem.behaviour,
    "π_old": lambda problem: exact.action_probabilities(replace(problem, params=problem.behaviour)),
    "Q": lambda problem: _action_values(problem, problem.params),
    "Q_old": lambda problem: _action_values(problem, problem.behaviour),
    "wrong": _wrong_values,
    "β": lambda problem: 0.5,
}
