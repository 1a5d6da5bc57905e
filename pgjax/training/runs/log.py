"""`log.jsonl`: one line an update, appended during the run, and truncated when a run is resumed."""

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]


class RunLog:
    """The rows of a run, in memory and in the file; rows that cannot be written wait here.

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
        """Add a row, which the next `flush` writes."""
        self.rows.append(row)
        self.waiting += 1
        self._lines += (json.dumps(_to_json(row), allow_nan=False) + "\n").encode()

    def flush(self) -> None:
        """Write the waiting rows, whole lines or none of them.

        Raises:
            OSError: if they cannot be written; they wait for the next time.
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


def read(path: Path) -> list[Row]:
    """The rows of a log, in the order of the file, which stays as it is; none if there is no file.

    Args:
        path: of the log.
    """
    content = path.read_bytes() if path.exists() else b""
    return [row for line in content.splitlines(keepends=True) if (row := _row(line)) is not None]


def read_until(path: Path, last: int) -> list[Row]:
    """The rows of updates 1..last; everything else is removed from the file.

    Lines to remove are those after the checkpoint that a run is resumed from, and a line that was
    being written when the run was killed.

    Args:
        path: of the log; a missing file is an empty log.
        last: the last update to keep.

    Returns:
        The rows, ascending; fewer than `last` if the file lacks some.

    Raises:
        OSError: if the file cannot be read or replaced.
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
    """The row of a logged line; None for an incomplete line."""
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
