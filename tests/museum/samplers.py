"""Samplers whose keys, or records, are mistaken. No mean of reward-to-go shows most of them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgjax import Trajectory, exact, sampling, tabular_softmax
from pgjax.exact.problem import Problem

NUM_BATCHES, BATCH = 256, 16
ALIVE = "·"


class Keys(NamedTuple):
    """Which key decides what: reset [N], action [N, T], environment [N, T]."""

    reset: Any
    action: Any
    environment: Any


class Tables(NamedTuple):
    """An MDP and a policy as arrays, in single precision; states are added that none enters.

    So all problems have one size, and share a program.
    """

    transition: np.ndarray  # [S, A, S]
    initial: np.ndarray  # [S]
    log_prob: np.ndarray  # [S, A]
    horizon: int


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
    paths = jax.device_get(_draw(_tables(problem), _keys()))
    every = [_recorded(problem, *(x[i] for x in paths)) for i in range(len(MUTANTS + CONTROLS))]
    found: dict[str, str] = {}
    batch: Any = None
    for plan, batches in zip((*MUTANTS, *CONTROLS), every, strict=True):
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


STEPS, STATES = 32, 5
"""Of the longest problem, and of the largest."""


def _tables(problem: Problem) -> Tables:
    mdp, log_prob = problem.mdp, np.log(exact.action_probabilities(problem))
    more = (0, STATES - mdp.num_states)
    transition = np.pad(mdp.transition, (more, (0, 0), more))
    initial, log_prob = np.pad(mdp.initial, more), np.pad(log_prob, (more, (0, 0)))
    transition, initial, log_prob = (x.astype(np.float32) for x in (transition, initial, log_prob))
    return Tables(transition, initial, log_prob, problem.finite_horizon)


@cache
def _keys() -> Keys:
    """Every plan's keys, [plans, B, N, ...]; in one program, because threefry compiles slowly."""

    @jax.jit
    def every(keys: Any) -> Keys:
        plans = [jax.vmap(partial(plan, N=BATCH, T=STEPS))(keys) for plan in (*MUTANTS, *CONTROLS)]
        return jax.tree.map(lambda *x: jnp.stack(x), *plans)

    return every(jax.random.split(jax.random.key(11), NUM_BATCHES))


@jax.jit
def _draw(tables: Tables, keys: Keys) -> tuple[Any, Any]:
    """[plans, B, N, STEPS + 1] states and [plans, B, N, STEPS] actions; zeros after the horizon."""
    S, A = tables.log_prob.shape
    policy = tabular_softmax(S, A)

    def episode(keys: Keys) -> tuple[Any, Any]:
        def step(t: Any, paths: tuple[Any, Any]) -> tuple[Any, Any]:
            states, actions = paths
            state = states[t]
            action, _ = policy.sample(tables.log_prob, keys.action[t], jnp.eye(S)[state])
            odds = jnp.log(tables.transition[state, action])
            following = jax.random.categorical(keys.environment[t], odds)
            return states.at[t + 1].set(following), actions.at[t].set(action)

        start = jax.random.categorical(keys.reset, jnp.log(tables.initial))
        empty = jnp.zeros(STEPS + 1, int).at[0].set(start), jnp.zeros(STEPS, int)
        return jax.lax.fori_loop(0, tables.horizon, step, empty)

    tables = jax.device_put(tables)
    return jax.vmap(jax.vmap(jax.vmap(episode)))(keys)


def _recorded(problem: Problem, states: np.ndarray, actions: np.ndarray) -> Trajectory:
    """What a rollout writes of such paths: a terminal state is never left, as in the MDP."""
    mdp, H = problem.mdp, problem.finite_horizon
    now, following, action = states[..., :H], states[..., 1 : H + 1], actions[..., :H]
    mask = ~mdp.terminal[now]
    log_prob = np.log(exact.action_probabilities(problem))
    fields: dict[str, Any] = {
        "observation": mdp.observation[now].astype(np.float32),
        "action": action,
        "reward": np.where(mask, mdp.reward[now, action, following], 0).astype(np.float32),
        "log_prob": np.where(mask, log_prob[now, action], 0).astype(np.float32),
        "terminated": mask & mdp.terminal[following],
        "truncated": mask & (np.arange(H) == H - 1),
        "mask": mask,
        "final_observation": mdp.observation[states[..., H]].astype(np.float32),
    }
    return Trajectory(**fields)
