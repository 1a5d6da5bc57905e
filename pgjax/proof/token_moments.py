"""Exact moments of estimates from a group of answers of a tiny language model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pgjax import enumeration
from pgjax.core.float64 import in_float64
from pgjax.core.scores import log_probs, weighted_score
from pgjax.enumeration import Function
from pgjax.estimators import gradient, score_weights
from pgjax.exact.problem import Problem
from pgjax.proof.language_models import LanguageModel, truncated
from pgjax.types import Estimator, Moments, Params, Trajectory

ACTING = ("policy", "old", "sampler")
"""The policies that may draw tokens: the policy itself, the old one, or its top-two sampler."""


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
        value: the value that the batch records for every answer; None records none.

    Returns:
        Moments over the flattened result.

    Raises:
        ValueError: if there are too many groups to sum over, or `acting` is none of these three.

    Bias: exact.

    Example:
        >>> from pgjax import exact, language_models, tokens
        >>> model = language_models.three_tokens()
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
        acting: the policy that draws the answers: "policy", "old" or "sampler".
        moments_of: of the problem that starts with one of the prompts, and whose `behaviour` draws.

    Raises:
        ValueError: if `acting` is none of these three.

    Bias: that of `moments_of`.
    """
    shares, asked = zip(*by_prompt(model, acting), strict=True)
    return mixed([moments_of(problem) for problem in asked], np.array(shares))


def by_prompt(model: LanguageModel, acting: str) -> list[tuple[float, Problem]]:
    """The problem that starts with each prompt, and the probability of the prompt.

    Args:
        model: a tiny language model.
        acting: the policy that draws the answers, "policy", "old" or "sampler"; it becomes the
            `behaviour` of the problems.

    Raises:
        ValueError: if `acting` is none of these three.
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
        batch = replace(
            batch,
            group=jnp.zeros(len(batch.mask), jnp.int32),
            log_prob=log_probs(policy, held, batch),
            reference_log_prob=log_probs(policy, model.reference, batch),
            sampler_log_prob=batch.log_prob,
            value=None if value is None else jnp.full(batch.mask.shape, value),
        )
        if not isinstance(estimate, Estimator):
            return estimate(params, model.laid_out(batch))
        if model.tool is None:
            return gradient(estimate, policy, params, batch)
        present = model.spread(log_probs(policy, params, batch))
        weights = score_weights(estimate, model.laid_out(batch), present)
        return weighted_score(policy, params, batch, weights[:, model.own])

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
