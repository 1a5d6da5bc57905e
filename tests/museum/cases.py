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
            "∇J of the uncut task": _uncut_gradient(problem, endless),
        }
        | _information_gradients(problem, reference, visits),
    )


def _near(params: Any, random: np.random.Generator) -> Any:
    return jax.tree.map(lambda x: x + random.normal(scale=0.4, size=np.shape(x)), params)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _probabilities(problem: Problem, params: Any) -> Any:
    """[S, A], differentiable."""
    over_actions = jax.vmap(problem.policy.log_prob, (None, None, 0))
    log_prob = jax.vmap(over_actions, (None, 0, None))(
        params, jnp.asarray(problem.mdp.observation), jnp.arange(problem.mdp.num_actions)
    )
    return jnp.exp(log_prob)


def _uncut_gradient(problem: Problem, endless: np.ndarray) -> np.ndarray:
    """Σ_{t<H} Σ_s γ^t P(s_t = s) Σ_a ∇π(a|s) Q(s, a), with Q of the task that goes on after H.

    What the first H steps' actions contribute to ∇J of the endless task: all that a sampler which
    cuts at H can know, and what a right bootstrap makes it estimate without bias.
    """
    visits = exact.visitation(problem).sum(0)
    credit = visits[:, None] * endless
    with jax.enable_x64(True):
        slope = jax.grad(lambda params: jnp.sum(credit * _probabilities(problem, params)))
        return _flat(jax.jit(slope)(problem.params))


def _information_gradients(
    problem: Problem, reference: Any, visits: np.ndarray
) -> dict[str, np.ndarray]:
    """Gradients of KL(π‖reference) and of the entropy, from listed trajectories alone.

    The trajectories' probabilities are differentiated themselves: no score function is used.
    """
    batch, probability = enumeration.trajectories(problem)

    def of_trajectories(params: Any) -> Any:
        both = jax.vmap(jax.vmap(problem.policy.log_prob, (None, 0, 0)), (None, 0, 0))
        log_prob = both(params, batch.observation, batch.action)
        return jnp.sum(jnp.where(batch.mask, log_prob, 0), axis=1)

    @jax.jit
    def gradients(start: Any) -> list:
        def reweighted(params: Any) -> Any:
            log_prob = of_trajectories(params)
            return log_prob, probability * jnp.exp(log_prob - of_trajectories(start))

        def divergence(params: Any) -> Any:
            log_prob, weight = reweighted(params)
            return jnp.sum(weight * (log_prob - of_trajectories(reference)))

        def divergence_at_visits(params: Any) -> Any:
            now, then = _probabilities(problem, params), _probabilities(problem, reference)
            return jnp.sum(visits[:, None] * now * jnp.log(now / then))

        def entropy(params: Any) -> Any:
            log_prob, weight = reweighted(params)
            return -jnp.sum(weight * log_prob)

        return [jax.grad(f)(start) for f in (divergence, divergence_at_visits, entropy)]

    with jax.enable_x64(True):
        found = gradients(problem.params)
    names = ("∇KL", "∇KL, states held", "∇entropy")
    return {name: _flat(gradient) for name, gradient in zip(names, found, strict=True)}


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
        return x.reshape(2 * T, *x.shape[2:])[source]

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
