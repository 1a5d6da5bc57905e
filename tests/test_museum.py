"""The museum is complete, current, and kills: each problem's column is computed once, here."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from tests.museum import losses, page, picture, targets
from tests.museum.cases import NAMES
from tests.museum.exhibits import EXHIBITS
from tests.museum.matrix import GREEN, KILLED, biases, column, positions
from tests.museum.samplers import ALIVE

PAGE = page.PATH.read_text("utf-8")
SHOWN = page.read(PAGE)


def killers(name: str) -> set[str]:
    return {problem for problem in NAMES if SHOWN[problem][name] not in (ALIVE, "–")}


@pytest.mark.parametrize("name", NAMES)
def test_column_is_current_and_controls_are_exact(name: str):
    assert SHOWN[name] == column(name)
    for exhibit in EXHIBITS:
        bias = biases(name)[exhibit.name]
        if not exhibit.mutant:
            assert np.isnan(bias) or bias < GREEN, exhibit.name
    kept, found = targets.known()[name], targets.rounded({name: positions(name)})[name]
    assert set(kept) == set(found)
    for exhibit, position in found.items():
        np.testing.assert_allclose(kept[exhibit], position, rtol=1e-4, atol=1e-6)
    # Nothing lies between exact and wrong but the ε of a division.
    between = {e for e, bias in biases(name).items() if GREEN <= bias <= KILLED}
    assert between <= {"reward scaled per trajectory", "advantage divided by batch deviation"}


def test_every_mutant_is_killed_by_two_problems_at_least():
    assert {name: len(killers(name)) for name in page.MUTANTS if len(killers(name)) < 2} == {}


def test_every_control_stays_green_on_every_problem():
    assert {name: killers(name) for name in page.CONTROLS if killers(name)} == {}


LONG = {"discount rounded", "credit for eight steps"}
"""What no short episode under a round discount shows."""


def test_one_problem_kills_all_that_a_short_one_can_and_so_do_two_others():
    short = set(page.MUTANTS) - LONG
    assert all("random" in killers(name) for name in short)
    assert all({"time limit", "continuing"} & killers(name) for name in short)
    assert all(killers(name) == {"stopping", "hazard"} for name in LONG)


def test_every_problem_lets_some_mutant_live():
    alive = {problem: sum(SHOWN[problem][m] == ALIVE for m in page.MUTANTS) for problem in NAMES}
    assert alive["random"] == len(LONG)
    assert min(alive.values()) > 0


def test_mistakes_about_the_end_hide_on_episodes_of_fixed_length():
    for name in ("return not cut at the end", "later episodes scored", "terminal reward dropped",
                 "terminal state bootstrapped"):  # fmt: skip
        assert SHOWN["continuing"][name] == ALIVE


def test_page_counts_and_describes_every_exhibit():
    names = [*page.MUTANTS, *page.CONTROLS]
    assert len(set(names)) == len(names)
    assert page.written(PAGE, SHOWN) == PAGE


def test_losses_that_differ_from_their_papers_have_other_gradients():
    found = {each.name: losses.verdicts(each) for each in losses.LOSSES}
    for name, (loss, paper) in found.items():
        assert np.linalg.norm(loss.moments.mean - paper.moments.mean) > 1e-3, name
    loss, paper = found["CISPO capped at 0.2"]
    np.testing.assert_allclose(loss.moments.mean, 0.2 * paper.moments.mean, rtol=0, atol=1e-12)
    assert found["over the deviation of the others"][1].bias < 1e-10
    assert found["zero outside the clip"][0].bias == pytest.approx(0.2372, abs=5.1e-4)


def test_a_stale_page_is_noticed():
    stale = PAGE.replace("(#discount-squared) | · |", "(#discount-squared) | 1% |")
    assert page.read(stale)["bandit"] != SHOWN["bandit"]
    assert page.written(stale, SHOWN) == PAGE


def test_the_picture_has_a_cell_for_every_mutant_on_every_problem() -> None:
    (axes, _) = picture.draw(SHOWN).axes
    assert len(axes.patches) == len(page.MUTANTS) * len(NAMES)
    hidden = [SHOWN[problem][name] for problem in NAMES for name in page.MUTANTS].count(ALIVE)
    colours = [to_hex(patch.get_facecolor()).upper() for patch in axes.patches]
    assert colours.count(picture.HIDDEN) == hidden > 0


def differing(made: dict[Path, str]) -> list[str]:
    """The pictures that are not as they would be made."""
    return sorted(
        path.name
        for path, text in made.items()
        if not path.exists() or path.read_text("utf-8") != text
    )


def test_every_mutant_has_its_picture_and_a_moved_dot_is_noticed() -> None:
    made = targets.pictures(SHOWN, targets.known())
    assert differing(made) == []
    assert set(targets.FOLDER.glob("*.svg")) == set(made)
    moved = targets.known()
    moved["random"]["discount squared"] = (0.5, 0.5)
    assert differing(targets.pictures(SHOWN, moved)) == ["discount-squared.svg"]


def test_a_dot_lies_where_its_bias_says() -> None:
    text = targets.drawn({"random": "25%"}, {"random": (0.8, 0.15)})
    (dot,) = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', text)
    x, y = targets.ORIGIN
    distance = np.hypot(float(dot[0]) - x - targets.UNIT, float(dot[1]) - y) / targets.UNIT
    assert distance == pytest.approx(0.25, abs=1e-3)
    assert "circle" not in targets.drawn({"random": "·"}, {"random": (1.0, 0.0)})
    assert "circle" not in targets.drawn({"random": "3000%"}, {"random": (31.0, 0.0)})
