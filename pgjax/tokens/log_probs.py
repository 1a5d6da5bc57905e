"""Log-probabilities and entropies of tokens from hidden states, without the array of all logits.

The logits of N sequences of T tokens over a vocabulary of V are the largest array of a training
step: 2.5 GB in float32 for 4,096 tokens and V = 151,936. Here a chunk of tokens meets a chunk of
the vocabulary, and only the logits of that chunk exist. A running log-sum-exp joins the chunks; the
backward pass computes the logits again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from pgjax.core.chunks import even_size
from pgjax.core.devices import varying, without_explicit_axes
from pgjax.core.recurrence import accumulation_dtype
from pgjax.core.validation import (
    as_array,
    check_above_zero,
    check_positive,
    check_real,
    check_scalars,
    check_values,
)

CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 8192
CPU_LOGITS, ACCELERATOR_LOGITS = 2**22, 2**26
"""Tokens, and logits, in a chunk. On a CPU the matrix products run at their full rate from some 512
tokens by 2,048 entries on, and larger chunks gain nothing. An accelerator's chunk must be worth its
kernel launches: its size is a choice, not a measurement."""

FORWARDS = {"allow_negative_indices": False}
"""No index of a chunk counts from the end: JAX need not look."""


def log_probs(
    hidden: Float[Array, "*tokens D"],
    table: Float[Array, "D V"],
    token: Int[Array, "*tokens"],
    *,
    temperature: Any = 1.0,
    bias: Float[Array, "V"] | None = None,
    softcap: Any = None,
    chunk: int | tuple[int, int] | None = None,
) -> tuple[Float[Array, "*tokens"], Float[Array, "*tokens"]]:
    """Log-probability of each token, and entropy of the distribution that it is drawn from.

    z = hidden @ table + bias,  logits = softcap tanh(z / softcap) / temperature,
    log_prob = logits[token] − log Σ_v exp(logits_v),  entropy = −Σ_v p_v log p_v.

    The soft cap comes before the temperature, as in Gemma 2: the cap belongs to the model, the
    temperature to the sampler. Both results are differentiable in reverse mode by `hidden`,
    `table`, `bias`, `temperature` and `softcap`. Any function of the two results may be the loss,
    because each token has its own cotangents.

    Args:
        hidden: [..., D], the last hidden states, of any leading shape.
        table: [D, V], the output embedding. Of tied input embeddings [V, D], give the transpose:
            XLA makes one copy of it.
        token: [...], integers in [0, V).
        temperature: positive; one number, or one for each token, [...].
        bias: [V], or None. −inf excludes an entry of the vocabulary, whatever the soft cap.
        softcap: positive, a number; None caps nothing.
        chunk: the most that is computed at a time: (tokens, entries of the vocabulary), or entries
            alone. None chooses by size. Every choice gives the same results to rounding.

    Returns:
        log_prob and entropy, [...] each: float64 where hidden states or table are, else float32.
        If no error can be raised, a token outside [0, V) has the log-probability NaN.

    Raises:
        TypeError: if `hidden`, `table` or `bias` is not floating, `token` is not of integers, or
            `chunk` holds anything but integers.
        ValueError: if shapes do not fit; if `temperature` or `softcap` is not positive, or if a
            token is outside [0, V), where it is known or under `pgjax.checked`; if `chunk` is less
            than one.

    Bias: none; chunks change the rounding only. Products of bfloat16 are summed in float32. The
        derivatives by the logits are rounded to bfloat16 too, to be multiplied.

    Memory: a few chunks of logits, and the gradient by `hidden` in the dtype of the results. What
        the backward pass keeps is two numbers a token. It computes the logits again, which adds a
        third to the matrix products of a gradient. A derivative of second order keeps all logits.
        `jax.vmap` multiplies a chunk by the size of its batch: it needs less if all the tokens of a
        batch are given to one call.

    Masked tokens: a token whose two cotangents are zero adds nothing to any gradient, even if its
        hidden state is NaN. `jnp.where(mask, log_prob, 0)` makes them zero.

    Devices: tokens may be spread over devices in any way. Each device needs the whole table.

    References:
        Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models (2024),
        arXiv:2411.09009: the same recomputation; nothing is left out here where a probability is
        small. Milakov & Gimelshein, Online Normalizer Calculation for Softmax (2018),
        arXiv:1805.02867. Gemma Team, Gemma 2 (2024), arXiv:2408.00118, section 2: the soft cap.

    Example:
        >>> import jax.numpy as jnp
        >>> hidden, table = jnp.ones((2, 3, 4)), jnp.zeros((4, 8))
        >>> log_prob, entropy = log_probs(hidden, table, jnp.zeros((2, 3), int))
        >>> print(log_prob.shape, log_prob[0, 0], entropy[0, 0])
        (2, 3) -2.0794415 2.0794415
    """
    given = {"hidden": hidden, "table": table, "token": token}
    hidden, table, token = (as_array(name, x) for name, x in given.items())
    if bias is not None:
        check_real("bias", bias)
    dtype = _check_arrays(hidden, table, token, bias)
    _check_numbers(token, temperature, softcap)
    sizes = _chunk_sizes(chunk, token.size, table.shape[1])
    token = _in_range(token, table.shape[1])
    others = [None if x is None else jnp.asarray(x, dtype) for x in (bias, temperature, softcap)]
    run = without_explicit_axes(partial(_compiled, sizes), jax.typeof(token).sharding.spec)
    return run(hidden, table, token, *others)


class _Rows(NamedTuple):
    """The arrays with an entry for each token, [n, C, ...]; chunk j is [:, j], every Cth token.

    So each device has a share of every chunk if tokens are spread over devices.
    """

    hidden: Any
    token: Any
    temperature: Any
    softcap: Any


class _Columns(NamedTuple):
    """The arrays with a column for each entry of the vocabulary, [..., V]."""

    table: Any
    bias: Any


class _Place(NamedTuple):
    """Which columns a chunk holds, and which of them no chunk before it held, [1, width] both."""

    entry: Array
    new: Array


def _in_chunks(
    sizes: tuple[int, int],
    hidden: Array,
    table: Array,
    token: Array,
    bias: Array | None,
    *numbers: Any,
) -> tuple[Array, Array]:
    """`log_probs` of arguments that are checked: it lays tokens out in chunks, and results back."""
    if not token.size:
        return jnp.zeros(token.shape, numbers[0].dtype), jnp.zeros(token.shape, numbers[0].dtype)
    size, width = sizes
    count = -(-token.size // size)
    padding = size * count - token.size

    def split(x: Array) -> Array:
        x = x.reshape(token.size, *x.shape[token.ndim :])
        if padding:
            x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1), mode="edge")
        return x.reshape(size, count, *x.shape[1:])

    numbers = jax.tree.map(lambda x: jnp.broadcast_to(x, token.shape), numbers)
    rows = _Rows(*jax.tree.map(split, (hidden, token, *numbers)))
    arrays = rows, _Columns(table, bias)
    found = _of_chunks(width, *varying(arrays, arrays))
    return jax.tree.map(lambda x: x.reshape(-1)[: token.size].reshape(token.shape), found)


_compiled = jax.jit(_in_chunks, static_argnums=0)  # calls outside jit compile the loops once too


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_chunks(width: int, rows: _Rows, columns: _Columns) -> tuple[Array, Array]:
    return _forward(width, rows, columns)[0]


def _forward(width: int, rows: _Rows, columns: _Columns) -> tuple[tuple[Array, Array], Any]:
    """Keep, with m the largest logit l so far, the sums of e^(l−m) and of e^(l−m) (l−m)."""
    dtype = rows.temperature.dtype

    def visit(row: _Rows, part: _Columns, place: _Place, state: Any) -> tuple[Any, None]:
        old, total, moment, own = state
        products = _multiply("nd,dv->nv", row.hidden, part.table, dtype)
        logits = _logits(products, part.bias, row.temperature, row.softcap)
        at = row.token - place.entry[0, 0]
        picked = jnp.take_along_axis(logits, jnp.clip(at, 0, width - 1)[:, None], axis=1)[:, 0]
        own = jnp.where((at >= 0) & (at < width), picked, own)
        logits = jnp.where(place.new, logits, -jnp.inf)
        peak = jnp.maximum(old, jnp.max(logits, axis=1))
        above = logits - peak[:, None]
        weight = jnp.exp(above)
        # Without the outer condition XLA makes the sum a product: three times as slow on a CPU.
        some = weight > 0
        moments = jnp.where(some, weight * jnp.where(some, above, 0), 0)
        shrink = jnp.exp(old - peak)
        moment = shrink * (moment + total * (old - peak)) + jnp.sum(moments, axis=1)
        total = shrink * total + jnp.sum(weight, axis=1)
        return (peak, total, moment, own), None

    zero = jnp.zeros_like(rows.temperature)
    start = zero + jnp.finfo(dtype).min / 2, zero, zero, zero + jnp.nan
    (peak, total, moment, own), _ = _over_chunks(visit, width, rows, columns, start, None)
    log_total = jnp.log(total)
    normaliser, entropy = peak + log_total, log_total - moment / total
    return (own - normaliser, entropy), (rows, columns, normaliser, entropy)


def _backward(width: int, saved: Any, cotangents: tuple[Array, Array]) -> tuple[_Rows, _Columns]:
    """With cotangents a and e: ∂/∂l_v = a (1[v = token] − p_v) − e p_v (log p_v + entropy)."""
    rows, columns, *statistics = saved
    dtype = rows.temperature.dtype

    def visit(row: Any, part: _Columns, place: _Place, total: _Rows) -> tuple[_Rows, _Columns]:
        row, normaliser, entropy, a, e = row
        live = ((a != 0) | (e != 0))[:, None]
        row = row._replace(hidden=jnp.where(live, row.hidden, 0))
        a = jnp.where((row.token < 0) & (a != 0), jnp.nan, a)[:, None]
        products = _multiply("nd,dv->nv", row.hidden, part.table, dtype)
        logits, pull = jax.vjp(_logits, products, part.bias, row.temperature, row.softcap)
        log_p = logits - normaliser[:, None]
        p = jnp.exp(log_p)
        surplus = jnp.where(p > 0, log_p, 0) + entropy[:, None]
        chosen = place.entry == row.token[:, None]
        by_logit = jnp.where(chosen, a, 0) - p * (a + e[:, None] * surplus)
        by_product, by_bias, *by_numbers = pull(jnp.where(live & place.new, by_logit, 0))
        by_product = by_product.astype(jnp.promote_types(row.hidden.dtype, part.table.dtype))
        by_hidden = _multiply("nv,dv->nd", by_product, part.table, dtype)
        by_table = _multiply("nd,nv->dv", row.hidden, by_product, dtype)
        by_row = _Rows(by_hidden, None, *by_numbers)
        return jax.tree.map(jnp.add, total, by_row), _Columns(by_table, by_bias)

    start = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), rows._replace(token=None))
    chunked = (rows, *statistics, *cotangents)
    by_rows, by_columns = _over_chunks(visit, width, chunked, columns, start, columns)
    return by_rows._replace(hidden=by_rows.hidden.astype(rows.hidden.dtype)), by_columns


_of_chunks.defvjp(_forward, _backward)


def _over_chunks(
    visit: Callable[[Any, _Columns, _Place, Any], tuple[Any, Any]],
    width: int,
    rows: Any,
    columns: _Columns,
    state: Any,
    summed: Any,
) -> tuple[Any, Any]:
    """Visit each chunk of the vocabulary with each chunk of the tokens.

    Args:
        visit: (rows [n, ...], columns [..., width], their place, state [n, ...]) -> the next state
            of these rows, and a pytree of [..., width] to sum over the chunks of tokens.
        width: of a chunk of the vocabulary. The last one repeats some columns to be full.
        rows: pytree of [n, C, ...].
        columns: pytree of [..., V].
        state: pytree of [n, C, ...], before the first visit.
        summed: pytree of [..., V], in the shape and dtype of the sums.

    Returns:
        The state after the last visit, and the sums.
    """
    count, dtype = jax.tree.leaves(state)[0].shape[1], jax.tree.leaves(state)[0].dtype
    V = columns.table.shape[-1]

    def take_columns(carry: Any, first: Array) -> tuple[Any, None]:
        state, summed = carry
        start = jnp.minimum(first, V - width)
        entry = start + jnp.arange(width, dtype=jnp.int32)[None]

        def cut(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, start, width, -1, **FORWARDS)

        part, place = jax.tree.map(cut, columns), _Place(entry, entry >= first)

        def take_rows(j: Array, carry: Any) -> Any:
            state, sums = carry
            at = partial(jax.lax.dynamic_index_in_dim, index=j, axis=1, keepdims=False, **FORWARDS)
            put = partial(jax.lax.dynamic_update_index_in_dim, index=j, axis=1, **FORWARDS)
            row, old = jax.tree.map(at, (rows, state))
            new, more = visit(row, part, place, old)
            state = jax.tree.map(put, state, new)
            return state, jax.tree.map(jnp.add, sums, more)

        zero = jax.tree.map(lambda x: jnp.zeros((*x.shape[:-1], width), dtype), summed)
        state, sums = jax.lax.fori_loop(0, count, take_rows, (state, varying(zero, rows)))

        def put(x: Array, y: Array) -> Array:
            more = cut(x) + y.astype(x.dtype)
            return jax.lax.dynamic_update_slice_in_dim(x, more, start, -1, **FORWARDS)

        return (state, jax.tree.map(put, summed, sums)), None

    firsts = jnp.arange(0, V, width, dtype=jnp.int32)
    carry = state, jax.tree.map(jnp.zeros_like, summed)
    return jax.lax.scan(take_columns, varying(carry, rows), firsts)[0]


def _multiply(axes: str, x: Array, y: Array, dtype: Any) -> Array:
    """Products of the operands as they are, bfloat16 say, summed in `dtype`."""
    common = jnp.promote_types(x.dtype, y.dtype)
    return jnp.einsum(axes, x.astype(common), y.astype(common), preferred_element_type=dtype)


def _logits(product: Array, bias: Any, temperature: Array, softcap: Any) -> Array:
    """Of a chunk, [n, v]: the bias, then the soft cap, then the temperature."""
    logits, excluded = product, False
    if bias is not None:
        bias = bias[None]
        excluded = bias == -jnp.inf
        logits = logits + jnp.where(excluded, 0, bias)
    if softcap is not None:
        logits = softcap[:, None] * jnp.tanh(logits / softcap[:, None])
    logits = logits / temperature[:, None]
    return logits if bias is None else jnp.where(excluded, -jnp.inf, logits)


def _check_arrays(hidden: Array, table: Array, token: Array, bias: Any) -> Any:
    """Raise if a shape or a dtype does not fit; otherwise the dtype of the results."""
    for name, x in {"hidden": hidden, "table": table, "bias": bias}.items():
        if x is not None and not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise TypeError(f"{name} must be floating, got {jnp.result_type(x)}; cast it")
    if not jnp.issubdtype(token.dtype, jnp.integer):
        raise TypeError(f"token must be of integers, got {token.dtype}; cast it: token.astype(int)")
    if table.ndim != 2 or not table.size:
        raise ValueError(f"table must have shape [D, V], neither of them zero, got {table.shape}")
    D, V = table.shape
    if hidden.ndim == 0 or hidden.shape[-1] != D:
        fix = "; transpose an embedding: table.T" if hidden.shape[-1:] == (V,) else ""
        raise ValueError(
            f"hidden must have shape [..., D], table [D, V], got {hidden.shape} and {table.shape}"
            + fix
        )
    if token.shape != hidden.shape[:-1]:
        raise ValueError(
            f"token must have the shape of hidden without its last axis, {hidden.shape[:-1]}, "
            f"got {token.shape}"
        )
    if bias is not None and jnp.shape(bias) != (V,):
        raise ValueError(f"bias must have shape [V] = {(V,)}, got {jnp.shape(bias)}")
    return accumulation_dtype(jnp.zeros((), jnp.promote_types(hidden.dtype, table.dtype)))


def _check_numbers(token: Array, temperature: Any, softcap: Any) -> None:
    if np.size(temperature):  # of no token at all there is nothing to check
        check_above_zero("temperature", temperature, "the greedy choice has no log-probability")
    if jnp.ndim(temperature) and jnp.shape(temperature) != token.shape:
        raise ValueError(
            f"temperature must be a number or have the shape of token, {token.shape}, "
            f"got shape {jnp.shape(temperature)}"
        )
    if softcap is not None:
        check_scalars(softcap=softcap)
        check_above_zero("softcap", softcap, "None caps nothing")


def _in_range(token: Array, V: int) -> Array:
    """The tokens as int32, −1 if not in [0, V); an error if that is known or under `checked`."""
    if not token.size:
        return token.astype(jnp.int32)

    def find_wrong(token: Any) -> tuple[Any, dict[str, Any]]:
        good = _inside(token, V).ravel()
        first = good.argmin()
        return good.all(), {"value": token.ravel()[first], "place": first}

    check_values(
        f"token must lie in [0, V) = [0, {V}), got {{value}} at index {{place}} of the flat array; "
        "where a mask leaves it out, give it any token in range, 0 say",
        find_wrong,
        token,
    )
    return jnp.where(_inside(token, V), token.astype(jnp.int32), -1)


def _inside(token: Any, V: int) -> Any:
    """Whether tokens lie in [0, V), for arrays of NumPy or JAX; V need not fit their dtype."""
    return (token >= 0) & (token <= min(V - 1, jnp.iinfo(token.dtype).max))


def _chunk_sizes(chunk: Any, tokens: int, V: int) -> tuple[int, int]:
    """Tokens and entries of the vocabulary in a chunk, shared evenly among as few as can be."""
    on_cpu = jax.default_backend() == "cpu"
    most = CPU_TOKENS if on_cpu else ACCELERATOR_TOKENS
    width = None
    if isinstance(chunk, tuple | list):
        if len(chunk) != 2:
            raise ValueError(f"chunk must be (tokens, vocabulary) or one integer, got {chunk!r}")
        most, width = (check_positive("chunk", size) for size in chunk)
    elif chunk is not None:
        width = check_positive("chunk", chunk)
    size = even_size(max(tokens, 1), most)
    if width is None:
        width = max((CPU_LOGITS if on_cpu else ACCELERATOR_LOGITS) // size, 1)
    return size, even_size(V, width)
