"""Weights: functions (batch, log_prob [N, T]) -> [N, T], the credit that each action gets.

Of an estimator's two parts, only the weights see the whole batch. `on_policy` says what the
settings mean. `normalised` has weights divided by their deviation or the episode's length.
`off_policy` has weights for batches in which another policy acted.
"""

from pgjax.types import Number
from pgjax.types import Weights as Weights
from pgjax.weights import off_policy as off_policy
from pgjax.weights.normalised import centred as centred
from pgjax.weights.normalised import divided_by_length as divided_by_length
from pgjax.weights.normalised import whitened as whitened
from pgjax.weights.on_policy import generalized_advantage as generalized_advantage
from pgjax.weights.on_policy import lambda_return as lambda_return
from pgjax.weights.on_policy import (
    mismatched_generalized_advantage as mismatched_generalized_advantage,
)
from pgjax.weights.on_policy import mismatched_reward_to_go as mismatched_reward_to_go
from pgjax.weights.on_policy import n_step as n_step
from pgjax.weights.on_policy import returns_to_go as returns_to_go
from pgjax.weights.on_policy import reward_to_go as reward_to_go
from pgjax.weights.on_policy import total_return as total_return

Discount = Rate = Number
