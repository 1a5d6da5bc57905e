"""Flax networks from one observation, a pytree of arrays, to what a distribution takes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array

from pgjax.core.validation import check_finite, check_kind, check_positive, check_scalars
from pgjax.types import Observation, describe


class MLP(linen.Module):
    """A perceptron from the flattened observation to logits [A].

    Attributes:
        num_actions: A.
        hidden: width of each hidden layer.
        num_categories: the number of values of an integer observation, which is then one-hot
            encoded. If None, an integer is taken as a number.
        standardized: whether the observation is standardized first; see `OBSERVATION_MEAN`.

    Raises:
        ValueError: if a size is below one, or `standardized` is true for categories.
    """

    num_actions: int
    hidden: Sequence[int] = (64, 64)
    num_categories: int | None = None
    standardized: bool = False

    def __post_init__(self) -> None:
        """Refuse a network without outputs, or with layers of no width."""
        check_positive("num_actions", self.num_actions)
        _check_widths(self.hidden)
        if self.num_categories is not None:
            check_positive("num_categories", self.num_categories)
            if self.standardized:
                raise ValueError(
                    "standardized must be false for a category, got true; omit num_categories for "
                    "numbers"
                )
        super().__post_init__()

    @linen.compact
    def __call__(self, observation: Observation) -> Array:
        """Observation -> logits [A]."""
        x = _features(observation, self.num_categories)
        x = _tanh_layers(_standardized(self, x) if self.standardized else x, self.hidden)
        return _last_layer(x, self.num_actions)


class GaussianMLP(linen.Module):
    """A perceptron from the flattened observation to μ [D], and a constant log σ [D].

    PPO and A2C usually have this network for continuous actions. If σ should depend on the
    observation, write a module that returns (μ, log σ).

    Attributes:
        num_dimensions: D.
        hidden: width of each hidden layer.
        initial_log_std: the initial value of log σ, which is a parameter.
        standardized: whether the observation is standardized first; see `OBSERVATION_MEAN`.

    References:
        Schulman et al., Trust Region Policy Optimization (2015), appendix D; Andrychowicz et al.,
        What Matters In On-Policy Reinforcement Learning? (2020), section 3.2, for the small last
        layer.
    """

    num_dimensions: int
    hidden: Sequence[int] = (64, 64)
    initial_log_std: float = 0.0
    standardized: bool = False

    def __post_init__(self) -> None:
        """Refuse a network without outputs, or with layers of no width."""
        check_positive("num_dimensions", self.num_dimensions)
        _check_widths(self.hidden)
        check_scalars(initial_log_std=check_finite("initial_log_std", self.initial_log_std))
        super().__post_init__()

    @linen.compact
    def __call__(self, observation: Observation) -> tuple[Array, Array]:
        """Observation -> μ [D], log σ [D]."""
        x = features(observation)
        x = _tanh_layers(_standardized(self, x) if self.standardized else x, self.hidden)
        start = linen.initializers.constant(self.initial_log_std)
        log_std = self.param("log_std", start, (self.num_dimensions,))
        return _last_layer(x, self.num_dimensions), jnp.asarray(log_std)


class ConvNet(linen.Module):
    """A small convolutional network from an image [height, width, channels] to logits [A].

    One 3×3 convolution with 16 filters and a dense layer: the network of the MinAtar paper.

    Attributes:
        num_actions: A.
        num_filters: the number of filters of the convolution.
        hidden: width of the dense layer.

    References:
        Young & Tian, MinAtar (2019), section 3.
    """

    num_actions: int
    num_filters: int = 16
    hidden: int = 128

    def __post_init__(self) -> None:
        """Refuse a network without outputs, or with layers of no width."""
        for name in ("num_actions", "num_filters", "hidden"):
            check_positive(name, getattr(self, name))
        super().__post_init__()

    @linen.compact
    def __call__(self, observation: Array) -> Array:
        """Image -> logits [A]."""
        if observation.ndim != 3:
            raise ValueError(
                f"ConvNet needs an image [height, width, channels], got shape {observation.shape}; "
                "use MLP for vectors"
            )
        x = _numeric(observation)
        convolution = linen.Conv(
            self.num_filters, (3, 3), padding="VALID", conv_general_dilated=_by_patches
        )
        x = linen.relu(convolution(x))
        x = linen.relu(linen.Dense(self.hidden)(x.reshape(-1)))
        return _last_layer(x, self.num_actions)


def _by_patches(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """[N, H, W, C] and [h, w, C, F] -> the convolution without padding, as one matrix product.

    On a CPU, XLA's gradient of a convolution is several times slower. In a loop, such as PPO's
    over minibatches, it is thirty times slower.
    """
    height, width, channels, filters = kernel.shape
    H, W = x.shape[1] - height + 1, x.shape[2] - width + 1
    shifted = [x[:, i : i + H, j : j + W] for i in range(height) for j in range(width)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(height * width * channels, filters)


class RecurrentNetwork(linen.Module):
    """A recurrent cell, whose input is the flattened observation, and a head.

    Attributes:
        cell: a linen cell, such as `linen.GRUCell(64)`.
        head: from the cell's output to what a distribution takes, such as `MLP` or `GaussianMLP`.
        num_categories: as for `MLP`.

    References:
        Hausknecht & Stone, Deep Recurrent Q-Learning for Partially Observable MDPs (2015), for the
        cell before the last layer; here in a policy.
    """

    cell: linen.RNNCellBase
    head: linen.Module
    num_categories: int | None = None

    def __post_init__(self) -> None:
        """Refuse a cell or a head that is not a module."""
        check_kind("cell", self.cell, linen.RNNCellBase, "such as linen.GRUCell(64)")
        check_kind("head", self.head, linen.Module, "such as MLP(2, hidden=())")
        if self.num_categories is not None:
            check_positive("num_categories", self.num_categories)
        super().__post_init__()

    @linen.compact
    def __call__(self, memory: Any, observation: Array) -> tuple[Any, Any]:
        """Memory, observation -> memory, the head's output."""
        memory, x = self.cell(memory, _features(observation, self.num_categories))
        return memory, cast(Callable, self.head)(x)

    def initial_memory(self) -> Any:
        """The cell's initial memory: zeros."""
        return self.cell.initialize_carry(jax.random.key(0), (1,))


OBSERVATION_MEAN, OBSERVATION_SPREAD = "observation_mean", "observation_spread"
"""The names of two parameters [D] of a network that standardizes its observation.

They have no gradient. At first they are 0 and 1; A2C and PPO replace them after each window by the
mean and the standard deviation of all observations so far. They are parameters so that a saved
policy has them.
"""

FARTHEST = 10.0
"""A standardized number is clipped to ± this, as a rare observation may lie far from the mean."""


def _standardized(network: linen.Module, x: Array) -> Array:
    """An observation [D] less the mean, over the spread."""
    mean = network.param(OBSERVATION_MEAN, linen.initializers.zeros, x.shape)
    spread = network.param(OBSERVATION_SPREAD, linen.initializers.ones, x.shape)
    mean, spread = jax.lax.stop_gradient((jnp.asarray(mean), jnp.asarray(spread)))
    return jnp.clip((x - mean) / spread, -FARTHEST, FARTHEST)


def _check_widths(hidden: Any) -> None:
    """Raise if the widths of hidden layers are not a sequence of positive integers."""
    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise TypeError(f"hidden must be a sequence of widths, (64, 64), got {describe(hidden)}")
    for width in hidden:
        check_positive("hidden", width)


def _tanh_layers(x: Array, widths: Sequence[int]) -> Array:
    for width in widths:
        x = linen.tanh(linen.Dense(width, kernel_init=_orthogonal(2**0.5))(x))
    return x


def _last_layer(x: Array, width: int) -> Array:
    # Nearly uniform at first: early episodes then explore, and no logit saturates.
    return linen.Dense(width, kernel_init=_orthogonal(0.01))(x)


def _orthogonal(scale: float) -> Callable[..., Array]:
    """Flax's orthogonal initializer, for which `jax.vmap` takes one key after the other.

    On a CPU of two cores jaxlib 0.10.2 often waits for ever in the QR decomposition of a batch of
    matrices.
    """
    return partial(_draw_orthogonal, scale)


# Flax asks for the shape of every parameter at each call of a network: it is traced once.
@partial(jax.jit, static_argnums=(0, 2, 3), inline=True)
def _draw_orthogonal(
    scale: float, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Array:
    make = linen.initializers.orthogonal(scale)
    return jax.custom_batching.sequential_vmap(lambda key: make(key, shape, dtype))(key)


def features(observation: Observation) -> Array:
    """The numbers of an observation as one vector [D]."""
    return _features(observation, None)


def _features(observation: Observation, num_categories: int | None) -> Array:
    """One vector; an observation of several parts is joined, part after part."""
    if num_categories is not None:
        return jax.nn.one_hot(observation, num_categories).reshape(-1)
    parts = [_numeric(x).reshape(-1) for x in jax.tree.leaves(observation)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _numeric(observation: Array) -> Array:
    """Integers and booleans as floats; floats as they are."""
    x = jnp.asarray(observation)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
