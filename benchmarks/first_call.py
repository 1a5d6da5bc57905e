"""A fresh process up to its first gradient: `python -m benchmarks.first_call pgjax 256 500`.

Nothing is imported before the contender is known, so that each pays for its own imports only.
"""

import sys


def pgjax_gradient(N: int, T: int) -> list:
    """The leaves of the first gradient by pgjax."""
    import gymnax
    import jax

    import pgjax

    environment, _ = gymnax.make("CartPole-v1")
    policy = pgjax.flax_policy(pgjax.MLP(num_actions=2))
    estimator = pgjax.reward_to_go(0.99, baseline=pgjax.baselines.leave_one_out)

    @jax.jit
    def step(params, key):
        batch = pgjax.rollout(policy, params, environment, key, num_trajectories=N, num_steps=T)
        return pgjax.gradient(estimator, policy, params, batch)

    params = policy.init(jax.random.key(0), jax.numpy.zeros(4))
    return jax.tree.leaves(jax.block_until_ready(step(params, jax.random.key(1))))


def naive_gradient(N: int, T: int) -> list:
    """The leaves of the first gradient by plain JAX."""
    import gymnax
    import jax

    from benchmarks import naive

    environment, environment_params = gymnax.make("CartPole-v1")

    @jax.jit
    def step(params, key):
        transitions = naive.rollout(params, environment, environment_params, key, N, T)
        return naive.gradient(params, transitions, naive.first_episode(transitions), 0.99)

    params = naive.NETWORK.init(jax.random.key(0), jax.numpy.zeros(4))
    return jax.tree.leaves(jax.block_until_ready(step(params, jax.random.key(1))))


def main(name: str, N: str, T: str) -> None:
    """Raises unless every leaf is finite and not all zero; the `gradient` row compares values."""
    for leaf in {"pgjax": pgjax_gradient, "naive": naive_gradient}[name](int(N), int(T)):
        if not 0 < abs(leaf.__array__()).max() < float("inf"):
            raise AssertionError(f"{name}: the first gradient is zero or not finite")


if __name__ == "__main__":
    main(*sys.argv[1:])
