"""Bad input to the commands: one line on standard error, a status that is not zero, no traceback.

The options and their types are read from the parser, so that a new option is tried as well.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgjax import tabular
from pgjax.cli import COMMANDS, _parser, arguments, main
from pgjax.proof import error_curves

BAD: dict[Callable[[str], Any] | None, tuple[str, ...]] = {
    arguments.positive_int: ("0", "-1", "2.5", "x", "", "nan", "1e400"),
    arguments.seed: ("-1", "2.5", "x", "", "nan", "4294967296"),
    arguments.unit_interval: ("-0.1", "1.5", "x", "", "nan", "inf"),
    arguments.open_unit_interval: ("0", "1", "-1", "x", "", "nan"),
    arguments.finite_float: ("x", "", "nan", "inf"),
    arguments.nonnegative_float: ("-1", "x", "", "nan", "inf"),
    arguments.positive_float: ("0", "-1", "x", "", "nan", "inf"),
    arguments.devices: ("0", "-1", "1.5", "x", ""),
    arguments.nonempty_path: ("", " "),
    arguments.nonempty_name: ("", " "),
}
"""By the type of an option: what it must refuse."""

NEEDED = {
    "train": ["CartPole-v1"],
    "evaluate": ["nowhere"],
    "watch": ["nowhere"],
    "compare": ["random"],
    "check": ["nowhere.py:f"],
}
"""Arguments without which a command does not begin."""


def options() -> Iterator[tuple[str, argparse.Action]]:
    """Every option of every command that takes a value."""
    groups = [x for x in _parser()._actions if isinstance(x, argparse._SubParsersAction)]
    for command, parser in groups[0].choices.items():
        for action in parser._actions:
            if action.option_strings and action.nargs != 0:
                yield command, action


def cells() -> Iterator[tuple[str, list[str]]]:
    """(option, arguments): every bad value of every option, and every option given twice."""
    for command, action in options():
        option, start = action.option_strings[0], [command, *NEEDED.get(command, [])]
        bad = ("x", "") if action.choices else BAD.get(_type(action), ())
        for value in bad:
            yield option, [*start, f"{option}={value}"]
        if isinstance(action, arguments.Once):
            good = str(next(iter(action.choices))) if action.choices else "0.5"
            good = "1" if _type(action) in (arguments.positive_int, arguments.seed) else good
            yield option, [*start, f"{option}={good}", f"{option}={good}"]


def _type(action: argparse.Action) -> Any:
    return action.type


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The only line that a command writes to standard error; its status is not zero."""
    try:
        status = main(argv)
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status not in (0, None), argv
    assert "Traceback" not in error, argv
    assert len(error.strip().splitlines()) == 1, (argv, error)
    return error


def test_every_option_refuses_what_is_not_of_its_type(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    number, parser = 0, _parser()
    monkeypatch.setattr("pgjax.cli._parser", lambda: parser)
    for option, argv in cells():
        assert option in refusal(argv, capsys), argv
        number += 1
    assert number > 150


def test_every_option_has_a_type_that_the_table_knows() -> None:
    names = {("check", "--problem"), ("certify", "--problem"), ("certify", "--only")}
    for command, action in options():
        known = action.choices or _type(action) in BAD or (command, action.dest) in names
        assert known or (command, action.option_strings[0]) in names, (command, action.dest)


MODULES = {
    "raising.py": "1 / 0\n",
    "leaving.py": "import sys\nsys.exit(0)\n",
    "broken.py": "def f(:\n",
    "failing.py": "import pgjax\ndef f(params, batch):\n    return {}['missing']\n"
    "weights = pgjax.Estimator(lambda batch, log_prob: {}['missing'], pgjax.terms.score)\n"
    "def problem(problem):\n    return pgjax.reinforce(problem.mdp.discount)\n",
    "quitting.py": "def f():\n    raise SystemExit(3)\n",
    "number.py": "f = 3\n",
    "empty.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with bad files, which the commands are called in."""
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "garbage.npz").write_bytes(b"nothing")
    (tmp_path / "a_folder.png").mkdir()
    (tmp_path / "a_folder.json").mkdir()
    (tmp_path / "a_folder.npz").mkdir()
    (tmp_path / "a_file").write_text("", encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("[]", encoding="utf-8")
    (tmp_path / "run" / "params.msgpack").write_bytes(b"")
    tabular.save(tabular.two_armed_bandit(), tmp_path / "bandit.npz")
    monkeypatch.chdir(tmp_path)
    # A command's own rows take seconds: what the user gave is looked at before.
    monkeypatch.setattr(error_curves, "contenders", lambda problem: pytest.fail("too late"))
    return tmp_path


REFUSED = [
    ("", "required"),
    ("trian CartPole-v1", "trian"),
    ("train", "an environment is needed"),
    ("train CartPole", "did you mean CartPole-v1"),
    ("train  --algorithm=ppo CartPole-v1 --baseline=none", "--baseline is not an option of ppo"),
    ("train CartPole-v1 --nonsense", "--nonsense"),
    ("train CartPole-v1 --seed", "--seed"),
    ("train CartPole-v1 extra", "extra"),
    ("train CartPole-v1 --algorithm=reinforce --num-trajectories=1", "of at least 2; with"),
    ("train CartPole-v1 --untuned --output=a_file", "a_file"),
    ("train CartPole-v1 --seeds 0 0", "--seeds must be different numbers, got 0 0"),
    ("train CartPole-v1 --seeds 0 1 --seed=1", "--seed cannot be given with --seeds"),
    ("train CartPole-v1 --seeds 0 1 --until=100", "--until cannot be given with --seeds"),
    ("train CartPole-v1 --seeds 0 1 --wandb", "--wandb cannot be given with --seeds"),
    ("train --seeds 0 1 --resume=run", "--resume run/seed-0"),
    ("train CartPole-v1 --seeds", "--seeds"),
    ("train CartPole-v1 --untuned --output=a_file/inside", "a_file"),
    ("train --resume=nowhere", "nowhere holds no run"),
    ("train --resume=a_file", "a_file holds no run"),
    ("train --resume=run", "is not the config of a saved run"),
    ("train --resume=run --overwrite", "config"),
    ("evaluate", "directory"),
    ("evaluate nowhere", "nowhere holds no saved run"),
    ("evaluate a_file", "a_file holds no saved run"),
    ("evaluate run", "is not the config of a saved run"),
    ("watch", "directory"),
    ("watch nowhere", "nowhere holds no saved run"),
    ("watch run", "is not the config of a saved run"),
    ("compare", "environment"),
    ("compare randm", "randm"),
    ("compare garbage.npz", "garbage.npz"),
    ("compare nowhere.npz", "nowhere.npz"),
    ("compare random --batches=2", "--batches must be at least 3"),
    ("compare random --batch-size=1", "--batch-size must be at least 2"),
    ("compare random --policy=nowhere", "--policy"),
    ("compare random --output=a_folder.png", "--output must be a file, got the folder"),
    ("compare random --output=x.txt", "--output must end in"),
    ("compare CartPole-v1 --policy=nowhere", "nowhere holds no saved run"),
    ("converge --mdp=randm", "did you mean random"),
    ("converge --mdp=garbage.npz", "garbage.npz"),
    ("converge --mdp=nowhere.npz", "nowhere.npz"),
    ("converge --mdp=a_folder.npz", "a_folder.npz"),
    ("converge --mdp=bandit.npz", "--horizon is needed"),
    ("converge --env=FrozenLak-misc", "did you mean FrozenLake-misc"),
    ("converge --env=CartPole-v1", "has no exact table"),
    ("converge --env=FrozenLake-misc --mdp=random", "not allowed with"),
    ("converge --trajectories=100", "--trajectories must be a power of two"),
    ("converge --output=a_folder.png", "--output must be a file, got the folder"),
    ("converge --output=a_file/x.png", "--output must lie in a folder"),
    ("certify --problem=bandi", "did you mean bandit"),
    ("certify --problem=", "--problem"),
    ("certify --output=a_folder.png", "--output must be a file, got the folder"),
    ("certify --output=nowhere/x.png", "--output must lie in a folder"),
    ("certify --json=a_folder.json", "--json must be a file, got the folder"),
    ("certify --json=nowhere/x.json", "--json must lie in a folder"),
    ("certify --update nowhere.md", "--update needs files that exist"),
    ("certify --update run", "--update needs files that exist"),
    ("certify --update a_file --problem=bandit", "--update writes results of the whole suite"),
    ("check", "module:name"),
    ("check nothing", "module:name"),
    ("check :f", "module:name"),
    ("check empty.py:", "module:name"),
    ("check nowhere.py:f", "there is no file nowhere.py"),
    ("check no_such_module:f", "there is no module no_such_module"),
    ("check empty.py:f", "empty.py has no f"),
    ("check run:f", "run has no f"),
    ("check raising.py:f", "ZeroDivisionError: division by zero (raising.py, line 1)"),
    ("check leaving.py:f", "ends the process"),
    ("check broken.py:f", "SyntaxError"),
    ("check number.py:f", "candidate must be an Estimator"),
    ("check failing.py:f --problem=bandit", "KeyError: 'missing' (failing.py, line 3)"),
    ("check failing.py:f --problem=bandi", "did you mean bandit"),
    ("certify --with=nowhere.py:f", "--with nowhere.py:f: there is no file nowhere.py"),
    ("certify --with=nowhere.py", "must be given as module:name"),
    ("certify --with=empty.py:f", "empty.py has no f"),
    ("certify --with=raising.py:f", "ZeroDivisionError: division by zero (raising.py, line 1)"),
    ("certify --with=leaving.py:f", "leaving.py ends the process"),
    ("certify --with=number.py:f", "--with number.py:f: the name must stand for an Estimator"),
    ("certify --problem=bandit --with=failing.py:f", "KeyError: 'missing' (failing.py, line 3)"),
    ("certify --with=failing.py:f --update a_file", "omit --with"),
    ("converge --mdp=bandit --with=broken.py:f", "SyntaxError"),
    (
        "converge --mdp=bandit --with=number.py:f",
        "--with number.py:f: the name must stand for an Estimator",
    ),
    ("converge --mdp=bandit --with=quitting.py:f", "quitting.py:f ends the process"),
    ("converge --mdp=bandit --with=failing.py:f", "needs an Estimator(weights, term)"),
    ("compare bandit --with=nowhere.py:f", "--with nowhere.py:f: there is no file nowhere.py"),
    ("compare bandit --with=failing.py:weights", "KeyError: 'missing' (failing.py, line 4)"),
    ("compare Pendulum-v1 --with=failing.py:problem", "write a function without arguments"),
    ("check failing.py:f --behaviour=me", "--behaviour"),
]


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[line for line, _ in REFUSED])
def test_what_a_command_cannot_use_is_refused_in_one_line(
    line: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refusal(line.split(), capsys)


def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    for command in ("certify", "converge", "compare random"):
        error = refusal([*command.split(), "--output=x.png"], capsys)
        assert "--output must be a file that can be written, got x.png" in error


def test_good_input_is_not_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(COMMANDS) >= set(NEEDED)
    with pytest.raises(AssertionError):
        refusal(["check", "pgjax:nothing", "--help"], capsys)
