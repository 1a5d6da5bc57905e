"""Algorithms as records of two pure functions, and the loops over them.

`run` is the whole training as one `lax.scan`, to be compiled and mapped over seeds and settings.
`begin` binds an algorithm to a key, for a loop in Python that prints, saves and can be stopped.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float

from pgjax.core.validation import check_key, check_kind, check_policy, check_positive
from pgjax.records import record, static
from pgjax.types import KeyLike, Params, Policy, RecurrentPolicy, check_functions, describe

Number = float | Float[Array, ""]

MEASURED = 10
"""A loop in Python measures the gradient's signal and noise once in this number of updates."""


class Metrics(NamedTuple):
    """Statistics of one update, under the parameters *before* each step.

    On windows the returns and lengths are of the episodes that ended in the window, or in the last
    one in which any ended (NaN before). If an update takes several steps, the norm, the entropy,
    the losses, the KL divergence and the clip fraction are means over these.

    Attributes:
        mean_return: the batch's mean undiscounted return per episode.
        standard_error: of that mean; NaN for a batch of one.
        mean_length: steps per episode.
        gradient_norm: the Euclidean norm of the whole estimate of ∇J.
        entropy: H(π(·|s)) in nats, the mean over the steps of the batch.
        steps: of the environment in the update.
        policy_loss: minus the mean of the policy's term; on windows only.
        value_loss: the critic's mean squared error, halved; on windows only.
        explained_variance: 1 − Var(target − V(s)) / Var(target) before the update: 1 is a perfect
            critic, and 0 or less one that explains nothing; on windows only.
        approximate_kl: KL(policy that acted ‖ new policy), estimated, in nats per step; on windows,
            and by TRPO, which states it after its step.
        clip_fraction: the share of steps whose ratio lies outside 1 ± ε; on windows only.
        learning_rate: of the update's last step, if the optimizer states one.
        gradient_signal: an estimate of ‖E ĝ‖², where it was measured; noise may make it negative.
        gradient_noise: an estimate of tr Cov ĝ, where it was measured.
        finite: stage -> whether every number in it was finite, in the order in which a fault
            spreads.
    """

    mean_return: Number
    standard_error: Number
    mean_length: Number
    gradient_norm: Number
    entropy: Number
    steps: Number
    policy_loss: Number | None = None
    value_loss: Number | None = None
    explained_variance: Number | None = None
    approximate_kl: Number | None = None
    clip_fraction: Number | None = None
    learning_rate: Number | None = None
    gradient_signal: Number | None = None
    gradient_noise: Number | None = None
    finite: dict[str, Bool[Array, ""]] | None = None


@record
class Algorithm:
    """A training method: two pure functions, and the policy that it trains.

    The numbers of its settings and of its environment are leaves. So `jax.jit` takes it as an
    argument, and `jax.vmap` maps over learning rates or discounts.

    Attributes:
        init: (key, params=None) -> state. Without parameters it draws them from a part of the key.
        step: state -> (state, Metrics), one update.
        acting: state -> the policy's params.
        policy: the policy that is trained.
        measures: whether `step` takes a second argument, a boolean: if that is true, the update
            also measures signal and noise of its gradient. The state is the same in either case.

    References:
        The pair of functions, init and step, is that of blackjax's samplers.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Metrics]]
    acting: Callable[[Any], Params]
    policy: Policy | RecurrentPolicy
    measures: bool = static(default=False)

    def __post_init__(self) -> None:
        check_policy(self.policy)
        if not isinstance(self.measures, bool):
            raise TypeError(f"measures must be True or False, got {describe(self.measures)}")
        check_functions(
            self,
            init="(key, params=None) -> state",
            step="state -> (state, metrics)",
            acting="state -> the policy's params",
        )


class Training(NamedTuple):
    """A training run: its first state, and one update.

    Attributes:
        start: a pytree of arrays, the whole state of the run; it may be saved and restored.
        step: (state, measure=False) -> (state, Metrics, {stage: whether it was finite}), compiled,
            and pure; `measure` as in an Algorithm that measures.
        params: state -> the policy's parameters.
    """

    start: Any
    step: Callable[..., tuple[Any, Metrics, dict[str, Array]]]
    params: Callable[[Any], Params]


def run(
    algorithm: Algorithm, key: KeyLike, num_updates: int, params: Params | None = None
) -> tuple[Any, Metrics]:
    """The whole training as one `lax.scan`.

    Args:
        algorithm: such as `ppo(environment)`.
        key: from `jax.random.key`.
        num_updates: the number of steps. The learning rate ends at zero if this is the number of
            updates in the settings.
        params: to start from; None draws them.

    Returns:
        The last state, and Metrics with a leading [num_updates]. The scan does not stop if a number
        is not finite; read `metrics.finite`.

    Example:
        >>> import jax, pgjax
        >>> from pgjax import training
        >>> settings = training.ReinforceSettings(num_updates=3, num_trajectories=4, num_steps=5)
        >>> learner = training.reinforce(pgjax.tabular.random_mdp(), settings,
        ...     policy=pgjax.tabular_softmax(4, 2))
        >>> state, metrics = jax.jit(lambda key: run(learner, key, 3))(jax.random.key(0))
        >>> learner.acting(state).shape, metrics.mean_return.shape
        ((4, 2), (3,))
    """
    check_algorithm(algorithm)
    check_positive("num_updates", num_updates)
    state = algorithm.init(check_key(key), params)
    return jax.lax.scan(lambda state, _: algorithm.step(state), state, length=num_updates)


def begin(algorithm: Algorithm, key: KeyLike, params: Params | None = None) -> Training:
    """An algorithm bound to a key: its first state, and its step compiled.

    Args:
        algorithm: such as `ppo(environment)`.
        key: from `jax.random.key`.
        params: to start from; None draws them.

    Example:
        >>> import jax, pgjax
        >>> from pgjax import training
        >>> learner = training.reinforce(pgjax.tabular.random_mdp(),
        ...     training.ReinforceSettings(num_trajectories=4, num_steps=5),
        ...     policy=pgjax.tabular_softmax(4, 2))
        >>> bound = begin(learner, jax.random.key(0))
        >>> state, metrics = training.advance(bound, bound.start, 1)
        >>> metrics.steps <= 4 * 5
        True
    """
    check_algorithm(algorithm)

    @jax.jit
    def step(state: Any, measure: Any = False) -> tuple[Any, Metrics, dict[str, Array]]:
        state, metrics = algorithm.step(state, *([measure] if algorithm.measures else []))
        return state, metrics._replace(finite=None), metrics.finite or {}

    return Training(algorithm.init(check_key(key), params), step, algorithm.acting)


def check_algorithm(algorithm: Any) -> None:
    """Raise a TypeError if it is no Algorithm."""
    check_kind("algorithm", algorithm, Algorithm, "pgjax.training.ppo(environment) makes one")


def advance(run: Training, state: Any, index: int) -> tuple[Any, Metrics]:
    """One update, and its metrics on the host.

    The gradient's signal and noise are measured in the first of every `MEASURED` updates.

    Args:
        run: the training run.
        state: its state before the update.
        index: the number of the update, from 1.

    Returns:
        The state after it, and its metrics as floats.

    Raises:
        FloatingPointError: if a stage is not finite; the message names it and the update.
    """
    state, metrics, finite = run.step(state, (index - 1) % MEASURED == 0)
    metrics, finite = jax.device_get((metrics, finite))
    bad = [name for name, is_finite in finite.items() if not is_finite]
    if bad:
        raise FloatingPointError(
            f"update {index}: not finite: {', '.join(bad)}; "
            "lower the learning rate, or find the cause with pgjax.checked"
        )
    return state, jax.tree.map(float, metrics)


def all_finite(stages: dict[str, Any]) -> dict[str, Array]:
    """Whether every number in each stage of an update is finite, for `advance` to report.

    Args:
        stages: name -> a pytree of arrays, in the order in which a fault would spread.

    Returns:
        name -> a boolean scalar.
    """
    return OrderedDict(  # jit sorts the keys of a dict
        (name, jnp.all(jnp.asarray([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(values)])))
        for name, values in stages.items()  # a policy without parameters has no leaf
    )


@jax.jit
def first_optimizer_state(
    make_optimizer: Callable[[], optax.GradientTransformation], params: Params
) -> optax.OptState:
    """The state of an optimizer before its first step: one program for all its learning rates.

    Args:
        make_optimizer: a record, () -> optimizer.
        params: to be optimized.
    """
    return make_optimizer().init(params)


def given_optimizer(*, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer itself."""
    return optimizer
