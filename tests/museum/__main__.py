"""`python -m tests.museum` computes the kill matrix and writes it into `docs/museum.md`."""

from tests.museum import page
from tests.museum.cases import NAMES
from tests.museum.matrix import column

old = page.PATH.read_text("utf-8")
page.PATH.write_text(page.written(old, {name: column(name) for name in NAMES}), "utf-8")
