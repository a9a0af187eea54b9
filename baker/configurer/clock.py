"""How long a child may take: for each thing it does, and in all. The parent owns it."""

from __future__ import annotations

import time
from collections.abc import Callable


class OutOfTime(Exception):
    """``limit`` seconds are over. ``total``: the limit of the whole, not the one of ``what``."""

    def __init__(self, what: str, limit: float, *, total: bool) -> None:
        super().__init__(f"{what} ran longer than {limit:g} s")
        self.what = what
        self.limit = limit
        self.total = total


class Clock:
    """``each`` limits the time since the last ``begin``, ``total`` the time since the clock was made."""

    def __init__(
        self, what: str, *, each: float, total: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._each = each
        self._total = total
        self._now = now
        self._end = now() + total
        self.begin(what)

    def begin(self, what: str) -> None:
        """Something new begins; its own limit starts now."""
        # One assignment: other threads read it.
        self._current = (what, self._now() + self._each)

    def remaining(self) -> float:
        """Seconds until ``check`` raises; not below 0."""
        return max(0.0, min(self._current[1], self._end) - self._now())

    def check(self) -> None:
        """Raises OutOfTime if either limit is reached."""
        if self.remaining() == 0.0:
            raise self.expiry()

    def expiry(self) -> OutOfTime:
        """The limit that is reached next."""
        what, end = self._current
        total = self._end <= end
        return OutOfTime(what, self._total if total else self._each, total=total)
