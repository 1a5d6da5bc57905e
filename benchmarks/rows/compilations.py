"""Programs compiled: a second call with new data of the same shape must compile nothing."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import pgjax
from benchmarks import problems
from benchmarks.harness import Case, Contender, Goal, Row, Scale, returned
from benchmarks.problems import ESTIMATOR, POLICY

COMPILED = "/jax/core/compile/backend_compile_duration"
"""What `jax.monitoring` calls the compilation of one program."""

ONCE = "the first round"


def second_call(scale: Scale) -> Case:
    calls = partial(_calls, N=scale.num_trajectories, T=scale.num_steps)
    jax.clear_caches()
    counts = [compilations(partial(calls, seed)) for seed in range(3)]
    return Case(
        contenders={
            "pgjax, three rounds": Contender(lambda: sum(counts), role="ours"),
            ONCE: Contender(lambda: counts[0], role="limit"),
        },
        note="rollout, gradient, per-trajectory gradients, sampled_gradient, discounted_returns, "
        "called without jit, from empty caches; each round with new parameters and keys",
        meter=returned,
        quantity=" programs",
        goals=[Goal(ONCE, 1.0)],
    )


def compilations(run: Callable[[], Any]) -> int:
    """How many programs are compiled while it runs."""
    durations: list[float] = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == COMPILED:
            durations.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.block_until_ready(run())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(durations)


def _calls(seed: int, N: int, T: int) -> Any:
    """What a user's loop would call, each time on data of its own."""
    environment, _ = problems.cartpole()
    sizes: Any = {"num_trajectories": N, "num_steps": T}
    key, params = jax.random.key(seed), problems.untrained_params()
    params = jax.tree.map(lambda x: x + jnp.float32(1e-3 * seed), params)
    batch = pgjax.rollout(POLICY, params, environment, key, **sizes)
    return (
        pgjax.gradient(ESTIMATOR, POLICY, params, batch),
        pgjax.per_trajectory_gradients(ESTIMATOR, POLICY, params, batch),
        pgjax.sampled_gradient(ESTIMATOR, POLICY, params, environment, key, **sizes),
        pgjax.discounted_returns(batch.reward[0], problems.DISCOUNT),
    )


ROWS = (Row("compilations", "calls with new data of the same shape", second_call, 1),)
