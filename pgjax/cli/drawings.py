"""Pictures of environments, one Matplotlib figure that is redrawn for each state.

The control tasks are drawn here, because gymnax draws them with pygame, which takes a third of a
second for each frame. Only the command line imports this module.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.35"  # of Okabe & Ito's palette
PALETTE = ("#111111", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442")
SIZE = (4.0, 3.2)
DOTS_AN_INCH = 90

Draw = Callable[[Axes, Any, Any], None]
"""(axes, state, observation) -> None."""


def drawing(name: str, observation: Any) -> Draw | None:
    """The drawing for an environment; None if there is none.

    Args:
        name: of the environment.
        observation: of one step; an image [height, width, channels] is drawn cell by cell.
    """
    if name in CONTROL:
        return CONTROL[name]
    shape = np.shape(observation) if not isinstance(observation, tuple | dict) else ()
    return _image if len(shape) == 3 and min(shape[:2]) >= 3 else None


class Painter:
    """Draws one state after the other, each as an array [height, width, 3] of bytes."""

    def __init__(self, draw: Draw) -> None:
        """An empty figure.

        Args:
            draw: from `drawing`.
        """
        self._draw = draw
        self._figure = Figure(figsize=SIZE, dpi=DOTS_AN_INCH)
        self._canvas = FigureCanvasAgg(self._figure)
        self._axes = self._figure.add_axes((0.02, 0.02, 0.96, 0.87))

    def frame(self, state: Any, observation: Any, title: str) -> np.ndarray:
        """The picture of a state.

        Args:
            state: of the environment.
            observation: what the policy sees of it.
            title: above the picture.
        """
        self._axes.clear()
        self._axes.set_axis_off()
        self._draw(self._axes, state, observation)
        self._axes.set_title(title, fontsize=10)
        self._canvas.draw()
        return np.array(self._canvas.buffer_rgba())[..., :3]


def _window(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    axes.set_xlim(*x)
    axes.set_ylim(*y)
    axes.set_aspect("equal")


def _cart_pole(axes: Axes, state: Any, observation: Any) -> None:
    x, angle = float(state.x), float(state.theta)
    axes.axhline(0, color=GREY, linewidth=1)
    for end in (-2.4, 2.4):  # where an episode ends
        axes.axvline(end, color="0.8", linewidth=1)
    axes.add_patch(Rectangle((x - 0.3, 0), 0.6, 0.3, color=BLUE))
    tip = x + np.sin(angle), 0.3 + np.cos(angle)  # a pole of length 1
    axes.plot([x, tip[0]], [0.3, tip[1]], color=ORANGE, linewidth=6, solid_capstyle="round")
    _window(axes, (-2.7, 2.7), (-0.6, 3.2))


def _pendulum(axes: Axes, state: Any, observation: Any) -> None:
    angle = float(np.squeeze(state.theta))  # 0 is upright, and it grows to the left
    axes.plot(
        [0, -np.sin(angle)], [0, np.cos(angle)],
        color=ORANGE, linewidth=10, solid_capstyle="round",
    )  # fmt: skip
    axes.add_patch(Circle((0, 0), 0.07, color=GREY, zorder=3))
    _window(axes, (-1.5, 1.5), (-1.2, 1.2))


def _mountain_car(axes: Axes, state: Any, observation: Any) -> None:
    place = np.linspace(-1.2, 0.6, 200)
    axes.plot(place, _hill(place), color=GREY, linewidth=1.5)
    goal = 0.5
    axes.plot([goal, goal], [_hill(goal), _hill(goal) + 0.25], color=GREEN, linewidth=2)
    axes.plot(goal + 0.05, _hill(goal) + 0.22, ">", color=GREEN, markersize=9)
    x = float(state.position)
    axes.add_patch(Circle((x, _hill(x) + 0.06), 0.06, color=BLUE, zorder=3))
    _window(axes, (-1.3, 0.75), (-0.05, 1.45))


def _hill(place: Any) -> Any:
    return 0.45 * np.sin(3 * place) + 0.55


def _acrobot(axes: Axes, state: Any, observation: Any) -> None:
    first, second = float(state.joint_angle1), float(state.joint_angle2)  # 0 hangs down
    elbow = np.array([np.sin(first), -np.cos(first)])
    hand = elbow + np.array([np.sin(first + second), -np.cos(first + second)])
    axes.axhline(1, color=GREEN, linewidth=1.5)  # the height to reach
    axes.plot([0, elbow[0], hand[0]], [0, elbow[1], hand[1]], color=ORANGE, linewidth=7)
    for joint in ((0, 0), tuple(elbow)):
        axes.add_patch(Circle(joint, 0.1, color=GREY, zorder=3))
    _window(axes, (-2.75, 2.75), (-2.2, 2.2))


def _image(axes: Axes, state: Any, observation: Any) -> None:
    """Each cell in the colour of its last channel that is not zero; black where none is."""
    cells = np.asarray(observation, float)
    channel = np.max((cells > 0) * np.arange(1, cells.shape[2] + 1), axis=2)
    shades = 1 + (channel - 1) % (len(PALETTE) - 1)  # more channels than colours begin again
    shown = np.where(channel > 0, shades, 0)
    axes.imshow(shown, cmap=ListedColormap(PALETTE), vmin=0, vmax=len(PALETTE) - 1)


CONTROL: dict[str, Draw] = {
    "CartPole-v1": _cart_pole,
    "Pendulum-v1": _pendulum,
    "MountainCar-v0": _mountain_car,
    "MountainCarContinuous-v0": _mountain_car,
    "Acrobot-v1": _acrobot,
}
"""By the name of the environment."""
