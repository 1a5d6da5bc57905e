"""Products of policies: every joint action is enumerated, and the whole is the sum of its parts."""

from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from pgjax import policies
from pgjax.types import MaskedObservation

pytestmark = pytest.mark.usefixtures("strict")

SIZES = (2, 3, 2)
OFFSETS = np.cumsum((0, *SIZES[:-1]))
JOINT = np.array(list(product(*map(range, SIZES))), np.int32)
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=sum(SIZES))
SEEN = np.zeros(1)

flat = policies.multi_discrete_policy(
    lambda key, s: jnp.zeros(sum(SIZES)), lambda params, s: params, num_actions=SIZES
)
as_list = policies.multi_discrete_policy(
    lambda key, s: [jnp.zeros(size) for size in SIZES], lambda params, s: params, num_actions=SIZES
)


def split(values: Any) -> list[Any]:
    return [values[o : o + size] for o, size in zip(OFFSETS, SIZES, strict=True)]


@partial(jax.jit, static_argnums=0)
def joint_log_probs(policy: Any, params: Any, seen: Any = SEEN) -> Any:
    return jax.vmap(policy.log_prob, (None, None, 0))(params, seen, JOINT)


@partial(jax.jit, static_argnums=0)
def samples(policy: Any, params: Any, keys: Any) -> Any:
    """Actions, the log-probabilities they came with, and those of scoring them."""
    actions, found = jax.vmap(policy.sample, (None, 0, None))(params, keys, SEEN)
    return actions, found, jax.vmap(policy.log_prob, (None, None, 0))(params, SEEN, actions)


@pytest.mark.parametrize("form", ["flat", "list"])
def test_a_joint_action_has_the_product_of_its_choices_probabilities(form: str) -> None:
    policy, params = (flat, LOGITS) if form == "flat" else (as_list, split(LOGITS))
    found = np.asarray(joint_log_probs(policy, params))
    each = [scipy.special.log_softmax(x) for x in split(LOGITS)]
    expected = [sum(x[a] for x, a in zip(each, joint, strict=True)) for joint in JOINT.tolist()]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    p = np.exp(found)
    np.testing.assert_allclose(p.sum(), 1, rtol=0, atol=1e-14)
    np.testing.assert_allclose(
        jax.jit(policy.entropy)(params, SEEN), scipy.stats.entropy(p), rtol=0, atol=1e-14
    )
    score = jax.jit(jax.jacobian(lambda w: joint_log_probs(policy, w)))(params)
    for leaf in jax.tree.leaves(score):
        np.testing.assert_allclose(p @ np.asarray(leaf), 0, rtol=0, atol=1e-14)


def test_samples_of_a_joint_action_come_with_their_probabilities() -> None:
    # α = 1e-6. Power: one logit off by 0.2, noncentrality above 2^14 · 0.005 = 80.
    keys = jax.random.split(jax.random.key(1), 2**14)
    actions, found, again = samples(flat, LOGITS, keys)
    assert actions.dtype == jnp.int32
    assert actions.shape == (2**14, 3)
    np.testing.assert_array_equal(found, again)
    index = np.ravel_multi_index(np.asarray(actions).T, SIZES)
    seen = np.bincount(index, minlength=len(JOINT))
    right = np.exp(joint_log_probs(flat, LOGITS))
    wrong = np.exp(joint_log_probs(flat, LOGITS + 0.2 * np.eye(len(LOGITS))[3]))
    assert scipy.stats.chisquare(seen, seen.sum() * right / right.sum()).pvalue > 1e-6
    assert scipy.stats.chisquare(seen, seen.sum() * wrong / wrong.sum()).pvalue < 1e-6


def test_choices_are_independent_given_the_observation() -> None:
    # One key for all choices would correlate them: the negative control.
    keys = jax.random.split(jax.random.key(2), 2**12)
    two = policies.multi_discrete_policy(
        lambda key, s: jnp.zeros(4), lambda w, s: w, num_actions=(2, 2)
    )
    drawn = np.asarray(samples(two, np.zeros(4), keys)[0])
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 5 / np.sqrt(len(keys))
    draw = jax.jit(jax.vmap(lambda key: policies.SOFTMAX.sample(jnp.zeros(2), key)[0]))
    assert np.corrcoef(draw(keys), draw(keys))[0, 1] == pytest.approx(1)


def test_masked_choices_have_no_probability_and_the_rest_sums_to_one() -> None:
    mask = np.array([True, False, True, True, False, False, True])
    seen = MaskedObservation(SEEN, mask)
    found = np.asarray(joint_log_probs(flat, LOGITS, seen))
    legal = np.all(mask[np.asarray(JOINT) + OFFSETS], axis=1)
    np.testing.assert_array_equal(found[~legal], -np.inf)
    np.testing.assert_allclose(np.exp(found).sum(), 1, rtol=0, atol=1e-14)
    score = np.asarray(jax.jit(jax.jacobian(lambda w: joint_log_probs(flat, w, seen)))(LOGITS))
    assert np.all(np.isfinite(score))
    np.testing.assert_array_equal(score[legal][:, ~mask], 0)


# A gear beside a steering wheel: a discrete factor and a Gaussian one.

GEAR = policies.softmax_policy(lambda key, s: jnp.zeros(3), lambda w, s: jnp.asarray(w))
STEERING = policies.gaussian_policy(lambda key, s: jnp.zeros(2), lambda w, s: (w, w - 0.5))
car = policies.factored_policy({"gear": GEAR, "steering": STEERING})
CAR = {"gear": np.array([0.1, -0.5, 0.7]), "steering": np.array([0.3, -0.2])}
ACTION = {"gear": np.int32(2), "steering": np.array([0.1, 0.4])}


def test_a_factored_policys_log_probability_and_entropy_add_up() -> None:
    parts = {"gear": GEAR, "steering": STEERING}

    @jax.jit
    def whole(params: Any, action: Any) -> list[Any]:
        return [car.log_prob(params, SEEN, action), car.entropy(params, SEEN)]

    @jax.jit
    def sums(params: Any, action: Any) -> list[Any]:
        log_probs = [p.log_prob(params[k], SEEN, action[k]) for k, p in parts.items()]
        return [sum(log_probs), sum(p.entropy(params[k], SEEN) for k, p in parts.items())]

    np.testing.assert_allclose(whole(CAR, ACTION), sums(CAR, ACTION), rtol=1e-15)
    initial = jax.eval_shape(car.init, jax.random.key(0), SEEN)
    assert jax.tree.structure(initial) == jax.tree.structure(CAR)


def test_a_factored_sample_is_a_pytree_and_carries_its_log_probability() -> None:
    keys = jax.random.split(jax.random.key(3), 50)
    actions, found, again = samples(car, CAR, keys)
    assert actions["gear"].dtype == jnp.int32
    assert actions["steering"].shape == (50, 2)
    np.testing.assert_array_equal(found, again)


def test_a_mask_of_one_factor_leaves_the_others_alone() -> None:
    @jax.jit
    def whole_and_sum(mask: Any, action: Any) -> tuple[Any, Any]:
        seen = MaskedObservation(SEEN, {"gear": mask, "steering": None})
        gear = GEAR.log_prob(CAR["gear"], MaskedObservation(SEEN, mask), action["gear"])
        steering = STEERING.log_prob(CAR["steering"], SEEN, action["steering"])
        return car.log_prob(CAR, seen, action), gear + steering

    found, expected = whole_and_sum(np.array([True, False, True]), ACTION)
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_heads_on_one_network_are_a_product_of_distributions() -> None:
    shared = policies.distribution_policy(
        lambda key, s: jax.tree.map(jnp.zeros_like, CAR),
        lambda w, s: {
            "gear": jnp.asarray(w["gear"]),
            "steering": (w["steering"], w["steering"] - 0.5),
        },
        policies.product({"gear": policies.SOFTMAX, "steering": policies.GAUSSIAN}),
    )
    key = jax.random.key(4)

    @partial(jax.jit, static_argnums=0)
    def sample_and_entropy(policy: Any, params: Any) -> Any:
        return policy.sample(params, key, SEEN), policy.entropy(params, SEEN)

    found, expected = (sample_and_entropy(policy, CAR) for policy in (shared, car))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
