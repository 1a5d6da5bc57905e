"""The certificate of estimators over tokens: exact bias, direction and variance on tiny models.

An estimate is Σ_it c_it ∇log π(a_it|s_it), and its score weights c are a function of the batch's
arrays alone. So no network is evaluated for each group: c is computed for every group of answers,
and summed with the answers' exact scores and the groups' probabilities, in float64.

A batch is one group: G answers to one prompt, and the prompt is drawn too.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import pgjax
from pgjax import enumeration, exact, terms, tokens
from pgjax.core.compilation import jit_once
from pgjax.core.float64 import in_float64
from pgjax.core.scores import log_probs
from pgjax.core.validation import check_members, check_positive
from pgjax.estimators import score_weights
from pgjax.exact.problem import Problem
from pgjax.proof.language_models import LanguageModel, models
from pgjax.proof.registry.rows_tokens import TOKENS, TokenRow
from pgjax.proof.token_moments import ACTING, bias_scale_residue, by_prompt, mixed
from pgjax.types import Estimator, Moments, Params, Policy, Trajectory, describe

TARGET = 0.1
"""The relative error for which the number of answers is reported."""


class TokenCertificate(NamedTuple):
    """The exact properties of one estimator on one model.

    Attributes:
        row: of the registry.
        model: its name.
        acting: the policy that drew the tokens: "policy", "old" or "sampler".
        group_size: G.
        truth: [P] the row's estimand.
        moments: of the estimate from one group.
        yardstick: tr Σ of REINFORCE from one answer, drawn by the policy.
    """

    row: TokenRow
    model: str
    acting: str
    group_size: int
    truth: Float[np.ndarray, "P"]
    moments: Moments
    yardstick: float

    @property
    def bias(self) -> float:
        """Relative bias, ‖E ĝ − truth‖ / ‖truth‖."""
        return bias_scale_residue(self.moments.mean, self.truth)[0]

    @property
    def scale(self) -> float:
        """The factor of the truth in E ĝ, which a step size can undo."""
        return bias_scale_residue(self.moments.mean, self.truth)[1]

    @property
    def residue(self) -> float:
        """What no step size undoes: ‖E ĝ − scale · truth‖ / ‖truth‖."""
        return bias_scale_residue(self.moments.mean, self.truth)[2]

    @property
    def variance(self) -> float:
        """Total variance for each answer, relative to REINFORCE's."""
        return self.group_size * float(self.moments.total_variance) / self.yardstick

    @property
    def needed(self) -> int | None:
        """Answers needed for an error of 10%; None if the bias alone is more."""
        bias = self.bias if self.bias > 1e-10 else 0.0
        allowed = TARGET**2 - bias**2
        if allowed <= 0:
            return None
        relative = float(self.moments.total_variance) / float(self.truth @ self.truth)
        return self.group_size * max(math.ceil(relative / allowed), 1)


@in_float64
def certify_tokens(
    rows: Sequence[TokenRow] = TOKENS,
    language_models: Sequence[LanguageModel] | None = None,
    *,
    group_sizes: Sequence[int] = (2, 4),
    acting: Sequence[str] = ACTING,
) -> list[TokenCertificate]:
    """Every row on every model, for every group size and every policy that may act; exactly.

    If "old" acts, the batch's `log_prob` is the old policy's. If "sampler" does, it is that of the
    policy itself, and `sampler_log_prob` is that of its top-two sampler. `value` is the exact V of
    each token's context; for ReMax it is the greedy answer's reward.

    Args:
        rows: of the registry, or like them.
        language_models: tiny ones; `models()` by default.
        group_sizes: G, each.
        acting: of "policy", "old" and "sampler".

    Returns:
        Certificates, model by model.

    Bias: exact.

    Example:
        >>> (found,) = certify_tokens([TokenRow("RLOO", "tokens.rloo()", "none")],
        ...     models()[:1], group_sizes=[2], acting=["policy"])
        >>> found.bias < 1e-12
        True
    """
    rows = check_members("rows", rows, TokenRow, "pgjax.registry.TOKENS are some")
    chosen = models()
    if language_models is not None:
        fix = "pgjax.language_models.models() are some"
        chosen = check_members("language_models", language_models, LanguageModel, fix)
    group_sizes = _listed("group_sizes", group_sizes)
    for size in group_sizes:
        check_positive("group_sizes", size)
    return [
        found
        for model in chosen
        for facts in [_truths(model)]
        for who in _listed("acting", acting)
        for size in group_sizes
        for found in _certify(rows, model, size, who, facts)
    ]


def refuted(certificates: Sequence[TokenCertificate]) -> list[str]:
    """The rows whose statement of bias is wrong on-policy, one sentence each.

    Args:
        certificates: of all models; one alone may hide a bias.

    Returns:
        Sentences; none if every statement holds.

    Bias: does not apply.
    """
    certificates = _certificates(certificates)
    found = []
    seen = [c for c in certificates if c.acting == "policy"]
    for row in dict.fromkeys(c.row for c in seen):
        worst = max(c.bias for c in seen if c.row == row)
        if row.is_unbiased and worst > 1e-10:
            found.append(f'{row.name}: its row says "{row.bias}", but its bias is {worst:.2g}')
        elif not row.is_unbiased and worst <= 1e-10:
            found.append(f'{row.name}: its row says "{row.bias}", but it has none on any model')
    return found


def table(certificates: Sequence[TokenCertificate]) -> str:
    """A table of one model and group size as text: bias and residue for each acting policy.

    Args:
        certificates: of one model and group size.

    Returns:
        Lines; "bias" and "off" in per cent of the estimand, "answers" for an error of 10%.

    Bias: does not apply.
    """
    certificates = _certificates(certificates)
    if not certificates:
        raise ValueError("certificates must hold at least one, got none")
    heads = {"policy": "on-policy", "old": "stale", "sampler": "other sampler"}
    acting = [who for who in ACTING if any(c.acting == who for c in certificates)]
    width = max(len(c.row.name) for c in certificates)
    top = " " * width + "".join(f"{heads[who]:>15}" for who in acting)
    below = "".join(f"{'bias':>9}{'off':>6}" for _ in acting) + f"{'variance':>10}{'answers':>9}"
    lines = [top, f"{'':{width}}" + below]
    for row in dict.fromkeys(c.row for c in certificates):
        of_row = {c.acting: c for c in certificates if c.row == row}
        cells = "".join(
            f"{_percent(of_row[w].bias):>9}{_percent(of_row[w].residue):>6}" for w in acting
        )
        first = of_row[acting[0]]
        needed = "never" if first.needed is None else str(first.needed)
        lines.append(f"{row.name:{width}}{cells}{first.variance:>10.2f}{needed:>9}")
    return "\n".join(line.rstrip() for line in lines)


def _certificates(certificates: Sequence[TokenCertificate]) -> Sequence[TokenCertificate]:
    fix = "certify_tokens gives them"
    return check_members("certificates", certificates, TokenCertificate, fix)


def _listed(name: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"{name} must be a list, got {describe(values)}; write [{values!r}]")
    return tuple(values)


def _percent(share: float) -> str:
    return "none" if share <= 1e-10 else f"{100 * share:.1f}"


class _Answers(NamedTuple):
    """Every answer to one prompt, M of them."""

    batch: Trajectory  # [M, T]
    present: np.ndarray  # [M, T] log π
    score: np.ndarray  # [M, T, P]
    probability: np.ndarray  # [M] under the policy that acts
    written: np.ndarray  # [M] of what a tool wrote; 1 if there is none
    greedy: float  # mean reward of the answers that take the most probable token each time


def _certify(
    rows: Sequence[TokenRow],
    model: LanguageModel,
    group_size: int,
    acting: str,
    facts: tuple[dict[str, np.ndarray], float],
) -> list[TokenCertificate]:
    names = {"pgjax": pgjax, "tokens": tokens, "terms": terms, "math": math}
    estimators = [eval(row.code, names) for row in rows]
    shares, asked = zip(*by_prompt(model, acting), strict=True)
    held = model.old if acting == "old" else model.problem.params
    each = [_moments(rows, estimators, _answers(model, p, held), group_size) for p in asked]
    truths, yardstick = facts
    return [
        TokenCertificate(
            row,
            model.name,
            acting,
            group_size,
            truths[row.estimand],
            mixed(moments, np.array(shares)),
            yardstick,
        )
        for row, moments in zip(rows, zip(*each, strict=True), strict=True)
    ]


def _outcomes(batch: Trajectory) -> np.ndarray:
    """[M] the sum of each answer's rewards."""
    return np.sum(batch.reward, axis=1, where=np.asarray(batch.mask))


def _answers(model: LanguageModel, asked: Problem, held: Params) -> _Answers:
    """Every answer to the prompt that a problem starts with; none is left out as impossible."""
    batch, probability = enumeration.trajectories(replace(asked, behaviour=None))
    values = exact.state_values(asked)  # [H, S], of the policy's own H tokens
    batch = replace(batch, value=np.einsum("mts,ts->mt", batch.observation, values))

    others = np.stack([asked.acting_params, held, model.reference])
    found = _log_probs_and_score(asked.policy, asked.params, others, batch)
    present, (drawn, by_held, by_reference), score = jax.device_get(found)
    batch = replace(
        batch, log_prob=by_held, sampler_log_prob=drawn, reference_log_prob=by_reference
    )
    written = probability / np.exp(present.sum(axis=1))
    likeliest = np.argmax(asked.params, axis=1)
    is_greedy = ~batch.mask | (batch.action == batch.observation @ likeliest)
    greedy = np.sum((written * _outcomes(batch))[np.all(is_greedy, axis=1)])
    score = score.reshape(*batch.mask.shape, -1)
    nothing = np.zeros((*batch.mask.shape, 0))  # one program for all models of as many answers
    return _Answers(
        model.laid_out(replace(batch, observation=nothing, final_observation=nothing[:, 0])),
        model.spread(present),
        model.spread(score),
        np.exp(drawn.sum(axis=1)) * written,
        written,
        float(greedy),
    )


@partial(jit_once, static_argnums=0)
def _log_probs_and_score(
    policy: Policy, params: Params, others: jax.Array, batch: Trajectory
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log π [M, T] under the parameters and, stacked, under others; and the score [M, T, ...]."""

    def under(params: Params) -> jax.Array:
        return log_probs(policy, params, batch)

    return under(params), jax.vmap(under)(others), jax.jacrev(under)(params)


@jax.jit
def _score_weights(
    estimators: list[Estimator], batch: Trajectory, present: jax.Array, members: jax.Array
) -> list[jax.Array]:
    """[B, G, T] of each estimator, for B groups."""

    def of_group(rows: jax.Array) -> list[jax.Array]:
        group = jax.tree.map(lambda x: x[rows], batch)
        group = replace(group, group=jnp.zeros(len(rows), jnp.int32))
        return [score_weights(each, group, present[rows]) for each in estimators]

    return jax.vmap(of_group)(members)


def _moments(
    rows: Sequence[TokenRow],
    estimators: Sequence[Estimator],
    answers: _Answers,
    group_size: int,
) -> list[Moments]:
    """Of each estimator, from one group of answers to one prompt."""
    members, weight = enumeration.multisets(answers.probability, group_size)
    found: dict[int, jax.Array] = {}
    greedy = np.full(answers.batch.mask.shape, answers.greedy)
    for is_remax, value in ((False, answers.batch.value), (True, greedy)):
        chosen = [i for i, row in enumerate(rows) if ("remax" in row.code) == is_remax]
        if chosen:
            batch = replace(answers.batch, value=value)
            parts = [estimators[i] for i in chosen], batch, answers.present, members
            found |= dict(zip(chosen, _score_weights(*parts), strict=True))
    return [_moments_of(np.asarray(found[i]), members, weight, answers) for i in range(len(rows))]


def _moments_of(
    weights: np.ndarray, members: np.ndarray, probability: np.ndarray, answers: _Answers
) -> Moments:
    """Of Σ c ∇log π, for score weights [B, G, T] of B groups of answers [B, G]."""
    M, T, P = answers.score.shape
    coefficient = np.zeros((len(members), M, T))
    for place in range(members.shape[1]):  # one answer a group: no index comes twice
        coefficient[np.arange(len(members)), members[:, place]] += weights[:, place]
    estimate = coefficient.reshape(len(members), M * T) @ answers.score.reshape(M * T, P)
    mean = probability @ estimate
    central = estimate - mean
    return Moments(mean, (probability[:, None] * central).T @ central)


def _truths(model: LanguageModel) -> tuple[dict[str, np.ndarray], float]:
    """Each estimand's exact gradient [P], and the total variance of REINFORCE from one answer."""

    def of_prompt(asked: Problem) -> tuple[dict[str, np.ndarray], Moments]:
        answers = _answers(model, asked, asked.params)
        mask, reward = np.asarray(answers.batch.mask), _outcomes(answers.batch)
        both = answers.present, np.asarray(answers.batch.reference_log_prob)
        log_prob, reference = (np.sum(x, axis=1, where=mask) for x in both)
        best_of_two = np.maximum(reward[:, None], reward[None]) @ answers.probability
        # ∇E[f] = E[f ∇log p], for f that is fixed, or whose own derivative has the mean zero.
        slope = answers.probability[:, None] * answers.score.sum(axis=1, where=mask[..., None])
        J = reward @ slope
        truths = {
            "∇J": J,
            "∇(J − KL)": J - (log_prob - reference) @ slope,
            "∇(J + H)": J - log_prob @ slope,
            "∇ best of 2": 2 * best_of_two @ slope,
        }
        alone = np.arange(len(reward))[:, None]
        outcome = np.where(mask, reward[:, None], 0)[:, None]
        return truths, _moments_of(outcome, alone, answers.probability, answers)

    shares, asked = zip(*by_prompt(model, "policy"), strict=True)
    each, moments = zip(*map(of_prompt, asked), strict=True)
    truths = {
        name: np.sum([share * found[name] for share, found in zip(shares, each, strict=True)], 0)
        for name in each[0]
    }
    return truths, float(mixed(moments, np.array(shares)).total_variance)
