"""A process that times PPO runs of pgjax, of PureJaxRL's own file, or of Stable-Baselines3.

    python benchmarks/ppo_worker.py pgjax
    path/to/its/python benchmarks/ppo_worker.py purejaxrl path/to/the/folder/of/its/ppo.py
    path/to/its/python benchmarks/ppo_worker.py sb3

`ppo_steps.py` starts it. It reads lines "N updates seeds" and answers each with a line of JSON. No
library is imported where another is timed.
"""

import json
import sys
import time
import types
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

STEPS, EPOCHS, MINIBATCHES = 128, 4, 4
RATE, GAMMA, LAMBDA, CLIP, ENTROPY, VALUE, NORM = 2.5e-4, 0.99, 0.95, 0.2, 0.01, 0.5, 0.5


def pgjax(N: int, updates: int) -> Callable[[Any], Any]:
    """Key -> mean return of the last episodes."""
    import jax

    from pgjax import MLP, agents, flax_policy, training

    settings = training.PPOSettings(
        num_updates=updates,
        num_environments=N,
        num_steps=STEPS,
        discount=GAMMA,
        lambda_=LAMBDA,
        epochs=EPOCHS,
        num_minibatches=MINIBATCHES,
        clip=CLIP,
        entropy_weight=ENTROPY,
        value_weight=VALUE,
        max_gradient_norm=NORM,
        learning_rate=RATE,
    )
    agent = agents.separate(flax_policy(MLP(2, (64, 64))), MLP(1, (64, 64)))
    learner = training.ppo("CartPole-v1", settings, agent=agent)
    return lambda key: jax.tree.leaves(training.run(learner, key, updates)[1].mean_return)[0][-1]


def purejaxrl(N: int, updates: int) -> Callable[[Any], Any]:
    """The same of PureJaxRL's `make_train`."""
    config = {
        "LR": RATE,
        "NUM_ENVS": N,
        "NUM_STEPS": STEPS,
        "TOTAL_TIMESTEPS": N * STEPS * updates,
        "UPDATE_EPOCHS": EPOCHS,
        "NUM_MINIBATCHES": MINIBATCHES,
        "GAMMA": GAMMA,
        "GAE_LAMBDA": LAMBDA,
        "CLIP_EPS": CLIP,
        "ENT_COEF": ENTROPY,
        "VF_COEF": VALUE,
        "MAX_GRAD_NORM": NORM,
        "ACTIVATION": "tanh",
        "ENV_NAME": "CartPole-v1",
        "ANNEAL_LR": True,
        "DEBUG": False,
    }
    train = import_module("ppo").make_train(config)
    return lambda key: train(key)["metrics"]["returned_episode_returns"][-1].mean()


def compiled(
    program: Callable[[int, int], Any], N: int, updates: int, seeds: int
) -> tuple[Callable[[], float], Any]:
    """() -> mean return, of one run or of the mean over seeds in one program; and the program."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # or a second run would be timed
    train, key = program(N, updates), jax.random.PRNGKey(30)
    if seeds > 1:
        one = train
        train, key = lambda keys: jax.vmap(one)(keys).mean(), jax.random.split(key, seeds)
    run = jax.jit(train).lower(key).compile()
    return lambda: float(jax.block_until_ready(run(key))), run


def sb3(N: int, updates: int, seeds: int) -> tuple[Callable[[], float], None]:
    """The same of Stable-Baselines3, one seed after the other, each with one thread; no program."""
    import_module("torch").set_num_threads(1)
    make = import_module("stable_baselines3").PPO
    make_vec_env = import_module("stable_baselines3.common.env_util").make_vec_env

    def train(seed: int) -> float:
        agent = make(
            "MlpPolicy",
            make_vec_env("CartPole-v1", n_envs=N, seed=seed),
            learning_rate=lambda left: RATE * left,
            n_steps=STEPS,
            batch_size=N * STEPS // MINIBATCHES,
            n_epochs=EPOCHS,
            gamma=GAMMA,
            gae_lambda=LAMBDA,
            clip_range=CLIP,
            ent_coef=ENTROPY,
            vf_coef=VALUE,
            max_grad_norm=NORM,
            seed=seed,
            device="cpu",
        )
        agent.learn(N * STEPS * updates)
        returns = [episode["r"] for episode in agent.ep_info_buffer or ()]
        return sum(returns) / max(len(returns), 1)

    return lambda: sum(train(seed) for seed in range(seeds)) / seeds, None


def main() -> None:
    """Answer until the input ends."""
    library, *folder = sys.argv[1:]
    if library == "purejaxrl":
        import jax

        warnings.filterwarnings("ignore")
        sys.path.insert(0, folder[0])
        sys.modules.setdefault("navix", types.ModuleType("navix"))
        if not hasattr(jax, "tree_map"):
            jax.tree_map = jax.tree.map  # pyright: ignore[reportAttributeAccessIssue]
    prepare = {
        "pgjax": partial(compiled, pgjax),
        "purejaxrl": partial(compiled, purejaxrl),
        "sb3": sb3,
    }[library]
    runs: dict[str, Callable[[], float]] = {}
    for line in sys.stdin:
        answer = {}
        if line not in runs:
            begin = time.perf_counter()
            runs[line], program = prepare(*map(int, line.split()))
            answer["compilation"] = time.perf_counter() - begin
            answer["operations"] = program.as_text().count(" fusion(") if program else 0
        begin = time.perf_counter()
        mean_return = runs[line]()
        answer |= {"seconds": time.perf_counter() - begin, "mean_return": mean_return}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
