"""Random keys: every key inside the library is a threefry key."""

from typing import Any

import jax
import jax.numpy as jnp

from pgjax.types import describe

THREEFRY, RAW_KEYS = "threefry2x32", ((2,), (4,))
"""The implementation of all keys inside the library; the shapes of raw threefry and rbg keys."""


def check_key(key: Any) -> jax.Array:
    """`key` as a single typed threefry key, made from the bits of a key of another implementation.

    What a threefry key draws depends on that key alone. What "rbg" and "unsafe_rbg" keys draw under
    `vmap` depends on the whole batch too. Micro-batches, windows and devices cut the batch
    differently, and would see other numbers for the same key. Raw uint32 keys are accepted too.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        if key.shape != ():
            raise ValueError(
                f"key must be a single key, got a batch of shape {key.shape}; take one, keys[0]"
            )
        if jax.random.key_impl(key) == THREEFRY:
            return key
        return _as_threefry(jax.random.key_data(key))
    if dtype == jnp.uint32 and key.shape in RAW_KEYS:
        return _as_threefry(jnp.asarray(key))
    raise TypeError(
        f"key must be a jax.random key, got {describe(key)}; make one with jax.random.key(0)"
    )


def _as_threefry(words: jax.Array) -> jax.Array:
    """The threefry key of two words, with any others folded in."""
    key = jax.random.wrap_key_data(words[:2], impl=THREEFRY)
    for word in words[2:]:
        key = jax.random.fold_in(key, word)
    return key
