"""Action masks: what is forbidden is never done, scores nothing, and biases nothing."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import Policy, Problem, Trajectory, enumeration, exact, policies, tabular
from pgjax.types import MaskedObservation

pytestmark = pytest.mark.usefixtures("strict")

S, A, HORIZON = 4, 3, 3
MDP = tabular.random_mdp(1, num_states=S, num_actions=A)
LEGAL = np.array([[True, False, True], [False, True, True], [True, True, True], [True, True, True]])
PARAMS = np.random.default_rng(2).normal(size=(S, A))


def network(params: Any, state: Any) -> Any:
    return state @ jnp.asarray(params)


plain = policies.softmax_policy(lambda key, state: jnp.zeros((S, A)), network)


def seen(state: Any) -> MaskedObservation:
    return MaskedObservation(state, jnp.asarray(LEGAL)[jnp.argmax(state)])


masked = Policy(
    init=lambda key, state: plain.init(key, seen(state)),
    sample=lambda params, key, state: plain.sample(params, key, seen(state)),
    log_prob=lambda params, state, action: plain.log_prob(params, seen(state), action),
    entropy=lambda params, state: plain.entropy(params, seen(state)),
)


def log_prob_by_hand(params: Any, state: Any, action: Any) -> Any:
    """Log of e^l / Σ e^l over the legal actions; −inf for the others."""
    legal = jnp.asarray(LEGAL)[jnp.argmax(state)]
    weight = jnp.where(legal, jnp.exp(network(params, state)), 0)
    log_prob = jnp.log(jnp.where(legal, weight, 1)[action] / jnp.sum(weight))
    return jnp.where(legal[action], log_prob, -jnp.inf)


by_hand = replace(masked, log_prob=log_prob_by_hand)


def test_forbidden_actions_are_in_no_trajectory_and_the_others_probabilities_sum_to_one() -> None:
    batch, probability = enumeration.trajectories(Problem(MDP, masked, PARAMS, HORIZON))
    np.testing.assert_allclose(probability.sum(), 1, rtol=0, atol=1e-14)
    state = np.argmax(batch.observation, axis=-1)
    assert np.all(LEGAL[state, batch.action][batch.mask])
    every = enumeration.count(Problem(MDP, plain, PARAMS, HORIZON))
    assert len(probability) < every


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_gradient_under_a_mask_is_unbiased(batch_size: int) -> None:
    truth = exact.gradient(Problem(MDP, by_hand, PARAMS, HORIZON)).ravel()
    assert np.linalg.norm(truth) > 0.1
    estimator = pgjax.rloo(MDP.discount) if batch_size > 1 else pgjax.reward_to_go(MDP.discount)
    problem = Problem(MDP, masked, PARAMS, HORIZON)

    def estimates(params: Any, batch: Trajectory) -> Any:
        """And the negative control: masked when acting, not when scoring."""
        return [pgjax.gradient(estimator, policy, params, batch) for policy in (masked, plain)]

    means = enumeration.moments(estimates, problem, batch_size=batch_size).mean
    found, biased = np.split(means, 2)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-12)
    assert np.linalg.norm(biased - truth) > 0.01


def test_where_the_uniform_number_is_zero_a_forbidden_first_action_is_not_taken() -> None:
    """The smallest of float32's uniform numbers is 0, and 0 is also the first action's share."""
    key = jax.random.key(780_233)
    assert jax.random.uniform(key, dtype=jnp.float32) == 0  # one key in 2^23
    logits = np.array([-np.inf, -np.inf, 0.3, -np.inf, 1.0], np.float32)
    policy = policies.softmax_policy(lambda key, state: logits, lambda logits, state: logits)
    sample = jax.jit(policy.sample)
    for allowed in (2, 4):
        only = np.where(np.arange(5) < allowed, np.float32(-np.inf), logits)
        action, log_prob = sample(only, key, np.zeros(()))
        assert action == allowed
        assert log_prob > -jnp.inf


def log_prob_table(params: Any) -> Any:
    """[S, A]."""
    over_actions = jax.vmap(masked.log_prob, (None, None, 0))
    return jax.vmap(over_actions, (None, 0, None))(params, jnp.eye(S), jnp.arange(A))


def test_no_score_of_a_legal_action_touches_a_forbidden_logit() -> None:
    def entropies(params: Any) -> Any:
        return jax.vmap(masked.entropy, (None, 0))(params, jnp.eye(S))

    slopes = jax.jit(jax.jacobian(lambda p: (log_prob_table(p), entropies(p))))(PARAMS)
    score, slope = jax.device_get(slopes)
    assert np.all(np.isfinite(score))
    for state in range(S):
        np.testing.assert_array_equal(score[state][:, state][LEGAL[state]][:, ~LEGAL[state]], 0)
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("num_actions", [5, 40])
def test_few_actions_or_many_a_forbidden_one_is_never_sampled(num_actions: int) -> None:
    legal = np.arange(num_actions) % 3 == 1
    masks = MaskedObservation(np.zeros(1), legal)
    policy = policies.softmax_policy(
        lambda key, s: jnp.zeros(num_actions), lambda params, s: params
    )

    @jax.jit
    def drawn(params: Any, key: Any, seen: Any) -> Any:
        keys = jax.random.split(key, 500)
        draws = jax.vmap(policy.sample, (None, 0, None))(params, keys, seen)
        return *draws, policy.entropy(params, seen)

    # The forbidden logits would win by far.
    actions, found, entropy = drawn(np.where(legal, 0.0, 50.0), jax.random.key(0), masks)
    assert set(np.unique(actions)) == set(np.flatnonzero(legal))
    np.testing.assert_allclose(found, -np.log(legal.sum()), rtol=0, atol=1e-14)
    np.testing.assert_allclose(entropy, np.log(legal.sum()), rtol=0, atol=1e-14)


def test_a_network_sees_the_observation_alone() -> None:
    with jax.numpy_dtype_promotion("standard"):
        policy = pgjax.flax_policy(pgjax.MLP(num_actions=A, hidden=(4,)))

        @jax.jit
        def started(key: Any, masks: Any) -> Any:
            params, same = (policy.init(key, x) for x in (masks, masks.observation))
            return params, same, jax.grad(policy.log_prob)(params, masks, 2)

        masks = MaskedObservation(np.ones(S), np.array([True, False, True]))
        params, same, score = started(jax.random.key(0), masks)
        jax.tree.map(np.testing.assert_array_equal, params, same)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(score))


# Masks travel in the batch as a part of the observation.


def masked_batch(*, garbage: bool) -> Trajectory:
    """Five rows of four steps, legal while alive; afterwards no action is, or garbage stands."""
    random = np.random.default_rng(3)
    mask = np.arange(4) < np.array([4, 2, 0, 1, 3])[:, None]
    states = random.integers(S, size=mask.shape)
    legal = LEGAL[states]
    action = np.argmax(legal * random.random((*mask.shape, A)), axis=-1)
    if garbage:
        legal = legal & mask[..., None]
        action = np.where(mask, action, 7)
    observation = np.where(mask[..., None] | (not garbage), np.eye(S)[states], np.nan)
    fields: dict[str, Any] = {
        "observation": MaskedObservation(observation, legal),
        "action": action,
        "reward": random.normal(size=mask.shape),
        "log_prob": np.log(random.uniform(0.2, 0.9, size=mask.shape)),
        "terminated": np.zeros(mask.shape, bool),
        "truncated": np.zeros(mask.shape, bool),
        "mask": mask,
        "final_observation": np.zeros((5, S)),
    }
    return Trajectory(**jax.device_put(fields))


@pytest.mark.parametrize("kind", ["plain", "recurrent"])
def test_after_the_end_there_may_be_no_legal_action(kind: str) -> None:
    policy = plain if kind == "plain" else policies.as_recurrent(plain)

    @jax.jit
    def both(params: Any, batch: Trajectory) -> Any:
        gradient = pgjax.gradient(pgjax.rloo(0.9), policy, params, batch)
        return pgjax.log_probs(policy, params, batch), gradient

    with_garbage, without = (both(PARAMS, masked_batch(garbage=each)) for each in (True, False))
    for found, expected in zip(with_garbage, without, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
        assert np.any(np.asarray(found) != 0)
    run = pgjax.checked(lambda p, b: pgjax.gradient(pgjax.rloo(0.9), policy, p, b))
    assert np.all(np.isfinite(run(jnp.asarray(PARAMS), masked_batch(garbage=True))))
    batch = masked_batch(garbage=False)
    nowhere = np.array(batch.observation.action_mask)
    nowhere[0, 1] = False
    observation = batch.observation._replace(action_mask=jnp.asarray(nowhere))
    with pytest.raises(ValueError, match="state has no legal action"):
        run(jnp.asarray(PARAMS), replace(batch, observation=observation))


def test_an_impossible_action_is_an_error_where_it_is_known_and_no_probability_elsewhere() -> None:
    params = jnp.asarray(PARAMS)
    first = jnp.asarray(np.eye(S)[0])
    state = MaskedObservation(first, jnp.asarray(LEGAL[0]))
    with pytest.raises(ValueError, match="action 1 is illegal in this state"):
        plain.log_prob(params, state, 1)
    with pytest.raises(ValueError, match="action 1 is illegal in this state"):
        pgjax.checked(plain.log_prob)(params, state, 1)
    assert jax.jit(plain.log_prob)(params, state, 1) == -np.inf
    nowhere = MaskedObservation(first, jnp.asarray(np.zeros(A, bool)))
    for function in (
        lambda p: plain.log_prob(p, nowhere, 1),
        lambda p: plain.entropy(p, nowhere),
        lambda p: plain.sample(p, jax.random.key(0), nowhere)[1],
    ):
        with pytest.raises(ValueError, match="state has no legal action"):
            function(params)
        with pytest.raises(ValueError, match="state has no legal action"):
            pgjax.checked(function)(params)
    assert np.isnan(jax.jit(lambda p: plain.log_prob(p, nowhere, 1))(params))


def test_a_memory_does_not_see_the_mask_but_its_distribution_does() -> None:
    def step(params: Any, memory: Any, state: Any) -> tuple[Any, Any]:
        return memory + state, network(params, memory + state)

    policy = policies.recurrent_policy(lambda key, s: PARAMS, lambda p: jnp.zeros(S), step)

    @jax.jit
    def once(key: Any, state: Any, action: Any) -> Any:
        scored = policy.log_prob(PARAMS, jnp.zeros(S), seen(state), action)
        expected = log_prob_by_hand(PARAMS, state, action)
        return *scored, expected, policy.sample(PARAMS, key, jnp.zeros(S), seen(state))[1]

    state = np.eye(S)[0]
    for action in (0, 2):
        memory, found, expected, drawn = once(jax.random.key(1), state, np.array(action))
        np.testing.assert_array_equal(memory, state)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
        assert drawn in (0, 2)
