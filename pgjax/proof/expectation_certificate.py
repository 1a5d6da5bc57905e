"""The certificate of estimators of ∇E[f(x)]: exact bias, variance, and variance per evaluation.

Every batch of draws of an estimator is listed with its probability, and its estimates are summed in
float64. No random number is drawn.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

import pgjax
from pgjax import expectations
from pgjax.core.compilation import jit_once
from pgjax.core.float64 import in_float64
from pgjax.core.validation import check_kind, check_members, check_positive
from pgjax.expectations.distributions import Distribution
from pgjax.expectations.estimates import gradients_of_draws
from pgjax.expectations.estimator import AnyEstimator, check_expectation_estimator, stages
from pgjax.expectations.integrands import Integrand, as_integrand
from pgjax.proof.expectation_laws import listed_draws
from pgjax.proof.expectation_problems import (
    Expectation,
    float64_params,
    problems,
    true_gradients,
)
from pgjax.proof.registry.rows_expectations import EXPECTATIONS, ExpectationRow
from pgjax.types import Moments, Params


class ExpectationCertificate(NamedTuple):
    """The exact properties of one estimator on one expectation.

    Attributes:
        row: of the registry.
        problem: its name.
        truth: [P] the exact gradient.
        moments: of one estimate, from `row.num_samples` samples.
        evaluations: of f in one estimate.
    """

    row: ExpectationRow
    problem: str
    truth: Float[np.ndarray, "P"]
    moments: Moments
    evaluations: int

    @property
    def bias(self) -> float:
        """Relative bias, ‖E ĝ − truth‖ / ‖truth‖."""
        return float(np.linalg.norm(self.moments.mean - self.truth) / np.linalg.norm(self.truth))

    @property
    def variance(self) -> float:
        """Total variance of one estimate, tr Σ."""
        return float(self.moments.total_variance)

    @property
    def variance_per_evaluation(self) -> float:
        """Tr Σ times the evaluations of f: the variance for the cost of one evaluation."""
        return self.variance * self.evaluations


@in_float64
def expectation_moments(
    estimator: AnyEstimator, problem: Expectation, *, num_samples: int = 1
) -> Moments:
    """The exact mean and covariance of one estimate of ∇E[f(x)] from N samples.

    Args:
        estimator: an ExpectationEstimator with a `law`, or an Estimator.
        problem: small.
        num_samples: N, small: batches are listed.

    Returns:
        Moments over the flattened parameters, float64.

    Raises:
        UnknownLawError: if the draws cannot be listed.

    Bias: exact; see `proof.expectation_laws` for quadrature.

    Example:
        >>> from pgjax import expectations
        >>> coin = problems()[0]
        >>> found = expectation_moments(expectations.arm(), coin)
        >>> round(float(found.mean[0]), 6), round(float(found.total_variance), 6)
        (0.021, 0.000339)
    """
    check_expectation_estimator(estimator)
    check_kind("problem", problem, Expectation, "pgjax.Expectation(f, p, params) is one")
    N = check_positive("num_samples", num_samples)
    return _moments([estimator], problem, [N])[0]


def _moments(
    estimators: Sequence[AnyEstimator], problem: Expectation, sizes: Sequence[int]
) -> list[Moments]:
    """Moments of each estimator in one program, because tracing and compiling take the time."""
    params, p = float64_params(problem), problem.distribution
    laws = listed_draws([stages(each) for each in estimators], p, params, sizes)
    draws = [jax.tree.map(np.asarray, law[0]) for law in laws]
    # A new function each time: a value that f closes over may have changed since the last trace.
    evaluate = jit_once(partial(_estimates))
    estimates = evaluate(list(estimators), as_integrand(problem.f), p, params, draws)
    found = []
    for (_, probability), each in zip(laws, map(np.asarray, estimates), strict=True):
        mean = probability @ each
        central = each - mean
        found.append(Moments(mean, (probability[:, None] * central).T @ central))
    return found


def _estimates(
    estimators: list[AnyEstimator], f: Integrand, p: Distribution, params: Params, draws: list[Any]
) -> list[Array]:
    """[B, P] of each estimator: its estimate from each of its B batches of draws."""

    def of_batch(estimator: AnyEstimator, draws: Any) -> Array:
        found = jax.tree.leaves(gradients_of_draws(estimator, f, p, params, draws))
        rows = [leaf.reshape(len(leaf), -1) for leaf in found]
        return jnp.mean(jnp.concatenate(rows, axis=1), axis=0)

    pairs = zip(estimators, draws, strict=True)
    return [jax.vmap(of_batch, (None, 0))(estimator, each) for estimator, each in pairs]


def certify_expectations(
    rows: Sequence[ExpectationRow] = EXPECTATIONS, given: Sequence[Expectation] | None = None
) -> list[ExpectationCertificate]:
    """Every row on every problem that it is for; exactly.

    Args:
        rows: of the registry, or like them.
        given: problems; the suite by default.

    Returns:
        Certificates, problem by problem.

    Bias: exact.

    Example:
        >>> (found,) = certify_expectations(
        ...     [ExpectationRow("DisARM", "expectations.disarm()", "none", ("coin",))])
        >>> found.bias < 1e-12
        True
    """
    fix = "pgjax.registry.EXPECTATIONS are some"
    rows = check_members("rows", rows, ExpectationRow, fix)
    suite = problems() if given is None else given
    suite = check_members("given", suite, Expectation, "pgjax.Expectation(f, p, params) is one")
    found = []
    for problem in suite:
        chosen = [row for row in rows if problem.name in row.problems]
        found += _certify(chosen, problem) if chosen else []
    return found


@in_float64
def evaluate_code(code: str, problem: Expectation) -> AnyEstimator:
    """The estimator that a row's code makes on a problem.

    Args:
        code: of a row.
        problem: whose f, distribution and params the code may name.

    Raises:
        NameError: if the code uses a name without a meaning.
    """
    check_kind("code", code, str, "an expression, such as 'expectations.arm()'")
    check_kind("problem", problem, Expectation, "pgjax.Expectation(f, p, params) is one")
    names = {
        "pgjax": pgjax,
        "expectations": expectations,
        "jnp": jnp,
        "f": problem.f,
        "distribution": problem.distribution,
        "params": float64_params(problem),
        **_moving_average(),
    }
    return eval(code, names)


@cache
@in_float64
def _moving_average() -> dict[str, Any]:
    """A moving average, and its state after one value, float64."""
    average = expectations.MovingAverage(0.9)
    return {"average": average, "seen": average.update(average.init(), jnp.ones(1))}


@in_float64
def _certify(rows: Sequence[ExpectationRow], problem: Expectation) -> list[ExpectationCertificate]:
    estimators = [evaluate_code(row.code, problem) for row in rows]
    moments = _moments(estimators, problem, [row.num_samples for row in rows])
    groups = {row: _group_size(row) for row in rows}
    truth = true_gradients(problem, tuple(dict.fromkeys(groups.values())))
    natural, listed = problem.distribution.natural, problem.distribution.outcomes
    params = float64_params(problem)
    values = () if natural is None else jax.tree.leaves(natural(params).values)
    sizes = {
        "P": sum(np.size(x) for x in values),
        "M": 0 if listed is None else len(listed(params)),
    }
    return [
        ExpectationCertificate(
            row,
            problem.name,
            truth[groups[row]],
            found,
            eval(row.evaluations, sizes | {"N": row.num_samples}),
        )
        for row, found in zip(rows, moments, strict=True)
    ]


def _group_size(row: ExpectationRow) -> int:
    """K of "∇ bound of K"; 0 for ∇E[f]."""
    return 0 if row.estimand == "∇E[f]" else int(row.estimand.rpartition(" ")[2])


def refuted(certificates: Sequence[ExpectationCertificate]) -> list[str]:
    """The rows whose statement of bias is wrong, one sentence each.

    Args:
        certificates: of all problems of a row; one alone may hide a bias.

    Returns:
        Sentences; none if every statement holds.

    Bias: does not apply.
    """
    certificates = _checked(certificates)
    found = []
    for row in dict.fromkeys(c.row for c in certificates):
        worst = max(c.bias for c in certificates if c.row == row)
        if row.is_unbiased and worst > 1e-10:
            found.append(f'{row.name}: its row says "{row.bias}", but its bias is {worst:.2g}')
        elif not row.is_unbiased and worst <= 1e-10:
            found.append(f'{row.name}: its row says "{row.bias}", but it has none on any problem')
    return found


def table(certificates: Sequence[ExpectationCertificate]) -> str:
    """A table of one problem as text: bias in per cent, variance, and variance per evaluation.

    Args:
        certificates: of one problem.

    Returns:
        Lines; "variance" is that of one estimate, "evaluations" are those of f in it, and "product"
        is the variance times the evaluations.

    Bias: does not apply.
    """
    certificates = _checked(certificates)
    width = max(len(c.row.name) for c in certificates) if certificates else 0
    lines = [f"{'':{width}} {'bias':>8} {'variance':>10} {'evaluations':>12} {'product':>10}"]
    for c in certificates:
        bias = "none" if c.bias <= 1e-10 else f"{100 * c.bias:.1f}%"
        variance = c.variance if c.variance > 1e-20 else 0.0  # less is rounding
        figures = f"{variance:10.3g} {c.evaluations:12d} {variance * c.evaluations:10.3g}"
        lines.append(f"{c.row.name:{width}} {bias:>8} {figures}")
    return "\n".join(lines)


def _checked(certificates: Any) -> tuple[ExpectationCertificate, ...]:
    fix = "certify_expectations() gives some"
    return check_members("certificates", certificates, ExpectationCertificate, fix)
