"""Waits of deployments: with the caller's pause, which may give up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from baker.deploy.fleet import Pause
from baker.providers.aws.refusals import Refused
from baker.providers.aws.waiting import SOON, look_for, wait_for

Found = TypeVar("Found")


class Paused(threading.Event):
    """Lets ``wait_for`` pause as the caller of a fleet does."""

    def __init__(self, pause: Pause) -> None:
        super().__init__()
        self._pause = pause

    def wait(self, timeout: float | None = None) -> bool:
        self._pause(timeout or 0.0)
        return False


def wait_until(
    ask: Callable[[], Found | None], *, seconds: float, what: Callable[[], str], pause: Pause
) -> Found:
    """What ``ask`` answers once that is not None. Raises CloudError with ``what`` after so long, and what
    ``ask`` and ``pause`` raise."""
    return wait_for(ask, seconds=seconds, pace=SOON, what=what, cancel=Paused(pause), at_once=True)


def make_or_find(make: Callable[[], Found], find: Callable[[], Found | None], there: Iterable[str]) -> Found:
    """What is made or, where AWS says with one of the codes ``there`` that it exists (an earlier answer was
    lost, or somebody was quicker), what is found. Raises Refused."""
    try:
        return make()
    except Refused as error:
        if not error.is_one_of(there) and not error.outcome_unknown:
            raise
        found = look_for(find)
        if found is None:
            raise
        return found
