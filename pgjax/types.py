"""The nouns: Trajectory, Policy, Estimator, and the Moments that judge an estimator.

A batch is a Trajectory whose every field has a leading axis N. One row holds at most one episode;
`mask` is true while the episode lasts and false after its end, where any value may stand.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from flax import struct
from jax import Array
from jaxtyping import Bool, Float, Key, Num, PyTree

Params: TypeAlias = PyTree
Observation: TypeAlias = PyTree


@struct.dataclass
class Trajectory:
    """One episode of at most T steps; a batch is the same with a leading N.

    Attributes:
        observation: [T, ...] what the policy saw before each action; a pytree.
        action: [T, ...] what it did.
        reward: [T] what followed.
        log_prob: [T] log μ(a_t|s_t) of the policy μ that acted.
        terminated: [T] true at the step that entered a terminal state.
        truncated: [T] true at the step after which a time limit, or the sampler's last step, cut
            the episode. Both flags can be up at once; the episode then *ended* (terminated wins).
        mask: [T] true for the steps of the episode.
        final_observation: [...] what followed the last step; never a reset observation.
        value: [T] optional V(s_t), a critic's opinion; only `baselines.recorded_value` and
            estimators that name a critic read it.
        final_value: scalar, optional V(final_observation). Passing it bootstraps every episode
            that did not terminate; passing none bootstraps nothing.
    """

    observation: Observation
    action: Num[Array, "..."]
    reward: Num[Array, "*batch T"]
    log_prob: Float[Array, "*batch T"]
    terminated: Bool[Array, "*batch T"]
    truncated: Bool[Array, "*batch T"]
    mask: Bool[Array, "*batch T"]
    final_observation: Observation
    value: Float[Array, "*batch T"] | None = None
    final_value: Float[Array, "*batch"] | None = None


class Policy(NamedTuple):
    """A stochastic policy as a record of pure functions of one observation.

    `vmap` adds the batch. Flax modules become one through `flax_policy`; any other network becomes
    one through `softmax_policy`, or by filling in the four functions.

    Attributes:
        init: (key, observation) -> params.
        sample: (params, key, observation) -> (action, log_prob).
        log_prob: (params, observation, action) -> log π(a|s), a scalar.
        entropy: (params, observation) -> H(π(·|s)) in nats, a scalar.
    """

    init: Callable[[Key[Array, ""], Observation], Params]
    sample: Callable[[Params, Key[Array, ""], Observation], tuple[Array, Array]]
    log_prob: Callable[[Params, Observation, Array], Array]
    entropy: Callable[[Params, Observation], Array]


class Estimator(NamedTuple):
    """A policy-gradient estimator: credit assignment × how the log-probability enters.

    The estimate is ĝ = ∇θ (1/N) Σ_i Σ_t mask · term(log π_θ, log μ, stop_gradient(weights)).

    Attributes:
        weights: (batch, log_prob[N,T]) -> [N,T], the credit of each action. It sees the whole batch
            because a baseline may couple trajectories, and is a constant under differentiation.
        term: (log_prob[T], behaviour_log_prob[T], weight[T]) -> [T], for one trajectory.
    """

    weights: Callable[[Trajectory, Array], Array]
    term: Callable[[Array, Array, Array], Array]


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
    """Exact mean and variances of an estimate, where P² covariances would be too many.

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
