"""Import of gymnax without its plotting libraries, which are loaded when it draws.

They take four fifths of the time of importing gymnax, and training draws no pictures.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    """A stand-in for a module, which imports the module when an attribute is read."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


PLOTTING = "seaborn", "matplotlib.pyplot"


@contextmanager
def plotting_deferred() -> Iterator[None]:
    """A context in which importing a plotting library gives a stand-in for it.

    The stand-in imports the library on first use. Libraries that are imported already, and imports
    after the block, are not affected.
    """
    stand_ins = {name: _Deferred(name) for name in PLOTTING if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


with plotting_deferred():
    import gymnax as gymnax
    from gymnax.environments import spaces as spaces
    from gymnax.environments.environment import Environment as GymnaxEnvironment
    from gymnax.registration import registered_envs as registered_envs


def visualizer(name: str, states: list[Any], returns: list[float]) -> Any:
    """The visualizer of gymnax for an environment's states; its `animate(path)` writes a GIF.

    Args:
        name: the environment's id.
        states: the states of one episode, or of several.
        returns: the undiscounted return so far, one for each state.
    """
    visualize = importlib.import_module("gymnax.visualize")  # it imports Matplotlib
    return visualize.Visualizer(*gymnax.make(name), states, returns)


__all__ = ["GymnaxEnvironment", "gymnax", "registered_envs", "spaces", "visualizer"]
