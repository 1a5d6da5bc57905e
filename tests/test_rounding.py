"""What few digits do: at the bounds of a squashed policy, at a tiny σ, to a judged candidate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax

GAUSSIAN = pgjax.gaussian_policy(
    lambda key, x: jnp.zeros(2), lambda params, x: (params[:1], params[1:])
)


@jax.jit
def sampled(params):
    keys = jax.random.split(jax.random.key(0), 4096)
    return jax.vmap(lambda key: GAUSSIAN.sample(params, key, None)[0])(keys)


@jax.jit
def scored(params, action):
    return jax.vmap(jax.grad(GAUSSIAN.log_prob), (None, None, 0))(params, None, action)


def scores(mean, std):
    """Actions [N], and ∂ log π/∂ log σ of each, in float32."""
    params = np.array([mean, np.log(std)], np.float32)
    action = sampled(params)
    score = scored(params, action)
    return np.asarray(action)[:, 0], np.asarray(score, np.float64)[:, 1]


def test_a_tiny_sigma_does_in_float32_what_the_docstring_says():
    action, score = scores(1.0, 1e-8)
    assert len(np.unique(action)) == 2
    assert score.mean() == pytest.approx(-0.97, abs=0.05)  # where it should be 0
    assert "E[∂ log π/∂ log σ] is −0.97" in str(pgjax.gaussian_policy.__doc__)
    action, _ = scores(0.5, np.exp(-20.0))
    assert np.all(action == 0.5)
    _, score = scores(1.0, 1e-6)
    assert abs(score.mean()) < 4 * score.std() / 64


BOUNDS = [(0.0, 1.0), (-1.0, 0.0), (0.0, 10.0), (-1.0, 1.0)]


def test_an_action_on_a_bound_of_zero_weighs_no_more_than_one_on_another_bound():
    actions = np.array([(low, high, (low + high) / 2, 1e-30) for low, high in BOUNDS], np.float32)

    @jax.jit
    def log_probs(actions):
        policies = [
            pgjax.squashed_gaussian_policy(
                lambda key, x: (),
                lambda params, x: (jnp.zeros(1), jnp.zeros(1)),
                low=low,
                high=high,
            )
            for low, high in BOUNDS
        ]
        return [
            jax.vmap(lambda x, p=policy: p.log_prob((), None, x))(row[:, None])
            for policy, row in zip(policies, actions, strict=True)
        ]

    for (low, _), found in zip(BOUNDS, log_probs(actions), strict=True):
        on_low, on_high, middle, near = np.asarray(found)
        assert on_low == pytest.approx(on_high, abs=0.01)  # −868 and −20 where the bound is zero
        assert -26 < on_low < middle - 15
        if low == 0:  # the control: what is no bound is scored as it is
            assert near < -500


def rounded(dtype):
    def candidate(problem):
        estimator = pgjax.reward_to_go(problem.mdp.discount)

        def estimate(params, batch):
            found = pgjax.gradient(estimator, problem.policy, params, batch)
            return jax.tree.map(lambda x: x.astype(dtype), found)

        return estimate

    return candidate


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_candidate_of_few_digits_is_told_that_they_are_few(dtype):
    bandit = pgjax.suite.problems()[0]
    with pytest.raises(AssertionError, match=f"off by no more than {dtype} rounds, and it returns"):
        pgjax.assert_unbiased(rounded(dtype), bandit, batch_size=1)


def test_a_bias_of_the_same_size_in_float64_is_not_called_rounding():
    def candidate(problem):
        estimate = rounded("float64")(problem)
        return lambda params, batch: jax.tree.map(lambda x: 0.997 * x, estimate(params, batch))

    with pytest.raises(AssertionError, match=r"a pure scale, E\[ĝ\] = 0\.997"):
        pgjax.assert_unbiased(candidate, pgjax.suite.problems()[0], batch_size=1)
