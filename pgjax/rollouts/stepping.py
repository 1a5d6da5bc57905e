"""One step of an episode: act, step the environment, and freeze or restart a finished episode.

Every sampler steps environments through here: rollouts of whole episodes freeze a finished episode,
windows start a new one in its place, and folds over a single episode freeze it too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.environments.actions import as_taken, check_actions
from pgjax.environments.base import Discrete, Environment, seen
from pgjax.policies.softmax import softmax_size
from pgjax.types import Observation, Params, Policy, RecurrentPolicy

Act = Callable[[Array, Any, Observation], tuple[Any, Any, Any]]
"""(key, memory, observation) -> (memory, action, a note such as the action's log-probability)."""


class Episode(NamedTuple):
    """An episode in progress.

    Attributes:
        observation: the observation that the policy sees next.
        state: the environment's state.
        memory: the policy's memory; () if it has none.
        alive: whether the episode continues.
    """

    observation: Observation
    state: Any
    memory: Any
    alive: Array


class Taken(NamedTuple):
    """One step that was taken.

    Attributes:
        observation: the observation that the policy saw.
        action: the action, as it is recorded.
        note: what `act` returned with the action, such as its log-probability.
        reward: the reward after the action; zero after the episode's end.
        terminated: whether the step entered a terminal state.
        truncated: whether a time limit or the sampler cut the episode after the step.
        alive: whether the step belongs to the episode; false after its end.
    """

    observation: Observation
    action: Any
    note: Any
    reward: Array
    terminated: Array
    truncated: Array
    alive: Array


def begin(environment: Environment, memory: Any, key: Array) -> Episode:
    """The start of an episode."""
    state, shown = environment.init(key)
    return Episode(seen(shown), state, memory, jnp.bool_(True))


def step(
    environment: Environment, act: Act, keys: tuple[Array, Array], now: Episode
) -> tuple[Episode, Taken]:
    """One step of an episode in progress.

    Args:
        environment: to step.
        act: the function that chooses the action.
        keys: the keys of the action and of the environment's step.
        now: the episode before the step.

    Returns:
        The episode after the step, `alive` unless it ended; and the step.

    Raises:
        TypeError: if the action does not fit the environment.
    """
    memory, action, note = act(keys[0], now.memory, now.observation)
    check_actions(environment, action)
    action, handed = as_taken(environment.action_space, action)
    state, shown = environment.step(keys[1], now.state, handed)
    terminated, truncated = jnp.asarray(shown.terminated), jnp.asarray(shown.truncated)
    reward = jnp.asarray(shown.reward)
    taken = Taken(now.observation, action, note, reward, terminated, truncated, now.alive)
    return Episode(seen(shown), state, memory, ~(terminated | truncated)), taken


def freeze(now: Episode, after: Episode, taken: Taken, is_last: Array) -> tuple[Episode, Taken]:
    """Keep an episode as it was once it has ended, and mask its further steps.

    A finished environment's state can then neither drift nor overflow.

    Args:
        now: the episode before the step.
        after: the episode after the step.
        taken: the step.
        is_last: whether it is the sampler's last step, which truncates.

    Returns:
        The episode after the step, unchanged if it had ended before, and the step, with no reward
        and no flags in that case.
    """
    terminated = taken.terminated & now.alive
    truncated = (taken.truncated | is_last) & now.alive
    after = after._replace(alive=now.alive & ~(terminated | truncated))
    taken = taken._replace(
        reward=jnp.where(now.alive, taken.reward, 0), terminated=terminated, truncated=truncated
    )
    return select(now.alive, after, now), taken


def select(condition: Array, yes: Any, no: Any) -> Any:
    """`where` for pytrees and a scalar condition."""
    return jax.tree.map(partial(jnp.where, condition), yes, no)


def policy_act(policy: Policy | RecurrentPolicy, params: Params) -> tuple[Any, Act]:
    """The memory at an episode's start, and an `Act` whose note is log π."""
    if isinstance(policy, RecurrentPolicy):
        memory = jax.tree.map(jnp.asarray, policy.memory(params))
        return memory, lambda key, memory, seen: policy.sample(params, key, memory, seen)
    return (), lambda key, _, seen: ((), *policy.sample(params, key, seen))


def check_number_of_actions(
    policy: Any, params: Params, environment: Environment, observation: Observation
) -> None:
    """Raise a TypeError if a softmax policy has more actions than the environment.

    Most environments would take their last action in place of such an action, while the batch
    records the action itself. A policy may have fewer actions than the environment.
    """
    space = environment.action_space
    if not isinstance(policy, Policy) or not isinstance(space, Discrete):
        return
    number = softmax_size(policy, params, observation)
    if number is not None and number > space.num_actions:
        raise TypeError(
            f"the policy has {number} actions, and {environment.name} takes {space}; give "
            "the policy as many actions as the environment has"
        )


def draws_at(
    draw: Callable[[tuple[Array, ...]], Any], keys: tuple[Array, ...], times: tuple[Array, ...]
) -> Any:
    """What each row draws at each time step, [T, N, ...].

    If a row draws several numbers at once, rows and steps are drawn as one axis of T·N. With an
    axis for each, XLA would unroll the loop over the few numbers of a row; that program takes
    longer to compile, and to run. A single number is drawn faster with two axes.

    Args:
        draw: a key of each kind -> a pytree, as `split_random_draws` makes it.
        keys: [N] of each kind.
        times: [T] of each kind.
    """
    at = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))
    each = tuple(map(at, keys, times))
    one = jax.eval_shape(draw, tuple(x[0, 0] for x in each))
    if all(x.ndim == 0 for x in jax.tree.leaves(one)):
        return jax.vmap(jax.vmap(draw))(each)
    drawn = jax.vmap(draw)(tuple(x.reshape(-1) for x in each))
    return jax.tree.map(lambda x: x.reshape(*each[0].shape, *x.shape[1:]), drawn)


def chunk_length(num_steps: int, lengths: range, default: int | None = None) -> int:
    """The largest of the lengths that divides T; T itself if it is smaller than all of them.

    Args:
        num_steps: T.
        lengths: the lengths of chunks that are worth their overhead.
        default: the length if none of these divides T; T itself if None.
    """
    if num_steps < lengths.stop:
        return num_steps
    return max((k for k in lengths if num_steps % k == 0), default=default or num_steps)
