"""Flax adapters: linen and NNX modules as plain functions, and as policies.

A `module` is a `flax.linen` module, a `flax.nnx` module that is built already, or a function
`rngs -> nnx module`. It is called with one observation, without a batch axis.

Params are `{"params": ...}` of linen, or the NNX state of `nnx.Param`, and hold nothing else: every
leaf is differentiated and trained. All other variables are constants of the network: batch
statistics, caches, random keys, collections and variables of any name.

A built NNX module, or a linen module bound to its variables (`module.bind(variables)`), brings its
own constants and parameters: `init` returns those parameters, whatever the key. The constants of
other modules are made once, from seed 0: a fresh batch normalisation has mean 0 and variance 1.

NNX modules are taken in evaluation mode (`nnx.Module.eval`): dropout is off, batch statistics are
used and not computed. A linen module must be set to that by its arguments (`deterministic=True`,
`use_running_average=True`). What a module sows is dropped.

All functions raise a TypeError if `module` is none of these. If a call of the module draws random
numbers or changes a variable, `init` and every later call raise a ValueError that names the layer
and the variable. They also raise one if linen params hold other collections than "params".
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array

from pgjax.core.validation import check_positive
from pgjax.policies.distribution import Distribution
from pgjax.policies.gaussian import gaussian_policy
from pgjax.policies.linen_modules import linen_functions
from pgjax.policies.networks import RecurrentNetwork
from pgjax.policies.nnx_modules import nnx_functions
from pgjax.policies.recurrent import recurrent_policy
from pgjax.policies.softmax import SOFTMAX, softmax_policy
from pgjax.records import configured
from pgjax.types import Observation, Params, Policy, RecurrentPolicy

Init: TypeAlias = Callable[[Array, Observation], Params]
Output: TypeAlias = Callable[[Params, Observation], Any]


def flax_policy(module: Any) -> Policy:
    """A softmax policy from a Flax module that returns logits [A].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pgjax.policies import MLP
        >>> policy = flax_policy(MLP(num_actions=2))
        >>> params = policy.init(jax.random.key(0), jnp.zeros(4))
        >>> policy.log_prob(params, jnp.zeros(4), 1).shape
        ()
    """
    return softmax_policy(*flax_functions(module))


def flax_gaussian_policy(module: Any) -> Policy:
    """A diagonal Gaussian policy from a Flax module that returns (μ, log σ), each [D].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pgjax.policies import GaussianMLP
        >>> policy = flax_gaussian_policy(GaussianMLP(num_dimensions=3))
        >>> params = policy.init(jax.random.key(0), jnp.zeros(4))
        >>> action, log_prob = policy.sample(params, jax.random.key(1), jnp.zeros(4))
        >>> action.shape, log_prob.shape
        ((3,), ())
    """
    return gaussian_policy(*flax_functions(module))


def flax_recurrent_policy(
    cell: linen.RNNCellBase,
    head: linen.Module,
    distribution: Distribution = SOFTMAX,
    *,
    num_categories: int | None = None,
) -> RecurrentPolicy:
    """A recurrent policy from a linen cell and a linen head, as in `RecurrentNetwork`.

    For other recurrent networks give their functions to `recurrent_policy`.

    Args:
        cell: such as `linen.GRUCell(64)` or `linen.LSTMCell(64)`.
        head: from the cell's output to what the distribution takes, such as `MLP(2, hidden=())`.
        distribution: of the actions.
        num_categories: the number of values of an integer observation, which is then one-hot
            encoded.

    Returns:
        A RecurrentPolicy. Its params are `{"params": {"cell": ..., "head": ...}}`. Its memory
        starts at zero, in the precision of the params.

    Raises:
        TypeError: if `cell` is not a linen cell, or `head` not a linen module, or one is bound.
        ValueError: if `num_categories` is below one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen
        >>> from pgjax.policies import MLP
        >>> policy = flax_recurrent_policy(linen.GRUCell(8), MLP(num_actions=2, hidden=()))
        >>> params = policy.init(jax.random.key(0), jnp.zeros(4))
        >>> memory, log_prob = policy.log_prob(params, policy.memory(params), jnp.zeros(4), 1)
        >>> memory.shape, log_prob.shape
        ((8,), ())
    """
    for name, module, kind in (("cell", cell, linen.RNNCellBase), ("head", head, linen.Module)):
        if not isinstance(module, kind):
            raise TypeError(f"{name} must be a flax.linen {kind.__name__}, got {module!r}")
        if module.scope is not None:
            raise TypeError(
                f"{name} must not be bound to variables, got a bound {type(module).__name__}; "
                "give the functions of a bound network to pgjax.recurrent_policy"
            )
    if num_categories is not None:
        check_positive("num_categories", num_categories)
    network = RecurrentNetwork(cell, head, num_categories)
    init, step = linen_functions(network, configured(_with_memory, module=network))
    return recurrent_policy(init, configured(_initial_memory, module=network), step, distribution)


def _with_memory(observation: Observation, *, module: RecurrentNetwork) -> tuple[Any, Observation]:
    return module.initial_memory(), observation


def _initial_memory(params: Params, *, module: RecurrentNetwork) -> Any:
    dtype = jnp.result_type(*jax.tree.leaves(params))
    return jax.tree.map(lambda x: x.astype(dtype), module.initial_memory())


def flax_functions(module: Any) -> tuple[Init, Output]:
    """A Flax module as the two functions that every kind of policy is made from.

    Returns:
        `init`, (key, observation) -> params, and `output`, (params, observation) -> the module's
        output.

    Example:
        >>> from pgjax.policies import MLP, softmax_policy
        >>> policy = softmax_policy(*flax_functions(MLP(num_actions=2)))
    """
    if isinstance(module, linen.Module):
        return linen_functions(module)
    if callable(module):  # an NNX module is callable too; nnx itself is slow to import
        return nnx_functions(module)
    raise TypeError(
        "module must be a flax.linen module, a flax.nnx module or a function rngs -> nnx module, "
        f"got {module!r}"
    )
