"""Good values of the kinds of arguments that pgjax takes, and what is bad for each kind.

NumPy makes the arrays and `device_put` makes them JAX's, because an operation of JAX compiles a
program for each shape.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import device_put

import pgjax
from pgjax import baselines, groups, tabular, terms, training, weights
from pgjax.environments.base import Discrete, Environment, Step
from pgjax.policies import SOFTMAX
from pgjax.proof.problems import problems
from pgjax.rollouts.windows import Running, Stream, Window
from pgjax.training.minibatches import Settings
from tests.shared import rows

# --- Good values ------------------------------------------------------------------------------


def keys(*shape: int) -> Any:
    """Keys in this shape."""
    return jax.random.wrap_key_data(device_put(np.ones((*shape, 2), np.uint32)))


N, T, S, A = 4, 3, 4, 2
MDP = tabular.random_mdp()
POLICY, PARAMS = pgjax.tabular_softmax(S, A), device_put(np.zeros((S, A)))
ESTIMATOR = pgjax.reward_to_go(0.9)
PROBLEM = pgjax.Problem(MDP, POLICY, PARAMS, horizon=2, name="random")
KEY = jax.random.key(0)
BATCH = pgjax.Trajectory(
    **device_put(
        {
            "observation": np.tile(np.eye(S)[0], (N, T, 1)),
            "action": np.zeros((N, T), int),
            "reward": np.arange(float(N * T)).reshape(N, T),
            "log_prob": np.full((N, T), -np.log(2.0)),
            "terminated": np.zeros((N, T), bool),
            "truncated": np.tile(np.arange(T) == T - 1, (N, 1)),
            "mask": np.ones((N, T), bool),
            "final_observation": np.tile(np.eye(S)[1], (N, 1)),
        }
    )
)
AGENT = pgjax.agents.separate(POLICY, pgjax.MLP(1, hidden=()))
AGENT_PARAMS = device_put(
    {
        "policy": PARAMS,
        "critic": {"params": {"Dense_0": {"kernel": np.zeros((S, 1)), "bias": np.zeros(1)}}},
    }
)
SEQUENCE = device_put(np.ones(T))
PER_STEP = device_put(np.ones((N, T)))
SAMPLES = device_put(np.arange(8.0).reshape(4, 2))
MOMENTS = pgjax.Spread(np.array([3.0, 4.0]), np.array([10.0, 15.0]))
RUNNING = pgjax.diagnostics.RunningMoments(*device_put((np.float32(4), np.ones(2), np.ones(2))))
OPTIMIZER = optax.sgd(0.1)
SETTINGS = Settings(num_environments=2, num_steps=2, discount=0.9, lambda_=0.9)
STREAM = Stream(
    Running(*device_put((np.zeros(2, int), np.zeros((2, S)), np.zeros(2, int), np.zeros(2)))),
    device_put(np.int32(0)),
    keys(2, 3),
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
    return replace(kind, bad=kind.bad | {"array": device_put(np.full(3, kind.good))})


def arrays(good: Any, **bad: Any) -> Kind:
    """Bad in dtype, in rank and in length, along each axis."""
    good = np.asarray(good)
    shapes = {
        f"shorter along axis {i}": np.delete(good, slice(None), axis=i) for i in range(good.ndim)
    }
    shapes |= {
        "rank above": good[..., None],
        "rank below": good[0],
        "complex": good * 1j,
    }
    others = {
        "an array of strings": np.full(good.shape, "one"),
        "nested lists of different lengths": [[1.0], [1.0, 2.0]],
        "a function": pgjax.reinforce,
    }
    return Kind(device_put(good), NOTHING | others | device_put(shapes | bad))


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
    | {"an integer": 0, "floats": device_put(np.zeros(2)), "a batch": keys(3)}
    | {"a factory not called": jax.random.key},
)
BATCHES = Kind(
    BATCH,
    NOTHING
    | {
        "an array": PER_STEP,
        "one trajectory": rows(BATCH, 0),
        "no trajectory": rows(BATCH, slice(0)),
        "a pair of batches": (BATCH, BATCH),
        "a factory not called": pgjax.rollout,
        "time first": changed(reward=device_put(np.asarray(BATCH.reward).T)),
        "a field None": changed(reward=None),
        "a field of strings": changed(reward="one"),
        "complex rewards": changed(reward=device_put(np.asarray(BATCH.reward) * 1j)),
        "a mask of floats": changed(mask=PER_STEP),
        "a field of another shape": changed(log_prob=device_put(np.ones((N, 1)))),
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
        "integers": device_put(np.zeros((S, A), int)),
        "complex": device_put(np.zeros((S, A)) * 1j),
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
        "one number": device_put(np.float32(1)),
        "no sample": rows(SAMPLES, slice(0)),
        "complex": device_put(np.ones((4, 2)) * 1j),
    }
    | {"different N": {"a": SAMPLES, "b": rows(SAMPLES, slice(2))}}
    | {"a function": pgjax.reinforce},
)
GRADIENT = Kind(
    device_put(np.ones(2)),
    NOTHING
    | device_put({"complex": np.ones(2) * 1j, "integers": np.ones(2, int)})
    | {"a function": pgjax.reinforce},
)
LIKE = replace(
    GRADIENT,
    bad=GRADIENT.bad | {"another tree": {"a": 1.0}, "another shape": device_put(np.ones(3))},
)
LIKE = replace(LIKE, bad={name: x for name, x in LIKE.bad.items() if name != "integers"})
LOG_PROBS = arrays(np.full((N, T), -0.5))
FEATURES = arrays(np.ones((N, T, 1)))
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
    "products": arrays(np.ones((N, T, T))),
    "target": arrays(PER_STEP),
    "judge": of_type(pgjax.Judge()),
    "path": PATHS,
    "directory": PATHS,
}
