"""Chunks: a function of rows evaluated a few at a time gives what it gives of all at once."""

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


@pytest.mark.parametrize("size", SIZES)
def test_a_map_over_chunks_is_the_function_of_all_rows(size: int) -> None:
    found = jax.jit(lambda rows: chunks.map_rows(product, rows, size))(ROWS)
    np.testing.assert_array_equal(found["y"], product(ROWS)["y"])


@pytest.mark.parametrize("size", SIZES)
def test_a_scan_over_chunks_counts_every_row_once(size: int) -> None:
    def add(count: Any, rows: Any, counts: Any) -> tuple[Any, Any]:
        return count.at[rows["n"]].add(counts.astype(int)), product(rows)

    scan = jax.jit(lambda rows: chunks.scan_rows(add, jnp.zeros(R, int), rows, size))
    count, found = scan(ROWS)
    np.testing.assert_array_equal(count, np.ones(R))
    np.testing.assert_array_equal(found["y"], product(ROWS)["y"])


@pytest.mark.parametrize("size", SIZES)
def test_a_map_over_live_rows_is_right_at_all_of_them(size: int) -> None:
    run = jax.jit(lambda rows, live: chunks.map_live_rows(product, rows, live, size))
    for live in (LIVE, np.ones(R, bool)):
        found = np.asarray(run(ROWS, live)["y"])
        np.testing.assert_array_equal(found[live], product(ROWS)["y"][live])


@pytest.mark.parametrize("sum_rows", [chunks.sum_rows, chunks.sum_live_rows])
@pytest.mark.parametrize("size", SIZES)
def test_a_sum_over_chunks_is_the_sum_over_live_rows(sum_rows: Any, size: int) -> None:
    run = jax.jit(lambda rows, live: sum_rows(total, rows, live, size))
    for live in (LIVE, np.ones(R, bool), np.zeros(R, bool)):
        expected = np.sum(np.asarray(product(ROWS)["y"])[live], axis=0)
        np.testing.assert_allclose(run(ROWS, live)["y"], expected, rtol=0, atol=1e-13)
    one_more = LIVE | (np.arange(R) == R - 1)  # the control: every row is seen
    more, fewer = (np.asarray(run(ROWS, live)["y"]) for live in (one_more, LIVE))
    assert np.all(more - fewer > 1e-6)


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
