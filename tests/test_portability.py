"""What runs here also runs elsewhere: files and pipes are opened with an encoding that is named."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("pgjax", "tests", "benchmarks", "docs/hooks", ".ci")
    for path in (ROOT / folder).rglob("*.py")
)
PLACE = {"read_text": 0, "write_text": 1}
"""Where the encoding stands, if it is no keyword."""


def without_encoding(source: str) -> list[int]:
    """The lines of calls that open a text without naming its encoding: Windows has another."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return sorted(call.lineno for call in calls if _opens_text(call) and not _names_one(call))


def _opens_text(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        of_os = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "os"
        place = 0 if isinstance(call.func, ast.Attribute) else 1
        mode = [*call.args[place : place + 1], *_keyword(call, "mode")]
        return not of_os and not any("b" in str(getattr(each, "value", "")) for each in mode)
    if name in ("run", "Popen", "check_output"):
        return any(getattr(each, "value", False) is True for each in _keyword(call, "text"))
    return name in PLACE


def _keyword(call: ast.Call, name: str) -> list[ast.expr]:
    return [keyword.value for keyword in call.keywords if keyword.arg == name]


def _names_one(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    return bool(_keyword(call, "encoding")) or len(call.args) > PLACE.get(name, len(call.args))


def test_every_text_is_opened_with_its_encoding() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): without_encoding(path.read_text("utf-8"))
        for path in SOURCES
    }
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
    assert without_encoding("\n".join(wrong)) == list(range(1, len(wrong) + 1))
    assert without_encoding("\n".join(right)) == []
