"""Returns of fresh episodes under fixed parameters."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.core.validation import check_counts, check_key, check_leaves, check_policy
from pgjax.environments.base import Environment
from pgjax.environments.conversion import as_environment
from pgjax.rollouts.episodes import rollout
from pgjax.types import KeyLike, Params, Policy, RecurrentPolicy, Trajectory


def evaluate(
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: Any,
    key: KeyLike,
    *,
    num_trajectories: int,
    num_steps: int,
) -> Float[Array, "N"]:
    """Undiscounted returns of fresh episodes under the stochastic policy, R_i = Σ_t r_it.

    Args:
        policy: the policy that acts, by sampling.
        params: of the policy.
        environment: as for `rollout`.
        key: from `jax.random.key`; use another key than for the training.
        num_trajectories: N.
        num_steps: T; if it is below the task's own limit, it cuts episodes and their returns.

    Returns:
        [N], in units of reward.

    Bias: their mean is unbiased for the undiscounted T-step objective of fixed parameters.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> evaluate(pgjax.tabular_softmax(4, 2), jnp.zeros((4, 2)), pgjax.tabular.random_mdp(),
        ...     jax.random.key(0), num_trajectories=3, num_steps=5).shape
        (3,)
    """
    check_policy(policy)
    check_leaves("params", params)
    environment = as_environment(environment)
    check_counts(num_trajectories=num_trajectories, num_steps=num_steps)
    return _returns(policy, params, environment, check_key(key), num_trajectories, num_steps)


# Under one jit the stacked observations are never used, so XLA does not store them.
@partial(jax.jit, static_argnums=(4, 5))
def _returns(
    policy: Policy | RecurrentPolicy,
    params: Params,
    environment: Environment,
    key: Array,
    num_trajectories: int,
    num_steps: int,
) -> Array:
    draw = partial(rollout, num_trajectories=num_trajectories, num_steps=num_steps)
    return returns_of(draw(policy, params, environment, key))


def returns_of(batch: Trajectory) -> Array:
    """Undiscounted returns [N] of a batch of episodes."""
    return jnp.sum(jnp.where(batch.mask, batch.reward, 0), axis=1)
