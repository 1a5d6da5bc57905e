"""Policies: softmax policies from any function, or any Flax module, that gives logits.

Log-probabilities are `log_softmax` of the logits, never log(p + ε). A logit of −inf marks an
illegal action: probability zero, and no NaN in any gradient. Functions here see one observation.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import Array
from jax.experimental import checkify

from pgjax.returns import accumulation_dtype
from pgjax.types import Observation, Params, Policy
from pgjax.validation import check_positive, is_concrete


def softmax_policy(
    init: Callable[[Array, Observation], Params], logits: Callable[[Params, Observation], Array]
) -> Policy:
    """A Policy from a function that gives logits, whatever computes them.

    π(a|s) = exp(l_a) / Σ_b exp(l_b).

    Args:
        init: (key, observation) -> params.
        logits: (params, observation) -> [A]; −inf marks an illegal action.

    Returns:
        A Policy over actions 0..A−1. `log_prob` of an action outside is NaN under jit.

    Raises:
        ValueError: by its functions: logits that are not [A], a concrete action outside 0..A−1.

    Bias: log-probabilities are exact.

    Example:
        >>> import jax.numpy as jnp
        >>> policy = softmax_policy(lambda key, x: jnp.zeros((2, 3)), lambda w, x: x @ w)
        >>> float(policy.entropy(jnp.zeros((2, 3)), jnp.ones(2)))  # doctest: +ELLIPSIS
        1.0986...
    """

    def log_probabilities(params: Params, observation: Observation) -> Array:
        values = logits(params, observation)
        if values.ndim != 1:
            raise ValueError(
                f"a policy's logits must have shape [A] for one observation, got {values.shape}"
            )
        return _masked_log_softmax(values)

    def sample(params: Params, key: Array, observation: Observation) -> tuple[Array, Array]:
        values = log_probabilities(params, observation)
        action = _draw(key, values)
        return action, _entry(values, action)

    def log_prob(params: Params, observation: Observation, action: Array | int) -> Array:
        values = log_probabilities(params, observation)
        _check_action(action, values.shape[0])
        return _entry(values, action)

    def entropy(params: Params, observation: Observation) -> Array:
        values = log_probabilities(params, observation)
        legal = values != -jnp.inf  # NaN stays, to be seen
        return -_sum(jnp.where(legal, jnp.exp(values) * jnp.where(legal, values, 0), 0))

    return Policy(init, sample, log_prob, entropy)


@cache
def tabular_softmax(num_states: int, num_actions: int) -> Policy:
    """A softmax over a table of logits; params are the array [S, A].

    Args:
        num_states: S, the length of the one-hot observation.
        num_actions: A.

    Returns:
        A Policy; `init` gives the uniform policy (zeros).

    Raises:
        ValueError: a count below one, an observation that is not [S].

    Bias: log-probabilities are exact.

    References:
        Sutton & Barto (2018), eq. 13.2 with one feature a state and action.

    Example:
        >>> import jax.numpy as jnp
        >>> policy = tabular_softmax(2, 2)
        >>> policy.log_prob(jnp.zeros((2, 2)), jnp.array([0.0, 1.0]), 1)
        Array(-0.6931472, dtype=float32)
    """
    shape = check_positive("num_states", num_states), check_positive("num_actions", num_actions)

    def logits(params: Params, observation: Observation) -> Array:
        if jnp.shape(params) != shape:
            raise ValueError(f"params must have shape [S, A] = {shape}, got {jnp.shape(params)}")
        if jnp.shape(observation) != shape[:1]:
            raise ValueError(
                f"observation must be one-hot of shape [S] = {shape[:1]}, "
                f"got {jnp.shape(observation)}"
            )
        return jnp.asarray(observation).astype(params.dtype) @ params

    return softmax_policy(lambda key, observation: jnp.zeros(shape), logits)


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
        >>> policy = flax_policy(MLP(num_actions=2))
        >>> params = policy.init(jax.random.key(0), jnp.zeros(4))
        >>> policy.log_prob(params, jnp.zeros(4), 1).shape
        ()
    """
    if isinstance(module, linen.Module):
        return _linen_policy(module)
    if callable(module):  # an NNX module is callable too; nnx itself is slow to import
        return _nnx_policy(module)
    raise TypeError(
        "module must be a flax.linen module, a flax.nnx module or a function rngs -> nnx module, "
        f"got {module!r}"
    )


class MLP(linen.Module):
    """A perceptron that gives logits: the observation, flattened, through dense layers.

    Attributes:
        num_actions: A.
        hidden: width of each hidden layer.
        num_categories: for an integer observation, its number of values: it is then one-hot
            encoded, and None takes it as a number.
    """

    num_actions: int
    hidden: Sequence[int] = (64, 64)
    num_categories: int | None = None

    @linen.compact
    def __call__(self, observation: Array) -> Array:
        """[...] -> logits [A]."""
        x = _features(observation, self.num_categories)
        for width in self.hidden:
            x = linen.tanh(linen.Dense(width, kernel_init=linen.initializers.orthogonal(2**0.5))(x))
        # Nearly uniform at first: early episodes then explore, and no logit saturates.
        return linen.Dense(self.num_actions, kernel_init=linen.initializers.orthogonal(0.01))(x)


class ConvNet(linen.Module):
    """A small convolutional net that gives logits, for images [height, width, channels].

    One 3×3 convolution with 16 filters and a dense layer: the net of the MinAtar paper.

    Attributes:
        num_actions: A.
        num_filters: of the convolution.
        hidden: width of the dense layer.

    References:
        Young & Tian, MinAtar (2019), section 3.
    """

    num_actions: int
    num_filters: int = 16
    hidden: int = 128

    @linen.compact
    def __call__(self, observation: Array) -> Array:
        """[height, width, channels] -> logits [A]."""
        if observation.ndim != 3:
            raise ValueError(
                f"ConvNet needs an image [height, width, channels], got shape {observation.shape}; "
                "use MLP for vectors"
            )
        x = _numeric(observation)
        x = linen.relu(linen.Conv(self.num_filters, (3, 3), padding="VALID")(x))
        x = linen.relu(linen.Dense(self.hidden)(x.reshape(-1)))
        return linen.Dense(self.num_actions, kernel_init=linen.initializers.orthogonal(0.01))(x)


def _linen_policy(module: linen.Module) -> Policy:
    def logits(params: Params, observation: Observation) -> Array:
        if not isinstance(params, Mapping) or "params" not in params:
            keys = sorted(params) if isinstance(params, Mapping) else type(params).__name__
            raise ValueError(
                f"params of a linen policy must hold the 'params' collection, got {keys}; "
                "pass what policy.init returned, or {'params': ...}"
            )
        return module.apply(params, observation)  # pyright: ignore[reportReturnType]

    return softmax_policy(module.init, logits)


def _nnx_policy(module: Any) -> Policy:
    from flax import nnx

    if isinstance(module, nnx.Module):
        graph, own, rest = nnx.split(module, nnx.Param, ...)

        def init(key: Array, observation: Observation) -> Params:
            return own

    else:
        graph, _, rest = nnx.split(module(nnx.Rngs(0)), nnx.Param, ...)

        def init(key: Array, observation: Observation) -> Params:
            return nnx.split(module(nnx.Rngs(key)), nnx.Param, ...)[1]

    def logits(params: Params, observation: Observation) -> Array:
        return nnx.merge(graph, params, rest)(observation)

    return softmax_policy(init, logits)


FEW_ACTIONS = 16
"""Up to here a sum over the actions is written out, one addition an action. vmap makes each a
vector operation over the batch; a reduction along so short an axis is a loop for every row."""


def _draw(key: Array, values: Array) -> Array:
    """An action from its log-probabilities; one with probability zero never."""
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


def _entry(values: Array, action: Any) -> Array:
    """values[action], but NaN where the action is none: a gather would clamp it to a plausible one.

    Selecting among few also spares the gradient a scatter.
    """
    A = values.shape[0]
    if A > FEW_ACTIONS:
        return values.at[action].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    entry = jnp.full((), jnp.nan, values.dtype)
    for index in range(A):
        entry = jnp.where(action == index, values[index], entry)
    return entry


def _fold(combine: Callable[[Array, Array], Array], values: Array) -> Array:
    return reduce(combine, [values[index] for index in range(values.shape[0])])


def _sum(values: Array) -> Array:
    return _fold(jnp.add, values) if values.shape[0] <= FEW_ACTIONS else jnp.sum(values)


def _max(values: Array) -> Array:
    return _fold(jnp.maximum, values) if values.shape[0] <= FEW_ACTIONS else jnp.max(values)


def _masked_log_softmax(logits: Array) -> Array:
    legal = logits != -jnp.inf  # a NaN is no mask: it must come out as NaN
    any_legal = _max(legal)
    checkify.debug_check(any_legal, "state has no legal action: every logit is -inf")
    # Normalise over finite numbers only, so that no −inf − (−inf) stands in a derivative; and
    # relative to the peak throughout: log(total) added to a large peak would lose its digits.
    finite = jnp.where(legal, logits, 0)
    peak = jax.lax.stop_gradient(_max(jnp.where(legal, logits, jnp.finfo(logits.dtype).min)))
    relative = jnp.where(legal, finite - peak, 0)
    total = _sum(jnp.where(legal, jnp.exp(relative), 0))
    # log 0 = −inf where nothing is legal, and finite − (−inf) would pass for a log-probability.
    normaliser = jnp.where(any_legal, jnp.log(total), jnp.nan)
    return jnp.where(legal, relative - normaliser, jnp.where(any_legal, -jnp.inf, jnp.nan))


def _check_action(action: Any, num_actions: int) -> None:
    inside = jnp.all((jnp.asarray(action) >= 0) & (jnp.asarray(action) < num_actions))
    if not is_concrete(inside):
        checkify.debug_check(
            inside, f"action {{action}} is outside 0..{num_actions - 1}", action=jnp.asarray(action)
        )
    elif not np.asarray(inside):
        raise ValueError(f"action must lie in 0..{num_actions - 1}, got {action}")


def _features(observation: Array, num_categories: int | None) -> Array:
    if num_categories is not None:
        return jax.nn.one_hot(observation, num_categories).reshape(-1)
    return _numeric(observation).reshape(-1)


def _numeric(observation: Array) -> Array:
    """Integers and booleans as floats; floats as they are."""
    x = jnp.asarray(observation)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
