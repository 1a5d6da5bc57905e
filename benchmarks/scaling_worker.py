"""One process of `benchmarks.scaling`: it times what it is asked for, on the devices it was given.

Requests are JSON lines on stdin, answers JSON lines on stdout. A process lives through all rounds,
so that settings can be timed in turn; while it waits it costs nothing.
"""

import json
import math
import os
import re
import sys
import time
from functools import cache, partial
from typing import Any

REPETITIONS = 20
"""Sums over devices in one timed program, so that what starting a program costs hardly counts."""

ALL_REDUCE = re.compile(r"= (?P<type>.*?) all-reduce(-start)?\(")
SHAPE = re.compile(r"\b[fsu](?P<bits>\d+)\[(?P<shape>[\d,]*)\]")


def describe() -> dict[str, Any]:
    """The device, the versions, and how many devices of its kind there are."""
    import jax

    from benchmarks import report
    from benchmarks.processes import cores

    on_cpu = jax.default_backend() == "cpu"
    count = len(cores()) if on_cpu else jax.device_count()
    found = {"device": report.device(), "kind": report.default_path().stem[len("2000-01-01-") :]}
    return found | {
        "platform": jax.default_backend(),
        "count": count,
        "versions": report.versions(),
    }


def estimate(N: int, T: int) -> dict[str, float]:
    """Seconds of one estimate from N trajectories, all of T steps."""
    import jax

    from benchmarks import problems

    return _timed(
        lambda: problems.gradient(problems.trained_params(), jax.random.key(0), N, T, mesh=_mesh())
    )


def program(N: int, T: int) -> dict[str, int]:
    """Bytes of the parameters, and all that the compiled estimate sums over devices."""
    import jax

    from benchmarks import problems

    params = problems.trained_params()
    lowered = problems.gradient.lower(params, jax.random.key(0), N, T, mesh=_mesh())
    return {
        "parameters": sum(x.nbytes for x in jax.tree.leaves(params)),
        "reduced": bytes_reduced(lowered.compile().as_text() or ""),
    }


def reduction(size: int) -> dict[str, float]:
    """Seconds of one sum over devices of `size` float32 numbers, and of nothing else."""
    _sum = _sums(size)
    return {"seconds": _timed(_sum)["seconds"] / REPETITIONS}


def bytes_reduced(program: str) -> int:
    """What the all-reduces of a compiled program move, loops counted once."""
    kinds = [match["type"] for match in ALL_REDUCE.finditer(program)]
    return sum(
        int(shape["bits"]) // 8 * math.prod(int(n) for n in shape["shape"].split(",") if n)
        for kind in kinds
        for shape in SHAPE.finditer(kind)
    )


@cache
def _mesh() -> Any:
    import jax

    if jax.device_count() == 1:
        return None
    return jax.make_mesh((jax.device_count(),), ("trajectories",))


@cache
def _sums(size: int) -> Any:
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    def chain() -> Any:
        x = jax.lax.pcast(jnp.ones(size), "trajectories", to="varying")

        def step(_: int, x: Any) -> Any:
            mean = jax.lax.psum(x, "trajectories") / jax.device_count()
            return jax.lax.pcast(mean, "trajectories", to="varying")

        return jax.lax.fori_loop(0, REPETITIONS, step, x)[:1]

    spread = partial(jax.shard_map, mesh=_mesh(), in_specs=())
    return jax.jit(spread(chain, out_specs=PartitionSpec("trajectories")))


def _timed(run: Any) -> dict[str, float]:
    import jax

    start = time.perf_counter()
    jax.block_until_ready(run())
    return {"seconds": time.perf_counter() - start}


def main(cores: list[int], join: list[Any] | None) -> None:
    """Answer requests until there are none.

    Args:
        cores: to run on; empty for all.
        join: address, number of processes and own index, of a group of processes.
    """
    if cores:
        os.sched_setaffinity(0, cores)
    import jax

    if join:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        address, processes, index = join
        jax.distributed.initialize(address, processes, index, initialization_timeout=60)
    answers = {"describe": describe, "estimate": estimate, "program": program}
    answers["reduction"] = reduction
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(answers[name](*arguments)), flush=True)
    if join:
        jax.distributed.shutdown()


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
