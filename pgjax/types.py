"""The records that all modules share: Trajectory, Policy, Estimator, and exact Moments.

A batch is a Trajectory whose every field has a leading axis N. A row holds one episode, or it is a
window that holds several, one after another. `mask` is false after a row's last step, where values
are arbitrary.
"""

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Bool, Float, Int, Key, Num, PyTree, UInt32

from pgjax.records import record

KeyLike: TypeAlias = Key[Array, ""] | UInt32[Array, "2"] | UInt32[Array, "4"]
"""A key from `jax.random.key`, or a raw uint32 key. Keys of other implementations are turned into
threefry's: the same key then draws the same numbers however a batch is split."""

if TYPE_CHECKING:  # a type checker does not know jaxtyping's PyTree, and can treat it as anything
    Params: TypeAlias = Any
    Observation: TypeAlias = Any
    Action: TypeAlias = Any
    ActionMask: TypeAlias = Any
    Gradient: TypeAlias = Any
    Gradients: TypeAlias = Any
    Credit: TypeAlias = Any
else:
    Params: TypeAlias = PyTree
    Observation: TypeAlias = PyTree
    Action: TypeAlias = PyTree[Num[Array, "..."]]
    ActionMask: TypeAlias = PyTree[Bool[Array, "..."]]
    Gradient: TypeAlias = PyTree[Float[Array, "..."]]
    Gradients: TypeAlias = PyTree[Float[Array, "N ..."]]
    Credit: TypeAlias = PyTree[Float[Array, "N T"]]

Number: TypeAlias = float | int | Num[Array | np.ndarray, "..."]
"""A setting such as γ: a single number, or an array of several for `jax.vmap` to go over."""


@struct.dataclass
class Trajectory:
    """One episode of at most T steps, or a window of T steps; a batch has a leading N.

    A window is cut out of an endless stream of episodes: a new episode starts after each step that
    terminated or truncated. Rows are windows if `next_value` or `time` is given.

    Where `mask` is false, rewards, log-probabilities, flags, values and times may hold anything,
    NaN included. Read them through `jnp.where(mask, x, 0)`, since `mask * x` can keep a NaN.
    Observations and actions there are valid inputs of the policy, and mean nothing.

    Attributes:
        observation: [T, ...] seen by the policy before each action; a pytree.
        action: [T, ...] taken by the policy; a pytree for a factored policy.
        reward: [T] after each action.
        log_prob: [T] log μ(a_t|s_t) of the policy μ that acted.
        terminated: [T] true at the step that entered a terminal state.
        truncated: [T] true at the step after which a time limit, or the sampler's last step, cut
            the episode. Both flags can be true at once; the episode then terminated.
        mask: [T] true for the steps of the episode.
        final_observation: [...] after the last step; never a reset observation.
        value: [T] optional V(s_t), a critic's estimate. Only `baselines.recorded_value` and
            weights that use a critic read it.
        final_value: scalar, optional V(final_observation), for rows of one whole episode. If given,
            every episode that did not terminate is bootstrapped; if None, no such row is.
        action_value: [T] optional Q(s_t, a_t), a critic's estimate; `value` is then E_π Q(s_t, ·).
        time: [T] optional, steps since the start of the step's episode. If None, time counts from
            the row's first step and, in a window, anew after each episode's end.
        next_value: [T] optional V of the observation that followed each step in its own episode,
            never of a reset observation. It makes the row a window, in which every episode that is
            cut before it terminates is bootstrapped.
        group: scalar, optional, the same integer for all episodes that answer the same prompt;
            `pgjax.tokens` compares them with each other.
        reference_log_prob: [T] optional log-probabilities of a reference policy.
        sampler_log_prob: [T] optional log-probabilities of the program that drew the actions, if
            they differ slightly from `log_prob`; `pgjax.tokens` corrects for the difference.
    """

    observation: Observation
    action: Action
    reward: Num[Array, "*batch T"]
    log_prob: Float[Array, "*batch T"]
    terminated: Bool[Array, "*batch T"]
    truncated: Bool[Array, "*batch T"]
    mask: Bool[Array, "*batch T"]
    final_observation: Observation
    value: Float[Array, "*batch T"] | None = None
    final_value: Float[Array, "*batch"] | None = None
    action_value: Float[Array, "*batch T"] | None = None
    time: Int[Array, "*batch T"] | None = None
    next_value: Float[Array, "*batch T"] | None = None
    group: Int[Array, "*batch"] | None = None
    reference_log_prob: Float[Array, "*batch T"] | None = None
    sampler_log_prob: Float[Array, "*batch T"] | None = None


class MaskedObservation(NamedTuple):
    """An observation together with the actions that are legal.

    Attributes:
        observation: as the environment shows it; a pytree.
        action_mask: [A] true where the action is legal; a pytree for a factored policy.
    """

    observation: Observation
    action_mask: ActionMask


def describe(value: Any) -> str:
    """A description of a value in a few words, for an error message."""
    dtype, name = getattr(value, "dtype", None), getattr(value, "__name__", None)
    if dtype is not None and hasattr(value, "shape"):
        return f"{dtype}{list(value.shape)}"
    if callable(value) and name is not None:
        return f"the {'class' if isinstance(value, type) else 'function'} {name}"
    if value is None or isinstance(value, str | int | float | complex):
        return repr(value)
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'AEIO' else 'a'} {kind}"


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function, whether or not its annotations can be evaluated.

    Python 3.14 evaluates annotations when they are first read. A name that the function's module
    imports only for type checkers is then a NameError in `inspect.signature`.
    """
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)


def returned_by(function: Any) -> Any:
    """The annotated return type of a function; None if it has none that can be evaluated."""
    try:
        return getattr(function, "__annotations__", {}).get("return")
    except Exception:  # a name that exists for type checkers only; see `signature_of`
        return None


def check_functions(record: Any, **signatures: str) -> None:
    """Raise a TypeError for the first of these fields that is not a function."""
    for name, signature in signatures.items():
        check_function(name, getattr(record, name), signature)


def check_function(name: str, value: Any, signature: str) -> Any:
    """Return `value` if it is a function; else raise a TypeError with the signature needed."""
    if callable(value) and not isinstance(value, type):
        return value
    raise TypeError(f"{name} must be a function {signature}, got {describe(value)}")


@record
class Policy:
    """A stochastic policy as a record of pure functions of one observation.

    `vmap` adds the batch. `flax_policy` makes a Policy of a Flax module. `softmax_policy` makes one
    of any other network; or fill in the four functions.

    Attributes:
        init: (key, observation) -> params.
        sample: (params, key, observation) -> (action, log_prob).
        log_prob: (params, observation, action) -> log π(a|s), a scalar.
        entropy: (params, observation) -> H(π(·|s)) in nats, a scalar.

    Raises:
        TypeError: if a field is not a function.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> policy = pgjax.tabular_softmax(3, 2)  # three states, two actions
        >>> params, observation = jnp.zeros((3, 2)), jnp.array([1.0, 0.0, 0.0])
        >>> round(float(policy.log_prob(params, observation, 0)), 4)
        -0.6931
    """

    init: Callable[[Key[Array, ""], Observation], Params]
    sample: Callable[[Params, Key[Array, ""], Observation], tuple[Any, Array]]
    log_prob: Callable[[Params, Observation, Any], Array]
    entropy: Callable[[Params, Observation], Array]

    def __post_init__(self) -> None:
        check_functions(
            self,
            init="(key, observation) -> params",
            sample="(params, key, observation) -> (action, log_prob)",
            log_prob="(params, observation, action) -> scalar",
            entropy="(params, observation) -> scalar",
        )


@record
class RecurrentPolicy:
    """A policy with a memory, which is carried along the episode.

    A rollout carries the memory in its scan. Log-probabilities are recomputed along each episode
    from its first step, so that the gradient goes through the memory.

    Attributes:
        init: (key, observation) -> params.
        memory: params -> the memory at the start of an episode, a pytree.
        sample: (params, key, memory, observation) -> (memory, action, log_prob).
        log_prob: (params, memory, observation, action) -> (memory, log π(a|memory, s)).
        entropy: (params, memory, observation) -> H(π(·|memory, s)) in nats, a scalar.

    Raises:
        TypeError: if a field is not a function.
    """

    init: Callable[[Key[Array, ""], Observation], Params]
    memory: Callable[[Params], Any]
    sample: Callable[[Params, Key[Array, ""], Any, Observation], tuple[Any, Any, Array]]
    log_prob: Callable[[Params, Any, Observation, Any], tuple[Any, Array]]
    entropy: Callable[[Params, Any, Observation], Array]

    def __post_init__(self) -> None:
        check_functions(
            self,
            init="(key, observation) -> params",
            memory="params -> memory",
            sample="(params, key, memory, observation) -> (memory, action, log_prob)",
            log_prob="(params, memory, observation, action) -> (memory, scalar)",
            entropy="(params, memory, observation) -> scalar",
        )


@runtime_checkable
class Weights(Protocol):
    """Weights: a function (batch, log_prob) -> [N, T], the credit that each action gets.

    Any function of this signature will do.

    Example:
        >>> from pgjax import Estimator, terms
        >>> def rewards_alone(batch, log_prob):
        ...     return batch.reward
        >>> myopic = Estimator(rewards_alone, terms.score)
    """

    def __call__(self, batch: Trajectory, log_prob: Array, /) -> Any:
        """The credit [N, T] of each action, or a pytree of such arrays if the term takes one.

        Args:
            batch: [N, T], constant under differentiation.
            log_prob: [N, T] log π(a_it|s_it) under the parameters to improve, constant as well.
        """
        ...


@runtime_checkable
class Term(Protocol):
    """Term: a function of one trajectory -> [T], by which the log-probability enters an estimate.

    Any function of this signature will do.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> def squared_ratio(log_prob, behaviour_log_prob, weight, mask):
        ...     return weight * jnp.exp(2 * (log_prob - behaviour_log_prob)) / 2
        >>> estimator = pgjax.Estimator(pgjax.weights.reward_to_go(0.99), squared_ratio)
    """

    def __call__(
        self, log_prob: Array, behaviour_log_prob: Array, weight: Any, mask: Array, /
    ) -> Array:
        """The summand [T] of each step of one trajectory, differentiated by `log_prob`.

        Args:
            log_prob: [T] log π(a_t|s_t) under the parameters to improve.
            behaviour_log_prob: [T] under the policy that acted.
            weight: [T] from the weights, or a row of the pytree that they return.
            mask: [T] true for the steps of the episode.
        """
        ...


@runtime_checkable
class Baseline(Protocol):
    """Baseline: a function (batch, target) -> [N, T] that is subtracted from a return.

    Any function of this signature will do. As a `scale` it divides the return instead.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> def half(batch, target):
        ...     return jnp.full_like(target, 0.5)
        >>> estimator = pgjax.reward_to_go(0.99, baseline=half)
    """

    def __call__(self, batch: Trajectory, target: Array, /) -> Array:
        """The baseline [N, T] of each step.

        Args:
            batch: [N, T].
            target: [N, T] the return that the baseline is subtracted from.
        """
        ...


@record
class Estimator:
    """A policy-gradient estimator: weights × term.

    The estimate is ĝ = ∇θ (1/N) Σ_i Σ_t mask · term(log π_θ, log μ, weights).

    Attributes:
        weights: (batch, log_prob [N, T]) -> [N, T], the credit of each action. It sees the whole
            batch because a baseline may couple trajectories. It is constant in θ: the batch and
            the log-probabilities that it is given are constants under differentiation. It may
            return a pytree of arrays [N, T], whose rows the term then takes as its weight.
        term: (log_prob [T], behaviour_log_prob [T], weight [T], mask [T]) -> [T], for one
            trajectory. Its result is not read where the mask is false.

    Raises:
        TypeError: if either is not a function of these arguments (an Estimator is not a function).

    Example:
        >>> import pgjax
        >>> Estimator(pgjax.weights.reward_to_go(0.99), pgjax.terms.ppo_clip(0.2))
        Estimator(weights=reward_to_go(discount=0.99), term=ppo_clip(epsilon=0.2))
    """

    weights: Weights
    term: Term

    def __post_init__(self) -> None:
        check_part("weights", self.weights, "weights")
        check_part("term", self.term, "term")


_SIGNATURES = {
    "weights": ("(batch, log_prob) -> [N, T]", 2, "pgjax.weights"),
    "term": ("(log_prob, behaviour_log_prob, weight, mask) -> [T]", 4, "pgjax.terms"),
    "baseline": ("(batch, target) -> [N, T]", 2, "pgjax.baselines"),
    "aggregation": ("(batch) -> [N, T]", 1, "pgjax.tokens"),
}


def check_part(name: str, value: Any, kind: str) -> Any:
    """Return `value`, a part of an estimator, if it is a function.

    Args:
        name: of the argument.
        value: of the argument.
        kind: "weights", "term", "baseline" or "aggregation".

    Raises:
        TypeError: if `value` is an Estimator, or not a function of that many arguments; if it makes
            such a function and was not called.
    """
    signature, num_arguments, module = _SIGNATURES[kind]
    must = f"{name} must be a function {signature}, got"
    if callable(value) and not isinstance(value, type):
        if returned_by(value) in (Weights, Term, Estimator):
            made = value.__name__
            raise TypeError(f"{must} the function {made}, which makes one; call it: {made}(...)")
        if not _takes(value, num_arguments):
            made = getattr(value, "__name__", repr(value))
            takes = ", ".join(signature_of(value).parameters)
            raise TypeError(
                f"{must} {made}({takes}); see {module}; if it returns such a function, call it"
            )
        return value
    fix, got = f"see {module}", describe(value)
    if isinstance(value, Estimator):
        fix = f"use its {kind}"
        part = getattr(value, kind, None)
        made = getattr(part, "function", part)  # of a `Configured`
        where = getattr(made, "__module__", "").rpartition(".")[0]
        if where.startswith(module):
            fix = f"use {where}.{getattr(made, '__name__', kind).lstrip('_')}"
    elif kind == "baseline" and isinstance(value, float | int | Array):
        fix = f"use {module}.constant({value})"
    raise TypeError(f"{must} {got}; {fix}")


def _takes(function: Callable[..., Any], number: int) -> bool:
    """Whether a function takes this number of arguments; true if its signature is unknown."""
    try:
        signature_of(function).bind(*[None] * number)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


class Moments(NamedTuple):
    """Exact first and second moments of an estimate, over the flattened parameters.

    Attributes:
        mean: [P] the expectation.
        covariance: [P, P] of one estimate (divide by N for the mean of N independent ones).
    """

    mean: Float[Any, "P"]
    covariance: Float[Any, "P P"]

    @property
    def total_variance(self) -> Float[Any, ""]:
        """Trace of the covariance, tr Σ."""
        return self.covariance.trace()


class Spread(NamedTuple):
    """Exact mean and variances of an estimate, for P so large that P² covariances are too many.

    Attributes:
        mean: [P] the expectation.
        variance: [P] of one estimate, the diagonal of its covariance.
    """

    mean: Float[Any, "P"]
    variance: Float[Any, "P"]

    @property
    def total_variance(self) -> Float[Any, ""]:
        """Trace of the covariance, tr Σ."""
        return self.variance.sum()
