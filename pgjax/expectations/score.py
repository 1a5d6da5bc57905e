"""Score-function estimators: f(x) ∇log p(x; θ), with baselines and control variates.

A draw is an episode of one step, so these are `pgjax.reinforce` with the baselines and groups of
`pgjax.baselines`: `leave_one_out`, `constant(b)`, `batch_mean`, groups.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.baselines import constant, recorded_value
from pgjax.control_variates import coefficients, cross_fitted
from pgjax.core.validation import (
    check_params,
    check_scalars,
    check_unit_interval,
)
from pgjax.estimators import evaluate_weights, reinforce
from pgjax.expectations.distributions import Distribution, check_distribution, listed_outcomes
from pgjax.expectations.estimator import (
    ExpectationEstimator,
    draw_independently,
    log_probs_of,
    make,
    one_step_batch,
    one_step_term,
)
from pgjax.expectations.integrands import Integrand, as_integrand
from pgjax.records import record
from pgjax.types import Baseline, Estimator, Number, Params


def score_function(*, baseline: Baseline | None = None) -> Estimator:
    """The score function, ĝ = mean_i (f(x_i) − b_i) ∇log p(x_i): `pgjax.reinforce` of one step.

    One evaluation of f a sample.

    Args:
        baseline: from `pgjax.baselines`: `leave_one_out` (two samples or more), `constant(b)` with
            the b of `least_variance_constant` or of a `MovingAverage`; none if None.

    Raises:
        ValueError: at use, if the baseline needs more samples than there are.

    Bias: none if the baseline has none.

    References:
        Williams (1992); Kool, van Hoof & Welling (2019) for `leave_one_out`.

    Example:
        >>> import pgjax
        >>> score_function() == pgjax.reinforce(1.0)
        True
    """
    return reinforce(1.0, baseline=baseline)


def least_variance_score_function() -> ExpectationEstimator:
    """The score function with the constant of least variance, fitted to the other samples.

    b_i = Σ_{j≠i} ‖s_j‖² f_j / Σ_{j≠i} ‖s_j‖² with s = ∇log p: `control_variates.cross_fitted` with
    as many folds as samples. One evaluation of f a sample.

    Raises:
        ValueError: at use, if there is one sample only.

    Bias: none.

    References:
        Greensmith, Bartlett & Baxter (2004), section 4, for b; Chernozhukov et al. (2018) for
        fitting it to the others.

    Example:
        >>> least_variance_score_function()
        least_variance_score_function()
    """
    return make(
        draw_independently, _least_variance_weights, _least_variance_score_function, "outcomes"
    )


_RECORDED = reinforce(1.0, baseline=recorded_value)


def _least_variance_weights(
    f: Integrand, distribution: Distribution, params: Params, x: Any
) -> Array:
    value = jax.vmap(f, (None, 0))(params, x)
    log_prob = log_probs_of(distribution, params, x)
    N = len(value)
    if N < 2:
        raise ValueError("num_samples must be at least 2 to fit a baseline to the others, got 1")
    products = squared_scores(distribution, params, x)[:, None, None]
    ones = jnp.ones((N, 1, 1), products.dtype)
    baseline = cross_fitted(ones, products, value[:, None].astype(products.dtype), folds=N)
    batch = replace(one_step_batch(x, value, log_prob), value=baseline.astype(value.dtype))
    return evaluate_weights(_RECORDED, batch, log_prob[:, None])


def _least_variance_score_function(
    f: Integrand, distribution: Distribution, params: Params, x: Any, weight: Any
) -> Array:
    return one_step_term(f, distribution, params, x, weight, estimator=_RECORDED)


def squared_scores(distribution: Distribution, params: Params, x: Any) -> Float[Array, "N"]:
    """‖∇log p(x_i; θ)‖² of each draw.

    Args:
        x: leaves [N, ...].
    """

    def of_one(x: Any) -> Array:
        found = jax.grad(distribution.log_prob)(params, x)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(found))  # pyright: ignore

    return jax.vmap(of_one)(x)


def least_variance_constant(f: Any, distribution: Distribution, params: Params) -> Float[Array, ""]:
    """The constant baseline of least total variance, b* = E[‖s‖² f] / E[‖s‖²], exactly.

    Args:
        f: f(x) or f(params, x).
        distribution: with a list of its outcomes.

    Returns:
        b*, a scalar, for `baselines.constant`.

    Raises:
        ValueError: if the distribution has no list of outcomes.

    Bias: exact.

    References:
        Greensmith, Bartlett & Baxter (2004), theorem 8 for one state.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import expectations
        >>> b = least_variance_constant(
        ...     lambda x: (x - 0.45) ** 2, expectations.bernoulli(), jnp.float32(0.0))
        >>> round(float(b), 4)
        0.2525
    """
    check_distribution(distribution)
    check_params(params)
    # A new function each time: a value that f closes over may have changed since the last trace.
    return jax.jit(partial(_least_variance_constant))(as_integrand(f), distribution, params)


def _least_variance_constant(f: Integrand, distribution: Distribution, params: Params) -> Array:
    x = listed_outcomes(distribution, params, "least_variance_constant")
    probability = jnp.exp(log_probs_of(distribution, params, x))
    value = jax.vmap(f, (None, 0))(params, x)
    products = squared_scores(distribution, params, x)[:, None, None]
    ones = jnp.ones((len(value), 1, 1), products.dtype)
    return coefficients(ones, products, value[:, None].astype(products.dtype), probability)[0]


@record
class MovingAverage:
    """A baseline that is a decaying mean of the values of f in earlier updates.

    b = Σ_k decay^k f̄_{t−k} / Σ_k decay^k over the updates before: zero before the first update,
    and without the bias towards zero of a plain decaying mean. With decay 1 it is the mean over all
    updates.

    Attributes:
        decay: in [0, 1].

    Raises:
        ValueError: if the decay is outside [0, 1].

    Bias: none as a baseline, since it does not depend on the batch that it is used for.

    Example:
        >>> import jax.numpy as jnp
        >>> average = MovingAverage(0.5)
        >>> state = average.update(average.init(), jnp.array([2.0, 4.0]))
        >>> average.baseline(average.update(state, jnp.array([6.0])))
        constant(baseline=Array(5., dtype=float32))
    """

    decay: Number = 0.99

    def __post_init__(self) -> None:
        check_unit_interval("decay", self.decay)

    def init(self) -> tuple[Array, Array]:
        """The state before the first update: a weighted sum of values, and of weights."""
        return jnp.zeros(()), jnp.zeros(())

    def update(self, state: tuple[Array, Array], values: Array) -> tuple[Array, Array]:
        """The state after an update whose values of f were these."""
        check_scalars(decay=self.decay)
        total, weight = state
        decay = jnp.asarray(self.decay)
        return decay * total + jnp.mean(values), decay * weight + 1

    def baseline(self, state: tuple[Array, Array]) -> Baseline:
        """The baseline for the next update, for `score_function`."""
        total, weight = state
        return constant(total / jnp.maximum(weight, 1))  # no weight, then 1 or more
