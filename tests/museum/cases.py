"""Cases: the suite's problems with everything exact that a mutant is built from or judged by."""

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgjax import Policy, Trajectory, enumeration, exact, softmax_policy, suite
from pgjax.exact.problem import Problem

TEMPERATURE = 1.5


class Case(NamedTuple):
    """A problem, its exact values, and the vectors that estimates are held to.

    Attributes:
        problem: of the suite.
        tells_states: whether the observation shows the state, so that a critic can be right.
        values: [H + 1, S] V_t(s) of the H-step task; zero at H, and in terminal states.
        endless: [S] V(s) of the task without time limit.
        critic: [...] a wrong linear critic of the observation.
        mean_length: E[L] of an episode.
        stale: parameters that acted, where they are not those to be improved.
        reference: parameters that a KL penalty pulls towards.
        truth: each estimand's exact value, flat.
    """

    problem: Problem
    tells_states: bool
    values: np.ndarray
    endless: np.ndarray
    critic: np.ndarray
    mean_length: float
    stale: Any
    reference: Any
    truth: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        return self.problem.name

    @property
    def discount(self) -> float:
        return self.problem.mdp.discount

    @property
    def policy(self) -> Policy:
        return self.problem.policy

    @property
    def tempered(self) -> Policy:
        """The same policy at another temperature."""
        policy, actions = self.policy, jnp.arange(self.problem.mdp.num_actions)

        def logits(params: Any, observation: Any) -> Any:
            log_prob = jax.vmap(policy.log_prob, (None, None, 0))(params, observation, actions)
            return log_prob / TEMPERATURE

        return softmax_policy(policy.init, logits)


NAMES = tuple(problem.name for problem in suite.problems())


@cache
def case(name: str) -> Case:
    """The case of a problem by its name."""
    problem = suite.problems()[NAMES.index(name)]
    mdp = problem.mdp
    values = exact.state_values(problem)
    endless = exact.action_values(replace(problem, horizon=None))
    probabilities = exact.action_probabilities(problem)
    visits = exact.visitation(replace(problem, mdp=replace(mdp, discount=1.0))).sum(0)
    scores = _scores(problem)
    random = np.random.default_rng(7)
    reference, stale = _near(problem.params, random), _near(problem.params, random)
    return Case(
        problem,
        tells_states=np.array_equal(mdp.observation, np.eye(mdp.num_states)),
        values=np.pad(values, ((0, 1), (0, 0))),
        endless=np.sum(probabilities * endless, axis=1),
        critic=random.normal(size=mdp.observation.shape[1]),
        mean_length=float(visits.sum()),
        stale=stale,
        reference=reference,
        truth={
            "∇J": _flat(exact.gradient(problem)),
            # Σ_{t<H} Σ_s γ^t P(s_t = s) Σ_a ∇π(a|s) Q(s, a), with Q of the task that goes on after
            # H: what the first H steps' actions contribute to ∇J of the endless task. It is all
            # that a sampler which cuts at H can know, and what a right bootstrap makes it estimate.
            "∇J of the uncut task": np.einsum(
                "s,sa,sap->p",
                exact.visitation(problem).sum(0),
                probabilities * endless,
                scores,
            ),
        }
        | _information_gradients(problem, reference, visits, scores),
    )


def _near(params: Any, random: np.random.Generator) -> Any:
    return jax.tree.map(lambda x: x + random.normal(scale=0.4, size=np.shape(x)), params)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _scores(problem: Problem) -> np.ndarray:
    """[S, A, P] ∇log π(a|s)."""
    actions = jnp.arange(problem.mdp.num_actions)

    def log_prob(params: Any, observation: Any) -> Any:
        return jax.vmap(problem.policy.log_prob, (None, None, 0))(params, observation, actions)

    with jax.enable_x64(True):
        over_states = jax.jit(jax.vmap(jax.jacobian(log_prob), (None, 0)))
        found = jax.tree.leaves(over_states(problem.params, problem.mdp.observation))
    shape = (problem.mdp.num_states, problem.mdp.num_actions, -1)
    return np.concatenate([np.reshape(leaf, shape) for leaf in found], axis=-1)


def _information_gradients(
    problem: Problem, reference: Any, visits: np.ndarray, scores: np.ndarray
) -> dict[str, np.ndarray]:
    """Gradients of KL(π‖reference) and of the entropy, from listed trajectories alone.

    The sums of P(τ) log P(τ) are differentiated, with ∇P(τ) = P(τ) ∇log P(τ).
    """
    batch, probability = enumeration.trajectories(problem)
    now, then = (
        np.log(exact.action_probabilities(replace(problem, params=params)))
        for params in (problem.params, reference)
    )
    # States that look alike have the same probabilities.
    looks = batch.observation[:, :, None] == problem.mdp.observation
    at = np.argmax(np.all(looks, axis=-1), axis=-1), batch.action

    def of_trajectories(table: np.ndarray) -> np.ndarray:
        steps = table[at]
        return np.sum(np.where(batch.mask.reshape(batch.mask.shape + (1,) * (steps.ndim - 2)),
                               steps, 0), axis=1)  # fmt: skip

    slope = probability[:, None] * of_trajectories(scores)
    of_visits = visits[:, None] * np.exp(now)
    return {
        "∇KL": (of_trajectories(now - then) + 1) @ slope,
        "∇KL, states held": np.einsum("sa,sap->p", of_visits * (now - then + 1), scores),
        "∇entropy": -(of_trajectories(now) + 1) @ slope,
    }


@jax.jit  # traced once for all that read one
def stream_of(batch: Trajectory) -> tuple[Trajectory, Any]:
    """Two rows one after the other, as an environment that resets itself records them.

    Returns:
        The stream, one row of 2T without a leading axis, and [2T] the steps since the last reset.
    """
    T = batch.mask.shape[1]
    step = jnp.arange(2 * T)
    first, second = batch.mask.sum(1)
    age = jnp.where(step < first, step, jnp.minimum(step - first, T - 1))
    source = jnp.where(step < first, age, T + age)

    def stitch(x: Any) -> Any:
        return jnp.take(x.reshape(2 * T, *x.shape[2:]), source, axis=0, mode="clip")

    stream = Trajectory(
        observation=stitch(batch.observation),
        action=stitch(batch.action),
        reward=stitch(batch.reward),
        log_prob=stitch(batch.log_prob),
        terminated=stitch(batch.terminated),
        truncated=stitch(batch.truncated),
        mask=step < first + second,
        final_observation=batch.final_observation[1],
    )
    return stream, age
