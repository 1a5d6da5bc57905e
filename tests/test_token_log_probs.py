"""Token log-probabilities in chunks are those of the dense log-softmax, and so are derivatives.

The laws of several devices are in `test_devices.py`.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import pgjax
from pgjax.tokens.log_probs import log_probs

pytestmark = pytest.mark.usefixtures("strict_numerics")

SHAPE, D, V = (4, 6), 5, 23
NAMES = "hidden", "table", "temperature", "bias", "softcap"
# By default; one entry; all of them; a rest on both axes, on one, and more than there is.
CHUNKS = [None, 1, V, (5, 22), (24, 8), (100, 100)]


def dense(
    hidden: Array, table: Array, token: Array, *, temperature: Any, bias: Any, softcap: Any
) -> tuple[Array, Array]:
    """The formula, with all logits at once."""
    z = hidden @ table
    if bias is not None:
        z = z + jnp.broadcast_to(bias, z.shape)
    if softcap is not None:
        z = softcap * jnp.tanh(z / softcap)
    log_p = jax.nn.log_softmax(z / jnp.broadcast_to(temperature, token.shape)[..., None])
    own = jnp.take_along_axis(log_p, token[..., None], axis=-1)[..., 0]
    return own, -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def draw(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> tuple[dict[str, Any], np.ndarray, Any]:
    """Every differentiable argument, tokens, and two cotangents a token."""
    rng = np.random.default_rng(seed)
    values = {
        "hidden": rng.normal(size=(*shape, D)),
        "table": rng.normal(size=(D, V)),
        "temperature": rng.uniform(0.5, 2, size=shape),
        "bias": rng.normal(size=V),
        "softcap": np.float64(2.0),
    }
    return values, rng.integers(0, V, shape), rng.normal(size=(2, *shape))


ARGUMENTS, TOKEN, COTANGENTS = draw()


def loss_of(function: Callable[..., Any], token: Any, cotangents: Any) -> Any:
    """The sum of both results times their cotangents; a token without any is left out."""

    def loss(values: dict[str, Any]) -> tuple[Array, Any]:
        values = {"temperature": 1.0, "bias": None, "softcap": None} | values
        hidden, table = values.pop("hidden"), values.pop("table")
        found = function(hidden, table, token, **values)
        live = (cotangents[0] != 0) | (cotangents[1] != 0)
        found = tuple(jnp.where(live, x, jnp.zeros_like(x)) for x in found)
        return jnp.sum(jnp.stack([x * c for x, c in zip(found, cotangents, strict=True)])), found

    return loss


@partial(jax.jit, static_argnums=0)
def outcome(function: Callable[..., Any], values: Any, token: Any, cotangents: Any) -> Any:
    """Both results, and the gradients of their sum with the cotangents by all the values."""
    loss = loss_of(function, token, cotangents)
    (_, found), gradients = jax.value_and_grad(loss, has_aux=True)(values)
    return found, gradients


def in_chunks(chunk: Any) -> Callable[..., Any]:
    return lambda *arrays, **settings: log_probs(*arrays, **settings, chunk=chunk)


WAYS: dict[Any, Callable[..., Any]] = {"dense": dense} | {
    chunk: in_chunks(chunk) for chunk in CHUNKS
}
RESTS = WAYS[5, 22]


@jax.jit
def by_every_way(values: Any, token: Any, cotangents: Any) -> Any:
    return [outcome(function, values, token, cotangents) for function in WAYS.values()]


def outcomes(values: Any = ARGUMENTS, token: Any = TOKEN, cotangents: Any = COTANGENTS) -> Any:
    """The outcome of each of the ways, by one program for all numbers."""
    found = jax.device_get(by_every_way(values, token, cotangents))
    return dict(zip(WAYS, found, strict=True))


def difference(found: Any, expected: Any) -> float:
    parts = jax.tree.map(
        lambda x, y: np.abs(np.asarray(x, float) - np.asarray(y, float)).max(initial=0),
        found,
        expected,
    )
    return float(np.max(jax.tree.leaves(parts)))  # NaN if there is one


@pytest.fixture(scope="module")
def truth(strict_numerics: None) -> Any:
    return outcomes()["dense"]


@pytest.mark.parametrize("chunk", CHUNKS)
def test_any_chunks_give_the_dense_values_and_gradients(chunk: Any, truth: Any) -> None:
    assert difference(outcomes()[chunk], truth) <= 1e-12


NOTHING = {"temperature": np.ones(SHAPE), "bias": np.zeros(V), "softcap": np.float64(1e9)}


def test_so_they_do_with_the_settings_left_out() -> None:
    """As with settings that do nothing; a soft cap of 1e9 changes no digit."""
    cases = [
        {name: ARGUMENTS[name] for name in ("hidden", "table", *names)}
        for names in ((), ("bias",), ("softcap",))
    ]
    run = jax.jit(lambda cases: [outcome(RESTS, each, TOKEN, COTANGENTS) for each in cases])
    for given, found in zip(cases, run(cases), strict=True):
        expected, slopes = outcomes(ARGUMENTS | NOTHING | given)["dense"]
        assert difference(found, (expected, {name: slopes[name] for name in given})) <= 1e-12


def test_the_soft_cap_comes_before_the_temperature(truth: Any) -> None:
    hidden, table, temperature, bias, softcap = (ARGUMENTS[name] for name in NAMES)
    other_order = (hidden @ table + bias) / temperature[..., None]
    log_p = log_softmax(softcap * np.tanh(other_order / softcap))
    assert difference(of_tokens(log_p, TOKEN), truth[0]) > 1e-2


def test_gradients_are_finite_differences() -> None:
    """Central, of step 1e-4: off by its square, some 1e-8 of the third derivative."""
    _, gradients = outcomes()[5, 22]
    rng, step = np.random.default_rng(1), 1e-4
    for name in NAMES:
        direction = rng.normal(size=ARGUMENTS[name].shape)
        moved = [ARGUMENTS | {name: ARGUMENTS[name] + s * step * direction} for s in (1, -1)]
        ends = [float(np.sum(outcomes(each)[5, 22][0] * COTANGENTS)) for each in moved]
        expected = float(np.sum(gradients[name] * direction))
        assert abs((ends[0] - ends[1]) / (2 * step) - expected) <= 1e-6 * (1 + abs(expected)), name
        assert abs(expected) > 1e-3, name


def test_second_derivatives_are_the_dense_ones() -> None:
    """The matrix of those by bias and soft cap, times a random vector."""
    some = {name: jnp.asarray(ARGUMENTS[name]) for name in ("bias", "softcap")}
    vector = jax.tree.map(lambda x: np.random.default_rng(1).normal(size=x.shape), some)

    def product(function: Any) -> Any:
        loss = loss_of(function, TOKEN, COTANGENTS)
        gradient = jax.grad(lambda some: loss(ARGUMENTS | some)[0])
        return jax.vjp(gradient, some)[1](vector)

    found, expected = jax.jit(lambda: [product(function) for function in (RESTS, dense)])()
    assert difference(found, expected) <= 1e-11
    assert difference(found, jax.tree.map(np.zeros_like, found)) > 1e-2


@pytest.mark.parametrize("shape", [(), (2, 1, 3), (0, 2)])
def test_tokens_have_any_leading_shape(shape: tuple[int, ...]) -> None:
    """The first tokens of all, against all of them where no other has cotangents."""
    count = math.prod(shape)

    def first(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, *x.shape[2:])[:count].reshape((*shape, *x.shape[2:]))

    def firsts(values: Any) -> Any:
        return values | {name: first(values[name]) for name in ("hidden", "temperature")}

    cotangents = COTANGENTS * (np.arange(24).reshape(SHAPE) < count)
    every, slopes = outcomes(cotangents=cotangents)["dense"]
    expected = tuple(map(first, every)), firsts(slopes)
    own = np.stack([first(x) for x in COTANGENTS])
    found = outcome(in_chunks((2, 9)), firsts(ARGUMENTS), first(TOKEN), own)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, expected)
    assert difference(found, expected) <= 1e-12


def test_vmap_over_sequences_and_over_temperatures(truth: Any) -> None:
    axes = {"hidden": 0, "table": None, "temperature": 0, "bias": None, "softcap": None}
    loss = jax.vmap(lambda values, *of: loss_of(in_chunks((4, 8)), *of)(values)[1], (axes, 0, 1))
    arrays = ARGUMENTS["hidden"], jnp.asarray(ARGUMENTS["table"]), jnp.asarray(TOKEN)

    def at(temperature: Any) -> Any:
        return log_probs(*arrays, temperature=temperature)

    @jax.jit
    def run(temperatures: Any) -> Any:
        rows = loss(ARGUMENTS, jnp.asarray(TOKEN), jnp.asarray(COTANGENTS))
        return rows, jax.vmap(at)(temperatures), at(temperatures[1])

    rows, many, one = run(np.array([0.5, 2.0]))
    assert difference(rows, truth[0]) <= 1e-12
    assert difference(tuple(x[1] for x in jax.device_get(many)), one) <= 1e-12


def test_calls_outside_jit_agree(truth: Any) -> None:
    def run(values: Any) -> Any:
        values = dict(values)
        return RESTS(values.pop("hidden"), values.pop("table"), TOKEN, **values)

    found, pull = jax.vjp(run, jax.device_put(ARGUMENTS))
    (gradients,) = pull(tuple(jax.device_put(COTANGENTS)))
    assert difference((found, gradients), truth) <= 1e-12


# Rounding.


def log_softmax(logits: np.ndarray) -> np.ndarray:
    above = logits - logits.max(-1, keepdims=True)
    return above - np.log(np.exp(above).sum(-1, keepdims=True))


def of_tokens(log_p: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of each token, and entropy, from those of the whole vocabulary."""
    own = np.take_along_axis(log_p, token[..., None], -1)[..., 0]
    return own, -np.sum(np.exp(log_p) * log_p, axis=-1)


def test_bfloat16_is_summed_in_float32() -> None:
    """Against float64 of the same numbers, with the error that the roundings allow."""
    rng, D, V, R = np.random.default_rng(0), 64, 300, 40
    hidden, table = (rng.normal(size=shape).astype(jnp.bfloat16) for shape in ((R, D), (D, V)))
    hidden = hidden / hidden.dtype.type(8)
    token, (a, e) = rng.integers(0, V, R), rng.normal(size=(2, R, 1))
    cotangents = np.stack([a[:, 0], e[:, 0]]).astype(np.float32)

    @jax.jit
    def run(hidden: Array, table: Array, token: Array) -> Any:
        one, single = jnp.ones((), jnp.bfloat16), jnp.float32
        coarse = dense(hidden, table, token, temperature=one, bias=None, softcap=None)
        narrow = {"hidden": hidden, "table": table}
        chunked = outcome(in_chunks((16, 128)), narrow, token, cotangents)
        return chunked, log_probs(hidden.astype(single), table.astype(single), token), coarse

    (found, slopes), rounded, coarser = run(hidden, table, token)
    assert [x.dtype for x in found] == [jnp.float32] * 2
    assert {x.dtype for x in slopes.values()} == {jnp.dtype(jnp.bfloat16)}

    # Forward. A sum of D float32 products is off by 2 D eps times the sum of their sizes; a sum of
    # V weights and the log add V eps. An error d of every logit moves the entropy by 2 d |log p|.
    eps, coarse = 2.0**-24, 2.0**-8
    wide = {"hidden": hidden.astype(float), "table": table.astype(float)}
    sizes = {name: np.abs(x) for name, x in wide.items()}
    log_p = log_softmax(wide["hidden"] @ wide["table"])
    truth = of_tokens(log_p, token)
    by_logit = 2 * D * eps * (sizes["hidden"] @ sizes["table"]).max() + V * eps
    bound = 2 * np.abs(log_p).max() * by_logit
    assert difference(found, truth) <= bound
    assert difference(rounded, truth) <= bound
    assert difference(coarser, truth) > bound  # the control: sums in bfloat16

    # Backward. Each derivative by a logit is rounded once, each sum of its products once more; a
    # quarter is for the errors above.
    p, surplus, chosen = np.exp(log_p), log_p + truth[1][:, None], np.arange(V) == token[:, None]
    by_logit = a * (chosen - p) - e * p * surplus
    size_by_logit = np.abs(a) * (chosen + p) + np.abs(e) * p * np.abs(surplus)
    exact, size = (
        {"hidden": y @ of["table"].T, "table": of["hidden"].T @ y}
        for y, of in ((by_logit, wide), (size_by_logit, sizes))
    )
    for name, slope in slopes.items():
        error = np.abs(np.asarray(slope).astype(float) - exact[name])
        assert np.all(error <= coarse * (1.25 * size[name] + np.abs(exact[name]))), name


def test_large_logits_neither_overflow_nor_cancel() -> None:
    """Float32 logits near ±3000, which differ by a few units."""
    hidden = np.asarray([[3000.0, 1.0], [-3000.0, 2.0]], np.float32)
    table = np.asarray([[1.0] * 7, [0.0, 1.0, -1.0, 2.0, 0.5, 0.0, 3.0]], np.float32)
    token = np.array([3, 6])
    found = jax.jit(partial(log_probs, chunk=(1, 3)))(hidden, table, token)
    expected = of_tokens(log_softmax(hidden.astype(float) @ table.astype(float)), token)
    assert difference(found, expected) <= 16 * 2.0**-24 * 3000


# Memory.


def inner(jaxpr: Jaxpr) -> Iterator[Jaxpr]:
    """The program, and all the programs within it."""
    yield jaxpr
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)
        ):
            if isinstance(value, Jaxpr | ClosedJaxpr):
                yield from inner(value.jaxpr if isinstance(value, ClosedJaxpr) else value)


def largest(function: Callable[..., Any], *shapes: Any) -> int:
    """Entries of the largest array that a function makes."""
    program = jax.make_jaxpr(function)(*shapes).jaxpr
    made = (x.aval for p in inner(program) for equation in p.eqns for x in equation.outvars)
    return max(getattr(aval, "size", 0) for aval in made)


def gradient_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Log-probabilities, entropies, and the gradient of their sum."""

    def run(hidden: Array, table: Array, token: Array) -> Any:
        def loss(values: Any) -> Any:
            found = function(*values, token, temperature=0.5, bias=None, softcap=3.0)
            return sum(map(jnp.sum, found)), found

        return jax.value_and_grad(loss, has_aux=True)((hidden, table))

    return run


def shapes(R: int, D: int, V: int) -> list[jax.ShapeDtypeStruct]:
    f32 = jnp.float32
    sizes = (R, D), (D, V), (R,)
    return [jax.ShapeDtypeStruct(s, d) for s, d in zip(sizes, (f32, f32, jnp.int32), strict=True)]


def test_no_array_holds_all_logits() -> None:
    R, D, V, chunk = 96, 4, 250, (25, 40)
    arrays = shapes(R, D, V)
    assert largest(gradient_of(in_chunks(chunk)), *arrays) <= max(D * V, R * D, 25 * 40)
    assert largest(gradient_of(dense), *arrays) >= R * V  # the control


def test_temporary_memory_is_a_twentieth_of_the_dense_one() -> None:
    arrays = shapes(1024, 16, 8192)

    def memory(function: Callable[..., Any]) -> int:
        compiled: Any = jax.jit(gradient_of(function)).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(in_chunks((256, 512))) <= memory(dense) / 20


def test_chunks_by_default_hold_few_of_the_logits() -> None:
    R, D, V = 4096, 8, 151_936
    assert largest(gradient_of(in_chunks(None)), *shapes(R, D, V)) <= R * V / 100


# Masks, exclusions, errors.


MASK = np.arange(24).reshape(SHAPE) % 3 > 0


def test_masked_tokens_are_harmless_be_they_nan_or_no_token() -> None:
    """They have no cotangents. Of traced tokens −100 is not an error."""
    hidden = np.where(MASK[..., None], ARGUMENTS["hidden"], np.nan)
    token = np.where(MASK, TOKEN, -100)
    garbage = ARGUMENTS | {"hidden": hidden}
    found, expected = (
        outcomes(*given, COTANGENTS * MASK) for given in ((garbage, token), (ARGUMENTS, TOKEN))
    )
    one_more = MASK | (np.arange(24).reshape(SHAPE) == 0)
    control = outcomes(garbage, token, COTANGENTS * one_more)
    for chunk in CHUNKS:
        assert difference(found[chunk], expected[chunk]) == 0
        assert np.isnan(control[chunk][1]["table"]).any()


def test_a_bias_of_minus_infinity_excludes_an_entry() -> None:
    keep = np.arange(V) % 4 != 0
    place = np.cumsum(keep) - 1
    token = np.flatnonzero(keep)[TOKEN % keep.sum()]
    values = ARGUMENTS | {"bias": np.where(keep, ARGUMENTS["bias"], -np.inf)}
    smaller = ARGUMENTS | {name: ARGUMENTS[name][..., keep] for name in ("table", "bias")}
    every, expected = outcomes(values, token), outcome(dense, smaller, place[token], COTANGENTS)
    for chunk in CHUNKS:
        found, by = every[chunk]
        for name in ("table", "bias"):
            assert not np.any(by[name][..., ~keep])
            by[name] = by[name][..., keep]
        assert difference((found, by), expected) <= 1e-12


def test_a_logit_that_overflows_to_minus_infinity_has_no_probability() -> None:
    values = {
        "hidden": np.array([[1e30]], np.float32),
        "table": np.array([[-1e30, 0, 1e-30]], np.float32),
    }
    found, by = outcome(in_chunks(2), values, np.array([2]), np.ones((2, 1), np.float32))
    p = np.exp(1) / (1 + np.exp(1))
    expected = np.log(p), -p * np.log(p) - (1 - p) * np.log(1 - p)
    np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-6)
    assert all(np.all(np.isfinite(x)) for x in by.values())


def test_a_token_out_of_range_is_an_error_or_nan() -> None:
    hidden, table = ARGUMENTS["hidden"], ARGUMENTS["table"]
    checked = pgjax.checked(log_probs)
    for wrong in (-1, V):
        token: Any = np.array(TOKEN)
        token[1, 2] = wrong
        with pytest.raises(ValueError, match=rf"token .* got {wrong} at index 8 "):
            log_probs(hidden, table, token)
        with pytest.raises(ValueError, match=rf"token .* got {wrong} at index 8 "):
            checked(hidden, table, token)
        every = outcomes(token=token)
        for chunk in CHUNKS:
            (log_prob, _), by = every[chunk]
            np.testing.assert_array_equal(np.isnan(log_prob), np.arange(24).reshape(SHAPE) == 8)
            assert np.isnan(by["table"]).all()
    small = np.asarray(TOKEN, np.uint8)  # V may be more than the dtype holds
    wide = np.zeros((D, 300))
    assert np.all(np.isfinite(jax.jit(log_probs)(hidden, wide, small)[0]))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"hidden": np.zeros((*SHAPE, D), int)}, TypeError, "hidden must be floating, got int"),
        ({"table": np.zeros((D, V), int)}, TypeError, "table must be floating"),
        ({"bias": np.zeros(V, int)}, TypeError, "bias must be floating"),
        ({"token": np.zeros(SHAPE)}, TypeError, "token must be of integers, got float"),
        ({"hidden": np.zeros((*SHAPE, D + 1))}, ValueError, r"hidden must have .* \(4, 6, 6\)"),
        ({"hidden": np.zeros((*SHAPE, V))}, ValueError, r"transpose an embedding: table\.T"),
        ({"hidden": np.zeros(())}, ValueError, r"hidden must have .*\(\)"),
        ({"table": np.zeros((2, D, V))}, ValueError, r"table must have shape \[D, V\]"),
        ({"table": np.zeros((D, 0))}, ValueError, r"table must have shape \[D, V\]"),
        ({"token": np.zeros(6, int)}, ValueError, r"token must have .*\(4, 6\), got \(6,\)"),
        ({"bias": np.zeros((1, V))}, ValueError, r"bias must have shape \[V\] = \(23,\)"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive, got 0"),
        ({"temperature": -1.0}, ValueError, "temperature must be positive, got -1"),
        ({"temperature": float("nan")}, ValueError, "temperature must be positive, got nan"),
        ({"temperature": np.ones(6)}, ValueError, r"temperature must .* shape \(6,\)"),
        ({"temperature": "cold"}, TypeError, "temperature must be a real number"),
        ({"softcap": 0.0}, ValueError, "softcap must be positive, got 0"),
        ({"softcap": np.ones(2)}, ValueError, "softcap must be a single number"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1, got 0"),
        ({"chunk": (4, -1)}, ValueError, "chunk must be at least 1, got -1"),
        ({"chunk": 2.5}, TypeError, r"chunk must be an integer, got 2\.5"),
        ({"chunk": (1, 2, 3)}, ValueError, r"chunk must be \(tokens, vocabulary\) or one integer"),
    ],
)
def test_a_bad_argument_is_named(change: dict[str, Any], error: Any, words: str) -> None:
    good = {"hidden": np.zeros((*SHAPE, D)), "table": np.zeros((D, V)), "token": TOKEN}
    with pytest.raises(error, match=words):
        log_probs(**(good | change))


def test_a_traced_temperature_is_checked_where_asked_for() -> None:
    arrays: Any = np.zeros((*SHAPE, D)), np.zeros((D, V)), TOKEN
    run = pgjax.checked(lambda t: log_probs(*arrays, temperature=t))
    run(np.float64(1.0))
    with pytest.raises(ValueError, match="temperature must be positive, got -1"):
        run(np.float64(-1.0))


# Devices.


def on_devices(mesh: Any, spec: P) -> dict[str, Any]:
    """The arguments, those of tokens spread over a mesh."""
    of_tokens = {"hidden", "temperature", "token", "cotangents"}
    values = ARGUMENTS | {"token": TOKEN, "cotangents": np.moveaxis(COTANGENTS, 0, -1)}
    return {
        name: jax.device_put(x, NamedSharding(mesh, spec if name in of_tokens else P()))
        for name, x in values.items()
    }


def local_outcome(values: dict[str, Any], chunk: Any = (5, 6)) -> Any:
    """Results and gradients of the tokens that are here."""
    values = dict(values)
    token, cotangents = values.pop("token"), jnp.moveaxis(values.pop("cotangents"), -1, 0)
    loss = loss_of(in_chunks(chunk), token, list(cotangents))
    (_, found), gradients = jax.value_and_grad(loss, has_aux=True)(values)
    return found, gradients


def check_laws_of_devices(devices: list[Any]) -> None:
    """Of four devices, in double precision; `test_devices.py` has them."""
    expected = outcome(dense, ARGUMENTS, TOKEN, COTANGENTS)
    for kind, spec in ((AxisType.Explicit, P("a")), (AxisType.Auto, P("a", "b"))):
        shape = 4 // len(spec), len(spec)
        mesh = jax.make_mesh(shape, ("a", "b"), (kind, kind), devices=devices)
        found = jax.jit(local_outcome)(on_devices(mesh, spec))
        assert difference(found, expected) <= 1e-12, kind
    # A shard_map over batch and time: JAX sums the gradients of what every device has.
    by = {name: spec if name in ("hidden", "temperature") else P() for name in ARGUMENTS}
    given = by | {"token": spec, "cotangents": spec}
    spread = jax.shard_map(
        local_outcome, mesh=mesh, in_specs=(given,), out_specs=((spec, spec), by)
    )
    assert difference(jax.jit(spread)(on_devices(mesh, spec)), expected) <= 1e-12
    # Each device works on tokens of its own: hidden states are never gathered.
    mesh = jax.make_mesh((4,), ("a",), (AxisType.Auto,), devices=devices)
    run = jax.jit(lambda values: local_outcome(values, chunk=(8, 6)))
    program = str(run.lower(on_devices(mesh, P("a"))).compile().as_text())
    assert "all-reduce" in program
    assert "all-gather" not in program
