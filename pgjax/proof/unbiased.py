"""`assert_unbiased`: anyone's estimator, proved or refuted, and the report that says how.

Tier 1 enumerates: the expectation over all batches, exactly, in float64. Tier 3 samples: a
sequential test with stated rates of error, for problems too large to enumerate and for whole
rollout pipelines. (Tier 2, the Bellman equation for moments in `exact`, knows only the estimates
that it was derived for, and can prove nothing of a user's code.)
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from math import comb
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Key

from pgjax import enumeration, exact
from pgjax.core.float64 import flatten
from pgjax.core.validation import check_positive
from pgjax.estimators import gradient
from pgjax.exact.problem import Problem
from pgjax.proof import statistics
from pgjax.proof.problems import problems as certified_problems
from pgjax.types import Estimator, Params, Trajectory

Function = Callable[[Params, Trajectory], Any]
Candidate = Estimator | Function | Callable[[Problem], Estimator | Function]
Rollout = Callable[[Params, Key[Array, ""]], Trajectory]


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
    up_to_scale: bool = False,
    tolerance: float = 1e-10,
    rollout: Rollout | Callable[[Problem], Rollout] | None = None,
    key: Key[Array, ""] | None = None,
    margin: float = 0.02,
    alpha: float = 1e-6,
    max_samples: int = 2**22,
    limit: int = 500_000,
) -> Report:
    """Assert that an estimator's expectation is ∇J, by the strongest proof that applies.

    E[ĝ(batch)] = ∇J(θ), over the trajectories of each problem.

    Args:
        candidate: an Estimator, a function (params, batch) -> gradient, or a function of one
            argument, problem -> either of these, for code that needs the problem's γ, policy or V.
        problems: what to judge it on; the suite, `suite.problems()`, if None.
        batch_size: K, the trajectories in a batch; at least 2 for what couples a batch.
        up_to_scale: accept E[ĝ] = c ∇J with c > 0, knowingly; of an exact expectation only, since
            a sampled proof knows no scale.
        tolerance: largest relative bias accepted of an exact expectation; 1e-10 suits float64 code,
            1e-5 code that computes in float32.
        rollout: (params, key) -> batch of K, your own pipeline, or problem -> such a function: the
            pipeline itself is then tested too, by sampling: its mean, the independence of its
            trajectories and, where they can be enumerated, their law.
        key: for sampling; `jax.random.key(0)` if None.
        margin: largest relative bias that a sampled proof may miss.
        alpha: its rates of false alarm and of false pass, each.
        max_samples: its budget, in batches.
        limit: the largest number of batches enumerated; beyond it, sampling.

    Returns:
        Report, if everything passed.

    Raises:
        AssertionError: a bias; the message is the report.
        statistics.InconclusiveError: the sampling budget did not suffice; it names what would.
        ValueError: a gradient of another structure than the parameters, or not finite; a problem
            whose ∇J is zero.
        TypeError: a candidate that is none.

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
    judge = partial(_judge, up_to_scale=up_to_scale)
    findings = []
    for problem in chosen:
        estimate = _estimate(candidate, problem)
        sampled = partial(
            _by_sampling, estimate, problem, K, judge, margin, alpha, max_samples, limit
        )
        next_key, sample_key = jax.random.split(next_key)
        if _num_batches(problem, K) <= limit:
            findings.append(_by_enumeration(estimate, problem, K, judge, tolerance, limit))
        elif rollout is None:
            findings += sampled(_default_rollout(problem, K), sample_key)
        if rollout is not None:
            findings += sampled(_resolve(rollout, problem), sample_key)
    report = Report(tuple(findings))
    if not report.passed:
        raise AssertionError(str(report))
    return report


def _estimate(candidate: Candidate, problem: Problem) -> Function:
    """The candidate as a function (params, batch) that is held to the parameters' structure."""
    resolved = candidate if isinstance(candidate, Estimator) else _resolve(candidate, problem)
    if isinstance(resolved, Estimator):
        return partial(gradient, resolved, problem.policy)

    def estimate(params: Params, batch: Trajectory) -> Any:
        result = resolved(params, batch)
        expected, got = (
            [(jax.tree_util.keystr(path), jnp.shape(leaf)) for path, leaf in found]
            for found in map(jax.tree.leaves_with_path, (params, result))
        )
        if expected != got:
            raise ValueError(
                f"the estimate must be a pytree like params, {expected}, got {got}; "
                "return the gradient with respect to params"
            )
        return result

    return estimate


def _resolve(function: Any, problem: Problem) -> Any:
    """A function of one argument is asked for the problem's own version."""
    if not callable(function):
        raise TypeError(
            "candidate must be an Estimator, a function (params, batch) -> gradient, or a function "
            f"problem -> either, got {function!r}"
        )
    required = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind != parameter.KEYWORD_ONLY
    ]
    return function(problem) if len(required) == 1 else function


def _num_batches(problem: Problem, K: int) -> int:
    M = enumeration.count(*problem.arguments, horizon=problem.horizon)
    return comb(M + K - 1, K)


def _truth(problem: Problem) -> np.ndarray:
    truth = flatten(exact.gradient(*problem.arguments, horizon=problem.horizon))
    if not np.linalg.norm(truth) > 1e-12:
        raise ValueError(f"problem {problem.name} has a zero gradient, which shows no bias")
    return truth


def _by_enumeration(
    estimate: Function,
    problem: Problem,
    K: int,
    judge: Callable[..., tuple[bool, dict[str, Any]]],
    tolerance: float,
    limit: int,
) -> Finding:
    found = enumeration.moments(
        estimate, *problem.arguments, horizon=problem.horizon, batch_size=K, limit=limit
    )
    passed, measures = judge(problem, _truth(problem), found.mean, tolerance)
    M = enumeration.count(*problem.arguments, horizon=problem.horizon)
    return Finding(
        problem=problem.name,
        tier="enumeration",
        passed=passed,
        tolerance=tolerance,
        detail=f"exact, over every batch of {K} of {M:,} trajectories",
        **measures,
    )


def _by_sampling(
    estimate: Function,
    problem: Problem,
    K: int,
    judge: Callable[..., tuple[bool, dict[str, Any]]],
    margin: float,
    alpha: float,
    max_samples: int,
    limit: int,
    rollout: Rollout,
    key: Key[Array, ""],
) -> list[Finding]:
    """The pipeline's independence and law first, since the test of its mean presumes them."""
    mean_key, batches_key = jax.random.split(key)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), problem.params)
    batches = jax.jit(jax.vmap(partial(rollout, params)))(jax.random.split(batches_key, 4096))
    findings = _pipeline_findings(problem, batches, alpha, limit)
    if not all(finding.passed for finding in findings):
        return findings

    def draw(key: Array) -> Array:
        def one(key: Array) -> Array:
            return ravel_pytree(estimate(params, rollout(params, key)))[0]

        return jax.vmap(one)(jax.random.split(key, 1024))

    truth = _truth(problem)
    test = statistics.mean_test(
        draw, truth, mean_key, tolerance=margin, alpha=alpha, max_samples=max_samples
    )
    _, measures = judge(problem, truth, test.mean, margin)
    directions = "" if test.num_directions == truth.size else f", {test.num_directions} directions"
    detail = (
        f"{test.num_samples:,} batches of {K}{directions}, p = {test.p_value:.2g}, "
        f"false alarm and false pass {alpha:g}"
    )
    return [
        *findings,
        Finding(problem.name, "sampling", test.passed, tolerance=margin, detail=detail, **measures),
    ]


def _pipeline_findings(
    problem: Problem, batches: Trajectory, alpha: float, limit: int
) -> list[Finding]:
    """Independence within batches of at least two, and the law where it can be enumerated."""
    findings = []
    if batches.reward.shape[1] > 1:
        independence = statistics.independence_test(batches, alpha=alpha)
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
    if _num_batches(problem, 1) <= limit and batches.reward.shape[2] == problem.horizon:
        first_of_each = jax.tree.map(lambda x: x[:, 0], batches)
        law = statistics.law_test(first_of_each, problem, alpha=alpha)
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


def _default_rollout(problem: Problem, K: int) -> Rollout:
    from pgjax.rollouts.episodes import (
        rollout,  # gymnax is slow to import, and enumeration needs none
    )

    def run(params: Params, key: Array) -> Trajectory:
        return rollout(
            problem.policy, params, problem.mdp, key, num_trajectories=K, num_steps=problem.horizon
        )

    return run


def _judge(
    problem: Problem, truth: np.ndarray, mean: np.ndarray, tolerance: float, *, up_to_scale: bool
) -> tuple[bool, dict[str, Any]]:
    size = float(np.linalg.norm(truth))
    scale = float(mean @ truth) / size**2
    bias = float(np.linalg.norm(mean - truth)) / size
    shape_error = float(np.linalg.norm(mean - scale * truth)) / size
    accepted = up_to_scale and scale > 0 and shape_error <= tolerance * max(scale, 1e-300)
    passed = bias <= tolerance or accepted
    return passed, {
        "bias": bias,
        "scale": scale,
        "shape_error": shape_error,
        "worst": "" if passed else _worst(problem.params, truth, mean),
        "hint": "" if passed else _hint(problem, truth, mean, scale, shape_error, tolerance),
    }


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
    problem: Problem,
    truth: np.ndarray,
    mean: np.ndarray,
    scale: float,
    shape_error: float,
    tolerance: float,
) -> str:
    """What the mean is instead, if it is something known."""
    size = np.linalg.norm(truth)
    if np.linalg.norm(mean) <= tolerance * size:
        return "the mean is zero: is the log-probability behind a stop_gradient, or never used?"
    mismatched = flatten(exact.mismatched_gradient(*problem.arguments, horizon=problem.horizon))
    if np.linalg.norm(mean - mismatched) <= tolerance * size:
        return "this is reward-to-go without γ^t: multiply the weight of step t by γ^t"
    if shape_error <= tolerance * max(abs(scale), 1):
        if scale < 0:
            return "the sign is wrong: pgjax ascends, a loss descends"
        return (
            f"a pure scale, E[ĝ] = {scale:.6g} ∇J: is it divided by the batch, the length or the "
            "horizon once too often? up_to_scale=True accepts that knowingly"
        )
    if np.linalg.norm(mean - truth) < 1e-4 * size:
        return "off by no more than float32 rounds: if the code computes in it, tolerance=1e-5"
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
