"""The table of bad input, for tokens of a language model: `tests.bad_input` says how to read it."""

import jax.numpy as jnp
import numpy as np
from jax import device_put

from pgjax import language_models, tokens
from pgjax.proof.registry import TOKENS
from pgjax.tokens.objective import SharedWeights
from tests.bad_input import PAIR, PART, RESULT, USED, Row, row
from tests.bad_values import (
    BATCH,
    COUNT,
    NOTHING,
    PER_STEP,
    PROBLEM,
    RATE,
    TERMS,
    Kind,
    N,
    T,
    arrays,
    functions,
    numbers,
    of_type,
)

LOG_PROB = arrays(
    np.full((N, T), -0.5),
    above=PER_STEP,
    NaN=np.full((N, T), np.nan),
    integers=-np.ones((N, T), int),
)
GOOD = tokens.Batch(
    LOG_PROB.good,
    *device_put((np.ones((N, T), bool), np.arange(float(N)), np.zeros(N, int))),
)


def changed(**fields: object) -> tokens.Batch:
    return GOOD.replace(**fields)  # pyright: ignore[reportAttributeAccessIssue]


BATCHES = Kind(
    GOOD,
    NOTHING
    | {
        "an array": PER_STEP,
        "a trajectory": BATCH,
        "a factory not called": tokens.Batch,
        "no live token": changed(mask=device_put(np.zeros((N, T), bool))),
        "a mask of floats": changed(mask=PER_STEP),
        "one row": changed(mask=device_put(np.ones(T, bool))),
        "rewards of another number": changed(reward=device_put(np.zeros(N + 1))),
        "rewards of strings": changed(reward=np.full(N, "one")),
        "a group of floats": changed(group=device_put(np.zeros(N))),
        "log-probabilities above zero": changed(log_prob=PER_STEP),
        "a field None": changed(log_prob=None),
        "a reference of another shape": changed(reference_log_prob=device_put(np.ones((N, 1)))),
    },
)
ESTIMATORS = Kind(
    tokens.reinforce(),
    NOTHING | {"a number": 0.9, "a factory not called": tokens.rloo, "a batch": GOOD},
)
ADVANTAGES = functions(
    tokens.advantages.outcome, tokens.advantages.standardized, tokens.advantages.best_of
)
AGGREGATIONS = functions(tokens.sequence_sum, tokens.constant_length)
BELOW_ONE = numbers(3.0, below=1.1)
WIDTH = numbers(0.2, below=-0.5)
POSITIVE = numbers(1.0, below=-0.5, zero=0.0)
WORDS = {"None": None, "a number": 3, "another word": "me", "an array": PER_STEP}
ESTIMATES = Kind("k1", WORDS | {"a function": tokens.rloo})
ENTROPY = arrays(PER_STEP, integers=np.ones((N, T), int))
OPTIONS = {"options": "they are those of tokens.estimator"}
MODEL = language_models.three_tokens()
MODELS = of_type(MODEL, **{"a problem": PROBLEM, "a factory not called": language_models.models})
ACTING = Kind("policy", WORDS)
SHARED = SharedWeights(PER_STEP, device_put(np.full(N, 1 / N)))


def of_tokens(name: str, **kinds: Kind) -> Row:
    """A row of a function whose settings have the names that they have everywhere in tokens."""
    common = {
        "advantage": ADVANTAGES,
        "aggregation": AGGREGATIONS,
        "estimator": ESTIMATORS,
        "batch": BATCHES,
        "log_prob": LOG_PROB,
        "estimate": ESTIMATES,
        "entropy": ENTROPY,
        "k": COUNT.with_good(2),
        "positive": POSITIVE,
        "negative": POSITIVE,
        "low": RATE.with_good(0.1),
        "high": RATE.with_good(0.1),
        "clip_low": RATE.with_good(0.2),
        "clip_high": WIDTH,
        "width": WIDTH,
        "acting": ACTING,
        "model": MODELS,
        "term": TERMS,
    }
    return row(
        f"tokens.{name}" if "." in name and not name.startswith("proof") else name,
        skip=OPTIONS if "estimators." in name else None,
        **common | kinds,
    )


ROWS = [
    *(of_tokens(f"estimators.on_policy.{name}") for name in ("gpg", "maxrl", "opo", "reinforce")),
    of_tokens("estimators.on_policy.remax"),
    of_tokens("estimators.on_policy.rloo"),
    of_tokens("estimators.on_policy.pkpo", baseline=Kind("loo-1", WORDS)),
    *(
        of_tokens(f"estimators.clipped.{name}", ceiling=BELOW_ONE)
        for name in ("ppo", "grpo", "dapo", "dr_grpo")
    ),
    of_tokens("estimators.clipped.lite_ppo"),
    of_tokens("estimators.clipped.reinforce_plus_plus"),
    of_tokens("estimators.clipped.reinforce_plus_plus_baseline"),
    of_tokens(
        "estimators.token_ratios.cispo",
        floor=numbers(0.1, below=-0.5),
        clip_low=Kind(None, RATE.bad),
        clip_high=Kind(None, WIDTH.bad),
    ),
    of_tokens("estimators.token_ratios.sapo"),
    of_tokens("estimators.token_ratios.dppo"),
    of_tokens("estimators.token_ratios.dppo_kl", low=WIDTH, high=WIDTH),
    *(of_tokens(f"estimators.sequence_ratios.{name}") for name in ("gspo", "gspo_token", "luspo")),
    of_tokens("estimators.sequence_ratios.gmpo"),
    of_tokens("estimators.sequence_ratios.vespo", positive=PAIR, negative=PAIR),
    of_tokens(
        "composition.estimator",
        kl=of_type(tokens.kl_in_loss(0.1), **{"a factory not called": tokens.kl_in_loss}),
        entropy=of_type(tokens.entropy_in_loss(0.1), **{"a penalty": tokens.kl_in_loss(0.1)}),
        correction=functions(
            tokens.corrections.token_truncation(2.0), tokens.corrections.token_truncation
        ),
    ),
    of_tokens("advantages.generalized_advantage"),
    of_tokens("advantages.reward_to_go"),
    of_tokens("advantages.scaled_by_batch"),
    of_tokens("advantages.standardized"),
    of_tokens("aggregation.constant_length", length=POSITIVE),
    *(of_tokens(f"best_of.{n}") for n in ("best_of", "best_of_leave_one_out", "best_of_less_mean")),
    of_tokens("best_of.gain_in_best"),
    *(of_tokens(f"bonuses.{n}") for n in ("entropy_in_loss", "entropy_in_reward")),
    of_tokens("bonuses.sampled_entropy_in_loss"),
    *(
        of_tokens(f"corrections.{name}", low=numbers(0.5, below=-0.5), high=numbers(2.0, below=0.1))
        for name in ("geometric_mask", "sequence_mask", "token_mask")
    ),
    *(of_tokens(f"corrections.{n}") for n in ("sequence_truncation", "token_truncation")),
    *(
        of_tokens(f"penalties.{name}")
        for name in (
            *("kl_in_loss", "kl_in_loss_by_prefix_ratio", "kl_in_loss_by_token_ratio"),
            *("kl_in_own_reward", "kl_in_reward"),
        )
    ),
    of_tokens("objective.aggregate", x=arrays(PER_STEP)),
    of_tokens("objective.loss", weights=of_type(SHARED, array=PER_STEP)),
    of_tokens("objective.surrogate", weights=of_type(SHARED, array=PER_STEP)),
    of_tokens("objective.metrics", entropy=arrays(PER_STEP)),
    of_tokens("objective.shared_weights", axis_name=Kind(None, {"a number": 3})),
    of_tokens(
        "log_probs.log_probs",
        hidden=arrays(np.ones((N, 2))),
        table=arrays(np.ones((2, 5))),
        token=arrays(np.zeros(N, int), floats=np.zeros(N)),
        temperature=POSITIVE,
        bias=arrays(np.zeros(5)),
        softcap=POSITIVE,
        chunk=COUNT,
    ),
    of_tokens("proof.language_models.of_length"),
    of_tokens("proof.token_losses.judge_loss", loss=functions(lambda log_prob: jnp.sum(log_prob))),
    of_tokens(
        "proof.token_certificate.certify_tokens",
        rows=of_type(TOKENS[:1], **{"one row": TOKENS[0]}),
        language_models=of_type([MODEL], **{"one model": MODEL, "a list of problems": [PROBLEM]}),
        group_sizes=Kind([2], NOTHING | {"a number": 2, "zero": [0], "half": [2.5]}),
        acting=Kind(["policy"], NOTHING | {"a word": "policy", "another word": ["me"]}),
    ),
    of_tokens("proof.token_certificate.refuted", certificates=of_type([])),
    of_tokens("proof.token_certificate.table", certificates=of_type([], empty=[])),
]

NOT_IN_TABLE = {
    **dict.fromkeys(
        [
            *("tokens.objective.SharedWeights", "proof.token_certificate.TokenCertificate"),
            "proof.registry.rows_tokens.TokenRow",
            *("proof.language_models.models", "proof.language_models.three_tokens"),
            "proof.language_models.with_tool",
        ],
        RESULT,
    ),
    **dict.fromkeys(["tokens.batch.Batch", "proof.language_models.LanguageModel"], USED),
    **dict.fromkeys(
        [
            *(
                f"tokens.advantages.{n}"
                for n in (
                    *(
                        "along_live_tokens",
                        "leave_one_out",
                        "less_group_mean",
                        "less_mean_by_length",
                    ),
                    *("less_value", "of_informative_groups", "outcome", "relative_to_mean"),
                )
            ),
            *(
                f"tokens.aggregation.{n}"
                for n in (*("prompt_mean", "sequence_mean", "sequence_sum", "token_mean"),)
            ),
            *("proof.language_models.answers", "proof.language_models.language_mdp"),
            "proof.language_models.truncated",
        ],
        PART,
    ),
}
