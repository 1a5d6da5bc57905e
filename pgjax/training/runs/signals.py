"""Signals that ask a long run to stop: heard at once, obeyed between two updates."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

ASKING = tuple(s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP"))
ECHO = 0.05
"""Seconds within which a SIGINT is the first one again: a launcher passes on what Ctrl-C sent to
every process of the terminal."""

SHOW_CURSOR = "\x1b[?25h"  # a live line on a terminal hides it


@contextmanager
def interruptions() -> Iterator[Callable[[], str | None]]:
    """Within, SIGINT, SIGTERM and SIGHUP only ask to stop; a SIGINT after that ends at once.

    Python runs a handler when its main thread is back from what it calls, and a compilation can
    take a minute. So a thread of its own hears of signals, through the file descriptor that
    CPython writes them to.

    Yields:
        A function that gives the name of the first signal that came, None if there was none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread may say what a signal does
        return
    received: list[str] = []
    hear, tell = os.pipe()
    os.set_blocking(tell, False)
    before = {s: signal.getsignal(s) for s in ASKING}
    listener = threading.Thread(target=_listen, args=(hear, received), daemon=True)
    listener.start()
    told_before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    try:
        for asking, handler in before.items():
            if handler is not signal.SIG_IGN:  # a shell's background job, or nohup
                signal.signal(asking, lambda *_: None)
        yield lambda: received[0] if received else None
    finally:
        signal.set_wakeup_fd(told_before)
        for asking, handler in before.items():
            signal.signal(asking, signal.SIG_DFL if handler is None else handler)
        os.write(tell, b"\0")  # no signal has this number: the listener leaves
        listener.join()
        os.close(hear)
        os.close(tell)


def _listen(hear: int, received: list[str]) -> None:
    asked_at = 0.0
    while (number := os.read(hear, 1)[0]) != 0:
        if number not in ASKING:
            continue
        if not received:
            received.append(signal.Signals(number).name)
            asked_at = time.monotonic()
            _say(f"{received[0]}: the update is finished and saved first; Ctrl-C ends at once")
        elif number == signal.SIGINT and time.monotonic() - asked_at > ECHO:
            _say("ended at once")
            os._exit(128 + signal.SIGINT)


def _say(words: str) -> None:
    """To standard error, past buffers that the main thread may be in the middle of."""
    cursor = SHOW_CURSOR if sys.stdout.isatty() else ""
    with suppress(OSError):
        os.write(2, f"{cursor}\npgjax train: {words}\n".encode())
