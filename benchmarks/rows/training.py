"""Training by PPO: over the number of environments, over seeds, and the parts of an update."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import naive_ppo
from benchmarks.harness import Case, Contender, Goal, Missing, Role, Row, Scale, rounding
from benchmarks.naive_ppo import STEPS
from benchmarks.rows.large import Contenders, sweep
from pgjax import MLP, agents, flax_policy, terms, training
from pgjax.core.shuffling import random_order
from pgjax.training.minibatches import Rows, Settings, objective, objective_and_gradient

LARGEST, LARGEST_ON_CPU = 2**16, 2**12
"""Environments: more than this would take longer than the rest of the table."""

ONE_DEVICE = "pgjax, one device"
SEEDS_IN_TURN = "one run after the other"
SORTED, WHOLE = "sorted, jax.random.permutation", "all rows at once"


def agent() -> Any:
    """Two tanh networks of two layers of 64."""
    return agents.separate(flax_policy(MLP(2, (64, 64))), MLP(1, (64, 64)))


def learner(num_environments: int, num_updates: int) -> training.Algorithm:
    """Our PPO at the settings of `naive_ppo`."""
    settings = training.PPOSettings(
        num_updates=num_updates,
        num_environments=num_environments,
        num_steps=STEPS,
        discount=naive_ppo.GAMMA,
        lambda_=naive_ppo.LAMBDA,
        epochs=naive_ppo.EPOCHS,
        num_minibatches=naive_ppo.MINIBATCHES,
        clip=naive_ppo.CLIP,
        entropy_weight=naive_ppo.ENTROPY,
        value_weight=naive_ppo.VALUE,
        max_gradient_norm=naive_ppo.NORM,
        learning_rate=naive_ppo.RATE,
    )
    return training.ppo("CartPole-v1", settings, agent=agent())


def ours(num_environments: int, num_updates: int, key: Any) -> tuple[Any, Any, Any]:
    """The mean return of the last window's episodes, its standard error, and the parameters.

    If nothing read the parameters, XLA would leave out the learning of a single update.
    """
    algorithm = learner(num_environments, num_updates)
    state, found = training.run(algorithm, key, num_updates)
    metrics: Any = found
    return metrics.mean_return[-1], metrics.standard_error[-1], state.params


def over_environments(scale: Scale) -> Case:
    largest = LARGEST_ON_CPU if jax.default_backend() == "cpu" else LARGEST
    key = jax.random.key(3)

    def programs(N: int, updates: int) -> tuple[Any, Any]:
        theirs = partial(naive_ppo.train, num_environments=N, num_updates=updates)
        return jax.jit(partial(ours, N, updates)), jax.jit(theirs)

    def at(N: int) -> Contenders:
        updates = min(8, max(1, 2**12 // N))
        mine, theirs = programs(N, updates)
        work = N * STEPS * updates
        return {
            "pgjax": Contender(partial(mine, key), work, role="ours"),
            "naive JAX, single file": Contender(partial(theirs, key), work),
        }

    def check() -> None:
        """Before the first step both act by a policy that is nearly uniform."""
        (mean, error, _), (other, its, _) = (
            run(key) for run in programs(max(scale.batch_sizes[0], 64), 1)
        )
        if abs(mean - other) > 5 * (error**2 + its**2) ** 0.5 + 2:
            raise AssertionError(f"the first returns are {mean:.1f} and {other:.1f}")

    return Case(
        sweep([N for N in scale.batch_sizes if largest >= N], at),
        unit="steps",
        check=check,
        note=f"CartPole-v1, N environments × {STEPS} steps, 4 epochs of 4 minibatches",
    )


def over_seeds(scale: Scale) -> Case:
    num_seeds, updates, N = scale.seeds
    keys = jax.random.split(jax.random.key(4), num_seeds)
    one = jax.jit(partial(ours, N, updates))
    together = jax.jit(jax.vmap(partial(ours, N, updates)))
    first = jax.jit(partial(ours, N, 1)), jax.jit(jax.vmap(partial(ours, N, 1)))

    def in_turn() -> list[Any]:
        return [jax.block_until_ready(one(key)) for key in keys]

    def answer(mapped: bool) -> Any:
        """Of one update: later ones amplify what rounding changes."""
        alone, several = first
        means = several(keys)[0] if mapped else jnp.stack([alone(key)[0] for key in keys])
        return jnp.nan_to_num(means)

    return Case(
        {
            "pgjax, vmap over seeds": Contender(
                partial(together, keys), num_seeds, partial(answer, True), role="ours"
            ),
            SEEDS_IN_TURN: Contender(in_turn, num_seeds, partial(answer, False)),
        },
        unit="runs",
        tolerance=rounding(STEPS),
        note=f"PPO on CartPole-v1, {num_seeds} seeds of {updates} updates, {N} environments",
        goals=[Goal(SEEDS_IN_TURN, 8.0)],
    )


def over_devices(scale: Scale) -> Case:
    N, updates = scale.many_trajectories // 2, 2

    def contender(algorithm: training.Algorithm, role: Role, note: str = "") -> Contender:
        run = training.begin(algorithm, jax.random.key(8))

        def update() -> Any:
            state = run.start
            for _ in range(updates):
                state, *_ = run.step(state)
            return state.params

        return Contender(update, N * STEPS * updates, role=role, note=note)

    one = learner(N, updates)
    several: Contender | Missing = Missing("JAX sees one device", role="ours")
    if jax.local_device_count() > 1:
        note = f"{jax.local_device_count()} devices"
        several = contender(training.over_devices(one), "ours", note)
    return Case(
        {"pgjax, several devices": several, ONE_DEVICE: contender(one, "rival")},
        unit="steps",
        note=f"PPO on CartPole-v1, {N} environments × {STEPS} steps; one device has all cores too",
        goals=[Goal(ONE_DEVICE, 1.0)],
    )


def order(scale: Scale) -> Case:
    size = scale.many_trajectories * 64
    key = jax.random.key(5)
    mine = jax.jit(partial(random_order, size=size))
    theirs = jax.jit(lambda key: jax.random.permutation(key, size))
    return Case(
        {
            "pgjax": Contender(partial(mine, key), size, lambda: jnp.sort(mine(key)), role="ours"),
            SORTED: Contender(partial(theirs, key), size, lambda: jnp.sort(theirs(key))),
        },
        unit="rows",
        note=f"{size:,} rows, another order each",
        goals=[Goal(SORTED, 1.0)],
    )


def minibatch_gradient(scale: Scale) -> Case:
    R = scale.many_trajectories * 16
    keys = jax.random.split(jax.random.key(6), 5)
    both = agent()
    params = jax.jit(both.init)(keys[0], jnp.zeros(4))
    normal = partial(jax.random.normal, shape=(R,))
    rows = Rows(
        jax.random.normal(keys[1], (R, 4)),
        jax.random.randint(keys[2], (R,), 0, 2),
        jnp.full(R, -0.7),
        normal(keys[3]),
        normal(keys[4]),
    )
    settings = Settings(1, R, 0.99, 0.95)
    term = terms.ppo_clip(0.2)
    mine = jax.jit(lambda p, rows: objective_and_gradient(both, term, settings, p, rows)[2])
    whole = jax.jit(jax.grad(lambda p, rows: objective(both, term, settings, p, rows)[0]))
    return Case(
        {
            "pgjax, in chunks": Contender(
                partial(mine, params, rows), R, partial(mine, params, rows), role="ours"
            ),
            WHOLE: Contender(partial(whole, params, rows), R, partial(whole, params, rows)),
        },
        unit="rows",
        tolerance=rounding(R),
        note=f"the gradient of PPO's objective over {R:,} rows, policy and critic of 64 × 64",
        goals=[Goal(WHOLE, 1.0)],
    )


ROWS = (
    Row("ppo-scale", "PPO over the number of environments", over_environments, 3),
    Row("ppo-seeds", "many seeds of PPO under vmap beside as many runs in turn", over_seeds, 5),
    Row("ppo-devices", "PPO on several devices beside one", over_devices, 5),
    Row("ppo-order", "the random order of an epoch's rows", order, 11),
    Row("ppo-minibatch", "the gradient of one minibatch", minibatch_gradient, 11),
)
