"""Exact truth on a finite MDP: J, V, Q, discounted visitation, ∇J and ∇²J.

Two forms of each derivative stand beside each other: the theorem's, assembled from values and
visitation, and the plain derivative of the dynamic program. This module never imports an estimator:
the oracle stays independent of what it judges.

Everything is computed in float64, whatever the caller's setting, and returned as NumPy arrays.
`horizon=None` is the infinite horizon; it needs γ < 1, or episodes that end with probability one. A
finite horizon H is the H-step objective, and its values depend on time. Internally both are one
case: arrays [K, S, ...] with K = H, or with K = 1, stationary.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree

from pgjax.tabular import TabularMDP
from pgjax.types import Params, Policy
from pgjax.validation import check_params, check_positive


class _Model(NamedTuple):
    """What the mathematics needs of an MDP: terminal rows empty, improper states cut out."""

    transition: Array  # [S, A, S], zero from and into terminal states
    reward: Array  # [S, A], expected, zero in terminal states
    initial: Array  # [S]
    observation: Array  # [S, ...]
    discount: Array


def in_float64(function: Callable) -> Callable:
    """Run under a local x64 setting, whatever the caller's."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.enable_x64(True):
            return function(*args, **kwargs)

    return run


def to_numpy(tree: Any) -> Any:
    """NumPy leaves; outside the x64 setting a JAX reduction would cut float64 to float32."""
    return jax.tree.map(lambda x: np.asarray(x)[()], tree)


@in_float64
def objective(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> np.float64:
    """J(θ) = E[Σ_t γ^t r_t], exactly.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H steps at most, or None.

    Returns:
        Scalar, float64.

    Raises:
        ValueError: probabilities that do not sum to one; no horizon, γ = 1 and a reachable state
            from which the episode need not end.

    Bias: exact.

    References:
        Sutton & Barto (2018), section 13.2.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import tabular, tabular_softmax
        >>> mdp = tabular.two_armed_bandit()
        >>> objective(mdp, tabular_softmax(3, 2), jnp.zeros((3, 2)), horizon=1)
        np.float64(0.45)
    """
    model, params = _prepare(mdp, policy, params, horizon)
    return to_numpy(_objective(policy, horizon, params, model))


@in_float64
def state_values(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> Float[np.ndarray, "... S"]:
    """V(s), the expected discounted return from a state on; zero in terminal states.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H, or None.

    Returns:
        [S] without horizon; [H, S] with one, V_t(s) having H − t steps to go. NaN where γ = 1, no
        horizon, and the state, which no episode reaches, need not end.

    Raises:
        ValueError: as for `objective`.

    Bias: exact.

    References:
        Sutton & Barto (2018), eq. 4.4.
    """
    model, params = _prepare(mdp, policy, params, horizon)
    values = _values(_probabilities(policy, params, model), model, horizon)
    return _reported(values, _proper(mdp, policy, params, horizon), horizon)


@in_float64
def action_values(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> Float[np.ndarray, "... S A"]:
    """Q(s, a), the expected discounted return after an action; zero in terminal states.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H, or None.

    Returns:
        [S, A] without horizon, [H, S, A] with one; NaN as for `state_values`.

    Raises:
        ValueError: as for `objective`.

    Bias: exact.

    References:
        Sutton & Barto (2018), eq. 4.6.
    """
    model, params = _prepare(mdp, policy, params, horizon)
    values = _action_values(_probabilities(policy, params, model), model, horizon)
    return _reported(values, _proper(mdp, policy, params, horizon), horizon)


@in_float64
def visitation(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> Float[np.ndarray, "... S"]:
    """Discounted expected visits, d(s) = Σ_t γ^t P(s_t = s), episodes that have ended excluded.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H, or None.

    Returns:
        [S] without horizon; [H, S] with one, the summand γ^t P(s_t = s) of each time. Not
        normalised: with γ = 1 it sums to the expected length.

    Raises:
        ValueError: as for `objective`.

    Bias: exact.

    References:
        Sutton et al. (2000), below eq. 2.
    """
    model, params = _prepare(mdp, policy, params, horizon)
    visits = _visitation(_probabilities(policy, params, model), model, model.discount, horizon)
    return to_numpy(visits[0] if horizon is None else visits)


@in_float64
def gradient(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> PyTree[Float[np.ndarray, "..."]]:
    """∇J in the theorem's form, Σ_t Σ_s γ^t P(s_t = s) Σ_a ∇π(a|s) Q_t(s, a).

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H, or None.

    Returns:
        A pytree like params, float64.

    Raises:
        ValueError: as for `objective`.
        TypeError: a parameter that is not floating.

    Bias: exact.

    References:
        Sutton et al. (2000), theorem 1; here for any horizon.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import tabular, tabular_softmax
        >>> mdp = tabular.two_armed_bandit()
        >>> gradient(mdp, tabular_softmax(3, 2), jnp.zeros((3, 2)), horizon=1)[0]
        array([-0.075,  0.075])
    """
    model, params = _prepare(mdp, policy, params, horizon)
    return to_numpy(_gradient(policy, horizon, params, model, model.discount))


@in_float64
def mismatched_gradient(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> PyTree[Float[np.ndarray, "..."]]:
    """What reward-to-go without γ^t estimates, Σ_t Σ_s P(s_t = s) Σ_a ∇π(a|s) Q_t(s, a).

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.
        horizon: H, or None; without one, episodes must end with probability one even if γ < 1.

    Returns:
        A pytree like params, float64.

    Raises:
        ValueError: as for `objective`; no horizon and visits without bound.
        TypeError: a parameter that is not floating.

    Bias: differs from ∇J when γ < 1; the difference is the estimator's exact bias.

    References:
        Nota & Thomas (2020), eq. 3.
    """
    undiscounted = replace(mdp, discount=1.0)
    _prepare(undiscounted, policy, params, horizon)
    model, params = _prepare(mdp, policy, params, horizon)
    return to_numpy(_gradient(policy, horizon, params, model, jnp.ones(())))


@in_float64
def hessian(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> Float[np.ndarray, "P P"]:
    """∇²J in the theorem's form, over the flattened parameters.

    Σ_t Σ_s γ^t P(s_t = s) Σ_a [∇²π Q_t + ∇π ∇Q_tᵀ + ∇Q_t ∇πᵀ], with ∇Q from its own Bellman
    equation, ∇V_t = Σ_a (∇π Q_t + π ∇Q_t).

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy, P numbers in all.
        horizon: H, or None.

    Returns:
        [P, P], float64; the order of `jax.flatten_util.ravel_pytree(params)`.

    Raises:
        ValueError: as for `objective`.
        TypeError: a parameter that is not floating.

    Bias: exact.

    References:
        Furmston, Lever & Barber, Approximate Newton Methods for Policy Search in MDPs (2016),
        theorem 3 is this sum in another arrangement.
    """
    model, params = _prepare(mdp, policy, params, horizon)
    return to_numpy(_hessian(policy, horizon, params, model))


@in_float64
def differentiated_gradient(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> PyTree[Float[np.ndarray, "..."]]:
    """∇J by differentiating the dynamic program itself; equal to `gradient`.

    Args, Returns, Raises: as for `gradient`.

    Bias: exact.
    """
    model, params = _prepare(mdp, policy, params, horizon)
    return to_numpy(jax.grad(_objective, argnums=2)(policy, horizon, params, model))


@in_float64
def differentiated_hessian(
    mdp: TabularMDP, policy: Policy, params: Params, *, horizon: int | None
) -> Float[np.ndarray, "P P"]:
    """∇²J by differentiating the dynamic program twice; equal to `hessian`.

    Args, Returns, Raises: as for `hessian`.

    Bias: exact.
    """
    model, params = _prepare(mdp, policy, params, horizon)
    flat, unravel = ravel_pytree(params)
    curvature = jax.hessian(lambda flat: _objective(policy, horizon, unravel(flat), model))
    return to_numpy(curvature(flat))


@in_float64
def action_probabilities(
    mdp: TabularMDP, policy: Policy, params: Params
) -> Float[np.ndarray, "S A"]:
    """π(a|s) for every state, from the policy's own log-probabilities.

    Args:
        mdp: S states, A actions.
        policy: over the MDP's A actions.
        params: of the policy.

    Returns:
        [S, A], a float64 NumPy array.

    Raises:
        ValueError: they do not sum to one (a policy over another number of actions, say).

    Bias: exact.
    """
    params = jax.tree.map(_float64, params)
    table = np.asarray(_log_prob_table(policy, params, mdp.observation, mdp.num_actions))
    probabilities = np.exp(table)
    off = np.abs(probabilities.sum(-1) - 1)
    if not np.all(off < 1e-4):  # also caught: NaN
        state = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
        raise ValueError(
            f"policy.log_prob must be a distribution over the MDP's {mdp.num_actions} actions; in "
            f"state {state} the probabilities are {probabilities[state]}, "
            f"which sum to {probabilities[state].sum():g}"
        )
    return probabilities


def _prepare(
    mdp: TabularMDP, policy: Policy, params: Params, horizon: int | None
) -> tuple[_Model, Params]:
    if not isinstance(mdp, TabularMDP):
        raise TypeError(f"mdp must be a pgjax.TabularMDP, got {type(mdp).__name__}")
    if horizon is not None:
        check_positive("horizon", horizon)
    check_params(params)
    proper = _proper(mdp, policy, params, horizon)
    alive = ~mdp.terminal
    kept = mdp.transition * (alive & proper)[:, None, None]
    model = _Model(
        transition=jnp.asarray(kept * (alive & proper)),
        reward=jnp.asarray(np.sum(kept * mdp.reward, axis=-1)),
        initial=jnp.asarray(mdp.initial),
        observation=jnp.asarray(mdp.observation),
        discount=jnp.asarray(mdp.discount),
    )
    return model, jax.tree.map(_float64, params)


def _proper(mdp: TabularMDP, policy: Policy, params: Params, horizon: int | None) -> np.ndarray:
    """[S] states with a finite value: all, or with γ = 1 and no horizon those sure to end."""
    probabilities = action_probabilities(mdp, policy, params)
    if horizon is not None or mdp.discount < 1:
        return np.ones(mdp.num_states, bool)
    edge = np.einsum("sa,sat->st", probabilities, mdp.transition) > 0
    edge[mdp.terminal] = False
    can_end = _closure(mdp.terminal, edge.T)
    proper = ~_closure(~can_end, edge.T)  # cannot even reach a state that cannot end
    reachable = _closure(mdp.initial > 0, edge)
    if np.any(reachable & ~proper):
        state = np.flatnonzero(reachable & ~proper)[0]
        raise ValueError(
            f"with discount 1 and no horizon every episode must end, but from state {state} it "
            "need not under this policy; give a horizon or a discount below 1"
        )
    return proper


def _closure(start: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """[S] whatever can be reached along edge[from, to], the start included."""
    reached = start
    while True:
        more = reached | (reached @ edge)
        if np.array_equal(more, reached):
            return reached
        reached = more


def _reported(values: Array, proper: np.ndarray, horizon: int | None) -> np.ndarray:
    """[K, S, ...] as the caller sees it: no K without a horizon, NaN in improper states."""
    shape = (1, -1) + (1,) * (values.ndim - 2)
    values = jnp.where(jnp.asarray(proper).reshape(shape), values, jnp.nan)
    return to_numpy(values[0] if horizon is None else values)


def _float64(x: Any) -> Array:
    return jnp.asarray(x, jnp.float64)


@partial(jax.jit, static_argnums=(0, 3))
def _log_prob_table(policy: Policy, params: Params, observation: Array, num_actions: int) -> Array:
    over_actions = jax.vmap(policy.log_prob, (None, None, 0))
    return jax.vmap(over_actions, (None, 0, None))(params, observation, jnp.arange(num_actions))


def _probabilities(policy: Policy, params: Params, model: _Model) -> Array:
    return jnp.exp(_log_prob_table(policy, params, model.observation, model.reward.shape[1]))


def _kernel(probabilities: Array, model: _Model, discount: Array) -> Array:
    return discount * jnp.einsum("sa,sat->st", probabilities, model.transition)


def _backward(kernel: Array, source: Array, horizon: int | None) -> Array:
    """x_k = source_k + kernel x_{k+1} for source [K, S, ...]; a linear solve where K is eternal."""
    if horizon is None:
        flat = source[0].reshape(source.shape[1], -1)
        solution = jnp.linalg.solve(jnp.eye(kernel.shape[0]) - kernel, flat)
        return solution.reshape(source.shape)

    def step(following: Array, source: Array) -> tuple[Array, Array]:
        x = source + jnp.tensordot(kernel, following, 1)
        return x, x

    return jax.lax.scan(step, jnp.zeros_like(source[0]), source, reverse=True)[1]


def _values(probabilities: Array, model: _Model, horizon: int | None) -> Array:
    source = jnp.sum(probabilities * model.reward, axis=-1)
    stationary = jnp.broadcast_to(source, (horizon or 1, *source.shape))
    return _backward(_kernel(probabilities, model, model.discount), stationary, horizon)


def _following(values: Array, horizon: int | None) -> Array:
    """What stands one step later: the same where time does not count, zero after the horizon."""
    return values if horizon is None else jnp.concatenate([values[1:], jnp.zeros_like(values[:1])])


def _action_values(probabilities: Array, model: _Model, horizon: int | None) -> Array:
    following = _following(_values(probabilities, model, horizon), horizon)
    expected = jnp.einsum("sat,kt->ksa", model.transition, following)
    return model.reward[None] + model.discount * expected


def _visitation(probabilities: Array, model: _Model, discount: Array, horizon: int | None) -> Array:
    kernel = _kernel(probabilities, model, discount).T
    if horizon is None:
        return jnp.linalg.solve(jnp.eye(kernel.shape[0]) - kernel, model.initial)[None]

    def step(now: Array, _: None) -> tuple[Array, Array]:
        return kernel @ now, now

    return jax.lax.scan(step, model.initial, length=horizon)[1]


@partial(jax.jit, static_argnums=(0, 1))
def _objective(policy: Policy, horizon: int | None, params: Params, model: _Model) -> Array:
    return model.initial @ _values(_probabilities(policy, params, model), model, horizon)[0]


@partial(jax.jit, static_argnums=(0, 1))
def _gradient(
    policy: Policy, horizon: int | None, params: Params, model: _Model, state_discount: Array
) -> Params:
    probabilities = _probabilities(policy, params, model)
    credit = jnp.einsum(
        "ks,ksa->sa",
        _visitation(probabilities, model, state_discount, horizon),
        _action_values(probabilities, model, horizon),
    )
    return jax.grad(lambda params: jnp.sum(credit * _probabilities(policy, params, model)))(params)


@partial(jax.jit, static_argnums=(0, 1))
def _hessian(policy: Policy, horizon: int | None, params: Params, model: _Model) -> Array:
    flat, unravel = ravel_pytree(params)

    def table(flat: Array) -> Array:
        return _probabilities(policy, unravel(flat), model)

    probabilities = table(flat)
    slope = jax.jacobian(table)(flat)  # [S, A, P]
    visits = _visitation(probabilities, model, model.discount, horizon)
    values = _action_values(probabilities, model, horizon)
    value_slope = _backward(
        _kernel(probabilities, model, model.discount),
        jnp.einsum("sap,ksa->ksp", slope, values),
        horizon,
    )
    action_value_slope = model.discount * jnp.einsum(
        "sat,ktp->ksap", model.transition, _following(value_slope, horizon)
    )
    cross = jnp.einsum("ks,sap,ksaq->pq", visits, slope, action_value_slope)
    credit = jnp.einsum("ks,ksa->sa", visits, values)
    return jax.hessian(lambda flat: jnp.sum(credit * table(flat)))(flat) + cross + cross.T
