"""The surface: an environment as a record of pure functions, whatever library it comes from.

There is no auto-reset and no wrapper: whoever steps freezes what has ended. A finished state may be
stepped again, and what comes of it is never looked at.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key

from pgjax.core.validation import check_positive
from pgjax.types import MaskedObservation, Observation

State: TypeAlias = Any
"""A pytree of arrays of one shape and dtype at every step; nobody but the environment reads it."""


class Step(NamedTuple):
    """What an environment shows after it started or moved on.

    Attributes:
        observation: a pytree of arrays.
        reward: scalar, of the transition that led here; zero at the start.
        terminated: whether this is a terminal state.
        truncated: whether a time limit of the task ends the episode here. Both may be true.
        action_mask: [A] true where the next action is legal; None where all are, always. Of
            MultiDiscrete actions [A_1 + ... + A_D], one choice after another.
    """

    observation: Observation
    reward: Float[Array, ""] | float
    terminated: Bool[Array, ""] | bool
    truncated: Bool[Array, ""] | bool
    action_mask: Bool[Array, "A"] | None = None


class Discrete(NamedTuple):
    """Actions 0..A−1, as integers.

    Attributes:
        num_actions: A.
    """

    num_actions: int


class MultiDiscrete(NamedTuple):
    """Several discrete choices at once, as a vector of integers.

    Attributes:
        num_actions: how many each has, (A_1, ..., A_D).
    """

    num_actions: tuple[int, ...]


class Box(NamedTuple):
    """Vectors of reals between bounds.

    Attributes:
        low: (D numbers), the least; −inf where there is no bound.
        high: (D numbers), the greatest.
        shape: of the action that the environment takes, D numbers in all.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """D, the numbers of an action."""
        return math.prod(self.shape)


ActionSpace: TypeAlias = Discrete | MultiDiscrete | Box


def is_space(x: Any) -> bool:
    """Whether it is a space by itself: a record, which JAX would take for a tuple of numbers."""
    return isinstance(x, ActionSpace)


class Environment(NamedTuple):
    """An environment as a record of pure functions.

    Attributes:
        init: key -> (state, step), an episode's start.
        step: (key, state, action) -> (state, step), without auto-reset.
        action_space: what `step` takes: a space, or a dict or tuple of spaces for actions that are
            one too, as a factored policy's are.
        time_limit: steps after which an episode has ended at the latest; None where it may go on.
            A limit truncates, or, where it is a rule of the task, terminates.
        name: as messages print it.

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> def show(place):
        ...     ended = place >= 3
        ...     return place, Step(jax.nn.one_hot(place, 4), -1.0, ended, False)
        >>> walk = Environment(
        ...     init=lambda key: show(jnp.int32(0)),
        ...     step=lambda key, place, action: show(place + action), action_space=Discrete(2))
        >>> batch = pgjax.rollout(
        ...     pgjax.tabular_softmax(4, 2), jnp.zeros((4, 2)), limited(walk, 10),
        ...     jax.random.key(0), num_trajectories=8, num_steps=20)
        >>> batch.reward.shape, int(batch.mask.sum(axis=1).max()) <= 10
        ((8, 20), True)
    """

    init: Callable[[Key[Array, ""]], tuple[State, Step]]
    step: Callable[[Key[Array, ""], State, Array], tuple[State, Step]]
    action_space: ActionSpace | Any
    time_limit: int | None = None
    name: str = "environment"


def seen(step: Step) -> Observation:
    """What a policy sees of a step: the observation, with the legal actions where not all are.

    In a terminal state, where nobody acts, every action counts as legal: libraries mask them all,
    and a policy without a legal action is an error.
    """
    if step.action_mask is None:
        return step.observation
    return MaskedObservation(step.observation, step.action_mask | jnp.asarray(step.terminated))


def action_example(space: ActionSpace | Any) -> Any:
    """Shape and dtype of an action, as `Environment.step` is handed it; a pytree like the space."""

    def example(space: ActionSpace) -> jax.ShapeDtypeStruct:
        match space:
            case Discrete():
                return jax.ShapeDtypeStruct((), jnp.int32)
            case MultiDiscrete(num_actions):
                return jax.ShapeDtypeStruct((len(num_actions),), jnp.int32)
            case Box():
                return jax.ShapeDtypeStruct(space.shape, jax.dtypes.canonicalize_dtype(float))

    return jax.tree.map(example, space, is_leaf=is_space)


def stable(environment: Environment) -> Environment:
    """The environment with one dtype for each array, from its start to its end, as scan demands.

    Many drift: an integer that becomes a float, a weak type that becomes a strong one. The wider of
    the two holds both without loss. Flags become boolean, and integer rewards float32, so that a
    discount does not round to zero.

    Args:
        environment: whose `init` and `step` give the same structure and shapes.

    Returns:
        An Environment.

    Raises:
        TypeError: by its functions, where structures or shapes differ; the message names both.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> drifting = Environment(
        ...     init=lambda key: (jnp.int32(0), Step(0, 0, False, False)),
        ...     step=lambda key, x, action: (x + 0.5, Step(x, 1, x > 3, False)),
        ...     action_space=Discrete(2))
        >>> state, step = stable(drifting).init(jax.random.key(0))
        >>> str(state.dtype), str(step.reward.dtype), str(step.terminated.dtype)
        ('float32', 'float32', 'bool')
    """

    @cache
    def common(x64: bool) -> tuple[State, Step]:
        key = jax.eval_shape(jax.random.key, 0)
        action = action_example(environment.action_space)
        start = jax.eval_shape(lambda key: _as_arrays(environment.init(key)), key)
        following = jax.eval_shape(
            lambda *args: _as_arrays(environment.step(*args)), key, start[0], action
        )
        _check_same_shapes(environment.name, start, following)
        return jax.tree.map(_wider, start, following)

    def settle(shown: tuple[State, Step]) -> tuple[State, Step]:
        return jax.tree.map(cast, _as_arrays(shown), common(jax.config.read("jax_enable_x64")))

    return environment._replace(
        init=lambda key: settle(environment.init(key)),
        step=lambda key, state, action: settle(environment.step(key, state, action)),
    )


def limited(environment: Environment, time_limit: int | None) -> Environment:
    """The environment with a time limit of its own: its last step truncates.

    Args:
        environment: whatever else ends its episodes still does.
        time_limit: in steps; None changes nothing.

    Returns:
        An Environment whose state also holds the time.

    Raises:
        ValueError: a limit below one.
        TypeError: a limit that is no integer.

    Bias: it changes the estimand to the objective of that many steps, unless what follows a
        truncation is bootstrapped.
    """
    if time_limit is None:
        return environment
    check_positive("time_limit", time_limit)

    def init(key: Array) -> tuple[State, Step]:
        state, step = environment.init(key)
        return (state, jnp.int32(0)), step

    def step(key: Array, timed: State, action: Array) -> tuple[State, Step]:
        state, time = timed
        state, step = environment.step(key, state, action)
        truncated = step.truncated | (time + 1 >= time_limit)
        return (state, time + 1), step._replace(truncated=truncated)

    shortest = min(time_limit, environment.time_limit or time_limit)
    return environment._replace(init=init, step=step, time_limit=shortest)


def cast(x: Any, like: Any) -> Array:
    """An array in the dtype of another, of no weak type; keys are left as they are."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(like.dtype, jax.dtypes.prng_key) else x.astype(like.dtype)


def _as_arrays(shown: tuple[State, Step]) -> tuple[State, Step]:
    state, step = shown
    reward = jnp.asarray(step.reward)
    if not jnp.issubdtype(reward.dtype, jnp.floating):
        reward = reward.astype(jnp.float32)
    terminated, truncated = map(partial(jnp.asarray, dtype=bool), (step.terminated, step.truncated))
    return state, step._replace(reward=reward, terminated=terminated, truncated=truncated)


def _wider(x: Any, y: Any) -> jax.ShapeDtypeStruct:
    dtype = x.dtype if x.dtype == y.dtype else jnp.promote_types(x.dtype, y.dtype)
    return jax.ShapeDtypeStruct(x.shape, dtype)


def _check_same_shapes(name: str, start: Any, following: Any) -> None:
    one, other = map(jax.tree.structure, (start, following))
    if one != other:
        raise TypeError(
            f"{name}: init and step must return (state, Step) of one structure, "
            f"got {one} and {other}"
        )
    for (path, x), y in zip(
        jax.tree.leaves_with_path(start), jax.tree.leaves(following), strict=True
    ):
        if x.shape != y.shape:
            where = ("state", "step")[path[0].idx] + jax.tree_util.keystr(path[1:])
            raise TypeError(f"{name}: {where} has shape {x.shape} at the start, {y.shape} later")
    for field in ("reward", "terminated", "truncated"):
        shape = getattr(start[1], field).shape
        if shape != ():
            raise TypeError(f"{name}: step.{field} must be a scalar, got shape {shape}")
