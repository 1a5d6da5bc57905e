"""Credit from critics and groups: identities, exact expectations, and rlax on the same arrays."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import (
    Problem,
    Trajectory,
    baselines,
    enumeration,
    estimators,
    exact,
    groups,
    tabular,
    weights,
)
from pgjax.baselines import recorded_value
from pgjax.records import as_record

pytestmark = pytest.mark.usefixtures("strict")

GAMMA, N, T = 0.8, 4, 3
EXACT = 1e-13  # sums of a dozen numbers of order one
LENGTH = np.array([3, 2, 1, 3])
LIVE = np.arange(T) < LENGTH[:, None]


@cache
def batch() -> Trajectory:
    """Four episodes of three, two, one and three steps; the first and the last are cut."""
    random = np.random.default_rng(2)
    last = np.arange(T) == LENGTH[:, None] - 1
    terminated = last & np.array([False, True, True, False])[:, None]
    fields: dict[str, Any] = {
        "observation": np.eye(4)[random.integers(4, size=(N, T))],
        "action": random.integers(2, size=(N, T)),
        "reward": random.normal(size=(N, T)),
        "log_prob": np.zeros((N, T)),
        "terminated": terminated,
        "truncated": last & ~terminated,
        "mask": LIVE,
        "final_observation": np.eye(4)[random.integers(4, size=N)],
        "value": random.normal(size=(N, T)),
        "final_value": random.normal(size=N),
    }
    return Trajectory(**jax.device_put(fields))


def live(weigh: weights.Weights, seen: Trajectory | None = None) -> np.ndarray:
    """[N, T] the weights of live steps, zero elsewhere."""
    return live_of_each([weigh], seen)[0]


def live_of_each(weigh: list[weights.Weights], seen: Trajectory | None = None) -> list[np.ndarray]:
    """Those of several weights, by one program."""
    seen = batch() if seen is None else seen
    return [np.where(seen.mask, found, 0) for found in weighed(weigh, seen)]


@jax.jit
def weighed(weigh: list[weights.Weights], seen: Trajectory) -> list[jax.Array]:
    """Weights are records: all discounts of one kind share a program."""
    return [each(seen, seen.log_prob) for each in weigh]


def agree(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)


# Critics


def following() -> np.ndarray:
    """[N, T] V(s_{t+1}) in a loop: zero where the episode terminated."""
    value, final = np.asarray(batch().value), np.asarray(batch().final_value)
    terminated = np.asarray(batch().terminated)
    found = np.zeros((N, T))
    for i, t in np.ndindex(N, T):
        if t + 1 < LENGTH[i]:
            found[i, t] = value[i, t + 1]
        elif t + 1 == LENGTH[i] and not terminated[i, t]:
            found[i, t] = final[i]
    return found


def n_step_target(n: int) -> np.ndarray:
    reward, found = np.asarray(batch().reward), np.zeros((N, T))
    for i, t in np.argwhere(LIVE):
        steps = min(n, LENGTH[i] - t)
        found[i, t] = GAMMA**steps * following()[i, t + steps - 1]
        found[i, t] += sum(GAMMA**k * reward[i, t + k] for k in range(steps))
    return found


AGE = GAMMA ** np.arange(T)


@cache
def n_step_weights(baseline: baselines.Baseline | None = None) -> dict[int, np.ndarray]:
    steps = 1, 2, 3, 7
    found = live_of_each([weights.n_step(GAMMA, n, baseline=baseline) for n in steps])
    return dict(zip(steps, found, strict=True))


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_n_step_returns_are_n_rewards_and_the_critics_word(n: int) -> None:
    agree(n_step_weights()[n], AGE * n_step_target(n))
    advantage = n_step_weights(recorded_value)[n]
    agree(advantage, AGE * (n_step_target(n) - np.where(LIVE, np.asarray(batch().value), 0)))


def test_n_step_returns_of_many_steps_are_the_return() -> None:
    returns = live(weights.reward_to_go(GAMMA))
    agree(n_step_weights()[T], returns)
    assert np.max(np.abs(n_step_weights()[2] - returns)) > 0.1


returns_to_go = jax.jit(weights.returns_to_go)


def test_gae_of_lambda_one_plus_the_value_is_the_return() -> None:
    value = np.where(LIVE, np.asarray(batch().value), 0)
    for weigh, factor in (
        (weights.generalized_advantage, AGE),
        (weights.mismatched_generalized_advantage, np.ones(T)),
    ):
        expected = factor * np.asarray(returns_to_go(batch(), GAMMA))
        agree(live(weigh(GAMMA, 1.0)) + factor * value, expected)
        assert np.max(np.abs(live(weigh(GAMMA, 0.9)) + factor * value - expected)) > 0.01


def test_gae_of_lambda_zero_is_the_td_error() -> None:
    error = np.asarray(batch().reward) + GAMMA * following() - np.asarray(batch().value)
    agree(live(weights.generalized_advantage(GAMMA, 0.0)), AGE * np.where(LIVE, error, 0))


def test_gae_is_the_lambda_return_less_the_value() -> None:
    for lambda_ in (0.0, 0.6, 1.0):
        found = live(weights.lambda_return(GAMMA, lambda_, baseline=recorded_value))
        agree(found, live(weights.generalized_advantage(GAMMA, lambda_)))


def test_the_lambda_return_is_the_geometric_mean_of_the_n_step_returns() -> None:
    # (1 − λ) Σ_n λ^{n−1} G^(n), where from n = T on all are the return.
    lambda_ = 0.6
    mixture = lambda_ ** (T - 1) * n_step_target(T)
    for n in range(1, T):
        mixture += (1 - lambda_) * lambda_ ** (n - 1) * n_step_target(n)
    agree(live(weights.lambda_return(GAMMA, lambda_)), AGE * mixture)


def test_gamma_to_the_t_is_all_that_the_mismatched_advantage_leaves_out() -> None:
    mismatched = live(weights.mismatched_generalized_advantage(GAMMA, 0.9))
    agree(live(weights.generalized_advantage(GAMMA, 0.9)), AGE * mismatched)


CRITICS: dict[str, Callable[[], weights.Weights]] = {
    "GAE": lambda: weights.generalized_advantage(GAMMA, 0.9),
    "GAE without γ^t": lambda: weights.mismatched_generalized_advantage(GAMMA, 0.9),
    "λ-return": lambda: weights.lambda_return(GAMMA, 0.9),
    "2-step": lambda: weights.n_step(GAMMA, 2),
}


def of_critics(seen: Trajectory | None = None) -> list[np.ndarray]:
    return live_of_each([make() for make in CRITICS.values()], seen)


def test_a_time_limit_of_the_tasks_own_is_followed_by_nothing() -> None:
    limited, zero = replace(batch(), final_value=None), replace(batch(), final_value=np.zeros(N))
    each = zip(CRITICS, of_critics(limited), of_critics(zero), of_critics(), strict=True)
    for name, found, followed_by_zero, followed in each:
        np.testing.assert_array_equal(found, followed_by_zero, name)
        assert np.max(np.abs(found - followed)) > 0.01, name


def test_garbage_after_the_end_moves_no_critics_credit() -> None:
    ended = np.asarray(batch().terminated).any(1)
    dirty = replace(
        batch(),
        reward=np.where(LIVE, batch().reward, np.nan),
        value=np.where(LIVE, np.asarray(batch().value), np.nan),
        final_value=np.where(ended, np.nan, np.asarray(batch().final_value)),
    )
    for name, found, clean in zip(CRITICS, of_critics(dirty), of_critics(), strict=True):
        np.testing.assert_array_equal(found, clean, name)


def test_rewards_are_weighed_in_float32_or_wider_whatever_their_dtype() -> None:
    low = replace(
        batch(),
        reward=np.asarray(batch().reward).astype(jnp.bfloat16),
        value=np.asarray(batch().value).astype(np.float32),
        final_value=None,
    )
    for found in jax.eval_shape(weighed, [make() for make in CRITICS.values()], low):
        assert found.dtype == jnp.float32


# A sampler's cut, exactly


MDP, POLICY, STEPS = tabular.random_mdp(), pgjax.tabular_softmax(4, 2), 3


@cache
def first_steps_share(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, V of them, and E Σ_{t<h} γ^t ∇log π A, which is ∇J − γ^h E ∇V(s_h): exactly."""
    table = np.random.default_rng(seed).normal(size=(4, 2))
    value = np.asarray(exact.state_values(Problem(MDP, POLICY, table, None)))
    tails, probability = enumeration.trajectories(Problem(MDP, POLICY, table, STEPS))
    underway = probability * ~np.asarray(tails.terminated).any(1)
    left = underway @ np.asarray(tails.final_observation)  # [S] P(s_h = s), still under way
    share = np.asarray(exact.gradient(Problem(MDP, POLICY, table, None)))
    for state in np.flatnonzero(left):
        begun = replace(MDP, initial=np.eye(4)[state])
        tail = np.asarray(exact.gradient(Problem(begun, POLICY, table, None)))
        share = share - MDP.discount**STEPS * left[state] * tail
    return table, value, share


BOOTSTRAPPED = [
    estimators.actor_critic(MDP.discount, 0.9),
    estimators.n_step_actor_critic(MDP.discount, 2),
    estimators.reward_to_go(MDP.discount, baseline=recorded_value),
]


def expected_gradients(value: np.ndarray, finals: np.ndarray) -> np.ndarray:
    """[3, F, 4, 2] of each with each of the F final values, [F, S]."""

    def estimate(params: Any, batch: Trajectory) -> Any:
        def with_final(final: Any) -> Any:
            judged = replace(
                batch,
                value=batch.observation @ jnp.asarray(value),
                final_value=batch.final_observation @ final,
            )
            return [pgjax.gradient(each, POLICY, params, judged) for each in BOOTSTRAPPED]

        return jax.vmap(with_final)(jnp.asarray(finals))

    found = enumeration.moments(estimate, Problem(MDP, POLICY, first_steps_share()[0], STEPS))
    return found.mean.reshape(3, len(finals), 4, 2)


def test_a_samplers_cut_with_the_right_values_is_unbiased_for_the_steps_before_it() -> None:
    _, value, share = first_steps_share()
    for found, task_limit in expected_gradients(value, np.stack([value, 0 * value])):
        np.testing.assert_allclose(found, share, rtol=0, atol=1e-12)
        assert np.max(np.abs(task_limit - share)) > 1e-3


# rlax


# One episode that is cut, and one that terminates; of the cut one, the value after it is asked for.


def row(i: int) -> tuple[np.ndarray, ...]:
    """Rewards, γ times the continuation, values, and those that follow, of episode i alone."""
    steps = slice(LENGTH[i])
    discount = np.where(np.asarray(batch().terminated)[i, steps], 0.0, GAMMA)
    after = np.asarray(batch().value)[i, 1 : LENGTH[i]]
    after = np.append(after, np.asarray(batch().final_value)[i])  # garbage if γ is zero there
    return (
        np.asarray(batch().reward)[i, steps],
        discount,
        np.asarray(batch().value)[i, steps],
        after,
    )


def test_rlax_finds_the_same_targets_on_the_same_arrays() -> None:
    rlax = pytest.importorskip("rlax", reason="rlax is not installed")
    agreements = {
        "λ-return": lambda r, g, v, w: rlax.lambda_returns(r, g, w, 0.9),
        "GAE without γ^t": lambda r, g, v, w: rlax.truncated_generalized_advantage_estimation(
            r, g, 0.9, jnp.append(v, w[-1])
        ),
        "2-step": lambda r, g, v, w: rlax.n_step_bootstrapped_returns(r, g, w, 2),
    }
    theirs = jax.jit(lambda *row: {name: function(*row) for name, function in agreements.items()})
    reward, discount, value, after = row(0)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = jax.device_get([theirs(*row(i)) for i in (0, 1)])
        wrong = jax.device_get(theirs(reward, discount * 0.99, value, after))
    for name, ours in zip(CRITICS, of_critics(), strict=True):
        if name not in agreements:
            continue
        factor = np.ones(T) if name == "GAE without γ^t" else AGE
        for i in (0, 1):
            agree(factor[: LENGTH[i]] * found[i][name], ours[i, : LENGTH[i]])
        assert np.max(np.abs(factor * wrong[name] - ours[0])) > 1e-3


def test_rlax_finds_the_same_td_lambda_errors() -> None:
    rlax = pytest.importorskip("rlax", reason="rlax is not installed")
    ours = live(weights.lambda_return(GAMMA, 0.9, baseline=recorded_value))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for i in (0, 1):
            reward, discount, value, after = row(i)
            theirs = jax.jit(rlax.td_lambda)(value, reward, discount, after, 0.9)
            agree(AGE[: LENGTH[i]] * np.asarray(theirs), ours[i, : LENGTH[i]])


# Normalisation


def test_whitened_weights_have_mean_zero_and_deviation_one_over_live_steps() -> None:
    inner = weights.mismatched_generalized_advantage(GAMMA, 0.9)
    kinds = [weights.whitened(inner, epsilon=0.0), weights.whitened(inner), weights.centred(inner)]
    found, whitened, centred, plain = live_of_each([*kinds, inner])
    agree(np.sum(found), 0)
    agree(np.sum(found**2) / LENGTH.sum(), 1)
    careless = (plain - plain.mean()) / plain.std()  # over padding too: it would be noticed
    assert np.max(np.abs(whitened - np.where(LIVE, careless, 0))) > 0.01
    plain = plain[LIVE]
    agree(whitened[LIVE], (plain - plain.mean()) / (plain.std() + 1e-8))
    agree(centred[LIVE], plain - plain.mean())


def test_whitening_forgets_scale_and_shift() -> None:
    inner = weights.mismatched_reward_to_go(GAMMA)
    moved = weights.whitened(lambda batch, log_prob: 3 * inner(batch, log_prob) + 7, epsilon=0.0)
    tiny = weights.whitened(lambda batch, log_prob: 1e-18 * inner(batch, log_prob), epsilon=0.0)
    plain, *others = live_of_each([weights.whitened(inner, epsilon=0.0), moved, tiny])
    for other in others:
        agree(other, plain)  # of the tiny ones too: dead steps have no size


def test_equal_weights_whiten_to_zero_and_not_to_rounding() -> None:
    def same(batch: Trajectory, log_prob: jax.Array, dtype: Any) -> jax.Array:
        return jnp.full((N, T), 0.1, dtype)

    each = [partial(same, dtype=dtype) for dtype in (jnp.float32, jnp.float64)]
    for found in live_of_each([weights.whitened(weigh, epsilon=0.0) for weigh in each]):
        np.testing.assert_array_equal(found, np.zeros((N, T)))


def test_a_batch_that_is_hidden_whole_whitens_to_zero() -> None:
    hidden = replace(batch(), mask=np.zeros((N, T), bool))
    kinds = weights.whitened, weights.centred, weights.divided_by_length
    for found in weighed([kind(weights.reward_to_go(GAMMA)) for kind in kinds], hidden):
        assert np.all(np.isfinite(found))
        agree(np.where(hidden.mask, found, 0), 0)


def test_division_by_length_gives_every_episode_the_mean_of_its_steps() -> None:
    total = weights.total_return(GAMMA)
    plain, found = live_of_each([total, weights.divided_by_length(total)])
    agree(found, plain / LENGTH[:, None])


# Groups


IDS = np.array([1, 0, 1, 1, 0, 2, 2])
TARGET = np.random.default_rng(5).normal(size=(7, 2))
PARTS = [np.flatnonzero(group == IDS) for group in range(3)]


def by_hand(statistic: Callable[[np.ndarray, int], Any]) -> np.ndarray:
    """[7, 2] a statistic of the group's returns at each time step, and the own place in it."""
    found = np.zeros(TARGET.shape)
    for i, t in np.ndindex(*TARGET.shape):
        members = PARTS[IDS[i]]
        found[i, t] = statistic(TARGET[members, t], int(np.flatnonzero(members == i)[0]))
    return found


def given(baseline: baselines.Baseline, target: Any = TARGET) -> np.ndarray:
    return np.asarray(subtracted([baseline], batch(), np.asarray(target))[0])


@jax.jit
def subtracted(
    each: list[baselines.Baseline], batch: Trajectory, target: jax.Array
) -> list[jax.Array]:
    return [baseline(batch, target) for baseline in each]


def statistics(parts: groups.Groups, target: Any = TARGET) -> np.ndarray:
    """[3, N, T] mean, mean of the others, and deviation, by one program."""
    return np.stack(every_statistic(parts, batch(), np.asarray(target)))


@jax.jit
def every_statistic(parts: groups.Groups, batch: Trajectory, target: jax.Array) -> list[jax.Array]:
    kinds = baselines.group_mean, baselines.group_leave_one_out, baselines.group_deviation
    return [make(parts)(batch, target) for make in kinds]


def test_group_statistics_are_what_they_are_by_hand() -> None:
    mean, mean_of_others, found = statistics(groups.labelled(IDS))
    agree(mean, by_hand(lambda x, own: x.mean()))
    agree(mean_of_others, by_hand(lambda x, own: np.delete(x, own).mean()))
    deviation = by_hand(lambda x, own: x.std(ddof=1) + 1e-4)
    agree(found, deviation)
    biased = by_hand(lambda x, own: x.std() + 1e-4)
    assert np.max(np.abs(deviation - biased)) > 0.01


def test_consecutive_groups_are_those_of_the_ids_that_say_so() -> None:
    target = np.random.default_rng(6).normal(size=(6, 2))
    found = statistics(groups.consecutive(3), target)
    agree(found, statistics(groups.labelled([0, 0, 0, 1, 1, 1]), target))
    other = groups.labelled([0, 0, 1, 1, 1, 0])
    assert np.max(np.abs(found[0] - statistics(other, target)[0])) > 0.1


def test_the_order_of_rows_and_the_names_of_groups_change_nothing() -> None:
    order = np.random.default_rng(7).permutation(7)
    renamed = np.array([4, 0, 9])[IDS]
    found = statistics(groups.labelled(renamed[order]), TARGET[order])
    agree(found, statistics(groups.labelled(IDS))[:, order])


def test_one_group_of_all_is_the_batch() -> None:
    target, whole = np.random.default_rng(8).normal(size=(N, T)), groups.consecutive(N)
    ungrouped = [as_record(each) for each in (baselines.batch_mean, baselines.leave_one_out)]
    grouped = [make(whole) for make in (baselines.group_mean, baselines.group_leave_one_out)]
    of_all, of_others, mean, mean_of_others = subtracted([*ungrouped, *grouped], batch(), target)
    agree(mean, of_all)
    agree(mean_of_others, of_others)


def test_traced_ids_give_the_groups_of_known_ones() -> None:
    @jax.jit
    def traced(ids: jax.Array) -> list[jax.Array]:
        return every_statistic(groups.labelled(ids, num_groups=3), batch(), jnp.asarray(TARGET))

    agree(traced(IDS), statistics(groups.labelled(IDS)))


def test_a_traced_group_of_one_weighs_nothing() -> None:
    @jax.jit
    def weigh(ids: jax.Array) -> jax.Array:
        parts, target = groups.labelled(ids, num_groups=3), jnp.asarray(TARGET)
        return target - baselines.group_leave_one_out(parts)(batch(), target)

    found = np.asarray(weigh(np.array([0, 0, 0, 0, 1, 2, 2])))
    np.testing.assert_array_equal(found[4], [0, 0])
    assert np.all(np.abs(np.delete(found, 4, axis=0)) > 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("epsilon", [0.0, 1e-4])
def test_a_group_whose_returns_agree_weighs_nothing_and_is_no_nan(
    dtype: Any, epsilon: float
) -> None:
    # Three times 0.1 do not sum to 0.3: without care this deviation would be rounding, not zero.
    target = np.array([0.1, 0.1, 0.1, 1.0, 2.0, 3.0], dtype)[:, None]
    three = groups.consecutive(3)
    kinds = [baselines.group_mean(three), baselines.group_leave_one_out(three)]
    scaling = baselines.group_deviation(three, epsilon=epsilon)
    *each, scale = map(np.asarray, subtracted([*kinds, scaling], batch(), target))
    for baseline in each:
        found = (target - baseline) / scale
        np.testing.assert_array_equal(found[:3], np.zeros((3, 1)))
        assert np.all(np.abs(found[3::2]) > 0.9)


@pytest.mark.parametrize(("spread", "is_rounding"), [(1e-15, True), (1e-13, False)])
def test_what_counts_as_rounding_does_not_grow_with_the_group(
    spread: float, is_rounding: bool
) -> None:
    """The line is 32 ε = 7e-15 of the returns' size, for a pair as for 256 of them."""
    for members in (2, 256):
        target = (1 + spread * np.where(np.arange(members) % 2, 1, -1))[:, None]
        whole = groups.consecutive(members)
        deviation = given(baselines.group_deviation(whole, epsilon=0.0), target)
        assert np.all(np.isinf(deviation)) == is_rounding


def test_a_deviation_of_one_member_is_infinite() -> None:
    found = given(baselines.group_deviation(groups.labelled([0, 1, 1, 1, 1, 1, 1])))
    assert np.all(np.isinf(found[0]))
    assert np.all(np.isfinite(found[1:]))


def test_a_trajectory_hidden_whole_is_a_member_with_a_return_of_zero() -> None:
    hidden = replace(batch(), mask=LIVE & (np.arange(N) > 0)[:, None], final_value=None)
    pairs = groups.consecutive(2)
    less_others = weights.total_return(GAMMA, baseline=baselines.group_leave_one_out(pairs))
    of_grpo = [make(GAMMA, pairs).weights for make in (estimators.grpo, estimators.dr_grpo)]
    total, found, *others = live_of_each(
        [weights.total_return(GAMMA), less_others, *of_grpo], hidden
    )
    returns = total[:, 0]
    assert returns[0] == 0
    agree(found[1], np.where(LIVE[1], returns[1] - 0, 0))
    agree(found[0], np.zeros(T))
    assert np.all(np.isfinite(others))


def test_grpo_is_the_formula_that_trl_and_verl_run() -> None:
    # TRL: rewards.view(-1, G), torch.std (divisor G − 1), 1e-4; then the mean over tokens.
    returns = live(weights.total_return(GAMMA))[:, 0].reshape(2, 2)
    advantage = (returns - returns.mean(1, keepdims=True)) / (
        returns.std(1, ddof=1, keepdims=True) + 1e-4
    )
    expected = np.where(LIVE, advantage.reshape(N, 1) / LENGTH[:, None], 0)
    agree(live(estimators.grpo(GAMMA, groups.consecutive(2)).weights), expected)
    smaller = estimators.grpo(GAMMA, groups.consecutive(2), epsilon=0.1)
    assert np.max(np.abs(live(smaller.weights) - expected)) > 0.01


def test_dr_grpo_is_leave_one_out_shrunk_in_every_group() -> None:
    pairs = groups.consecutive(2)

    @jax.jit
    def gradients(params: jax.Array, batch: Trajectory) -> list[jax.Array]:
        on_policy = replace(batch, log_prob=pgjax.log_probs(POLICY, params, batch))
        kinds = estimators.dr_grpo(GAMMA, pairs), pgjax.rloo(GAMMA, groups=pairs), pgjax.rloo(GAMMA)
        return [pgjax.gradient(each, POLICY, params, on_policy) for each in kinds]

    params = np.random.default_rng(8).normal(size=(4, 2))
    shrunk, whole, ungrouped = map(np.asarray, gradients(params, batch()))
    agree(2 * shrunk, whole)
    assert np.max(np.abs(ungrouped - whole)) > 0.01


def test_a_term_is_taken_as_it_is_given() -> None:
    clip = pgjax.terms.ppo_clip(0.2)
    for make in (estimators.grpo, estimators.dr_grpo):
        assert make(1.0, groups.consecutive(2), term=clip).term is clip


def test_groups_in_any_order_have_their_exact_expectation() -> None:
    problem = Problem(MDP, POLICY, first_steps_share()[0], 1)
    crossed = groups.labelled([0, 1, 1, 0])
    made = [make(MDP.discount, groups=crossed) for make in (pgjax.rloo, estimators.dr_grpo)]

    def both(params: Any, batch: Trajectory) -> list[Any]:
        return [pgjax.gradient(each, POLICY, params, batch) for each in made]

    found = np.split(enumeration.moments(both, problem, batch_size=4).mean, 2)
    truth = np.asarray(exact.gradient(problem)).ravel()
    np.testing.assert_allclose(found, [truth, truth / 2], rtol=0, atol=1e-12)
