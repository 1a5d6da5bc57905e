"""Gradients of an expectation: time for one gradient, and the exact variance of one sample.

The toy is E[(b − 0.45)²] of a coin with p = 0.3, by the logit. The hand-written loop is what a user
writes in JAX without a library, with the same draws. genjax needs an older JAX: its worker is
started with the interpreter that GENJAX_PYTHON names, and times itself. (Its `flip_mvd` raises a
TypeError in 0.10.3.)
"""

import json
import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import pgjax
from benchmarks.harness import Case, Contender, Goal, Missing, Row, Scale, rounding
from pgjax import baselines, expectations
from pgjax.proof.expectation_certificate import expectation_moments

HAND = "hand-written JAX"
P = 0.3
LOGIT = np.log(P / (1 - P))
INNER = 5
"""Gradients in one round; their median is its figure."""


def f(b: Array) -> Array:
    return (b - 0.45) ** 2


@partial(jax.jit, static_argnums=2)
def hand_written(logit: Array, key: Array, num_samples: int) -> Array:
    """The score function with leave-one-out, written for this toy."""
    keys = jax.random.split(key, num_samples)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, logit.shape))(keys)
    b = (uniform < jax.nn.sigmoid(logit)).astype(jnp.float32)
    value = f(b)
    others = (jnp.sum(value) - value) / (num_samples - 1)

    def surrogate(logit: Array) -> Array:
        log_prob = jax.nn.log_sigmoid(jnp.where(b == 1, logit, -logit))
        return jnp.mean((value - others) * log_prob)

    return jax.grad(surrogate)(logit)


def timed(run: Callable[[], Any]) -> float:
    """Median seconds of a few calls, after one that compiles."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(INNER):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def genjax(num_samples: int, name: str) -> Contender | Missing:
    """Its worker's figure for one of its estimators."""
    interpreter = os.environ.get("GENJAX_PYTHON")
    if not interpreter:
        return Missing("set GENJAX_PYTHON to an interpreter that has genjax")
    worker = Path(__file__).parents[1] / "genjax_worker.py"
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}

    def run() -> float:
        command = [interpreter, str(worker), str(num_samples), str(INNER)]
        found = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment, encoding="utf-8"
        )
        return json.loads(found.stdout.splitlines()[-1])[name]["seconds"]

    return Contender(run, num_samples, note="a process of its own")


def coin(scale: Scale) -> Case:
    """One gradient by leave-one-out, or by DisARM from half as many pairs of draws."""
    N = max(scale.sequence // 10 // 2 * 2, 4)
    logit, key = jnp.float32(LOGIT), jax.random.key(0)
    plain = expectations.score_function(baseline=baselines.leave_one_out)
    compiled = jax.jit(
        lambda estimator, logit, key, N: expectations.gradient(
            estimator, f, expectations.bernoulli(), logit, key, num_samples=N
        ),
        static_argnums=3,
    )
    ours = partial(compiled, plain, logit, key, N)
    theirs = partial(hand_written, logit, key, N)
    toy = pgjax.Expectation(f, expectations.bernoulli(), np.array(LOGIT), "coin")
    variances = {
        "score function": expectation_moments(expectations.score_function(), toy),
        "leave-one-out of two": expectation_moments(plain, toy, num_samples=2),
        "DisARM": expectation_moments(expectations.disarm(), toy),
    }
    shown = ", ".join(f"{name} {x.total_variance:.3g}" for name, x in variances.items())
    return Case(
        {
            "pgjax": Contender(partial(timed, ours), N, answer=ours, role="ours"),
            "pgjax, DisARM": Contender(
                partial(timed, partial(compiled, expectations.disarm(), logit, key, N // 2)),
                N,
                role="ours",
            ),
            HAND: Contender(partial(timed, theirs), N, answer=theirs),
            "genjax, flip_reinforce": genjax(N, "flip_reinforce"),
            "genjax, flip_enum, exact": genjax(N, "flip_enum"),
        },
        unit="evaluations of f",
        tolerance=rounding(N),
        meter=lambda run: run(),
        note=f"N={N:,}; exact variance of one estimate: {shown}",
        goals=[Goal(HAND, 0.9)],
    )


ROWS = (Row("expectations", "gradient of an expectation over a coin", coin, 7),)
