"""The policy gradients that language models are trained with, as compositions.

Each is advantage × aggregation × term, and its settings are the differences between the
implementations that people use. Those that are common to all are

- aggregation: how tokens are averaged, from `pgjax.tokens.aggregation`; the paper's by default;
- kl: a penalty towards `batch.reference_log_prob`, from `pgjax.tokens.penalties`; none by default;
- entropy: a bonus, from `pgjax.tokens.bonuses`; none by default;
- correction: of a sampler that is not quite the policy, from `pgjax.tokens.corrections`.

The last three are the `options` of the signatures (`pgjax.tokens.composition.Options`).

Estimators by group read `batch.group`. A ValueError is raised if a setting is outside its range
and, at use, if the batch lacks what is read. "On-policy" means that the tokens were drawn from the
policy of the parameters to improve: the first update of a batch.

All gradients are for E[R], less β KL where there is a penalty, and plus β H where there is an
entropy bonus. The exact bias of each on small language models is in the certificate of tokens.
"""

from pgjax.tokens.estimators.clipped import dapo as dapo
from pgjax.tokens.estimators.clipped import dr_grpo as dr_grpo
from pgjax.tokens.estimators.clipped import grpo as grpo
from pgjax.tokens.estimators.clipped import lite_ppo as lite_ppo
from pgjax.tokens.estimators.clipped import ppo as ppo
from pgjax.tokens.estimators.clipped import reinforce_plus_plus as reinforce_plus_plus
from pgjax.tokens.estimators.clipped import (
    reinforce_plus_plus_baseline as reinforce_plus_plus_baseline,
)
from pgjax.tokens.estimators.on_policy import gpg as gpg
from pgjax.tokens.estimators.on_policy import maxrl as maxrl
from pgjax.tokens.estimators.on_policy import opo as opo
from pgjax.tokens.estimators.on_policy import pkpo as pkpo
from pgjax.tokens.estimators.on_policy import reinforce as reinforce
from pgjax.tokens.estimators.on_policy import remax as remax
from pgjax.tokens.estimators.on_policy import rloo as rloo
from pgjax.tokens.estimators.sequence_ratios import gmpo as gmpo
from pgjax.tokens.estimators.sequence_ratios import gspo as gspo
from pgjax.tokens.estimators.sequence_ratios import gspo_token as gspo_token
from pgjax.tokens.estimators.sequence_ratios import luspo as luspo
from pgjax.tokens.estimators.sequence_ratios import vespo as vespo
from pgjax.tokens.estimators.token_ratios import cispo as cispo
from pgjax.tokens.estimators.token_ratios import dppo as dppo
from pgjax.tokens.estimators.token_ratios import dppo_kl as dppo_kl
from pgjax.tokens.estimators.token_ratios import sapo as sapo
