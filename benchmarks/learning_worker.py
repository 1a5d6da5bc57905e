"""One learning run in a process of its own, on one core: pgjax's by its defaults, or its rival's.

    python -m benchmarks.learning_worker pgjax ppo CartPole-v1 0
    python -m benchmarks.learning_worker sb3 ppo CartPole-v1 0 --steps 204800

The last line printed is JSON: the curve, as (environment steps, return, seconds) of the episodes
that ended; the seconds of training, and those of the processor; and the mean return of fresh
episodes under the policy as it is sampled, ours of 128, of the rival's slower environments 32.

Stable-Baselines3 has the settings of rl-baselines3-zoo for each task, and one thread.
"""

import argparse
import json
import math
import os
import statistics
import time
from typing import Any

POINTS = 200
"""Of a curve, at most: windows and episodes are averaged to so many."""

ZOO: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {
    ("ppo", "CartPole-v1"): (
        8,
        {
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": lambda remaining: remaining * 1e-3,
            "clip_range": lambda remaining: remaining * 0.2,
        },
    ),
    ("a2c", "CartPole-v1"): (8, {"ent_coef": 0.0}),
    ("ppo", "Pendulum-v1"): (
        4,
        {
            "n_steps": 1024,
            "gae_lambda": 0.95,
            "gamma": 0.9,
            "n_epochs": 10,
            "ent_coef": 0.0,
            "learning_rate": 1e-3,
            "clip_range": 0.2,
            "use_sde": True,
            "sde_sample_freq": 4,
        },
    ),
}
"""Environments stepped together, and settings; rl-baselines3-zoo, hyperparams/{ppo,a2c}.yml."""


def pgjax(algorithm: str, name: str, seed: int) -> dict[str, Any]:
    """Train by the command line's defaults, and judge what came of it."""
    import jax
    import numpy as np

    from pgjax import environments, settings
    from pgjax.cli import algorithms
    from pgjax.training import advance, evaluate

    parser = argparse.ArgumentParser()
    algorithms.configure(parser)
    environment = environments.make(name)
    arguments = algorithms.complete(parser.parse_args(["--algorithm", algorithm]))
    training, description, policy = algorithms.make(arguments, environment, jax.random.key(seed))
    rows: list[tuple[float, float, float]] = []
    steps, state, update_seconds = 0.0, training.start, []
    began, cpu_began = time.perf_counter(), time.process_time()
    for index in range(1, arguments.updates + 1):
        start = time.perf_counter()
        state, metrics = advance(training, state, index)
        update_seconds.append(time.perf_counter() - start)
        steps += float(metrics.steps)
        rows.append((steps, float(metrics.mean_return), time.perf_counter() - began))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    compilation = update_seconds[0] - statistics.median(update_seconds)
    returns = evaluate(
        policy,
        training.params(state),
        environment,
        jax.random.key(1_000_000 + seed),
        num_trajectories=128,
        num_steps=environment.time_limit or settings.MAX_DEFAULT_STEPS,
    )
    return {
        "settings": description["settings"],
        "curve": thinned(rows),
        "steps": steps,
        "seconds": seconds,
        "compilation_seconds": compilation,
        "cpu_seconds": cpu_seconds,
        **judged(np.asarray(returns, np.float64).tolist()),
    }


def sb3(algorithm: str, name: str, seed: int, steps: int) -> dict[str, Any]:
    """The same number of environment steps with Stable-Baselines3."""
    import stable_baselines3  # pyright: ignore[reportMissingImports]  # a rival, in requirements.txt
    import torch  # pyright: ignore[reportMissingImports]  # as above
    from stable_baselines3.common import (  # pyright: ignore[reportMissingImports]  # as above
        callbacks,
        env_util,
        evaluation,
    )

    torch.set_num_threads(1)
    num_environments, settings = ZOO[algorithm, name]
    learner = {"ppo": stable_baselines3.PPO, "a2c": stable_baselines3.A2C}[algorithm]
    environments = env_util.make_vec_env(name, n_envs=num_environments, seed=seed)
    model = learner("MlpPolicy", environments, seed=seed, device="cpu", **settings)
    rows: list[tuple[float, float, float]] = []
    began, cpu_began = time.perf_counter(), time.process_time()

    class Follow(callbacks.BaseCallback):
        """Notes every episode that ends."""

        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    now = time.perf_counter() - began
                    rows.append((self.num_timesteps, float(info["episode"]["r"]), now))
            return True

    model.learn(steps, callback=Follow())
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    fresh = env_util.make_vec_env(name, n_envs=1, seed=1_000_000 + seed)
    returns: Any = evaluation.evaluate_policy(
        model, fresh, n_eval_episodes=32, deterministic=False, return_episode_rewards=True
    )[0]
    return {
        "settings": {k: v for k, v in settings.items() if not callable(v)},
        "curve": thinned(rows),
        "steps": float(model.num_timesteps),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        **judged([float(x) for x in returns]),
    }


def thinned(rows: list[tuple[float, float, float]]) -> list[list[float]]:
    """At most so many points, each the mean return of a run of rows, at the last one's time."""
    size = max(1, -(-len(rows) // POINTS))
    found = []
    for first in range(0, len(rows), size):
        group = rows[first : first + size]
        known = [row[1] for row in group if not math.isnan(row[1])]
        if known:  # no episode ends in the first windows
            found.append([group[-1][0], round(statistics.fmean(known), 3), round(group[-1][2], 3)])
    return found


def judged(returns: list[float]) -> dict[str, Any]:
    """Mean and standard error of fresh episodes."""
    error = statistics.stdev(returns) / len(returns) ** 0.5
    return {"mean": statistics.fmean(returns), "standard_error": error, "episodes": len(returns)}


def on_one_core() -> None:
    """This process, with all of its threads, on the core that it was started on or the first."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=["pgjax", "sb3"])
    parser.add_argument("algorithm", choices=["a2c", "ppo"])
    parser.add_argument("environment")
    parser.add_argument("seed", type=int)
    parser.add_argument("--steps", type=int, help="of the rival")
    arguments = parser.parse_args()
    on_one_core()
    task = arguments.algorithm, arguments.environment, arguments.seed
    load = os.getloadavg()[0]
    found = pgjax(*task) if arguments.name == "pgjax" else sb3(*task, steps=arguments.steps)
    print(json.dumps(found | {"seed": arguments.seed, "load_before": load}))


if __name__ == "__main__":
    main()
