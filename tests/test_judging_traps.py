"""What must earn no green from `assert_unbiased`: each trap alone, beside a control that passes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import Problem, enumeration, statistics, suite
from pgjax.cli import main
from pgjax.proof.candidates import library_rollout
from pgjax.proof.unbiased import assert_unbiased

PROBLEMS = {problem.name: problem for problem in suite.problems()}
RANDOM = PROBLEMS["random"]
SHORT = replace(RANDOM, horizon=3)
"""99 trajectories, of one to three steps."""


def reward_to_go(problem, changed=lambda batch: batch.reward):
    """γ^t G_t from scratch, of rewards as `changed` reads them."""

    def gradient(params, batch):
        T = batch.reward.shape[1]
        reward = problem.mdp.discount ** jnp.arange(T) * changed(batch)
        weight = jnp.cumsum(reward[:, ::-1], axis=1)[:, ::-1]

        def objective(params):
            log_prob = pgjax.log_probs(problem.policy, params, batch)
            return jnp.mean(jnp.sum(jnp.where(batch.mask, log_prob * weight, 0), axis=1))

        return jax.grad(objective)(params)

    return gradient


def masked(batch):
    return jnp.where(batch.mask, batch.reward, 0)


# Padding.


def test_an_estimator_that_ignores_the_mask_is_refuted():
    with pytest.raises(AssertionError, match=r"where batch\.mask is false.*\n.*jnp\.where"):
        assert_unbiased(reward_to_go, SHORT, batch_size=1)
    right = assert_unbiased(lambda problem: reward_to_go(problem, masked), SHORT, batch_size=1)
    assert right.passed


AFTER_THE_END = {
    "observation": lambda batch: jnp.any(
        batch.observation != batch.final_observation[:, None], axis=-1
    ),
    "action": lambda batch: batch.action != 0,
    "reward": lambda batch: batch.reward != 0,
    "log_prob": lambda batch: batch.log_prob != 0,
    "terminated": lambda batch: batch.terminated,
    "truncated": lambda batch: batch.truncated,
}


def louder(problem, names):
    """Reward-to-go times one plus how loud each field is after the end."""

    def estimates(params, batch):
        right = pgjax.gradient(
            pgjax.reward_to_go(problem.mdp.discount), problem.policy, params, batch
        )
        loud = jnp.stack([jnp.sum(AFTER_THE_END[name](batch) & ~batch.mask) for name in names])
        return (1 + loud)[:, None, None] * right

    return estimates


def test_an_estimate_that_is_right_only_if_a_field_is_quiet_after_the_end_is_refuted():
    truth = pgjax.exact.gradient(SHORT)
    means = enumeration.moments(louder(SHORT, list(AFTER_THE_END)), SHORT).mean
    off = means.reshape(len(AFTER_THE_END), -1) - np.ravel(truth)
    assert np.all(np.linalg.norm(off, axis=1) > 1e-3 * np.linalg.norm(truth))
    with pytest.raises(AssertionError, match="wrong on 1 of 1"):
        assert_unbiased(
            lambda problem: lambda *given: louder(problem, ["reward"])(*given)[0],
            SHORT,
            batch_size=1,
        )


def test_what_only_nan_would_show_is_refuted():
    def difference(problem):
        return reward_to_go(
            problem, lambda batch: batch.reward - jnp.where(batch.mask, 0, batch.reward)
        )

    found = enumeration.examine(difference(SHORT), SHORT)
    truth = np.ravel(pgjax.exact.gradient(SHORT))
    np.testing.assert_allclose(found.moments.mean, truth, rtol=0, atol=1e-12)
    with pytest.raises(AssertionError, match="a product with the mask can keep a NaN"):
        assert_unbiased(difference, SHORT, batch_size=1)


# Who acts.


def trimmed(problem):
    """Reward-to-go with trimmed importance weights: unbiased only where the policy itself acts."""

    def gradient(params, batch):
        log_prob = jax.lax.stop_gradient(pgjax.log_probs(problem.policy, params, batch))
        log_ratio = jnp.where(batch.mask, log_prob - batch.log_prob, 0)
        ratio = jnp.minimum(jnp.exp(jnp.cumsum(log_ratio, axis=1)), 1.2)
        return reward_to_go(problem, lambda batch: ratio * masked(batch))(params, batch)

    return gradient


def test_what_reads_log_prob_is_judged_off_policy_unasked():
    with pytest.raises(AssertionError) as failure:
        assert_unbiased(trimmed, SHORT, batch_size=1)
    lines = str(failure.value).splitlines()
    assert (
        "when the policy itself acts and when another policy, of parameters θ/2, acts" in lines[0]
    )
    assert lines[1].startswith("✓ random (enumeration):")
    assert lines[2].startswith("✗ random (enumeration, another policy, of parameters θ/2 acting)")


def test_behaviour_chooses_who_acts_and_the_first_line_says_so():
    itself = assert_unbiased(trimmed, SHORT, batch_size=1, behaviour=lambda problem: problem.params)
    assert str(itself).splitlines()[0].endswith("when the policy itself acts")
    with pytest.raises(AssertionError, match="when the behaviour policy given acts"):
        assert_unbiased(
            trimmed, SHORT, batch_size=1, behaviour=lambda problem: -np.asarray(problem.params)
        )
    whole = assert_unbiased(lambda problem: importance_weighted, SHORT, batch_size=1)
    assert len(whole.findings) == 2


@pytest.mark.parametrize(
    ("who", "status", "acting"),
    [("policy", 0, "the policy itself"), ("other", 1, "the behaviour policy given")],
)
def test_the_command_takes_who_acts(who, status, acting, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "import pgjax\n"
        "def f(problem):\n"
        "    weights = pgjax.weights.reward_to_go(problem.mdp.discount)\n"
        "    return pgjax.Estimator(weights, pgjax.terms.importance_ratio)\n",
        encoding="utf-8",
    )
    asked = [
        "check",
        f"{file}:f",
        "--problem",
        "continuing",
        "--batch-size",
        "1",
        "--behaviour",
        who,
    ]
    assert main(asked) == status
    assert f"when {acting} acts" in capsys.readouterr().out


def importance_weighted(params, batch):
    """Each reward times the ratios of all steps up to it: unbiased under any acting policy."""
    log_prob = pgjax.log_probs(RANDOM.policy, params, batch)
    log_ratio = jnp.where(batch.mask, jax.lax.stop_gradient(log_prob) - batch.log_prob, 0)
    ratio = jnp.exp(jnp.cumsum(log_ratio, axis=1))
    return reward_to_go(RANDOM, lambda batch: ratio * masked(batch))(params, batch)


# Orders.


def test_one_pair_in_one_order_is_found_by_the_sum_over_tuples():
    listed, _ = enumeration.trajectories(RANDOM)
    right = reward_to_go(RANDOM, masked)

    def is_path(batch, row, path):
        same = jnp.array(True)
        for name in ("observation", "action", "mask"):
            mine, other = getattr(batch, name)[row], jnp.asarray(getattr(listed, name)[path])
            live = batch.mask[row].reshape((-1,) + (1,) * (mine.ndim - 1))
            if name == "mask":
                live = True
            same &= jnp.all(jnp.where(live, mine == other, True))
        return same & jnp.all(batch.final_observation[row] == listed.final_observation[path])

    def trap(params, batch):
        sprung = is_path(batch, 0, 207) & is_path(batch, 1, 3)
        return right(params, batch) + 50 * sprung

    with pytest.raises(AssertionError, match="ordered batches of 2"):
        assert_unbiased(trap, RANDOM, batch_size=2)
    few = pgjax.Judge(limit=40_000)  # multisets fit, tuples do not
    report = assert_unbiased(
        trap, RANDOM, batch_size=2, judge=few
    )  # not seen, and the report says so
    assert "their orders were sampled" in str(report)
    assert "would have been seen" not in str(report)
    assert "some orders within a batch" in str(report).splitlines()[-1]


# What the suite's problems must show.


def cut_off(problem):
    """Credit for the first 8 steps only."""

    def early(batch):
        return jnp.where(jnp.arange(batch.reward.shape[1]) < 8, masked(batch), 0)

    return reward_to_go(problem, early)


def rounded(digits):
    """Reward-to-go under a γ of so many decimals."""

    def candidate(problem):
        discount = round(problem.mdp.discount, digits)
        return reward_to_go(replace(problem, mdp=problem.mdp.replace(discount=discount)), masked)

    return candidate


@pytest.mark.parametrize("trap", [rounded(1), rounded(3), cut_off])
def test_round_discounts_and_short_horizons_are_not_the_whole_suite(trap):
    with pytest.raises(AssertionError, match="wrong on 2 of 2"):
        assert_unbiased(trap, [PROBLEMS["stopping"], PROBLEMS["hazard"]], batch_size=1)
    # On the problems of the tables the trap is reward-to-go itself, and they let it pass.
    for problem in suite.certified():
        assert problem.mdp.discount == round(problem.mdp.discount, 1)
        assert problem.finite_horizon < 8


def test_what_is_right_in_batches_of_two_only_is_refuted():
    def trap(problem):
        right = reward_to_go(problem, masked)
        return lambda params, batch: (1 + (batch.reward.shape[0] != 2)) * right(params, batch)

    with pytest.raises(
        AssertionError,
        match=r"(batches of 3|trajectories); right in batches of 2",
    ):
        assert_unbiased(trap, PROBLEMS["bandit"])
    report = assert_unbiased(trap, PROBLEMS["bandit"], batch_size=2)
    assert "batches of another size than 2" in str(report).splitlines()[-1]


def test_a_size_that_an_estimator_refuses_is_named_as_not_looked_at():
    def candidate(problem):
        return pgjax.rloo(problem.mdp.discount)

    report = assert_unbiased(candidate, [PROBLEMS["hazard"], PROBLEMS["continuing"]])
    assert report.findings[0].batch_sizes == (2, 3)
    assert "batches of more than 3, of 1, of 3 on continuing" in str(report).splitlines()[-1]


def test_what_answers_differently_when_the_same_program_runs_again_is_refused():
    calls = []

    def count(x):
        calls.append(None)
        return np.full(x.shape, len(calls), np.int32)

    def moody(params, batch):
        shape = jax.ShapeDtypeStruct((), np.int32)
        factor = jax.pure_callback(count, shape, batch.action[0, 0], vmap_method="expand_dims")
        return factor * reward_to_go(PROBLEMS["bandit"], masked)(params, batch)

    with pytest.raises(ValueError, match="answers differently when called twice"):
        assert_unbiased(moody, PROBLEMS["bandit"])


# What is no estimator.


@pytest.mark.parametrize("problems", [[], (p for p in ())])
def test_no_problem_is_no_proof(problems):
    with pytest.raises(ValueError, match="at least one problem"):
        assert_unbiased(reward_to_go, problems)


@pytest.mark.parametrize("problems", ["bandit", [1]])
def test_what_is_no_problem_is_refused(problems):
    with pytest.raises(TypeError, match="problems must be a sequence of Problem records"):
        assert_unbiased(reward_to_go, problems)


def test_one_that_answers_differently_the_second_time_is_refused():
    calls = []

    def moody(params, batch):
        calls.append(None)
        return (1 + len(calls)) * reward_to_go(RANDOM, masked)(params, batch)

    with pytest.raises(ValueError, match="answers differently when called twice"):
        assert_unbiased(moody, RANDOM)


def test_groups_of_four_are_judged_in_batches_of_four():
    def candidate(problem):
        return pgjax.rloo(problem.mdp.discount, groups=pgjax.groups.consecutive(4))

    assert assert_unbiased(candidate, PROBLEMS["bandit"], batch_size=4).passed


def test_a_value_that_a_function_closes_over_is_read_anew_at_each_call():
    factor = [1.0]

    def estimate(params, batch):
        return factor[0] * jnp.sum(jnp.where(batch.mask, batch.reward, 0))

    once = enumeration.moments(estimate, SHORT).mean
    factor[0] = 3.0
    np.testing.assert_allclose(enumeration.moments(estimate, SHORT).mean, 3 * once, rtol=1e-12)


def test_an_optional_second_argument_makes_no_factory_and_no_estimator():
    def estimate(params, batch=None):
        return reward_to_go(SHORT, masked)(params, batch)

    def factory(problem, factor=1.0):
        return reward_to_go(problem, lambda batch: factor * masked(batch))

    assert assert_unbiased(estimate, SHORT, batch_size=1).passed
    assert assert_unbiased(factory, SHORT, batch_size=1).passed


@pytest.mark.parametrize(
    "read",
    [lambda x: np.asarray(x), lambda x: float(x[0, 0]) * x, lambda x: x if x[0, 0] > 0 else -x],
)
def test_numpy_and_if_on_values_are_refused_with_the_fix(read):
    def estimate(params, batch):
        return reward_to_go(RANDOM, lambda batch: read(masked(batch)))(params, batch)

    with pytest.raises(TypeError, match=r"use jax\.numpy instead of numpy, and jnp\.where"):
        assert_unbiased(estimate, RANDOM)


@pytest.mark.parametrize("status", [0, 3, None])
def test_a_module_that_ends_the_process_proves_nothing(status, tmp_path, capsys):
    file = tmp_path / "script.py"
    file.write_text(
        f"import sys\n\ndef f(params, batch): ...\n\nsys.exit({status})\n", encoding="utf-8"
    )
    assert main(["check", f"{file}:f"]) != 0
    assert "ends the process" in capsys.readouterr().err


# Pipelines.


def written(problem, **changes):
    """The library's rollout, with fields of its record replaced."""
    run = library_rollout(problem, 2)

    def rollout(params, key):
        batch = run(params, key)
        return replace(batch, **{name: change(batch) for name, change in changes.items()})

    return rollout


WRONG = {
    "log_prob": lambda batch: jnp.zeros_like(batch.log_prob),
    "truncated": lambda batch: jnp.zeros_like(batch.truncated),
    "final_observation": lambda batch: batch.observation[:, 0],
    "time": lambda batch: jnp.zeros(batch.reward.shape, jnp.int32),
    "mask": lambda batch: jnp.ones_like(batch.mask),
}


def test_the_fields_that_the_sampler_writes_wrongly_are_named():
    def candidate(problem):
        return pgjax.reward_to_go(problem.mdp.discount)

    with pytest.raises(AssertionError) as failure:
        assert_unbiased(candidate, SHORT, batch_size=2, rollout=written(SHORT, **WRONG))
    for name in WRONG:
        assert f"batch.{name} is wrong" in str(failure.value)


@pytest.mark.parametrize("name", WRONG)
def test_of_one_wrong_field_that_one_is_named(name, sampled):
    wrong = replace(sampled, **{name: WRONG[name](sampled)})
    found = set(statistics.wrong_fields(wrong, SHORT))
    if statistics.wrong_final_observation(wrong, SHORT):
        found.add("final_observation")
    # What stands after the end counts as acted where the mask says so.
    assert found - ({"log_prob", "truncated"} if name == "mask" else set()) == {name}


@pytest.fixture(scope="module")
def sampled():
    return jax.device_get(library_rollout(SHORT, 500)(SHORT.params, jax.random.key(0)))


def test_the_librarys_own_records_are_right_in_every_field():
    @jax.jit
    def draw(key):
        return [library_rollout(problem, 500)(problem.params, key) for problem in PROBLEMS.values()]

    batches = jax.device_get(draw(jax.random.key(0)))
    for problem, batch in zip(PROBLEMS.values(), batches, strict=True):
        assert isinstance(problem, Problem)
        assert statistics.wrong_fields(batch, problem) == {}
        assert statistics.wrong_final_observation(batch, problem) == ""
