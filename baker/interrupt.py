"""Ctrl-C and SIGTERM: once cleans up, twice leaves the rest to `baker system sweep`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from baker.errors import Interrupted


class Interruption:
    """Turns the first signal into ``Interrupted`` in the main thread, except where it is shielded."""

    def __init__(self) -> None:
        self.cancel = threading.Event()
        self._shields = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals within. Only in the main thread."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._handle) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.cancel.is_set():
            os.write(2, b"\nLeft as it is. Clean up later: baker system sweep\n")
            os._exit(Interrupted.exit_code)
        self.cancel.set()
        if self._shields:
            os.write(2, b"\nCleaning up (once more to leave it)\n")
        else:
            raise Interrupted(f"interrupted by {signal.Signals(number).name}")

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """A section that a signal does not break into: cleaning up, or saying what was registered."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1

    def check(self) -> None:
        """Raise what a shield held back."""
        if self.cancel.is_set():
            raise Interrupted("interrupted")
