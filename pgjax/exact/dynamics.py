"""The dynamic programs from which every exact quantity is computed.

Finite and infinite horizons share one layout, [K, S, ...]. K is H for a finite horizon. It is 1 for
the infinite one, whose values do not depend on time.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pgjax.core.compilation import jit_once
from pgjax.core.float64 import as_float64, in_float64, to_jax
from pgjax.core.validation import check_params
from pgjax.exact.problem import Problem, check_problem
from pgjax.exact.tabular import TabularMDP
from pgjax.types import Params, Policy


class Model(NamedTuple):
    """The MDP's arrays: rows of terminal states are zero, and improper states are cut out."""

    transition: Array  # [S, A, S], zero from and into terminal states
    reward: Array  # [S, A], expected, zero in terminal states
    initial: Array  # [S]
    observation: Array  # [S, ...]
    discount: Array


@in_float64
def action_probabilities(problem: Problem) -> Float[np.ndarray, "S A"]:
    """π(a|s) for every state, from the policy's own log-probabilities.

    Returns:
        [S, A], a float64 NumPy array.

    Raises:
        ValueError: if they do not sum to one, as when the policy has another number of actions.

    Bias: exact.
    """
    check_problem(problem)
    mdp, params = problem.mdp, jax.tree.map(as_float64, problem.params)
    observation = to_jax(mdp.observation)
    table = np.asarray(_table_once(problem.policy, params, observation, mdp.num_actions))
    probabilities = np.exp(table)
    off = np.abs(probabilities.sum(-1) - 1)
    if not np.all(off < 1e-4):  # also caught: NaN
        state = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
        raise ValueError(
            f"policy.log_prob must be a distribution over the MDP's {mdp.num_actions} actions; in "
            f"state {state} the probabilities are {probabilities[state]}, "
            f"which sum to {probabilities[state].sum():g}; give the policy the MDP's actions"
        )
    return probabilities


def prepare(problem: Problem) -> tuple[Model, Params]:
    """The problem's MDP as arrays, and its parameters in float64."""
    check_problem(problem)
    check_params(problem.params)
    mdp, proper = problem.mdp, proper_states(problem)
    alive = ~mdp.terminal
    kept = mdp.transition * (alive & proper)[:, None, None]
    model = Model(
        transition=to_jax(kept * (alive & proper)),
        reward=to_jax(np.sum(kept * mdp.reward, axis=-1)),
        initial=to_jax(mdp.initial),
        observation=to_jax(mdp.observation),
        discount=jnp.asarray(mdp.discount),
    )
    return model, jax.tree.map(as_float64, problem.params)


def reachable_states(mdp: TabularMDP, probabilities: np.ndarray) -> np.ndarray:
    """[S] whether an episode can be in each state, under [S, A] π(a|s)."""
    return _closure(mdp.initial > 0, _edges(mdp, probabilities))


def _edges(mdp: TabularMDP, probabilities: np.ndarray) -> np.ndarray:
    """[S, S] whether an episode can go from one state to another in one step."""
    edge = np.einsum("sa,sat->st", probabilities, mdp.transition) > 0
    edge[mdp.terminal] = False
    return edge


def proper_states(problem: Problem) -> np.ndarray:
    """[S] whether a state is proper: all are, but if γ = 1 and H is infinite, those sure to end.

    Raises:
        ValueError: if an episode can be in an improper state.
    """
    mdp, probabilities = problem.mdp, action_probabilities(problem)
    if problem.horizon is not None or mdp.discount < 1:
        return np.ones(mdp.num_states, bool)
    edge = _edges(mdp, probabilities)
    can_end = _closure(mdp.terminal, edge.T)
    proper = ~_closure(~can_end, edge.T)  # these cannot reach a state that cannot end
    reachable = reachable_states(mdp, probabilities)
    if np.any(reachable & ~proper):
        state = np.flatnonzero(reachable & ~proper)[0]
        raise ValueError(
            f"with discount 1 and no horizon every episode must end, but from state {state} it "
            "need not under this policy; give a horizon or a discount below 1"
        )
    return proper


def _closure(start: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """[S] whether a state can be reached along edge[from, to], the start included."""
    reached = start
    while True:
        more = reached | (reached @ edge)
        if np.array_equal(more, reached):
            return reached
        reached = more


@partial(jax.jit, static_argnums=(0, 3))
def log_prob_table(policy: Policy, params: Params, observation: Array, num_actions: int) -> Array:
    """[S, A] log π(a|s)."""
    over_actions = jax.vmap(policy.log_prob, (None, None, 0))
    return jax.vmap(over_actions, (None, 0, None))(params, observation, jnp.arange(num_actions))


_table_once = jit_once(log_prob_table, static_argnums=(0, 3))


@partial(jax.jit, static_argnums=0)
def probabilities_under(policy: Policy, params: Params, model: Model) -> Array:
    """[S, A] π(a|s), differentiable in the parameters."""
    return jnp.exp(log_prob_table(policy, params, model.observation, model.reward.shape[1]))


def kernel_under(probabilities: Array, model: Model, discount: Array) -> Array:
    """[S, S] discount · P(s_{t+1} = s' and the episode goes on | s_t = s)."""
    return discount * jnp.einsum("sa,sat->st", probabilities, model.transition)


def backward(kernel: Array, source: Array, horizon: int | None) -> Array:
    """x_k = source_k + kernel x_{k+1} for source [K, S, ...]; a linear solve without a horizon."""
    if horizon is None:
        flat = source[0].reshape(source.shape[1], -1)
        solution = jnp.linalg.solve(jnp.eye(kernel.shape[0]) - kernel, flat)
        return solution.reshape(source.shape)

    def step(following: Array, source: Array) -> tuple[Array, Array]:
        x = source + jnp.tensordot(kernel, following, 1)
        return x, x

    return jax.lax.scan(step, jnp.zeros_like(source[0]), source, reverse=True)[1]


@partial(jax.jit, static_argnums=2)
def values_over_time(probabilities: Array, model: Model, horizon: int | None) -> Array:
    """[K, S] V_k(s)."""
    source = jnp.sum(probabilities * model.reward, axis=-1)
    stationary = jnp.broadcast_to(source, (horizon or 1, *source.shape))
    return backward(kernel_under(probabilities, model, model.discount), stationary, horizon)


def one_step_later(values: Array, horizon: int | None) -> Array:
    """The values one step later: the same if the horizon is infinite, else zero after it."""
    return values if horizon is None else jnp.concatenate([values[1:], jnp.zeros_like(values[:1])])


@partial(jax.jit, static_argnums=2)
def action_values_over_time(probabilities: Array, model: Model, horizon: int | None) -> Array:
    """[K, S, A] Q_k(s, a)."""
    following = one_step_later(values_over_time(probabilities, model, horizon), horizon)
    expected = jnp.einsum("sat,kt->ksa", model.transition, following)
    return model.reward[None] + model.discount * expected


@partial(jax.jit, static_argnums=3)
def visits_over_time(
    probabilities: Array, model: Model, discount: Array, horizon: int | None
) -> Array:
    """[K, S] discounted probability of being in s, summed over time if the horizon is infinite."""
    kernel = kernel_under(probabilities, model, discount).T
    if horizon is None:
        return jnp.linalg.solve(jnp.eye(kernel.shape[0]) - kernel, model.initial)[None]

    def step(now: Array, _: None) -> tuple[Array, Array]:
        return kernel @ now, now

    return jax.lax.scan(step, model.initial, length=horizon)[1]


@partial(jax.jit, static_argnums=(0, 1))
def objective_under(policy: Policy, horizon: int | None, params: Params, model: Model) -> Array:
    """J, differentiable in the parameters."""
    probabilities = probabilities_under(policy, params, model)
    return model.initial @ values_over_time(probabilities, model, horizon)[0]
