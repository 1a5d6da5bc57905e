"""Estimators of gradients of expectations, with the claimed bias of each."""

from typing import NamedTuple

NORMAL, COIN, COINS = "quadratic of a normal", "coin", "two coins"
CHOICES, COUNTS = "three choices", "counts"
DISCRETE, EVERY = (COIN, COINS, CHOICES), (NORMAL, COIN, COINS, CHOICES, COUNTS)


class ExpectationRow(NamedTuple):
    """An estimator of ∇E[f(x)], as its certificate needs it.

    Attributes:
        name: as tables print it.
        code: an expression that runs after `import pgjax`, `import jax.numpy as jnp` and `from
            pgjax import expectations`; an estimator. `f`, `distribution` and `params` are the
            problem's; `average` is a MovingAverage and `seen` its state after values of one.
        bias: begins with "none" if and only if there is none; a certificate refutes a false claim.
        problems: the names of those that it is for.
        num_samples: N of one estimate.
        evaluations: of f in one estimate, an expression in N, M (outcomes) and P (natural
            parameters).
        estimand: "∇E[f]", or "∇ bound of K" for the logarithm of a mean of K.
    """

    name: str
    code: str
    bias: str
    problems: tuple[str, ...] = EVERY
    num_samples: int = 1
    evaluations: str = "N"
    estimand: str = "∇E[f]"

    @property
    def is_unbiased(self) -> bool:
        """Whether the row claims so."""
        return self.bias.startswith("none")


_SCORE = "expectations.score_function(baseline=pgjax.baselines.{})"
_BEST = "constant(expectations.least_variance_constant(f, distribution, params))"
_PAIR, _PATH = "expectations.antithetic({})", "expectations.pathwise()"

EXPECTATIONS: tuple[ExpectationRow, ...] = (
    ExpectationRow("score function", "expectations.score_function()", "none"),
    ExpectationRow("constant baseline", _SCORE.format("constant(0.25)"), "none"),
    ExpectationRow(
        "moving average",
        "expectations.score_function(baseline=average.baseline(seen))",
        "none",
    ),
    ExpectationRow("leave one out", _SCORE.format("leave_one_out"), "none", num_samples=2),
    ExpectationRow(
        "batch mean",
        _SCORE.format("batch_mean"),
        "biased: a factor (N−1)/N of the scores",
        num_samples=2,
    ),
    ExpectationRow("least variance, exact", _SCORE.format(_BEST), "none", DISCRETE),
    ExpectationRow(
        "least variance, of the others",
        "expectations.least_variance_score_function()",
        "none",
        num_samples=2,
    ),
    ExpectationRow(
        "delta method",
        "expectations.delta_control_variate(expectations.score_function())",
        "none",
        (NORMAL,),
    ),
    ExpectationRow("pathwise", _PATH, "none", (NORMAL,)),
    ExpectationRow(
        "measure-valued", "expectations.measure_valued()", "none", evaluations="2 * P * N"
    ),
    ExpectationRow(
        "measure-valued, uncoupled",
        "expectations.uncoupled_measure_valued()",
        "none",
        evaluations="2 * P * N",
    ),
    ExpectationRow("all outcomes", "expectations.all_outcomes()", "none", DISCRETE, 1, "M"),
    ExpectationRow(
        "likeliest outcome", "expectations.likeliest_outcomes(1)", "none", DISCRETE, 1, "2 * N"
    ),
    ExpectationRow(
        "without replacement", "expectations.without_replacement(2)", "none", DISCRETE, 1, "2 * N"
    ),
    ExpectationRow("ARM", "expectations.arm()", "none", (COIN, COINS), 1, "2 * N"),
    ExpectationRow("DisARM", "expectations.disarm()", "none", (COIN, COINS), 1, "2 * N"),
    ExpectationRow("REBAR", "expectations.rebar(0.5)", "none", (COIN,), 1, "3 * N"),
    ExpectationRow(
        "RELAX", "expectations.relax(lambda z: 0.1 * jnp.sum(jnp.tanh(z)))", "none", (COIN,), 1, "N"
    ),
    ExpectationRow(
        "VIMCO",
        "expectations.vimco(2)",
        "none",
        (COIN, COINS, CHOICES),
        1,
        "2 * N",
        "∇ bound of 2",
    ),
    ExpectationRow(
        "antithetic score function",
        _PAIR.format("expectations.score_function()"),
        "none",
        (NORMAL, COIN, COINS, CHOICES),
        2,
    ),
    ExpectationRow("antithetic pathwise", _PAIR.format(_PATH), "none", (NORMAL,), 2),
    ExpectationRow(
        "antithetic leave one out",
        _PAIR.format(_SCORE.format("leave_one_out")),
        "biased: the others of a pair are not independent",
        (NORMAL, COIN, COINS),
        2,
    ),
    ExpectationRow(
        "Sobol score function",
        "expectations.quasi_monte_carlo(expectations.score_function())",
        "none",
        (COIN, COINS, CHOICES),
        4,
    ),
    ExpectationRow(
        "Sobol pathwise", f"expectations.quasi_monte_carlo({_PATH})", "none", (NORMAL,), 4
    ),
    ExpectationRow(
        "straight-through",
        "expectations.straight_through()",
        "biased by design",
        (COIN, COINS, CHOICES),
    ),
    ExpectationRow("ReinMax", "expectations.reinmax()", "biased by design", (COIN, COINS, CHOICES)),
    ExpectationRow(
        "Gumbel-softmax", "expectations.gumbel_softmax(0.5)", "biased by design", (COIN,)
    ),
    ExpectationRow(
        "straight-through Gumbel-softmax",
        "expectations.straight_through_gumbel_softmax(0.5)",
        "biased by design",
        (COIN,),
    ),
)
