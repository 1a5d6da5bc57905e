"""Recurrent policies: exact gradients through the memory, on states that look alike.

The truth is J(θ) = Σ_τ P(τ; θ) R(τ) over every trajectory, where P(τ; θ) is the environment's part
times the policy's own probabilities, step by step along each history, differentiated by JAX.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import pgjax
from pgjax import Estimator, Problem, Trajectory, enumeration, policies, tabular, weights
from pgjax.core import scores
from pgjax.estimators import score_weights
from pgjax.terms import dice
from pgjax.types import RecurrentPolicy

pytestmark = pytest.mark.usefixtures("strict")

HORIZON, DISCOUNT = 4, 0.9
WIDTH, SEES, A = 3, 2, 2
RANDOM = np.random.default_rng(5)
PARAMS = {
    "memory": RANDOM.normal(size=(WIDTH, WIDTH)),
    "seen": RANDOM.normal(size=(SEES, WIDTH)),
    "start": RANDOM.normal(size=WIDTH),
    "logits": RANDOM.normal(size=(WIDTH, A)),
}


def look_alikes() -> pgjax.TabularMDP:
    """Five states behind two observations, with rewards, lengths and starts of all kinds."""
    mdp = tabular.random_mdp(3, num_states=5, discount=DISCOUNT)
    return mdp.replace(observation=np.array([[1.0, 0], [0, 1], [1, 0], [0, 1], [1, 0]]))


def step(params: Any, memory: Any, seen: Any) -> tuple[Any, Any]:
    memory = jnp.tanh(memory @ params["memory"] + seen @ params["seen"])
    return memory, memory @ params["logits"]


def forgetting_step(params: Any, memory: Any, seen: Any) -> tuple[Any, Any]:
    """The same policy, but no gradient goes through its memory: the negative control."""
    return step(params, jax.lax.stop_gradient(memory), seen)


def made(step: Callable, distribution: Any = policies.SOFTMAX) -> RecurrentPolicy:
    return policies.recurrent_policy(
        lambda key, seen: PARAMS, lambda params: jnp.asarray(params["start"]), step, distribution
    )


POLICY = made(step)


@pytest.fixture(scope="module")
def everything(strict: None) -> tuple[Trajectory, np.ndarray]:
    """Every trajectory, and the environment's part of its probability."""
    mdp = look_alikes()
    constant = policies.softmax_policy(lambda key, seen: jnp.zeros(A), lambda params, seen: params)
    found, probability = enumeration.trajectories(Problem(mdp, constant, jnp.zeros(A), HORIZON))
    length = np.sum(found.mask, axis=1)
    assert set(length) == {1, 2, 3, 4}
    return jax.device_put(found), probability * A**length


@partial(jax.jit, static_argnums=0)
def by_hand(policy: RecurrentPolicy, params: Any, batch: Trajectory) -> Any:
    """[N, T] log-probabilities, one step after another; zero at dead steps."""

    def along(observations: Any, actions: Any, mask: Any) -> Any:
        def go_on(memory: Any, here: Any) -> tuple[Any, Any]:
            *taken, alive = here
            first = observations[0], actions[0]  # stands in for what follows the end
            seen, action = jax.tree.map(partial(jnp.where, alive), tuple(taken), first)
            memory, log_prob = policy.log_prob(params, memory, seen, action)
            return memory, jnp.where(alive, log_prob, 0)

        return jax.lax.scan(go_on, policy.memory(params), (observations, actions, mask))[1]

    return jax.vmap(along)(batch.observation, batch.action, batch.mask)


@jax.jit
def probabilities(params: Any, batch: Trajectory, environments: Any) -> Any:
    return environments * jnp.exp(jnp.sum(by_hand(POLICY, params, batch), axis=1))


def objective(params: Any, batch: Trajectory, environments: Any) -> Any:
    total = jnp.sum(batch.reward * DISCOUNT ** jnp.arange(HORIZON, dtype=float)[None], axis=1)
    return probabilities(params, batch, environments) @ total


# One program for the tests of the estimate.
true_gradient = jax.jit(jax.grad(objective))


def expectation(tree: Any, probability: Any) -> Any:
    return jax.tree.map(lambda x: np.tensordot(probability, x, 1), tree)


def assert_close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


def test_the_policys_own_probabilities_sum_to_one(everything: Any) -> None:
    np.testing.assert_allclose(np.sum(probabilities(PARAMS, *everything)), 1, rtol=0, atol=1e-13)


@jax.jit
def each_estimate(params: Any, batch: Trajectory) -> list[Any]:
    """Of each trajectory: two estimators', and the second's without the gradient through memory."""
    to_go = pgjax.reward_to_go(DISCOUNT)
    pairs = (pgjax.reinforce(DISCOUNT), POLICY), (to_go, POLICY), (to_go, made(forgetting_step))
    return [pgjax.per_trajectory_gradients(*pair, params, batch) for pair in pairs]


@pytest.fixture(scope="module")
def expected_estimates(everything: Any) -> list[Any]:
    probability = probabilities(PARAMS, *everything)
    return [expectation(each, probability) for each in each_estimate(PARAMS, everything[0])]


def test_the_expected_estimate_is_the_gradient_through_the_memory(
    everything: Any, expected_estimates: list[Any]
) -> None:
    truth = true_gradient(PARAMS, *everything)
    assert min(np.max(np.abs(x)) for x in jax.tree.leaves(truth)) > 1e-3
    for found in expected_estimates[:2]:
        assert_close(found, truth)


def test_without_the_gradient_through_the_memory_the_estimate_is_biased(
    everything: Any, expected_estimates: list[Any]
) -> None:
    """The negative control; where no memory comes in between it is right all the same."""
    truth, found = true_gradient(PARAMS, *everything), expected_estimates[2]
    assert np.max(np.abs(found["memory"] - np.asarray(truth["memory"]))) > 1e-3
    assert_close(found["logits"], truth["logits"])


def test_the_expected_second_derivative_of_dice_is_the_hessian_through_the_memory(
    everything: Any,
) -> None:
    """Both times a vector of random numbers."""
    batch, environments = everything
    estimator = Estimator(weights.reward_to_go(DISCOUNT), dice)
    probability = np.asarray(probabilities(PARAMS, *everything))
    share = len(probability) * probability[:, None]
    scaled = replace(batch, reward=jnp.asarray(np.asarray(batch.reward) * share))
    random = np.random.default_rng(8)
    direction = jax.tree.map(lambda x: random.normal(size=x.shape), PARAMS)

    @jax.jit
    def products(params: Any, batch: Trajectory, scaled: Trajectory) -> list[Any]:
        functions = (
            lambda params: objective(params, batch, environments),
            lambda params: pgjax.surrogate(estimator, POLICY, params, scaled),
        )
        return [jax.jvp(jax.grad(f), (params,), (direction,))[1] for f in functions]

    truth, found = products(PARAMS, batch, scaled)
    assert min(np.max(np.abs(x)) for x in jax.tree.leaves(truth)) > 1e-3
    assert_close(found, truth, 1e-12)


# The same in chunks, with garbage after the end, in windows, and beside policies without memory.


def random_batch(*, garbage: bool = False, N: int = 7, T: int = 6) -> Trajectory:
    random = np.random.default_rng(6)
    mask = np.arange(T) < random.integers(1, T + 1, size=(N, 1))
    mask[2] = False  # an episode without a step

    def field(values: np.ndarray, bad: Any) -> Any:
        dead = ~mask.reshape(mask.shape + (1,) * (values.ndim - 2))
        return np.where(dead, np.asarray(bad if garbage else 0, values.dtype), values)

    flags = ~mask & (np.arange(T) % 2 == 0) if garbage else np.zeros((N, T), bool)
    fields: dict[str, Any] = {
        "observation": field(random.normal(size=(N, T, SEES)), np.nan),
        "action": field(random.integers(A, size=(N, T)), 99),
        "reward": field(random.normal(size=(N, T)), np.nan),
        "log_prob": field(np.log(random.uniform(0.2, 0.9, size=(N, T))), np.nan),
        "terminated": flags,
        "truncated": flags,
        "mask": mask,
        "final_observation": np.zeros((N, SEES)),
    }
    return Trajectory(**jax.device_put(fields))


COUPLED = Estimator(
    weights.reward_to_go(DISCOUNT, baseline=pgjax.baselines.leave_one_out),
    pgjax.terms.importance_ratio,
)


def results(
    policy: RecurrentPolicy, params: Any, batch: Trajectory, chunk_size: int | None = None
) -> dict[str, Any]:
    """Everything that unrolls a policy."""
    size: Any = {"chunk_size": chunk_size}
    log_prob, pull = jax.vjp(lambda p: pgjax.log_probs(policy, p, batch, **size), params)
    weight = score_weights(COUPLED, batch, log_prob)
    gradient, entropy = scores.weighted_score_and_sum(
        policy, params, batch, weight, policy.entropy, **size
    )
    return {
        "log_probs": log_prob,
        "derivative": pull(weight)[0],
        "gradient": gradient,
        "entropy": entropy,
        "each": scores.weighted_score_per_trajectory(
            policy, params, batch, len(batch.mask) * weight, **size
        ),
    }


@pytest.fixture(scope="module")
def whole(strict: None) -> dict[str, Any]:
    return jax.jit(partial(results, POLICY))(PARAMS, random_batch())


def test_log_probabilities_and_gradients_are_those_of_unrolling_by_hand(whole: Any) -> None:
    batch = random_batch()

    @jax.jit
    def differentiated(params: Any, log_prob: Any) -> Any:
        """Log-probabilities, the gradient by hand, and the surrogate's."""
        weight = COUPLED.weights(batch, log_prob)

        def term(params: Any) -> Any:
            log_prob = by_hand(POLICY, params, batch)
            ratio = jnp.exp(log_prob - batch.log_prob) * weight
            return jnp.sum(jnp.where(batch.mask, ratio, 0)) / len(batch.mask), log_prob

        slope, log_prob = jax.grad(term, has_aux=True)(params)
        return log_prob, slope, jax.grad(partial(pgjax.surrogate, COUPLED, POLICY))(params, batch)

    log_prob, truth, of_surrogate = differentiated(PARAMS, whole["log_probs"])
    assert_close(whole["log_probs"], log_prob)
    assert_close(whole["derivative"], truth)
    assert_close(whole["gradient"], truth)
    assert_close(of_surrogate, truth)
    assert_close(pgjax.gradient(COUPLED, POLICY, PARAMS, batch), truth)
    assert_close(jax.tree.map(lambda x: np.mean(np.asarray(x), axis=0), whole["each"]), truth)


def test_the_sum_of_entropies_is_over_the_live_steps_and_their_memories(whole: Any) -> None:
    batch, total = jax.device_get(random_batch()), 0.0

    @jax.jit
    def go_on(memory: Any, seen: Any, action: Any) -> tuple[Any, Any]:
        after, _ = POLICY.log_prob(PARAMS, memory, seen, action)
        return after, POLICY.entropy(PARAMS, memory, seen)

    for row in range(len(batch.mask)):
        memory = PARAMS["start"]
        for t in range(int(np.sum(batch.mask[row]))):
            memory, entropy = go_on(memory, batch.observation[row, t], batch.action[row, t])
            total += float(entropy)
    np.testing.assert_allclose(whole["entropy"], total, rtol=1e-13)


def test_chunks_of_trajectories_and_garbage_after_the_end_change_nothing(whole: Any) -> None:
    in_chunks = jax.jit(partial(results, POLICY, chunk_size=13))  # two trajectories of six steps
    for garbage in (False, True):
        assert_close(in_chunks(PARAMS, random_batch(garbage=garbage)), whole)


def test_a_memory_that_grows_without_bound_after_the_end_spoils_no_gradient() -> None:
    """It doubles at every step, and would overflow long before the row does."""
    policy = policies.recurrent_policy(
        lambda key, seen: PARAMS,
        lambda params: jnp.zeros(()),
        lambda params, memory, seen: (1e100 * (memory + 1), jnp.tanh(memory) * params["logits"][0]),
    )
    batch = random_batch(garbage=True)
    batch = replace(batch, mask=jnp.asarray(np.asarray(batch.mask) & (np.arange(6) < 2)))
    found = pgjax.gradient(COUPLED, policy, PARAMS, batch)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found))


def test_in_a_window_the_memory_begins_anew_after_every_cut() -> None:
    episodes = random_batch()
    listed: Any = jax.tree.map(np.asarray, replace(episodes, final_observation=None))
    rows, lengths = [0, 1, 3], [int(np.sum(listed.mask[row])) for row in [0, 1, 3]]
    pieces = [
        jax.tree.map(lambda x, row=row, n=n: x[row, :n], listed)
        for row, n in zip(rows, lengths, strict=True)
    ]
    window = jax.tree.map(lambda *x: np.concatenate(x)[None], *pieces)
    ends, step = np.cumsum(lengths) - 1, np.arange(sum(lengths))[None]
    window = replace(
        window,
        terminated=step == ends[0],
        truncated=step == ends[1],
        final_observation=np.asarray(episodes.final_observation)[:1],
        next_value=np.zeros(window.reward.shape),
    )

    def unroll(batch: Any) -> np.ndarray:
        return np.asarray(pgjax.log_probs(POLICY, PARAMS, jax.device_put(batch)))

    apart = unroll(episodes)
    expected = np.concatenate([apart[row, :n] for row, n in zip(rows, lengths, strict=True)])
    assert_close(unroll(window)[0], expected)
    uncut = replace(window, terminated=step < 0)
    assert np.max(np.abs(unroll(uncut)[0] - expected)) > 0.01


def test_a_policy_without_memory_is_one_with_an_empty_memory() -> None:
    plain = policies.softmax_policy(
        lambda key, seen: jnp.zeros((SEES, A)), lambda params, seen: jnp.tanh(seen @ params)
    )
    lifted = policies.as_recurrent(plain)

    @jax.jit
    def both(params: Any, batch: Trajectory, key: Any, seen: Any) -> Any:
        slopes = [pgjax.gradient(COUPLED, policy, params, batch) for policy in (lifted, plain)]
        drawn = lifted.sample(params, key, (), seen)[1:], plain.sample(params, key, seen)
        entropies = lifted.entropy(params, (), seen), plain.entropy(params, seen)
        return slopes, drawn, entropies

    params, batch = RANDOM.normal(size=(SEES, A)), random_batch(garbage=True)
    for found, expected in both(params, batch, jax.random.key(0), np.ones(SEES)):
        assert all(np.all(np.isfinite(np.asarray(x))) for x in jax.tree.leaves(found))
        assert_close(found, expected)


def test_a_recurrent_gaussian_policy_scores_along_the_episode() -> None:
    def gaussian_step(params: Any, memory: Any, seen: Any) -> tuple[Any, Any]:
        memory, output = step(params, memory, seen)
        return memory, (output, 0.3 * output - 0.5)

    policy = made(gaussian_step, policies.GAUSSIAN)
    batch = random_batch()
    random = np.random.default_rng(7)
    batch = replace(batch, action=jnp.asarray(random.normal(size=(*batch.mask.shape, A))))

    @jax.jit
    def drawn_and_scored(params: Any, key: Any, seen: Any) -> Any:
        memory, action, log_prob = policy.sample(params, key, policy.memory(params), seen)
        return (memory, log_prob), policy.log_prob(params, policy.memory(params), seen, action)

    assert_close(pgjax.log_probs(policy, PARAMS, batch), by_hand(policy, PARAMS, batch))
    found, again = drawn_and_scored(PARAMS, jax.random.key(0), random.normal(size=SEES))
    assert_close(found, again, 0)


def test_a_memory_of_another_shape_is_an_error() -> None:
    wrong = made(lambda params, memory, seen: (memory[:2], memory @ params["logits"]))
    with pytest.raises(ValueError, match=r"must return a memory like .*\(3,\), got \(2,\)"):
        pgjax.log_probs(wrong, PARAMS, random_batch())


def test_a_flax_cell_is_rolled_out_and_scored_with_the_same_memory() -> None:
    policy = policies.flax_recurrent_policy(linen.LSTMCell(5), pgjax.MLP(num_actions=A, hidden=()))
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.enable_x64(False),
    ):
        # Not the initial parameters, at which the head is nearly uniform.
        random = np.random.default_rng(0)
        like = jax.eval_shape(policy.init, jax.random.key(0), np.zeros(SEES))
        params = jax.tree.map(lambda x: random.normal(size=x.shape).astype(x.dtype), like)

        @jax.jit
        def computed(params: Any, key: Any) -> Any:
            sizes: Any = {"num_trajectories": 8, "num_steps": 5}
            batch = pgjax.rollout(policy, params, look_alikes(), key, **sizes)
            score = pgjax.gradient(pgjax.rloo(DISCOUNT), policy, params, batch)
            return batch.log_prob, pgjax.log_probs(policy, params, batch), score

        drawn, found, score = computed(params, jax.random.key(1))
    np.testing.assert_allclose(found, drawn, rtol=0, atol=1e-5)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(score))
    cell = jax.tree.leaves(score["params"]["cell"])
    assert max(np.max(np.abs(np.asarray(x))) for x in cell) > 1e-4


def test_an_action_that_the_policy_does_not_have_is_named() -> None:
    batch = random_batch()
    row = int(np.argmax(np.sum(np.asarray(batch.mask), axis=1)))
    action = np.array(batch.action)
    action[row, 1] = A + 5
    wrong = replace(batch, action=jnp.asarray(action))
    words = f"batch.action at trajectory {row}, step 1: .*{A + 5}"
    for call in (
        lambda batch: pgjax.log_probs(POLICY, PARAMS, batch),
        lambda batch: pgjax.gradient(COUPLED, POLICY, PARAMS, batch),
    ):
        with pytest.raises(ValueError, match=words):
            call(wrong)
        call(batch)  # the control
