"""Small expectations whose gradients are known exactly: the suite for estimators of ∇E[f(x)]."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pgjax.core.compilation import jit_once
from pgjax.core.float64 import flatten, in_float64
from pgjax.core.validation import check_kind, check_params
from pgjax.expectations.distributions import (
    Distribution,
    bernoulli,
    check_distribution,
    normal,
    one_hot_categorical,
    poisson,
)
from pgjax.expectations.estimator import log_probs_of
from pgjax.expectations.integrands import as_integrand
from pgjax.expectations.natural import NORMAL
from pgjax.proof.expectation_sums import outcomes_or_nodes
from pgjax.records import configured, record, static
from pgjax.types import Params


@record
class Expectation:
    """An expectation E_{x~p(θ)}[f(x)] to judge estimators on.

    Attributes:
        f: f(x) or f(params, x).
        distribution: with finitely many outcomes, or a normal or Poisson of one coordinate.
        params: θ.
        name: of the problem.

    Raises:
        TypeError: if one of them is of the wrong kind.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import expectations
        >>> coin = Expectation(lambda b: (b - 0.45) ** 2, expectations.bernoulli(), jnp.zeros(()))
        >>> round(float(true_gradient(coin)[0]), 4)
        0.025
    """

    f: Callable[..., Any]
    distribution: Distribution
    params: Params
    name: str = static(default="expectation")

    def __post_init__(self) -> None:
        as_integrand(self.f)
        check_distribution(self.distribution)
        check_params(self.params)
        check_kind("name", self.name, str, "such as 'coin'")


def toy(t: float = 0.45) -> Callable[[Array], Array]:
    """f(b) = (b − t)², Tucker's toy; a sum over coordinates.

    Args:
        t: between the outcomes 0 and 1.
    """
    return configured(_toy, t=t)


def _toy(b: Array, *, t: float) -> Array:
    return jnp.sum((b - t) ** 2)


def _coins(params: Params, b: Array) -> Array:
    return (b[0] - 0.45) ** 2 + 0.7 * b[0] * b[1] - 0.3 * b[1] * jnp.tanh(params[0])


def _choices(x: Array) -> Array:
    return jnp.exp(x @ jnp.array([0.2, -0.5, 0.9], x.dtype))


def _square(x: Array) -> Array:
    return jnp.sum((x - 1.0) ** 2)


@in_float64
def problems() -> tuple[Expectation, ...]:
    """The suite: a coin, two coins with an f of params too, three choices, a normal, counts."""
    given = (
        ("coin", toy(), bernoulli(), np.log(np.array([0.3 / 0.7]))),
        ("two coins", _coins, bernoulli(), np.array([-0.4, 0.7])),
        ("three choices", _choices, one_hot_categorical(), np.array([0.3, -0.2, 0.6])),
        ("quadratic of a normal", _square, normal(), (np.array([2.0]), np.array([0.0]))),
        ("counts", _square, poisson(), np.array([0.5])),
    )
    return tuple(Expectation(f, p, params, name) for name, f, p, params in given)


def true_gradient(problem: Expectation, *, group_size: int = 0) -> Float[np.ndarray, "P"]:
    """∇θ E[f(x)], exactly: the derivative of the sum over outcomes or nodes.

    Args:
        problem: of the suite, or like them.
        group_size: K > 0 for the gradient of E[log (1/K) Σ_k exp f(x_k)] instead.

    Returns:
        [P] flattened over the parameters, float64.

    Raises:
        UnknownLawError: if the outcomes cannot be listed.

    Bias: exact; of a normal, for polynomials f up to degree 47.
    """
    return true_gradients(problem, (group_size,))[group_size]


@in_float64
def true_gradients(
    problem: Expectation, group_sizes: tuple[int, ...]
) -> dict[int, Float[np.ndarray, "P"]]:
    """`true_gradient` for each group size, in one program.

    Args:
        problem: of the suite, or like them.
        group_sizes: K of each.

    Raises:
        UnknownLawError: if the outcomes cannot be listed.

    Bias: exact; of a normal, for polynomials f up to degree 47.
    """
    params = float64_params(problem)
    points = outcomes_or_nodes(problem.distribution, params)
    slopes = jit_once(partial(_slopes), static_argnums=3)  # anew: f may read other values
    found = slopes(problem, params, points, group_sizes)
    return dict(zip(group_sizes, map(flatten, found), strict=True))


@in_float64
def expected(problem: Expectation, params: Params) -> Array:
    """E[f(x)] as a sum, differentiable by params any number of times.

    Args:
        problem: whose f and distribution are taken.
        params: in place of the problem's.
    """
    points = outcomes_or_nodes(problem.distribution, float64_params(problem))
    return _sum(problem, params, points, 0)


def float64_params(problem: Expectation) -> Params:
    """The problem's params as float64 arrays of JAX, under the x64 setting."""
    return jax.tree.map(lambda x: jnp.asarray(np.array(x), jnp.float64), problem.params)


def _slopes(
    problem: Expectation, params: Params, points: Any, group_sizes: tuple[int, ...]
) -> list[Params]:
    return [jax.grad(_sum, argnums=1)(problem, params, points, K) for K in group_sizes]


def _sum(problem: Expectation, params: Params, points: Any, group_size: int) -> Array:
    """E[f(x)], or E[log mean exp f] of groups, of points x under the problem's own params."""
    distribution, f = problem.distribution, as_integrand(problem.f)
    x, weight = points
    natural = None if distribution.natural is None else distribution.natural(problem.params)
    if natural is not None and natural.family == NORMAL and distribution.transform is not None:
        mean, log_std = natural.values
        z = (x - mean) * jnp.exp(-log_std)
        x = jax.vmap(distribution.transform, (None, 0))(params, z)
        probability = jnp.asarray(weight)
    else:
        log_prob = log_probs_of(distribution, params, x)
        probability = jnp.exp(log_prob)
        if weight is not None:  # nodes stand for the law under the problem's own params
            held = log_probs_of(distribution, problem.params, x)
            probability = jnp.asarray(weight) * jnp.exp(log_prob - held)
    value = jax.vmap(f, (None, 0))(params, x)
    if not group_size:
        return probability @ value
    places = np.array(list(product(range(len(probability)), repeat=group_size)))
    bound = jax.nn.logsumexp(value[places], axis=1) - jnp.log(float(group_size))
    return jnp.prod(probability[places], axis=1) @ bound
