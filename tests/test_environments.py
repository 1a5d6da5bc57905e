"""The surface: records of functions roll out as gymnax's objects do; what does not fit says so.

gymnax runs under neither strict promotion nor, everywhere, x64: these tests use JAX's defaults.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import chex
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pgjax
from pgjax import environments, tabular
from pgjax.environments import from_gymnax, from_tabular, libraries
from pgjax.environments.base import (
    Box,
    Discrete,
    Environment,
    MultiDiscrete,
    Step,
    limited,
    seen,
    stable,
)
from pgjax.environments.conversion import as_environment
from pgjax.policies import factored_policy, multi_discrete_policy
from pgjax.types import MaskedObservation, RecurrentPolicy

pytestmark = pytest.mark.usefixtures("checked_annotations")

MDP = tabular.random_mdp()
POLICY = pgjax.tabular_softmax(4, 2)
TABLE = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
SIZES: dict[str, Any] = {"num_trajectories": 5, "num_steps": 7}
KEY = jax.random.key(3)


def walk(space: Any, move: Callable[[Any], Any], **fields: Any) -> Environment:
    """A walk along the integers from 0, ended at 3; every step pays 1."""

    def init(key: Any) -> Any:
        return jnp.int32(0), Step(jnp.zeros(1), 0.0, False, False)

    def step(key: Any, place: Any, action: Any) -> Any:
        place = place + move(action)
        return place, Step(place[None].astype(float), 1, place >= 3, False)

    return Environment(init, step, space, name="walk", **fields)


FORWARD = walk(Discrete(2), lambda action: action)


def constant(num_actions: int) -> pgjax.Policy:
    """The same distribution whatever is seen; its logits are the parameters."""
    return pgjax.softmax_policy(lambda key, s: jnp.zeros(num_actions), lambda params, s: params)


def gaussian(size: int) -> pgjax.Policy:
    return pgjax.gaussian_policy(
        lambda key, s: jnp.zeros(size), lambda params, s: (params, jnp.zeros(size))
    )


# One surface for every kind of environment.


def test_a_table_as_a_record_gives_the_very_trajectories_of_the_table() -> None:
    one = pgjax.rollout(POLICY, TABLE, MDP, KEY, **SIZES)
    other = pgjax.rollout(POLICY, TABLE, from_tabular.adapt(MDP), KEY, **SIZES)
    chex.assert_trees_all_equal(one, other)
    assert np.any(one.terminated)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_a_named_environment_gives_the_very_trajectories_of_gymnax(name: str) -> None:
    environment, params = gymnax.make(name)
    policy = constant(2) if name == "CartPole-v1" else gaussian(1)
    start = jnp.zeros(2 if name == "CartPole-v1" else 1)
    one = pgjax.rollout(policy, start, environment, KEY, **SIZES)
    named = environments.make(name)
    other = pgjax.rollout(policy, start, named, KEY, **SIZES)
    assert (named.name, named.time_limit) == (name, params.max_steps_in_episode)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        # Parameters are constants in the one program and arguments of the other.
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_gradients_moments_training_and_evaluation_take_a_record() -> None:
    record, estimator = from_tabular.adapt(MDP), pgjax.reward_to_go(0.9)
    batch = pgjax.rollout(POLICY, TABLE, record, KEY, **SIZES)
    expected = pgjax.gradient(estimator, POLICY, TABLE, batch)
    found = pgjax.sampled_gradient(estimator, POLICY, TABLE, record, KEY, **SIZES)
    moments = pgjax.sampled_moments(estimator, POLICY, TABLE, record, KEY, **SIZES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moments.mean, expected, rtol=1e-4, atol=1e-6)
    settings: dict[str, Any] = {"estimator": estimator, "optimizer": optax.sgd(0.1), **SIZES}
    results = [
        next(pgjax.training.train(POLICY, TABLE, e, KEY, num_updates=1, **settings))
        for e in (record, MDP)
    ]
    chex.assert_trees_all_equal(*results)
    returns = pgjax.training.evaluate(POLICY, TABLE, record, KEY, **SIZES)
    np.testing.assert_allclose(returns, np.sum(batch.reward, axis=1), rtol=1e-6)


def counted(policy: pgjax.Policy) -> tuple[pgjax.Policy, list]:
    """A policy that notes each time it is traced."""
    traced: list[Any] = []

    def sample(params: Any, key: Any, observation: Any) -> Any:
        traced.append(observation)
        return policy.sample(params, key, observation)

    return replace(policy, sample=sample), traced


def test_other_parameters_or_the_same_functions_in_a_new_record_do_not_compile_again() -> None:
    environment, params = gymnax.make("CartPole-v1")
    policy, traced = counted(constant(2))

    def traces(environment: Any) -> int:
        before = len(traced)
        pgjax.rollout(policy, jnp.zeros(2), environment, KEY, **SIZES)
        return len(traced) - before

    assert traces(environment) > 0
    assert traces(from_gymnax.adapt(environment, params)) == 0
    assert traces(from_gymnax.adapt(environment, params.replace(gravity=1.6, length=0.7))) == 0
    assert traces(replace(FORWARD, time_limit=1000)) > 0
    assert traces(replace(FORWARD, time_limit=1001)) == 0
    assert traces(replace(FORWARD, name="other")) > 0  # the control: another program


def test_evaluations_of_other_parameters_do_not_compile_again() -> None:
    policy, traced = counted(constant(2))

    def traces(num_steps: int) -> int:
        before = len(traced)
        params = np.full(2, before, np.float32)
        sizes = {"num_trajectories": 5, "num_steps": num_steps}
        pgjax.training.evaluate(policy, params, FORWARD, KEY, **sizes)
        return len(traced) - before

    assert traces(7) > 0
    assert traces(7) == 0
    assert traces(8) > 0  # the control: another program


def test_a_policy_of_callables_without_a_hash_rolls_out() -> None:
    class Logits:
        def __eq__(self, other: object) -> bool:
            return self is other

        def __call__(self, params: Any, observation: Any) -> Any:
            return params

    logits = Logits()
    with pytest.raises(TypeError, match="unhashable"):
        hash(logits)
    inner = constant(2)
    policy = replace(inner, log_prob=logits)
    batch = pgjax.rollout(policy, jnp.zeros(2), FORWARD, KEY, **SIZES)
    assert batch.reward.shape == (5, 7)


# Dtypes, limits, masks.


def drifting() -> Environment:
    return Environment(
        init=lambda key: (jnp.int32(0), Step(jnp.int8(0), 0, False, False)),
        step=lambda key, x, action: (x + 0.5, Step(x * 1.0, 1, x > 1, False)),
        action_space=Discrete(2),
    )


def test_a_drifting_environment_has_the_wider_dtype_throughout() -> None:
    environment = stable(drifting())
    start = jax.eval_shape(environment.init, KEY)
    following = jax.eval_shape(environment.step, KEY, start[0], jnp.int32(0))
    one, other = ([(x.dtype, x.weak_type) for x in jax.tree.leaves(t)] for t in (start, following))
    assert one == other
    batch = pgjax.rollout(constant(2), jnp.zeros(2), drifting(), KEY, **SIZES)
    batch = jax.device_get(batch)
    np.testing.assert_array_equal(batch.observation[0, :4], [0, 0, 0.5, 1.0])
    assert batch.reward.dtype == jnp.float32
    np.testing.assert_array_equal(np.sum(batch.mask, axis=1), 4)


def test_an_environment_that_is_stable_stays_as_it_is_and_a_changed_one_is_made_so_again() -> None:
    once = stable(drifting())
    assert stable(once) is once
    other_actions = replace(once, action_space=Box((-1.0,), (1.0,), (1,)))
    assert stable(other_actions) is not other_actions
    changed = replace(once, step=drifting().step)
    start = jax.eval_shape(once.init, KEY)[0]
    dtypes = [
        jax.eval_shape(environment.step, KEY, start, jnp.int32(0))[1].reward.dtype
        for environment in (changed, stable(changed))
    ]
    assert dtypes == [jnp.int32, jnp.float32]


def test_an_environment_whose_step_has_another_shape_is_named() -> None:
    shapes = replace(
        drifting(),
        name="odd",
        step=lambda key, x, action: (x, Step(jnp.zeros(2), 1.0, False, False)),
    )
    with pytest.raises(
        TypeError, match=r"odd: step.observation must keep its shape, got \(\) from init and \(2,"
    ):
        stable(shapes).init(KEY)
    rewards = replace(
        drifting(),
        name="odd",
        init=lambda key: (0.0, Step(0, jnp.zeros(2), False, False)),
        step=lambda key, x, action: (x, Step(0, jnp.zeros(2), False, False)),
    )
    with pytest.raises(TypeError, match=r"odd: step.reward must be a scalar, got shape \(2,\)"):
        stable(rewards).init(KEY)
    masks = replace(
        drifting(),
        name="odd",
        step=lambda key, x, action: (x, Step(0, 0.0, False, False, jnp.ones(2, bool))),
    )
    with pytest.raises(TypeError, match=r"odd: init and step must return .* of one structure"):
        stable(masks).init(KEY)


def test_a_limit_truncates_and_leaves_termination_alone() -> None:
    for limit in (2, 3, 9):
        environment = limited(FORWARD, limit)
        state, shown = environment.init(KEY)
        assert not shown.truncated
        for time in (1, 2, 3):
            state, shown = environment.step(KEY, state, jnp.int32(1))
            assert (bool(shown.terminated), bool(shown.truncated)) == (time == 3, time >= limit)
    assert limited(FORWARD, None) is FORWARD
    assert limited(limited(FORWARD, 4), 6).time_limit == 4
    with pytest.raises(ValueError, match="time_limit must be at least 1, got 0"):
        limited(FORWARD, 0)


def masked_walk() -> Environment:
    """Backwards is illegal at 0; in the terminal state nothing is legal."""

    def show(place: Any) -> Any:
        mask = jnp.array([False, True]) | (place > 0)
        step = Step(place[None].astype(float), 1.0, place >= 3, False, mask & (place < 3))
        return place, step

    return Environment(
        init=lambda key: show(jnp.int32(0)),
        step=lambda key, place, action: show(place + 2 * action - 1),
        action_space=Discrete(2),
    )


def test_a_policy_sees_the_mask_and_never_acts_against_it() -> None:
    batch = pgjax.rollout(
        constant(2), jnp.zeros(2), masked_walk(), KEY, num_trajectories=32, num_steps=9
    )
    assert isinstance(batch.observation, MaskedObservation)
    place = np.asarray(batch.observation.observation)[..., 0]
    mask = np.asarray(batch.mask)
    at_the_wall = mask & (place == 0)
    np.testing.assert_array_equal(np.asarray(batch.action)[at_the_wall], 1)
    np.testing.assert_array_equal(np.asarray(batch.log_prob)[at_the_wall], 0)
    assert np.any(np.asarray(batch.action)[mask & ~at_the_wall] == 0)
    found = pgjax.log_probs(constant(2), jnp.zeros(2), batch)
    np.testing.assert_allclose(np.where(mask, found, 0), batch.log_prob, atol=1e-6)


def test_in_a_terminal_state_every_action_counts_as_legal() -> None:
    none = jnp.zeros(2, bool)
    ended = seen(Step(jnp.zeros(1), 0.0, jnp.bool_(True), jnp.bool_(True), none))
    cut = seen(Step(jnp.zeros(1), 0.0, jnp.bool_(False), jnp.bool_(True), none))
    np.testing.assert_array_equal(ended.action_mask, [True, True])
    np.testing.assert_array_equal(cut.action_mask, [False, False])

    def total(params: Any) -> Any:
        batch = pgjax.rollout(constant(2), params, masked_walk(), KEY, **SIZES)
        return jnp.sum(batch.log_prob)

    assert np.isfinite(pgjax.checked(total)(jnp.zeros(2)))  # "no legal action" is an error there


# Actions.


def test_a_policy_whose_actions_do_not_fit_is_an_error_that_names_both() -> None:
    box = walk(Box((-1.0,) * 4, (1.0,) * 4, (2, 2)), lambda a: jnp.int32(1))
    choices = walk(MultiDiscrete((2, 3)), lambda a: a[0])
    pair = multi_discrete_policy(lambda k, s: jnp.zeros(5), lambda p, s: p, num_actions=(2, 3))
    for policy, size, environment, message in (
        (
            gaussian(1),
            1,
            FORWARD,
            r"samples float32\[1\] actions, and walk takes Discrete\(n",
        ),
        (gaussian(1), 1, FORWARD, r"; use softmax_policy or flax_policy"),
        (pair, 5, FORWARD, r"samples int32\[2\] actions, and walk takes Discrete"),
        (constant(2), 2, box, r"samples int32\[\] actions, and walk takes Box\(low=\(-1.0"),
        (constant(2), 2, box, r"; use gaussian_policy or flax_gaussian_policy over 4 dimensions"),
        (gaussian(3), 3, box, r"samples float32\[3\] actions, and walk takes Box"),
        (constant(2), 2, choices, r"takes MultiDiscrete\(.*; use multi_discrete_policy"),
    ):
        with pytest.raises(TypeError, match=message):
            pgjax.rollout(policy, jnp.zeros(size), environment, KEY, **SIZES)
    cartpole = gymnax.make("CartPole-v1")[0]
    with pytest.raises(TypeError, match="CartPole-v1 takes Discrete"):
        pgjax.sampled_gradient(
            pgjax.reward_to_go(1.0), gaussian(1), jnp.zeros(1), cartpole, KEY, **SIZES
        )


def test_real_vectors_arrive_in_the_shape_of_the_box_and_are_not_clipped() -> None:
    space = Box((-1.0,) * 4, (1.0,) * 4, (2, 2))

    def step(key: Any, state: Any, action: Any) -> Any:
        assert action.shape == (2, 2)
        return action, Step(action, action[1, 0], False, False)

    echo = Environment(
        lambda key: (jnp.zeros((2, 2)), Step(jnp.zeros((2, 2)), 0.0, False, False)), step, space
    )
    batch = jax.device_get(pgjax.rollout(gaussian(4), np.full(4, 5.0), echo, KEY, **SIZES))
    assert batch.action.shape == (5, 7, 4)
    np.testing.assert_array_equal(batch.reward, batch.action[..., 2])
    np.testing.assert_array_equal(batch.observation[:, 1:].reshape(5, 6, 4), batch.action[:, :-1])
    assert np.min(batch.action) > 0.5
    assert np.max(batch.action) > 1


def test_several_choices_and_factored_actions_pass_through() -> None:
    pair = multi_discrete_policy(lambda k, s: jnp.zeros(5), lambda p, s: p, num_actions=(2, 3))
    batch = pgjax.rollout(
        pair, jnp.zeros(5), walk(MultiDiscrete((2, 3)), lambda a: a[0] + a[1]), KEY, **SIZES
    )
    assert batch.action.shape == (5, 7, 2)
    both = factored_policy({"gear": constant(2), "wheel": gaussian(3)})
    params = {"gear": jnp.zeros(2), "wheel": jnp.zeros(3)}
    spaces = {"gear": Discrete(2), "wheel": Box((-1.0,) * 3, (1.0,) * 3, (3,))}
    car = walk(spaces, lambda a: a["gear"])
    batch = pgjax.rollout(both, params, car, KEY, **SIZES)
    assert jax.tree.map(jnp.shape, batch.action) == {"gear": (5, 7), "wheel": (5, 7, 3)}
    with pytest.raises(
        TypeError, match=r"'float32\[3\]'}, and walk takes Discrete.*factored_policy"
    ):
        pgjax.rollout(both, params, FORWARD, KEY, **SIZES)
    found = pgjax.gradient(pgjax.reward_to_go(1.0), both, params, batch)
    assert all(np.all(np.isfinite(np.asarray(x))) for x in jax.tree.leaves(found))


# Memory.


def leaky(num_actions: int = 2) -> RecurrentPolicy:
    """Logits are parameters times a running mean of what was seen and drawn."""

    def move(params: Any, memory: Any, observation: Any) -> tuple[Any, Any]:
        memory = 0.5 * memory + observation[0] + 1.0
        return memory, jax.nn.log_softmax(params * memory)

    def sample(params: Any, key: Any, memory: Any, observation: Any) -> tuple[Any, Any, Any]:
        memory, logits = move(params, memory, observation)
        action = jax.random.categorical(key, logits)
        return memory, action, logits[action]

    def log_prob(params: Any, memory: Any, observation: Any, action: Any) -> tuple[Any, Any]:
        memory, logits = move(params, memory, observation)
        return memory, logits[action]

    return RecurrentPolicy(
        init=lambda key, observation: jnp.zeros(num_actions),
        memory=lambda params: jnp.zeros(()),
        sample=sample,
        log_prob=log_prob,
        entropy=lambda params, memory, observation: jnp.zeros(()),
    )


def test_a_memory_is_carried_along_the_episode_and_begins_anew_with_the_next() -> None:
    params, policy = np.array([0.3, -0.2], np.float32), leaky()
    batch = pgjax.rollout(policy, params, FORWARD, KEY, num_trajectories=6, num_steps=70)
    batch = jax.device_get(batch)
    mask, sample = batch.mask, jax.jit(policy.sample)
    assert len(set(mask.sum(axis=1))) > 1, "episodes of several lengths"
    for i, (_, actions, _) in enumerate(jax.random.split(KEY, (6, 3))):
        memory, place = np.float32(0), 0
        for t in range(int(mask[i].sum())):
            key = jax.random.fold_in(actions, t)
            seen = np.array([place], np.float32)
            memory, action, log_prob = sample(params, key, memory, seen)
            assert int(batch.action[i, t]) == int(action)
            np.testing.assert_allclose(batch.log_prob[i, t], log_prob, rtol=1e-5)
            place += int(action)
        assert place == 3 or mask[i].sum() == 70
    # The control: scored with a memory that is always new, steps after the first differ.
    score = jax.jit(policy.log_prob)
    fresh, kept = (
        float(score(params, np.float32(memory), batch.observation[0, 1], 0)[1])
        for memory in (0.0, 1.0)
    )
    assert abs(fresh - kept) > 1e-3


def test_a_memory_may_be_a_pytree_with_leaves_of_any_dtype() -> None:
    script = jnp.array([1, 0, 1, 1, 0, 0, 0], jnp.int32)
    scripted = RecurrentPolicy(
        init=lambda key, observation: jnp.zeros(()),
        memory=lambda params: {"time": jnp.int32(0), "empty": jnp.zeros((0, 3))},
        sample=lambda params, key, memory, observation: (
            memory | {"time": memory["time"] + 1}, script[memory["time"]], jnp.zeros(())),
        log_prob=lambda params, memory, observation, action: (memory, jnp.zeros(())),
        entropy=lambda params, memory, observation: jnp.zeros(()),
    )  # fmt: skip
    batch = pgjax.rollout(scripted, jnp.zeros(()), FORWARD, KEY, **SIZES)
    np.testing.assert_array_equal(batch.mask, [[True] * 4 + [False] * 3] * 5)
    np.testing.assert_array_equal(batch.action[:, :4], [[1, 0, 1, 1]] * 5)


# Names and errors.


def test_unknown_names_come_with_near_matches() -> None:
    for name, message in (
        ("CartPole", "unknown environment 'CartPole'; did you mean CartPole-v1"),
        ("breakout-minatar", "did you mean Breakout-MinAtar"),
        ("zzz", "known: Acrobot-v1"),
        ("MNISTBandit-bsuite", "downloads a data set"),
        ("brx/ant", "did you mean brax/ant"),
        (
            "atari/pong",
            "names of other libraries begin with brax/, jumanji/, pgx/, navix/, craftax/",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            environments.make(name)
    with pytest.raises(TypeError, match="name must be a string"):
        environments.make(None)  # type: ignore[arg-type]


def test_a_library_that_is_missing_is_named_with_the_way_to_install_it() -> None:
    with pytest.raises(ImportError, match=r"no_such_world .*pip install \"policy-gradient-jax\[en"):
        libraries.library("no_such_world")


def test_what_is_no_environment_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a pgjax Environment, .*got a tuple"):
        as_environment(("CartPole-v1", None))
    with pytest.raises(TypeError, match=r"got the string 'CartPole-v1'; pgjax.environments.make"):
        pgjax.rollout(POLICY, TABLE, "CartPole-v1", KEY, **SIZES)  # pyright: ignore[reportArgumentType]


def test_what_traced_parameters_decide_is_not_known() -> None:
    environment, params = gymnax.make("Pendulum-v1")
    found = []

    def trace(params: Any) -> Any:
        found.append(from_gymnax.adapt(environment, params))
        return params.max_torque

    jax.jit(trace)(params)
    assert found[0].action_space == Box((-np.inf,), (np.inf,), (1,))
    assert found[0].time_limit is None
    assert from_gymnax.adapt(environment, params).action_space == Box((-2.0,), (2.0,), (1,))
