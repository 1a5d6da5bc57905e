"""The table of bad input: every public function, each of its arguments, and every bad value of it.

A name means one thing in all of pgjax, so an argument's name says what kind it is of, what a good
value is, and what the bad ones are. Rows say only where a function differs from that.
"""

import ast
import importlib
import inspect
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import flax.linen
import jax.numpy as jnp
import numpy as np
from jax import device_put

import pgjax
from pgjax import expectations, training
from pgjax.diagnostics.intervals import LINEAR
from pgjax.environments.base import Discrete
from pgjax.policies import SOFTMAX
from pgjax.training.on_windows import ReturnScale
from tests.bad_values import (
    AGENT,
    AGENT_PARAMS,
    BASELINES,
    BATCHES,
    COUNT,
    ENVIRONMENTS,
    ESTIMATOR,
    FUNCTION_OR_POLICY,
    GRADIENTS,
    KEY,
    KINDS,
    LIKE,
    LOG_PROBS,
    MDP,
    MODULES,
    MOMENTS,
    NOTHING,
    OPTIMIZER,
    PARAMETERS,
    PARAMS,
    PATHS,
    PER_STEP,
    POLICY,
    PROBLEM,
    RATE,
    SAMPLES,
    SEQUENCE,
    WALK,
    A,
    Kind,
    N,
    S,
    T,
    arrays,
    changed,
    functions,
    keys,
    numbers,
    of_type,
    single,
    value_of,
)

# --- Rows: every public function --------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A public function: kinds of arguments that differ from their name's, and cells left out.

    Attributes:
        name: module and name, without `pgjax.`.
        kinds: by argument.
        skip: "argument", or "argument: what is wrong" -> why it does not apply.
        extra: good values of the arguments that are skipped.
    """

    name: str
    kinds: dict[str, Kind]
    skip: dict[str, str]
    extra: dict[str, Any]

    @property
    def function(self) -> Callable[..., Any]:
        """What the row is about."""
        module, _, name = self.name.rpartition(".")
        return getattr(importlib.import_module(f"pgjax.{module}"), name)


def row(
    name: str, /, *, skip: dict[str, str] | None = None, extra: Any = None, **kinds: Kind
) -> Row:
    return Row(name, kinds, skip or {}, extra or {})


SHAPES = "rank above", "rank below", "shorter along axis 0", "shorter along axis 1"
THROUGH = "a NaN in gives a NaN out, to be seen"
DEFAULT = "None has a documented meaning"
ANY_ARRAY = "any array will do: nothing is differentiated"
OWN = "the caller's own function reads them"
VMAP = "several numbers are documented, for vmap"
SCALAR = single(RATE)
SEQ_RATE = replace(
    RATE,
    bad=RATE.bad | device_put({"longer": np.full(T + 1, 0.9), "a column": np.full((T, 1), 0.9)}),
)
STEPS = arrays(SEQUENCE)
POSITIVE = numbers(0.5, below=-0.5, zero=0.0)
PAIR = Kind(
    (2.0, 3.0),
    NOTHING
    | {"a number": 2.0, "three": (1.0, 2.0, 3.0), "below": (-1.0, 2.0), "NaN": (1.0, np.nan)},
)
SINGLE_POSITIVE = single(POSITIVE)
INIT = functions(lambda key, observation: PARAMS)
OUTPUT = functions(lambda params, observation: observation @ params)
OBJECTIVE = functions(lambda params, key: jnp.sum(params))
VALUE = replace(functions(value_of), bad=functions(value_of).bad | {"a network": pgjax.MLP(1)})
SEEDS = Kind(
    0, NOTHING | {"half": 2.5, "NaN": np.nan, "a function": pgjax.reinforce}, is_number=True
)

# Of expectations: f, distributions, and estimators of both kinds.
NATURAL = functions(lambda params: params)
NATURAL = replace(NATURAL, bad={n: x for n, x in NATURAL.bad.items() if n != "None"})
F = functions(jnp.sum)
COIN = of_type(
    expectations.bernoulli(),
    policy=POLICY,
    **{"of a policy's output": SOFTMAX, "a maker not called": expectations.normal},
)
DRAWN = of_type(ESTIMATOR, policy=POLICY, **{"a maker not called": expectations.score_function})
GIVEN: dict[str, Kind] = {
    "estimator": DRAWN,
    "f": F,
    "distribution": COIN,
    "params": PARAMETERS,
    "num_samples": COUNT,
}
EXPECTATION = pgjax.Expectation(jnp.sum, expectations.bernoulli(), device_put(np.zeros(1)))
COSTS = of_type(
    [(1.0, [device_put(np.float32(0.0))])], **{"one number": [1.0], "no list": [(1.0, 2.0)]}
)

NAMED = ENVIRONMENTS.with_good(MDP)
ON_EPISODES = training.ReinforceSettings(num_trajectories=2, num_steps=2)
A2C = training.A2CSettings(num_environments=2, num_steps=2)
NO_RUN = str(Path(tempfile.gettempdir(), "run-that-no-test-makes"))
PPO = training.PPOSettings(num_environments=2, num_steps=2, num_minibatches=2)
CANDIDATES = Kind(ESTIMATOR, NOTHING | {"a number": 0.9, "a policy": POLICY})
LISTED = of_type([PROBLEM], empty=[], **{"a list of MDPs": [MDP]})

ROWS = [
    # returns
    row(
        "returns.discounted_returns",
        discount=SEQ_RATE,
        bootstrap_value=single(numbers(0.0)),
        skip={
            "bootstrap_value: NaN": THROUGH,
            "reward: shorter along axis 0": "no step has no return",
        },
    ),
    row("returns.td_errors", discount=SEQ_RATE),
    row("returns.generalized_advantages", discount=SEQ_RATE, lambda_=SEQ_RATE),
    row("returns.lambda_returns", discount=SEQ_RATE, lambda_=SEQ_RATE),
    row(
        "returns.n_step_returns",
        discount=SEQ_RATE,
        continues=arrays(np.ones(T, bool), floats=SEQUENCE),
    ),
    # baselines
    row("baselines.by_group.group_deviation"),
    row("baselines.by_group.group_leave_one_out"),
    row("baselines.by_group.group_mean"),
    row("baselines.by_state.recorded_value", batch=BATCHES.with_good(changed(value=PER_STEP))),
    row("baselines.by_state.state_value", value=functions(lambda s: s[0])),
    row(
        "baselines.by_time.per_time_step",
        baseline=arrays(SEQUENCE),
        skip={
            "baseline: rank above": VMAP,
            "baseline: shorter along axis 0": "a batch without steps needs no number",
        },
    ),
    row("baselines.constants.constant", baseline=numbers(0.5)),
    row("baselines.from_batch.batch_mean"),
    row("baselines.from_batch.leave_one_out"),
    row("baselines.groups.consecutive"),
    row(
        "baselines.groups.labelled",
        ids=Kind(
            np.array([0, 0, 1, 1]),
            NOTHING
            | {"floats": np.zeros(4), "rank above": np.zeros((4, 1), int)}
            | {
                "negative": np.array([0, -1]),
                "a function": pgjax.reinforce,
                "empty": np.zeros(0, int),
            },
        ),
        num_groups=COUNT,
    ),
    # terms
    row("terms.clips.ppo_clip", epsilon=RATE.with_good(0.2)),
    row("terms.clips.asymmetric_clip"),
    row("terms.clips.dual_clip", epsilon=RATE.with_good(0.2), ceiling=numbers(3.0, below=1.1)),
    row("terms.clips.truncated_ratio", floor=numbers(0.0, below=-0.5)),
    row("terms.dice.loaded_dice"),
    row("terms.sequences.sequence_clip"),
    row("terms.sequences.sequence_clip_by_token"),
    row("terms.sequences.geometric_clip", width=numbers(0.4, below=-0.5)),
    row("terms.sequences.sigmoid_gate", positive=POSITIVE, negative=POSITIVE),
    row("terms.sequences.gamma_gate", positive=PAIR, negative=PAIR),
    row("terms.divergences.divergence_mask", low=RATE, high=RATE),
    row("terms.divergences.kl_mask", low=numbers(0.1, below=-0.5), high=numbers(0.1, below=-0.5)),
    row(
        "terms.ratios.likelihood_ratio",
        other_log_prob=LOG_PROBS,
        skip={"log_prob: " + what: "any shape is documented" for what in SHAPES[:2]},
    ),
    *(
        Row(
            name,
            {"log_prob": STEPS, other: STEPS, "weight": STEPS},
            {"mask": "these terms do not read it"},
            {},
        )
        for name, other in (
            ("terms.score_function.score", "behaviour_log_prob"),
            ("terms.ratios.importance_ratio", "behaviour_log_prob"),
            ("terms.dice.dice", "behaviour_log_prob"),
            ("terms.sequences.sequence_ratio", "behaviour_log_prob"),
            ("terms.sequences.prefix_ratio", "behaviour_log_prob"),
            ("regularization.sampled_entropy", "behaviour_log_prob"),
            ("regularization.squared_entropy", "behaviour_log_prob"),
            ("regularization.k1", "reference_log_prob"),
            ("regularization.k2", "reference_log_prob"),
            ("regularization.k3", "reference_log_prob"),
        )
    ),
    # weights
    *(row(f"weights.normalised.{name}") for name in ("centred", "whitened", "divided_by_length")),
    *(
        row(f"weights.on_policy.{name}", scale=BASELINES)
        for name in (
            *("total_return", "reward_to_go", "mismatched_reward_to_go", "n_step", "lambda_return"),
            *("generalized_advantage", "mismatched_generalized_advantage"),
        )
    ),
    row("weights.on_policy.returns_to_go", discount=SCALAR),
    *(
        row(f"weights.off_policy.importance.{name}", ceiling=numbers(2.0, below=-0.5, zero=0.0))
        for name in (
            *("trajectory_importance", "normalised_trajectory_importance", "per_decision"),
            *("normalised_per_decision", "on_target_states"),
        )
    ),
    row("weights.off_policy.ratios.log_ratios"),
    row("weights.off_policy.ratios.cumulative_log_ratios"),
    row(
        "weights.off_policy.ratios.ratio_below",
        skip={
            f"log_ratio: {what}": "any shape is documented"
            for what in ("rank above", "rank below", "shorter along axis 0", "shorter along axis 1")
        },
        log_ratio=arrays(PER_STEP),
        ceiling=SINGLE_POSITIVE.with_good(2.0),
    ),
    row("weights.off_policy.traces.vtrace"),
    row("weights.off_policy.traces.retrace"),
    row("weights.off_policy.traces.tree_backup"),
    row(
        "weights.off_policy.traces.vtrace_targets",
        discount=SEQ_RATE,
        lambda_=SEQ_RATE,
        log_ratio=STEPS,
    ),
    row(
        "weights.off_policy.traces.action_value_targets",
        discount=SEQ_RATE,
        trace=STEPS,
        action_value=STEPS,
    ),
    # policies
    row("policies.softmax.tabular_softmax"),
    row("policies.softmax.softmax_policy", init=INIT, logits=OUTPUT),
    row("policies.gaussian.gaussian_policy", init=INIT, mean_and_log_std=OUTPUT),
    row(
        "policies.squashed.squashed_gaussian",
        low=numbers(-1.0, above=2.0),
        high=numbers(1.0, below=-2.0),
    ),
    row(
        "policies.squashed.squashed_gaussian_policy",
        init=INIT,
        mean_and_log_std=OUTPUT,
        low=numbers(-1.0, above=2.0),
        high=numbers(1.0, below=-2.0),
    ),
    row(
        "policies.product.multi_discrete",
        num_actions=Kind(
            (2, 3), NOTHING | {"a number": 2, "empty": (), "zero": (0, 2), "half": (2.5,)}
        ),
    ),
    row(
        "policies.product.multi_discrete_policy",
        init=INIT,
        logits=OUTPUT,
        num_actions=Kind(
            (2, 3), NOTHING | {"a number": 2, "empty": (), "zero": (0, 2), "half": (2.5,)}
        ),
    ),
    row(
        "policies.product.factored_policy",
        policies=of_type({"a": POLICY}, empty={}, network=pgjax.MLP(2)),
    ),
    row("policies.product.product", distributions=of_type((SOFTMAX,), empty=(), policy=POLICY)),
    row("policies.greedy.greedy"),
    row("policies.distribution.distribution_policy", init=INIT, output=OUTPUT),
    row(
        "policies.recurrent.recurrent_policy",
        init=INIT,
        memory=functions(lambda params: jnp.zeros(1)),
        step=OUTPUT,
    ),
    row("policies.recurrent.as_recurrent"),
    row("policies.modules.flax_policy"),
    row("policies.modules.flax_gaussian_policy"),
    row("policies.modules.flax_functions"),
    row(
        "policies.modules.flax_recurrent_policy",
        cell=of_type(flax.linen.GRUCell(8), policy=POLICY),
        head=MODULES,
        num_categories=COUNT,
    ),
    row(
        "policies.networks.MLP",
        hidden=Kind((4,), NOTHING | {"a number": 4, "zero": (0,), "half": (2.5,)}),
        standardized=Kind(False, {}),
        num_categories=COUNT,
        skip={"parent": "of Flax", "name": "of Flax"},
    ),
    row(
        "policies.networks.GaussianMLP",
        hidden=Kind((4,), NOTHING | {"a number": 4, "zero": (0,), "half": (2.5,)}),
        standardized=Kind(False, {}),
        initial_log_std=single(numbers(0.0)),
        skip={"parent": "of Flax", "name": "of Flax"},
    ),
    row("policies.networks.ConvNet", hidden=COUNT, skip={"parent": "of Flax", "name": "of Flax"}),
    row(
        "policies.networks.RecurrentNetwork",
        cell=of_type(flax.linen.GRUCell(8), policy=POLICY),
        head=MODULES,
        num_categories=COUNT,
        skip={"parent": "of Flax", "name": "of Flax"},
    ),
    row("policies.actor_critic.separate"),
    row("policies.actor_critic.shared", module=MODULES),
    row("policies.critics.flax_value", module=MODULES),
    row(
        "policies.critics.with_values",
        skip={"params: integers": OWN, "params: complex": OWN},
        value=VALUE,
        params=PARAMETERS.with_good(device_put(np.zeros(S))),
    ),
    row(
        "policies.critics.with_bootstrap",
        skip={"params: integers": OWN, "params: complex": OWN},
        value=VALUE,
        params=PARAMETERS.with_good(device_put(np.zeros(S))),
    ),
    row("policies.critics.fit", value=VALUE, params=PARAMETERS.with_good(device_put(np.zeros(S)))),
    # the nouns
    row("types.Estimator"),
    row("types.Policy", init=INIT, sample=OUTPUT, log_prob=OUTPUT, entropy=OUTPUT),
    row(
        "types.RecurrentPolicy",
        init=INIT,
        memory=OUTPUT,
        sample=OUTPUT,
        log_prob=OUTPUT,
        entropy=OUTPUT,
    ),
    row(
        "policies.distribution.Distribution",
        sample=OUTPUT,
        log_prob=OUTPUT,
        entropy=OUTPUT,
        masked=OUTPUT,
    ),
    row("policies.actor_critic.ActorCritic", init=INIT, acting=OUTPUT, value=OUTPUT),
    row(
        "baselines.groups.Groups",
        skip={"smallest: None": DEFAULT},
        total=functions(lambda x: x),
        smallest=COUNT,
    ),
    row(
        "environments.base.Environment",
        init=functions(WALK.init),
        step=functions(WALK.step),
        action_space=of_type(Discrete(2)),
        time_limit=numbers(3, below=0.5),
        name=Kind("walk", {"None": None, "a number": 3}),
        num_categories=COUNT,
    ),
    row(
        "beyond.antithetic.Draws",
        noise=functions(lambda key: key),
        mirror=functions(lambda x: x),
        act=OUTPUT,
    ),
    row(
        "exact.problem.Problem",
        skip={
            "horizon: None": DEFAULT,
            "params: integers": ANY_ARRAY,
            "params: complex": ANY_ARRAY,
            "behaviour: integers": ANY_ARRAY,
        },
        horizon=COUNT,
        name=Kind("random", {"None": None, "a number": 3}),
        behaviour=Kind(PARAMS, {"string": "one", "integers": PARAMETERS.bad["integers"]}),
    ),
    row(
        "proof.judge.Judge",
        tolerance=SINGLE_POSITIVE,
        margin=SINGLE_POSITIVE,
        up_to_scale=Kind(False, NOTHING | {"a number": 3}),
    ),
    row(
        "exact.tabular.mdp.TabularMDP",
        transition=arrays(MDP.transition, NaN=MDP.transition * np.nan, negative=-MDP.transition),
        reward=arrays(MDP.reward, NaN=MDP.reward * np.nan),
        initial=arrays(MDP.initial, NaN=MDP.initial * np.nan),
        terminal=arrays(MDP.terminal, floats=MDP.initial),
        observation=arrays(MDP.observation),
        discount=SCALAR,
        skip={
            "observation: rank above": "an observation has any shape",
            "observation: complex": "an observation has any dtype",
            "observation: shorter along axis 1": "an observation has any shape",
            "observation: rank below": "S numbers are an observation of one number each",
        },
    ),
    # estimators
    *(
        row(f"estimators.{name}")
        for name in (
            *("reinforce", "reward_to_go", "mismatched_reward_to_go", "rloo", "grpo", "dr_grpo"),
            *("actor_critic", "mismatched_actor_critic", "n_step_actor_critic"),
            *("surrogate", "gradient", "per_trajectory_gradients", "score_weights"),
        )
    ),
    row("core.scores.log_probs", chunk_size=COUNT),
    row("core.validation.traced.checked", function=functions(jnp.sum)),
    # regularization
    row("regularization.entropy_gradient", discount=SCALAR),
    row("regularization.visits"),
    row("regularization.with_entropy_reward", coefficient=single(KINDS["coefficient"])),
    row("regularization.with_k1_reward", coefficient=single(KINDS["coefficient"])),
    row("regularization.with_k2_reward", coefficient=single(KINDS["coefficient"])),
    row("regularization.with_k3_reward", coefficient=single(KINDS["coefficient"])),
    row("regularization.with_reference"),
    # control variates
    row("control_variates.baselines.coefficients", weight=arrays(np.ones(N))),
    row("control_variates.baselines.same_batch"),
    row("control_variates.baselines.cross_fitted"),
    row("control_variates.baselines.per_parameter_same_batch", scores=GRADIENTS),
    row("control_variates.baselines.per_parameter_cross_fitted", scores=GRADIENTS),
    row("control_variates.features.observations"),
    row("control_variates.features.scalar"),
    row("control_variates.features.time_steps"),
    row("control_variates.features.score_products", discount=SCALAR),
    # diagnostics
    *(
        row(
            f"diagnostics.from_exact.{name}",
            moments=of_type(MOMENTS, gradients=SAMPLES),
            truth=arrays(np.ones(2)),
            relative_error=SINGLE_POSITIVE,
        )
        for name in (
            "estimates_needed",
            "exact_noise_scale",
            "exact_signal_to_noise",
            "mean_squared_error",
        )
    ),
    row("diagnostics.geometry.cosine", skip={"first: integers": ANY_ARRAY}),
    row("diagnostics.geometry.dot", skip={"first: integers": ANY_ARRAY}),
    row("diagnostics.geometry.norm", skip={"gradient: integers": ANY_ARRAY}),
    row(
        "diagnostics.importance.effective_sample_size",
        log_weight=arrays(SEQUENCE),
        skip={"log_weight: rank above": "[N, ...] has any rank from 1 on"},
    ),
    *(
        row(f"diagnostics.intervals.{name}", reference=LIKE, first=GRADIENTS, second=GRADIENTS)
        for name in (
            "noise_scale_interval",
            "signal_to_noise_interval",
            "cosine_interval",
            "cosine_between_interval",
        )
    ),
    row(
        "diagnostics.intervals.jackknife",
        statistic=functions(lambda m: m.mean[0]),
        samples=GRADIENTS,
        scale=of_type(LINEAR),
        extra={"samples": "*"},
    ),
    *(
        row(f"diagnostics.moments.{name}", truth=LIKE)
        for name in (
            "bias",
            "merge_all",
            "noise_scale",
            "signal_to_noise",
            "squared_signal",
            "standard_error",
            "total_variance",
            "variance",
        )
    ),
    row("diagnostics.moments.covariance"),
    row("diagnostics.moments.running_moments"),
    row("diagnostics.moments.merge", first=KINDS["moments"], second=KINDS["moments"]),
    row("diagnostics.moments.cosine_of_means", first=KINDS["moments"], second=LIKE),
    # exact
    *(
        row(
            f"exact.{name}",
            reference=arrays(np.full((S, A), 0.5), NaN=np.full((S, A), np.nan)),
            coefficient=single(KINDS["coefficient"]),
        )
        for name in (
            *("derivatives.gradient", "derivatives.hessian", "derivatives.mismatched_gradient"),
            *("derivatives.third_derivative", "dynamics.action_probabilities"),
            *("moments.optimal_state_baseline", "values.action_values", "values.objective"),
            *("values.state_values", "values.visitation", "regularized.local_entropy_gradient"),
            *(
                "regularized.entropy_regularized_gradient",
                "regularized.entropy_regularized_objective",
            ),
            *("regularized.kl_regularized_gradient", "regularized.kl_regularized_objective"),
            "regularized.local_kl_gradient",
        )
    ),
    row(
        "exact.moments.moments",
        of=of_type(pgjax.exact.TOTAL_RETURN),
        baseline=Kind(
            np.zeros(S),
            NOTHING
            | {
                "complex": np.zeros(S) * 1j,
                "longer": np.zeros(S + 1),
                "a function": pgjax.reinforce,
                "NaN": np.nan,
            },
        ),
    ),
    row(
        "exact.moments.spread",
        of=of_type(pgjax.exact.TOTAL_RETURN),
        baseline=Kind(
            np.zeros(S),
            NOTHING
            | {
                "complex": np.zeros(S) * 1j,
                "longer": np.zeros(S + 1),
                "a function": pgjax.reinforce,
                "NaN": np.nan,
            },
        ),
    ),
    row("exact.tabular.mdp.load"),
    row("exact.tabular.mdp.save"),
    row("exact.tabular.named.chain", discount=SCALAR),
    row("exact.tabular.named.gridworld", discount=SCALAR),
    row("exact.tabular.named.random_mdp", seed=SEEDS, discount=SCALAR),
    row("exact.tabular.named.short_corridor", discount=SCALAR),
    row("exact.tabular.named.two_armed_bandit", discount=SCALAR),
    # enumeration
    row("enumeration.count"),
    row("enumeration.examine"),
    row("enumeration.moments"),
    row("enumeration.trajectories"),
    # environments
    row(
        "environments.make",
        name=Kind(
            "CartPole-v1",
            {"None": None, "a number": 3, "unknown": "CartPole-v9", "empty": ""},
            called="environment",
        ),
    ),
    row(
        "environments.tables.laws.make",
        name=Kind(
            "FrozenLake-misc",
            {"None": None, "a number": 3, "unknown": "CartPole-v9", "empty": ""},
            called="has no exact table",
        ),
    ),
    row(
        "environments.base.limited",
        skip={"time_limit: None": DEFAULT},
        time_limit=COUNT,
        environment=ENVIRONMENTS.with_good(WALK),
    ),
    row("environments.tables.from_gymnax.tabular_mdp", params=Kind(None, {}), discount=SCALAR),
    row("environments.tables.from_gymnax.timeless_mdp", params=Kind(None, {}), discount=SCALAR),
    # rollouts
    row("rollouts.episodes.rollout", mesh=of_type(None)),
    row("rollouts.gradients.sampled_gradient", micro_batch_size=COUNT, mesh=of_type(None)),
    row("rollouts.gradients.sampled_moments", micro_batch_size=COUNT, mesh=of_type(None)),
    row("rollouts.fold.seeded_return", policy=FUNCTION_OR_POLICY, discount=SCALAR),
    row(
        "rollouts.windows.start",
        memory=Kind(
            device_put(np.zeros(3)), {"string": "one", "a policy": POLICY, "a maker": jnp.zeros}
        ),
    ),
    row("rollouts.windows.window"),
    row("rollouts.windows.finished"),
    row("rollouts.windows.with_values", value=functions(lambda s: s[0])),
    # beyond
    row(
        "beyond.all_action.all_action_gradient",
        skip={"action_values: a function": "a function is documented"},
        action_values=arrays(np.ones((N, T, A))),
        discount=SCALAR,
    ),
    row(
        "beyond.all_action.corrected_all_action_gradient",
        skip={"action_values: a function": "a function is documented"},
        action_values=arrays(np.ones((N, T, A))),
        discount=SCALAR,
    ),
    row(
        "beyond.antithetic.antithetic_rollout",
        draws=of_type(pgjax.beyond.inversion(POLICY, 2), policy=POLICY),
    ),
    row("beyond.antithetic.inversion"),
    row("beyond.antithetic.mirrored_normal", mean_and_log_std=OUTPUT),
    row("beyond.fisher.fisher"),
    row("beyond.fisher.expected_fisher", discount=SCALAR),
    row("beyond.fisher.sampled_fisher", discount=SCALAR),
    row("beyond.natural.compatible_weights"),
    row("beyond.natural.exact_natural_gradient"),
    row(
        "beyond.natural.natural_gradient", product=functions(lambda v: v), tolerance=SINGLE_POSITIVE
    ),
    row("beyond.natural.trust_region_scale", natural=LIKE),
    row("beyond.pairs.antithetic_moments"),
    row("beyond.pairs.antithetic_pairs"),
    row("beyond.parameter_space.evolution_strategies", objective=OBJECTIVE),
    row(
        "beyond.parameter_space.mirrored_contrast",
        objective=OBJECTIVE,
        noise=LIKE.with_good(PARAMS),
        skip={"key": "passed on unchanged"},
        extra={"key": KEY},
    ),
    row(
        "beyond.parameter_space.pgpe",
        objective=OBJECTIVE,
        distribution=of_type(pgjax.beyond.SearchDistribution(PARAMS, PARAMS)),
    ),
    row(
        "beyond.parameter_space.symmetric_contrasts",
        objective=OBJECTIVE,
        distribution=of_type(pgjax.beyond.SearchDistribution(PARAMS, PARAMS)),
        noise=GRADIENTS.with_good(device_put(np.ones((2, S, A)))),
        skip={"keys": "passed on unchanged"},
        extra={"keys": keys(2)},
    ),
    row("beyond.pathwise.differentiable", params=Kind(None, {})),
    row("beyond.pathwise.pathwise_gradient", policy=FUNCTION_OR_POLICY, discount=SCALAR),
    row("beyond.streams.sampled_trace_gradient", discount=SCALAR, decay=SCALAR),
    row("beyond.traces.trace_gradient", discount=SCALAR, decay=SCALAR),
    # expectations
    row("expectations.adapters.from_object", build=functions(lambda params: params)),
    row(
        "expectations.adapters.from_policy",
        skip={"observation": "the policy reads it"},
        extra={"observation": device_put(np.eye(S)[0])},
    ),
    row("expectations.biased.gumbel_softmax", temperature=POSITIVE),
    row("expectations.biased.reinmax"),
    row("expectations.biased.straight_through"),
    row("expectations.biased.straight_through_gumbel_softmax", temperature=POSITIVE),
    row("expectations.coupled.arm"),
    row("expectations.coupled.disarm"),
    row("expectations.delta.delta_control_variate", estimator=DRAWN, coefficient=numbers(1.0)),
    row(
        "expectations.distributions.Distribution",
        sample=OUTPUT,
        log_prob=OUTPUT,
        noise=OUTPUT,
        transform=OUTPUT,
        outcomes=OUTPUT,
        natural=OUTPUT,
    ),
    row("expectations.distributions.bernoulli", logits=NATURAL),
    row("expectations.distributions.categorical", logits=NATURAL),
    row("expectations.distributions.normal", mean_and_log_std=NATURAL),
    row("expectations.distributions.one_hot_categorical", logits=NATURAL),
    row("expectations.distributions.poisson", log_rate=NATURAL),
    *(
        Row(f"expectations.estimates.{name}", GIVEN, {}, {})
        for name in ("gradient", "objective", "per_sample_gradients")
    ),
    Row("expectations.estimates.jacobians", GIVEN | {"f": functions(lambda x: x[0])}, {}, {}),
    row(
        "expectations.estimator.ExpectationEstimator",
        draw=OUTPUT,
        weights=OUTPUT,
        term=OUTPUT,
        law=Kind("outcomes", {"None": None, "a number": 3}),
    ),
    row("expectations.pathwise.antithetic", estimator=DRAWN),
    row("expectations.pathwise.pathwise"),
    row("expectations.pathwise.quasi_monte_carlo", estimator=DRAWN),
    row("expectations.programs.surrogate", costs=COSTS, baselines=COSTS),
    row("expectations.relaxed.rebar", temperature=POSITIVE, scale=numbers(1.0)),
    row("expectations.relaxed.relax", control=functions(jnp.sum)),
    row("expectations.score.MovingAverage"),
    row(
        "expectations.score.least_variance_constant",
        f=F,
        distribution=COIN,
        params=PARAMETERS.with_good(device_put(np.zeros(2))),
    ),
    row("expectations.score.least_variance_score_function"),
    row("expectations.score.score_function"),
    row("expectations.summed.all_outcomes"),
    row("expectations.summed.likeliest_outcomes", num_outcomes=COUNT),
    row("expectations.vimco.vimco", group_size=COUNT),
    row("expectations.vimco.vimco_weights", group_size=COUNT),
    row("expectations.weak_derivatives.measure_valued"),
    row("expectations.weak_derivatives.uncoupled_measure_valued"),
    row("expectations.without_replacement.without_replacement", set_size=COUNT),
    # training
    row("training.actor_critic.a2c", params=PARAMETERS.with_good(AGENT_PARAMS)),
    row("training.actor_critic.ppo", params=PARAMETERS.with_good(AGENT_PARAMS)),
    row(
        "training.actor_critic.clipped_adam",
        learning_rate=SINGLE_POSITIVE,
        max_gradient_norm=SINGLE_POSITIVE,
    ),
    row("training.actor_critic.standardized_clip", clip=RATE.with_good(0.2)),
    row("training.on_windows.rows_of", params=PARAMETERS.with_good(AGENT_PARAMS)),
    row(
        "training.on_windows.scale_rewards",
        unit=of_type(ReturnScale(*device_put((np.ones(()), np.ones(()))))),
        discount=SCALAR,
    ),
    row("training.networks.default_network"),
    row("training.networks.initial_params"),
    row("training.evaluation.evaluate"),
    row("training.on_episodes.policy_gradient"),
    row("training.algorithm.begin", skip={"params: integers": OWN, "params: complex": OWN}),
    row("training.algorithm.run"),
    row(
        "training.algorithm.Algorithm",
        measures=Kind(False, NOTHING | {"a number": 3}),
        init=INIT,
        step=functions(lambda state: state),
        acting=functions(lambda state: state),
    ),
    row("training.algorithms.reinforce", settings=of_type(ON_EPISODES), environment=NAMED),
    *(
        row(f"training.algorithms.{name}", settings=of_type(own), environment=NAMED)
        for name, own in (("a2c", A2C), ("ppo", PPO))
    ),
    *(
        row(
            f"training.natural.{name}",
            settings=of_type(ON_EPISODES),
            environment=NAMED,
            damping=single(numbers(0.1, below=-0.5)),
            max_iterations=COUNT,
            max_divergence=SINGLE_POSITIVE,
        )
        for name in ("natural_policy_gradient", "trpo")
    ),
    row(
        "training.spreading.over_devices",
        algorithm=of_type(training.a2c(MDP, A2C, agent=AGENT)),
        skip={"devices": "of JAX, which says what is none"},
    ),
    row("training.on_episodes.train"),
    row(
        "training.ascent.update",
        skip={"optimizer_state": "of optax, whose pytrees have any shape"},
        extra={"optimizer_state": OPTIMIZER.init(PARAMS)},
    ),
    row(
        "training.ascent.ascend",
        gradient=LIKE.with_good(PARAMS),
        objective=functions(lambda params: 0.0),
        skip={
            "value": "optax reads it",
            "optimizer_state": "of optax, whose pytrees have any shape",
        },
        extra={"optimizer_state": OPTIMIZER.init(PARAMS)},
    ),
    row(
        "training.runs.checkpoints.save",
        step=Kind(1, NOTHING | {"negative": -1, "half": 2.5}, is_number=True),
        state=Kind(
            {"w": SEQUENCE},
            {"None": None, "string": "one", "empty": {}, "a function": pgjax.reinforce},
        ),
        keep=COUNT,
    ),
    row("training.runs.checkpoints.restore_latest", like=Kind({"w": SEQUENCE}, {})),
    row("training.runs.checkpoints.steps"),
    row(
        "training.runs.loading.load",
        skip={"environment": "read only if the run says that it had its own", "policy": "the same"},
    ),
    *(
        row(
            f"training.runs.starting.{name}",
            skip={"parts": "in the table under training.algorithms", **others},
            directory=PATHS.with_good(NO_RUN),
            environment=NAMED,
            settings=of_type(ON_EPISODES),
            seed=SEEDS,
            overwrite=Kind(False, {}),
            options=of_type(training.RunOptions()),
        )
        for name, others in (
            ("start", {"settings: None": DEFAULT}),
            ("resume", {"environment": "read if a run had one"}),
        )
    ),
    row("settings.tuned_table.tuned", name=Kind("CartPole-v1", {"None": None, "a number": 3})),
    row(
        "training.runs.seeds.start_seeds",
        skip={"settings: None": DEFAULT},
        directory=PATHS.with_good(NO_RUN),
        environment=Kind("CartPole-v1", NOTHING | {"a record": MDP, "a number": 3}),
        settings=of_type(ON_EPISODES),
        seeds=Kind(
            [0, 1], NOTHING | {"a number": 3, "empty": [], "halves": [0.5], "twice": [1, 1]}
        ),
        overwrite=Kind(False, {}),
        options=of_type(training.RunOptions()),
    ),
    # proof
    row(
        "proof.unbiased.assert_unbiased",
        candidate=CANDIDATES,
        problems=LISTED,
        rollout=functions(None),
        behaviour=functions(None),
    ),
    row("proof.convergence.assert_converges", candidate=CANDIDATES, rollout=functions(None)),
    row(
        "proof.certificate.certify",
        rows=of_type(pgjax.registry.ROWS[:1], **{"a row": pgjax.registry.ROWS[0]}),
        problems=LISTED,
    ),
    row(
        "proof.certificate.gradients",
        estimators=of_type([ESTIMATOR], **{"one estimator": ESTIMATOR}),
    ),
    row("proof.certificate.refuted", certificates=of_type([])),
    row("proof.certificate.with_visible_states"),
    row(
        "proof.expectation_certificate.certify_expectations",
        rows=of_type(pgjax.registry.EXPECTATIONS[:1], **{"a row": pgjax.registry.EXPECTATIONS[0]}),
        given=of_type([EXPECTATION], **{"a list of MDPs": [MDP]}),
    ),
    row(
        "proof.expectation_certificate.evaluate_code",
        skip={"code: string": "a NameError is documented"},
        code=Kind("expectations.arm()", NOTHING | {"a number": 3}),
        problem=of_type(EXPECTATION, **{"an MDP": MDP}),
    ),
    row(
        "proof.expectation_certificate.expectation_moments",
        estimator=DRAWN,
        problem=of_type(EXPECTATION, **{"an MDP": MDP}),
        num_samples=COUNT,
    ),
    row("proof.expectation_certificate.refuted", certificates=of_type([])),
    row("proof.expectation_certificate.table", certificates=of_type([])),
    row(
        "proof.expectation_problems.Expectation",
        f=F,
        distribution=COIN,
        params=PARAMETERS.with_good(device_put(np.zeros(2))),
        name=Kind("coin", {"None": None, "a number": 3}),
    ),
    row("proof.independence.independence_test", batches=BATCHES),
    row("proof.problems.off_policy"),
    row("proof.problems.problems"),
    row("proof.registry.section_of", row=of_type(pgjax.registry.ROWS[0])),
    row(
        "proof.registry.row.evaluate",
        skip={"code: string": "a NameError is documented"},
        code=Kind("reinforce(γ)", NOTHING | {"a number": 3}),
    ),
    row(
        "proof.sequential_test.mean_test",
        draw=functions(lambda key: jnp.ones((64, 2))),
        truth=arrays(np.ones(2)),
        margin=SINGLE_POSITIVE,
        bound=SINGLE_POSITIVE,
    ),
    row("proof.trajectory_law.law_test"),
    row("proof.trajectory_law.wrong_fields"),
    row("proof.trajectory_law.wrong_final_observation"),
]


# --- Cells ------------------------------------------------------------------------------------

SWAPPED = "swapped with "


@dataclass(frozen=True)
class Cell:
    """One bad call: a function, the argument that is bad, and what is bad about it."""

    row: Row
    argument: str
    what: str
    value: Any
    call: Callable[[], Any]
    names: tuple[str, ...]  # one of them must be in the message


def arguments(row: Row) -> dict[str, tuple[Kind, inspect.Parameter]]:
    """The arguments of a function that a row is about, with their kinds."""
    parameters = inspect.signature(row.function).parameters
    return {
        name: (row.kinds.get(name) or KINDS[name], parameter)
        for name, parameter in parameters.items()
        if name not in row.skip
    }


def why_not(row: Row, argument: str, what: str, value: Any) -> str | None:
    """Why a cell does not apply; None if it does."""
    default = inspect.signature(row.function).parameters[argument].default
    if value is None and default is None:
        return "None is the default"
    return row.skip.get(f"{argument}: {what}")


def cells(row: Row) -> Iterator[Cell]:
    """The cells of a function that apply."""
    known = arguments(row)
    good = row.extra | {name: kind.good for name, (kind, _) in known.items()}

    def calling(changes: dict[str, Any]) -> Callable[[], Any]:
        return lambda: _call(row.function, good | changes)

    for name, (kind, _) in known.items():
        names = (name, *filter(None, [kind.called]))
        for what, value in kind.bad.items():
            if why_not(row, name, what, value) is None:
                yield Cell(row, name, what, value, calling({name: value}), names)
    listed = list(known)
    for one, other in pairwise(listed):
        if can_swap(known[one][0], known[other][0]):
            changes = {one: good[other], other: good[one]}
            names = one, other
            yield Cell(row, one, SWAPPED + other, good[other], calling(changes), names)


def can_swap(one: Kind, other: Kind) -> bool:
    """Whether two neighbours are of different kinds, so that a swap can be seen."""
    both_numbers = one.is_number and other.is_number
    both_callable = callable(one.good) and callable(other.good)
    shapes = [getattr(kind.good, "shape", None) for kind in (one, other)]
    both_arrays = shapes[0] is not None and shapes[0] == shapes[1]
    return not (both_numbers or both_callable or both_arrays or type(one.good) is type(other.good))


def _call(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    parameters = inspect.signature(function).parameters
    star = [name for name, p in parameters.items() if p.kind is p.VAR_POSITIONAL]
    if not star:
        return function(**given)
    place = list(parameters).index(star[0])
    before = [given[name] for name in list(parameters)[:place]]
    after = {name: given[name] for name in list(parameters)[place + 1 :] if name in given}
    return function(*before, given[star[0]], **after)


PACKAGE = str(Path(pgjax.__file__).parent)


def fault(cell: Cell) -> str | None:
    """What is wrong about the answer to a bad call; None if it is a good error."""
    try:
        cell.call()
    except (ValueError, TypeError) as error:
        innermost = traceback.extract_tb(error.__traceback__)[-1].filename
        message = str(error)
        if not innermost.startswith(PACKAGE):
            return f"{type(error).__name__} from {innermost}: {message.splitlines()[0]}"
        if not any(name in message for name in cell.names):
            return f"the message does not name it: {message}"
        if "got" not in message and not any(x in message for x in shown(cell.value)):
            return f"the message does not say what it was: {message}"
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "it is accepted"


def shown(value: Any) -> set[str]:
    """How a message may say what a value was."""
    facts = {repr(value), str(value), type(value).__name__}
    for name in ("shape", "dtype", "__name__"):
        facts |= {str(getattr(value, name))} if hasattr(value, name) else set()
    return facts - {""}


# --- The public names -------------------------------------------------------------------------


def public_names() -> dict[str, Any]:
    """Every public function and class by its own module and name, once."""
    found: dict[str, Any] = {}
    seen: set[str] = set()
    todo: list[ModuleType] = [pgjax]
    while todo:
        module = todo.pop()
        for item in _page(module).values():
            if isinstance(item, ModuleType):
                if item.__name__.startswith("pgjax.") and item.__name__ not in seen:
                    seen.add(item.__name__)
                    todo.append(item)
            elif callable(item) and getattr(item, "__module__", "").startswith("pgjax."):
                name = getattr(item, "__name__", None)
                if name is not None:  # without a name it is a record, as a Judge is
                    found[f"{item.__module__}.{name}".removeprefix("pgjax.")] = item
    return found


def _page(module: ModuleType) -> dict[str, Any]:
    """What a module exports: names that it imports as themselves, and its own."""
    path = Path(str(module.__file__))
    source = path.with_suffix(".pyi") if module is pgjax else path
    exported = [
        alias.asname
        for node in ast.parse(source.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname and (alias.asname == alias.name or module is pgjax)
    ]
    own = [
        name
        for name, item in vars(module).items()
        if callable(item) and getattr(item, "__module__", "") == module.__name__
    ]
    return {name: getattr(module, name) for name in [*exported, *own] if not name.startswith("_")}


RESULT = "a record of the library's results, which it makes and reads whole"
USED = "a plain record: the function that it is given to checks it"
PART = "a part of other public functions, which check before they call it"
SIGNATURE = "a signature for the type checker, which any function may have"
NOT_IN_TABLE = {
    **dict.fromkeys(["types.Weights", "types.Term", "types.Baseline"], SIGNATURE),
    **dict.fromkeys(
        [
            *("diagnostics.intervals.Interval", "diagnostics.moments.RunningMoments"),
            *("enumeration.Examination", "proof.certificate.Certificate"),
            *("proof.independence.IndependenceTest", "proof.sequential_test.MeanTest"),
            *("proof.sequential_test.InconclusiveError", "proof.trajectory_law.LawTest"),
            *("rollouts.windows.Finished", "rollouts.windows.Running", "rollouts.windows.Stream"),
            *("rollouts.windows.Window", "training.on_windows.ReturnScale"),
            *("training.on_windows.State", "training.algorithm.Metrics", "types.Moments"),
            "training.runs.loop.RunFailedError",
            *("training.algorithm.Training", "training.runs.checkpoints.Checkpoint"),
            *("types.Spread", "exact.tabular.named.NamedMDP", "proof.registry.row.Row"),
            *("expectations.natural.Natural", "proof.registry.rows_expectations.ExpectationRow"),
            "proof.expectation_certificate.ExpectationCertificate",
        ],
        RESULT,
    ),
    **dict.fromkeys(
        [
            *("beyond.parameter_space.SearchDistribution", "environments.base.Step"),
            *("training.minibatches.Settings", "types.MaskedObservation", "types.Trajectory"),
            *("settings.algorithms.ReinforceSettings", "settings.algorithms.A2CSettings"),
            *("settings.algorithms.PPOSettings", "settings.runs.RunOptions"),
        ],
        USED,
    ),
    **dict.fromkeys(
        [
            *("baselines.groups.check_groups", "baselines.groups.deviation"),
            *("estimators.as_checked_arrays", "policies.actor_critic.check_agent"),
            *("estimators.evaluate_weights", "estimators.sum_of_terms", "proof.problems.certified"),
            "enumeration.multisets",
            *("training.algorithm.advance", "training.algorithm.all_finite"),
        ],
        PART,
    ),
    **dict.fromkeys(
        [
            f"expectations.optax_compat.{name}"
            for name in (
                *("control_delta_method", "control_variates_jacobians", "moving_avg_baseline"),
                *("estimate_control_variate_coefficients", "measure_valued_jacobians"),
                *("multi_normal", "pathwise_jacobians", "score_function_jacobians"),
            )
        ],
        "the old signatures of another library, which pass their arguments on under other names",
    ),
}
"""Public names without a row, and why."""
