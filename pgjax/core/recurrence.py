"""The recurrence x_t = b_t + a_t x_{t+1}, as a JAX primitive that sees its batch's layout.

`jax.vmap` over a scan runs every layout in one way, and no single way is fast in all of them. A
primitive learns from `vmap` where the batch axes are. It chooses when it is lowered:

- time last ([T] or [N, T]): a look-ahead loop, sequence after sequence. Eight elements are first
  solved as if nothing followed them, without waiting for the carry. Then one multiply-add with the
  carry corrects all eight.
- time not last ([T, N]): one row at a time, a vector operation each.
- accelerators: a parallel scan, because each step of a loop would be a kernel launch.

On a CPU both loops write over their input, so a donated buffer costs no new memory.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Float

from pgjax.core.devices import varying

LOOK_AHEAD = 8
"""Elements solved without the carry. At 10, XLA on a CPU recomputes the shared terms for each
output, and is a hundred times slower. 4 takes 1.6 times as long as 8."""


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


def _loop(slope: Array, intercept: Array, last: Array, *, axis: int, flatten: bool) -> Array:
    """The solution on a CPU, in place: by sequences if time is last, else time by time for all."""
    end = _end(intercept, axis) + scaled(_end(slope, axis), last)
    x = jax.lax.dynamic_update_slice_in_dim(intercept, end, intercept.shape[axis] - 1, axis)
    time_is_last = x.size == x.shape[axis] * math.prod(x.shape[:axis])
    if not (time_is_last and (flatten or x.size == x.shape[axis])):
        return _without_zero_slope(slope, x, _rows(slope, x, axis), axis)
    slopes = slope.shape[axis]
    if slope.size > slopes:  # not the same for all rows
        slope = jnp.broadcast_to(slope, (*x.shape[:axis], slopes))
    rows = x.reshape(-1, x.shape[axis])
    return _sequences(slope.reshape(-1, slopes), rows).reshape(x.shape)


def _lower_loop(context: Any, *operands: Any, axis: int) -> Any:
    """`_loop` for the CPU; sequences that may be spread over devices are solved time by time."""
    devices = getattr(context.module_context.axis_context, "num_devices", None) or 1
    loop = partial(_loop, flatten=devices == 1)
    return mlir.lower_fun(loop, multiple_results=False)(context, *operands, axis=axis)


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


def _sequences(slope: Array, x: Array) -> Array:
    """The solution [N, T] in place: each row in blocks of LOOK_AHEAD, then the shorter rest."""
    N, T = x.shape
    size, left = min(T, LOOK_AHEAD), T % LOOK_AHEAD if T > LOOK_AHEAD else 0

    def slopes(n: Any, start: Any, size: int) -> Array:
        """The slopes of a block of row n; a single one if it is the same at all times."""
        row = n if slope.shape[0] > 1 else 0
        is_one = slope.shape[1] == 1
        place, size = (row, 0 if is_one else start), 1 if is_one else size
        return jax.lax.dynamic_slice(slope, place, (1, size))[0]

    def solve_row(n: Any, x: Array) -> Array:
        def solve(carry: tuple[Array, Array], start: Any, size: int) -> tuple[Array, Array]:
            x, following = carry
            a, b = slopes(n, start, size), jax.lax.dynamic_slice(x, (n * T + start,), (size,))
            solution = _look_ahead(jnp.broadcast_to(a, b.shape), b, following)
            return jax.lax.dynamic_update_slice(x, solution, (n * T + start,)), solution[0]

        def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            return solve(carry, T - size * (i + 1), size)

        def first(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            return solve(carry, 0, left)

        blocks, remainder = T // size, int(left > 0)
        if slope.shape[1] == 1:  # a zero slope needs no step, and zero times infinity is NaN
            counts = slopes(n, 0, 1)[0] != 0
            blocks, remainder = (jnp.where(counts, each, 0) for each in (blocks, remainder))
        carry = x, varying(jnp.zeros((), x.dtype), x)
        carry = jax.lax.fori_loop(0, blocks, step, carry)
        return (jax.lax.fori_loop(0, remainder, first, carry) if left else carry)[0]

    flat = x.reshape(-1)
    flat = solve_row(0, flat) if N == 1 else jax.lax.fori_loop(0, N, solve_row, flat)
    return flat.reshape(x.shape)


def _without_zero_slope(slope: Array, intercept: Array, solution: Array, axis: int) -> Array:
    """The intercept where one slope for all times is zero, because zero times infinity is NaN.

    The test runs once, at the end: inside a loop it would make XLA copy the whole array at every
    step. Slopes for each time are not tested, which would cost a quarter of the speed.
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
