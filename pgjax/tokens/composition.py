"""An estimator over tokens from its parts; the named estimators are made in this way."""

from typing import TypedDict, cast

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool

from pgjax.core.validation import check_scalars
from pgjax.estimators import Estimator
from pgjax.records import configured
from pgjax.tokens.bonuses import LossBonus, RewardBonus, TokenWeights, bonus_of
from pgjax.tokens.objective import Aggregation
from pgjax.tokens.penalties import LossPenalty, RewardPenalty, reference_of
from pgjax.types import Term, Trajectory, Weights, check_part, describe

Penalty = RewardPenalty | LossPenalty
Bonus = RewardBonus | LossBonus


class Options(TypedDict, total=False):
    """Keyword arguments of every estimator over tokens; each is None by default.

    Attributes:
        kl: a penalty, from `pgjax.tokens.penalties`.
        entropy: a bonus, from `pgjax.tokens.bonuses`.
        correction: of the sampler, from `pgjax.tokens.corrections`.
    """

    kl: Penalty | None
    entropy: Bonus | None
    correction: Weights | None


def estimator(
    advantage: Weights,
    aggregation: Aggregation,
    term: Term,
    *,
    kl: Penalty | None = None,
    entropy: Bonus | None = None,
    correction: Weights | None = None,
) -> Estimator:
    """Your own composition of weights and a term.

    weights = (advantage − penalty + bonus) × correction × aggregation, where the penalty and the
    bonus are in the reward. In the loss, a penalty is subtracted from the term and a bonus added.

    Args:
        advantage: (batch, log_prob) -> [N, T], from `pgjax.tokens.advantages` or `pgjax.weights`.
        aggregation: (batch) -> [N, T] or [N, 1].
        term: from `pgjax.terms`.
        kl: a penalty, from `pgjax.tokens.penalties`.
        entropy: a bonus, from `pgjax.tokens.bonuses`.
        correction: of the sampler, from `pgjax.tokens.corrections`.

    Raises:
        TypeError: if a part is not a function of its arguments, `kl` no penalty, or `entropy` no
            bonus.

    Bias: that of its parts.

    Example:
        >>> from pgjax import terms, tokens
        >>> mine = tokens.estimator(
        ...     tokens.advantages.leave_one_out, tokens.sequence_sum, terms.score)
        >>> mine == tokens.rloo()
        True
    """
    if kl is not None and not isinstance(kl, RewardPenalty | LossPenalty):
        raise TypeError(
            f"kl must be a penalty of pgjax.tokens, got {describe(kl)}; "
            "tokens.kl_in_loss(0.04) is one"
        )
    if entropy is not None and not isinstance(entropy, RewardBonus | LossBonus):
        raise TypeError(
            f"entropy must be a bonus of pgjax.tokens, got {describe(entropy)}; "
            "tokens.entropy_in_loss(0.01) is one"
        )
    penalty = kl if isinstance(kl, LossPenalty) else None
    bonus = entropy if isinstance(entropy, LossBonus) else None
    weights = configured(
        _token_weights,
        advantage=charged(check_part("advantage", advantage, "weights"), kl, entropy),
        aggregation=check_part("aggregation", aggregation, "aggregation"),
        correction=None if correction is None else check_part("correction", correction, "weights"),
        has_penalty=penalty is not None,
        bonus=None if bonus is None else "sampled" if bonus.is_sampled else "exact",
    )
    check_part("term", term, "term")
    if penalty is None and bonus is None:
        return Estimator(weights, term)
    return Estimator(weights, configured(_with_extras, term=term, penalty=penalty, bonus=bonus))


def charged(advantage: Weights, kl: Penalty | None, entropy: Bonus | None) -> Weights:
    """The advantage less the penalty, plus the bonus, that are in the reward.

    Bias: that of its parts.
    """
    for each in (kl, entropy):
        if isinstance(each, RewardPenalty | RewardBonus):
            advantage = configured(_charged, advantage=advantage, charge=each.charge)
    return advantage


def in_loss(options: Options) -> Options:
    """The options without penalties and bonuses in the reward.

    Bias: does not apply.
    """
    rewards = RewardPenalty, RewardBonus
    kept = {name: x for name, x in options.items() if not isinstance(x, rewards)}
    return cast(Options, kept)


def _charged(batch: Trajectory, log_prob: Array, *, advantage: Weights, charge: Weights) -> Array:
    return advantage(batch, log_prob) - charge(batch, log_prob)


def _token_weights(
    batch: Trajectory,
    log_prob: Array,
    *,
    advantage: Weights,
    aggregation: Aggregation,
    correction: Weights | None,
    has_penalty: bool,
    bonus: str | None,
) -> Array | TokenWeights:
    reference = reference_of(batch) if has_penalty else None
    credit = advantage(batch, log_prob)
    if correction is not None:
        credit = credit * correction(batch, log_prob)
    share = jnp.broadcast_to(aggregation(batch), batch.mask.shape)
    if not has_penalty and bonus is None:
        return credit * share
    return TokenWeights(credit * share, share, reference, reads_entropy=bonus == "exact")


def _with_extras(
    log_prob: Array,
    behaviour: Array,
    weight: TokenWeights,
    mask: Bool[Array, "T"],
    *,
    term: Term,
    penalty: LossPenalty | None,
    bonus: LossBonus | None,
) -> Array:
    """A term whose weights are TokenWeights, less the penalty's estimates, and the bonus."""
    found = term(log_prob, behaviour, weight.credit, mask)
    if penalty is not None:
        check_scalars(coefficient=penalty.coefficient)
        estimate = penalty.estimate(log_prob, weight.reference, behaviour, mask)
        coefficient = jnp.asarray(penalty.coefficient, estimate.dtype)
        found = found - coefficient * weight.share * jnp.where(mask, estimate, 0)
    if bonus is not None:
        added = bonus_of(bonus, log_prob, weight.entropy)
        found = found + weight.share * jnp.where(mask, added, 0)
    return found
