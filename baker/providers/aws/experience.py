"""How long things took before: the first look at one comes when it is about due, not many calls earlier."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KEPT = 3
"""So many of the last times count. The shortest does: what is looked at late was waited for in vain."""

LEAD = 0.97
"""The first look comes after this part of the shortest time."""

EARLIER = 0.8
"""What was there at the first look had been there before: it is remembered as having taken less."""


class Experience:
    """Of one BAKER_HOME, in ``file``; without one, of one process. Thread-safe. It is a guess: what cannot be
    read counts for nothing, what cannot be written is forgotten.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known: dict[str, list[float]] | None = None

    def of(self, what: str, region: str) -> Usual:
        return Usual(experience=self, key=f"{what} {region}")

    def expect(self, key: str) -> float:
        """Seconds after which it is worth a look; 0 where nothing is known."""
        with self._lock:
            return LEAD * min(self._read().get(key, (0.0,)))

    def note(self, key: str, seconds: float) -> None:
        with self._lock:
            known = self._known = {key: list(times) for key, times in self._read().items()}
            known[key] = [*known.get(key, ()), round(seconds, 2)][-KEPT:]
            if self._file is not None:
                with suppress(OSError):
                    self._file.parent.mkdir(parents=True, exist_ok=True)
                    new = self._file.with_name(f"{self._file.name}.{os.getpid()}")
                    new.write_text(json.dumps(known))
                    new.replace(self._file)

    def _read(self) -> Mapping[str, Sequence[float]]:
        if self._known is None:
            self._known = {}
            if self._file is not None:
                with suppress(OSError, ValueError, AttributeError, TypeError):
                    told = json.loads(self._file.read_text())
                    self._known = {key: [float(one) for one in times] for key, times in told.items() if times}
        return self._known


@dataclass(frozen=True, kw_only=True, slots=True)
class Usual:
    """One kind of wait in one region."""

    experience: Experience
    key: str

    @property
    def seconds(self) -> float:
        return self.experience.expect(self.key)

    def note(self, seconds: float, *, at_first_look: bool) -> None:
        self.experience.note(self.key, seconds * EARLIER if at_first_look else seconds)
