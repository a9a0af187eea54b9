"""One child in its sandbox, from its start to its end, and the socket that it is served by."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baker.configurer.clock import Clock
from baker.configurer.redaction import LineFeed, Redactor
from baker.configurer.sandbox import (
    ACCOUNTS,
    ENVIRONMENT,
    NOBODY,
    SOCKET,
    Sandbox,
    require_tools,
    sandbox_argv,
)
from baker.configurer.wire import SOCKET_VARIABLE, WireError, receive_frame, send_frame
from baker.errors import CommandTimeout, ConfigureError, Interrupted, MachineError
from baker.providers.protocol import Machine

TICK_SECONDS = 0.05
"""How often the clock and the cancel switch are looked at."""

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


Item = Message | Line | BaseException


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """What a child is run with. ``on_item`` is called in this thread; what it raises ends the child."""

    machine: Machine
    sandbox: Sandbox
    environment: Mapping[str, str]
    clock: Clock
    redactor: Redactor
    on_item: Callable[[Message | Line], None]
    cancel: threading.Event


def run_child(session: Session, module: str, request: Mapping[str, Any]) -> int:
    """Run ``python -m MODULE`` with the request on its stdin, serve it, and return its exit status.

    Messages and lines come in the order in which they happened. Whatever the outcome, afterwards the child
    and all that it started on this host are gone, and so are its commands in the machine (but not after a
    cancel: the machine is stopped next). Raises OutOfTime, Interrupted, HostError, MachineError,
    ConfigureError, and what ``on_item`` raises.
    """
    require_tools()
    items: queue.SimpleQueue[Item] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="baker-child-") as runtime:
        for name, text in ACCOUNTS.items():
            (Path(runtime) / name).write_text(text)
            (Path(runtime) / name).chmod(0o444)
        server = _Server(f"{runtime}/socket", session, items)
        process, child = _start(session, runtime, module)
        reader = threading.Thread(target=_read_output, args=(process, session.redactor, items), daemon=True)
        reader.start()
        try:
            _write_request(process, request)
            exit_status = _follow(session, process, server, items)
        except (Interrupted, KeyboardInterrupt):
            raise
        except BaseException:
            _kill(process, child)
            server.settle(SETTLE_SECONDS)
            raise
        finally:
            _kill(process, child)
            reader.join()
            server.close()
            _drain(session, items)
    return exit_status


def _follow(
    session: Session, process: subprocess.Popen[bytes], server: _Server, items: queue.SimpleQueue[Item]
) -> int:
    """Hand on what happens until the child is gone and nothing of it runs in the machine."""
    while True:
        if session.cancel.is_set():
            raise Interrupted("interrupted")
        session.clock.check()
        with contextlib.suppress(queue.Empty):
            _hand_on(session, items.get(timeout=min(TICK_SECONDS, session.clock.remaining())))
            continue
        exit_status = process.poll()
        if exit_status is not None and server.settle(0) and items.empty():
            return exit_status


def _hand_on(session: Session, item: Item) -> None:
    if isinstance(item, BaseException):
        raise item
    try:
        session.on_item(item)
    finally:
        if isinstance(item, Message):
            item.done.set()


def _drain(session: Session, items: queue.SimpleQueue[Item]) -> None:
    """The log is complete even if the child was ended; nothing else matters any more."""
    with contextlib.suppress(queue.Empty):
        while True:
            item = items.get_nowait()
            if isinstance(item, Line):
                session.on_item(item)


def _write_request(process: subprocess.Popen[bytes], request: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:  # it did not start: its output says why
        process.stdin.write(json.dumps(request).encode())


def _read_output(
    process: subprocess.Popen[bytes], redactor: Redactor, items: queue.SimpleQueue[Item]
) -> None:
    assert process.stdout is not None
    lines = LineFeed(redactor, lambda text: items.put(Line(text=text, own=True)))
    with process.stdout:
        while chunk := process.stdout.read1(65536):  # type: ignore[attr-defined]
            lines.feed(chunk)
    lines.close()


def _start(session: Session, runtime: str, module: str) -> tuple[subprocess.Popen[bytes], int | None]:
    """Start bubblewrap; returns it and a pidfd of its child, None if it did not come to that."""
    info, told = os.pipe()
    with open(info) as answer:  # noqa: PTH123 - a descriptor
        try:
            process = subprocess.Popen(
                sandbox_argv(session.sandbox, runtime, module, told),
                env={**ENVIRONMENT, **session.environment, SOCKET_VARIABLE: SOCKET},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(told,),
                start_new_session=True,  # a Ctrl-C is for us to act upon
            )
        finally:
            os.close(told)
        text = answer.read()
    try:
        return process, os.pidfd_open(json.loads(text)["child-pid"])
    except (ValueError, ProcessLookupError):
        return process, None


def _kill(process: subprocess.Popen[bytes], child: int | None) -> None:
    """End the sandbox's first process: the kernel ends all others there, and bubblewrap then ends itself.

    The other way round nobody of ours would be left to reap them.
    """
    if child is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


class _Server:
    """Serves the socket: a thread accepts, each connection has one of its own."""

    def __init__(self, path: str, session: Session, items: queue.SimpleQueue[Item]) -> None:
        self._session = session
        self._items = items
        self._running = 0
        self._idle = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(path)
        # The folder above is root's alone; inside the sandbox the socket is all there is of it.
        Path(path).chmod(0o600)
        os.chown(path, NOBODY, NOBODY)
        self._socket.listen(64)
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
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # The child may break off at any time (it was killed, a greenlet of it timed out).
        with connection, contextlib.suppress(OSError, WireError):
            while (frame := receive_frame(connection)) is not None:
                try:
                    header, body = self._answer(*frame)
                except MachineError as error:  # it may tell the command
                    text = self._session.redactor.text(str(error))
                    self._items.put(MachineError(text, hint=error.hint))
                    return
                except BaseException as error:
                    self._items.put(error)
                    return
                send_frame(connection, header, body)

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
