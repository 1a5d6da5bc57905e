"""The part of `assert_unbiased` that judges estimators of ∇E[f(x)]."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from pgjax.core.validation import check_members, check_positive
from pgjax.expectations.estimates import gradient
from pgjax.expectations.estimator import (
    AnyEstimator,
    ExpectationEstimator,
    check_expectation_estimator,
    stages,
)
from pgjax.proof import statistics
from pgjax.proof.expectation_certificate import expectation_moments
from pgjax.proof.expectation_problems import Expectation, true_gradient
from pgjax.proof.expectation_problems import problems as all_expectations
from pgjax.proof.expectation_sums import UnknownLawError
from pgjax.proof.judge import Judge
from pgjax.proof.report import Finding, Report
from pgjax.types import Estimator

ExpectationCandidate = AnyEstimator | Callable[[Any], AnyEstimator]


def concerns_expectations(candidate: Any, problems: Any) -> bool:
    """Whether a call of `assert_unbiased` is about ∇E[f(x)] and not about trajectories.

    Args:
        candidate: of `assert_unbiased`.
        problems: of `assert_unbiased`.
    """
    if isinstance(candidate, ExpectationEstimator) or isinstance(problems, Expectation):
        return True
    return isinstance(problems, list | tuple) and any(isinstance(x, Expectation) for x in problems)


def judged_expectations(
    candidate: Any, problems: Any, batch_size: int | None, judge: Judge, key: Array
) -> Report:
    """The report on an estimator of ∇E[f(x)].

    Args:
        candidate: an estimator, or a function problem -> one.
        problems: expectations; None takes those of the suite that the estimator is for.
        batch_size: N, and no other; None takes 2, and 1 where the estimator accepts one sample.
        judge: of `assert_unbiased`.
        key: for sampling, where draws cannot be listed.
    """
    given = [problems] if isinstance(problems, Expectation) else problems
    chosen = all_expectations() if given is None else given
    fix = "give Expectation records, and no MDPs beside them"
    chosen = check_members("problems", chosen, Expectation, fix)
    if not chosen:
        raise ValueError(
            "problems must hold at least one problem, got none: nothing would be judged"
        )
    findings: list[Finding] = []
    sizes = (2, 1) if batch_size is None else (check_positive("batch_size", batch_size),)
    for problem in chosen:
        is_maker = not isinstance(candidate, ExpectationEstimator | Estimator)
        estimator: Any = candidate(problem) if is_maker and callable(candidate) else candidate
        check_expectation_estimator(estimator)
        key, sample_key = jax.random.split(key)
        try:
            findings.append(_finding(estimator, problem, sizes, judge, sample_key))
        except ValueError:
            if given is not None:
                raise  # in the suite, an estimator of coins meets normals
    if not findings:
        raise ValueError("problems must be given, got None: no problem of the suite fits")
    return Report(tuple(findings), _not_seen(findings, sizes))


def _finding(
    estimator: AnyEstimator, problem: Expectation, sizes: Sequence[int], judge: Judge, key: Array
) -> Finding:
    three: Any = stages(estimator)
    K = three.term.settings["group_size"] if three.law == "groups" else 0
    truth = true_gradient(problem, group_size=K)
    if not np.linalg.norm(truth):
        raise ValueError(
            f"problems must have ∇E[f] other than 0, got {problem.name} with ∇E[f] = 0; take other "
            "params"
        )
    try:
        return _by_listing(estimator, problem, truth, sizes, judge)
    except UnknownLawError:
        return _by_sampling(estimator, problem, truth, sizes[0], judge, key)


def _by_listing(
    estimator: AnyEstimator,
    problem: Expectation,
    truth: np.ndarray,
    sizes: Sequence[int],
    judge: Judge,
) -> Finding:
    found: dict[int, np.ndarray] = {}
    refused: list[ValueError] = []
    for size in sizes:
        try:
            found[size] = expectation_moments(estimator, problem, num_samples=size).mean
        except ValueError as error:  # of one sample, where two are needed, or of too many draws
            refused.append(error)
    if not found:
        raise next((e for e in refused if not isinstance(e, UnknownLawError)), refused[0])
    worst = max(found, key=lambda size: float(np.linalg.norm(found[size] - truth)))
    seen = " and ".join(map(str, sorted(found)))
    detail = f"exact, over all draws of {seen} samples"
    return _judged(problem, truth, found[worst], "enumeration", judge.tolerance, detail, judge)


def _by_sampling(
    estimator: AnyEstimator,
    problem: Expectation,
    truth: np.ndarray,
    size: int,
    judge: Judge,
    key: Array,
) -> Finding:
    params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float32), problem.params)

    def one(key: Array) -> Array:
        found = gradient(estimator, problem.f, problem.distribution, params, key, num_samples=size)
        return ravel_pytree(found)[0]

    def draw(key: Array) -> Array:
        return jax.vmap(one)(jax.random.split(key, 1024))

    test = statistics.mean_test(
        draw,
        truth,
        key,
        margin=judge.margin,
        alpha=judge.alpha,
        max_samples=judge.max_samples,
    )
    detail = f"{test.num_samples:,} estimates of {size} samples, p = {test.p_value:.2g}"
    found = _judged(problem, truth, test.mean, "sampling", judge.margin, detail, judge)
    return found._replace(passed=test.passed, is_theorem=False)


def _judged(
    problem: Expectation,
    truth: np.ndarray,
    mean: np.ndarray,
    tier: str,
    tolerance: float,
    detail: str,
    judge: Judge,
) -> Finding:
    size = float(np.linalg.norm(truth))
    scale = float(mean @ truth) / size**2
    bias = float(np.linalg.norm(mean - truth)) / size
    shape_error = float(np.linalg.norm(mean - scale * truth)) / size
    is_scaled = scale > 0 and shape_error <= tolerance * max(scale, 1e-300)
    passed = bias <= tolerance or (judge.up_to_scale and is_scaled)
    at = int(np.argmax(np.abs(mean - truth)))
    worst = f"furthest off at parameter {at}: expected {truth[at]:.6g}, got {mean[at]:.6g}"
    return Finding(
        problem.name,
        tier,
        passed,
        bias,
        scale,
        shape_error,
        tolerance,
        detail,
        worst="" if passed else worst,
        hint="" if passed else _hint(scale, shape_error, bias, tolerance),
        acting="",
    )


def _hint(scale: float, shape_error: float, bias: float, tolerance: float) -> str:
    """The known mistake that gives this mean, in words; "" if there is none."""
    if shape_error > tolerance * max(abs(scale), 1):
        return ""
    if abs(scale) <= tolerance:
        return "the mean is zero: is the log-probability behind a stop_gradient, or never used?"
    if scale < 0:
        return "the sign is wrong, and the size may be: is f's derivative taken where x never is?"
    return (
        f"a pure scale, E[ĝ] = {scale:.6g} ∇E[f]: is f(x)'s own mean subtracted from it? "
        "Judge(up_to_scale=True) accepts that"
    )


def _not_seen(findings: Sequence[Finding], sizes: Sequence[int]) -> str:
    """The limits of the proof, in one sentence."""
    names = ", ".join(dict.fromkeys(finding.problem for finding in findings))
    return (
        f"not looked at: more than {max(sizes)} samples, other functions and distributions than "
        f"{names}, float32, and what changes from call to call"
    )
