"""Baselines of least variance, fitted to the batch: cross-fitted, and as others ship them.

At K = 2 a fit has one trajectory to go by, and the same-batch bias is at its largest.
"""

from pgjax.proof.registry.row import Row

_FITS = {
    "cross-fitted": ("cross_fitted", ", folds=2", "none"),
    "same-batch": ("same_batch", "", "biased, O(1/K): fitted to its own actions"),
}
_FEATURES = {"b": "scalar", "b(t)": "time_steps", "b(s_t)": "observations"}


def _fitted(kind: str, baseline: str) -> Row:
    fit, options, bias = _FITS[kind]
    value = (
        f"pgjax.control_variates.{fit}(pgjax.control_variates.{_FEATURES[baseline]}(batch), "
        "pgjax.control_variates.score_products(policy, params, batch, discount=γ), "
        f"pgjax.weights.returns_to_go(batch, γ){options})"
    )
    code = (
        "pgjax.gradient(pgjax.reward_to_go(γ, baseline=pgjax.baselines.recorded_value), "
        f"policy, params, batch.replace(value={value}))"
    )
    name, weights = f"reward-to-go − {kind} {baseline}", f"γ^t (G_t − {baseline})"
    return Row(name, code, weights, "score", bias, batch_size=2)


def _per_parameter(kind: str) -> Row:
    fit, options, bias = _FITS[kind]
    gradients, scores = (
        f"pgjax.per_trajectory_gradients({estimator}, policy, params, batch)"
        for estimator in (
            "pgjax.reward_to_go(γ)",
            "pgjax.Estimator(pgjax.regularization.visits(γ), pgjax.terms.score)",
        )
    )
    code = f"pgjax.control_variates.per_parameter_{fit}({gradients}, {scores}{options})"
    weights = "γ^t (G_t − b_p for each parameter p)"
    return Row(f"reward-to-go − {kind} b_p", code, weights, "score", bias, batch_size=2)


FITTED_BASELINES = (
    *(_fitted(kind, baseline) for baseline in _FEATURES for kind in _FITS),
    *map(_per_parameter, _FITS),
)
