"""Tiny language models: finite MDPs on which estimators over tokens have exact moments.

The state is the context, a prompt and the tokens so far; the action is the next token. Token 0 ends
the answer, as does its last place. The reward comes with the last token. The policy is a softmax
over a table of logits, one row for each context.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pgjax import enumeration
from pgjax.core.float64 import in_float64
from pgjax.core.scores import log_probs
from pgjax.enumeration import Function
from pgjax.estimators import gradient
from pgjax.exact.problem import Problem
from pgjax.exact.tabular import TabularMDP
from pgjax.policies import tabular_softmax
from pgjax.types import Estimator, Moments, Params, Trajectory

Context = tuple[int, ...]


class LanguageModel(NamedTuple):
    """A tiny language model and the policies that estimators over its tokens refer to.

    Attributes:
        problem: the policy to improve, with a discount of 1. The initial distribution is that of
            the prompts.
        old: parameters of the policy before the last updates.
        reference: parameters of the reference policy of a KL penalty.
    """

    problem: Problem
    old: Params
    reference: Params

    @property
    def name(self) -> str:
        """As reports print it."""
        return self.problem.name


def models() -> tuple[LanguageModel, ...]:
    """The models of the certificate, made anew.

    Returns:
        "three tokens": one prompt, rewards 0 and 1; "four tokens"; "graded": rewards between 0 and
        1; "two prompts": an easy one and a hard one, equally frequent.

    Example:
        >>> [model.name for model in models()]
        ['three tokens', 'four tokens', 'graded', 'two prompts']
    """
    return three_tokens(), _four_tokens(), _graded(), _two_prompts()


def three_tokens() -> LanguageModel:
    """Three tokens of three, 15 answers, one prompt; rewards 0 and 1, drawn once.

    Returns:
        LanguageModel of NumPy's generator with seed 0: 0.7 times normal logits, a reference like
        it, an old policy that differs by 0.3 times normal numbers, and rewards of probability 0.4.

    Example:
        >>> import pgjax
        >>> round(float(pgjax.exact.objective(three_tokens().problem)), 6)
        0.379122
    """
    return _drawn("three tokens", 3, 1, lambda random, n: random.binomial(1, 0.4, n))


def _four_tokens() -> LanguageModel:
    return _drawn("four tokens", 4, 1, lambda random, n: random.binomial(1, 0.4, n))


def _graded() -> LanguageModel:
    return _drawn("graded", 3, 1, lambda random, n: random.uniform(size=n).round(2))


def _two_prompts() -> LanguageModel:
    def rewards(random: np.random.Generator, n: int) -> np.ndarray:
        return np.concatenate([random.binomial(1, p, n // 2) for p in (0.75, 0.15)])

    return _drawn("two prompts", 3, 2, rewards)


def answers(length: int, *, vocabulary: int = 3, start: Context = ()) -> Iterator[Context]:
    """Every answer, depth first.

    Args:
        length: the most tokens.
        vocabulary: how many tokens there are; 0 ends the answer.
        start: tokens that it begins with.

    Example:
        >>> [*answers(2, vocabulary=2)]
        [(0,), (1, 0), (1, 1)]
    """
    for token in range(vocabulary):
        answer = (*start, token)
        if token == 0 or len(answer) == length:
            yield answer
        else:
            yield from answers(length, vocabulary=vocabulary, start=answer)


def language_mdp(
    rewards: Sequence[dict[Context, float]], *, length: int, vocabulary: int = 3
) -> TabularMDP:
    """A TabularMDP of contexts, shortest first, prompt after prompt, and a last state for the end.

    Args:
        rewards: for each prompt, the reward of every answer.
        length: the most tokens.
        vocabulary: how many tokens there are; 0 ends the answer.

    Raises:
        KeyError: if an answer has no reward.
    """
    contexts = [
        (prompt, context)
        for prompt in range(len(rewards))
        for size in range(length)
        for context in np.ndindex(*[vocabulary - 1] * size)
    ]
    place = {(p, tuple(token + 1 for token in c)): i for i, (p, c) in enumerate(contexts)}
    S, end = len(place) + 1, len(place)
    transition, reward = np.zeros((S, vocabulary, S)), np.zeros((S, vocabulary, S))
    for (prompt, context), state in place.items():
        for token in range(vocabulary):
            longer = (*context, token)
            following = place.get((prompt, longer), end)
            transition[state, token, following] = 1
            if following == end:
                reward[state, token, end] = rewards[prompt][longer]
    transition[end, :, end] = 1
    initial = np.array([0.0] * S)
    initial[[place[prompt, ()] for prompt in range(len(rewards))]] = 1 / len(rewards)
    return TabularMDP(transition, reward, initial, np.arange(S) == end, 1.0)


def truncated(logits: Float[Any, "S A"], kept: int) -> Float[np.ndarray, "S A"]:
    """Logits of a sampler that draws from the most probable tokens only: top-k.

    Args:
        logits: [S, A] of the policy.
        kept: k, how many tokens keep their probability, before it is made to sum to 1.

    Example:
        >>> truncated(np.array([[0.0, 2.0, 1.0]]), kept=2).tolist()
        [[-1000.0, 2.0, 1.0]]
    """
    logits = np.asarray(logits)
    least = np.sort(logits, axis=1)[:, [-kept]]
    return np.where(logits < least, -1e3, logits)


ACTING = ("policy", "old", "sampler")
"""Who draws the tokens: the policy itself, the old one, or a top-two sampler of the policy."""


@in_float64
def group_moments(
    estimate: Estimator | Function,
    model: LanguageModel,
    *,
    group_size: int,
    acting: str = "policy",
    value: float | None = None,
) -> Moments:
    """Exact moments of an estimate from one group: G answers to one prompt, drawn at random.

    Args:
        estimate: an Estimator, or a function (params, batch) -> numbers. The batch names its group,
            the reference's log-probabilities and the sampler's; `log_prob` is the policy's, or the
            old one's if that acts.
        model: a tiny language model.
        group_size: G.
        acting: "policy", "old" or "sampler".
        value: that the batch records for every answer.

    Returns:
        Moments over the flattened result.

    Raises:
        ValueError: if there are too many groups to sum over, or `acting` is another word.

    Bias: exact.

    Example:
        >>> from pgjax import exact, tokens
        >>> model = three_tokens()
        >>> found = group_moments(tokens.rloo(), model, group_size=2)
        >>> bool(np.allclose(found.mean, exact.gradient(model.problem).ravel(), atol=1e-12))
        True
    """
    held = model.old if acting == "old" else model.problem.params
    function = _with_fields(estimate, model, held, value)
    return moments_over_prompts(
        model, acting, lambda asked: enumeration.moments(function, asked, batch_size=group_size)
    )


def moments_over_prompts(
    model: LanguageModel, acting: str, moments_of: Callable[[Problem], Moments]
) -> Moments:
    """Moments of an estimate from answers to one prompt, which is drawn first.

    Args:
        model: a tiny language model.
        acting: "policy", "old" or "sampler", who draws the answers.
        moments_of: of the problem that starts with one of the prompts, and whose `behaviour` draws.

    Raises:
        ValueError: if `acting` is another word.

    Bias: that of `moments_of`.
    """
    shares, asked = zip(*by_prompt(model, acting), strict=True)
    return mixed([moments_of(problem) for problem in asked], np.array(shares))


def by_prompt(model: LanguageModel, acting: str) -> list[tuple[float, Problem]]:
    """The problem that starts with each prompt, and the probability of the prompt.

    Args:
        model: a tiny language model.
        acting: "policy", "old" or "sampler", who draws the answers: `behaviour` of the problems.

    Raises:
        ValueError: if `acting` is another word.
    """
    problem = model.problem
    if acting not in ACTING:
        raise ValueError(f"acting must be one of {', '.join(ACTING)}, got {acting!r}")
    sampler = truncated(problem.params, kept=2)
    drawn = {"policy": problem.params, "old": model.old, "sampler": sampler}[acting]
    found = []
    for prompt in np.flatnonzero(problem.mdp.initial):
        mdp = replace(problem.mdp, initial=np.eye(problem.mdp.num_states)[prompt])
        asked = replace(problem, mdp=mdp, behaviour=drawn)
        found.append((float(problem.mdp.initial[prompt]), asked))
    return found


def bias_scale_residue(
    mean: Float[np.ndarray, "P"], truth: Float[np.ndarray, "P"]
) -> tuple[float, float, float]:
    """How far a mean is from the truth, in three numbers, with bias² = (scale − 1)² + residue².

    Args:
        mean: [P] of an estimate.
        truth: [P], not zero.

    Returns:
        ‖mean − truth‖ / ‖truth‖; the c of mean = c · truth + rest, which a step size undoes; and
        ‖rest‖ / ‖truth‖, which none undoes.

    Example:
        >>> bias_scale_residue(np.array([3.0, 0.5]), np.array([2.0, 0.0]))
        (0.5590169943749475, 1.5, 0.25)
    """
    length = np.linalg.norm(truth)
    scale = mean @ truth / length**2
    bias, residue = (np.linalg.norm(mean - c * truth) / length for c in (1.0, scale))
    return float(bias), float(scale), float(residue)


def _with_fields(
    estimate: Estimator | Function, model: LanguageModel, held: Params, value: float | None
) -> Callable[[Params, Trajectory], Any]:
    policy = model.problem.policy

    def function(params: Params, batch: Trajectory) -> Any:
        of_sampler = batch.log_prob
        batch = replace(
            batch,
            group=jnp.zeros(len(batch.mask), jnp.int32),
            log_prob=log_probs(policy, held, batch),
            reference_log_prob=log_probs(policy, model.reference, batch),
            sampler_log_prob=of_sampler,
            value=None if value is None else jnp.full(batch.mask.shape, value),
        )
        if isinstance(estimate, Estimator):
            return gradient(estimate, policy, params, batch)
        return estimate(params, batch)

    return function


def mixed(each: Sequence[Moments], weights: Float[np.ndarray, "R"]) -> Moments:
    """Moments of an estimate that is one of R at random.

    Args:
        each: of the R.
        weights: [R] their probabilities.

    Bias: exact.
    """
    mean = sum(w * m.mean for w, m in zip(weights, each, strict=True))
    second = sum(
        w * (m.covariance + np.outer(m.mean, m.mean)) for w, m in zip(weights, each, strict=True)
    )
    return Moments(np.asarray(mean), second - np.outer(mean, mean))


def _drawn(
    name: str,
    length: int,
    prompts: int,
    draw_rewards: Callable[[np.random.Generator, int], np.ndarray],
) -> LanguageModel:
    random = np.random.default_rng(0)
    listed = [*answers(length)]
    contexts = prompts * (2**length - 1)
    logits, reference = (0.7 * random.normal(size=(contexts, 3)) for _ in range(2))
    old = logits + 0.3 * random.normal(size=(contexts, 3))
    drawn = np.asarray(draw_rewards(random, prompts * len(listed)), float).reshape(prompts, -1)
    rewards = [dict(zip(listed, row.tolist(), strict=True)) for row in drawn]
    mdp = language_mdp(rewards, length=length)
    with_end = [np.vstack([table, np.zeros(3)]) for table in (logits, old, reference)]
    policy = tabular_softmax(mdp.num_states, 3)
    problem = Problem(mdp, policy, with_end[0], horizon=length, name=name)
    return LanguageModel(problem, *with_end[1:])
