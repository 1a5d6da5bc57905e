"""`pgjax watch`: the GIF shows the states of the episodes, and each drawing shows the state."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pgjax import training
from pgjax.cli import drawings, main, watch
from pgjax.training.algorithm import Metrics
from pgjax.training.runs import loop
from tests import child_runs


def save_untrained_run(directory, environment):
    """Save a run whose only update is not computed, because any policy can be watched."""
    settings = training.ReinforceSettings(num_updates=1, num_trajectories=2, num_steps=4)
    with child_runs.sketches(), pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            loop, "advance", lambda run, state, index: (state, Metrics(0, 0, 0, 0, 0, 0))
        )
        training.start(directory, environment, settings, options=training.RunOptions(quiet=True))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("watched")
    save_untrained_run(directory, "CartPole-v1")
    return directory


def test_a_gif_has_a_frame_for_each_state_and_repeats_itself(directory, tmp_path, capsys):
    arguments = ["watch", str(directory), "--num-steps", "3", "--greedy", "--episodes", "2"]
    for name in ("a.gif", "b.gif"):
        assert main([*arguments, "--output", str(tmp_path / name)]) == 0
    # A pole that starts within 0.05 of upright stands for three steps, each with a reward of one.
    assert "CartPole-v1: greedy policy, return 3, 3" in capsys.readouterr().out
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 2 * 4  # pyright: ignore[reportAttributeAccessIssue]
        frames = []
        for index in range(8):
            picture.seek(index)
            frames.append(np.array(picture.convert("RGB")))
    assert all((one != other).any() for one, other in pairwise(frames))


def test_a_file_of_another_kind_is_refused(directory, capsys):
    assert main(["watch", str(directory), "--output", "x.png"]) == 2
    assert "--output must end in .gif for CartPole-v1, got x.png" in capsys.readouterr().err


def test_an_environment_without_a_drawing_is_named(tmp_path, capsys):
    save_untrained_run(tmp_path, "DeepSea-bsuite")
    assert main(["watch", str(tmp_path)]) == 2
    assert "there is no drawing of DeepSea-bsuite; known are CartPole-v1" in capsys.readouterr().err


def test_a_long_episode_is_thinned_to_its_first_and_last_state(tmp_path):
    class Painter:
        def __init__(self):
            self.shown = []

        def frame(self, state, observation, title):
            self.shown.append(title)
            return np.full((4, 4, 3), len(self.shown) % 256, np.uint8)

    painter = Painter()
    number = 2 * watch.MOST_FRAMES + 2
    episode = watch.Shown([None] * number, [None] * number, list(range(number)))
    watch._write_gif(tmp_path / "a.gif", [episode], painter, 40)
    assert painter.shown[:2] == ["step 0, return 0", "step 3, return 3"]
    assert painter.shown[-1] == f"step {number - 1}, return {number - 1}"
    assert len(painter.shown) <= watch.MOST_FRAMES


def drawn(name, **state):
    axes = Figure().add_subplot()
    draw = drawings.drawing(name, np.zeros(4))
    assert draw is not None
    draw(axes, SimpleNamespace(**state), None)
    return axes


def test_each_drawing_shows_its_state():
    pole = drawn("CartPole-v1", x=1.0, theta=np.pi / 2).lines[-1]
    np.testing.assert_allclose(np.array(pole.get_xydata()), [[1, 0.3], [2, 0.3]], atol=1e-12)
    rod = drawn("Pendulum-v1", theta=0.0).lines[-1]
    np.testing.assert_allclose(np.array(rod.get_xydata()), [[0, 0], [0, 1]], atol=1e-12)
    links = drawn("Acrobot-v1", joint_angle1=0.0, joint_angle2=np.pi / 2).lines[-1]
    np.testing.assert_allclose(np.array(links.get_xydata()), [[0, 0], [0, -1], [1, -1]], atol=1e-12)
    for name in ("MountainCar-v0", "MountainCarContinuous-v0"):
        low, high = (drawn(name, position=x).patches[-1].center for x in (-np.pi / 6, 0.5))  # pyright: ignore
        assert low[1] < high[1]


def test_an_image_shows_the_last_channel_of_each_cell():
    observation = np.zeros((4, 4, 3))
    observation[1, 2, 0] = observation[1, 2, 2] = observation[0, 0, 1] = 1
    axes = Figure().add_subplot()
    draw = drawings.drawing("a game", observation)
    assert draw is not None
    draw(axes, None, observation)
    expected = np.zeros((4, 4))
    expected[1, 2], expected[0, 0] = 3, 2
    np.testing.assert_array_equal(np.array(axes.images[0].get_array()), expected)
    assert drawings.drawing("no game", np.zeros((8, 8))) is None
