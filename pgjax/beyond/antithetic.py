"""Antithetic pairs: two episodes driven by mirrored noise, so that their errors partly cancel.

Each episode of a pair has the law of an ordinary episode, so that an average over them has the same
expectation. The covariance within a pair changes, for better or for worse; `pgjax.beyond.pairs`
computes it exactly.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key, UInt32

from pgjax.beyond.all_action import log_probs_of_all
from pgjax.core.devices import varying
from pgjax.core.recurrence import accumulation_dtype
from pgjax.core.validation import (
    check_counts,
    check_key,
    check_kind,
    check_leaves,
    check_policy_without_memory,
    check_positive,
)
from pgjax.environments.base import Environment, stable
from pgjax.environments.conversion import AnyEnvironment, as_environment
from pgjax.policies.gaussian import standard_log_density
from pgjax.records import configured, record
from pgjax.rollouts.fold import fold, sampled_action
from pgjax.rollouts.stepping import Taken
from pgjax.types import Observation, Params, Policy, Trajectory, check_function, check_functions


@record
class Draws:
    """Action sampling as a function of noise, so that the noise can be mirrored.

    Attributes:
        noise: key -> noise.
        mirror: noise -> noise of the same law. Applied twice, it returns the same noise.
        act: (params, noise, observation) -> (action, log π).
    """

    noise: Callable[[Key[Array, ""]], Array]
    mirror: Callable[[Array], Array]
    act: Callable[[Params, Array, Observation], tuple[Array, Array]]

    def __post_init__(self) -> None:
        check_functions(
            self,
            noise="key -> noise",
            mirror="noise -> noise",
            act="(params, noise, observation) -> (action, log_prob)",
        )


def inversion(policy: Policy, num_actions: int) -> Draws:
    """Actions 0..A−1 by inversion, a = min{a: u < Σ_{b≤a} π(b|s)}; the mirror of u is 1 − u.

    Args:
        policy: over actions 0..A−1.
        num_actions: A.

    Returns:
        Draws. The order of the actions matters: a mirror pairs the first with the last.

    Bias: none; actions have the policy's law.

    Example:
        >>> import jax.numpy as jnp, pgjax
        >>> draws = inversion(pgjax.tabular_softmax(1, 2), 2)
        >>> [int(draws.act(jnp.zeros((1, 2)), u, jnp.ones(1))[0]) for u in jnp.array([0.3, 0.7])]
        [0, 1]
    """
    check_policy_without_memory(policy)
    check_positive("num_actions", num_actions)
    act = configured(_invert, policy=policy, num_actions=num_actions)
    return Draws(_uniform, _mirror_uniform, act)


def _uniform(key: Array) -> Array:
    # Midpoints of a lattice: 0 and 1 are never drawn, and 1 − u is a point of the lattice too.
    dtype = jnp.zeros(()).dtype
    return jax.random.uniform(key, dtype=dtype) + jnp.finfo(dtype).eps / 2


def _mirror_uniform(noise: Array) -> Array:
    return 1 - noise


def _invert(
    params: Params, noise: Array, observation: Observation, *, policy: Policy, num_actions: int
) -> tuple[Array, Array]:
    log_prob = log_probs_of_all(policy, params, observation, num_actions)
    cumulative = jnp.cumsum(jnp.exp(log_prob.astype(accumulation_dtype(log_prob))))
    # Relative to the last sum, so that rounding cannot select past the last legal action.
    threshold = noise.astype(cumulative.dtype) * cumulative[-1]
    action = jnp.sum(threshold >= cumulative[:-1], dtype=jnp.int32)
    return action, log_prob[action]


def mirrored_normal(
    mean_and_log_std: Callable[[Params, Observation], tuple[Array, Array]], num_dimensions: int
) -> Draws:
    """Real actions μ + σε with ε standard normal; the mirror of ε is −ε.

    Args:
        mean_and_log_std: (params, observation) -> (μ, log σ), each [D], as for
            `gaussian_policy`.
        num_dimensions: D.

    Bias: none; actions have the policy's law.

    Example:
        >>> import jax.numpy as jnp
        >>> draws = mirrored_normal(lambda mean, s: (mean, jnp.zeros(1)), 1)
        >>> [float(draws.act(jnp.ones(1), e, None)[0][0]) for e in jnp.array([[0.5], [-0.5]])]
        [1.5, 0.5]
    """
    signature = "(params, observation) -> (mean, log_std)"
    check_function("mean_and_log_std", mean_and_log_std, signature)
    shape = (check_positive("num_dimensions", num_dimensions),)

    return Draws(
        configured(_normal, shape=shape),
        jnp.negative,
        configured(_shift_and_scale, mean_and_log_std=mean_and_log_std),
    )


def _normal(key: Array, *, shape: tuple[int, ...]) -> Array:
    return jax.random.normal(key, shape=shape)


def _shift_and_scale(
    params: Params, noise: Array, observation: Observation, *, mean_and_log_std: Any
) -> tuple[Array, Array]:
    mean, log_std = mean_and_log_std(params, observation)
    action = mean + jnp.exp(log_std) * noise
    return action, standard_log_density(mean, log_std, action)


def antithetic_rollout(
    draws: Draws,
    params: Params,
    environment: AnyEnvironment,
    key: Key[Array, ""] | UInt32[Array, "2"],
    *,
    num_pairs: int,
    num_steps: int,
) -> Trajectory:
    """K pairs of episodes, as one batch of 2K: rows 2k and 2k + 1 act on mirrored noise.

    At each time step the two draw their actions from u and from its mirror, each in its own state.
    Starts and transitions are independent. The function is compiled once for each record of draws,
    environment and pair of sizes.

    Args:
        draws: from `inversion` or `mirrored_normal`, or another record of the same kind.

    Returns:
        A batch [2K, T], without values, a constant under differentiation.

    Bias: each episode is an exact draw from P(τ), to the resolution of a float, so estimators that
        do not couple the batch keep their expectation. Those that rely on independent episodes are
        biased, such as leave-one-out. Take standard errors over pairs.

    References:
        Hammersley & Morton, A New Monte Carlo Technique: Antithetic Variates (1956).

    Example:
        >>> import jax, jax.numpy as jnp, pgjax
        >>> batch = antithetic_rollout(
        ...     inversion(pgjax.tabular_softmax(3, 2), 2), jnp.zeros((3, 2)),
        ...     pgjax.tabular.two_armed_bandit(), jax.random.key(0), num_pairs=3, num_steps=1)
        >>> batch.action[0::2, 0] + batch.action[1::2, 0]
        Array([1, 1, 1], dtype=int32)
    """
    check_kind("draws", draws, Draws, "inversion(policy, num_actions) makes them")
    check_leaves("params", params)
    check_counts(num_pairs=num_pairs, num_steps=num_steps)
    whole = params, as_environment(environment)
    return _pairs(draws, whole, check_key(key), (num_pairs, num_steps))


@partial(jax.jit, static_argnames="sizes")
def _pairs(
    draws: Draws, whole: tuple[Params, Environment], key: Array, sizes: tuple[int, int]
) -> Trajectory:
    num_pairs, num_steps = sizes
    params, environment = jax.lax.stop_gradient(jax.tree.map(jnp.asarray, whole))
    environment = stable(environment)

    def sample(params: Params, key: Array, observation: Observation) -> Array:
        return draws.act(params, draws.noise(key), observation)[0]

    sampled_action(sample, params, environment)

    def record(total: None, time: Array, taken: Taken) -> tuple[None, dict[str, Any]]:
        fields = ("observation", "action", "reward", "terminated", "truncated")
        kept = {name: getattr(taken, name) for name in fields}
        log_prob = jnp.where(taken.alive, taken.note, 0)
        return None, kept | {"log_prob": log_prob, "mask": taken.alive}

    def episode(mirrored: Array, noise_key: Array, key: Array) -> Trajectory:
        def act(key: Array, observation: Observation) -> tuple[Array, Array]:
            noise = draws.noise(key)
            noise = jnp.where(mirrored, draws.mirror(noise), noise)
            return draws.act(params, noise, observation)

        start_key, step_key = jax.random.split(key)
        keys = varying(jnp.stack([start_key, noise_key, step_key]), params)
        _, kept, final = fold(environment, act, keys, num_steps, record, None)
        return Trajectory(**kept, final_observation=final)

    noise_key, episode_key = jax.random.split(key)
    noise_keys = jnp.repeat(jax.random.split(noise_key, num_pairs), 2)
    mirrored = jnp.tile(jnp.array([False, True]), num_pairs)
    return jax.vmap(episode)(mirrored, noise_keys, jax.random.split(episode_key, 2 * num_pairs))
