"""Credit within windows: each episode gets exactly what it would get as a row of its own."""

from dataclasses import replace
from functools import partial
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


time_in_episode = jax.jit(episode_boundaries.time_in_episode)


def test_time_counts_from_the_start_of_each_episode_if_the_batch_does_not_say_it() -> None:
    batch = example()
    assert np.any(np.asarray(batch.time)[1] == 2)  # the second row begins within an episode
    found = np.asarray(time_in_episode(replace(batch, time=None)))
    ends = np.asarray(batch.terminated) | np.asarray(batch.truncated)
    assert ends.sum() == 4
    for i in range(N):
        time = 0
        for t in range(np.asarray(batch.mask)[i].sum()):
            assert found[i, t] == time, (i, t)
            time = 0 if ends[i, t] else time + 1
    np.testing.assert_array_equal(time_in_episode(batch), batch.time)


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


@jax.jit
def weigh_all(*batches: Trajectory) -> list[dict[str, Any]]:
    """Every kind of weights of each batch, from one program."""
    return [{name: WEIGHTS[name](batch, batch.log_prob) for name in WEIGHTS} for batch in batches]


def weighed(batch: Trajectory, seen: Trajectory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """[N, T] the weights of `seen`, and those that the episodes of `batch` get one by one."""
    apart, age, places = episodes(batch)
    all_found, all_alone = jax.device_get(weigh_all(seen, apart))
    pairs = {}
    for name, alone in all_alone.items():
        expected = np.zeros((N, T))
        for row, (i, steps) in enumerate(places):
            factor = 1.0 if "without" in name else GAMMA ** age[row]
            expected[i, steps] = factor * alone[row, : steps.stop - steps.start]
        pairs[name] = np.where(batch.mask, all_found[name], 0), expected
    return pairs


def differences(batch: Trajectory, seen: Trajectory | None = None) -> dict[str, float]:
    """The largest, on live steps, from what is right for `batch` if the weights are of `seen`."""
    pairs = weighed(batch, batch if seen is None else seen)
    return {name: float(np.max(np.abs(x - y))) for name, (x, y) in pairs.items()}


@hypothesis.given(batch=windows)
@hypothesis.settings(deadline=None, max_examples=40)
def test_each_episode_of_a_window_gets_what_it_would_get_as_a_row_of_its_own(
    batch: Trajectory,
) -> None:
    for name, found in differences(batch).items():
        # Sums of T numbers below 10, twice, each rounded: 2 T² eps · 30 at most.
        assert found < 60 * T**2 * EPS, name


def flags_forgotten(batch: Trajectory) -> Trajectory:
    """Every return leaks back over the episode_boundaries."""
    no = np.zeros((N, T), bool)
    return replace(batch, truncated=no, terminated=no)


def terminal_states_bootstrapped(batch: Trajectory) -> Trajectory:
    no = np.zeros((N, T), bool)
    return replace(batch, terminated=no, truncated=batch.terminated | batch.truncated)


def bootstrapped_from_the_reset(batch: Trajectory) -> Trajectory:
    """The value of the row's next step, whose episode may be another one."""
    assert batch.value is not None
    assert batch.next_value is not None
    value, following = np.asarray(batch.value), np.asarray(batch.next_value)
    return replace(batch, next_value=np.concatenate([value[:, 1:], following[:, -1:]], 1))


def truncation_taken_for_termination(batch: Trajectory) -> Trajectory:
    return replace(batch, terminated=batch.terminated | batch.truncated)


def aged_by_the_row(batch: Trajectory) -> Trajectory:
    return replace(batch, time=np.broadcast_to(np.arange(T, dtype=np.int32), (N, T)))


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
    assert differences(example())[name] < 60 * T**2 * EPS
    assert differences(example(), mutate(example()))[name] > 0.01


@pytest.mark.parametrize("name", [name for name in WEIGHTS if "without" not in name])
def test_a_discount_counted_from_the_rows_start_is_noticed(name: str) -> None:
    assert differences(example(), aged_by_the_row(example()))[name] > 0.01


@pytest.mark.parametrize("name", WEIGHTS)
def test_garbage_where_nothing_follows_changes_nothing(name: str) -> None:
    batch = example()
    assert batch.next_value is not None
    assert batch.value is not None
    nothing = np.asarray(batch.terminated) | ~np.asarray(batch.mask)
    dirty = replace(
        batch,
        next_value=np.where(nothing, np.nan, batch.next_value),
        reward=np.where(batch.mask, batch.reward, np.nan),
        value=np.where(batch.mask, batch.value, np.nan),
    )
    clean, found = (weighed(batch, seen)[name][0] for seen in (batch, dirty))
    np.testing.assert_array_equal(found, clean)


@hypothesis.given(batch=windows)
@hypothesis.settings(deadline=None, max_examples=40)
def test_without_time_an_episode_begins_where_another_was_cut(batch: Trajectory) -> None:
    assert batch.time is not None
    found, time = jax.device_get((time_in_episode(replace(batch, time=None)), batch.time))
    first_episode = np.arange(T) == time - time[:, :1]
    expected = np.where(first_episode, np.arange(T), time)
    np.testing.assert_array_equal(np.where(batch.mask, found, 0), np.where(batch.mask, expected, 0))


def test_the_gradient_of_a_window_is_the_sum_over_its_episodes() -> None:
    batch, policy = example(), pgjax.tabular_softmax(4, 2)
    params = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2)))
    dirty = replace(batch, reward=jnp.asarray(np.where(batch.mask, batch.reward, np.nan)))
    estimator = Estimator(WEIGHTS["GAE without γ^t"], pgjax.terms.score)
    apart, _, _ = episodes(batch)
    gradient = jax.jit(partial(pgjax.gradient, estimator, policy))
    found, leaking = (gradient(params, each) for each in (dirty, flags_forgotten(dirty)))
    alone = pgjax.gradient(estimator, policy, params, apart)
    expected = np.asarray(alone) * (len(apart.reward) / N)
    np.testing.assert_allclose(found, expected, rtol=0, atol=100 * EPS)
    assert np.max(np.abs(leaking - expected)) > 0.01


def test_a_window_no_critic_has_judged_is_cut_and_bootstraps_nothing() -> None:
    batch = example()
    assert batch.next_value is not None
    unjudged = replace(batch, next_value=None, value=None)
    of_zeros = replace(batch, next_value=np.zeros((N, T)))
    returns = jax.jit(partial(weights.returns_to_go, discount=GAMMA))
    found, expected, with_values = jax.device_get([returns(x) for x in (unjudged, of_zeros, batch)])
    np.testing.assert_array_equal(found, expected)
    assert np.max(np.abs(with_values - expected)) > 0.1


def test_a_row_of_one_episode_keeps_its_scalar_discount() -> None:
    whole = replace(example(), time=None, next_value=None)
    assert episode_boundaries.rate_within_episode(whole, GAMMA) == GAMMA
    rate = partial(episode_boundaries.rate_within_episode, rate=GAMMA)
    assert jax.eval_shape(rate, example()).shape == (N, T)


def test_a_total_return_of_windows_is_refused() -> None:
    for batch in (example(), replace(example(), time=None), replace(example(), next_value=None)):
        with pytest.raises(ValueError, match="one whole episode each, got windows"):
            weights.total_return(GAMMA)(batch, batch.log_prob)


def test_windows_without_their_values_are_refused_where_a_critic_is_asked() -> None:
    batch = replace(example(), next_value=None)
    for name in ("GAE", "λ-return", "2-step"):
        with pytest.raises(ValueError, match=r"next_value is None.*windows\.with_values"):
            jax.eval_shape(WEIGHTS[name], batch, batch.log_prob)
    final = replace(batch, final_value=jnp.zeros(N))
    with pytest.raises(ValueError, match=r"next_value is None.*windows\.with_values"):
        jax.eval_shape(partial(weights.returns_to_go, discount=GAMMA), final)
