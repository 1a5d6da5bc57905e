"""Batches that contradict the docstring of `Trajectory`, and arrays where one number is documented.

Each would give a plausible wrong number. Known values raise at once, traced ones under `checked`.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import Trajectory, critics
from pgjax.core.validation import check_batch
from pgjax.estimators import score_weights
from tests import bad_values
from tests.bad_values import N, T
from tests.test_settings_of_estimators import ESTIMATORS, TERMS, WEIGHTS

POLICY, PARAMS = pgjax.tabular_softmax(4, 2), np.zeros((4, 2), np.float32)
ESTIMATOR = pgjax.reward_to_go(0.9)
BATCH = jax.device_get(bad_values.BATCH)  # changed by NumPy, without a program for each change
NONE = np.zeros((N, T), bool)
LAST = NONE | (np.arange(T) == T - 1)


def at(field: str, row: int, step: int, value: Any) -> Callable[[Trajectory], Trajectory]:
    """The batch with another value in one place."""
    return lambda batch: replace(batch, **{field: put(getattr(batch, field), row, step, value)})


def put(x: Any, row: int, step: Any, value: Any) -> np.ndarray:
    changed = np.array(x)
    changed[row, step] = value
    return changed


TIME = np.broadcast_to(np.arange(T, dtype=np.int32) + 5, (N, T))


def timed(batch: Trajectory) -> Trajectory:
    """Rows as windows, each within one episode."""
    return replace(batch, time=TIME, truncated=LAST)


def transposed(batch: Trajectory) -> Trajectory:
    """[T, N], as a scan over time stacks it; N and T differ."""
    per_step = [name for name in vars(batch) if name != "final_observation"]
    turned = jax.tree.map(
        lambda x: np.swapaxes(x, 0, 1), {name: getattr(batch, name) for name in per_step}
    )
    return replace(batch, **turned)


CONTRADICTIONS: dict[str, tuple[Callable[[Trajectory], Trajectory], str]] = {
    "a hole in the mask": (
        at("mask", 2, 1, False),
        "batch.mask is true at trajectory 2, step 2, after a step where it is false",
    ),
    "a step after the terminal one": (
        at("terminated", 1, 0, True),
        "batch.mask is true at trajectory 1, step 1, and the step before terminated",
    ),
    "a step after the cut": (
        at("truncated", 3, 1, True),
        "batch.mask is true at trajectory 3, step 2, and the step before terminated or truncated",
    ),
    "time that stands still": (
        lambda batch: at("time", 0, 2, 6)(timed(batch)),
        "batch.time is 6 at trajectory 0, step 2",
    ),
    "time that runs back": (
        lambda batch: replace(timed(batch), time=TIME[:, ::-1]),
        "batch.time is 6 at trajectory 0, step 1",
    ),
    "time before the start": (
        lambda batch: replace(timed(batch), time=TIME - 6),
        "batch.time is -1 at trajectory 0, step 0",
    ),
    "time that goes on after an end": (
        lambda batch: at("terminated", 1, 0, True)(timed(batch)),
        "batch.time is 6 at trajectory 1, step 1",
    ),
    "probabilities and not their logarithms": (
        lambda batch: replace(batch, log_prob=np.exp(batch.log_prob)),
        "batch.log_prob is 0.5 at trajectory 0, step 0; .* take jnp.log of probabilities",
    ),
    "one positive log-probability": (
        at("log_prob", 3, 2, 0.1),
        "batch.log_prob is 0.1.* at trajectory 3, step 2",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused_with_their_place(name: str) -> None:
    change, words = CONTRADICTIONS[name]
    bad = change(BATCH)
    with pytest.raises(ValueError, match=words):
        pgjax.gradient(ESTIMATOR, POLICY, PARAMS, jax.device_put(bad))
    with pytest.raises(ValueError, match=words):
        pgjax.log_probs(POLICY, PARAMS, bad)


@pytest.fixture(scope="module")
def checked() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The log-probabilities of an episode's batch, and of windows; one program for all the tests.

    They check a batch as a gradient does, in a smaller program.
    """
    log_probs = partial(pgjax.log_probs, POLICY, PARAMS)
    return pgjax.checked(log_probs), jax.jit(log_probs)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_traced_values_are_refused_by_checked_and_by_nothing_else(name: str, checked: Any) -> None:
    change, words = CONTRADICTIONS[name]
    with pytest.raises(ValueError, match=words):
        checked[0](change(BATCH))
    checked[1](change(BATCH))


SHAPES: dict[str, tuple[Callable[[Trajectory], Trajectory], str]] = {
    "time first": (transposed, "batch.final_observation must have shape"),
    "no leading N": (
        lambda batch: jax.tree.map(lambda x: x[0], batch),
        r"batch.reward must have shape \[N, T\], got \(3,\)",
    ),
    "rewards with an axis more": (
        lambda batch: replace(batch, reward=batch.reward[..., None]),
        "batch.reward must have shape",
    ),
    "rewards of other steps": (
        lambda batch: replace(batch, reward=batch.reward[:, :2]),
        r"batch.log_prob must have shape \[N, T\]",
    ),
    "one log-probability a trajectory": (
        lambda batch: replace(batch, log_prob=batch.log_prob[:, 0]),
        "batch.log_prob must have shape",
    ),
    "flags as floats": (
        lambda batch: replace(batch, terminated=np.zeros((N, T), np.float32)),
        "batch.terminated must be boolean, got float32",
    ),
    "flags as integers": (
        lambda batch: replace(batch, truncated=np.zeros((N, T), np.int32)),
        "batch.truncated must be boolean, got int32",
    ),
    "final observations of one": (
        lambda batch: replace(batch, final_observation=batch.final_observation[0]),
        r"batch.final_observation must have the shape of an observation, \(4, 4\), got \(4,\)",
    ),
    "a final value for every step": (
        lambda batch: replace(batch, final_value=batch.reward),
        r"batch.final_value must have shape \[N\]",
    ),
    "lists": (
        lambda batch: replace(batch, reward=batch.reward.tolist()),
        "batch.reward must be an array, got a list",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_another_layout_is_refused_under_jit_too(name: str) -> None:
    change, words = SHAPES[name]
    bad = change(BATCH)
    with pytest.raises((ValueError, TypeError), match=words):
        pgjax.gradient(ESTIMATOR, POLICY, PARAMS, bad)
    if name != "lists":
        with pytest.raises((ValueError, TypeError), match=words):
            jax.eval_shape(lambda b: pgjax.gradient(ESTIMATOR, POLICY, PARAMS, b), bad)


def test_a_missing_final_observation_is_named_where_it_is_read() -> None:
    batch = replace(BATCH, final_observation=None)
    pgjax.gradient(ESTIMATOR, POLICY, PARAMS, batch)
    with pytest.raises(ValueError, match=r"batch\.final_observation must be an array"):
        jax.eval_shape(partial(critics.with_bootstrap, jnp.dot), np.zeros(4, np.float32), batch)


def garbage(batch: Trajectory) -> Trajectory:
    """What may stand where the mask is false: anything."""
    mask = put(put(batch.mask, 1, slice(1, None), False), 3, slice(None), False)
    dead = ~mask
    return replace(
        batch,
        mask=mask,
        terminated=dead,
        truncated=dead | LAST,
        reward=np.where(dead, np.float32(np.nan), batch.reward),
        log_prob=np.where(dead, np.float32(7), batch.log_prob),
    )


ALLOWED: dict[str, Callable[[Trajectory], Trajectory]] = {
    "garbage after the end": garbage,
    "windows within an episode": timed,
    "an episode that begins within a window": lambda batch: replace(
        at("terminated", 1, 0, True)(timed(batch)), time=put(TIME, 1, slice(1, None), [0, 1])
    ),
    "windows without times": lambda batch: replace(
        at("terminated", 1, 0, True)(batch), next_value=batch.reward
    ),
    "no flag at all": lambda batch: replace(batch, truncated=NONE),
    "impossible actions": lambda batch: replace(
        batch, log_prob=np.full((N, T), -np.inf, np.float32)
    ),
    "both flags at once": lambda batch: replace(batch, terminated=LAST, truncated=LAST),
    "densities of real actions": lambda batch: replace(
        batch, action=batch.reward, log_prob=batch.log_prob + 3
    ),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_the_docstring_allows_is_accepted(name: str) -> None:
    check_batch(jax.device_put(ALLOWED[name](BATCH)))
    check_batch(ALLOWED[name](BATCH))
    jax.eval_shape(check_batch_of, ALLOWED[name](BATCH))


def check_batch_of(batch: Trajectory) -> Any:
    check_batch(batch)
    return batch.reward


NUMBERS = {
    name: row
    for name, row in {**WEIGHTS, **TERMS, **ESTIMATORS}.items()
    if "group_mean" not in name and name not in ("grpo", "dr_grpo")  # groups of eight
}


def test_an_array_where_one_number_is_documented_is_refused() -> None:
    """Each of these shapes would broadcast against [N, T], and be misread."""
    shapes = [(N, 1), (N, T), (1, 1)]  # in turn, besides one row and one number
    batch = replace(
        BATCH, value=BATCH.reward, action_value=BATCH.reward, final_value=BATCH.reward[:, 0]
    )
    answers = {}
    for index, (name, row) in enumerate(NUMBERS.items()):
        for shape in ((T,), (1,), shapes[index % 3]):
            part = row.make(np.full(shape, row.numbers[1], np.float32))
            if name in WEIGHTS:
                part = pgjax.Estimator(part, pgjax.terms.score)
            elif name in TERMS:
                part = pgjax.Estimator(pgjax.weights.reward_to_go(0.9), part)
            answers[name, shape] = answer(part, batch)
    assert {name: words for name, words in answers.items() if "single number" not in words} == {}


def answer(estimator: pgjax.Estimator, batch: Trajectory) -> str:
    """The ValueError of the score weights, from shapes alone; every gradient is made of them."""
    try:
        jax.eval_shape(lambda b: score_weights(estimator, b, b.log_prob), batch)
    except ValueError as error:
        return str(error)
    return "accepted"


def test_one_number_is_accepted_by_the_same_estimators() -> None:
    batch = replace(BATCH, value=BATCH.reward, final_value=BATCH.reward[:, 0])
    for name in ("reinforce", "actor_critic", "n_step_actor_critic"):
        part = ESTIMATORS[name].make(jnp.asarray(0.9))
        jax.eval_shape(lambda b, part=part: pgjax.gradient(part, POLICY, PARAMS, b), batch)


def test_a_numpy_batch_of_float64_is_read_without_a_warning() -> None:
    """JAX warns if float64 is asked of it while x64 is off; an exact batch is float64 of NumPy."""
    batch = replace(
        BATCH, value=BATCH.reward, action_value=BATCH.reward, final_value=BATCH.reward[:, 0]
    )
    batch = jax.tree.map(
        lambda x: np.asarray(x, np.float64 if x.dtype.kind == "f" else None), batch
    )
    assert batch.reward.dtype == np.float64
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, row in NUMBERS.items():
            part = row.make(np.float32(row.numbers[1]))
            if name in WEIGHTS:
                found = jax.eval_shape(lambda part=part: part(batch, batch.log_prob))
                assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found)), name
                continue
            if name in TERMS:
                part = pgjax.Estimator(pgjax.weights.reward_to_go(0.9), part)
            jax.eval_shape(lambda x, part=part: score_weights(part, batch, x), batch.log_prob)
        jax.eval_shape(partial(pgjax.gradient, ESTIMATOR, POLICY, batch=batch), PARAMS)
        with pytest.raises(UserWarning, match="float64"):  # the control: what would be seen
            jnp.zeros(2, np.float64)
