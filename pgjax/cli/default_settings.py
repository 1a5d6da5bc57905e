"""Default settings of REINFORCE, A2C and PPO, by the names of the command line's options."""

from typing import Any

MAX_DEFAULT_STEPS = 500
"""A cap on REINFORCE's *default* --num-steps: a batch keeps N·T observations in memory."""

BASELINES = ("leave-one-out", "batch-mean", "none")

ON_WINDOWS = {
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_weight": 0.0,
    "value_weight": 0.5,
    "max_gradient_norm": 0.5,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "reinforce": {
        "updates": 100,
        "num_trajectories": 64,
        "num_steps": None,  # the environment's own limit
        "discount": 1.0,
        "learning_rate": 0.005,  # twice that learns CartPole sooner, and freezes on FrozenLake
        "baseline": "leave-one-out",
    },
    "a2c": ON_WINDOWS
    | {"updates": 1000, "num_environments": 16, "num_steps": 16, "learning_rate": 0.002},
    "ppo": ON_WINDOWS
    | {
        "updates": 100,
        "num_environments": 16,
        "num_steps": 128,
        "learning_rate": 0.001,
        "epochs": 10,
        "minibatches": 8,
        "clip": 0.2,
    },
}
