"""The old signatures of optax.monte_carlo give the moments that optax gave, without its faults."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax.expectations import optax_compat as compat

PARAMS = [jnp.array([2.0]), jnp.array([0.0])]
KEY, N = jax.random.key(0), 20_000


def f(x):
    return jnp.sum((x - 1.0) ** 2)


# The exact variances by the mean and by log σ; those of optax 0.2.6 were measured to agree.
KNOWN = {
    compat.score_function_jacobians: (30.0, 136.0),
    compat.pathwise_jacobians: (4.0, 12.0),
    compat.measure_valued_jacobians: (16 / np.pi - 4, 8.0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_each_old_function_has_its_old_moments(name) -> None:
    found = name(f, PARAMS, compat.multi_normal, KEY, N)
    assert [x.shape for x in found] == [(N, 1), (N, 1)]
    for each, variance in zip(found, KNOWN[name], strict=True):
        each = np.asarray(each, np.float64).ravel()
        assert abs(each.mean() - 2.0) < 5 * np.sqrt(variance / N)
        fourth = np.mean((each - each.mean()) ** 4)
        assert abs(each.var() - variance) < 6 * np.sqrt((fourth - variance**2) / N)


def test_uncoupled_draws_have_more_variance() -> None:
    loose = compat.measure_valued_jacobians(f, PARAMS, compat.multi_normal, KEY, N, coupling=False)
    known = KNOWN[compat.measure_valued_jacobians]
    assert np.var(np.asarray(loose[0], np.float64)) > 1.5 * known[0]
    assert np.var(np.asarray(loose[1], np.float64)) > 2.5 * known[1]


def control_variates(control: Any, num_samples: int, *settings: dict[str, Any]) -> list[Any]:
    """For each of the settings."""
    jacobians = compat.score_function_jacobians

    @jax.jit
    def computed(params: Any, key: Any) -> list[Any]:
        given = f, control, jacobians, params, compat.multi_normal, key, num_samples
        return [compat.control_variates_jacobians(*given, **each) for each in settings]

    return computed(PARAMS, KEY)


def test_the_delta_method_leaves_a_quadratic_no_variance() -> None:
    (found, state), (estimated, _) = control_variates(
        compat.control_delta_method, 50, {}, {"estimate_cv_coeffs": True}
    )
    for each in found:
        np.testing.assert_allclose(each, 2.0, atol=1e-4)
    assert state is None
    np.testing.assert_allclose(estimated[0], 2.0, atol=0.02)


def test_a_moving_average_of_a_constant_is_that_constant() -> None:
    # optax 0.2.6 gives 3, 4, 4, 3.73: it divides the stored average again at each update.
    _, _, update = compat.moving_avg_baseline(lambda x: 3.0 + 0 * x[0], 0.5, True, False)
    state, update = (np.float32(0), 0), jax.jit(partial(update, None))
    for _ in range(4):
        state = update(np.ones((5, 1), np.float32), state)
        assert float(state[0]) == pytest.approx(3.0)


def test_a_decay_of_one_is_the_mean_of_all_updates() -> None:
    _, _, update = compat.moving_avg_baseline(jnp.sum, 1.0, True, False)
    state, update = (np.float32(0), 0), jax.jit(partial(update, None))
    for value in (1.0, 2.0, 6.0):
        state = update(np.full((2, 1), value, np.float32), state)
    assert float(state[0]) == pytest.approx(3.0)
    _, _, slow = compat.moving_avg_baseline(jnp.sum, 0.9, False, False)
    assert float(slow(None, jnp.ones((2, 1)), (jnp.zeros(()), 0))[0]) == pytest.approx(0.1)


def test_a_moving_average_is_a_control_variate_that_keeps_the_mean() -> None:
    before = np.float32(2.0), 1
    settings = {"control_variate_state": before}
    ((found, state),) = control_variates(compat.moving_avg_baseline, N, settings)
    by_mean = np.asarray(found[0], np.float64)
    assert abs(by_mean.mean() - 2.0) < 5 * by_mean.std() / np.sqrt(N)
    assert by_mean.var() < 0.8 * 30
    assert int(state[1]) == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: compat.moving_avg_baseline(f, 1.5), "decay must lie in"),
        (lambda: compat.control_delta_method(3), "function must be"),  # pyright: ignore
        (
            lambda: compat.score_function_jacobians(f, 2.0, compat.multi_normal, KEY, 3),  # pyright: ignore
            "params must be a sequence",
        ),
        (
            lambda: compat.estimate_control_variate_coefficients(
                f,
                compat.control_delta_method,
                compat.pathwise_jacobians,
                PARAMS,
                compat.multi_normal,
                KEY,
                1,
            ),
            "num_samples must be at least 2",
        ),
    ],
)
def test_bad_input_is_refused(call, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        call()
