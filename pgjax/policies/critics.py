"""Critics: value functions fitted to returns, whose values are stored in a batch as plain arrays.

An estimator never calls a critic. The values are computed once, before the estimate, and written
into the batch. So it stays visible what the critic was fitted to, and whether it adds bias. A value
function is (params, observation) -> scalar, in units of return.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen
from jax import Array
from jaxtyping import Float

from pgjax.core.devices import varying
from pgjax.core.episode_boundaries import replace_dead_steps
from pgjax.core.float64 import to_jax
from pgjax.core.validation import (
    check_batch,
    check_leaves,
    check_one_value,
    check_optimizer,
    check_params,
    check_positive,
    check_target,
)
from pgjax.policies.modules import flax_functions
from pgjax.records import configured
from pgjax.types import Observation, Params, Trajectory, check_function, describe

Value = Callable[[Params, Observation], Array]


def flax_value(module: Any) -> Value:
    """The value function of a Flax module that returns one number for one observation.

    Args:
        module: a linen or NNX module, as for `pgjax.flax_policy`, such as `MLP(1)`; its call
            returns [1] or a scalar. Variables that are not parameters are constants.

    Returns:
        (params, observation) -> scalar V(s). The parameters are those of
        `policies.flax_functions(module)`: its first function is (key, observation) -> params. For
        a linen module without other variables they are `module.init(key, observation)`.

    Raises:
        TypeError: if `module` is not a Flax module.
        ValueError: by the function, if the module returns more than one number, or a call draws
            random numbers or changes a variable.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> module = pgjax.MLP(1)
        >>> params = module.init(jax.random.key(0), jnp.zeros(4))
        >>> flax_value(module)(params, jnp.zeros(4)).shape
        ()
    """
    return configured(_flax_value, output=flax_functions(module)[1])


def _flax_value(params: Params, observation: Observation, *, output: Any) -> Array:
    return check_one_value(output(params, observation), "use MLP(1)")


def _check_value(value: Any) -> None:
    """Raise a TypeError if `value` is not a function; for a linen module it names the fix."""
    if isinstance(value, linen.Module):
        raise TypeError(
            f"value must be a function (params, observation) -> scalar, got {describe(value)}; "
            "pgjax.critics.flax_value(module) makes one"
        )
    check_function("value", value, "(params, observation) -> scalar")


def with_values(value: Value, params: Params, batch: Trajectory) -> Trajectory:
    """The batch with V(s_it) in `value`. An episode that was cut is not bootstrapped.

    Args:
        value: the value function.
        params: the critic's parameters.
        batch: [N, T] whole episodes.

    Returns:
        The batch with `value` [N, T], zero after each episode's end.

    Raises:
        ValueError: if the batch is not laid out as [N, T], or is empty.

    Bias: none as a baseline, if the critic was not fitted to this batch.
    """
    _check_value(value)
    check_leaves("params", params)
    check_batch(batch)
    seen = replace_dead_steps(batch.mask, batch.observation)
    values = jax.vmap(jax.vmap(lambda s: value(params, s)))(seen)
    return replace(batch, value=jnp.where(batch.mask, values, 0))


def with_bootstrap(value: Value, params: Params, batch: Trajectory) -> Trajectory:
    """The batch with V(s_it) in `value` and V(final observation) in `final_value`.

    An episode that was cut is then bootstrapped.

    Args:
        value: the value function.
        params: the critic's parameters.
        batch: [N, T] whole episodes, cut by the sampler and not by the task.

    Returns:
        The batch with `value` [N, T] and `final_value` [N].

    Raises:
        ValueError: for the reasons of `with_values`, or if `batch.final_observation` is None.

    Bias: for the objective without the cut, in proportion to the error of the final values.
    """
    with_value = with_values(value, params, batch)
    if batch.final_observation is None:
        raise ValueError(
            "batch.final_observation must be an array [N, ...] for the critic's value after a cut, "
            "got None; keep what rollout or windows returns"
        )
    final = jax.vmap(lambda s: value(params, s))(batch.final_observation)
    return replace(with_value, final_value=final)


def fit(
    value: Value,
    params: Params,
    batch: Trajectory,
    target: Float[Array, "N T"],
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
) -> Params:
    """The critic's parameters after `num_steps` gradient steps on its mean squared error.

    The mean is that of (V(s_it) − target_it)² over the steps where the mask is true.

    Args:
        value: the value function.
        params: the critic's parameters to start from.
        batch: [N, T]; its observations and mask are read.
        target: [N, T] in units of return, such as `weights.returns_to_go(batch, discount)`.
        optimizer: an optax optimizer. One with a line search, such as `optax.lbfgs`, is given the
            loss.
        num_steps: the number of gradient steps, each on the whole batch.

    Returns:
        A pytree like params.

    Raises:
        ValueError: if the batch is not laid out as [N, T], the target has another shape, or
            `num_steps` is below one.

    Bias: as a baseline of the *same* batch the fitted critic adds bias; of another batch it adds
    none.

    Example:
        >>> import jax, jax.numpy as jnp, optax, pgjax
        >>> batch = pgjax.rollout(
        ...     pgjax.tabular_softmax(4, 2), jnp.zeros((4, 2)), pgjax.tabular.random_mdp(),
        ...     jax.random.key(0), num_trajectories=64, num_steps=5)
        >>> table = fit(jnp.dot, jnp.zeros(4), batch, jnp.ones((64, 5)), optax.adam(0.1),
        ...     num_steps=200)
        >>> [round(float(v), 1) for v in table[:3]]  # no episode acts in the terminal state
        [1.0, 1.0, 1.0]
    """
    _check_value(value)
    check_params(params)
    target = check_target(batch, target)
    check_optimizer(optimizer)
    check_positive("num_steps", num_steps)
    seen = replace_dead_steps(batch.mask, batch.observation)
    wanted = jnp.where(batch.mask, jax.lax.stop_gradient(target), 0)
    live = jnp.maximum(jnp.sum(batch.mask), 1)

    def loss(params: Params) -> Array:
        error = jax.vmap(jax.vmap(lambda s: value(params, s)))(seen) - wanted
        return jnp.sum(jnp.where(batch.mask, error, 0) ** 2) / live

    def step(carry: tuple[Params, optax.OptState], _: None) -> tuple[Any, None]:
        params, state = carry
        error, slope = jax.value_and_grad(loss)(params)
        change, state = stepping.update(
            slope, state, params, value=error, grad=slope, value_fn=loss
        )
        return (optax.apply_updates(params, change), state), None

    stepping = optax.with_extra_args_support(optimizer)  # a line search may ask for the loss
    start = to_jax(params)
    start = varying(start, (start, batch, target))
    return jax.lax.scan(step, (start, optimizer.init(start)), None, length=num_steps)[0][0]
