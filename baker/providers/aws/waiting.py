"""Waiting by deadline: for AWS, whose things take from seconds to an hour."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from baker.errors import CloudError, Interrupted

Found = TypeVar("Found")

GROWTH = 1.5
JITTER = 0.2
"""So much of each pause is by chance: many bakes never ask in step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How often is asked: after ``first`` seconds, then at growing intervals up to ``longest``."""

    first: float
    longest: float


SOON = Pace(first=0.5, longest=4.0)
"""For what takes seconds: an instance that starts or stops."""

LATER = Pace(first=1.0, longest=15.0)
"""For what takes minutes: an AMI."""


def wait_for(
    ask: Callable[[], Found | None],
    *,
    seconds: float,
    pace: Pace,
    what: Callable[[], str],
    hint: str | None = None,
    cancel: threading.Event | None = None,
    clock: Callable[[], float] = time.monotonic,
    at_once: bool = False,
) -> Found:
    """What ``ask`` answers once that is not None. ``at_once`` asks before the first pause.

    Raises CloudError with ``what`` and ``hint`` after ``seconds``, Interrupted soon after ``cancel`` is set,
    and whatever ``ask`` raises.
    """
    cancel = cancel or threading.Event()
    deadline = clock() + seconds
    pause = 0.0 if at_once else pace.first
    while True:
        if pause and cancel.wait(pause * random.uniform(1 - JITTER, 1 + JITTER)):
            raise Interrupted("interrupted")
        if (found := ask()) is not None:
            return found
        if clock() >= deadline:
            raise CloudError(f"{what()} after {seconds:.0f} s", hint=hint)
        pause = min(max(pause * GROWTH, pace.first), pace.longest)
