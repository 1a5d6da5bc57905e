"""A policy's actions, checked and converted for an environment."""

from typing import Any

import jax
import jax.numpy as jnp

from pgjax.environments.base import ActionSpace, Box, Discrete, Environment, MultiDiscrete, is_space


def check_actions(environment: Environment, action: Any) -> None:
    """Check that the environment takes the actions that the policy samples.

    Args:
        environment: its action space is compared.
        action: shapes and dtypes of an action, as from `jax.eval_shape`.

    Raises:
        TypeError: if their structures differ, or an action has the wrong dtype or shape for its
            space.
    """
    spaces, structure = jax.tree.flatten(environment.action_space, is_leaf=is_space)
    if jax.tree.structure(action) != structure:
        raise TypeError(
            f"the policy samples actions {jax.tree.map(_shown, action)}, and {environment.name} "
            f"takes {environment.action_space}; use a policy of that structure: factored_policy "
            "makes one from several policies"
        )
    for space, part in zip(spaces, jax.tree.leaves(action), strict=True):
        if not _fits(space, part):
            raise TypeError(
                f"the policy samples {_shown(part)} actions, and {environment.name} takes {space}; "
                f"use {_remedy(space)}"
            )


def as_taken(space: ActionSpace | Any, action: Any) -> tuple[Any, Any]:
    """A sampled action as it is recorded, and as it is handed to the environment.

    Args:
        space: the environment's action space.
        action: an action that fits the space. Integers are recorded as int32; real vectors are
            recorded unchanged, and handed to the environment in the shape of the Box.

    Returns:
        Two pytrees like the action: the recorded one, and the one for the environment.
    """

    def recorded(space: ActionSpace, x: Any) -> Any:
        return x if isinstance(space, Box) else x.astype(jnp.int32)

    def handed(space: ActionSpace, x: Any) -> Any:
        return x.reshape(space.shape) if isinstance(space, Box) else x

    action = jax.tree.map(recorded, space, action, is_leaf=is_space)
    return action, jax.tree.map(handed, space, action, is_leaf=is_space)


def _fits(space: ActionSpace, action: Any) -> bool:
    is_integer = jnp.issubdtype(action.dtype, jnp.integer)
    match space:
        case Discrete():
            return is_integer and action.shape == ()
        case MultiDiscrete(num_actions):
            return is_integer and action.shape == (len(num_actions),)
        case Box():
            is_real = jnp.issubdtype(action.dtype, jnp.floating)
            return is_real and action.shape in (space.shape, (space.size,))


def _remedy(space: ActionSpace) -> str:
    match space:
        case Discrete():
            return "softmax_policy or flax_policy"
        case MultiDiscrete():
            return "multi_discrete_policy"
        case Box():
            return f"gaussian_policy or flax_gaussian_policy over {space.size} dimensions"


def _shown(action: Any) -> str:
    return f"{action.dtype}{list(action.shape)}"
