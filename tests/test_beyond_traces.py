"""Eligibility traces are reward-to-go turned round, exactly, in memory that time does not touch."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

import pgjax
from pgjax import Problem, beyond, enumeration, exact, sampling, tabular, terms
from pgjax.core.float64 import to_jax
from pgjax.environments.base import Discrete, Environment, Step
from pgjax.environments.conversion import as_environment
from pgjax.rollouts.fold import fold
from pgjax.rollouts.stepping import Taken
from tests.shared import rows

pytestmark = pytest.mark.usefixtures("strict")

EXACT = 1e-10
MDP, POLICY, H = tabular.random_mdp(), pgjax.tabular_softmax(4, 2), 3
GAMMA = MDP.discount
LOGITS = np.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]])
SAMPLED, KEY = 20_000, jax.random.key(1)


@cache
def all_episodes() -> pgjax.Trajectory:
    batch, _ = enumeration.trajectories(Problem(MDP, POLICY, LOGITS, H))
    return jax.device_put(batch)


def test_the_expectation_is_the_gradient_and_with_a_fading_trace_it_is_not() -> None:
    truth = exact.gradient(Problem(MDP, POLICY, LOGITS, H)).ravel()

    def both(params: Any, batch: pgjax.Trajectory) -> Any:
        estimate = partial(beyond.trace_gradient, POLICY, params, batch, discount=GAMMA)
        return estimate(), estimate(decay=0.7)

    found = enumeration.moments(both, Problem(MDP, POLICY, LOGITS, H)).mean
    kept, fading = found[: truth.size], found[truth.size :]
    np.testing.assert_allclose(kept, truth, rtol=0, atol=EXACT)
    assert np.linalg.norm(fading - truth) > 0.01


def test_batch_by_batch_it_is_the_stored_reward_to_go() -> None:
    M = len(all_episodes().mask)
    for drawn in np.random.default_rng(0).integers(M, size=(3, M)):
        batch = rows(all_episodes(), drawn)
        stored = pgjax.gradient(pgjax.reward_to_go(GAMMA), POLICY, LOGITS, batch)
        online = beyond.trace_gradient(POLICY, LOGITS, batch, discount=GAMMA)
        np.testing.assert_allclose(online, stored, rtol=0, atol=1e-14)


def test_the_undiscounted_estimate_is_that_of_gamma_one() -> None:
    batch = all_episodes()
    stored = pgjax.gradient(pgjax.reward_to_go(1.0), POLICY, LOGITS, batch)
    online = beyond.trace_gradient(POLICY, LOGITS, batch, discount=1.0)
    np.testing.assert_allclose(online, stored, rtol=0, atol=1e-14)


def test_a_fading_trace_is_credit_at_two_rates() -> None:
    batch, decay = all_episodes(), 0.7

    def weights(batch: pgjax.Trajectory, log_prob: Any) -> Any:
        returns = jax.vmap(partial(pgjax.discounted_returns, discount=GAMMA * decay))(batch.reward)
        return GAMMA ** jnp.arange(H, dtype=returns.dtype)[None] * returns

    stored = pgjax.gradient(pgjax.Estimator(weights, terms.score), POLICY, LOGITS, batch)
    online = beyond.trace_gradient(POLICY, LOGITS, batch, discount=GAMMA, decay=decay)
    np.testing.assert_allclose(online, stored, rtol=0, atol=1e-14)


def test_a_network_s_traces_are_its_stored_gradient_too() -> None:
    policy = pgjax.flax_policy(pgjax.MLP(2, (3,)))
    shapes = jax.eval_shape(policy.init, KEY, np.zeros(4, np.float32))
    random = np.random.default_rng(0)
    params = jax.device_put(jax.tree.map(lambda x: random.normal(size=x.shape), shapes))
    batch = all_episodes()
    stored = pgjax.gradient(pgjax.reward_to_go(GAMMA), policy, params, batch)
    online = beyond.trace_gradient(policy, params, batch, discount=GAMMA)
    for one, other in zip(jax.tree.leaves(online), jax.tree.leaves(stored), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-14)


def test_garbage_after_the_end_is_not_read() -> None:
    batch = all_episodes()
    mask = np.asarray(batch.mask)
    spoilt = replace(
        batch,
        observation=jax.device_put(np.where(mask[..., None], batch.observation, np.nan)),
        reward=jax.device_put(np.where(mask, batch.reward, np.nan)),
        action=jax.device_put(np.where(mask, batch.action, 99)),
    )
    np.testing.assert_array_equal(
        beyond.trace_gradient(POLICY, LOGITS, spoilt, discount=GAMMA),
        beyond.trace_gradient(POLICY, LOGITS, batch, discount=GAMMA),
    )


def test_no_trace_reaches_into_the_episode_before() -> None:
    batch = jax.device_get(rows(all_episodes(), [5, 40]))

    def joined(x: Any) -> Any:
        return x.reshape(1, -1, *x.shape[2:])

    window = jax.tree.map(joined, replace(batch, final_observation=None))
    window = replace(window, final_observation=batch.final_observation[1:])

    @jax.jit
    @jax.vmap
    def of_window(time: Any) -> Any:
        return beyond.trace_gradient(POLICY, LOGITS, replace(window, time=time), discount=GAMMA)

    # With one time for both there is a gap: refused where it is known, but here it is traced.
    times = np.arange(2 * H, dtype=np.int32) % np.array([[[H]], [[2 * H]]], np.int32)
    one, leaking = np.asarray(of_window(times))
    two = np.asarray(beyond.trace_gradient(POLICY, LOGITS, batch, discount=GAMMA))
    np.testing.assert_allclose(one, 2 * two, rtol=0, atol=1e-14)
    assert np.abs(leaking - 2 * two).max() > 1e-3


# Straight from an environment


@cache
def recorded() -> pgjax.Trajectory:
    """What `sampled_trace_gradient` sees of its episodes and forgets."""
    surface = as_environment(MDP)

    def act(key: Any, observation: Any) -> Any:
        return POLICY.sample(jnp.asarray(LOGITS), key, observation)

    def record(total: None, time: Any, taken: Taken) -> tuple[None, dict]:
        kept = {
            name: getattr(taken, name)
            for name in ("observation", "action", "reward", "terminated", "truncated")
        }
        alive = taken.alive
        return None, kept | {"log_prob": jnp.where(alive, taken.note, 0), "mask": alive}

    def episode(key: Any) -> pgjax.Trajectory:
        _, kept, final = fold(surface, act, jax.random.split(key, 3), H, record, None)
        return pgjax.Trajectory(**kept, final_observation=final)

    return jax.jit(lambda: jax.vmap(episode)(jax.random.split(KEY, SAMPLED)))()


def test_nothing_stored_and_everything_stored_give_one_gradient() -> None:
    batch = recorded()
    assert 0.2 < np.asarray(batch.mask).mean() < 0.9
    stored = pgjax.gradient(pgjax.reward_to_go(GAMMA), POLICY, LOGITS, batch)
    online = beyond.sampled_trace_gradient(
        POLICY, LOGITS, MDP, KEY, num_trajectories=SAMPLED, num_steps=H, discount=GAMMA
    )
    np.testing.assert_allclose(online, stored, rtol=0, atol=1e-14)


def test_its_episodes_have_the_law_of_the_process() -> None:
    problem = Problem(MDP, POLICY, LOGITS, H)
    assert sampling.law_test(recorded(), problem).passed
    other = replace(problem, params=np.zeros((4, 2)))
    assert not sampling.law_test(recorded(), other).passed


def test_a_time_limit_of_the_task_cuts_the_fold() -> None:
    def shown(time: Any) -> Step:
        return Step(jnp.ones(1), jnp.ones(()), jnp.bool_(False), time == 2)

    counter = Environment(
        init=lambda key: (jnp.int32(0), shown(jnp.int32(0))),
        step=lambda key, time, action: (time + 1, shown(time + 1)),
        action_space=Discrete(2),
    )
    policy = pgjax.tabular_softmax(1, 2)

    @jax.jit
    def returns() -> Any:
        five, one = (
            beyond.seeded_return(policy, counter, num_steps=T, discount=0.5) for T in (5, 1)
        )
        return five(jnp.zeros((1, 2)), KEY), one(jnp.zeros((1, 2)), KEY)

    assert jax.device_get(returns()) == (1.5, 1)


def temporary_bytes(function: Any, num_steps: int) -> int:
    key = jax.random.key(0)
    compiled = jax.jit(partial(function, num_steps=num_steps)).lower(LOGITS, key).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def test_memory_does_not_grow_with_time() -> None:
    """docs/beyond.md shows how a stored batch's does."""

    def online(params: Any, key: Any, num_steps: int) -> Any:
        return beyond.sampled_trace_gradient(
            POLICY, params, MDP, key, num_trajectories=16, num_steps=num_steps, discount=1.0
        )

    assert temporary_bytes(online, 10_000) == temporary_bytes(online, 100)


# The average reward


def test_with_a_discounted_trace_it_is_gpomdp_s_gradient_and_nears_the_average_reward_s() -> None:
    base = tabular.random_mdp(2, num_states=4)
    transition = base.transition[:3, :, :3] + 0.05
    transition = transition / transition.sum(-1, keepdims=True)
    reward, logits, T = base.reward[:3, :, :3], LOGITS[:3], 4

    def chain(table: Any) -> Any:
        probability = softmax(table, axis=1)
        kernel = np.einsum("sa,sat->st", probability, transition)
        system = np.concatenate([np.eye(3) - kernel.T, np.ones((1, 3))])
        return probability, np.linalg.lstsq(system, np.array([0.0, 0, 0, 1]), rcond=None)[0]

    def average_reward(table: Any) -> Any:
        probability, weight = chain(table)
        return np.einsum("s,sa,sat,sat->", weight, probability, transition, reward)

    def slope(change: Any) -> Any:
        return (average_reward(logits + change) - average_reward(logits - change)) / 2e-5

    def credited(table: Any, decay: Any) -> Any:
        """Σ_s ρ Σ_a ∇π Q_k, averaged over how many rewards a window of T has left to credit."""
        probability, weight = chain(table)
        paid = np.sum(transition * reward, -1)
        value, total = np.zeros(3), np.zeros((3, 2))
        for _ in range(T):
            q = paid + decay * transition @ value
            value = np.sum(probability * q, -1)
            total = total + q
        centered = total - np.sum(probability * total, -1, keepdims=True)
        return weight[:, None] * probability * centered / T

    decays = np.array([0.0, 0.5, 1.0])
    start, expected = chain(logits)[1], [credited(logits, decay) for decay in decays]
    truth = np.reshape([slope(1e-5 * change) for change in np.eye(6).reshape(6, 3, 2)], (3, 2))
    mdp = pgjax.TabularMDP(transition, reward, start, [False] * 3, 1.0)
    policy = pgjax.tabular_softmax(3, 2)
    batch, chance = enumeration.trajectories(Problem(mdp, policy, logits, T))

    def estimated(decay: Any) -> Any:
        def single(row: pgjax.Trajectory) -> Any:
            row = jax.tree.map(lambda x: x[None], row)
            return beyond.trace_gradient(policy, logits, row, discount=1.0, decay=decay) / T

        return jnp.tensordot(jnp.asarray(chance), jax.vmap(single)(to_jax(batch)), 1)

    found = np.asarray(jax.jit(jax.vmap(estimated))(decays))
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)
    errors = np.linalg.norm(found - truth, axis=(1, 2))
    assert errors[2] < errors[0]


def test_bad_input_is_named() -> None:
    batch = all_episodes()
    with pytest.raises(ValueError, match="decay must lie in"):
        beyond.trace_gradient(POLICY, LOGITS, batch, discount=0.9, decay=1.1)
    sample = partial(beyond.sampled_trace_gradient, POLICY, LOGITS, discount=0.9)
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        sample(MDP, jax.random.key(0), num_trajectories=1, num_steps=0)
    with pytest.raises(TypeError, match="environment must be"):
        sample("CartPole-v1", jax.random.key(0), num_trajectories=1, num_steps=1)  # pyright: ignore
