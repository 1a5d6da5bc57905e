"""Exact truth on a finite MDP: J, V, Q, discounted visitation, ∇J, ∇²J, and estimates' moments.

Nothing here imports an estimator: the oracle stays independent of what it judges. Everything is
computed in float64, whatever the caller's setting, and returned as NumPy arrays. `horizon=None` is
the infinite horizon; it needs γ < 1, or episodes that end with probability one. A finite horizon H
is the H-step objective, and its values depend on time.
"""

from pgjax.exact.derivatives import differentiated_gradient as differentiated_gradient
from pgjax.exact.derivatives import differentiated_hessian as differentiated_hessian
from pgjax.exact.derivatives import (
    differentiated_third_derivative as differentiated_third_derivative,
)
from pgjax.exact.derivatives import gradient as gradient
from pgjax.exact.derivatives import hessian as hessian
from pgjax.exact.derivatives import mismatched_gradient as mismatched_gradient
from pgjax.exact.derivatives import third_derivative as third_derivative
from pgjax.exact.dynamics import action_probabilities as action_probabilities
from pgjax.exact.moments import mismatched_reward_to_go_moments as mismatched_reward_to_go_moments
from pgjax.exact.moments import mismatched_reward_to_go_spread as mismatched_reward_to_go_spread
from pgjax.exact.moments import optimal_state_baseline as optimal_state_baseline
from pgjax.exact.moments import reward_to_go_moments as reward_to_go_moments
from pgjax.exact.moments import reward_to_go_spread as reward_to_go_spread
from pgjax.exact.moments import total_return_moments as total_return_moments
from pgjax.exact.moments import total_return_spread as total_return_spread
from pgjax.exact.regularized import entropy_regularized_gradient as entropy_regularized_gradient
from pgjax.exact.regularized import entropy_regularized_objective as entropy_regularized_objective
from pgjax.exact.regularized import kl_regularized_gradient as kl_regularized_gradient
from pgjax.exact.regularized import kl_regularized_objective as kl_regularized_objective
from pgjax.exact.regularized import local_entropy_gradient as local_entropy_gradient
from pgjax.exact.regularized import local_kl_gradient as local_kl_gradient
from pgjax.exact.values import action_values as action_values
from pgjax.exact.values import objective as objective
from pgjax.exact.values import state_values as state_values
from pgjax.exact.values import visitation as visitation
