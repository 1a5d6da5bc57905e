"""Actions between a policy and an environment: what fits, what is recorded, what is handed on."""

from typing import Any

import jax
import jax.numpy as jnp

from pgjax.environments.surface import ActionSpace, Box, Discrete, Environment, MultiDiscrete


def check_actions(environment: Environment, action: Any) -> None:
    """What a policy samples is what the environment takes; a factored action passes unseen.

    Args:
        environment: whose action space it is.
        action: shape and dtype of an action, as from `jax.eval_shape`.

    Raises:
        TypeError: a vector for Discrete actions, integers for a Box, another number of coordinates.
    """
    space = environment.action_space
    leaves = jax.tree.leaves(action)
    if len(leaves) != 1:
        return
    shape, dtype = leaves[0].shape, leaves[0].dtype
    is_integer = jnp.issubdtype(dtype, jnp.integer)
    match space:
        case Discrete():
            fits, fix = is_integer and shape == (), "softmax_policy or flax_policy"
        case MultiDiscrete(num_actions):
            fits = is_integer and shape == (len(num_actions),)
            fix = "multi_discrete_policy"
        case Box():
            fits = jnp.issubdtype(dtype, jnp.floating) and shape in (space.shape, (space.size,))
            fix = f"gaussian_policy or flax_gaussian_policy over {space.size} dimensions"
    if not fits:
        raise TypeError(
            f"the policy samples {dtype}{list(shape)} actions, and {environment.name} takes "
            f"{space}; use {fix}"
        )


def as_taken(space: ActionSpace, action: Any) -> tuple[Any, Any]:
    """A sampled action as it is recorded, and as the environment is handed it."""
    if len(jax.tree.leaves(action)) != 1:
        return action, action
    if isinstance(space, Box):
        return action, jax.tree.map(lambda x: x.reshape(space.shape), action)
    action = jax.tree.map(lambda x: x.astype(jnp.int32), action)
    return action, action
