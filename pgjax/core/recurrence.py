"""The recurrence x_t = b_t + a_t x_{t+1}, as a JAX primitive that sees its batch's layout.

`jax.vmap` over a scan runs every layout in one way, and no single way is fast in all of them. A
primitive learns from `vmap` where the batch axes are. It chooses when it is lowered:

- time last ([T] or [N, T]): a look-ahead loop over blocks of elements, of up to four sequences at
  once. A block is first solved as if nothing followed it, without waiting for what follows. Then
  one multiply-add with the element after the block corrects the whole block.
- time not last ([T, N]): one row at a time, a vector operation each.
- a few times: one after another without a loop, which runs and compiles up to three times as fast.
- accelerators: a parallel scan, because each step of a loop would be a kernel launch.

On a CPU both loops write over their input, so a donated buffer costs no new memory.
"""

import math
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Float

from pgjax.core.devices import varying

LOOK_AHEAD = 4
"""Elements of a block; in a single sequence twice as many. At 10, XLA on a CPU recomputes the terms
that the elements share for each of them, and is a hundred times slower."""

PASS_BYTES = 64
"""The size of all blocks that one pass of a loop solves. XLA on a CPU compiles a loop into one
function only if it counts less than 1,024 bytes read and written in a pass. Otherwise, as with
twice this size, each operation is a call, and the loop is up to a hundred times slower."""


def reverse_affine(
    slope: Float[Array, "T"] | Float[Array, "1"],
    intercept: Float[Array, "T"],
    last: Float[Array, ""],
) -> Float[Array, "T"]:
    """x_t = intercept_t + slope_t x_{t+1} with x_T = last, the only recurrence in pgjax.

    If one slope for all times is zero, x_t is the intercept, even if x_{t+1} is infinite. All three
    have the same dtype. The function is differentiable in both modes, at any order.
    """
    if intercept.size == 0:
        return intercept
    return _bind(slope, intercept, last[None], axis=0)


def scaled(rate: Array, x: Array) -> Array:
    """A rate times x; zero, and not NaN, where the rate is zero and x is infinite.

    Its derivatives are those of the product.
    """
    return rate * jnp.where((rate == 0) & jnp.isinf(x), 0, x)


def accumulation_dtype(x: Array) -> jnp.dtype:
    """The dtype of sums of x: float64 if x is float64 to JAX, else float32.

    A NumPy array of float64 is float32 to JAX unless x64 is on.
    """
    is_double = jax.dtypes.canonicalize_dtype(x.dtype) == jnp.float64
    return jnp.dtype(jnp.float64 if is_double else jnp.float32)


# Operands have one rank. `slope` is as long as `intercept` along each axis, or 1; `last` likewise,
# and 1 along `axis`, which is time.
reverse_affine_p = Primitive("reverse_affine")
reverse_affine_p.def_impl(jax.jit(reverse_affine_p.bind, static_argnames="axis"))


def _bind(*operands: Array, axis: int) -> Array:
    return reverse_affine_p.bind(*varying(operands, operands), axis=axis)


@reverse_affine_p.def_abstract_eval
def _abstract(slope: Any, intercept: Any, last: Any, *, axis: int) -> ShapedArray:
    return intercept


def _batch(args: Any, dims: Any, *, axis: int) -> tuple[Array, int]:
    """The batch stays where it stands in `intercept`, so that no layout is ever transposed."""
    slope, intercept, last = args
    place = dims[1]
    if place is None:
        place = 0
        size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
        intercept = jnp.broadcast_to(intercept, (size, *intercept.shape))
    slope, last = (
        jnp.expand_dims(x, place) if d is None else jnp.moveaxis(x, d, place)
        for x, d in ((slope, dims[0]), (last, dims[2]))
    )
    axis += place <= axis
    return _bind(slope, intercept, last, axis=axis), place


def _jvp(primals: Any, tangents: Any, *, axis: int) -> tuple[Array, Array]:
    """dx_t = db_t + da_t x_{t+1} + a_t dx_{t+1}: the same recurrence."""
    slope, intercept, last = primals
    x = _bind(slope, intercept, last, axis=axis)
    d_slope, d_intercept, d_last = (
        jnp.zeros_like(primal) if isinstance(tangent, ad.Zero) else tangent
        for primal, tangent in zip(primals, tangents, strict=True)
    )
    if not isinstance(tangents[0], ad.Zero):
        rest = jax.lax.slice_in_dim(x, 1, None, axis=axis)
        end = jnp.broadcast_to(last, _with(x.shape, axis, 1))
        d_intercept = d_intercept + d_slope * jnp.concatenate([rest, end], axis)
    return x, _bind(slope, d_intercept, d_last, axis=axis)


def _transpose(cotangent: Array, slope: Array, intercept: Any, last: Any, *, axis: int) -> Any:
    """y_t = c_t + a_{t−1} y_{t−1}, the recurrence run the other way: on arrays flipped in time."""
    if isinstance(cotangent, ad.Zero):
        return None, ad.Zero(intercept.aval), ad.Zero(last.aval)
    zero = jnp.zeros((1,) * cotangent.ndim, cotangent.dtype)
    flipped = jnp.flip(slope, axis)
    if slope.shape[axis] > 1:
        end = jnp.broadcast_to(zero, _with(slope.shape, axis, 1))
        flipped = jnp.concatenate([jax.lax.slice_in_dim(flipped, 1, None, axis=axis), end], axis)
    y = _bind(flipped, jnp.flip(cotangent, axis), zero, axis=axis)
    y = jnp.flip(y, axis)
    through_last = _end(slope, axis) * _end(y, axis)
    shape = last.aval.shape if ad.is_undefined_primal(last) else last.shape
    summed = [i for i, n in enumerate(shape) if n == 1 and through_last.shape[i] > 1]
    return None, y, jnp.sum(through_last, axis=summed, keepdims=True)


# Traced once for each kind of operands, and written out where it is called.
@partial(jax.jit, inline=True, static_argnames=("axis", "flatten"))
def _loop(slope: Array, intercept: Array, last: Array, *, axis: int, flatten: bool) -> Array:
    """The solution on a CPU: of a few times at once, of more in place, by sequences or by times."""
    if intercept.size == 0:  # a batch of no rows
        return intercept
    x, T, end_slope = intercept, intercept.shape[axis], _end(slope, axis)
    if slope.shape[axis] > 1 or T > LOOK_AHEAD:
        last = jnp.where(end_slope == 0, 0, last)  # zero times infinity is NaN
    if T <= LOOK_AHEAD:
        return _few_times(slope, x, last, axis)
    time_is_last = x.size == T * math.prod(x.shape[:axis])
    if time_is_last and (flatten or x.size == T) and x.size < 2**31:  # its indices are 32 bits wide
        rows = x.reshape(-1, T)
        solution = _sequences(_as_rows(slope, x, axis), rows, _as_rows(last, x, axis))
        return solution.reshape(x.shape)
    end = _end(x, axis) + end_slope * last
    x = jax.lax.dynamic_update_slice_in_dim(x, end, T - 1, axis)
    return _without_zero_slope(slope, x, _rows(slope, x, axis), axis)


def _lower_loop(context: Any, *operands: Any, axis: int) -> Any:
    """`_loop` for the CPU; sequences that may be spread over devices are solved time by time."""
    devices = getattr(context.module_context.axis_context, "num_devices", None) or 1
    loop = partial(_loop, flatten=devices == 1)
    return mlir.lower_fun(loop, multiple_results=False)(context, *operands, axis=axis)


def _few_times(slope: Array, x: Array, last: Array, axis: int) -> Array:
    """The solution for so few times that XLA computes it in one operation."""

    def at(y: Array, t: int) -> Array:
        return jax.lax.index_in_dim(y, t, axis) if y.shape[axis] > 1 else y

    solved = [last]
    for t in reversed(range(x.shape[axis])):
        solved.insert(0, at(x, t) + at(slope, t) * solved[0])
    return _without_zero_slope(slope, x, jnp.concatenate(solved[:-1], axis), axis)


def _rows(slope: Array, x: Array, axis: int) -> Array:
    """The solution in place, from the last row, which is already solved, to the first."""
    T = x.shape[axis]

    def row(y: Array, t: Any) -> Array:
        return jax.lax.dynamic_slice_in_dim(y, t if y.shape[axis] > 1 else 0, 1, axis)

    def step(i: Array, x: Array) -> Array:
        t = T - 2 - i
        solved = row(x, t) + row(slope, t) * row(x, t + 1)
        return jax.lax.dynamic_update_slice_in_dim(x, solved, t, axis)

    return jax.lax.fori_loop(0, T - 1, step, x)


def _as_rows(operand: Array, x: Array, axis: int) -> Array:
    """A slope or a last value as [N, T], where N or T is 1 if all rows or times have the same."""
    times = operand.shape[axis]
    if operand.size > times:
        operand = jnp.broadcast_to(operand, (*x.shape[:axis], times))
    return operand.reshape(-1, times)


def _sequences(slope: Array, x: Array, last: Array) -> Array:
    """The solution [N, T] in place.

    First the end of each row is solved, as many elements as leave whole passes. A pass solves one
    block in each of four rows, whose chains of multiply-adds do not wait for each other; or, if N
    is not a multiple of four, more blocks of fewer rows.
    """
    N, T = x.shape
    flat = {"slope": slope.reshape(-1), "last": last.reshape(-1)}
    strides = {"x": (T, 1), "slope": _strides(slope), "last": _strides(last)}
    numbers = PASS_BYTES // x.dtype.itemsize
    if slope.size < x.size and N > 1:
        numbers //= 2  # XLA computes what blocks share before the passes, and counts that too
    rows = math.gcd(N, numbers // LOOK_AHEAD)
    size = numbers // rows
    block = min(2 * LOOK_AHEAD if N == 1 else LOOK_AHEAD, size)
    passes = (T - 1) // size
    end = T - passes * size

    def place(name: str, row: tuple[Any, int], start: Any) -> Any:
        """Where in the flat array the elements of a row stand, from `start` on."""
        group, member = row
        by_row, by_time = strides[name]
        return group * (rows * by_row) + start * by_time + member * by_row

    def slopes(row: tuple[Any, int], start: Any, size: int) -> Array:
        """[size], or [1] if one slope serves for all times."""
        return _window(flat["slope"], place("slope", row, start), size if slope.shape[1] > 1 else 1)

    def solve(x: Array, row: tuple[Any, int], start: Any, size: int, last: Array | None) -> Array:
        """One block, before an element that is solved already, or before `last`."""
        a, b = slopes(row, start, size), _window(x, place("x", row, start), size + (last is None))
        b, following = (b[:-1], b[-1]) if last is None else (b, last)
        solution = _look_ahead(jnp.broadcast_to(a, b.shape), b, following)
        return _put(x, _without_zero_slope(a, b, solution, 0), place("x", row, start))

    def solve_ends(group: Any, x: Array) -> Array:
        for start, member in product(reversed(range(T - end, T, block)), range(rows)):
            row, length = (group, member), min(block, T - start)
            last = _window(flat["last"], place("last", row, 0), 1)[0]
            x = solve(x, row, start, length, last if start + length == T else None)
        return x

    def solve_end_of_one_row(x: Array) -> Array:
        """Element by element: outside of a loop, XLA would copy the row between two blocks."""
        a, b = slopes((0, 0), T - end, end), x[T - end :]
        solution = _rows(a, b.at[-1].add(a[-1] * flat["last"][0]), 0)
        return _put(x, _without_zero_slope(a, b, solution, 0), T - end)

    def solve_rest(group: Any, x: Array) -> Array:
        def one_pass(i: Any, x: Array) -> Array:
            for offset, member in product(reversed(range(0, size, block)), range(rows)):
                x = solve(x, (group, member), (passes - 1 - i) * size + offset, block, None)
            return x

        return jax.lax.fori_loop(0, passes, one_pass, x)

    x = x.reshape(-1)
    x = solve_end_of_one_row(x) if N == 1 else jax.lax.fori_loop(0, N // rows, solve_ends, x)
    if passes:
        x = jax.lax.fori_loop(0, N // rows, solve_rest, x)
    return x.reshape(N, T)


def _strides(x: Array) -> tuple[int, int]:
    """How far rows and times are apart in a flat [N, T]; zero where one serves for all."""
    rows, times = x.shape
    return (times if rows > 1 else 0), int(times > 1)


def _window(flat: Array, start: Any, size: int) -> Array:
    return jax.lax.dynamic_slice(flat, (start,), (size,), allow_negative_indices=False)


def _put(flat: Array, x: Array, start: Any) -> Array:
    return jax.lax.dynamic_update_slice(flat, x, (start,), allow_negative_indices=False)


def _without_zero_slope(slope: Array, intercept: Array, solution: Array, axis: int) -> Array:
    """The intercept where one slope for all times is zero, because zero times infinity is NaN.

    A block is tested when it is solved. An array that is solved time by time is tested at its end:
    inside the loop the test would make XLA copy the whole array at every step. Slopes for each time
    are not tested, which would cost a quarter of the speed.
    """
    return jnp.where(slope == 0, intercept, solution) if slope.shape[axis] == 1 else solution


def _look_ahead(a: Array, b: Array, following: Array) -> Array:
    """One block: x_t = L_t + D_t · following, where L and D depend on the block alone."""
    local, decay = [b[-1]], [a[-1]]
    for t in range(a.size - 2, -1, -1):
        local.insert(0, b[t] + a[t] * local[0])
        decay.insert(0, a[t] * decay[0])
    return jnp.stack([x + d * following for x, d in zip(local, decay, strict=True)])


def _parallel(slope: Array, intercept: Array, last: Array, *, axis: int) -> Array:
    """On an accelerator: compose the affine maps x -> b + a x in a logarithmic number of steps."""

    def compose(later: tuple[Array, Array], earlier: tuple[Array, Array]) -> tuple[Array, Array]:
        slope, intercept = earlier
        return slope * later[0], intercept + slope * later[1]

    maps = jnp.broadcast_to(slope, intercept.shape), intercept
    decay, local = jax.lax.associative_scan(compose, maps, reverse=True, axis=axis)
    return _without_zero_slope(slope, intercept, local + decay * last, axis)


def _end(x: Array, axis: int) -> Array:
    return jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


batching.primitive_batchers[reverse_affine_p] = _batch
ad.primitive_jvps[reverse_affine_p] = _jvp
ad.primitive_transposes[reverse_affine_p] = _transpose
mlir.register_lowering(reverse_affine_p, mlir.lower_fun(_parallel, multiple_results=False))
mlir.register_lowering(reverse_affine_p, _lower_loop, platform="cpu")
