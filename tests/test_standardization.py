"""Standardized observations: exact moments without a gradient, which change between updates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import training
from pgjax.policies.networks import OBSERVATION_MEAN, OBSERVATION_SPREAD
from pgjax.training.standardization import no_observations, standardizing, with_observations

D = 3
NETWORK: Any = pgjax.MLP(2, (4,), standardized=True)
PLAIN: Any = pgjax.MLP(2, (4,))


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def params(x64):
    return initial(jax.random.key(0), np.zeros(D))


# Compiled whole: JAX would else make a program of every operation.
initial, apply = jax.jit(NETWORK.init), jax.jit(NETWORK.apply)
none, one_more, standardized = map(jax.jit, (no_observations, with_observations, standardizing))


def moments_of(windows, params):
    moments: Any = none(params)
    for window in windows:
        moments = one_more(moments, window)
    return moments


def observed(windows, params):
    return jax.device_get(standardized(params, moments_of(windows, params))["params"])


def test_mean_and_spread_are_those_of_all_windows(params):
    draws = np.random.default_rng(0).normal(size=(3, 2, 5, D)) * [1e-2, 1, 0] + [1e3, 0, 7]
    found, every = observed(draws, params), draws.reshape(-1, D)
    np.testing.assert_allclose(found[OBSERVATION_MEAN], every.mean(0), rtol=1e-12, atol=1e-10)
    # A coordinate that never changes keeps the unit 1.
    expected = [*every.std(0)[:2], 1.0]
    np.testing.assert_allclose(found[OBSERVATION_SPREAD], expected, rtol=1e-10)
    fewer = observed(draws[:2], params)
    assert not np.allclose(fewer[OBSERVATION_SPREAD][:2], expected[:2], rtol=1e-3)


def test_devices_that_share_an_update_have_the_moments_of_all_observations(params):
    draws = np.random.default_rng(1).normal([3.0, 0, -1], size=(2, 4, 5, D))

    def on_devices(window, average=lambda x: jax.lax.pmean(x, "n")):
        moments: Any = no_observations(params)
        for own in window:
            moments = with_observations(moments, own, average, 2)
        return moments

    spread = draws.reshape(2, 2, 2, 5, D)  # windows, devices, rows
    found = jax.jit(jax.vmap(on_devices, 1, axis_name="n"))(spread)
    expected = moments_of(draws, params)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, np.broadcast_to(y, x.shape), rtol=1e-12, atol=1e-12)
    alone = jax.jit(jax.vmap(lambda w: on_devices(w, lambda x: x), 1))(spread)
    assert not np.allclose(alone.mean, found.mean, rtol=1e-3)


def test_the_network_sees_the_standardized_observation_and_has_no_gradient_by_its_moments(params):
    mean, spread = np.array([1.0, -2.0, 3.0]), np.array([0.5, 2.0, 10.0])
    moved = {"params": params["params"] | {OBSERVATION_MEAN: mean, OBSERVATION_SPREAD: spread}}
    layers = {name: x for name, x in moved["params"].items() if not name.startswith("observation_")}
    x = np.array([2.0, 1.0, -4.0])

    @jax.jit
    def raw(x):
        return PLAIN.apply({"params": layers}, x)

    np.testing.assert_allclose(apply(moved, x), raw((x - mean) / spread), rtol=1e-12)
    assert not np.allclose(apply(moved, x), raw(x))
    np.testing.assert_allclose(apply(params, x), raw(x), rtol=1e-12)  # at first it changes nothing
    far = mean + 1e6 * spread
    np.testing.assert_allclose(apply(moved, far), raw(np.full(D, 10.0)), rtol=1e-12)
    slope = jax.jit(jax.grad(lambda params: jnp.sum(apply(params, x) ** 2)))
    gradient = jax.device_get(slope(moved)["params"])
    assert not np.any(gradient[OBSERVATION_MEAN])
    assert not np.any(gradient[OBSERVATION_SPREAD])
    assert np.any(gradient["Dense_0"]["kernel"])


def test_images_and_categories_are_not_standardized():
    settings = training.PPOSettings(observations="standardized")
    for name in ("Breakout-MinAtar", "FrozenLake-misc"):
        with pytest.raises(ValueError, match=f"observations must be vectors .* {name}"):
            training.ppo(name, settings)
    with pytest.raises(ValueError, match="standardized must be false for a category"):
        pgjax.MLP(2, num_categories=3, standardized=True)
    with pytest.raises(ValueError, match=r"observations must be one of .*, got 'scaled'"):
        training.ppo("CartPole-v1", training.PPOSettings(observations="scaled"))
    plain = jax.eval_shape(PLAIN.init, jax.random.key(0), np.zeros(D))
    assert no_observations(plain) == ()
