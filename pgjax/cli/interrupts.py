"""Ctrl-C at any moment: it is recorded even if a library catches the KeyboardInterrupt."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def noted_interrupts() -> Iterator[Callable[[], bool]]:
    """A context in which Ctrl-C raises a KeyboardInterrupt as usual, and is also recorded.

    Importing JAX and its libraries takes seconds. Some libraries turn a KeyboardInterrupt during
    their import into an ImportError, which the command would otherwise report as an error.

    Yields:
        A function that tells whether Ctrl-C was pressed.
    """
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if before is not signal.default_int_handler or not in_main_thread:
        yield lambda: False  # it is ignored, or another program handles it
        return

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)
