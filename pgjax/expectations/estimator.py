"""The record of an estimator of ∇E[f(x)], and a policy-gradient estimator as one of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.core.validation import check_kind
from pgjax.estimators import evaluate_weights, sum_of_terms
from pgjax.expectations.distributions import Distribution
from pgjax.expectations.integrands import Integrand
from pgjax.records import configured, record, static
from pgjax.types import Estimator, Params, Trajectory, check_function, describe

Draws = Any
"""What one estimator draws; every leaf has a leading N."""


@record
class ExpectationEstimator:
    """An estimator of ∇E[f(x)] as draws, weights and a term, like an `Estimator` of episodes.

    It is a separate record because an estimator need not be a weight on a score: pathwise and
    measure-valued ones have no log-probability.

    Attributes:
        draw: (distribution, params, key, num_samples) -> draws, leaves [N, ...].
        weights: (f, distribution, params, draws) -> weights, leaves [N, ...]: what multiplies the
            derivative; it sees all draws and is constant in θ. f is called as f(params, x).
        term: (f, distribution, params, draw, weight) -> scalar, of one sample; its derivative by
            params is the sample's estimate.
        law: the name of the draws' law in `pgjax.proof.expectation_laws`, which lists them with
            their probabilities; "outcomes" if they are independent draws of x. Without a name an
            estimator can be judged by sampling only.

    Raises:
        TypeError: if one of them is not a function.

    Example:
        >>> from pgjax import expectations
        >>> expectations.rebar(temperature=0.5)
        rebar(temperature=0.5, scale=1.0)
    """

    draw: Callable[..., Draws]
    weights: Callable[..., Any]
    term: Callable[..., Array]
    law: str = static(default="")

    def __post_init__(self) -> None:
        check_function("draw", self.draw, "(distribution, params, key, num_samples) -> draws")
        check_function("weights", self.weights, "(f, distribution, params, draws) -> weights")
        check_function("term", self.term, "(f, distribution, params, draw, weight) -> scalar")
        check_kind("law", self.law, str, "such as 'outcomes', or '' if it has no name")

    def __repr__(self) -> str:
        return repr(self.term)


AnyEstimator = ExpectationEstimator | Estimator


def make(
    draw: Callable, weights: Callable, term: Callable, law: str, **settings: Any
) -> ExpectationEstimator:
    """An ExpectationEstimator of three functions that all take the settings by keyword.

    Args:
        draw, weights, term: see `ExpectationEstimator`; defined at the top of a module.
        law: of the draws.
        settings: of the estimator.
    """
    return ExpectationEstimator(
        configured(draw, **settings),
        configured(weights, **settings),
        configured(term, **settings),
        law,
    )


def stages(estimator: AnyEstimator) -> ExpectationEstimator:
    """An estimator of episodes as an estimator of expectations: an episode of one step a draw.

    Args:
        estimator: of either kind; an ExpectationEstimator comes back as it is.
    """
    if isinstance(estimator, Estimator):
        given = {"law": "outcomes", "estimator": estimator}
        return make(draw_independently, one_step_weights, one_step_term, **given)
    return estimator


def draw_independently(
    distribution: Distribution, params: Params, key: Array, N: int, **settings: Any
) -> Any:
    """[N, ...] independent draws of x.

    Args:
        settings: of the estimator; not read.
    """
    return jax.vmap(distribution.sample, (None, 0))(params, jax.random.split(key, N))


def log_probs_of(distribution: Distribution, params: Params, x: Any) -> Float[Array, "N"]:
    """[N] the log-probability of each draw.

    Args:
        x: leaves [N, ...].
    """
    found = jax.vmap(distribution.log_prob, (None, 0))(params, x)
    if found.ndim != 1:
        raise ValueError(
            "distribution.log_prob must return one number for one draw, got shape "
            f"{found.shape[1:]}; sum over its coordinates"
        )
    return found


def one_step_weights(
    f: Integrand, distribution: Distribution, params: Params, x: Any, *, estimator: Estimator
) -> Any:
    """The weights [N, 1] of a policy-gradient estimator, with f(x) as reward.

    Args:
        x: leaves [N, ...].
    """
    value = jax.vmap(f, (None, 0))(params, x)
    log_prob = log_probs_of(distribution, params, x)
    batch = one_step_batch(x, value, log_prob)
    return evaluate_weights(estimator, batch, log_prob[:, None])


def one_step_term(
    f: Integrand,
    distribution: Distribution,
    params: Params,
    x: Any,
    weight: Any,
    *,
    estimator: Estimator,
) -> Array:
    """The term of a policy-gradient estimator, and f's own derivative.

    Args:
        x: one draw.
        weight: its weights [1].
    """
    log_prob = distribution.log_prob(params, x)[None]
    held = jax.lax.stop_gradient(log_prob)
    one, weight = jax.tree.map(lambda leaf: leaf[None], (x, weight))
    batch = one_step_batch(one, jnp.zeros_like(held), held)
    return sum_of_terms(estimator, batch, log_prob[None], weight)[0] + f.own(params, x)


def one_step_batch(x: Any, value: Float[Array, "N"], log_prob: Float[Array, "N"]) -> Trajectory:
    """N episodes of one step, whose action is x and whose reward is f(x).

    Args:
        x: draws, leaves [N, ...].
        value: [N] f at each.
        log_prob: [N] of each.
    """
    column = (len(value), 1)
    return Trajectory(
        observation=jnp.zeros(column),
        action=jax.tree.map(lambda leaf: leaf[:, None], x),
        reward=value[:, None],
        log_prob=log_prob[:, None],
        terminated=jnp.ones(column, bool),
        truncated=jnp.zeros(column, bool),
        mask=jnp.ones(column, bool),
        final_observation=jnp.zeros(len(value)),
    )


def check_expectation_estimator(estimator: Any) -> None:
    """Raise a TypeError if it is not an estimator of either kind.

    Args:
        estimator: of any type.
    """
    if isinstance(estimator, ExpectationEstimator | Estimator):
        return
    got = describe(estimator)
    fix = "expectations.score_function() makes one"
    if callable(estimator) and hasattr(estimator, "__name__"):
        fix = f"where it makes one, call it: {estimator.__name__}()"
    raise TypeError(f"estimator must be an ExpectationEstimator or Estimator, got {got}; {fix}")
