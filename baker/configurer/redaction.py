"""Keeps secrets out of the log and of every event, and cuts streams into lines for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

MASK = "***"
MAX_LINE = 64 << 10
SHORTEST_LINE = 4
"""A shorter line of a secret (a lone brace) says nothing, and would blot out the whole log."""

CONTROLS = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
"""Escape sequences, and characters that print nothing; a tab and a line's end are none of them."""


def remove_controls(text: str) -> str:
    """Without what colours, moves or commands the terminal of whoever reads it."""
    return CONTROLS.sub("", text)


class Redactor:
    """Replaces every secret by ``***``: whole, each line of it, and as a shell, Python or JSON quotes it."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings = set()
        for secret in secrets:
            long_lines = [line.strip() for line in secret.splitlines() if len(line.strip()) >= SHORTEST_LINE]
            for text in (secret, *long_lines):
                quoted = text.replace("'", "'\"'\"'")
                spellings |= {text, quoted, repr(text)[1:-1], json.dumps(text)[1:-1], remove_controls(text)}
        # The longest first: one secret may be a part of another.
        self._spellings = sorted((text for text in spellings if text.strip()), key=len, reverse=True)
        self.longest = max(map(len, self._spellings), default=0)

    def text(self, text: str) -> str:
        for spelling in self._spellings:
            text = text.replace(spelling, MASK)
        return text

    def value(self, value: Any) -> Any:
        """The same for every text inside a JSON value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        return value


class LineFeed:
    """Takes chunks of bytes, gives whole redacted lines: a secret split over two chunks is still found.

    They hold no control characters: with one inside, a secret would not be found, but be read. A carriage
    return ends a line too (progress bars). A line without end is cut, never inside a secret.
    """

    def __init__(self, redactor: Redactor, write_line: Callable[[str], None]) -> None:
        self._redactor = redactor
        self._write_line = write_line
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._write(line)
        if len(self._rest) > MAX_LINE:
            text = self._redactor.text(remove_controls(self._rest.decode(errors="surrogateescape")))
            end = len(text) - min(self._redactor.longest, len(text))
            self._write_line(text[:end].encode(errors="surrogateescape").decode(errors="replace"))
            self._rest = text[end:].encode(errors="surrogateescape")

    def close(self) -> None:
        self._write(self._rest)
        self._rest = b""

    def _write(self, line: bytes) -> None:
        if line:
            self._write_line(self._redactor.text(remove_controls(line.decode(errors="replace"))))
