"""Losses over tokens of other libraries, for `pgjax.judge_loss`: one generator a library."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from pgjax import terms, tokens
from pgjax.tokens import advantages
from pgjax.types import Estimator

TOKENS = 3
"""Of the longest answer of the model that the losses are judged on."""


ONE_PROCESS = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, **_: x)
NARROW = {"epsilon": 3e-4, "epsilon_high": 4e-4}
TOKEN_MEAN = tokens.dapo(clip_high=0.2)
CONSTANT_LENGTH = tokens.grpo(aggregation=tokens.constant_length(TOKENS))
Loss = Callable[..., Any]


class Case(NamedTuple):
    """A loss of a library, and the same of pgjax, if there is one."""

    name: str
    loss: Loss
    ours: Estimator | None = None


def given_advantages(term: Callable[..., Any]) -> Estimator:
    """With GRPO's advantages, and the mean over tokens."""
    return tokens.estimator(advantages.standardized(), tokens.token_mean, term)


def from_torch(loss: Loss, *asked: str) -> Loss:
    """∂loss/∂log_prob in NumPy, of a loss of tensors by keyword."""
    torch = importlib.import_module("torch")
    asked = ("log_prob", "old_log_prob", "mask", *(asked or ("advantages",)))

    def derivative(**fields: Any) -> np.ndarray:
        given = {name: torch.as_tensor(fields[name]) for name in asked}
        given["log_prob"].requires_grad_()
        loss(**given).backward()
        return given["log_prob"].grad.numpy()

    return derivative


def trl_losses() -> Iterator[Case]:
    """`GRPOTrainer._compute_loss`, with a trainer that has the log-probabilities already."""
    trl = importlib.import_module("trl")
    fields = trl.GRPOConfig.__dataclass_fields__

    def loss_of(loss_type: str, **changes: Any) -> Loss:
        config = {name: each.default for name, each in fields.items()}
        config |= {"steps_per_generation": 1, "max_completion_length": TOKENS} | changes
        high = config["epsilon_high"] or config["epsilon"]
        config |= {"loss_type": loss_type, "epsilon_low": config["epsilon"], "epsilon_high": high}
        config |= {"aux_loss_enabled": False, "_entropy_bonus_enabled": False}
        config |= {"current_gradient_accumulation_steps": 1, "accelerator": ONE_PROCESS}
        config |= {"get_gamma_weights": trl.GRPOTrainer.get_gamma_weights}

        def loss(log_prob: Any, old_log_prob: Any, mask: Any, advantages: Any) -> Any:
            trainer = mock.MagicMock(args=SimpleNamespace(**config), **config)
            trainer._get_per_token_logps_and_entropies.return_value = log_prob, 0 * log_prob, None
            inputs = dict.fromkeys(("prompt_ids", "prompt_mask", "completion_ids"), mask.long())
            inputs |= {"completion_mask": mask.long(), "num_items_in_batch": mask.sum()}
            inputs |= {"advantages": advantages, "old_per_token_logps": old_log_prob}
            return trl.GRPOTrainer._compute_loss(trainer, None, inputs)

        return from_torch(loss)

    narrow = NARROW | {"importance_sampling_level": "sequence"}
    yield Case("grpo", loss_of("grpo"), tokens.grpo())
    yield Case("dapo, its default", loss_of("dapo"), TOKEN_MEAN)
    yield Case("dr_grpo's aggregation", loss_of("dr_grpo"), CONSTANT_LENGTH)
    yield Case("cispo, its default ε_high 0.2", loss_of("cispo"), tokens.cispo(ceiling=1.2))
    yield Case("cispo, ε_high 5", loss_of("cispo", epsilon_high=5.0), tokens.cispo())
    yield Case("gspo", loss_of("grpo", **narrow), tokens.gspo())
    yield Case("luspo", loss_of("luspo", **narrow), tokens.luspo())
    yield Case("sapo", loss_of("sapo"), tokens.sapo())
    yield Case("vespo", loss_of("vespo"), tokens.vespo())


def verl_losses() -> Iterator[Case]:
    """Policy losses of `core_algos`, each with the aggregation that its signature names."""
    algorithms = importlib.import_module("verl.trainer.ppo.core_algos")
    actor = importlib.import_module("verl.workers.config").ActorConfig

    def loss_of(name: str, how: str | None = None, changes: Any = None) -> Loss:
        config = actor(strategy="fsdp", rollout_n=4, use_dynamic_bsz=True, **(changes or {}))
        policy_loss = algorithms.get_policy_loss_fn(name)
        options = {} if how is None else {"loss_agg_mode": how}

        def loss(log_prob: Any, old_log_prob: Any, mask: Any, advantages: Any) -> Any:
            rows = old_log_prob, log_prob, advantages[:, None].expand(mask.shape), 1.0 * mask
            return policy_loss(*rows, config=config, **options)[0]

        return from_torch(loss)

    narrow = {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}
    yield Case("vanilla, its default", loss_of("vanilla"), TOKEN_MEAN)
    for how, ours in (
        ("seq-mean-token-mean", tokens.grpo()),
        ("seq-mean-token-sum", tokens.grpo(aggregation=tokens.sequence_sum)),
        ("seq-mean-token-sum-norm", CONSTANT_LENGTH),
    ):
        yield Case(how, loss_of("vanilla", how), ours)
    yield Case("gspo", loss_of("gspo", changes=narrow), tokens.gspo_token())
    yield Case("cispo", loss_of("cispo"), tokens.cispo(clip_high=0.2, clip_low=0.2))
    yield Case("sapo", loss_of("sapo"), tokens.sapo())
    yield Case("geo_mean", loss_of("geo_mean"), tokens.gmpo(width=0.2))
    yield Case("dppo_tv", loss_of("dppo_tv"), given_advantages(terms.divergence_mask(0.2, 0.2)))
    yield Case("dppo_kl", loss_of("dppo_kl"), given_advantages(terms.kl_mask(0.2, 0.2)))
    yield Case("gpg", loss_of("gpg"), given_advantages(terms.score))


def polgrad_losses() -> Iterator[Case]:
    """The registry, each with its own advantage and without its penalty; ppo wants a critic."""
    polgrad = importlib.import_module("polgrad")

    def loss_of(spec: Any) -> Loss:
        budget = TOKENS if spec.loss.aggregation.value == "token_sum_norm" else None
        config, made = replace(spec.loss, kl=None, norm_len=budget), spec.advantage_config

        def loss(log_prob, old_log_prob, mask, rewards, groups, sampler_log_prob) -> Any:
            advantages = {
                "grpo": lambda: polgrad.grpo_advantages(rewards, groups, made),
                "rloo": lambda: polgrad.rloo_advantages(rewards, groups),
                "reinforce_pp": lambda: polgrad.reinforce_pp_advantages(rewards, config=made),
            }[spec.advantage]()
            rows = {"logprobs": log_prob, "old_logprobs": old_log_prob, "response_mask": mask}
            rows |= {"rollout_logprobs": sampler_log_prob} if config.is_correction else {}
            return polgrad.policy_loss(config, advantages=advantages, **rows).loss

        return from_torch(loss, "rewards", "groups", "sampler_log_prob")

    ours = {
        each: getattr(tokens, each)() for each in ("grpo", "dapo", "gspo", "gspo_token", "rloo")
    }
    ours |= {"cispo": tokens.cispo(ceiling=1.2), "grpo_tis": tokens.grpo()}
    ours |= {"dr_grpo": tokens.dr_grpo(aggregation=tokens.constant_length(TOKENS))}
    for name, spec in polgrad.ALGORITHMS.items():
        if name != "ppo":
            yield Case(name, loss_of(spec), ours.get(name))


def tunix_losses() -> Iterator[Case]:
    """`grpo_loss_fn`, in JAX and float32, with log-probabilities in place of a network."""
    algorithms = importlib.import_module("tunix.rl.algo_core")

    def loss_of(how: str, **changes: Any) -> Loss:
        usual = {"beta": None, "epsilon": 0.2, "loss_algo": "grpo", "temperature": 1.0}
        config = SimpleNamespace(loss_agg_mode=how, **usual | changes)

        def loss(log_prob: Any, old_log_prob: Any, mask: Any, advantages: Any) -> Any:
            rows = dict.fromkeys(("completion_ids", "prompt_ids", "completion_mask"), mask)
            rows |= {"advantages": advantages, "old_per_token_logps": old_log_prob}
            rows |= {"ref_per_token_logps": None}
            found = log_prob, np.zeros((*mask.shape, 2))
            with mock.patch.object(algorithms.common, "compute_per_token_logps") as network:
                network.return_value = found
                return algorithms.grpo_loss_fn({}, SimpleNamespace(**rows), config, 0, 0)[0]

        return loss

    mean = "sequence-mean-token-mean"
    yield Case("grpo, its default", loss_of(mean), tokens.grpo())
    yield Case("dapo", loss_of("token-mean", epsilon_high=0.28), tokens.dapo())
    yield Case("dr_grpo's aggregation", loss_of("sequence-mean-token-scale"), CONSTANT_LENGTH)
    narrow = NARROW | {"loss_algo": "gspo-token"}
    yield Case("gspo-token", loss_of(mean, **narrow), tokens.gspo_token())
