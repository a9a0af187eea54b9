"""Constant, real HTTP load with keep-alive: every failure is counted with its reason, and every answer timed.

with Load("127.0.0.1", 8080) as load:
    load.begin("during")     # windows of time: everything is "before" until then
    ...
print(load.describe())
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A request that a client would have complained about."""

    at: float
    window: str
    request: str
    reason: str


@dataclass(kw_only=True, slots=True)
class Window:
    """What was asked between two calls of ``begin``. ``seconds`` and ``spans`` are those of quick requests
    only; a span is from the first to the last end of one answer, on the monotonic clock."""

    name: str
    requests: int = 0
    failures: int = 0
    seconds: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0

    def describe(self) -> str:
        p50, p99 = self.percentile(0.5) * 1000, self.percentile(0.99) * 1000
        counts = f"{self.requests} requests, {self.failures} failed"
        return f"{self.name}: {counts}, p50 {p50:.1f} ms, p99 {p99:.1f} ms"


class Load:
    """``quick`` clients ask for ``path`` again and again, ``slow`` ones for ``slow_path``, ``posting`` ones
    send ``body`` to ``post_path``. Each keeps its connection for ``per_connection`` requests. A failure is
    any status but 200, and any connection that fails or is closed unanswered, also one that was kept.

    ``answers`` of a window counts the first line of each body: who answered. A request counts to the window
    in which it was begun.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        quick: int = 4,
        slow: int = 0,
        posting: int = 0,
        path: str = "/",
        slow_path: str = "/slow",
        post_path: str = "/",
        body: bytes = b"x" * 2000,
        pause: float = 0.002,
        per_connection: int = 200,
        timeout: float = 30.0,
    ) -> None:
        self._address = (host, port)
        self._timeout, self._pause, self._per_connection = timeout, pause, per_connection
        jobs = [("GET", path, None)] * quick + [("GET", slow_path, None)] * slow
        jobs += [("POST", post_path, body)] * posting
        self._threads = [
            threading.Thread(target=self._ask, args=(*job, job[1] != slow_path), daemon=True) for job in jobs
        ]
        self._end = threading.Event()
        self._changed = threading.Condition()
        self.windows = [Window(name="before")]
        self.failures: list[Failure] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Every request that was begun is finished and counted. Idempotent."""
        self._end.set()
        for thread in self._threads:
            thread.join()

    def begin(self, name: str) -> Window:
        with self._changed:
            self.windows.append(Window(name=name))
            return self.windows[-1]

    @property
    def requests(self) -> int:
        return sum(window.requests for window in self.windows)

    def wait_for(self, requests: int, *, seconds: float = 60.0) -> Counter[str]:
        """Until so many more of the current window have ended; returns who answered since it began."""
        deadline = time.monotonic() + seconds
        with self._changed:
            window = self.windows[-1]
            wanted = window.requests + requests
            while window.requests < wanted:
                left = deadline - time.monotonic()
                assert left > 0, f"no {requests} requests ended in {seconds} s"
                self._changed.wait(left)
            return Counter(window.answers)

    def describe(self) -> str:
        reasons = Counter(f"{failure.request}: {failure.reason}" for failure in self.failures)
        lines = [window.describe() for window in self.windows]
        return "\n".join([*lines, *(f"  {count} x {reason}" for reason, count in reasons.most_common(10))])

    def _ask(self, method: str, path: str, body: bytes | None, timed: bool) -> None:
        while not self._end.is_set():
            connection = http.client.HTTPConnection(*self._address, timeout=self._timeout)
            with contextlib.closing(connection):
                for _ in range(self._per_connection):
                    if self._end.is_set() or not self._ask_once(connection, method, path, body, timed):
                        break
                    self._end.wait(self._pause)

    def _ask_once(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, timed: bool
    ) -> bool:
        """Whether the connection may be used again."""
        with self._changed:
            window, started = self.windows[-1], time.monotonic()
        answer, reason, again = "", "", False
        try:
            if connection.sock is None:
                connection.connect()
                connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.request(method, path, body=body)
            response = connection.getresponse()
            answer = response.read().decode(errors="replace").partition("\n")[0][:100]
            again = not response.will_close
            reason = "" if response.status == 200 else f"status {response.status} {answer}"
        except (OSError, http.client.HTTPException) as error:
            reason = f"{type(error).__name__}: {error}"
        ended = time.monotonic()
        with self._changed:
            window.requests += 1
            if reason:
                window.failures += 1
                self.failures.append(
                    Failure(at=ended, window=window.name, request=f"{method} {path}", reason=reason)
                )
            else:
                window.answers[answer] += 1
                if timed:
                    window.seconds.append(ended - started)
                    first, last = window.spans.get(answer, (ended, ended))
                    window.spans[answer] = (min(first, ended), max(last, ended))
            self._changed.notify_all()
        return again
