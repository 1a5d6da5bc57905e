"""Off-policy weights, for the score term and batches in which another policy μ acted.

A ratio is π(a_t|s_t)/μ(a_t|s_t): weights are given log π, and `batch.log_prob` is log μ. Importance
sampling corrects the actions, what follows them, and the states they are taken in. V-trace and
Retrace use a critic and bounded ratios. They leave the states to μ, unless `on_target_states`
corrects them too.
"""

from pgjax.weights.off_policy.importance import normalised_per_decision as normalised_per_decision
from pgjax.weights.off_policy.importance import (
    normalised_trajectory_importance as normalised_trajectory_importance,
)
from pgjax.weights.off_policy.importance import on_target_states as on_target_states
from pgjax.weights.off_policy.importance import per_decision as per_decision
from pgjax.weights.off_policy.importance import trajectory_importance as trajectory_importance
from pgjax.weights.off_policy.ratios import cumulative_log_ratios as cumulative_log_ratios
from pgjax.weights.off_policy.ratios import log_ratios as log_ratios
from pgjax.weights.off_policy.ratios import ratio_below as ratio_below
from pgjax.weights.off_policy.traces import action_value_targets as action_value_targets
from pgjax.weights.off_policy.traces import retrace as retrace
from pgjax.weights.off_policy.traces import tree_backup as tree_backup
from pgjax.weights.off_policy.traces import vtrace as vtrace
from pgjax.weights.off_policy.traces import vtrace_targets as vtrace_targets
