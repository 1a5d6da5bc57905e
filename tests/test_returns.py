"""Returns against a double loop in Python floats, and the laws that tie them together."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis.extra import numpy as arrays

from pgjax.returns import (
    discounted_returns,
    generalized_advantages,
    lambda_returns,
    n_step_returns,
    td_errors,
)

pytestmark = pytest.mark.usefixtures("strict")

EPS = np.finfo(np.float64).eps
LENGTH = 6  # one length, so that each function compiles once for all of hypothesis' examples
unit = st.floats(0, 1, width=64)
sequence = arrays.arrays(np.float64, LENGTH, elements=st.floats(-100, 100, width=64))
unit_sequence = arrays.arrays(np.float64, LENGTH, elements=unit)
jitted_returns, jitted_td, jitted_gae, jitted_lambda = map(
    jax.jit, (discounted_returns, td_errors, generalized_advantages, lambda_returns)
)


def loop_returns(reward: np.ndarray, discount: np.ndarray, last: float) -> np.ndarray:
    """G_t = Σ_k (Π_{j<k} γ_{t+j}) r_{t+k} + (Π γ) last, every t summed afresh."""
    T = len(reward)
    out = []
    for t in range(T):
        total, factor = 0.0, 1.0
        for k in range(t, T):
            total += factor * float(reward[k])
            factor *= float(discount[k])
        out.append(total + factor * last)
    return np.array(out)


def rounding(*arrays: np.ndarray, T: int = LENGTH) -> float:
    """An upper bound of the rounding of two sums of T such products: 8 T² eps times the largest."""
    return 8 * T**2 * EPS * (1 + max(np.max(np.abs(x), initial=0) for x in arrays))


@hypothesis.given(
    reward=sequence,
    discount=unit_sequence,
    lambda_=unit_sequence,
    value=sequence,
    following=sequence,
    scale=st.floats(-9, 9),
)
@hypothesis.settings(deadline=None)
def test_returns_and_advantages_obey_their_laws(
    reward: np.ndarray,
    discount: np.ndarray,
    lambda_: np.ndarray,
    value: np.ndarray,
    following: np.ndarray,
    scale: float,
) -> None:
    """All laws of one draw, since to draw takes longer than to compute."""
    last, known = following[-1], (reward, discount)
    of_returns, of_values = rounding(reward, last), rounding(reward, value, last)
    close = partial(np.testing.assert_allclose, rtol=0)
    returns = jitted_returns(reward, discount, last)
    close(returns, loop_returns(reward, discount, last), atol=of_returns, err_msg="the double loop")

    # A scalar discount is the constant sequence, up to rounding: a compiler may round a product
    # and its sum once or twice.
    scalar = jitted_returns(reward, discount[0], last)
    along = jitted_returns(reward, np.full(LENGTH, discount[0]), last)
    close(scalar, along, atol=of_returns, err_msg="a scalar discount")

    whole, *parts = (
        np.asarray(jitted_returns(x, discount, 0 * last))
        for x in (reward + scale * value, reward, value)
    )
    linear = rounding(reward, scale * value) * 2
    close(whole, parts[0] + scale * parts[1], atol=linear, err_msg="linear in the reward")

    error = reward + discount * following - value
    found = jitted_td(*known, value, following)
    close(found, error, atol=rounding(reward, value, following, T=1), err_msg="TD errors")
    sums = loop_returns(error, discount * lambda_, 0.0)
    found, bound = (
        jitted_gae(*known, lambda_, value, following),
        3 * rounding(reward, value, following),
    )
    close(found, sums, atol=bound, err_msg="the weighted sum of TD errors")

    # Where the following values are those of the next steps:
    after = np.append(value[1:], last)
    advantage = jitted_gae(*known, np.zeros(LENGTH), value, after)
    np.testing.assert_array_equal(advantage, jitted_td(*known, value, after), "lambda zero")
    advantage = jitted_gae(*known, np.ones(LENGTH), value, after)
    close(advantage + value, returns, atol=3 * of_values, err_msg="lambda one")
    advantage = jitted_gae(*known, lambda_, value, after)
    found = jitted_lambda(*known, lambda_, after)
    close(found, advantage + value, atol=4 * of_values, err_msg="the lambda return")


def test_the_double_loop_comparison_rejects_forward_discounting() -> None:
    reward, discount = np.arange(1.0, 7.0), 0.9
    forward = np.cumsum((discount ** np.arange(6) * reward)[::-1])[::-1]  # γ^k from the start
    expected = loop_returns(reward, np.full(6, discount), 0.0)
    assert np.max(np.abs(forward - expected)) > 1  # it is right at t = 0 alone


def test_discount_zero_leaves_the_reward_and_one_sums_it() -> None:
    reward = jnp.array([1.0, 2.0, 4.0])
    np.testing.assert_array_equal(discounted_returns(reward, 0.0), reward)
    np.testing.assert_array_equal(discounted_returns(reward, 1.0), [7.0, 6.0, 4.0])
    np.testing.assert_array_equal(discounted_returns(reward, 1, 10.0), [17.0, 16.0, 14.0])


def test_a_zero_in_the_discounts_cuts_the_sum_there() -> None:
    reward = jnp.array([1.0, 2.0, 4.0, 8.0])
    cut = discounted_returns(reward, jnp.array([1.0, 0.0, 1.0, 1.0]), 100.0)
    np.testing.assert_array_equal(cut, [3.0, 2.0, 112.0, 108.0])


def test_lambda_zero_leaves_one_step_and_lambda_one_leaves_the_return() -> None:
    reward, following = np.array([1.0, 2.0]), np.array([4.0, 8.0])
    np.testing.assert_array_equal(jitted_lambda(reward, 0.5, 0.0, following), [3.0, 6.0])
    np.testing.assert_array_equal(
        jitted_lambda(reward, 0.5, 1.0, following), jitted_returns(reward, 0.5, 8.0)
    )


@hypothesis.given(
    reward=sequence,
    discount=unit_sequence,
    following=sequence,
    continues=arrays.arrays(bool, LENGTH),
    n=st.integers(1, LENGTH + 1),
)
@hypothesis.settings(deadline=None)
def test_n_step_returns_equal_the_loop_over_n_rewards(
    reward: np.ndarray, discount: np.ndarray, following: np.ndarray, continues: np.ndarray, n: int
) -> None:
    found = jitted_n_step(n)(reward, discount, following, continues)
    expected = np.zeros(LENGTH)
    for t in range(LENGTH):
        factor, k = 1.0, t
        while True:
            expected[t] += factor * reward[k]
            factor *= discount[k]
            if k - t + 1 == n or k + 1 == LENGTH or not continues[k]:
                break
            k += 1
        expected[t] += factor * following[k]
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding(reward, following))


@cache
def jitted_n_step(n: int) -> Callable:
    return jax.jit(lambda r, g, w, c: n_step_returns(r, g, n, w, continues=c))


def test_one_step_is_the_td_target_and_as_many_as_there_are_the_return() -> None:
    reward, following = np.array([1.0, 2.0, 4.0]), np.array([16.0, 8.0, 4.0])

    @jax.jit
    def every(reward: jax.Array, following: jax.Array) -> dict[int, jax.Array]:
        return {n: n_step_returns(reward, 0.5, n, following) for n in (1, 2, 3, 4, 10**9)}

    found, whole = every(reward, following), jitted_returns(reward, 0.5, 4.0)
    np.testing.assert_array_equal(found[1], reward + 0.5 * following)
    for n in (3, 4, 10**9):
        np.testing.assert_array_equal(found[n], whole)
    assert not np.array_equal(found[2], whole)


FUNCTIONS: dict[str, Callable] = {
    "discounted_returns": lambda r, v: discounted_returns(r, 0.5, jnp.ones((), r.dtype)),
    "td_errors": lambda r, v: td_errors(r, 0.5, v, v),
    "generalized_advantages": lambda r, v: generalized_advantages(r, 0.5, 0.5, v, v),
    "lambda_returns": lambda r, v: lambda_returns(r, 0.5, 0.5, v),
    "n_step_returns": lambda r, v: n_step_returns(r, 0.5, 2, v),
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def results(reward: jax.Array, value: jax.Array) -> dict[str, jax.Array]:
    return {name: function(reward, value) for name, function in FUNCTIONS.items()}


compiled = jax.jit(results)  # one program for each dtype


@each_function
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_a_floating_reward_gets_its_dtype_back(name: str, dtype: np.dtype) -> None:
    # Numbers that even bfloat16 holds exactly, and results that it holds exactly.
    reward, value = np.array([1.0, 2.0, 4.0]), np.array([2.0, 1.0, 0.0])
    low, wide = (
        compiled(reward.astype(each), value.astype(each))[name] for each in (dtype, np.float64)
    )
    assert low.dtype == dtype
    np.testing.assert_array_equal(
        np.asarray(low).astype(np.float64), np.asarray(wide).astype(dtype).astype(np.float64)
    )


@each_function
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.int8, jnp.uint8])
def test_an_integer_reward_becomes_float32(name: str, dtype: np.dtype) -> None:
    reward, value = np.array([1, 0, 1]), np.array([2.0, 1.0, 0.0])
    found = compiled(reward.astype(dtype), value)[name]
    assert found.dtype == jnp.float32
    expected = compiled(reward.astype(np.float64), value)[name]
    np.testing.assert_array_equal(np.asarray(found).astype(np.float64), expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_long_low_precision_return_is_right_to_its_last_bit(dtype: np.dtype) -> None:
    reward = np.ones(5000).astype(dtype)
    truth = geometric_returns(0.999, 5000)
    found = np.asarray(jitted_returns(reward, 0.999)).astype(np.float64)
    half_unit = float(jnp.finfo(dtype).eps) / 2
    # The sum in float32 is off by less than T eps32 ≈ 6e-4 relative, the cast by half a unit.
    np.testing.assert_allclose(
        found, truth, rtol=half_unit + 5000 * float(np.finfo(np.float32).eps)
    )


def test_the_long_low_precision_bound_rejects_accumulation_in_bfloat16() -> None:
    total: Any = ml_dtypes.bfloat16(0)
    one: Any = ml_dtypes.bfloat16(1)
    discount: Any = ml_dtypes.bfloat16(0.999)
    for _ in range(5000):
        total = one + discount * total
    truth = geometric_returns(0.999, 5000)[0]
    assert abs(float(total) / truth - 1) > 0.5


def geometric_returns(discount: float, T: int) -> np.ndarray:
    """Σ_{k<T−t} γ^k in closed form."""
    return (1 - discount ** np.arange(T, 0, -1)) / (1 - discount)


@each_function
def test_an_empty_sequence_has_an_empty_result(name: str) -> None:
    empty = np.zeros(0)
    assert compiled(empty, empty)[name].shape == (0,)
    assert compiled(np.zeros(0, np.int32), empty)[name].dtype == jnp.float32


mapped = jax.jit(jax.vmap(compiled))


@each_function
def test_vmap_equals_the_loop_over_rows(name: str) -> None:
    reward = np.random.default_rng(0).normal(size=(5, 7))
    value = np.random.default_rng(1).normal(size=(5, 7))
    rows = [compiled(r, v)[name] for r, v in zip(reward, value, strict=True)]
    found = mapped(reward, value)[name]
    np.testing.assert_allclose(found, rows, rtol=4 * EPS, atol=4 * EPS)


# chex declares its decorator as an object.
variants: Any = chex.variants(with_jit=True, without_jit=True)  # pyright: ignore[reportCallIssue]


class WithAndWithoutJit(chex.TestCase):
    """The same numbers compiled and not."""

    @variants
    def test_returns_do_not_depend_on_jit(self) -> None:
        variant: Any = self.variant
        reward = jnp.array([1.0, 2.0, 4.0])
        plain, found = results(reward, reward), variant(results)(reward, reward)
        for name in FUNCTIONS:
            np.testing.assert_allclose(found[name], plain[name], rtol=4 * EPS)

    @variants
    def test_the_discount_may_be_traced(self) -> None:
        variant: Any = self.variant
        found = variant(discounted_returns)(jnp.ones(3), jnp.asarray(0.5))
        np.testing.assert_array_equal(found, [1.75, 1.5, 1.0])


def test_the_gradient_of_a_return_is_its_discount() -> None:
    slope = jax.jit(jax.grad(lambda r: discounted_returns(r, 0.5)[0]))(np.zeros(4))
    np.testing.assert_array_equal(slope, [1.0, 0.5, 0.25, 0.125])


def test_a_discount_of_zero_leaves_out_what_follows_even_if_it_is_infinite() -> None:
    inf = np.inf
    rows = np.array([[1, inf, 1, 2], [1] * 4, [inf] * 4, [0] * 4, [inf] * 3 + [0]])

    @jax.jit
    def run(rows: jax.Array, traced_zero: jax.Array) -> Any:
        reward, ones, infinite, zero, late = rows
        without = [
            result
            for discount in (0, 0.0, traced_zero)
            for result in (
                discounted_returns(reward, discount),
                discounted_returns(reward, discount, inf),
                lambda_returns(reward, discount, 0.9, infinite),
                n_step_returns(reward, discount, 3, infinite),
                td_errors(reward, discount, zero, infinite),
                generalized_advantages(reward, discount, 0.9, zero, infinite),
            )
        ]
        without.append(generalized_advantages(reward, 0.9, 0, zero, zero))
        slopes = [
            jax.grad(lambda g: td_errors(ones, g, zero, 2 * ones)[0])(traced_zero),
            jax.grad(lambda g: discounted_returns(ones, g)[0])(traced_zero),
        ]
        return without, lambda_returns(ones, 0.9, 1, late), discounted_returns(reward, 1e-3), slopes

    without, of_lambda_one, with_any, slopes = run(rows, np.zeros(()))
    for returns in without:
        np.testing.assert_array_equal(returns, rows[0])
    assert np.all(np.isfinite(of_lambda_one))
    # The control: with any discount at all, what is infinite counts.
    assert np.isinf(np.asarray(with_any)[0])
    # And the derivative by a discount of zero is that of the product.
    np.testing.assert_array_equal(slopes, [2, 1])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_discount_may_have_the_narrow_dtype_of_the_rewards(dtype: Any) -> None:
    reward, half = np.ones(5000).astype(dtype), np.asarray(0.5).astype(dtype)
    found = np.asarray(jax.jit(lambda reward: discounted_returns(reward, half))(reward))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[:3].astype(np.float64), 2.0)
    with pytest.raises(ValueError, match=r"discount must lie in \[0, 1\], got 1\.5"):
        discounted_returns(jnp.asarray(reward), np.asarray(1.5).astype(dtype))
