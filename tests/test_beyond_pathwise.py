"""Pathwise gradients: finite differences, a closed form by quadrature, and scores by sampling.

gymnax runs under x64 but not under strict promotion, so this module asks for x64 alone.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from gymnax.environments.classic_control.pendulum import EnvState
from scipy import stats

import pgjax
from pgjax import beyond, policies
from pgjax.beyond.pathwise import JUMPING, SMOOTH
from pgjax.environments import from_gymnax
from pgjax.environments.base import Box, Environment, Step


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


KEY = jax.random.key(5)
LINE = Box((-np.inf,), (np.inf,), (1,))


def linear(params: Any, key: Any, observation: Any) -> Any:
    mean = jnp.ravel(observation) @ params
    return mean + jax.random.uniform(key, mean.shape, mean.dtype, -0.5, 0.5)


@pytest.mark.parametrize("name", [*SMOOTH, "PointRobot-misc"])
def test_it_is_the_slope_of_the_seeded_return(name: str, monkeypatch: Any) -> None:
    made, environment_params = gymnax.make(name)
    space = made.action_space(environment_params)
    # Actions are cast to what the space says, and in float32 a finite difference sees the rounding.
    wide = spaces.Box(space.low, space.high, space.shape, jnp.float64)
    monkeypatch.setattr(type(made), "action_space", lambda self, params=None: wide)
    if name == "PointRobot-misc":
        environment_params = environment_params.replace(
            dense_reward=True,
            goal_radius=0.0,  # or a finite difference would see the jump that no path does
            max_force=9.0,
        )
    environment = beyond.differentiable(made, environment_params)
    size = jax.eval_shape(environment.init, KEY)[1].observation.size
    random = np.random.default_rng(2)
    D = environment.action_space.size  # pyright: ignore[reportAttributeAccessIssue]
    params, direction = random.normal(scale=0.3, size=(2, size, D))
    objective = beyond.seeded_return(linear, environment, num_steps=20, discount=0.9)
    step = 1e-5
    moved = params + np.array([-1, 1])[:, None, None] * step * direction

    @jax.jit
    def gradient_and_means() -> Any:
        found = beyond.pathwise_gradient(
            linear, params, environment, KEY, num_trajectories=16, num_steps=20, discount=0.9
        )
        keys = jax.random.split(KEY, 16)
        return found, jnp.mean(jax.vmap(jax.vmap(objective, (None, 0)), (0, None))(moved, keys), 1)

    found, (below, above) = jax.device_get(gradient_and_means())
    expected = (above - below) / (2 * step)
    assert abs(expected) > 3e-3
    np.testing.assert_allclose(np.sum(found * direction), expected, rtol=1e-6)


def test_gymnax_offers_derivatives_where_we_say_so_and_nowhere_else() -> None:
    names = set(gymnax.registered_envs) - from_gymnax.DOWNLOADS
    smooth = {name for name in names if gymnax.make(name)[0].supports_transition_gradients}
    assert smooth == {*SMOOTH, *JUMPING}


# A linear-quadratic problem


class Quadratic(NamedTuple):
    """s' = a s + b u, r = −(q s² + c u²), s_0 = m + √v z, u_t = −k s_t + σ ε_t; H steps.

    With α = a − bk and M_t = E s_t², M_0 = m² + v and M_{t+1} = α² M_t + b²σ², so that
    J = −Σ γ^t [(q + ck²) M_t + cσ²], and its derivatives follow from those of M:
    by k, D_{t+1} = α² D_t − 2αb M_t and ∂J = −Σ γ^t [(q + ck²) D_t + 2ck M_t];
    by log σ, S_{t+1} = α² S_t + 2b²σ² and ∂J = −Σ γ^t [(q + ck²) S_t + 2cσ²].
    """

    a: float = 0.9
    b: float = 0.5
    q: float = 1.0
    c: float = 0.3
    m: float = 1.2
    v: float = 0.4
    gamma: float = 0.8
    horizon: int = 3

    def gradient(self, k: float, log_std: float) -> np.ndarray:
        variance, slope = np.exp(2 * log_std), self.a - self.b * k
        cost = self.q + self.c * k**2
        M, D, S, by_k, by_log_std = self.m**2 + self.v, 0.0, 0.0, 0.0, 0.0
        for t in range(self.horizon):
            by_k -= self.gamma**t * (cost * D + 2 * self.c * k * M)
            by_log_std -= self.gamma**t * (cost * S + 2 * self.c * variance)
            D = slope**2 * D - 2 * slope * self.b * M
            S = slope**2 * S + 2 * self.b**2 * variance
            M = slope**2 * M + self.b**2 * variance
        return np.array([by_k, by_log_std])

    def environment(self, start: Any) -> Environment:
        """The state and the time are seen; the start's noise z is given, not drawn."""

        def shown(state: Any, reward: Any) -> Step:
            return Step(state, reward, jnp.bool_(False), jnp.bool_(False))

        def init(key: Any) -> Any:
            state = jnp.stack([self.m + np.sqrt(self.v) * start, jnp.zeros(())])
            return state, shown(state, jnp.zeros(()))

        def step(key: Any, state: Any, action: Any) -> Any:
            s, u = state[0], action[0]
            after = jnp.stack([self.a * s + self.b * u, state[1] + 1])
            return after, shown(after, -(self.q * s**2 + self.c * u**2))

        return Environment(init, step, LINE)


PROBLEM = Quadratic()
GAUSSIAN = policies.gaussian_policy(
    lambda key, s: jnp.zeros(2), lambda params, s: (-params[:1] * s[0], params[1:])
)
PARAMS = np.array([0.6, -0.5])  # k and log σ


def quadrature(dimensions: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """[n, D] and [n]: exact for polynomials of standard normals up to degree 2·nodes − 1."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.array(list(itertools.product(points, repeat=dimensions)))
    chance = np.prod(list(itertools.product(weights, repeat=dimensions)), axis=1)
    return grid, chance / chance.sum()


def pathwise_given(noise: Any) -> Any:
    """`pathwise_gradient` of one episode, the start and the actions on given noise."""

    def policy(params: Any, key: Any, observation: Any) -> Any:
        drawn = noise[1:][observation[1].astype(int)]
        return -params[:1] * observation[0] + jnp.exp(params[1:]) * drawn

    return beyond.pathwise_gradient(
        policy, jnp.asarray(PARAMS), PROBLEM.environment(noise[0]), KEY,
        num_trajectories=1, num_steps=PROBLEM.horizon, discount=PROBLEM.gamma,
    )  # fmt: skip


def score_given(noise: Any) -> Any:
    """Reward-to-go of the same episode."""
    environment = PROBLEM.environment(noise[0])
    state, first = environment.init(KEY)
    seen, actions, rewards = [first.observation], [], []
    for drawn in noise[1:]:
        actions.append(-PARAMS[:1] * state[0] + np.exp(PARAMS[1:]) * drawn)
        state, shown = environment.step(KEY, state, actions[-1])
        seen.append(shown.observation)
        rewards.append(shown.reward)
    observation, action, reward = jnp.stack(seen[:-1]), jnp.stack(actions), jnp.stack(rewards)
    no = jnp.zeros(len(rewards), bool)
    log_prob = jax.vmap(partial(GAUSSIAN.log_prob, PARAMS))(observation, action)
    episode = pgjax.Trajectory(observation, action, reward, log_prob, no, no, ~no, seen[-1])
    batch = jax.tree.map(lambda x: x[None], episode)
    return pgjax.gradient(pgjax.reward_to_go(PROBLEM.gamma), GAUSSIAN, jnp.asarray(PARAMS), batch)


def test_on_the_quadratic_both_kinds_of_gradient_have_the_closed_form_as_their_mean() -> None:
    grid, chance = quadrature(1 + PROBLEM.horizon, 5)
    truth = PROBLEM.gradient(*PARAMS)
    path, score = (np.asarray(jax.jit(jax.vmap(f))(grid)) for f in (pathwise_given, score_given))
    np.testing.assert_allclose(chance @ path, truth, rtol=1e-12)
    np.testing.assert_allclose(chance @ score, truth, rtol=1e-12)
    assert np.linalg.norm(PROBLEM._replace(gamma=1.0).gradient(*PARAMS) - truth) > 0.1
    # Both variances are exact too: the paths know which way an action matters.
    path_variance, score_variance = (chance @ (x - truth) ** 2 for x in (path, score))
    assert np.all(4 * path_variance < score_variance)


# Against scores, by sampling

COUNT, STEPS, FALSE_ALARMS = 16_384, 4, 1e-6


def far(first: Any, second: Any) -> tuple[bool, float]:
    """Whether two samples' means differ at the false-alarm rate, and what would be found at 99%.

    One z for each coordinate, with Bonferroni; the second number is the largest of the smallest
    detectable differences, relative to the length of the mean.
    """
    mean = np.mean(first, 0) - np.mean(second, 0)
    error = np.sqrt(np.var(first, 0, ddof=1) / len(first) + np.var(second, 0, ddof=1) / len(second))
    threshold = stats.norm.isf(FALSE_ALARMS / (2 * mean.size))
    found = error * (threshold + stats.norm.isf(0.01))
    return bool(np.any(np.abs(mean) > threshold * error)), found.max() / np.linalg.norm(
        first.mean(0)
    )


def test_on_the_pendulum_paths_and_scores_agree_and_a_cut_path_does_not() -> None:
    policy = policies.gaussian_policy(
        lambda key, s: jnp.zeros(4), lambda params, s: ((s @ params[:3])[None], params[3:])
    )
    params = np.array([0.2, -0.4, 0.1, -0.7])
    made = gymnax.make("Pendulum-v1")[0]

    @jax.jit
    def paths() -> Any:
        keys = jax.random.split(KEY, COUNT)

        def through(environment: Environment) -> Any:
            objective = beyond.seeded_return(policy, environment, num_steps=STEPS, discount=0.9)
            return jax.vmap(jax.grad(objective), (None, 0))(params, keys)

        return through(beyond.differentiable(made)), through(from_gymnax.adapt(made))

    smooth, cut = jax.device_get(paths())
    batch = pgjax.rollout(
        policy, params, made, jax.random.key(6), num_trajectories=4 * COUNT, num_steps=STEPS
    )

    def without_noise(batch: pgjax.Trajectory, target: Any) -> Any:
        """What would follow each state if the mean action were taken from there on."""
        cosine, sine, speed = jnp.moveaxis(batch.observation, -1, 0)
        state = EnvState(
            theta=jnp.arctan2(sine, cosine), theta_dot=speed, last_u=speed, time=0 * speed
        )
        step = jax.vmap(jax.vmap(lambda s, u: made.step_env(KEY, s, u, made.default_params)))

        def follow(reached: Any, k: Any) -> Any:
            seen, state = reached
            seen, state, reward, _, _ = step(state, seen @ params[:3, None])
            remaining = jnp.arange(STEPS) + k < STEPS
            return (seen, state), jnp.where(remaining, 0.9**k * reward, 0)

        _, rewards = jax.lax.scan(follow, (batch.observation, state), jnp.arange(STEPS))
        return jnp.sum(rewards, 0)

    estimator = pgjax.reward_to_go(0.9, baseline=without_noise)
    scores = np.asarray(pgjax.per_trajectory_gradients(estimator, policy, params, batch))
    differs, detectable = far(smooth, scores)
    assert not differs
    assert detectable < 0.1
    assert far(cut, scores)[0]


# What a path does not see


def one_step(reward: Callable[[Any], Any]) -> Environment:
    def init(key: Any) -> Any:
        return jnp.zeros(()), Step(jnp.zeros(1), jnp.zeros(()), jnp.bool_(False), jnp.bool_(False))

    def step(key: Any, state: Any, action: Any) -> Any:
        paid = reward(action[0])
        return state, Step(jnp.zeros(1), paid, jnp.bool_(True), jnp.bool_(False))

    return Environment(init, step, LINE)


def test_a_reward_that_only_jumps_has_no_path_though_it_has_a_gradient() -> None:
    def shifted(params: Any, key: Any, observation: Any) -> Any:
        return params + jax.random.normal(key, (1,), params.dtype)

    prize = one_step(lambda action: (action > 0).astype(float))
    found = beyond.pathwise_gradient(
        shifted, jnp.zeros(1), prize, KEY, num_trajectories=8, num_steps=1, discount=1.0
    )
    assert found == 0  # where ∇J = φ(0) ≈ 0.4
    smooth = one_step(lambda action: 3 * action)
    found = beyond.pathwise_gradient(
        shifted, jnp.zeros(1), smooth, KEY, num_trajectories=8, num_steps=1, discount=1.0
    )
    assert found == 3


def test_stepping_on_after_the_end_spoils_no_gradient() -> None:
    """√x has no derivative at the terminal state, x = 0."""

    def shown(x: Any, reward: Any) -> Step:
        return Step(x[None], reward, x <= 0, jnp.bool_(False))

    environment = Environment(
        init=lambda key: (jnp.ones(()), shown(jnp.ones(()), jnp.zeros(()))),
        step=lambda key, x, action: (x - 0.5, shown(x - 0.5, jnp.sqrt(x) * action[0])),
        action_space=LINE,
    )

    def policy(params: Any, key: Any, observation: Any) -> Any:
        return params * observation

    found = beyond.pathwise_gradient(
        policy, jnp.ones(1), environment, KEY, num_trajectories=1, num_steps=5, discount=1.0
    )
    np.testing.assert_allclose(found, 1 + 0.5**1.5, rtol=1e-12)

    def stepped_on(x: Any) -> Any:
        rest = jax.lax.stop_gradient(x) - x  # zero, and as a function of x not
        return jnp.where(x < 0, jnp.sqrt(rest), 0.0)

    assert np.isnan(jax.grad(stepped_on)(1.0))


def test_what_has_no_path_is_refused() -> None:
    sizes: Any = {"num_trajectories": 1, "num_steps": 1, "discount": 1.0}
    mdp, policy = pgjax.tabular.two_armed_bandit(), pgjax.tabular_softmax(3, 2)
    with pytest.raises(ValueError, match=r"actions must be floating .* pgjax\.reward_to_go"):
        beyond.pathwise_gradient(policy, np.zeros((3, 2)), mdp, KEY, **sizes)  # pyright: ignore
    with pytest.raises(
        ValueError, match=r"must have derivatives .* got CartPole-v1; .* Pendulum-v1"
    ):
        beyond.differentiable(gymnax.make("CartPole-v1")[0])
    with pytest.raises(TypeError, match="environment must be of gymnax"):
        beyond.differentiable(one_step(jnp.sin))  # pyright: ignore
    pendulum = beyond.differentiable(gymnax.make("Pendulum-v1")[0])
    with pytest.raises(TypeError, match="Pendulum-v1 takes Box"):
        beyond.pathwise_gradient(
            pgjax.tabular_softmax(3, 2), np.zeros((3, 2)), pendulum, KEY, **sizes
        )
    remembering = policies.as_recurrent(GAUSSIAN)
    with pytest.raises(TypeError, match="got a RecurrentPolicy; only"):
        beyond.seeded_return(remembering, pendulum, num_steps=1, discount=1.0)  # pyright: ignore
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        beyond.seeded_return(GAUSSIAN, pendulum, num_steps=0, discount=1.0)
    with pytest.raises(ValueError, match="discount must lie in"):
        beyond.seeded_return(GAUSSIAN, pendulum, num_steps=1, discount=1.1)
