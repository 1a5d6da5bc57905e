"""Make the notebooks of `docs/notebooks` from pages of the site.

    python docs/hooks/notebooks.py           write them
    python docs/hooks/notebooks.py --check   exit with 1 if a committed notebook differs

A notebook holds the page's words, its code, and the outputs that the page shows. Nothing is run
here: the tests run every page and compare its outputs. Needs the extra `docs`.
"""

import re
import sys
from pathlib import Path
from typing import Any

import jupytext
from nbformat.v4 import new_output

DOCS = Path(__file__).parents[1]
FOLDER = DOCS / "notebooks"
NOTEBOOKS = {
    "quickstart": "index",
    "certify-your-estimator": "how-to-estimator",
    "sweep": "sweep",
    "grpo-on-a-toy-task": "grpo-toy",
}
"""The page that each notebook is made from."""

OUTPUT = re.compile(r"\A\s*^```text\n(?P<text>.*?)^```$\s*", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|\.\./)(?P<notebook>notebooks/)?")
GENERATED = re.compile(r"\[(?P<words>[^\]]+)\]\(reference/[^)]*\)")  # pages only of the site
WARNING = re.compile(
    r"^!!! \w+ \"(?P<title>[^\"]+)\"\n\n(?P<body>(?:(?: {4}.*)?\n)+)", re.MULTILINE
)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebook(page: str, name: str) -> str:
    """The notebook of a page of this name, as JSON."""
    made: Any = jupytext.reads(_prepared(page), fmt="md")
    title, *rest = made.cells
    head, _, words = title.source.partition("\n")
    title.source = f"{head}\n\n{_source(name)}\n\n{words.strip()}"
    cells = [title]
    for cell in rest:
        shown = OUTPUT.match(cell.source) if cell.cell_type == "markdown" else None
        if shown and cells[-1].cell_type == "code":
            cells[-1].outputs = [new_output("stream", name="stdout", text=shown["text"])]
            cell.source = cell.source[shown.end() :]
        if cell.source.strip():
            cells.append(cell)
    for index, cell in enumerate(cells):
        cell.id, cell.metadata = f"cell-{index}", {}
    made.cells, made.metadata = cells, {"kernelspec": KERNEL}
    made.nbformat, made.nbformat_minor = 4, 5
    return jupytext.writes(made, fmt="ipynb") + "\n"


def _source(name: str) -> str:
    return f"*Made from the page [{name}.md](../{name}.md). `pgjax` must be installed.*"


def _prepared(page: str) -> str:
    """The page with links as they are from the notebooks' folder, and notes as quotations."""
    page = GENERATED.sub(r"\g<words>, on the site", WARNING.sub(_quotation, page))
    return LINK.sub(lambda found: "](" if found["notebook"] else "](../", page)


def _quotation(match: re.Match[str]) -> str:
    lines = [line.removeprefix("    ") for line in match["body"].rstrip("\n").splitlines()]
    return "\n".join(f"> {line}".rstrip() for line in [f"**{match['title']}.**", *lines]) + "\n\n"


def notebooks() -> dict[Path, str]:
    """Each notebook's path and content."""
    return {
        FOLDER / f"{name}.ipynb": notebook((DOCS / f"{page}.md").read_text("utf-8"), page)
        for name, page in NOTEBOOKS.items()
    }


def differing() -> list[str]:
    """The names of the committed notebooks that are not as the pages would make them."""
    made = notebooks()
    known = set(FOLDER.glob("*.ipynb")) | set(made)
    committed = {path: path.read_text("utf-8") for path in known if path.exists()}
    return sorted(path.name for path in known if committed.get(path) != made.get(path))


def main() -> int:
    """Write the notebooks, or with `--check` compare them."""
    if "--check" in sys.argv[1:]:
        for name in differing():
            print(f"docs/notebooks/{name} is old: run python docs/hooks/notebooks.py")
        return bool(differing())
    FOLDER.mkdir(exist_ok=True)
    for path, text in notebooks().items():
        path.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
