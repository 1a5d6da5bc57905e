"""Pathwise gradients: the derivative of the return itself, through the steps of the environment.

Suppose that an action is a smooth function of parameters and noise, and that states and rewards are
smooth functions of the actions. Then the return for fixed noise is smooth in the parameters. Its
gradient is an estimate of ∇J, usually with far less variance than a score-function estimate.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key, PyTree, UInt32

from pgjax.core.devices import varying
from pgjax.core.validation import check_counts, check_key, check_params, check_rate
from pgjax.environments.base import Environment
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.records import as_record
from pgjax.rollouts.fold import sampled_action, sampler, seeded_return
from pgjax.types import Observation, Params, Policy, describe

SMOOTH = ("Pendulum-v1", "Reacher-misc", "Swimmer-misc")
"""Environments of gymnax whose return is continuous in the actions."""
JUMPING = ("MountainCarContinuous-v0", "PointRobot-misc")
"""Environments with derivatives, and with jumps that the derivatives do not include."""


def pathwise_gradient(
    policy: Policy | Callable[[Params, Key[Array, ""], Observation], Any],
    params: Params,
    environment: AnyEnvironment,
    key: Key[Array, ""] | UInt32[Array, "2"],
    *,
    num_trajectories: int,
    num_steps: int,
    discount: float | Array,
) -> PyTree[Float[Array, "..."]]:
    """The pathwise (reparameterised) estimate of ∇J, ĝ = (1/N) Σ_i ∇θ Σ_t γ^t r_t(θ, noise_i).

    Compiled once for each policy, environment object and pair of sizes.

    Args:
        policy: a Policy whose `sample` is differentiable, or (params, key, observation) -> action,
            such as mean + scale · noise.
        environment: differentiable in state and action, rewards included. gymnax's stop the
            gradient at their states; `differentiable` returns one that does not.
        num_steps: T; memory grows with it, because every step is differentiated through.

    Raises:
        ValueError: if actions are not floating.

    Bias: none for ∇J if, with fixed noise, the return is continuous in θ (and Lipschitz, as where
        torques or speeds are clipped). If an action can end the episode, or if a reward jumps, the
        gradient leaves out the jump and is biased by its effect; a reward that consists of jumps
        gives zero. If an environment stops gradients at its state, only the derivative of each
        reward by its own action is left, without a warning.

    References:
        Kingma & Welling, Auto-Encoding Variational Bayes (2014), for the trick; Heess et al.,
        Learning Continuous Control Policies by Stochastic Value Gradients (2015), SVG(∞); Mohamed
        et al., Monte Carlo Gradient Estimation in Machine Learning (2020).

    Example:
        >>> import gymnax, jax, jax.numpy as jnp
        >>> pendulum = differentiable(gymnax.make("Pendulum-v1")[0])
        >>> def policy(params, key, observation):
        ...     return observation @ params + 0.1 * jax.random.normal(key, (1,))
        >>> pathwise_gradient(policy, jnp.zeros((3, 1)), pendulum, jax.random.key(0),
        ...     num_trajectories=4, num_steps=20, discount=0.99).shape
        (3, 1)
    """
    check_counts(num_trajectories=num_trajectories, num_steps=num_steps)
    check_rate("discount", discount)
    sampler(policy)  # raises if it is not a policy
    check_params(params)
    whole = params, as_environment(environment)
    sizes = num_trajectories, num_steps
    return _through_episodes(as_record(policy), whole, check_key(key), discount, sizes)


@partial(jax.jit, static_argnames="sizes")
def _through_episodes(
    policy: Any,
    whole: tuple[Params, Environment],
    key: Array,
    discount: Array,
    sizes: tuple[int, int],
) -> Params:
    params, environment = jax.tree.map(jnp.asarray, whole)
    params = varying(params, (whole, key))
    objective = seeded_return(policy, environment, num_steps=sizes[1], discount=discount)
    for leaf in jax.tree.leaves(sampled_action(policy, params, environment)):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"actions must be floating to have a pathwise gradient, got {leaf.dtype}; for "
                "discrete actions take a score-function estimator, such as pgjax.reward_to_go"
            )
    keys = jax.random.split(key, sizes[0])

    def mean(params: Params) -> Array:
        return jnp.mean(jax.vmap(objective, (None, 0))(params, keys))

    return jax.grad(mean)(params)


def differentiable(environment: Any, params: Any = None) -> Environment:
    """A gymnax environment as an `Environment`, with derivatives through its transitions.

    Pendulum-v1, Reacher-misc and Swimmer-misc have derivatives, and continuous returns. In
    MountainCarContinuous-v0 the reward of 100 at the goal is a jump, so that a pathwise gradient
    contains the cost of the actions only. In PointRobot-misc the reward is a jump unless
    `dense_reward` is on, and the robot jumps away from a goal it has reached. All other
    environments of gymnax have discrete actions or states.

    Args:
        environment: of gymnax, `gymnax.make(name)[0]`.
        params: its parameters; the default ones if None.

    Returns:
        An Environment with gymnax's own time limit.

    Raises:
        TypeError: if the environment is not of gymnax.
        ValueError: if it has no derivatives.

    References:
        gymnax: Lange (2022); `Environment.with_transition_gradients`.
    """
    from pgjax.environments import from_gymnax  # slow to import

    if not isinstance(environment, from_gymnax.GymnaxEnvironment):
        raise TypeError(
            "environment must be of gymnax, gymnax.make(name)[0], got "
            f"{describe(environment)}; an Environment needs no adapter"
        )
    if not environment.supports_transition_gradients:
        raise ValueError(
            f"environment must have derivatives through its transitions, got {environment.name}; "
            f"in gymnax these have them: {', '.join((*SMOOTH, *JUMPING))}"
        )
    return from_gymnax.adapt(environment.with_transition_gradients(), params)
