"""Everything that is printed: results on stdout, progress on stderr. Nothing else prints."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from baker.errors import BakerError
from baker.layout import fold, lay_out
from baker.model import BakeResult

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class Console:
    """Prints for a person, or JSON for a program. No colour and no moving line without a terminal."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
        environ: Mapping[str, str] | None = None,
        several: bool = False,
    ) -> None:
        """``several`` bakes run at once: each line of progress begins with the name of its recipe."""
        self.as_json = as_json
        self._several = several
        self._speaker = threading.local()
        self._statuses: dict[str, str] = {}
        self._name_width = 0
        self._out = sys.stdout if out is None else out
        self._err = sys.stderr if err is None else err
        variables = os.environ if environ is None else environ
        self._moving = self._err.isatty() and variables.get("TERM") != "dumb"
        self._colours = not variables.get("NO_COLOR") and variables.get("TERM") != "dumb"
        self._status = ""
        self._lock = threading.Lock()

    @property
    def _recipe_shown(self) -> str:
        """Whose event this thread shows, if lines are to say so."""
        recipe: str = getattr(self._speaker, "recipe", "")
        return recipe

    # --- plain printing ---------------------------------------------------------------------------

    def style(self, text: str, name: str, stream: TextIO | None = None) -> str:
        """The text in a style, where the stream (stderr) is a terminal that shows one."""
        if not self._colours or not (stream or self._err).isatty():
            return text
        return f"\x1b[{STYLES[name]}m{text}\x1b[0m"

    def result(self, text: str) -> None:
        """Lines of the result."""
        with self._lock:
            if self._status:
                self._clear()
            try:
                self._out.write(f"{text}\n")
                self._out.flush()
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                silence(self._out)  # the terminal was closed; whoever closed it did not ask for a result

    def result_folded(self, text: str, hang: int | None = None) -> None:
        """Lines of the result that are for reading: on a terminal they are broken between words."""
        self.result(self._fold(text, self._out, hang))

    def result_json(self, value: Any) -> None:
        self.result(json.dumps(value, indent=2, default=_to_json))

    def say(self, text: str, hang: int | None = None) -> None:
        """Lines of progress, broken between words on a terminal. What ran is over then."""
        name = self._recipe_shown
        with self._lock:
            self._name_width = max(self._name_width, len(name))
            before = f"{name:<{self._name_width}} | " if name else ""
            text = self._fold(text, self._err, hang, taken=len(before))
            text = "\n".join(before + line for line in text.split("\n"))
            self._statuses[name] = ""
            self._clear()
            self._tell(f"{text}\n")
            self._draw()

    def status(self, text: str) -> None:
        """The one moving line at the bottom: what runs now, of every recipe."""
        if not self._moving:
            return
        with self._lock:
            self._statuses[self._recipe_shown] = text
            self._clear()
            self._draw()

    def _draw(self) -> None:
        running = [(name, text) for name, text in self._statuses.items() if text]
        if running:
            texts = [f"{name} {text.strip()}" if name else text for name, text in running]
            line, width = "  ·  ".join(texts), (self._width(self._err) or 80) - 1
            self._status = line if len(line) <= width else f"{line[: width - 1]}…"
            self._tell(self.style(self._status, "dim"))

    def _clear(self) -> None:
        if self._status:
            self._tell("\r\x1b[K")
            self._status = ""

    def _tell(self, text: str) -> None:
        """Write progress. That nobody reads it any more (the terminal was closed) stops nothing."""
        try:
            self._err.write(text)
            self._err.flush()
        except OSError:
            silence(self._err)

    def _fold(self, text: str, stream: TextIO, hang: int | None, taken: int = 0) -> str:
        width = self._width(stream)
        return text if width is None else fold(text, width - taken, hang)

    def _width(self, stream: TextIO) -> int | None:
        """Columns of a terminal; None of anything else."""
        if not stream.isatty():
            return None
        try:
            return os.get_terminal_size(stream.fileno()).columns or None
        except OSError:
            return None

    def error(self, error: BakerError) -> None:
        self.say(f"{self.style('Error:', 'red')} {error}")
        if error.hint:
            self.say(f"  {error.hint}")

    def can_ask(self) -> bool:
        """Whether there is a person at the other end."""
        return sys.stdin.isatty() and self._err.isatty()

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """One line per row, unless a terminal is too narrow for that."""
        first, *lines = lay_out([header, *rows], self._width(self._out))
        self.result("\n".join([self.style(first, "bold", self._out), *lines]))


def silence(stream: TextIO) -> None:
    """What is, and was, written to it goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say_warnings(console: Console, warnings: Iterable[str]) -> None:
    """What is to be known, and stops nothing."""
    for warning in warnings:
        console.say(f"{console.style('Warning:', 'yellow')} {warning}")


# --- words and numbers --------------------------------------------------------------------------------


def show_seconds(seconds: float) -> str:
    """A duration for people: 0.34 s, 12.3 s, 3 min 05 s."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def show_size(size: int) -> str:
    """Bytes for people, in powers of 1000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def show_age(moment: datetime, now: datetime | None = None) -> str:
    """How long ago, in the largest fitting unit."""
    seconds = int(((now or datetime.now(UTC)) - moment).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{max(seconds, 0)} s"


# --- documented JSON -----------------------------------------------------------------------------------


def bake_json(result: BakeResult) -> dict[str, Any]:
    """One element of ``bake --json``."""
    return {
        "bake": result.bake,
        "recipe": result.recipe,
        "target": result.target,
        "arch": result.arch,
        "outcome": str(result.outcome),
        "image": result.image,
        "reason": result.reason,
        "seconds": result.seconds,
        "stages": dict(result.stages),
        "attempts": result.attempts,
        "operations": {"changed": result.changed_operations, "unchanged": result.unchanged_operations},
        "error": result.error,
    }


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no JSON form")
