"""Baselines of least variance, fitted to the batch that they are used on, cross-fitted or not.

Reward-to-go's estimate from one trajectory is Σ_t γ^t c_t (G_t − b_t), with the scores
c_t = ∇log π(a_t|s_t). Let b_t = φ_t·β be a combination of features φ_t of the state and the time.
Then the estimate's second moment is quadratic in β. No such baseline changes the mean, so the least
second moment is the least variance:

> E[Φᵀ K Φ] β = E[Φᵀ K G],  K_tt' = γ^t γ^t' c_t·c_t'.

Here Φ has the rows φ_t, and G holds the returns G_t. The products K come from the policy, and the
features and returns from the batch. The fitted baseline goes into the batch as its `value`, and
`recorded_value` subtracts it. So an estimator stays weights × term:

>>> import jax, jax.numpy as jnp
>>> from dataclasses import replace
>>> from pgjax import Problem, enumeration, gradient, reward_to_go, tabular, tabular_softmax
>>> from pgjax.baselines import recorded_value
>>> from pgjax.weights import returns_to_go
>>> mdp, policy, params = tabular.chain(), tabular_softmax(7, 2), jnp.zeros((7, 2))
>>> batch, _ = enumeration.trajectories(Problem(mdp, policy, params, horizon=3))
>>> batch = jax.tree.map(jnp.asarray, batch)
>>> products = score_products(policy, params, batch, discount=0.9)
>>> value = cross_fitted(time_steps(batch), products, returns_to_go(batch, 0.9), folds=4)
>>> estimator = reward_to_go(0.9, baseline=recorded_value)
>>> gradient(estimator, policy, params, replace(batch, value=value)).shape
(7, 2)

A baseline fitted to the trajectory that it is subtracted from depends on its actions, and biases
the estimate. Cross-fitting splits the batch into folds. Each fold gets the baseline that was fitted
to the others. A weight cannot hold a baseline for each parameter: `per_parameter_cross_fitted`
takes the trajectories' gradients instead, and returns their corrected mean.
"""

from pgjax.control_variates.baselines import coefficients as coefficients
from pgjax.control_variates.baselines import cross_fitted as cross_fitted
from pgjax.control_variates.baselines import (
    per_parameter_cross_fitted as per_parameter_cross_fitted,
)
from pgjax.control_variates.baselines import per_parameter_same_batch as per_parameter_same_batch
from pgjax.control_variates.baselines import same_batch as same_batch
from pgjax.control_variates.features import observations as observations
from pgjax.control_variates.features import scalar as scalar
from pgjax.control_variates.features import score_products as score_products
from pgjax.control_variates.features import time_steps as time_steps
