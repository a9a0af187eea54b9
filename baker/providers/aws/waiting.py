"""Waiting by deadline: for AWS, whose things take from seconds to an hour."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from baker.errors import CloudError, Interrupted
from baker.providers.aws.experience import Usual
from baker.providers.aws.refusals import Refused

Found = TypeVar("Found")

GROWTH = 1.5
JITTER = 0.2
"""So much of each pause is by chance: many bakes never ask in step."""

CLOSE = 0.02
"""Looks follow no closer upon one another than this part of what the wait takes usually."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How often is asked: after ``first`` seconds, then at growing intervals up to ``longest``."""

    first: float
    longest: float


LOOK_UP_SECONDS = 5.0
"""For how long something may stay unseen that was asked for a moment ago, or whose answer was lost."""

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
    usual: Usual | None = None,
) -> Found:
    """What ``ask`` answers once that is not None. ``at_once`` asks before the first pause. Where it is known
    how long this takes usually, the first pause is as long as that; and it is learnt.

    Raises CloudError with ``what`` and ``hint`` after ``seconds``, Interrupted soon after ``cancel`` is set,
    and whatever ``ask`` raises.
    """
    cancel = cancel or threading.Event()
    started = clock()
    deadline = started + seconds
    due = min(usual.seconds, seconds) if usual is not None else 0.0
    shortest = max(pace.first, due * CLOSE)
    pause = 0.0 if at_once else max(pace.first, due)
    looks = 0
    while True:
        learnt = looks == 0 and pause == due > 0.0
        vary = random.uniform(1.0, 1 + CLOSE) if learnt else random.uniform(1 - JITTER, 1 + JITTER)
        if pause and cancel.wait(pause * vary):
            raise Interrupted("interrupted")
        if (found := ask()) is not None:
            if usual is not None and pause:
                usual.note(clock() - started, at_first_look=learnt)
            return found
        if clock() >= deadline:
            raise CloudError(f"{what()} after {seconds:.0f} s", hint=hint)
        if pause == 0.0:
            pause = max(pace.first, due)
            continue
        pause = shortest if learnt else min(max(pause * GROWTH, shortest), pace.longest)
        looks += 1


def look_for(ask: Callable[[], Found | None], *, at_once: bool = True) -> Found | None:
    """What ``ask`` answers within a moment; None if nothing. Raises what it raises."""
    try:
        return wait_for(ask, seconds=LOOK_UP_SECONDS, pace=SOON, what=lambda: "not seen", at_once=at_once)
    except Refused:
        raise
    except CloudError:
        return None
