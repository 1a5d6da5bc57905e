"""Chunks: a function of rows evaluated a few at a time gives what it gives of all at once."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax.core import chunks

pytestmark = pytest.mark.usefixtures("strict")

R = 12
SIZES = 1, 4, 5, R, 2 * R  # some of which divide R evenly
RANDOM = np.random.default_rng(0)
ROWS = {"x": RANDOM.normal(size=(R, 2)), "n": np.arange(R)}
LIVE = np.array([0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0], bool)


def product(rows: Any) -> Any:
    return {"y": 3 * rows["x"] ** 2}


def total(rows: Any, live: Any) -> Any:
    return {"y": jnp.sum(jnp.where(live[:, None], product(rows)["y"], 0), axis=0)}


def counted(count: Any, rows: Any, counts: Any) -> tuple[Any, Any]:
    return count.at[rows["n"]].add(counts.astype(int)), product(rows)


@partial(jax.jit, static_argnums=2)
def in_chunks(rows: Any, live: Any, size: int) -> dict[str, Any]:
    """Everything that is done in chunks: one program for each size."""
    return {
        "map": chunks.map_rows(product, rows, size),
        "scan": chunks.scan_rows(counted, jnp.zeros(R, int), rows, size),
        "map of live rows": chunks.map_live_rows(product, rows, live, size),
        "sum": chunks.sum_rows(total, rows, live, size),
        "sum of live rows": chunks.sum_live_rows(total, rows, live, size),
    }


@pytest.mark.parametrize("size", SIZES)
def test_a_map_over_chunks_is_the_function_of_all_rows(size: int) -> None:
    found = in_chunks(ROWS, LIVE, size)["map"]
    np.testing.assert_array_equal(found["y"], product(ROWS)["y"])


@pytest.mark.parametrize("size", SIZES)
def test_a_scan_over_chunks_counts_every_row_once(size: int) -> None:
    count, found = in_chunks(ROWS, LIVE, size)["scan"]
    np.testing.assert_array_equal(count, np.ones(R))
    np.testing.assert_array_equal(found["y"], product(ROWS)["y"])


@pytest.mark.parametrize("size", SIZES)
def test_a_map_over_live_rows_is_right_at_all_of_them(size: int) -> None:
    for live in (LIVE, np.ones(R, bool)):
        found = np.asarray(in_chunks(ROWS, live, size)["map of live rows"]["y"])
        np.testing.assert_array_equal(found[live], product(ROWS)["y"][live])


@pytest.mark.parametrize("name", ["sum", "sum of live rows"])
@pytest.mark.parametrize("size", SIZES)
def test_a_sum_over_chunks_is_the_sum_over_live_rows(name: str, size: int) -> None:
    def found(live: np.ndarray) -> np.ndarray:
        return np.asarray(in_chunks(ROWS, live, size)[name]["y"])

    for live in (LIVE, np.ones(R, bool), np.zeros(R, bool)):
        expected = np.sum(product(ROWS)["y"][live], axis=0)
        np.testing.assert_allclose(found(live), expected, rtol=0, atol=1e-13)
    one_more = LIVE | (np.arange(R) == R - 1)  # the control: every row is seen
    assert np.all(found(one_more) - found(LIVE) > 1e-6)


def test_chunks_of_live_rows_never_hold_a_dead_one() -> None:
    """Each is NaN, which no mask within the chunk removes here."""
    rows = jax.device_put({**ROWS, "x": np.where(LIVE[:, None], ROWS["x"], np.nan)})

    @jax.jit
    def each(rows: Any, live: Any) -> tuple[Any, Any, Any]:
        def total(rows: Any, live: Any) -> Any:
            return jnp.sum(rows["x"])

        return (
            chunks.sum_live_rows(total, rows, live, 3),
            chunks.map_live_rows(product, rows, live, 3),
            chunks.sum_rows(total, rows, live, 3),
        )

    sums, mapped, in_order = jax.device_get(each(rows, LIVE))
    assert np.isfinite(sums)
    assert np.all(np.isfinite(mapped["y"]))
    assert np.isnan(in_order)  # the control


def test_even_chunks_are_as_few_as_the_largest_allow() -> None:
    for count in range(1, 40):
        for largest in range(1, 45):
            size = chunks.even_size(count, largest)
            assert size <= largest
            assert -(-count // size) == -(-count // largest)
            assert size * -(-count // size) - count < -(-count // size)
