"""Tiny language models: finite MDPs on which estimators over tokens have exact moments.

The state is the context, a prompt and the tokens so far; the action is the next token. Token 0 ends
the answer, as does its last place. The reward comes with the last token. The policy is a softmax
over a table of logits, one row for each context.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from pgjax.core.validation import check_positive
from pgjax.exact.problem import Problem
from pgjax.exact.tabular import TabularMDP
from pgjax.policies import tabular_softmax
from pgjax.types import Params, Trajectory

Context = tuple[int, ...]


class LanguageModel(NamedTuple):
    """A tiny language model and the policies that estimators over its tokens refer to.

    Attributes:
        problem: the policy to improve, with a discount of 1. The initial distribution is that of
            the prompts.
        old: parameters of the policy before the last updates.
        reference: parameters of the reference policy of a KL penalty.
        tool: the place of an answer that a tool writes, not the policy; None if there is none.
            `problem` has the policy's own tokens only: what the tool writes is a random transition.
    """

    problem: Problem
    old: Params
    reference: Params
    tool: int | None = None

    @property
    def name(self) -> str:
        """As reports print it."""
        return self.problem.name

    @property
    def places(self) -> int:
        """T, how many tokens an answer has at most, the tool's included."""
        return self.problem.finite_horizon + (self.tool is not None)

    @property
    def own(self) -> list[int]:
        """The places that the policy writes."""
        return [place for place in range(self.places) if place != self.tool]

    def laid_out(self, batch: Trajectory) -> Trajectory:
        """The policy's tokens, as enumerated, with a hole in the mask where the tool wrote.

        Args:
            batch: [N, T − 1] if there is a tool, else [N, T].

        Returns:
            [N, T]; the hole holds the numbers of the token before it, which mean nothing there.
        """
        if self.tool is None:
            return batch
        by_token = (
            *("observation", "action", "reward", "log_prob", "terminated", "truncated", "mask"),
            *("value", "reference_log_prob", "sampler_log_prob"),
        )
        parts = {name: self.spread(getattr(batch, name)) for name in by_token}
        parts["mask"] = parts["mask"] & (np.arange(self.places) != self.tool)
        return replace(batch, **parts)

    def spread(self, x: Any) -> Any:
        """Numbers of the policy's tokens, [N, T − 1, ...] if there is a tool, at their places.

        Returns:
            [N, T, ...]; the tool's place repeats the one before it.
        """
        if self.tool is None:
            return x
        place = [*range(self.tool), *range(self.tool - 1, self.places - 1)]
        return jax.tree.map(lambda x: x[:, place], x)


def models() -> tuple[LanguageModel, ...]:
    """The models of the certificate, made anew.

    Returns:
        "three tokens": one prompt, rewards 0 and 1; "four tokens"; "graded": rewards between 0 and
        1; "two prompts": an easy one and a hard one, equally frequent; "tool": `with_tool`.

    Example:
        >>> [model.name for model in models()]
        ['three tokens', 'four tokens', 'graded', 'two prompts', 'tool']
    """
    return three_tokens(), of_length(4), _graded(), _two_prompts(), with_tool()


def three_tokens() -> LanguageModel:
    """One prompt and 15 answers, of at most three tokens out of three; rewards are 0 or 1.

    Returns:
        LanguageModel of NumPy's generator with seed 0: 0.7 times normal logits, a reference like
        it, an old policy that differs by 0.3 times normal numbers, and rewards of probability 0.4.

    Example:
        >>> import pgjax
        >>> round(float(pgjax.exact.objective(three_tokens().problem)), 6)
        0.379122
    """
    return of_length(3)


def with_tool() -> LanguageModel:
    """As `three_tokens`, but a tool writes the token in the middle.

    Returns:
        LanguageModel drawn likewise; an answer has one or two tokens of the policy.

    Example:
        >>> from pgjax import enumeration
        >>> model = with_tool()
        >>> batch, probability = enumeration.trajectories(model.problem)
        >>> batch.mask.shape, model.laid_out(batch).mask[-1].tolist()
        ((15, 2), [True, False, True])
    """
    return _drawn("tool", 3, 1, lambda random, n: random.binomial(1, 0.4, n), tool=1)


def of_length(length: int) -> LanguageModel:
    """One prompt and answers of at most so many tokens, drawn as `three_tokens` is.

    Args:
        length: the most tokens of an answer, at least one; there are 2^(length + 1) − 1 answers.

    Raises:
        TypeError: if `length` is not an integer.
        ValueError: if it is below one.

    Example:
        >>> of_length(2).problem.mdp.num_states  # the contexts "", "1" and "2", and the end
        4
    """
    words = {3: "three", 4: "four"}
    name = f"{words.get(check_positive('length', length), str(length))} tokens"
    return _drawn(name, length, 1, lambda random, n: random.binomial(1, 0.4, n))


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


REPEATS = 0.6
"""The probability that a tool repeats the policy's last token; the others are equally frequent."""


def language_mdp(
    rewards: Sequence[dict[Context, float]],
    *,
    length: int,
    vocabulary: int = 3,
    tool: int | None = None,
) -> TabularMDP:
    """A TabularMDP of contexts, shortest first, prompt after prompt, and a last state for the end.

    Args:
        rewards: for each prompt, the reward of every answer.
        length: the most tokens.
        vocabulary: how many tokens there are; 0 ends the answer.
        tool: the place that a tool writes, neither the first nor the last; None if there is none.
            It repeats the policy's last token with probability 0.6; its 0 ends the answer too.

    Raises:
        KeyError: if an answer has no reward.
    """
    contexts = [
        (prompt, context)
        for prompt in range(len(rewards))
        for size in range(length)
        if size != tool
        for context in np.ndindex(*[vocabulary - 1] * size)
    ]
    place = {(p, tuple(token + 1 for token in c)): i for i, (p, c) in enumerate(contexts)}
    S, end, others = len(place) + 1, len(place), (1 - REPEATS) / (vocabulary - 1)
    transition, reward = np.zeros((S, vocabulary, S)), np.zeros((S, vocabulary, S))
    for (prompt, context), state in place.items():
        for token in range(vocabulary):
            longer, chance = [(*context, token)], [1.0]
            if len(longer[0]) == tool and token > 0:
                longer = [(*longer[0], written) for written in range(vocabulary)]
                chance = np.where(np.arange(vocabulary) == token, REPEATS, others)
            for answer, probability in zip(longer, chance, strict=True):
                following = place.get((prompt, answer), end)
                transition[state, token, following] = probability
                if following == end:
                    reward[state, token, end] = rewards[prompt][answer]
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


def _drawn(
    name: str,
    length: int,
    prompts: int,
    draw_rewards: Callable[[np.random.Generator, int], np.ndarray],
    tool: int | None = None,
) -> LanguageModel:
    random = np.random.default_rng(0)
    listed = [*answers(length)]
    contexts = prompts * sum(2**size for size in range(length) if size != tool)
    logits, reference = (0.7 * random.normal(size=(contexts, 3)) for _ in range(2))
    old = logits + 0.3 * random.normal(size=(contexts, 3))
    drawn = np.asarray(draw_rewards(random, prompts * len(listed)), float).reshape(prompts, -1)
    rewards = [dict(zip(listed, row.tolist(), strict=True)) for row in drawn]
    mdp = language_mdp(rewards, length=length, tool=tool)
    params, old, reference = (np.vstack([x, np.zeros(3)]) for x in (logits, old, reference))
    policy = tabular_softmax(mdp.num_states, 3)
    horizon = length - (tool is not None)
    problem = Problem(mdp, policy, params, horizon=horizon, name=name)
    return LanguageModel(problem, old, reference, tool)
