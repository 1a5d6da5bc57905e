"""`python -m tests.museum` computes the kill matrix, and rewrites the page and its pictures."""

from tests.museum import page, picture, targets
from tests.museum.cases import NAMES
from tests.museum.matrix import column, positions

columns = {name: column(name) for name in NAMES}
page.PATH.write_text(page.written(page.PATH.read_text("utf-8"), columns), "utf-8")
picture.draw(columns).savefig(picture.PATH, dpi=150)
targets.write(columns, {name: positions(name) for name in NAMES})
