"""Entropy and the KL divergence to a reference policy, `old`: each form held to its estimand.

A form in the reward, and a bonus beside plain reward-to-go, is held to the gradient of the
regularised return. The gradient of a form in the loss, alone, is held to the local gradient, with
the visitation held fixed.
"""

from pgjax.proof.registry.row import Row

_LOG_REFERENCE = "pgjax.log_probs(policy, old, batch)"
_ESTIMANDS = {
    "∇E[Σ γ^t (r + β H)]": "pgjax.exact.entropy_regularized_gradient(problem, coefficient=β)",
    "Σ d ∇H": "pgjax.exact.local_entropy_gradient(problem)",
    "∇E[Σ γ^t (r − β KL)]": (
        "pgjax.exact.kl_regularized_gradient(problem, reference=π_old, coefficient=β)"
    ),
    "Σ d ∇KL": "pgjax.exact.local_kl_gradient(problem, reference=π_old)",
}


def _row(name: str, weights: str, term: str, bias: str, code: str, estimand: str) -> Row:
    return Row(name, code, weights, term, bias, estimand=estimand, truth=_ESTIMANDS[estimand])


def _of_reward(form: str) -> str:
    batch = f"pgjax.regularization.{form}"
    return f"pgjax.gradient(pgjax.reward_to_go(γ), policy, params, {batch})"


def _visited(term: str) -> str:
    return f"pgjax.Estimator(pgjax.regularization.visits(γ), pgjax.regularization.{term})"


def _kl_in_the_reward(k: str, bias: str) -> Row:
    code = _of_reward(f"with_{k}_reward(batch, {_LOG_REFERENCE}, β)")
    weights, estimand = f"γ^t G_t of r − β {k}", "∇E[Σ γ^t (r − β KL)]"
    return _row(f"{k} in the reward", weights, "score", bias, code, estimand)


def _kl_in_the_loss(k: str, bias: str) -> Row:
    """The divergence alone, whose gradient is to be subtracted."""
    batch = f"pgjax.regularization.with_reference(batch, {_LOG_REFERENCE})"
    code = f"pgjax.gradient({_visited(k)}, policy, params, {batch})"
    return _row(f"{k} in the loss", "γ^t", k, bias, code, "Σ d ∇KL")


_ENTROPY_GRADIENT = "pgjax.regularization.entropy_gradient(policy, params, batch, discount=γ)"

REGULARISED = (
    _row(
        "entropy in the reward",
        "γ^t G_t of r − β log π",
        "score",
        "none",
        _of_reward("with_entropy_reward(batch, β)"),
        "∇E[Σ γ^t (r + β H)]",
    ),
    _row(
        "entropy bonus in the loss",
        "γ^t G_t, and γ^t",
        "score, and β H",
        "biased: the entropy of later states is not credited",
        "jax.tree.map(lambda x, y: x + β * y, pgjax.gradient(pgjax.reward_to_go(γ), policy, "
        f"params, batch), {_ENTROPY_GRADIENT})",
        "∇E[Σ γ^t (r + β H)]",
    ),
    _row("entropy, exact", "γ^t", "H", "none", _ENTROPY_GRADIENT, "Σ d ∇H"),
    _row(
        "entropy, −(log π)²/2",
        "γ^t",
        "−(log π)²/2",
        "none",
        _visited("squared_entropy"),
        "Σ d ∇H",
    ),
    _row(
        "entropy, −log π",
        "γ^t",
        "−log π",
        "biased: zero in expectation",
        _visited("sampled_entropy"),
        "Σ d ∇H",
    ),
    _kl_in_the_reward("k1", "none"),
    _kl_in_the_reward("k2", "biased: E[k2] is not the KL, and its own gradient is left out"),
    _kl_in_the_reward("k3", "biased by β Σ d ∇KL(ref‖π)"),
    _kl_in_the_loss("k1", "biased: zero in expectation"),
    _kl_in_the_loss("k2", "none"),
    _kl_in_the_loss("k3", "biased: the mean is Σ d ∇KL(ref‖π), of the other divergence"),
)
