"""DiCE: terms whose surrogate has the right derivatives of every order.

The magic box □(x) = exp(x − sg(x)), where sg stops the gradient, has the value one and the
derivative □(x)∇x. So the likelihood ratio of its argument survives every differentiation. Let
W_t = log π(a_0|s_0) + … + log π(a_t|s_t). Then every derivative of □(W_t) c_t, taken at the policy
that acted, has the expectation of that derivative of E[c_t]. Foerster's objective,
Σ_t γ^t r_t □(W_t), is summed by parts here:

    Σ_t γ^t r_t □(W_t) = Σ_t γ^t r_t + Σ_t (□(W_t) − □(W_{t−1})) γ^t G_t.

Both sides have the same derivatives of every order, trajectory by trajectory. The right side takes
any weight in place of γ^t G_t: advantages from a critic, total returns, or γ^t (G_t − b_t). The
baseline then acts on the derivatives of every order, and not only on the first.

Take higher derivatives of `pgjax.surrogate`: its `jax.hessian` estimates ∇²J. (`pgjax.gradient`
differentiates once.) The second derivative of `score`'s surrogate does not estimate ∇²J. Its mean
is E[Σ_t w_t ∇²log π], without the products of scores.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from pgjax.core.recurrence import reverse_affine
from pgjax.core.validation import check_same_shape, check_scalars, check_unit_interval
from pgjax.records import configured
from pgjax.types import Number, Term


def dice(
    log_prob: Float[Array, "T"],
    behaviour_log_prob: Float[Array, "T"],
    weight: Float[Array, "T"],
    mask: Bool[Array, "T"] | None = None,
) -> Float[Array, "T"]:
    """DiCE, (□(W_t) − □(W_{t−1})) w_t with W_t = Σ_{k≤t} log π(a_k|s_k): right at every order.

    Its value is zero; its first derivative is `score`'s, w_t ∇log π(a_t|s_t); its second is
    w_t (∇²π/π + ∇log π ∇W_{t−1}ᵀ + ∇W_{t−1} ∇log πᵀ) at a_t.

    Bias: on-policy none for ∇J, ∇²J and every further derivative with three kinds of weight: total
    returns; γ^t (G_t − b_t) with b_t independent of a_t and later; γ^t times an advantage whose
    mean given the past and a_t is right. Off-policy biased. A row of the batch must be one episode.

    References:
        Foerster et al., DiCE: The Infinitely Differentiable Monte Carlo Estimator (2018), their
        Σ_t γ^t □(a_≤t) r_t summed by parts; Farquhar, Whiteson & Foerster, Loaded DiCE (2019),
        algorithm 1 with λ = 1; the baseline of Mao et al., A Baseline for Any Order Gradient
        Estimation in Stochastic Computation Graphs (2019), is contained in it.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> behaviour, weight = jnp.zeros(2), jnp.array([3.0, 5.0])
        >>> jax.jit(jax.hessian(lambda l: dice(l, behaviour, weight).sum()))(jnp.zeros(2))
        Array([[3., 5.],
               [5., 5.]], dtype=float32)
    """
    log_prob, behaviour_log_prob, weight = check_same_shape(
        log_prob=log_prob, behaviour_log_prob=behaviour_log_prob, weight=weight
    )
    log_prob = _finite(log_prob)
    return _box_difference(log_prob, jnp.cumsum(log_prob) - log_prob) * weight


def loaded_dice(lambda_: Number) -> Term:
    """Loaded DiCE, (□(λ W_{t−1} + l_t) − □(λ W_{t−1})) w_t with W_t = λ W_{t−1} + l_t.

    l_t is log π(a_t|s_t). The influence of an action on the credit of a later one first counts in
    the second derivative. Here it decays by λ with each step between them. This lowers the variance
    of the second and further derivatives, and biases them. An advantage may use another λ.

    An example is the suite's "random" problem with three steps. Subtracting V cuts the exact total
    variance of the second derivative to 0.565 of plain DiCE's. With λ = 0.5 as well it is 0.255, at
    a bias of 12%. (A baseline can also raise it: on "continuing" V does, to 1.27.)

    Args:
        lambda_: λ in [0, 1]; 1 is `dice`, and 0 leaves out the influence of earlier actions.

    Raises:
        ValueError: if λ is outside [0, 1].

    Bias: on-policy none for ∇J, whatever λ, and with λ = 1 none at any order. With λ < 1 the second
    derivative lacks the share 1 − λ^(t−k) of each pair of steps k < t. Weights and rows are as for
    `dice`.

    References:
        Farquhar, Whiteson & Foerster, Loaded DiCE: Trading off Bias and Variance in Any-Order Score
        Function Estimators for Reinforcement Learning (2019), algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> behaviour, weight = jnp.zeros(2), jnp.array([3.0, 5.0])
        >>> term = loaded_dice(0.5)
        >>> jax.jit(jax.hessian(lambda l: term(l, behaviour, weight).sum()))(jnp.zeros(2))
        Array([[3. , 2.5],
               [2.5, 5. ]], dtype=float32)
    """
    return configured(_loaded_dice, lambda_=check_unit_interval("lambda_", lambda_))


def _loaded_dice(
    log_prob: Array,
    behaviour_log_prob: Array,
    weight: Array,
    mask: Array | None = None,
    *,
    lambda_: Number,
) -> Array:
    check_scalars(lambda_=lambda_)
    log_prob = _finite(log_prob)
    slope = jnp.reshape(jnp.asarray(lambda_, log_prob.dtype), 1)
    zero = jnp.zeros((), log_prob.dtype)
    # The one recurrence runs backward in time; W runs forward.
    faded = jnp.flip(reverse_affine(slope, jnp.flip(log_prob), zero))
    return _box_difference(log_prob, faded - log_prob) * weight


def _finite(log_prob: Array) -> Array:
    """The log-probability, or a constant zero if it is −∞: the box of −∞ would be NaN."""
    return jnp.where(jnp.isneginf(log_prob), 0, log_prob)


def _box_difference(log_prob: Array, past: Array) -> Array:
    """□(past + l) − □(past)."""
    return _magic_box(past + log_prob) - _magic_box(past)


def _magic_box(x: Array) -> Array:
    return jnp.exp(x - jax.lax.stop_gradient(x))
