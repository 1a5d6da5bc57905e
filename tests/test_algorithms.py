"""The command line's algorithms: each has its options and its defaults, and makes a run of them."""

import argparse
import subprocess
import sys
from functools import cache

import jax
import pytest

from pgjax.cli import algorithms
from pgjax.environments import from_gymnax
from pgjax.training import advance
from pgjax.types import Policy
from tests import child_runs


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    with child_runs.small_networks():
        yield


def parsed(*argv):
    parser = argparse.ArgumentParser()
    algorithms.configure(parser)
    return parser.parse_args(argv)


@cache
def made(name, *argv):
    environment = from_gymnax.named(name)[0]
    return algorithms.make(parsed(*argv), environment, jax.random.key(0))


def test_reinforce_is_what_is_run_unless_asked():
    completed = algorithms.complete(parsed())
    assert completed.algorithm == "reinforce"
    settings = {name: getattr(completed, name) for name in algorithms.DEFAULTS["reinforce"]}
    assert settings == {
        "updates": 100,
        "num_trajectories": 64,
        "num_steps": None,
        "discount": 1.0,
        "learning_rate": 0.005,
        "baseline": "leave-one-out",
    }


@pytest.mark.parametrize("algorithm", algorithms.DEFAULTS)
def test_options_left_out_take_the_algorithms_defaults_and_given_ones_stay(algorithm):
    completed = algorithms.complete(parsed("--algorithm", algorithm, "--discount", "0.5"))
    assert algorithms.complete(completed) == completed
    for name, default in algorithms.DEFAULTS[algorithm].items():
        assert getattr(completed, name) == (0.5 if name == "discount" else default)
    for name in algorithms.OPTIONS.keys() - algorithms.DEFAULTS[algorithm].keys():
        assert getattr(completed, name) is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--clip", "0.1"], "--clip is not an option of reinforce, which takes --updates"),
        (["--algorithm", "ppo", "--baseline", "none"], "--baseline is not an option of ppo"),
        (["--algorithm", "a2c", "--epochs", "2"], "--epochs is not an option of a2c"),
    ],
)
def test_an_option_of_another_algorithm_is_refused(argv, message):
    with pytest.raises(ValueError, match=message):
        algorithms.complete(parsed(*argv))


@pytest.mark.parametrize(
    "argv",
    [
        *(["--clip", x] for x in ("0", "1", "x")),
        *(["--learning-rate", x] for x in ("0", "inf", "nan")),
        *(["--entropy-weight", x] for x in ("-1", "nan")),
        ["--algorithm", "sac"],
        ["--epochs", "0"],
    ],
)
def test_bad_values_are_refused_by_the_parser(argv, capsys):
    with pytest.raises(SystemExit):
        parsed(*argv)
    assert argv[0] in capsys.readouterr().err


SMALL = {
    "reinforce": ["--num-trajectories", "2", "--num-steps", "3"],
    "a2c": ["--num-environments", "2", "--num-steps", "3"],
    "ppo": ["--num-environments", "2", "--num-steps", "3", "--epochs", "1", "--minibatches", "2"],
}


@pytest.mark.parametrize(
    ("algorithm", "name", "network"),
    [
        ("reinforce", "Pendulum-v1", "GaussianMLP"),
        ("a2c", "FrozenLake-misc", "MLP"),
        ("ppo", "Pendulum-v1", "GaussianMLP"),
    ],
)
def test_each_makes_a_run_of_the_policy_that_it_describes(algorithm, name, network):
    training, description, policy = made(name, "--algorithm", algorithm, *SMALL[algorithm])
    assert description["algorithm"] == algorithm
    assert description["network"]["class"] == network
    assert description["settings"].keys() == algorithms.DEFAULTS[algorithm].keys()
    key = jax.random.key(0)
    _, seen = jax.eval_shape(from_gymnax.make(name).init, key)
    assert isinstance(policy, Policy)
    params = training.params(training.start)
    action, _ = jax.eval_shape(policy.sample, params, key, seen.observation)
    assert action.shape == (() if network == "MLP" else (1,))


@pytest.mark.parametrize(
    ("algorithm", "name"), [("reinforce", "Pendulum-v1"), ("a2c", "FrozenLake-misc")]
)
def test_the_first_update_takes_the_steps_asked_for(algorithm, name):
    """PPO's in a box of actions is that of test_cli_resume."""
    training, *_ = made(name, "--algorithm", algorithm, *SMALL[algorithm])
    _, metrics = advance(training, training.start, 1)
    assert metrics.steps <= 6


def test_leave_one_out_of_one_is_refused_with_the_fix():
    with pytest.raises(ValueError, match="use --baseline none"):
        made("CartPole-v1", "--num-trajectories", "1")


def test_help_needs_no_jax():
    code = (
        "import argparse, sys; from pgjax.cli import algorithms\n"
        "algorithms.configure(argparse.ArgumentParser()); print('jax' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert ran.stdout.strip() == "False"
