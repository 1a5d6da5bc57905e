"""A network's variables other than its parameters: constants, or refused if a call changes them.

Both of Flax's libraries are held to the same laws.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import pgjax
from pgjax import agents, critics, tabular
from pgjax.policies import flax_functions, flax_recurrent_policy
from pgjax.records import configured

pytestmark = pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")

MDP = tabular.random_mdp()
SEEN = np.array([0.3, -0.4, 0.8, 0.1], np.float32)


def kernel(key: Any, shape: Any, dtype: Any = np.float32, *_: Any) -> Any:
    """Random numbers of NumPy's, the same for every key: the layers here need no program for it."""
    return jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(dtype))


class Linen(linen.Module):
    """A dense layer, what `last` does with its output, and a recording."""

    last: Callable[[linen.Module, Any], Any]
    width: int = 2

    @linen.compact
    def __call__(self, x: Any) -> Any:
        self.sow("intermediates", "seen", x)
        return self.last(self, linen.Dense(self.width, kernel_init=kernel)(x))


class NNX(nnx.Module):
    """A linear layer, what `last` does with its output, and a recording."""

    def __init__(self, rngs: nnx.Rngs, last: Any = None, make: Any = None, width: int = 2) -> None:
        self.linear = nnx.Linear(4, width, kernel_init=kernel, rngs=rngs)
        self.last = last
        self.part = None if make is None else make(rngs)

    def __call__(self, x: Any) -> Any:
        self.sow(nnx.Intermediate, "seen", x)
        y = self.linear(x)
        return cast(Any, self.part)(y) if self.last is None else self.last(self.part, y)


def of_nnx(make: Any = None, last: Any = None, width: int = 2) -> Callable[[nnx.Rngs], NNX]:
    return configured(_nnx, make=make, last=last, width=width)


def _nnx(rngs: nnx.Rngs, *, make: Any, last: Any, width: int) -> NNX:
    return NNX(rngs, last, make, width)


def count_in_linen(module: linen.Module, y: Any) -> Any:
    count = module.variable("counts", "calls", lambda: jnp.zeros(()))
    count.value = count.value + 1
    return y + count.value


def count_in_nnx(count: nnx.Variable, y: Any) -> Any:
    count[...] += 1
    return y + count[...]


def cache_late(part: Any, y: Any) -> Any:
    part.late = nnx.Cache(y)
    return y


def attend_in_linen(_: Any, y: Any) -> Any:
    return linen.MultiHeadDotProductAttention(num_heads=1, decode=True)(y[None])[0]


def attention(rngs: nnx.Rngs) -> Any:
    layer = nnx.MultiHeadAttention(num_heads=1, in_features=2, decode=True, rngs=rngs)
    layer.init_cache((1, 1, 2))
    return layer


class DrawnStart(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, start: Any) -> None:
        self.cell, self.rngs, self.start = nnx.LSTMCell(2, 2, rngs=rngs), rngs, start

    def __call__(self, y: Any) -> Any:
        return self.cell(self.cell.initialize_carry(y.shape, self.rngs, self.start), y)[1]


NORMAL, ZEROS = nnx.initializers.normal(), nnx.initializers.zeros

REFUSED: dict[str, tuple[Any, str]] = {
    "linen, dropout": (
        Linen(lambda _, y: linen.Dropout(0.5, deterministic=False)(y)),
        "Dropout_0 needs PRNG",
    ),
    "linen, statistics in training": (
        Linen(lambda _, y: linen.BatchNorm(use_running_average=False)(y)),
        '\'?"mean" in "/BatchNorm_0".*batch_stats',
    ),
    "linen, cache": (Linen(attend_in_linen), '"/MultiHeadDotProductAttention_0".*"cache"'),
    "linen, counter": (Linen(count_in_linen), '"calls".*"counts"'),
    "linen, spectral norm in training": (
        Linen(lambda _, y: linen.SpectralNorm(linen.Dense(2))(y, update_stats=True)),
        '"/SpectralNorm_0".*"batch_stats"',
    ),
    "nnx, dropout that insists": (
        of_nnx(lambda rngs: nnx.Dropout(0.5, rngs=rngs), lambda d, y: d(y, deterministic=False)),
        r"'part.rngs.count' \(RngCount, of the layer Dropout\)",
    ),
    "nnx, the same compiled": (
        of_nnx(
            lambda rngs: nnx.Dropout(0.5, rngs=rngs),
            nnx.jit(lambda d, y: d(y, deterministic=False)),
        ),
        r"RngCount, of the layer Dropout",
    ),
    "nnx, statistics that insist": (
        of_nnx(
            lambda rngs: nnx.BatchNorm(2, rngs=rngs), lambda b, y: b(y, use_running_average=False)
        ),
        r"'part.mean' \(BatchStat, of the layer BatchNorm\)",
    ),
    "nnx, cache": (
        of_nnx(attention, lambda a, y: a(y[None, None])[0, 0]),
        r"'part.cache_index' \(Cache, of the layer MultiHeadAttention\)",
    ),
    "nnx, a cache made in the call": (
        of_nnx(lambda rngs: nnx.Linear(2, 2, rngs=rngs), cache_late),
        r"'part.late' \(Cache, of the layer Linear\)",
    ),
    "nnx, counter": (
        of_nnx(lambda rngs: nnx.Variable(jnp.zeros(())), count_in_nnx),
        r"'part' \(Variable, of the layer NNX\)",
    ),
    "nnx, a cell that starts from drawn numbers": (
        of_nnx(lambda rngs: DrawnStart(rngs, NORMAL)),
        r"'part.rngs.default.count' \(RngCount, of the layer DrawnStart\)",
    ),
}

SUPPORTED: dict[str, Any] = {
    "linen, statistics": Linen(lambda _, y: linen.BatchNorm(use_running_average=True)(y)),
    "linen, dropout that is off": Linen(lambda _, y: linen.Dropout(0.5, deterministic=True)(y)),
    "linen, spectral norm": Linen(
        lambda _, y: linen.SpectralNorm(linen.Dense(2))(y, update_stats=False)
    ),
    "linen, without parameters": linen.Sequential([lambda x: x[:2]]),
    "nnx, dropout": of_nnx(lambda rngs: nnx.Dropout(0.5, rngs=rngs)),
    "nnx, statistics": of_nnx(lambda rngs: nnx.BatchNorm(2, rngs=rngs)),
    "nnx, statistics, compiled": of_nnx(
        lambda rngs: nnx.BatchNorm(2, rngs=rngs), nnx.jit(lambda b, y: b(y))
    ),
    "nnx, statistics, recomputed": of_nnx(
        lambda rngs: nnx.BatchNorm(2, rngs=rngs), nnx.remat(lambda b, y: b(y))
    ),
    "nnx, a variable": of_nnx(lambda rngs: nnx.Variable(jnp.ones(2)), lambda v, y: v[...] * y),
    "nnx, a cell": of_nnx(lambda rngs: DrawnStart(rngs, ZEROS)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_draws_or_changes_something_is_refused_by_name(name: str) -> None:
    module, named = REFUSED[name]
    policy = pgjax.flax_policy(module)
    message = f"(?s)module (Linen|NNX): .*{named}.*deterministic=True"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(policy.init, jax.random.key(0), SEEN)
    if isinstance(module, linen.Module):
        variables: Any = jax.eval_shape(module.init, jax.random.key(0), SEEN)
        params: Any = {"params": variables["params"]}
    else:
        params = nnx.split(module(nnx.Rngs(0)), nnx.Param, ...)[1]
    for _ in range(2):  # by every later call too
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(policy.log_prob, params, SEEN, jnp.int32(0))


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_same_inputs_have_the_same_answer_and_params_are_parameters_alone(name: str) -> None:
    module = SUPPORTED[name]
    policy = pgjax.flax_policy(module)
    assert policy == pgjax.flax_policy(module)  # so that nothing compiles again
    params = policy.init(jax.random.key(0), SEEN)
    eager = [np.asarray(policy.log_prob(params, SEEN, 1)) for _ in range(3)]
    assert eager[0] == eager[1] == eager[2]
    np.testing.assert_allclose(jax.jit(policy.log_prob)(params, SEEN, 1), eager[0], rtol=1e-6)
    if isinstance(module, linen.Module):
        assert set(params) == {"params"}
    else:
        leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, nnx.Variable))
        assert {type(x) for x in leaves} == {nnx.Param}


def test_dropout_in_evaluation_mode_is_the_network_without_it() -> None:
    with_dropout = pgjax.flax_policy(of_nnx(lambda rngs: nnx.Dropout(0.5, rngs=rngs)))
    without = pgjax.flax_policy(of_nnx(last=lambda _, y: y))
    params = with_dropout.init(jax.random.key(0), SEEN)
    found = with_dropout.log_prob(params, SEEN, 0)
    assert found == without.log_prob(without.init(jax.random.key(0), SEEN), SEEN, 0)
    episodes = pgjax.rollout(
        with_dropout, params, MDP, jax.random.key(1), num_trajectories=8, num_steps=4
    )
    found = jax.jit(pgjax.log_probs)(with_dropout, params, episodes)
    np.testing.assert_allclose(found, episodes.log_prob, atol=1e-6)


# Frozen statistics, against the same network by hand.

STATISTICS = {"mean": np.array([0.3, -0.7]), "var": np.array([0.4, 2.5])}
UNSEEN = {"mean": np.zeros(2), "var": np.ones(2)}
NAMES = "kernel", "bias", "scale", "shift"


@cache
def batch() -> pgjax.Trajectory:
    """Eight episodes of four steps of a uniform policy, in float32."""
    random, live = np.random.default_rng(1), np.ones((8, 4), bool)
    seen = np.eye(4, dtype=np.float32)[random.integers(4, size=(8, 5))]
    fields: dict[str, Any] = {
        "observation": seen[:, :-1],
        "action": random.integers(2, size=(8, 4), dtype=np.int32),
        "reward": random.normal(size=(8, 4)).astype(np.float32),
        "log_prob": np.full((8, 4), np.log(0.5), np.float32),
        "terminated": ~live,
        "truncated": live & (np.arange(4) == 3),
        "mask": live,
        "final_observation": seen[:, -1],
    }
    return pgjax.Trajectory(**jax.device_put(fields))


def values_by_hand() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = (4, 2), (2,), (2,), (2,)
    return {name: random.normal(size=shape) for name, shape in zip(NAMES, shapes, strict=True)}


def logits_by_hand(values: Any, x: Any) -> Any:
    y = x @ values["kernel"] + values["bias"]
    y = (y - values["mean"]) / jnp.sqrt(values["var"] + 1e-5)
    return y * values["scale"] + values["shift"]


HAND = pgjax.softmax_policy(lambda key, x: values_by_hand() | STATISTICS, logits_by_hand)


def linen_with_statistics(values: Any) -> tuple[Any, Callable[[Any], Any]]:
    module = Linen(lambda _, y: linen.BatchNorm(use_running_average=True)(y))
    variables = {
        "params": {
            "Dense_0": {"kernel": values["kernel"], "bias": values["bias"]},
            "BatchNorm_0": {"scale": values["scale"], "bias": values["shift"]},
        },
        "batch_stats": {"BatchNorm_0": STATISTICS},
    }

    def by_name(params: Any) -> dict[str, Any]:
        dense, norm = params["params"]["Dense_0"], params["params"]["BatchNorm_0"]
        leaves = dense["kernel"], dense["bias"], norm["scale"], norm["bias"]
        return dict(zip(NAMES, leaves, strict=True))

    return module.bind(jax.device_put(variables)), by_name


def nnx_with_statistics(values: Any) -> tuple[Any, Callable[[Any], Any]]:
    module = NNX(nnx.Rngs(0), make=lambda rngs: nnx.BatchNorm(2, rngs=rngs))
    linear, norm = cast(Any, (module.linear, module.part))
    variables = linear.kernel, linear.bias, norm.scale, norm.bias, norm.mean, norm.var
    numbers = *(values[name] for name in NAMES), STATISTICS["mean"], STATISTICS["var"]
    for variable, x in zip(variables, numbers, strict=True):
        variable.set_value(jnp.asarray(x))

    def by_name(params: Any) -> dict[str, Any]:
        linear, norm = params["linear"], params["part"]
        leaves = linear["kernel"], linear["bias"], norm["scale"], norm["bias"]
        return dict(zip(NAMES, (x[...] for x in leaves), strict=True))

    return module, by_name


WITH_STATISTICS = {"linen": linen_with_statistics, "nnx": nnx_with_statistics}


@pytest.mark.parametrize("library", WITH_STATISTICS)
def test_the_gradient_with_frozen_statistics_is_that_of_the_network_by_hand(library: str) -> None:
    with jax.enable_x64(True):
        values = values_by_hand()
        module, by_name = WITH_STATISTICS[library](values)
        policy = pgjax.flax_policy(module)
        params = policy.init(jax.random.key(3), np.zeros(4))
        for name, x in by_name(params).items():  # the module's own, whatever the key
            np.testing.assert_array_equal(x, values[name])
        estimator = pgjax.reward_to_go(0.9)
        found = jax.device_get(by_name(pgjax.gradient(estimator, policy, params, batch())))
        of_hand, of_wrong = (
            jax.device_get(pgjax.gradient(estimator, HAND, values | statistics, batch()))
            for statistics in (STATISTICS, UNSEEN)
        )
        for name in NAMES:
            np.testing.assert_allclose(found[name], of_hand[name], rtol=0, atol=1e-10)
        assert abs(found["kernel"] - of_wrong["kernel"]).max() > 1e-3  # the control


@pytest.mark.parametrize("library", WITH_STATISTICS)
def test_training_changes_parameters_alone(library: str) -> None:
    module, by_name = WITH_STATISTICS[library](values_by_hand())
    policy = pgjax.flax_policy(module)
    params = policy.init(jax.random.key(0), np.zeros(4))
    before = jax.tree.map(np.array, jax.tree.leaves(policy))
    assert len(before) >= 2
    *_, (trained, _) = pgjax.training.train(
        policy, params, MDP, jax.random.key(1), estimator=pgjax.reward_to_go(0.9),
        optimizer=optax.adamw(0.1, weight_decay=0.5), num_updates=2, num_trajectories=8,
        num_steps=4,
    )  # fmt: skip
    moved = by_name(jax.device_get(trained))
    assert all(np.all(moved[name] != x) for name, x in by_name(jax.device_get(params)).items())
    for x, y in zip(before, jax.tree.leaves(policy), strict=True):
        np.testing.assert_array_equal(x, y)
    # The module is a starting point: what its owner does to it later changes no policy.
    if library == "nnx":
        expected = policy.log_prob(params, SEEN, 0)
        module.part.mean[...] += 1
        module.linear.kernel[...] += 1
        assert policy.log_prob(params, SEEN, 0) == expected
        assert module.part.use_running_average is False


def test_constants_are_found_for_parameters_of_another_precision_too() -> None:
    policy = pgjax.flax_policy(Linen(lambda _, y: y))
    params = policy.init(jax.random.key(0), SEEN)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        wide, seen = jax.tree.map(lambda x: np.asarray(x, float), (params, SEEN))
        assert jax.eval_shape(policy.log_prob, wide, seen, jnp.int32(0)).dtype == jnp.float64


def test_params_with_other_collections_are_refused_by_name() -> None:
    module = Linen(lambda _, y: linen.BatchNorm(use_running_average=True)(y), width=1)
    variables = jax.jit(module.init)(jax.random.key(0), SEEN)
    wanted = r"'params' collection alone, got \['batch_stats', 'params'\].*module.bind"
    value = critics.flax_value(module)
    with pytest.raises(ValueError, match=wanted):
        value(variables, SEEN)
    assert jax.eval_shape(value, {"params": variables["params"]}, SEEN).shape == ()


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_critics_are_fitted_in_their_parameters_alone(library: str) -> None:
    module = {
        "linen": Linen(lambda _, y: linen.BatchNorm(use_running_average=True)(y), width=1),
        "nnx": of_nnx(lambda rngs: nnx.BatchNorm(1, rngs=rngs), width=1),
    }[library]
    init, _ = flax_functions(module)
    value, params = critics.flax_value(module), init(jax.random.key(0), SEEN)
    target: Any = np.where(batch().mask, np.float32(1), np.float32(0))
    fitted = critics.fit(value, params, batch(), target, optax.adamw(0.1), num_steps=2)
    assert jax.tree.structure(fitted) == jax.tree.structure(params)
    assert value(fitted, SEEN) != value(params, SEEN)


def two_heads(part: Any, y: Any) -> Any:
    return y[:2], y[2:]


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_heads_that_return_several_outputs(library: str) -> None:
    both = {
        "linen": Linen(two_heads, width=3),
        "nnx": of_nnx(lambda rngs: nnx.Dropout(0.5, rngs=rngs), two_heads, width=3),
    }[library]
    agent = agents.shared(both)
    params = agent.init(jax.random.key(0), SEEN)
    logits, value = flax_functions(both)[1](params, SEEN)
    assert agent.value(params, SEEN) == value[0]
    assert agent.policy.log_prob(params, SEEN, 0) == jax.nn.log_softmax(logits)[0]
    gaussian = pgjax.flax_gaussian_policy(replace_width(both, 4))
    params = jax.eval_shape(gaussian.init, jax.random.key(0), SEEN)
    assert jax.eval_shape(gaussian.sample, params, jax.random.key(0), SEEN)[0].shape == (2,)
    separate = agents.separate(agent.policy, replace_width(both, 3))
    assert set(separate.init(jax.random.key(0), SEEN)) == {"policy", "critic"}


def replace_width(module: Any, width: int) -> Any:
    if isinstance(module, linen.Module):
        return replace(module, width=width)  # pyright: ignore
    return configured(_nnx, **module.settings | {"width": width})


def test_a_recurrent_network_has_the_same_rules() -> None:
    def policy_of(last: Any) -> pgjax.RecurrentPolicy:
        return flax_recurrent_policy(linen.SimpleCell(3), Linen(last))

    policy = policy_of(lambda _, y: linen.BatchNorm(use_running_average=True)(y))
    params = policy.init(jax.random.key(0), SEEN)
    assert set(params) == {"params"}
    start = policy.memory(params)
    memory, _ = policy.log_prob(params, start, SEEN, 0)
    again, log_prob = policy.log_prob(params, memory, SEEN, 0)
    jax.tree.map(np.testing.assert_array_equal, again, policy.log_prob(params, memory, SEEN, 0)[0])
    assert log_prob == policy.log_prob(params, memory, SEEN, 0)[1]
    with pytest.raises(ValueError, match="Dropout_0 needs PRNG"):
        policy_of(lambda _, y: linen.Dropout(0.5, deterministic=False)(y)).init(
            jax.random.key(0), SEEN
        )
    head = linen.Dense(2)
    bound = head.bind({"params": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}})
    with pytest.raises(TypeError, match="head must not be bound to variables, got a bound Dense"):
        flax_recurrent_policy(linen.SimpleCell(3), bound)


def test_a_mutable_reference_and_a_function_of_no_module_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"mutable reference in its variable 'part' \(Variable"):
        pgjax.flax_policy(of_nnx(lambda rngs: nnx.Variable(jnp.zeros(2), ref=True)))
    with pytest.raises(TypeError, match=r"module must be .*got a function that returns 3"):
        pgjax.flax_policy(lambda rngs: 3)


class Listed(linen.Module):
    """A module that has no hash, because a list is among its fields."""

    widths: list[int]

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(self.widths[0])(x)


@pytest.mark.parametrize("module", [pgjax.MLP(2, ()), Listed([2])])
def test_fresh_parameters_are_the_module_s_own_wherever_they_are_drawn(module: Any) -> None:
    """Outside of transformations they are drawn by one program, inside as a part of another's."""
    keys = jax.random.split(jax.random.key(3), 2)
    key, other, init = keys[1], keys[0], pgjax.flax_policy(module).init

    @jax.jit
    def inside(traced: Any) -> Any:
        mapped = jax.vmap(init, (0, None))(keys, SEEN)
        drawn = init(traced, SEEN), init(key, SEEN), jax.tree.map(lambda x: x[1], mapped)
        return module.init(traced, SEEN), drawn

    expected, drawn = jax.device_get(inside(key))
    for found in (init(key, SEEN), *drawn):
        assert_near(found, expected)
    with pytest.raises(AssertionError, match="Mismatch"):
        assert_near(init(other, SEEN), expected)


def assert_near(found: Any, expected: Any) -> None:
    """To the rounding of another order of operations."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
