"""Exact truth on a finite MDP: J, V, Q, discounted visitation, ∇J, ∇²J, and estimates' moments.

Every function takes a Problem: an MDP with S states and A actions, a policy, its P parameters, and
the horizon H. Policies and MDPs are read, never sampled. No estimator is imported, so that the
truth does not depend on what it judges. Everything is computed in float64, whatever the caller's
setting, and returned as NumPy arrays.

An infinite horizon, None, needs γ < 1 or episodes that end with probability one. With a finite
horizon J is the H-step objective, and values depend on time. `Problem.behaviour` is not read here.
"""

from pgjax.exact.derivatives import gradient as gradient
from pgjax.exact.derivatives import hessian as hessian
from pgjax.exact.derivatives import mismatched_gradient as mismatched_gradient
from pgjax.exact.derivatives import third_derivative as third_derivative
from pgjax.exact.dynamics import action_probabilities as action_probabilities
from pgjax.exact.moments import moments as moments
from pgjax.exact.moments import optimal_state_baseline as optimal_state_baseline
from pgjax.exact.moments import spread as spread
from pgjax.exact.problem import Problem as Problem
from pgjax.exact.recursion import MISMATCHED as MISMATCHED
from pgjax.exact.recursion import REWARD_TO_GO as REWARD_TO_GO
from pgjax.exact.recursion import TOTAL_RETURN as TOTAL_RETURN
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
