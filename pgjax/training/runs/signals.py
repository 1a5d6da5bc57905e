"""Signals that ask a run to stop: recorded at once, and acted on after the current update."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

ASKING = tuple(s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP"))
ECHO = 0.05
"""Seconds within which a second SIGINT is ignored: Ctrl-C signals every process of the terminal,
and a launcher passes its own signal on."""

SHOW_CURSOR = "\x1b[?25h"  # a live line on a terminal hides it


@contextmanager
def interruptions() -> Iterator[Callable[[], str | None]]:
    """A context in which SIGINT, SIGTERM and SIGHUP only ask to stop; a second SIGINT ends at once.

    Python runs a handler when its main thread returns from a call, and a compilation can take a
    minute. So another thread reads signals from the file descriptor that CPython writes them to.

    Yields:
        A function that returns the name of the first signal, or None if there was none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread may say what a signal does
        return
    received: list[str] = []
    reading_end, writing_end = os.pipe()
    if hasattr(os, "set_blocking"):  # Windows has it from Python 3.12 on, and does not need it
        os.set_blocking(writing_end, False)
    before = {s: signal.getsignal(s) for s in ASKING}
    listener = threading.Thread(target=_listen, args=(reading_end, received), daemon=True)
    listener.start()
    descriptor_before = signal.set_wakeup_fd(writing_end, warn_on_full_buffer=False)
    try:
        for asking, handler in before.items():
            if handler is not signal.SIG_IGN:  # a shell's background job, or nohup
                signal.signal(asking, lambda *_: None)
        yield lambda: received[0] if received else None
    finally:
        signal.set_wakeup_fd(descriptor_before)
        for asking, handler in before.items():
            signal.signal(asking, signal.SIG_DFL if handler is None else handler)
        os.write(writing_end, b"\0")  # no signal has this number: the listener returns
        listener.join()
        os.close(reading_end)
        os.close(writing_end)


def _listen(reading_end: int, received: list[str]) -> None:
    asked_at = 0.0
    while (number := os.read(reading_end, 1)[0]) != 0:
        if number not in ASKING:
            continue
        if not received:
            received.append(signal.Signals(number).name)
            asked_at = time.monotonic()
            _print_line(
                f"{received[0]}: the update is finished and saved first; Ctrl-C ends at once"
            )
        elif number == signal.SIGINT and time.monotonic() - asked_at > ECHO:
            _print_line("ended at once")
            os._exit(128 + signal.SIGINT)


def _print_line(message: str) -> None:
    """Write to standard error without the buffers, which the main thread may be using."""
    cursor = SHOW_CURSOR if sys.stdout.isatty() else ""
    with suppress(OSError):
        os.write(2, f"{cursor}\npgjax train: {message}\n".encode())
