"""genjax's gradient of the toy E[(b − 0.45)²], timed in an interpreter that has genjax.

    /path/to/its/python benchmarks/genjax_worker.py 100000 5

genjax 0.10 needs an older JAX than pgjax, so it cannot share a process with it. Prints a line of
JSON: for each of two of its estimators the seconds for one gradient from so many samples, the
median of the repeats, and the variance of one sample by the logit. Nothing of pgjax is imported.
"""

import json
import statistics
import sys
import time
from functools import partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp

P = 0.3


def each_of(name: str, num_samples: int) -> Any:
    """(logit, key) -> [N] the gradients by the logit of N samples."""
    adev = import_module("genjax.adev")
    flip = getattr(adev, name)

    @adev.expectation
    def toy(p: Any) -> Any:
        return (jnp.where(flip(p), 1.0, 0.0) - 0.45) ** 2

    def each(logit: jax.Array, key: jax.Array) -> jax.Array:
        p, slope = jax.nn.sigmoid(logit), jax.nn.sigmoid(logit) * jax.nn.sigmoid(-logit)
        keys = jax.random.split(key, num_samples)
        return slope * jax.vmap(lambda key: toy.grad_estimate(key, (p,))[0])(keys)

    return each


def main(num_samples: int, repeats: int) -> None:
    """Time both estimators and print the figures."""
    found = {}
    logit, key = jnp.log(P / (1 - P)), jax.random.key(0)
    for name in ("flip_reinforce", "flip_enum"):
        each = each_of(name, num_samples)
        mean = jax.jit(partial(mean_of, each))
        jax.block_until_ready(mean(logit, key))
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(mean(logit, key))
            seconds.append(time.perf_counter() - start)
        found[name] = {
            "seconds": statistics.median(seconds),
            "mean": float(mean(logit, key)),
            "variance": float(jnp.var(each(logit, key))),
        }
    print(json.dumps(found))


def mean_of(each: Any, logit: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.mean(each(logit, key))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
