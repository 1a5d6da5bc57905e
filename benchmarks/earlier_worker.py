"""A process that times the pgjax of the folder it is started in.

    cd the/checkout && python path/to/earlier_worker.py 256 500

`earlier.py` starts it, one for each commit. It answers the name of a row with seconds, and
`answers` with what both commits must agree on, each as a line of JSON. It uses nothing but what
the benchmarks of both commits have.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def main(N: int, T: int) -> None:
    """Answer until the input ends."""
    sys.path[0] = str(Path.cwd())  # in place of the folder of this file
    import jax
    import numpy as np

    import pgjax
    from benchmarks import problems
    from benchmarks.rows import compilations

    if Path(pgjax.__file__).parents[1] != Path.cwd():
        raise SystemExit(f"pgjax must come from {Path.cwd()}, got {pgjax.__file__}")
    jax.config.update("jax_enable_compilation_cache", False)
    params, key = problems.trained_params(), jax.random.key(1)
    batch = problems.rollout(params, key, N, T)
    judged = problems.with_random_rewards(batch)
    each = jax.jit(partial(pgjax.per_trajectory_gradients, problems.ESTIMATOR, problems.POLICY))
    runs: dict[str, Callable[[], Any]] = {
        "rollout": partial(problems.rollout, params, key, N, T),
        "gradient": partial(problems.gradient, params, key, N, T),
        "per-trajectory": partial(each, params, judged),
    }

    def answers() -> dict[str, Any]:
        sampled = hashlib.sha256()
        for part in (batch.observation, batch.action, batch.mask, batch.terminated):
            sampled.update(np.asarray(part).tobytes())
        gradients = problems.estimate(params, judged), runs["per-trajectory"]()
        one, many = (
            np.concatenate([np.ravel(x).astype(float) for x in jax.tree.leaves(tree)])
            for tree in gradients
        )
        # Of the gradients of all trajectories, enough to tell two versions apart.
        few = many[:: max(1, many.size // 1000)]
        calls = partial(compilations._calls, N=N, T=T)
        compilations.compilations(partial(calls, 0))
        programs = compilations.compilations(partial(calls, 1))
        return {
            "episodes": sampled.hexdigest(),
            "gradient": one.tolist(),
            "per-trajectory": few.tolist(),
            "programs": programs,
        }

    warm: set[str] = set()
    for line in sys.stdin:
        name = line.strip()
        if name == "answers":
            print(json.dumps(answers()), flush=True)
            continue
        if name not in warm:  # compiled, and run once
            jax.block_until_ready(runs[name]())
            warm.add(name)
        begin = time.perf_counter()
        jax.block_until_ready(runs[name]())
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
