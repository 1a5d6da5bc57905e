"""The order of rows without a sort: every row once, and as random as one by sorting."""

import jax
import numpy as np
import pytest
import scipy

from pgjax.core import shuffling
from pgjax.core.shuffling import FEW, random_order

SIZE, ORDERS = 512, 5_000
ALPHA = 1e-6 / 30  # of each of the thirty tests below: together, one false alarm in a million runs


SIZES = 1, 2, 7, FEW - 1, FEW, FEW + 1, 1000, 1024, 1025, 5000


@jax.jit
def ordered(key):
    return {size: random_order(key, size) for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
def test_every_row_comes_once_in_an_order_of_the_keys_own(size):
    orders = np.array([ordered(jax.random.key(seed))[size] for seed in range(2)])
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(size), (2, 1)))
    assert size <= 7 or not np.array_equal(*orders)


def orders_of(size: int = SIZE) -> np.ndarray:
    keys = jax.random.split(jax.random.key(7), ORDERS)
    return np.asarray(jax.jit(jax.vmap(lambda key: random_order(key, size)))(keys))


def p_values(orders: np.ndarray) -> np.ndarray:
    """Of minibatches' means and their variances, and of places, if every order is as likely.

    The vectors of which means are taken have the patterns that rows of an update have: of time,
    of environments, of one row, of none.
    """
    i = np.arange(SIZE)
    waves = [np.sin(2 * np.pi * i / length) for length in (8, 128, SIZE)]
    noise = np.random.default_rng(0).normal(size=SIZE)
    patterns = [i, i % 2, i // 2 % 2, i % 128 < 10, i >= SIZE // 2, i == 0, i % 16, *waves, noise]
    vectors = scipy.stats.zscore(np.stack(patterns, 1).astype(float))
    part = SIZE // 4
    deviation = np.sqrt((SIZE - part) / (SIZE - 1) / part)  # without replacement
    z = vectors[orders[:, :part]].mean(1) / deviation
    of_means = 2 * scipy.stats.norm.sf(np.abs(z.mean(0)) * np.sqrt(ORDERS))
    spread = np.maximum((z**2).std(0), 1e-9) / np.sqrt(ORDERS)
    excess = ((z**2).mean(0) - 1) / spread
    of_variances = 2 * scipy.stats.norm.sf(np.abs(excess))
    places = {j: np.argmax(orders == j, axis=1) for j in (0, 1, 5, SIZE - 1)}
    apart = (places[1] - places[0]) % SIZE - 1
    counts = [np.bincount(place * 16 // SIZE, minlength=16) for place in places.values()]
    of_places = [scipy.stats.chisquare(count).pvalue for count in counts]
    chance = np.bincount(np.arange(SIZE - 1) * 16 // SIZE, minlength=16) / (SIZE - 1)
    found = np.bincount(apart * 16 // SIZE, minlength=16)
    of_distances = scipy.stats.chisquare(found, chance * ORDERS).pvalue
    return np.array([*of_means, *of_variances, *of_places, of_distances])


def test_minibatches_are_random_samples_of_the_rows():
    assert p_values(orders_of()).min() > ALPHA


def test_four_rounds_of_mixing_would_be_too_few(monkeypatch):
    monkeypatch.setattr(shuffling, "ROUNDS", 4)
    assert p_values(orders_of()).min() < ALPHA**2


def test_an_order_that_is_only_turned_would_be_seen():
    turned = (np.arange(SIZE) + np.random.default_rng(0).integers(SIZE, size=(ORDERS, 1))) % SIZE
    assert p_values(turned).min() < ALPHA**2


def test_orders_by_sorting_pass_the_same_tests():
    numbers = np.random.default_rng(8).random((ORDERS, SIZE))
    assert p_values(np.argsort(numbers, axis=1)).min() > ALPHA


def test_the_program_holds_no_sort_and_maps_over_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    mapped = jax.jit(jax.vmap(lambda key: random_order(key, 1000))).lower(keys)
    assert "stablehlo.sort" not in mapped.as_text()
    each = np.array([ordered(key)[1000] for key in keys])
    np.testing.assert_array_equal(mapped.compile()(keys), each)
