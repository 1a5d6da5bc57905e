"""The dynamic programs from which every exact quantity is computed.

Finite and infinite horizons share one layout, [K, S, ...]. K is H for a finite horizon. It is 1 for
the infinite one, whose values do not depend on time.

They are NumPy: of a policy, JAX computes its table of probabilities and the derivatives of the
table alone.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from pgjax.core.compilation import jit_once
from pgjax.core.float64 import in_float64, to_jax, to_numpy
from pgjax.core.validation import check_params
from pgjax.exact.problem import Problem, check_problem
from pgjax.exact.tabular import TabularMDP
from pgjax.types import Params, Policy


class Model(NamedTuple):
    """The MDP under a policy: rows of terminal states are zero, and improper states are cut out."""

    transition: np.ndarray  # [S, A, S], zero from and into terminal states
    reward: np.ndarray  # [S, A], expected, zero in terminal states
    initial: np.ndarray  # [S]
    observation: np.ndarray  # [S, ...]
    discount: float
    probabilities: np.ndarray  # [S, A] π(a|s)
    proper: np.ndarray  # [S], as `proper_states`


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
    mdp = problem.mdp
    given = to_jax((in_double(problem.params), mdp.observation))
    table = _table_once(problem.policy, *given, mdp.num_actions)
    probabilities = np.exp(np.asarray(table))
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
    """The problem's MDP under its policy, and its parameters in float64."""
    check_problem(problem)
    check_params(problem.params)
    mdp, probabilities = problem.mdp, action_probabilities(problem)
    proper = proper_states(problem, probabilities)
    alive = ~mdp.terminal & proper
    kept = mdp.transition * alive[:, None, None]
    model = Model(
        transition=kept * alive,
        reward=np.sum(kept * mdp.reward, axis=-1),
        initial=mdp.initial,
        observation=mdp.observation,
        discount=mdp.discount,
        probabilities=probabilities,
        proper=proper,
    )
    return model, in_double(problem.params)


def in_double(params: Params) -> Params:
    """The parameters as float64 NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def reachable_states(mdp: TabularMDP, probabilities: np.ndarray) -> np.ndarray:
    """[S] whether an episode can be in each state, under [S, A] π(a|s)."""
    return _closure(mdp.initial > 0, _edges(mdp, probabilities))


def _edges(mdp: TabularMDP, probabilities: np.ndarray) -> np.ndarray:
    """[S, S] whether an episode can go from one state to another in one step."""
    edge = np.einsum("sa,sat->st", probabilities, mdp.transition) > 0
    edge[mdp.terminal] = False
    return edge


def proper_states(problem: Problem, probabilities: np.ndarray) -> np.ndarray:
    """[S] whether a state is proper: all are, but if γ = 1 and H is infinite, those sure to end.

    Raises:
        ValueError: if an episode can be in an improper state.
    """
    mdp = problem.mdp
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


def credited(
    policy: Policy, params: Params, model: Model, credit: np.ndarray
) -> PyTree[Float[np.ndarray, "..."]]:
    """Σ_s Σ_a ∇π(a|s) credit(s, a), a pytree like params, float64."""
    return to_numpy(_gradient(policy, *to_jax((params, model.observation, credit))))


@partial(jit_once, static_argnums=0)
def _gradient(policy: Policy, params: Params, observation: Array, credit: Array) -> Params:
    """Σ_s Σ_a ∇π(a|s) credit(s, a)."""
    num_actions = credit.shape[1]

    def total(params: Params) -> Array:
        return jnp.sum(credit * jnp.exp(log_prob_table(policy, params, observation, num_actions)))

    return jax.grad(total)(params)


def kernel_of(model: Model, discount: float) -> np.ndarray:
    """[S, S] discount · P(s_{t+1} = s' and the episode goes on | s_t = s)."""
    return discount * np.einsum("sa,sat->st", model.probabilities, model.transition)


def backward(kernel: np.ndarray, source: np.ndarray, horizon: int | None) -> np.ndarray:
    """x_k = source_k + kernel x_{k+1} for source [K, S, ...]; a linear solve without a horizon."""
    if horizon is None:
        return stationary(kernel, source[0].reshape(len(kernel), -1)).reshape(source.shape)
    found = source.copy()
    for k in reversed(range(horizon - 1)):
        found[k] += np.tensordot(kernel, found[k + 1], 1)
    return found


def stationary(kernel: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The solution of x = source + kernel x."""
    try:
        return np.linalg.solve(np.eye(len(kernel)) - kernel, source)
    except np.linalg.LinAlgError:
        raise ValueError(
            "episodes end with a probability too small for float64; give a horizon or a discount "
            "below 1"
        ) from None


def values_over_time(model: Model, horizon: int | None, bonus: Any = 0.0) -> np.ndarray:
    """[K, S] V_k(s), where a step in state s pays bonus(s) besides its reward."""
    source = np.sum(model.probabilities * model.reward, axis=-1) + bonus
    every = np.broadcast_to(source, (horizon or 1, len(source)))
    return backward(kernel_of(model, model.discount), every, horizon)


def one_step_later(values: np.ndarray, horizon: int | None) -> np.ndarray:
    """The values one step later: the same if the horizon is infinite, else zero after it."""
    return values if horizon is None else np.concatenate([values[1:], np.zeros_like(values[:1])])


def action_values_over_time(model: Model, horizon: int | None, bonus: Any = 0.0) -> np.ndarray:
    """[K, S, A] Q_k(s, a), where later steps pay the bonus too, but this one does not."""
    return model.reward + expected_later(model, values_over_time(model, horizon, bonus), horizon)


def expected_later(model: Model, values: np.ndarray, horizon: int | None) -> np.ndarray:
    """[K, S, A, ...] γ E[x_{k+1}(s') | s, a] of values x [K, S, ...]."""
    following = one_step_later(values, horizon)
    expected = np.tensordot(model.transition, following, (2, 1))  # [S, A, K, ...]
    return model.discount * np.moveaxis(expected, 2, 0)


def visits_over_time(model: Model, discount: float, horizon: int | None) -> np.ndarray:
    """[K, S] discounted probability of being in s, summed over time if the horizon is infinite."""
    start = np.zeros((horizon or 1, len(model.initial)))
    start[-1] = model.initial  # as `backward`, but time runs the other way
    return backward(kernel_of(model, discount).T, start, horizon)[::-1]
