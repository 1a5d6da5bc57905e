"""Folds over one episode, which sum over its steps without storing them.

Gradients that need every step at once take a stored batch. Others need each step only once: a
return, an eligibility trace, a derivative through the steps themselves.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from pgjax.core.devices import varying
from pgjax.core.episode_boundaries import discount_power
from pgjax.core.validation import check_key, check_positive, check_rate
from pgjax.environments.actions import check_actions
from pgjax.environments.base import Environment, seen, stable
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.rollouts.stepping import Taken, begin, check_number_of_actions, freeze, select, step
from pgjax.types import (
    Observation,
    Params,
    Policy,
    RecurrentPolicy,
    check_function,
    describe,
    returned_by,
)

Act: TypeAlias = Callable[[Key[Array, ""], Observation], tuple[Any, Any]]
"""(key, observation) -> (action, a note that the step carries)."""

Return: TypeAlias = Callable[[Params, Key[Array, ""]], Array]
"""(params, key) -> Σ_t γ^t r_t of one episode."""


Visit: TypeAlias = Callable[[Any, Array, Taken], tuple[Any, Any]]
"""(total, time, step) -> (total, output)."""


def fold(
    environment: Environment,
    act: Act,
    keys: Key[Array, "3"],
    num_steps: int,
    visit: Visit,
    total: Any,
) -> tuple[Any, Any, Observation]:
    """Fold over one episode of at most T steps; memory does not grow with T unless outputs do.

    It is differentiable if the environment and `act` are. A finished episode is stepped from its
    own start, where a step is possible, and the result is discarded. Stepping from the end instead
    could give NaN, and NaN times zero is NaN.

    Args:
        environment: to step.
        act: (key, observation) -> (action, note).
        keys: three keys, for the start, the actions and the steps; time is folded into the last
            two.
        num_steps: T; the last step truncates an episode that still runs.
        visit: (total, time, step) -> (total, output). It is called after the end too, where the
            step's note is arbitrary and its reward zero.
        total: the initial total; within `shard_map` it varies over the devices as `act` does.

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
        total, output = visit(total, time, taken)
        return (total, time + 1, after), output

    def without_memory(key: Array, _: Any, observation: Observation) -> tuple[Any, Any, Any]:
        return (), *act(key, observation)

    # Time is carried, because the memory for an array of all times would grow with T.
    carry = varying((total, jnp.int32(0), origin), (total, origin, keys))
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

    For a fixed key it is a deterministic function of θ. Uses are finite differences, pathwise
    gradients and searches in parameter space.

    Args:
        policy: a Policy, or a function (params, key, observation) -> action.
        environment: as for `pgjax.rollout`; for derivatives through a gymnax environment's steps
            take `differentiable`.
        num_steps: T; an episode that still runs is cut.
        discount: γ in [0, 1].

    Returns:
        (params, key) -> scalar.

    Raises:
        ValueError: if T is below one, or the discount outside [0, 1].
        TypeError: if the policy has a memory; by the function, if actions do not fit the
            environment.

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
    check_rate("discount", discount)
    stepped, sample = stable(as_environment(environment)), sampler(policy)

    def objective(params: Params, key: Key[Array, ""]) -> Float[Array, ""]:
        sampled_action(policy, params, stepped)

        def act(key: Array, observation: Observation) -> tuple[Any, None]:
            return sample(params, key, observation), None

        def add(total: Array, time: Array, taken: Taken) -> tuple[Array, None]:
            return total + discount_power(discount, time, total.dtype) * taken.reward, None

        reward = jax.eval_shape(lambda key: stepped.init(key)[1].reward, key)
        start = varying(jnp.zeros((), reward.dtype), params)
        keys = jax.random.split(check_key(key), 3)
        return fold(stepped, act, keys, num_steps, add, start)[0]

    return objective


def sampler(
    policy: Policy | Callable[[Params, Key[Array, ""], Observation], Any],
) -> Callable[[Params, Key[Array, ""], Observation], Any]:
    """The function (params, key, observation) -> action of a Policy, or the function given.

    Raises:
        TypeError: if the policy has a memory, which a fold does not carry.
    """
    if isinstance(policy, RecurrentPolicy):
        raise TypeError(
            "policy must be a Policy or a function (params, key, observation) -> action, got a "
            "RecurrentPolicy; only pgjax.rollout and pgjax.windows carry its memory"
        )
    signature = "(params, key, observation) -> action, or a pgjax.Policy"
    if not isinstance(policy, Policy):
        check_function("policy", policy, signature)
        if returned_by(policy) is Policy:
            raise TypeError(
                f"policy must be a function {signature}, got {describe(policy)}, which returns a "
                "Policy; call it"
            )
    if isinstance(policy, Policy):
        return lambda params, key, observation: policy.sample(params, key, observation)[0]
    return policy


def sampled_action(
    policy: Policy | Callable[[Params, Key[Array, ""], Observation], Any],
    params: Params,
    environment: Environment,
) -> Any:
    """Shape and dtype of a policy's actions; a TypeError if they do not fit the environment."""
    key = jax.eval_shape(jax.random.key, 0)
    start = jax.eval_shape(lambda key: seen(environment.init(key)[1]), key)
    action = jax.eval_shape(sampler(policy), params, key, start)
    check_actions(environment, action)
    check_number_of_actions(policy, params, environment, start)
    return action
