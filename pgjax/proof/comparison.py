"""Several estimators on one policy: noise, signal and direction, each with an interval.

All see the same batches. An estimate from one batch is one sample, so the intervals take account of
estimators that couple the trajectories of a batch.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from pgjax.core.float64 import flatten
from pgjax.core.scores import log_probs
from pgjax.core.validation import check_key, check_positive
from pgjax.diagnostics import (
    Interval,
    RunningMoments,
    cosine_between_interval,
    cosine_interval,
    effective_sample_size,
    exact_noise_scale,
    noise_scale_interval,
)
from pgjax.diagnostics.geometry import cosine
from pgjax.diagnostics.intervals import LINEAR, inverse, jackknife
from pgjax.environments.conversion import AnyEnvironment
from pgjax.estimators import gradient
from pgjax.records import data, record, static
from pgjax.rollouts.episodes import rollout
from pgjax.types import Estimator, KeyLike, Moments, Params, Policy, Spread, Trajectory

FEWEST_BATCHES = 3
"""The fewest batches from which the jackknife gives an interval."""


class Compared(NamedTuple):
    """What was measured of one estimator.

    Attributes:
        name: of the estimator.
        noise_scale: B in trajectories: at N = B the noise of an estimate is as large as its signal.
        signal_to_noise: of a single trajectory, 1/B.
        cosine: of E ĝ and the reference.
        exact_noise_scale: the true B, where it is known.
        exact_cosine: the true cosine, where it is known.
    """

    name: str
    noise_scale: Interval
    signal_to_noise: Interval
    cosine: Interval
    exact_noise_scale: float | None = None
    exact_cosine: float | None = None


class Comparison(NamedTuple):
    """Estimators on the same batches.

    Attributes:
        rows: one for each estimator, in the order given.
        effective_share: effective sample size of the trajectories' importance weights, as a share
            of N; 1 on-policy.
        batch_size: N.
        num_batches: K.
    """

    rows: tuple[Compared, ...]
    effective_share: Interval
    batch_size: int
    num_batches: int


@record
class Batches:
    """How the batches are drawn that estimators are compared on.

    Attributes:
        policy: the policy that acts, and is differentiated.
        params: θ, at which the estimators are compared.
        environment: a gymnax environment, a TabularMDP or an Environment.
        batch_size: N trajectories in each.
        num_steps: T.
        behaviour: parameters that act, if they are not `params`.
        prepare: batch -> batch, to write a critic's values into it.
    """

    policy: Policy
    params: Params = data()
    environment: AnyEnvironment
    batch_size: int = static()
    num_steps: int = static()
    behaviour: Params | None = data(default=None)
    prepare: Callable[[Trajectory], Trajectory] = static(default=lambda batch: batch)

    def draw(self, key: Array) -> Trajectory:
        """One batch [N, T]."""
        batch = rollout(
            self.policy,
            self.params if self.behaviour is None else self.behaviour,
            self.environment,
            key,
            num_trajectories=self.batch_size,
            num_steps=self.num_steps,
        )
        return self.prepare(batch)


def compare(
    estimators: Mapping[str, Estimator],
    batches: Batches,
    key: KeyLike,
    *,
    reference: Params | Estimator,
    num_batches: int,
    exactly: Mapping[str, Moments | Spread] | None = None,
    level: float = 0.95,
) -> Comparison:
    """Noise scale, signal to noise and cosine of several estimators, with intervals.

    Args:
        estimators: by name.
        batches: how they are drawn.
        key: from `jax.random.key`.
        reference: ∇J if it is known; else an unbiased estimator, which is given K batches of its
            own.
        num_batches: K, at least 3; 32 give intervals of a factor of about 2.
        exactly: exact moments of a single trajectory's estimate, by name; the reference must then
            be ∇J.
        level: of the intervals' confidence.

    Returns:
        A Comparison.

    Raises:
        ValueError: if there are fewer than three batches, or a size is below one.

    Bias: intervals are by the jackknife over batches; estimates are biased by order 1/K.

    References:
        McCandlish et al., An Empirical Model of Large-Batch Training (2018), eq. 2.9.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> mdp, policy = pgjax.tabular.random_mdp(), pgjax.tabular_softmax(4, 2)
        >>> batches = Batches(policy, jnp.zeros((4, 2)), mdp, batch_size=64, num_steps=4)
        >>> found = compare({"RLOO": pgjax.rloo(mdp.discount)}, batches, jax.random.key(0),
        ...     reference=pgjax.reward_to_go(mdp.discount), num_batches=8)
        >>> found.rows[0].cosine.high
        1.0
    """
    K, N = check_positive("num_batches", num_batches), batches.batch_size
    if K < FEWEST_BATCHES:
        raise ValueError(f"num_batches must be at least {FEWEST_BATCHES} for an interval, got {K}")

    @jax.jit
    def estimates(batches: Batches, key: Array, index: int) -> tuple[list[Params], Array]:
        batch = batches.draw(jax.random.split(key, number)[index])
        policy, params = batches.policy, batches.params
        log_weight = log_probs(policy, params, batch) - jnp.where(batch.mask, batch.log_prob, 0)
        share = effective_sample_size(jnp.sum(log_weight, axis=1)) / N
        return [gradient(each, policy, params, batch) for each in listed], share

    listed = list(estimators.values())
    if isinstance(reference, Estimator):
        listed.append(reference)
    number, key = 2 * K if isinstance(reference, Estimator) else K, check_key(key)
    found = [jax.device_get(estimates(batches, key, index)) for index in range(number)]
    gradients = jax.tree.map(lambda *x: np.stack(x), *(gradients for gradients, _ in found[:K]))
    if isinstance(reference, Estimator):
        own = [gradients[-1] for gradients, _ in found[K:]]
        reference = jax.tree.map(lambda *x: np.stack(x), *own)
        angle = cosine_between_interval
    else:
        angle = cosine_interval
    shares = np.array([share for _, share in found[:K]])
    rows = tuple(
        _compared(
            name,
            noise_scale_interval(each, batch_size=N, level=level),
            angle(each, reference, level=level),
            reference,
            (exactly or {}).get(name),
        )
        for name, each in zip(estimators, gradients, strict=False)
    )
    share = jackknife(Partial(_mean), shares, scale=LINEAR, level=level)
    return Comparison(rows, share, N, K)


def _mean(moments: RunningMoments) -> Array:
    return moments.mean


def _compared(
    name: str,
    scale: Interval,
    angle: Interval,
    truth: Params,
    exactly: Moments | Spread | None,
) -> Compared:
    known: tuple[float, ...] = ()
    if exactly is not None:
        known = exact_noise_scale(exactly), float(cosine(exactly.mean, flatten(truth)))
    return Compared(name, scale, inverse(scale), angle, *known)
