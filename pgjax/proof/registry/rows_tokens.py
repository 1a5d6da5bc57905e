"""Estimators over tokens, with the claimed bias of each on-policy."""

from typing import NamedTuple


class TokenRow(NamedTuple):
    """An estimator over the tokens of a language model, as its certificate needs it.

    Attributes:
        name: as tables print it.
        code: an expression that runs after `import math, pgjax` and `from pgjax import tokens,
            terms`; an Estimator.
        bias: for the estimand, if the policy itself draws the tokens. It begins with "none" if and
            only if there is none; a certificate refutes a false claim.
        estimand: "∇J"; "∇(J − KL)", less the divergence from the reference; "∇(J + H)", plus the
            entropy of an answer; or "∇ best of 2".
    """

    name: str
    code: str
    bias: str
    estimand: str = "∇J"

    @property
    def is_unbiased(self) -> bool:
        """Whether the row claims so."""
        return self.bias.startswith("none")


_SUM = "tokens.estimator(tokens.advantages.leave_one_out, tokens.sequence_sum, {})"
_MEAN = "tokens.estimator(tokens.advantages.leave_one_out, {}, terms.score)"

TOKENS: tuple[TokenRow, ...] = (
    TokenRow("REINFORCE", "tokens.reinforce()", "none"),
    TokenRow("RLOO", "tokens.rloo()", "none"),
    TokenRow("ReMax", "tokens.remax()", "none"),
    TokenRow("OPO", "tokens.opo()", "biased: own reward in the baseline"),
    TokenRow("PPO, λ = 1", "tokens.ppo(lambda_=1.0)", "biased: number of tokens"),
    TokenRow("PPO", "tokens.ppo()", "biased: number of tokens"),
    TokenRow("GRPO", "tokens.grpo()", "biased: lengths, deviation, own reward"),
    TokenRow("Dr. GRPO", "tokens.dr_grpo()", "biased: a factor (G−1)/G"),
    TokenRow("DAPO", "tokens.dapo()", "biased: number of tokens, deviation, own reward"),
    TokenRow("Lite PPO", "tokens.lite_ppo()", "biased: number of tokens, deviation, own reward"),
    TokenRow("REINFORCE++", "tokens.reinforce_plus_plus()", "biased: number of tokens, whitening"),
    TokenRow(
        "REINFORCE++ baseline",
        "tokens.reinforce_plus_plus_baseline()",
        "biased: number of tokens, whitening, own reward",
    ),
    TokenRow("GSPO", "tokens.gspo()", "biased: as GRPO"),
    TokenRow("GSPO-token", "tokens.gspo_token()", "biased: as GRPO"),
    TokenRow("CISPO", "tokens.cispo()", "biased: as DAPO"),
    TokenRow("GMPO", "tokens.gmpo()", "biased: as GRPO"),
    TokenRow("SAPO", "tokens.sapo()", "biased: as GRPO"),
    TokenRow("LUSPO", "tokens.luspo()", "biased: deviation, own reward"),
    TokenRow("VESPO", "tokens.vespo()", "biased: as DAPO"),
    TokenRow("DPPO", "tokens.dppo(0.1, 0.1)", "biased: number of tokens, own reward"),
    TokenRow("DPPO-KL", "tokens.dppo_kl(0.02, 0.02)", "biased: number of tokens, own reward"),
    TokenRow("PKPO, best of 2", "tokens.pkpo(2)", "none", "∇ best of 2"),
    TokenRow("PKPO, no baseline", 'tokens.pkpo(2, baseline="none")', "none", "∇ best of 2"),
    TokenRow("MaxRL", "tokens.maxrl()", "biased on purpose"),
    TokenRow("GPG", "tokens.gpg()", "biased: number of tokens, own reward"),
    TokenRow("mean of sums", _MEAN.format("tokens.sequence_sum"), "none"),
    TokenRow("token mean", _MEAN.format("tokens.token_mean"), "biased: number of tokens"),
    TokenRow("prompt mean", _MEAN.format("tokens.prompt_mean"), "biased: number of tokens"),
    TokenRow("mean of means", _MEAN.format("tokens.sequence_mean"), "biased: lengths"),
    TokenRow("sequence ratio", _SUM.format("terms.sequence_ratio"), "none"),
    TokenRow("prefix ratio", _SUM.format("terms.prefix_ratio"), "none"),
    TokenRow("token ratio", _SUM.format("terms.importance_ratio"), "none"),
    TokenRow("PPO clip 0.2", _SUM.format("terms.ppo_clip(0.2)"), "none"),
    TokenRow(
        "token truncation 2",
        "tokens.rloo(correction=tokens.corrections.token_truncation(2.0))",
        "none",
    ),
    TokenRow(
        "sequence truncation 2",
        "tokens.rloo(correction=tokens.corrections.sequence_truncation(2.0))",
        "none",
    ),
    TokenRow(
        "sequence mask 3",
        "tokens.rloo(correction=tokens.corrections.sequence_mask(0.0, 3.0))",
        "none",
    ),
    TokenRow("k1 in the reward", "tokens.rloo(kl=tokens.kl_in_reward(1.0))", "none", "∇(J − KL)"),
    TokenRow(
        "k3 in the loss, prefix ratio",
        "tokens.rloo(kl=tokens.kl_in_loss_by_prefix_ratio(1.0))",
        "none",
        "∇(J − KL)",
    ),
    TokenRow(
        "k3 in the loss, token ratio",
        "tokens.rloo(kl=tokens.kl_in_loss_by_token_ratio(1.0))",
        "biased: later tokens",
        "∇(J − KL)",
    ),
    TokenRow(
        "k2 in the loss",
        'tokens.rloo(kl=tokens.kl_in_loss(1.0, "k2"))',
        "biased: later tokens",
        "∇(J − KL)",
    ),
    TokenRow(
        "k3 in the loss",
        "tokens.rloo(kl=tokens.kl_in_loss(1.0))",
        "biased: of another divergence",
        "∇(J − KL)",
    ),
    TokenRow(
        "k1 in the loss",
        'tokens.rloo(kl=tokens.kl_in_loss(1.0, "k1"))',
        "biased: no penalty at all",
        "∇(J − KL)",
    ),
    TokenRow(
        "entropy in the reward",
        "tokens.rloo(entropy=tokens.entropy_in_reward(1.0))",
        "none",
        "∇(J + H)",
    ),
    TokenRow(
        "entropy in the loss, sampled",
        "tokens.rloo(entropy=tokens.sampled_entropy_in_loss(1.0))",
        "biased: later tokens",
        "∇(J + H)",
    ),
)
