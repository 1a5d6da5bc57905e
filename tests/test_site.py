"""The site's pages say what the code says: messages, navigation, names."""

import ast
import fnmatch
import re
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import pgjax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@cache
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


TEXTS = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "pgjax").rglob("*.py")])
BUILT = re.compile(r"[{}\0]")
"""A link that code completes when it runs; its form is not known before."""


def with_a_space_before_percent(text: str) -> list[str]:
    return re.findall(r"[0-9}\0] %", text)


def test_percentages_are_written_in_one_style() -> None:
    pages = {
        path.name: path.read_text("utf-8") for path in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]
    }
    assert {name for name, text in pages.items() if with_a_space_before_percent(text)} == set()
    assert [text for text in literals() if with_a_space_before_percent(text)] == []
    assert with_a_space_before_percent("50 % or 5%, {share:g} %") == ["0 %", "} %"]


def links(text: str) -> list[str]:
    """Every external link, without the punctuation that ends its sentence."""
    return [found.rstrip(".,;:") for found in re.findall(r"https?://[^\s)>\]\"'`|]+", text)]


def malformed(link: str) -> bool:
    """Whether a link has a wrong form: its scheme, its host, an arXiv number, a DOI, a thread."""
    parts = urlsplit(link)
    if parts.scheme != "https" or not re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc):
        return True
    forms = {
        "arxiv.org": r"/(abs|pdf)/\d{2}(0[1-9]|1[0-2])\.\d{4,5}(v\d+)?",
        "doi.org": r"/10\.\d{4,9}/\S+",
        "github.com": r"/[\w.-]+/[\w.-]+(/(issues|pull)/\d+|/(blob|tree|commit)/\S+)?",
    }
    return not re.fullmatch(forms.get(parts.netloc, r"(/\S*)?"), parts.path)


def test_external_links_are_well_formed() -> None:
    found = {link for path in TEXTS for link in links(path.read_text("utf-8"))}
    found = {link for link in found if not BUILT.search(link)}
    assert len(found) >= 20
    assert [link for link in sorted(found) if malformed(link)] == []
    wrong = (
        *("http://arxiv.org/abs/1707.06347", "https://arxiv.org/abs/1713.06347"),
        *("https://arxiv.org/abs/170.06347", "https://doi.org/11.1000/182"),
        *("https://github.com/deepmind", "https://github.com/a/b/issues/x", "https://localhost/x"),
    )
    assert all(map(malformed, wrong))


def test_arxiv_numbers_in_words_have_the_right_form() -> None:
    numbers = {
        number
        for path in TEXTS
        for number in re.findall(r"arXiv[: ]\s*([\d.]+\d)", path.read_text("utf-8"))
    }
    assert len(numbers) >= 4
    assert [n for n in numbers if malformed(f"https://arxiv.org/abs/{n}")] == []
