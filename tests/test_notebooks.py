"""The committed notebooks are made from the pages, and show the outputs that the pages show."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import blocks

pytest.importorskip("jupytext", reason="makes the notebooks, of the extra `docs`")

DOCS = Path(__file__).parents[1] / "docs"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("notebooks", DOCS / "hooks" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


notebooks = script()


def test_the_committed_notebooks_are_as_their_pages_make_them() -> None:
    assert notebooks.differing() == []


def test_a_notebook_that_was_changed_or_is_of_no_page_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, text in notebooks.notebooks().items():
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    assert notebooks.differing() == []
    changed = tmp_path / "sweep.ipynb"
    changed.write_text(changed.read_text("utf-8").replace("1e-3", "1e-4"), encoding="utf-8")
    (tmp_path / "other.ipynb").write_text("{}", encoding="utf-8")
    assert notebooks.differing() == ["other.ipynb", "sweep.ipynb"]


@pytest.mark.parametrize("name", notebooks.NOTEBOOKS)
def test_a_notebook_has_the_code_of_its_page_with_the_outputs(name: str) -> None:
    page = (DOCS / f"{notebooks.NOTEBOOKS[name]}.md").read_text("utf-8")
    cells = json.loads((DOCS / "notebooks" / f"{name}.ipynb").read_text("utf-8"))["cells"]
    found = [
        (
            "".join(cell["source"]),
            "".join(text for output in cell["outputs"] for text in output["text"]) or None,
        )
        for cell in cells
        if cell["cell_type"] == "code"
    ]
    assert found == [(block.code.strip("\n"), block.expected) for block in blocks(page)]
    assert any(output for _, output in found)


def test_links_are_as_seen_from_the_notebooks_folder() -> None:
    page = "# T\n\n[a](a.md) [b](https://b.org) [c](notebooks/c.ipynb) [d](reference/d.md)\n"
    words = "".join(json.loads(notebooks.notebook(page, "t"))["cells"][0]["source"])
    assert "[a](../a.md) [b](https://b.org) [c](c.ipynb) d, on the site" in words
