"""Lengths of time as people write them: ``12h``, ``30d``, ``2w``."""

from __future__ import annotations

import re

from baker.errors import UsageError

AGE = r"^[0-9]{1,5}[mhdw]$"
SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_age(text: str) -> int:
    """Seconds. Raises UsageError."""
    if not re.match(AGE, text):
        raise UsageError(
            f"{text!r} is not a length of time", hint='Write it like "30m", "12h", "30d" or "2w".'
        )
    return int(text[:-1]) * SECONDS[text[-1]]


def show_age(seconds: float) -> str:
    """As it would be written, rounded down: ``24h``, ``7d``; below a minute ``40s``."""
    if seconds >= 2 * SECONDS["d"]:
        return f"{int(seconds // SECONDS['d'])}d"
    if seconds >= 2 * SECONDS["h"] or seconds == SECONDS["h"]:
        return f"{int(seconds // SECONDS['h'])}h"
    if seconds >= SECONDS["m"]:
        return f"{int(seconds // SECONDS['m'])}m"
    return f"{int(seconds)}s"
