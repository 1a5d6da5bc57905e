"""Entropy and KL to a reference: which form has which gradient, against exact truth and algebra."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import pgjax
from pgjax import Estimator, TabularMDP, Trajectory, enumeration, exact, suite
from pgjax import regularization as reg
from pgjax.exact.problem import Problem

pytestmark = pytest.mark.usefixtures("strict")

PROBLEMS = suite.certified()
PROBLEM = replace(PROBLEMS[1], horizon=3)
GAMMA = PROBLEM.mdp.discount
BETA = 0.3
CHECK = {"rtol": 0, "atol": 1e-10}
REFERENCE_PARAMS = PROBLEM.params / 2
REFERENCE = softmax(REFERENCE_PARAMS, axis=-1)


def kl(p: Any, q: Any) -> float:
    return np.sum(p * (np.log(p) - np.log(q)))


def by_logits(logits: Any, slope: Any) -> np.ndarray:
    """A derivative by the logits of a softmax, from that by the log-probabilities."""
    return slope - softmax(logits, axis=-1) * np.sum(slope, axis=-1, keepdims=True)


def slope_of_kl(logits: Any, q: Any) -> np.ndarray:
    """The derivative of KL(softmax‖q) by the log-probabilities, in each state."""
    log_prob = log_softmax(logits, axis=-1)
    return np.exp(log_prob) * (log_prob - np.log(q) + 1)


# One state, all its actions: Schulman's estimates by their definition

LOGITS = np.array([0.4, -1.1, 0.9])
OTHER = np.exp([-0.3, 0.2, 1.0]) / np.sum(np.exp([-0.3, 0.2, 1.0]))


def mean_of(term: Callable, differentiated: bool) -> Any:
    """E[k] over the actions, or E[∇k] with the actions' probabilities held fixed."""
    return means_and_slopes()[term.__name__][int(differentiated)]


@cache
def means_and_slopes() -> dict[str, Any]:
    """Of every term, by one program."""
    terms = reg.k1, reg.k2, reg.k3, reg.sampled_entropy, reg.squared_entropy

    def mean(logits: Any, term: Callable) -> Any:
        log_prob = jax.nn.log_softmax(logits)
        return jnp.sum(softmax(LOGITS) * term(log_prob, jnp.log(OTHER), jnp.ones(3)))

    @jax.jit
    def every(logits: Any) -> dict[str, Any]:
        return {term.__name__: jax.value_and_grad(mean)(logits, term) for term in terms}

    return jax.device_get(every(LOGITS))


def test_k1_and_k3_have_the_divergence_as_their_mean_and_k2_has_not() -> None:
    truth = kl(softmax(LOGITS), OTHER)
    np.testing.assert_allclose(mean_of(reg.k1, False), truth, rtol=1e-14)
    np.testing.assert_allclose(mean_of(reg.k3, False), truth, rtol=1e-14)
    assert abs(mean_of(reg.k2, False) - truth) > 1e-3


def test_in_the_loss_k1_is_silent_k2_is_right_and_k3_is_the_other_divergences() -> None:
    forward, reverse = (by_logits(LOGITS, x) for x in (slope_of_kl(LOGITS, OTHER), -OTHER))
    np.testing.assert_allclose(mean_of(reg.k1, True), np.zeros(3), rtol=0, atol=1e-15)
    np.testing.assert_allclose(mean_of(reg.k2, True), forward, rtol=0, atol=1e-15)
    np.testing.assert_allclose(mean_of(reg.k3, True), reverse, rtol=0, atol=1e-15)
    assert np.max(np.abs(forward - reverse)) > 1e-2


def test_the_sampled_entropy_is_silent_and_its_square_is_right() -> None:
    truth = -by_logits(LOGITS, slope_of_kl(LOGITS, np.ones(3)))
    np.testing.assert_allclose(mean_of(reg.sampled_entropy, True), np.zeros(3), rtol=0, atol=1e-15)
    np.testing.assert_allclose(mean_of(reg.squared_entropy, True), truth, rtol=0, atol=1e-15)
    np.testing.assert_allclose(
        mean_of(reg.sampled_entropy, False), -kl(softmax(LOGITS), np.ones(3)), rtol=1e-14
    )


def test_k3_times_a_ratio_that_keeps_its_gradient_is_k2_sample_by_sample() -> None:
    # DeepSeek-V3.2 (2025) corrects k3 so; on the policy's own samples nothing else comes out.
    log_prob, reference, one = map(
        jnp.asarray, (-np.arange(1.0, 4.0), np.array([-2.0, -0.5, -3.0]), np.ones(3))
    )

    def corrected(log_prob: Any) -> Any:
        ratio = jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))
        return jnp.sum(ratio * reg.k3(log_prob, reference, one))

    found, expected = jax.jit(
        lambda x: (jax.grad(corrected)(x), jax.grad(lambda x: reg.k2(x, reference, one).sum())(x))
    )(log_prob)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_a_reference_out_of_reach_gives_no_nan(dtype: Any) -> None:
    log_prob, reference = (
        jnp.asarray(np.array(x, dtype)) for x in ([0, 0, 0, 0], [200, -200, 2e4, -2e4])
    )

    @jax.jit
    def slopes(log_prob: Any) -> list[Any]:
        terms = (*(lambda x, k=k: k(x, reference, jnp.ones_like(x)) for k in forms), naive)
        return [jax.grad(lambda x, term=term: term(x).sum())(log_prob) for term in terms]

    def naive(x: Any) -> Any:
        return jnp.exp(reference - x) - 1 - (reference - x)

    forms = (reg.k1, reg.k2, reg.k3)
    *found, wrong = slopes(log_prob)
    assert np.all(np.isfinite(found))
    assert not np.all(np.isfinite(wrong))


# Whole episodes: the mean of every form


def test_each_form_in_the_reward_has_exactly_the_bias_it_states() -> None:
    estimator = pgjax.reward_to_go(GAMMA)
    forms = (reg.with_k1_reward, reg.with_k2_reward, reg.with_k3_reward)

    def estimates(params: Any, batch: Trajectory) -> Any:
        reference = pgjax.log_probs(PROBLEM.policy, REFERENCE_PARAMS, batch)
        batches = [form(batch, reference, BETA) for form in forms]
        batches.append(reg.with_entropy_reward(batch, BETA))
        gradient = partial(pgjax.gradient, estimator, PROBLEM.policy, params)
        return jax.vmap(gradient)(jax.tree.map(lambda *x: jnp.stack(x), *batches))

    moments = enumeration.moments(jax.jit(estimates), PROBLEM)
    in_k1, in_k2, in_k3, in_entropy = moments.mean.reshape(4, 4, 2)
    truth = exact.kl_regularized_gradient(PROBLEM, coefficient=BETA, reference=REFERENCE)
    local = exact.local_kl_gradient(PROBLEM, reference=REFERENCE)
    np.testing.assert_allclose(in_k1, truth, **CHECK)
    np.testing.assert_allclose(in_k3, truth + BETA * local_reverse_gradient(), **CHECK)
    np.testing.assert_allclose(in_k2, k2_return_gradient() + BETA * local, **CHECK)
    entropy = exact.entropy_regularized_gradient(PROBLEM, coefficient=BETA)
    np.testing.assert_allclose(in_entropy, entropy, **CHECK)
    for biased in (in_k2, in_k3):
        assert np.max(np.abs(biased - truth)) > 1e-3


def log_table(params: Any) -> np.ndarray:
    """[S, A] log π of the tabular softmax."""
    return log_softmax(params, axis=-1)


def discounted_visits() -> np.ndarray:
    return exact.visitation(PROBLEM).sum(0)


def local_reverse_gradient() -> Any:
    """Σ_s d(s) ∇KL(ref‖π)(s), by its definition."""
    return by_logits(PROBLEM.params, -discounted_visits()[:, None] * REFERENCE)


def k2_return_gradient() -> Any:
    """∇E[Σ γ^t (r − β k2)]: k2 as a reward, plus the gradient of k2 itself on its visits."""
    log_prob = log_table(PROBLEM.params)
    log_ratio = log_prob - np.log(REFERENCE)
    as_reward = exact.gradient(replace(PROBLEM, mdp=rewarded(PROBLEM, -BETA * log_ratio**2 / 2)))
    itself = discounted_visits()[:, None] * np.exp(log_prob) * log_ratio
    return as_reward - BETA * by_logits(PROBLEM.params, itself)


def rewarded(problem: Problem, bonus: np.ndarray) -> TabularMDP:
    """The MDP that pays [S, A] more."""
    mdp = problem.mdp
    return replace(mdp, reward=mdp.reward + bonus[:, :, None])


# The oracle


@pytest.mark.parametrize("horizon", [1, 3, None])
def test_the_oracles_regularised_returns_are_plain_ones_of_an_mdp_that_charges_log_ratios(
    horizon: int | None,
) -> None:
    # For E[∇(log π − log ref)] = 0, the charge may be held constant; and its mean is the KL.
    log_prob = log_table(PROBLEM.params)
    problem = replace(PROBLEM, horizon=horizon)
    for bonus, kind, settings in (
        (np.log(REFERENCE) - log_prob, "kl", {"reference": REFERENCE}),
        (-log_prob, "entropy", {}),
    ):
        other = replace(problem, mdp=rewarded(PROBLEM, BETA * bonus))
        objective = getattr(exact, f"{kind}_regularized_objective")
        gradient = getattr(exact, f"{kind}_regularized_gradient")
        settings = {"coefficient": BETA, **settings}
        np.testing.assert_allclose(
            objective(problem, **settings), exact.objective(other), rtol=1e-12
        )
        found = gradient(problem, **settings)
        truth = exact.gradient(other)
        np.testing.assert_allclose(found, truth, **CHECK)
        assert np.max(np.abs(found - exact.gradient(problem))) > 1e-3


def test_the_local_gradients_are_those_of_each_state_times_its_visits() -> None:
    def expected(other: Any) -> np.ndarray:
        slope = discounted_visits()[:, None] * slope_of_kl(PROBLEM.params, other)
        return by_logits(PROBLEM.params, slope)

    found = exact.local_kl_gradient(PROBLEM, reference=REFERENCE)
    np.testing.assert_allclose(found, expected(REFERENCE), **CHECK)
    found = exact.local_entropy_gradient(PROBLEM)
    np.testing.assert_allclose(found, -expected(np.ones((4, 2))), **CHECK)
    whole = exact.entropy_regularized_gradient(PROBLEM, coefficient=1.0)
    plain = exact.gradient(PROBLEM)
    assert np.max(np.abs(whole - plain - found)) > 1e-2  # later entropies are credited there


def test_at_the_reference_itself_the_penalty_has_neither_value_nor_slope() -> None:
    own = exact.action_probabilities(PROBLEM)
    np.testing.assert_allclose(
        exact.kl_regularized_gradient(PROBLEM, reference=own, coefficient=5.0),
        exact.gradient(PROBLEM),
        **CHECK,
    )


def test_an_action_that_neither_policy_takes_costs_nothing() -> None:
    mask = jnp.asarray(np.array([[0.0, 0.0], [0.0, -np.inf], [0.0, 0.0], [0.0, 0.0]]))
    policy = pgjax.softmax_policy(
        lambda key, s: jnp.zeros((4, 2)), lambda params, s: s @ params + mask[jnp.argmax(s)]
    )
    reference = np.array([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
    case = replace(PROBLEM, policy=policy)
    found = exact.kl_regularized_gradient(case, reference=reference, coefficient=1.0)
    assert np.all(np.isfinite(found))


# Sampled gradients of a batch


@pytest.fixture(scope="module")
def batch(strict: None) -> Trajectory:
    every, _ = enumeration.trajectories(PROBLEM)
    return jax.tree.map(lambda x: jnp.asarray(x[::11]), every)


def garbage(batch: Trajectory) -> Trajectory:
    """NaN wherever an episode has ended."""
    dead = ~np.asarray(batch.mask)
    return replace(
        batch,
        log_prob=np.where(dead, np.nan, batch.log_prob),
        observation=np.where(dead[..., None], np.nan, batch.observation),
    )


def test_the_exact_entropys_gradient_is_the_mean_of_each_states(batch: Trajectory) -> None:
    params = PROBLEM.params

    weight = np.asarray(batch.mask) * GAMMA ** np.arange(3.0)
    visits = np.einsum("nt,nts->s", weight, batch.observation) / len(weight)
    slope = -visits[:, None] * slope_of_kl(params, np.ones((4, 2)))
    found = reg.entropy_gradient(PROBLEM.policy, params, garbage(batch), discount=GAMMA)
    np.testing.assert_allclose(found, by_logits(params, slope), rtol=0, atol=1e-14)


def test_only_the_rewards_of_live_steps_change(batch: Trajectory) -> None:
    live = np.asarray(batch.mask)
    reference = jnp.asarray(np.where(live, -1.0, np.nan))

    @jax.jit
    def every_form(batch: Trajectory) -> list[Trajectory]:
        forms = (reg.with_k1_reward, reg.with_k2_reward, reg.with_k3_reward)
        charged = [form(batch, reference, BETA) for form in forms]
        return [*charged, reg.with_entropy_reward(batch, BETA)]

    for found in every_form(garbage(batch)):
        reward = np.asarray(found.reward)
        assert np.all(np.isfinite(reward))
        np.testing.assert_array_equal(reward[~live], 0)
        assert np.all((reward != np.asarray(batch.reward))[live])
        np.testing.assert_array_equal(found.action, batch.action)
    charged = every_form(batch)[0].reward
    expected = np.asarray(batch.reward) - BETA * (np.asarray(batch.log_prob) + 1)
    np.testing.assert_allclose(charged, np.where(live, expected, 0), rtol=0, atol=1e-15)


def test_a_penalty_in_the_reward_is_a_constant(batch: Trajectory) -> None:
    def total(log_prob: Any) -> Any:
        moving = replace(batch, log_prob=log_prob)
        return reg.with_k2_reward(moving, jnp.full((9, 3), -1.0), BETA).reward.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(batch.log_prob), np.zeros((9, 3)))


def test_integer_rewards_are_promoted(batch: Trajectory) -> None:
    counts = replace(batch, reward=np.ones((9, 3), np.int32))
    found = jax.jit(reg.with_entropy_reward)(counts, BETA).reward
    assert found.dtype == jnp.float32
    expected = np.where(batch.mask, 1 - BETA * np.asarray(batch.log_prob), 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_visits_count_from_each_episodes_start(batch: Trajectory) -> None:
    visits = jax.jit(reg.visits(GAMMA))
    found = visits(batch, batch.log_prob)
    np.testing.assert_allclose(found, np.tile(GAMMA ** np.arange(3.0), (9, 1)), rtol=1e-15)
    window = replace(batch, time=np.tile([4, 0, 1], (9, 1)))
    found = visits(window, batch.log_prob)
    np.testing.assert_allclose(np.asarray(found)[0], GAMMA ** np.array([4.0, 0, 1]), rtol=1e-15)


# Bad input


@pytest.mark.parametrize("give", [reg.with_reference, reg.with_k1_reward, reg.with_k3_reward])
def test_a_reference_that_cannot_be_is_refused(give: Callable, batch: Trajectory) -> None:
    coefficient = () if give is reg.with_reference else (BETA,)
    wrong = jnp.asarray(np.zeros((9, 2)))
    with pytest.raises(Exception, match=r"reference_log_prob") as error:
        give(batch, wrong, *coefficient)
    assert "(9, 2)" in str(error.value) or "9 2" in str(error.value) or "[9,2]" in str(error.value)
    impossible = np.full((9, 3), -1.0)
    impossible[4, 0] = -np.inf
    impossible = jnp.asarray(impossible)
    with pytest.raises(ValueError, match="is -inf at trajectory 4, step 0; if the reference"):
        give(batch, impossible, *coefficient)
    with pytest.raises(ValueError, match="reference_log_prob is -inf at trajectory 4, step 0"):
        pgjax.checked(lambda x: give(batch, x, *coefficient).reward)(impossible)


def test_a_negative_coefficient_is_refused(batch: Trajectory) -> None:
    with pytest.raises(ValueError, match=r"coefficient must be at least 0, got -0\.3; give its"):
        reg.with_k1_reward(batch, batch.log_prob, -BETA)
    with pytest.raises(ValueError, match=r"coefficient must be at least 0\.0, got -0\.3"):
        pgjax.checked(lambda b: reg.with_entropy_reward(batch, b).reward)(jnp.full((), -BETA))
    with pytest.raises(ValueError, match="coefficient must be at least 0"):
        exact.entropy_regularized_gradient(PROBLEM, coefficient=-1.0)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (np.full((4, 3), 1 / 3), r"reference must have shape \[S, A\] = \(4, 2\), got \(4, 3\)"),
        (np.ones((4, 2)), "reference must be a distribution over actions in every state"),
        (np.tile([1.0, 0.0], (4, 1)), "gives action 1 in state 0 no probability"),
    ],
)
def test_the_oracle_refuses_a_reference_that_cannot_be(reference: Any, words: str) -> None:
    call = partial(exact.local_kl_gradient, PROBLEM)
    with pytest.raises(Exception, match=words):
        call(reference=reference)


def test_the_terms_combine_with_any_estimator(batch: Trajectory) -> None:
    reference = np.asarray(pgjax.log_probs(PROBLEM.policy, REFERENCE_PARAMS, batch))
    penalty = Estimator(reg.visits(GAMMA), reg.k2)

    def objective(params: Any) -> Any:
        ascent = pgjax.surrogate(pgjax.reward_to_go(GAMMA), PROBLEM.policy, params, batch)
        referred = reg.with_reference(batch, jnp.asarray(reference))
        return ascent - BETA * pgjax.surrogate(penalty, PROBLEM.policy, params, referred)

    penalties = BETA * GAMMA ** np.arange(3.0) * (np.asarray(batch.log_prob) - reference)
    both = Estimator(
        lambda batch, log_prob: (
            pgjax.weights.reward_to_go(GAMMA)(batch, log_prob) - jnp.asarray(penalties)
        ),
        pgjax.terms.score,
    )
    found = jax.jit(jax.grad(objective))(jnp.asarray(PROBLEM.params))
    expected = pgjax.gradient(both, PROBLEM.policy, PROBLEM.params, batch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
