"""Records: what JAX sees of them, when they are equal, and how they print."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax.records import Configured, configured, data, record, static


@record
class Model:
    function: Any
    rate: Any = 1.0
    size: int = static(default=2)
    table: Any = data(default=None)


def _scaled(x: Any, *, factor: Any, shift: Any = None, name: str = "") -> Any:
    return factor * x + (0 if shift is None else shift)


def _identity(x: Any) -> Any:
    return x


def counted(function: Callable) -> tuple[Callable, list[int]]:
    """A compiled function, and how often it was traced."""
    traced: list[int] = []

    @jax.jit
    def run(*args: Any) -> Any:
        traced.append(1)
        return function(*args)

    return run, traced


def test_numbers_are_leaves_and_functions_integers_strings_and_none_are_not() -> None:
    assert jax.tree.leaves(Model(_identity, 0.5)) == [0.5]
    assert jax.tree.leaves(configured(_scaled, factor=3, shift=0.5, name="x")) == [0.5]
    assert jax.tree.leaves(Model(configured(_scaled, factor=2.0), 0.5)) == [2.0, 0.5]
    assert jax.tree.leaves(Model(_identity, 0.5, 7, table={"steps": 3})) == [0.5, 3]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(Model(_identity))]
    assert paths == [".rate"]


def test_records_that_hold_keys_are_compared_inside_a_trace_too() -> None:
    one, same, other = (Model(_identity, jax.random.key(seed)) for seed in (0, 0, 1))
    found = []

    def compare(x: Any) -> Any:
        found.append((one == same, one == other))
        return x

    jax.eval_shape(compare, 1.0)
    assert found == [(True, False)]


def test_a_record_built_anew_compiles_once_and_another_function_compiles_again() -> None:
    run, traced = counted(lambda model, x: model.rate * model.function(x))
    for rate in (0.5, 0.5, 0.25):
        assert run(Model(configured(_scaled, factor=2.0), rate), 3.0) == rate * 6
    assert len(traced) == 1
    run(Model(_identity, 0.5), 3.0)
    run(Model(lambda x: x, 0.5), 3.0)  # a lambda is the same as no other
    run(Model(configured(_scaled, factor=2.0), 0.5, size=3), 3.0)
    assert len(traced) == 4


def test_mapping_and_differentiating_go_over_the_numbers() -> None:
    rates = jnp.array([0.9, 0.95, 0.99])
    values = jax.vmap(lambda model: model.rate * model.function(2.0))(Model(_identity, rates))
    np.testing.assert_allclose(values, 2 * rates)
    slope = jax.grad(lambda f: f(3.0))(configured(_scaled, factor=2.0, shift=1.0))
    assert slope.settings == {"factor": 3.0, "shift": 1.0, "name": ""} or slope.settings == {
        "factor": 3.0,
        "shift": 1.0,
    }


def test_what_is_a_leaf_stays_one_whatever_stands_there() -> None:
    model = Model(_identity, jnp.ones(2))
    axes = jax.tree.map(lambda x: None, model)
    assert axes.rate is None
    mapped = jax.vmap(lambda model, x: model.rate + x, (axes, 0))(model, jnp.arange(3.0))
    assert mapped.shape == (3, 2)


def test_equal_settings_are_equal_records_with_equal_hashes() -> None:
    def one() -> Model:
        return Model(configured(_scaled, factor=np.arange(3.0)), 0.5)

    assert one() == one()
    assert hash(one()) == hash(one())
    assert one() != replace(one(), rate=0.6)
    assert one() != replace(one(), size=3)
    assert one() != Model(_identity, 0.5)
    assert one() != "a record"
    keys = [Model(_identity, jax.random.key(seed)) for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]


def test_a_callable_without_a_hash_is_the_same_as_itself_only() -> None:
    class Network:
        __hash__ = None  # pyright: ignore[reportAssignmentType]

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared by value")

        def __call__(self, x: Any) -> Any:
            return x

    run, traced = counted(lambda model, x: model.function(x))
    network = Network()
    run(Model(network), 1.0)
    run(Model(network), 1.0)
    assert len(traced) == 1
    run(Model(Network()), 1.0)
    assert len(traced) == 2


def test_records_print_the_settings_they_were_made_with() -> None:
    assert repr(Model(configured(_scaled, factor=0.9), 0.5)) == (
        "Model(function=scaled(factor=0.9), rate=0.5)"
    )
    assert repr(Model(_identity, jnp.ones(2))) == "Model(function=_identity, rate=float32[2])"


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Model(_identity).rate = 2.0  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(configured(_scaled), Configured)


def test_the_check_of_a_record_runs_when_it_is_made_and_not_when_jax_rebuilds_it() -> None:
    @record
    class Positive:
        value: Any

        def __post_init__(self) -> None:
            if not self.value > 0:
                raise ValueError(f"value must be positive, got {self.value}")

    with pytest.raises(ValueError, match="got -1"):
        Positive(-1.0)
    with pytest.raises(ValueError, match="got -1"):
        replace(Positive(1.0), value=-1.0)
    assert jax.tree.map(lambda x: -x, Positive(1.0)).value == -1.0
