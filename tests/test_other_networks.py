"""Equinox and Haiku networks are policies through the plain record of functions, unadapted."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import Policy

pytestmark = pytest.mark.adapters

SEES, WIDTH = {"CartPole-v1": 4, "Pendulum-v1": 3}, 8


class Network(NamedTuple):
    """A perceptron of another library, and where its weights are."""

    init: Callable[[Any, Any], Any]
    output: Callable[[Any, Any], Any]
    weights: Callable[[Any], list[Any]]  # kernel [in, out], bias, kernel, bias


def equinox_network(sees: int) -> Network:
    eqx = pytest.importorskip("equinox")

    def parts(key: Any) -> Any:
        model = eqx.nn.MLP(sees, 2, WIDTH, 1, activation=jnp.tanh, key=key)
        return eqx.partition(model, eqx.is_inexact_array)

    fixed = parts(jax.random.key(0))[1]
    return Network(
        init=lambda key, seen: parts(key)[0],
        output=lambda params, seen: eqx.combine(params, fixed)(seen),
        weights=lambda params: [x for layer in params.layers for x in (layer.weight.T, layer.bias)],
    )


def haiku_network(sees: int) -> Network:
    hk = pytest.importorskip("haiku")
    model = hk.without_apply_rng(
        hk.transform(lambda x: hk.nets.MLP([WIDTH, 2], activation=jnp.tanh)(x))
    )
    return Network(
        init=model.init,
        output=model.apply,
        weights=lambda params: [x for layer in params.values() for x in (layer["w"], layer["b"])],
    )


NETWORKS = {"equinox": equinox_network, "haiku": haiku_network}


def by_hand(weights: list[Any], seen: Any) -> Any:
    first, bias, second, last = weights
    return jnp.tanh(seen @ first + bias) @ second + last


def policy_of(environment: str, init: Callable, output: Callable) -> Policy:
    """A softmax on CartPole; a Gaussian on Pendulum, whose σ the network gives as well."""
    if environment == "CartPole-v1":
        return pgjax.softmax_policy(init, output)
    return pgjax.gaussian_policy(
        init, lambda params, seen: (output(params, seen)[:1], output(params, seen)[1:])
    )


@pytest.mark.parametrize(
    ("library", "environment"),
    [("equinox", "CartPole-v1"), ("haiku", "CartPole-v1"), ("equinox", "Pendulum-v1")],
)
def test_another_librarys_network_has_the_gradient_of_the_same_weights_by_hand(
    library: str, environment: str
) -> None:
    network = NETWORKS[library](SEES[environment])
    policy = policy_of(environment, network.init, network.output)
    params = jax.jit(policy.init)(jax.random.key(0), jnp.zeros(SEES[environment]))
    batch = pgjax.rollout(
        policy, params, gymnax.make(environment)[0], jax.random.key(1),
        num_trajectories=4, num_steps=6,
    )  # fmt: skip
    assert np.any(batch.mask)
    plain = policy_of(environment, lambda key, seen: None, by_hand)
    weights = network.weights(params)
    scored = jax.jit(partial(pgjax.log_probs, plain))(weights, batch)
    np.testing.assert_allclose(scored, batch.log_prob, rtol=0, atol=1e-5)
    estimator = pgjax.reward_to_go(0.9)
    found = pgjax.gradient(estimator, policy, params, batch)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    expected = pgjax.gradient(estimator, plain, weights, batch)
    largest = max(float(jnp.max(jnp.abs(x))) for x in expected)
    assert largest > 1e-3
    for x, y in zip(network.weights(found), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * largest)
