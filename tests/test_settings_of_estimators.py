"""Settings of weights, terms, baselines and estimators: JAX compiles, maps and differentiates them.

One table holds every factory as a function of one of its numbers. All of them are evaluated by one
program, whose arguments they are. Rows that differ in their numbers only take turns in it. Named
estimators are compositions of such parts.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import (
    Estimator,
    Trajectory,
    baselines,
    estimators,
    groups,
    off_policy,
    regularization,
    terms,
    weights,
)
from pgjax.core import chunks
from pgjax.types import Baseline, Term, Weights
from tests import shared

pytestmark = pytest.mark.usefixtures("strict")

POLICY = pgjax.tabular_softmax(4, 2)
N, T = 8, 4
PAIRS = groups.consecutive(2)
IDS = groups.labelled(np.array([0, 1, 1, 0, 2, 2, 0, 1]))
LOO = baselines.leave_one_out
GAMMAS = (0.8, 0.9, 0.95)
WIDTHS = (0.1, 0.2, 0.3)
CEILINGS = (1.05, 1.2, 1.5)


def value_of_state(observation: Any) -> Any:
    return observation @ jnp.arange(1.0, 5.0, dtype=observation.dtype)


def group_relative(discount: Any, members: baselines.Groups, epsilon: Any) -> Weights:
    """The weights of GRPO."""
    mean, scale = baselines.group_mean(members), baselines.group_deviation(members, epsilon=epsilon)
    return weights.divided_by_length(weights.total_return(discount, baseline=mean, scale=scale))


class Row(NamedTuple):
    """A factory of which one number is left open, and three values of that number."""

    make: Callable[[Any], Any]
    numbers: tuple[float, float, float] = GAMMAS


# Rows are named for the factory, and for the number if it is not the discount.
BASELINES: dict[str, Row] = {
    "constant b": Row(baselines.constant, (0.5, 1.0, 2.0)),
    "per_time_step b": Row(
        lambda b: baselines.per_time_step(jnp.stack([b, 2 * b, 3 * b, b], -1)),
        (0.5, 1.0, 2.0),
    ),
    "group_deviation ε": Row(lambda ε: baselines.group_deviation(IDS, epsilon=ε), WIDTHS),
}
TERMS: dict[str, Row] = {
    "ppo_clip ε": Row(terms.ppo_clip, WIDTHS),
    "asymmetric_clip low": Row(lambda low: terms.asymmetric_clip(low, 0.2), WIDTHS),
    "asymmetric_clip high": Row(lambda high: terms.asymmetric_clip(0.2, high), WIDTHS),
    "dual_clip ε": Row(lambda ε: terms.dual_clip(ε, 3.0), WIDTHS),
    "dual_clip ceiling": Row(lambda c: terms.dual_clip(0.01, c), CEILINGS),
    "truncated_ratio ceiling": Row(terms.truncated_ratio, CEILINGS),
    "truncated_ratio floor": Row(lambda floor: terms.truncated_ratio(2.0, floor=floor), CEILINGS),
    "sequence_clip low": Row(lambda low: terms.sequence_clip(low, 0.2), WIDTHS),
    "sequence_clip_by_token high": Row(lambda x: terms.sequence_clip_by_token(0.2, x), WIDTHS),
    "geometric_clip": Row(terms.geometric_clip, WIDTHS),
    "sigmoid_gate τ": Row(lambda τ: terms.sigmoid_gate(τ, 1.05), CEILINGS),
    "gamma_gate k": Row(lambda k: terms.gamma_gate((k, 3.0)), CEILINGS),
    "kl_mask ceiling": Row(lambda c: terms.kl_mask(1.0, 1.0, ceiling=c), CEILINGS),
    "divergence_mask ceiling": Row(lambda c: terms.divergence_mask(1.0, 1.0, ceiling=c), CEILINGS),
    "loaded_dice λ": Row(terms.loaded_dice),
}
WEIGHTS: dict[str, Row] = {
    "total_return": Row(lambda γ: weights.total_return(γ, baseline=LOO)),
    "total_return/group_mean": Row(
        lambda γ: weights.total_return(γ, baseline=baselines.group_mean(IDS))
    ),
    "total_return/group_leave_one_out": Row(
        lambda γ: weights.total_return(γ, baseline=baselines.group_leave_one_out(PAIRS))
    ),
    "reward_to_go": Row(
        lambda γ: weights.reward_to_go(γ, baseline=baselines.state_value(value_of_state))
    ),
    "mismatched_reward_to_go": Row(weights.mismatched_reward_to_go),
    "n_step": Row(lambda γ: weights.n_step(γ, 2, baseline=baselines.recorded_value)),
    "lambda_return": Row(lambda γ: weights.lambda_return(γ, 0.5)),
    "lambda_return λ": Row(lambda λ: weights.lambda_return(0.9, λ)),
    "generalized_advantage": Row(lambda γ: weights.generalized_advantage(γ, 0.5)),
    "generalized_advantage λ": Row(lambda λ: weights.generalized_advantage(0.9, λ)),
    "mismatched_generalized_advantage": Row(
        lambda γ: weights.mismatched_generalized_advantage(γ, 0.5)
    ),
    "mismatched_generalized_advantage λ": Row(
        lambda λ: weights.mismatched_generalized_advantage(0.9, λ)
    ),
    "centred": Row(lambda γ: weights.centred(weights.reward_to_go(γ))),
    "whitened": Row(lambda γ: weights.whitened(weights.reward_to_go(γ))),
    "whitened ε": Row(lambda ε: weights.whitened(weights.reward_to_go(0.9), epsilon=ε), WIDTHS),
    "divided_by_length": Row(lambda γ: weights.divided_by_length(weights.total_return(γ))),
    "trajectory_importance": Row(off_policy.trajectory_importance),
    "trajectory_importance ceiling": Row(
        lambda c: off_policy.trajectory_importance(0.9, ceiling=c), CEILINGS
    ),
    "normalised_trajectory_importance": Row(off_policy.normalised_trajectory_importance),
    "normalised_trajectory_importance ceiling": Row(
        lambda c: off_policy.normalised_trajectory_importance(0.9, ceiling=c), CEILINGS
    ),
    "per_decision": Row(lambda γ: off_policy.per_decision(γ, baseline=LOO)),
    "per_decision ceiling": Row(
        lambda c: off_policy.per_decision(0.9, baseline=LOO, ceiling=c), CEILINGS
    ),
    "normalised_per_decision": Row(off_policy.normalised_per_decision),
    "on_target_states": Row(lambda γ: off_policy.on_target_states(off_policy.vtrace(γ))),
    "on_target_states ceiling": Row(
        lambda c: off_policy.on_target_states(off_policy.vtrace(0.9), ceiling=c), CEILINGS
    ),
    "vtrace": Row(off_policy.vtrace),
    "vtrace λ": Row(lambda λ: off_policy.vtrace(0.9, lambda_=λ)),
    "vtrace ρ̄": Row(lambda c: off_policy.vtrace(0.9, ratio_ceiling=c), CEILINGS),
    "vtrace c̄": Row(lambda c: off_policy.vtrace(0.9, trace_ceiling=c), CEILINGS),
    "retrace": Row(off_policy.retrace),
    "retrace λ": Row(lambda λ: off_policy.retrace(0.9, lambda_=λ)),
    "retrace ρ̄": Row(lambda c: off_policy.retrace(0.9, ratio_ceiling=c), CEILINGS),
    "tree_backup": Row(off_policy.tree_backup),
    "tree_backup λ": Row(lambda λ: off_policy.tree_backup(0.9, lambda_=λ)),
    "visits": Row(regularization.visits),
}
ESTIMATORS: dict[str, Row] = {
    "reinforce": Row(pgjax.reinforce),
    "pgjax.reward_to_go": Row(lambda γ: pgjax.reward_to_go(γ, baseline=LOO)),
    "pgjax.mismatched_reward_to_go": Row(pgjax.mismatched_reward_to_go),
    "rloo": Row(lambda γ: pgjax.rloo(γ, groups=PAIRS)),
    "grpo": Row(lambda γ: pgjax.grpo(γ, IDS, term=terms.ppo_clip(0.2))),
    "grpo ε": Row(lambda ε: pgjax.grpo(0.9, PAIRS, epsilon=ε), WIDTHS),
    "dr_grpo": Row(lambda γ: pgjax.dr_grpo(γ, IDS)),
    "actor_critic": Row(lambda γ: estimators.actor_critic(γ, 0.5)),
    "mismatched_actor_critic λ": Row(lambda λ: estimators.mismatched_actor_critic(0.9, λ)),
    "n_step_actor_critic": Row(lambda γ: estimators.n_step_actor_critic(γ, 2)),
}
COMPOSITIONS: dict[str, Callable[[Any], Estimator]] = {
    "reinforce": lambda γ: Estimator(weights.total_return(γ), terms.score),
    "pgjax.reward_to_go": lambda γ: Estimator(weights.reward_to_go(γ, baseline=LOO), terms.score),
    "pgjax.mismatched_reward_to_go": lambda γ: Estimator(
        weights.mismatched_reward_to_go(γ), terms.score
    ),
    "rloo": lambda γ: Estimator(
        weights.total_return(γ, baseline=baselines.group_leave_one_out(PAIRS)), terms.score
    ),
    "grpo": lambda γ: Estimator(group_relative(γ, IDS, 1e-4), terms.ppo_clip(0.2)),
    "grpo ε": lambda ε: Estimator(group_relative(0.9, PAIRS, ε), terms.importance_ratio),
    "dr_grpo": lambda γ: Estimator(
        weights.total_return(γ, baseline=baselines.group_mean(IDS)), terms.importance_ratio
    ),
    "actor_critic": lambda γ: Estimator(weights.generalized_advantage(γ, 0.5), terms.score),
    "mismatched_actor_critic λ": lambda λ: Estimator(
        weights.mismatched_generalized_advantage(0.9, λ), terms.score
    ),
    "n_step_actor_critic": lambda γ: Estimator(
        weights.n_step(γ, 2, baseline=baselines.recorded_value), terms.score
    ),
}
PARTS = BASELINES | TERMS | WEIGHTS
ROWS = PARTS | ESTIMATORS
each_row = pytest.mark.parametrize("name", ROWS)
each_part = pytest.mark.parametrize("name", PARTS)


def families(parts: dict[str, Any]) -> list[list[str]]:
    """The rows whose parts differ in their numbers only, family by family."""
    found: dict[Any, list[str]] = {}
    for name, part in parts.items():
        found.setdefault(jax.tree.structure(part), []).append(name)
    return list(found.values())


@pytest.fixture(scope="module")
def batch(strict: None) -> Trajectory:
    """Eight episodes of one to four steps, some cut, with another policy's log-probabilities."""
    random = np.random.default_rng(8)
    length = np.array([4, 2, 4, 3, 1, 4, 3, 4])
    mask = np.arange(T) < length[:, None]
    last = np.arange(T) == length[:, None] - 1
    fields: dict[str, Any] = {
        "observation": np.eye(4)[random.integers(4, size=(N, T))],
        "action": random.integers(2, size=(N, T)),
        "reward": random.normal(size=(N, T)),
        "log_prob": -random.uniform(0.2, 1.5, size=(N, T)),
        "terminated": last & (np.arange(N) % 3 > 0)[:, None],
        "truncated": last & (np.arange(N) % 3 == 0)[:, None],
        "mask": mask,
        "final_observation": np.eye(4)[random.integers(4, size=N)],
        "value": random.normal(size=(N, T)),
        "action_value": random.normal(size=(N, T)),
        "final_value": random.normal(size=N),
    }
    return Trajectory(**jax.device_put(fields))


@pytest.fixture(scope="module")
def params(table: np.ndarray) -> Any:
    return jnp.asarray(table)


def evaluate(parts: dict[str, Any], batch: Trajectory, log_prob: Any) -> dict[str, Any]:
    """What each part gives for the batch; of a term and an estimator, the score weights."""
    values = {}
    for name, part in parts.items():
        if name in WEIGHTS:
            values[name] = jnp.where(batch.mask, part(batch, log_prob), 0)
        elif name in BASELINES:
            values[name] = part(batch, weights.returns_to_go(batch, 0.9))
        elif name in TERMS:
            rows = jax.vmap(part)(log_prob, batch.log_prob, batch.reward)
            values[name] = jnp.where(batch.mask, rows, 0)
        else:
            values[name] = estimators.score_weights(part, batch, log_prob)
    return values


@pytest.fixture(scope="module")
def log_prob(params: Any, batch: Trajectory) -> Any:
    return pgjax.log_probs(POLICY, params, batch)


Run = Callable[[dict[str, Any]], dict[str, Any]]


def call(run: Run, which: Callable[[tuple[float, ...]], Any]) -> dict[str, Any]:
    """Every part's value, from the number that is chosen of its three."""
    parts = {name: row.make(np.asarray(which(row.numbers))) for name, row in PARTS.items()}
    related, found = families(parts), {}
    for turn in range(max(map(len, related))):
        rows = {names[0]: names[turn % len(names)] for names in related}
        values = run({name: jax.tree.map(np.asarray, parts[row]) for name, row in rows.items()})
        found |= {rows[name]: value for name, value in jax.device_get(values).items()}
    return found


@pytest.fixture(scope="module")
def compiled(batch: Trajectory, log_prob: Any) -> tuple[Run, list[int]]:
    """The values of all families in one program; and how often it was traced."""
    traced = []

    @jax.jit
    def run(parts: dict[str, Any]) -> dict[str, Any]:
        traced.append(1)
        return evaluate(parts, batch, log_prob)

    return run, traced


@pytest.fixture(scope="module")
def one_by_one(compiled: tuple[Run, list[int]]) -> list[dict[str, Any]]:
    """The values of all parts at each of their three numbers, each made anew."""
    return [call(compiled[0], lambda x, i=i: x[i]) for i in range(3)]


@pytest.fixture(scope="module")
def mapped(compiled: tuple[Run, list[int]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All parts mapped over the three numbers that each part holds, and the derivatives by them."""
    numbers = {name: jnp.asarray(row.numbers) for name, row in PARTS.items()}
    related = families({name: row.make(np.asarray(row.numbers[0])) for name, row in PARTS.items()})
    most = max(map(len, related))
    turns = {names[0]: [names[i % len(names)] for i in range(most)] for names in related}

    def is_labels(leaf: Any) -> bool:
        return np.shape(leaf) == (N,)  # of groups, the same for all

    def joined(*leaves: Any) -> Any:
        if is_labels(leaves[0]):
            return leaves[0]
        return jnp.concatenate([x if np.ndim(x) else np.full(3, x) for x in leaves])

    def values(numbers: dict[str, Any]) -> dict[str, Any]:
        parts = {name: row.make(numbers[name]) for name, row in PARTS.items()}
        several = {
            name: jax.tree.map(joined, *map(parts.get, names)) for name, names in turns.items()
        }
        axes = jax.tree.map(lambda x: None if is_labels(x) else 0, several)
        return jax.vmap(compiled[0], (axes,))(several)

    def by_row(found: dict[str, Any]) -> dict[str, Any]:
        return {
            row: three
            for name, rows in turns.items()
            for row, three in zip(rows, np.split(found[name], most), strict=True)
        }

    run = jax.jit(lambda x: jax.jvp(values, (x,), (jax.tree.map(np.ones_like, numbers),)))
    value, slope = jax.device_get(run(numbers))
    return by_row(value), by_row(slope)


def public(module: Any) -> set[str]:
    """Factories of parts, and of estimators."""
    return {
        name
        for name, item in vars(module).items()
        if inspect.isfunction(item)
        and item.__module__.startswith("pgjax.")
        and inspect.signature(item).return_annotation in (Weights, Term, Baseline, Estimator)
    }


def test_every_factory_has_a_row() -> None:
    modules = baselines, terms, weights, off_policy, regularization, estimators
    made = set().union(*(public(module) for module in modules))
    assert {"constant", "ppo_clip", "vtrace", "visits", "rloo"} <= made
    named = {word.removeprefix("pgjax.") for name in ROWS for word in name.split("/")}
    named = {word.split()[0] for word in named} | {"state_value"}  # in the row of reward_to_go
    assert made == named


@each_row
def test_what_is_made_twice_is_equal_and_what_differs_in_its_number_is_not(name: str) -> None:
    make, numbers = ROWS[name]
    one, same, other = (make(np.asarray(x)) for x in (numbers[0], numbers[0], numbers[1]))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert hash(one) == hash(other)  # the same program


def test_parts_made_anew_in_a_loop_compile_once(
    one_by_one: list[Any], compiled: tuple[Run, list[int]]
) -> None:
    assert len(one_by_one) == 3
    assert len(compiled[1]) == 1


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_named_estimator_is_a_composition_of_parts(name: str) -> None:
    """So all that holds of the parts, whatever their numbers, holds of it."""
    make, numbers = ESTIMATORS[name]
    assert make(np.asarray(numbers)) == COMPOSITIONS[name](np.asarray(numbers))
    assert make(np.asarray(numbers)) != COMPOSITIONS[name](np.asarray(numbers[::-1]))


@each_part
def test_mapping_over_three_numbers_is_three_calls(
    name: str, mapped: Any, one_by_one: list[dict[str, Any]]
) -> None:
    expected = np.stack([values[name] for values in one_by_one])
    np.testing.assert_allclose(mapped[0][name], expected, rtol=1e-13, atol=1e-13)
    if name != "loaded_dice λ":  # whose value is zero: see tests/test_dice.py
        assert np.max(np.abs(expected[0] - expected[2])) > 1e-3


@each_row
def test_several_numbers_where_one_is_needed_are_refused(
    name: str, batch: Trajectory, log_prob: Any
) -> None:
    several = {name: ROWS[name].make(jnp.asarray(ROWS[name].numbers))}
    with pytest.raises(ValueError, match=r"vmap|must have shape \[T\]"):
        jax.eval_shape(evaluate, several, batch, log_prob)


def test_the_derivative_by_every_number_is_the_central_difference(
    mapped: Any, compiled: tuple[Run, list[int]]
) -> None:
    h = 1e-5  # the central difference is off by h² f'''/6 + eps f/h, below 1e-8 here
    ahead, behind = (call(compiled[0], lambda x, s=s: x[1] + s) for s in (h, -h))
    for name, slopes in mapped[1].items():
        expected = (ahead[name] - behind[name]) / (2 * h)
        np.testing.assert_allclose(slopes[1], expected, rtol=1e-7, atol=1e-7, err_msg=name)
        assert np.max(np.abs(expected)) > 1e-3 or name == "loaded_dice λ", name


# Through the estimate of the gradient


def long_batch(batch: Trajectory) -> Trajectory:
    """More steps than one chunk of the pass over the network."""
    return shared.rows(batch, np.arange(chunks.rows_per_chunk() // T + N) % N)


def as_windows(batch: Trajectory) -> Trajectory:
    """Rows that hold several episodes."""
    return replace(batch, final_value=None, next_value=batch.action_value)


METHODS: dict[str, Callable[[Any], Estimator]] = {
    "reward-to-go": lambda γ: pgjax.reward_to_go(γ, baseline=LOO),
    "actor-critic": lambda γ: estimators.actor_critic(γ, γ),
    "V-trace": lambda γ: Estimator(off_policy.vtrace(γ), terms.score),
    "mismatched, clipped": lambda γ: Estimator(
        weights.mismatched_reward_to_go(γ), terms.ppo_clip(γ / 2)
    ),
    "n-step": lambda γ: estimators.n_step_actor_critic(γ, 2),
}
OF_EPISODES: dict[str, Callable[[Any], Estimator]] = {
    "reward-to-go": METHODS["reward-to-go"],
    "GRPO": lambda γ: pgjax.grpo(γ, IDS, epsilon=γ, term=terms.ppo_clip(γ / 2)),
}
# The score alone is weighed without a pass for log-probabilities. What follows is the same for all.
IN_CHUNKS = {name: METHODS[name] for name in ("reward-to-go", "mismatched, clipped")}
CLIPPED = {name: METHODS[name] for name in ("mismatched, clipped",)}


def totals_and_slopes(
    derive: Callable, methods: dict[str, Callable], params: Any, batch: Trajectory
) -> Callable[[Any], tuple[Any, Any]]:
    """γ -> of each method a sum over its estimate, with random factors; and its derivative by γ."""
    random = np.random.default_rng(10)
    shape = (len(batch.reward), *params.shape)
    factor = jnp.asarray(random.normal(size=shape))

    def total(make: Callable[[Any], Estimator], discount: Any) -> Any:
        found = derive(make(discount), POLICY, params, batch)
        return jnp.sum(found * (factor if found.ndim == 3 else factor[0]))

    def totals(discounts: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        each = {name: total(make, discounts[name]) for name, make in methods.items()}
        return sum(each.values()), each

    @jax.jit
    def run(discount: Any) -> tuple[Any, Any]:
        slope, each = jax.grad(totals, has_aux=True)(dict.fromkeys(methods, discount))
        return each, slope

    return run


@pytest.mark.parametrize(
    ("derive", "change", "methods"),
    [
        (pgjax.gradient, as_windows, METHODS),
        (pgjax.gradient, long_batch, IN_CHUNKS),
        (pgjax.per_trajectory_gradients, lambda batch: batch, OF_EPISODES),
        (pgjax.per_trajectory_gradients, long_batch, CLIPPED),
    ],
)
def test_the_derivative_of_the_estimate_by_the_discount_is_the_central_difference(
    derive: Callable, change: Callable, methods: dict[str, Callable], params: Any, batch: Trajectory
) -> None:
    run = totals_and_slopes(derive, methods, params, change(batch))
    h = 1e-5
    ahead, slope, behind = (run(jnp.asarray(0.9 + s))[i] for s, i in ((h, 0), (0, 1), (-h, 0)))
    for name in methods:
        expected = (ahead[name] - behind[name]) / (2 * h)
        np.testing.assert_allclose(slope[name], expected, rtol=1e-7, atol=1e-7, err_msg=name)
        assert abs(expected) > 1e-3, name


def test_weights_whose_result_is_stopped_have_no_derivative_by_the_discount(
    params: Any, batch: Trajectory
) -> None:
    def stopped(discount: Any) -> Estimator:
        inner = weights.reward_to_go(discount)
        return Estimator(lambda *given: jax.lax.stop_gradient(inner(*given)), terms.score)

    run = totals_and_slopes(pgjax.gradient, {"stopped": stopped}, params, batch)
    one, other = (run(jnp.asarray(x)) for x in (0.85, 0.95))
    assert one[1]["stopped"] == 0
    assert abs(one[0]["stopped"] - other[0]["stopped"]) > 1e-3


def test_mapping_over_an_estimator_maps_over_its_discounts(params: Any, batch: Trajectory) -> None:
    @jax.jit
    def estimate(several: dict[str, Estimator]) -> dict[str, Any]:
        return {name: pgjax.gradient(x, POLICY, params, batch) for name, x in several.items()}

    def made(discount: Any) -> dict[str, Estimator]:
        return {name: make(jnp.asarray(discount)) for name, make in OF_EPISODES.items()}

    each = [jax.device_get(estimate(made(γ))) for γ in GAMMAS]
    axes = jax.tree.map(lambda x: 0 if jnp.shape(x) == (3,) else None, made(GAMMAS))
    mapped = jax.jit(jax.vmap(estimate, (axes,)))(made(GAMMAS))
    for name, found in mapped.items():
        expected = [values[name] for values in each]
        np.testing.assert_allclose(found, expected, atol=1e-14)
        assert not np.allclose(expected[0], expected[2], atol=1e-3)


@pytest.mark.parametrize("derive", [pgjax.gradient, pgjax.per_trajectory_gradients])
def test_an_estimator_made_anew_in_a_loop_compiles_once(
    derive: Callable, params: Any, batch: Trajectory
) -> None:
    traced = []

    def log_prob(*given: Any) -> Any:
        traced.append(1)
        return POLICY.log_prob(*given)

    policy = replace(POLICY, log_prob=log_prob)

    def traces(make: Callable[[], Estimator], times: int) -> list[int]:
        found = []
        for _ in range(times):
            before = len(traced)
            derive(make(), policy, params, batch)
            found.append(len(traced) - before)
        return found

    discounts = iter(GAMMAS)
    first, *later = traces(lambda: pgjax.rloo(next(discounts), groups=groups.consecutive(2)), 3)
    assert first > 0
    assert later == [0, 0]
    # The control: a new function is another program, and is traced in it.
    new = traces(
        lambda: Estimator(lambda b, log_prob: traced.append(1) or log_prob, terms.score), 2
    )
    assert min(new) > 0


# What they look like


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (
            pgjax.reward_to_go(0.99, baseline=LOO),
            "Estimator(weights=reward_to_go(discount=0.99, baseline=leave_one_out), term=score)",
        ),
        (
            Estimator(weights.n_step(1, 3), terms.ppo_clip(0.2)),
            "Estimator(weights=n_step(discount=1.0, n=3), term=ppo_clip(epsilon=0.2))",
        ),
        (
            off_policy.on_target_states(off_policy.retrace(0.9, lambda_=0.5)),
            "on_target_states(credit=retrace(discount=0.9, lambda_=0.5, ratio_ceiling=inf), "
            "ceiling=inf)",
        ),
        (
            baselines.group_mean(groups.consecutive(8)),
            "group_mean(groups=Groups(total=consecutive(group_size=8), smallest=8))",
        ),
        (weights.reward_to_go(np.zeros(3)), "reward_to_go(discount=float64[3])"),
    ],
)
def test_a_part_is_shown_as_the_code_that_makes_it(made: Any, shown: str) -> None:
    assert repr(made) == shown


def test_an_integer_discount_is_the_number_that_it_stands_for() -> None:
    assert weights.reward_to_go(1) == weights.reward_to_go(1.0)
    assert jax.tree.leaves(weights.reward_to_go(1)) == [1.0]
    assert isinstance(jax.tree.leaves(weights.reward_to_go(1))[0], float)
    assert weights.n_step(1, 3) != weights.n_step(1, 4)  # a count is static
    assert jax.tree.leaves(weights.n_step(1, 3)) == [1.0]
