"""What devices compute together; as a program, one of two processes that join on loopback.

`test_devices.py` starts it, and computes the same with eight devices and with one. Importing it
makes no array: processes join before they compute.
"""

import json
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import pgjax
from pgjax import baselines, tabular, training
from tests import lowering
from tests.frames import with_room

DEVICES = 8
"""Where one process has several."""
WINDOWS: dict[str, Any] = {"num_environments": 16, "num_steps": 8}
N, STEPS = DEVICES * 13, 5  # of N nothing is a multiple but what is of all trajectories
TABLE = np.array([[0.3, -0.4], [-0.8, 0.1], [0.5, 0.9], [0.2, -0.6]], np.float32)
MDP = tabular.random_mdp()
TABULAR = pgjax.tabular_softmax(4, 2)
COUPLED = pgjax.reward_to_go(0.9, baseline=baselines.leave_one_out)
AGENT = pgjax.agents.ActorCritic(
    init=lambda key, seen: {"policy": jnp.zeros((4, 2)), "critic": jnp.zeros(4)},
    policy=TABULAR,
    acting=lambda params: params["policy"],
    value=lambda params, seen: seen @ params["critic"],
)
A2C_SETTINGS = training.A2CSettings(num_updates=2, **WINDOWS)
POLICY = pgjax.softmax_policy(
    lambda key, s: {"kernel": jnp.zeros((4, 2)), "bias": jnp.zeros(2)},
    lambda params, s: s @ params["kernel"] + params["bias"],
)


@cache
def parameters() -> dict[str, Any]:
    """Of the linear policy, which has several leaves."""
    return {"kernel": jnp.asarray(TABLE), "bias": jnp.asarray([0.2, -0.3])}


def sampled(
    run: Callable[..., Any],
    *first: Any,
    environment: Any = MDP,
    seed: int = 7,
    impl: str = "threefry2x32",
    **settings: Any,
) -> Any:
    arguments = *first, POLICY, parameters(), environment, jax.random.key(seed, impl=impl)
    return run(*arguments, **{"num_trajectories": N, "num_steps": STEPS} | settings)


def gradient_on(mesh: Mesh) -> Any:
    return sampled(pgjax.sampled_gradient, COUPLED, mesh=mesh)


def a2c() -> training.Algorithm:
    return training.a2c(MDP, A2C_SETTINGS, agent=AGENT)


def trained_parameters(devices: Any) -> Any:
    """After two updates of A2C, on devices of all processes if there are any."""
    learner = a2c() if devices is None else training.over_devices(a2c(), devices)
    run = training.begin(learner, jax.random.key(0))
    return advanced(run, run.start, 2)[0].params


def as_lists(tree: Any) -> list[list]:
    """The leaves, for JSON."""
    return [np.asarray(x).tolist() for x in jax.tree.leaves(tree)]


def advanced(run: training.Training, state: Any, updates: int) -> tuple[Any, Any]:
    """The state after so many updates, and the metrics of the last."""
    metrics = None
    for index in range(updates, 0, -1):  # signal and noise are measured in the last
        state, metrics = training.advance(run, state, index)
    compiled: Any = run.step
    assert compiled._cache_size() == 1
    return state, metrics


def run_as_one_of_two(address: str, index: str) -> None:
    """One of two processes with a device each; both print a gradient and trained parameters."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, 2, int(index), initialization_timeout=300)
    assert jax.device_count() == jax.process_count() == 2
    assert jax.local_device_count() == 1
    found = {
        "gradient": gradient_on(jax.make_mesh((2,), ("n",))),
        "trained": trained_parameters(jax.devices()),
    }
    print(json.dumps({name: as_lists(tree) for name, tree in found.items()}))
    jax.distributed.shutdown()


if __name__ == "__main__":
    lowering.share()
    with_room(run_as_one_of_two, *sys.argv[1:])
