"""A child in its sandbox: a process that waits for its request, and ends with all that it started."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from baker.configurer.bubblewrap import start_confined
from baker.configurer.sandbox import Sandbox, require_tools, why_no_sandbox
from baker.configurer.unconfined import start_unconfined
from baker.configurer.wire import SOCKET_VARIABLE


class Grip(Protocol):
    """What a child's processes are ended by."""

    def kill(self) -> None:
        """End them all and reap the one that we started. Idempotent."""

    def release(self) -> None:
        """Let go of what this holds, after ``kill``. Once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildSpec:
    """``python -m MODULE`` in a sandbox, or without one: see ``why_no_sandbox``.

    Two equal ones make children that can stand in for one another.
    """

    module: str
    sandbox: Sandbox
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """It imports what it needs and then waits for the request on its stdin; its output is one stream.

    ``socket`` is the parent's end of the pair that it asks by.
    """

    spec: ChildSpec
    process: subprocess.Popen[bytes]
    socket: socket.socket
    grip: Grip

    @classmethod
    def start(cls, spec: ChildSpec) -> Child:
        """Raises HostError if this host cannot make a sandbox. Whoever has it must ``end`` it."""
        confined = why_no_sandbox() is None
        if confined:
            require_tools()
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {**dict(spec.environment), SOCKET_VARIABLE: str(theirs.fileno())}
            process: subprocess.Popen[bytes]
            grip: Grip
            if confined:
                process, grip = start_confined(spec.sandbox, spec.module, environment, theirs.fileno())
            else:
                process, grip = start_unconfined(spec.module, environment, theirs.fileno())
        return cls(spec=spec, process=process, socket=ours, grip=grip)

    def send_request(self, request: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin:  # not started? its output says why
            self.process.stdin.write(json.dumps(request).encode())

    def kill(self) -> None:
        """End it and all that it started."""
        self.grip.kill()

    def end(self) -> None:
        """Kill it and let go of what it is reached by. Once."""
        self.kill()
        self.socket.close()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.grip.release()


class Standby:
    """Children that were started before they are needed: they import while something else is waited for."""

    def __init__(self) -> None:
        self._ready: dict[str, Child] = {}

    def prepare(self, spec: ChildSpec) -> None:
        """Start a child for the next time that one like it is taken. Raises HostError."""
        ready = self._ready.get(spec.module)
        if ready is None or ready.spec != spec:
            self._drop(spec.module)
            self._ready[spec.module] = Child.start(spec)

    @contextmanager
    def take(self, spec: ChildSpec) -> Iterator[Child]:
        """The one that was prepared, else a new one; afterwards it is gone. Raises HostError."""
        self.prepare(spec)
        child = self._ready.pop(spec.module)
        try:
            yield child
        finally:
            child.end()

    def close(self) -> None:
        """End those that nobody took."""
        for module in list(self._ready):
            self._drop(module)

    def _drop(self, module: str) -> None:
        if child := self._ready.pop(module, None):
            child.end()
