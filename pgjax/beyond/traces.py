"""Eligibility traces: the policy gradient online, in memory that does not grow with time.

z ← δ z + ∇log π(a_t|s_t), Δ ← Δ + γ^t r_t z: each reward credits every action before it at once.
Reward-to-go credits each action with every reward after it, which is the same double sum in the
other order. The recurrence runs forward in time, over gradients, and keeps the last z only.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from pgjax.core import episode_boundaries as boundaries
from pgjax.core.episode_boundaries import replace_dead_steps
from pgjax.core.validation import check_policy_without_memory, check_rate
from pgjax.estimators import as_checked_arrays
from pgjax.types import Params, Policy, Trajectory


def trace_gradient(
    policy: Policy,
    params: Params,
    batch: Trajectory,
    *,
    discount: float | Array,
    decay: float | Array = 1.0,
) -> PyTree[Float[Array, "..."]]:
    """The estimate of ∇J by eligibility traces along a batch, ĝ = (1/N) Σ_i Σ_t γ^t r_it z_it.

    z_it = δ z_i,t−1 + ∇log π(a_it|s_it), zero before each episode. So ĝ is that of the weights
    γ^k Σ_{t≥k} (γδ)^{t−k} r_t: with δ = 1, `reward_to_go`.

    Args:
        batch: [N, T], of whole episodes or windows; values are not read, so nothing is
            bootstrapped.
        decay: δ in [0, 1], of the trace.

    Bias: none for ∇J if δ = 1. Otherwise credit is discounted by δ besides γ.
        With γ = 1 and δ = β, divided by T, it is GPOMDP's estimate of the gradient of the average
        reward, biased for it by an amount that goes to zero as β → 1, while the variance grows.

    References:
        Baxter & Bartlett, Infinite-Horizon Policy-Gradient Estimation (2001), GPOMDP, with the
        episode's γ^t; Williams (1992), for traces in episodes; Kimura, Miyazaki & Kobayashi,
        Reinforcement Learning in POMDPs with Function Approximation (1997).

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> mdp, policy, params = (
        ...     pgjax.tabular.random_mdp(), pgjax.tabular_softmax(4, 2), jnp.zeros((4, 2)))
        >>> batch = pgjax.rollout(
        ...     policy, params, mdp, jax.random.key(0), num_trajectories=8, num_steps=5)
        >>> stored = pgjax.gradient(pgjax.reward_to_go(0.8), policy, params, batch)
        >>> online = trace_gradient(policy, params, batch, discount=0.8)
        >>> bool(jnp.allclose(online, stored, atol=1e-6))
        True
    """
    check_policy_without_memory(policy)
    check_rate("discount", discount)
    check_rate("decay", decay)
    params, batch = as_checked_arrays(params, batch)
    return _along_batch(policy, params, batch, jnp.asarray(discount), jnp.asarray(decay))


@jax.jit
def _along_batch(
    policy: Policy, params: Params, batch: Trajectory, discount: Array, decay: Array
) -> Params:
    observation, action = replace_dead_steps(batch.mask, (batch.observation, batch.action))
    time = jnp.broadcast_to(boundaries.time_in_episode(batch), batch.mask.shape)
    reward = jnp.where(batch.mask, batch.reward, 0)
    score = jax.grad(policy.log_prob)

    def step(total: Any, x: Any) -> tuple[Any, None]:
        observation, action, reward, time, alive = x
        note = score(params, observation, action)
        start = jnp.where(time == 0, 0, decay)  # a trace does not reach into the episode before
        return credit(total, note, reward, time, alive, discount, start), None

    def of_row(row: Any) -> Params:
        zero = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(step, (zero, zero), row)[0][1]

    each = jax.vmap(of_row)((observation, action, reward, time, batch.mask))
    return jax.tree.map(partial(jnp.mean, axis=0), each)


def credit(
    total: tuple[Params, Params],
    score: Params,
    reward: Array,
    time: Array,
    alive: Array,
    discount: float | Array,
    decay: float | Array,
) -> tuple[Params, Params]:
    """(z, Δ) after one step: z ← δ z + ∇log π, Δ ← Δ + γ^t r z; unchanged after the end."""
    trace, credited = total

    def decayed(z: Array, s: Array) -> Array:
        return jnp.where(alive, jnp.asarray(decay, z.dtype) * z + s, z)

    def added(x: Array, z: Array) -> Array:
        weight = boundaries.discount_power(discount, time, z.dtype) * reward.astype(z.dtype)
        return x + jnp.where(alive, weight, 0) * z

    trace = jax.tree.map(decayed, trace, score)
    return trace, jax.tree.map(added, credited, trace)
