"""Off-policy credit: exact expectations over another policy's trajectories; published formulas."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import (
    Estimator,
    Problem,
    Trajectory,
    baselines,
    enumeration,
    exact,
    off_policy,
    tabular,
    terms,
    weights,
)
from pgjax.estimators import score_weights
from pgjax.types import Moments
from pgjax.weights.off_policy import log_ratios, ratio_below
from pgjax.weights.off_policy.ratios import cumulative_log_ratios
from tests.shared import rows

pytestmark = pytest.mark.usefixtures("strict")

MDP, POLICY = tabular.random_mdp(), pgjax.tabular_softmax(4, 2)
GAMMA, H = MDP.discount, 3
TINY = 1e-12
INF = math.inf


@pytest.fixture(scope="module")
def behaviour(table: np.ndarray) -> np.ndarray:
    """[4, 2] logits of μ: another policy altogether."""
    return table[::-1] - 0.3


@pytest.fixture(scope="module")
def listed(
    table: np.ndarray, behaviour: np.ndarray
) -> tuple[Trajectory, np.ndarray, jax.Array, np.ndarray, np.ndarray]:
    """All of μ's trajectories with π's exact values, their probabilities, log π, V [H,S], Q."""
    batch, probability = enumeration.trajectories(Problem(MDP, POLICY, behaviour, H))
    V = exact.state_values(Problem(MDP, POLICY, table, H))
    Q = exact.action_values(Problem(MDP, POLICY, table, H))
    batch = jax.device_put(batch)
    log_prob = pgjax.log_probs(POLICY, jnp.asarray(table), batch)
    return jax.jit(with_critic)(batch, V, Q), probability, log_prob, V, Q


def with_critic(batch: Trajectory, V: Any, Q: Any) -> Trajectory:
    """With V_t(s_t) and Q_t(s_t, a_t) of each step written into it."""
    action = jax.nn.one_hot(batch.action, MDP.num_actions, dtype=jnp.float64)
    return replace(
        batch,
        value=jnp.einsum("nts,ts->nt", batch.observation, jnp.asarray(V)),
        action_value=jnp.einsum("nts,nta,tsa->nt", batch.observation, action, jnp.asarray(Q)),
    )


def _with_a_baseline_weighed_by_earlier_ratios(batch: Any, log_prob: Any) -> Any:
    """A mistake: μ's mean of ∇log π(a_t|s_t) is not zero without its own ratio."""
    before = jnp.pad(jnp.exp(cumulative_log_ratios(batch, log_prob))[:, :-1], ((0, 0), (1, 0)))
    return off_policy.per_decision(GAMMA)(batch, log_prob) - before.at[:, 0].set(1) * batch.value


STATE = baselines.state_value(lambda observation: observation @ jnp.arange(4.0))
UNBIASED = {
    "whole": off_policy.trajectory_importance(GAMMA),
    "whole − b": off_policy.trajectory_importance(GAMMA, baseline=STATE),
    "decision": off_policy.per_decision(GAMMA),
    "decision − b": off_policy.per_decision(GAMMA, baseline=STATE),
    "decision − V": off_policy.per_decision(GAMMA, baseline=baselines.recorded_value),
}
BIASED = {
    "decision, held": off_policy.per_decision(GAMMA, ceiling=1.1),
    "whole, held": off_policy.trajectory_importance(GAMMA, ceiling=1.1),
    "uncorrected": weights.reward_to_go(GAMMA),
    "earlier ratio on b": _with_a_baseline_weighed_by_earlier_ratios,
    "vtrace, held": off_policy.on_target_states(off_policy.vtrace(GAMMA)),
}
FREE = {"ratio_ceiling": INF, "trace_ceiling": INF}
ACTOR_CRITICS = {
    "vtrace": off_policy.vtrace(GAMMA, ratio_ceiling=INF),
    "vtrace, λ": off_policy.vtrace(GAMMA, lambda_=0.5, ratio_ceiling=INF),
    "vtrace, c": off_policy.vtrace(GAMMA, **FREE),
    "retrace": off_policy.retrace(GAMMA, lambda_=0.8),
    "tree": off_policy.tree_backup(GAMMA),
}
ON_TARGET = {f"{k}, states": off_policy.on_target_states(v) for k, v in ACTOR_CRITICS.items()}
WITH_WRONG_CRITIC = {
    f"{name}, wrong critic": ON_TARGET[f"{name}, states"] for name in ("vtrace, c", "retrace")
}


@pytest.fixture(scope="module")
def exactly(table: np.ndarray, behaviour: np.ndarray, listed: Any) -> dict[str, Moments]:
    """Exact moments of Σ_t w_t ∇log π_t under μ, for all of these in one enumeration."""
    random = np.random.default_rng(6)
    right = listed[3:]
    wrong = [x + random.normal(size=x.shape) for x in right]
    groups = (UNBIASED | BIASED | ACTOR_CRITICS | ON_TARGET, right), (WITH_WRONG_CRITIC, wrong)

    def estimates(params: Any, batch: Trajectory) -> Any:
        # Σ_t w_t ∇log π_t for all weights w in one pass, which compiles once and not once for each.
        log_prob, pull_back = jax.vjp(lambda x: pgjax.log_probs(POLICY, x, batch), params)
        seen = [(credits, with_critic(batch, *critic)) for credits, critic in groups]
        weight = [
            jnp.where(batch.mask, credit(known, log_prob), 0)
            for credits, known in seen
            for credit in credits.values()
        ]
        return jax.vmap(pull_back)(jnp.stack(weight))

    joint = enumeration.moments(estimates, Problem(MDP, POLICY, table, H, behaviour=behaviour))
    names, P = [*groups[0][0], *groups[1][0]], table.size
    blocks = [slice(P * i, P * (i + 1)) for i in range(len(names))]
    found = [Moments(joint.mean[b], joint.covariance[b, b]) for b in blocks]
    return dict(zip(names, found, strict=True))


def by_time_state_and_action(batch: Trajectory, probability: np.ndarray, x: Any) -> np.ndarray:
    """[H, S, A] E[x_t | s_t, a_t], NaN where it never happens."""
    live = np.asarray(batch.mask)[..., None, None] * probability[:, None, None, None]
    action = np.eye(MDP.num_actions)[np.asarray(batch.action)]
    mass = live * np.asarray(batch.observation)[..., :, None] * action[..., None, :]
    with np.errstate(invalid="ignore"):
        return np.sum(mass * np.asarray(x)[..., None, None], 0) / np.sum(mass, 0)


def by_time_and_state(batch: Trajectory, probability: np.ndarray, x: Any) -> np.ndarray:
    """[H, S] E[x_t | s_t], NaN where it never happens."""
    mass = np.asarray(batch.mask)[..., None] * np.asarray(batch.observation)
    mass = mass * probability[:, None, None]
    with np.errstate(invalid="ignore"):
        return np.sum(mass * np.asarray(x)[..., None], 0) / np.sum(mass, 0)


def weigh(credits: Any, batch: Trajectory, log_prob: Any) -> Any:
    """What each credit of a tree gives, compiled as a whole."""
    return jax.device_get(_weigh(credits, batch, log_prob))


@jax.jit
def _weigh(credits: Any, batch: Trajectory, log_prob: Any) -> Any:
    """Weights are records: all settings of one kind share a program."""
    return jax.tree.map(lambda credit: credit(batch, log_prob), credits, is_leaf=callable)


def flat_gradient(params: np.ndarray) -> np.ndarray:
    return np.ravel(exact.gradient(Problem(MDP, POLICY, params, H)))


# Importance sampling


def test_products_of_ratios_make_the_gradient_unbiased_off_policy(table, exactly):
    truth = flat_gradient(table)
    for name in UNBIASED:
        np.testing.assert_allclose(exactly[name].mean, truth, rtol=0, atol=TINY, err_msg=name)
    for name in BIASED:
        assert np.linalg.norm(exactly[name].mean - truth) > 0.005 * np.linalg.norm(truth), name
    assert exactly["decision − V"].total_variance < exactly["decision"].total_variance


def test_on_its_own_batches_importance_sampling_is_reinforce_and_reward_to_go(table):
    batch, _ = enumeration.trajectories(Problem(MDP, POLICY, table, H))
    values = np.random.default_rng(9).normal(size=(2, *batch.reward.shape))
    batch = jax.device_put(replace(batch, value=values[0], action_value=values[1]))
    found = weigh(EVERY, batch, batch.log_prob)
    settings: dict[str, Any] = {"discount": GAMMA, "baseline": baselines.recorded_value}
    plain = [make(**settings) for make in (weights.total_return, weights.reward_to_go)]
    whole, to_go = weigh(plain, batch, batch.log_prob)
    for names, expected in (("trajectory", "normalised"), whole), (DECISIONS, to_go):
        for name in names:
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=TINY, err_msg=name)


def test_weights_are_the_sums_of_their_formulas(listed):
    batch, _, log_prob, *_ = listed
    ratio = np.exp(np.asarray(log_prob) - np.asarray(batch.log_prob))
    ratio = np.where(batch.mask, ratio, 1)
    product, mask = np.cumprod(ratio, 1), np.asarray(batch.mask)
    held = np.minimum(product, 1.2)
    reward, b = np.asarray(batch.reward), np.asarray(batch.value)
    settings: dict[str, Any] = {"baseline": baselines.recorded_value, "ceiling": 1.2}
    normalised = {
        "normalised": off_policy.normalised_trajectory_importance(GAMMA, **settings),
        "normalised decision": off_policy.normalised_per_decision(GAMMA, **settings),
    }
    found = weigh(EVERY | normalised, batch, log_prob)
    for whole, decision, rho in (
        ("trajectory", "decision", product),
        ("normalised", "normalised decision", held / np.mean(held, 0)),
    ):
        for i, t in zip(*np.nonzero(mask), strict=True):
            total = sum(GAMMA**k * reward[i, k] for k in range(H))
            expected = rho[i, -1] * (total - b[i, t])
            assert found[whole][i, t] == pytest.approx(expected, abs=TINY)
            expected = sum(GAMMA**k * rho[i, k] * reward[i, k] for k in range(t, H))
            expected -= GAMMA**t * rho[i, t] * b[i, t]
            assert found[decision][i, t] == pytest.approx(expected, abs=TINY)


def test_a_misnormalised_behaviour_cancels_in_self_normalised_weights_only(listed):
    batch, _, log_prob, *_ = listed
    off = replace(batch, log_prob=jnp.asarray(batch.log_prob + np.log(2.0) * np.eye(1, H)))
    found, shifted = (weigh(EVERY, x, log_prob) for x in (batch, off))
    for name in ("normalised", "normalised decision", "decision"):
        unchanged = np.allclose(found[name], shifted[name], rtol=0, atol=TINY)
        assert unchanged is (name != "decision")


def test_self_normalisation_biases_less_in_larger_batches():
    mdp, policy = tabular.two_armed_bandit(), pgjax.tabular_softmax(3, 2)
    params = np.array([[0.4, -0.2], [0, 0], [0, 0]])
    acting = params / 2 + np.array([0.5, 0])
    problem = Problem(mdp, policy, params, horizon=1, behaviour=acting)
    truth = np.ravel(exact.gradient(problem))
    credit = off_policy.normalised_trajectory_importance(1.0)
    biases = []
    for K in (8, 16):
        found = enumeration.moments(Estimator(credit, terms.score), problem, batch_size=K)
        biases.append(float(np.linalg.norm(found.mean - truth)))
    assert biases[1] / biases[0] == pytest.approx(1 / 2, abs=0.05)  # O(1/K)


def test_on_a_bandit_the_variance_is_the_published_one():
    """Cov = Σ_a π(a)²/μ(a) E[r²|a] ∇log π ∇log πᵀ − ∇J ∇Jᵀ.

    The importance-sampling variance of Li, Munos & Szepesvári, Toward Minimax Off-policy Value
    Estimation (2015), section 3, Σ_a π²/μ (σ² + r²) − v², for the vector r ∇log π.
    """
    mdp, policy = tabular.two_armed_bandit(), pgjax.tabular_softmax(3, 2)
    params, acting = (
        np.array([[0.4, -0.2], [0, 0], [0, 0]]),
        np.array([[-0.5, 0.3], [0, 0], [0, 0]]),
    )
    estimator = Estimator(off_policy.per_decision(1.0), terms.score)
    found = enumeration.moments(estimator, Problem(mdp, policy, params, 1, behaviour=acting))
    pi, mu = (np.exp(x[0]) / np.sum(np.exp(x[0])) for x in (params, acting))
    second_moment = np.sum(mdp.transition[0] * mdp.reward[0] ** 2, -1)
    score = np.eye(2) - pi[None]
    mean = np.sum(mdp.transition[0] * mdp.reward[0], -1) * pi @ score
    expected = np.einsum("a,ap,aq->pq", pi**2 / mu * second_moment, score, score)
    expected -= np.outer(mean, mean)
    np.testing.assert_allclose(found.covariance[:2, :2], expected, rtol=0, atol=TINY)
    wrong = expected + np.einsum("a,ap,aq->pq", (pi - pi**2 / mu) * second_moment, score, score)
    assert not np.allclose(found.covariance[:2, :2], wrong, rtol=0, atol=1e-3)


# V-trace


def random_sequences(T: int = 6) -> dict[str, Any]:
    random = np.random.default_rng(5)
    value = random.normal(size=T + 1)
    fields = {
        "reward": random.normal(size=T),
        "discount": 0.9 * random.integers(0, 2, size=T).astype(float),
        "log_ratio": random.normal(size=T),
        "value": value[:-1],
        "next_value": value[1:],
    }
    return {name: jax.device_put(x) for name, x in fields.items()}


vtrace_targets = jax.jit(off_policy.vtrace_targets)


def test_vtrace_is_the_sum_of_its_definition():
    given = random_sequences() | {"discount": np.full(6, 0.9)}
    r, g, log_ratio, V, W = (np.asarray(x) for x in given.values())
    settings: dict[str, Any] = {"lambda_": 0.7, "ratio_ceiling": 1.4, "trace_ceiling": 1.1}
    found = np.asarray(vtrace_targets(**given, **settings))
    rho, c = np.minimum(1.4, np.exp(log_ratio)), 0.7 * np.minimum(1.1, np.exp(log_ratio))
    for s in range(6):
        expected = V[s] + sum(
            0.9 ** (t - s) * np.prod(c[s:t]) * rho[t] * (r[t] + g[t] * W[t] - V[t])
            for t in range(s, 6)
        )
        assert found[s] == pytest.approx(expected, abs=TINY)


def vtrace_weights(batch: Trajectory, log_prob: Any, lambda_: float, rho: float, c: float) -> Any:
    """γ^t min(ρ̄, ρ_t) (r_t + γ v_{t+1} − V_t), where v sums the definition; in plain loops."""
    N, T = batch.mask.shape
    found = np.zeros((N, T))
    for i in range(N):
        length = int(np.asarray(batch.mask)[i].sum())
        V = np.append(np.asarray(batch.value)[i, :length], 0.0)
        r = np.asarray(batch.reward)[i]
        ratio = np.exp(np.asarray(log_prob)[i] - np.asarray(batch.log_prob)[i])
        target = np.zeros(length + 1)
        for s in range(length):
            for t in range(s, length):
                trace = math.prod(GAMMA * lambda_ * min(c, ratio[k]) for k in range(s, t))
                target[s] += trace * min(rho, ratio[t]) * (r[t] + GAMMA * V[t + 1] - V[t])
        for t in range(length):
            # λ of the error that follows, as in rlax, so that GAE(λ) is the on-policy case.
            following = V[t + 1] + lambda_ * target[t + 1]
            found[i, t] = GAMMA**t * min(rho, ratio[t]) * (r[t] + GAMMA * following - V[t])
    return found


@pytest.mark.parametrize("lambda_", [1.0, 0.7])
@pytest.mark.parametrize("ceilings", [(1.0, 1.0), (1.3, 0.6), (0.6, 1.3), (INF, 0.9), (0.9, INF)])
def test_the_weights_of_vtrace_are_their_definition_under_any_two_ceilings(
    listed, lambda_, ceilings
):
    batch, _, log_prob, *_ = listed
    rho, c = ceilings
    vtrace = off_policy.vtrace(GAMMA, lambda_=lambda_, ratio_ceiling=rho, trace_ceiling=c)
    found = weigh(EVERY | {"vtrace": vtrace}, batch, log_prob)["vtrace"][::23]
    batch, log_prob = jax.tree.map(lambda x: np.asarray(x)[::23], (batch, log_prob))
    expected = vtrace_weights(batch, log_prob, lambda_, rho, c)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TINY)
    for other in ((rho, 0.3), (0.3, c)):  # each ceiling makes a difference
        wrong = vtrace_weights(batch, log_prob, lambda_, *other)
        assert not np.allclose(found, wrong, rtol=0, atol=1e-3)


def test_on_policy_vtrace_is_the_lambda_return_and_its_advantage_is_gae():
    given = random_sequences()
    r, g, W = (given[name] for name in ("reward", "discount", "next_value"))
    on_policy: dict[str, Any] = given | {"log_ratio": np.zeros(6)}
    lambda_returns = jax.jit(pgjax.lambda_returns)
    for lambda_ in (0.0, 0.6, 1.0):
        found = vtrace_targets(**on_policy, lambda_=lambda_)
        expected = lambda_returns(r, g, lambda_, W)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TINY)
    off = vtrace_targets(**given, lambda_=1.0)
    assert not np.allclose(off, lambda_returns(r, g, 1.0, W))


def test_on_policy_the_vtrace_gradient_is_the_actor_critic_one(listed):
    batch, _, log_prob, *_ = listed
    final_value = jnp.asarray(np.arange(float(len(log_prob))))
    batch = replace(batch, log_prob=log_prob, final_value=final_value)
    found = weigh(off_policy.vtrace(GAMMA, lambda_=0.6), batch, log_prob)
    length = np.asarray(batch.mask).sum(1)
    for i in range(0, len(log_prob), 11):
        T = length[i]
        value = np.append(np.asarray(batch.value)[i, :T], i)
        value[-1] *= not np.asarray(batch.terminated)[i, T - 1]
        error = np.asarray(batch.reward)[i, :T] + GAMMA * value[1:] - value[:-1]
        for t in range(T):  # the generalized advantage
            advantage = sum((GAMMA * 0.6) ** (k - t) * error[k] for k in range(t, T))
            assert found[i, t] == pytest.approx(GAMMA**t * advantage, abs=TINY)


def between(table: np.ndarray, behaviour: np.ndarray, ceiling: float) -> np.ndarray:
    """Logits of π_ρ̄ ∝ min(ρ̄ μ, π)."""
    pi, mu = (exact.action_probabilities(Problem(MDP, POLICY, x, 1)) for x in (table, behaviour))
    return np.log(np.minimum(ceiling * mu, pi))


@jax.jit
def targets_of_values(batch: Trajectory, log_prob: Any, V: Any, ceiling: Any, trace: Any) -> Any:
    """[N, H] V-trace's targets from the values [H, S]."""
    value = jnp.where(batch.mask, jnp.einsum("nts,ts->nt", batch.observation, V), 0)
    following = jnp.pad(value[:, 1:], ((0, 0), (0, 1)))
    settings = {"discount": GAMMA, "ratio_ceiling": ceiling, "trace_ceiling": trace}
    targets = jax.vmap(partial(off_policy.vtrace_targets, **settings))
    log_ratio = log_ratios(batch, log_prob)
    return targets(batch.reward, log_ratio=log_ratio, value=value, next_value=following)


@pytest.mark.parametrize(("ceiling", "trace"), [(0.8, 0.5), (1.1, 1.0), (INF, 1.0)])
def test_vtrace_leads_to_the_value_of_the_policy_between(table, behaviour, listed, ceiling, trace):
    """Espeholt et al. (2018), eq. 2: its fixed point is V of π_ρ̄ ∝ min(ρ̄ μ, π), whatever c̄."""
    batch, probability, log_prob, V_pi, _ = listed
    fixed = exact.state_values(Problem(MDP, POLICY, between(table, behaviour, ceiling), H))

    def expected_targets(V: np.ndarray) -> np.ndarray:
        found = targets_of_values(batch, log_prob, V, ceiling, trace)
        found = by_time_and_state(batch, probability, found)
        return np.where(np.isnan(found), fixed, found)

    np.testing.assert_allclose(expected_targets(fixed), fixed, rtol=0, atol=TINY)
    V = np.zeros((H, MDP.num_states))
    for _ in range(60):
        V = expected_targets(V)
    np.testing.assert_allclose(V, fixed, rtol=0, atol=TINY)
    if ceiling < INF:
        assert np.max(np.abs(expected_targets(V_pi) - V_pi)) > 0.01
        assert np.max(np.abs(fixed - V_pi)) > 0.01
    else:
        np.testing.assert_allclose(fixed, V_pi, rtol=0, atol=TINY)


def test_actor_critics_leave_the_states_to_the_behaviour_unless_told_otherwise(
    table, behaviour, listed, exactly
):
    visits = exact.visitation(Problem(MDP, POLICY, behaviour, H))  # γ^t P_μ(s_t = s)
    probabilities = exact.action_probabilities(Problem(MDP, POLICY, table, 1))
    credit = np.einsum("ts,tsa->sa", visits, listed[4])
    mean = np.sum(probabilities * credit, -1, keepdims=True)
    of_their_states = np.ravel(probabilities * (credit - mean))  # Σ_a ∇π(a|s) Q, of logits
    truth = flat_gradient(table)
    assert np.linalg.norm(of_their_states - truth) > 0.01 * np.linalg.norm(truth)
    for names, expected in ((ACTOR_CRITICS, of_their_states), (ON_TARGET, truth)):
        for name in names:
            found = exactly[name].mean
            np.testing.assert_allclose(found, expected, rtol=0, atol=TINY, err_msg=name)


def test_a_wrong_critic_biases_retrace_but_not_vtrace_without_ceilings(table, exactly):
    vtrace, retrace = (exactly[name].mean for name in WITH_WRONG_CRITIC)
    truth = flat_gradient(table)
    np.testing.assert_allclose(vtrace, truth, rtol=0, atol=TINY)
    assert np.linalg.norm(retrace - truth) > 0.01 * np.linalg.norm(truth)


# Retrace


@jax.jit
def traces(batch: Trajectory, log_prob: Any) -> dict[str, Any]:
    ratio = jnp.exp(log_ratios(batch, log_prob))
    return {
        "retrace": 0.9 * jnp.minimum(1, ratio),
        "tree-backup": 0.9 * jnp.exp(log_prob),
        "Q(λ)": jnp.full_like(ratio, 0.3),
        "importance sampling": ratio,
    }


@jax.jit
def targets_of_action_values(batch: Trajectory, trace: Any, pi: Any, Q: Any) -> Any:
    """[N, H] targets from the action values [H, S, A]."""
    seen: Any = with_critic(batch, jnp.sum(pi * Q, -1), Q)
    value, action_value, trace = (
        jnp.where(batch.mask, x, 0) for x in (seen.value, seen.action_value, trace)
    )
    following = jnp.pad(value[:, 1:], ((0, 0), (0, 1)))
    targets = jax.vmap(partial(off_policy.action_value_targets, discount=GAMMA))
    return targets(batch.reward, trace=trace, action_value=action_value, next_value=following)


@pytest.mark.parametrize("name", ["retrace", "tree-backup", "Q(λ)", "importance sampling"])
def test_targets_of_the_right_action_values_have_them_as_expectation(table, listed, name):
    batch, probability, log_prob, _, exact_Q = listed
    trace = traces(batch, log_prob)[name]
    pi = exact.action_probabilities(Problem(MDP, POLICY, table, 1))

    def expected_targets(Q: np.ndarray) -> np.ndarray:
        found = targets_of_action_values(batch, trace, pi[None], Q)
        found = by_time_state_and_action(batch, probability, found)
        return np.where(np.isnan(found), exact_Q, found)

    np.testing.assert_allclose(expected_targets(exact_Q), exact_Q, rtol=0, atol=TINY)
    found = np.zeros_like(exact_Q)
    for _ in range(H):  # each application settles one more step from the end
        found = expected_targets(found)
    np.testing.assert_allclose(found, exact_Q, rtol=0, atol=TINY)
    once = np.max(np.abs(expected_targets(np.zeros_like(exact_Q)) - exact_Q))
    assert once < TINY if name == "importance sampling" else once > 0.01


def test_tree_backup_reads_the_behaviour_in_front_of_the_advantage_only(listed):
    batch, _, log_prob, *_ = listed
    other = replace(batch, log_prob=np.asarray(batch.log_prob) - 0.5)
    found, shifted = (weigh(EVERY, x, log_prob) for x in (batch, other))
    for name in ("tree", "retrace"):
        same = np.allclose(math.exp(0.5) * found[name], shifted[name], rtol=0, atol=TINY)
        assert same is (name == "tree")


# Another library's results


def test_vtrace_agrees_with_rlax():
    rlax = pytest.importorskip("rlax", reason="rlax is not installed")
    given = random_sequences()
    r, g, log_ratio, V, W = map(np.asarray, given.values())
    settings: dict[str, Any] = {"lambda_": 0.7, "ratio_ceiling": 1.4}
    ratio = np.exp(log_ratio)
    td_error_and_advantage = jax.jit(rlax.vtrace_td_error_and_advantage)
    with jax.numpy_dtype_promotion("standard"):
        theirs, of_one_discount, other_ceiling = (
            jax.device_get(td_error_and_advantage(V, W, r, x, ratio, np.asarray(0.7), c, 1.4))
            for x, c in ((g, 1.4), (np.full(6, 0.9), 1.4), (g, 1.0))
        )
    found = vtrace_targets(**given, **settings)
    np.testing.assert_allclose(found - V, theirs.errors, rtol=0, atol=TINY)
    batch = twice(reward=r, value=V, terminated=np.zeros(6, bool), final_value=W[-1])
    vtrace = {"vtrace": off_policy.vtrace(0.9, **settings)}
    advantage = weigh(EVERY | vtrace, batch, np.asarray(batch.log_prob) + log_ratio)["vtrace"][0]
    expected = 0.9 ** np.arange(6) * of_one_discount.pg_advantage
    np.testing.assert_allclose(advantage, expected, rtol=0, atol=TINY)
    assert not np.allclose(found - V, other_ceiling.errors)


def test_retrace_agrees_with_rlax():
    rlax = pytest.importorskip("rlax", reason="rlax is not installed")
    random = np.random.default_rng(7)
    q, v = random.normal(size=6), random.normal(size=6)
    given = jax.device_get(random_sequences())
    r, g, log_ratio = given["reward"], given["discount"], given["log_ratio"]
    trace = 0.9 * np.minimum(1, np.exp(log_ratio))
    found = jax.jit(off_policy.action_value_targets)(r, g, trace, q, v)
    theirs = partial(jax.jit(rlax.retrace_continuous), q, q[1:], v, r, g)
    np.testing.assert_allclose(found - q, theirs(log_ratio[1:], 0.9), rtol=0, atol=TINY)
    assert not np.allclose(found - q, theirs(log_ratio[:-1], 0.9))  # a trace one step off


# Windows and hidden steps


def row(**fields: Any) -> Trajectory:
    """One row of T steps; log μ = −0.7 everywhere."""
    T = fields["reward"].shape[0]
    given: dict[str, Any] = {
        "observation": np.zeros((T, 1)),
        "action": np.zeros(T, np.int32),
        "log_prob": np.full(T, -0.7),
        "truncated": np.zeros(T, bool),
        "mask": np.ones(T, bool),
        "final_observation": np.zeros(1),
    }
    return Trajectory(**jax.tree.map(lambda x: jax.device_put(x[None]), given | fields))


def twice(**fields: Any) -> Trajectory:
    """Two equal rows of six steps, with all that a credit may read."""
    given = {"value": np.ones(6), "action_value": -np.ones(6), "final_value": np.ones(())}
    return rows(row(**given | fields), [0, 0])


LESS: dict[str, Any] = {"baseline": baselines.recorded_value}
EVERY = {
    "trajectory": off_policy.trajectory_importance(GAMMA, **LESS),
    "normalised": off_policy.normalised_trajectory_importance(GAMMA, **LESS),
    "decision": off_policy.per_decision(GAMMA, **LESS),
    "normalised decision": off_policy.normalised_per_decision(GAMMA, **LESS),
    "vtrace": off_policy.vtrace(GAMMA, lambda_=0.7),
    "retrace": off_policy.retrace(GAMMA, lambda_=0.7),
    "tree": off_policy.tree_backup(GAMMA, lambda_=0.7),
    "states": off_policy.on_target_states(off_policy.vtrace(GAMMA)),
}
DECISIONS = ("decision", "normalised decision")


@pytest.mark.parametrize("kind", ["retrace", "tree"])
@pytest.mark.parametrize(("lambda_", "ceiling"), [(1.0, INF), (0.7, 1.2), (0.4, 0.5)])
def test_the_weights_of_action_value_targets_are_their_definition(listed, kind, lambda_, ceiling):
    """γ^t min(ρ̄, ρ_t) (G_t − V_t), G_t = r_t + γ (V_{t+1} + c_{t+1} (G_{t+1} − Q_{t+1}))."""
    batch, _, log_prob, *_ = listed
    random = np.random.default_rng(7)  # a critic that is wrong
    fields = {name: random.normal(size=batch.mask.shape) for name in ("value", "action_value")}
    batch = replace(batch, **jax.device_put(fields))
    make = {"retrace": off_policy.retrace, "tree": off_policy.tree_backup}[kind]
    credit = make(GAMMA, lambda_=lambda_, ratio_ceiling=ceiling)
    found = weigh(EVERY | {kind: credit}, batch, log_prob)[kind][::23]
    batch, log_prob = jax.tree.map(lambda x: np.asarray(x)[::23], (batch, log_prob))
    pi, mu = np.exp(log_prob), np.exp(batch.log_prob)
    ratio = pi / mu
    trace = lambda_ * (np.minimum(1, ratio) if kind == "retrace" else pi)
    assert np.any(ratio > 1.2)
    V, Q, r = batch.value, batch.action_value, batch.reward
    for i, length in enumerate(np.asarray(batch.mask).sum(1)):
        target = 0.0
        for t in range(length - 1, -1, -1):
            following = 0.0
            if t + 1 < length:
                following = V[i, t + 1] + trace[i, t + 1] * (target - Q[i, t + 1])
            target = r[i, t] + GAMMA * following
            expected = GAMMA**t * min(ceiling, ratio[i, t]) * (target - V[i, t])
            assert found[i, t] == pytest.approx(expected, abs=TINY)


def test_garbage_after_the_end_moves_no_off_policy_credit(listed):
    batch, _, log_prob, *_ = listed
    names = ("reward", "log_prob", "value", "action_value")
    live = np.asarray(batch.mask)
    assert not live.all()
    dirty = {name: np.where(live, getattr(batch, name), np.nan) for name in names}
    found = weigh(EVERY, replace(batch, **dirty), log_prob)
    for name, expected in weigh(EVERY, batch, log_prob).items():
        np.testing.assert_array_equal(found[name][live], expected[live], err_msg=name)


OF_WINDOWS = {name: EVERY[name] for name in ("decision", "vtrace", "retrace", "tree", "states")}


@pytest.mark.parametrize("terminates", [True, False])
def test_two_episodes_in_a_window_are_two_rows(terminates):
    random = np.random.default_rng(8)
    T, first = 6, 3
    fields = {
        key: random.normal(size=T) for key in ("reward", "value", "action_value", "next_value")
    }
    ends, log_prob = np.arange(T) == first - 1, random.normal(size=T)
    time, no = np.arange(T) % first, np.zeros(T, bool)
    terminated, truncated = (ends, no) if terminates else (no, ends)
    whole = fields | {"time": time, "terminated": terminated, "truncated": truncated}
    found = weigh(OF_WINDOWS, row(**whole), log_prob[None])
    for part in (slice(0, first), slice(first, T)):
        cut = {key: np.pad(x[part], (0, T - first)) for key, x in whole.items()}
        alone = row(**cut, mask=np.arange(T) < first)
        expected = weigh(OF_WINDOWS, alone, np.pad(log_prob[None, part], ((0, 0), (0, T - first))))
        for name in found:
            np.testing.assert_allclose(
                found[name][0, part], expected[name][0, :first], rtol=0, atol=TINY, err_msg=name
            )


def test_what_stands_after_the_end_and_in_a_hidden_trajectory_changes_nothing(listed, table):
    lengths = np.asarray(listed[0].mask).sum(1)
    batch = rows(listed[0], np.argsort(lengths)[[0, 1, -1]])
    mask = np.asarray(batch.mask) & np.array([[True], [False], [True]])
    hidden = replace(batch, mask=jnp.asarray(mask))
    dirty = replace(
        hidden,
        **{
            field: jnp.asarray(np.where(mask, getattr(hidden, field), np.nan))
            for field in ("reward", "log_prob", "value", "action_value")
        },
    )

    @jax.jit
    def each(params: Any, batch: Trajectory) -> dict[str, Any]:
        """The score weights, which alone of a gradient depend on the credit."""
        log_prob = pgjax.log_probs(POLICY, params, batch)
        return {
            name: score_weights(Estimator(credit, terms.score), batch, log_prob)
            for name, credit in EVERY.items()
        }

    clean, found = (jax.device_get(each(table, x)) for x in (hidden, dirty))
    for name in EVERY:
        np.testing.assert_array_equal(clean[name], found[name], err_msg=name)
        assert np.all(found[name][1] == 0)
        assert np.any(found[name][0] != 0)


# Bad input


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_ratios_that_overflow_are_held_and_never_a_nan(dtype):
    T, far = 6, np.array([900.0, -900.0, 900.0, 900.0, 900.0, -900.0])
    reward = np.array([1.0, 0.0, -2.0, 0.0, 1.0, 1.0])
    batch = twice(reward=reward, terminated=np.arange(T) == T - 1)
    log_prob = np.asarray(batch.log_prob, dtype)
    batch = replace(batch, log_prob=log_prob - [far, 0 * far])
    batch = jax.tree.map(lambda x: np.asarray(x, dtype) if x.dtype == np.float64 else x, batch)
    for name, found in weigh(EVERY, batch, log_prob).items():
        assert found.dtype == dtype
        assert np.all(np.isfinite(found)), name


def test_a_product_of_traces_that_overflows_counts_as_zero():
    given = random_sequences() | {"discount": np.ones(6), "log_ratio": np.full(6, 900.0)}
    free: dict[str, Any] = {"lambda_": 1.0, **FREE}
    found = vtrace_targets(**given, **free)
    assert np.all(np.isfinite(found))
    assert np.asarray(found)[0] == np.asarray(given["value"])[0]
    missing = given | {"reward": np.where(np.arange(6) == 5, np.nan, given["reward"])}
    found = vtrace_targets(**missing, **free)
    assert np.any(np.isnan(found))  # what was NaN stays so


def test_a_ratio_too_large_is_held_at_the_root_of_the_largest_number():
    below = jax.jit(ratio_below)
    for dtype, largest in ((np.float32, 1.844674e19), (np.float64, 1.340781e154)):
        found = below(INF, np.array([1e4, 50.0, -1e6], dtype))
        expected = [largest, min(math.exp(50), largest), 0]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert below(3.0, np.full(3, 1e4)) == pytest.approx(3)


def test_actions_that_either_policy_never_takes_have_a_defined_ratio():
    batch = row(reward=np.ones(3), terminated=np.array([False, False, True]))
    never = replace(batch, log_prob=np.array([[-0.7, -INF, -INF]]))
    ratio = jax.jit(lambda *x: jnp.exp(log_ratios(*x)))(never, np.array([[-INF, -INF, -0.7]]))
    np.testing.assert_array_equal(ratio, [[0, 0, INF]])
    log_ratio = jax.jit(cumulative_log_ratios)(never, np.array([[-1.0, -INF, -0.7]]))
    ratio = jax.jit(ratio_below)(INF, log_ratio)
    np.testing.assert_allclose(ratio, [[math.exp(-0.3), 0, 0]], rtol=1e-12)
    both = twice(reward=np.ones(6), terminated=np.arange(6) == 5)
    found = weigh(EVERY, both, np.full((2, 6), -INF))
    for name in ("normalised", "normalised decision"):
        np.testing.assert_array_equal(found[name], np.zeros((2, 6)))
    checked = pgjax.checked(partial(pgjax.log_probs, pgjax.tabular_softmax(1, 2)))
    with pytest.raises(ValueError, match="log_prob is -inf at trajectory 0, step 1"):
        checked(np.zeros((1, 2)), replace(never, observation=np.ones((1, 3, 1))))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: off_policy.per_decision(1.5), "discount must lie in"),
        (lambda: off_policy.per_decision(0.9, ceiling=0.0), "ceiling must be positive, got 0"),
        (lambda: off_policy.trajectory_importance(0.9, ceiling=math.nan), "got nan"),
        (lambda: off_policy.on_target_states(EVERY["vtrace"], ceiling=-1.0), "got -1"),
        (lambda: off_policy.vtrace(0.9, lambda_=2.0), "lambda_ must lie in"),
        (lambda: off_policy.vtrace(0.9, ratio_ceiling=0.0), "ratio_ceiling must be positive"),
        (lambda: off_policy.vtrace(0.9, trace_ceiling=0.0), "trace_ceiling must be positive"),
        (lambda: off_policy.retrace(0.9, lambda_=-1.0), "lambda_ must lie in"),
        (lambda: off_policy.retrace(-0.9), "discount must lie in"),
        (lambda: off_policy.tree_backup(0.9, lambda_=3.0), "lambda_ must lie in"),
    ],
)
def test_bad_settings_are_refused_when_they_are_given(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_batches_that_cannot_be_weighed_are_refused():
    batch = row(reward=np.ones(3), terminated=np.array([False, False, True]))
    log_prob = batch.log_prob
    for name in ("normalised", "normalised decision"):
        with pytest.raises(ValueError, match="at least 2 trajectories, got N = 1"):
            jax.eval_shape(EVERY[name], batch, log_prob)
    with pytest.raises(ValueError, match=r"batch\.value is None, and vtrace needs"):
        jax.eval_shape(EVERY["vtrace"], batch, log_prob)
    with pytest.raises(ValueError, match=r"batch\.action_value is None, and retrace needs"):
        jax.eval_shape(EVERY["retrace"], replace(batch, value=batch.reward), log_prob)
    window = replace(batch, next_value=batch.reward)
    for name in ("trajectory", "normalised", "normalised decision"):
        with pytest.raises(ValueError, match="whole episode each, got windows"):
            jax.eval_shape(EVERY[name], window, log_prob)
