"""Tests by sampling: their rates of error are what they state, on laws that are known."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.stats import binom, norm

import pgjax
from pgjax import sampling, suite
from pgjax.rollouts.episodes import rollout

TRUTH = np.array([1.0, -2.0, 0.5])
PROBLEM = suite.problems()[2]


def normal(mean, deviation=1.0, size=512):
    def draw(key):
        return jnp.asarray(mean) + deviation * jax.random.normal(key, (size, len(mean)))

    return draw


right = normal(TRUTH)  # one function, hence one program


def test_a_right_mean_passes_within_its_margin():
    found = sampling.mean_test(right, TRUTH, jax.random.key(0), margin=0.05)
    assert found.passed
    assert found.distance < found.margin == pytest.approx(0.05 * np.linalg.norm(TRUTH))
    one_look = sampling.mean_test(normal(TRUTH, 0.01), TRUTH, jax.random.key(0))
    assert one_look.margin == pytest.approx(0.02 * np.linalg.norm(TRUTH))  # unless it is said


@pytest.mark.parametrize("offset", [[0.2, 0, 0], [0.15, 0.15, 0.15]], ids=["sparse", "dense"])
def test_a_wrong_mean_fails_early(offset):
    found = sampling.mean_test(normal(TRUTH + offset), TRUTH, jax.random.key(1), margin=0.05)
    assert not found.passed
    assert found.p_value < 1e-6
    assert found.num_samples <= 8192


def outcomes(draw, seeds, truth=TRUTH, **settings):
    """Passed, failed or None for inconclusive, once for each key; compiled once."""
    found = []
    for seed in seeds:
        try:
            found.append(sampling.mean_test(draw, truth, jax.random.key(seed), **settings).passed)
        except sampling.InconclusiveError:
            found.append(None)
    return found


def test_false_alarms_are_no_more_frequent_than_stated():
    # 200 correct means at α = 0.05 each: more than 25 failures has probability 1e-5 (binomial).
    found = outcomes(right, range(200), alpha=0.05, margin=0.15, max_samples=4096)
    assert found.count(False) <= 25
    assert found.count(True) > 100  # and the test is of some use


def test_a_mean_outside_the_margin_passes_no_more_often_than_stated():
    # 50 means at 1.2 margins, α = 0.05: more than 13 passes has probability 1e-7.
    found = outcomes(normal(1.12 * TRUTH), range(50), alpha=0.05, margin=0.1)
    assert found.count(True) <= 13
    assert found.count(False) > 25


def signs(mean):
    def draw(key):
        return mean + jax.random.rademacher(key, (1024, 1), jnp.float32)

    return draw


# At the one look that 1,024 samples allow, the rate of false passes is at most 0.05 / 2. Of 400
# means on the margin's edge, more than LIMIT then pass in one run of this test in a million.
RUNS, ONE_LOOK = 400, {"alpha": 0.05, "max_samples": 1024}
LIMIT = int(binom.isf(1e-6, RUNS, 0.05 / 2))


@pytest.mark.parametrize(
    ("edge", "radius", "failure", "bound"),
    [(2.6, 2.25, 2.50, None), (4.1, 4.02, 4.02, 1.13)],
    ids=["limit theorem", "bound"],
)
def test_on_the_edge_of_the_margin_a_mean_passes_no_more_often_than_stated(
    edge, radius, failure, bound
):
    """Lengths are in standard errors of a mean of 1,024 samples of variance one, t ~ N(edge, 1).

    A mean at t passes if t + radius ≤ margin, and fails if t > failure. With twice the margin it
    would pass at the rate `doubled`, and this test would see that with a power above 1 − 1e-6.
    """
    doubled = norm.cdf(min(2 * edge - radius, failure) - edge)
    assert binom.cdf(LIMIT, RUNS, doubled) < 1e-6

    draw = signs(1 + edge / 32)

    def passes(margin):
        settings = {"margin": margin / 32, "bound": bound, **ONE_LOOK}
        return outcomes(draw, range(RUNS), np.ones(1), **settings).count(True)

    assert passes(edge) <= LIMIT
    assert passes(2 * edge) > LIMIT  # the control


def decisions(data, truth):
    """(**settings) -> passed, failed, or None for inconclusive, at one look at these samples."""
    draw = lambda key: jnp.asarray(data)  # noqa: E731

    def decision(**settings):
        with jax.enable_x64(True):
            return outcomes(draw, [0], truth, max_samples=len(data), **settings)[0]

    return decision


def nearly(number):
    """Just below it, and just above."""
    return number * (1 - 1e-9), number * (1 + 1e-9)


@pytest.mark.parametrize("shift", [[0.09, 0, 0], [0.07, 0.07, -0.07]], ids=["sparse", "dense"])
def test_the_decision_turns_where_hotelling_s_and_student_s_tests_say(shift):
    """From the formulas: p is twice the smaller of two, and the mean lies in an ellipsoid."""
    n, P, truth = 1024, 3, np.array([1.0, -2.0, 0.5])
    random = np.random.default_rng(0)
    noise = random.normal(size=(n, P)) @ np.array([[1, 0.5, 0], [0, 1, 0.2], [0, 0, 2.0]])
    data = truth + shift + noise - noise.mean(0)
    decision = decisions(data, truth)
    S = np.cov(data.T)
    t_squared = n * np.array(shift) @ np.linalg.solve(S, shift)
    dense = stats.f.sf(t_squared * (n - P) / (P * (n - 1)), P, n - P)
    sparse = P * 2 * stats.t.sf(np.max(np.abs(shift) / np.sqrt(np.diag(S) / n)), n - 1)
    assert (sparse < dense) == (shift[1] == 0)
    p = 2 * min(dense, sparse)
    below, above = nearly(2 * p)  # the first look spends half of α
    assert decision(alpha=above, margin=10.0) is False
    assert decision(alpha=below, margin=10.0) is True
    critical = P * (n - 1) / (n - P) * stats.f.isf(p / 4, P, n - P)
    radius = np.sqrt(critical * np.linalg.eigvalsh(S).max() / n)
    below, above = nearly((np.linalg.norm(shift) + radius) / np.linalg.norm(truth))
    assert decision(alpha=p / 2, margin=above) is True
    assert decision(alpha=p / 2, margin=below) is None


def test_with_a_bound_the_decision_turns_where_the_empirical_bernstein_bound_says():
    """Maurer & Pontil (2009), theorem 4: two sides of P means, each at α / 2 / (2 P)."""
    n, P, B, truth = 2048, 2, 1.2, np.array([1.0, 2.0])
    noise = np.random.default_rng(0).uniform(-1, 1, (n, P))
    noise -= noise.mean(0)

    def radius(alpha):
        log = np.log(2 / (alpha / 2 / (2 * P)))
        return np.sqrt(2 * noise.var(0, ddof=1) * log / n) + 7 * 2 * B * log / (3 * (n - 1))

    shift = np.array([radius(0.01)[0], 0.02])
    decision = decisions(truth + shift + noise, truth)
    below, above = nearly(0.01)
    assert decision(alpha=above, margin=10.0, bound=B) is False
    assert decision(alpha=below, margin=10.0, bound=B) is True
    narrow, wide = nearly(np.linalg.norm(shift + radius(below)) / np.linalg.norm(truth))
    assert decision(alpha=below, margin=wide, bound=B) is True
    assert decision(alpha=below, margin=narrow, bound=B) is None


def test_skewed_samples_are_judged_once_they_are_enough_for_their_skewness():
    """n ≥ (|skew| z³ / (6 ln 2))², z the quantile of the look's level, two-sided."""
    data = np.random.default_rng(0).exponential(size=(4096, 1))
    skew = stats.skew(data[:, 0])
    z = (np.sqrt(4096) * 6 * np.log(2) / skew) ** (1 / 3)
    below, above = nearly(4 * stats.norm.sf(z))
    decision = decisions(data, np.ones(1))
    assert decision(alpha=above, margin=10.0) is True
    assert decision(alpha=below, margin=10.0) is None


def test_singular_covariance_is_no_obstacle():
    def draw(key):
        x = jax.random.normal(key, (512, 1))
        return jnp.concatenate([1 + x, 2 - x], axis=1)  # the sum never varies

    assert sampling.mean_test(draw, np.array([1.0, 2.0]), jax.random.key(2), margin=0.05).passed


def test_a_rare_event_not_yet_seen_is_no_failure():
    # 1 with probability 1e-5, else 0: early samples are all zero, with a mean that looks wrong.
    def draw(key):
        return 1e5 * jax.random.bernoulli(key, 1e-5, (512, 1)).astype(jnp.float32)

    with pytest.raises(sampling.InconclusiveError):
        sampling.mean_test(draw, np.array([1.0]), jax.random.key(3), max_samples=4096)


def test_skewed_samples_wait_for_the_limit_theorem():
    def draw(key):
        return jnp.exp(2 * jax.random.normal(key, (512, 1)))  # skewness about 400

    with pytest.raises(sampling.InconclusiveError, match="inconclusive after"):
        sampling.mean_test(draw, np.exp([2.0]), jax.random.key(4), max_samples=2**15)


def test_the_number_said_to_be_needed_suffices():
    with pytest.raises(sampling.InconclusiveError) as error:
        sampling.mean_test(right, TRUTH, jax.random.key(5), margin=0.03, max_samples=2048)
    needed = int(str(error.value).split("about ")[1].split(" samples")[0].replace(",", ""))
    found = sampling.mean_test(right, TRUTH, jax.random.key(6), margin=0.03, max_samples=8 * needed)
    assert found.passed
    assert found.num_samples <= 8 * needed


def test_many_parameters_are_projected_on_directions_that_include_the_truth():
    truth = np.random.default_rng(0).normal(size=200)
    found = sampling.mean_test(normal(1.1 * truth, size=256), truth, jax.random.key(7), margin=0.02)
    assert not found.passed
    assert found.num_directions == sampling.NUM_DIRECTIONS


def uniform(mean):
    def draw(key):
        return jnp.asarray(mean) + jax.random.uniform(key, (512, 3), minval=-1.0, maxval=1.0)

    return draw


def test_a_known_bound_needs_no_limit_theorem():
    key = jax.random.key(8)
    assert sampling.mean_test(uniform(TRUTH), TRUTH, key, margin=0.05, bound=1.5).passed
    assert not sampling.mean_test(uniform(TRUTH + 0.3), TRUTH, key, margin=0.05, bound=1.5).passed


def test_a_zero_truth_or_a_wrong_length_is_refused():
    with pytest.raises(ValueError, match="truth must not be zero"):
        sampling.mean_test(right, np.zeros(3), jax.random.key(0))
    with pytest.raises(ValueError, match=r"\[n, P\] = \[n, 2\]"):
        sampling.mean_test(right, TRUTH[:2], jax.random.key(0))


@cache
def sampled(key, batches, size, temperature=1.0):
    """Batches [batches, size, T] in NumPy."""
    params = jax.tree.map(lambda x: np.float32(x / temperature), PROBLEM.params)
    flat = rollout(
        PROBLEM.policy, params, PROBLEM.mdp, jax.random.key(key),
        num_trajectories=batches * size, num_steps=PROBLEM.finite_horizon,
    )  # fmt: skip
    return jax.tree.map(lambda x: np.asarray(x).reshape(batches, size, *x.shape[1:]), flat)


def few(batches):
    """32 batches of two."""
    return jax.tree.map(lambda x: x[:32, :2], batches)


def test_independent_batches_have_a_variance_ratio_of_one():
    batches = sampled(0, 1024, 4)
    found = sampling.independence_test(batches)  # α = 1e-6
    assert found.passed
    assert found.variance_ratio == pytest.approx(1, abs=0.3)
    below, above = nearly(found.p_value)
    assert sampling.independence_test(batches, alpha=below).passed
    assert sampling.independence_test(batches, alpha=found.p_value).passed
    assert not sampling.independence_test(batches, alpha=above).passed


def test_batches_that_never_vary_share_nothing():
    batch = few(sampled(0, 1024, 4))
    names = ("reward", "log_prob", "mask")
    still = batch.replace(**{name: np.ones_like(getattr(batch, name)) for name in names})
    assert sampling.independence_test(still) == (True, 1.0, 1.0)


def test_a_shared_key_has_a_variance_ratio_of_the_batch_size():
    shared = jax.tree.map(lambda x: x[:, :1].repeat(4, axis=1), sampled(0, 1024, 4))
    found = sampling.independence_test(shared)
    assert not found.passed
    assert found.variance_ratio == pytest.approx(4, rel=0.01)


def pairings(size):
    """The `size` − 1 rounds of a tournament, [size / 2, 2]: every pair meets in one of them."""
    last = size - 1
    for turn in range(last):
        others = [((turn + k) % last, (turn - k) % last) for k in range(1, size // 2)]
        yield np.array([(last, turn), *others])


def test_over_every_pairing_of_the_same_returns_the_variance_ratio_is_one():
    """E over pairings of y_i y_j is −Σ y² / (64 · 63), where y are 64 centred returns.

    The test puts back Σ y² / 64², which is right but for a share of 1/64. So the mean ratio is
    1 + (1/64 − 1/63) exactly, and N² in place of N(N − 1) would double what is put back.
    """
    batch = few(sampled(0, 1024, 4))
    returns = np.random.default_rng(0).exponential(size=64)
    silent = batch.replace(mask=np.ones_like(batch.mask), log_prob=np.zeros_like(batch.log_prob))
    ratios = []
    for pairs in pairings(64):
        reward = np.zeros(batch.reward.shape)
        reward[..., 0] = returns[pairs]
        ratios.append(sampling.independence_test(silent.replace(reward=reward)).variance_ratio)
    assert np.mean(ratios) == pytest.approx(1 + 1 / 64 - 1 / 63, rel=0, abs=1e-12)
    assert np.std(ratios) > 0.1  # one pairing alone is no theorem


def test_trajectory_counts_follow_the_law_and_another_temperature_does_not():
    # α = 1e-6. Power: at temperature 1.5 the noncentrality at 2^15 exceeds 1,000: it is sure.
    take_first = lambda batches: jax.tree.map(lambda x: x[:, 0], batches)  # noqa: E731
    assert sampling.law_test(take_first(sampled(1, 2**15, 1)), PROBLEM).passed
    other = sampling.law_test(take_first(sampled(1, 2**15, 1, temperature=1.5)), PROBLEM)
    assert not other.passed
    assert other.num_impossible == 0


def test_a_zero_is_a_zero_whatever_its_sign():
    batch = jax.tree.map(lambda x: x[:, 0], sampled(2, 2**12, 1))
    fields = ("observation", "final_observation", "reward")
    negative = {name: getattr(batch, name) for name in fields}
    negative = {name: np.where(x == 0, np.float32(-0.0), x) for name, x in negative.items()}
    assert any(np.signbit(x[x == 0]).any() for x in negative.values())
    other = batch.replace(**negative)
    assert sampling.wrong_final_observation(other, PROBLEM) == ""
    assert sampling.law_test(other, PROBLEM) == sampling.law_test(batch, PROBLEM)


def test_an_impossible_trajectory_is_counted():
    batch = jax.tree.map(lambda x: x[:, 0], sampled(2, 2**12, 1))
    reward = batch.reward.copy()
    reward[0, 0] += 1
    wrong = batch.replace(reward=reward)
    found = sampling.law_test(wrong, PROBLEM)
    assert not found.passed
    assert found.num_impossible == 1


def test_every_public_test_is_reachable_from_the_package():
    assert pgjax.sampling is sampling
