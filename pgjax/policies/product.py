"""Products: policies and distributions of several choices, independent given the observation.

log π(a|s) = Σ_k log π_k(a_k|s), and H(π) = Σ_k H(π_k), over the choices (factors) k.

Parameters, outputs, actions and masks of a product are pytrees of one structure; its functions
raise a ValueError if one is structured otherwise. A mask is None for a factor that has none.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import accumulate
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key, PyTree

from pgjax.core.validation import check_positive
from pgjax.policies.distribution import Distribution, Output, distribution_policy
from pgjax.policies.softmax import SOFTMAX
from pgjax.records import configured
from pgjax.types import MaskedObservation, Observation, Params, Policy, check_function, describe


def multi_discrete_policy(
    init: Callable[[Key[Array, ""], Observation], Params],
    logits: Callable[[Params, Observation], Output],
    *,
    num_actions: Sequence[int],
) -> Policy:
    """A Policy of several independent softmax choices; an action is a vector of integers.

    π(a|s) = Π_d exp(l_{d,a_d}) / Σ_b exp(l_{d,b}), with the logits l_d of choice d.

    Args:
        init: (key, observation) -> params.
        logits: (params, observation) -> [A_1 + ... + A_D], the choices' logits one after another,
            or a sequence of D arrays, [A_1] to [A_D]; −inf marks an illegal action.
        num_actions: (A_1, ..., A_D).

    Returns:
        A Policy over actions [D], int32. An action mask is laid out as the logits are.

    Raises:
        TypeError: if `num_actions` is not a sequence of integers.
        ValueError: if it is empty, or a size is below one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> policy = multi_discrete_policy(
        ...     lambda key, x: jnp.zeros(5), lambda w, x: w, num_actions=(2, 3))
        >>> action, log_prob = policy.sample(jnp.zeros(5), jax.random.key(0), None)
        >>> action.shape, round(float(log_prob), 6)
        ((2,), -1.791759)
    """
    check_function("logits", logits, "(params, observation) -> [A_1 + ... + A_D]")
    return distribution_policy(init, logits, multi_discrete(num_actions))


def multi_discrete(num_actions: Sequence[int]) -> Distribution:
    """The Distribution of `multi_discrete_policy`; a network's output is the choices' logits.

    Example:
        >>> import jax.numpy as jnp
        >>> choices = multi_discrete((2, 3))
        >>> round(float(choices.log_prob(jnp.zeros(5), jnp.array([1, 2]))), 6)
        -1.791759
    """
    if not isinstance(num_actions, Sequence) or isinstance(num_actions, str):
        raise TypeError(
            f"num_actions must be a sequence of sizes, such as (2, 3), got {describe(num_actions)}"
        )
    sizes = tuple(check_positive("num_actions", size) for size in num_actions)
    if not sizes:
        raise ValueError("num_actions must name at least one choice, got none")
    choices = product((SOFTMAX,) * len(sizes))
    return Distribution(
        sample=configured(_sample_choices, choices=choices, sizes=sizes),
        log_prob=configured(_log_prob_of_choices, choices=choices, sizes=sizes),
        entropy=configured(_entropy_of_choices, choices=choices, sizes=sizes),
        masked=configured(_mask_choices, choices=choices, sizes=sizes),
    )


def factored_policy(policies: PyTree[Policy]) -> Policy:
    """One Policy from several independent ones, such as a softmax beside a Gaussian.

    Each sees the same observation and has its own parameters. If factors share a network, use a
    `product` of distributions in `distribution_policy` instead.

    Args:
        policies: a dict, tuple or other pytree of Policies.

    Returns:
        A Policy whose actions and parameters are pytrees like `policies`.

    Raises:
        TypeError: if a leaf is not a Policy.
        ValueError: if there is no policy.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> policy = factored_policy({
        ...     "gear": pgjax.flax_policy(pgjax.MLP(num_actions=3)),
        ...     "steering": pgjax.flax_gaussian_policy(pgjax.GaussianMLP(num_dimensions=1)),
        ... })
        >>> params = policy.init(jax.random.key(0), jnp.zeros(4))
        >>> action, log_prob = policy.sample(params, jax.random.key(1), jnp.zeros(4))
        >>> jax.tree.map(jnp.shape, action)
        {'gear': (), 'steering': (1,)}
    """
    factors, structure = _factors("policies", policies, Policy)
    joint = product(structure.unflatten(map(_conditional, factors)))

    return distribution_policy(
        configured(_init_factors, factors=tuple(factors), structure=structure),
        configured(_factor_outputs, structure=structure),
        joint,
    )


def product(distributions: PyTree[Distribution]) -> Distribution:
    """One Distribution from several independent ones, for a network with a head for each.

    Args:
        distributions: a dict, tuple or other pytree of Distributions.

    Returns:
        A Distribution whose outputs and actions are pytrees like `distributions`.

    Raises:
        TypeError: if a leaf is not a Distribution.
        ValueError: if there is no distribution.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax.policies import GAUSSIAN, SOFTMAX
        >>> both = product((SOFTMAX, GAUSSIAN))
        >>> entropy = both.entropy((jnp.zeros(2), (jnp.zeros(1), jnp.zeros(1))))
        >>> round(float(entropy), 6)  # log 2 + ½ log 2πe
        2.112086
    """
    factors, structure = _factors("distributions", distributions, Distribution)

    settings: dict[str, Any] = {"factors": tuple(factors), "structure": structure}
    return Distribution(
        sample=configured(_sample, **settings),
        log_prob=configured(_log_prob, **settings),
        entropy=configured(_entropy, **settings),
        masked=configured(_mask, **settings),
    )


def _sample(output: Output, key: Array, *, factors: Any, structure: Any) -> tuple[Any, Array]:
    outputs = _parts(structure, "output", output)
    keys = jax.random.split(key, len(factors))
    drawn = [f.sample(x, k) for f, x, k in zip(factors, outputs, keys, strict=True)]
    return structure.unflatten([action for action, _ in drawn]), _total(x for _, x in drawn)


def _log_prob(output: Output, action: Any, *, factors: Any, structure: Any) -> Array:
    outputs, actions = _parts(structure, "output", output), _parts(structure, "action", action)
    return _total(f.log_prob(x, a) for f, x, a in zip(factors, outputs, actions, strict=True))


def _entropy(output: Output, *, factors: Any, structure: Any) -> Array:
    outputs = _parts(structure, "output", output)
    return _total(f.entropy(x) for f, x in zip(factors, outputs, strict=True))


def _mask(output: Output, action_mask: Any, *, factors: Any, structure: Any) -> Output:
    outputs = _parts(structure, "output", output)
    masks = _parts(structure, "action_mask", action_mask)
    return structure.unflatten(
        x if mask is None else f.masked(x, mask)
        for f, x, mask in zip(factors, outputs, masks, strict=True)
    )


Sizes: TypeAlias = tuple[int, ...]


def _sample_choices(
    logits: Output, key: Array, *, choices: Distribution, sizes: Sizes
) -> tuple[Array, Array]:
    actions, log_prob = choices.sample(_pieces("logits", logits, sizes), key)
    return jnp.stack(actions), log_prob


def _log_prob_of_choices(
    logits: Output, action: Any, *, choices: Distribution, sizes: Sizes
) -> Array:
    action = jnp.asarray(action)
    if action.shape != (len(sizes),):
        raise ValueError(f"action must have shape [D] = {(len(sizes),)}, got {action.shape}")
    separate = tuple(action[d] for d in range(len(sizes)))
    return choices.log_prob(_pieces("logits", logits, sizes), separate)


def _entropy_of_choices(logits: Output, *, choices: Distribution, sizes: Sizes) -> Array:
    return choices.entropy(_pieces("logits", logits, sizes))


def _mask_choices(
    logits: Output, action_mask: Any, *, choices: Distribution, sizes: Sizes
) -> Output:
    logits = _pieces("logits", logits, sizes)
    return choices.masked(logits, _pieces("action_mask", action_mask, sizes))


def _init_factors(key: Array, observation: Observation, *, factors: Any, structure: Any) -> Params:
    keys = jax.random.split(key, len(factors))
    return structure.unflatten(
        factor.init(key, observation) for factor, key in zip(factors, keys, strict=True)
    )


def _factor_outputs(params: Params, observation: Observation, *, structure: Any) -> Output:
    return structure.unflatten((x, observation) for x in _parts(structure, "params", params))


def _conditional(policy: Policy) -> Distribution:
    """A policy as a distribution whose output is its (params, observation)."""
    return Distribution(
        sample=configured(_sample_given, policy=policy),
        log_prob=configured(_log_prob_given, policy=policy),
        entropy=configured(_entropy_given, policy=policy),
        masked=_mask_observation,
    )


def _sample_given(given: Any, key: Array, *, policy: Policy) -> tuple[Any, Array]:
    params, observation = given
    return policy.sample(params, key, observation)


def _log_prob_given(given: Any, action: Any, *, policy: Policy) -> Array:
    params, observation = given
    return policy.log_prob(params, observation, action)


def _entropy_given(given: Any, *, policy: Policy) -> Array:
    return policy.entropy(*given)


def _mask_observation(given: Any, action_mask: Any) -> Any:
    params, observation = given
    return params, MaskedObservation(observation, action_mask)


def _pieces(name: str, values: Any, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    """One array for each choice, from a joined array or from a sequence of arrays."""
    if not isinstance(values, list | tuple):
        values = jnp.asarray(values)
        if values.shape != (sum(sizes),):
            raise ValueError(
                f"{name} must have shape [ΣA] = {(sum(sizes),)} for the sizes {sizes}, "
                f"got {values.shape}"
            )
        ends = list(accumulate(sizes))
        return tuple(values[end - size : end] for size, end in zip(sizes, ends, strict=True))
    shapes = [jnp.shape(x) for x in values]
    if shapes != [(size,) for size in sizes]:
        raise ValueError(f"{name} must be arrays of the sizes {sizes}, got shapes {shapes}")
    return tuple(map(jnp.asarray, values))


def _factors(name: str, tree: Any, kind: type) -> tuple[list[Any], Any]:
    factors, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, kind))
    for factor in factors:
        if not isinstance(factor, kind):
            raise TypeError(f"{name} must hold nothing but {kind.__name__} records, got {factor!r}")
    if not factors:
        raise ValueError(f"{name} must hold at least one {kind.__name__}, got {tree!r}")
    return factors, structure


def _parts(structure: Any, name: str, tree: Any) -> list[Any]:
    """The factors' parts of a tree; each part may be a tree."""
    try:
        return structure.flatten_up_to(tree)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name} must be structured as the factors, {structure}, got {jax.tree.structure(tree)}"
        ) from error


def _total(values: Any) -> Array:
    return reduce(jnp.add, values)
