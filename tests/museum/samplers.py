"""Samplers whose keys, or records, are mistaken. No mean of reward-to-go shows most of them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgjax import Trajectory, sampling
from pgjax.exact.problem import Problem

NUM_BATCHES, BATCH = 256, 16
ALIVE = "·"


class Keys(NamedTuple):
    """Which key decides what: reset [N], action [N, T], environment [N, T]."""

    reset: Any
    action: Any
    environment: Any


class Tables(NamedTuple):
    """An MDP's arrays and a policy's parameters, in the precision that sampling runs in."""

    transition: Any
    reward: Any
    initial: Any
    terminal: Any
    observation: Any
    params: Any


Plan = Callable[..., Keys]
"""(key, N, T) -> Keys."""


def separate(key: Any, N: int, T: int) -> Keys:
    """Every draw has a key of its own."""
    reset, action, environment = jax.random.split(key, 3)
    split = jax.random.split
    return Keys(split(reset, N), split(action, (N, T)), split(environment, (N, T)))


def one_key_for_action_and_environment(key: Any, N: int, T: int) -> Keys:
    """The key that drew the action also draws the next state, so the two draws are dependent."""
    keys = separate(key, N, T)
    return keys._replace(environment=keys.action)


def parent_key_used_again(key: Any, N: int, T: int) -> Keys:
    """A key is split and then used again: the reset and every step share their randomness."""
    keys = jax.random.split(key, N)
    every = jnp.broadcast_to(keys[:, None], (N, T))
    return Keys(keys, every, jax.vmap(partial(jax.random.split, num=T))(keys))


def one_key_over_the_batch(key: Any, N: int, T: int) -> Keys:
    """One key is broadcast over the vmapped environments: N copies of one episode."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (N, *x.shape[1:])), separate(key, 1, T))


MUTANTS: tuple[Plan, ...] = (
    one_key_for_action_and_environment, parent_key_used_again, one_key_over_the_batch,
)  # fmt: skip
CONTROLS: tuple[Plan, ...] = (separate,)


Record = Callable[[Trajectory], Trajectory]
"""What a sampler wrote, from what it should have written; [N, T]."""


def log_prob_recorded_as_zero(batch: Trajectory) -> Trajectory:
    """`log_prob` keeps the zeros that the buffer was made with."""
    return replace(batch, log_prob=np.zeros_like(batch.log_prob))


def truncated_never_set(batch: Trajectory) -> Trajectory:
    """The time limit cuts an episode, and no flag says so."""
    return replace(batch, truncated=np.zeros_like(batch.truncated))


def final_observation_of_the_reset(batch: Trajectory) -> Trajectory:
    """The observation after the last step is the next episode's first, as auto-reset returns it."""
    return replace(batch, final_observation=batch.observation[:, 0])


RECORDS: tuple[Record, ...] = (
    log_prob_recorded_as_zero, truncated_never_set, final_observation_of_the_reset,
)  # fmt: skip


def verdicts(problem: Problem) -> dict[str, str]:
    """What each is caught by: "law", "independence", "record", or ALIVE.

    α = 1e-6 each; the sample of single trajectories is the first of every batch.
    """
    mdp = problem.mdp
    # Copies in single precision; the MDP's own arrays stay out of what is traced.
    tables = Tables(
        jnp.array(mdp.transition),
        jnp.array(mdp.reward),
        jnp.array(mdp.initial),
        jnp.array(mdp.terminal),
        jnp.array(mdp.observation),
        jax.tree.map(jnp.array, problem.params),
    )
    draw = jax.jit(jax.vmap(jax.vmap(partial(_episode, problem, tables))))
    found: dict[str, str] = {}
    batch: Any = None
    for plan, keys in zip((*MUTANTS, *CONTROLS), _keys(problem.horizon), strict=True):
        batches = jax.tree.map(np.asarray, draw(keys))
        batch = everything = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
        first = jax.tree.map(lambda x: x[:, 0], batches)
        independent = sampling.independence_test(batches).passed
        # Dependent batches are no sample of 4096: judge the law by one trajectory of each.
        lawful = sampling.law_test(everything if independent else first, problem).passed
        caught = [] if lawful else ["law"]
        found[plan.__name__.replace("_", " ")] = (
            " ".join(caught + ([] if independent else ["independence"])) or ALIVE
        )
    for record in RECORDS:  # of the control, the last plan
        found[record.__name__.replace("_", " ")] = _verdict_on_record(record(batch), problem)
    assert _verdict_on_record(batch, problem) == ALIVE
    return found


def _verdict_on_record(batch: Trajectory, problem: Problem) -> str:
    fields = sampling.wrong_fields(batch, problem)
    return "record" if fields or sampling.wrong_final_observation(batch, problem) else ALIVE


@cache
def _keys(horizon: int) -> list[Keys]:
    """Every plan's keys, [B, N, ...]; compiled in one piece, because threefry compiles slowly."""

    @jax.jit
    def every(keys: Any) -> list[Keys]:
        return [jax.vmap(partial(plan, N=BATCH, T=horizon))(keys) for plan in (*MUTANTS, *CONTROLS)]

    return every(jax.random.split(jax.random.key(11), NUM_BATCHES))


def _episode(problem: Problem, tables: Tables, keys: Keys) -> Trajectory:
    transition, reward, initial, terminal, observation, params = tables

    def step(state: Any, keys: tuple[Any, Any]) -> tuple[Any, dict[str, Any]]:
        alive = ~terminal[state]
        action, log_prob = problem.policy.sample(params, keys[0], observation[state])
        successor = jax.random.categorical(keys[1], jnp.log(transition[state, action]))
        following = jnp.where(alive, successor, state)
        record = {
            "observation": observation[state],
            "action": action,
            "reward": jnp.where(alive, reward[state, action, following], 0),
            "log_prob": jnp.where(alive, log_prob, 0),
            "terminated": alive & terminal[following],
            "mask": alive,
        }
        return following, record

    start = jax.random.categorical(keys.reset, jnp.log(initial))
    final, record = jax.lax.scan(step, start, (keys.action, keys.environment))
    last = jnp.arange(problem.horizon) == problem.finite_horizon - 1
    return Trajectory(
        **record, truncated=record["mask"] & last, final_observation=observation[final]
    )
