"""CartPole-v1 from a fresh process to a mean return of 475: pgjax beside Stable-Baselines3's PPO.

    python -m benchmarks.cartpole_to_475 pgjax 0
    python -m benchmarks.cartpole_to_475 sb3 0 --threads 1

The last line printed is JSON: the seconds of training, imports and compilation left out; the
environment steps that it took; and the mean return of 100 fresh episodes at the end, the part of
the process that confirms it.

PPO has the settings tuned for CartPole in rl-baselines3-zoo. It stops at the first evaluation with
a mean of at least the threshold, over 5 episodes every 2048 steps; evaluation is part of its time.
By default it is the greedy policy that is evaluated, an easier test than the policy as it is
sampled, which `--sampled` evaluates. pgjax ascends a plain policy gradient, reward-to-go with a
leave-one-out baseline and Adam. Each batch is 64 fresh episodes of the policy as it is sampled; it
stops when two in a row have such a mean, the second of which judges parameters that the first did
not choose.
"""

import argparse
import json
import statistics
import time
from typing import Any

THRESHOLD = 475.0
MOST_STEPS = 500
NUM_TRAJECTORIES = 64
LEARNING_RATE = 0.02
MOST_UPDATES = 400
EVALUATION_EVERY = 2048
PPO_STEPS = 100_000


def pgjax(seed: int, threshold: float) -> dict[str, float]:
    """Train until a batch reaches the threshold and the next one confirms it."""
    import jax
    import optax

    from pgjax import baselines, flax_policy, reward_to_go, training
    from pgjax.environments.import_gymnax import gymnax

    environment, _ = gymnax.make("CartPole-v1")
    policy = flax_policy(training.default_network(environment))
    init_key, train_key = jax.random.split(jax.random.key(seed))
    loop = training.train(
        policy,
        training.initial_params(policy, environment, init_key),
        environment,
        train_key,
        estimator=reward_to_go(1.0, baseline=baselines.leave_one_out),
        optimizer=optax.adam(LEARNING_RATE),
        num_updates=MOST_UPDATES,
        num_trajectories=NUM_TRAJECTORIES,
        num_steps=MOST_STEPS,
    )
    seconds: list[float] = []
    steps, before = 0.0, 0.0
    start = time.perf_counter()
    for _, metrics in loop:
        seconds.append(time.perf_counter() - start)
        steps += float(metrics.mean_length) * NUM_TRAJECTORIES
        now = float(metrics.mean_return)
        if min(before, now) >= threshold:
            return {"training_seconds": _without_compilation(seconds), "steps": steps}
        before = now
        start = time.perf_counter()
    raise RuntimeError(f"seed {seed}: no mean return of {threshold} in {MOST_UPDATES} updates")


def sb3(seed: int, threshold: float, threads: int, sampled: bool) -> dict[str, float]:
    """Train PPO until an evaluation reaches the threshold, or as long as the zoo does."""
    import torch  # pyright: ignore[reportMissingImports]  # a rival, only in requirements.txt
    from stable_baselines3 import PPO  # pyright: ignore[reportMissingImports]  # as above
    from stable_baselines3.common import (  # pyright: ignore[reportMissingImports]  # as above
        callbacks,
        env_util,
    )

    torch.set_num_threads(threads)
    num_envs = 8
    model = PPO(
        "MlpPolicy",
        env_util.make_vec_env("CartPole-v1", n_envs=num_envs, seed=seed),
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        ent_coef=0.0,
        learning_rate=lambda remaining: remaining * 1e-3,
        clip_range=lambda remaining: remaining * 0.2,
        seed=seed,
        device="cpu",
    )
    stop = callbacks.EvalCallback(
        env_util.make_vec_env("CartPole-v1", n_envs=1, seed=seed + 1000),
        callback_on_new_best=callbacks.StopTrainingOnRewardThreshold(threshold),
        n_eval_episodes=5,
        eval_freq=EVALUATION_EVERY // num_envs,
        deterministic=not sampled,
        verbose=0,
    )
    start = time.perf_counter()
    model.learn(PPO_STEPS, callback=stop)
    seconds = time.perf_counter() - start
    return {"training_seconds": seconds, "steps": float(model.num_timesteps)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=["pgjax", "sb3"])
    parser.add_argument("seed", type=int)
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--sampled", action="store_true", help="evaluate PPO as it is sampled")
    arguments = parser.parse_args()
    settings: dict[str, Any] = {"seed": arguments.seed, "threshold": arguments.threshold}
    if arguments.name == "sb3":
        settings |= {"threads": arguments.threads, "sampled": arguments.sampled}
    print(json.dumps({"pgjax": pgjax, "sb3": sb3}[arguments.name](**settings)))


def _without_compilation(seconds: list[float]) -> float:
    """The first update also compiles: count it as a typical one."""
    later = seconds[1:]
    return sum(later) + statistics.median(later or seconds)


if __name__ == "__main__":
    main()
