"""Environments as records of pure functions, whatever library they come from.

There is no auto-reset and no wrapper. The caller must ignore a state once its episode has ended; it
may be stepped, but the result has no meaning.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key

from pgjax.core.validation import check_at_least, check_kind, check_positive
from pgjax.records import Configured, configured, data, record, static
from pgjax.types import MaskedObservation, Observation, check_functions, describe

State: TypeAlias = Any
"""A pytree of arrays of one shape and dtype at every step, read by the environment only."""


class Step(NamedTuple):
    """The result of a reset or a step.

    Attributes:
        observation: a pytree of arrays.
        reward: scalar, of the transition to this state; zero at the start.
        terminated: whether this is a terminal state.
        truncated: whether a time limit of the task ends the episode here. Both may be true.
        action_mask: [A] true where the next action is legal; None if all always are. For
            MultiDiscrete actions it is [A_1 + ... + A_D], one choice after another.
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
        num_actions: (A_1, ..., A_D), the number of actions of each choice.
    """

    num_actions: tuple[int, ...]


class Box(NamedTuple):
    """Real vectors between bounds.

    Attributes:
        low: D numbers, the least of each coordinate; −inf if there is no bound.
        high: D numbers, the greatest of each coordinate; inf if there is no bound.
        shape: of the action that the environment takes, D numbers in all.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """D, the number of coordinates."""
        return math.prod(self.shape)


ActionSpace: TypeAlias = Discrete | MultiDiscrete | Box


def is_space(x: Any) -> bool:
    """Whether x is a single space, which JAX would take for a tuple of numbers."""
    return isinstance(x, ActionSpace)


@record
class Environment:
    """An environment as a record of pure functions.

    Parameters of an environment, such as a pole's length, are leaves of the record if its functions
    carry them: `init=jax.tree_util.Partial(init, params)`. The same program then serves other
    parameters, and `jax.vmap` goes over them.

    Attributes:
        init: key -> (state, step), an episode's start.
        step: (key, state, action) -> (state, step), without auto-reset.
        action_space: the space of the actions that `step` takes, or a dict or tuple of spaces, as
            for a factored policy.
        time_limit: the greatest number of steps of an episode; None if there is none. A limit
            truncates, or, if it is a rule of the task, terminates.
        name: used in error messages.
        num_categories: the number of categories, if an observation is an integer that names one;
            default networks then encode it one-hot. None if it is not.

    Raises:
        TypeError: if a field is of another kind.
        ValueError: if `time_limit` or `num_categories` is below one.

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
    action_space: ActionSpace | Any = static()
    time_limit: int | None = data(default=None)
    name: str = static(default="environment")
    num_categories: int | None = static(default=None)

    def __post_init__(self) -> None:
        check_functions(
            self, init="key -> (state, Step)", step="(key, state, action) -> (state, Step)"
        )
        for space in jax.tree.leaves(self.action_space, is_leaf=is_space):
            if not is_space(space):
                raise TypeError(
                    f"action_space must hold Discrete, MultiDiscrete or Box, got {describe(space)}"
                )
        if self.action_space is None:
            raise TypeError("action_space must be a space, such as Discrete(2), got None")
        if self.time_limit is not None:
            check_at_least("time_limit", self.time_limit, 1, "it counts steps")
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, got {describe(self.name)}")
        if self.num_categories is not None:
            check_positive("num_categories", self.num_categories)


def seen(step: Step) -> Observation:
    """The observation of a step for a policy, with the legal actions unless all are legal.

    In a terminal state, where no action follows, every action counts as legal: libraries mask them
    all, and a policy raises an error if no action is legal.
    """
    if step.action_mask is None:
        return step.observation
    return MaskedObservation(step.observation, step.action_mask | jnp.asarray(step.terminated))


def action_example(space: ActionSpace | Any) -> Any:
    """Shape and dtype of an action of `Environment.step`; a pytree like the space."""

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
    """The environment with one dtype for each array at every step, as `jax.lax.scan` demands.

    In many environments a dtype differs between reset and step: an integer becomes a float, or a
    weak type a strong one. Such an array has the common dtype, `jnp.promote_types`, at every step.
    Flags become boolean, and integer rewards float32, so that a discount does not round to zero.

    Raises:
        TypeError: by its functions, if structures or shapes differ; the message names both.

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
    if _is_stable(environment):
        return environment
    leaves, structure = jax.tree.flatten(environment)
    kind = structure, tuple(map(_type_of, leaves))
    return replace(
        environment,
        init=configured(_stable_init, init=environment.init, kind=kind),
        step=configured(_stable_step, step=environment.step, kind=kind),
    )


def _is_stable(environment: Environment) -> bool:
    """Whether `stable` made it, for such actions; to do it again would only trace it again."""
    init, step = environment.init, environment.step
    if not (isinstance(init, Configured) and isinstance(step, Configured)):
        return False
    if (init.function, step.function) != (_stable_init, _stable_step):
        return False
    structure, leaves = kind = init.settings["kind"]
    spaces = structure.unflatten(leaves).action_space, environment.action_space
    one, other = map(action_example, spaces)
    return step.settings["kind"] == kind and one == other


def _stable_init(key: Array, *, init: Callable, kind: tuple[Any, Any]) -> tuple[State, Step]:
    return _cast_all(init(key), kind)


def _stable_step(
    key: Array, state: State, action: Array, *, step: Callable, kind: tuple[Any, Any]
) -> tuple[State, Step]:
    return _cast_all(step(key, state, action), kind)


def _cast_all(shown: tuple[State, Step], kind: tuple[Any, Any]) -> tuple[State, Step]:
    common = _common_types(*kind, x64=jax.config.read("jax_enable_x64"))
    return jax.tree.map(cast, _as_arrays(shown), common)


def _type_of(leaf: Any) -> jax.ShapeDtypeStruct:
    found = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(found.shape, found.dtype, weak_type=found.weak_type)


@lru_cache(maxsize=128)
def _common_types(structure: Any, leaves: tuple[Any, ...], *, x64: bool) -> tuple[State, Step]:
    """Shapes and dtypes of a state and a Step at every step; cached, because tracing takes long."""
    environment = structure.unflatten(leaves)
    key, action = jax.eval_shape(jax.random.key, 0), action_example(environment.action_space)
    start = jax.eval_shape(lambda env, key: _as_arrays(env.init(key)), environment, key)
    following = jax.eval_shape(
        lambda env, *args: _as_arrays(env.step(*args)), environment, key, start[0], action
    )
    _check_same_shapes(environment.name, start, following)
    return jax.tree.map(_wider, start, following)


def limited(environment: Environment, time_limit: int | None) -> Environment:
    """The environment with a time limit, whose last step truncates.

    Args:
        environment: its episodes still end for their other reasons.
        time_limit: the greatest number of steps of an episode; None changes nothing.

    Returns:
        An Environment whose state also holds the time.

    Raises:
        TypeError: if `environment` is not an Environment.
        ValueError: if `time_limit` is below one.

    Bias: the limit changes the estimand to the objective of that many steps, unless what follows a
        truncation is bootstrapped.
    """
    check_kind("environment", environment, Environment, "environments.make(name) gives one")
    if time_limit is None:
        return environment
    check_positive("time_limit", time_limit)

    return replace(
        environment,
        init=configured(_limited_init, init=environment.init),
        step=configured(_limited_step, step=environment.step, time_limit=time_limit),
        time_limit=min(time_limit, environment.time_limit or time_limit),
    )


def _limited_init(key: Array, *, init: Callable) -> tuple[State, Step]:
    state, step = init(key)
    return (state, jnp.int32(0)), step


def _limited_step(
    key: Array, timed: State, action: Array, *, step: Callable, time_limit: int
) -> tuple[State, Step]:
    state, time = timed
    state, shown = step(key, state, action)
    truncated = shown.truncated | (time + 1 >= time_limit)
    return (state, time + 1), shown._replace(truncated=truncated)


def cast(x: Any, like: Any) -> Array:
    """An array in the dtype of another, without a weak type; keys are unchanged."""
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
            raise TypeError(
                f"{name}: {where} must keep its shape, got {x.shape} from init and {y.shape} "
                "from step"
            )
    for field in ("reward", "terminated", "truncated"):
        shape = getattr(start[1], field).shape
        if shape != ():
            raise TypeError(f"{name}: step.{field} must be a scalar, got shape {shape}")
