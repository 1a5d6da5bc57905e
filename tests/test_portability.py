"""What runs here also runs elsewhere: encodings, imports of Unix, annotations of Python 3.14."""

import ast
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import pgjax
from pgjax.core.validation import check_estimate
from pgjax.types import returned_by, signature_of

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("pgjax", "tests", "benchmarks", "docs/hooks", ".ci")
    for path in (ROOT / folder).rglob("*.py")
)
PLACE = {"read_text": 0, "write_text": 1}
"""Where the encoding stands, if it is no keyword."""

PROCESSES = {"run", "Popen", "check_output"}
"""Calls that open a text if they are told `text=True`."""

OF_UNIX = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
"""Modules of the standard library that Windows lacks."""

NAMED = re.compile(rf"\b({'|'.join({'open', *PLACE, *PROCESSES, *OF_UNIX})})\b")
"""A file that names none of these is not parsed: nothing could be found in it."""


@cache
def findings() -> dict[str, tuple[list[int], list[str]]]:
    """By file, what `without_encoding` and `needing_unix` find; each file is parsed once."""
    texts = ((path, path.read_text("utf-8")) for path in SOURCES)
    trees = ((path, ast.parse(text if NAMED.search(text) else "")) for path, text in texts)
    return {
        path.relative_to(ROOT).as_posix(): (without_encoding(tree), needing_unix(tree))
        for path, tree in trees
    }


def without_encoding(source: ast.Module) -> list[int]:
    """The lines of calls that open a text without naming its encoding: Windows has another."""
    calls = [node for node in ast.walk(source) if isinstance(node, ast.Call)]
    return sorted(call.lineno for call in calls if _opens_text(call) and not _names_one(call))


def _opens_text(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        of_other = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in (
            "os",
            "Image",
        )
        place = 0 if isinstance(call.func, ast.Attribute) else 1
        mode = [*call.args[place : place + 1], *_keyword(call, "mode")]
        return not of_other and not any("b" in str(getattr(each, "value", "")) for each in mode)
    if name in PROCESSES:
        return any(getattr(each, "value", False) is True for each in _keyword(call, "text"))
    return name in PLACE


def _keyword(call: ast.Call, name: str) -> list[ast.expr]:
    return [keyword.value for keyword in call.keywords if keyword.arg == name]


def _names_one(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    return bool(_keyword(call, "encoding")) or len(call.args) > PLACE.get(name, len(call.args))


def test_every_text_is_opened_with_its_encoding() -> None:
    found = {path: lines for path, (lines, _) in findings().items()}
    assert len(found) > 200
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_calls_without_an_encoding_are_found() -> None:
    wrong = [
        "path.read_text()",
        "path.write_text('words')",
        "open(path)",
        "open(path, 'w')",
        "path.open('a')",
        "subprocess.run([], text=True)",
    ]
    right = [
        "path.read_text('utf-8')",
        "path.read_text(encoding='utf-8')",
        "path.write_text('words', 'utf-8')",
        "open(path, 'rb')",
        "path.open('ab')",
        "path.open('a', encoding='utf-8')",
        "open(path, mode='wb')",
        "os.open(path, os.O_RDONLY)",
        "subprocess.run([], text=True, encoding='utf-8')",
        "subprocess.run([])",
    ]
    assert without_encoding(ast.parse("\n".join(wrong))) == list(range(1, len(wrong) + 1))
    assert without_encoding(ast.parse("\n".join(right))) == []


def needing_unix(source: ast.Module) -> list[str]:
    """The modules of Unix that a file imports when it is imported itself, without a condition."""
    found = []
    for node in source.body:
        if isinstance(node, ast.Expr | ast.Assign) and "importorskip" in ast.unparse(node):
            return found  # the rest is read only where the module is there
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in OF_UNIX]
    return found


def test_no_file_needs_unix_to_be_imported() -> None:
    found = {path: names for path, (_, names) in findings().items()}
    # Its own command, and the test that leaves it out on Windows, are all that import it.
    assert found.pop("tests/mutants.py") == ["resource"]
    assert {path: names for path, names in found.items() if names} == {}
    assert needing_unix(ast.parse("import os, resource")) == ["resource"]
    assert needing_unix(ast.parse("pytest.importorskip('resource')\nimport resource")) == []
    assert needing_unix(ast.parse("def f():\n    import fcntl")) == []


class Unreadable:
    """A function whose annotations name what exists for type checkers only."""

    @property
    def __annotations__(self) -> dict[str, object]:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise NameError("name 'Missing' is not defined")

    def __call__(self) -> None: ...


def test_annotations_that_cannot_be_evaluated_are_not_read() -> None:
    # Python 3.14 evaluates annotations when they are read; before, `annotations` postpones them.
    postponed = "" if sys.version_info >= (3, 14) else "from __future__ import annotations\n"
    made: dict[str, Any] = {}
    exec(f"{postponed}def weights(batch: Missing, log_prob: Missing) -> Missing: ...", made)
    assert list(signature_of(made["weights"]).parameters) == ["batch", "log_prob"]
    assert pgjax.Estimator(made["weights"], pgjax.terms.score).weights is made["weights"]
    with pytest.raises(NameError):
        getattr(Unreadable(), "__annotations__", {})
    assert returned_by(Unreadable()) is None
    assert returned_by(pgjax.reward_to_go) is pgjax.Estimator
    with pytest.raises(TypeError, match="call it"):
        check_estimate(pgjax.reward_to_go)
