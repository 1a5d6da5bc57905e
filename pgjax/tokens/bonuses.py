"""Entropy bonuses, in the reward or in the loss; H_t is the entropy of token t's distribution.

| bonus | mean of its gradient |
|---|---|
| −log π in the reward, to go | ∇H of the whole answer, on-policy |
| H_t in the loss, exact or by samples | the part of ∇H that each token's own choice adds |

The entropy of an answer, E[−Σ_t log π_t], also changes through the tokens that follow, as its KL
divergence does.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Float

from pgjax.core.validation import check_array, check_at_least, check_scalars
from pgjax.records import configured, record, static
from pgjax.returns import discounted_returns
from pgjax.tokens.advantages import along_live_tokens
from pgjax.types import Number, Trajectory, Weights

_FIX = "it is in units of reward per nat"


@record
class RewardBonus:
    """An entropy bonus that is added to advantages; made by `entropy_in_reward`.

    Attributes:
        charge: (batch, log_prob [N, T]) -> [N, T], subtracted from the advantages.
    """

    charge: Weights


@record
class LossBonus:
    """An entropy bonus that is added to the surrogate; made by the functions `..._in_loss`.

    Attributes:
        coefficient: its weight.
        is_sampled: whether log π of the tokens is used in place of the exact entropies.
    """

    coefficient: Number
    is_sampled: bool = static()


@struct.dataclass
class TokenWeights:
    """Weights of an estimator with a penalty or a bonus in the loss, [N, T] each.

    Attributes:
        credit: of the term, the aggregation's factor included.
        share: the aggregation's factor itself.
        reference: log-probabilities of the reference policy; None if no penalty reads them.
        entropy: exact, and differentiated; None until `tokens.surrogate` adds it.
        reads_entropy: whether the bonus needs it.
    """

    credit: Float[Array, "N T"]
    share: Float[Array, "N T"]
    reference: Float[Array, "N T"] | None
    entropy: Float[Array, "N T"] | None = None
    reads_entropy: bool = struct.field(pytree_node=False, default=False)


def entropy_in_reward(coefficient: Number) -> RewardBonus:
    """−β Σ_{j≥t} log π_j, added to token t's advantage: the entropy of the token and what follows.

    Args:
        coefficient: β ≥ 0, in units of reward per nat.

    Raises:
        ValueError: if β is negative.

    Bias: none for ∇H of the answer on-policy, and off-policy with `terms.sequence_ratio`.

    Example:
        >>> from pgjax import tokens
        >>> estimator = tokens.rloo(entropy=tokens.entropy_in_reward(0.01))
    """
    return RewardBonus(configured(_charge, coefficient=_weight(coefficient)))


def entropy_in_loss(coefficient: Number) -> LossBonus:
    """β H_t, from the exact entropies that `tokens.surrogate` and `tokens.loss` are given.

    It is averaged over tokens by the estimator's aggregation. `tokens.log_probs` gives the
    entropies with the log-probabilities.

    Args:
        coefficient: β ≥ 0.

    Raises:
        ValueError: if β is negative; at use, if the entropies are not given.

    Bias: biased for ∇H of the answer: the tokens that follow are left out. Which token was drawn
    adds no noise.

    Example:
        >>> import jax.numpy as jnp
        >>> from pgjax import tokens
        >>> batch = tokens.Batch(-jnp.ones((2, 1)), jnp.ones((2, 1), bool), jnp.zeros(2))
        >>> estimator = tokens.reinforce(entropy=tokens.entropy_in_loss(0.1))
        >>> float(tokens.loss(estimator, batch.log_prob, batch, entropy=jnp.full((2, 1), 2.0)))
        -0.20000000298023224
    """
    return LossBonus(_weight(coefficient), False)


def sampled_entropy_in_loss(coefficient: Number) -> LossBonus:
    """−β (log π_t)²/2, whose gradient has the mean of β ∇H_t on-policy; needs no entropies.

    Args:
        coefficient: β ≥ 0.

    Raises:
        ValueError: if β is negative.

    Bias: on-policy as for `entropy_in_loss`; off-policy there is more, because another policy chose
    the tokens.
    """
    return LossBonus(_weight(coefficient), True)


def with_entropy(values: Any, entropy: Float[Array, "N T"] | None) -> Any:
    """The weights of an estimator, with the entropies that its bonus reads.

    Args:
        values: from `evaluate_weights`.
        entropy: [N, T] or None.

    Raises:
        TypeError: if it is not floating.
        ValueError: if it is missing, has another shape, or nothing reads it.
    """
    reads = isinstance(values, TokenWeights) and values.reads_entropy
    if not reads:
        if entropy is not None:
            raise ValueError(
                f"entropy must be None, got {type(entropy).__name__}: the estimator has no "
                "bonus that reads it; make it with entropy=tokens.entropy_in_loss(0.01)"
            )
        return values
    if entropy is None:
        raise ValueError(
            "entropy must hold the entropies [N, T] of the tokens' distributions, got None; the "
            "estimator's bonus reads them, and tokens.log_probs returns them"
        )
    entropy = check_array("entropy", entropy, "[N, T]", values.credit.shape)
    if not jnp.issubdtype(entropy.dtype, jnp.floating):
        raise TypeError(f"entropy must be floating, got {entropy.dtype}")
    return replace(values, entropy=entropy)


def bonus_of(bonus: LossBonus, log_prob: Array, entropy: Array | None) -> Array:
    """[T] of one answer, without the aggregation's factor.

    Raises:
        ValueError: if the entropies are needed and not given.
    """
    check_scalars(coefficient=bonus.coefficient)
    if bonus.is_sampled:
        found = -(log_prob**2) / 2
    elif entropy is None:
        raise ValueError(
            "entropy must be given to tokens.surrogate or tokens.loss, got None; "
            "tokens.log_probs returns it"
        )
    else:
        found = entropy
    return jnp.asarray(bonus.coefficient, found.dtype) * found


def _charge(batch: Trajectory, log_prob: Array, *, coefficient: Number) -> Array:
    check_scalars(coefficient=coefficient)
    held = jax.lax.stop_gradient(jnp.where(batch.mask, log_prob, 0))
    own = jnp.asarray(coefficient, held.dtype) * held
    return along_live_tokens(batch.mask, lambda x: discounted_returns(x, 1.0), own)


def _weight(coefficient: Number) -> Number:
    return check_at_least("coefficient", coefficient, 0.0, _FIX)
