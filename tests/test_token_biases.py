"""The biases of estimators over tokens, exact on a tiny language model."""

import math
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import enumeration, exact, terms, tokens
from pgjax.core.scores import weighted_score
from pgjax.estimators import score_weights
from pgjax.proof.language_models import three_tokens
from pgjax.proof.token_moments import group_moments
from pgjax.tokens import advantages
from pgjax.tokens.batch import as_trajectories
from pgjax.types import Estimator

pytestmark = pytest.mark.usefixtures("strict_numerics")

MODEL = three_tokens()
PROBLEM = MODEL.problem
FREE = float("inf")


def silent(batch: Any, log_prob: Any) -> Any:
    """No credit at all: what is left is the penalty."""
    return jnp.zeros_like(log_prob)


def summed(advantage: Any, term: Any = terms.score, **options: Any) -> Estimator:
    return tokens.estimator(advantage, tokens.sequence_sum, term, **options)


def penalty(kl: Any, term: Any = terms.score) -> Estimator:
    return summed(silent, term, kl=kl)


class Row(NamedTuple):
    """An estimator, and the size of its bias and of the part that no step size undoes."""

    estimator: Estimator
    bias: float
    off: float | None = None


# REINFORCE++ as the reference numbers have it: Bessel's correction, and sums of tokens.
SUMMED = tokens.reinforce_plus_plus(epsilon=1e-4, degrees=1, aggregation=tokens.sequence_sum)
# Relative to ∇J. Computed beforehand in NumPy, from the definitions, without pgjax.
ON_POLICY = {
    2: {
        "RLOO": Row(tokens.rloo(), 0.0, 0.0),
        "Dr. GRPO": Row(tokens.dr_grpo(), 0.5, 0.0),
        "GRPO": Row(tokens.grpo(), 0.5542, 0.1239),
        "DAPO": Row(tokens.dapo(), 0.6153, 0.0387),
        "OPO": Row(tokens.opo(), 0.4726, 0.0638),
        "REINFORCE++": Row(SUMMED, 0.1312, 0.1270),
        "deviation": Row(summed(advantages.standardized()), 0.2930, 0.0),
        "token mean": Row(
            tokens.estimator(advantages.less_value, tokens.token_mean, terms.score), 0.4408, 0.0741
        ),
        "mean of means": Row(
            tokens.estimator(advantages.less_value, tokens.sequence_mean, terms.score),
            *(0.3911, 0.1752),
        ),
    },
    4: {
        "RLOO": Row(tokens.rloo(), 0.0, 0.0),
        "Dr. GRPO": Row(tokens.dr_grpo(), 0.25, 0.0),
        "GRPO": Row(tokens.grpo(), 0.2609, 0.2462),
        "DAPO": Row(tokens.dapo(), 0.2748, 0.0401),
        "OPO": Row(tokens.opo(), 0.2248, 0.0508),
        "REINFORCE++": Row(SUMMED, 0.6209, 0.1197),
        "deviation": Row(summed(advantages.standardized()), 0.4051, 0.0),
        "token mean": Row(
            tokens.estimator(advantages.less_value, tokens.token_mean, terms.score), 0.4803, 0.0320
        ),
        "mean of means": Row(
            tokens.estimator(advantages.less_value, tokens.sequence_mean, terms.score),
            *(0.3911, 0.1752),
        ),
    },
}
OFF_POLICY = {
    "sequence ratio": Row(summed(advantages.less_value, terms.sequence_ratio), 0.0, 0.0),
    "token ratio": Row(summed(advantages.less_value, terms.importance_ratio), 0.0889, 0.0842),
    "no ratio": Row(summed(advantages.less_value), 0.1597, 0.1595),
    "prefix ratio": Row(summed(advantages.less_value, terms.prefix_ratio), 0.0784, 0.0784),
    "GSPO": Row(
        tokens.estimator(
            advantages.less_value, tokens.sequence_mean, terms.sequence_clip(1.0, FREE)
        ),
        *(0.4133, 0.1874),
    ),
    "GSPO by token": Row(
        tokens.estimator(
            advantages.less_value, tokens.sequence_mean, terms.sequence_clip_by_token(1.0, FREE)
        ),
        *(0.4133, 0.1874),
    ),
    "LUSPO": Row(summed(advantages.less_value, terms.sequence_clip(1.0, FREE)), 0.0966, 0.0853),
    "CISPO": Row(summed(advantages.less_value, terms.truncated_ratio(1.2)), 0.0950, 0.0889),
    "CISPO with a floor": Row(
        summed(advantages.less_value, terms.truncated_ratio(1.2, floor=0.8)), 0.0942, 0.0883
    ),
    "PPO clip": Row(summed(advantages.less_value, terms.ppo_clip(0.2)), 0.2411, 0.2354),
    "SAPO": Row(summed(advantages.less_value, terms.sigmoid_gate(1.0, 1.05)), 0.0906, 0.0835),
    "GMPO": Row(
        tokens.estimator(advantages.less_value, tokens.sequence_mean, terms.geometric_clip(0.4)),
        *(0.4136, 0.1879),
    ),
}
# Relative to −∇KL of the whole answer, with β = 1: (on-policy, off-policy).
PENALTIES = {
    "k1 in the loss": (penalty(tokens.kl_in_loss(1.0, "k1")), 1.0, 1.1425),
    "k2 in the loss": (penalty(tokens.kl_in_loss(1.0, "k2")), 0.2705, 0.2325),
    "k3 in the loss": (penalty(tokens.kl_in_loss(1.0)), 0.3300, 0.1873),
    "k3 by token ratio": (penalty(tokens.kl_in_loss_by_token_ratio(1.0)), 0.2705, 0.2645),
    "k3 by prefix ratio": (penalty(tokens.kl_in_loss_by_prefix_ratio(1.0)), 0.0, 0.0),
    "k3 in the reward": (penalty(tokens.kl_in_reward(1.0, "k3")), 0.9355, 0.9547),
    "k1 in the reward": (penalty(tokens.kl_in_reward(1.0)), 0.0, 0.1882),
    "k1 in the reward, sequence ratio": (
        penalty(tokens.kl_in_reward(1.0), terms.sequence_ratio),
        *(0.0, 0.0),
    ),
}


@jax.jit
def gradients(estimators: list[Estimator], params: Any, batch: Any) -> Any:
    """[E, P] `pgjax.gradient` of each estimator, from one pass over the policy and its scores."""
    log_prob = pgjax.log_probs(PROBLEM.policy, params, batch)
    weights = jnp.stack([score_weights(each, batch, log_prob) for each in estimators])
    found = jax.vmap(lambda each: weighted_score(PROBLEM.policy, params, batch, each))(weights)
    return found.reshape(len(estimators), -1)


class Answers(NamedTuple):
    """Every answer, as one of two policies draws it; the batch has a leading axis for each."""

    batch: Any  # [M, 1, T]
    probability: np.ndarray  # [M]

    def mean(self, estimates: Any) -> np.ndarray:
        """Over the answers, of estimates [M, ...] from one answer each."""
        return np.tensordot(self.probability, np.asarray(estimates), 1)


@cache
def answers(acting: str) -> Answers:
    """Drawn by the policy to improve, or by the old one; with all that an estimator reads."""
    drawn = {"policy": PROBLEM.params, "old": MODEL.old}[acting]
    batch, probability = enumeration.trajectories(replace(PROBLEM, behaviour=jnp.asarray(drawn)))
    reference = pgjax.log_probs(PROBLEM.policy, jnp.asarray(MODEL.reference), batch)
    batch = replace(
        batch,
        group=np.zeros(len(probability), int),
        reference_log_prob=reference,
        value=np.full(batch.mask.shape, float(exact.objective(PROBLEM))),
    )
    return Answers(jax.tree.map(lambda x: np.asarray(x)[:, None], batch), probability)


@jax.jit
def of_each_answer(estimators: list[Estimator], params: Any, batch: Any) -> Any:
    """[M, E, P]"""
    return jax.vmap(lambda one: gradients(estimators, params, one))(batch)


@cache
def means_of_single_answers(acting: str) -> dict[str, np.ndarray]:
    """The exact mean [P] of each estimator that needs one answer only, all from one program."""
    rows = {name: row.estimator for name, row in OFF_POLICY.items()}
    rows |= {name: row[0] for name, row in PENALTIES.items()}
    rows |= {"sampled entropy": summed(silent, entropy=tokens.sampled_entropy_in_loss(0.5))}
    drawn = answers(acting)
    estimates = of_each_answer([*rows.values()], jnp.asarray(PROBLEM.params), drawn.batch)
    return dict(zip(rows, drawn.mean(estimates), strict=True))


def bias_and_rest(mean: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    size = np.linalg.norm(truth)
    scale = mean @ truth / size**2
    rest = np.linalg.norm(mean - scale * truth)
    return float(np.linalg.norm(mean - truth) / size), float(rest / size)


def assert_rows(rows: dict[str, Row], means: dict[str, np.ndarray], truth: np.ndarray) -> None:
    for name, row in rows.items():
        for expected, number in zip(row[1:], bias_and_rest(means[name], truth), strict=True):
            bound = 1e-10 if expected == 0 else 5.1e-5
            assert expected is None or abs(number - expected) <= bound, (name, number, expected)


def gradient_of_objective() -> np.ndarray:
    return exact.gradient(PROBLEM).ravel()


@pytest.mark.parametrize("group_size", [2, 4])
def test_groups_have_the_biases_that_were_computed_without_pgjax(group_size: int) -> None:
    rows = ON_POLICY[group_size]
    each = [row.estimator for row in rows.values()]
    found = group_moments(
        lambda params, batch: gradients(each, params, batch),
        MODEL,
        group_size=group_size,
        value=float(exact.objective(PROBLEM)),
    )
    means = dict(zip(rows, np.split(found.mean, len(rows)), strict=True))
    assert_rows(rows, means, gradient_of_objective())


def test_ratios_have_the_biases_that_were_computed_without_pgjax() -> None:
    means = means_of_single_answers("old")
    assert_rows(OFF_POLICY, means, gradient_of_objective())
    wrong = {"PPO clip": OFF_POLICY["PPO clip"]}
    with pytest.raises(AssertionError):
        assert_rows(wrong, {"PPO clip": means["SAPO"]}, gradient_of_objective())


@cache
def truth_of_kl() -> np.ndarray:
    """−∇KL(π ‖ ref) of the whole answer, from every answer's probability."""
    batch, _ = enumeration.trajectories(PROBLEM)

    @jax.jit
    @jax.grad
    def slope(params: Any, batch: Any) -> Any:
        log_prob, reference = (
            jnp.sum(pgjax.log_probs(PROBLEM.policy, each, batch), axis=1)
            for each in (params, jnp.asarray(MODEL.reference))
        )
        return jnp.sum(jnp.exp(log_prob) * (log_prob - reference))

    return -np.asarray(slope(jnp.asarray(PROBLEM.params), batch)).ravel()


@pytest.mark.parametrize(("acting", "place"), [("policy", 0), ("old", 1)])
def test_penalties_have_the_biases_that_were_computed_without_pgjax(
    acting: str, place: int
) -> None:
    rows = {name: Row(each, (on, off)[place]) for name, (each, on, off) in PENALTIES.items()}
    assert_rows(rows, means_of_single_answers(acting), truth_of_kl())


def test_an_exact_entropy_has_the_mean_of_the_sampled_one_and_less_variance() -> None:
    """Where the entropies are given, the surrogate differentiates them, and nothing else."""
    exact_one = summed(silent, entropy=tokens.entropy_in_loss(0.5))
    sampled_one = summed(silent, entropy=tokens.sampled_entropy_in_loss(0.5))

    def surrogates(params: Any, batch: Any) -> Any:
        x = pgjax.log_probs(PROBLEM.policy, params, batch)
        fields = tokens.Batch(batch.log_prob, batch.mask, batch.reward, batch.group)
        logits = jax.nn.log_softmax(batch.observation @ params)
        entropies = -jnp.sum(jnp.exp(logits) * logits, axis=-1)
        given = tokens.surrogate(exact_one, x, fields, entropy=entropies)
        return jnp.stack([given, tokens.surrogate(sampled_one, x, fields)])

    drawn = answers("policy")
    slopes = jax.jit(jax.vmap(jax.jacrev(surrogates), (None, 0)))
    found = np.asarray(slopes(jnp.asarray(PROBLEM.params), drawn.batch))
    exact_mean, sampled_mean = drawn.mean(found)
    np.testing.assert_allclose(exact_mean, sampled_mean, rtol=0, atol=1e-12)
    variance = drawn.mean((found - drawn.mean(found)) ** 2).sum(axis=(1, 2))
    assert variance[0] < 0.5 * variance[1]


# One token, right with probability p; groups of four and of eight, with every number of right ones.

GROUPS = [(size, right) for size in (4, 8) for right in range(size + 1)]
OF_GROUPS: dict[str, Any] = {
    "deviation": advantages.standardized(),
    "maxrl": tokens.maxrl().weights,
    "best of two, less its mean": advantages.best_of_less_mean(2),
    **{each: tokens.pkpo(2, baseline=each).weights for each in ("loo-1", "loo", "none")},
}


@cache
def credit_of_groups() -> dict[str, list[np.ndarray]]:
    """Of each advantage, the credit of the answers of each group, the right ones first."""
    reward = np.concatenate([np.arange(size) < right for size, right in GROUPS]).astype(float)
    group = np.repeat(np.arange(len(GROUPS)), [size for size, _ in GROUPS])
    batch = tokens.Batch(
        jnp.asarray(np.full((len(reward), 1), -1.0)),
        jnp.asarray(np.ones((len(reward), 1), bool)),
        jnp.asarray(reward),
        jnp.asarray(group),
    )
    rows = as_trajectories(batch)
    found = jax.jit(lambda rows: {n: w(rows, rows.log_prob) for n, w in OF_GROUPS.items()})(rows)
    ends = np.cumsum([size for size, _ in GROUPS])[:-1]
    return {name: np.split(np.asarray(x)[:, 0], ends) for name, x in found.items()}


def mean_slope(name: str, group_size: int, p: float) -> float:
    """The mean estimate by the right token's logit, whose score is 1 − p or −p."""
    total = 0.0
    for (size, right), credit in zip(GROUPS, credit_of_groups()[name], strict=True):
        if size == group_size:
            chance = math.comb(size, right) * p**right * (1 - p) ** (size - right)
            total += chance * float(np.mean(credit * (np.where(np.arange(size) < right, 1, 0) - p)))
    return total


@pytest.mark.parametrize(
    ("group_size", "p", "factor"),
    [(4, 0.02, 1.492), (4, 0.1, 1.464), (4, 0.5, 1.399), (8, 0.02, 2.406), (8, 0.5, 1.735)],
)
def test_the_deviation_lets_hard_prompts_count_for_more(group_size, p, factor) -> None:
    truth = p * (1 - p)
    assert abs(mean_slope("deviation", group_size, p) - factor * truth) <= 6e-4 * truth


@pytest.mark.parametrize("group_size", [4, 8])
def test_maxrl_sums_the_series_of_the_likelihood(group_size: int) -> None:
    p = 0.3
    series = sum((1 - p) ** (k - 1) for k in range(1, group_size))
    assert mean_slope("maxrl", group_size, p) == pytest.approx(series * p * (1 - p), abs=1e-12)
    assert series == pytest.approx({4: 2.19, 8: 3.058819}[group_size], abs=1e-6)


def test_pkpo_climbs_the_best_of_two() -> None:
    p = 0.3
    slope = 2 * (1 - p) * p * (1 - p)
    for baseline in ("loo-1", "loo", "none"):
        assert mean_slope(baseline, 4, p) == pytest.approx(slope, abs=1e-12), baseline
    assert abs(mean_slope("best of two, less its mean", 4, p) - slope) > 0.01
