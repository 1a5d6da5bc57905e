"""The learning curves' arithmetic and picture, from figures that are made up."""

import math
from typing import Any

from benchmarks.learning_curves import TASKS, median_curve, picture, reached
from benchmarks.learning_worker import POINTS, judged, thinned


def run(mean, seed=0):
    curve = [[100.0 * (i + 1), mean - 1 / (i + 1), 0.1 * i] for i in range(5)]
    figures = {"seconds": 2.0, "cpu_seconds": 1.5, "steps": 500.0, "load_before": 0.0}
    return figures | {"curve": curve, "mean": mean, "seed": seed}


def test_a_thinned_curve_averages_all_that_is_known_and_keeps_the_last_step():
    rows = [(float(i), math.nan if i < 7 else float(i), 0.0) for i in range(1, 1001)]
    found = thinned(rows)
    assert len(found) <= POINTS
    assert found[0][:2] == [10.0, 8.5]  # 7..10 of the second five, where the first has none
    assert found[-1][0] == 1000


def test_the_median_is_over_seeds_where_all_have_a_point():
    curves = [[[2.0, 1.0], [4.0, 9.0]], [[4.0, 5.0]], [[2.0, 3.0], [4.0, 1.0]]]
    assert median_curve(curves) == ([4.0], [5.0])


def test_every_seed_must_reach_the_threshold():
    assert reached("pendulum", {"seeds": [run(-200.0), run(-240.0)]})
    assert not reached("pendulum", {"seeds": [run(-200.0), run(-260.0)]})


def test_the_picture_names_its_axes_seeds_and_rival():
    both = {"seeds": [run(1.0), run(2.0, 1)]}
    tasks: dict[str, Any] = dict.fromkeys(TASKS, both) | {"pendulum": both | {"sb3": run(3.0)}}
    panels = picture({"tasks": tasks, "device": "a machine", "date": "2026-11-25"}).axes
    assert [axes.get_title() for axes in panels] == [task.title for task in TASKS.values()]
    for axes in panels:
        assert axes.get_xlabel() == "environment steps"
        assert axes.get_ylabel() == "return of an episode, undiscounted"
    legends = [axes.get_legend_handles_labels()[1] for axes in panels]
    assert all(axes.get_legend() is not None for axes in panels)
    assert all(texts[0] == "pgjax, 2 seeds" for texts in legends)
    assert sum(any("Stable-Baselines3" in text for text in texts) for texts in legends) == 1


def test_fresh_episodes_are_judged_by_their_mean():
    assert judged([1.0, 3.0]) == {"mean": 2.0, "standard_error": 1.0, "episodes": 2}
