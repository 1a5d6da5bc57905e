"""Policy gradients over the tokens of a language model: arrays in, a scalar out.

No environment and no network: your own train step computes log-probabilities, in any framework,
sharded as you like, and `loss` is differentiated through them. An estimator is weights × term as
everywhere in pgjax, so its bias can be computed exactly (`pgjax.proof`), and

    weights = (advantage − penalty + bonus) × correction × aggregation.

Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> from pgjax import tokens
    >>> estimator = tokens.grpo()
    >>> def log_probs(params, prompt_and_answer):  # your network
    ...     return jax.nn.log_softmax(params)[prompt_and_answer]
    >>> @jax.jit
    ... def train_step(params, state, answers, batch):
    ...     def objective(params):
    ...         return tokens.loss(estimator, log_probs(params, answers), batch)
    ...     gradient = jax.grad(objective)(params)
    ...     updates, state = optimizer.update(gradient, state)
    ...     return optax.apply_updates(params, updates), state
    >>> params, optimizer = jnp.zeros(3), optax.adam(0.1)
    >>> answers = jnp.array([[0, 1], [2, 2]])
    >>> batch = tokens.Batch(log_probs(params, answers), jnp.ones((2, 2), bool),
    ...     reward=jnp.array([1.0, 0.0]), group=jnp.array([0, 0]))
    >>> params, _ = train_step(params, optimizer.init(params), answers, batch)
    >>> print(params.round(1))
    [ 0.1  0.1 -0.1]
"""

from pgjax.tokens import advantages as advantages
from pgjax.tokens import corrections as corrections
from pgjax.tokens.aggregation import constant_length as constant_length
from pgjax.tokens.aggregation import prompt_mean as prompt_mean
from pgjax.tokens.aggregation import sequence_mean as sequence_mean
from pgjax.tokens.aggregation import sequence_sum as sequence_sum
from pgjax.tokens.aggregation import token_mean as token_mean
from pgjax.tokens.batch import Batch as Batch
from pgjax.tokens.bonuses import entropy_in_loss as entropy_in_loss
from pgjax.tokens.bonuses import entropy_in_reward as entropy_in_reward
from pgjax.tokens.bonuses import sampled_entropy_in_loss as sampled_entropy_in_loss
from pgjax.tokens.composition import estimator as estimator
from pgjax.tokens.estimators import cispo as cispo
from pgjax.tokens.estimators import dapo as dapo
from pgjax.tokens.estimators import dppo as dppo
from pgjax.tokens.estimators import dppo_kl as dppo_kl
from pgjax.tokens.estimators import dr_grpo as dr_grpo
from pgjax.tokens.estimators import gmpo as gmpo
from pgjax.tokens.estimators import gpg as gpg
from pgjax.tokens.estimators import grpo as grpo
from pgjax.tokens.estimators import gspo as gspo
from pgjax.tokens.estimators import gspo_token as gspo_token
from pgjax.tokens.estimators import lite_ppo as lite_ppo
from pgjax.tokens.estimators import luspo as luspo
from pgjax.tokens.estimators import maxrl as maxrl
from pgjax.tokens.estimators import opo as opo
from pgjax.tokens.estimators import pkpo as pkpo
from pgjax.tokens.estimators import ppo as ppo
from pgjax.tokens.estimators import reinforce as reinforce
from pgjax.tokens.estimators import reinforce_plus_plus as reinforce_plus_plus
from pgjax.tokens.estimators import (
    reinforce_plus_plus_baseline as reinforce_plus_plus_baseline,
)
from pgjax.tokens.estimators import remax as remax
from pgjax.tokens.estimators import rloo as rloo
from pgjax.tokens.estimators import sapo as sapo
from pgjax.tokens.estimators import vespo as vespo
from pgjax.tokens.log_probs import log_probs as log_probs
from pgjax.tokens.objective import SharedWeights as SharedWeights
from pgjax.tokens.objective import aggregate as aggregate
from pgjax.tokens.objective import loss as loss
from pgjax.tokens.objective import metrics as metrics
from pgjax.tokens.objective import shared_weights as shared_weights
from pgjax.tokens.objective import surrogate as surrogate
from pgjax.tokens.penalties import kl_in_loss as kl_in_loss
from pgjax.tokens.penalties import kl_in_loss_by_prefix_ratio as kl_in_loss_by_prefix_ratio
from pgjax.tokens.penalties import kl_in_loss_by_token_ratio as kl_in_loss_by_token_ratio
from pgjax.tokens.penalties import kl_in_own_reward as kl_in_own_reward
from pgjax.tokens.penalties import kl_in_reward as kl_in_reward
