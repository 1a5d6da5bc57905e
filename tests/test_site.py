"""The site's pages say what the code says: messages, navigation, names."""

import ast
import fnmatch
import re
from pathlib import Path

import pytest

import pgjax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def literals() -> list[str]:
    """Every string of the library, each value put into it as one wildcard."""
    found = []
    for path in sorted((ROOT / "pgjax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    part.value if isinstance(part, ast.Constant) else "\0" for part in node.values
                )
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"\{[^}]*\}", "\0", node.value))
    return found


def quoted(page: str) -> list[str]:
    """The messages in the first column of the page's table of errors."""
    return re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)


def missing(messages: list[str], known: list[str]) -> list[str]:
    """Those messages that no string of the library contains; … stands for anything."""
    found = []
    for message in messages:
        parts = [part.strip(" .;,") for part in message.split("…")]
        pattern = re.compile(".*".join(re.escape(part) for part in parts if part), re.DOTALL)
        if not any(pattern.search(text) for text in known):
            found.append(message)
    return found


def test_every_message_of_the_faq_is_in_the_library() -> None:
    messages = quoted((DOCS / "faq.md").read_text("utf-8"))
    assert len(messages) >= 30
    assert missing(messages, literals()) == []
    assert missing(["batch.reward must have shape [T, N]"], literals()) != []


def test_the_glossary_has_twenty_five_words() -> None:
    words = re.findall(r"^\| \*\*([^*]+)\*\*", (DOCS / "glossary.md").read_text("utf-8"), re.M)
    assert len(words) == 25
    assert words == sorted(words, key=lambda word: word.lower().replace("σ", "sigma"))


PAGES = sorted(path.name for path in DOCS.glob("*.md"))


def entries(patterns: bool = False) -> list[str]:
    """The pages that the navigation names, or the patterns that stand for pages."""
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    found = re.findall(r"[\w*-]+\.md", re.sub(r"#.*", "", navigation))
    return [entry for entry in found if ("*" in entry) == patterns]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_in_the_navigation_once(page: str) -> None:
    matches = [each for each in entries(patterns=True) if fnmatch.fnmatch(page, each)]
    assert entries().count(page) + len(matches) == 1


def test_the_navigation_names_only_pages_that_exist() -> None:
    assert set(entries()) <= set(PAGES)


def test_the_hooks_before_a_commit_run_the_linter_of_ci() -> None:
    pinned = re.findall(r'"(ruff==[\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    hooks = re.findall(r'"(ruff==[\d.]+)"', (ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    assert set(hooks) == set(pinned)
    assert len(pinned) == 1


def test_the_citation_names_the_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [pgjax.__version__]


def test_every_dependency_has_a_lower_bound_and_no_upper_one_without_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    needed = text.partition("\ndependencies = [\n")[2].partition("\n]")[0].splitlines()
    assert len(needed) >= 10
    for line in needed:
        assert re.match(r'\s*"[\w-]+>=[\d.]+"|.*<.*#', line), line
