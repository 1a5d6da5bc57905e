"""Adapt the pages to the site: files included, fences, formulas and links.

The pages are plain Markdown that also reads well in a repository. MkDocs calls the functions here.
"""

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
INCLUDE = re.compile(r"^<!-- include: (?P<path>\S+) -->$", re.MULTILINE)
FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
DRAWING = re.compile(r'<img alt="(?P<alt>[^"]*)" src="(?P<path>[^":]+\.svg)" />')
STYLE = re.compile(r"<style>svg\{[^}]*\}@media\([^)]*\)\{svg\{[^}]*\}\}(?P<rules>.*?)</style>")
OUTSIDE = re.compile(r"\[(?P<words>[^\]]+)\]\(\s*(?P<path>\.\./[^)\s]+)\)")
WITHIN = re.compile(r"\]\(docs/")
ON_SITE = {
    "../README.md": "index.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
}
"""Pages of the site that stand for files outside `docs`."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace each pattern in the navigation by the pages that match it."""
    config.nav = _expanded(config.nav or [], Path(config.docs_dir))
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Include files, and rewrite what only a repository understands."""
    del page, config, files
    text = INCLUDE.sub(_included, markdown)
    text = text.replace("```python no-run", "```python")
    return OUTSIDE.sub(_linked, text)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML, and drawings into the page, where they have its colours."""
    del config, files
    folder = Path(page.file.src_uri).parent
    text = DRAWING.sub(lambda found: _drawing(found, ROOT / "docs" / folder), html)
    return FORMULA.sub(_formula, text)


def _expanded(entries: list[Any], docs: Path) -> list[Any]:
    """The entries; a section whose patterns match no page is left out."""
    found: list[Any] = []
    for entry in entries:
        if isinstance(entry, str):
            paths = sorted(docs.glob(entry)) if "*" in entry else [docs / entry]
            found += [path.relative_to(docs).as_posix() for path in paths]
            continue
        ((title, inside),) = entry.items()
        if isinstance(inside, list) and inside:
            inside = _expanded(inside, docs)
            if not inside:
                continue
            inside = inside[0] if inside == [inside[0]] and isinstance(inside[0], str) else inside
        found.append({title: inside})
    return found


def _included(match: re.Match[str]) -> str:
    """A file of the repository, its links as they are from `docs`."""
    text = (ROOT / match["path"]).read_text("utf-8")
    folder = Path(match["path"]).parent
    if folder != Path("."):
        text = re.sub(r"\]\((?!https?:|#|\.\./)", f"](../{folder.as_posix()}/", text)
        text = text.replace("](../docs/", "](docs/")
    return WITHIN.sub("](", text)


def _linked(match: re.Match[str]) -> str:
    """A link to a page of the site; a file that is not on the site keeps its words and path."""
    path, hash_, anchor = match["path"].partition("#")
    if path in ON_SITE:
        return f"[{match['words']}]({ON_SITE[path]}{hash_}{anchor})"
    words = match["words"].strip("`")
    inside = path.removeprefix("../")
    return f"`{inside}`" if words in inside else f"{match['words']} (`{inside}`)"


def _formula(match: re.Match[str]) -> str:
    display = "block" if match["tag"] == "div" else "inline"
    formula = convert(html.unescape(match["tex"]).strip(), display=display)
    return f'<div class="formula">{formula}</div>' if display == "block" else formula


def _drawing(match: re.Match[str], folder: Path) -> str:
    """An SVG file as part of the page; of its colours it keeps those that suit any background."""
    text = (folder / match["path"]).read_text("utf-8").replace("\n", "")
    text = STYLE.sub("", text)
    return text.replace("<svg ", f'<svg class="drawing" role="img" aria-label="{match["alt"]}" ')
