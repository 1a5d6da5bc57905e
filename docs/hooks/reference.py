"""Build the reference pages: one page for each public module, one entry for each public name.

MkDocs calls `on_files` and `on_nav`. The names are read from the public page `pgjax/__init__.pyi`
and from the `__init__.py` of each module on it, so a new public function appears by itself.
Nothing is imported from pgjax: the sources are parsed.
"""

import ast
import functools
import inspect
import logging
import re
from pathlib import Path
from typing import NamedTuple

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page as SitePage

ROOT = Path(__file__).parents[2]

ALSO = {
    "environments.base": ("Step", "Discrete", "MultiDiscrete", "Box", "Environment", "limited"),
    "environments.from_brax": ("adapt", "make"),
    "environments.from_craftax": ("adapt", "make"),
    "environments.from_gymnax": ("adapt", "make"),
    "environments.from_jumanji": ("adapt", "make"),
    "environments.from_navix": ("adapt", "make"),
    "environments.from_pgx": ("adapt", "make", "uniform"),
    "environments.from_tabular": ("adapt",),
}
"""Modules that users import themselves and that no `__init__` exports: the names for users."""


class Page(NamedTuple):
    """A public module: the path that users write, and its entries as (public path, own path)."""

    public: str
    module: str
    entries: list[tuple[str, str]]

    @property
    def source(self) -> str:
        """Where MkDocs finds the page."""
        return f"reference/{self.public.removeprefix('pgjax.')}.md"


def exported(module: griffe.Module, root: griffe.Module) -> dict[str, griffe.Object]:
    """What a module re-exports under its own name, and the functions and classes it defines.

    A function may have the name of the file that it stands in, so the import itself is followed.
    """
    path = Path(str(module.filepath))
    stub = path.with_suffix(".pyi")
    source = (stub if stub.exists() else path).read_text("utf-8")
    found: dict[str, griffe.Object | None] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            package = f"pgjax.{node.module or ''}" if node.level else str(node.module)
            parts = package.rstrip(".").split(".")
            if parts[0] != "pgjax":
                continue
            origin = root[".".join(parts[1:])] if parts[1:] else root
            for alias in node.names:
                if alias.asname and (alias.asname == alias.name or module is root):
                    found[alias.asname] = _target(origin.members.get(alias.name))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = _target(module.members[node.name])
    return {name: item for name, item in found.items() if item and not name.startswith("_")}


def _target(member: griffe.Object | griffe.Alias | None) -> griffe.Object | None:
    """What a name stands for; None if it is another library's."""
    try:
        return member.final_target if isinstance(member, griffe.Alias) else member
    except griffe.AliasResolutionError:
        return None


@functools.cache
def _root() -> griffe.Module:
    logging.getLogger("griffe").setLevel(logging.ERROR)
    root = griffe.load("pgjax", search_paths=[str(ROOT)], resolve_aliases=True)
    assert isinstance(root, griffe.Module)
    return root


def public_pages() -> list[Page]:
    """Every public module, root first, each name on the first page below the root that has it."""
    root = _root()
    modules: dict[str, tuple[str, griffe.Module]] = {}
    todo = [("pgjax", root)] + [(f"pgjax.{name}", root[name]) for name in ALSO]
    found: list[tuple[str, griffe.Module, list[tuple[str, str]]]] = []
    while todo:
        public, module = todo.pop(0)
        if module.path in modules:
            continue
        modules[module.path] = (public, module)
        entries = []
        names = ALSO.get(public.removeprefix("pgjax."))
        for name, target in exported(module, root).items():
            if names is not None and name not in names:
                continue
            if isinstance(target, griffe.Module):
                todo.append((f"{public}.{name}", target))
            else:
                entries.append((f"{public}.{name}", target.path))
        found.append((public, module, entries))
    below = {own for _, _, entries in found[1:] for _, own in entries}
    pages, seen = [], set()
    for public, module, entries in found:
        kept = []
        for name, own in entries:
            if own in seen or (public == "pgjax" and own in below):
                continue
            seen.add(own)
            kept.append((name, own))
        pages.append(Page(public, module.path, kept))
    return [page for page in pages if page.entries]


def _links(pages: list[Page]) -> str:
    """The table of all pages for the index of the reference."""
    rows = []
    for page in sorted(pages, key=lambda page: page.public):
        names = ", ".join(
            f"[`{name.rpartition('.')[2]}`][{own}]" for name, own in sorted(page.entries)
        )
        file = page.source.removeprefix("reference/")
        rows.append(f"| [`{page.public}`]({file}) | {names} |")
    return "\n".join(["| module | names |", "| --- | --- |", *rows])


def _text(page: Page) -> str:
    parts = [f"# {page.public}\n"]
    if page.public != "pgjax":
        parts.append(
            f"::: {page.module}\n    options:\n      members: false\n"
            "      show_root_heading: false\n      show_root_toc_entry: false\n"
        )
    else:
        parts.append(
            "Names at the top of the package that no module below lists. All other names of the\n"
            "package's page, such as `pgjax.gradient`, stand with their module.\n"
        )
    for name, own in page.entries:
        label = name.rpartition(".")[2]
        parts.append(f"::: {own}\n    options:\n      heading: {name}\n      toc_label: {label}\n")
    return "\n".join(parts)


def texts(pages: list[Page]) -> dict[str, str]:
    """The source of each page of the reference, by its path; the index is the last."""
    index = (
        "# Reference\n\nEvery public function and record, by module. The text is that of the\n"
        "docstrings: `help(pgjax.gradient)` shows the same.\n\n" + _links(pages) + "\n"
    )
    return {page.source: _text(page) for page in pages} | {"reference/index.md": index}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference to the files of the site and to its navigation."""
    pages = public_pages()
    for source, text in texts(pages).items():
        files.append(File.generated(config, source, content=text))
    ordered = sorted((page for page in pages[1:]), key=lambda page: page.public)
    entries = [{page.public: page.source} for page in [pages[0], *ordered]]
    for item in config.nav or []:
        if "Reference" in item:
            item["Reference"] = ["reference/index.md", *entries]
    return files


REFERENCES = re.compile(r"^References:\n((?:[ ]+.*\n?|\n(?=[ ]))+)", re.MULTILINE)


def _sources() -> str:
    """A table of the public names whose docstrings name a paper."""
    rows = []
    for page in public_pages():
        for name, own in page.entries:
            docstring = _root()[own.removeprefix("pgjax.")].docstring
            found = REFERENCES.search(inspect.cleandoc(docstring.value)) if docstring else None
            if found:
                words = " ".join(found[1].split()).replace("|", "\\|")
                rows.append(f"| [`{name.removeprefix('pgjax.')}`][{own}] | {words} |")
    return "\n".join(
        ["| name in `pgjax` | source, and what differs |", "| --- | --- |", *sorted(rows)]
    )


def on_page_markdown(markdown: str, page: SitePage, config: MkDocsConfig, files: Files) -> str:
    """Fill in the table of sources."""
    del page, config, files
    marker = "<!-- references -->"
    return markdown.replace(marker, _sources()) if marker in markdown else markdown
