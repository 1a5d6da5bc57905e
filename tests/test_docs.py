"""Every page and every docstring's example runs, and prints what it says it prints.

They compile more programs than any other tests and prove no law, so they are a selection of their
own: `pytest -n auto -m examples`.
"""

import contextlib
import doctest
import importlib
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

from tests.test_structure import LIBRARY

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(?P<info>[^`\n]*)\n(?P<body>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A Python block, and the output that the page shows for it."""

    line: int  # of the first line of code
    code: str
    expected: str | None  # None where no ```text block directly follows


def blocks(page: str) -> list[Block]:
    """The blocks to run: ```python, unless marked `no-run`."""
    fences = list(FENCE.finditer(page))
    found = []
    for index, fence in enumerate(fences):
        if fence["info"].split() != ["python"]:
            continue
        expected = None
        if index + 1 < len(fences):
            following = fences[index + 1]
            adjacent = not page[fence.end() : following.start()].strip()
            if adjacent and following["info"].strip() == "text":
                expected = following["body"]
        line = page.count("\n", 0, fence.start()) + 2
        found.append(Block(line, fence["body"], expected))
    return found


def run_page(page: str, name: str) -> int:
    """Run a page's blocks in one namespace, compare what they print, and count those compared."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    compared = 0
    for block in blocks(page):
        printed = io.StringIO()
        # Empty lines before the code give tracebacks the page's own line numbers.
        code = compile("\n" * (block.line - 1) + block.code, name, "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        if block.expected is not None:
            assert _lines(printed.getvalue()) == _lines(block.expected), (
                f"{name}, line {block.line}: the block printed\n{printed.getvalue()}"
            )
            compared += 1
    return compared


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def _pages() -> dict[str, str]:
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    texts = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths}
    return {name: text for name, text in texts.items() if blocks(text)}


PAGES = _pages()


@pytest.fixture
def as_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """JAX as it comes, whatever the test suite has set, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        jax.debug_nans(False),
    ):
        yield


@pytest.mark.examples
@pytest.mark.usefixtures("as_a_reader")
@pytest.mark.parametrize("name", PAGES)
def test_page_runs_and_prints_what_it_shows(name: str):
    run_page(PAGES[name], name)


@pytest.mark.examples
@pytest.mark.parametrize("name", LIBRARY)
def test_examples_in_docstrings_run(name: str):
    result = doctest.testmod(importlib.import_module(f"pgjax.{name}"))
    assert result.failed == 0


@pytest.mark.parametrize("name", ["docs/theorem.md", "docs/beyond.md"])
def test_a_page_has_its_steps_and_every_output_is_compared(name: str):
    page = PAGES[name]
    shown = sum(fence["info"].strip() == "text" for fence in FENCE.finditer(page))
    assert shown == sum(block.expected is not None for block in blocks(page))
    assert shown >= 8


def test_runner_shares_one_namespace_and_compares():
    page = "```python\nx = 2\n```\n\n```python\nprint(x + 1)\n```\n\n```text\n3\n```\n"
    assert run_page(page, "page") == 1


@pytest.mark.parametrize(
    "page",
    [
        "```python\nprint(3)\n```\n\n```text\n4\n```\n",
        "```python\nprint(0.1230)\n```\n\n```text\n0.1231\n```\n",
        "```python\nprint(3)\n```\n```text\n3\n3\n```\n",
        "```python\npass\n```\n\n```text\n3\n```\n",
    ],
)
def test_runner_rejects_a_wrong_output(page: str):
    with pytest.raises(AssertionError, match="page, line 2"):
        run_page(page, "page")


def test_runner_lets_an_error_through_at_the_page_s_own_line():
    with pytest.raises(ZeroDivisionError) as caught:
        run_page("Words.\n\n```python\n\n1 / 0\n```\n", "page")
    assert caught.traceback[-1].lineno + 1 == 5


def test_runner_leaves_out_what_is_marked_or_is_no_python():
    page = "```python no-run\n1 / 0\n```\n\n```console\n$ pgjax\n```\n\n```text\n3\n```\n"
    assert blocks(page) == []


def test_output_after_words_belongs_to_no_block():
    assert blocks("```python\nx = 1\n```\nWords.\n\n```text\n3\n```\n")[0].expected is None
