"""What goes into and comes out of a command in a machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import IO

from baker.providers.protocol import OutputSink

MAX_OUTPUT = 256 << 20
"""Bytes that one command may print: they are held in memory."""


class Output:
    """What a command prints, up to ``MAX_OUTPUT``; then ``on_flood`` is called, and the rest is lost."""

    def __init__(self, on_output: OutputSink | None, *, on_flood: Callable[[], None]) -> None:
        self.flooded = False
        self._on_output = on_output
        self._on_flood = on_flood
        self._chunks: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._size = 0

    def whole(self, name: str) -> bytes:
        return b"".join(self._chunks[name])

    def drain(self, stream: IO[bytes], name: str) -> None:
        """Read one stream to its end; each is read by a thread of its own."""
        with contextlib.suppress(OSError, ValueError):
            while not self.flooded and (chunk := os.read(stream.fileno(), 65536)):
                self._chunks[name].append(chunk)
                self._size += len(chunk)
                if self._on_output is not None:
                    self._on_output(name, chunk)
                if self._size > MAX_OUTPUT:
                    self.flooded = True
                    self._on_flood()


def feed(stream: IO[bytes], data: bytes) -> None:
    """Write a command's input; it may stop reading early."""
    with contextlib.suppress(OSError, ValueError), stream:
        stream.write(data)
