"""One episode as a fold: whatever is kept of it is summed on the way, and nothing else is stored.

Gradients that need every step at once take a stored batch. What is here needs each step only once:
a return, an eligibility trace, a derivative through the steps themselves; or, where the visits are
given back one by one, the trajectory.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from pgjax.core.validation import check_positive, check_unit_interval
from pgjax.environments.actions import as_taken, check_actions
from pgjax.environments.base import Environment, seen
from pgjax.environments.sources import AnyEnvironment, bound
from pgjax.types import Observation, Params, Policy, RecurrentPolicy

Act: TypeAlias = Callable[[Key[Array, ""], Observation], tuple[Any, Any]]
"""(key, observation) -> (action, a note of what else is known of it)."""

Return: TypeAlias = Callable[[Params, Key[Array, ""]], Array]
"""(params, key) -> Σ_t γ^t r_t of one episode."""


class Visit(NamedTuple):
    """One step of an episode, as a fold sees it.

    Attributes:
        time: t.
        observation: what was seen; with the actions' mask where there is one.
        action: what was done.
        note: what `act` gave beside the action; garbage after the end.
        reward: what followed, floating; zero after the end.
        terminated: true at the step that entered a terminal state.
        truncated: true at the step after which the episode was cut.
        alive: false after the end.
    """

    time: Array
    observation: Any
    action: Any
    note: Any
    reward: Array
    terminated: Array
    truncated: Array
    alive: Array


def fold(
    environment: Environment,
    act: Act,
    keys: Key[Array, "3"],
    num_steps: int,
    visit: Callable[[Any, Visit], tuple[Any, Any]],
    total: Any,
) -> tuple[Any, Any, Observation]:
    """Go through one episode of at most T steps; memory does not grow with T unless outputs do.

    Differentiable if the environment and `act` are: a finished episode goes on from its own start,
    where a step is known to be possible, and what comes of it is thrown away. Stepping on from the
    end instead could give NaN, and a NaN times zero is NaN.

    Args:
        environment: from `bound`.
        act: (key, observation) -> (action, note).
        keys: of the start, of the actions, of the steps; time is folded into the last two.
        num_steps: T; the last step truncates what still runs.
        visit: (total, Visit) -> (total, output). It is called after the end too.
        total: at the start.

    Returns:
        The total, the outputs stacked along time, and the observation after the last step.
    """
    start_key, action_key, step_key = keys
    state, first = environment.init(start_key)
    origin = state, seen(first)

    def step(carry: Any, _: None) -> tuple[Any, Any]:
        total, time, current, alive = carry
        state, observation = _select(alive, current, origin)
        action, note = act(jax.random.fold_in(action_key, time), observation)
        action, handed = as_taken(environment.action_space, action)
        state, shown = environment.step(jax.random.fold_in(step_key, time), state, handed)
        terminated = shown.terminated & alive
        truncated = (shown.truncated | (time == num_steps - 1)) & alive
        reward = jnp.where(alive, shown.reward, 0)
        now = Visit(time, observation, action, note, reward, terminated, truncated, alive)
        total, output = visit(total, now)
        current = _select(alive, (state, seen(shown)), current)
        return (total, time + 1, current, alive & ~(terminated | truncated)), output

    # Time is carried, for an array of all times would be memory that grows with them.
    carry = total, jnp.int32(0), origin, jnp.bool_(True)
    (total, _, (_, final), _), outputs = jax.lax.scan(step, carry, length=num_steps)
    return total, outputs, final


def seeded_return(
    policy: Policy | Callable[[Params, Key[Array, ""], Observation], Any],
    environment: AnyEnvironment,
    *,
    num_steps: int,
    discount: float | Array,
    environment_params: Any = None,
) -> Return:
    """The discounted return of one episode as a function of parameters and a key, R(θ, key).

    With the key held, it is a deterministic function of θ: what finite differences, pathwise
    gradients and searches in parameter space take.

    Args:
        policy: a Policy, or a function (params, key, observation) -> action.
        environment: as for `pgjax.rollout`; for derivatives through a gymnax environment's steps
            take `differentiable`.
        num_steps: T; an episode that still runs is cut.
        discount: γ in [0, 1].
        environment_params: of a gymnax environment; its default ones if None.

    Returns:
        (params, key) -> scalar.

    Raises:
        ValueError: sizes below one, a discount outside [0, 1].
        TypeError: an environment that is none, a policy with a memory; by the function, actions
            that are not the environment's.

    Bias: E R(θ, key) = J(θ), the T-step objective.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> mdp = pgjax.tabular.short_corridor()
        >>> objective = seeded_return(
        ...     pgjax.tabular_softmax(1, 2), mdp, num_steps=100, discount=1.0)
        >>> float(objective(jnp.zeros((1, 2)), jax.random.key(0))) <= -3
        True
    """
    check_positive("num_steps", num_steps)
    check_unit_interval("discount", discount)
    surface, sample = bound(environment, environment_params), sampler(policy)

    def objective(params: Params, key: Key[Array, ""]) -> Float[Array, ""]:
        sampled_action(sample, params, surface)

        def act(key: Array, observation: Observation) -> tuple[Any, None]:
            return sample(params, key, observation), None

        def add(total: Array, now: Visit) -> tuple[Array, None]:
            return total + power(discount, now.time, total.dtype) * now.reward, None

        reward = jax.eval_shape(lambda key: surface.init(key)[1].reward, key)
        keys = jax.random.split(key, 3)
        return fold(surface, act, keys, num_steps, add, jnp.zeros((), reward.dtype))[0]

    return objective


def sampler(
    policy: Policy | Callable[[Params, Key[Array, ""], Observation], Any],
) -> Callable[[Params, Key[Array, ""], Observation], Any]:
    """(params, key, observation) -> action, of a Policy or of such a function itself.

    Raises:
        TypeError: a policy with a memory, which a fold does not carry.
    """
    if isinstance(policy, RecurrentPolicy):
        raise TypeError(
            "policy must be a Policy or a function (params, key, observation) -> action; a "
            "RecurrentPolicy's memory is carried by pgjax.rollout, for a score-function gradient"
        )
    if isinstance(policy, Policy):
        return lambda params, key, observation: policy.sample(params, key, observation)[0]
    return policy


def sampled_action(
    policy: Policy | Callable[[Params, Key[Array, ""], Observation], Any],
    params: Params,
    environment: Environment,
) -> Any:
    """Shape and dtype of a policy's actions in an environment that takes such.

    Raises:
        TypeError: by `check_actions`, where it does not.
    """
    key = jax.eval_shape(jax.random.key, 0)
    start = jax.eval_shape(lambda key: seen(environment.init(key)[1]), key)
    action = jax.eval_shape(sampler(policy), params, key, start)
    check_actions(environment, action)
    return action


def power(discount: float | Array, time: Array, dtype: Any) -> Array:
    """γ^t, as a float whatever t is."""
    return jnp.asarray(discount, dtype) ** time.astype(dtype)


def _select(alive: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(partial(jnp.where, alive), new, old)
