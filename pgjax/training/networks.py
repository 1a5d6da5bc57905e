"""Default networks: of the shapes that an environment's observations and actions ask for."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array
from jaxtyping import Key, UInt32

from pgjax.core.validation import check_key
from pgjax.environments.base import Box, Discrete, Environment, seen
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.policies import MLP, ConvNet, GaussianMLP, flax_gaussian_policy, flax_policy
from pgjax.policies.actor_critic import ActorCritic
from pgjax.policies.distribution import unmasked
from pgjax.types import Params, Policy, RecurrentPolicy


def default_network(environment: AnyEnvironment) -> linen.Module:
    """A network that fits an environment with discrete actions: logits from one observation.

    Images [height, width, channels] of at least 3×3 get a `ConvNet`; an observation that is a
    category is one-hot encoded for an `MLP`; any other is flattened for it, and one of several
    parts is joined.

    Args:
        environment: whatever `rollout` takes.

    Returns:
        A Flax module, for `flax_policy`.

    Raises:
        TypeError: actions that are not discrete.

    Example:
        >>> import gymnax
        >>> type(default_network(gymnax.make("Breakout-MinAtar")[0])).__name__
        'ConvNet'
    """
    surface = as_environment(environment)
    space = surface.action_space
    if not isinstance(space, Discrete):
        raise TypeError(
            f"{surface.name} has actions in a {type(space).__name__} space, and a "
            "softmax policy needs Discrete ones; CartPole-v1 and the MinAtar games have them"
        )
    return _network(space.num_actions, environment)


def default_gaussian_network(environment: AnyEnvironment) -> linen.Module:
    """A network that fits an environment with a Box of actions: a mean and a log σ.

    Args:
        environment: whatever `rollout` takes.

    Returns:
        A Flax module, for `flax_gaussian_policy`.

    Raises:
        TypeError: actions that are no Box.

    Example:
        >>> import gymnax
        >>> default_gaussian_network(gymnax.make("Pendulum-v1")[0]).num_dimensions
        1
    """
    surface = as_environment(environment)
    if not isinstance(surface.action_space, Box):
        raise TypeError(
            f"{surface.name} has {surface.action_space}, and a Gaussian policy needs a Box; "
            "use default_network"
        )
    return GaussianMLP(surface.action_space.size)


def default_critic(environment: AnyEnvironment) -> linen.Module:
    """A network that gives one number, of the shape that `default_network` would have.

    Args:
        environment: whatever `rollout` takes.

    Returns:
        A Flax module, for `flax_value` or `agents.separate`.

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
    """The policy that a default network is read as: Gaussian from a mean and a log σ, else softmax.

    Args:
        network: as `make` describes it.
    """
    is_gaussian = isinstance(network, GaussianMLP)
    return flax_gaussian_policy(network) if is_gaussian else flax_policy(network)


def network_for(environment: AnyEnvironment) -> linen.Module:
    """The default network for an environment: a Gaussian's for a Box of actions, else logits.

    Args:
        environment: whatever `rollout` takes.
    """
    is_box = isinstance(as_environment(environment).action_space, Box)
    return (default_gaussian_network if is_box else default_network)(environment)


def network_description(network: linen.Module) -> dict:
    """A network by its class and its fields, for `config.json`."""
    fields = {
        field.name: getattr(network, field.name)
        for field in dataclasses.fields(network)
        if field.name not in ("parent", "name")
    }
    return {"class": type(network).__name__} | fields


def initial_params(
    policy: Policy | RecurrentPolicy | ActorCritic,
    environment: AnyEnvironment,
    key: Key[Array, ""] | UInt32[Array, "2"],
) -> Params:
    """The policy's parameters at the start, from the shape of the environment's observation.

    Args:
        policy: its `init` draws them; an agent's, of policy and critic.
        environment: whatever `rollout` takes.
        key: from `jax.random.key`.

    Returns:
        A pytree of floating arrays.

    Raises:
        TypeError: a key that is none.
    """
    example = _example_observation(as_environment(environment))
    # Only the shape matters, and zeros keep the start independent of any draw of the environment.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
    return jax.jit(policy.init)(check_key(key), zeros)


def _example_observation(environment: Environment) -> Any:
    """Shape and dtype of what a policy sees, without drawing it."""
    return jax.eval_shape(lambda key: seen(environment.init(key)[1]), jax.random.key(0))
