"""Bad input: an error at the public boundary that names the argument, what it was, what was needed.

Annotations are not checked here: they would speak before the library does.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from benchmarks.rows.compilations import compilations
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
from pgjax.core.float64 import to_jax
from pgjax.core.validation import check_key
from pgjax.returns import discounted_returns, generalized_advantages, lambda_returns, td_errors
from tests.shared import rows

POLICY = pgjax.tabular_softmax(4, 2)
PARAMS = jax.device_put(np.zeros((4, 2)))
FIRST = jax.device_put(np.int32(0))  # an action
SIZES: dict[str, Any] = {"num_trajectories": 2, "num_steps": 3}


@cache
def batch(N: int = 2, T: int = 3) -> Trajectory:
    return Trajectory(
        **jax.device_put(
            {
                "observation": np.full((N, T, 4), 0.25),
                "action": np.zeros((N, T), int),
                "reward": np.ones((N, T)),
                "log_prob": np.zeros((N, T)),
                "terminated": np.zeros((N, T), bool),
                "truncated": np.zeros((N, T), bool),
                "mask": np.ones((N, T), bool),
                "final_observation": np.zeros((N, 4)),
            }
        )
    )


def changed(array: Any, where: tuple, value: float) -> np.ndarray:
    """A copy with another value in one place."""
    array = np.array(array)
    array[where] = value
    return array


@pytest.mark.parametrize(("discount", "shown"), [(1.5, "1.5"), (-0.1, "-0.1"), (np.nan, "nan")])
@pytest.mark.parametrize(
    "function",
    [
        lambda discount: discounted_returns(jnp.ones(3), discount),
        lambda discount: td_errors(jnp.ones(3), discount, jnp.ones(3), jnp.ones(3)),
        pgjax.reinforce,
        pgjax.reward_to_go,
        pgjax.mismatched_reward_to_go,
        pgjax.rloo,
        lambda discount: tabular.random_mdp(discount=discount),
    ],
)
def test_a_discount_outside_the_unit_interval_is_named(
    function: Any, discount: float, shown: str
) -> None:
    with pytest.raises(ValueError, match=rf"discount must lie in \[0, 1\], got {shown}"):
        function(discount)


def test_one_bad_discount_in_a_sequence_is_named() -> None:
    with pytest.raises(ValueError, match=r"discount must lie in \[0, 1\], got 1.5"):
        discounted_returns(jnp.ones(3), jnp.array([0.5, 1.5, 1.0]))


def test_a_rate_of_another_length_than_the_reward_is_refused() -> None:
    value = jnp.ones(3)
    with pytest.raises(ValueError, match=r"discount must .*got \(2,\)"):
        td_errors(jnp.ones(3), jnp.ones(2), value, value)
    with pytest.raises(ValueError, match=r"lambda_ must .*got \(1,\)"):
        lambda_returns(jnp.ones(3), 0.9, jnp.ones(1), value)


def test_one_bad_discount_in_a_traced_sequence_is_named() -> None:
    run = pgjax.checked(lambda discount: discounted_returns(jnp.ones(3), discount))
    with pytest.raises(ValueError, match=r"discount must lie in \[0, 1\], got 1.5"):
        run(jnp.array([0.5, 1.5, 0.25]))


def test_a_traced_discount_is_checked_on_request() -> None:
    checked = pgjax.checked(discounted_returns)
    np.testing.assert_array_equal(checked(jnp.ones(3), jnp.float32(0.5)), [1.75, 1.5, 1.0])
    with pytest.raises(ValueError, match=r"discount must lie in \[0, 1\], got 1.5"):
        checked(jnp.ones(3), jnp.float32(1.5))


def test_a_discount_that_is_no_number_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="discount must be a real number"):
        pgjax.reinforce("0.9")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("function", [generalized_advantages, lambda_returns])
def test_a_lambda_outside_the_unit_interval_is_named(function: Any) -> None:
    values = [jnp.ones(3)] * (2 if function is generalized_advantages else 1)
    with pytest.raises(ValueError, match=r"lambda_ must lie in \[0, 1\], got 2"):
        function(jnp.ones(3), 0.9, 2.0, *values)


def test_a_column_against_a_row_is_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"reward must have shape \[T\], got \(3, 1\)"):
        discounted_returns(jnp.ones((3, 1)), 0.9)
    with pytest.raises(ValueError, match=r"value must .*got \(3, 1\)"):
        td_errors(jnp.ones(3), 0.9, jnp.ones((3, 1)), jnp.ones(3))
    with pytest.raises(ValueError, match=r"next_value must .*\[T\] = \(3,\), got \(4,\)"):
        td_errors(jnp.ones(3), 0.9, jnp.ones(3), jnp.ones(4))
    with pytest.raises(ValueError, match=r"bootstrap_value must be a scalar, got shape \(3,\)"):
        discounted_returns(jnp.ones(3), 0.9, jnp.ones(3))


def test_boolean_and_integer_rewards_are_counted_in_float32() -> None:
    for reward in (jnp.array([True, False, True]), jnp.array([1, 0, 1])):
        found = discounted_returns(reward, 0.5)
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, [1.25, 0.5, 1.0])


@pytest.mark.parametrize("under", [pgjax.surrogate, pgjax.gradient, pgjax.per_trajectory_gradients])
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda b: None, TypeError, r"batch must be a pgjax.Trajectory, got None"),
        (lambda b: rows(b, 0), ValueError, r"\[N, T\], got \(3,\)"),
        (lambda b: rows(b, slice(0)), ValueError, r"at least one .*N = 0"),
        (
            lambda b: replace(b, reward=np.asarray(b.reward)[..., None]),
            ValueError,
            r"got \(2, 3, 1\)",
        ),
        (
            lambda b: replace(b, mask=np.asarray(b.mask)[:, :1]),
            ValueError,
            r"batch.mask .*got \(2, 1\)",
        ),
        (
            lambda b: replace(b, log_prob=np.asarray(b.log_prob)[..., None]),
            ValueError,
            r"batch.log_prob",
        ),
        (lambda b: replace(b, value=np.ones(2)), ValueError, r"batch.value .*got \(2,\)"),
        (
            lambda b: replace(b, action=np.asarray(b.action)[:1]),
            ValueError,
            r"batch.action .*got \(1, 3\)",
        ),
        (lambda b: replace(b, observation=b.final_observation), ValueError, r"batch.observation"),
        (lambda b: replace(b, final_value=b.reward), ValueError, r"batch.final_value .*\[N\]"),
        (
            lambda b: replace(b, mask=b.reward),
            TypeError,
            r"batch.mask must be boolean, got float32",
        ),
        (lambda b: replace(b, terminated=b.action), TypeError, r"batch.terminated .*got int32"),
    ],
)
def test_a_batch_laid_out_wrongly_is_refused(
    under: Any, bad: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        under(pgjax.reinforce(0.9), POLICY, PARAMS, bad(batch()))


def test_an_integer_parameter_is_named_by_its_path() -> None:
    policy = pgjax.softmax_policy(lambda key, s: {}, lambda params, s: params["w"] * 1.0)
    params = {"w": jnp.zeros(2), "steps": jnp.array(3)}
    for derive in (pgjax.gradient, pgjax.per_trajectory_gradients):
        with pytest.raises(TypeError, match=r"params\['steps'\] must be floating .*got int32"):
            derive(pgjax.reinforce(0.9), policy, params, batch())


def test_the_parts_of_an_estimator_must_keep_the_shape() -> None:
    short = pgjax.Estimator(lambda batch, log_prob: log_prob[:, :1], pgjax.terms.score)
    with pytest.raises(ValueError, match=r"estimator.weights .*\(2, 3\), got \(2, 1\)"):
        pgjax.gradient(short, POLICY, PARAMS, batch())
    summed = replace(
        pgjax.reinforce(0.9), term=lambda log_prob, _, weight, mask: jnp.sum(log_prob * weight)
    )
    with pytest.raises(ValueError, match=r"estimator.term .*\(3,\), got \(\)"):
        pgjax.gradient(summed, POLICY, PARAMS, batch())


@pytest.mark.parametrize(
    ("make", "given", "words"),
    [
        (
            lambda x: Estimator(x, terms.score),
            pgjax.reward_to_go(0.9),
            r"weights must be .* got an Estimator; use pgjax\.weights\.reward_to_go",
        ),
        (
            lambda x: Estimator(weights.reward_to_go(0.9), x),
            pgjax.reinforce(0.9),
            r"term must be .* got an Estimator; use pgjax\.terms\.score",
        ),
        (
            weights.whitened,
            Estimator(off_policy.vtrace(0.9), terms.score),
            r"weights must be .* use pgjax\.weights\.off_policy\.vtrace",
        ),
        (
            off_policy.on_target_states,
            Estimator(lambda batch, _: batch.reward, terms.score),
            "credit must be .* got an Estimator; use its weights",
        ),
        (
            lambda x: Estimator(weights.reward_to_go(0.9), x),
            0.2,
            r"term must be .* got 0.2; see pgjax\.terms",
        ),
        (
            lambda x: pgjax.reinforce(0.9, baseline=x),
            0.5,
            r"baseline must be .* got 0.5; use pgjax\.baselines\.constant\(0.5\)",
        ),
    ],
)
def test_an_estimator_or_a_number_in_place_of_a_function_is_refused(
    make: Callable, given: Any, words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        make(given)


def test_baselines_say_what_they_lack() -> None:
    with pytest.raises(ValueError, match="at least 2 trajectories, got N = 1"):
        pgjax.gradient(pgjax.rloo(0.9), POLICY, PARAMS, batch(N=1))
    with pytest.raises(ValueError, match=r"batch.value is None"):
        pgjax.gradient(
            pgjax.reward_to_go(0.9, baseline=baselines.recorded_value), POLICY, PARAMS, batch()
        )
    baseline = baselines.per_time_step(jnp.ones(4))
    with pytest.raises(ValueError, match=r"per_time_step .*\(3,\), got \(4,\)"):
        pgjax.gradient(pgjax.reward_to_go(0.9, baseline=baseline), POLICY, PARAMS, batch())


# One program for both fields.
checked_gradient = pgjax.checked(
    lambda params, b: pgjax.gradient(pgjax.rloo(0.9), POLICY, params, b)
)


@pytest.mark.parametrize("field", ["reward", "log_prob"])
def test_the_checked_mode_names_the_first_number_that_is_none(field: str) -> None:
    good = batch()
    np.testing.assert_array_equal(
        checked_gradient(PARAMS, good), pgjax.gradient(pgjax.rloo(0.9), POLICY, PARAMS, good)
    )
    bad = replace(good, **{field: changed(getattr(good, field), (1, 2), np.nan)})
    with pytest.raises(ValueError, match=f"batch.{field} is nan at trajectory 1, step 2"):
        checked_gradient(PARAMS, bad)
    after_the_end = replace(bad, mask=changed(bad.mask, (1, 2), False))
    assert np.all(np.isfinite(checked_gradient(PARAMS, after_the_end)))


checked_log_prob = pgjax.checked(POLICY.log_prob)


@pytest.mark.parametrize("action", [2, -1, 10**6])
def test_an_action_out_of_range_is_an_error_and_nan_when_traced(action: int) -> None:
    seen, given = jax.device_put((np.eye(4)[0], np.int32(action)))
    with pytest.raises(ValueError, match=rf"action must lie in 0..1, got {action}"):
        POLICY.log_prob(PARAMS, seen, given)
    assert np.isnan(np.asarray(jax.jit(POLICY.log_prob)(PARAMS, seen, given)))
    with pytest.raises(ValueError, match=rf"action must lie in 0..1, got {action}"):
        checked_log_prob(PARAMS, seen, given)


def test_a_state_without_a_legal_action_is_named() -> None:
    policy = pgjax.softmax_policy(lambda key, s: jnp.zeros(2), lambda params, s: params)
    nowhere = np.full(2, -np.inf)
    assert np.isnan(np.asarray(jax.jit(policy.log_prob)(nowhere, np.zeros(1), 0)))
    with pytest.raises(ValueError, match="state has no legal action"):
        pgjax.checked(policy.log_prob)(nowhere, np.zeros(1), 0)


def test_policies_name_a_wrong_observation_or_parameter() -> None:
    with pytest.raises(ValueError, match=r"observation must be one-hot .*\(4,\), got \(3,\)"):
        POLICY.log_prob(PARAMS, np.zeros(3), FIRST)
    with pytest.raises(ValueError, match=r"params must have shape .*\(4, 2\), got \(2, 4\)"):
        POLICY.log_prob(np.zeros((2, 4)), np.zeros(4), FIRST)
    linen = pgjax.flax_policy(pgjax.MLP(2, ()))
    params = linen.init(jax.random.key(0), np.zeros(4))
    with pytest.raises(
        ValueError, match=r"must hold the 'params' collection alone, got \['Dense_0'"
    ):
        linen.log_prob(params["params"], np.zeros(4), FIRST)
    flat = pgjax.softmax_policy(lambda key, s: PARAMS, lambda params, s: params)
    with pytest.raises(ValueError, match=r"logits must have shape \[A\] .*got \(4, 2\)"):
        flat.log_prob(PARAMS, np.zeros(4), FIRST)
    with pytest.raises(TypeError, match=r"module must be a flax.linen module.*got 3"):
        pgjax.flax_policy(3)
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"num_actions must be at least 1, got {count}"):
            pgjax.tabular_softmax(4, count)
    with pytest.raises(TypeError, match=r"num_states must be an integer, got 2\.5"):
        pgjax.tabular_softmax(2.5, 2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"ConvNet needs an image .*\(4,\)"):
        pgjax.flax_policy(pgjax.ConvNet(num_actions=2)).init(jax.random.key(0), np.zeros(4))


def test_rollout_refuses_what_is_no_environment_key_or_size() -> None:
    mdp = tabular.random_mdp()
    key = jax.random.key(0)
    wanted = r"environment must be .*got a tuple; pgjax.environments.make"
    with pytest.raises(TypeError, match=wanted):
        pgjax.rollout(POLICY, PARAMS, ("x", "y"), key, **SIZES)  # pyright: ignore
    for bad, shown in ((0, "0"), (np.zeros(3, np.float32), "float32"), (None, "None")):
        with pytest.raises(TypeError, match=rf"key must be a jax.random key, got {shown}"):
            pgjax.rollout(POLICY, PARAMS, mdp, bad, **SIZES)  # pyright: ignore
    with pytest.raises(ValueError, match=r"key must be a single key.*\(2,\)"):
        pgjax.rollout(POLICY, PARAMS, mdp, jax.random.split(key), **SIZES)
    for name in SIZES:
        none: dict[str, Any] = SIZES | {name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            pgjax.rollout(POLICY, PARAMS, mdp, key, **none)
        true: dict[str, Any] = SIZES | {name: True}
        with pytest.raises(TypeError, match=f"{name} must be an integer, got True"):
            pgjax.rollout(POLICY, PARAMS, mdp, key, **true)


def test_every_key_is_turned_into_a_threefry_key_of_its_bits() -> None:
    bits = [1, 2], [1, 2, 1, 2], [1, 2, 2, 1], [1, 2, 0, 0]
    words = jax.device_put([np.array(x, np.uint32) for x in bits])
    plain = [check_key(x) for x in words]
    typed = [check_key(jax.random.wrap_key_data(x, impl="rbg")) for x in words[1:]]
    found = [np.asarray(jax.random.key_data(key)) for key in plain]
    assert {jax.random.key_impl(key) for key in (*plain, *typed)} == {"threefry2x32"}
    np.testing.assert_array_equal(found[0], words[0])  # its own bits
    np.testing.assert_array_equal(found[1:], [jax.random.key_data(key) for key in typed])
    assert len({tuple(x) for x in found}) == 4
    with jax.default_prng_impl("rbg"):  # a raw threefry key is one under any default
        np.testing.assert_array_equal(jax.random.key_data(check_key(words[0])), words[0])
        raw = jax.random.PRNGKey(0)
        jax.eval_shape(lambda: pgjax.rollout(POLICY, PARAMS, tabular.random_mdp(), raw, **SIZES))
        stream = pgjax.windows.start(tabular.random_mdp(), jax.random.key(0), 2)
        assert jax.random.key_impl(stream.keys) == "threefry2x32"
    with pytest.raises(TypeError, match=r"key must be a jax.random key, got uint32\[3\]"):
        check_key(np.zeros(3, np.uint32))


GOOD: dict[str, Any] = {
    "transition": np.full((3, 2, 3), 1 / 3),
    "reward": np.ones((3, 2, 3)),
    "initial": np.array([0.5, 0.5, 0.0]),
    "terminal": np.array([False, False, True]),
    "discount": 0.9,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"transition": changed(GOOD["transition"], (1, 0, 2), 0.5)},
            r"state 1, action 0\) must sum",
        ),
        (
            {"transition": changed(GOOD["transition"], (0, 1, 2), -1)},
            r"state 0, action 1\).*negative",
        ),
        ({"transition": changed(GOOD["transition"], (0, 1, 2), np.nan)}, r"state 0, action 1\)"),
        ({"transition": np.ones((3, 2))}, r"transition must have shape \[S, A, S\], got \(3, 2\)"),
        ({"reward": np.ones((3, 2))}, r"reward must have shape .*\(3, 2, 3\), got \(3, 2\)"),
        (
            {"reward": changed(GOOD["reward"], (0, 1, 2), np.nan)},
            r"reward\[0, 1, 2\] must be finite",
        ),
        ({"initial": np.ones(3)}, r"initial must sum to 1, got 3"),
        ({"initial": np.eye(3)[2]}, r"initial must be zero on terminal states.*state 2"),
        ({"initial": np.ones(2) / 2}, r"initial must have shape .*got \(2,\)"),
        ({"terminal": np.zeros(3)}, r"terminal must be boolean .*got float64"),
        ({"discount": 1.01}, r"discount must lie in \[0, 1\], got 1.01"),
        ({"observation": np.ones((2, 3))}, r"one row for each of the 3 states, got \(2, 3\)"),
    ],
)
def test_an_mdp_names_the_state_and_action_that_are_wrong(
    change: dict[str, Any], message: str
) -> None:
    assert tabular.TabularMDP(**GOOD).num_states == 3
    with pytest.raises(ValueError, match=message):
        tabular.TabularMDP(**(GOOD | change))


def test_the_oracles_name_what_they_cannot_judge() -> None:
    mdp = tabular.random_mdp()
    with pytest.raises(TypeError, match=r"mdp must be a pgjax.TabularMDP, got 3"):
        exact.objective(Problem(3, POLICY, PARAMS, 3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        exact.objective(Problem(mdp, POLICY, PARAMS, 0))
    with pytest.raises(TypeError, match="must be floating"):
        exact.gradient(Problem(mdp, POLICY, np.zeros((4, 2), int), 3))
    three = pgjax.tabular_softmax(4, 3)
    with pytest.raises(ValueError, match=r"2 actions; in state 0.*which sum to 0.66"):
        exact.objective(Problem(mdp, three, np.zeros((4, 3)), 3))
    with pytest.raises(ValueError, match=r"horizon 40 gives \d+ trajectories, more than the limit"):
        enumeration.trajectories(Problem(mdp, POLICY, PARAMS, 40))
    with pytest.raises(ValueError, match=r"batch_size 9 over \d+ trajectories gives \d+ multisets"):
        enumeration.moments(
            pgjax.rloo(0.8), Problem(mdp, POLICY, PARAMS, 2), batch_size=9, limit=10_000
        )


def test_a_numpy_array_becomes_jaxs_without_a_program_for_its_shape() -> None:
    given = np.full((3, 17), 1e300), np.ones(19, bool), np.arange(23)
    found: list[Any] = []
    assert compilations(lambda: found.append(to_jax(given))) == 0
    with np.errstate(over="ignore"):
        wanted = jax.tree.map(jnp.asarray, given)
    for x, expected in zip(found[0], wanted, strict=True):
        assert (x.dtype, x.weak_type) == (expected.dtype, expected.weak_type)
        np.testing.assert_array_equal(x, expected)
    assert compilations(lambda: jnp.asarray(np.ones((3, 29)))) == 1  # the control


def test_a_gradient_of_numpy_arrays_is_that_of_jaxs() -> None:
    estimator = pgjax.reinforce(0.9)
    params = np.zeros((4, 2))
    ours = pgjax.gradient(estimator, POLICY, jnp.asarray(params), batch())
    theirs = pgjax.gradient(estimator, POLICY, params, jax.device_get(batch()))
    np.testing.assert_array_equal(ours, theirs)
