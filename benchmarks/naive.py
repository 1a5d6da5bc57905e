"""What a tutorial would write: each function in the plain style of the field, without pgjax.

The network has pgjax.MLP's parameter names, so that both sides run on the same parameters. Arrays
are time-major, [T, N], as a scan over time leaves them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array


class MLP(linen.Module):
    """Two tanh layers of 64, then logits."""

    @linen.compact
    def __call__(self, x: Array) -> Array:
        """[..., observation] -> [..., 2]."""
        for _ in range(2):
            x = linen.tanh(linen.Dense(64)(x))
        return linen.Dense(2)(x)


NETWORK = MLP()


class Transition(NamedTuple):
    """One step of every environment; `done` merges the two ways to end, as the style has it."""

    observation: Array
    action: Array
    reward: Array
    log_prob: Array
    done: Array


def discounted_returns(reward: Array, discount: Array) -> Array:
    """[T] by a scan over flipped arrays."""

    def step(following: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, discount = x
        following = reward + discount * following
        return following, following

    _, returns = jax.lax.scan(step, jnp.zeros(()), (jnp.flip(reward), jnp.flip(discount)))
    return jnp.flip(returns)


def associative_returns(reward: Array, discount: Array) -> Array:
    """[T] by a parallel scan over the affine maps x -> r + d x."""

    def compose(later: tuple[Array, Array], earlier: tuple[Array, Array]) -> tuple[Array, Array]:
        slope, intercept = earlier
        return slope * later[0], intercept + slope * later[1]

    return jax.lax.associative_scan(compose, (discount, reward), reverse=True)[1]


def log_prob(params: Any, observation: Array, action: Array) -> Array:
    """Log π(a|s) of any batch of observations, flattened or not."""
    logits: Any = NETWORK.apply(params, observation)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]


def rollout(
    params: Any, environment: Any, environment_params: Any, key: Array, N: int, T: int
) -> Transition:
    """PureJaxRL's loop: auto-resetting environments, vmapped inside a scan over time."""
    key, reset_key = jax.random.split(key)
    observation, state = jax.vmap(environment.reset, (0, None))(
        jax.random.split(reset_key, N), environment_params
    )

    def step(carry: Any, _: None) -> tuple[Any, Transition]:
        observation, state, key = carry
        key, action_key, step_key = jax.random.split(key, 3)
        logits: Any = NETWORK.apply(params, observation)
        action = jax.random.categorical(action_key, logits)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], axis=-1)[:, 0]
        following, state, reward, terminated, truncated, _ = jax.vmap(
            environment.step, (0, 0, 0, None)
        )(jax.random.split(step_key, N), state, action, environment_params)
        transition = Transition(observation, action, reward, chosen, terminated | truncated)
        return (following, state, key), transition

    _, transitions = jax.lax.scan(step, (observation, state, key), None, T)
    return transitions


@jax.jit
def first_episode(transitions: Transition) -> Array:
    """[T, N], true until the first end."""
    ended_before = jnp.cumsum(transitions.done, axis=0) - transitions.done
    return ended_before == 0


def weights(reward: Array, mask: Array, discount: float) -> Array:
    """γ^t (G_t − mean of the others'), [T, N]."""
    T, N = reward.shape
    returns = jax.vmap(discounted_returns, (1, None), 1)(reward * mask, jnp.full(T, discount))
    baseline = (returns.sum(axis=1, keepdims=True) - returns) / (N - 1)
    return discount ** jnp.arange(T)[:, None] * (returns - baseline)


def gradient(params: Any, transitions: Transition, mask: Array, discount: float) -> Any:
    """∇ of the summed weighted log-probabilities, averaged over trajectories."""
    weight = weights(transitions.reward, mask, discount)

    def objective(params: Any) -> Array:
        log_probs = log_prob(params, transitions.observation, transitions.action)
        return jnp.sum(log_probs * weight * mask) / mask.shape[1]

    return jax.grad(objective)(params)


def per_trajectory_gradients(
    params: Any, transitions: Transition, mask: Array, discount: float
) -> Any:
    """The same before the mean, by one vmap(grad) over trajectories."""
    weight = weights(transitions.reward, mask, discount)

    def objective(params: Any, observation: Array, action: Array, weight: Array) -> Array:
        return jnp.sum(log_prob(params, observation, action) * weight)

    return jax.vmap(jax.grad(objective), (None, 1, 1, 1))(
        params, transitions.observation, transitions.action, weight * mask
    )
