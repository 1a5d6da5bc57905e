"""`log.jsonl`: one line an update, appended as the run goes on, cut where a run goes on from."""

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]


class RunLog:
    """The rows of a run, in memory and in the file; what the disk does not take waits here.

    Attributes:
        rows: one an update, from the first.
        waiting: the number of rows that are not in the file yet.
    """

    def __init__(self, path: Path, rows: list[Row]) -> None:
        """Go on after rows that are in the file already; a file that is not there is made."""
        self.rows = rows
        self.waiting = 0
        self._path = path
        self._lines = b""
        self._size = path.stat().st_size if path.exists() else 0

    def append(self, row: Row) -> None:
        """Take a row; `flush` writes it."""
        self.rows.append(row)
        self.waiting += 1
        self._lines += (json.dumps(_to_json(row), allow_nan=False) + "\n").encode()

    def flush(self) -> None:
        """Write what waits, whole lines or none of them.

        Raises:
            OSError: it could not be written, and still waits.
        """
        if not self._lines:
            return
        with self._path.open("ab", buffering=0) as file:
            try:
                written = 0
                while written < len(self._lines):
                    written += file.write(self._lines[written:])
            except OSError:
                with suppress(OSError):  # a device has no length to go back to
                    os.truncate(self._path, self._size)
                raise
        self._size += len(self._lines)
        self._lines, self.waiting = b"", 0


def read_until(path: Path, last: int) -> list[Row]:
    """The rows of updates 1..last; whatever else is in the file is dropped from it.

    That is what came after the checkpoint that a run goes on from, and the line that was being
    written when it was killed. The file is replaced whole.

    Args:
        path: of the log; no file is an empty one.
        last: the last update to keep.

    Returns:
        The rows, ascending; fewer than `last` where the file lacks some.

    Raises:
        OSError: the file cannot be read, or not be replaced.
    """
    content = path.read_bytes() if path.exists() else b""
    kept: dict[int, tuple[bytes, Row]] = {}
    for line in content.splitlines(keepends=True):
        row = _row(line)
        if row is not None and 1 <= row["update"] <= last:
            kept.setdefault(row["update"], (line, row))
    ordered = [kept[update] for update in sorted(kept)]
    whole = b"".join(line for line, _ in ordered)
    if whole != content:
        unfinished = path.with_name(path.name + ".tmp")
        unfinished.write_bytes(whole)
        unfinished.replace(path)
    return [row for _, row in ordered]


def _row(line: bytes) -> Row | None:
    """A line as it was logged; None for one that was torn."""
    try:
        row = json.loads(line)
        whole = line.endswith(b"\n") and isinstance(row["update"], int)
    except (ValueError, KeyError, TypeError):
        return None
    # JSON has no NaN, so the log has null.
    return {name: math.nan if x is None else x for name, x in row.items()} if whole else None


def _to_json(row: Row) -> Row:
    """JSON has no NaN: the standard error of a single episode becomes null."""
    return {
        name: None if isinstance(x, float) and not math.isfinite(x) else x
        for name, x in row.items()
    }
