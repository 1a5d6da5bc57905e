"""The diagonal normal that the functions of optax.monte_carlo take, as an object with methods."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.policies.gaussian import standard_log_density


class MultiNormal:
    """Independent normal coordinates with the methods of optax's `multi_normal`.

    Args:
        loc: [D] μ.
        log_scale: [D] log σ.
    """

    def __init__(self, loc: Array, log_scale: Array) -> None:
        self._loc, self._log_scale = loc, log_scale

    @property
    def params(self) -> list[Array]:
        """[μ, log σ]."""
        return [self._loc, self._log_scale]

    @property
    def loc(self) -> Array:
        """μ."""
        return self._loc

    @property
    def scale(self) -> Array:
        """σ."""
        return jnp.exp(self._log_scale)

    @property
    def log_scale(self) -> Array:
        """Log σ."""
        return self._log_scale

    def sample(self, seed: Array, shape: Sequence[int] = ()) -> Array:
        """Draws [*shape, D]."""
        noise = jax.random.normal(seed, (*shape, *self._loc.shape), self._loc.dtype)
        return self._loc + self.scale * noise

    def log_prob(self, x: Array) -> Array:
        """The log-density, summed over the last axis."""
        of_one = jnp.vectorize(standard_log_density, signature="(d),(d),(d)->()")
        return of_one(self._loc, self._log_scale, x)
