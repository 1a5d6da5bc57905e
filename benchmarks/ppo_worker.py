"""A process that times PPO runs of pgjax, or of PureJaxRL's own file; `ppo_steps.py` starts it.

    python benchmarks/ppo_worker.py pgjax
    path/to/its/python benchmarks/ppo_worker.py purejaxrl path/to/the/folder/of/its/ppo.py

It reads lines "N updates" and answers each with a line of JSON. Neither library is imported where
the other is timed.
"""

import json
import sys
import time
import types
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import jax

STEPS, EPOCHS, MINIBATCHES = 128, 4, 4
RATE, GAMMA, LAMBDA, CLIP, ENTROPY, VALUE, NORM = 2.5e-4, 0.99, 0.95, 0.2, 0.01, 0.5, 0.5


def pgjax(N: int, updates: int) -> Callable[[Any], Any]:
    """Key -> mean return of the last episodes."""
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


def main() -> None:
    """Answer until the input ends."""
    library, *folder = sys.argv[1:]
    if folder:
        warnings.filterwarnings("ignore")
        sys.path.insert(0, folder[0])
        sys.modules.setdefault("navix", types.ModuleType("navix"))
        if not hasattr(jax, "tree_map"):
            jax.tree_map = jax.tree.map  # pyright: ignore[reportAttributeAccessIssue]
    program = {"pgjax": pgjax, "purejaxrl": purejaxrl}[library]
    compiled: dict[str, Any] = {}
    for line in sys.stdin:
        answer = {}
        if line not in compiled:
            begin = time.perf_counter()
            train = program(*map(int, line.split()))
            compiled[line] = jax.jit(train).lower(jax.random.PRNGKey(0)).compile()
            answer["compilation"] = time.perf_counter() - begin
        begin = time.perf_counter()
        mean_return = jax.block_until_ready(compiled[line](jax.random.PRNGKey(30)))
        answer |= {"seconds": time.perf_counter() - begin, "mean_return": float(mean_return)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
