"""Policies: distributions, their scores, illegal actions, and Flax at the edge."""

from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import linen, nnx
from hypothesis.extra import numpy as arrays

import pgjax
from pgjax.policies.distribution import log_prob_and_entropy

pytestmark = pytest.mark.usefixtures("strict")

A = 4
EPS = np.finfo(np.float64).eps
SEEN = np.zeros(1)
plain = pgjax.softmax_policy(lambda key, s: jnp.zeros(A), lambda params, s: params)
every_log_prob = jax.jit(
    lambda params: jax.vmap(plain.log_prob, (None, None, 0))(params, SEEN, jnp.arange(A))
)
entropy = jax.jit(lambda params: plain.entropy(params, SEEN))
scores = jax.jit(jax.jacobian(every_log_prob))
entropy_slope = jax.jit(jax.grad(entropy))
sample_200 = jax.jit(
    lambda params: jax.vmap(plain.sample, (None, 0, None))(
        params, jax.random.split(jax.random.key(0), 200), SEEN
    )
)
logits = arrays.arrays(np.float64, A, elements=st.floats(-1e3, 1e3, width=64))


@hypothesis.given(logits)
@hypothesis.settings(deadline=None)
def test_log_probabilities_are_the_log_softmax(values: np.ndarray) -> None:
    found = np.asarray(every_log_prob(jnp.asarray(values)))
    expected = scipy.special.log_softmax(values)
    np.testing.assert_allclose(found, expected, rtol=8 * EPS, atol=8 * EPS)
    np.testing.assert_allclose(np.sum(np.exp(found)), 1, rtol=0, atol=1e-12)


@hypothesis.given(logits)
@hypothesis.settings(deadline=None)
def test_the_score_is_the_indicator_less_the_probabilities_and_has_mean_zero(
    values: np.ndarray,
) -> None:
    p = scipy.special.softmax(values)
    found = np.asarray(scores(jnp.asarray(values)))
    np.testing.assert_allclose(found, np.eye(A) - p, rtol=0, atol=1e-12)
    np.testing.assert_allclose(p @ found, np.zeros(A), rtol=0, atol=1e-12)


@hypothesis.given(logits)
@hypothesis.settings(deadline=None)
def test_the_entropy_is_that_of_the_probabilities(values: np.ndarray) -> None:
    found = float(entropy(jnp.asarray(values)))
    expected = scipy.stats.entropy(scipy.special.softmax(values))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    assert -1e-12 <= found <= np.log(A) + 1e-12


@pytest.mark.parametrize("legal", [[0], [1, 3], [0, 2, 3]])
def test_an_illegal_action_has_no_probability_and_no_influence(legal: list[int]) -> None:
    values = np.array([0.5, -1.0, 2.0, 0.3])
    masked = np.full(A, -np.inf)
    masked[legal] = values[legal]
    params = jnp.asarray(masked)
    found = np.asarray(every_log_prob(params))
    np.testing.assert_allclose(
        found[legal], scipy.special.log_softmax(values[legal]), rtol=0, atol=4 * EPS
    )
    illegal = np.setdiff1d(np.arange(A), legal)
    np.testing.assert_array_equal(found[illegal], -np.inf)
    expected = scipy.stats.entropy(scipy.special.softmax(values[legal]))
    np.testing.assert_allclose(entropy(params), expected, rtol=0, atol=4 * EPS)
    slopes = np.asarray(scores(params))[legal]
    assert np.all(np.isfinite(slopes))
    np.testing.assert_array_equal(slopes[:, illegal], 0)
    slope = np.asarray(entropy_slope(params))
    assert np.all(np.isfinite(slope))
    np.testing.assert_array_equal(slope[illegal], 0)
    actions, _ = sample_200(params)
    assert set(np.unique(actions)) <= set(legal)


def test_huge_logits_overflow_nowhere() -> None:
    params = np.array([1e300, -1e300, 1e300, 0.0])
    np.testing.assert_allclose(np.exp(every_log_prob(params)), [0.5, 0, 0.5, 0], atol=EPS)
    assert np.all(np.isfinite(np.asarray(scores(params))[[0, 2]]))
    np.testing.assert_allclose(entropy(params), np.log(2), rtol=4 * EPS)


def test_a_logit_that_is_not_a_number_does_not_pass_for_an_illegal_action() -> None:
    found = np.asarray(every_log_prob(np.array([0.0, np.nan, 1.0, -np.inf])))
    assert np.all(np.isnan(found[:3]))


@pytest.fixture(scope="module")
def draws(strict: None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """2^14 actions, their log-probabilities, and the logits."""
    params = np.array([0.4, -0.3, 0.0, 1.1])
    keys = jax.random.split(jax.random.key(1), 2**14)
    sample = jax.jit(jax.vmap(plain.sample, (None, 0, None)))
    actions, log_probs = sample(jnp.asarray(params), keys, SEEN)
    return np.asarray(actions), np.asarray(log_probs), params


def test_sampling_returns_the_log_probability_of_what_it_sampled(draws: tuple) -> None:
    actions, log_probs, params = draws
    np.testing.assert_allclose(log_probs, scipy.special.log_softmax(params)[actions], rtol=1e-14)


def test_actions_come_with_their_probabilities(draws: tuple) -> None:
    # α = 1e-6. Power: one logit off by 0.15 has noncentrality above 2^14 · 0.003 = 50.
    actions, _, params = draws
    seen = np.bincount(actions, minlength=A)
    right, wrong = params, params + np.array([0.15, 0, 0, 0])
    assert scipy.stats.chisquare(seen, len(actions) * scipy.special.softmax(right)).pvalue > 1e-6
    assert scipy.stats.chisquare(seen, len(actions) * scipy.special.softmax(wrong)).pvalue < 1e-6


def test_the_tabular_policy_reads_the_row_of_its_state(table: np.ndarray) -> None:
    policy = pgjax.tabular_softmax(4, 2)
    over_actions = jax.vmap(policy.log_prob, (None, None, 0))
    over_states = jax.jit(jax.vmap(over_actions, (None, 0, None)))
    found = over_states(jnp.asarray(table), jnp.asarray(np.eye(4)), jnp.asarray([0, 1]))
    expected = scipy.special.log_softmax(table, axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * EPS)
    start = policy.init(jax.random.key(0), jnp.asarray(np.eye(4)[0]))
    np.testing.assert_array_equal(start, np.zeros((4, 2)))
    assert pgjax.tabular_softmax(4, 2) == policy != pgjax.tabular_softmax(4, 3)


# Flax promotes its float32 parameters with float64 observations by itself, and its initializers
# multiply Python numbers in: its own business, so promotion is relaxed for its modules only.


@pytest.fixture
def standard_promotion() -> Any:
    with jax.numpy_dtype_promotion("standard"):
        yield


class Affine(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layer = nnx.Linear(3, 2, rngs=rngs)
        self.scale = nnx.Variable(jnp.array(2.0))  # no Param: not trained, but kept

    def __call__(self, x: Any) -> Any:
        return self.scale[...] * self.layer(x)


def both_actions(policy: pgjax.Policy, params: Any, seen: Any) -> Any:
    log_prob = jax.jit(jax.vmap(policy.log_prob, (None, None, 0)))
    return log_prob(params, seen, jnp.asarray([0, 1]))


@pytest.mark.usefixtures("standard_promotion")
def test_a_linen_module_gives_its_logits() -> None:
    module = linen.Dense(2)
    policy = pgjax.flax_policy(module)
    seen = np.array([0.1, 0.2, -0.4])
    params = jax.jit(policy.init)(jax.random.key(0), seen)
    expected = scipy.special.log_softmax(np.asarray(jax.jit(module.apply)(params, seen)))
    np.testing.assert_allclose(both_actions(policy, params, seen), expected, rtol=0, atol=4 * EPS)


@pytest.mark.usefixtures("standard_promotion")
def test_an_nnx_function_gives_new_parameters_for_each_key_and_keeps_its_other_state() -> None:
    policy = pgjax.flax_policy(Affine)
    seen = jnp.array([0.1, 0.2, -0.4])
    one, other = (policy.init(jax.random.key(seed), seen) for seed in (0, 1))
    leaves = jax.tree.leaves(one)
    assert len(leaves) == 2  # the variable that is no Param is not among them
    assert np.any(leaves[1] != jax.tree.leaves(other)[1])
    expected = scipy.special.log_softmax(Affine(nnx.Rngs(jax.random.key(0)))(seen))
    np.testing.assert_allclose(both_actions(policy, one, seen), expected, rtol=0, atol=1e-7)


@pytest.mark.usefixtures("standard_promotion")
def test_an_nnx_module_as_it_stands_starts_from_its_own_parameters() -> None:
    module = Affine(nnx.Rngs(5))
    policy = pgjax.flax_policy(module)
    seen = jnp.array([0.1, 0.2, -0.4])
    params = policy.init(jax.random.key(0), seen)
    expected = scipy.special.log_softmax(module(seen))
    np.testing.assert_allclose(both_actions(policy, params, seen), expected, rtol=0, atol=1e-7)


NETWORKS: dict[str, tuple[Callable, Any]] = {
    "vector": (lambda: pgjax.MLP(num_actions=3, hidden=(5,)), np.ones(4, np.float32)),
    "flat image": (lambda: pgjax.MLP(num_actions=3, hidden=()), np.ones((2, 3, 1), bool)),
    "category": (lambda: pgjax.MLP(num_actions=3, hidden=(5,), num_categories=6), np.int32(2)),
    "image": (
        lambda: pgjax.ConvNet(num_actions=3, num_filters=2, hidden=4),
        np.ones((5, 5, 2), bool),
    ),
}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_start_nearly_uniform_and_have_finite_scores(name: str) -> None:
    make, seen = NETWORKS[name]
    policy = pgjax.flax_policy(make())

    @jax.jit
    def started(key: Any, seen: Any) -> tuple[Any, Any]:
        """[3] log-probabilities under the initial parameters, and the score of action 0."""
        params = policy.init(key, seen)
        log_prob = jax.vmap(policy.log_prob, (None, None, 0))(params, seen, jnp.arange(3))
        return log_prob, jax.grad(policy.log_prob)(params, seen, jnp.asarray(0))

    log_prob, score = jax.device_get(started(jax.random.key(0), seen))
    log_prob = log_prob.astype(np.float64)
    np.testing.assert_allclose(np.sum(np.exp(log_prob)), 1, rtol=1e-6)
    np.testing.assert_allclose(log_prob, np.log(1 / 3), rtol=0, atol=0.15)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(score))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(score))


@pytest.mark.usefixtures("standard_promotion")
def test_a_category_is_one_hot_encoded_and_a_number_is_not() -> None:
    for categories, size in ((6, 6), (None, 1)):
        module = pgjax.MLP(num_actions=3, hidden=(), num_categories=categories)
        init = pgjax.flax_policy(module).init
        params = jax.eval_shape(init, jax.random.key(0), np.asarray(2))
        assert params["params"]["Dense_0"]["kernel"].shape == (size, 3)


def test_an_observation_of_several_parts_is_one_vector_to_a_perceptron() -> None:
    module = pgjax.MLP(2, (3,))

    @jax.jit
    def outputs(key: Any, joined: Any, parts: Any) -> tuple[Any, Any]:
        params = module.init(key, joined)
        return module.apply(params, parts), module.apply(params, joined)

    joined = np.array([0.0, 1.0, 2.0, 0.5, -1.0], np.float32)
    parts = {"a": joined[:3], "b": joined[None, 3:]}
    np.testing.assert_array_equal(*outputs(jax.random.key(0), joined, parts))


def test_log_probability_and_entropy_share_one_pass_over_the_network() -> None:
    policy, observation, action = (
        pgjax.flax_policy(pgjax.MLP(3, (4,))),
        jnp.asarray(np.ones(2, np.float32)),
        jnp.int32(1),
    )
    by_hand = pgjax.Policy(policy.init, policy.sample, policy.log_prob, lambda w, x: jnp.zeros(()))
    other = pgjax.Policy(
        policy.init,
        policy.sample,
        policy.log_prob,
        pgjax.flax_policy(pgjax.MLP(3, (5,))).entropy,
    )
    params = jax.jit(policy.init)(jax.random.key(0), observation)

    def products(policy: pgjax.Policy, function: Callable) -> int:
        jaxpr = jax.make_jaxpr(lambda w: function(policy, w, observation, action))(params)
        return str(jaxpr).count("dot_general")

    def separately(policy: pgjax.Policy, *given: Any) -> tuple[Any, Any]:
        params, observation, action = given
        return policy.log_prob(params, observation, action), policy.entropy(params, observation)

    @jax.jit
    def both(params: Any) -> list:
        return [
            [function(each, params, observation, action) for each in (policy, by_hand)]
            for function in (log_prob_and_entropy, separately)
        ]

    np.testing.assert_array_equal(*both(params))
    assert products(policy, separately) == 2 * products(policy, log_prob_and_entropy) > 0
    assert products(by_hand, log_prob_and_entropy) == products(by_hand, separately)
    with pytest.raises(Exception, match="shape"):  # of another network, which is not left out
        products(other, log_prob_and_entropy)
