"""Room for Python's frames, which lie in pieces of memory of 16 kB.

Where a call is the first in a piece, Python asks the system for the piece, and gives it back on the
return. A loop that calls there does so every time; JAX's stacks are deep, and that took a twelfth
of the tests' time. A frame for which a piece is too small gets a large one, and those of all its
calls follow in it.
"""

from collections.abc import Callable
from typing import Any


def with_room(function: Callable, *arguments: Any) -> Any:
    """What the function returns, called where a thousand frames have room."""
    return function(*arguments)


SLOTS = 2**17
"""Of eight bytes each. With them, a frame needs a little more than a megabyte and gets two."""
with_room.__code__ = with_room.__code__.replace(co_stacksize=SLOTS)
