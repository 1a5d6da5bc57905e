"""`assert_unbiased`: a proof or a refutation of any estimator, with a report.

Tier 1 enumerates: the expectation over all batches, exactly, in float64. Tier 3 samples: a
sequential test with stated rates of error, for problems too large to enumerate and for whole
rollout pipelines. (Tier 2, the Bellman equation for moments in `exact`, knows only the estimates
that it was derived for, and can prove nothing about a user's code.)
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from inspect import isroutine
from math import comb
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Key

from pgjax import enumeration, exact
from pgjax.core.float64 import flatten
from pgjax.core.validation import check_key, check_members, check_positive
from pgjax.enumeration import Function
from pgjax.exact.problem import Problem
from pgjax.proof import statistics
from pgjax.proof.candidates import (
    NOT_PURE,
    Candidate,
    Rollout,
    check_repeats,
    estimate_on,
    library_rollout,
    resolve,
)
from pgjax.proof.judge import DEFAULT_JUDGE, Judge, check_judge
from pgjax.proof.problems import off_policy
from pgjax.proof.problems import problems as all_problems
from pgjax.proof.report import ITSELF, Finding, Report
from pgjax.types import Estimator, KeyLike, Params, Trajectory, check_function, describe

if TYPE_CHECKING:
    from pgjax.proof.expectation_problems import Expectation
    from pgjax.proof.unbiased_expectations import ExpectationCandidate

OTHER = "another policy, of parameters θ/2,"
GIVEN = "the behaviour policy given"
OTHER_SIZES = (1, 3)
"""Sizes of batches that are judged by default besides two."""
FEW = 20_000
"""If a problem has more ordered batches of three than this, these sizes are left out."""


def assert_unbiased(
    candidate: "Candidate | ExpectationCandidate",
    problems: "Problem | Expectation | Sequence[Problem] | Sequence[Expectation] | None" = None,
    *,
    batch_size: int | None = None,
    judge: Judge = DEFAULT_JUDGE,
    rollout: Rollout | Callable[[Problem], Rollout] | None = None,
    behaviour: Callable[[Problem], Params] | None = None,
    key: KeyLike | None = None,
) -> Report:
    """Assert that an estimator's expectation is ∇J, by the strongest proof that applies.

    E[ĝ(batch)] = ∇J(θ), over the trajectories of each problem. An estimator of expectations is
    judged on `Expectation`s, E[ĝ(draws)] = ∇θ E[f(x)]; so is an Estimator if such are given.

    Args:
        candidate: an Estimator, a function (params, batch) -> gradient, or a function of one
            argument, problem -> either of these, for code that needs the problem's γ, policy or V;
            or an ExpectationEstimator, or a function problem -> one.
        problems: what to judge it on; the suite, `suite.problems()`, if None. `Expectation`s for
            an estimator of expectations; those of its suite that it is for, if None.
        batch_size: K, the trajectories in a batch; only this size is judged. None judges batches of
            2, and of 1 and 3 where batches of 3 are few enough to list. A size that the candidate
            refuses is left out (a leave-one-out baseline needs 2, a group estimator whole groups),
            and so are 1 and 3 if it is accepted up to scale.
        judge: how large a bias is refused, at which rates of error, and how much work is spent.
        rollout: (params, key) -> batch of K, your own pipeline, or problem -> such a function. The
            pipeline itself is then tested too, by sampling: its mean, the independence of its
            trajectories, every field that it writes and, if it can be enumerated, their law.
        behaviour: problem -> parameters of the policy that acts; `lambda problem: problem.params`
            lets the policy itself act, and no other. If None, the policy itself acts, or the
            problem's own `behaviour`; a candidate that reads `batch.log_prob` is then judged on
            trajectories of another policy too.
        key: for sampling; `jax.random.key(0)` if None.

    Returns:
        Report, if everything passed.

    Raises:
        AssertionError: if there is a bias; the message is the report.
        statistics.InconclusiveError: if `judge.max_samples` do not suffice; it names what would.
        ValueError: if a gradient is not finite or has another structure than the parameters; if the
            candidate answers differently when called twice; if there is no problem, or a problem's
            ∇J is zero.
        TypeError: if the candidate is neither an Estimator nor a function, or JAX cannot trace it;
            if a problem is not a Problem.

    Bias: an exact proof holds for the batch size and the problems given, not for all; the last line
        of the report says what was not looked at.

    Example:
        >>> import pgjax
        >>> print(assert_unbiased(lambda problem: pgjax.reward_to_go(problem.mdp.discount)).passed)
        True
    """
    first_key = None if key is None else check_key(key)
    K = check_positive("batch_size", 2 if batch_size is None else batch_size)
    check_judge(judge)
    if not _concerns_trajectories(candidate, problems):
        from pgjax.proof.unbiased_expectations import judged_expectations

        for name, value in (("rollout", rollout), ("behaviour", behaviour)):
            if value is not None:
                raise ValueError(f"{name} must be None for an expectation, got {describe(value)}")
        report = judged_expectations(candidate, problems, batch_size, judge, _sample_key(first_key))
        if not report.passed:
            raise AssertionError(str(report))
        return report
    if rollout is not None:
        check_function("rollout", rollout, "(params, key) -> batch, or problem -> such a function")
    if behaviour is not None:
        check_function("behaviour", behaviour, "problem -> params")
    others = OTHER_SIZES if batch_size is None and not judge.up_to_scale else ()
    on_trial: Any = candidate
    chosen = _chosen(problems)
    check_repeats(estimate_on(on_trial, chosen[0]), chosen[0], K)
    findings = []
    for index, problem in enumerate(chosen):
        acting = GIVEN
        if behaviour is not None:
            problem = replace(problem, behaviour=behaviour(problem))
        if problem.behaviour is None or _is_same(problem.behaviour, problem.params):
            problem, acting = replace(problem, behaviour=None), ITSELF
        estimate = estimate_on(on_trial, problem)
        trial = _Trial(problem, estimate, K, others, judge, _truth(problem), acting)
        sample_key = partial(_sample_key, first_key, index)
        found, reads_log_prob = _judged(trial, rollout, sample_key)
        findings += found
        if behaviour is None and acting == ITSELF and rollout is None and reads_log_prob:
            other = off_policy(problem)
            estimate = estimate_on(on_trial, other)
            trial = trial._replace(problem=other, estimate=estimate, acting=OTHER)
            findings += _judged(trial, None, sample_key)[0]
    report = Report(tuple(findings), _not_seen(findings, chosen))
    if not report.passed:
        raise AssertionError(str(report))
    return report


def _concerns_trajectories(candidate: Any, problems: Any) -> bool:
    """Whether trajectories are judged, and not ∇E[f(x)], whose modules take long to import."""
    given = problems if isinstance(problems, list | tuple) else [problems]
    of_mdps = all(problem is None or isinstance(problem, Problem) for problem in given)
    if of_mdps and (isinstance(candidate, Estimator) or isroutine(candidate)):
        return True
    from pgjax.proof.unbiased_expectations import concerns_expectations

    return not concerns_expectations(candidate, problems)


def _chosen(problems: Any) -> tuple[Problem, ...]:
    if problems is None:
        return all_problems()
    given = (problems,) if isinstance(problems, Problem) else problems
    chosen = check_members(
        "problems", given, Problem, "pgjax.suite.problems() makes those of the suite"
    )
    if not chosen:
        raise ValueError(
            "problems must hold at least one problem, got none: nothing would be judged"
        )
    return chosen


def _sample_key(first_key: Key[Array, ""] | None, index: int | None = None) -> Key[Array, ""]:
    """The key of problem `index`; it is made only for sampling, because it takes two programs."""
    key = jax.random.key(0) if first_key is None else first_key
    if index is None:
        return key
    for _ in range(index):
        key, _ = jax.random.split(key)
    return jax.random.split(key)[1]


def _is_same(one: Params, other: Params) -> bool:
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


def _not_seen(findings: Sequence[Finding], problems: Sequence[Problem]) -> str:
    """The limits of the proof, in one sentence."""
    unproved = "" if all(f.is_theorem for f in findings) else ", some orders within a batch"
    acting = {finding.acting for finding in findings}
    policies = ", other policies that act" if acting != {ITSELF} else ", batches of another policy"
    horizon = max(problem.finite_horizon for problem in problems)
    return (
        f"not looked at: {_sizes_not_seen(findings)}, episodes of more than {horizon} steps, "
        f"float32, continuous actions{policies}{unproved}, and what changes from call to call"
    )


def _sizes_not_seen(findings: Sequence[Finding]) -> str:
    """The sizes of batches that were not judged, in words."""
    sizes: dict[str, set[int]] = {}
    for finding in findings:
        if finding.batch_sizes:
            sizes.setdefault(finding.problem, set()).update(finding.batch_sizes)
    seen = set[int]().union(*sizes.values())
    if len(seen) == 1:
        return f"batches of another size than {seen.pop()}"
    missing: dict[str, list[str]] = {}
    for size in sorted({*range(1, max(seen)), *seen}):
        on = [problem for problem, found in sizes.items() if size not in found]
        if on:
            where = f" on {', '.join(on)}" if len(on) < len(sizes) else ""
            missing.setdefault(where, []).append(str(size))
    words = [f"of {' and '.join(each)}{where}" for where, each in missing.items()]
    return ", ".join([f"batches of more than {max(seen)}", *words])


class _Trial(NamedTuple):
    """An estimate on trial, on one problem."""

    problem: Problem
    estimate: Function
    batch_size: int
    other_sizes: tuple[int, ...]  # judged too, where that is cheap
    judge: Judge
    truth: np.ndarray  # [P]
    acting: str


def _judged(
    trial: _Trial, rollout: Any, sample_key: Callable[[], Key[Array, ""]]
) -> tuple[list[Finding], bool]:
    """The findings of one trial, and whether the estimate reads `batch.log_prob`."""
    problem, K = trial.problem, trial.batch_size
    findings, reads_log_prob = [], False
    if _num_batches(problem, K) <= trial.judge.limit:
        finding, reads_log_prob = _by_enumeration(trial)
        findings.append(finding)
    elif rollout is None:
        found, batches = _by_sampling(trial, library_rollout(problem, K), sample_key())
        findings += found
        reads_log_prob = _reads_log_prob(trial, jax.tree.map(lambda x: x[0], batches))
    if rollout is not None:
        findings += _by_sampling(trial, resolve(rollout, problem), sample_key())[0]
    return findings, reads_log_prob


def _reads_log_prob(trial: _Trial, batch: Trajectory) -> bool:
    noise = np.sin(1.0 + np.arange(batch.log_prob.size, dtype=batch.log_prob.dtype))
    other = replace(batch, log_prob=batch.log_prob + noise.reshape(batch.log_prob.shape))
    estimate = jax.jit(trial.estimate)
    found = (estimate(trial.problem.params, each) for each in (batch, other))
    pairs = zip(*map(jax.tree.leaves, found), strict=True)
    return not all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def _num_batches(problem: Problem, K: int) -> int:
    M = enumeration.count(problem)
    return comb(M + K - 1, K)


def _truth(problem: Problem) -> np.ndarray:
    truth = flatten(exact.gradient(problem))
    if not np.linalg.norm(truth) > 1e-12:
        raise ValueError(
            f"problem {problem.name} has a zero gradient, which shows no bias; take other params"
        )
    return truth


def _by_enumeration(trial: _Trial) -> tuple[Finding, bool]:
    """One finding for all sizes of batches: of the size asked for, unless only another is wrong."""
    found = [_enumerated(trial)]
    if enumeration.count(trial.problem) ** max(trial.other_sizes, default=0) <= FEW:
        for size in trial.other_sizes:
            try:
                found.append(_enumerated(trial._replace(batch_size=size)))
            except Exception:  # it needs whole groups, or another trajectory to compare with
                continue
    first, *others = findings = [finding for finding, _ in found]
    wrong = [finding for finding in findings if not finding.passed]
    whole = first if first in wrong or not wrong else max(wrong, key=lambda finding: finding.bias)
    right = [finding for finding in (findings if wrong else others) if finding.passed]
    sizes = " and ".join(str(size) for finding in right for size in finding.batch_sizes)
    also = f"; right in batches of {sizes}" if wrong else f", and all of {sizes}"
    whole = whole._replace(
        detail=whole.detail + also if right else whole.detail,
        is_theorem=all(finding.is_theorem for finding in findings),
        batch_sizes=tuple(size for finding in findings for size in finding.batch_sizes),
    )
    return whole, any(reads_log_prob for _, reads_log_prob in found)


def _enumerated(trial: _Trial) -> tuple[Finding, bool]:
    """The finding of batches of one size, and whether the estimate reads `batch.log_prob`."""
    problem, K, judge = trial.problem, trial.batch_size, trial.judge
    found = enumeration.examine(trial.estimate, problem, batch_size=K, limit=judge.limit)
    whole, M = K == 1 or found.over_tuples, enumeration.count(problem)
    if K == 1:
        detail = f"exact, over all {M:,} trajectories"
    elif whole:
        detail = f"exact, over all {M**K:,} ordered batches of {K}"
    else:
        detail = f"exact, over all {comb(M + K - 1, K):,} batches of {K}; their orders were sampled"
    finding = _finding(trial, "enumeration", found.moments.mean, judge.tolerance, detail)
    finding = finding._replace(is_theorem=whole)
    if not found.repeats:
        raise ValueError(NOT_PURE)
    if found.reads_padding:
        finding = finding._replace(
            passed=False,
            worst="it reads rewards or log-probabilities where batch.mask is false: NaN there "
            "changes the estimate",
            hint="use jnp.where(batch.mask, x, 0): a product with the mask can keep a NaN",
        )
    return finding, found.reads_log_prob


def _by_sampling(
    trial: _Trial, rollout: Rollout, key: Key[Array, ""]
) -> tuple[list[Finding], Trajectory]:
    """Findings, and the batches drawn, of NumPy.

    Independence and the law are tested first, because the test of the mean assumes them.
    """
    problem, judge = trial.problem, trial.judge
    mean_key, batches_key = jax.random.split(key)
    acting, params = (
        jax.tree.map(lambda x: jax.device_put(np.asarray(x, np.float32)), tree)
        for tree in (problem.acting_params, problem.params)
    )
    draws = jax.jit(jax.vmap(partial(rollout, acting)))
    batches = jax.device_get(draws(jax.random.split(batches_key, 4096)))
    findings = [
        finding._replace(acting=trial.acting)
        for finding in _pipeline_findings(problem, batches, judge)
    ]
    if not all(finding.passed for finding in findings):
        return findings, batches

    def draw(key: Array) -> Array:
        def one(key: Array) -> Array:
            return ravel_pytree(trial.estimate(params, rollout(acting, key)))[0]

        return jax.vmap(one)(jax.random.split(key, 1024))

    test = statistics.mean_test(
        draw,
        trial.truth,
        mean_key,
        margin=judge.margin,
        alpha=judge.alpha,
        max_samples=judge.max_samples,
    )
    every = test.num_directions == trial.truth.size
    directions = "" if every else f", {test.num_directions} directions"
    detail = (
        f"{test.num_samples:,} batches of {trial.batch_size}{directions}, p = {test.p_value:.2g}, "
        f"false alarm and false pass {judge.alpha:g}"
    )
    mean = _finding(trial, "sampling", test.mean, judge.margin, detail)
    return [*findings, mean._replace(passed=test.passed)], batches


def _pipeline_findings(problem: Problem, batches: Trajectory, judge: Judge) -> list[Finding]:
    """Independence within batches of at least two, and the law if it can be enumerated."""
    findings = []
    wrong = _wrong_fields(problem, batches, judge)
    for name, what in wrong.items():
        findings.append(
            _about_pipeline(
                problem, "record", False, f"batch.{name} is wrong", f"batch.{name}: {what}", ""
            )
        )
    if batches.reward.shape[1] > 1:
        independence = statistics.independence_test(batches, alpha=judge.alpha)
        findings.append(
            _about_pipeline(
                problem,
                "independence",
                independence.passed,
                f"batch-variance ratio {independence.variance_ratio:.3g} (1 if independent)",
                "trajectories of one batch share randomness",
                "split the key: one child for each trajectory of the batch",
            )
        )
    if _num_batches(problem, 1) <= judge.limit and batches.reward.shape[2] == problem.horizon:
        first_of_each = jax.tree.map(lambda x: x[:, 0], batches)
        law = statistics.law_test(first_of_each, problem, alpha=judge.alpha)
        impossible = f", {law.num_impossible} impossible" if law.num_impossible else ""
        findings.append(
            _about_pipeline(
                problem,
                "law",
                law.passed,
                f"chi-square over {law.num_cells} cells, p = {law.p_value:.2g}{impossible}",
                "trajectories do not follow P(τ)",
                "draw actions from the very policy that is scored, each with a fresh key",
            )
        )
    return findings


def _wrong_fields(problem: Problem, batches: Trajectory, judge: Judge) -> dict[str, str]:
    if batches.reward.shape[2] != problem.horizon:
        return {}
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
    wrong = statistics.wrong_fields(flat, problem)
    if _num_batches(problem, 1) <= judge.limit:
        final = statistics.wrong_final_observation(flat, problem)
        wrong |= {"final_observation": final} if final else {}
    return wrong


def _about_pipeline(
    problem: Problem, what: str, passed: bool, detail: str, worst: str, hint: str
) -> Finding:
    if passed:
        worst = hint = ""
    return Finding(problem.name, what, passed, 0.0, 1.0, 0.0, 0.0, detail, worst, hint)


def _finding(trial: _Trial, tier: str, mean: np.ndarray, tolerance: float, detail: str) -> Finding:
    truth = trial.truth
    size = float(np.linalg.norm(truth))
    scale = float(mean @ truth) / size**2
    bias = float(np.linalg.norm(mean - truth)) / size
    shape_error = float(np.linalg.norm(mean - scale * truth)) / size
    is_scaled = scale > 0 and shape_error <= tolerance * max(scale, 1e-300)
    passed = bias <= tolerance or (trial.judge.up_to_scale and is_scaled)
    return Finding(
        acting=trial.acting,
        batch_sizes=(trial.batch_size,),
        problem=trial.problem.name,
        tier=tier,
        passed=passed,
        bias=bias,
        scale=scale,
        shape_error=shape_error,
        tolerance=tolerance,
        detail=detail,
        worst="" if passed else _worst(trial.problem.params, truth, mean),
        hint="" if passed else _hint(trial, mean, scale, shape_error, tolerance),
    )


def _worst(params: Params, truth: np.ndarray, mean: np.ndarray) -> str:
    """The parameter that is furthest off, by its path and its index."""
    at = int(np.argmax(np.abs(mean - truth)))
    begin = 0
    for path, leaf in jax.tree.leaves_with_path(params):
        if at < begin + np.size(leaf):
            index = np.unravel_index(at - begin, np.shape(leaf))
            place = f"params{jax.tree_util.keystr(path)}[{', '.join(map(str, index))}]"
            return f"furthest off at {place}: expected {truth[at]:.6g}, got {mean[at]:.6g}"
        begin += np.size(leaf)
    return ""


def _hint(
    trial: _Trial, mean: np.ndarray, scale: float, shape_error: float, tolerance: float
) -> str:
    """The known mistake that gives this mean, in words; "" if there is none."""
    truth = trial.truth
    size = np.linalg.norm(truth)
    if np.linalg.norm(mean) <= tolerance * size:
        return "the mean is zero: is the log-probability behind a stop_gradient, or never used?"
    mismatched = flatten(exact.mismatched_gradient(trial.problem))
    if np.linalg.norm(mean - mismatched) <= tolerance * size:
        return "this is reward-to-go without γ^t: multiply the weight of step t by γ^t"
    off = float(np.linalg.norm(mean - truth)) / max(float(size), 1e-300)
    if off < ROUGHEST and off < (rounding := float(jnp.finfo(dtype := _narrowest(trial)).eps)):
        return (
            f"off by no more than {dtype} rounds, and it returns {dtype}: compute and return wider "
            f"numbers, or use Judge(tolerance={rounding:.1g})"
        )
    if shape_error <= tolerance * max(abs(scale), 1):
        if scale < 0:
            return "the sign is wrong: pgjax ascends, a loss descends"
        return (
            f"a pure scale, E[ĝ] = {scale:.6g} ∇J: is it divided by the batch, the length or the "
            "horizon once too often? Judge(up_to_scale=True) accepts that"
        )
    if np.linalg.norm(mean - truth) < 1e-4 * size:
        return "off by no more than float32 rounds: for float32 code, use Judge(tolerance=1e-5)"
    return ""


ROUGHEST = 1e-2
"""A relative bias above this is the rounding of no dtype: bfloat16 rounds by 0.8%."""


def _narrowest(trial: _Trial) -> Any:
    """The dtype, of those that the estimate returns, with the fewest digits."""
    problem = trial.problem
    draw = library_rollout(problem, trial.batch_size)

    def estimate(key: Array) -> Any:
        return trial.estimate(problem.params, draw(problem.acting_params, key))

    with jax.enable_x64(True):
        found = jax.tree.leaves(jax.eval_shape(estimate, jax.random.key(0)))
    return max((x.dtype for x in found), key=lambda dtype: float(jnp.finfo(dtype).eps))
