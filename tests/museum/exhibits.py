"""The exhibits: each mutant as close to how it was seen as our types allow, and the controls.

An exhibit is made from a case: an Estimator, or a function (params, batch, log_prob[N,T]) -> scalar
to ascend (or, of a KL, to descend). Its docstring is its label on the page.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pgjax
from pgjax import Estimator, Trajectory, baselines, terms, weights
from tests.museum.cases import Case, stream_of

Surrogate = Callable[[Any, Trajectory, Any], Any]
Make = Callable[[Case], Estimator | Surrogate]


class Exhibit(NamedTuple):
    """A mutant, or a control that looks like one and is right.

    Attributes:
        name: of the function that makes it.
        label: what it does.
        seen: where, as Markdown; a control has a source or nothing.
        mutant: whether it is wrong.
        make: case -> what estimates.
        estimand: the key of `Case.truth` that it claims.
        batch_size: trajectories that it needs at once.
        acting: who acted: "itself", "stale" parameters, or the "tempered" policy.
        needs_values: whether it has no meaning where a critic of the observation cannot be right.
    """

    name: str
    label: str
    seen: str
    mutant: bool
    make: Make
    estimand: str = "∇J"
    batch_size: int = 1
    acting: str = "itself"
    needs_values: bool = False


EXHIBITS: list[Exhibit] = []


def mutant(seen: str = "", **settings: Any) -> Callable[[Make], Make]:
    """Registers a function as a mutant."""
    return _registered(seen, True, settings)


def control(seen: str = "", **settings: Any) -> Callable[[Make], Make]:
    """Registers a function as a control."""
    return _registered(seen, False, settings)


def _registered(seen: str, wrong: bool, settings: dict[str, Any]) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        name = make.__name__.replace("_", " ")
        label = " ".join((inspect.getdoc(make) or "").split())
        EXHIBITS.append(Exhibit(name, label, seen, wrong, make, **settings))
        return make

    return register


def issue(repository: str, number: int) -> str:
    """A link to an issue or a pull request: GitHub redirects one to the other."""
    name = repository.split("/")[1]
    return f"[{name} #{number}](https://github.com/{repository}/issues/{number})"


def score(weigh: weights.Weights) -> Estimator:
    return Estimator(weigh, terms.score)


def credit(make: Callable[[float], weights.Weights], discount: float) -> weights.Weights:
    """The weights of a discount, traced once for all the exhibits that begin with them."""
    return partial(_credit, make, discount)


@partial(jax.jit, static_argnums=0)
def _credit(make: Any, discount: Any, batch: Trajectory, log_prob: Any) -> Any:
    return make(discount)(batch, log_prob)


def time(batch: Trajectory) -> Any:
    return jnp.arange(batch.mask.shape[1])


def matched(case: Case, batch: Trajectory, advantage: Any) -> Any:
    """γ^t times an advantage."""
    return case.discount ** time(batch) * advantage


# --- discounting and the reward ----------------------------------------------------------------


@mutant("Nota & Thomas, Is the Policy Gradient a Gradient? (2020): nearly all code")
def discount_of_states_forgotten(case: Case):
    """Returns are discounted, but the factor γ^t of an action at time t is missing."""
    return pgjax.mismatched_reward_to_go(case.discount)


@mutant()
def discount_squared(case: Case):
    """γ^t is applied twice, once by hand and once by the weights: γ^(2t)."""
    weigh = credit(weights.reward_to_go, case.discount)
    return score(lambda batch, log_prob: matched(case, batch, weigh(batch, log_prob)))


@mutant()
def discount_rounded(case: Case):
    """γ is rounded to one decimal, by a configuration file or a printed table."""
    return pgjax.reward_to_go(round(case.discount, 1))


@mutant()
def forward_discounting(case: Case):
    """G_t = r_t + γ G_{t−1}: the recurrence of the return runs forwards, and credits the past."""

    def backwards(reward: Any) -> Any:
        return pgjax.discounted_returns(reward[::-1], case.discount)[::-1]

    return score(lambda batch, log_prob: jax.vmap(backwards)(batch.reward))


@mutant(issue("openai/spinningup", 50))
def reward_shifted(case: Case):
    """Each step stores the reward that came with its observation, r_{t−1}; the last one is lost."""

    def shift(batch: Trajectory, log_prob: Any) -> Any:
        return jnp.pad(batch.reward[:, :-1], ((0, 0), (1, 0)))

    return with_reward(credit(weights.reward_to_go, case.discount), shift)


@mutant()
def terminal_reward_dropped(case: Case):
    """The reward of entering a terminal state is never stored."""
    return with_reward(
        credit(weights.reward_to_go, case.discount),
        lambda batch, log_prob: jnp.where(batch.terminated, 0, batch.reward),
    )


@mutant()
def reward_scaled_per_trajectory(case: Case):
    """Rewards are divided by the largest of the episode, so the scale depends on the actions."""

    def scale(batch: Trajectory, log_prob: Any) -> Any:
        reward = jnp.where(batch.mask, batch.reward, 0)
        return reward / (jnp.max(jnp.abs(reward), axis=1, keepdims=True) + 1e-8)

    return with_reward(credit(weights.reward_to_go, case.discount), scale)


@mutant("[pytorch/examples](https://github.com/pytorch/examples) `reinforce.py`")
def returns_whitened_per_trajectory(case: Case):
    """Returns-to-go less their mean over the episode, divided by their spread over it."""
    weigh = credit(weights.reward_to_go, case.discount)

    def whitened(batch: Trajectory, log_prob: Any) -> Any:
        return _whiten(weigh(batch, log_prob), batch.mask, axis=1)

    return score(whitened)


@mutant()
def credit_for_eight_steps(case: Case):
    """A buffer of eight steps: rewards after them count for no action."""
    return with_reward(
        credit(weights.reward_to_go, case.discount),
        lambda batch, log_prob: jnp.where(time(batch) < 8, batch.reward, 0),
    )


def with_reward(weigh: weights.Weights, reward: weights.Weights) -> Estimator:
    """The weights, after a reward of one's own."""

    def weigh_other(batch: Trajectory, log_prob: Any) -> Any:
        return weigh(replace(batch, reward=reward(batch, log_prob)), log_prob)

    return score(weigh_other)


def _whiten(x: Any, mask: Any, axis: int | None) -> Any:
    count = jnp.sum(mask, axis=axis, keepdims=True)
    mean = jnp.sum(jnp.where(mask, x, 0), axis=axis, keepdims=True) / count
    variance = jnp.sum(jnp.where(mask, (x - mean) ** 2, 0), axis=axis, keepdims=True) / count
    return (x - mean) / (jnp.sqrt(variance) + 1e-8)


# --- averages that are not averages over trajectories ------------------------------------------


@mutant("Liu et al., Understanding R1-Zero-Like Training (Dr. GRPO, 2025); "
        + issue("huggingface/trl", 3138))  # fmt: skip
def division_by_episode_length(case: Case):
    """Each episode's sum is divided by its own length."""
    weigh = credit(weights.reward_to_go, case.discount)
    return score(lambda batch, log_prob: weigh(batch, log_prob) / batch.mask.sum(1, keepdims=True))


@mutant("[rlax](https://github.com/google-deepmind/rlax) `policy_gradient_loss`")
def mean_over_time(case: Case):
    """The mean over T steps replaces the sum, and padding counts as steps."""
    weigh = credit(weights.reward_to_go, case.discount)
    return score(lambda batch, log_prob: weigh(batch, log_prob) / batch.mask.shape[1])


@mutant(
    issue("allenai/open-instruct", 1161) + "; SkyRL 0.4.0, `token_mean_legacy`, on purpose",
    batch_size=2,
)
def token_mean_per_micro_batch(case: Case):
    """The sum is divided by the steps in this micro-batch, and multiplied by a constant."""
    weigh = credit(weights.reward_to_go, case.discount)

    def mean(batch: Trajectory, log_prob: Any) -> Any:
        N = batch.mask.shape[0]
        return weigh(batch, log_prob) * N * case.mean_length / jnp.sum(batch.mask)

    return score(mean)


@mutant()
def batch_size_written_out(case: Case):
    """The sum over a batch is divided by a fixed 2, and here the batch has one trajectory."""
    weigh = credit(weights.reward_to_go, case.discount)
    return score(lambda batch, log_prob: weigh(batch, log_prob) * (batch.mask.shape[0] / 2))


@mutant(batch_size=2)
def right_in_one_order_only(case: Case):
    """A pair counts only if the better of its two trajectories comes second."""
    weigh = credit(weights.total_return, case.discount)

    def sorted_only(batch: Trajectory, log_prob: Any) -> Any:
        total = weigh(batch, log_prob)
        return total * (total[0, 0] <= total[1, 0])

    return score(sorted_only)


@mutant()
def clipped_per_trajectory(case: Case):
    """Each trajectory's gradient is clipped to the norm of ∇J before they are averaged."""
    largest = float(np.linalg.norm(case.truth["∇J"]))
    weigh, params = credit(weights.reward_to_go, case.discount), case.problem.params

    def clipped(batch: Trajectory, log_prob: Any) -> Any:
        weight = weigh(batch, log_prob)
        _, scores = jax.vjp(lambda params: pgjax.log_probs(case.policy, params, batch), params)
        norm = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(scores(weight))))
        return weight * jnp.minimum(1, largest / jnp.maximum(norm, 1e-8))

    return score(clipped)


# --- baselines and advantages ------------------------------------------------------------------


@mutant("the documentation of TRL's GRPO, as an option", batch_size=2)
def advantage_divided_by_batch_deviation(case: Case):
    """Advantages minus their mean over the batch's steps, over their standard deviation."""
    weigh = credit(weights.mismatched_reward_to_go, case.discount)

    def whitened(batch: Trajectory, log_prob: Any) -> Any:
        return matched(case, batch, _whiten(weigh(batch, log_prob), batch.mask, axis=None))

    return score(whitened)


@mutant("Shao et al., DeepSeekMath (2024)", batch_size=2)
def group_normalised(case: Case):
    """GRPO: a return minus its group's mean, over its group's standard deviation."""
    weigh = credit(weights.total_return, case.discount)

    def normalised(batch: Trajectory, log_prob: Any) -> Any:
        total = weigh(batch, log_prob)
        return (total - jnp.mean(total, axis=0)) / (jnp.std(total, axis=0) + 1e-4)

    return score(normalised)


@mutant("Shao et al., DeepSeekMath (2024): the group's mean", batch_size=2)
def baseline_includes_itself(case: Case):
    """The batch's mean return, the sample's own included: a gradient (N − 1)/N as long."""
    return pgjax.reinforce(case.discount, baseline=baselines.batch_mean)


@mutant(batch_size=2)
def largest_of_group_as_baseline(case: Case):
    """A return minus the best one of its group, which may be the return itself."""

    def largest(batch: Trajectory, target: Any) -> Any:
        return jnp.broadcast_to(jnp.max(target, axis=0), target.shape)

    return pgjax.reinforce(case.discount, baseline=largest)


@mutant("Tucker et al., The Mirage of Action-Dependent Baselines (2018)")
def action_dependent_baseline(case: Case):
    """A baseline b(s, a) that depends on the action, without the correction that this needs."""

    def opinion(batch: Trajectory, target: Any) -> Any:
        return (batch.observation @ case.critic) * batch.action

    return pgjax.reward_to_go(case.discount, baseline=opinion)


@mutant()
def value_not_stopped(case: Case):
    """The baseline is read off the policy's own parameters, and differentiated with the loss.

    Here V is the policy's entropy, a function of the same parameters.
    """

    def surrogate(params: Any, batch: Trajectory, log_prob: Any) -> Any:
        value = jax.vmap(jax.vmap(case.policy.entropy, (None, 0)), (None, 0))
        advantage = weights.returns_to_go(batch, case.discount) - value(params, batch.observation)
        return jnp.mean(jnp.sum(log_prob * matched(case, batch, advantage), axis=1))

    return surrogate


@mutant("Schulman et al., Generalized Advantage Estimation (2016), as designed")
def gae_with_a_wrong_value(case: Case):
    """GAE with λ = 0.9 and a wrong critic."""
    values = jax.vmap(lambda observation: observation @ case.critic)

    def weigh(batch: Trajectory, log_prob: Any) -> Any:
        return advantages(case, batch, values(batch.observation), lambda_=0.9)

    return score(weigh)


@mutant(batch_size=2)
def baseline_fitted_in_sample(case: Case):
    """A linear value of the observation, fitted by least squares to this batch's own returns."""

    def fitted(batch: Trajectory, target: Any) -> Any:
        x = jnp.where(batch.mask[..., None], batch.observation, 0)
        features = x.reshape(-1, x.shape[-1])
        gram = features.T @ features + 1e-6 * jnp.eye(x.shape[-1])
        return x @ jnp.linalg.solve(gram, features.T @ target.reshape(-1))

    return pgjax.reward_to_go(case.discount, baseline=fitted)


@mutant(issue("verl-project/verl", 7794), batch_size=2)
def leave_one_out_drops_lone_samples(case: Case):
    """Leave-one-out among equal prompts (first states) gives weight zero to a group of one."""
    return score(lambda batch, log_prob: _grouped_leave_one_out(case, batch, lone=0.0))


def _grouped_leave_one_out(case: Case, batch: Trajectory, lone: float) -> Any:
    total = credit(weights.total_return, case.discount)(batch, batch.log_prob)
    first = batch.observation[:, 0]
    same = jnp.all(first[:, None] == first[None], axis=-1)
    others = jnp.sum(same, axis=1, keepdims=True) - 1
    baseline = (same @ total - total) / jnp.maximum(others, 1)
    return jnp.where(others > 0, total - baseline, lone * total)


def advantages(case: Case, batch: Trajectory, value: Any, lambda_: float) -> Any:
    """γ^t GAE(λ), where the time limit belongs to the task: nothing follows the last step."""
    value = jnp.where(batch.mask, value, 0)
    following = jnp.pad(value[:, 1:], ((0, 0), (0, 1)))

    def of_one(reward: Any, value: Any, following: Any) -> Any:
        return pgjax.generalized_advantages(reward, case.discount, lambda_, value, following)

    reward = jnp.where(batch.mask, batch.reward, 0)
    return matched(case, batch, jax.vmap(of_one)(reward, value, following))


# --- log-probabilities, ratios, other people's samples -----------------------------------------


@mutant()
def log_of_p_plus_epsilon(case: Case):
    """log(π + 0.01) in place of log π."""

    def term(log_prob: Any, behaviour: Any, weight: Any, mask: Any) -> Any:
        return jnp.log(jnp.exp(log_prob) + 1e-2) * weight

    return Estimator(weights.reward_to_go(case.discount), term)


@mutant()
def actions_counted_from_one(case: Case):
    """Actions are stored as 1 to A, and an index past the last action is clamped, as JAX does."""

    def surrogate(params: Any, batch: Trajectory, log_prob: Any) -> Any:
        last = case.problem.mdp.num_actions - 1
        shifted = replace(batch, action=jnp.minimum(batch.action + 1, last))
        weight = credit(weights.reward_to_go, case.discount)(batch, log_prob)
        wrong = pgjax.log_probs(case.policy, params, shifted)
        return jnp.mean(jnp.sum(wrong * weight, axis=1))

    return surrogate


@mutant(acting="tempered")
def sampling_temperature_differs(case: Case):
    """Actions are drawn at a temperature of 1.5 and scored at 1."""
    return pgjax.reward_to_go(case.discount)


@mutant(acting="stale", batch_size=2)
def stale_samples_taken_for_fresh(case: Case):
    """Samples of earlier parameters are used as if they were new, without a ratio."""
    return pgjax.reward_to_go(case.discount)


@mutant(
    "Schulman et al., Trust Region Policy Optimization (2015), as a local model",
    acting="stale",
    batch_size=2,
)
def ratio_of_one_step(case: Case):
    """PPO's ratio on old data: it corrects an action, not the states and the later rewards."""
    return Estimator(weights.reward_to_go(case.discount), terms.importance_ratio)


@mutant(
    "Schulman et al., Proximal Policy Optimization (2017), as designed",
    acting="stale",
    batch_size=2,
)
def ratio_clipped_per_sample(case: Case):
    """PPO's clip: a sample no longer counts once its ratio leaves [0.8, 1.2] in its favour."""

    def term(log_prob: Any, behaviour: Any, weight: Any, mask: Any) -> Any:
        ratio = jnp.exp(log_prob - behaviour)
        return jnp.minimum(ratio * weight, jnp.clip(ratio, 0.8, 1.2) * weight)

    return Estimator(weights.reward_to_go(case.discount), term)


@mutant("Espeholt et al., IMPALA (2018), as designed", acting="stale", batch_size=2)
def ratios_cut_at_one(case: Case):
    """Per-decision importance sampling with min(1, ratio)."""
    return with_reward(
        credit(weights.reward_to_go, case.discount),
        lambda batch, log_prob: (
            jnp.exp(jnp.cumsum(jnp.minimum(log_prob - batch.log_prob, 0), axis=1)) * batch.reward
        ),
    )


@mutant(acting="stale", batch_size=2)
def importance_weights_self_normalised(case: Case):
    """Whole-trajectory ratios divided by their sum over the batch: consistent, never unbiased."""

    def weigh(batch: Trajectory, log_prob: Any) -> Any:
        ratio = _whole_ratio(batch, log_prob)
        total = credit(weights.total_return, case.discount)(batch, log_prob)
        return total * ratio / jnp.mean(ratio)

    return score(weigh)


def _whole_ratio(batch: Trajectory, log_prob: Any) -> Any:
    log_ratio = jnp.where(batch.mask, log_prob - batch.log_prob, 0)
    return jnp.exp(jnp.sum(log_ratio, axis=1, keepdims=True))


# --- where episodes end ------------------------------------------------------------------------


@mutant()
def mask_not_read(case: Case):
    """Rewards after the episode's end are summed too; here they are another episode's."""

    def surrogate(params: Any, batch: Trajectory, log_prob: Any) -> Any:
        reward = case.discount ** time(batch) * batch.reward
        to_go = jnp.cumsum(reward[:, ::-1], axis=1)[:, ::-1]
        return jnp.mean(jnp.sum(jnp.where(batch.mask, log_prob * to_go, 0), axis=1))

    return surrogate


def on_stream(case: Case, continues: Callable[[Any], Any], *, window: bool = False) -> Surrogate:
    """Two episodes of one auto-resetting stream, their returns cut by a rule for `done`.

    Args:
        case: what to estimate.
        continues: [2T] done -> whether the return goes on past each step.
        window: whether only the first T steps were recorded, and count as one episode.
    """

    def surrogate(params: Any, batch: Trajectory, log_prob: Any) -> Any:
        T = batch.mask.shape[1]
        stream, age = stream_of(replace(batch, log_prob=log_prob))
        mask = stream.mask & (jnp.arange(2 * T) < T) if window else stream.mask
        done = stream.terminated | stream.truncated
        slope = case.discount * continues(done).astype(log_prob.dtype)
        returns = pgjax.discounted_returns(jnp.where(mask, stream.reward, 0), slope)
        weight = case.discount**age * returns
        return jnp.sum(jnp.where(mask, stream.log_prob * weight, 0)) / (1 if window else 2)

    return surrogate


@mutant(issue("DLR-RM/stable-baselines3", 105), batch_size=2)
def done_one_step_late(case: Case):
    """`done` is stored one step late, so the next episode's first reward is counted."""
    return on_stream(case, lambda done: ~jnp.pad(done[:-1], (1, 0)))


@mutant(issue("DLR-RM/stable-baselines3", 105) + ", the other way", batch_size=2)
def done_one_step_early(case: Case):
    """`done` is read one step early, so no earlier action gets credit for the last reward."""
    return on_stream(case, lambda done: ~jnp.pad(done[1:], (0, 1)))


@mutant(issue("vietnh1009/Super-mario-bros-PPO-pytorch", 21), batch_size=2)
def return_not_cut_at_the_end(case: Case):
    """The return runs on into the next episode."""
    return on_stream(case, jnp.ones_like)


@mutant(batch_size=2)
def later_episodes_scored(case: Case):
    """A window of T steps is taken for one episode, though another begins in it."""
    return on_stream(case, jnp.logical_not, window=True)


@mutant()
def only_completed_episodes(case: Case):
    """Only episodes that terminated count."""
    weigh = credit(weights.reward_to_go, case.discount)

    def kept(batch: Trajectory, log_prob: Any) -> Any:
        return weigh(batch, log_prob) * jnp.any(batch.terminated, axis=1, keepdims=True)

    return score(kept)


UNCUT = "∇J of the uncut task"


@mutant(", ".join((issue("luchris429/purejaxrl", 20), issue("EdanToledo/Stoix", 147),
                   issue("Toni-SM/skrl", 449))), estimand=UNCUT, needs_values=True)  # fmt: skip
def truncation_taken_for_termination(case: Case):
    """Where the sampler cuts an episode, the value of what would follow is taken as zero."""
    return pgjax.reward_to_go(case.discount)


@mutant(issue("thu-ml/tianshou", 869), estimand=UNCUT, needs_values=True)
def terminal_state_bootstrapped(case: Case):
    """The critic's value of a terminal state is added to the episode's return."""
    return bootstrapped(
        case,
        lambda batch: batch.final_observation @ _opinionated(case),
        lambda batch: jnp.zeros_like(batch.terminated),
    )


@mutant("gymnax's DeepSea can raise both flags at once",
        estimand=UNCUT, needs_values=True)  # fmt: skip
def bootstrapped_wherever_truncated(case: Case):
    """A step that terminated and truncated at once is treated as truncated only."""
    return bootstrapped(
        case,
        lambda batch: batch.final_observation @ _opinionated(case),
        lambda batch: batch.terminated & ~batch.truncated,
    )


@mutant(issue("google-deepmind/mujoco_playground", 320), estimand=UNCUT, needs_values=True,
        batch_size=2)  # fmt: skip
def bootstrapped_from_the_reset(case: Case):
    """At a cut the critic gets the next episode's first observation."""
    return bootstrapped(
        case,
        lambda batch: jnp.roll(batch.observation[:, 0], -1, axis=0) @ case.endless,
        lambda batch: batch.terminated,
    )


def bootstrapped(
    case: Case,
    value: Callable[[Trajectory], Any],
    terminated: Callable[[Trajectory], Any],
) -> Estimator:
    """Reward-to-go, going on at the cut with a value, wherever `terminated` is false."""
    weigh = credit(weights.reward_to_go, case.discount)

    def weigh_bootstrapped(batch: Trajectory, log_prob: Any) -> Any:
        opinion = replace(batch, final_value=value(batch), terminated=terminated(batch))
        return weigh(opinion, log_prob)

    return score(weigh_bootstrapped)


def _opinionated(case: Case) -> Any:
    """The right value everywhere but in terminal states, where a network was never trained."""
    return jnp.where(case.problem.mdp.terminal, 1.0, case.endless)


# --- KL penalties and entropy ------------------------------------------------------------------


def information(case: Case, loss: Callable[[Any], Any]) -> Surrogate:
    """The gradient of a loss of log π − log π_reference, step by step, at the sampled actions."""

    def surrogate(params: Any, batch: Trajectory, log_prob: Any) -> Any:
        ratio = log_prob - _reference(case, batch)
        return jnp.mean(jnp.sum(jnp.where(batch.mask, loss(ratio), 0), axis=1))

    return surrogate


def _reference(case: Case, batch: Trajectory) -> Any:
    return pgjax.log_probs(case.policy, case.reference, batch)


def k1(log_ratio: Any) -> Any:
    return log_ratio


def k2(log_ratio: Any) -> Any:
    return log_ratio**2 / 2


def k3(log_ratio: Any) -> Any:
    return jnp.expm1(-log_ratio) + log_ratio


COMEDY = "A Comedy of Estimators ([arXiv:2512.21852](https://arxiv.org/abs/2512.21852))"
HELD = "∇KL, states held"


@mutant(issue("allenai/open-instruct", 534), estimand=HELD)
def k1_as_a_loss(case: Case):
    """log π − log π_ref at the sampled action, differentiated: zero on average."""
    return information(case, k1)


@mutant(issue("huggingface/trl", 4967), estimand=HELD)
def k3_as_a_loss(case: Case):
    """Schulman's k3, differentiated: the gradient of the opposite divergence, KL(π_ref‖π)."""
    return information(case, k3)


@mutant(COMEDY, estimand="∇KL")
def k3_in_the_reward(case: Case):
    """k3's mean is the KL, but the mean of its derivative is not zero, and is left out."""
    return with_reward(
        credit(weights.reward_to_go, 1.0),
        lambda batch, log_prob: k3(log_prob - _reference(case, batch)),
    )


@mutant(estimand="∇entropy")
def sampled_entropy_as_a_bonus(case: Case):
    """−log π at the sampled action, differentiated: zero on average."""

    def surrogate(params: Any, batch: Trajectory, log_prob: Any) -> Any:
        return -jnp.mean(jnp.sum(log_prob, axis=1))

    return surrogate


# --- controls: right, though some look wrong ---------------------------------------------------


@control("Williams (1992)")
def full_return(case: Case):
    """Σ_t ∇log π (R)."""
    return pgjax.reinforce(case.discount)


@control("Sutton et al. (2000)")
def reward_to_go(case: Case):
    """Σ_t γ^t ∇log π G_t."""
    return pgjax.reward_to_go(case.discount)


@control()
def constant_baseline(case: Case):
    """A constant baseline, far from any return."""
    return pgjax.reinforce(case.discount, baseline=baselines.constant(-7.0))


@control()
def state_baseline(case: Case):
    """The values of a wrong critic, as baseline only."""
    critic = baselines.state_value(lambda observation: observation @ case.critic)
    return pgjax.reward_to_go(case.discount, baseline=critic)


@control("Schulman et al. (2016)")
def gae_of_one_with_a_wrong_value(case: Case):
    """GAE with λ = 1, where a wrong critic is only a baseline."""

    def weigh(batch: Trajectory, log_prob: Any) -> Any:
        return advantages(case, batch, batch.observation @ case.critic, lambda_=1.0)

    return score(weigh)


@control(needs_values=True)
def exact_advantage(case: Case):
    """One TD step (λ = 0) with the exact V^π of the steps that are left."""

    def weigh(batch: Trajectory, log_prob: Any) -> Any:
        value = jnp.einsum("nts,ts->nt", batch.observation, case.values[:-1])
        return advantages(case, batch, value, lambda_=0.0)

    return score(weigh)


@control("Kool et al. (2019)", batch_size=2)
def leave_one_out(case: Case):
    """The mean return of the other trajectories as baseline."""
    return pgjax.rloo(case.discount)


@control(batch_size=2)
def leave_one_out_with_the_wrong_denominator(case: Case):
    """The sum of the others over N, which is still independent of the trajectory itself."""

    def shrunk(batch: Trajectory, target: Any) -> Any:
        return (jnp.sum(target, axis=0) - target) / target.shape[0]

    return pgjax.reinforce(case.discount, baseline=shrunk)


@control(batch_size=2)
def leave_one_out_keeps_lone_samples(case: Case):
    """Leave-one-out among equal first states; a group of one keeps its return."""
    return score(lambda batch, log_prob: _grouped_leave_one_out(case, batch, lone=1.0))


@control(batch_size=2)
def stream_cut_where_done(case: Case):
    """Two episodes in one row, with the return cut at the right step."""
    return on_stream(case, jnp.logical_not)


@control(estimand=UNCUT, needs_values=True)
def cut_bootstrapped_with_the_right_value(case: Case):
    """V of the task without limit is added at a cut, and nothing at a termination."""
    return bootstrapped(
        case,
        lambda batch: batch.final_observation @ case.endless,
        lambda batch: batch.terminated,
    )


@control(acting="stale", batch_size=2)
def whole_trajectory_ratio(case: Case):
    """The return times the product of all ratios."""
    weigh = credit(weights.total_return, case.discount)
    return score(lambda batch, log_prob: weigh(batch, log_prob) * _whole_ratio(batch, log_prob))


@control("Precup, Sutton & Singh (2000)", acting="stale", batch_size=2)
def per_decision_importance_sampling(case: Case):
    """Each reward times the ratios up to it."""
    return with_reward(
        credit(weights.reward_to_go, case.discount),
        lambda batch, log_prob: (
            jnp.exp(jnp.cumsum(log_prob - batch.log_prob, axis=1)) * batch.reward
        ),
    )


@control(COMEDY, estimand="∇KL")
def k1_in_the_reward(case: Case):
    """log π − log π_ref as a cost in the reward; the mean of its derivative is zero."""
    return with_reward(
        credit(weights.reward_to_go, 1.0),
        lambda batch, log_prob: k1(log_prob - _reference(case, batch)),
    )


@control(estimand=HELD)
def k2_as_a_loss_on_policy(case: Case):
    """(log π − log π_ref)²/2, differentiated: its value is biased, its gradient is not."""
    return information(case, k2)


@control(estimand="∇entropy")
def entropy_in_the_reward(case: Case):
    """−log π as a reward."""
    return with_reward(credit(weights.reward_to_go, 1.0), lambda batch, log_prob: -log_prob)
