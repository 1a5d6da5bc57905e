"""Actions that a policy does not have: an error outside jit, NaN under it, never a number."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import policies

TABLE = np.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]], np.float32)
POLICY = pgjax.tabular_softmax(4, 2)
ESTIMATOR = pgjax.reinforce(0.9)


def batch_of(random: np.random.Generator, N: int = 8, T: int = 4) -> pgjax.Trajectory:
    """Episodes of one to T steps in four states; everything is zero after their end."""
    mask = np.arange(T) < random.integers(1, T + 1, size=(N, 1))
    seen = np.eye(4, dtype=np.float32)[random.integers(4, size=(N, T + 1))]
    fields: dict[str, Any] = {
        "observation": seen[:, :T],
        "action": np.where(mask, random.integers(2, size=(N, T)), 0).astype(np.int32),
        "reward": np.where(mask, random.normal(size=(N, T)), 0).astype(np.float32),
        "log_prob": np.where(mask, np.log(0.5), 0).astype(np.float32),
        "terminated": mask & ~np.pad(mask[:, 1:], ((0, 0), (0, 1))),
        "truncated": np.zeros((N, T), bool),
        "mask": mask,
        "final_observation": seen[:, T],
    }
    return pgjax.Trajectory(**fields)


BATCH = batch_of(np.random.default_rng(0))
FUNCTIONS = {
    "gradient": pgjax.gradient,
    "per_trajectory_gradients": pgjax.per_trajectory_gradients,
    "surrogate": pgjax.surrogate,
    "log_probs": lambda estimator, *rest: pgjax.log_probs(*rest),
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@each_function
@pytest.mark.parametrize(("shift", "shown"), [(1, 2), (-1, -1), (7, r"[78]")])
def test_an_action_out_of_range_is_an_error_that_names_its_place(function, shift, shown):
    wrong = replace(BATCH, action=BATCH.action + shift)
    message = rf"batch\.action at trajectory 0, step \d: action must lie in 0\.\.1, got {shown}"
    with pytest.raises(ValueError, match=message):
        function(ESTIMATOR, POLICY, TABLE, wrong)
    function(ESTIMATOR, POLICY, TABLE, BATCH)


def one_wrong_action():
    """Of the third trajectory's first step."""
    action = np.array(BATCH.action)
    action[2, 0] = 2
    return replace(BATCH, action=action)


def test_under_jit_it_is_nan():
    @jax.jit
    def every_function(params, batch):
        return {name: each(ESTIMATOR, POLICY, params, batch) for name, each in FUNCTIONS.items()}

    found = jax.tree.map(np.isnan, jax.device_get(every_function(TABLE, one_wrong_action())))
    assert np.all(found["gradient"])
    rows = found["per_trajectory_gradients"].reshape(8, -1)
    np.testing.assert_array_equal(np.all(rows, axis=1), np.arange(8) == 2)
    np.testing.assert_array_equal(np.any(rows, axis=1), np.arange(8) == 2)
    assert np.any(found["surrogate"])
    assert np.any(found["log_probs"])


@each_function
def test_under_checked_it_is_an_error(function):
    with pytest.raises(ValueError, match=r"action must lie in 0\.\.1, got 2"):
        pgjax.checked(lambda params, batch: function(ESTIMATOR, POLICY, params, batch))(
            TABLE, one_wrong_action()
        )


def test_where_the_mask_is_false_any_action_may_stand():
    wrong = replace(BATCH, action=np.where(BATCH.mask, BATCH.action, 9))
    assert not np.all(BATCH.mask)
    for function in FUNCTIONS.values():
        found, expected = (function(ESTIMATOR, POLICY, TABLE, b) for b in (wrong, BATCH))
        np.testing.assert_array_equal(found, expected)


def test_more_actions_than_are_written_out_are_checked_too():
    policy, table = pgjax.tabular_softmax(4, 20), np.zeros((4, 20), np.float32)
    wrong = replace(BATCH, action=BATCH.action + 20)
    with pytest.raises(ValueError, match=r"action must lie in 0\.\.19, got 2[01]"):
        pgjax.gradient(ESTIMATOR, policy, table, wrong)
    assert np.all(np.isnan(jax.jit(pgjax.gradient)(ESTIMATOR, policy, table, wrong)))


def test_an_illegal_action_is_named():
    masked = pgjax.softmax_policy(
        lambda key, s: TABLE, lambda params, s: jnp.where(jnp.arange(2) == 1, -jnp.inf, s @ params)
    )
    with pytest.raises(ValueError, match="action 1 is illegal in this state"):
        masked.log_prob(TABLE, BATCH.observation[0, 0], 1)


@each_function
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a[..., None], ValueError, r"one integer for one observation, got shape \(1,\)"),
        (lambda a: np.eye(2)[a], ValueError, r"got shape \(2,\); .* nor one-hot"),
        (lambda a: a.astype(np.float32), TypeError, "action must be an integer, got float32"),
    ],
)
def test_actions_of_another_shape_or_kind_are_refused(function, change, error, message):
    with pytest.raises(error, match=message):
        function(ESTIMATOR, POLICY, TABLE, replace(BATCH, action=change(BATCH.action)))


def test_a_gaussian_policy_names_a_vector_of_another_length():
    policy = policies.gaussian_policy(
        lambda key, s: jnp.zeros((4, 2)), lambda params, s: (s @ params, jnp.zeros(2))
    )
    wrong = replace(BATCH, action=np.zeros((8, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"must have shape \[D\] = \(2,\), got \(3,\)"):
        pgjax.gradient(ESTIMATOR, policy, np.zeros((4, 2), np.float32), wrong)
