"""Ctrl-C, SIGTERM, a closed terminal: once cleans up, twice leaves the rest to `baker system sweep`."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from baker.errors import BakerError, Interrupted


class Interruption:
    """Turns the first signal into ``Interrupted`` in the main thread, except where it is shielded.

    Bakes run in threads of their own, which no signal reaches: each has a ``part``, which ends with the
    whole or alone, and whose ``cancel`` and ``check`` it looks at. What is ``limited`` in time is broken off
    by the same ``cancel``, and the bake goes on afterwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.cancel = threading.Event()
        self._clock = clock
        self._ended = False
        self._signalled = False
        self._deadline: float | None = None
        self._expired = False
        self._reason = "interrupted"
        self._shields = 0
        self._lock = threading.Lock()
        self._parts: list[Interruption] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals within. Only in the main thread."""
        signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # who uses nohup wants it to go on
            signals.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._handle) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._signalled:  # not only ended: nobody has insisted yet where something else ended this
            if number == signal.SIGHUP:  # a terminal's shell and the kernel each send one: nobody insists
                return
            tell(b"\nLeft as it is. Clean up later: baker system sweep\n")
            os._exit(Interrupted.exit_code)
        self._signalled = True
        if not self._ended:
            self.end(f"interrupted by {signal.Signals(number).name}")
        if self._shields:
            tell(b"\nCleaning up (once more to leave it)\n")
        else:
            raise Interrupted(self._reason)

    def part(self) -> Interruption:
        """One for a single bake: ended when the whole is, or alone."""
        part = Interruption(self._clock)
        self._parts.append(part)
        if self.cancel.is_set():
            part.end(self._reason)
        return part

    def end(self, reason: str) -> None:
        """Ask everything that looks at this to stop."""
        self._reason = reason
        self._ended = True  # without the lock: a signal may come while this thread holds it
        self.cancel.set()
        for part in self._parts:
            part.end(reason)

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """A section that is not broken into: cleaning up, or saying what was registered."""
        with self._lock:
            self._shields += 1
        try:
            yield
        finally:
            with self._lock:
                self._shields -= 1

    @contextmanager
    def limited(self, seconds: float, error: BakerError) -> Iterator[None]:
        """Within, what takes longer is broken off; then ``error`` is raised, whatever that made fail.

        Somebody has to look at the clock meanwhile: ``expire``.
        """
        self._deadline = self._clock() + seconds
        try:
            yield
        except Exception as failure:
            if self._lift_limit():
                raise error from failure
            raise
        else:
            if self._lift_limit():
                raise error
        finally:
            self._lift_limit()

    def expire(self) -> None:
        """Break off what takes longer than it is ``limited`` to. Some thread calls this again and again."""
        with self._lock:
            if self._deadline is not None and self._clock() >= self._deadline:
                self._deadline, self._expired = None, True
                self.cancel.set()

    def _lift_limit(self) -> bool:
        """Whether the time was over, and nothing else is why this was broken off."""
        with self._lock:
            expired, self._deadline, self._expired = self._expired, None, False
            if expired and not self._ended:
                self.cancel.clear()
            if self._ended:  # meanwhile
                self.cancel.set()
            return expired and not self._ended

    def pause(self, seconds: float) -> None:
        """Wait. Raises Interrupted as soon as this ends."""
        self.cancel.wait(seconds)
        self.check()

    def check(self) -> None:
        """Raise what a shield held back."""
        if self.cancel.is_set():
            raise Interrupted(self._reason)

    def explain(self, error: BakerError) -> BakerError:
        """What a bake failed of: breaking it off makes other things fail, which nobody should read."""
        return Interrupted(self._reason) if self.cancel.is_set() else error

    def break_off(self, thread: int) -> None:
        """Once this has ended, kill the processes that a thread started itself: it may wait for them.

        Not while it is shielded.

        ``thread`` is its native id. Does nothing where there is no /proc.
        """
        with self._lock:
            if self._shields or not self.cancel.is_set():
                return
            with contextlib.suppress(FileNotFoundError):
                for pid in Path(f"/proc/self/task/{thread}/children").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)


def tell(text: bytes) -> None:
    """From within a signal handler; where the terminal is gone nobody reads it."""
    with contextlib.suppress(OSError):
        os.write(2, text)
