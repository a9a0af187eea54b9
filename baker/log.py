"""The complete log of one bake."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from baker.errors import HostError


class BakeLog:
    """One line per event, each with its time in UTC. Whoever writes masks secrets first."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path = path
        self._file = file
        self._lock = threading.Lock()

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[BakeLog]:
        """Raises HostError if it cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("x", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise HostError(f"the log {path} cannot be written: {error.strerror}") from error
        with file:
            yield cls(path, file)

    def write(self, text: str) -> None:
        """Any thread may call this; the line is in the file when it returns."""
        now = datetime.now(UTC)
        with self._lock:
            for line in text.splitlines() or [""]:
                self._file.write(f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z {line}\n")
            self._file.flush()
