"""Losses of any framework, judged exactly: by pgjax's own estimators and by known numbers."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import token_losses as benchmark
from pgjax import exact, judge_loss, tokens
from pgjax.proof.language_models import models, three_tokens, with_tool
from pgjax.proof.token_losses import Verdict
from pgjax.proof.token_moments import group_moments

MODEL = three_tokens()


def grpo(log_prob: Any, old_log_prob: Any, mask: Any, advantages: Any) -> Any:
    """As a user of JAX writes it."""
    ratio, A = jnp.exp(log_prob - old_log_prob), advantages[:, None]
    each = jnp.minimum(ratio * A, jnp.clip(ratio, 0.8, 1.2) * A)
    return -jnp.mean(jnp.sum(jnp.where(mask, each, 0), axis=1) / jnp.sum(mask, axis=1))


def grpo_derivative(log_prob: Any, old_log_prob: Any, mask: Any, advantages: Any) -> Any:
    """The derivative of the same loss, in NumPy."""
    ratio, A = np.exp(log_prob - old_log_prob), advantages[:, None]
    free = np.where(A > 0, ratio <= 1.2, ratio >= 0.8)
    return -np.where(mask & free, ratio * A, 0) / mask.sum(1, keepdims=True) / len(mask)


@pytest.fixture(scope="module")
def judged() -> Verdict:
    return judge_loss(grpo)


def test_a_loss_has_the_moments_of_the_same_estimator(judged: Verdict) -> None:
    expected = group_moments(tokens.grpo(), MODEL, group_size=2)
    np.testing.assert_allclose(judged.moments.mean, expected.mean, rtol=0, atol=1e-14)
    np.testing.assert_allclose(judged.moments.covariance, expected.covariance, rtol=0, atol=1e-14)
    usual = group_moments(tokens.reinforce(), MODEL, group_size=2)
    ratio = expected.total_variance / usual.total_variance
    assert judged.variance == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize(("acting", "model"), [("old", models()[3]), ("sampler", with_tool())])
def test_other_actors_two_prompts_and_a_tool_are_judged_alike(acting: str, model) -> None:
    found = judge_loss(grpo_derivative, model, acting=acting).moments
    expected = group_moments(tokens.grpo(), model, group_size=2, acting=acting)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=0, atol=1e-14)


def test_a_derivative_in_numpy_gets_the_verdict_of_the_loss(judged: Verdict) -> None:
    found = judge_loss(grpo_derivative)
    np.testing.assert_allclose(found.moments.mean, judged.moments.mean, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found[2:8], judged[2:8], rtol=0, atol=1e-12)


def test_a_group_of_four_has_its_known_bias() -> None:
    found = judge_loss(grpo_derivative, group_size=4)
    assert (found.bias, found.residue) == pytest.approx((0.2609, 0.2462), abs=5.1e-5)
    assert found.bias**2 == pytest.approx((found.scale - 1) ** 2 + found.residue**2)


def unbiased(log_prob: Any, mask: Any, rewards: Any, value: Any) -> Any:
    return -(mask * (rewards - value)[:, None]) / len(mask)


def k1_in_loss(log_prob: Any, reference_log_prob: Any, mask: Any) -> Any:
    return jnp.sum(jnp.where(mask, log_prob - reference_log_prob, 0)) / mask.shape[0]


def cispo_without_stop(
    log_prob: Any, old_log_prob: Any, mask: Any, rewards: Any, value: Any
) -> Any:
    ratio = jnp.minimum(jnp.exp(log_prob - old_log_prob), 5.0)
    each = ratio * (rewards - value)[:, None] * log_prob
    return -jnp.sum(jnp.where(mask, each, 0)) / mask.shape[0]


def clip(log_prob: Any, old_log_prob: Any, mask: Any, rewards: Any, value: Any) -> Any:
    ratio, A = np.exp(log_prob - old_log_prob), (rewards - value)[:, None]
    free = np.where(A > 0, ratio <= 1.2, ratio >= 0.8)
    return -np.where(mask & free, ratio * A, 0) / len(mask)


def inverted_clip(log_prob: Any, old_log_prob: Any, mask: Any, rewards: Any, value: Any) -> Any:
    """A maximum where the advantage is negative: it stops where the clip should let through."""
    ratio, A = jnp.exp(log_prob - old_log_prob), (rewards - value)[:, None]
    plain, clipped = ratio * A, jnp.clip(ratio, 0.8, 1.2) * A
    each = jnp.where(A > 0, jnp.minimum(plain, clipped), jnp.maximum(plain, clipped))
    return -jnp.sum(jnp.where(mask, each, 0)) / mask.shape[0]


@pytest.mark.parametrize(
    ("loss", "acting", "bias", "cosine"),
    [
        (unbiased, "policy", 0.0, 1.0),
        (unbiased, "old", 0.1597, None),
        (k1_in_loss, "policy", 1.0, None),
        (cispo_without_stop, "policy", 0.9815, 0.1913),
        (clip, "old", 0.2411, None),
        (inverted_clip, "old", 0.2236, None),
    ],
)
def test_losses_get_their_known_numbers(loss, acting, bias, cosine) -> None:
    found = judge_loss(loss, group_size=1, acting=acting)
    assert found.bias == pytest.approx(bias, abs=5.1e-5 if bias % 1 else 1e-10)
    assert cosine is None or found.cosine == pytest.approx(cosine, abs=5.1e-5)


def test_the_inverted_clip_is_right_for_good_answers_and_wrong_for_bad_ones() -> None:
    numbers = {"mask": np.ones((1, 1), bool), "rewards": np.array([-1.0]), "value": 0.0}
    given = {"old_log_prob": np.zeros((1, 1)), **numbers}
    slope = jax.jit(jax.grad(lambda x: inverted_clip(x, **given)))
    passes = {}
    for ratio in (0.5, 1.5):
        x = np.full((1, 1), np.log(ratio))
        passes[ratio] = bool(np.any(slope(x))), bool(np.any(clip(x, **given)))
    assert passes == {0.5: (True, False), 1.5: (False, True)}


def test_a_surrogate_to_ascend_is_seen_as_such() -> None:
    found = judge_loss(lambda **fields: -unbiased(**subset(fields)), group_size=1)
    assert found.scale == pytest.approx(-1.0)
    assert "check the sign" in str(found)


def subset(fields: Any) -> Any:
    return {name: fields[name] for name in ("log_prob", "mask", "rewards", "value")}


def test_derivatives_at_padding_are_reported() -> None:
    def leaky(log_prob: Any, rewards: Any) -> Any:
        return -np.broadcast_to(rewards[:, None], log_prob.shape) / len(rewards)

    def poisoned(log_prob: Any, mask: Any, rewards: Any) -> Any:
        return np.where(mask, leaky(log_prob, rewards), np.nan)

    found = judge_loss(leaky)
    assert (found.padding, found.bias) == pytest.approx((0.5, 0.0), abs=1e-12)
    assert "a derivative of up to 0.5" in str(found)
    assert judge_loss(poisoned).padding == np.inf


def test_a_verdict_prints_what_it_holds(judged: Verdict) -> None:
    lines = str(judged).splitlines()
    assert lines[0] == "grpo on three tokens, groups of 2 drawn by the policy"
    numbers = [float(re.findall(r"\d+\.\d+", line)[0]) for line in lines[1:6]]
    np.testing.assert_allclose(numbers, judged[2:7], rtol=0, atol=5.1e-5)


def test_the_cosine_is_that_of_mean_and_gradient(judged: Verdict) -> None:
    truth = exact.gradient(MODEL.problem).ravel()
    assert judged.cosine == pytest.approx(
        judged.moments.mean @ truth / np.linalg.norm(truth) / np.linalg.norm(judged.moments.mean)
    )


class Tensor:
    """A scalar of a framework that is neither JAX nor NumPy."""

    shape = ()


@pytest.mark.parametrize(
    ("loss", "options", "error", "words"),
    [
        (lambda log_prob: jnp.sum(log_prob, axis=1), {}, TypeError, r"of shape \(2,\); return the"),
        (
            lambda log_prob: jnp.exp(log_prob),
            {},
            TypeError,
            r"of shape \(2, 3\); return the scalar",
        ),
        (lambda log_prob: (jnp.sum(log_prob), {}), {}, TypeError, "returned builtins.tuple"),
        (lambda log_prob: Tensor(), {}, TypeError, "returned tests.test_token_losses.Tensor"),
        (lambda mask: jnp.sum(1.0 * mask), {}, TypeError, "must ask for log_prob"),
        (lambda log_prob: np.zeros(3), {}, ValueError, r"\[N, T\] = \(2, 3\), got \(3,\)"),
        (lambda log_prob: np.full((2, 3), np.nan), {}, ValueError, "not finite at live tokens of"),
        (lambda log_prob: jnp.sum(log_prob) * jnp.inf, {}, ValueError, "the first has rewards"),
        (lambda log_prob, tokens: 0.0, {}, TypeError, "asks for tokens; it may ask for log_prob"),
        (lambda log_prob: jnp.sum(log_prob[0]), {}, ValueError, "order of the answers"),
        (grpo, {"group_size": 1}, ValueError, "group_size must be at least 2"),
        (grpo, {"group_size": 0}, ValueError, "group_size must be at least 1"),
        (grpo, {"group_size": 40}, ValueError, "more than the limit"),
        (grpo, {"acting": "me"}, ValueError, "acting must be one of policy"),
        (None, {}, TypeError, "loss must be a function, got NoneType"),
    ],
)
def test_bad_losses_are_refused(loss, options, error, words) -> None:
    with pytest.raises(error, match=words):
        judge_loss(loss, **options)


def test_a_fault_inside_the_loss_is_shown_as_it_is() -> None:
    def faulty(log_prob: Any) -> Any:
        raise KeyError("a fault of the loss")

    with pytest.raises(KeyError, match="a fault of the loss"):
        judge_loss(faulty)


def test_the_benchmark_names_what_is_absent_or_broken(monkeypatch, capsys) -> None:
    def broken() -> Any:
        raise ImportError("no module named x")

    libraries = {"absent": ("no-such-package", broken), "broken": ("numpy", broken)}
    monkeypatch.setattr(benchmark, "LIBRARIES", libraries)
    benchmark.main([])
    shown = capsys.readouterr().out
    assert "no-such-package: absent" in shown
    assert f"numpy {np.__version__}" in shown
    assert "does not import: no module named x" in shown


def test_the_benchmark_sets_a_loss_beside_ours() -> None:
    for loss, ours, same in ((grpo_derivative, tokens.grpo(), True), (clip, tokens.grpo(), False)):
        row = benchmark.line(benchmark.foreign_losses.Case("a loss", loss, ours)).split()
        assert row[:2] == ["a", "loss"]
        assert row[2] == "0.2609" or not same
        assert all((float(x) < 1e-12) is same for x in row[-2:])
