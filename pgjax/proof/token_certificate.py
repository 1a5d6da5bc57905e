"""The certificate of estimators over tokens: exact bias, direction and variance on tiny models.

An estimate is Σ_it c_it ∇log π(a_it|s_it), and its score weights c are a function of the batch's
arrays alone. So no network is asked for each group: c is computed for every group of answers, and
summed with the answers' exact scores and the groups' probabilities, in float64.

A batch is one group: G answers to one prompt, and the prompt is drawn too.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import pgjax
from pgjax import enumeration, exact, terms, tokens
from pgjax.core.float64 import in_float64
from pgjax.core.scores import log_probs
from pgjax.estimators import score_weights
from pgjax.proof.language_models import ACTING, LanguageModel, models, truncated
from pgjax.proof.registry.rows_tokens import TOKENS, TokenRow
from pgjax.types import Estimator, Params, Trajectory

TARGET = 0.1
"""The relative error whose price in answers is reported."""


class TokenCertificate(NamedTuple):
    """What is exactly true of one estimator on one model.

    Attributes:
        row: of the registry.
        model: its name.
        acting: who drew the tokens: "policy", "old" or "sampler".
        group_size: G.
        truth: [P] the row's estimand.
        mean: [P] of the estimate from one group.
        total_variance: of the estimate from one group.
        yardstick: tr Σ of REINFORCE from one answer, drawn by the policy.
    """

    row: TokenRow
    model: str
    acting: str
    group_size: int
    truth: Float[np.ndarray, "P"]
    mean: Float[np.ndarray, "P"]
    total_variance: float
    yardstick: float

    @property
    def bias(self) -> float:
        """Relative bias, ‖E ĝ − truth‖ / ‖truth‖."""
        return _norm(self.mean - self.truth) / _norm(self.truth)

    @property
    def scale(self) -> float:
        """The factor of the truth in E ĝ, which a step size can undo."""
        return float(self.mean @ self.truth) / _norm(self.truth) ** 2

    @property
    def residue(self) -> float:
        """What no step size undoes: ‖E ĝ − scale · truth‖ / ‖truth‖."""
        return _norm(self.mean - self.scale * self.truth) / _norm(self.truth)

    @property
    def variance(self) -> float:
        """Total variance for each answer, relative to REINFORCE's."""
        return self.group_size * self.total_variance / self.yardstick

    @property
    def needed(self) -> int | None:
        """Answers needed for an error of 10 %; None if the bias alone is more."""
        bias = self.bias if self.bias > 1e-10 else 0.0
        allowed = TARGET**2 - bias**2
        if allowed <= 0:
            return None
        relative = self.total_variance / _norm(self.truth) ** 2
        return self.group_size * max(math.ceil(relative / allowed), 1)


@in_float64
def certify_tokens(
    rows: Sequence[TokenRow] = TOKENS,
    language_models: Sequence[LanguageModel] | None = None,
    *,
    group_sizes: Sequence[int] = (2, 4),
    acting: Sequence[str] = ACTING,
) -> list[TokenCertificate]:
    """Every row on every model, for every group size and whoever draws the tokens; exactly.

    If "old" acts, the batch's `log_prob` is the old policy's. If "sampler" does, it is that of the
    policy itself, and `sampler_log_prob` is that of its top-two sampler. `value` is the exact V of
    each token's context, but the greedy answer's reward for ReMax.

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
    chosen = models() if language_models is None else language_models
    return [
        found
        for model in chosen
        for who in acting
        for size in group_sizes
        for found in _certify(rows, model, size, who)
    ]


def refuted(certificates: Sequence[TokenCertificate]) -> list[str]:
    """The rows whose statement of bias is not so on-policy, one sentence each.

    Args:
        certificates: of all models; one alone may hide a bias.

    Returns:
        Sentences; none if every statement holds.

    Bias: does not apply.
    """
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
    """A table of one model and group size as text: bias and residue, whoever draws the tokens.

    Args:
        certificates: of one model and group size.

    Returns:
        Lines; "bias" and "off" in per cent of the estimand, "answers" for an error of 10 %.

    Bias: does not apply.
    """
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


def _percent(share: float) -> str:
    return "none" if share <= 1e-10 else f"{100 * share:.1f}"


class _Answers(NamedTuple):
    """Every answer to one prompt, M of them."""

    batch: Trajectory  # [M, T]
    present: np.ndarray  # [M, T] log π
    score: np.ndarray  # [M, T, P]
    probability: np.ndarray  # [M] for whoever acts


def _certify(
    rows: Sequence[TokenRow], model: LanguageModel, group_size: int, acting: str
) -> list[TokenCertificate]:
    problem = model.problem
    names = {"pgjax": pgjax, "tokens": tokens, "terms": terms, "math": math}
    estimators = [eval(row.code, names) for row in rows]
    initial = problem.mdp.initial
    prompts = np.flatnonzero(initial)
    share = initial[prompts]
    means, seconds = [], []
    for prompt in prompts:
        answers = _answers(model, int(prompt), acting)
        greedy = _greedy_reward(model, answers.batch)
        mean, second = _moments(rows, estimators, answers, group_size, greedy)
        means.append(mean)
        seconds.append(second)
    mean, second = np.tensordot(share, means, 1), share @ np.array(seconds)
    truths = _truths(model, {row.estimand for row in rows})
    yardstick = _yardstick(model)
    return [
        TokenCertificate(
            row,
            model.name,
            acting,
            group_size,
            truths[row.estimand],
            mean[i],
            float(second[i] - mean[i] @ mean[i]),
            yardstick,
        )
        for i, row in enumerate(rows)
    ]


def _answers(model: LanguageModel, prompt: int, acting: str) -> _Answers:
    problem = model.problem
    policy, params = problem.policy, problem.params
    initial = np.eye(problem.mdp.num_states)[prompt]
    asked = replace(problem, mdp=replace(problem.mdp, initial=initial), behaviour=None)
    batch, _ = enumeration.trajectories(asked)

    def under(logits: Params) -> np.ndarray:
        return np.asarray(log_probs(policy, jnp.asarray(logits), batch))

    drawn = {"policy": params, "old": model.old, "sampler": truncated(params, kept=2)}[acting]
    values = exact.state_values(asked)  # [T, S]
    batch = replace(
        batch,
        log_prob=under(model.old if acting == "old" else params),
        sampler_log_prob=under(drawn),
        reference_log_prob=under(model.reference),
        value=np.einsum("mts,ts->mt", batch.observation, values),
    )
    jacobian = jax.jacrev(lambda p: log_probs(policy, p, batch))(jnp.asarray(params))
    score = np.asarray(jacobian).reshape(*batch.mask.shape, -1)
    return _Answers(batch, under(params), score, np.exp(under(drawn).sum(axis=1)))


def _greedy_reward(model: LanguageModel, batch: Trajectory) -> float:
    """Of the answer that takes the most probable token each time."""
    likeliest = np.argmax(model.problem.params, axis=1)
    tokens_there = batch.observation @ likeliest
    is_greedy = np.all(~batch.mask | (batch.action == tokens_there), axis=1)
    return float(np.asarray(batch.reward)[is_greedy].sum())


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
    greedy: float,
) -> tuple[np.ndarray, np.ndarray]:
    """[R, P] the mean, and [R] the mean square, of each estimator."""
    M, T, P = answers.score.shape
    members = np.array([*combinations_with_replacement(range(M), group_size)])
    weight = _weights(members, answers.probability)
    score = answers.score.reshape(M * T, P)
    means, squares = [], []
    remax = [i for i, row in enumerate(rows) if row.name == "ReMax"]
    found = {}
    for chosen, value in (
        ([i for i in range(len(rows)) if i not in remax], answers.batch.value),
        (remax, np.full(answers.batch.mask.shape, greedy)),
    ):
        if chosen:
            batch = replace(answers.batch, value=value)
            parts = [estimators[i] for i in chosen], batch, answers.present, members
            each = _score_weights(*parts)
            found |= dict(zip(chosen, each, strict=True))
    for i in range(len(rows)):
        coefficient = np.zeros((len(members), M, T))
        for place in range(group_size):
            np.add.at(
                coefficient,
                (np.arange(len(members)), members[:, place]),
                np.asarray(found[i])[:, place],
            )
        estimate = coefficient.reshape(len(members), M * T) @ score
        means.append(weight @ estimate)
        squares.append(weight @ np.sum(estimate**2, axis=1))
    return np.array(means), np.array(squares)


def _weights(members: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """[B] the probability of each multiset of answers."""
    G = members.shape[1]
    ways = np.full(len(members), float(math.factorial(G)))
    run = np.ones(len(members))
    for place in range(1, G):
        run = np.where(members[:, place] == members[:, place - 1], run + 1, 1)
        ways /= run
    return ways * np.prod(probability[members], axis=1)


def _truths(model: LanguageModel, estimands: set[str]) -> dict[str, np.ndarray]:
    """Each estimand's exact gradient [P]."""
    problem = model.problem
    policy = problem.policy
    initial = problem.mdp.initial

    def of_prompt(prompt: int) -> dict:
        batch = _answers(model, prompt, "policy").batch
        reward = np.asarray(batch.reward).sum(axis=1)
        reference = np.asarray(batch.reference_log_prob).sum(axis=1)
        beaten = reward[:, None] > reward[None]  # the best of two is the first, unless it is less

        def values(params: Params) -> dict:
            log_prob = jnp.sum(log_probs(policy, params, batch), axis=1)
            p = jnp.exp(log_prob)
            J = p @ reward
            best = jnp.sum(p[:, None] * p[None] * np.where(beaten, reward[:, None], reward[None]))
            return {"∇J": J, "∇(J − KL)": J - p @ (log_prob - reference), "∇ best of 2": best}

        return jax.jacrev(values)(jnp.asarray(problem.params))

    each = [
        jax.tree.map(lambda x, p=p: initial[p] * np.asarray(x).ravel(), of_prompt(int(p)))
        for p in np.flatnonzero(initial)
    ]
    return {name: np.sum([found[name] for found in each], axis=0) for name in estimands}


def _yardstick(model: LanguageModel) -> float:
    """The total variance of REINFORCE from one answer."""
    initial = model.problem.mdp.initial
    mean, square = np.zeros(()), 0.0
    for prompt in np.flatnonzero(initial):
        answers = _answers(model, int(prompt), "policy")
        total = np.asarray(answers.batch.reward).sum(axis=1)[:, None]
        mask = np.asarray(answers.batch.mask)[:, :, None]
        estimate = total * np.where(mask, answers.score, 0).sum(axis=1)
        p = initial[prompt] * answers.probability
        mean = mean + p @ estimate
        square += float(p @ np.sum(estimate**2, axis=1))
    return square - float(np.sum(mean**2))


def _norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))
