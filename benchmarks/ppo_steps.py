"""PPO's environment steps per second beside PureJaxRL's own file and Stable-Baselines3's PPO.

    python -m benchmarks.ppo_steps --purejaxrl folder/of/its/ppo.py --python its/bin/python
    python -m benchmarks.ppo_steps --sb3 its/bin/python --environments 4 64
    python -m benchmarks.ppo_steps --seeds 32 --environments 4
    python -m benchmarks.ppo_steps       # ours alone

PureJaxRL needs gymnax 0, so it runs under an interpreter of its own: in a fresh environment,
`pip install "gymnax==0.0.8" flax optax distrax chex brax jax`; then clone the repository and name
the folder that holds its `ppo.py`. Its file runs as it is published, `jax.tree_map` and the import
of navix apart, which newer versions lack and CartPole does not need.

Stable-Baselines3 steps its environments in Python, so leave 2,048 of them out; it trains several
seeds one after the other, where the others train them in one program.

Each library is one process that stays; both run in turn, and each keeps its best of all rounds,
compilation timed apart; operations are the fused ones of its program. CartPole-v1, N environments ×
128 steps, 4 epochs of 4 minibatches, two tanh networks of two layers of 64. The ratio is above 1
where ours takes fewer seconds. The mean return of the last update's episodes is of one run, and no
more than a sign that both learn.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.processes import Worker
from benchmarks.report import device, versions

NUM_UPDATES = {4: 400, 64: 50, 2048: 3}
"""Of a run, by N: a few seconds each."""
STEPS = 128


def main() -> None:
    """Time both in turn, print a line for each N, and save every sample."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--environments", type=int, nargs="+", default=[4, 64, 2048])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--updates", type=int, help="of a run; by default a few seconds' worth")
    parser.add_argument("--purejaxrl", type=Path, help="the folder that holds PureJaxRL's ppo.py")
    parser.add_argument("--python", default=sys.executable, help="the interpreter for PureJaxRL")
    parser.add_argument("--sb3", help="an interpreter that has stable-baselines3")
    parser.add_argument("--seeds", type=int, default=1, help="of each run")
    parser.add_argument("--output", type=Path, help="a JSON file for every sample")
    arguments = parser.parse_args()
    worker = str(Path(__file__).with_name("ppo_worker.py"))
    workers = {"pgjax": Worker(sys.executable, worker, "pgjax")}
    if arguments.purejaxrl:
        folder = str(arguments.purejaxrl.resolve())
        workers["PureJaxRL"] = Worker(arguments.python, worker, "purejaxrl", folder)
    if arguments.sb3:
        workers["SB3"] = Worker(arguments.sb3, worker, "sb3")
    samples: dict[str, dict[str, list[dict[str, Any]]]] = {}
    print(f"{device()}; seconds of the best of {arguments.rounds} rounds")
    try:
        for N in arguments.environments:
            updates = arguments.updates or NUM_UPDATES.get(N) or max(1, 400_000 // (N * STEPS))
            found = samples[str(N)] = {name: [] for name in workers}
            for _ in range(arguments.rounds):
                for name, each in workers.items():
                    found[name].append(each.ask(f"{N} {updates} {arguments.seeds}"))
            print(shown(N, N * STEPS * updates * arguments.seeds, found), flush=True)
    finally:
        for each in workers.values():
            each.stop()
    if arguments.output:
        about = {"device": device(), "versions": versions(), "steps": STEPS}
        report = {**about, "seeds": arguments.seeds, "samples": samples}
        arguments.output.write_text(json.dumps(report, indent=1), "utf-8")


def shown(N: int, num_steps: int, found: dict[str, list[dict[str, Any]]]) -> str:
    """A line for each library, and the ratios."""
    best = {name: min(run["seconds"] for run in runs) for name, runs in found.items()}
    lines = [
        f"N = {N:5d}  {name:9s} {num_steps / best[name]:9,.0f} steps/s, compiled in "
        f"{runs[0]['compilation']:.1f} s ({runs[0]['operations']} operations), "
        f"mean return {runs[0]['mean_return']:.0f}"
        for name, runs in found.items()
    ]
    ours, *others = found
    for index, name in enumerate(others, 1):
        lines[index] += f"; ours is {best[name] / best[ours]:.2f}x"
        if name != "SB3":  # which compiles nothing
            compilation = found[name][0]["compilation"] / found[ours][0]["compilation"]
            lines[index] += f", its compilation {compilation:.2f}x"
    return "\n".join(lines)


if __name__ == "__main__":
    main()
