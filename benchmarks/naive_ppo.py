"""PPO as a single file of the field has it, without pgjax: one program, and arrays [T, N].

Environments restart by themselves under `vmap`, advantages come from a scan, and each epoch's rows
are put in a sorted random order and gathered before they are cut into minibatches.
"""

from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import optax
from flax import linen
from jax import Array

STEPS, EPOCHS, MINIBATCHES = 128, 4, 4
RATE, GAMMA, LAMBDA, CLIP, ENTROPY, VALUE, NORM = 2.5e-4, 0.99, 0.95, 0.2, 0.01, 0.5, 0.5
EPS = 1e-8


class Tower(linen.Module):
    """Two tanh layers of 64, then a linear one."""

    width: int

    @linen.compact
    def __call__(self, x: Array) -> Array:
        """[..., observation] -> [..., width]."""
        for _ in range(2):
            x = linen.tanh(linen.Dense(64)(x))
        return linen.Dense(self.width)(x)


ACTOR, CRITIC = Tower(2), Tower(1)


class Window(NamedTuple):
    """[T, N] of each; `total` is an episode's return where it has ended."""

    observation: Array
    action: Array
    log_prob: Array
    value: Array
    reward: Array
    done: Array
    total: Array


def chosen(params: Any, observation: Array, action: Array) -> tuple[Array, Array]:
    """Log-probabilities of the actions and entropies, [...]."""
    logits: Any = ACTOR.apply(params["actor"], observation)
    logs = jax.nn.log_softmax(logits)
    log_prob = jnp.take_along_axis(logs, action[..., None], axis=-1)[..., 0]
    return log_prob, -jnp.sum(jnp.exp(logs) * logs, axis=-1)


def values(params: Any, observation: Array) -> Array:
    """V(s), [...]."""
    found: Any = CRITIC.apply(params["critic"], observation)
    return found[..., 0]


def train(key: Array, num_environments: int, num_updates: int) -> tuple[Array, Array, Any]:
    """The mean and the standard error of the returns of the last window's episodes; the params."""
    environment, environment_params = gymnax.make("CartPole-v1")
    N, R = num_environments, num_environments * STEPS
    reset, step = (
        jax.vmap(function, (0, *none, None))
        for function, none in ((environment.reset, ()), (environment.step, (0, 0)))
    )
    num_steps = num_updates * EPOCHS * MINIBATCHES
    optimizer = optax.chain(
        optax.clip_by_global_norm(NORM),
        optax.adam(optax.linear_schedule(RATE, 0.0, num_steps), eps=1e-5),
    )
    key, actor_key, critic_key, reset_key = jax.random.split(key, 4)
    params = {
        "actor": ACTOR.init(actor_key, jnp.zeros(4)),
        "critic": CRITIC.init(critic_key, jnp.zeros(4)),
    }
    observation, state = reset(jax.random.split(reset_key, N), environment_params)

    def act(carry: Any, _: Any) -> tuple[Any, Window]:
        params, observation, state, total, key = carry
        key, action_key, step_key = jax.random.split(key, 3)
        logits: Any = ACTOR.apply(params["actor"], observation)
        action = jax.random.categorical(action_key, logits)
        log_prob, _ = chosen(params, observation, action)
        value = values(params, observation)
        following, state, reward, terminated, truncated, _ = step(
            jax.random.split(step_key, N), state, action, environment_params
        )
        done, total = terminated | truncated, total + reward
        seen = Window(observation, action, log_prob, value, reward, done, total)
        return (params, following, state, jnp.where(done, 0.0, total), key), seen

    def estimate(params: Any, window: Window, last: Array) -> tuple[Array, Array]:
        def back(carry: Any, x: Any) -> tuple[Any, Array]:
            advantage, following = carry
            reward, done, value = x
            alive = 1.0 - done
            error = reward + GAMMA * following * alive - value
            advantage = error + GAMMA * LAMBDA * alive * advantage
            return (advantage, value), advantage

        start = jnp.zeros(N), values(params, last)
        inputs = window.reward, window.done, window.value
        _, advantages = jax.lax.scan(back, start, inputs, reverse=True)
        return advantages, advantages + window.value

    def loss(params: Any, rows: Any) -> Array:
        window, advantage, target = rows
        log_prob, entropy = chosen(params, window.observation, window.action)
        ratio = jnp.exp(log_prob - window.log_prob)
        advantage = (advantage - advantage.mean()) / (advantage.std() + EPS)
        clipped = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
        gain = jnp.minimum(ratio * advantage, clipped * advantage).mean()
        error = jnp.square(values(params, window.observation) - target).mean() / 2
        return VALUE * error - gain - ENTROPY * entropy.mean()

    def improve(carry: Any, rows: Any) -> tuple[Any, None]:
        params, optimizer_state = carry
        gradient = jax.grad(loss)(params, rows)
        change, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, change), optimizer_state), None

    def update(carry: Any, _: Any) -> tuple[Any, tuple[Array, Array]]:
        params, optimizer_state, observation, state, total, key = carry
        acting = params, observation, state, total, key
        (_, observation, state, total, key), window = jax.lax.scan(act, acting, None, STEPS)
        rows = window, *estimate(params, window, observation)
        flat = jax.tree.map(lambda x: x.reshape(R, *x.shape[2:]), rows)

        def epoch(carry: Any, key: Array) -> tuple[Any, None]:
            order = jax.random.permutation(key, R)
            dealt = jax.tree.map(
                lambda x: x[order].reshape(MINIBATCHES, R // MINIBATCHES, *x.shape[1:]), flat
            )
            return jax.lax.scan(improve, carry, dealt)

        key, *epoch_keys = jax.random.split(key, 1 + EPOCHS)
        learning = params, optimizer_state
        (params, optimizer_state), _ = jax.lax.scan(epoch, learning, jnp.stack(epoch_keys))
        count = jnp.maximum(window.done.sum(), 1)
        mean = jnp.sum(window.total, where=window.done) / count
        squares = jnp.sum((window.total - mean) ** 2, where=window.done)
        error = jnp.sqrt(squares / jnp.maximum(count - 1, 1) / count)
        return (params, optimizer_state, observation, state, total, key), (mean, error)

    start = params, optimizer.init(params), observation, state, jnp.zeros(N), key
    (params, *_), (means, errors) = jax.lax.scan(update, start, None, num_updates)
    return means[-1], errors[-1], params
