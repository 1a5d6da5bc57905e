"""Hoisting changes where a number is drawn, never which."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.core.randomness import LARGEST_DRAW, split_random_draws
from pgjax.rollouts.stepping import draws_at

KEYS = jax.random.wrap_key_data(jax.device_put(np.arange(4, dtype=np.uint32).reshape(2, 2)))


def noisy(keys: Array, carry: dict[str, Array]) -> tuple[dict[str, Array], Array]:
    first, second = keys
    kick = jax.random.normal(first, (3,)) * carry["scale"]
    chosen = jnp.where(jax.random.uniform(second) < carry["x"], 1.0, 0.0)
    return {"x": carry["x"] + chosen, "scale": carry["scale"]}, kick


CARRY = {"x": np.float32(0.4), "scale": np.full(3, 2, np.float32)}


def random_operations(function, *arguments) -> int:
    return str(jax.make_jaxpr(function)(*arguments)).count("random_bits")


def both_ways(function, draw, step, carry) -> tuple:
    return jax.jit(lambda keys, carry: (step(draw(keys), carry), function(keys, carry)))(
        KEYS, carry
    )


def test_both_parts_together_are_the_function() -> None:
    draw, step = split_random_draws(noisy, KEYS, CARRY)

    @jax.jit
    def both(keys: Array) -> tuple:
        return step(draw(keys), CARRY), noisy(keys, CARRY)

    for keys in np.random.default_rng(0).integers(2**32, size=(5, 2, 2), dtype=np.uint32):
        actual, expected = both(jax.random.wrap_key_data(keys))
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_nothing_random_is_left_in_the_step() -> None:
    draw, step = split_random_draws(noisy, KEYS, CARRY)
    assert random_operations(noisy, KEYS, CARRY) == 2
    assert random_operations(draw, KEYS) == 2
    assert random_operations(step, jax.eval_shape(draw, KEYS), CARRY) == 0


def test_a_draw_that_depends_on_the_carry_stays() -> None:
    def function(keys: Array, x: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(keys[0], x))

    draw, step = split_random_draws(function, KEYS, jnp.int32(3))
    assert random_operations(step, jax.eval_shape(draw, KEYS), jnp.int32(3)) == 1
    np.testing.assert_array_equal(*both_ways(function, draw, step, np.int32(5)))


def test_a_large_draw_stays_so_that_its_steps_are_not_all_held() -> None:
    def function(keys: Array, x: Array) -> Array:
        return jnp.sum(jax.random.uniform(keys[0], (LARGEST_DRAW + 1,))) + x

    draw, step = split_random_draws(function, KEYS, jnp.float32(0))
    assert sum(x.size for x in jax.eval_shape(draw, KEYS)) <= LARGEST_DRAW
    np.testing.assert_array_equal(*both_ways(function, draw, step, np.float32(1)))


def test_each_row_draws_at_each_time_by_its_own_key_of_that_time() -> None:
    def draw(keys: tuple[Array, ...]) -> tuple[Array, Array]:
        return jax.random.normal(keys[0], (2,)), jax.random.uniform(keys[1])

    @jax.jit
    def one(keys: tuple[Array, Array], times: tuple[int, int]) -> tuple[Array, Array]:
        return draw(tuple(map(jax.random.fold_in, keys, times)))

    @jax.jit
    def all_at_once(kinds: tuple[Array, Array], times: tuple[Array, Array]) -> tuple:
        numbers = draws_at(lambda keys: draw(keys)[1], kinds, times)  # a single one for each row
        return *draws_at(draw, kinds, times), numbers

    words = np.random.default_rng(1).integers(2**32, size=(2, 3, 2), dtype=np.uint32)
    first, second = (jax.random.wrap_key_data(x) for x in words)
    normal, uniform, numbers = jax.device_get(
        all_at_once((first, second), (np.arange(5), np.arange(5) + 1))
    )
    for t, n in np.ndindex(5, 3):
        keys = tuple(jax.random.wrap_key_data(x[n]) for x in words)
        expected = one(keys, (t, t + 1))
        jax.tree.map(np.testing.assert_array_equal, (normal[t, n], uniform[t, n]), expected)
    assert len(np.unique(normal)) == 5 * 3 * 2
    np.testing.assert_array_equal(numbers, uniform)


def test_what_ignores_its_keys_draws_nothing() -> None:
    draw, step = split_random_draws(lambda keys, x: x + 1, KEYS, jnp.float32(0))
    assert draw(KEYS) == []
    assert step([], jnp.float32(1)) == 2


def test_traced_constants_may_be_closed_over() -> None:
    @jax.jit
    def outer(scale: Array, keys: Array) -> Array:
        def function(keys: Array, x: Array) -> Array:
            return scale * jax.random.uniform(keys[0]) + x

        draw, step = split_random_draws(function, keys, jnp.float32(0))
        return step(draw(keys), jnp.float32(0))

    expected = 3 * jax.random.uniform(KEYS[0])
    np.testing.assert_allclose(outer(jnp.float32(3), KEYS), expected, rtol=1e-6)
