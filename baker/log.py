"""The complete log of one bake."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from baker.errors import HostError

FREE_SPACE = "If the disk is full, free some space: baker system clean"


class BakeLog:
    """One line per event, each with its time in UTC. Whoever writes masks secrets first."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self._file = file
        self._lock = threading.Lock()

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[BakeLog]:
        """Raises HostError if it cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb", buffering=0)
        except OSError as error:
            raise HostError(f"the log {path} cannot be written: {error.strerror}") from error
        with file:
            yield cls(path, file)

    def write(self, text: str) -> None:
        """Any thread may call this; the line is in the file when it returns.

        Never raises: a disk that is full stops a bake elsewhere, and must not stop its cleaning up.
        """
        now = datetime.now(UTC)
        stamp = f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z"
        lines = "".join(f"{stamp} {line}\n" for line in text.splitlines() or [""])
        left = memoryview(lines.encode(errors="backslashreplace"))
        with self._lock, contextlib.suppress(OSError):
            while left:
                left = left[self._file.write(left) :]
