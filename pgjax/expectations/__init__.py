"""Gradients of expectations, ∇θ E_{x~p(θ)}[f(x)], for any distribution.

    expectations.gradient(estimator, f, distribution, params, key, num_samples=N)

Estimators are records, as in the rest of pgjax: their numbers are leaves of a pytree. The arguments
are explained in `pgjax.expectations.estimates`. `docs/expectations.md` says which estimator to
take; `docs/optax-monte-carlo.md` is for users of optax.monte_carlo, which left optax in 0.2.7.
"""

from pgjax.expectations import optax_compat as optax_compat
from pgjax.expectations.adapters import from_object as from_object
from pgjax.expectations.adapters import from_policy as from_policy
from pgjax.expectations.biased import gumbel_softmax as gumbel_softmax
from pgjax.expectations.biased import reinmax as reinmax
from pgjax.expectations.biased import straight_through as straight_through
from pgjax.expectations.biased import (
    straight_through_gumbel_softmax as straight_through_gumbel_softmax,
)
from pgjax.expectations.coupled import arm as arm
from pgjax.expectations.coupled import disarm as disarm
from pgjax.expectations.delta import delta_control_variate as delta_control_variate
from pgjax.expectations.distributions import Distribution as Distribution
from pgjax.expectations.distributions import bernoulli as bernoulli
from pgjax.expectations.distributions import categorical as categorical
from pgjax.expectations.distributions import normal as normal
from pgjax.expectations.distributions import one_hot_categorical as one_hot_categorical
from pgjax.expectations.distributions import poisson as poisson
from pgjax.expectations.estimates import gradient as gradient
from pgjax.expectations.estimates import jacobians as jacobians
from pgjax.expectations.estimates import objective as objective
from pgjax.expectations.estimates import per_sample_gradients as per_sample_gradients
from pgjax.expectations.estimator import ExpectationEstimator as ExpectationEstimator
from pgjax.expectations.natural import Natural as Natural
from pgjax.expectations.pathwise import antithetic as antithetic
from pgjax.expectations.pathwise import pathwise as pathwise
from pgjax.expectations.pathwise import quasi_monte_carlo as quasi_monte_carlo
from pgjax.expectations.programs import surrogate as surrogate
from pgjax.expectations.relaxed import rebar as rebar
from pgjax.expectations.relaxed import relax as relax
from pgjax.expectations.score import MovingAverage as MovingAverage
from pgjax.expectations.score import least_variance_constant as least_variance_constant
from pgjax.expectations.score import (
    least_variance_score_function as least_variance_score_function,
)
from pgjax.expectations.score import score_function as score_function
from pgjax.expectations.summed import all_outcomes as all_outcomes
from pgjax.expectations.summed import likeliest_outcomes as likeliest_outcomes
from pgjax.expectations.vimco import vimco as vimco
from pgjax.expectations.vimco import vimco_weights as vimco_weights
from pgjax.expectations.weak_derivatives import measure_valued as measure_valued
from pgjax.expectations.weak_derivatives import (
    uncoupled_measure_valued as uncoupled_measure_valued,
)
from pgjax.expectations.without_replacement import without_replacement as without_replacement
