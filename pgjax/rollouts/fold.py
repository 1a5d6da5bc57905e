"""One episode as a fold: whatever is kept of it is summed on the way, and nothing else is stored.

Gradients that need every step at once take a stored batch. What is here needs each step only once:
a return, an eligibility trace, a derivative through the steps themselves; or, where the visits are
given back one by one, the trajectory.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from pgjax.core.episode_boundaries import discount_power
from pgjax.core.validation import check_positive, check_unit_interval
from pgjax.environments.actions import check_actions
from pgjax.environments.base import Environment, seen, stable
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.rollouts.stepping import Taken, begin, freeze, select, step
from pgjax.types import Observation, Params, Policy, RecurrentPolicy

Act: TypeAlias = Callable[[Key[Array, ""], Observation], tuple[Any, Any]]
"""(key, observation) -> (action, a note of what else is known of it)."""

Return: TypeAlias = Callable[[Params, Key[Array, ""]], Array]
"""(params, key) -> Σ_t γ^t r_t of one episode."""


class Visit(NamedTuple):
    """One step of an episode, as a fold sees it.

    Attributes:
        time: t.
        taken: the step; after the end its note is garbage and its reward zero.
    """

    time: Array
    taken: Taken


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
        environment: to step.
        act: (key, observation) -> (action, note).
        keys: of the start, of the actions, of the steps; time is folded into the last two.
        num_steps: T; the last step truncates what still runs.
        visit: (total, Visit) -> (total, output). It is called after the end too.
        total: at the start.

    Returns:
        The total, the outputs stacked along time, and the observation after the last step.
    """
    start_key, action_key, step_key = keys
    origin = begin(environment, (), start_key)

    def one_step(carry: Any, _: None) -> tuple[Any, Any]:
        total, time, now = carry
        possible = select(now.alive, now, origin._replace(alive=now.alive))
        keys = jax.random.fold_in(action_key, time), jax.random.fold_in(step_key, time)
        after, taken = step(environment, without_memory, keys, possible)
        after, taken = freeze(now, after, taken, time == num_steps - 1)
        total, output = visit(total, Visit(time, taken))
        return (total, time + 1, after), output

    def without_memory(key: Array, _: Any, observation: Observation) -> tuple[Any, Any, Any]:
        return (), *act(key, observation)

    # Time is carried, for an array of all times would be memory that grows with them.
    carry = total, jnp.int32(0), origin
    (total, _, final), outputs = jax.lax.scan(one_step, carry, length=num_steps)
    return total, outputs, final.observation


def seeded_return(
    policy: Policy | Callable[[Params, Key[Array, ""], Observation], Any],
    environment: AnyEnvironment,
    *,
    num_steps: int,
    discount: float | Array,
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

    Returns:
        (params, key) -> scalar.

    Raises:
        ValueError: sizes below one, a discount outside [0, 1].
        TypeError: if `environment` is not an environment, or the policy has a memory; by the
            function, if actions are not the environment's.

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
    surface, sample = stable(as_environment(environment)), sampler(policy)

    def objective(params: Params, key: Key[Array, ""]) -> Float[Array, ""]:
        sampled_action(sample, params, surface)

        def act(key: Array, observation: Observation) -> tuple[Any, None]:
            return sample(params, key, observation), None

        def add(total: Array, now: Visit) -> tuple[Array, None]:
            return total + discount_power(discount, now.time, total.dtype) * now.taken.reward, None

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
