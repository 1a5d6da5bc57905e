"""Running means and standard deviations of observations, for networks that standardize theirs.

Welford's update, merged window by window (Chan, Golub & LeVeque, 1979).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.policies.distribution import unmasked
from pgjax.policies.networks import OBSERVATION_MEAN, OBSERVATION_SPREAD, features
from pgjax.types import Observation, Params

NARROWEST = 1e-6
"""The least spread that differs from rounding; an entry with less is not rescaled."""


class ObservationMoments(NamedTuple):
    """The mean and the spread of all observations so far.

    Attributes:
        number: of the observations.
        mean: [D].
        squares: [D] the sum of the squared distances from the mean.
    """

    number: Float[Array, ""]
    mean: Float[Array, "D"]
    squares: Float[Array, "D"]


def no_observations(params: Params) -> ObservationMoments | tuple[()]:
    """The moments before the first observation; () if no network in `params` standardizes."""
    means = [x for path, x in jax.tree.leaves_with_path(params) if _name(path) == OBSERVATION_MEAN]
    if not means:
        return ()
    return ObservationMoments(jnp.zeros(()), *jnp.zeros((2, *means[0].shape)))


def with_observations(
    moments: ObservationMoments,
    observation: Observation,
    average: Callable[[Array], Array] = lambda x: x,
    devices: int = 1,
) -> ObservationMoments:
    """The moments with a window's observations [N, T, ...] among them.

    Args:
        moments: before the window.
        observation: of one device.
        average: of an array over all devices that share the update.
        devices: the number of these devices; all have the same number of observations.
    """
    x = jax.vmap(jax.vmap(features))(unmasked(observation))
    x = x.reshape(-1, x.shape[-1])
    added = x.shape[0] * devices
    number = moments.number + added
    center = average(jnp.mean(x, axis=0))
    distance = center - moments.mean
    mean = moments.mean + distance * (added / number)
    between = distance**2 * (moments.number * added / number)
    within = added * average(jnp.mean((x - center) ** 2, axis=0))
    new = ObservationMoments(number, mean, moments.squares + within + between)
    return jax.tree.map(lambda x, like: x.astype(like.dtype), new, moments)


def standardizing(params: Params, moments: ObservationMoments) -> Params:
    """The parameters with these moments wherever a network standardizes by them."""
    spread = jnp.sqrt(moments.squares / jnp.maximum(moments.number, 1))
    spread = jnp.where(spread > NARROWEST * (1 + jnp.abs(moments.mean)), spread, 1)
    by_name = {OBSERVATION_MEAN: moments.mean, OBSERVATION_SPREAD: spread}

    def chosen(path: Any, x: Any) -> Any:
        return by_name[_name(path)].astype(x.dtype) if _name(path) in by_name else x

    return jax.tree.map_with_path(chosen, params)


def _name(path: tuple[Any, ...]) -> str:
    """The name of a parameter in its network."""
    return str(getattr(path[-1], "key", "")) if path else ""
