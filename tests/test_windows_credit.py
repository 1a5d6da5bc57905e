"""Credit within windows: each episode gets exactly what it would get as a row of its own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis.extra import numpy as arrays

import pgjax
from pgjax import Trajectory, weights
from pgjax.baselines import recorded_value
from pgjax.core import episode_boundaries
from pgjax.types import Estimator
from pgjax.weights import Weights

pytestmark = pytest.mark.usefixtures("strict")

EPS = np.finfo(np.float64).eps
GAMMA, N, T = 0.8, 2, 6
WEIGHTS: dict[str, Weights] = {
    "reward-to-go": weights.reward_to_go(GAMMA),
    "reward-to-go − V": weights.reward_to_go(GAMMA, baseline=recorded_value),
    "reward-to-go without γ^t": weights.mismatched_reward_to_go(GAMMA),
    "GAE": weights.generalized_advantage(GAMMA, 0.9),
    "GAE without γ^t": weights.mismatched_generalized_advantage(GAMMA, 0.9),
    "λ-return": weights.lambda_return(GAMMA, 0.7),
    "2-step": weights.n_step(GAMMA, 2, baseline=recorded_value),
    "8-step": weights.n_step(GAMMA, 8),
}


def window(numbers: Any, terminated: Any, truncated: Any, length: Any, first: Any) -> Trajectory:
    """Rows [N, T] of which `length` [N] steps are live; the first episode is `first` [N] old."""
    reward, value, following = numbers
    mask = np.arange(T) < length[:, None]
    terminated, truncated = terminated & mask, truncated & mask
    ends = terminated | truncated
    goes_on = ~ends[:, :-1] & mask[:, 1:]
    # What follows a step within its episode is the next step.
    next_value = np.append(np.where(goes_on, value[:, 1:], following[:, :-1]), following[:, -1:], 1)
    time = np.zeros((N, T), np.int32)
    time[:, 0] = first
    for t in range(1, T):
        time[:, t] = np.where(ends[:, t - 1], 0, time[:, t - 1] + 1)
    fields: dict[str, Any] = {
        "observation": np.eye(4)[np.arange(N * T).reshape(N, T) % 4],
        "action": np.arange(N * T).reshape(N, T) % 2,
        "reward": reward,
        "log_prob": np.zeros((N, T)),
        "terminated": terminated,
        "truncated": truncated,
        "mask": mask,
        "final_observation": np.zeros((N, 4)),
        "value": value,
        "next_value": next_value,
        "time": time,
    }
    return Trajectory(**jax.device_put(fields))


numbers = arrays.arrays(np.float64, (3, N, T), elements=st.floats(-10, 10, width=64))
flags = arrays.arrays(bool, (N, T), elements=st.booleans())
windows = st.builds(
    window,
    *(numbers, flags, flags),
    length=arrays.arrays(np.int64, N, elements=st.integers(0, T)),
    first=arrays.arrays(np.int32, N, elements=st.integers(0, 3)),
)


def example() -> Trajectory:
    """Both kinds of end in the first row; a cut and a masked tail in the second."""
    random = np.random.default_rng(0)
    terminated, truncated = np.zeros((2, N, T), bool)
    terminated[0, 1] = truncated[0, 3] = truncated[1, 1] = terminated[1, 2] = truncated[1, 2] = True
    return window(
        random.normal(size=(3, N, T)), terminated, truncated, np.array([6, 5]), np.array([0, 2])
    )


def test_time_counts_from_the_start_of_each_episode_if_the_batch_does_not_say_it() -> None:
    batch = example()
    assert np.any(np.asarray(batch.time)[1] == 2)  # the second row begins within an episode
    found = episode_boundaries.time_in_episode(replace(batch, time=None))
    ends = np.asarray(batch.terminated | batch.truncated)
    assert ends.sum() == 4
    for i in range(N):
        time = 0
        for t in range(int(batch.mask[i].sum())):
            assert found[i, t] == time, (i, t)
            time = 0 if ends[i, t] else time + 1
    np.testing.assert_array_equal(episode_boundaries.time_in_episode(batch), batch.time)


FIELDS = (
    *("observation", "action", "reward", "log_prob"),
    *("terminated", "truncated", "mask", "value"),
)


def episodes(batch: Trajectory) -> tuple[Trajectory, np.ndarray, list[tuple[int, slice]]]:
    """Each episode as a row of its own: [N T, T], their ages at their start, and where they were.

    Always N T rows, so that each weight compiles once; those left over are masked.
    """
    found = jax.tree.map(np.asarray, batch)
    places = []
    for i in range(N):
        start = 0
        for t in range(int(found.mask[i].sum())):
            if found.terminated[i, t] | found.truncated[i, t] | (t + 1 == found.mask[i].sum()):
                places.append((i, slice(start, t + 1)))
                start = t + 1
    rows = {
        name: np.zeros((N * T, *getattr(found, name).shape[1:]), getattr(found, name).dtype)
        for name in FIELDS
    }
    final, age = np.zeros(N * T), np.zeros(N * T)
    for row, (i, steps) in enumerate(places):
        for name in FIELDS:
            rows[name][row, : steps.stop - steps.start] = getattr(found, name)[i, steps]
        final[row], age[row] = found.next_value[i, steps.stop - 1], found.time[i, steps.start]
    apart: dict[str, Any] = rows | {"final_observation": np.zeros((N * T, 4)), "final_value": final}
    return Trajectory(**jax.device_put(apart)), age, places


def as_rows_of_their_own(weigh: Weights, batch: Trajectory, discounted: bool) -> np.ndarray:
    """[N, T] the weights that the episodes get one by one, put back where they stood."""
    apart, age, places = episodes(batch)
    found = np.asarray(COMPILED[weigh](apart, apart.log_prob))
    expected = np.zeros((N, T))
    for row, (i, steps) in enumerate(places):
        factor = GAMMA ** age[row] if discounted else 1.0
        expected[i, steps] = factor * found[row, : steps.stop - steps.start]
    return expected


COMPILED: dict[Weights, Callable] = {weigh: jax.jit(weigh) for weigh in WEIGHTS.values()}


def difference(name: str, batch: Trajectory, seen: Trajectory | None = None) -> float:
    """The largest, on live steps, from what is right for `batch` if the weights are of `seen`."""
    weigh, seen = WEIGHTS[name], batch if seen is None else seen
    found = np.asarray(COMPILED[weigh](seen, seen.log_prob))
    expected = as_rows_of_their_own(weigh, batch, "without" not in name)
    return float(np.max(np.abs(np.where(batch.mask, found - expected, 0))))


@pytest.mark.parametrize("name", WEIGHTS)
@hypothesis.given(batch=windows)
@hypothesis.settings(deadline=None, max_examples=40)
def test_each_episode_of_a_window_gets_what_it_would_get_as_a_row_of_its_own(
    name: str, batch: Trajectory
) -> None:
    # Sums of T numbers below 10, twice, each rounded: 2 T² eps · 30 at most.
    assert difference(name, batch) < 60 * T**2 * EPS


def flags_forgotten(batch: Trajectory) -> Trajectory:
    """Every return leaks back over the episode_boundaries."""
    no = jnp.zeros_like(batch.truncated)
    return replace(batch, truncated=no, terminated=no)


def terminal_states_bootstrapped(batch: Trajectory) -> Trajectory:
    no = jnp.zeros_like(batch.terminated)
    return replace(batch, terminated=no, truncated=batch.terminated | batch.truncated)


def bootstrapped_from_the_reset(batch: Trajectory) -> Trajectory:
    """The value of the row's next step, whose episode may be another one."""
    assert batch.value is not None
    assert batch.next_value is not None
    following = jnp.concatenate([batch.value[:, 1:], batch.next_value[:, -1:]], 1)
    return replace(batch, next_value=following)


def truncation_taken_for_termination(batch: Trajectory) -> Trajectory:
    return replace(batch, terminated=batch.terminated | batch.truncated)


def aged_by_the_row(batch: Trajectory) -> Trajectory:
    return replace(batch, time=jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (N, T)))


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(
    "mutate",
    [
        flags_forgotten,
        terminal_states_bootstrapped,
        bootstrapped_from_the_reset,
        truncation_taken_for_termination,
    ],
)
def test_a_wrong_cut_is_noticed(mutate: Any, name: str) -> None:
    assert difference(name, example()) < 60 * T**2 * EPS
    assert difference(name, example(), mutate(example())) > 0.01


@pytest.mark.parametrize("name", [name for name in WEIGHTS if "without" not in name])
def test_a_discount_counted_from_the_rows_start_is_noticed(name: str) -> None:
    assert difference(name, example(), aged_by_the_row(example())) > 0.01


@pytest.mark.parametrize("name", WEIGHTS)
def test_garbage_where_nothing_follows_changes_nothing(name: str) -> None:
    batch = example()
    assert batch.next_value is not None
    assert batch.value is not None
    nothing = batch.terminated | ~batch.mask
    dirty = replace(
        batch,
        next_value=jnp.where(nothing, jnp.nan, batch.next_value),
        reward=jnp.where(batch.mask, batch.reward, jnp.nan),
        value=jnp.where(batch.mask, batch.value, jnp.nan),
    )
    clean, found = (
        np.where(batch.mask, COMPILED[WEIGHTS[name]](x, x.log_prob), 0) for x in (batch, dirty)
    )
    np.testing.assert_array_equal(found, clean)


@hypothesis.given(batch=windows)
@hypothesis.settings(deadline=None, max_examples=40)
def test_without_time_an_episode_begins_where_another_was_cut(batch: Trajectory) -> None:
    assert batch.time is not None
    began = replace(batch, time=None)
    found, time = np.asarray(episode_boundaries.time_in_episode(began)), np.asarray(batch.time)
    first_episode = np.arange(T) == time - time[:, :1]
    expected = np.where(first_episode, np.arange(T), time)
    np.testing.assert_array_equal(np.where(batch.mask, found, 0), np.where(batch.mask, expected, 0))


def test_the_gradient_of_a_window_is_the_sum_over_its_episodes() -> None:
    batch, policy = example(), pgjax.tabular_softmax(4, 2)
    params = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2)))
    dirty = replace(batch, reward=jnp.where(batch.mask, batch.reward, jnp.nan))
    estimator = Estimator(WEIGHTS["GAE without γ^t"], pgjax.terms.score)
    apart, _, _ = episodes(batch)
    found = pgjax.gradient(estimator, policy, params, dirty)
    expected = pgjax.gradient(estimator, policy, params, apart) * (len(apart.reward) / N)
    np.testing.assert_allclose(found, expected, rtol=0, atol=100 * EPS)
    leaking = jax.jit(pgjax.gradient)(estimator, policy, params, flags_forgotten(dirty))
    assert np.max(np.abs(leaking - expected)) > 0.01


def test_a_window_no_critic_has_judged_is_cut_and_bootstraps_nothing() -> None:
    batch = example()
    assert batch.next_value is not None
    unjudged = replace(batch, next_value=None, value=None)
    of_zeros = replace(batch, next_value=jnp.zeros((N, T)))
    found, expected = (weights.returns_to_go(x, GAMMA) for x in (unjudged, of_zeros))
    np.testing.assert_array_equal(found, expected)
    with_values = weights.returns_to_go(batch, GAMMA)
    assert np.max(np.abs(with_values - expected)) > 0.1


def test_a_row_of_one_episode_keeps_its_scalar_discount() -> None:
    whole = replace(example(), time=None, next_value=None)
    assert episode_boundaries.rate_within_episode(whole, GAMMA) == GAMMA
    assert jnp.shape(episode_boundaries.rate_within_episode(example(), GAMMA)) == (N, T)


def test_a_total_return_of_windows_is_refused() -> None:
    for batch in (example(), replace(example(), time=None), replace(example(), next_value=None)):
        with pytest.raises(ValueError, match="one whole episode each, got windows"):
            weights.total_return(GAMMA)(batch, batch.log_prob)


def test_windows_without_their_values_are_refused_where_a_critic_is_asked() -> None:
    batch = replace(example(), next_value=None)
    for name in ("GAE", "λ-return", "2-step"):
        with pytest.raises(ValueError, match=r"next_value is None.*windows\.with_values"):
            WEIGHTS[name](batch, batch.log_prob)
    final = replace(batch, final_value=jnp.zeros(N))
    with pytest.raises(ValueError, match=r"next_value is None.*windows\.with_values"):
        weights.returns_to_go(final, GAMMA)
