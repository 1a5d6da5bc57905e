"""`assert_unbiased`: anyone's estimator, proved or refuted, and the report that says how.

Tier 1 enumerates: the expectation over all batches, exactly, in float64. Tier 3 samples: a
sequential test with stated rates of error, for problems too large to enumerate and for whole
rollout pipelines. (Tier 2, the Bellman equation for moments in `exact`, knows only the estimates
that it was derived for, and can prove nothing of a user's code.)
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import comb
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Key

from pgjax import enumeration, exact
from pgjax.core.float64 import flatten
from pgjax.core.validation import check_positive
from pgjax.enumeration import Function
from pgjax.exact.problem import Problem
from pgjax.proof import statistics
from pgjax.proof.candidates import Candidate, Rollout, estimate_on, library_rollout, resolve
from pgjax.proof.judge import DEFAULT_JUDGE, Judge
from pgjax.proof.problems import problems as certified_problems
from pgjax.types import Params, Trajectory


class Finding(NamedTuple):
    """What was found on one problem.

    Attributes:
        problem: its name.
        tier: "enumeration" or "sampling"; of a pipeline also "independence" and "law".
        passed: unbiased to `tolerance`, or, if that was accepted, up to scale.
        bias: ‖E ĝ − ∇J‖ / ‖∇J‖; when sampled, of the sample mean.
        scale: the c that brings c ∇J closest to E ĝ.
        shape_error: ‖E ĝ − c ∇J‖ / ‖∇J‖, what no scale explains.
        tolerance: the smallest relative bias that could not have been missed.
        detail: how it was shown.
        worst: where the deviation is largest, and by how much.
        hint: a known mistake that gives this very mean, or "".
    """

    problem: str
    tier: str
    passed: bool
    bias: float
    scale: float
    shape_error: float
    tolerance: float
    detail: str
    worst: str
    hint: str


class Report(NamedTuple):
    """What `assert_unbiased` showed, problem by problem; print it.

    Attributes:
        findings: one a problem and tier.
    """

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every finding passed."""
        return all(finding.passed for finding in self.findings)

    def __str__(self) -> str:
        failed = [finding for finding in self.findings if not finding.passed]
        wrong = len({finding.problem for finding in failed})
        problems = len({finding.problem for finding in self.findings})
        scaled = any(
            finding.passed and finding.bias > finding.tolerance for finding in self.findings
        )
        word = "wrong" if failed else "unbiased up to scale" if scaled else "unbiased"
        lines = [f"{word} on {wrong if failed else problems} of {problems} problems"]
        lines += [_line(finding) for finding in self.findings]
        lines += [f"  {f.problem}: {f.worst}" for f in failed if f.worst]
        lines += [f"hint: {hint}" for hint in dict.fromkeys(f.hint for f in failed if f.hint)]
        return "\n".join(lines)


def assert_unbiased(
    candidate: Candidate,
    problems: Problem | Sequence[Problem] | None = None,
    *,
    batch_size: int = 2,
    judge: Judge = DEFAULT_JUDGE,
    rollout: Rollout | Callable[[Problem], Rollout] | None = None,
    key: Key[Array, ""] | None = None,
) -> Report:
    """Assert that an estimator's expectation is ∇J, by the strongest proof that applies.

    E[ĝ(batch)] = ∇J(θ), over the trajectories of each problem.

    Args:
        candidate: an Estimator, a function (params, batch) -> gradient, or a function of one
            argument, problem -> either of these, for code that needs the problem's γ, policy or V.
        problems: what to judge it on; the suite, `suite.problems()`, if None.
        batch_size: K, the trajectories in a batch; at least 2 for what couples a batch.
        judge: how large a bias is refused, at which rates of error, and how much work is spent.
        rollout: (params, key) -> batch of K, your own pipeline, or problem -> such a function: the
            pipeline itself is then tested too, by sampling: its mean, the independence of its
            trajectories and, if they can be enumerated, their law.
        key: for sampling; `jax.random.key(0)` if None.

    Returns:
        Report, if everything passed.

    Raises:
        AssertionError: if there is a bias; the message is the report.
        statistics.InconclusiveError: if `judge.max_samples` do not suffice; it names what would.
        ValueError: if a gradient is not finite or has another structure than the parameters, or a
            problem's ∇J is zero.
        TypeError: if the candidate is neither an Estimator nor a function.

    Bias: an exact proof holds for the batch size and the problems given, not for all.

    Example:
        >>> import pgjax
        >>> print(assert_unbiased(lambda problem: pgjax.reward_to_go(problem.mdp.discount)).passed)
        True
    """
    next_key = jax.random.key(0) if key is None else key
    K = check_positive("batch_size", batch_size)
    chosen = certified_problems() if problems is None else problems
    chosen = (chosen,) if isinstance(chosen, Problem) else tuple(chosen)
    findings = []
    for problem in chosen:
        trial = _Trial(problem, estimate_on(candidate, problem), K, judge, _truth(problem))
        next_key, sample_key = jax.random.split(next_key)
        if _num_batches(problem, K) <= judge.limit:
            findings.append(_by_enumeration(trial))
        elif rollout is None:
            findings += _by_sampling(trial, library_rollout(problem, K), sample_key)
        if rollout is not None:
            findings += _by_sampling(trial, resolve(rollout, problem), sample_key)
    report = Report(tuple(findings))
    if not report.passed:
        raise AssertionError(str(report))
    return report


class _Trial(NamedTuple):
    """An estimate on trial, on one problem."""

    problem: Problem
    estimate: Function
    batch_size: int
    judge: Judge
    truth: np.ndarray  # [P]


def _num_batches(problem: Problem, K: int) -> int:
    M = enumeration.count(problem)
    return comb(M + K - 1, K)


def _truth(problem: Problem) -> np.ndarray:
    truth = flatten(exact.gradient(problem))
    if not np.linalg.norm(truth) > 1e-12:
        raise ValueError(f"problem {problem.name} has a zero gradient, which shows no bias")
    return truth


def _by_enumeration(trial: _Trial) -> Finding:
    problem, K, judge = trial.problem, trial.batch_size, trial.judge
    found = enumeration.moments(trial.estimate, problem, batch_size=K, limit=judge.limit)
    return _finding(
        trial,
        "enumeration",
        found.mean,
        judge.tolerance,
        f"exact, over every batch of {K} of {enumeration.count(problem):,} trajectories",
    )


def _by_sampling(trial: _Trial, rollout: Rollout, key: Key[Array, ""]) -> list[Finding]:
    """The pipeline's independence and law first, since the test of its mean presumes them."""
    problem, judge = trial.problem, trial.judge
    mean_key, batches_key = jax.random.split(key)
    acting, params = (
        jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
        for tree in (problem.acting_params, problem.params)
    )
    batches = jax.jit(jax.vmap(partial(rollout, acting)))(jax.random.split(batches_key, 4096))
    findings = _pipeline_findings(problem, batches, judge)
    if not all(finding.passed for finding in findings):
        return findings

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
    return [*findings, mean._replace(passed=test.passed)]


def _pipeline_findings(problem: Problem, batches: Trajectory, judge: Judge) -> list[Finding]:
    """Independence within batches of at least two, and the law if it can be enumerated."""
    findings = []
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
    """What the mean is instead, if it is something known."""
    truth = trial.truth
    size = np.linalg.norm(truth)
    if np.linalg.norm(mean) <= tolerance * size:
        return "the mean is zero: is the log-probability behind a stop_gradient, or never used?"
    mismatched = flatten(exact.mismatched_gradient(trial.problem))
    if np.linalg.norm(mean - mismatched) <= tolerance * size:
        return "this is reward-to-go without γ^t: multiply the weight of step t by γ^t"
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


def _line(finding: Finding) -> str:
    mark = "✓" if finding.passed else "✗"
    if finding.tier in ("independence", "law"):
        return f"{mark} {finding.problem} ({finding.tier}): {finding.detail}"
    bias = f"bias {100 * finding.bias:.3g}%"
    if finding.bias <= 1e-10:
        bias = "no bias"
    elif finding.tier == "enumeration" and finding.shape_error <= finding.tolerance * max(
        abs(finding.scale), 1
    ):
        bias += f", a pure scale of {finding.scale:.6g}"
    return (
        f"{mark} {finding.problem} ({finding.tier}): {bias}; {finding.detail}; "
        f"a bias of {finding.tolerance:g} would have been seen"
    )
