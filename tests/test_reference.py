"""The reference's pages name every public function and record, each of them once."""

import importlib
import importlib.util
import re
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests import bad_input

pytest.importorskip("mkdocstrings", reason="the site's generator, of the extra `docs`")

ROOT = Path(__file__).parents[1]
ENTRY = re.compile(r"^::: (?P<path>[\w.]+)\n(?P<options>(?:    .*\n)*)", re.MULTILINE)


@cache
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/hooks/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def pages() -> dict[str, str]:
    """The text of each page of the reference, as the hook hands it to MkDocs."""
    reference = hook()
    return reference.texts(reference.public_pages())


def shown(texts: dict[str, str]) -> Counter[str]:
    """How often the pages show each name: where it is defined, without `pgjax.`."""
    found = [entry for text in texts.values() for entry in ENTRY.finditer(text)]
    return Counter(
        entry["path"].removeprefix("pgjax.")
        for entry in found
        if "members: false" not in entry["options"]  # the module's own docstring
    )


def faults(counts: Counter[str], public: set[str]) -> dict[str, str]:
    """Each name that is missing, shown twice, or not public, and which of these it is."""
    found = dict.fromkeys(public - set(counts), "missing")
    found |= dict.fromkeys(set(counts) - public, "not public")
    return found | {name: "shown twice" for name, count in counts.items() if count > 1}


def value(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"pgjax.{module}"), name)


def is_constant(path: str) -> bool:
    """Whether it is a constant or a type, and no function or class of ours."""
    item = value(path)
    ours = callable(item) and getattr(item, "__module__", "").startswith("pgjax.")
    return not ours or getattr(item, "__name__", None) is None


@pytest.fixture(scope="module")
def counts() -> Counter[str]:
    return shown(pages())


def test_the_reference_shows_every_public_name_once(counts: Counter[str]) -> None:
    public = set(bad_input.public_names())
    also = {f"{module}.{name}" for module, names in hook().ALSO.items() for name in names}
    constants = {name for name in set(counts) - public - also if is_constant(name)}
    assert len(public) > 250
    assert faults(counts, public | also | constants) == {}


def test_a_name_that_is_made_up_or_left_out_or_shown_twice_is_reported(
    counts: Counter[str],
) -> None:
    public = set(counts)
    assert faults(counts, public | {"estimators.made_up"}) == {"estimators.made_up": "missing"}
    assert faults(counts + Counter(["exact.made_up"]), public) == {"exact.made_up": "not public"}
    twice = counts + Counter(["returns.discounted_returns"])
    assert faults(twice, public) == {"returns.discounted_returns": "shown twice"}


def test_the_index_of_the_reference_links_to_every_name(counts: Counter[str]) -> None:
    index = pages()["reference/index.md"]
    linked = re.findall(r"\]\[pgjax\.([\w.]+)\]", index)
    assert Counter(linked) == counts
