"""Actor-critic training on windows: A2C and PPO, as two compositions of one update.

An update samples a window, evaluates the critic once, fixes every step's advantage and value
target, and goes through the rows in minibatches. A2C takes one step on the score term, PPO many
steps on the clipped ratio. Both leave out γ^t, as is usual in practice: if γ < 1, their direction
is not the gradient of any objective.

Rewards are divided by their unit, the root mean square of all returns so far. A critic whose
targets are in the thousands learns slowly, and dominates the gradient norm that it shares with the
policy. After the division the scale of an environment's rewards does not matter.
"""

import jax.numpy as jnp
import optax
from jax import Array

from pgjax import terms
from pgjax.core.validation import (
    check_above_zero,
    check_optimizer,
    check_params,
    check_positive,
    check_scalars,
    check_unit_interval,
)
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.policies.actor_critic import ActorCritic, check_agent
from pgjax.records import configured
from pgjax.training.algorithm import Training, begin, given_optimizer
from pgjax.training.ascent import with_schedule
from pgjax.training.minibatches import Settings as Settings
from pgjax.training.minibatches import check_settings
from pgjax.training.on_windows import ReturnScale as ReturnScale
from pgjax.training.on_windows import State as State
from pgjax.training.on_windows import on_windows
from pgjax.training.on_windows import rows_of as rows_of
from pgjax.training.on_windows import scale_rewards as scale_rewards
from pgjax.types import KeyLike, Params, Term


def clipped_adam(
    learning_rate: float, *, num_gradient_steps: int, max_gradient_norm: float
) -> optax.GradientTransformation:
    """Adam at a rate that falls linearly to zero, on gradients of a bounded norm.

    Args:
        learning_rate: the rate at the start.
        num_gradient_steps: the number of steps until the rate is zero: updates × epochs ×
            minibatches.
        max_gradient_norm: the bound on the norm of all gradients together; a longer gradient is
            shortened to it.

    Raises:
        ValueError: if an argument is not above zero.

    References:
        Kingma & Ba, Adam (2015), with the ε of 1e-5 that PPO's first implementation had; Huang et
        al., The 37 Implementation Details of Proximal Policy Optimization (2022), 3, 4 and 11.
    """
    check_scalars(learning_rate=learning_rate, max_gradient_norm=max_gradient_norm)
    check_above_zero("learning_rate", learning_rate, "1e-3 is usual")
    check_above_zero(
        "max_gradient_norm", max_gradient_norm, "math.inf leaves gradients as they are"
    )
    check_positive("num_gradient_steps", num_gradient_steps)
    schedule = optax.linear_schedule(learning_rate, 0.0, num_gradient_steps)
    clip = optax.clip_by_global_norm(max_gradient_norm)
    return with_schedule(optax.chain(clip, optax.adam(schedule, eps=1e-5)), schedule)


def a2c(
    agent: ActorCritic,
    params: Params,
    environment: AnyEnvironment,
    key: KeyLike,
    *,
    optimizer: optax.GradientTransformation,
    settings: Settings,
) -> Training:
    """Advantage actor-critic: one step for each window, on the score times GAE(λ).

    ĝ = (1/NT) Σ_it ∇log π(a_it|s_it) A_it, plus c_H times the entropy's gradient.

    Args:
        agent: policy and critic.
        params: to start from, from `agent.init`.
        environment: as for `rollout`.
        key: from `jax.random.key`.
        optimizer: from optax, for example `clipped_adam`.
        settings: one epoch of one minibatch is A2C as published. More are allowed; their later
            steps are off-policy, and no correction is made.

    Returns:
        A Training whose state is a `State`; its `params` are the policy's.

    Raises:
        ValueError: if a setting is out of range, or the rows cannot be dealt evenly.

    Bias: biased for ∇J if γ < 1, because γ^t is left out. If λ < 1, the critic's error adds bias.
        The entropy's weight adds bias on purpose. A time limit bootstraps from the critic, which
        does not know the time: the objective is then that of the task without its limit. The unit
        of the rewards depends on the window that it scales. That changes the length of a step; it
        leaves the direction as it is if the entropy has no weight.

    References:
        Mnih et al., Asynchronous Methods for Deep Reinforcement Learning (2016), synchronous, with
        GAE for its n-step returns, which are λ = 1.

    Example:
        >>> import jax, optax, pgjax
        >>> from pgjax.training import advance
        >>> agent = pgjax.agents.separate(pgjax.tabular_softmax(4, 2), pgjax.MLP(1, hidden=()))
        >>> params = agent.init(jax.random.key(0), jax.numpy.zeros(4))
        >>> run = a2c(agent, params, pgjax.tabular.random_mdp(), jax.random.key(1),
        ...     optimizer=optax.adam(0.03),
        ...     settings=Settings(num_environments=4, num_steps=5, discount=0.9, lambda_=0.95))
        >>> state, metrics = advance(run, run.start, 1)
        >>> run.params(state).shape, metrics.steps
        ((4, 2), 20.0)
    """
    return _training(agent, params, environment, key, optimizer, settings, terms.score)


def ppo(
    agent: ActorCritic,
    params: Params,
    environment: AnyEnvironment,
    key: KeyLike,
    *,
    optimizer: optax.GradientTransformation,
    settings: Settings,
) -> Training:
    """Proximal policy optimization: epochs of minibatches on the clipped ratio times GAE(λ).

    Arguments, result and errors are those of `a2c`.

    Bias: biased for ∇J for the same reasons as `a2c`, and by the clip. The advantages of each
        minibatch are also standardized with their own mean and deviation. In the limit of large
        minibatches that only rescales the gradient wherever no ratio is clipped.

    References:
        Schulman et al., Proximal Policy Optimization Algorithms (2017), eq. 9; advantages
        standardized by minibatch as in Huang et al. (2022), detail 7. The critic's loss is not
        clipped: Andrychowicz et al., What Matters in On-Policy Reinforcement Learning? (2021),
        found it to harm.

    Example:
        >>> import jax, pgjax
        >>> agent = pgjax.agents.separate(pgjax.tabular_softmax(4, 2), pgjax.MLP(1, hidden=()))
        >>> settings = Settings(num_environments=4, num_steps=8, discount=0.99, lambda_=0.95,
        ...     epochs=10, num_minibatches=4, clip=0.2)
        >>> run = ppo(agent, agent.init(jax.random.key(0), jax.numpy.zeros(4)),
        ...     pgjax.tabular.random_mdp(), jax.random.key(1), settings=settings,
        ...     optimizer=clipped_adam(1e-3, num_gradient_steps=100 * 10 * 4,
        ...         max_gradient_norm=0.5))
        >>> run.params(run.start).shape
        (4, 2)
    """
    check_settings(settings)
    term = standardized_clip(settings.clip)
    return _training(agent, params, environment, key, optimizer, settings, term)


def standardized_clip(clip: float) -> Term:
    """PPO's term on rows: the clipped ratio times advantages of mean 0 and deviation 1.

    Args:
        clip: ε in [0, 1].
    """
    check_unit_interval("clip", clip)
    return configured(_standardized_clip, clipped=terms.ppo_clip(clip))


def _standardized_clip(
    log_prob: Array, behaviour_log_prob: Array, advantage: Array, mask: Array, *, clipped: Term
) -> Array:
    standardized = (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8)
    return clipped(log_prob, behaviour_log_prob, standardized, mask)


def _training(
    agent: ActorCritic,
    params: Params,
    environment: AnyEnvironment,
    key: KeyLike,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    term: Term,
) -> Training:
    check_agent(agent)
    check_params(params)
    check_optimizer(optimizer)
    check_settings(settings)
    make_optimizer = configured(given_optimizer, optimizer=optimizer)
    algorithm = on_windows(agent, as_environment(environment), term, make_optimizer, settings)
    return begin(algorithm, key, params)
