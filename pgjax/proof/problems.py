"""The suite: a handful of named problems that together expose the known mistakes of estimators.

No single MDP can. On episodes of fixed length, a mistake in handling their end has no bias. With γ
= 1, a forgotten γ^t has none. Together these problems have

- γ < 1, and discounts that are not round numbers;
- stochastic transitions, an asymmetric start and a non-zero terminal reward;
- episodes of different lengths, some of three steps and more, some of 32;
- a time limit that truncates, and a task that never ends;
- a policy that is not uniform in any state, and states that look alike to a Flax network.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np

from pgjax.exact import tabular
from pgjax.exact.problem import Problem as Problem
from pgjax.exact.problem import check_problem
from pgjax.exact.tabular import TabularMDP
from pgjax.policies import MLP, flax_policy, tabular_softmax


def problems() -> tuple[Problem, ...]:
    """The suite, made anew; small enough to enumerate batches of two.

    Returns:
        Problems in a fixed order, the same at every call.

    Example:
        >>> [problem.name for problem in problems()][2:]
        ['time limit', 'continuing', 'look-alikes', 'stopping', 'hazard']
    """
    return tuple(make() for make in (*_CERTIFIED, *_LONG))


def certified() -> tuple[Problem, ...]:
    """The problems of the certificate's tables: those with short episodes and round discounts.

    Returns:
        Problems in a fixed order, the same at every call.

    Example:
        >>> [problem.name for problem in certified()]
        ['bandit', 'random', 'time limit', 'continuing', 'look-alikes']
    """
    return tuple(make() for make in _CERTIFIED)


def off_policy(problem: Problem) -> Problem:
    """The same problem with an acting policy of parameters θ/2, nearer to uniform than π.

    Args:
        problem: from the suite, or like it; its own `behaviour` stays if it has one.

    Returns:
        A Problem on whose trajectories off-policy estimators are judged.

    Example:
        >>> problem = off_policy(problems()[0])
        >>> bool(np.all(problem.behaviour == problem.params / 2))
        True
    """
    check_problem(problem)
    if problem.behaviour is not None:
        return problem
    return replace(problem, behaviour=jax.tree.map(lambda x: np.asarray(x) / 2, problem.params))


def _bandit() -> Problem:
    """One decision; an estimator that is biased here has a mistake in the score itself."""
    return _tabular("bandit", tabular.two_armed_bandit(), horizon=1)


def _random() -> Problem:
    """γ < 1, stochastic, lengths 1 to 4, terminal reward, asymmetric start: it shows most bugs."""
    return _tabular("random", tabular.random_mdp(), horizon=4)


def _time_limit() -> Problem:
    """A chain whose ends are out of reach for many episodes, so that the limit truncates them."""
    return _tabular("time limit", tabular.chain(3, slip=0.2, discount=0.8), horizon=4)


def _continuing() -> Problem:
    """No terminal state: only the time limit ends an episode."""
    base = tabular.random_mdp(2, num_states=4, discount=0.7)
    transition = base.transition[:3, :, :3]
    transition = transition / transition.sum(-1, keepdims=True)
    mdp = TabularMDP(
        transition, base.reward[:3, :, :3], base.initial[:3], np.zeros(3, bool), base.discount
    )
    return _tabular("continuing", mdp, horizon=3)


def _look_alikes() -> Problem:
    """The short corridor, whose states all look alike, under a Flax network."""
    mdp = tabular.short_corridor(discount=0.9)
    policy = flax_policy(MLP(2, (2,)))
    # Of `policy.init` at key 0, written out: a draw takes ten programs, and its last bits are the
    # machine's own.
    layers = {
        "Dense_0": {"bias": np.zeros(2), "kernel": np.array([[-1.2978, 0.562]])},
        "Dense_1": {"bias": np.zeros(2), "kernel": np.array([[0.0002, 0.01], [0.01, -0.0002]])},
    }
    initial = {"params": layers}
    random = np.random.default_rng(4)
    params = jax.tree.map(lambda x: x + random.normal(scale=0.5, size=x.shape), initial)
    return Problem(mdp, policy, params, horizon=4, name="look-alikes")


def _stopping() -> Problem:
    """32 steps around a circle of three states; one action stops: no more than 33 trajectories."""
    transition = np.zeros((4, 2, 4))
    for state, following in enumerate((1, 2, 0)):
        transition[state, 0, 3] = transition[state, 1, following] = 1
    return _circle("stopping", transition, discount=float(np.exp(-1 / 32)), horizon=32)


def _hazard() -> Problem:
    """12 steps, each of which may be the last by chance: no more than 25 trajectories."""
    transition = np.zeros((4, 2, 4))
    for state, (following, risk) in enumerate(((1, 0.2), (2, 0.1), (0, 0.3))):
        transition[state, 0, 3] = 1
        transition[state, 1, [following, 3]] = 1 - risk, risk
    return _circle("hazard", transition, discount=float(np.sqrt(5) - 1) / 2, horizon=12)


def _circle(name: str, transition: np.ndarray, discount: float, horizon: int) -> Problem:
    """Three states and the end, action 0 to stop, under a policy that mostly goes on."""
    transition[3, :, 3] = 1
    random = np.random.default_rng(5)
    mdp = TabularMDP(
        transition,
        random.normal(size=(4, 2, 4)),
        initial=np.eye(4)[0],
        terminal=np.eye(4, dtype=bool)[3],
        discount=discount,
    )
    logits = random.normal(scale=0.5, size=(4, 2)) + np.array([-1.0, 1.0])
    return Problem(mdp, tabular_softmax(4, 2), logits, horizon, name)


def _tabular(name: str, mdp: TabularMDP, horizon: int) -> Problem:
    """Under a softmax over a table of seeded normal logits, uniform nowhere."""
    logits = np.random.default_rng(3).normal(scale=0.7, size=(mdp.num_states, mdp.num_actions))
    policy = tabular_softmax(mdp.num_states, mdp.num_actions)
    return Problem(mdp, policy, logits, horizon, name)


_CERTIFIED: tuple[Callable[[], Problem], ...] = (
    _bandit, _random, _time_limit, _continuing, _look_alikes,
)  # fmt: skip
_LONG: tuple[Callable[[], Problem], ...] = (_stopping, _hazard)
"""Of few trajectories, because one action, or chance, ends an episode at every step."""
