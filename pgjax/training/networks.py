"""Default networks that fit an environment's observations and actions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array

from pgjax.core.validation import check_key, check_params, check_policy
from pgjax.environments.base import Box, Discrete, Environment, seen
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.policies import MLP, ConvNet, GaussianMLP, flax_gaussian_policy, flax_policy
from pgjax.policies.actor_critic import ActorCritic
from pgjax.policies.distribution import unmasked
from pgjax.settings import STANDARDIZED, Settings
from pgjax.types import KeyLike, Params, Policy, RecurrentPolicy


def default_network(environment: AnyEnvironment) -> linen.Module:
    """A Flax network from an observation to logits, for an environment with discrete actions.

    Images [height, width, channels] of at least 3×3 get a `ConvNet`; an observation that is a
    category is one-hot encoded for an `MLP`. Any other observation is flattened for an `MLP`; if it
    has several parts, they are joined.

    Raises:
        TypeError: if the actions are not discrete.

    Example:
        >>> import gymnax
        >>> type(default_network(gymnax.make("Breakout-MinAtar")[0])).__name__
        'ConvNet'
    """
    environment = as_environment(environment)
    space = environment.action_space
    if not isinstance(space, Discrete):
        raise TypeError(
            f"{environment.name} has actions in a {type(space).__name__} space, and a "
            "softmax policy needs Discrete actions; use default_gaussian_network for a Box"
        )
    return _network(space.num_actions, environment)


def default_gaussian_network(environment: AnyEnvironment) -> linen.Module:
    """A Flax network from an observation to μ and log σ, for an environment with a Box of actions.

    Raises:
        TypeError: if the actions are not in a Box.

    Example:
        >>> import gymnax
        >>> default_gaussian_network(gymnax.make("Pendulum-v1")[0]).num_dimensions
        1
    """
    environment = as_environment(environment)
    space = environment.action_space
    if not isinstance(space, Box):
        raise TypeError(
            f"{environment.name} has {space}, and a Gaussian policy needs a Box; "
            "use default_network"
        )
    return GaussianMLP(space.size)


def default_critic(environment: AnyEnvironment) -> linen.Module:
    """A Flax network that returns one number, of the same kind as `default_network`.

    Example:
        >>> import gymnax
        >>> default_critic(gymnax.make("CartPole-v1")[0]).num_actions
        1
    """
    return _network(1, environment)


def _network(num_outputs: int, environment: AnyEnvironment) -> linen.Module:
    environment = as_environment(environment)
    if environment.num_categories is not None:
        return MLP(num_outputs, num_categories=environment.num_categories)
    parts = jax.tree.leaves(unmasked(_example_observation(environment)))
    shape = parts[0].shape if len(parts) == 1 else ()
    is_image = len(shape) == 3 and min(shape[:2]) >= 3
    return ConvNet(num_outputs) if is_image else MLP(num_outputs)


def policy_of(network: linen.Module) -> Policy:
    """The policy of a default network: Gaussian for a GaussianMLP, else softmax."""
    is_gaussian = isinstance(network, GaussianMLP)
    return flax_gaussian_policy(network) if is_gaussian else flax_policy(network)


def network_for(environment: AnyEnvironment) -> linen.Module:
    """The default network for an environment: a GaussianMLP for a Box of actions, else logits."""
    is_box = isinstance(as_environment(environment).action_space, Box)
    return (default_gaussian_network if is_box else default_network)(environment)


def default_networks(
    environment: AnyEnvironment, settings: Settings
) -> tuple[linen.Module, linen.Module]:
    """The policy's network and the critic that the settings ask for.

    Raises:
        ValueError: if observations are to be standardized, and are images or categories.
    """
    networks = network_for(environment), default_critic(environment)
    if getattr(settings, "observations", None) != STANDARDIZED:
        return networks
    is_vector = all(isinstance(each, MLP | GaussianMLP) for each in networks)
    if not is_vector or as_environment(environment).num_categories is not None:
        raise ValueError(
            "observations must be vectors of numbers to be standardized, and those of "
            f"{as_environment(environment).name} are images or categories; use 'raw'"
        )
    policy, critic = (each.clone(standardized=True) for each in networks)
    return policy, critic


def network_description(network: linen.Module) -> dict:
    """A network's class and fields, for `config.json`."""
    fields = {
        field.name: getattr(network, field.name)
        for field in dataclasses.fields(network)
        if field.name not in ("parent", "name")
    }
    return {"class": type(network).__name__} | fields


def initial_params(
    policy: Policy | RecurrentPolicy | ActorCritic,
    environment: AnyEnvironment,
    key: KeyLike,
) -> Params:
    """A policy's first parameters, from the shape of the environment's observation.

    Args:
        policy: its `init` draws them; an agent's are of policy and critic.
        environment: as for `rollout`.
        key: from `jax.random.key`.
    """
    if not isinstance(policy, ActorCritic):
        check_policy(policy)
    example = _example_observation(as_environment(environment))
    # Only the shape matters, and zeros keep the start independent of any draw of the environment.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
    return jax.jit(policy.init)(check_key(key), zeros)


def params_and_key(
    policy: Policy | RecurrentPolicy | ActorCritic,
    environment: Environment,
    key: KeyLike,
    params: Params | None,
) -> tuple[Params, Array]:
    """The parameters to start from, and the key of the training.

    Args:
        policy: whose parameters they are.
        environment: for the shape of its observation.
        key: if there are parameters, the training gets this key; else it is split in two.
        params: None draws them.
    """
    key = check_key(key)
    if params is not None:
        check_params(params)
        return params, key
    init_key, key = jax.random.split(key)
    return initial_params(policy, environment, init_key), key


def _example_observation(environment: Environment) -> Any:
    """Shape and dtype of the observation that a policy sees."""
    return jax.eval_shape(lambda key: seen(environment.init(key)[1]), jax.random.key(0))
