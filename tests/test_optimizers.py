"""Optimizers that read the loss get it, or are refused in our words; and nothing to optimize."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pgjax
from pgjax import tabular, terms, training
from pgjax.policies import critics
from pgjax.training import actor_critic, ascent, minibatches
from tests.test_actions import batch_of

MDP = tabular.random_mdp()
POLICY, TABLE = pgjax.tabular_softmax(4, 2), np.zeros((4, 2), np.float32)
AGENT = pgjax.agents.ActorCritic(
    init=lambda key, seen: {"policy": jnp.zeros((4, 2)), "critic": {"w": seen, "b": jnp.zeros(())}},
    policy=POLICY,
    acting=lambda params: params["policy"],
    value=lambda params, seen: jnp.tanh(seen @ params["critic"]["w"]) + params["critic"]["b"],
)
ESTIMATOR = pgjax.reinforce(0.9)
UNIFORM = pgjax.softmax_policy(lambda key, x: (), lambda params, x: jnp.zeros(2))
SIZES: dict[str, Any] = {"num_trajectories": 4, "num_steps": 4}
LINE_SEARCHES = [
    optax.lbfgs(),
    optax.chain(optax.sgd(0.1), optax.scale_by_backtracking_linesearch(5)),
]

SETTINGS = minibatches.Settings(4, 8, 0.9, 0.9, epochs=2, num_minibatches=2)

made: Any = optax.GradientTransformationExtraArgs


BATCH = batch_of(np.random.default_rng(0), N=64, T=5)


def params_and_rows() -> tuple[Any, minibatches.Rows]:
    """Some parameters of the agent, and the rows of some update, all NumPy's."""
    random = np.random.default_rng(0)
    critic = {"w": random.normal(size=4).astype(np.float32), "b": np.float32(0)}
    observation, action = np.eye(4)[random.integers(4, size=32)], random.integers(2, size=32)
    log_prob, advantage, target = random.normal(size=(3, 32))
    rows: Any = observation, action, log_prob / 9 - np.log(2), advantage, target
    return {"policy": TABLE, "critic": critic}, minibatches.Rows(*rows)


def train(policy: Any, params: Any, optimizer: Any) -> list[Any]:
    loop = training.train(
        policy, params, MDP, jax.random.key(0),
        estimator=ESTIMATOR, optimizer=optimizer, num_updates=2, **SIZES,
    )  # fmt: skip
    return list(loop)


def recorder(learning_rate: float) -> Any:
    """Gradient descent whose state is the loss it was given, and how far its parts disagree."""

    def update(updates: Any, _: Any, params: Any = None, **loss: Any) -> Any:
        value, slope = jax.value_and_grad(loss["value_fn"])(params)
        apart = jax.tree.map(lambda x, y: jnp.max(jnp.abs(x - y)), slope, loss["grad"])
        apart = jnp.maximum(jnp.abs(value - loss["value"]), optax.tree.max(apart))
        step = jax.tree.map(lambda x: -learning_rate * x, updates)
        return step, (loss["value"], apart)

    return made(lambda _: (jnp.zeros(()), jnp.zeros(())), update)


def test_an_optimizer_that_reads_the_loss_is_given_minus_the_mean_return():
    reading = made(
        lambda _: jnp.zeros(()), lambda updates, state, params=None, *, value, **_: (updates, value)
    )
    update = jax.jit(partial(training.update, ESTIMATOR, POLICY, reading))
    _, given, metrics = update(TABLE, reading.init(TABLE), BATCH)
    assert float(given) == -float(metrics.mean_return) != 0


def test_the_rate_falls_on_a_plateau():
    """A plateau is what anything is for a tolerance of a million: the rate falls at every step."""
    falling = optax.contrib.reduce_on_plateau(factor=1e-30, patience=1, rtol=0.0, atol=1e6)
    (first, _), (second, _) = train(POLICY, TABLE, optax.chain(optax.sgd(0.1), falling))
    assert not np.array_equal(first, TABLE)
    np.testing.assert_array_equal(first, second)


def test_the_loss_that_minibatches_give_has_the_value_and_the_gradient_they_give():
    params, rows = params_and_rows()
    optimizer, term = recorder(0.1), terms.ppo_clip(0.2)
    improve = jax.jit(partial(minibatches.improve, AGENT, optimizer, SETTINGS, term))
    found: Any = improve(params, optimizer.init(params), rows, jax.random.key(2))
    value, apart = found[1]
    assert value != 0
    assert apart < 1e-6


def test_our_optimizers_step_on_one_vector_as_they_would_on_the_tree():
    with jax.enable_x64(True):
        params, rows = params_and_rows()
        params = jax.tree.map(np.float64, params)
        ours = actor_critic.clipped_adam(0.01, num_gradient_steps=8, max_gradient_norm=0.1)
        unmarked = made(*ours)  # which may tell the leaves apart, as far as anyone knows

        def improved(optimizer: Any, rows: minibatches.Rows) -> Any:
            given = AGENT, optimizer, SETTINGS, terms.ppo_clip(0.2), params, ours.init(params)
            return minibatches.improve(*given, rows, jax.random.key(2))

        both = jax.jit(improved, static_argnums=0)
        found, expected = both(ours, rows), both(unmarked, rows)
        close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13)
        jax.tree.map(close, found, expected)
        assert not np.array_equal(found[0]["policy"], params["policy"])
        # Adam takes a root for each leaf.
        roots, more = (str(both.trace(x, rows).jaxpr).count("= sqrt") for x in (ours, unmarked))
        assert roots < more


def test_a_tree_of_two_dtypes_and_an_unknown_optimizer_stay_trees():
    mixed = {"a": np.zeros(2, np.float32), "b": np.zeros(3, jnp.bfloat16)}
    ours = actor_critic.clipped_adam(0.01, num_gradient_steps=8, max_gradient_norm=0.1)
    for optimizer, params in ((ours, mixed), (optax.adam(0.1), {"a": TABLE, "b": TABLE})):
        pack, unpack = ascent.vectors(optimizer, params)
        assert pack(params) is params
        assert unpack(params) is params
    pack, unpack = ascent.vectors(ours, {"a": TABLE, "b": TABLE})
    state = ours.init({"a": TABLE, "b": TABLE + 1})
    assert max(np.size(x) for x in jax.tree.leaves(pack(state))) == 2 * TABLE.size
    jax.tree.map(np.testing.assert_array_equal, unpack(pack(state)), state)


def test_a_critic_is_fitted_by_a_line_search_too():
    def fit(optimizer: Any) -> np.ndarray:
        start, target = np.zeros(4, np.float32), np.ones((64, 5), np.float32)
        fitted = partial(critics.fit, jnp.dot, num_steps=12, optimizer=optimizer)
        return np.asarray(jax.jit(fitted)(start, BATCH, target))

    np.testing.assert_allclose(fit(optax.lbfgs()), 1, atol=1e-5)
    assert np.abs(fit(optax.sgd(0.1)) - 1).max() > 0.1  # the control: few plain steps do not


@pytest.mark.parametrize("optimizer", LINE_SEARCHES)
def test_a_line_search_over_batches_is_refused_in_our_words(optimizer):
    with pytest.raises(TypeError, match=r"optimizer must step by the gradient alone.*optax\.adam"):
        train(POLICY, TABLE, optimizer)


def test_a_step_without_the_value_that_the_optimizer_reads_is_refused_in_our_words():
    falling = optax.contrib.reduce_on_plateau()
    with pytest.raises(TypeError, match="value must be a number for this optimizer"):
        training.ascend(falling, TABLE, falling.init(TABLE), TABLE)


def test_a_policy_without_parameters_is_trained_to_itself():
    (params, metrics), _ = train(UNIFORM, (), optax.adam(0.1))
    assert params == ()
    assert metrics.gradient_norm == 0
    arguments = ESTIMATOR, UNIFORM, (), MDP, jax.random.key(0)
    assert pgjax.sampled_gradient(*arguments, **SIZES) == ()
    moments = pgjax.sampled_moments(*arguments, **SIZES)
    assert (moments.num_samples, moments.mean) == (4, ())
