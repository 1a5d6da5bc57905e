"""`pgjax train --seeds`: several seeds in one program, each with a run directory of its own."""

import contextlib
import io
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import pgjax
from pgjax import training
from pgjax.cli import main
from pgjax.training.runs import curve, loop, seeds
from tests import child_runs, walks

NAME = walks.NAME
SETTINGS = training.ReinforceSettings(num_updates=3, num_trajectories=4)
QUIET = training.RunOptions(quiet=True)
TRAIN = ["train", NAME, "--updates", "3", "--num-trajectories", "4"]


@pytest.fixture(scope="module", autouse=True)
def cheap():
    with child_runs.compiled_once(), child_runs.sketches():
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of two seeds, trained together by the command line, and what it warned of."""
    directory = tmp_path_factory.mktemp("seeds") / "both"
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(loop, "advice", lambda rows: [f"{len(rows)} updates are few"])
        assert main([*TRAIN, "--seeds", "3", "5", "--output", str(directory), "--quiet"]) == 0
    return directory, said.getvalue()


@pytest.fixture(scope="module")
def directory(trained):
    """The directory of the two seeds."""
    return trained[0]


def test_a_warning_at_the_end_names_its_seed(trained):
    lines = [f"pgjax train: warning: seed {seed}: 3 updates are few" for seed in (3, 5)]
    assert trained[1].splitlines() == lines


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The second of the two seeds, trained alone."""
    directory = tmp_path_factory.mktemp("seeds") / "alone"
    return training.start(directory, NAME, SETTINGS, seed=5, options=QUIET)


def close(one, other):
    return all(
        np.allclose(x, y, rtol=1e-4, atol=1e-6)
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def test_each_seed_learns_what_it_learns_alone(directory, alone):
    run, other = (pgjax.load(directory / f"seed-{seed}") for seed in (5, 3))
    assert run.finished
    assert close(run.params, alone.params)
    assert not close(other.params, alone.params)
    assert run.config["seed"] == 5
    assert run.config["trained_with_seeds"] == [3, 5]
    assert [row["mean_return"] for row in run.log] == pytest.approx(
        [row["mean_return"] for row in alone.log], rel=1e-5
    )
    assert {**run.config["options"]} == {**alone.config["options"]}


def test_the_aggregate_is_of_the_last_tenth_of_each_log(directory):
    found = json.loads((directory / "aggregate.json").read_text("utf-8"))
    logs = [pgjax.load(directory / f"seed-{seed}").log for seed in (3, 5)]
    returns = [rows[-1]["mean_return"] for rows in logs]
    assert found["seeds"] == [3, 5]
    assert found["returns"] == pytest.approx(returns)
    assert found["interquartile_mean"] == pytest.approx(np.mean(returns))
    assert found["environment_steps"] == [96, 96]
    assert (directory / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_seed_that_was_stopped_goes_on_alone(tmp_path, alone, monkeypatch, capsys):
    answers = iter([None, "SIGTERM", "SIGTERM"])

    @contextlib.contextmanager
    def stopping():
        yield lambda: next(answers)

    monkeypatch.setattr(seeds, "interruptions", stopping)
    assert main([*TRAIN, "--seeds", "4", "5", "--output", str(tmp_path)]) == 0
    assert "each seed can be resumed alone" in " ".join(capsys.readouterr().out.split())
    assert len(pgjax.load(tmp_path / "seed-5").log) == 1
    assert main(["train", "--resume", str(tmp_path / "seed-5"), "--quiet"]) == 0
    run = pgjax.load(tmp_path / "seed-5")
    assert len(run.log) == 3
    assert close(run.params, alone.params)


def test_no_run_is_replaced_unless_asked(directory, capsys):
    before = (directory / "seed-3" / "config.json").read_bytes()
    arguments = [*TRAIN, "--output", str(directory), "--seeds", "7", "3"]
    assert main(arguments) == 2
    assert "seed-3 already holds config.json" in capsys.readouterr().err
    assert (directory / "seed-3" / "config.json").read_bytes() == before
    assert not (directory / "seed-7" / "config.json").exists()


def test_a_fault_names_its_seed_and_all_seeds_are_kept(tmp_path, capsys):
    arguments = [*TRAIN, "--seeds", "0", "1", "--learning-rate", "1e38", "--quiet"]
    assert main([*arguments, "--output", str(tmp_path)]) == 1
    assert re.search(r"update 2, seed \d: not finite: ", capsys.readouterr().err)
    for seed in (0, 1):
        params = pgjax.load(tmp_path / f"seed-{seed}").params
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    values = np.array([-50.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 90.0])
    found = seeds.interquartile_mean(values)
    assert found.estimate == np.mean([2, 3, 4, 5])
    assert found.low < found.estimate < found.high
    narrow = seeds.interquartile_mean(values, level=0.5)
    assert found.low <= narrow.low < narrow.high <= found.high
    assert tuple(seeds.interquartile_mean(np.full(5, 2.0))) == (2, 2, 2)
    alone = seeds.interquartile_mean(np.array([2.0]))
    assert alone.estimate == 2
    assert np.isnan([alone.low, alone.high]).all()
    # A bootstrap interval of normal numbers covers their centre about as often as it says.
    draws = np.random.default_rng(0).normal(size=(60, 20))
    intervals = [seeds.interquartile_mean(each) for each in draws]
    assert sum(each.low < 0 < each.high for each in intervals) >= 48  # of 57; less is 1 in 5,000


def test_curves_show_the_median_where_all_seeds_have_a_return():
    def rows(steps, returns):
        return [
            {"environment_steps": s, "mean_return": r} for s, r in zip(steps, returns, strict=True)
        ]

    logs = [
        rows([10, 20, 30], [float("nan"), 20, 30]),
        rows([10, 20, 30], [0, 10, 20]),
        rows([15, 30, 45], [0, 60, 60]),
    ]
    (axes,) = curve.learning_curves(logs, title="title").axes
    steps, median = np.transpose(axes.lines[-1].get_xydata())
    assert (steps[0], steps[-1]) == (20, 30)
    np.testing.assert_allclose(median, 20 + (steps - 20))  # the first run's, in the middle
    assert len(axes.lines) == 4


def test_mapped_keys_give_the_networks_of_each_key_and_decompose_no_batch():
    network = pgjax.MLP(2, (8, 8))
    keys = jax.random.split(jax.random.key(0), 3)

    def init(key):
        return network.init(key, jnp.zeros(4))

    mapped, alone = jax.jit(jax.vmap(init)), jax.jit(init)
    each = [alone(key) for key in keys]
    assert close(mapped(keys), jax.tree.map(lambda *x: np.stack(x), *each))
    assert batched_decompositions(mapped.lower(keys).as_text()) == []
    flax = linen.initializers.orthogonal()
    control = jax.jit(jax.vmap(lambda key: flax(key, (8, 8)))).lower(keys)
    assert batched_decompositions(control.as_text())


def batched_decompositions(program):
    """The lines of a program that decompose several matrices at once."""
    return [line for line in program.splitlines() if "geqrf" in line and "tensor<3x8x8" in line]


def test_the_runs_of_seeds_are_returned_and_bad_seeds_refused(tmp_path):
    with pytest.raises(ValueError, match="seeds must differ, got 1 more than once"):
        training.start_seeds(tmp_path, NAME, SETTINGS, [1, 2, 1])
    with pytest.raises(ValueError, match="seeds must hold at least one seed"):
        training.start_seeds(tmp_path, NAME, SETTINGS, [])
    with pytest.raises(ValueError, match=r"options\.until must be None for several seeds"):
        training.start_seeds(tmp_path, NAME, SETTINGS, [0], options=training.RunOptions(until=1.0))
    assert issubclass(loop.RunFailedError, RuntimeError)
    assert not list(tmp_path.iterdir())
