"""Serves one child from its request to its end, by the socket that it asks by."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from baker.configurer.clock import Clock
from baker.configurer.process import Child
from baker.configurer.redaction import LineFeed, Redactor
from baker.configurer.wire import MAX_BODY, WireError, receive_frame, send_frame
from baker.errors import CommandTimeout, ConfigureError, Interrupted, MachineError
from baker.providers.protocol import Machine

TICK_SECONDS = 0.05
"""How often the clock and the cancel switch are looked at."""

MAX_ITEMS = 1000
MAX_CONNECTIONS = 64
MAX_TOLD = 32 << 20
"""Bytes that a recipe and its commands may put into the log and into messages, in all."""

SETTLE_SECONDS = 15.0
"""How long commands that still run in the machine may take to be gone after the child is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """The child sent it; secrets are masked. It waits until ``done``."""

    content: Mapping[str, Any]
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One redacted line for the log. ``own``: the child wrote it, not a command in the machine."""

    text: str
    own: bool = False


class Items:
    """What the threads of a session tell the one that runs it, in order. None: the child's output has ended.

    Whoever tells too much waits: neither an endless print nor an endless command fills this process.
    """

    def __init__(self) -> None:
        self._queue: queue.Queue[Message | Line | BaseException | None] = queue.Queue(MAX_ITEMS)
        self._closed = False

    def put(self, item: Message | Line | BaseException | None) -> None:
        while True:
            with contextlib.suppress(queue.Full):
                return self._queue.put(item, timeout=TICK_SECONDS)
            if self._closed:
                return None

    def get(self, timeout: float) -> Message | Line | BaseException | None:
        """Raises queue.Empty."""
        return self._queue.get(timeout=timeout)

    def empty(self) -> bool:
        return self._queue.empty()

    def close(self) -> None:
        """Nobody takes any more: what is told when it is full is lost."""
        self._closed = True


class Quota:
    """Bytes of frames that may be in memory at once; who wants more waits."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size

    def give(self, size: int) -> None:
        with self._changed:
            self._left += size
            self._changed.notify_all()


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """What a child is run with. ``on_item`` is called in this thread; what it raises ends the child."""

    machine: Machine
    clock: Clock
    redactor: Redactor
    on_item: Callable[[Message | Line], None]
    cancel: threading.Event


def run_child(session: Session, child: Child, request: Mapping[str, Any]) -> int:
    """Send the child its request, serve it, and return its exit status.

    Messages and lines come in the order in which they happened. Whatever the outcome, afterwards the child
    and all that it started on this host are gone, and so are its commands in the machine (but not after a
    cancel: the machine is stopped next). Raises OutOfTime, Interrupted, HostError, MachineError,
    ConfigureError, and what ``on_item`` raises.
    """
    items = Items()
    with contextlib.closing(_Server(child.socket, session, items)) as server:
        reader = threading.Thread(target=_read_output, args=(child.process, session.redactor, items))
        reader.start()
        try:
            child.send_request(request)
            return _follow(session, child.process, server, items)
        except (Interrupted, KeyboardInterrupt):
            raise
        except BaseException:
            items.close()
            child.kill()
            server.settle(SETTLE_SECONDS)
            raise
        finally:
            items.close()
            child.kill()
            reader.join()
            _drain(session, items)


def _follow(session: Session, process: subprocess.Popen[bytes], server: _Server, items: Items) -> int:
    """Hand on what happens until the child is gone and nothing of it runs in the machine."""
    told = 0
    while True:
        if session.cancel.is_set():
            raise Interrupted("interrupted")
        session.clock.check()
        tick = min(TICK_SECONDS, session.clock.remaining())
        with contextlib.suppress(queue.Empty, subprocess.TimeoutExpired):
            if (item := items.get(timeout=tick)) is not None:
                told += measure(item)
                if told > MAX_TOLD:
                    raise ConfigureError(
                        f"the recipe and its commands printed more than {MAX_TOLD >> 20} MiB",
                        hint="Redirect what a command prints to a file in the machine.",
                    )
                _hand_on(session, item)
                continue
            process.wait(tick)
        exit_status = process.poll()
        if exit_status is not None and server.settle(0) and items.empty():
            return exit_status


def measure(item: Message | Line | BaseException) -> int:
    """About how many bytes an item takes in the log."""
    match item:
        case Line():
            return len(item.text) + 26
        case Message():
            return len(str(item.content))
    return 0


def _hand_on(session: Session, item: Message | Line | BaseException) -> None:
    if isinstance(item, BaseException):
        raise item
    try:
        session.on_item(item)
    finally:
        if isinstance(item, Message):
            item.done.set()


def _drain(session: Session, items: Items) -> None:
    """The log is complete even if the child was ended; nothing else matters any more."""
    with contextlib.suppress(queue.Empty):
        while True:
            item = items.get(timeout=0)
            if isinstance(item, Line):
                session.on_item(item)


def _read_output(process: subprocess.Popen[bytes], redactor: Redactor, items: Items) -> None:
    assert process.stdout is not None
    lines = LineFeed(redactor, lambda text: items.put(Line(text=text, own=True)))
    with process.stdout:
        while chunk := process.stdout.read1(65536):  # type: ignore[attr-defined]
            lines.feed(chunk)
    lines.close()
    items.put(None)


class _Server:
    """Serves the child: a thread takes the connections that it hands over, each has one of its own."""

    def __init__(self, parent_end: socket.socket, session: Session, items: Items) -> None:
        self._session = session
        self._items = items
        self._running = 0
        self._idle = threading.Condition()
        self._quota = Quota(2 * MAX_BODY)
        self._connections = threading.Semaphore(MAX_CONNECTIONS)
        self._socket = parent_end
        threading.Thread(target=self._accept, daemon=True).start()

    def settle(self, seconds: float) -> bool:
        """Wait until no command of the child runs in the machine any more; False if it takes longer."""
        with self._idle:
            return self._idle.wait_for(lambda: self._running == 0, seconds)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._connections.acquire()
                data, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
                if not data:
                    return
                if not descriptors:
                    self._connections.release()
                for descriptor in descriptors:
                    threading.Thread(target=self._serve, args=(descriptor,), daemon=True).start()

    def _serve(self, descriptor: int) -> None:
        held = 0

        def admit(size: int) -> None:
            nonlocal held
            self._quota.take(size)
            held = size

        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:  # it handed over something else
            os.close(descriptor)
            self._connections.release()
            return
        connection.setblocking(True)  # gevent switched that off, at both ends
        try:
            # The child may break off at any time (it was killed, a greenlet of it timed out).
            with connection, contextlib.suppress(OSError, WireError):
                while (frame := receive_frame(connection, admit)) is not None:
                    try:
                        header, body = self._answer(*frame)
                    except MachineError as error:  # it may tell the command
                        text = self._session.redactor.text(str(error))
                        self._items.put(type(error)(text, hint=error.hint, passing=error.passing))
                        return
                    except BaseException as error:
                        self._items.put(error)
                        return
                    send_frame(connection, header, body)
                    self._quota.give(held)
                    held = 0
        finally:
            self._quota.give(held)
            self._connections.release()

    def _answer(self, header: Mapping[str, Any], body: bytes) -> tuple[Mapping[str, Any], bytes]:
        match header:
            case {"verb": "event", "message": dict() as message}:
                item = Message(content=self._session.redactor.value(message))
                self._items.put(item)
                item.done.wait(SETTLE_SECONDS)  # the clock has to know before the next command
                return {}, b""
            case {"verb": "run", "argv": [*argv]} if argv and all(isinstance(word, str) for word in argv):
                with self._idle:
                    self._running += 1
                try:
                    return self._run(argv, header, body)
                finally:
                    with self._idle:
                        self._running -= 1
                        self._idle.notify_all()
        raise ConfigureError(f"the configurer's child asked for {str(header)[:200]}")

    def _run(
        self, argv: list[str], header: Mapping[str, Any], body: bytes
    ) -> tuple[Mapping[str, Any], bytes]:
        clock = self._session.clock
        clock.check()
        limit = clock.remaining()
        own = header.get("timeout") or limit
        feeds = {}
        if show := header.get("show"):
            for line in self._session.redactor.text(str(show)).splitlines():
                self._items.put(Line(text=f"$ {line}"))
            for stream in ("stdout", "stderr"):
                feeds[stream] = LineFeed(
                    self._session.redactor, lambda text: self._items.put(Line(text=text))
                )
        try:
            result = self._session.machine.run(
                argv,
                stdin=body if header.get("stdin") else None,
                timeout=min(float(own), limit),
                on_output=(lambda stream, chunk: feeds[stream].feed(chunk)) if feeds else None,
            )
        except CommandTimeout:
            if own >= limit:
                raise clock.expiry() from None
            return {"timed_out": True}, b""
        except (OSError, ValueError) as error:  # an argument too long, or with a zero byte
            return {"error": str(error)}, b""
        finally:
            for feed in feeds.values():
                feed.close()
        reply = {"exit_status": result.exit_status, "stdout": len(result.stdout)}
        return reply, result.stdout + result.stderr
