"""Good values of the kinds of arguments that pgjax takes, and what is bad for each kind."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import pgjax
from pgjax import baselines, groups, tabular, terms, training, weights
from pgjax.environments.base import Discrete, Environment, Step
from pgjax.policies import SOFTMAX
from pgjax.proof.problems import problems
from pgjax.rollouts.windows import Running, Stream, Window
from pgjax.training.minibatches import Settings

# --- Good values ------------------------------------------------------------------------------

N, T, S, A = 4, 3, 4, 2
MDP = tabular.random_mdp()
POLICY, PARAMS = pgjax.tabular_softmax(S, A), jnp.zeros((S, A))
ESTIMATOR = pgjax.reward_to_go(0.9)
PROBLEM = pgjax.Problem(MDP, POLICY, PARAMS, horizon=2, name="random")
KEY = jax.random.key(0)
BATCH = pgjax.Trajectory(
    observation=jnp.broadcast_to(jnp.eye(S)[0], (N, T, S)),
    action=jnp.zeros((N, T), int),
    reward=jnp.arange(N * T, dtype=float).reshape(N, T),
    log_prob=jnp.full((N, T), -jnp.log(2.0)),
    terminated=jnp.zeros((N, T), bool),
    truncated=jnp.zeros((N, T), bool).at[:, -1].set(True),
    mask=jnp.ones((N, T), bool),
    final_observation=jnp.broadcast_to(jnp.eye(S)[1], (N, S)),
)
AGENT = pgjax.agents.separate(POLICY, pgjax.MLP(1, hidden=()))
AGENT_PARAMS = {
    "policy": PARAMS,
    "critic": {"params": {"Dense_0": {"kernel": jnp.zeros((S, 1)), "bias": jnp.zeros(1)}}},
}
SEQUENCE = jnp.ones(T)
PER_STEP = jnp.ones((N, T))
SAMPLES = jnp.arange(8.0).reshape(4, 2)
MOMENTS = pgjax.Spread(np.array([3.0, 4.0]), np.array([10.0, 15.0]))
RUNNING = pgjax.diagnostics.RunningMoments(jnp.float32(4), jnp.ones(2), jnp.ones(2))
OPTIMIZER = optax.sgd(0.1)
SETTINGS = Settings(num_environments=2, num_steps=2, discount=0.9, lambda_=0.9)
STREAM = Stream(
    Running(jnp.zeros(2, jnp.int32), jnp.zeros((2, S)), jnp.zeros(2, jnp.int32), jnp.zeros(2)),
    jnp.int32(0),
    jax.random.split(KEY, (2, 3)),
)
WINDOW = Window(BATCH, BATCH.observation, BATCH.truncated, PER_STEP)


def show(place: Any) -> Any:
    return place, Step(jax.nn.one_hot(place, S), -1.0, place >= 3, False)


WALK = Environment(
    init=lambda key: show(jnp.int32(0)),
    step=lambda key, place, action: show(place + action),
    action_space=Discrete(2),
)


def value_of(params: Any, observation: Any) -> Any:
    return jnp.dot(params, observation)


# --- Kinds: what is bad -----------------------------------------------------------------------

NOTHING: dict[str, Any] = {"None": None, "string": "one"}


@dataclass(frozen=True)
class Kind:
    """A kind of argument: a good value, and bad ones, each under the name of what is wrong."""

    good: Any
    bad: dict[str, Any]
    is_number: bool = False
    called: str = ""  # by messages, if not by its name

    def with_good(self, good: Any) -> "Kind":
        return replace(self, good=good)


def numbers(good: Any, **bad: Any) -> Kind:
    common: dict[str, Any] = {"NaN": np.nan, "complex": 0.5j, "empty": np.zeros(0)}
    wrong: dict[str, Any] = {"a function": pgjax.reinforce, "a record": ESTIMATOR}
    return Kind(good, NOTHING | common | wrong | bad, is_number=True)


def single(kind: Kind) -> Kind:
    """One number and no other shape, where a record's number may be an array for vmap."""
    return replace(kind, bad=kind.bad | {"array": jnp.full(3, kind.good)})


def arrays(good: Any, **bad: Any) -> Kind:
    """Bad in dtype, in rank and in length, along each axis."""
    good = jnp.asarray(good)
    shapes = {
        f"shorter along axis {i}": jnp.take(good, jnp.arange(0), axis=i) for i in range(good.ndim)
    }
    common = {
        "rank above": good[..., None],
        "rank below": good[0],
        "complex": good * 1j,
        "an array of strings": np.full(good.shape, "one"),
        "nested lists of different lengths": [[1.0], [1.0, 2.0]],
        "a function": pgjax.reinforce,
    }
    return Kind(good, NOTHING | common | shapes | bad)


def changed(**fields: Any) -> Any:
    return replace(BATCH, **fields)


RATE = numbers(0.9, above=1.5, below=-0.5, boolean=True)
COUNT = Kind(
    2,
    NOTHING
    | {"zero": 0, "negative": -1, "half": 2.5, "boolean": True, "NaN": np.nan, "array": SEQUENCE}
    | {"a function": pgjax.reinforce},
    is_number=True,
)
KEYS = Kind(
    KEY,
    NOTHING
    | {"an integer": 0, "floats": jnp.zeros(2), "a batch": jax.random.split(KEY, 3)}
    | {"a factory not called": jax.random.key},
)
BATCHES = Kind(
    BATCH,
    NOTHING
    | {
        "an array": PER_STEP,
        "one trajectory": jax.tree.map(lambda x: x[0], BATCH),
        "no trajectory": jax.tree.map(lambda x: x[:0], BATCH),
        "a pair of batches": (BATCH, BATCH),
        "a factory not called": pgjax.rollout,
        "time first": changed(reward=BATCH.reward.T),
        "a field None": changed(reward=None),
        "a field of strings": changed(reward="one"),
        "complex rewards": changed(reward=BATCH.reward * 1j),
        "a mask of floats": changed(mask=PER_STEP),
        "a field of another shape": changed(log_prob=PER_STEP[:, :1]),
    },
)
POLICIES = Kind(
    POLICY,
    NOTHING
    | {"a number": 3, "an estimator": ESTIMATOR, "a network": pgjax.MLP(2)}
    | {"a factory not called": pgjax.tabular_softmax},
)
FUNCTION_OR_POLICY = Kind(
    POLICY,
    NOTHING
    | {"a number": 3, "an estimator": ESTIMATOR, "a factory not called": pgjax.tabular_softmax},
)
PARAMETERS = Kind(
    PARAMS,
    {
        "string": "one",
        "integers": jnp.zeros((S, A), int),
        "complex": PARAMS * 1j,
        "a policy": POLICY,
        "nested lists": np.zeros((S, A)).tolist(),
        "a factory not called": jnp.zeros,
    },
)
ESTIMATORS = Kind(
    ESTIMATOR,
    NOTHING | {"a number": 0.9, "a policy": POLICY, "a factory not called": pgjax.reinforce},
)
ENVIRONMENTS = Kind(
    MDP, NOTHING | {"a number": 3, "a policy": POLICY, "a factory not called": tabular.random_mdp}
)
PROBLEMS = Kind(PROBLEM, NOTHING | {"an MDP": MDP, "a number": 3, "a factory not called": problems})


def functions(good: Any, *factories: Any) -> Kind:
    uncalled = {f"{each.__name__} not called": each for each in factories}
    return Kind(good, NOTHING | {"a number": 0.5, "an array": SEQUENCE} | uncalled)


def of_type(good: Any, **bad: Any) -> Kind:
    return Kind(good, NOTHING | {"a number": 3} | bad)


WEIGHTS = functions(weights.reward_to_go(0.9), weights.reward_to_go, weights.generalized_advantage)
WEIGHTS = replace(WEIGHTS, bad=WEIGHTS.bad | {"an estimator": ESTIMATOR})
TERMS = functions(terms.score, terms.ppo_clip, terms.dual_clip)
BASELINES = functions(
    baselines.batch_mean, baselines.constant, baselines.state_value, baselines.per_time_step
)
GROUPS = of_type(groups.consecutive(2), **{"a factory not called": groups.consecutive})
OPTIMIZERS = of_type(OPTIMIZER, **{"a factory not called": optax.sgd})
MODULES = of_type(pgjax.MLP(2), policy=POLICY)
GRADIENTS = Kind(
    SAMPLES,
    NOTHING
    | {
        "no leaf": {},
        "one number": jnp.float32(1),
        "no sample": SAMPLES[:0],
        "complex": SAMPLES * 1j,
    }
    | {"different N": {"a": SAMPLES, "b": SAMPLES[:2]}, "a function": pgjax.reinforce},
)
GRADIENT = Kind(
    jnp.ones(2),
    NOTHING
    | {"complex": jnp.ones(2) * 1j, "integers": jnp.ones(2, int), "a function": pgjax.reinforce},
)
LIKE = replace(
    GRADIENT, bad=GRADIENT.bad | {"another tree": {"a": 1.0}, "another shape": jnp.ones(3)}
)
LIKE = replace(LIKE, bad={name: x for name, x in LIKE.bad.items() if name != "integers"})
LOG_PROBS = arrays(PER_STEP * -0.5)
FEATURES = arrays(jnp.ones((N, T, 1)))
PATHS = Kind("a.npz", {"None": None, "a number": 3.5, "a record": MDP})

DEGREES = Kind(
    1,
    {"string": "one", "two": 2, "negative": -1, "half": 0.5, "boolean": True, "array": PER_STEP}
    | {"None": None, "a function": pgjax.reinforce},
    is_number=True,
)

KINDS: dict[str, Kind] = {
    "degrees": DEGREES,
    **dict.fromkeys(("discount", "lambda_", "decay"), RATE),
    **dict.fromkeys(
        [
            "num_trajectories",
            "num_steps",
            "n",
            "num_states",
            "num_actions",
            "num_dimensions",
            "group_size",
            "batch_size",
            "limit",
            "num_pairs",
            "num_updates",
            "num_environments",
            "num_estimates",
            "max_samples",
            "max_iterations",
            "num_gradient_steps",
            "num_successors",
            "length",
            "height",
            "width",
            "num_filters",
            "folds",
        ],
        COUNT,
    ),
    "folds": COUNT.with_good(2),
    "limit": COUNT.with_good(1000),
    "epsilon": numbers(0.2, below=-0.5),
    "ceiling": numbers(2.0, below=-0.5),
    "ratio_ceiling": numbers(2.0, below=-0.5, zero=0.0),
    "trace_ceiling": numbers(2.0, below=-0.5, zero=0.0),
    "clip_low": RATE.with_good(0.2),
    "clip_high": numbers(0.2, below=-0.5),
    "coefficient": numbers(0.1, below=-0.5),
    "alpha": single(numbers(1e-3, zero=0.0, one=1.0)),
    "level": single(numbers(0.95, zero=0.0, one=1.0)),
    "damping": single(numbers(0.1, below=-0.5)),
    "scale": single(numbers(0.1, below=-0.5, zero=0.0)),
    "max_divergence": single(numbers(0.1, below=-0.5)),
    "slip": single(RATE.with_good(0.1)),
    "key": KEYS,
    "batch": BATCHES,
    "policy": POLICIES,
    "params": PARAMETERS,
    "estimator": ESTIMATORS,
    "environment": ENVIRONMENTS,
    "problem": PROBLEMS,
    "mdp": Kind(MDP, ENVIRONMENTS.bad),
    "weights": WEIGHTS,
    "credit": WEIGHTS,
    "term": TERMS,
    "baseline": BASELINES,
    "scale_": BASELINES,
    "groups": GROUPS,
    "optimizer": OPTIMIZERS,
    "gradients": GRADIENTS,
    "estimates": GRADIENTS,
    "gradient": GRADIENT,
    "reward": arrays(SEQUENCE),
    "value": arrays(SEQUENCE),
    "next_value": arrays(SEQUENCE),
    "moments": of_type(RUNNING, gradients=SAMPLES),
    "first": GRADIENT,
    "second": LIKE,
    "agent": of_type(AGENT, **{"a policy": POLICY, "a factory not called": pgjax.agents.separate}),
    "settings": of_type(SETTINGS),
    "algorithm": of_type(
        training.reinforce(MDP, policy=POLICY),
        **{"a factory not called": training.ppo, "a policy": POLICY},
    ),
    "distribution": of_type(SOFTMAX, policy=POLICY),
    "module": MODULES,
    "critic": of_type(pgjax.MLP(1), policy=POLICY),
    "window": of_type(WINDOW, batch=BATCH),
    "stream": of_type(STREAM),
    "log_prob": LOG_PROBS,
    "reference_log_prob": LOG_PROBS,
    "features": FEATURES,
    "products": arrays(jnp.ones((N, T, T))),
    "target": arrays(PER_STEP),
    "judge": of_type(pgjax.Judge()),
    "path": PATHS,
    "directory": PATHS,
}
