"""A picture for each mutant: where its mean estimate points on each problem, and how far it is off.

On the left ∇J is the blue arrow. Each orange dot is the mean of the estimate on one problem, in the
plane of the two vectors, in units of ‖∇J‖. Its distance from the tip of the arrow is the bias. On
the right are the same biases as bars. A picture is SVG text: without a background, and with the
colour of the text around it, so one file serves light and dark pages.
"""

import json
import math
from html import escape
from pathlib import Path

from tests.museum import page
from tests.museum.matrix import KILLED

FOLDER = page.PATH.parent / "museum"
NUMBERS = FOLDER / "positions.json"
"""The position of each mean, so that the pictures can be drawn without computing them."""
WIDTH, HEIGHT, UNIT = 484, 156, 66
ORIGIN = (48.0, 130.0)
BOX = (4.0, 8.0, 214.0, ORIGIN[1])
"""Left, top, right and bottom of the part for the arrows."""
BARS, ROW, PERCENT, MOST = 300, 19, 1.0, 120
"""Where the bars begin, the height of a row, pixels for one per cent, and the longest bar in %."""
STYLE = (
    "<style>svg{color:#444}@media(prefers-color-scheme:dark){svg{color:#ccc}}"
    "text{font:12px system-ui,sans-serif;fill:currentColor}"
    ".a{stroke:#4C7BD9;stroke-width:3.5;fill:none}.b{fill:#4C7BD9}"
    ".o{fill:#E8762D}.l{stroke:#E8762D;stroke-opacity:.45;fill:none}"
    ".r{stroke:currentColor;stroke-opacity:.3;stroke-dasharray:2 3;fill:none}</style>"
)

Position = tuple[float, float]
"""The mean estimate in units of ‖truth‖: along the truth, and across it."""


def drawn(cells: dict[str, str], positions: dict[str, Position]) -> str:
    """The picture of an exhibit.

    Args:
        cells: its row of the table, by problem.
        positions: problem -> where its mean is; empty for a sampler, which has no mean to compare.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}">{STYLE}'
    ]
    if positions:
        parts += _target({name: at for name, at in positions.items() if _is_off(at)})
    else:
        parts += [_text(14, 68, "no bias to compute:"), _text(14, 86, "a test finds it")]
    for line, (problem, cell) in enumerate(cells.items()):
        parts += _row(18 + line * ROW, problem, cell)
    return "\n".join([*parts, "</svg>\n"])


def _is_off(position: Position) -> bool:
    along, across = position
    return math.hypot(along - 1, across) > KILLED


def _target(positions: dict[str, Position]) -> list[str]:
    x, y = ORIGIN
    tip = x + UNIT
    rings = [
        f'<path class="r" d="M{tip - r * UNIT:g} {y:g}a{r * UNIT:g} {r * UNIT:g} 0 0 1 '
        f'{2 * r * UNIT:g} 0"/>'
        for r in (0.5, 1.0, 1.5)
    ]
    labels = [_text(tip + r * UNIT, y + 16, f"{100 * r:g}%", "middle") for r in (0.5, 1.0)]
    truth = [
        f'<path class="a" d="M{x:g} {y:g}H{tip - 8:g}"/>',
        f'<path class="b" d="M{tip:g} {y:g}l-11 -6v12z"/>',
        _text(x + UNIT / 2, y + 16, "∇J", "middle"),
    ]
    lines, dots = [], []
    for along, across in positions.values():
        (to_x, to_y), outside = _within(x + along * UNIT, y - across * UNIT)
        lines.append(f'<path class="l" d="M{x:g} {y:g}L{to_x:.1f} {to_y:.1f}"/>')
        if outside:
            angle = math.degrees(math.atan2(to_y - y, to_x - x))
            dots.append(
                f'<path class="o" d="M5 0l-9 -5v10z" '
                f'transform="translate({to_x:.1f} {to_y:.1f})rotate({angle:.0f})"/>'
            )
        else:
            dots.append(f'<circle class="o" cx="{to_x:.1f}" cy="{to_y:.1f}" r="4"/>')
    return [*rings, *labels, *lines, *truth, *dots]


def _within(x: float, y: float) -> tuple[Position, bool]:
    """The point, or where the line to it from the origin leaves the box; and whether it does."""
    left, top, right, bottom = BOX
    start_x, start_y = ORIGIN
    share = 1.0
    for value, start, low, high in ((x, start_x, left, right), (y, start_y, top, bottom)):
        if value > high:
            share = min(share, (high - start) / (value - start))
        elif value < low:
            share = min(share, (low - start) / (value - start))
    return (start_x + share * (x - start_x), start_y + share * (y - start_y)), share < 1


def _row(y: float, problem: str, cell: str) -> list[str]:
    found = [_text(BARS - 8, y, problem, "end")]
    if not cell.endswith("%"):
        return [*found, _text(BARS, y, page.SPELT.get(cell, f"the test of {cell} finds it"))]
    bias = float(cell.removesuffix("%"))
    end = BARS + PERCENT * min(bias, MOST)
    found.append(f'<path class="o" d="M{BARS} {y - 9:g}H{end:.1f}v10H{BARS}z"/>')
    if bias > MOST:
        found.append(f'<path class="o" d="M{end + 2:.1f} {y - 9:g}l7 5l-7 5z"/>')
        end += 9
    return [*found, _text(end + 5, y, cell)]


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    anchored = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y:g}"{anchored}>{escape(words)}</text>'


Positions = dict[str, dict[str, Position]]
"""Where the means are, by problem, then by exhibit."""


def known() -> Positions:
    """The positions that were computed last."""
    return json.loads(NUMBERS.read_text("utf-8"))


def pictures(columns: page.Columns, positions: Positions) -> dict[Path, str]:
    """The file and the text of each mutant's picture, from the table's cells and the positions."""
    found = {}
    for exhibit in page.MUTANTS:
        cells = {problem: column[exhibit] for problem, column in columns.items()}
        at = {problem: here[exhibit] for problem, here in positions.items() if exhibit in here}
        found[FOLDER / f"{page.anchor(exhibit)}.svg"] = drawn(cells, at)
    return found


def rounded(positions: Positions) -> Positions:
    """The positions of the mutants that have a meaning, to seven decimals."""
    return {
        problem: {
            name: (round(along, 7), round(across, 7))
            for name, (along, across) in here.items()
            if name in page.MUTANTS and not math.isnan(along)
        }
        for problem, here in positions.items()
    }


def write(columns: page.Columns, positions: Positions) -> None:
    """Write the positions and every picture, and remove those of exhibits that are gone."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.svg"):
        path.unlink()
    text = json.dumps(rounded(positions), indent=1)
    NUMBERS.write_text(text + "\n", encoding="utf-8", newline="\n")
    for path, picture in pictures(columns, known()).items():
        path.write_text(picture, encoding="utf-8", newline="\n")
