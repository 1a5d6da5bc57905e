"""Credit from a critic, whose values stand in for rewards to come: the exact V, and a wrong one."""

from pgjax.proof.registry.row import Row


def _with_wrong_values(estimator: str) -> str:
    return f"pgjax.gradient({estimator}, policy, params, wrong(batch))"


_GAE = "γ^t Σ_k (γλ)^k δ_{t+k}"
_TWO_STEP = "γ^t (r_t + γ r_{t+1} + γ² V(s_{t+2}) − V(s_t))"

CRITICS = (
    Row("GAE(0.95)", "pgjax.estimators.actor_critic(γ, 0.95)", _GAE, "score", "none"),
    Row(
        "GAE(0.9), wrong V",
        _with_wrong_values("pgjax.estimators.actor_critic(γ, 0.9)"),
        weights=_GAE,
        term="score",
        bias="biased: λ < 1 lets the wrong V in",
    ),
    Row(
        "GAE(1), wrong V",
        _with_wrong_values("pgjax.estimators.actor_critic(γ, 1.0)"),
        weights="γ^t (G_t − V(s_t))",
        term="score",
        bias="none",
    ),
    Row("TD error", "pgjax.estimators.actor_critic(γ, 0.0)", "γ^t δ_t", "score", "none"),
    Row(
        "TD error, wrong V",
        _with_wrong_values("pgjax.estimators.actor_critic(γ, 0.0)"),
        weights="γ^t δ_t",
        term="score",
        bias="biased: V is all there is after one reward",
    ),
    Row("2-step", "pgjax.estimators.n_step_actor_critic(γ, 2)", _TWO_STEP, "score", "none"),
    Row(
        "2-step, wrong V",
        _with_wrong_values("pgjax.estimators.n_step_actor_critic(γ, 2)"),
        weights=_TWO_STEP,
        term="score",
        bias="biased: by γ² times the error two steps on",
    ),
    Row(
        "λ-return",
        "pgjax.Estimator(pgjax.weights.lambda_return(γ, 0.9), pgjax.terms.score)",
        weights="γ^t G^λ_t, λ = 0.9",
        term="score",
        bias="none",
    ),
    Row(
        "GAE(0.95) without γ^t",
        "pgjax.estimators.mismatched_actor_critic(γ, 0.95)",
        weights="Σ_k (γλ)^k δ_{t+k}, γ^t left out",
        term="score",
        bias="biased when γ < 1; what most code runs",
    ),
    Row(
        "GAE(0.95), whitened",
        "pgjax.Estimator(pgjax.weights.whitened("
        "pgjax.weights.mismatched_generalized_advantage(γ, 0.95)), pgjax.terms.score)",
        weights="(A_t − mean) / std over the batch's steps, γ^t left out",
        term="score",
        bias="biased: mean and deviation hold the step's own advantage",
        batch_size=2,
    ),
    Row(
        "reward-to-go, whitened",
        "pgjax.Estimator(pgjax.weights.whitened(pgjax.weights.reward_to_go(γ)), pgjax.terms.score)",
        weights="(γ^t G_t − mean) / std over the batch's steps",
        term="score",
        bias="biased: mean and deviation hold the step's own return",
        batch_size=2,
    ),
    Row(
        "reward-to-go, centred",
        "pgjax.Estimator(pgjax.weights.centred(pgjax.weights.reward_to_go(γ)), pgjax.terms.score)",
        weights="γ^t G_t − mean over the batch's steps",
        term="score",
        bias="biased: the mean holds the step's own return",
        batch_size=2,
    ),
)
