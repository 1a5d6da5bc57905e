"""The named compositions: each estimator with a name of its own is weights × term, and no more.

Anything else is written the same way, `Estimator(weights.…, terms.…)`.
"""

from pgjax import terms, weights
from pgjax.baselines import (
    Baseline,
    group_deviation,
    group_leave_one_out,
    group_mean,
    leave_one_out,
    recorded_value,
)
from pgjax.groups import Groups
from pgjax.terms import Term
from pgjax.types import Estimator
from pgjax.weights import Discount, Rate


def reinforce(discount: Discount, *, baseline: Baseline | None = None) -> Estimator:
    """REINFORCE: the total return times the summed score, ĝ = mean_i Σ_t ∇log π(a_t|s_t) (R − b).

    Args:
        discount: γ in [0, 1].
        baseline: from `pgjax.baselines`.

    Raises:
        ValueError: a discount outside [0, 1].

    Bias: none for ∇J if the baseline has none. The largest variance of the family.

    References:
        Williams (1992).
    """
    return Estimator(weights.total_return(discount, baseline=baseline), terms.score)


def reward_to_go(discount: Discount, *, baseline: Baseline | None = None) -> Estimator:
    """Reward-to-go, also GPOMDP: ĝ = mean_i Σ_t γ^t ∇log π(a_t|s_t) (G_t − b_t).

    Args:
        discount: γ in [0, 1].
        baseline: from `pgjax.baselines`.

    Raises:
        ValueError: a discount outside [0, 1].

    Bias: none for ∇J if the baseline has none.

    References:
        Sutton et al. (2000), theorem 1; Baxter & Bartlett, Infinite-Horizon Policy-Gradient
        Estimation (2001), here with the episode's γ^t.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> estimator = pgjax.reward_to_go(0.9, baseline=pgjax.baselines.leave_one_out)
    """
    return Estimator(weights.reward_to_go(discount, baseline=baseline), terms.score)


def mismatched_reward_to_go(discount: Discount, *, baseline: Baseline | None = None) -> Estimator:
    """Reward-to-go without γ^t, ĝ = mean_i Σ_t ∇log π(a_t|s_t) (G_t − b_t): what most code runs.

    Args:
        discount: γ in [0, 1].
        baseline: from `pgjax.baselines`.

    Raises:
        ValueError: a discount outside [0, 1].

    Bias: biased for ∇J when γ < 1: it weighs states as if undiscounted.

    References:
        Nota & Thomas (2020); Zhang et al. (2022).
    """
    return Estimator(weights.mismatched_reward_to_go(discount, baseline=baseline), terms.score)


def rloo(discount: Discount, *, groups: Groups | None = None) -> Estimator:
    """REINFORCE leave-one-out: each return less the mean return of the others.

    Args:
        discount: γ in [0, 1].
        groups: the others of the trajectory's own group; None takes the whole batch as one.

    Raises:
        ValueError: a discount outside [0, 1], a group of one; at use, a batch of one.

    Bias: none.

    References:
        Kool et al. (2019); Ahmadian et al., Back to Basics (2024).
    """
    baseline = leave_one_out if groups is None else group_leave_one_out(groups)
    return reinforce(discount, baseline=baseline)


def grpo(
    discount: Discount,
    groups: Groups,
    *,
    epsilon: float = 1e-4,
    term: Term = terms.importance_ratio,
) -> Estimator:
    """GRPO: w_i = (R_i − mean) / (std + ε) in the trajectory's group, over its length |τ_i|.

    ĝ = mean_i (1/|τ_i|) Σ_t ρ_t ∇log π(a_t|s_t) w_i, with ρ clipped if the term does.

    Args:
        discount: γ in [0, 1]; 1 in the paper, whose reward comes at the end.
        groups: `consecutive(group_size)` or `labelled(ids)`: answers to one question.
        epsilon: ε ≥ 0, in units of return.
        term: `terms.ppo_clip(0.2)` is the paper's.

    Raises:
        ValueError: a discount outside [0, 1], a negative ε; at use, groups that do not fit.

    Bias: biased: own return in the mean, a standard deviation from the same returns, the length. A
    group whose returns agree gives zero.

    References:
        Shao et al., DeepSeekMath (2024), eq. 3 and section 4.1.2 (outcome supervision), without
        the KL term; the deviation's divisor is G−1, as in TRL and verl.

    Example:
        >>> from pgjax import terms
        >>> from pgjax.groups import consecutive
        >>> estimator = grpo(1.0, consecutive(8), term=terms.ppo_clip(0.2))
    """
    relative = weights.total_return(
        discount, baseline=group_mean(groups), scale=group_deviation(groups, epsilon=epsilon)
    )
    return Estimator(weights.divided_by_length(relative), term)


def dr_grpo(
    discount: Discount, groups: Groups, *, term: Term = terms.importance_ratio
) -> Estimator:
    """Dr. GRPO, GRPO done right: w_i = R_i − mean in the group, divided by nothing.

    Args:
        discount: γ in [0, 1].
        groups: `consecutive(group_size)` or `labelled(ids)`.
        term: `terms.ppo_clip(0.2)` is the paper's.

    Raises:
        ValueError: a discount outside [0, 1]; at use, groups that do not fit.

    Bias: on-policy it shrinks by (G−1)/G in groups of G, and is `rloo` but for that.

    References:
        Liu et al., Understanding R1-Zero-Like Training: A Critical Perspective (2025), section 3.2.
    """
    return Estimator(weights.total_return(discount, baseline=group_mean(groups)), term)


def actor_critic(discount: Discount, lambda_: Rate) -> Estimator:
    """Actor-critic: ĝ = mean_i Σ_t γ^t ∇log π(a_t|s_t) A_t, with A = GAE(λ) of the batch's values.

    Args:
        discount: γ in [0, 1].
        lambda_: λ in [0, 1]; 0 is the TD error, 1 the return less the value.

    Raises:
        ValueError: a discount or λ outside [0, 1]; at use, a batch without `value`.

    Bias: none for ∇J if λ = 1 or V = V^π.

    References:
        Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage
        Estimation (2016); Sutton & Barto (2018), section 13.5 (λ = 0), with its γ^t.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> from pgjax import enumeration, tabular
        >>> mdp, policy = tabular.random_mdp(), pgjax.tabular_softmax(4, 2)
        >>> params = jnp.ones((4, 2))
        >>> batch, _ = enumeration.trajectories(mdp, policy, params, horizon=3)
        >>> batch = batch.replace(value=batch.observation @ jnp.arange(4.0))  # the critic's word
        >>> estimator = actor_critic(mdp.discount, 0.95)
        >>> pgjax.gradient(estimator, policy, params, batch).shape
        (4, 2)
    """
    return Estimator(weights.generalized_advantage(discount, lambda_), terms.score)


def mismatched_actor_critic(discount: Discount, lambda_: Rate) -> Estimator:
    """Actor-critic without γ^t, ĝ = mean_i Σ_t ∇log π(a_t|s_t) A_t: what most code runs.

    Args:
        discount: γ in [0, 1].
        lambda_: λ in [0, 1].

    Raises:
        ValueError: a discount or λ outside [0, 1]; at use, a batch without `value`.

    Bias: biased for ∇J when γ < 1, even with V = V^π.

    References:
        Mnih et al., Asynchronous Methods for Deep Reinforcement Learning (2016), with GAE; Nota &
        Thomas (2020) for the mismatch.
    """
    return Estimator(weights.mismatched_generalized_advantage(discount, lambda_), terms.score)


def n_step_actor_critic(discount: Discount, n: int) -> Estimator:
    """Actor-critic of n steps: ĝ = mean_i Σ_t γ^t ∇log π(a_t|s_t) (G_t − V(s_t)), G of n rewards.

    G_t = r_t + … + γ^{n−1} r_{t+n−1} + γ^n V(s_{t+n}), or less if the episode ends before.

    Args:
        discount: γ in [0, 1].
        n: rewards before the critic's word, at least one.

    Raises:
        TypeError: an n that is no integer.
        ValueError: a discount outside [0, 1], n below one; at use, a batch without `value`.

    Bias: none for ∇J if V = V^π or n is at least the episode's length.

    References:
        Sutton & Barto (2018), eq. 7.1; Mnih et al. (2016), section 4, where n is what is left of
        the window and γ^t is left out.
    """
    return Estimator(weights.n_step(discount, n, baseline=recorded_value), terms.score)
