"""Per-trajectory gradients of one batch: what they cost in time, and in temporary memory.

The batch is a balancing policy's, so that no row is dead, with random rewards, so that no gradient
is zero.
"""

from functools import partial
from typing import Any

import jax

import pgjax
from benchmarks import naive, problems
from benchmarks.harness import Case, Contender, Goal, Row, Scale, returned, rounding
from benchmarks.problems import DISCOUNT, ESTIMATOR, POLICY

NAIVE = "naive JAX, one vmap(grad)"
LIMIT = "the gradient of their mean"


def seconds(scale: Scale) -> Case:
    N, T = scale.num_trajectories, scale.num_steps
    ours, theirs = _calls(N, T)
    mean = partial(jax.jit(partial(pgjax.gradient, ESTIMATOR, POLICY)), *ours.args)
    return Case(
        contenders={
            "pgjax": Contender(ours, N, answer=ours, role="ours"),
            NAIVE: Contender(theirs, N, answer=theirs),
            LIMIT: Contender(mean, N, role="limit"),
        },
        unit="trajectories",
        tolerance=rounding(N * T),
        note=f"N={N}, T={T}, the batch given",
        goals=[Goal(NAIVE, 2.5)],
    )


def temporary_memory(scale: Scale) -> Case:
    N, T = scale.num_trajectories, scale.num_steps
    ours, theirs = _calls(N, T)
    return Case(
        contenders={
            "pgjax": Contender(partial(_temporary_bytes, ours), role="ours"),
            NAIVE: Contender(partial(_temporary_bytes, theirs)),
        },
        note=f"N={N}, T={T}; what the compiled program asks for beside its arguments and results",
        meter=returned,
        quantity="B",
        goals=[Goal(NAIVE, 1 / 0.15)],
    )


def _calls(N: int, T: int) -> tuple[partial, partial]:
    """Both, as jitted functions with their arguments."""
    params = problems.trained_params()
    batch = problems.with_random_rewards(problems.rollout(params, jax.random.key(1), N, T))
    ours = jax.jit(partial(pgjax.per_trajectory_gradients, ESTIMATOR, POLICY))
    theirs = jax.jit(partial(naive.per_trajectory_gradients, discount=DISCOUNT))
    return partial(ours, params, batch), partial(theirs, params, *problems.as_transitions(batch))


def _temporary_bytes(call: partial) -> int:
    jitted: Any = call.func
    return jitted.lower(*call.args).compile().memory_analysis().temp_size_in_bytes


ROWS = (
    Row("per-trajectory", "per-trajectory gradients of a batch", seconds, 7),
    Row("per-trajectory-memory", "temporary memory of the same", temporary_memory, 1),
)
