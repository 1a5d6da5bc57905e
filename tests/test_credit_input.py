"""Bad input to critics and groups: an error that names the argument, or a value that is documented.

Annotations are not checked here: they would speak before the library does.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import Trajectory, baselines, estimators, groups, weights
from pgjax.returns import n_step_returns

POLICY, PARAMS = pgjax.tabular_softmax(4, 2), np.zeros((4, 2), np.float32)
CRITICS: dict[str, Any] = {
    "actor_critic": lambda: estimators.actor_critic(0.9, 0.95),
    "mismatched_actor_critic": lambda: estimators.mismatched_actor_critic(0.9, 0.95),
    "n_step_actor_critic": lambda: estimators.n_step_actor_critic(0.9, 2),
    "lambda_return": lambda: pgjax.Estimator(weights.lambda_return(0.9, 0.5), pgjax.terms.score),
}


@cache
def batch(N: int = 4, T: int = 3) -> Trajectory:
    return Trajectory(
        **jax.device_put(
            {
                "observation": np.full((N, T, 4), 0.25),
                "action": np.zeros((N, T), int),
                "reward": np.arange(float(N * T)).reshape(N, T),
                "log_prob": np.full((N, T), -np.log(2.0)),
                "terminated": np.zeros((N, T), bool),
                "truncated": np.zeros((N, T), bool),
                "mask": np.ones((N, T), bool),
                "final_observation": np.zeros((N, 4)),
            }
        )
    )


@pytest.mark.parametrize("name", CRITICS)
def test_a_missing_critic_is_named_with_the_fix(name: str) -> None:
    with pytest.raises(ValueError, match=r"batch\.value is None.*batch\.replace\(value=critic"):
        pgjax.gradient(CRITICS[name](), POLICY, PARAMS, batch())


@pytest.mark.parametrize("name", [name for name in CRITICS if name != "lambda_return"])
def test_windows_need_the_values_of_their_steps_too(name: str) -> None:
    judged = replace(batch(), next_value=jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"batch\.value is None"):
        pgjax.gradient(CRITICS[name](), POLICY, PARAMS, judged)


@pytest.mark.parametrize(
    "make",
    [
        weights.generalized_advantage,
        weights.mismatched_generalized_advantage,
        weights.lambda_return,
        estimators.actor_critic,
        estimators.mismatched_actor_critic,
    ],
)
@pytest.mark.parametrize(("lambda_", "shown"), [(1.5, "1.5"), (-0.1, "-0.1"), (np.nan, "nan")])
def test_a_lambda_outside_the_unit_interval_is_named(make: Any, lambda_: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=rf"lambda_ must lie in \[0, 1\], got {shown}"):
        make(0.9, lambda_)
    with pytest.raises(ValueError, match=rf"discount must lie in \[0, 1\], got {shown}"):
        make(lambda_, 0.9)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: weights.n_step(0.9, n),
        lambda n: estimators.n_step_actor_critic(0.9, n),
        lambda n: n_step_returns(jnp.ones(3), 0.9, n, jnp.ones(3)),
    ],
)
def test_no_steps_and_half_steps_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        make(0)
    with pytest.raises(TypeError, match=r"n must be an integer, got 2\.5"):
        make(2.5)


def test_n_step_sequences_of_other_lengths_are_named() -> None:
    with pytest.raises(ValueError, match=r"next_value must .*\[T\] = \(3,\), got \(4,\)"):
        n_step_returns(jnp.ones(3), 0.9, 2, jnp.ones(4))
    with pytest.raises(ValueError, match=r"continues must .*\[T\] = \(3,\), got \(2,\)"):
        n_step_returns(jnp.ones(3), 0.9, 2, jnp.ones(3), continues=jnp.ones(2, bool))


def test_a_negative_epsilon_is_named() -> None:
    inner = weights.reward_to_go(0.9)
    for make in (
        lambda: weights.whitened(inner, epsilon=-1.0),
        lambda: baselines.group_deviation(groups.consecutive(2), epsilon=-1.0),
        lambda: estimators.grpo(0.9, groups.consecutive(2), epsilon=-1.0),
    ):
        with pytest.raises(ValueError, match="epsilon must be at least 0, got -1"):
            make()


@pytest.mark.parametrize("one", [groups.consecutive(1), groups.labelled([0, 1, 1, 0, 2])])
def test_leave_one_out_refuses_a_group_of_one(one: groups.Groups) -> None:
    for make in (baselines.group_leave_one_out, lambda groups: pgjax.rloo(0.9, groups=groups)):
        with pytest.raises(ValueError, match="needs groups of at least 2, got a group of 1"):
            make(one)


def test_groups_that_do_not_fit_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="must divide the batch, got 3 for N = 4 trajectories"):
        pgjax.gradient(estimators.dr_grpo(0.9, groups.consecutive(3)), POLICY, PARAMS, batch())
    parts = groups.labelled([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match=r"\[N\] = \(4,\), one for each trajectory, got \(6,\)"):
        pgjax.gradient(estimators.dr_grpo(0.9, parts), POLICY, PARAMS, batch())


def test_group_sizes_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="group_size must be at least 1, got 0"):
        groups.consecutive(0)
    half: Any = 1.5
    with pytest.raises(TypeError, match=r"group_size must be an integer, got 1\.5"):
        groups.consecutive(half)


def test_ids_that_are_none_are_refused() -> None:
    bad: Any = jnp.zeros((2, 2), int)
    with pytest.raises(ValueError, match=r"ids must have shape \[N\].*got \(2, 2\)"):
        groups.labelled(bad)
    with pytest.raises(TypeError, match="ids must be integers, got float32"):
        groups.labelled(jnp.zeros(3))
    with pytest.raises(ValueError, match="ids must lie in 0 to 1, got 2"):
        groups.labelled([0, 1, 2, 0], num_groups=2)
    with pytest.raises(ValueError, match="ids must lie in 0 to 1, got -1"):
        groups.labelled([0, 1, -1])
    with pytest.raises(ValueError, match="num_groups must be given if ids are traced"):
        jax.jit(lambda ids: groups.labelled(ids).total(jnp.ones(2)))(jnp.zeros(2, int))


def total(ids: jax.Array) -> jax.Array:
    return groups.labelled(ids, num_groups=2).total(jnp.array([1.0, 2.0, 4.0]))


checked_total = pgjax.checked(total)


@pytest.mark.parametrize("wrong", [-1, 2])
def test_a_traced_id_outside_gives_nan_and_an_error_when_checked(wrong: int) -> None:
    ids = np.array([0, wrong, 0])
    np.testing.assert_array_equal(jax.jit(total)(ids), [5.0, np.nan, 5.0])
    with pytest.raises(ValueError, match=f"ids must lie in 0 to 1, got {wrong}"):
        checked_total(ids)


def test_a_hidden_batch_gives_no_gradient_and_no_nan() -> None:
    hidden = replace(batch(), mask=np.zeros((4, 3), bool), value=np.full((4, 3), np.nan))
    pairs = groups.consecutive(2)
    made = [make() for make in CRITICS.values()]
    made += [estimators.grpo(0.9, pairs), estimators.dr_grpo(0.9, pairs)]

    @jax.jit
    def gradients(hidden: Trajectory) -> list[Any]:
        return [pgjax.gradient(estimator, POLICY, PARAMS, hidden) for estimator in made]

    for found in gradients(hidden):
        np.testing.assert_array_equal(found, np.zeros((4, 2)))
