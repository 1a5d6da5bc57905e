"""assert_unbiased: right estimators are proved, wrong ones refuted, with a message to act on."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import Judge, baselines, exact, sampling, suite
from pgjax.cli import main
from pgjax.proof.unbiased import assert_unbiased

PROBLEMS = {problem.name: problem for problem in suite.problems()}
SMALL = [PROBLEMS["bandit"], PROBLEMS["look-alikes"]]
SHORT = replace(PROBLEMS["random"], horizon=3)
"""99 trajectories of lengths 1 to 3, some truncated; a relative variance of 1.5."""


def by_hand(problem):
    """Reward-to-go written from scratch, with nothing of pgjax but the policy."""

    def gradient(params, batch):
        def objective(params):
            over = jax.vmap(jax.vmap(problem.policy.log_prob, (None, 0, 0)), (None, 0, 0))
            log_prob = over(params, batch.observation, batch.action)
            T = batch.reward.shape[1]
            reward = problem.mdp.discount ** jnp.arange(T) * jnp.where(batch.mask, batch.reward, 0)
            to_go = jnp.cumsum(reward[:, ::-1], axis=1)[:, ::-1]
            return jnp.mean(jnp.sum(jnp.where(batch.mask, log_prob * to_go, 0), axis=1))

        return jax.grad(objective)(params)

    return gradient


def scaled(factor):
    def of(problem):
        return lambda params, batch: jax.tree.map(
            lambda x: factor * x, by_hand(problem)(params, batch)
        )

    return of


def test_a_right_estimator_written_by_hand_is_proved_on_the_whole_suite():
    report = assert_unbiased(by_hand)
    assert report.passed
    assert [finding.problem for finding in report.findings] == list(PROBLEMS)
    assert all(finding.bias < 1e-12 for finding in report.findings)
    assert str(report).startswith("unbiased on 7 of 7 problems")


def test_a_forgotten_discount_is_refuted_and_recognised():
    with pytest.raises(AssertionError) as failure:
        assert_unbiased(
            lambda problem: pgjax.mismatched_reward_to_go(problem.mdp.discount),
            PROBLEMS["continuing"],
            batch_size=1,
        )
    message = str(failure.value)
    assert "wrong on 1 of 1 problems" in message
    assert "this is reward-to-go without γ^t" in message
    assert "furthest off at params[" in message


@pytest.mark.parametrize(
    ("factor", "hint", "problems"),
    [
        (0.5, "a pure scale, E[ĝ] = 0.5 ∇J", SMALL),
        (-1.0, "the sign is wrong", SMALL[:1]),
        (0.0, "the mean is zero", SMALL[:1]),
    ],
)
def test_a_wrong_scale_is_named(factor, hint, problems):
    with pytest.raises(AssertionError, match=f"wrong on {len(problems)} of") as failure:
        assert_unbiased(scaled(factor), problems, batch_size=1)
    assert hint in str(failure.value)


def test_a_positive_scale_is_accepted_only_knowingly():
    report = assert_unbiased(scaled(0.5), SMALL[:1], batch_size=1, judge=Judge(up_to_scale=True))
    assert str(report).startswith("unbiased up to scale")
    with pytest.raises(AssertionError):
        assert_unbiased(scaled(-0.5), SMALL[:1], batch_size=1, judge=Judge(up_to_scale=True))


def test_up_to_scale_does_not_excuse_a_wrong_direction():
    with pytest.raises(AssertionError, match="bias"):
        assert_unbiased(
            lambda problem: pgjax.mismatched_reward_to_go(problem.mdp.discount),
            SHORT,
            batch_size=1,
            judge=Judge(up_to_scale=True),
        )


def test_coupling_within_a_batch_is_seen_at_two_and_hidden_at_one():
    biased = lambda problem: pgjax.reinforce(1.0, baseline=baselines.batch_mean)  # noqa: E731
    with pytest.raises(AssertionError, match=r"pure scale of 0\.5"):
        assert_unbiased(biased, PROBLEMS["bandit"], batch_size=2)
    assert assert_unbiased(lambda problem: pgjax.rloo(1.0), PROBLEMS["bandit"], batch_size=3).passed


def test_the_leaf_that_is_off_is_named():
    def only_one_leaf(problem):
        def gradient(params, batch):
            found = by_hand(problem)(params, batch)
            found["params"]["Dense_0"]["bias"] = found["params"]["Dense_0"]["bias"] * 3
            return found

        return gradient

    with pytest.raises(AssertionError, match=r"params\['params'\]\['Dense_0'\]\['bias'\]\["):
        assert_unbiased(only_one_leaf, PROBLEMS["look-alikes"], batch_size=1)


def test_the_entry_that_is_off_is_named_where_it_is_not_the_largest():
    problem = PROBLEMS["random"]
    truth = np.abs(exact.gradient(problem))
    row, column = np.unravel_index(truth.argmin(), truth.shape)
    assert truth[row, column] < 0.5 * truth.max()

    def shifted(problem):
        right = pgjax.reward_to_go(problem.mdp.discount)

        def gradient(params, batch):
            return pgjax.gradient(right, problem.policy, params, batch).at[row, column].add(1e-3)

        return gradient

    with pytest.raises(AssertionError, match=rf"furthest off at params\[{row}, {column}\]"):
        assert_unbiased(shifted, problem, batch_size=1)


def test_another_structure_or_nan_is_a_clear_error():
    with pytest.raises(ValueError, match="must be a pytree like params"):
        assert_unbiased(lambda problem: lambda params, batch: params[:1], PROBLEMS["bandit"])
    with pytest.raises(ValueError, match="must be finite"):
        assert_unbiased(scaled(jnp.nan), PROBLEMS["bandit"], batch_size=1)
    with pytest.raises(TypeError, match="candidate must be an Estimator"):
        assert_unbiased(5, PROBLEMS["bandit"])  # pyright: ignore[reportArgumentType]  # on purpose


def pipeline(problem, num_trajectories=2, temperature=1.0):
    def rollout(params, key):
        acting = jax.tree.map(lambda x: x / temperature, params)
        return pgjax.rollout(
            problem.policy, acting, problem.mdp, key,
            num_trajectories=num_trajectories, num_steps=problem.horizon,
        )  # fmt: skip

    return rollout


def test_a_right_pipeline_passes_every_test_of_it():
    # False alarms: 3 tests × 1e-6. A bias above the margin of 5% passes with probability 1e-6.
    # Estimates of half the parameters are less skewed: an eighth of the samples show as much.
    problem = replace(SHORT, params=SHORT.params / 2)
    report = assert_unbiased(
        pgjax.reward_to_go(problem.mdp.discount),
        problem,
        rollout=pipeline(problem),
        judge=Judge(margin=0.05),
    )
    tiers = [finding.tier for finding in report.findings]
    assert tiers == ["enumeration", "independence", "law", "sampling"]
    assert report.findings[-1].bias < 0.05


def test_one_key_for_the_whole_batch_is_refuted_though_its_mean_is_right():
    problem = SHORT

    def one_key(params, key):
        batch = pipeline(problem, num_trajectories=1)(params, key)
        return jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)

    with pytest.raises(AssertionError, match=r"batch-variance ratio 2(.|\n)*share randomness"):
        assert_unbiased(pgjax.reward_to_go(problem.mdp.discount), problem, rollout=one_key)


def test_a_sampler_at_another_temperature_is_refuted():
    problem = SHORT
    with pytest.raises(AssertionError, match=r"do not follow P\(τ\)|bias"):
        assert_unbiased(
            pgjax.reward_to_go(problem.mdp.discount),
            problem,
            rollout=pipeline(problem, temperature=1.5),
        )


def test_what_cannot_be_enumerated_is_sampled():
    problem = PROBLEMS["continuing"]  # 66 trajectories, more than the limit
    report = assert_unbiased(
        pgjax.reward_to_go(problem.mdp.discount),
        problem,
        batch_size=8,
        judge=Judge(margin=0.2, limit=50),
    )
    assert [finding.tier for finding in report.findings] == ["independence", "sampling"]
    with pytest.raises(AssertionError, match="bias"):
        assert_unbiased(
            pgjax.mismatched_reward_to_go(problem.mdp.discount),
            problem,
            batch_size=8,
            judge=Judge(margin=0.1, limit=50),
        )


def test_a_spent_budget_names_the_number_needed():
    problem = PROBLEMS["continuing"]
    with pytest.raises(sampling.InconclusiveError, match=r"about [\d,]+ samples would pass it"):
        assert_unbiased(
            pgjax.reward_to_go(problem.mdp.discount),
            problem,
            batch_size=8,
            judge=Judge(margin=0.001, limit=50, max_samples=4096),
        )


USER_FILE = """
import jax, pgjax

def right(problem):
    return pgjax.reward_to_go(problem.mdp.discount)

def wrong(problem):
    return pgjax.mismatched_reward_to_go(problem.mdp.discount)

def halved(problem):
    estimator = right(problem)
    return lambda params, batch: jax.tree.map(
        lambda x: x / 2, pgjax.gradient(estimator, problem.policy, params, batch)
    )
"""


@pytest.fixture
def user_file(tmp_path, monkeypatch):
    (tmp_path / "my_estimators.py").write_text(USER_FILE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return "my_estimators.py"


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        ([":right"], 0, "unbiased on 1 of 1"),
        ([":wrong"], 1, "without γ^t"),
        ([":halved"], 1, "a pure scale, E[ĝ] = 0.5"),
        ([":halved", "--up-to-scale"], 0, "unbiased up to scale"),
    ],
)
def test_the_shell_command_proves_and_refutes(user_file, arguments, status, expected, capsys):
    name, *rest = arguments
    assert main(["check", user_file + name, "--problem", "continuing", *rest]) == status
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("my_estimators", "module:name"),
        ("my_estimators:nothing", "my_estimators has no nothing"),
        ("no_such_module:x", "no module no_such_module"),
        ("no_such_file.py:x", "no file no_such_file.py"),
    ],
)
def test_bad_targets_are_answered_in_one_line(user_file, target, expected, capsys):
    assert main(["check", target]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
