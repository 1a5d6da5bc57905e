"""Bad input: every public function answers every bad argument with a ValueError or a TypeError.

The message names the argument, what it was and what was needed, and comes from pgjax itself: never
from inside JAX, Flax, optax or NumPy. `tests/bad_input.py` is the table.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pgjax.training.minibatches import Settings, check_settings
from tests import bad_input, bad_input_tokens, bad_values
from tests.bad_input import Cell, Row, cells, fault
from tests.bad_values import SETTINGS

ROWS = bad_input.ROWS + bad_input_tokens.ROWS
WITHOUT = bad_input.NOT_IN_TABLE | bad_input_tokens.NOT_IN_TABLE


@pytest.fixture(autouse=True)
def whole_traceback() -> Iterator[None]:
    """JAX hides its own frames from tracebacks, but here they count."""
    before = jax.config.jax_traceback_filtering  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jax.config.update("jax_traceback_filtering", before)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_arguments_are_refused_by_name(row: Row) -> None:
    faults = {f"{cell.argument}: {cell.what}": fault(cell) for cell in cells(row)}
    assert {what: found for what, found in faults.items() if found} == {}


def test_every_public_name_has_a_row_or_a_reason() -> None:
    rows = Counter(row.name for row in ROWS)
    assert set(rows.values()) == {1}
    public = bad_input.public_names()
    assert set(rows) | set(WITHOUT) == set(public)
    assert not set(rows) & set(WITHOUT)
    for row in ROWS:
        assert row.function is public[row.name]


def test_every_argument_has_a_kind_and_every_reason_a_cell() -> None:
    for row in ROWS:
        known = bad_input.arguments(row)  # a KeyError if a kind is missing
        every = {f"{name}: {what}" for name, (kind, _) in known.items() for what in kind.bad}
        assert {reason for reason in row.skip if ":" in reason} <= every, row.name


@pytest.mark.parametrize("name", [f.name for f in fields(Settings) if f.name != "axis"])
def test_settings_of_training_are_checked_where_they_are_used(name: str) -> None:
    kind = bad_values.COUNT if isinstance(getattr(SETTINGS, name), int) else bad_input.SCALAR
    for what, value in kind.bad.items():
        bad = replace(SETTINGS, **{name: value})
        cell = Cell(ROWS[0], name, what, value, partial(check_settings, bad), (name,))
        ours = what == "above" and name in ("entropy_weight", "value_weight")
        assert (fault(cell) == "it is accepted") if ours else fault(cell) is None, (
            what,
            fault(cell),
        )


def accepting(x: Any) -> Any:
    return x


def unnamed(x: Any) -> Any:
    raise ValueError("something is wrong, got nothing good")


def foreign(x: Any) -> Any:
    return jnp.reshape(x, (7, 7))


@pytest.mark.parametrize(
    ("function", "words"),
    [(accepting, "accepted"), (foreign, "from"), (unnamed, "from")],
)
def test_what_is_no_good_error_is_found(function: Any, words: str) -> None:
    cell = Cell(ROWS[0], "x", "zero", 0, lambda: function(jnp.zeros(3)), ("x",))
    found = fault(cell)
    assert found
    assert words in found
