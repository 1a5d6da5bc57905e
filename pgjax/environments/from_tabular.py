"""The adapter of TabularMDPs: the state is an index."""

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.core.float64 import to_jax
from pgjax.environments.base import Discrete, Environment, Step
from pgjax.exact.tabular import TabularMDP
from pgjax.records import configured


def adapt(mdp: TabularMDP) -> Environment:
    """A TabularMDP as an Environment, without a time limit; observations are rows of `observation`.

    It draws exactly from the initial distribution and the transition tensor, which may be traced.

    Example:
        >>> import jax, pgjax
        >>> environment = adapt(pgjax.tabular.random_mdp())
        >>> state, step = environment.init(jax.random.key(0))
        >>> step.observation.shape, environment.action_space.num_actions
        ((4,), 2)
    """
    mdp = to_jax(mdp)
    return Environment(
        configured(_init, mdp=mdp),
        configured(_step, mdp=mdp),
        Discrete(mdp.num_actions),
        name="TabularMDP",
    )


def _init(key: Array, *, mdp: TabularMDP) -> tuple[Array, Step]:
    index = jax.random.categorical(key, jnp.log(mdp.initial)).astype(jnp.int32)
    no_reward, no = jnp.zeros((), mdp.reward.dtype), jnp.bool_(False)
    return index, Step(mdp.observation[index], no_reward, no, no)


def _step(key: Array, index: Array, action: Array, *, mdp: TabularMDP) -> tuple[Array, Step]:
    row = mdp.transition[index, action]
    following = jax.random.categorical(key, jnp.log(row)).astype(jnp.int32)
    reward, terminated = mdp.reward[index, action, following], mdp.terminal[following]
    return following, Step(mdp.observation[following], reward, terminated, jnp.bool_(False))
