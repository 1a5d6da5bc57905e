"""KL penalties towards a reference policy, in the reward or in the loss.

With x_t = log π(a_t|s_t) − log ref(a_t|s_t), each token has three estimates of its KL divergence in
nats: k1 = x, k2 = x²/2 and k3 = e^{−x} − 1 + x (`pgjax.regularization`). The effect of a penalty
depends on where the estimate stands, and on whether it includes the tokens that follow: the
divergence of the whole answer, KL(π ‖ ref) = E[Σ_t k1_t], also changes through them.

| penalty | mean of its gradient |
|---|---|
| k1 in the reward, to go | ∇KL of the whole answer, on-policy |
| k3 in the loss, times the ratio up to the token, differentiated | the same, on-policy and off |
| k2 in the loss; k3 times the token's ratio | the part of ∇KL that each token's own choice adds |
| k3 in the loss | the gradient of another divergence, KL(ref ‖ π), token by token |
| k1 in the loss | zero, on-policy |

References:
    Tang & Munos, On a Few Pitfalls in KL Divergence Gradient Estimation for RL (2025); Schulman,
    Approximating KL Divergence (2020); Shao et al., DeepSeekMath (2024), eq. 4, for k3 in the loss.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pgjax.core.validation import check_at_least, check_scalars
from pgjax.records import configured, record
from pgjax.regularization import k1, k2, k3
from pgjax.returns import discounted_returns
from pgjax.terms.ratios import likelihood_ratio
from pgjax.tokens.advantages import along_live_tokens
from pgjax.types import Number, Term, Trajectory, Weights, describe

_ESTIMATES = {"k1": k1, "k2": k2, "k3": k3}
_FIX = "it is β, in units of reward per nat"


@record
class RewardPenalty:
    """A KL penalty that is subtracted from advantages; made by the functions `..._in_reward`.

    Attributes:
        charge: (batch, log_prob [N, T]) -> [N, T], subtracted from the advantages.
    """

    charge: Weights


@record
class LossPenalty:
    """A KL penalty that is subtracted from the surrogate; made by the functions `..._in_loss`.

    Attributes:
        coefficient: β.
        estimate: (log_prob [T], reference [T], behaviour [T], mask [T]) -> [T].
    """

    coefficient: Number
    estimate: Callable[..., Array]


def kl_in_reward(coefficient: Number, estimate: str = "k1") -> RewardPenalty:
    """β Σ_{j≥t} k_j, subtracted from token t's advantage: the penalty of it and what follows.

    Args:
        coefficient: β ≥ 0, in units of reward per nat.
        estimate: "k1", "k2" or "k3", at the parameters that are improved.

    Raises:
        ValueError: if β is negative, or the estimate has another name; at use, if
            `batch.reference_log_prob` is None.

    Bias: k1: none for ∇KL on-policy, and off-policy with `terms.sequence_ratio`. k2 and k3: biased.
    """
    return RewardPenalty(configured(_charge_to_go, **_settings(coefficient, estimate)))


def kl_in_own_reward(coefficient: Number, estimate: str = "k1") -> RewardPenalty:
    """β k_t, subtracted from token t's advantage: the penalty of this token alone.

    Args:
        coefficient: β ≥ 0, in units of reward per nat.
        estimate: "k1", "k2" or "k3", at the parameters that are improved.

    Raises:
        ValueError: if β is negative, or the estimate has another name; at use, if
            `batch.reference_log_prob` is None.

    Bias: biased for ∇KL of the answer: what follows from a token is not charged to it.
    """
    return RewardPenalty(configured(_charge_own, **_settings(coefficient, estimate)))


def kl_in_loss(coefficient: Number, estimate: str = "k3") -> LossPenalty:
    """β k_t, differentiated as it stands: GRPO's with k3.

    Args:
        coefficient: β ≥ 0, times the mean over tokens that the estimator's aggregation defines.
        estimate: "k1", "k2" or "k3". k3's value with k2's gradient, a "straight-through" form, is
            k2 here, because a surrogate's value means nothing.

    Raises:
        ValueError: if β is negative, or the estimate has another name; at use, if
            `batch.reference_log_prob` is None.

    Bias: biased for ∇KL of the answer; see the table in the module's docstring.
    """
    return _loss_penalty(coefficient, estimate, _plain)


def kl_in_loss_by_token_ratio(coefficient: Number, estimate: str = "k3") -> LossPenalty:
    """β ρ_t k_t, with ρ_t = π(a_t|s_t)/μ(a_t|s_t) differentiated too.

    Args:
        coefficient: β ≥ 0.
        estimate: "k1", "k2" or "k3".

    Raises:
        ValueError: if β is negative, or the estimate has another name; at use, if
            `batch.reference_log_prob` is None.

    Bias: k1 and k3: none for one token's own divergence; biased for ∇KL of the answer, as the
        tokens that follow are left out.

    References:
        TRL #6503; NeMo-RL and OpenRLHF have it as an option.
    """
    return _loss_penalty(coefficient, estimate, _by_token_ratio)


def kl_in_loss_by_prefix_ratio(coefficient: Number, estimate: str = "k3") -> LossPenalty:
    """β ρ_{1:t} k_t, with the ratio of the answer up to this token, differentiated too.

    Args:
        coefficient: β ≥ 0.
        estimate: "k1", "k2" or "k3".

    Raises:
        ValueError: if β is negative, or the estimate has another name; at use, if
            `batch.reference_log_prob` is None.

    Bias: k1 and k3: none for ∇KL of the whole answer, on-policy and off, with `sequence_sum`.
        k2: biased.
    """
    return _loss_penalty(coefficient, estimate, _by_prefix_ratio)


def reference_of(batch: Trajectory) -> Float[Array, "N T"]:
    """The reference's log-probabilities, zero at dead tokens.

    Raises:
        ValueError: if `batch.reference_log_prob` is None.
    """
    if batch.reference_log_prob is None:
        raise ValueError(
            "batch.reference_log_prob must hold the reference policy's log-probabilities, "
            "got None; the estimator's KL penalty reads them: "
            "tokens.Batch(..., reference_log_prob=...)"
        )
    return jnp.where(batch.mask, batch.reference_log_prob, 0)


def _settings(coefficient: Number, estimate: str) -> dict[str, Any]:
    if not isinstance(estimate, str) or estimate not in _ESTIMATES:
        needed, got = ", ".join(_ESTIMATES), describe(estimate)
        raise ValueError(f"estimate must be one of {needed}, got {got}")
    coefficient = check_at_least("coefficient", coefficient, 0.0, _FIX)
    return {"coefficient": coefficient, "estimate": _ESTIMATES[estimate]}


def _loss_penalty(coefficient: Number, estimate: str, kind: Callable[..., Array]) -> LossPenalty:
    settings: dict[str, Any] = _settings(coefficient, estimate)
    return LossPenalty(settings["coefficient"], configured(kind, estimate=settings["estimate"]))


def _plain(
    log_prob: Array, reference: Array, behaviour: Array, mask: Array, *, estimate: Term
) -> Array:
    return estimate(log_prob, reference, jnp.ones_like(log_prob), mask)


def _by_token_ratio(
    log_prob: Array, reference: Array, behaviour: Array, mask: Array, *, estimate: Term
) -> Array:
    return likelihood_ratio(log_prob, behaviour) * _plain(
        log_prob, reference, behaviour, mask, estimate=estimate
    )


def _by_prefix_ratio(
    log_prob: Array, reference: Array, behaviour: Array, mask: Array, *, estimate: Term
) -> Array:
    difference = jnp.cumsum(jnp.where(mask, log_prob - behaviour, 0))
    ratio = likelihood_ratio(difference, jnp.zeros_like(difference))
    return ratio * _plain(log_prob, reference, behaviour, mask, estimate=estimate)


def _charge_own(
    batch: Trajectory, log_prob: Array, *, coefficient: Number, estimate: Term
) -> Array:
    check_scalars(coefficient=coefficient)
    held = jax.lax.stop_gradient(jnp.where(batch.mask, log_prob, 0))
    penalty = jax.vmap(estimate)(held, reference_of(batch), jnp.ones_like(held), batch.mask)
    return jnp.asarray(coefficient, penalty.dtype) * jnp.where(batch.mask, penalty, 0)


def _charge_to_go(
    batch: Trajectory, log_prob: Array, *, coefficient: Number, estimate: Term
) -> Array:
    own = _charge_own(batch, log_prob, coefficient=coefficient, estimate=estimate)
    return along_live_tokens(batch.mask, lambda x: discounted_returns(x, 1.0), own)
