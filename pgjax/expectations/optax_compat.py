"""The signatures of optax.monte_carlo, which left optax in 0.2.7, over `pgjax.expectations`.

A program that imported `optax.monte_carlo` runs with `from pgjax.expectations import optax_compat`.
New programs should call `pgjax.expectations` itself; docs/optax-monte-carlo.md maps every name.

The arguments mean the same everywhere:

- function: x -> scalar, of one draw.
- params: a sequence of arrays, the arguments of `dist_builder`.
- dist_builder: (*params) -> an object with `sample` and `log_prob`, as of Distrax or NumPyro, such
  as `multi_normal`.
- rng: a key. num_samples: N, at least one.

Jacobians are a list with one array [N, *param.shape] for each parameter: per-sample gradients, to
ascend. What differs from optax on purpose: a decay of one does not divide by zero; the average is
divided once by the weight of what it has seen, and not again at each call; the same key draws other
numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.core.validation import check_at_least, check_positive, check_unit_interval
from pgjax.diagnostics.geometry import divide_if_positive
from pgjax.expectations.adapters import from_object
from pgjax.expectations.estimates import per_sample_gradients
from pgjax.expectations.multi_normal import MultiNormal
from pgjax.expectations.pathwise import pathwise
from pgjax.expectations.score import score_function
from pgjax.expectations.weak_derivatives import measure_valued, uncoupled_measure_valued
from pgjax.records import configured
from pgjax.types import KeyLike, Number, check_function, describe

Jacobians = list[Float[Array, "N ..."]]
Builder = Callable[..., Any]


def multi_normal(loc: Array, log_scale: Array) -> MultiNormal:
    """A normal with a diagonal covariance, from μ [D] and log σ [D].

    Example:
        >>> import jax.numpy as jnp
        >>> multi_normal(jnp.zeros(2), jnp.zeros(2)).scale.tolist()
        [1.0, 1.0]
    """
    return MultiNormal(loc, log_scale)


def score_function_jacobians(
    function: Callable[[Array], Array],
    params: Sequence[Array],
    dist_builder: Builder,
    rng: KeyLike,
    num_samples: int,
) -> Jacobians:
    """Jacobians by the score function, those of `score_function()`.

    Bias: none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> found = score_function_jacobians(jnp.sum, [jnp.zeros(2), jnp.zeros(2)], multi_normal,
        ...     jax.random.key(0), 5)
        >>> [x.shape for x in found]
        [(5, 2), (5, 2)]
    """
    return _jacobians(score_function(), function, params, dist_builder, rng, num_samples)


def pathwise_jacobians(
    function: Callable[[Array], Array],
    params: Sequence[Array],
    dist_builder: Builder,
    rng: KeyLike,
    num_samples: int,
) -> Jacobians:
    """Pathwise jacobians, those of `pathwise()`.

    Raises:
        ValueError: if draws cannot be differentiated by the parameters.

    Bias: none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> found = pathwise_jacobians(jnp.sum, [jnp.zeros(2), jnp.zeros(2)], multi_normal,
        ...     jax.random.key(0), 5)
        >>> found[0][0].tolist()
        [1.0, 1.0]
    """
    return _jacobians(pathwise(), function, params, dist_builder, rng, num_samples)


def measure_valued_jacobians(
    function: Callable[[Array], Array],
    params: Sequence[Array],
    dist_builder: Builder,
    rng: KeyLike,
    num_samples: int,
    coupling: bool = True,
) -> Jacobians:
    """Measure-valued jacobians, those of `measure_valued()` or `uncoupled_measure_valued()`.

    Args:
        coupling: whether the two draws of each parameter are coupled.

    Raises:
        ValueError: if `dist_builder` makes neither a normal, a Bernoulli, a categorical nor a
            Poisson. (optax took `multi_normal` alone.)

    Bias: none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> found = measure_valued_jacobians(jnp.sum, [jnp.zeros(2), jnp.zeros(2)], multi_normal,
        ...     jax.random.key(0), 5, coupling=False)
        >>> [x.shape for x in found]
        [(5, 2), (5, 2)]
    """
    estimator = measure_valued() if coupling else uncoupled_measure_valued()
    return _jacobians(estimator, function, params, dist_builder, rng, num_samples)


def _jacobians(
    estimator: Any,
    function: Callable,
    params: Sequence[Array],
    dist_builder: Builder,
    rng: KeyLike,
    num_samples: int,
) -> Jacobians:
    check_function("dist_builder", dist_builder, "(*params) -> distribution")
    if not isinstance(params, list | tuple):
        raise TypeError(f"params must be a sequence of arrays, got {describe(params)}")
    distribution = from_object(configured(_made, dist_builder=dist_builder))
    given = estimator, function, distribution, list(params), rng
    return per_sample_gradients(*given, num_samples=num_samples)


def _made(params: Sequence[Array], *, dist_builder: Builder) -> Any:
    return dist_builder(*params)


def control_delta_method(
    function: Callable[[Array], Array],
) -> tuple[Callable, Callable, Callable]:
    """The delta method's control variate, that of `delta_control_variate(estimator)`.

    f's Taylor polynomial of second order at the distribution's `loc`, for a normal with `loc` and
    `scale` of one axis.

    Returns:
        Three functions: the control variate (params, x, state) -> number, its expectation (params,
        state) -> number, and the update of its state (params, samples, state) -> state. `params`
        are those of `multi_normal`, [μ, log σ]. The state is None.

    Bias: does not apply.

    Example:
        >>> import jax.numpy as jnp
        >>> variate, mean, _ = control_delta_method(lambda x: jnp.sum(x**2))
        >>> params = [jnp.ones(2), jnp.zeros(2)]
        >>> float(variate(params, jnp.array([3.0, 0.0]), None)), float(mean(params, None))
        (9.0, 4.0)
    """
    check_function("function", function, "x -> scalar")

    def variate(params: Sequence[Array], x: Array, state: Any = None) -> Array:
        loc = params[0]
        step = x - loc
        slope, curvature = jax.grad(function)(loc), jax.hessian(function)(loc)
        return function(loc) + slope @ step + step @ curvature @ step / 2

    def mean(params: Sequence[Array], state: Any = None) -> Array:
        loc, log_scale = params
        spread = jnp.diagonal(jax.hessian(function)(loc)) @ jnp.exp(2 * log_scale)
        return function(loc) + spread / 2

    return variate, mean, _same_state


def _same_state(params: Any, samples: Any, state: Any = None) -> Any:
    return state


def moving_avg_baseline(
    function: Callable[[Array], Array],
    decay: Number = 0.99,
    zero_debias: bool = True,
    use_decay_early_training_heuristic: bool = True,
) -> tuple[Callable, Callable, Callable]:
    """The moving average of f as a control variate; `MovingAverage` is the same as a baseline.

    Args:
        decay: in [0, 1]; one, with `zero_debias`, is the mean of all updates.
        zero_debias: whether the average is divided by the weight of what it has seen.
        use_decay_early_training_heuristic: whether the decay is at most (1 + t)/(10 + t) at update
            number t.

    Returns:
        As for `control_delta_method`; the state is (average, number of updates), first (0., 0).

    Raises:
        ValueError: if the decay is outside [0, 1].

    Bias: none as a control variate, if the state is of earlier updates.

    Example:
        >>> import jax.numpy as jnp
        >>> variate, mean, update = moving_avg_baseline(jnp.sum, 0.5, True, False)
        >>> state = update(None, jnp.array([[2.0], [4.0]]), (jnp.zeros(()), 0))
        >>> float(variate(None, jnp.zeros(1), state))
        3.0
    """
    check_function("function", function, "x -> scalar")
    check_unit_interval("decay", decay)

    def average(params: Any, state: tuple[Array, Any]) -> Array:
        return jax.lax.stop_gradient(state[0])

    def variate(params: Any, x: Array, state: tuple[Array, Any]) -> Array:
        return average(params, state)

    def update(params: Any, samples: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
        value, count = state
        now = jnp.asarray(decay)
        if use_decay_early_training_heuristic:
            now = jnp.minimum(now, (1.0 + count) / (10.0 + count))
        share = 1 - now
        if zero_debias:  # over the weight of all updates, whose limit for a decay of one is 1/t
            weight = 1 - now ** (count + 1)
            share = jnp.where(weight > 0, share / jnp.where(weight > 0, weight, 1), 1 / (1 + count))
        return value + share * (jnp.mean(jax.vmap(function)(samples)) - value), count + 1

    return variate, average, update


def control_variates_jacobians(
    function: Callable[[Array], Array],
    control_variate_from_function: Callable,
    grad_estimator: Callable[..., Jacobians],
    params: Sequence[Array],
    dist_builder: Builder,
    rng: KeyLike,
    num_samples: int,
    control_variate_state: Any = None,
    estimate_cv_coeffs: bool = False,
    estimate_cv_coeffs_num_samples: int = 20,
) -> tuple[Jacobians, Any]:
    """Jacobians of f − β h plus β ∇E[h], for the control variate h.

    Args:
        control_variate_from_function: `control_delta_method` or `moving_avg_baseline`.
        grad_estimator: one of the three functions above.
        control_variate_state: from the call before.
        estimate_cv_coeffs: whether β is estimated, one number for each parameter, from other draws.
        estimate_cv_coeffs_num_samples: the number of these draws.

    Returns:
        The jacobians and the state for the next call.

    Bias: none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> found, state = control_variates_jacobians(lambda x: jnp.sum(x**2),
        ...     control_delta_method, score_function_jacobians, [jnp.ones(2), jnp.zeros(2)],
        ...     multi_normal, jax.random.key(0), 3)
        >>> [round(float(x), 4) for x in found[0][0]]  # f is its own polynomial: no variance
        [2.0, 2.0]
    """
    variate, mean, update = control_variate_from_function(function)
    held, state = jax.lax.stop_gradient(list(params)), control_variate_state
    given = held, dist_builder, rng, num_samples
    coefficients = [1.0] * len(held)
    if estimate_cv_coeffs:
        coefficients = estimate_control_variate_coefficients(
            function,
            control_variate_from_function,
            grad_estimator,
            params,
            dist_builder,
            jax.random.fold_in(jnp.asarray(rng), 1),
            estimate_cv_coeffs_num_samples,
            state,
        )
    of_f = grad_estimator(function, *given)
    of_h = grad_estimator(lambda x: variate(held, x, state), *given)
    exact = jax.grad(lambda params: jnp.asarray(mean(params, state), float))(held)
    found = [
        f - b * (h - e[None]) for f, h, e, b in zip(of_f, of_h, exact, coefficients, strict=True)
    ]
    keys = jax.random.split(jnp.asarray(rng), num_samples)
    draw = from_object(configured(_made, dist_builder=dist_builder)).sample
    samples = jax.vmap(draw, (None, 0))(held, keys)
    return found, update(held, samples, state)


def estimate_control_variate_coefficients(
    function: Callable[[Array], Array],
    control_variate_from_function: Callable,
    grad_estimator: Callable[..., Jacobians],
    params: Sequence[Array],
    dist_builder: Builder,
    rng: KeyLike,
    num_samples: int,
    control_variate_state: Any = None,
    eps: float = 1e-3,
) -> list[Array]:
    """β of least variance for each parameter, Σ cov(∇f, ∇h) / (Σ var(∇h) + ε), from N draws.

    Args:
        num_samples: N, at least two.
        eps: ε ≥ 0.

    Returns:
        One scalar for each parameter.

    Raises:
        ValueError: if N is below two or ε is negative.

    Bias: a ratio of estimates; the jacobians stay unbiased if it comes from other draws.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> beta = estimate_control_variate_coefficients(lambda x: jnp.sum(x**2),
        ...     control_delta_method, score_function_jacobians, [jnp.ones(2), jnp.zeros(2)],
        ...     multi_normal, jax.random.key(0), 50)
        >>> [round(float(x), 2) for x in beta]
        [1.0, 1.0]
    """
    if check_positive("num_samples", num_samples) < 2:
        raise ValueError(f"num_samples must be at least 2 for a covariance, got {num_samples}")
    check_at_least("eps", eps, 0.0, "it keeps the divisor from zero")
    variate = control_variate_from_function(function)[0]
    held = jax.lax.stop_gradient(list(params))
    given = held, dist_builder, rng, num_samples
    of_f = grad_estimator(function, *given)
    of_h = grad_estimator(lambda x: variate(held, x, control_variate_state), *given)

    def coefficient(f: Array, h: Array) -> Array:
        f, h = f - jnp.mean(f, axis=0), h - jnp.mean(h, axis=0)
        return divide_if_positive(jnp.mean(f * h), jnp.mean(h**2) + eps / h[0].size)

    return [coefficient(f, h) for f, h in zip(of_f, of_h, strict=True)]
