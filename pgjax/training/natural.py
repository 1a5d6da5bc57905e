"""Natural policy gradient and TRPO on whole episodes: step sizes in units of the policy's change.

Both solve (F̂ + λI) x = ĝ by conjugate gradient on Fisher-vector products from the same batch. For
discrete actions and a policy without memory F̂ and the divergence are exact expectations over the
actions; otherwise they are estimated from the actions taken. Arguments that `reinforce` has too are
the same here.

Args:
    environment: to act in, or a name for `pgjax.environments.make`.
    settings: None is `ReinforceSettings()`.
    policy: None is the default network's.
    estimator: of ∇J; None is `pgjax.reward_to_go(discount, baseline=...)`.
    damping: λ ≥ 0, in units of F.
    max_iterations: of conjugate gradient.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from pgjax.beyond.all_action import log_probs_of_all
from pgjax.beyond.fisher import Product, expected_fisher, sampled_fisher
from pgjax.beyond.natural import natural_gradient, trust_region_scale
from pgjax.core.episode_boundaries import replace_dead_steps
from pgjax.core.scores import log_probs, weighted_score_and_sum
from pgjax.core.validation import check_above_zero, check_at_least, check_positive, check_scalars
from pgjax.environments.base import Discrete, Environment
from pgjax.estimators import as_checked_arrays, score_weights
from pgjax.records import configured
from pgjax.rollouts.episodes import rollout
from pgjax.settings import ReinforceSettings
from pgjax.training.algorithm import Algorithm, Metrics, all_finite
from pgjax.training.algorithms import NamedEnvironment, own_or, reinforce_parts
from pgjax.training.ascent import ascend, metrics_of, with_schedule
from pgjax.training.noise import stated_learning_rate
from pgjax.training.on_episodes import EpisodesState, first_state, params_of
from pgjax.types import Estimator, Params, Policy, RecurrentPolicy, Trajectory

HALVINGS = 10
"""The number of steps that TRPO's line search tries, each half as long as the one before."""


def natural_policy_gradient(
    environment: NamedEnvironment,
    settings: ReinforceSettings | None = None,
    *,
    policy: Policy | RecurrentPolicy | None = None,
    estimator: Estimator | None = None,
    optimizer: optax.GradientTransformation | None = None,
    damping: float = 1e-3,
    max_iterations: int = 10,
) -> Algorithm:
    """Natural policy gradient: θ ← θ + α (F̂ + λI)⁻¹ ĝ.

    Args:
        environment: as in the module's docstring, like all arguments that are not named here.
        optimizer: is given the natural gradient; None is plain ascent at the learning rate of the
            settings, which falls linearly to zero. A rate of 0.1 is a usual start.

    Returns:
        An Algorithm whose state is (params, optimizer state, key).

    Bias: that of `pgjax.beyond.natural_gradient`.

    References:
        Kakade, A Natural Policy Gradient (2001).

    Example:
        >>> import jax, pgjax
        >>> learner = natural_policy_gradient(pgjax.tabular.random_mdp(),
        ...     ReinforceSettings(num_trajectories=4, num_steps=5, learning_rate=0.1),
        ...     policy=pgjax.tabular_softmax(4, 2))
        >>> state, metrics = jax.jit(learner.step)(learner.init(jax.random.key(0)))
        >>> learner.acting(state).shape
        (4, 2)
    """
    _check(damping, max_iterations)
    chosen, *parts = reinforce_parts(environment, settings, policy, estimator)
    rate = configured(
        _falling_ascent, learning_rate=chosen.learning_rate, num_updates=chosen.num_updates
    )
    solver = {"damping": damping, "max_iterations": max_iterations}
    return _algorithm(_natural_step, own_or(optimizer, rate), chosen, parts, solver)


def trpo(
    environment: NamedEnvironment,
    settings: ReinforceSettings | None = None,
    *,
    policy: Policy | RecurrentPolicy | None = None,
    estimator: Estimator | None = None,
    max_divergence: float = 0.01,
    damping: float = 1e-3,
    max_iterations: int = 10,
) -> Algorithm:
    """Trust region policy optimization: the longest natural step within a divergence of δ.

    The natural gradient x is scaled by √(2δL/gᵀx), with L the mean length of the batch's episodes,
    because F̂ sums over an episode's steps. This step is halved until the mean KL(π_old ‖ π_new) of
    the batch's steps is at most δ and the importance-weighted objective rises. If none of ten steps
    is accepted, the policy stays as it is.

    Args:
        environment: as in the module's docstring, like all arguments that are not named here. The
            settings' learning rate is not read.
        max_divergence: δ > 0, in nats a step.

    Returns:
        An Algorithm whose state is (params, (), key); `metrics.approximate_kl` is the divergence of
        the step that was taken.

    Bias: that of `pgjax.beyond.natural_gradient`; and whether a step is taken depends on the batch.

    References:
        Schulman et al., Trust Region Policy Optimization (2015), appendix C, without a critic.

    Example:
        >>> import jax, pgjax
        >>> learner = trpo(pgjax.tabular.random_mdp(),
        ...     ReinforceSettings(num_trajectories=4, num_steps=5),
        ...     policy=pgjax.tabular_softmax(4, 2))
        >>> state, metrics = jax.jit(learner.step)(learner.init(jax.random.key(0)))
        >>> bool(0 < metrics.approximate_kl <= 0.01)
        True
    """
    _check(damping, max_iterations)
    check_scalars(max_divergence=max_divergence)
    check_above_zero("max_divergence", max_divergence, "0.01 nats a step is usual")
    chosen, *parts = reinforce_parts(environment, settings, policy, estimator)
    solver = {"damping": damping, "max_iterations": max_iterations}
    none = configured(optax.identity)
    return _algorithm(_trust_step, none, chosen, parts, solver, max_divergence=max_divergence)


class _Sampled(NamedTuple):
    """A batch, and what is estimated from it."""

    batch: Trajectory
    score_weight: Array
    gradient: Params
    metrics: Metrics


def _algorithm(
    step: Any, make_optimizer: Any, chosen: ReinforceSettings, parts: list, solver: dict, **own: Any
) -> Algorithm:
    policy, environment, estimator, num_steps = parts
    made = {"policy": policy, "environment": environment, "make_optimizer": make_optimizer}
    sampled = {
        "estimator": estimator,
        "num_trajectories": chosen.num_trajectories,
        "num_steps": num_steps,
    }
    of_step = made | {"solver": configured(_solve, **solver), **sampled, **own}
    if step is _natural_step:
        of_step["discount"] = chosen.discount
    return Algorithm(
        init=configured(first_state, **made),
        step=configured(step, **of_step),
        acting=params_of,
        policy=policy,
    )


def _sample(
    state: EpisodesState, policy: Any, environment: Environment, estimator: Estimator, **size: Any
) -> tuple[_Sampled, Array]:
    params, _, key = state
    key, batch_key = jax.random.split(key)
    batch = rollout(policy, params, environment, batch_key, **size)
    params, batch = as_checked_arrays(params, batch)
    score_weight = score_weights(estimator, batch, log_probs(policy, params, batch))
    gradient, entropy = weighted_score_and_sum(policy, params, batch, score_weight, policy.entropy)
    return _Sampled(batch, score_weight, gradient, metrics_of(batch, gradient, entropy)), key


def _solve(gradient: Params, product: Product, *, damping: float, max_iterations: int) -> Params:
    return natural_gradient(gradient, product, damping=damping, max_iterations=max_iterations)


def _natural_step(
    state: EpisodesState, *, make_optimizer: Any, solver: Any, discount: float, **sampling: Any
) -> tuple[EpisodesState, Metrics]:
    params, optimizer_state, _ = state
    found, key = _sample(state, **sampling)
    policy, environment = sampling["policy"], sampling["environment"]
    product = _fisher(policy, params, found.batch, environment, discount)
    natural = solver(found.gradient, product)
    value = found.metrics.mean_return
    optimizer = make_optimizer()
    params, optimizer_state = ascend(optimizer, params, optimizer_state, natural, value)
    metrics = found.metrics._replace(
        learning_rate=stated_learning_rate(optimizer, optimizer_state),
        finite=_finite(found, params),
    )
    return (params, optimizer_state, key), metrics


def _trust_step(
    state: EpisodesState,
    *,
    make_optimizer: Any,
    solver: Any,
    max_divergence: float,
    **sampling: Any,
) -> tuple[EpisodesState, Metrics]:
    params, optimizer_state, _ = state
    found, key = _sample(state, **sampling)
    policy, environment, batch = sampling["policy"], sampling["environment"], found.batch
    product = _fisher(policy, params, batch, environment, 1.0)
    natural = solver(found.gradient, product)
    of_episode = max_divergence * found.metrics.mean_length  # F̂ sums over an episode's steps
    scale = trust_region_scale(found.gradient, natural, of_episode)
    before = log_probs(policy, params, batch)

    def moved(halvings: Array) -> Params:
        length = scale * 0.5 ** halvings.astype(scale.dtype)
        return jax.tree.map(lambda x, y: x + length.astype(x.dtype) * y, params, natural)

    def judged(halvings: Array) -> tuple[Array, Array]:
        """Whether a step is accepted, and its divergence."""
        after = moved(halvings)
        ratio = jnp.exp(log_probs(policy, after, batch) - before)
        gain = jnp.sum(found.score_weight * (ratio - 1))
        kl = _divergence(policy, params, after, batch, environment)
        return (gain > 0) & (kl <= max_divergence), kl

    def search(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        halvings = carry[0] + 1
        return halvings, *judged(halvings)

    first = jnp.int32(0)
    halvings, accepted, kl = jax.lax.while_loop(
        lambda carry: ~carry[1] & (carry[0] < HALVINGS - 1), search, (first, *judged(first))
    )
    params = jax.tree.map(lambda x, y: jnp.where(accepted, x, y), moved(halvings), params)
    kl = jnp.where(accepted, kl, 0)
    metrics = found.metrics._replace(approximate_kl=kl, finite=_finite(found, params))
    return (params, optimizer_state, key), metrics


def _num_actions(policy: Any, environment: Environment) -> int | None:
    """The number of actions to sum over; None if they are sampled."""
    space = environment.action_space
    if isinstance(space, Discrete) and isinstance(policy, Policy):
        return space.num_actions
    return None


def _fisher(
    policy: Any, params: Params, batch: Trajectory, environment: Environment, discount: float
) -> Product:
    if (number := _num_actions(policy, environment)) is None:
        return sampled_fisher(policy, params, batch, discount=discount)
    return expected_fisher(policy, params, batch, discount=discount, num_actions=number)


def _divergence(
    policy: Any, params: Params, after: Params, batch: Trajectory, environment: Environment
) -> Float[Array, ""]:
    """KL(π_old ‖ π_new), the mean over the batch's live steps."""
    if (number := _num_actions(policy, environment)) is None:
        old, new = (log_probs(policy, x, batch) for x in (params, after))
        each = jnp.expm1(new - old) - (new - old)  # without bias, and never negative
    else:
        seen = replace_dead_steps(batch.mask, batch.observation)

        def of_step(observation: Any) -> Array:
            old, new = (log_probs_of_all(policy, x, observation, number) for x in (params, after))
            return jnp.sum(jnp.exp(old) * jnp.where(old > -jnp.inf, old - new, 0))

        each = jax.vmap(jax.vmap(of_step))(seen)
    return jnp.sum(jnp.where(batch.mask, each, 0)) / jnp.sum(batch.mask)


def _finite(found: _Sampled, params: Params) -> dict[str, Array]:
    return all_finite(
        {
            "log-probability": jnp.where(found.batch.mask, found.batch.log_prob, 0),
            "reward": found.metrics.mean_return,
            "gradient": found.metrics.gradient_norm,
            "optimizer step": params,
        }
    )


def _falling_ascent(*, learning_rate: float, num_updates: int) -> optax.GradientTransformation:
    schedule = optax.linear_schedule(learning_rate, 0.0, num_updates)
    return with_schedule(optax.scale_by_learning_rate(schedule), schedule)


def _check(damping: Any, max_iterations: Any) -> None:
    check_scalars(damping=damping)
    check_at_least("damping", damping, 0.0, "it is added to the eigenvalues of F")
    check_positive("max_iterations", max_iterations)
