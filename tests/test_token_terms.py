"""Terms of estimators over tokens: the gradients of their published losses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import terms, tokens
from pgjax.records import as_record

pytestmark = pytest.mark.usefixtures("strict_numerics")


@jax.jit
def slopes(term: Any, log_prob: Any, behaviour: Any, weight: Any, mask: Any) -> Any:
    """The gradient of a term's sum by the log-probabilities [..., T] of one answer."""

    def slope(log_prob: Any, behaviour: Any, weight: Any, mask: Any) -> Any:
        def total(x: Any) -> Any:
            return jnp.sum(jnp.where(mask, term(x, behaviour, weight, mask), 0))

        return jax.grad(total)(log_prob)

    each = jnp.vectorize(slope, signature="(t),(t),(t),(t)->(t)")
    return each(log_prob, behaviour, weight, mask)


def published(name: str, ratio: np.ndarray, A: float) -> Any:
    """The published losses of one answer of three tokens, as NumPy functions of its ratios."""
    s = np.exp(np.mean(np.log(ratio)))
    whole = np.prod(ratio)
    low, high = 0.8, 1.2
    if name == "sequence_clip":  # GSPO, eq. 5
        return np.minimum(s * A, np.clip(s, low, high) * A)
    if name == "geometric_clip":  # GMPO, eq. 4: tokens are held by the sign of the advantage
        held = np.minimum(ratio, np.exp(0.4)) if A > 0 else np.maximum(ratio, np.exp(-0.4))
        return np.exp(np.mean(np.log(held))) * A
    if name == "sigmoid_gate":  # SAPO, eq. 6
        tau = 1.0 if A > 0 else 1.05
        return np.mean(4 / tau / (1 + np.exp(-tau * (ratio - 1)))) * A
    assert name == "sequence_ratio"
    return whole * A


RATIOS = np.array([(0.9, 1.1, 1.05), (0.3, 0.5, 0.7), (2.0, 1.9, 0.8)])


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("sequence_clip", terms.sequence_clip(0.2, 0.2)),
        ("geometric_clip", terms.geometric_clip(0.4)),
        ("sigmoid_gate", terms.sigmoid_gate(1.0, 1.05)),
        ("sequence_ratio", terms.sequence_ratio),
    ],
)
def test_terms_have_the_gradients_of_their_published_losses(name, term) -> None:
    """For two advantages and three answers of three tokens, with a dead fourth one."""
    advantage, live = np.array([2.0, -0.7]), np.array([True, True, True, False])
    old = np.log([0.2, 0.3, 0.25, 1.0])
    now = old + np.log(np.pad(RATIOS, ((0, 0), (0, 1)), constant_values=1.0))
    weight = advantage if name == "sequence_ratio" else advantage / 3
    shape = (2, 3, 4)
    broad = (now, old, weight[:, None, None], live)
    found = np.asarray(slopes(as_record(term), *(np.broadcast_to(x, shape) for x in broad)))
    assert np.all(found[..., 3] == 0)
    step = 1e-6
    for i, j, t in np.ndindex(2, 3, 3):
        up, down = (
            published(
                name, RATIOS[j] * np.exp(sign * step * (np.arange(3) == t)), float(advantage[i])
            )
            for sign in (1, -1)
        )
        assert found[i, j, t] == pytest.approx((up - down) / (2 * step), abs=1e-7)


def of_signs(term: Any, now: np.ndarray, old: np.ndarray, weight: float = 1.0) -> np.ndarray:
    """[2, T] the slopes at live tokens of positive, and of negative credit."""
    shape = (2, len(now))
    signs = np.broadcast_to(weight * np.array([[1.0], [-1.0]]), shape)
    broad = (np.broadcast_to(x, shape) for x in (np.log(now), np.log(old)))
    return np.asarray(slopes(term, *broad, signs, np.ones(shape, bool)))


def test_the_smooth_gate_and_the_mask_are_as_published() -> None:
    old, now = np.array([0.2, 0.6]), np.array([0.3, 0.5])
    s = 0.3 * 0.5 / (0.2 * 0.6)
    gate = of_signs(terms.gamma_gate(), now, old, weight=1.5)
    for found, A, power, rate in zip(gate, (1.5, -1.5), (2.0, 3.0), (3.0, 2.0), strict=True):
        np.testing.assert_allclose(found, A * np.exp(rate) * s**power * np.exp(-rate * s))
    up, down = of_signs(terms.divergence_mask(0.05, 0.15), now, old)
    np.testing.assert_allclose(up, [1.5, 0.5 / 0.6])  # it rose by 0.1, less than 0.15
    np.testing.assert_allclose(down, [-1.5, 0.0])  # it fell by 0.1, more than 0.05


def test_the_mask_by_divergence_is_as_published() -> None:
    old, now = np.array([0.25, 0.25, 0.6, 1.0, 0.5]), np.array([0.5, 0.3, 0.2, 1.0, 1e-9])
    split = old * np.log(old / now)
    inside = old < 1
    split[inside] += (1 - old[inside]) * np.log((1 - old[inside]) / (1 - now[inside]))
    sides = (now > old) & (split > 0.1), (now < old) & (split > 0.3)
    found = of_signs(terms.kl_mask(0.3, 0.1, ceiling=1.9), now, old)
    for slope, sign, side in zip(found, (1.0, -1.0), sides, strict=True):
        expected = sign * np.where(side, 0, np.minimum(now / old, 1.9))
        np.testing.assert_allclose(slope, expected, rtol=1e-12)
        assert 0 < side.sum() < 5


def test_a_ceiling_holds_large_ratios_of_bad_tokens_only() -> None:
    ratio = np.array([0.5, 1.1, 2.0, 4.0])
    plain, capped = terms.asymmetric_clip(0.2, 0.28), terms.asymmetric_clip(0.2, 0.28, ceiling=3.0)
    (good, bad), (good_capped, bad_capped) = (
        of_signs(term, ratio, np.ones(4)) for term in (plain, capped)
    )
    np.testing.assert_array_equal(good_capped, good)
    np.testing.assert_allclose(bad, [0, -1.1, -2, -4])
    np.testing.assert_array_equal(bad_capped, [*bad[:3], 0])
    assert tokens.dapo(ceiling=3.0).term == terms.asymmetric_clip(0.2, 0.28, ceiling=3.0)
