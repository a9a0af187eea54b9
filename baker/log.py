"""The complete log of one bake, and the form in which the catalog keeps it."""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from baker.errors import HostError
from baker.identity import OWN_HOME

PACKED_BYTES = 1 << 20
"""The most that one log takes in the catalog."""

READ_BYTES = 16 << 20
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
            raise HostError(
                f"the log {path} cannot be written: {error.strerror}",
                hint=OWN_HOME if isinstance(error, PermissionError) else FREE_SPACE,
            ) from error
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


def pack_log(path: Path, *, limit: int = PACKED_BYTES) -> bytes:
    """A log, compressed; of a long one only the end, and a first line that says so. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - READ_BYTES)
        file.seek(start)
        text = file.read(READ_BYTES)
    while True:
        if start:
            text = text[text.find(b"\n") + 1 :]
            start = size - len(text)
            note = f"(the first {start} bytes of this log are only in {path} on the host that baked)\n"
            packed = zlib.compress(note.encode() + text)
        else:
            packed = zlib.compress(text)
        if len(packed) <= limit or not text:
            return packed
        text = text[len(text) // 2 :]
        start = size - len(text)


def unpack_log(packed: bytes) -> list[str]:
    """The lines of what ``pack_log`` made."""
    return zlib.decompress(packed).decode(errors="replace").splitlines()
