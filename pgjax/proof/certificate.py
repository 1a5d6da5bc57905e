"""The certificate: each estimator's exact bias, cosine and variance, and the data that it needs.

Nothing is sampled. An estimate's expectation and covariance are sums over every batch of
trajectories (`enumeration`). ∇J comes from dynamic programs (`exact`), which use no estimator.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pgjax import enumeration, exact
from pgjax.core.float64 import flatten
from pgjax.core.scores import log_probs, weighted_score
from pgjax.core.validation import check_members, check_params
from pgjax.enumeration import Function
from pgjax.estimators import reward_to_go, score_weights
from pgjax.exact.problem import Problem, check_problem
from pgjax.proof.problems import certified, off_policy
from pgjax.proof.registry import ROWS, Row, evaluate
from pgjax.types import Estimator, Moments, Observation, Params, Policy, Trajectory

UNBIASED = 1e-10
"""A relative bias below this is rounding."""
TARGET = 0.01
"""The relative error for which the number of trajectories is reported."""


class Certificate(NamedTuple):
    """The exact properties of one estimator on one problem.

    Attributes:
        row: of the registry.
        problem: its name.
        truth: [P] ∇J, or the row's own estimand.
        moments: of one estimate, from one batch of K = `row.batch_size` trajectories.
        yardstick: tr Σ of plain reward-to-go from one trajectory.
    """

    row: Row
    problem: str
    truth: Float[np.ndarray, "P"]
    moments: Moments
    yardstick: float

    @property
    def bias(self) -> float:
        """Relative bias, ‖E ĝ − ∇J‖ / ‖∇J‖."""
        return _norm(self.moments.mean - self.truth) / _norm(self.truth)

    @property
    def is_biased(self) -> bool:
        """Whether the bias is more than rounding."""
        return self.bias >= UNBIASED

    @property
    def cosine(self) -> float:
        """Cosine of the angle between E ĝ and ∇J; zero if E ĝ is zero, to rounding."""
        length, of_truth = _norm(self.moments.mean), _norm(self.truth)
        if length < UNBIASED * of_truth:
            return 0.0
        return float(self.moments.mean @ self.truth) / (length * of_truth)

    @property
    def variance(self) -> float:
        """Total variance for each trajectory, K tr Cov(ĝ), relative to plain reward-to-go's."""
        return self.row.batch_size * float(self.moments.total_variance) / self.yardstick

    @property
    def needed(self) -> int | None:
        """Trajectories needed for an error of 1%, in independent batches of K.

        The smallest N = K n with √(bias² + tr Cov(ĝ)/n) ≤ 0.01 ‖∇J‖; None if the bias alone is
        more. K is fixed: a bias that is smaller in larger batches stays as it is.
        """
        allowed = TARGET**2 - (self.bias**2 if self.is_biased else 0)
        if allowed <= 0:
            return None
        relative = float(self.moments.total_variance) / _norm(self.truth) ** 2
        return self.row.batch_size * max(math.ceil(relative / allowed), 1)


def certify(
    rows: Sequence[Row] = ROWS, problems: Iterable[Problem] | None = None
) -> list[Certificate]:
    """Every row on every problem, exactly.

    E ĝ and Cov ĝ are sums over all trajectories, or all batches of K, with their probabilities.

    Args:
        rows: of the registry, or like them.
        problems: small enough to enumerate; `suite.certified()` by default.

    Returns:
        Certificates, problem by problem, in the order of the rows.

    Raises:
        ValueError: if ∇J = 0 on a problem, so that no relative error exists, or if there are too
            many batches.

    Bias: exact.

    Example:
        >>> from pgjax import registry, suite
        >>> (found,) = certify(registry.ROWS[:1], suite.certified()[:1])
        >>> found.is_biased, round(found.cosine, 12)
        (False, 1.0)
    """
    rows = check_members("rows", rows, Row, "pgjax.registry.ROWS are some")
    chosen = certified()
    if problems is not None:
        chosen = check_members("problems", problems, Problem, "pgjax.suite.problems() are some")
        if not chosen:
            raise ValueError("problems must hold at least one problem, got none")
    return [found for problem in chosen for found in _certify_problem(rows, problem)]


def refuted(certificates: Sequence[Certificate]) -> list[str]:
    """The rows whose statement of bias is wrong, one sentence each.

    A statement that begins with "none" is refuted by a bias anywhere; any other, by none anywhere.

    Args:
        certificates: of the whole suite, because a bias may not show on a single problem.

    Returns:
        Sentences; none if every statement holds.

    Bias: does not apply.
    """
    certificates = check_members("certificates", certificates, Certificate, "certify gives them")
    found = []
    for row in dict.fromkeys(certificate.row for certificate in certificates):
        worst = max((c for c in certificates if c.row == row), key=lambda c: c.bias)
        if row.is_unbiased and worst.is_biased:
            found.append(
                f'{row.name}: its row says "{row.bias}", but on {worst.problem} its exact '
                f"relative bias is {worst.bias:.2g}"
            )
        elif not row.is_unbiased and not worst.is_biased:
            found.append(f'{row.name}: its row says "{row.bias}", but it has none on any problem')
    return found


def with_visible_states(problem: Problem) -> Problem:
    """The same problem with one-hot states in the batches; the policy sees what it saw before.

    So a baseline may be any table over states, even where states look alike to the policy.

    Args:
        problem: from the suite, or like it.

    Returns:
        A Problem of the same J, ∇J and trajectories.

    Bias: does not apply.
    """
    check_problem(problem)
    mdp, policy = problem.mdp, problem.policy
    states = np.eye(mdp.num_states)
    if np.array_equal(mdp.observation, states):
        return problem

    def seen(state: Array) -> Observation:
        return jnp.asarray(mdp.observation)[jnp.argmax(state)]

    wrapped = Policy(
        init=lambda key, state: policy.init(key, seen(state)),
        sample=lambda params, key, state: policy.sample(params, key, seen(state)),
        log_prob=lambda params, state, action: policy.log_prob(params, seen(state), action),
        entropy=lambda params, state: policy.entropy(params, seen(state)),
    )
    return replace(problem, mdp=replace(mdp, observation=states), policy=wrapped)


def _certify_problem(rows: Sequence[Row], problem: Problem) -> list[Certificate]:
    """Rows that are given the same batches share an enumeration, and so a compilation."""
    problem = off_policy(problem)
    truth = flatten(exact.gradient(problem))
    if not np.any(truth):
        raise ValueError(
            f"problems must have a gradient other than zero, got {problem.name} with ∇J = 0: an "
            "error relative to zero has no meaning"
        )
    visible = with_visible_states(problem)
    estimates = [row.estimate(visible) for row in rows]
    together: dict[tuple[int, bool], list[Estimator | Function]] = {
        (1, False): [reward_to_go(problem.mdp.discount)]
    }
    for row, estimate in zip(rows, estimates, strict=True):
        if not isinstance(estimate, Moments):
            together.setdefault((row.batch_size, row.off_policy), []).append(estimate)
    found = {kind: iter(_moments(each, visible, *kind)) for kind, each in together.items()}
    yardstick = float(next(found[1, False]).total_variance)
    estimands = {code: flatten(evaluate(code, problem)) for code in {row.truth for row in rows}}
    certificates = []
    for row, estimate in zip(rows, estimates, strict=True):
        if isinstance(estimate, Moments):
            moments = estimate
        else:
            moments = next(found[row.batch_size, row.off_policy])
        found_here = Certificate(row, problem.name, estimands[row.truth], moments, yardstick)
        certificates.append(found_here)
    return certificates


def _moments(
    estimators: Sequence[Estimator | Function], problem: Problem, batch_size: int, off_policy: bool
) -> list[Moments]:
    """Of each estimator, read from the blocks of their joint mean and covariance."""
    values = exact.state_values(problem)
    action_values = exact.action_values(problem)

    composed = [each for each in estimators if isinstance(each, Estimator)]

    def estimates(params: Params, batch: Trajectory) -> list[Any]:
        state, action = batch.observation, jax.nn.one_hot(batch.action, problem.mdp.num_actions)
        batch = replace(
            batch,
            value=jnp.einsum("kts,ts->kt", state, jnp.asarray(values)),
            action_value=jnp.einsum("kts,kta,tsa->kt", state, action, jnp.asarray(action_values)),
        )
        of_estimators = iter(gradients(composed, problem.policy, params, batch))
        return [
            next(of_estimators) if isinstance(each, Estimator) else each(params, batch)
            for each in estimators
        ]

    acting = problem if off_policy else replace(problem, behaviour=None)
    joint = enumeration.moments(estimates, acting, batch_size=batch_size)
    P = len(joint.mean) // len(estimators)
    blocks = [slice(P * i, P * (i + 1)) for i in range(len(estimators))]
    return [Moments(joint.mean[block], joint.covariance[block, block]) for block in blocks]


def gradients(
    estimators: Sequence[Estimator], policy: Policy, params: Params, batch: Trajectory
) -> list[Params]:
    """`gradient` of each estimator, in one pass over the policy for all of them."""
    fix = "a list of one is enough"
    estimators = check_members("estimators", estimators, Estimator, fix)
    if not estimators:
        return []
    check_params(params)
    log_prob = log_probs(policy, params, batch)
    score_weight = jnp.stack([score_weights(each, batch, log_prob) for each in estimators])
    stacked = jax.vmap(partial(weighted_score, policy, params, batch))(score_weight)
    return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(estimators))]


def _norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))
