"""States that are reached later: pending becomes running, stopping becomes stopped."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Seconds that AWS takes: an instance until it runs (``launch``), until it then boots or, if
    it has no body, answers by SSH (``ssh``), until it is stopped or gone; an image and a copy; every call.
    """

    launch: float = 0.05
    ssh: float = 0.0
    stop: float = 0.05
    terminate: float = 0.05
    image: float = 0.05
    copy: float = 0.05
    call: float = 0.0


REAL = Latency(launch=15.0, ssh=20.0, stop=20.0, terminate=20.0, image=60.0, copy=60.0, call=0.05)
"""About what a real region takes."""


@dataclass(kw_only=True)
class Transition:
    due: float
    number: int
    is_ready: Callable[[], bool]
    apply: Callable[[], None]


class Transitions:
    """Nothing happens by itself: ``settle``, called before every answer, does what is due."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._numbers = itertools.count()
        self._pending: list[Transition] = []

    def later(
        self, seconds: float, apply: Callable[[], None], is_ready: Callable[[], bool] = lambda: True
    ) -> None:
        """Have ``apply`` called after so long, but not before ``is_ready``."""
        due = self._clock() + seconds
        self._pending.append(Transition(due=due, number=next(self._numbers), is_ready=is_ready, apply=apply))

    def settle(self) -> None:
        now = self._clock()
        ripe = [each for each in self._pending if each.due <= now and each.is_ready()]
        for each in sorted(ripe, key=lambda each: (each.due, each.number)):
            self._pending.remove(each)
            each.apply()
