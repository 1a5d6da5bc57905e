"""Where the time of one PPO update goes: each part of it alone, many times in one program.

    python -m benchmarks.ppo_parts                       # 4 environments
    python -m benchmarks.ppo_parts --environments 2048

CartPole-v1, 128 steps, 4 epochs of 4 minibatches, two tanh networks of two layers of 64, as in
`ppo_steps.py`. The *gradients* are those of an update's 16 minibatches, without the optimizer's
steps. *Minibatches* are both, with dealing the rows. The best of eight runs is printed.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.report import device
from pgjax import MLP, agents, environments, flax_policy, windows
from pgjax.training import actor_critic, minibatches

SETTINGS = partial(
    minibatches.Settings, num_steps=128, discount=0.99, lambda_=0.95, epochs=4, num_minibatches=4,
    entropy_weight=0.01,
)  # fmt: skip


def parts(N: int) -> dict[str, tuple[Callable[..., Any], Any]]:
    """By name, a step (carry, index) -> (carry, output) and the carry that it starts from."""
    agent = agents.separate(flax_policy(MLP(2, (64, 64))), MLP(1, (64, 64)))
    params = agent.init(jax.random.key(0), jnp.zeros(4))
    settings, environment = SETTINGS(num_environments=N), environments.make("CartPole-v1")
    sample = partial(windows.window, agent.policy, params["policy"], environment, num_steps=128)
    stream = windows.start(environment, jax.random.key(1), N)
    window = sample(stream)[1]
    rows = actor_critic.rows_of(agent, params, window, settings)
    one = jax.tree.map(lambda x: x[: len(x) // settings.num_minibatches], rows)
    optimizer = actor_critic.clipped_adam(2.5e-4, num_gradient_steps=6400, max_gradient_norm=0.5)
    term = actor_critic.standardized_clip(0.2)

    def sampling(stream: Any, _: Any) -> tuple[Any, Any]:
        stream, here = sample(stream)
        return stream, jnp.sum(here.batch.reward)

    def gradients(params: Any, _: Any) -> tuple[Any, Any]:
        def step(params: Any, _: Any) -> tuple[Any, None]:
            _, _, gradient = minibatches.objective_and_gradient(agent, term, settings, params, one)
            return jax.tree.map(lambda x, g: x + 1e-6 * g, params, gradient), None

        return jax.lax.scan(step, params, length=settings.epochs * settings.num_minibatches)

    def updating(carry: Any, index: Any) -> tuple[Any, Any]:
        key = jax.random.fold_in(jax.random.key(2), index)
        params, state = carry
        params, state, norm, _ = minibatches.improve(
            agent, optimizer, settings, term, params, state, rows, key
        )
        return (params, state), norm

    return {
        "sampling": (sampling, stream),
        "gradients": (gradients, params),
        "minibatches": (updating, (params, optimizer.init(params))),
    }


def seconds(step: Callable[..., Any], carry: Any, repeats: int) -> float:
    """Seconds of one step, in a program of many."""
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(repeats)))
    jax.block_until_ready(run(carry))
    times = []
    for _ in range(8):
        begin = time.perf_counter()
        jax.block_until_ready(run(carry))
        times.append(time.perf_counter() - begin)
    return min(times) / repeats


def main() -> None:
    """Print the milliseconds of each part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--environments", type=int, default=4)
    N = parser.parse_args().environments
    print(f"{device()}; {N} environments, milliseconds of an update")
    for name, (step, carry) in parts(N).items():
        print(f"{name:12s} {1e3 * seconds(step, carry, max(2, 400 // N)):8.3f}", flush=True)


if __name__ == "__main__":
    main()
