"""Distributions and adapters agree with each other, and what cannot be done is refused in words."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import baselines, expectations
from pgjax.expectations.natural import quantile, uniform_shape
from pgjax.expectations.vimco import vimco_weights

KEY = jax.random.key(0)
PLAIN = expectations.score_function()


def square(x):
    return jnp.sum(x**2)


def gradient(estimator, f, distribution, params, num_samples=2):
    return expectations.gradient(estimator, f, distribution, params, KEY, num_samples=num_samples)


REFUSED = [
    (expectations.pathwise(), square, expectations.bernoulli(), "transform.* got .*bernoulli"),
    (expectations.all_outcomes(), square, expectations.normal(), "finitely many .* got a normal"),
    (expectations.all_outcomes(), square, expectations.poisson(), "finitely many .* got a poisson"),
    (expectations.without_replacement(2), square, expectations.normal(), "got a normal"),
    (expectations.arm(), square, expectations.poisson(), "bernoulli for arm.* got a poisson"),
    (expectations.rebar(), square, expectations.categorical(), "got a categorical"),
    (expectations.delta_control_variate(PLAIN), square, expectations.poisson(), "got a poisson"),
    (expectations.antithetic(PLAIN), square, expectations.poisson(), "got a poisson"),
    (PLAIN, lambda x: x**2, expectations.bernoulli(), r"f must return one number, got shape \(3,"),
    (
        PLAIN,
        lambda x: jnp.sum(x) * jnp.nan,
        expectations.bernoulli(),
        "f must .* got nan at 2 of 2",
    ),
    (PLAIN, lambda x: jnp.sum(x) + 1j, expectations.bernoulli(), "f must return real numbers"),
    (
        PLAIN,
        lambda a, b, c: a,
        expectations.bernoulli(),
        r"f must be .*, got one with the arguments \(a, b, c\)",
    ),
    (expectations.disarm, square, expectations.bernoulli(), r"call it: disarm\(\)"),
]


@pytest.mark.parametrize(("estimator", "f", "distribution", "words"), REFUSED)
def test_what_an_estimator_cannot_do_is_refused(estimator, f, distribution, words: str) -> None:
    params = np.zeros(3)
    if distribution == expectations.normal():
        params = params, params
    with pytest.raises((ValueError, TypeError), match=words):
        gradient(estimator, f, distribution, params)


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (
            expectations.score_function(baseline=baselines.leave_one_out),
            "num_samples .* at least 2",
        ),
        (expectations.least_variance_score_function(), "num_samples must be at least 2"),
        (expectations.antithetic(PLAIN), "num_samples must be even"),
    ],
)
def test_one_sample_where_two_are_needed_is_refused(estimator, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gradient(estimator, square, expectations.bernoulli(), np.zeros(2), num_samples=1)


@pytest.mark.parametrize("make", [expectations.vimco, vimco_weights])
def test_a_group_of_one_is_refused(make) -> None:
    with pytest.raises(ValueError, match="group_size must be at least 2, got 1: a baseline needs"):
        make(1)
    make(2)


def test_a_set_larger_than_the_outcomes_is_refused() -> None:
    with pytest.raises(ValueError, match="at most the number of outcomes, 2, got 3"):
        gradient(expectations.without_replacement(3), square, expectations.bernoulli(), np.zeros(1))


def test_a_nan_stays_one_under_jit() -> None:
    def run(params):
        return gradient(PLAIN, lambda x: jnp.sum(x) * jnp.nan, expectations.bernoulli(), params)

    assert np.isnan(jax.jit(run)(np.zeros(2))).all()


LOGITS = np.array([[0.3, -0.2, 0.6], [1.0, 0.0, -1.0]], np.float32)
FAMILIES = [
    (expectations.normal(), (np.array([0.5, -1.0]), np.array([0.2, -0.3]))),
    (expectations.bernoulli(), LOGITS[0]),
    (expectations.categorical(), LOGITS),
    (expectations.one_hot_categorical(), LOGITS),
    (expectations.poisson(), np.array([0.1, 0.9])),
]


@cache
def scores_of_draws():
    """Of each family, ∇log p of each of 4,096 draws."""

    def of_family(distribution, params, keys):
        x = jax.vmap(distribution.sample, (None, 0))(params, keys)
        return jax.vmap(jax.grad(distribution.log_prob), (None, 0))(params, x)

    @jax.jit
    def of_each(families):
        keys = jax.random.split(KEY, 4096)
        return [of_family(distribution, params, keys) for distribution, params in families]

    return jax.device_get(of_each(FAMILIES))


@jax.jit
def outcomes_and_quantiles(distribution, params):
    """The outcomes, their probabilities, and the draw at each of 2,000 quantiles."""
    listed = distribution.outcomes(params)
    log_prob = jax.vmap(distribution.log_prob, (None, 0))(params, listed)
    natural = distribution.natural(params)
    shape = uniform_shape(natural)
    points = (jnp.arange(2000) + 0.5) / 2000
    first = jax.vmap(lambda u: quantile(natural, jnp.full(shape, u)))(points)
    return listed, jnp.exp(log_prob), first


@pytest.mark.parametrize("index", range(len(FAMILIES)))
def test_draws_have_the_moments_of_their_log_probabilities(index: int) -> None:
    distribution, params = FAMILIES[index]
    for leaf in jax.tree.leaves(scores_of_draws()[index]):  # E ∇log p = 0
        error = np.std(leaf, axis=0) / 64
        assert np.all(np.abs(np.mean(leaf, axis=0)) < 5 * error + 1e-6)
    if distribution.outcomes is not None:
        found = jax.device_get(outcomes_and_quantiles(distribution, params))
        listed, probability, first = found
        assert float(np.sum(probability)) == pytest.approx(1, abs=1e-6)
        mean = np.tensordot(probability, listed, 1)
        np.testing.assert_allclose(first.mean(axis=0), mean, atol=2e-3)


def test_a_policy_is_a_distribution_of_its_actions() -> None:
    policy, params = pgjax.tabular_softmax(2, 3), LOGITS
    state = expectations.from_policy(policy, jnp.array([0.0, 1.0]))
    f = lambda a: jnp.sin(a + 1.0)  # noqa: E731
    found = gradient(expectations.all_outcomes(), f, state, params)
    wanted = gradient(expectations.all_outcomes(), f, expectations.categorical(), params[1])
    np.testing.assert_allclose(found[1], wanted, rtol=1e-5)
    np.testing.assert_allclose(found[0], 0)
    gaussian = pgjax.gaussian_policy(lambda key, s: params, lambda w, s: (w @ s, 0 * w[:, 0]))
    moving = expectations.from_policy(gaussian, jnp.ones(3))
    each = expectations.per_sample_gradients(
        expectations.pathwise(), jnp.sum, moving, params, KEY, num_samples=2
    )
    np.testing.assert_allclose(each, np.ones((2, 2, 3)), rtol=1e-6)


class Normal:
    """Like NumPyro's."""

    has_rsample = True

    def __init__(self, loc, scale):
        self.loc, self.scale = loc, scale

    def sample(self, key, sample_shape=()):
        return self.loc + self.scale * jax.random.normal(key, self.loc.shape)

    def log_prob(self, x):
        return jax.scipy.stats.norm.logpdf(x, self.loc, self.scale)


class BernoulliLogits:
    """Like NumPyro's, whose draws are integers."""

    has_rsample, has_enumerate_support, batch_shape = False, True, ()

    def __init__(self, logits):
        self.logits = logits

    def sample(self, key, sample_shape=()):
        return jax.random.bernoulli(key, jax.nn.sigmoid(self.logits)).astype(jnp.int32)

    def log_prob(self, x):
        return jax.nn.log_sigmoid(jnp.where(x == 1, self.logits, -self.logits))

    def enumerate_support(self, expand=True):
        return jnp.arange(2)


def test_objects_are_known_by_their_methods() -> None:
    f, params = lambda x: jnp.sum((x - 0.45) ** 2), np.array([0.5, -1.0])
    mine = expectations.normal(lambda mean: (mean, jnp.log(jnp.full_like(mean, 0.7))))
    theirs = expectations.from_object(lambda mean: Normal(mean, 0.7))
    estimators = [PLAIN, expectations.measure_valued(), expectations.pathwise()]

    @jax.jit
    def gradients(params):
        return [[gradient(e, f, p, params) for p in (theirs, mine)] for e in estimators]

    for found, wanted in gradients(params):  # both draw from the same keys
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    coin = expectations.from_object(BernoulliLogits)
    for estimator in (expectations.all_outcomes(), expectations.disarm()):
        np.testing.assert_allclose(
            gradient(estimator, f, coin, jnp.float32(0.0), 1), 0.025, rtol=1e-5
        )
    with pytest.raises(ValueError, match=r"transform.* got a BernoulliLogits"):
        gradient(expectations.pathwise(), f, coin, jnp.float32(0.0))


@pytest.mark.adapters
def test_distrax_objects_are_distributions() -> None:
    distrax = pytest.importorskip("distrax")
    coin = expectations.from_object(lambda logits: distrax.Bernoulli(logits=logits))
    f = lambda x: jnp.sum((x - 0.45) ** 2)  # noqa: E731
    for estimator in (expectations.all_outcomes(), expectations.disarm()):
        np.testing.assert_allclose(
            gradient(estimator, f, coin, jnp.float32(0.0), 1), 0.025, rtol=1e-5
        )
    normal = expectations.from_object(lambda mean: distrax.Normal(mean, 1.0))
    plain = expectations.normal(lambda mean: (mean, 0 * mean))
    for estimator in (expectations.pathwise(), expectations.measure_valued()):
        np.testing.assert_allclose(
            gradient(estimator, f, normal, jnp.float32(0.3)),
            gradient(estimator, f, plain, jnp.float32(0.3)),
            rtol=1e-4,
        )
