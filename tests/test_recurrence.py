"""The recurrence is a scan, whatever the layout, the derivative or the device it runs on."""

from functools import cache, partial
from inspect import unwrap
from itertools import product
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.sharding import Mesh, PartitionSpec

import pgjax
from pgjax.core import recurrence
from pgjax.core.recurrence import reverse_affine

pytestmark = pytest.mark.usefixtures("strict")
N = 5
LAYOUTS = [(0, 0, 0), (None, 0, None), (1, 1, None), (0, None, None), (None, None, 0),
           (None, 1, 0), (1, 0, 0)]  # fmt: skip
ROWS = LAYOUTS[0]
LENGTHS = [1, 4, 21]


@jax.jit
def in_one_program(cases: Any) -> Any:
    """The solution of each of the cases, for each of the layouts."""
    return [
        {name: jax.vmap(reverse_affine, layout)(*case) for name, case in of_layout.items()}
        for layout, of_layout in zip(LAYOUTS, cases, strict=True)
    ]


def solved(cases: Any) -> dict[Any, Any]:
    return dict(zip(LAYOUTS, jax.device_get(in_one_program(cases)), strict=True))


def one_by_one(layout: Any, slope: np.ndarray, x: np.ndarray, last: np.ndarray) -> np.ndarray:
    """[N, T] the solution in NumPy, time by time."""

    def rows(x: np.ndarray, axis: int | None) -> np.ndarray:
        return x[None] if axis is None else np.moveaxis(x, axis, 0)

    slope, x, following = map(rows, (slope, x, last), layout)
    solution = np.zeros((max(map(len, (slope, x, following))), x.shape[1]), x.dtype)
    slope, x = (np.broadcast_to(y, solution.shape) for y in (slope, x))
    for t in reversed(range(x.shape[1])):
        solution[:, t] = following = x[:, t] + slope[:, t] * following
    return solution


def by_scan(slope: Array, intercept: Array, last: Array) -> Array:
    def step(following: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        following = x[1] + x[0] * following
        return following, following

    slope = jnp.broadcast_to(slope, intercept.shape)
    return jax.lax.scan(step, last, (slope, intercept), reverse=True)[1]


def operands(layout: Any, T: int, scalar_slope: bool) -> list[Any]:
    rng = np.random.default_rng(T)

    def draw(axis: int | None, *shape: int) -> np.ndarray:
        return rng.normal(size=shape if axis is None else np.insert(shape, min(axis, 1), N))

    slope = np.tanh(draw(layout[0], 1 if scalar_slope else T))  # no explosive recurrence
    last = np.asarray(rng.normal(size=() if layout[2] is None else (N,)))
    return [slope, draw(layout[1], T), last]


def cases_of(layout: Any) -> dict[str, list[Any]]:
    """Operands of every length, with one slope and with a slope for each time."""
    kinds = product(LENGTHS, (False, True))
    return {f"T = {T}, scalar slope {s}": operands(layout, T, s) for T, s in kinds}


@cache
def every_layout() -> dict[Any, Any]:
    return solved([cases_of(layout) for layout in LAYOUTS])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_scan(layout: Any) -> None:
    found = every_layout()[layout]
    for name, case in cases_of(layout).items():
        expected = one_by_one(layout, *case)
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-11, err_msg=name)


@pytest.mark.parametrize(("layout", "scalar_slope"), [(LAYOUTS[0], False), (LAYOUTS[5], True)])
def test_derivatives_of_both_orders_and_modes_are_the_scan_s(
    layout: Any, scalar_slope: bool
) -> None:
    """The gradient, and products of both derivatives with a random vector."""
    arguments = operands(layout, 9, scalar_slope)
    vector = tuple(np.random.default_rng(1).normal(size=x.shape) for x in arguments)

    def derivatives(function: Any, *x: Array) -> Any:
        def scalar(*x: Array) -> Array:
            return jnp.sum(jnp.sin(jax.vmap(function, layout)(*x)))

        gradient = jax.grad(scalar, (0, 1, 2))
        forwards = [jax.jvp(f, x, vector)[1] for f in (scalar, gradient)]
        return gradient(*x), forwards, jax.vjp(gradient, *x)[1](vector)

    both = jax.jit(lambda *x: [derivatives(each, *x) for each in (reverse_affine, by_scan)])
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-10)
    jax.tree.map(close, *both(*arguments))


SIZES = [(1, 16), (1, 17), (1, 40), (2, 1), (2, 8), (3, 33), (4, 4), (4, 5), (6, 10), (8, 13)]
# Of few times; a single row; several in one group and in more, with one element or more at the end.
WITH_SHARED_SLOPES = [(1, 17), (2, 1), (2, 8), (3, 33), (6, 10)]


@jax.jit
def of_sizes(cases: Any) -> list[Array]:
    """The solutions for rows [N, T]; slopes may be [N or 1, T or 1]."""

    def by_row(slope: Array, x: Array, last: Array) -> Array:
        axes = None if len(slope) == 1 else 0, 0, None if len(last) == 1 else 0
        shared = [y[0] if len(y) == 1 else y for y in (slope, last)]
        return jax.vmap(reverse_affine, axes)(shared[0], x, shared[1])

    return [by_row(*case) for case in cases]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_number_of_rows_and_times_is_the_scan(dtype: Any) -> None:
    """They decide how many rows and blocks are solved together, and what is left at the ends.

    With shared slopes, of which a pass takes half as many, each kind of pass and of end once.
    """
    rng = np.random.default_rng(0)
    cases = [
        [x.astype(dtype) for x in (rng.uniform(size=slope), rng.normal(size=(N, T)), last)]
        for N, T in SIZES
        for slope in {(N, T), *([(1, 1), (N, 1), (1, T)] * ((N, T) in WITH_SHARED_SLOPES))}
        for last in (rng.normal(size=N if slope[0] > 1 else 1),)
    ]
    for case, found in zip(cases, of_sizes(cases), strict=True):
        message, expected = f"slopes {case[0].shape}, rows {case[1].shape}", one_by_one(ROWS, *case)
        tolerance = 50 * np.finfo(dtype).eps
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=message)


# Zero slopes of some rows or of all, before what is infinite: axis of time, shape of slopes, times.
ZERO_SLOPES = [*product((0, 1), ((1, 1), (4, 1)), (3, 18))]


def with_zero_slope(axis: int, shape: tuple[int, int], times: int) -> list[np.ndarray]:
    x = np.tile([1.0, np.inf, 2.0], (4, times // 3))
    slope, last = np.full(shape, 0.5), np.full((1, 1), np.inf)
    slope[-1] = 0
    return [y if axis else y.T for y in (slope, x, last)]


def random_along(axis: int) -> list[np.ndarray]:
    rng, shape = np.random.default_rng(0), (7, 6)
    last = rng.normal(size=np.where(np.arange(2) == axis, 1, shape))
    return [rng.uniform(size=shape), rng.normal(size=shape), last]


@cache
def every_lowering() -> dict[Any, Any]:
    """Both loops, and the parallel form, of random numbers along each axis and of ZERO_SLOPES."""
    cases = [(axis, random_along(axis)) for axis in (0, 1)]
    cases += [(case[0], with_zero_slope(*case)) for case in ZERO_SLOPES]
    axes, operands = zip(*cases, strict=True)

    def each(axis: int, operands: Any) -> tuple[list[Array], Array]:
        loops = [recurrence._loop(*operands, axis=axis, flatten=f) for f in (True, False)]
        return loops, recurrence._parallel(*operands, axis=axis)

    found = jax.device_get(jax.jit(lambda operands: [*map(each, axes, operands)])(operands))
    return dict(zip((0, 1, *ZERO_SLOPES), found, strict=True))


@pytest.mark.parametrize("axis", [0, 1])
def test_every_lowering_gives_the_same(axis: int) -> None:
    loops, parallel = every_lowering()[axis]
    for loop in loops:
        np.testing.assert_allclose(loop, parallel, rtol=0, atol=1e-12)


def test_it_works_and_differentiates_inside_shard_map_which_knows_what_varies() -> None:
    mesh = Mesh(jax.devices()[:1], ("n",))
    slope, intercept, last = operands((None, 0, None), 9, True)

    def total(intercept: Array) -> Array:
        rows = jax.vmap(reverse_affine, (None, 0, None))(slope, intercept, last)
        return jnp.sum(rows, axis=1)

    spread = jax.shard_map(
        total, mesh=mesh, in_specs=PartitionSpec("n"), out_specs=PartitionSpec("n")
    )

    def value_and_gradient(function: Any) -> Any:
        value, transpose = jax.vjp(function, intercept)
        return value, transpose(jnp.ones_like(value))

    both = jax.jit(lambda: [value_and_gradient(f) for f in (spread, total)])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-14), *both())


OF_ROWS = [layout for layout in LAYOUTS if layout[1] is not None]


@cache
def spoilt_in_one_row(bad: float) -> dict[Any, Any]:
    cases = {layout: cases_of(layout) for layout in LAYOUTS}
    for layout in OF_ROWS:
        for _, intercept, _ in cases[layout].values():
            intercept[(2, slice(None)) if layout[1] == 0 else (slice(None), 2)] = bad
    return solved([*cases.values()])


@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("layout", OF_ROWS)
def test_what_is_not_finite_in_one_sequence_reaches_no_other(layout: Any, bad: float) -> None:
    cases, others = cases_of(layout), np.arange(N) != 2
    for name, found in spoilt_in_one_row(bad)[layout].items():
        expected = one_by_one(layout, *cases[name])[others]
        np.testing.assert_allclose(found[others], expected, rtol=0, atol=1e-11, err_msg=name)
        assert not np.isfinite(found[2]).any(), name


@pytest.mark.parametrize(("axis", "shape", "times"), ZERO_SLOPES)
def test_where_the_slope_is_zero_the_solution_is_the_intercept_even_before_an_infinite_one(
    axis: int, shape: tuple[int, int], times: int
) -> None:
    _, x, _ = with_zero_slope(axis, shape, times)
    loops, parallel = every_lowering()[axis, shape, times]
    for found in (*loops, parallel):
        rows, expected = (y if axis else y.T for y in (found, x))
        np.testing.assert_array_equal(rows[-1], expected[-1])
        assert (shape[0] == 1) == np.isfinite(rows[0, 0])  # the slope of the others is not zero


def test_a_wrong_slope_is_seen_in_every_layout() -> None:
    """The negative control: the comparison above tells γ from 1.01 γ."""
    for layout in LAYOUTS:
        name = "T = 21, scalar slope False"
        slope, intercept, last = cases_of(layout)[name]
        wrong = one_by_one(layout, 1.01 * slope, intercept, last)
        assert np.abs(every_layout()[layout][name] - wrong).max() > 1e-3


def returns(reward: Array) -> Array:
    return jax.vmap(partial(pgjax.discounted_returns, discount=0.9))(reward)


@cache
def loops_on(platform: str, times: int = 20) -> int:
    rewards = jax.ShapeDtypeStruct((4, times), jnp.float64)
    exported = jax.export.export(jax.jit(returns), platforms=[platform])(rewards)
    return exported.mlir_module().count("stablehlo.while")


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_accelerators_get_a_program_without_a_loop(platform: str) -> None:
    assert loops_on(platform) == 0
    assert loops_on("cpu") > 0


def test_a_few_times_need_no_loop_either() -> None:
    assert loops_on("cpu", recurrence.LOOK_AHEAD) == 0
    assert loops_on("cpu", recurrence.LOOK_AHEAD + 1) > 0


SLOPES = {
    "one": (None, (1,)),
    "one for each row": (0, (64, 1)),
    "one for each time": (0, (64, 200)),
}


@pytest.mark.parametrize(("axis", "shape"), SLOPES.values(), ids=SLOPES)
def test_rows_are_solved_in_place(axis: int | None, shape: tuple[int, ...]) -> None:
    """No array of the input's size beside input and output: a copy at each step is ruinous."""
    arrays = np.ones(shape), np.zeros((64, 200)), np.zeros(64)

    def temporary_bytes(function: Any) -> int:
        compiled: Any = jax.jit(jax.vmap(function, (axis, 0, 0))).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(reverse_affine) < arrays[1].nbytes / 4
    assert temporary_bytes(by_scan) >= arrays[1].nbytes, "the control keeps time first"


@pytest.mark.parametrize("axis", [0, 1])
def test_a_batch_of_no_rows_has_a_solution_of_no_rows(axis: int) -> None:
    returns = jax.vmap(partial(pgjax.discounted_returns, discount=0.9), axis, axis)
    rows: Any = np.ones((0, 5) if axis == 0 else (5, 0))
    for solution in (
        returns(rows),
        jax.jit(returns)(rows),
        jax.jit(jax.grad(lambda x: returns(x).sum()))(rows),
    ):
        assert solution.shape == rows.shape


def test_an_array_too_large_for_indices_of_32_bits_is_never_flattened() -> None:
    def is_flattened(*shape: int) -> bool:
        arguments = [jax.ShapeDtypeStruct(y, jnp.float32) for y in (shape, shape, (shape[0], 1))]
        loop = partial(recurrence._loop, axis=1, flatten=True)
        return f"[{np.prod(shape)}]" in str(jax.make_jaxpr(loop)(*arguments))

    assert is_flattened(2**15, 2**15)
    assert not is_flattened(2**16, 2**15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_xla_compiles_the_loops_into_one_function(dtype: Any) -> None:
    """It does so while a pass reads and writes little; else each operation would be a call."""

    def in_one_function(N: int, T: int, slope: tuple[int, ...], last: tuple[int, ...]) -> bool:
        arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in (slope, (N, T), last)]
        axes = [0 if len(slope) == 2 else None, 0, 0 if last else None]
        # A function of its own, because the control must not meet what JAX keeps of another trace.
        loop = jax.jit(jax.vmap(lambda *x: reverse_affine(*x), axes), donate_argnums=1)
        text = loop.lower(*arguments).compile().as_text()
        assert text is not None
        assert " while(" in text
        return " while(" not in text[text.index("ENTRY") :]

    for N, T in [(64, 501), (66, 128), (67, 128), (1, 1000)]:
        of_rows = [((N, T), (N,)), ((N, 1), ())]
        for slope, last in [*(of_rows if N > 1 else []), ((T,), ()), ((1,), (N,))]:
            assert in_one_function(N, T, slope, last), (N, T, slope, last)
    with pytest.MonkeyPatch.context() as negative_control:
        negative_control.setattr(recurrence, "PASS_BYTES", 2 * recurrence.PASS_BYTES)
        negative_control.setattr(recurrence, "_loop", unwrap(recurrence._loop))  # traced anew
        assert not in_one_function(64, 501, (64, 501), (64,))
