"""Flax at the edge: linen and NNX modules as plain functions, and as policies."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array

from pgjax.policies.distribution import Distribution
from pgjax.policies.gaussian import gaussian_policy
from pgjax.policies.networks import RecurrentNetwork
from pgjax.policies.recurrent import recurrent_policy
from pgjax.policies.softmax import SOFTMAX, softmax_policy
from pgjax.records import configured
from pgjax.types import Observation, Params, Policy, RecurrentPolicy


def flax_policy(module: Any) -> Policy:
    """A softmax policy from a Flax module whose call on one observation returns logits [A].

    Args:
        module: a `flax.linen` module; or, for `flax.nnx`, a function `rngs -> module`, or a module
            as it stands (`init` then returns its own parameters, whatever the key).
            It is called with one observation, without a batch axis.

    Returns:
        A Policy. Its params are the linen variables, `{"params": ...}`, or the NNX state of
        `nnx.Param`; other NNX state (statistics, rng counts) is held as it was at construction.

    Raises:
        TypeError: neither kind of module.
        ValueError: by its functions: params without the `{"params": ...}` collection, logits that
            are not [A].

    Bias: log-probabilities are exact.

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
    """A diagonal Gaussian policy from a Flax module whose call returns (μ, log σ), each [D].

    Args:
        module: as for `flax_functions`; `GaussianMLP`, say.

    Returns:
        A Policy over actions [D].

    Raises:
        TypeError: neither kind of module; by its functions: an output that is no pair.
        ValueError: by its functions: params without the `{"params": ...}` collection, a mean or a
            log σ that is not [D].

    Bias: log-probabilities are exact.

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
        cell: `linen.GRUCell(64)`, `linen.LSTMCell(64)`.
        head: from what the cell gives to what the distribution takes: `MLP(2, hidden=())`.
        distribution: over the actions; softmax, from logits [A], if not another.
        num_categories: for an integer observation, its number of values.

    Returns:
        A RecurrentPolicy. Its params are the linen variables, `{"params": {"cell": ..., "head":
        ...}}`; its memory starts at zero, in their precision.

    Raises:
        TypeError: a cell that is none, a head that is no linen module.
        ValueError: by its functions: params without the `{"params": ...}` collection, and whatever
            the distribution refuses.

    Bias: log-probabilities are as exact as the distribution's.

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
    network = RecurrentNetwork(cell, head, num_categories)
    return recurrent_policy(
        configured(_init_recurrent, module=network),
        configured(_initial_memory, module=network),
        configured(_apply, module=network),
        distribution,
    )


class Functions(NamedTuple):
    """A network as two functions.

    Attributes:
        init: (key, observation) -> params.
        output: (params, observation) -> what the network gives for one observation.
    """

    init: Callable[[Array, Observation], Params]
    output: Callable[[Params, Observation], Any]


def flax_functions(module: Any) -> Functions:
    """A Flax module as the two functions that every kind of policy is made from.

    Args:
        module: a `flax.linen` module; or, for `flax.nnx`, a function `rngs -> module`, or a module
            as it stands (`init` then returns its own parameters, whatever the key).
            It is called with one observation, without a batch axis.

    Returns:
        (init, output). Params are the linen variables, `{"params": ...}`, or the NNX state of
        `nnx.Param`; other NNX state (statistics, rng counts) is held as it was at construction.

    Raises:
        TypeError: neither kind of module.
        ValueError: by `output`: params without the `{"params": ...}` collection.

    Bias: does not apply.

    Example:
        >>> from pgjax.policies import MLP, softmax_policy
        >>> policy = softmax_policy(*flax_functions(MLP(num_actions=2)))
    """
    if isinstance(module, linen.Module):
        return Functions(configured(_init, module=module), configured(_apply, module=module))
    if callable(module):  # an NNX module is callable too; nnx itself is slow to import
        return _nnx_functions(module)
    raise TypeError(
        "module must be a flax.linen module, a flax.nnx module or a function rngs -> nnx module, "
        f"got {module!r}"
    )


def _init(key: Array, observation: Observation, *, module: linen.Module) -> Params:
    return module.init(key, observation)


def _init_recurrent(key: Array, observation: Observation, *, module: RecurrentNetwork) -> Params:
    return module.init(key, module.initial_memory(), observation)


def _initial_memory(params: Params, *, module: RecurrentNetwork) -> Any:
    dtype = jnp.result_type(*jax.tree.leaves(params))
    return jax.tree.map(lambda x: x.astype(dtype), module.initial_memory())


def _apply(params: Params, *observed: Any, module: linen.Module) -> Any:
    if not isinstance(params, Mapping) or "params" not in params:
        keys = sorted(params) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(
            f"params of a linen policy must hold the 'params' collection, got {keys}; "
            "pass what policy.init returned, or {'params': ...}"
        )
    return module.apply(params, *observed)


def _nnx_functions(module: Any) -> Functions:
    from flax import nnx

    if isinstance(module, nnx.Module):
        graph, own, rest = nnx.split(module, nnx.Param, ...)
        return Functions(
            lambda key, observation: own, lambda params, x: nnx.merge(graph, params, rest)(x)
        )
    graph, _, rest = nnx.split(module(nnx.Rngs(0)), nnx.Param, ...)
    return Functions(
        lambda key, observation: nnx.split(module(nnx.Rngs(key)), nnx.Param, ...)[1],
        lambda params, x: nnx.merge(graph, params, rest)(x),
    )
