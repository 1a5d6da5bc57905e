"""Every command answers in any encoding of standard output; what it lacks is written in ASCII."""

import contextlib
import io
import sys

import pytest
from rich.console import Console

from pgjax.cli import COMMANDS, main
from pgjax.cli.encodings import IN_ASCII, any_encoding

ENCODINGS = ["ascii", "latin-1", "cp1252", "utf-8"]
HARD = "‖E ĝ − ∇J‖ ≤ 2 ± 1, Σ̂, γ^t, λ → ∞, ✓ ✗ … ² ⁻¹ │ 漢 🙂"


@contextlib.contextmanager
def streams(encoding):
    """Standard output and error in one encoding; gives a function to what was written there."""
    made = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]

    def written():
        for stream in made:
            stream.flush()
        return [stream.buffer.getvalue().decode(encoding) for stream in made]

    with contextlib.redirect_stdout(made[0]), contextlib.redirect_stderr(made[1]):
        yield written


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_is_printed(command, encoding):
    with streams(encoding) as written, pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: pgjax {command}" in written()[0]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_prints_arrives_whether_by_print_or_as_a_table(
    command, encoding, monkeypatch
):
    def run(_):
        print(HARD)
        Console().print(HARD, "the end")
        raise ValueError(f"wrong: {HARD}")

    monkeypatch.setattr(COMMANDS[command], "run", run)
    needed = {"check": ["a:b"], "compare": ["chain"], "evaluate": ["a"], "watch": ["a"]}
    with streams(encoding) as written:
        assert main([command, *needed.get(command, [])]) == 2
        assert sys.stdout.errors == sys.stderr.errors == "strict"  # as before the call
    output, error = written()
    assert "the end" in output
    assert "error: wrong: " in error
    assert (HARD in output) == (encoding == "utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_without_it_the_same_text_is_an_error(encoding):
    with streams(encoding):
        with pytest.raises(UnicodeEncodeError):
            print(HARD)
        with any_encoding():
            print(HARD)


def test_what_an_encoding_lacks_is_spelled_and_what_it_has_is_kept():
    expected = "||E g - grad J|| <= 2 +- 1, Sigma, gamma^t, lambda -> inf"
    assert HARD.encode("ascii", IN_ASCII).decode().startswith(expected)
    assert "2 ± 1".encode("latin-1", IN_ASCII).decode("latin-1") == "2 ± 1"
    assert HARD.encode("utf-8", IN_ASCII).decode() == HARD


def test_a_verdict_is_not_lost(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def halved(params, batch):\n    return 0.5 * params\n", encoding="utf-8")
    with streams("ascii") as written:
        assert main(["check", f"{path}:halved", "--problem", "bandit"]) == 1
    assert written()[0].startswith("wrong on 1 of 1 problems")
