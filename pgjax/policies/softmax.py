"""Softmax policies from any function that returns logits.

Log-probabilities are `log_softmax` of the logits, never log(p + ε). A logit of −inf or a false
entry of an action mask marks an illegal action: probability zero, and no NaN in any gradient.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.core.recurrence import accumulation_dtype
from pgjax.core.validation import check_positive, check_values
from pgjax.policies.distribution import Distribution, distribution_policy, unmasked
from pgjax.records import configured
from pgjax.types import Observation, Params, Policy, check_function


def softmax_policy(
    init: Callable[[Array, Observation], Params], logits: Callable[[Params, Observation], Array]
) -> Policy:
    """A Policy from a function that returns logits.

    π(a|s) = exp(l_a) / Σ_b exp(l_b).

    Args:
        init: (key, observation) -> params.
        logits: (params, observation) -> [A]; −inf marks an illegal action.

    Returns:
        A Policy over actions 0..A−1, which honours the action mask [A] of a MaskedObservation.

    Raises:
        ValueError: by its functions, if an action is outside 0..A−1, or illegal, or the state has
            no legal action. In traced code log π is NaN, −inf and NaN in these three cases, and
            all are errors under `pgjax.checked`.

    Example:
        >>> import jax.numpy as jnp
        >>> policy = softmax_policy(lambda key, x: jnp.zeros((2, 3)), lambda w, x: x @ w)
        >>> float(policy.entropy(jnp.zeros((2, 3)), jnp.ones(2)))  # doctest: +ELLIPSIS
        1.0986...
    """
    check_function("logits", logits, "(params, observation) -> [A]")
    return distribution_policy(init, logits, SOFTMAX)


def tabular_softmax(num_states: int, num_actions: int) -> Policy:
    """A softmax over a table of logits; params are the array [S, A].

    Args:
        num_states: S, the length of the one-hot observation.
        num_actions: A.

    Returns:
        A Policy; `init` returns the uniform policy (zeros).

    Raises:
        ValueError: if a size is below one; by its functions, if params are not [S, A] or the
            observation not [S].

    References:
        Sutton & Barto (2018), eq. 13.2 with one feature a state and action.

    Example:
        >>> import jax.numpy as jnp
        >>> policy = tabular_softmax(2, 2)
        >>> policy.log_prob(jnp.zeros((2, 2)), jnp.array([0.0, 1.0]), 1)
        Array(-0.6931472, dtype=float32)
    """
    shape = check_positive("num_states", num_states), check_positive("num_actions", num_actions)

    return softmax_policy(configured(_zeros, shape=shape), configured(_table_logits, shape=shape))


def _zeros(key: Array, observation: Observation, *, shape: tuple[int, int]) -> Array:
    return jnp.zeros(shape)


def _table_logits(params: Params, observation: Observation, *, shape: tuple[int, int]) -> Array:
    if jnp.shape(params) != shape:
        raise ValueError(f"params must have shape [S, A] = {shape}, got {jnp.shape(params)}")
    if jnp.shape(observation) != shape[:1]:
        raise ValueError(
            f"observation must be one-hot of shape [S] = {shape[:1]}, got {jnp.shape(observation)}"
        )
    return jnp.asarray(observation).astype(params.dtype) @ params


traced_once = partial(jax.jit, inline=True)
"""`jax.jit` that writes the function out where it is called: a call inside the program would cost
rollouts a tenth of their speed."""


def _sample(logits: Array, key: Array) -> tuple[Array, Array]:
    values = _log_probabilities(logits)
    action = _draw(key, values)
    return action, _entry(values, action)


def _log_prob(logits: Array, action: Array | int) -> Array:
    values = _log_probabilities(logits)
    _check_action(action, logits)
    return _entry(values, action)


def _entropy(logits: Array) -> Array:
    return _entropy_of(_log_probabilities(logits))


def _masked(logits: Array, action_mask: Array) -> Array:
    check_one_array(logits)
    if jnp.shape(action_mask) != jnp.shape(logits):
        raise ValueError(
            f"action_mask must have the shape of the logits, [A] = {jnp.shape(logits)}, "
            f"got {jnp.shape(action_mask)}"
        )
    if jnp.result_type(action_mask) != jnp.bool_:
        raise TypeError(
            f"action_mask must be boolean, true where the action is legal, "
            f"got {jnp.result_type(action_mask)}; compare it with zero: x > 0"
        )
    return jnp.where(action_mask, logits, -jnp.inf)


SOFTMAX = Distribution(_sample, _log_prob, _entropy, _masked)
"""Actions 0..A−1, int32; a network's output is their logits [A], −inf where illegal."""


def softmax_size(policy: Policy, params: Params, observation: Observation) -> int | None:
    """The number of actions of a softmax policy, from shapes alone; None for another policy.

    Args:
        policy: of any kind.
        params: its parameters, or their shapes.
        observation: one observation, or its shapes.
    """
    settings = getattr(policy.log_prob, "settings", {})
    if settings.get("distribution") != SOFTMAX:
        return None
    output = settings["output"]
    logits = jax.eval_shape(lambda params, x: output(params, unmasked(x)), params, observation)
    check_one_array(logits)
    return logits.shape[0] if len(logits.shape) == 1 else None


def check_one_array(logits: Any) -> None:
    """Raise a TypeError if a network's output is several arrays, such as logits and a value."""
    if isinstance(logits, tuple | list | dict):
        raise TypeError(
            f"a policy's logits must be one array, got a {type(logits).__name__} of {len(logits)}; "
            "for a module that returns (logits, value) use pgjax.agents.shared(module)"
        )


def _log_probabilities(logits: Array) -> Array:
    check_one_array(logits)
    if jnp.ndim(logits) != 1:
        raise ValueError(
            f"a policy's logits must have shape [A] for one observation, got {jnp.shape(logits)}"
        )
    if not jnp.issubdtype(jnp.result_type(logits), jnp.floating):
        raise TypeError(
            f"a policy's logits must be floating, got {jnp.result_type(logits)}; look at the "
            "dtype of its params"
        )
    check_values(
        "state has no legal action: every logit is -inf or every mask false",
        lambda logits: ((logits != -jnp.inf).any(), {}),
        logits,
    )
    return _masked_log_softmax(logits)


FEW_ACTIONS = 16
"""Up to this many actions, a sum over them is written out, one addition an action. `vmap` makes
each addition a vector operation over the batch; a reduction along so short an axis would be a loop
for every row."""


@traced_once
def _draw(key: Array, values: Array) -> Array:
    """An action drawn from log-probabilities [A]; one with probability zero is never drawn."""
    if values.shape[0] > FEW_ACTIONS:
        return jax.random.categorical(key, values)
    # Inversion takes one random number, where the largest of A perturbed values takes A.
    values = values.astype(accumulation_dtype(values))  # bfloat16 is too coarse
    cumulative = [jnp.exp(values[0])]
    for index in range(1, values.shape[0]):
        cumulative.append(cumulative[-1] + jnp.exp(values[index]))
    # Relative to the last sum, not to 1: rounding can then not point past the last legal action.
    threshold = jax.random.uniform(key, dtype=values.dtype) * cumulative[-1]
    passed = [(threshold >= x).astype(jnp.int32) for x in cumulative[:-1]]
    return sum(passed, start=jnp.int32(0))


@traced_once
def _entropy_of(values: Array) -> Array:
    legal = values != -jnp.inf  # NaN stays, to be seen
    return -_sum(_select(legal, jnp.exp(values) * _select(legal, values, 0.0), 0.0))


@traced_once
def _entry(values: Array, action: Any) -> Array:
    """values[action], or NaN if the action is out of range, where a gather would clamp it."""
    A = values.shape[0]
    if A > FEW_ACTIONS:
        return values.at[action].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    entry = jnp.full((), jnp.nan, values.dtype)
    for index in range(A):
        entry = jax.lax.select(action == index, values[index], entry)
    return entry


def _select(condition: Array, values: Array, number: float) -> Array:
    """`jnp.where` written out; a call inside the program would take longer to compile."""
    return jax.lax.select(condition, values, jax.lax.full_like(values, number, values.dtype))


def _fold(combine: Callable[[Array, Array], Array], values: Array) -> Array:
    return reduce(combine, [values[index] for index in range(values.shape[0])])


def _sum(values: Array) -> Array:
    return _fold(jnp.add, values) if values.shape[0] <= FEW_ACTIONS else jnp.sum(values)


def _max(values: Array) -> Array:
    return _fold(jnp.maximum, values) if values.shape[0] <= FEW_ACTIONS else jnp.max(values)


@traced_once
def _masked_log_softmax(logits: Array) -> Array:
    legal = logits != -jnp.inf  # a NaN is not a mask: it must come out as NaN
    # The lowest number in place of −inf: no −inf − (−inf) stands in a derivative, and its
    # exponential is zero. All is relative to the peak: log(total) + peak would lose its digits.
    lowest = float(jnp.finfo(logits.dtype).min)
    highest = _max(jax.lax.stop_gradient(logits))
    relative = _select(legal, logits, lowest) - jnp.maximum(highest, lowest)
    normalised = relative - jnp.log(_sum(jnp.exp(relative)))
    # Where nothing is legal, this is NaN; a number would pass for a log-probability.
    impossible = -jnp.inf - highest
    return jax.lax.select(legal, normalised, jnp.broadcast_to(impossible, logits.shape))


def _check_action(action: Any, logits: Array) -> None:
    num_actions = logits.shape[0]
    if jnp.ndim(action):
        raise ValueError(
            f"action must be one integer for one observation, got shape {jnp.shape(action)}; in a "
            "batch, actions are [N, T], neither [N, T, 1] nor one-hot"
        )
    if not jnp.issubdtype(jnp.result_type(action), jnp.integer):
        raise TypeError(f"action must be an integer, got {jnp.result_type(action)}; cast it")
    check_values(
        f"action must lie in 0..{num_actions - 1}, got {{action}}",
        lambda action: (((action >= 0) & (action < num_actions)).all(), {"action": action}),
        action,
    )
    check_values(
        "action {action} is illegal in this state: its logit is -inf or its mask false",
        lambda action, logits: (logits[action] != -jnp.inf, {"action": action}),
        action,
        logits,
    )
